"""The chart of what tenants have over time as they come and go, as an SVG that is readable on light and on dark pages."""

from dataclasses import dataclass

from compute_chart import DARK, LIGHT, line, path, text
from sharing_figures import smoothed
from sharing_plan import Stay, entitled, phases

# A point of a line, and over how many on both sides it is smoothed: turns of 20 ms are not what the chart is of.
BIN_SECONDS = 0.02
SMOOTH = 6

WIDTH, LEFT, RIGHT = 900, 62, 24
TOP, PLOT_HEIGHT, GAP = 82, 190, 66


@dataclass(frozen=True)
class Line:
    """What a tenant had from when it came on, each step in percent of what it does alone."""

    name: str
    comes: float
    values: list[float]


@dataclass(frozen=True)
class Panel:
    title: str
    lines: list[Line]
    # If the weights are to be shown.
    stays: list[Stay] | None


def colours(of: dict) -> str:
    rules = (
        f".back {{ fill: {of['back']}; }} text {{ fill: {of['ink']}; }} .sub, .tick {{ fill: {of['quiet']}; }} "
        f".grid {{ stroke: {of['grid']}; }} .wanted {{ stroke: {of['ink']}; }} "
    )
    return rules + "".join(f" .s{number} {{ stroke: {colour}; }} .f{number} {{ fill: {colour}; }}" for number, colour in enumerate(of["lengths"]))


STYLE = f"""
text {{ font: 12px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; }}
.title {{ font-size: 16px; font-weight: 600; }}
.line {{ fill: none; stroke-width: 2; }} .wanted {{ fill: none; stroke-width: 1; stroke-dasharray: 4 4; opacity: .6; }}
{colours(LIGHT)}
@media (prefers-color-scheme: dark) {{ {colours(DARK)} }}
"""


def until(panel: Panel) -> float:
    return max((one.comes + len(one.values) * BIN_SECONDS for one in panel.lines), default=1.0)


class Place:
    """Where times and percents are in a panel."""

    def __init__(self, top: float, seconds: float):
        self.top, self.seconds = top, max(seconds, BIN_SECONDS)

    def x(self, seconds: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * seconds / self.seconds

    def y(self, percent: float) -> float:
        return self.top + PLOT_HEIGHT * (1 - min(percent, 108.0) / 105)


def axes(place: Place, panel: Panel) -> list[str]:
    out = [text(LEFT, place.top - 14, panel.title)]
    for percent in range(0, 101, 25):
        y = place.y(percent)
        out += [line(LEFT, y, WIDTH - RIGHT, y, "grid"), text(LEFT - 8, y + 4, str(percent), "tick", "end")]
    step = 1 if place.seconds <= 14 else 5
    for second in range(0, int(place.seconds) + 1, step):
        out.append(text(place.x(second), place.top + PLOT_HEIGHT + 18, str(second), "tick", "middle"))
    return out


def wanted(place: Place, stays: list[Stay]) -> list[str]:
    """What the weights promise, as dashes."""
    out = []
    for begin, end in phases(stays):
        for percent in sorted({round(one, 2) for one in entitled(stays, begin) if one}):
            out.append(line(place.x(begin), place.y(percent), place.x(end), place.y(percent), "wanted"))
    return out


def draw(panel: Panel, top: float, seconds: float, is_labelled: bool) -> list[str]:
    place = Place(top, seconds)
    out = axes(place, panel)
    for number, one in enumerate(panel.lines):
        points = [(place.x(one.comes + (at + 0.5) * BIN_SECONDS), place.y(value)) for at, value in enumerate(smoothed(one.values, SMOOTH))]
        out.append(path(points, f"line s{number % 4}"))
    out += wanted(place, panel.stays) if panel.stays else []
    if is_labelled:
        for number, one in enumerate(panel.lines):
            x, y = WIDTH - RIGHT - 190 * (len(panel.lines) - number), top - 14
            out += [line(x, y - 4, x + 22, y - 4, f"line s{number % 4}"), text(x + 30, y, one.name, "sub")]
    return out


def svg(panels: list[Panel], where: str) -> str:
    seconds = max((until(panel) for panel in panels), default=1.0)
    height = TOP + len(panels) * (PLOT_HEIGHT + GAP) - GAP + 62
    out = [
        text(LEFT, 28, "One GPU, tenants that come and go", "title"),
        text(LEFT, 46, f"Percent of what each does alone. {where}. Dashed: what the weights promise", "sub"),
    ]
    for number, panel in enumerate(panels):
        out += draw(panel, TOP + number * (PLOT_HEIGHT + GAP), seconds, number == 0)
    out.append(text(LEFT + (WIDTH - LEFT - RIGHT) / 2, height - 18, "seconds", "sub", "middle"))
    body = "\n".join(out)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
        'aria-label="Chart of the shares of a GPU that tenants have over time">\n'
        f'<style>{STYLE}</style>\n<rect class="back" width="{WIDTH}" height="{height}" rx="8"/>\n{body}\n</svg>\n'
    )
