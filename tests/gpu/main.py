"""Runs the sections of scripts/gpu-memory and writes what they found. Started by that script, which has the help."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from datetime import date
from pathlib import Path

import answers
import cost
import frameworks
import memory
import races
import ratios
import report
from world import ROOT, Failure, Machine

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


def find_library(wanted: str | None) -> tuple[Path, Path]:
    folders = [Path(wanted)] if wanted else [ROOT / "target" / "dist", ROOT / "target" / "release"]
    for folder in folders:
        library, vcuda = folder.absolute() / "libvcuda.so", folder.absolute() / "vcuda"
        if library.exists() and vcuda.exists():
            return library, vcuda
    places = " or ".join(str(folder) for folder in folders)
    raise Failure(f"libvcuda.so and vcuda are not in {places}; build them with scripts/build-release")


def describe(machine: Machine) -> dict:
    where = {"gpu": "the simulated driver", "driver": "simulated", "date": date.today().isoformat()}
    if not machine.simulated:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        try:
            line = machine.run(query, seconds=60).must().out.strip().splitlines()[0]
            where["gpu"], where["driver"] = (part.strip() for part in line.split(",")[:2])
        except (OSError, Failure, IndexError, ValueError) as error:
            print(f"nvidia-smi does not say which GPU this is: {error}")
            where["gpu"] = where["driver"] = "unknown"
    where["library"] = str(machine.library.parent.relative_to(ROOT) if ROOT in machine.library.parents else machine.library.parent)
    return where


def run_section(name: str, machine: Machine, quick: bool) -> report.Section:
    title, body, _, _ = SECTIONS[name]
    section = report.Section(name, title)
    start = time.monotonic()
    try:
        body(machine, section, quick)
    except Failure as failure:
        section.error = str(failure)
    except Exception as error:  # One section's mistake must not cost the others.
        section.error = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    finally:
        machine.end_all()
    section.seconds = round(time.monotonic() - start, 1)
    return section


def show(section: report.Section) -> None:
    print(f"\n== {section.title} ({section.seconds} s)")
    for row in section.rows:
        mark = {"kept": "ok", "missed": "NOT KEPT"}.get(row.verdict, row.verdict)
        print(f"  {row.what:<34} {row.found:<52} {row.expected:<34} {mark}")
    if section.error:
        print(f"  STOPPED: {section.error}")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(usage="scripts/gpu-memory [OPTION...] [SECTION...]; see --help there")
    parser.add_argument("sections", nargs="*")
    parser.add_argument("--simulated", action="store_true")
    parser.add_argument("--null", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--library")
    parser.add_argument("--out", default=os.environ.get("OUT") or str(ROOT / "target" / "gpu-memory"))
    parser.add_argument("--budget", type=float, default=470)
    options = parser.parse_args()
    chosen = options.sections or list(SECTIONS)
    for name in chosen:
        if name not in SECTIONS:
            parser.error(f"unknown section {name}: choose from {' '.join(SECTIONS)}")

    start = time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix="gpu-memory-"))
    done: list[report.Section] = []
    try:
        library, vcuda = find_library(options.library)
        machine = Machine(options.simulated, options.null, library, vcuda, scratch)
        where = describe(machine)
        print(f"{where['gpu']}, driver {where['driver']}, library from {where['library']}")
        for name in chosen:
            title, _, seconds, simulated_too = SECTIONS[name]
            if options.simulated and not simulated_too:
                section = report.Section(name, title)
                section.skip(name, "needs a GPU")
            elif time.monotonic() - start + seconds > options.budget and not options.quick:
                section = report.Section(name, title)
                section.skip(name, f"could take {seconds} s and less is left of {options.budget:.0f} s")
            else:
                section = run_section(name, machine, options.quick)
            done.append(section)
            show(section)
            report.write(Path(options.out), where, done)
    except (Failure, subprocess.SubprocessError) as failure:
        print(f"gpu-memory: {failure}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    failed = [section.name for section in done if section.failed]
    print(f"\n{time.monotonic() - start:.0f} s, results in {options.out}" + (f"; not as expected: {' '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
