"""What the library adds to a call: the same program bare, preloaded without a limit, and in a slice, in turns.
And what it adds to the start of a program that doesn't use CUDA."""

import os
import sys
import time
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

# A command that doesn't use CUDA, the milliseconds its start may take longer, and how often it is started.
STARTS = [("/bin/true", ["/bin/true"], 0.2, 200), ("python3 -c pass", [sys.executable, "-c", "pass"], 0.5, 60)]


def starts(machine: Machine, section: Section, quick: bool) -> None:
    environments = {"bare": machine.environment(), "limited": machine.slice("4GiB").environment()}
    for name, command, most_ms, turns in STARTS:
        taken: dict[str, list[float]] = {world: [] for world in environments}
        for turn in range(20 if quick else turns):
            for world in environments if turn % 2 == 0 else reversed(environments):
                start = time.perf_counter()
                child = os.posix_spawn(command[0], command, environments[world])
                os.waitpid(child, 0)
                taken[world].append((time.perf_counter() - start) * 1e3)
        added = median(taken["limited"]) - median(taken["bare"])
        section.add(
            f"start of {name}, ms", f"bare {median(taken['bare']):.2f}; preloaded {median(taken['limited']):.2f}, added {added:+.3f}",
            f"at most +{most_ms} ms", added <= most_ms, **taken,
        )  # fmt: skip


def cost(machine: Machine, section: Section, quick: bool) -> None:
    rounds, batches = (2, "10") if quick else (4, "20")
    command = [machine.program("call_cost"), batches, "100000"]
    # The median batch of each run, and its best: what is added is told by the best, which other programs on the
    # machine disturb least.
    found: dict[str, dict[str, list[float]]] = {}
    best: dict[str, dict[str, list[float]]] = {}
    worlds = {"bare": None, "unlimited": machine.slice(None), "limited": machine.slice("8GiB")}
    for turn in range(rounds):
        order = list(worlds) if turn % 2 == 0 else list(reversed(worlds))
        for world in order:
            done = machine.run(command, worlds[world], seconds=40).must()
            for line in done.out.splitlines():
                words = line.split()
                if words[0].endswith("_ns"):
                    found.setdefault(words[0], {}).setdefault(world, []).append(float(words[1]))
                    best.setdefault(words[0], {}).setdefault(world, []).append(float(words[3]))
    for name, by_world in best.items():
        bare = by_world["bare"]
        text = f"bare {median(found[name]['bare']):.1f}, best {median(bare):.1f}"
        for world in ("unlimited", "limited"):
            added = [value - base for value, base in zip(by_world[world], bare)]
            text += f"; {world} {median(found[name][world]):.1f}, added {median(added):+.1f} ({min(added):+.1f} to {max(added):+.1f})"
        expected, ok = "", None
        # On a GPU these are within the driver's own noise; the targets are for the null driver where they say so.
        if name in TARGETS and (machine.simulated or name != "launch_ns"):
            world, most = TARGETS[name]
            added = median(value - base for value, base in zip(by_world[world], bare))
            expected, ok = f"{world}: at most +{most} ns", added <= most
        elif name in ABSOLUTE_TARGETS:
            world, most = ABSOLUTE_TARGETS[name]
            expected, ok = f"{world}: at most {most} ns", median(by_world[world]) <= most
        figures = {"median": found[name], "best": by_world}
        section.add(name.removesuffix("_ns").replace("_", " ") + ", ns", text, expected, ok, **figures)
    starts(machine, section, quick)
