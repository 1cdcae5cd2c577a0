"""PyTorch under a share: its speed against bare, and that what it computes is the same to the last bit."""

from statistics import median

from compute_load import Loads, Settings, gpu_seconds
from report import Section
from world import Child, Failure, Machine, Slice

WORKLOADS = ["matmul", "transformer", "resnet50", "graph_replay", "mlp"]
SHARES = (50, 20)
MOST_POINTS = 1.0
# Below this the bare program leaves the GPU idle now and then, and a share is of the GPU's time. The meter is a limit
# of 99 %, so no more than that is seen.
ALWAYS_BUSY = 0.98
LEAST_UNDER_LIMIT = 0.99
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


def busy_share(machine: Machine, within: Slice, child: Child, workload: str, steps: int) -> float | None:
    """The part of the time that the GPU is busy with a program under a limit that it hardly feels."""
    before = gpu_seconds(machine, within)
    seconds = timed(child, workload, steps)
    after = gpu_seconds(machine, within)
    return None if before is None or after is None else (after - before) / seconds


def measure(machine: Machine, section: Section, workload: str, children: dict[str, Child], metered: Slice | None, quick: bool) -> None:
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
    busy = busy_share(machine, metered, children["metered"], workload, steps) if metered else None
    for share in SHARES:
        ratios = [100 * one / base for one, base in zip(rates[str(share)], rates["bare"])]
        ratio = median(ratios)
        always_busy = busy is None or busy >= ALWAYS_BUSY
        expected = float(share) if always_busy else min(100.0, share / busy)
        if expected == 100:
            ok, target = ratio >= 100 * LEAST_UNDER_LIMIT, f"at least {100 * LEAST_UNDER_LIMIT:g} % of bare, which uses less"
        else:
            ok, target = abs(ratio - expected) <= MOST_POINTS, f"{expected:.1f} ± {MOST_POINTS:g}"
        text = f"{ratio:.2f} % of bare ({min(ratios):.2f} to {max(ratios):.2f}), {median(rates['bare']):.1f} steps/s bare"
        text += f", busy {100 * busy:.1f} % of it" if busy is not None else ""
        section.add(f"{workload}, {share} %", text, target, ok, ratios=ratios, rates=rates, busy=busy)


def pytorch(machine: Machine, section: Section, loads: Loads, settings: Settings) -> None:
    slices: dict[str, Slice | None] = {"bare": None, **{str(share): None for share in SHARES}, "metered": None}
    if not settings.is_bare:
        slices |= {str(share): machine.slice(None, share) for share in SHARES}
        slices["metered"] = machine.slice(None, 99)
    children = {world: machine.start(machine.python("steps"), within, seconds=240) for world, within in slices.items()}
    for child in children.values():
        child.wait_for("ready")
    for workload in WORKLOADS:
        measure(machine, section, workload, children, slices["metered"], settings.quick)
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
