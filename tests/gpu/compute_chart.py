"""The chart of asked against got, as an SVG that is readable on light and on dark pages."""

from dataclasses import dataclass
from statistics import mean
from xml.sax.saxutils import escape

from compute_plan import LENGTHS_NS, length_name


@dataclass(frozen=True)
class Point:
    """What a program got of a share, both in percent."""

    asked: int
    kernel_ns: int
    mode: str
    got: float


@dataclass(frozen=True)
class Peer:
    """Another's figures, and where its name stands: at a place of the plot, in percent."""

    lines: tuple[str, ...]
    points: tuple[tuple[float, float], ...]
    place: tuple[float, float]


# Measured on one NVIDIA H200, driver 580.159.04: HAMi-core 8f3a89c, sync after every 16 kernels; MPS active thread percentage.
PEERS = (
    Peer(("HAMi-core", "2 ms"), ((10, 87.3), (30, 100), (50, 100), (70, 100), (90, 99.9)), (12, 83)),
    Peer(("HAMi-core", "200 us"), ((10, 28.1), (30, 68.3), (50, 85.0), (70, 94.0), (90, 97.1)), (1.2, 45)),
    Peer(("HAMi-core", "20 us"), ((10, 11.9), (30, 43.4), (50, 66.2), (70, 73.4), (90, 92.9)), (28.3, 57)),
    Peer(("MPS",), ((10, 9.2), (30, 28.8), (50, 50.2), (70, 66.8), (100, 99.7)), (72, 62)),
)

WIDTH, HEIGHT = 900, 584
# The plot of all, and the one of what is missing, both as left, top, width and height.
PLOT = (62, 88, 440, 420)
ERRORS = (592, 88, 280, 420)
LIGHT = {
    "back": "#ffffff", "ink": "#1f2328", "quiet": "#59636e", "grid": "#d9dee3", "band": "#e9f3ea", "peer": "#7d8590",
    "lengths": ("#0969da", "#1a7f37", "#bc4c00", "#8250df"),
}  # fmt: skip
DARK = {
    "back": "#0d1117", "ink": "#e6edf3", "quiet": "#9198a1", "grid": "#2b3138", "band": "#14251a", "peer": "#848d97",
    "lengths": ("#58a6ff", "#3fb950", "#f0883e", "#bc8cff"),
}  # fmt: skip


def colours(of: dict) -> str:
    rules = (
        f".back {{ fill: {of['back']}; }} text {{ fill: {of['ink']}; }} .sub, .tick, .label {{ fill: {of['quiet']}; }} "
        f".halo {{ stroke: {of['back']}; }} .grid {{ stroke: {of['grid']}; }} "
        f".ideal {{ stroke: {of['ink']}; }} .band {{ fill: {of['band']}; }} .peer {{ stroke: {of['peer']}; }}"
    )
    return rules + "".join(f" .s{i} {{ stroke: {colour}; }} .f{i} {{ fill: {colour}; }}" for i, colour in enumerate(of["lengths"]))


STYLE = f"""
text {{ font: 12px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; }}
.title {{ font-size: 16px; font-weight: 600; }} .label, .halo {{ font-size: 11px; }}
.halo {{ stroke-width: 4px; stroke-linejoin: round; }}
.ideal {{ stroke-width: 1; opacity: .55; }} .peer {{ fill: none; stroke-width: 1.2; stroke-dasharray: 5 4; }}
.line {{ fill: none; stroke-width: 2; }}
{colours(LIGHT)}
@media (prefers-color-scheme: dark) {{ {colours(DARK)} }}
"""


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def label(x: float, y: float, words: str, anchor: str = "start") -> str:
    """Words that stay readable on lines."""
    return text(x, y, words, "halo", anchor) + text(x, y, words, "label", anchor)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def path(points: list[tuple[float, float]], kind: str) -> str:
    return f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" class="{kind}"/>'


def place(asked: float, got: float) -> tuple[float, float]:
    left, top, width, height = PLOT
    return left + width * asked / 100, top + height * (1 - got / 100)


def lengths_of(points: list[Point]) -> list[int]:
    return sorted({point.kernel_ns for point in points} | set(LENGTHS_NS))[:4]


