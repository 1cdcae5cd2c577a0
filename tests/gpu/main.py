"""Runs the sections of scripts/gpu-memory and writes what they found. Started by that script, which has the help."""

import argparse
import sys
import time
from pathlib import Path

import answers
import cost
import frameworks
import memory
import races
import ratios
import report
from sections import describe, parse, parser, run_on, run_section, show
from world import Machine

# Name: (title, what runs it, seconds it takes at most, whether the simulated driver will do).
SECTIONS = {
    "paths": ("Every way to take device memory, 2 GiB quota", memory.paths, 120, True),
    "answers": ("The driver's answers, in a 4 GiB slice", answers.answers, 30, True),
    "race": ("Eight processes at once, 6 GiB quota", races.race, 60, True),
    "kills": ("Processes killed at random, 6 GiB quota", races.kills, 75, True),
    "pytorch": ("PyTorch in a 4 GiB slice", frameworks.pytorch, 60, False),
    "nvidia-smi": ("nvidia-smi inside the slice", frameworks.nvidia_smi, 30, False),
    "frameworks": ("CuPy, JAX and numba in an 8 GiB slice", frameworks.frameworks, 100, False),
    "accuracy": ("What is charged against the host's own count", memory.accuracy, 45, False),
    "cost": ("What the library adds to a call", cost.cost, 75, True),
    "ratios": ("PyTorch's speed, bare = 1", ratios.ratios, 150, False),
}


def run_all(options: argparse.Namespace, machine: Machine) -> list[report.Section]:
    start = time.monotonic()
    done: list[report.Section] = []
    where = describe(machine)
    print(f"{where['gpu']}, driver {where['driver']}, library from {where['library']}")
    for name in options.sections:
        title, body, seconds, simulated_too = SECTIONS[name]
        section = report.Section(name, title)
        if options.simulated and not simulated_too:
            section.skip(name, "needs a GPU")
        elif time.monotonic() - start + seconds > options.budget and not options.quick:
            section.skip(name, f"could take {seconds} s and less is left of {options.budget:.0f} s")
        else:
            section, _ = run_section(name, title, machine, lambda section: body(machine, section, options.quick))
        done.append(section)
        show(section)
        report.write(Path(options.out), where, done)
    return done


def main() -> int:
    options = parse(parser("gpu-memory", budget=470), SECTIONS)
    return run_on("gpu-memory", options, lambda machine: run_all(options, machine))


if __name__ == "__main__":
    sys.exit(main())
