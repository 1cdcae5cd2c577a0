"""Checks of what plans and reckons: run by scripts/gpu-sharing --self-test. Prints what it checked; ends with an error
on the first that is wrong."""

import math
from collections import Counter
from xml.etree import ElementTree

import sharing_chart
import sharing_figures as figures
import sharing_plan as plan
from sharing_plan import Granted, Stay, Work


def turns(shares: list[int], quantum: int, length: int, offset: int) -> list[list[int]]:
    """What tenants do in each millisecond, ten kernels each, if they take turns that are so long for each percent."""
    order = [number for number, share in enumerate(shares) for _ in range(share * quantum)]
    holders = [order[(at + offset) % len(order)] for at in range(length)]
    return [[10 if holder == number else 0 for holder in holders] for number in range(len(shares))]


def turns_at_the_ends_are_no_error() -> None:
    for offset in range(0, 200, 17):
        bins = turns([1, 9], 20, 2400, offset)
        rates = [figures.smooth_rate(one, 0.001) for one in bins]
        assert abs(rates[0] - 1000) < 4 and abs(rates[1] - 9000) < 4, rates
        plain = sum(bins[0]) / 2.4
        assert abs(plain - 1000) <= 80, plain
    assert figures.smooth_rate([], 0.001) == 0
    assert abs(figures.smooth_rate([3] * 100, 0.5) - 6) < 1e-9


def splits_are_told_apart() -> None:
    kept = figures.Split([29.9, 69.6], [3, 7])
    assert kept.worst < 0.2 and abs(kept.total - 99.5) < 1e-9
    # The tenth is a fifth too large, which is 2.2 % of the other.
    off = figures.Split([12, 88], [1, 9]).off
    assert abs(off[0] - 20) < 1e-9 and abs(off[1] + 100 * 2 / 90) < 1e-9
    assert figures.Split([0, 0], [1, 1]).worst == 100
    # Beside several programs, whose own part is not told, another's is that of the GPU.
    beside = figures.Split([49, 140], [1, 1], several=1)
    assert beside.off[1] is None and abs(beside.worst - 2) < 1e-9
    # Tenants that have all a tenth less have it in the same ratio.
    assert figures.Split([45, 27, 18], [50, 30, 20]).worst < 1e-9


def wakes_are_timed() -> None:
    bins = [0] * 30 + [0, 0, 7] + [10] * 267
    assert figures.first_ms(bins, 1) == 33 and figures.first_ms([0] * 5, 1) == math.inf
    # Half of the GPU in turns of 20 ms after 40 ms without: 5 kernels are a millisecond.
    bins = ([0] * 40 + ([5] * 20 + [0] * 20) * 8)[:300]
    assert abs(figures.behind_ms(bins, 1, 2e5, 0.5, 100) - 30) < 3, figures.behind_ms(bins, 1, 2e5, 0.5, 100)
    assert figures.behind_ms([0] * 300, 1, 2e5, 0.5, 100) > 150
    assert figures.behind_ms([0] * 50, 1, 2e5, 0.5, 100) == math.inf


def losses_are_counted() -> None:
    # A turn of 15 ms is lost, then all is had.
    bins = [5] * 100 + [0] * 15 + [5] * 300
    assert abs(figures.lost_ms(bins, 1, 2e5, 100, 250) - 15) < 1e-9
    assert abs(figures.lost_ms(bins, 1, 2e5, 110.4, 250) - 5) < 1e-9
    try:
        figures.lost_ms(bins, 1, 2e5, 300, 250)
    except ValueError:
        return
    raise AssertionError("a time that was not measured")


def processor_time_is_compared() -> None:
    # Alone 1 s of a core for 1000 kernels; in 3 s 100 kernels and 0.25 s.
    assert abs(figures.burnt(0.25, 100, 1, 1000, 3) - 5) < 1e-9
    assert figures.burnt(0.1, 100, 1, 1000, 3) == 0
    assert abs(figures.burnt(0.3, 100, 0, 0, 3) - 10) < 1e-9