def plot(points: list[Point]) -> list[str]:
    left, top, width, height = PLOT
    out = [text(left, top - 12, "GPU time got, % of the wall time", "sub")]
    for value in range(0, 101, 20):
        x, y = place(value, value)
        out += [line(left, y, left + width, y, "grid"), line(x, top, x, top + height, "grid")]
        out += [text(left - 8, y + 4, str(value), "tick", "end"), text(x, top + height + 18, str(value), "tick", "middle")]
    out.append(text(left + width / 2, top + height + 38, "share asked for, %", "sub", "middle"))
    out.append(line(*place(0, 0), *place(100, 100), "ideal"))
    out += [path([place(*point) for point in peer.points], "peer") for peer in PEERS]
    for number, length in enumerate(lengths_of(points)):
        means = [(asked, mean(found)) for asked, found in by_asked(points, length)]
        if means:
            out.append(path([place(*point) for point in means], f"line s{number}"))
        for point in means:
            x, y = place(*point)
            out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" class="f{number}"/>')
    for peer in PEERS:
        for row, words in enumerate(peer.lines):
            x, y = place(*peer.place)
            out.append(label(x, y + 13 * row, words))
    x, y = place(64, 28)
    out.append(text(x, y, "vcuda, by kernel length"))
    for number, length in enumerate(lengths_of(points)):
        row = y + 20 + 18 * number
        out += [line(x, row - 4, x + 22, row - 4, f"line s{number}"), f'<circle cx="{x + 11:.1f}" cy="{row - 4:.1f}" r="3.2" class="f{number}"/>']
        out.append(text(x + 30, row, length_name(length)))
    return out


def by_asked(points: list[Point], kernel_ns: int) -> list[tuple[int, list[float]]]:
    asked = sorted({point.asked for point in points if point.kernel_ns == kernel_ns})
    return [(one, [point.got for point in points if (point.asked, point.kernel_ns) == (one, kernel_ns)]) for one in asked]


def errors(points: list[Point]) -> list[str]:
    left, top, width, height = ERRORS
    worst = max((abs(point.got - point.asked) for point in points), default=0)
    most = next((step for step in (1.5, 3, 6, 15, 30, 60) if worst <= step * 0.95), 100)
    out = [text(left, top - 12, "vcuda: points off, each dot one run", "sub")]

    def at(asked: float, points_off: float) -> tuple[float, float]:
        return left + width * asked / 100, top + height * (0.5 - points_off / (2 * most))

    _, high = at(0, 1)
    _, low = at(0, -1)
    out.append(f'<rect x="{left}" y="{high:.1f}" width="{width}" height="{low - high:.1f}" class="band"/>')
    for part in range(-3, 4):
        value = most * part / 3
        _, y = at(0, value)
        out += [line(left, y, left + width, y, "ideal" if part == 0 else "grid"), text(left - 8, y + 4, f"{value:+g}" if part else "0", "tick", "end")]
    for asked in range(0, 101, 20):
        x, _ = at(asked, 0)
        out.append(text(x, top + height + 18, str(asked), "tick", "middle"))
    out += [text(left + width / 2, top + height + 38, "share asked for, %", "sub", "middle"), text(left + width - 6, low + 15, "± 1 point", "tick", "end")]
    for number, length in enumerate(lengths_of(points)):
        for point in (point for point in points if point.kernel_ns == length):
            # Beside each other, or they would hide each other.
            x, y = at(point.asked + 1.1 * (number - 1.5), point.got - point.asked)
            out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" class="f{number}" opacity=".85"/>')
    return out


def svg(points: list[Point], where: str) -> str:
    head = [
        text(PLOT[0], 28, "Compute share: asked and got", "title"),
        text(PLOT[0], 46, f"{where}. Fixed work, timed alone in the same run; {len(points)} runs", "sub"),
        text(PLOT[0], HEIGHT - 10, "Dashed: HAMi-core 8f3a89c (sync after every 16 kernels) and MPS on one H200, driver 580.159.04", "sub"),
    ]
    body = "\n".join([*head, *plot(points), *errors(points)])
    label = "Chart of the compute share that programs asked for against what they got"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{label}">\n'
        f'<style>{STYLE}</style>\n<rect class="back" width="{WIDTH}" height="{HEIGHT}" rx="8"/>\n{body}\n</svg>\n'
    )
