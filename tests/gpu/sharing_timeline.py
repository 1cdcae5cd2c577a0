"""Tenants that come and go: what each has at every moment, under vcuda and bare."""

import time
from dataclasses import replace

import sharing_plan as plan
from compute_load import Loads
from report import Section
from sharing_chart import BIN_SECONDS, Line, Panel
from sharing_figures import smooth_rate
from sharing_pairs import Sharing, percent
from sharing_plan import Stay, by_weight
from sharing_tenants import AHEAD_NS, BIN_NS, Had, Tenant, end_all, open_all
from world import Machine

MOST_POINTS = 2.0
# After someone came or went, what they have is judged from so many seconds on.
SETTLED_SECONDS = 0.3


def stays_of(settings: Sharing) -> list[Stay]:
    scale = 0.4 if settings.quick else 1.0
    return [replace(stay, comes=stay.comes * scale, goes=stay.goes * scale) for stay in plan.STAYS]


def one_run(tenants: list[Tenant], stays: list[Stay]) -> tuple[list[Had], list[float]]:
    """What each did while it was there, and its rate alone."""
    alone = [tenant.alone(stay.work).rate_hz for tenant, stay in zip(tenants, stays)]
    start_ns = time.monotonic_ns() + AHEAD_NS
    for tenant, stay in zip(tenants, stays):
        tenant.ask(stay.work, stay.goes - stay.comes, 0.0, start_ns + round(stay.comes * 1e9))
    return [tenant.answer() for tenant in tenants], alone


def had_between(had: Had, stay: Stay, begin: float, end: float) -> float:
    """Kernels a second of a tenant between two moments of the whole time."""
    if begin < stay.comes or end > stay.goes:
        return 0.0
    first, last = (round((moment - stay.comes) * 1e9 / BIN_NS) for moment in (begin, end))
    return smooth_rate(had.bins[first:last], BIN_NS / 1e9)


def line_of(stay: Stay, had: Had, alone_hz: float) -> Line:
    """Percent of what it does alone, in the steps of the chart."""
    width = round(BIN_SECONDS * 1e9 / BIN_NS)
    sums = [sum(had.bins[at : at + width]) for at in range(0, len(had.bins) - width + 1, width)]
    return Line(f"weight {stay.weight}, {stay.work.name}", stay.comes, [100 * one / BIN_SECONDS / alone_hz for one in sums])


def timeline(machine: Machine, section: Section, loads: Loads, settings: Sharing) -> list[Panel]:
    stays = stays_of(settings)
    loads.calibrate(section, list(plan.LENGTHS_NS))
    panels = []
    total = sum(stay.weight for stay in stays)
    for name, granted in (("vcuda", [by_weight(stay.weight, total) for stay in stays]), ("bare", [None for _ in stays])):
        tenants = open_all(loads, [(one, 1) for one in granted])
        had, alone = one_run(tenants, stays)
        end_all(tenants)
        is_ours = name == "vcuda"
        panels.append(Panel("vcuda, shares by weight" if is_ours else "bare: the driver's time slices", [line_of(*one) for one in zip(stays, had, alone)], stays if is_ours else None))
        for begin, end in plan.phases(stays):
            there = [number for number, stay in enumerate(stays) if stay.comes <= begin < stay.goes]
            found = [100 * had_between(had[number], stays[number], begin + SETTLED_SECONDS, end) / alone[number] for number in there]
            wanted = [one for one in plan.entitled(stays, begin) if one]
            worst = max(abs(one - other) for one, other in zip(found, wanted))
            section.add(
                f"{name}, {begin:.1f} to {end:.1f} s: {len(there)} there", f"{percent(found)} %",
                f"{' + '.join(f'{one:.1f}' for one in wanted)}, ± {MOST_POINTS:g} points" if is_ours else "", worst <= MOST_POINTS if is_ours else None,
                shares=found, entitled=wanted,
            )  # fmt: skip
    return panels
