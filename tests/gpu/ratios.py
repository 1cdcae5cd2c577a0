"""PyTorch's speed in a slice against bare: living processes that take turns, in several rounds. A second bare one
runs beside them: what it differs by from the first is the noise of the machine."""

from statistics import median

from report import Section
from world import Child, Failure, Machine

WORKLOADS = ["transformer", "matmul", "resnet50", "mlp", "graph_replay"]
TARGET = 0.995
SLICE_SECONDS = 0.35


def timed(child: Child, workload: str, steps: int) -> float:
    child.tell(f"{workload} {steps}")
    return float(child.wait_for("seconds"))


def prepared(child: Child, workload: str) -> float:
    """Makes the workload ready; gives the seconds of one step, or 0 if it can't run here."""
    child.tell(f"{workload} 0")
    text = child.wait_for("step")
    return 0.0 if text.startswith("missing") else float(text)


def ratios(machine: Machine, section: Section, quick: bool) -> None:
    rounds, pairs = (1, 3) if quick else (2, 10)
    found: dict[str, list[float]] = {workload: [] for workload in WORKLOADS}
    noise: dict[str, list[float]] = {workload: [] for workload in WORKLOADS}
    rates: dict[str, list[float]] = {workload: [] for workload in WORKLOADS}
    for _ in range(rounds):
        children = {
            "bare": machine.start(machine.python("steps"), seconds=120),
            "limited": machine.start(machine.python("steps"), machine.slice("40GiB"), seconds=120),
            "bare again": machine.start(machine.python("steps"), seconds=120),
        }
        worlds = list(children)
        for child in children.values():
            child.wait_for("ready")
        for workload in WORKLOADS:
            each = [prepared(child, workload) for child in children.values()]
            if min(each) == 0:
                continue
            steps = max(1, round(SLICE_SECONDS / median(each)))
            for pair in range(pairs):
                first = pair % len(worlds)
                order = worlds[first:] + worlds[:first]
                seconds = {world: timed(children[world], workload, steps) for world in order}
                found[workload].append(seconds["bare"] / seconds["limited"])
                noise[workload].append(seconds["bare"] / seconds["bare again"])
                rates[workload].append(steps / seconds["limited"])
        for child in children.values():
            child.tell("end 0")
            child.finish().must()
    for workload, values in found.items():
        if not values:
            section.skip(workload, "its packages are not installed")
            continue
        values.sort()
        low, high = values[len(values) // 4], values[(3 * len(values)) // 4]
        section.add(
            workload,
            f"{median(values):.4f} (middle half {low:.4f}-{high:.4f}, {len(values)} pairs), {median(rates[workload]):.1f} steps/s",
            f"at least {TARGET}", median(values) >= TARGET, ratios=values,
        )  # fmt: skip
        values = sorted(noise[workload])
        low, high = values[len(values) // 4], values[(3 * len(values)) // 4]
        section.add(f"{workload}, bare again", f"{median(values):.4f} (middle half {low:.4f}-{high:.4f})", ratios=values)
    if not any(found.values()):
        raise Failure("no workload ran")
