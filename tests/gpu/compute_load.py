"""Runs the load generator, tests/programs/compute_load: calibrated once, bare or within a slice, alone or as many."""

import json
import time
from dataclasses import dataclass

from compute_figures import Counted, between
from compute_plan import SYNC_MODES, reference_seconds
from report import Section
from world import Child, Failure, Machine, Slice


@dataclass
class Settings:
    """What the command line asks of all sections."""

    quick: bool
    cells: int
    # Cells are chosen by it.
    seed: int
    # Seconds that a section may take which fits itself to the time there is.
    seconds: float
    # Nothing is limited: shows what the measurement itself is worth.
    is_bare: bool
    # Also the shortest kernels write down when they ran.
    logs_all: bool


def gpu_seconds(machine: Machine, within: Slice) -> float | None:
    """The GPU time that the container has used by the library's own measure, as `vcuda ps` tells it."""
    command = [str(machine.vcuda), "ps", "--json", "--control-file", str(within.control)]
    record = json.loads(machine.run(command, seconds=20).must().out)
    for one in record["slices"]:
        if one["control_file"] == str(within.control) and all("compute" in device for device in one["devices"]):
            return sum(device["compute"]["busy_ns"] for device in one["devices"]) / 1e9
    return None


class Load:
    """A running load generator that is told what to do, one thing after the other."""

    def __init__(self, loads: "Loads", within: Slice | None, seconds: float, under: list[str]):
        self.loads = loads
        command = [*under, loads.machine.program("compute_load"), "serve"]
        self.child: Child = loads.machine.start(command, within, seconds)
        self.begun = 0

    def wait_ready(self) -> "Load":
        self.child.wait_for("ready")
        self.clusters = int(self.said("clusters", "1"))
        # The program's own: it may have been started by another command.
        self.pid = int(self.said("pid", "0"))
        return self

    def said(self, key: str, otherwise: str) -> str:
        return next((line.split()[1] for line in self.child.out if line.startswith(key + " ")), otherwise)

    def ask(self, mode: str, kernel_ns: int, seconds: float, warmup: float = 0.5, **keys: object) -> None:
        if mode == "batch":
            # Plain kernels in a row, with so few events that they don't count.
            mode, keys = "free", {"mark_every": max(1, min(400, 10_000_000 // kernel_ns)), "ring": 2, **keys}
        iterations = self.loads.iterations[kernel_ns]
        words = [mode, kernel_ns, iterations, f"seconds={seconds:.6f}", f"warmup={warmup:.6f}"]
        words += [f"{key}={value}" for key, value in keys.items()]
        self.begun = self.child.next_line
        self.child.tell(" ".join(str(word) for word in words))

    def answer(self) -> Counted:
        self.child.wait_for("done")
        return Counted.parse(self.child.out[self.begun : self.child.next_line])

    def end(self) -> None:
        self.child.finish().must()


class Loads:
    """The generator with what it was calibrated to."""

    def __init__(self, machine: Machine):
        self.machine = machine
        self.iterations: dict[int, int] = {}
        # Bare periods: for each mode and length when they were taken and what they were.
        self.taken: dict[tuple[str, int], list[tuple[float, float]]] = {}
        self.busy: dict[tuple[str, int], float] = {}

    def calibrate(self, section: Section, lengths_ns: list[int]) -> None:
        """Finds the loop counts; how well two clocks agree on the kernel's period is a row."""
        missing = [length for length in lengths_ns if length not in self.iterations]
        if not missing:
            return
        command = [self.machine.program("compute_load"), "calibrate", *(str(length) for length in missing)]
        done = self.machine.run(command, seconds=90).must()
        for line in done.out.splitlines():
            words = line.split()
            if words[0] != "calibrated":
                continue
            length, iterations, by_events, by_host = int(words[1]), int(words[3]), float(words[5]), float(words[7])
            self.iterations[length] = iterations
            section.add(
                f"kernel of {length / 1000:g} us, alone", f"{by_events / 1000:.3f} us by events, {by_host / 1000:.3f} us by the host's clock, {iterations} iterations",
                "", None, period_events_ns=by_events, period_host_ns=by_host, iterations=iterations,
            )  # fmt: skip
        if any(length not in self.iterations for length in missing):
            raise Failure(f"compute_load did not calibrate: {done.tail()}")

    def open(self, within: Slice | None, seconds: float, under: list[str] | None = None) -> Load:
        """Starts the generator, by another command if `under` names one with its arguments."""
        return Load(self, within, seconds, under or [])

    def refer(self, wanted: list[tuple[str, int]], log_from_ns: int) -> None:
        """Times each mode and length bare."""
        total = sum(reference_seconds(mode, kernel_ns) + 1 for mode, kernel_ns in wanted)
        load = self.open(None, 60 + 2 * total).wait_ready()
        for mode, kernel_ns in wanted:
            keys = {"log": "-"} if kernel_ns >= log_from_ns else {}
            load.ask(mode, kernel_ns, reference_seconds(mode, kernel_ns), 0.2, **keys)
            counted = load.answer()
            if counted.kernels == 0:
                raise Failure(f"no kernels were done bare: {mode}, {kernel_ns} ns")
            now = time.monotonic()
            self.taken.setdefault((mode, kernel_ns), []).append((now, 1e9 / counted.rate_hz))
            if counted.busy_share is not None:
                self.busy[mode, kernel_ns] = 100 * counted.busy_share
        load.end()

    def period_ns(self, mode: str, kernel_ns: int, when: float | None = None) -> float:
        """The bare time per kernel, as it was then."""
        taken = self.taken[mode, kernel_ns]
        return between(taken[0], taken[-1], taken[0][0] if when is None else when)

    def drift(self) -> float:
        """Most that a bare period differed from itself later, as a part; of loops that wait, the host has its part."""
        pairs = (taken for (mode, _), taken in self.taken.items() if mode not in SYNC_MODES)
        return max((abs(taken[-1][1] / taken[0][1] - 1) for taken in pairs), default=0.0)
