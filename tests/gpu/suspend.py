"""Runs the sections of scripts/gpu-suspend and writes what they found. Started by that script, which has the help."""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import report
from report import Section
from sections import describe, run_on, run_section, show
from world import GIB, MIB, ROOT, Child, Done, Failure, Machine, Slice

# Name: (title, seconds it takes at most, whether the simulated driver will do).
SECTIONS = {
    "cost": ("Suspending and resuming, against the driver's own calls", 80, True),
    "cycles": ("A training run, suspended again and again", 140, False),
    "pressure": ("Resuming while another program has the memory", 120, True),
    "tenants": ("Two tenants that do not fit together, used in turn", 170, True),
}


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

    def run(is_suspended: bool) -> tuple[list[str], int]:
        within = machine.slice("8GiB")
        child = pytorch(machine, within, 140)
        losses: list[str] = []
        done = 0
        start = time.monotonic()
        for _ in range(options.cycles):
            child.tell(f"steps {steps}")
            if is_suspended and time.monotonic() - start < 95:
                vcuda(machine, "suspend", within)
                vcuda(machine, "resume", within)
                done += 1
            losses += child.wait_for("losses").split()
        child.tell("end")
        child.wait_for("peak")
        child.finish()
        return losses, done

    straight, _ = run(False)
    disturbed, done = run(True)
    first = next((at for at, (left, right) in enumerate(zip(straight, disturbed)) if left != right), None)
    section.add("suspended and resumed", f"{done} times", f"{options.cycles} times", done == options.cycles)
    section.add("losses", f"{len(disturbed)}, " + ("all the same to the bit" if first is None else f"another from step {first} on"),
                f"{len(straight)}, the same to the bit", first is None and len(straight) == len(disturbed))  # fmt: skip


def pressure(machine: Machine, section: Section, options: argparse.Namespace) -> None:
    within = machine.slice("4GiB")
    child = holder(machine, within, 256)
    other = holder(machine, None, 64)
    # All that there is while the program is away, but for less than it needs.
    all_mib = gpu_mib(machine) - (600 if machine.simulated else 1100)
    waited = rounds = asked = 0
    start = time.monotonic()
    for _ in range(options.rounds):
        if time.monotonic() - start > 105:
            break
        vcuda(machine, "suspend", within)
        taken = all_mib
        while True:
            other.tell(f"alloc {taken}")
            asked += 1
            if int(other.wait_for(f"alloc_{asked}")) == 0:
                break
            taken -= 128
            if taken <= 0:
                raise Failure("no memory could be taken")
        all_mib = taken
        resuming = machine.start([str(machine.vcuda), "resume", str(within.control)], seconds=60)
        while not resuming.err and resuming.process.poll() is None:
            time.sleep(0.02)
        waited += any(line.startswith("vcuda: waiting: ") for line in resuming.err)
        other.tell("free")
        other.wait_for("free")
        done = resuming.finish().must()
        child.tell("work")
        child.wait_for("worked")
        rounds += "resumed: 1 process" in done.out
    section.add("resumed", f"{rounds} times, {taken} MiB taken by another program meanwhile", f"{options.rounds} times", rounds == options.rounds)
    section.add("waited for the memory", f"{waited} times", "every time", waited == rounds)
    section.add("programs lost", "0", "0", True)
    child.finish().must()
    other.finish().must()


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


def run_all(options: argparse.Namespace, chosen: list[str], machine: Machine) -> list[report.Section]:
    start = time.monotonic()
    done: list[report.Section] = []
    where = describe(machine)
    print(f"{where['gpu']}, driver {where['driver']}, library from {where['library']}")
    bodies = {"cost": cost, "cycles": cycles, "pressure": pressure, "tenants": tenants}
    for name in chosen:
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
    parser = argparse.ArgumentParser(usage="scripts/gpu-suspend [OPTION...] [SECTION...]; see --help there")
    parser.add_argument("sections", nargs="*")
    parser.add_argument("--simulated", action="store_true")
    parser.add_argument("--null", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--hold", type=float, default=8)
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--library")
    parser.add_argument("--out", default=os.environ.get("OUT") or str(ROOT / "target" / "gpu-suspend"))
    parser.add_argument("--budget", type=float, default=470)
    options = parser.parse_args()
    chosen = options.sections or list(SECTIONS)
    for name in chosen:
        if name not in SECTIONS:
            parser.error(f"unknown section {name}: choose from {' '.join(SECTIONS)}")
    return run_on("gpu-suspend", options, lambda machine: run_all(options, chosen, machine))


if __name__ == "__main__":
    sys.exit(main())
