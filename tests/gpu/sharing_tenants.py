"""Tenants of one GPU: each under a `vcuda run` of its own, or bare, with one or several load generators in it."""

import time
from dataclasses import dataclass, field

from compute_figures import Counted
from compute_load import Load, Loads
from sharing_figures import added, smooth_rate
from sharing_plan import Granted, Work
from world import Machine

BIN_NS = 1_000_000
# From asking until work begins: everyone has to have read what is asked.
AHEAD_NS = 60_000_000
SOLO_SECONDS, SOLO_WARMUP = 0.8, 0.2


@dataclass
class Had:
    """What a tenant's programs did together."""

    bins: list[int]
    each: list[Counted] = field(default_factory=list)

    @property
    def rate_hz(self) -> float:
        return smooth_rate(self.bins, BIN_NS / 1e9)

    @property
    def requests_ms(self) -> list[float]:
        return [one / 1e6 for one in self.each[0].requests_ns]


class Tenant:
    """A container with its programs. Without limits it is bare: nothing is preloaded."""

    def __init__(self, loads: Loads, granted: Granted | None, processes: int = 1, seconds: float = 240):
        machine = loads.machine
        under: list[str] = []
        if granted:
            under = [str(machine.vcuda), "run", *granted.options()]
            # Several programs are one container by the control file that they share.
            under += ["--control-file", str(machine.slice(None).control)] if processes > 1 else []
            under += ["--"]
        self.loads: list[Load] = [loads.open(None, seconds, under) for _ in range(processes)]

    def wait_ready(self) -> "Tenant":
        for load in self.loads:
            load.wait_ready()
        return self

    @property
    def pids(self) -> list[int]:
        return [load.pid for load in self.loads]

    def ask(self, work: Work, seconds: float, warmup: float, start_ns: int | None = None, **keys: object) -> None:
        start_ns = start_ns or time.monotonic_ns() + AHEAD_NS
        for load in self.loads:
            load.ask(work.mode, work.kernel_ns, seconds, warmup, start_ns=start_ns, bins_ns=BIN_NS, **keys)

    def answer(self) -> Had:
        each = [load.answer() for load in self.loads]
        return Had(added([one.bins for one in each]), each)

    def alone(self, work: Work, seconds: float = SOLO_SECONDS, warmup: float = SOLO_WARMUP, **keys: object) -> Had:
        """What it does while the others, which are there, do nothing."""
        self.ask(work, seconds, warmup, **keys)
        return self.answer()

    def kill(self) -> None:
        for load in self.loads:
            load.child.finish(kill=True)

    def end(self) -> None:
        for load in self.loads:
            load.end()


def open_all(loads: Loads, granted: list[tuple[Granted | None, int]], seconds: float = 240) -> list[Tenant]:
    """Starts tenants side by side, each with so many programs, and waits for all."""
    tenants = [Tenant(loads, one, processes, seconds) for one, processes in granted]
    return [tenant.wait_ready() for tenant in tenants]


def together(asked: list[tuple[Tenant, Work]], seconds: float, warmup: float) -> list[Had]:
    """What tenants do in the same seconds."""
    start_ns = time.monotonic_ns() + AHEAD_NS
    for tenant, work in asked:
        tenant.ask(work, seconds, warmup, start_ns)
    return [tenant.answer() for tenant, _ in asked]


def end_all(tenants: list[Tenant]) -> None:
    for tenant in tenants:
        tenant.end()


def cpu_seconds(pid: int) -> float:
    """Processor time that a program has used, all its threads together, by the clock that Linux has for it."""
    return time.clock_gettime(~pid << 3 | 2)


def prepare(machine: Machine) -> None:
    """Has the simulated GPU lose as much in going from one program to another as an H200 does."""
    if machine.simulated:
        machine.simulation["VCUDA_FAKE_TIMES"] = "switch=150000"
