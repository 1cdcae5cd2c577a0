"""What the library adds to a call: the same program bare, preloaded without a limit, and in a slice, in turns."""

from statistics import median

from report import Section
from world import Machine

# Figure of call_cost: (world that the target is for, most it may add in nanoseconds).
TARGETS = {
    "launch_ns": ("unlimited", 12),
    "alloc_free_ns": ("limited", 300),
    "alloc_free_live_ns": ("limited", 300),
    "async_alloc_free_ns": ("limited", 100),
    "async_alloc_free_live_ns": ("limited", 100),
}
# The call itself, not what is added: in a slice the driver need not be asked.
ABSOLUTE_TARGETS = {"memory_info_ns": ("limited", 200), "memory_info_live_ns": ("limited", 200)}


def cost(machine: Machine, section: Section, quick: bool) -> None:
    rounds, batches = (2, "10") if quick else (5, "30")
    command = [machine.program("call_cost"), batches, "100000"]
    found: dict[str, dict[str, list[float]]] = {}
    worlds = {"bare": None, "unlimited": machine.slice(None), "limited": machine.slice("8GiB")}
    for turn in range(rounds):
        order = list(worlds) if turn % 2 == 0 else list(reversed(worlds))
        for world in order:
            done = machine.run(command, worlds[world], seconds=40).must()
            for line in done.out.splitlines():
                name, value = line.split()[:2]
                if name.endswith("_ns"):
                    found.setdefault(name, {}).setdefault(world, []).append(float(value))
    for name, by_world in found.items():
        bare = by_world["bare"]
        text = f"bare {median(bare):.1f} ({min(bare):.1f}-{max(bare):.1f})"
        figures: dict = {"bare": bare}
        for world in ("unlimited", "limited"):
            values = by_world[world]
            added = [value - base for value, base in zip(values, bare)]
            text += f"; {world} {median(values):.1f}, added {median(added):+.1f} ({min(added):+.1f} to {max(added):+.1f})"
            figures[world] = values
        expected, ok = "", None
        # On a GPU these are within the driver's own noise; the targets are for the null driver where they say so.
        if name in TARGETS and (machine.simulated or name != "launch_ns"):
            world, most = TARGETS[name]
            added = median(value - base for value, base in zip(by_world[world], bare))
            expected, ok = f"{world}: at most +{most} ns", added <= most
        elif name in ABSOLUTE_TARGETS:
            world, most = ABSOLUTE_TARGETS[name]
            expected, ok = f"{world}: at most {most} ns", median(by_world[world]) <= most
        section.add(name.removesuffix("_ns").replace("_", " ") + ", ns", text, expected, ok, **figures)
