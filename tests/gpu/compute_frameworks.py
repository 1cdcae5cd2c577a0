"""PyTorch under a share: its speed against bare, and that what it computes is the same to the last bit."""

from statistics import median

from compute_load import Loads, Settings
from report import Section
from world import Child, Failure, Machine

WORKLOADS = ["matmul", "transformer", "resnet50", "graph_replay", "mlp"]
SHARES = (50, 20)
MOST_POINTS = 1.0
# What a program can reach is bounded by its own pauses: bare, it leaves the GPU idle for the rest.
LEAST_UNDER_LIMIT = 0.99
TRACED_SECONDS = 0.3
EQUAL_PROGRAMS = ["streams", "captures", "compiled"]
EQUAL_SHARE = 30


def timed(child: Child, workload: str, steps: int) -> float:
    child.tell(f"{workload} {steps}")
    return float(child.wait_for("seconds"))


def prepared(child: Child, workload: str) -> float:
    """Makes the workload ready; gives the seconds of one step, or 0 if it can't run here."""
    child.tell(f"{workload} 0")
    text = child.wait_for("step")
    return 0.0 if text.startswith("missing") else float(text)


def traced_seconds(child: Child, workload: str, each: float) -> float:
    """GPU seconds of one step by NVIDIA's tracer, in this process: at the clock that the GPU has there."""
    child.tell(f"{workload} {-max(2, round(TRACED_SECONDS / each))}")
    return float(child.wait_for("traced"))


def measure(section: Section, workload: str, children: dict[str, Child], quick: bool) -> None:
    repeats, bare_seconds, limited_seconds = (1, 0.4, 0.8) if quick else (3, 0.7, 2.2)
    each = prepared(children["bare"], workload)
    if each == 0:
        section.skip(workload, "its packages are not installed")
        return
    for world in children:
        if world != "bare":
            prepared(children[world], workload)
    steps = max(2, round(bare_seconds / each))
    rates: dict[str, list[float]] = {world: [] for world in children}
    for _ in range(repeats):
        before = steps / timed(children["bare"], workload, steps)
        for share in SHARES:
            count = max(2, round(limited_seconds / each * share / 100))
            rates[str(share)].append(count / timed(children[str(share)], workload, count))
        after = steps / timed(children["bare"], workload, steps)
        rates["bare"].append((before + after) / 2)
    gpu_seconds = {world: traced_seconds(child, workload, each) for world, child in children.items()}
    busy = {world: 100 * median(rates[world]) * gpu_seconds[world] for world in children}
    for share in SHARES:
        ratios = [100 * one / base for one, base in zip(rates[str(share)], rates["bare"])]
        if busy["bare"] <= share:
            ok, target = median(ratios) >= 100 * LEAST_UNDER_LIMIT, f"at least {100 * LEAST_UNDER_LIMIT:g} % of bare, which uses less"
        else:
            ok, target = abs(busy[str(share)] - share) <= MOST_POINTS, f"busy {share} ± {MOST_POINTS:g}"
        text = f"busy {busy[str(share)]:.2f} % of the time, bare {busy['bare']:.1f}; {median(ratios):.2f} % of bare's steps "
        text += f"({min(ratios):.2f} to {max(ratios):.2f}), of {median(rates['bare']):.1f} a second; "
        text += f"a step takes {1e3 * gpu_seconds[str(share)]:.3f} ms of the GPU, bare {1e3 * gpu_seconds['bare']:.3f}"
        section.add(f"{workload}, {share} %", text, target, ok, ratios=ratios, rates=rates, busy=busy, gpu_seconds=gpu_seconds)


def pytorch(machine: Machine, section: Section, loads: Loads, settings: Settings) -> None:
    worlds = {"bare": None, **{str(share): None if settings.is_bare else machine.slice(None, share) for share in SHARES}}
    children = {world: machine.start(machine.python("steps"), within, seconds=240) for world, within in worlds.items()}
    for child in children.values():
        child.wait_for("ready")
    for workload in WORKLOADS:
        measure(section, workload, children, settings.quick)
    for child in children.values():
        child.tell("end 0")
        child.finish().must()


def equal(machine: Machine, section: Section, loads: Loads, settings: Settings) -> None:
    for program in EQUAL_PROGRAMS:
        command = machine.python("compute_equal", program)
        bare = machine.run(command, seconds=150)
        if bare.out.startswith("unsupported"):
            section.skip(program, bare.value("unsupported"))
            continue
        if bare.code != 0:
            section.skip(program, f"does not run bare: {bare.tail()[-160:]}")
            continue
        first, again = bare.must().value("digest"), machine.run(command, seconds=150).must().value("digest")
        within = None if settings.is_bare else machine.slice(None, EQUAL_SHARE)
        limited = machine.run(command, within, seconds=300)
        try:
            ours = limited.must().value("digest")
        except Failure as failure:
            section.add(program, str(failure), "runs", False)
            continue
        if first != again:
            section.add(program, "two bare runs differ", "the same to the last bit", False)
            continue
        text = f"{'equal' if ours == first else 'differs'}, {bare.value('tensors')} tensors, {bare.seconds:.1f} s bare, {limited.seconds:.1f} s at {EQUAL_SHARE} %"
        section.add(program, text, "the same to the last bit", ours == first, bare=first, limited=ours)
