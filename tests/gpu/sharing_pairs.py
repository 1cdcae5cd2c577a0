"""Two tenants that both want all of the GPU: what they have together, under vcuda and bare."""

from dataclasses import dataclass
from statistics import mean

import sharing_plan as plan
from compute_load import Loads
from report import Section
from sharing_figures import unrest
from sharing_plan import Granted
from sharing_tenants import end_all, open_all, together
from world import Child, Machine

LEAST_SUM = 99.0
HALF = Granted(50, is_elastic=True, weight=50)


@dataclass
class Sharing:
    """What the command line asks of all sections."""

    quick: bool
    # Mixes are chosen by it.
    seed: int
    # Seconds that a section may take which fits itself to the time there is.
    seconds: float


def percent(shares: list[float], total: float | None = None) -> str:
    return " + ".join(f"{one:.1f}" for one in shares) + f" = {sum(shares) if total is None else total:.1f}"


def averaged(rows: list[list[float]]) -> list[float]:
    return [mean(column) for column in zip(*rows)]


def add_sum(section: Section, what: str, ours: list[list[float]], bare: list[list[float]], alone: list[list[float]]) -> None:
    """A row of what two had in each round, in percent of what each does alone, of which all times are told."""
    sums, bare_sums = [sum(one) for one in ours], [sum(one) for one in bare]
    spread = f" ({min(sums):.1f} to {max(sums):.1f})" if len(sums) > 1 else ""
    section.add(
        what, f"{percent(averaged(ours), mean(sums))} %{spread}; bare {percent(averaged(bare), mean(bare_sums))}; alone within {unrest(alone):.1f} %",
        f"at least {LEAST_SUM:g} %", mean(sums) >= LEAST_SUM, shares=ours, bare=bare, alone_hz=alone,
    )  # fmt: skip


def shares(had: list[float], before: list[float], after: list[float]) -> list[float]:
    return [200 * one / (first + last) if first + last else 0.0 for one, first, last in zip(had, before, after)]


def pairs(machine: Machine, section: Section, loads: Loads, settings: Sharing) -> None:
    rounds, seconds = (1, 1.6) if settings.quick else (2, 2.4)
    loads.calibrate(section, list(plan.LENGTHS_NS))
    bare = open_all(loads, [(None, 1)] * 2)
    ours = open_all(loads, [(HALF, 1)] * 2)
    for works in plan.PAIRS:
        found: dict[str, list[list[float]]] = {"ours": [], "bare": []}

        def alone() -> list[float]:
            rates = {work: bare[0].alone(work).rate_hz for work in dict.fromkeys(works)}
            return [rates[work] for work in works]

        before = alone()
        all_alone = [before]
        for _ in range(rounds):
            had = {
                name: [one.rate_hz for one in together(list(zip(tenants, works)), seconds, 0.5)]
                for name, tenants in (("bare", bare), ("ours", ours))
            }
            after = alone()
            for name, rates in had.items():
                found[name].append(shares(rates, before, after))
            before = after
            all_alone.append(after)
        add_sum(section, " and ".join(work.name for work in works), found["ours"], found["bare"], all_alone)
    end_all([*bare, *ours])


TRAININGS = (("transformer", "transformer"), ("transformer", "resnet50"))


def steady(children: list[Child], workloads: tuple[str, ...], seconds: float) -> list[float]:
    """Steps a second of trainings that run at the same time."""
    for child, workload in zip(children, workloads):
        child.tell(f"{workload} {seconds}s")
    return [float(child.wait_for("rate")) for child in children]


def torch(machine: Machine, section: Section, loads: Loads, settings: Sharing) -> None:
    seconds = 2.0 if settings.quick else 4.0
    command = machine.python("steps")
    under = [str(machine.vcuda), "run", *HALF.options(), "--"]
    worlds = {
        "bare": [machine.start(command, seconds=200) for _ in range(2)],
        "ours": [machine.start([*under, *command], seconds=200) for _ in range(2)],
    }
    children = [child for pair in worlds.values() for child in pair]
    for child in children:
        child.wait_for("ready")
    for workloads in TRAININGS[: 1 if settings.quick else 2]:
        name = " and ".join(workloads)
        for pair in worlds.values():
            for child, workload in zip(pair, workloads):
                child.tell(f"{workload} 0")
        if any([child.wait_for("step").startswith("missing") for child in children]):
            section.skip(name, "its packages are not installed")
            continue

        def alone() -> list[float]:
            return [steady([child], (workload,), seconds / 2)[0] for child, workload in zip(worlds["bare"], workloads)]

        before = alone()
        had = {world: steady(pair, workloads, seconds) for world, pair in worlds.items()}
        after = alone()
        found = {world: shares(rates, before, after) for world, rates in had.items()}
        add_sum(section, name, [found["ours"]], [found["bare"]], [before, after])
    for child in children:
        child.tell("end 0")
        child.finish().must()
