"""What tenants get against what they are promised: by weight, and under hard limits."""

import time
from statistics import mean

import sharing_plan as plan
from compute_load import Loads
from report import Section
from sharing_figures import Split
from sharing_pairs import Sharing, percent
from sharing_plan import Granted, Hard, Mix, Work, by_weight
from sharing_tenants import Had, end_all, open_all, together
from world import Failure, Machine

MOST_PERCENT = 2.0
MOST_POINTS = 1.0
LEAST_MIXES = 12


def mixed(section: Section, loads: Loads, mix: Mix, settings: Sharing) -> float:
    """One mix, in tenants of its own; gives by how many percent the worst share is off."""
    seconds = 2.4 if settings.quick else 4.0
    granted = [by_weight(weight, sum(mix.weights)) for weight in mix.weights]
    tenants = open_all(loads, list(zip(granted, mix.processes)))
    asked = list(zip(tenants, mix.works))
    alone = [tenant.alone(work, 0.6).rate_hz for tenant, work in asked]
    had = together(asked, seconds, 1.0)
    end_all(tenants)
    if min(alone) == 0:
        raise Failure(f"{mix.name}: a tenant did nothing alone")
    split = Split([100 * one.rate_hz / rate for one, rate in zip(had, alone)], list(mix.weights), mix.several)
    # The same by the time that its kernels take, where a loop's pauses are nobody's.
    busy = [one.rate_hz * work.kernel_ns / 1e7 for one, work in zip(had, mix.works)]
    text = f"{percent(split.shares)} % of alone; off {', '.join('-' if one is None else f'{one:+.2f}' for one in split.off)} %; busy {percent(busy)}"
    section.add(mix.name, text, f"within {MOST_PERCENT:g} % of its ratio", split.worst <= MOST_PERCENT,
                shares=split.shares, weights=mix.weights, off=split.off, busy=busy, alone_hz=alone)  # fmt: skip
    return split.worst


def weights(machine: Machine, section: Section, loads: Loads, settings: Sharing) -> None:
    begun = time.monotonic()
    loads.calibrate(section, list(plan.LENGTHS_NS))
    most = 4 if settings.quick else 16
    worst, longest = [], 0.0
    for mix in plan.mixes(settings.seed, most):
        start = time.monotonic()
        if worst and start - begun + 1.2 * longest > settings.seconds:
            break
        worst.append(mixed(section, loads, mix, settings))
        longest = max(longest, time.monotonic() - start)
        print(f"  {len(worst):>2}/{most} {mix.name}: off by {worst[-1]:.2f} %", flush=True)
    found = f"{len(worst)} of {most}, off by {max(worst):.2f} % at most, {mean(worst):.2f} % on average"
    section.add("mixes", found, "" if settings.quick else f"at least {LEAST_MIXES}", None if settings.quick else len(worst) >= LEAST_MIXES)


def share_by_time(loads: Loads, work: Work, had: Had) -> float:
    """Percent of the GPU's time that the kernels take when they are alone."""
    return had.rate_hz * loads.period_ns("batch", work.kernel_ns, time.monotonic()) / 1e7


def held(section: Section, loads: Loads, row: Hard, seconds: float) -> None:
    tenants = open_all(loads, [(Granted(limit), 1) for limit in row.limits])
    start_ns = time.monotonic_ns() + 60_000_000
    for number, (tenant, work) in enumerate(zip(tenants, row.works)):
        keys = {"on_ns": plan.ON_NS, "off_ns": plan.OFF_NS} if number == row.resting else {}
        tenant.ask(work, seconds, 1.0, start_ns, **keys)
    got = [share_by_time(loads, work, tenant.answer()) for tenant, work in zip(tenants, row.works)]
    end_all(tenants)
    judged = [(one, limit) for number, (one, limit) in enumerate(zip(got, row.limits)) if number != row.resting]
    worst = max(abs(one - limit) for one, limit in judged)
    text = " and ".join(f"{one:.2f}" + (" by turns" if number == row.resting else "") for number, one in enumerate(got))
    asked = " and ".join(f"{limit}" for _, limit in judged)
    section.add(row.name, f"{text} %, off by {worst:.2f}", f"{asked} ± {MOST_POINTS:g}", worst <= MOST_POINTS, got=got, limits=row.limits)


def hard(machine: Machine, section: Section, loads: Loads, settings: Sharing) -> None:
    seconds = 2.0 if settings.quick else 3.5
    rows = [plan.HARD[0], plan.HARD[3]] if settings.quick else list(plan.HARD)
    lengths = sorted({work.kernel_ns for row in rows for work in row.works})
    loads.calibrate(section, lengths)
    references = [("batch", length) for length in lengths]
    loads.refer(references, 0)
    for row in rows:
        held(section, loads, row, seconds)
    loads.refer(references, 0)
    section.add("bare periods, later against before", f"{100 * loads.drift():.3f} % at most")