def percentiles_are_of_those_that_were() -> None:
    assert figures.percentile(list(range(1, 101)), 0.99) == 99 and figures.percentile([5.0], 0.99) == 5
    assert figures.percentile([3, 1, 2], 0.5) == 2 and figures.percentile([], 0.5) == 0


def unrest_is_the_largest_step() -> None:
    assert abs(figures.unrest([[100, 50], [101, 50], [101, 49]]) - 2) < 1e-9 and figures.unrest([[100]]) == 0


def smoothing_keeps_levels() -> None:
    assert all(abs(one - 4) < 1e-9 for one in figures.smoothed([4.0] * 20, 6))
    steps = figures.smoothed([0.0, 100.0] * 40, 6)
    assert max(abs(one - 50) for one in steps[6:-6]) < 5
    assert figures.smoothed([], 3) == []


def mixes_are_fresh_and_fair() -> None:
    for seed in range(20):
        chosen = plan.mixes(seed, 16)
        assert chosen[:5] == plan.mixes(seed, 5)
        assert Counter(mix.weights for mix in chosen) == {ratio: 4 for ratio in plan.RATIOS}
        works = Counter(work for mix in chosen for work in mix.works)
        assert set(works) == {Work(mode, length) for mode in plan.MIXED_MODES for length in plan.LENGTHS_NS}
        assert max(works.values()) - min(works.values()) <= 1
        several = [mix for mix in chosen if plan.SEVERAL in mix.processes]
        assert Counter(mix.weights for mix in several) == {ratio: 2 for ratio in plan.RATIOS}
        assert all(sum(mix.processes) == len(mix.weights) + plan.SEVERAL - 1 for mix in several)
    assert len({tuple(plan.mixes(seed, 8)) for seed in range(20)}) == 20


def limits_are_written_as_the_command_reads_them() -> None:
    assert Granted(30).options() == ["--cores", "30"]
    assert plan.by_weight(3, 10).options() == ["--cores", "30", "--elastic", "--weight", "3"]
    assert Granted(50, priority="high").options() == ["--cores", "50", "--priority", "high"]
    assert all(sum(limit for limit in row.limits) <= 100 for row in plan.HARD)


def phases_are_between_comings_and_goings() -> None:
    stays = [Stay(50, Work("free", 1), 0, 8), Stay(30, Work("free", 1), 2, 12), Stay(20, Work("free", 1), 4, 10)]
    assert plan.phases(stays) == [(0, 2), (2, 4), (4, 8), (8, 10), (10, 12)]
    assert plan.entitled(stays, 4) == [50, 30, 20]
    assert plan.entitled(stays, 2) == [62.5, 37.5, 0] and plan.entitled(stays, 11) == [0, 100, 0]


def the_chart_is_well_formed() -> None:
    stays = list(plan.STAYS)
    lines = [sharing_chart.Line(f"<{stay.weight}>", stay.comes, [50.0] * 200) for stay in stays]
    text = sharing_chart.svg([sharing_chart.Panel("ours", lines, stays), sharing_chart.Panel("bare", lines, None)], "a <GPU> & driver")
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg") and root.attrib["viewBox"]
    assert "a &lt;GPU&gt; &amp; driver" in text and text.count("<polyline") == 6
    ElementTree.fromstring(sharing_chart.svg([], "nothing"))


def run() -> None:
    checks = [
        turns_at_the_ends_are_no_error, splits_are_told_apart, wakes_are_timed, losses_are_counted, processor_time_is_compared,
        percentiles_are_of_those_that_were, unrest_is_the_largest_step, smoothing_keeps_levels, mixes_are_fresh_and_fair, limits_are_written_as_the_command_reads_them,
        phases_are_between_comings_and_goings, the_chart_is_well_formed,
    ]  # fmt: skip
    for check in checks:
        check()
        print(f"ok  {check.__name__.replace('_', ' ')}")
