"""Runs the sections of scripts/gpu-suspend and writes what they found. Started by that script, which has the help."""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import report
from report import Section
from sections import describe, parse, parser, run_on, run_section, show
from world import Child, Done, Failure, Machine, Slice

class Known(NamedTuple):
    """A section: its title, the seconds it takes at most, and whether the simulated driver will do."""

    title: str
    seconds: int
    simulated_too: bool


SECTIONS = {
    "cost": Known("Suspending and resuming, against the driver's own calls", 80, True),
    "cycles": Known("A training run, suspended again and again", 270, False),
    "pressure": Known("Resuming while another program has the memory", 190, True),
    "tenants": Known("Two tenants that do not fit together, used in turn", 170, True),
}
# What is not done by then is left: a section is never cut off in the midst of something.
CYCLES_SECONDS = 180
PRESSURE_SECONDS = 150


def vcuda(machine: Machine, command: str, within: Slice, *options: str, seconds: float = 120) -> Done:
    return machine.run([str(machine.vcuda), command, str(within.control), *options], seconds=seconds).must()


def holder(machine: Machine, within: Slice | None, mib: int, seconds: float = 240, **variables: str) -> Child:
    child = machine.start([machine.program("suspendable"), str(mib)], within, seconds, **variables)
    child.wait_for("ready")
    return child


def pytorch(machine: Machine, within: Slice, seconds: float) -> Child:
    child = machine.start(machine.python("suspended_training"), within, seconds)
    child.wait_for("ready")
    return child


def gpu_mib(machine: Machine) -> int:
    """Memory of the GPU."""
    if machine.simulated:
        return 141 * 1024
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    return int(machine.run(query, seconds=60).must().out.split()[0])


def cost(machine: Machine, section: Section, options: argparse.Namespace) -> None:
    within = machine.slice(f"{options.hold + 4:g}GiB")
    if machine.simulated:
        child = holder(machine, within, int(options.hold * 1024))
        before = ""
    else:
        child = pytorch(machine, within, 110)
        child.tell(f"hold {options.hold:g}")
        child.wait_for("held")
        child.tell("check")
        before = child.wait_for("sum")
    calls, bare, ours = [], [], []
    parts = {"suspend": [], "resume": [], "checkpoint": [], "restore": []}
    # In turn, so that whatever else the machine does meets both.
    for _ in range(3):
        done = machine.run(machine.python("bare_checkpoint", str(child.process.pid)), seconds=60).must()
        times = {name: done.number(name) for name in ("init", "lock", "checkpoint", "restore", "unlock")}
        calls.append(sum(times.values()) - times["init"])
        bare.append(calls[-1] + 2 * times["init"])
        parts["checkpoint"].append(times["checkpoint"])
        parts["restore"].append(times["restore"])
        suspended = vcuda(machine, "suspend", within)
        resumed = vcuda(machine, "resume", within)
        parts["suspend"].append(suspended.seconds)
        parts["resume"].append(resumed.seconds)
        ours.append(suspended.seconds + resumed.seconds)
    if before:
        child.tell("check")
        after = child.wait_for("sum")
        section.add("contents", "the same to the bit" if after == before else f"{before} became {after}", "the same", after == before)
    else:
        child.tell("work")
        child.wait_for("worked")
    median = {name: statistics.median(values) for name, values in parts.items()}
    section.add("the driver's calls", f"{statistics.median(calls):.2f} s: checkpoint {median['checkpoint']:.2f}, restore {median['restore']:.2f}")
    section.add("with starting the driver, twice", f"{statistics.median(bare):.2f} s")
    # What a command takes at all is no matter where nothing takes time.
    expected = statistics.median(bare) * 1.05
    ok = None if machine.simulated else statistics.median(ours) <= expected
    section.add("vcuda suspend and vcuda resume", f"{statistics.median(ours):.2f} s: {median['suspend']:.2f} + {median['resume']:.2f}",
                f"at most {expected:.2f} s, 5 % more", ok, ours=ours, bare=bare, calls=calls)  # fmt: skip


def cycles(machine: Machine, section: Section, options: argparse.Namespace) -> None:
    # Longer than a command takes to get to the driver, so that most find it at work.
    steps = 400

    def run(is_suspended: bool) -> tuple[list[str], int, float]:
        within = machine.slice("8GiB")
        child = pytorch(machine, within, SECTIONS["cycles"].seconds)
        losses: list[str] = []
        done = 0
        start = time.monotonic()
        for _ in range(options.cycles):
            child.tell(f"steps {steps}")
            if is_suspended and time.monotonic() - start < CYCLES_SECONDS:
                vcuda(machine, "suspend", within)
                vcuda(machine, "resume", within)
                done += 1
            losses += child.wait_for("losses").split()
        seconds = time.monotonic() - start
        child.tell("end")
        child.wait_for("peak")
        child.finish()
        return losses, done, seconds

    straight, _, bare = run(False)
    disturbed, done, seconds = run(True)
    first = next((at for at, (left, right) in enumerate(zip(straight, disturbed)) if left != right), None)
    section.add("suspended and resumed", f"{done} times, {(seconds - bare) / max(done, 1):.2f} s each", f"{options.cycles} times", done == options.cycles)
    section.add("losses", f"{len(disturbed)}, " + ("all the same to the bit" if first is None else f"another from step {first} on"),
                f"{len(straight)}, the same to the bit", first is None and len(straight) == len(disturbed))  # fmt: skip


