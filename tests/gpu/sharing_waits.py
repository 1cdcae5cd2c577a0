"""What waiting costs: tenants that wake, requests that go first, neighbours that die or stop, and the processor."""

import os
import signal
import time
from random import Random
from statistics import median

import sharing_plan as plan
from compute_load import Loads
from report import Section
from sharing_figures import behind_ms, burnt, first_ms, lost_ms, percentile
from sharing_pairs import HALF, Sharing
from sharing_plan import Granted, Work, by_weight
from sharing_tenants import AHEAD_NS, BIN_NS, Tenant, cpu_seconds, end_all, open_all, together
from world import Machine

BIN_MS = BIN_NS / 1e6
LEAST_OF_ALONE = 0.98
MOST_WAKE_MS = 50.0
MOST_LATENCY = 1.3
MOST_LOST_MS = 20.0
MOST_BURNT = 5.0
SATURATING = Work("free", plan.US200)


def elastic(machine: Machine, section: Section, loads: Loads, settings: Sharing) -> None:
    loads.calibrate(section, list(plan.LENGTHS_NS))
    bare, ours, idle = open_all(loads, [(None, 1), (HALF, 1), (HALF, 1)])
    idle.alone(SATURATING, 0.2)  # It is known to be there.
    works = (SATURATING,) if settings.quick else (Work("free", plan.US20), SATURATING, Work("sync1", plan.MS2))
    for work in works:
        ratios = []
        before = bare.alone(work, 0.6).rate_hz
        for _ in range(2 if settings.quick else 4):
            had = ours.alone(work, 0.6).rate_hz
            after = bare.alone(work, 0.6).rate_hz
            ratios.append(2 * had / (before + after))
            before = after
        section.add(f"{work.name} beside an idle tenant", f"{100 * median(ratios):.2f} % of alone ({100 * min(ratios):.1f} to {100 * max(ratios):.1f})",
                    f"at least {100 * LEAST_OF_ALONE:g} %", median(ratios) >= LEAST_OF_ALONE, ratios=ratios)  # fmt: skip
    period_ns = 1e9 / bare.alone(SATURATING).rate_hz
    wake(section, ours, idle, period_ns, settings)
    end_all([bare, ours, idle])


def wake(section: Section, ours: Tenant, waker: Tenant, period_ns: float, settings: Sharing) -> None:
    """A tenant that wants its half again and again, beside one that takes all."""
    count, each = (6, 0.6) if settings.quick else (20, 0.6)
    ours.ask(SATURATING, count * each, 0.5)
    random, first, behind = Random(settings.seed), [], []
    until = time.monotonic() + 0.5 + count * each
    time.sleep(0.5)
    while time.monotonic() + each < until:
        # At another moment of the other's turn each time.
        time.sleep(0.1 + 0.04 * random.random())
        waker.ask(SATURATING, 0.3, 0.0)
        had = waker.answer()
        first.append(first_ms(had.bins, BIN_MS))
        behind.append(behind_ms(had.bins, BIN_MS, period_ns, 0.5, 100.0))
    ours.answer()
    section.add("a waker's first work is done after", f"{median(first):.1f} ms, {max(first):.1f} at most, {len(first)} times",
                f"at most {MOST_WAKE_MS:g} ms", max(first) <= MOST_WAKE_MS, milliseconds=first)  # fmt: skip
    section.add("then it is behind its half by", f"{median(behind):.1f} ms, {min(behind):.1f} to {max(behind):.1f}",
                f"at most {MOST_WAKE_MS:g} ms", max(behind) <= MOST_WAKE_MS, milliseconds=behind)  # fmt: skip


REQUEST = Work("burst25", plan.US200)
REQUEST_EVERY_NS = 50_000_000


def priority(machine: Machine, section: Section, loads: Loads, settings: Sharing) -> None:
    seconds = 2.5 if settings.quick else 8.0
    loads.calibrate(section, list(plan.LENGTHS_NS))
    first = Granted(50, priority="high")
    requests, others, bare_requests, bare_others = open_all(loads, [(first, 1), (HALF, 1), (None, 1), (None, 1)])

    def alone() -> list[float]:
        return requests.alone(REQUEST, seconds / 2, every_ns=REQUEST_EVERY_NS).requests_ms

    def beside(one: Tenant, other: Tenant, work: Work, seconds: float) -> tuple[list[float], float]:
        start_ns = time.monotonic_ns() + AHEAD_NS
        other.ask(work, seconds, 1.0, start_ns)
        one.ask(REQUEST, seconds, 1.0, start_ns, every_ns=REQUEST_EVERY_NS)
        return one.answer().requests_ms, other.answer().rate_hz

    works = (SATURATING,) if settings.quick else (SATURATING, Work("free", plan.MS2))
    for work in works:
        before = alone()
        free = others.alone(work).rate_hz
        taken, rate = beside(requests, others, work, seconds)
        taken_bare, _ = beside(bare_requests, bare_others, work, min(seconds, 3.0))
        lone = before + alone()
        base, ours, bare = (percentile(one, 0.99) for one in (lone, taken, taken_bare))
        text = f"p99 {ours:.2f} ms ({ours / base:.2f} x alone, {base:.2f}), median {median(taken):.2f}; the other {100 * rate / free:.1f} %; bare p99 {bare:.2f}"
        section.add(f"a request of 5 ms each 50 ms beside {work.name}", text, f"p99 at most {MOST_LATENCY:g} x alone", ours <= MOST_LATENCY * base,
                    alone_ms=lone, beside_ms=taken, bare_ms=taken_bare)  # fmt: skip
    end_all([requests, others, bare_requests, bare_others])


