"""The dashboard's panels as an SVG, drawn from what Prometheus answers; readable on light and on dark pages."""

import math
import re
from xml.sax.saxutils import escape

import dashboard as boards

WIDTH, MARGIN, UNIT = 1200, 12, 26
LINES_SHOWN = 9
# Where a panel has several queries of several series: one for each query.
DASHES = ("", "6 3", "1.5 2.5")
LIGHT = {"back": "#ffffff", "panel": "#f6f8fa", "ink": "#1f2328", "quiet": "#59636e", "grid": "#d9dee3",
         "lines": ("#0969da", "#1a7f37", "#bc4c00", "#8250df", "#bf3989", "#7d8590")}
DARK = {"back": "#0d1117", "panel": "#151b23", "ink": "#e6edf3", "quiet": "#9198a1", "grid": "#2b3138",
        "lines": ("#58a6ff", "#3fb950", "#f0883e", "#bc8cff", "#f778ba", "#848d97")}


def colours(of):
    rules = (f".back {{ fill: {of['back']}; }} .panel {{ fill: {of['panel']}; }} text {{ fill: {of['ink']}; }} "
             f".quiet {{ fill: {of['quiet']}; }} .grid {{ stroke: {of['grid']}; }}")
    return rules + "".join(f" .s{i} {{ stroke: {c}; }}" for i, c in enumerate(of["lines"]))


STYLE = f"""
text {{ font: 11px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; }}
.title {{ font-weight: 600; font-size: 12px; }} .row {{ font-weight: 600; font-size: 14px; }}
.number {{ font-size: 24px; font-weight: 600; }} .line {{ fill: none; stroke-width: 1.6; }}
{colours(LIGHT)}
@media (prefers-color-scheme: dark) {{ {colours(DARK)} }}
"""


def text(x, y, words, kind="", anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def number(value, unit):
    """As Grafana writes values of this unit."""
    if unit == "bytes":
        for name, size in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}"
        return f"{value:.0f} B"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s":
        return f"{value * 1000:.3g} ms" if abs(value) < 1 else f"{value:.3g} s"
    return f"{value:.3g}/s" if unit == "cps" else f"{value:.4g}"


def legend(target, metric):
    """The name of a series: short, as there is little room."""
    labels = metric | {"instance": "agent", "directory": metric.get("directory", "").rsplit("/", 1)[-1]}
    shown = re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found.group(1), ""), target["legendFormat"])
    # There is only one, so that its name says something only where it stands alone.
    shown = re.sub(r"\bagent (?=.)", "", shown)
    shown = re.sub(r"(GPU-\w{8})[-\w]+", r"\1", shown)
    # Container and share say nothing new in this picture.
    return re.sub(r"^([\w-]+/[\w-]+) .*?( aside| back)?$", r"\1\2", shown)


def nice_top(most):
    """The end of an axis: a round number that is not below `most`."""
    if most <= 0:
        return 1.0
    size = 10 ** math.floor(math.log10(most))
    return next(step * size for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * size >= most * 0.999)


def chart(panel, box, lines, start, end):
    """Lines over time, each a name, its colour, its dashes and its points, with the axis on the left and the names below."""
    x, y, width, height = box
    unit = panel["fieldConfig"]["defaults"]["unit"]
    shown = lines[:LINES_SHOWN]
    columns = 2 if len(shown) <= 6 else 3
    top_y, left, names_y = y + 28, x + 62, y + height - 8 - 14 * math.ceil(len(shown) / columns)
    bottom, right = names_y - 24, x + width - 12
    most = max((value for *_, points in lines for _, value in points if math.isfinite(value)), default=0)
    step = 1 << 30 if unit == "bytes" and most > 1 << 30 else 1
    most = nice_top(most / step) * step
    drawn = []
    for part in range(3):
        line_y = bottom - (bottom - top_y) * part / 2
        drawn.append(f'<line x1="{left}" x2="{right}" y1="{line_y:.1f}" y2="{line_y:.1f}" class="grid"/>')
        drawn.append(text(left - 6, line_y + 4, number(most * part / 2, unit), "quiet", "end"))
    drawn.append(text(left, bottom + 14, "0 s", "quiet"))
    drawn.append(text(right, bottom + 14, f"{end - start:.0f} s", "quiet", "end"))
    for index, (name, colour, dash, points) in enumerate(shown):
        path, before = [], None
        for at, value in points:
            if math.isfinite(value):
                place_x = left + (at - start) / (end - start) * (right - left)
                place_y = bottom - value / most * (bottom - top_y)
                # A gap in the data is a gap in the line.
                path.append(f"{'L' if before is not None and at - before < 2.5 else 'M'}{place_x:.1f} {place_y:.1f}")
                before = at
        look = f'class="line s{colour}"' + (f' stroke-dasharray="{dash}"' if dash else "")
        drawn.append(f'<path d="{" ".join(path)}" {look}/>')
        name_x, name_y = x + 14 + index % columns * (width - 20) / columns, names_y + 4 + index // columns * 14
        drawn.append(f'<path d="M{name_x:.1f} {name_y - 3.5:.1f}h14" {look}/>')
        drawn.append(text(name_x + 19, name_y, name))
    return drawn


