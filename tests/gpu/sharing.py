"""Runs the sections of scripts/gpu-sharing and writes what they found. Started by that script, which has the help."""

import argparse
import sys
import time
from pathlib import Path
from random import SystemRandom

import report
import sections
import sharing_chart
import sharing_pairs
import sharing_selftest
import sharing_timeline
import sharing_waits
import sharing_weights
from compute_load import Loads
from sections import describe, run_on, run_section, show
from sharing_pairs import Sharing
from sharing_tenants import prepare
from world import Machine

# Name: (title, what runs it, seconds it takes at most, the same with --quick, whether the simulated driver will do).
SECTIONS = {
    "pairs": ("Two tenants that both want all of the GPU", sharing_pairs.pairs, 70, 32, True),
    "torch": ("Two PyTorch trainings", sharing_pairs.torch, 60, 35, False),
    "weights": ("Shares by weight, mixes chosen afresh", sharing_weights.weights, 0, 0, True),
    "hard": ("Hard limits of 30 and 60 % together", sharing_weights.hard, 50, 14, True),
    "elastic": ("A tenant beside one that is idle, and that wakes", sharing_waits.elastic, 42, 14, True),
    "priority": ("Requests that go first", sharing_waits.priority, 52, 16, True),
    "death": ("A neighbour is killed or stopped", sharing_waits.death, 55, 18, True),
    "cpu": ("The processor's time of tenants that wait", sharing_waits.cpu, 22, 8, True),
    "timeline": ("Tenants that come and go", sharing_timeline.timeline, 40, 20, True),
}
# It fits itself to the time that the others leave.
FITS = "weights"
LEAST_FITTING_SECONDS = 15
# It starts too slowly to be among the quick ones, unless it is named.
SLOW = "torch"


def parse() -> argparse.Namespace:
    parser = sections.parser("gpu-sharing", budget=None)
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("--seed", type=int)
    named = bool(parser.parse_args().sections)
    options = sections.parse(parser, SECTIONS)
    if options.null:
        parser.error("--null: work that takes no time can't be shared")
    if options.quick and not named:
        options.sections.remove(SLOW)
    if options.budget is None:
        options.budget = 145 if options.quick else 470
    if options.seed is None:
        options.seed = SystemRandom().randrange(1_000_000)
    return options


def seconds_of(names: list[str], options: argparse.Namespace) -> float:
    """What sections take at most that will run."""
    there = [SECTIONS[name] for name in names]
    return sum(quick if options.quick else usual for _, _, usual, quick, simulated_too in there if simulated_too or not options.simulated)


def run_all(options: argparse.Namespace, machine: Machine, out: Path) -> list[report.Section]:
    start = time.monotonic()
    done: list[report.Section] = []
    prepare(machine)
    loads = Loads(machine)
    where = describe(machine) | {"seed": options.seed}
    print(f"{where['gpu']}, driver {where['driver']}, library from {where['library']}, seed {options.seed}")
    for number, name in enumerate(options.sections):
        title, body, _, _, simulated_too = SECTIONS[name]
        left = options.budget - (time.monotonic() - start)
        if name == FITS:
            left -= seconds_of(options.sections[number + 1 :], options)
        seconds = LEAST_FITTING_SECONDS if name == FITS else seconds_of([name], options)
        section = report.Section(name, title)
        if options.simulated and not simulated_too:
            section.skip(name, "needs a GPU")
        elif left < seconds:
            section.skip(name, f"could take {seconds:.0f} s and {left:.0f} s are left of {options.budget:.0f}")
        else:
            settings = Sharing(options.quick, options.seed, left)
            section, panels = run_section(name, title, machine, lambda section: body(machine, section, loads, settings))
            if panels:
                label = f"{where['gpu']}, driver {where['driver']}, {where['date']}"
                out.mkdir(parents=True, exist_ok=True)
                (out / "gpu-sharing.svg").write_text(sharing_chart.svg(panels, label))
        done.append(section)
        show(section)
        report.write(out, where, done, "gpu-sharing")
    return done


def main() -> int:
    options = parse()
    if options.self_test:
        sharing_selftest.run()
        return 0
    return run_on("gpu-sharing", options, lambda machine: run_all(options, machine, Path(options.out)))


if __name__ == "__main__":
    sys.exit(main())
