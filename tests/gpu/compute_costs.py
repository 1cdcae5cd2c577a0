"""What a share costs programs that don't use it up: those that the host holds back, and each single launch."""

from statistics import median

from compute_load import Loads, Settings
from report import Section
from world import Machine, Slice

LEAST_RATIO = 0.99
MOST_P50_NS = 50
MOST_P99_NS = 200
MOST_FULL_NS = 12
LIMIT = 50
# Kernel and the host's own work after each launch, both in nanoseconds.
HOSTBOUND = [(5_000, 20_000), (20_000, 80_000), (20_000, 40_000), (200_000, 500_000)]


def hostbound(machine: Machine, section: Section, loads: Loads, settings: Settings) -> None:
    rounds, seconds = (2, 0.3) if settings.quick else (5, 0.6)
    loads.calibrate(section, sorted({kernel_ns for kernel_ns, _ in HOSTBOUND}))
    worlds = {"bare": None, "limited": None if settings.is_bare else machine.slice(None, LIMIT), "bare again": None}
    children = {world: loads.open(within, 120).wait_ready() for world, within in worlds.items()}
    for kernel_ns, gap_ns in HOSTBOUND:
        rates: dict[str, list[float]] = {world: [] for world in worlds}
        for turn in range(rounds):
            order = list(worlds)
            for world in order[turn % 3 :] + order[: turn % 3]:
                children[world].ask("free", kernel_ns, seconds, 0.2, gap_ns=gap_ns)
                rates[world].append(children[world].answer().rate_hz)
        ratio = median(one / base for one, base in zip(rates["limited"], rates["bare"]))
        control = median(one / base for one, base in zip(rates["bare again"], rates["bare"]))
        own = median(rates["bare"]) * kernel_ns / 1e7
        section.add(
            f"{kernel_ns / 1000:g} us kernels, {gap_ns / 1000:g} us of the host's work between", f"{ratio:.4f} of bare at {LIMIT} %, bare again {control:.4f}; uses {own:.0f} %",
            f"at least {LEAST_RATIO}", ratio >= LEAST_RATIO, rates=rates,
        )  # fmt: skip
    for child in children.values():
        child.end()


def batch_cost(machine: Machine, section: Section, worlds: dict[str, Slice | None], quick: bool) -> None:
    """Launches in a row, by call_cost: what the best batch's launch costs."""
    best: dict[str, list[float]] = {world: [] for world in worlds}
    command = [machine.program("call_cost"), "10" if quick else "20", "0"]
    for turn in range(2 if quick else 4):
        for world in list(worlds) if turn % 2 == 0 else reversed(worlds):
            done = machine.run(command, worlds[world], seconds=40).must()
            best[world].append(float(done.value("launch_ns").split()[2]))
    text = ", ".join(f"{world} {median(values):.1f}" for world, values in best.items())
    section.add("launches in a row, best batch, ns", text, figures=best)


def cost(machine: Machine, section: Section, loads: Loads, settings: Settings) -> None:
    worlds: dict[str, Slice | None] = {"bare": None, "limit 100": None, "limit 95": None, "bare again": None}
    if not settings.is_bare:
        worlds |= {"limit 100": machine.slice(None, 100), "limit 95": machine.slice(None, 95)}
    command = [machine.program("compute_calls"), "60" if settings.quick else "150"]
    keys = ("p50_ns", "p99_ns", "beside_p99_ns")
    found: dict[str, dict[str, list[float]]] = {key: {world: [] for world in worlds} for key in keys}
    busy = []
    for turn in range(2 if settings.quick else 4):
        order = list(worlds)
        for world in order[turn % 4 :] + order[: turn % 4]:
            done = machine.run(command, worlds[world], seconds=60).must()
            busy.append(done.number("busy_at_most"))
            for key in keys:
                found[key][world].append(done.number(key))

    def added(key: str, world: str) -> float:
        return median(one - base for one, base in zip(found[key][world], found[key]["bare"]))

    def row(what: str, key: str, world: str, most: float) -> None:
        noise = added(key, "bare again")
        text = f"bare {median(found[key]['bare']):.0f}, {world} {median(found[key][world]):.0f}, added {added(key, world):+.0f}; bare again {noise:+.0f}"
        # What two bare runs differ by can't be held against the library.
        section.add(what, text, f"at most +{most} ns", added(key, world) <= most + abs(noise), figures=found[key])

    section.add("the GPU is busy", f"{100 * max(busy):.0f} % of the time at most", "far below 95 %", max(busy) < 0.6)
    row("a launch, limit 95 not reached, p50", "p50_ns", "limit 95", MOST_P50_NS)
    row("the same beside the calls that record events, p99", "beside_p99_ns", "limit 95", MOST_P99_NS)
    section.add("the same with them, p99", f"bare {median(found['p99_ns']['bare']):.0f}, limit 95 {median(found['p99_ns']['limit 95']):.0f}")
    row("a launch, limit 100, p50", "p50_ns", "limit 100", MOST_FULL_NS)
    batch_cost(machine, section, worlds, settings.quick)