def table(panel, box, columns):
    """One line for each slice, joined over the columns' series."""
    x, y, width, _ = box
    rows = {}
    for index, series in enumerate(columns):
        for metric, value in series:
            key = (metric.get("namespace", ""), metric.get("pod", ""), metric.get("device_uuid", "")[:12])
            rows.setdefault(key, {})[index] = value
    overrides = panel["fieldConfig"]["overrides"]
    titles = [override["properties"][0]["value"] for override in overrides]
    units = [override["properties"][1]["value"] for override in overrides]
    starts = [x + 14, x + 130, x + 270] + [x + 420 + (width - 440) / len(titles) * (i + 0.8) for i in range(len(titles))]
    drawn = [text(starts[i], y + 42, name, "quiet") for i, name in enumerate(("namespace", "pod", "GPU"))]
    drawn += [text(starts[3 + i], y + 42, title, "quiet", "end") for i, title in enumerate(titles)]
    for line, (key, values) in enumerate(sorted(rows.items(), key=lambda row: -row[1].get(0, 0))):
        line_y = y + 64 + line * 20
        drawn += [text(starts[i], line_y, word) for i, word in enumerate(key)]
        drawn += [text(starts[3 + i], line_y, number(value, units[i]), "", "end") for i, value in values.items()]
    return drawn


def lines_of(queries, answers):
    """Of what Prometheus answered: what has the same colour is of the same GPU or slice, where there are several."""
    is_grid = len(queries) > 1 and max(map(len, answers)) > 1
    count = 0
    for number, ((target, _), answer) in enumerate(zip(queries, answers)):
        for place, (metric, points) in enumerate(answer):
            colour, dash = (place, DASHES[number % len(DASHES)]) if is_grid else (count, "")
            yield legend(target, metric), colour % len(LIGHT["lines"]), dash, points
            count += 1


def draw(prometheus, start, end):
    dashboard = boards.load()
    drawn, lowest = [], 0
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        column = (WIDTH - MARGIN) / 24
        x, y = MARGIN + place["x"] * column, MARGIN + place["y"] * UNIT
        width, height = place["w"] * column - MARGIN, place["h"] * UNIT - MARGIN
        lowest = max(lowest, y + height)
        if panel["type"] == "row":
            drawn.append(text(x, y + 14, panel["title"], "row"))
            continue
        drawn.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="6" class="panel"/>')
        drawn.append(text(x + 12, y + 18, panel["title"], "title"))
        queries = [(target, boards.resolve(target["expr"], dashboard)) for target in panel["targets"]]
        box = (x, y, width, height)
        if panel["type"] == "stat":
            value = prometheus.value(queries[0][1])
            shown = number(value, panel["fieldConfig"]["defaults"]["unit"])
            drawn.append(text(x + width / 2, y + height / 2 + 18, shown, "number", "middle"))
        elif panel["type"] == "table":
            drawn += table(panel, box, [prometheus.query(query) for _, query in queries])
        else:
            answers = [prometheus.query_range(query, start, end, 1) for _, query in queries]
            drawn += chart(panel, box, list(lines_of(queries, answers)), start, end)
    height = lowest + MARGIN
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="{escape(dashboard["title"])}">',
        f"<style>{STYLE}</style>", f'<rect width="{WIDTH}" height="{height:.0f}" class="back"/>', *drawn, "</svg>", ""])
