"""Checks of what plans and reckons: run by scripts/gpu-compute --self-test. Prints what it checked; ends with an error
on the first that is wrong."""

from collections import Counter
from random import Random
from xml.etree import ElementTree

import compute_chart
import compute_figures as figures
import compute_plan as plan


def cells_cover_the_grid_afresh() -> None:
    runs = [plan.choose(60, 300, 1.2, Random(seed)) for seed in range(20)]
    for cells in runs:
        assert len(cells) == 60 == len(set(cells)), len(cells)
        assert plan.covers_all(cells)
        assert sum(cell.cost(1.2) for cell in cells) <= 300
        for value, count in Counter(value for cell in cells for value in (cell.asked, cell.mode)).items():
            assert count >= 5, (value, count)
    assert len({tuple(cells) for cells in runs}) == 20
    assert plan.choose(60, 300, 1.2, Random(7)) == plan.choose(60, 300, 1.2, Random(7))


def a_short_budget_gives_fewer_cells() -> None:
    cells = plan.choose(60, 40, 1.2, Random(1))
    assert 5 < len(cells) < 60 and sum(cell.cost(1.2) for cell in cells) <= 40
    assert plan.choose(60, 1, 1.2, Random(1)) == []
    assert len(plan.choose(1000, 1e6, 1.2, Random(1))) == len(plan.all_cells()) == 196


def bare_periods_fit_too() -> None:
    for budget in (60, 200, 340, 560):
        cells = plan.fit(64, budget, 1.2, 3)
        assert sum(cell.cost(1.2) for cell in cells) + plan.references_cost(cells, 2) <= budget
        assert cells == plan.fit(64, budget, 1.2, 3)
    assert len(plan.fit(64, 340, 1.2, 3)) >= 60 and plan.fit(64, 2, 1.2, 3) == []


def cells_are_long_enough() -> None:
    assert plan.Cell(5, 20_000_000, "free").seconds == 44
    assert plan.Cell(50, 20_000, "sync1").seconds == 2
    assert plan.Cell(50, 2_000_000, "graph20").seconds == 110 * 0.08
    assert ("batch", 20_000) in plan.references([plan.Cell(50, 20_000, "sync1")])


def counted(kernels: int, seconds: float, window: int, note: int = 1, tenths: list[int] | None = None) -> figures.Counted:
    return figures.Counted(kernels, seconds, window, 2.0, note, tenths or [])


def shares_are_measured_between_ends() -> None:
    # 20 ms kernels at 30 %: one every 66.7 ms; the window holds 30, of which 29 lie between the first and last end.
    assert abs(figures.share(counted(29, 29 / 15, 30), 20e6) - 30) < 1e-9
    # Locked out after half the time: what was reached before doesn't count for the whole.
    assert abs(figures.share(counted(4999, 0.9998, 5000, 10), 200e3) - 50.1) < 0.01
    assert figures.share(counted(0, 0, 0), 20e6) == 0
    assert figures.whole_share(counted(0, 0, 30), 20e6) == 30


def windows_slide() -> None:
    low, high = figures.windows(counted(0, 1, 0, 1, [10] * 10 + [20] * 10), 1e6)
    assert (round(low, 6), round(high, 6)) == (10.0, 20.0)
    assert figures.windows(counted(0, 1, 0), 1e6) == (0.0, 0.0)


def references_are_interpolated() -> None:
    assert figures.between((0, 100), (10, 110), 5) == 105
    assert figures.between((3, 100), (3, 100), 3) == 100


def unions_are_not_sums() -> None:
    assert figures.union_seconds([(0, 10), (5, 20), (30, 40), (31, 39)]) == 30e-9
    assert figures.union_seconds([]) == 0


def output_is_parsed() -> None:
    text = "kernels 12\nseconds 0.5\nwindow_kernels 13\nwindow_seconds 0.55\nlargest_note 2\ntenths 1 2 3\nbusy_share 0.25\nlogged_kernels 0"
    parsed = figures.Counted.parse(text.splitlines())
    assert (parsed.kernels, parsed.tenths, parsed.busy_share) == (12, [1, 2, 3], 0.25)
    assert parsed.rate_hz == 24
    assert figures.Counted.parse(["kernels 1"]).busy_share is None


def the_chart_is_well_formed() -> None:
    points = [compute_chart.Point(asked, length, "free", asked + 0.2) for asked in plan.SHARES for length in plan.LENGTHS_NS]
    text = compute_chart.svg(points, "a <GPU> & driver")
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg") and root.attrib["viewBox"]
    assert "a &lt;GPU&gt; &amp; driver" in text
    ElementTree.fromstring(compute_chart.svg([], "nothing"))


def run() -> None:
    checks = [
        cells_cover_the_grid_afresh, a_short_budget_gives_fewer_cells, bare_periods_fit_too, cells_are_long_enough, shares_are_measured_between_ends,
        windows_slide, references_are_interpolated, unions_are_not_sums, output_is_parsed, the_chart_is_well_formed,
    ]  # fmt: skip
    for check in checks:
        check()
        print(f"ok  {check.__name__.replace('_', ' ')}")
