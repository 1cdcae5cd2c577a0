"""Runs the sections of scripts/gpu-compute and writes what they found. Started by that script, which has the help."""

import argparse
import sys
import time
from pathlib import Path
from random import SystemRandom

import compute_chart
import compute_costs
import compute_frameworks
import compute_grid
import compute_selftest
import report
import sections
from compute_load import Loads, Settings
from compute_plan import LENGTHS_NS, SHARES, length_name
from sections import describe, run_on, run_section, show
from world import Machine

# Name: (title, what runs it, seconds it takes at most, whether the simulated driver will do).
SECTIONS = {
    "grid": ("One program: asked and got", compute_grid.grid, 0, True),
    "processes": ("Several programs in one container", compute_grid.processes, 100, True),
    "hostbound": ("Programs that the host holds back", compute_costs.hostbound, 50, True),
    "cost": ("What a limit adds to a launch", compute_costs.cost, 60, True),
    "pytorch": ("PyTorch's speed under a share", compute_frameworks.pytorch, 170, False),
    "equal": ("PyTorch's results under a share", compute_frameworks.equal, 150, False),
}
# The grid fits itself to the time: to all of it, or to this part if other sections are to follow.
GRID_PART = 0.62
LEAST_GRID_SECONDS = 20


def table(points: list[compute_chart.Point]) -> str:
    """Got by asked share and kernel length: the mean, and the range over the ways to launch."""
    lines = ["| asked | " + " | ".join(length_name(length) for length in LENGTHS_NS) + " |", "| --- |" + " --- |" * len(LENGTHS_NS)]
    for asked in SHARES:
        cells = []
        for length in LENGTHS_NS:
            got = [point.got for point in points if (point.asked, point.kernel_ns) == (asked, length)]
            mean = sum(got) / len(got) if got else 0
            cells.append(f"{mean:.2f} ({min(got):.2f} to {max(got):.2f}, {len(got)})" if len(got) > 1 else f"{mean:.2f}" if got else "-")
        lines.append(f"| {asked} % | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    parser = sections.parser("gpu-compute", budget=570)
    parser.add_argument("--bare", action="store_true")
    parser.add_argument("--log", action="store_true")
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("--cells", type=int)
    parser.add_argument("--seed", type=int)
    options = sections.parse(parser, SECTIONS)
    if options.cells is None:
        options.cells = 12 if options.quick else 64
    if options.cells < 1:
        parser.error("--cells: at least 1")
    if options.seed is None:
        options.seed = SystemRandom().randrange(1_000_000)
    return options


def run_all(options: argparse.Namespace, machine: Machine, out: Path) -> list[report.Section]:
    start = time.monotonic()
    done: list[report.Section] = []
    loads = Loads(machine)
    where = describe(machine) | {"seed": options.seed, "bare": options.bare}
    print(f"{where['gpu']}, driver {where['driver']}, library from {where['library']}, seed {options.seed}")
    for name in options.sections:
        title, body, seconds, simulated_too = SECTIONS[name]
        left = options.budget - (time.monotonic() - start)
        section, points = report.Section(name, title), []
        if options.simulated and not simulated_too:
            section.skip(name, "needs a GPU")
        elif name != "grid" and seconds > left and not options.quick:
            section.skip(name, f"could take {seconds} s and {left:.0f} s are left of {options.budget:.0f}")
        elif name == "grid" and left < LEAST_GRID_SECONDS:
            section.skip(name, f"{left:.0f} s are left of {options.budget:.0f}")
        else:
            part = 0.97 if options.sections[-1] == name else GRID_PART
            settings = Settings(options.quick, options.cells, options.seed, left * part, options.bare, options.log)
            section, points = run_section(name, title, machine, lambda section: body(machine, section, loads, settings))
        done.append(section)
        show(section)
        report.write(out, where, done, "gpu-compute")
        if points:
            label = f"{where['gpu']}, driver {where['driver']}, {where['date']}"
            (out / "gpu-compute.svg").write_text(compute_chart.svg(points, label))
            (out / "gpu-compute-table.md").write_text(table(points))
    return done


def main() -> int:
    options = parse()
    if options.self_test:
        compute_selftest.run()
        return 0
    return run_on("gpu-compute", options, lambda machine: run_all(options, machine, Path(options.out)))


if __name__ == "__main__":
    sys.exit(main())