def resume_all(machine: Machine, slices: list[Slice], release: Callable[[], None]) -> tuple[int, int]:
    """Resumes the slices all at once; when each of them waits for memory, it is released. How many waited, and came back."""
    resuming = [machine.start([str(machine.vcuda), "resume", str(within.control)], seconds=90) for within in slices]
    for one in resuming:
        while not one.err and one.process.poll() is None:
            time.sleep(0.02)
    waited = sum(any(line.startswith("vcuda: waiting: ") for line in one.err) for one in resuming)
    release()
    return waited, sum("resumed: 1 process" in one.finish().must().out for one in resuming)


def pressure(machine: Machine, section: Section, options: argparse.Namespace) -> None:
    at_once = 4
    slices = [machine.slice("4GiB") for _ in range(at_once)]
    children = [holder(machine, within, 256, SECTIONS["pressure"].seconds) for within in slices]
    other = holder(machine, None, 64, SECTIONS["pressure"].seconds)
    # All that there is while the programs are away, but for less than one of them needs.
    taken = gpu_mib(machine) - (600 if machine.simulated else 1100)
    waited = resumed = asked = 0
    has_room = False
    wanted = -(-options.resumes // at_once) * at_once
    start = time.monotonic()

    def release() -> None:
        other.tell("free")
        other.wait_for("free")

    while resumed < wanted and time.monotonic() - start < PRESSURE_SECONDS:
        suspending = [machine.start([str(machine.vcuda), "suspend", str(within.control)], seconds=90) for within in slices]
        for one in suspending:
            one.finish().must()
        while True:
            other.tell(f"alloc {taken}")
            asked += 1
            is_taken = int(other.wait_for(f"alloc_{asked}")) == 0
            if is_taken and has_room:
                break
            if is_taken:
                # The commands need a little of it to start the driver.
                release()
                has_room = True
            taken -= 128
            if taken <= 0:
                raise Failure("no memory could be taken")
        held_back, back = resume_all(machine, slices, release)
        waited, resumed = waited + held_back, resumed + back
        for child in children:
            child.tell("work")
        for child in children:
            child.wait_for("worked")
    seconds = time.monotonic() - start
    section.add("resumed", f"{resumed} times, {at_once} programs at once, {taken} MiB taken by another meanwhile", f"{wanted} times", resumed == wanted)
    section.add("waited for the memory", f"{waited} times", "every time", waited == resumed)
    section.add("programs lost", "0", "0", True)
    section.add("took", f"{seconds:.0f} s")
    for child in [*children, other]:
        child.finish().must()


def tenants(machine: Machine, section: Section, options: argparse.Namespace) -> None:
    # What is put aside needs as much of the host's memory, which a simulated GPU shouldn't ask for.
    small = {"VCUDA_FAKE_GPUS": "8GiB", "VCUDA_FAKE_STATE": str(machine.scratch / "small")} if machine.simulated else {}
    all_mib = 8192 if machine.simulated else gpu_mib(machine)
    each = all_mib * 53 // 100
    slices = [machine.slice(f"{each + 2048}MiB") for _ in range(2)]
    command = [str(machine.vcuda), "release"]
    for within in slices:
        command += ["--control-file", str(within.control)]
    agent = machine.start(command, seconds=250, **small)
    agent.wait_for("vcuda: making")
    start = time.monotonic()
    children, waits = [], []
    for within in slices:
        begin = time.monotonic()
        children.append(holder(machine, within, each, seconds=250, VCUDA_IDLE_RELEASE="2s", **small))
        waits.append(time.monotonic() - begin)
    section.add("each holds", f"{each / 1024:.0f} GiB of {all_mib / 1024:.0f}")
    section.add("both started", f"after {waits[0]:.1f} s and {waits[1]:.1f} s", "without an error", True)
    switches = []
    while len(switches) < 2 or (len(switches) < 4 and time.monotonic() - start + 1.3 * max(switches) < 160):
        child = children[len(switches) % 2]
        begin = time.monotonic()
        child.tell("work")
        child.wait_for("worked")
        switches.append(time.monotonic() - begin)
    shown = ", ".join(f"{seconds:.1f}" for seconds in switches)
    section.add("used in turn", f"{len(switches)} times, answered after {shown} s", "2 or more, without an error", len(switches) >= 2)
    lines = [line.strip() for line in agent.out if not line.startswith("vcuda:")]
    odd = [line for line in lines if not line.startswith(("put aside", "brought back"))]
    section.add("the agent said", f"{len(lines)} lines" + (f", also: {odd[0]}" if odd else ""), "put aside, brought back", not odd)
    agent.kill()


def run_all(options: argparse.Namespace, machine: Machine) -> list[report.Section]:
    start = time.monotonic()
    done: list[report.Section] = []
    where = describe(machine)
    print(f"{where['gpu']}, driver {where['driver']}, library from {where['library']}")
    bodies = {"cost": cost, "cycles": cycles, "pressure": pressure, "tenants": tenants}
    for name in options.sections:
        title, seconds, simulated_too = SECTIONS[name]
        section = report.Section(name, title)
        if options.simulated and not simulated_too:
            section.skip(name, "needs a GPU")
        elif time.monotonic() - start + seconds > options.budget:
            section.skip(name, f"could take {seconds} s and less is left of {options.budget:.0f} s")
        else:
            section, _ = run_section(name, title, machine, lambda section: bodies[name](machine, section, options))
        done.append(section)
        show(section)
        report.write(Path(options.out), where, done, "gpu-suspend")
    return done


def main() -> int:
    made = parser("gpu-suspend", budget=570)
    made.add_argument("--hold", type=float)
    made.add_argument("--cycles", type=int)
    made.add_argument("--resumes", type=int)
    options = parse(made, SECTIONS)
    defaults = {"hold": 2, "cycles": 8, "resumes": 20} if options.quick else {"hold": 8, "cycles": 50, "resumes": 100}
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return run_on("gpu-suspend", options, lambda machine: run_all(options, machine))


if __name__ == "__main__":
    sys.exit(main())