# After a neighbour was killed or stopped, this long is looked at.
AFTERWARDS_MS = 250.0


def lost_by(survivor: Tenant, holder: Tenant, way: int, period_ns: float, random: Random) -> float:
    """What a tenant that wants all loses of the time after its neighbour was killed or stopped."""
    seconds = 1.0
    start_ns = time.monotonic_ns() + AHEAD_NS
    for tenant in (survivor, holder):
        tenant.ask(SATURATING, seconds, 0.3, start_ns)
    # At another moment of a turn each time.
    moment_ns = start_ns + 600_000_000 + random.randrange(60_000_000)
    time.sleep((moment_ns - time.monotonic_ns()) / 1e9)
    at_ns = time.monotonic_ns()
    for pid in holder.pids:
        os.kill(pid, way)
    had = survivor.answer()
    if way == signal.SIGSTOP:
        for pid in holder.pids:
            os.kill(pid, signal.SIGCONT)
        holder.answer()
    begin_ms = (at_ns - had.each[0].from_ns) / 1e6
    return lost_ms(had.bins, BIN_MS, period_ns, begin_ms, AFTERWARDS_MS)


def death(machine: Machine, section: Section, loads: Loads, settings: Sharing) -> None:
    loads.calibrate(section, list(plan.LENGTHS_NS))
    random = Random(settings.seed)
    # It has the GPU at most times.
    large, small = by_weight(80, 100), by_weight(20, 100)
    kills, stops = (2, 3) if settings.quick else (6, 12)
    survivor, holder, bare = open_all(loads, [(small, 1), (large, 1), (None, 1)])
    period_ns = 1e9 / bare.alone(SATURATING).rate_hz
    lost = {"killed": [], "stopped": [], "killed bare": []}
    for _ in range(stops):
        lost["stopped"].append(lost_by(survivor, holder, signal.SIGSTOP, period_ns, random))
    for number in range(kills):
        if number:
            holder = Tenant(loads, large).wait_ready()
            holder.alone(SATURATING, 0.1)
        lost["killed"].append(lost_by(survivor, holder, signal.SIGKILL, period_ns, random))
        holder.kill()
    for _ in range(1 if settings.quick else 3):
        neighbour = Tenant(loads, None).wait_ready()
        neighbour.alone(SATURATING, 0.1)
        lost["killed bare"].append(lost_by(bare, neighbour, signal.SIGKILL, period_ns, random))
        neighbour.kill()
    end_all([survivor, bare])
    for name, values in lost.items():
        ours = name != "killed bare"
        section.add(f"the neighbour is {name}", f"{median(values):.1f} ms lost, {min(values):.1f} to {max(values):.1f}, {len(values)} times",
                    f"at most {MOST_LOST_MS:g} ms" if ours else "", max(values) <= MOST_LOST_MS if ours else None, milliseconds=values)  # fmt: skip


def cpu(machine: Machine, section: Section, loads: Loads, settings: Sharing) -> None:
    """Tenants that wait for nine tenths of the time: what their kernels need of the processor is not held against them."""
    seconds = 1.5 if settings.quick else 3.0
    loads.calibrate(section, list(plan.LENGTHS_NS))
    busy, *waiting = open_all(loads, [(by_weight(8, 10), 1), (by_weight(1, 10), 1), (by_weight(1, 10), 1)])
    for work in (SATURATING,) if settings.quick else (SATURATING, Work("sync1", plan.US20), Work("free", plan.MS2)):

        def used(tenants: list[Tenant], run) -> tuple[list[float], list[float]]:
            before = [cpu_seconds(tenant.pids[0]) for tenant in tenants]
            had = run()
            return [cpu_seconds(tenant.pids[0]) - one for tenant, one in zip(tenants, before)], [one.each[0].all_kernels for one in had]

        alone_cpu, alone_kernels = used([waiting[0]], lambda: [waiting[0].alone(work, 1.0)])
        asked = [(busy, SATURATING), *((tenant, work) for tenant in waiting)]
        spent, kernels = used(waiting, lambda: together(asked, seconds, 0.5)[1:])
        parts = [burnt(one, count, alone_cpu[0], alone_kernels[0], seconds + 0.5) for one, count in zip(spent, kernels)]
        text = f"{', '.join(f'{one:.1f}' for one in parts)} % of a core each, beside what their kernels need ({100 * alone_cpu[0] / 1.2:.0f} % alone)"
        section.add(f"waiting with {work.name}", text, f"at most {MOST_BURNT:g} % of a core", max(parts) <= MOST_BURNT,
                    burnt=parts, cpu_seconds=spent, kernels=kernels)  # fmt: skip
    end_all([busy, *waiting])
