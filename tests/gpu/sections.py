"""What the programs behind scripts/gpu-* have in common: finding the library, running sections, summing up."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import TypeVar

import report
from world import ROOT, Failure, Machine

Result = TypeVar("Result")


def parser(script: str, budget: float | None) -> argparse.ArgumentParser:
    """The options that all of these scripts take."""
    made = argparse.ArgumentParser(usage=f"scripts/{script} [OPTION...] [SECTION...]; see --help there")
    made.add_argument("sections", nargs="*")
    made.add_argument("--simulated", action="store_true")
    made.add_argument("--null", action="store_true")
    made.add_argument("--quick", action="store_true")
    made.add_argument("--library")
    made.add_argument("--out", default=os.environ.get("OUT") or str(ROOT / "target" / script))
    made.add_argument("--budget", type=float, default=budget)
    return made


def parse(made: argparse.ArgumentParser, known: Iterable[str]) -> argparse.Namespace:
    """The options, with the sections that were asked for, or all of them."""
    options = made.parse_args()
    for name in options.sections:
        if name not in known:
            made.error(f"unknown section {name}: choose from {' '.join(known)}")
    options.sections = options.sections or list(known)
    return options


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


def run_section(name: str, title: str, machine: Machine, body: Callable[[report.Section], Result]) -> tuple[report.Section, Result | None]:
    """Runs a section, and gives it and what `body` gave, if it came to an end."""
    section = report.Section(name, title)
    start = time.monotonic()
    result = None
    try:
        result = body(section)
    except Failure as failure:
        section.error = str(failure)
    except Exception as error:  # One section's mistake must not cost the others.
        section.error = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    finally:
        machine.end_all()
    section.seconds = round(time.monotonic() - start, 1)
    return section, result


def show(section: report.Section) -> None:
    print(f"\n== {section.title} ({section.seconds} s)")
    for row in section.rows:
        mark = {"kept": "ok", "missed": "NOT KEPT"}.get(row.verdict, row.verdict)
        print(f"  {row.what:<34} {row.found:<52} {row.expected:<34} {mark}")
    if section.error:
        print(f"  STOPPED: {section.error}")
    sys.stdout.flush()


def run_on(script: str, options: argparse.Namespace, run_all: Callable[[Machine], list[report.Section]]) -> int:
    """Finds the library, has `run_all` run the sections, and sums up. Returns the exit status."""
    start = time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix=f"{script}-"))
    try:
        library, vcuda = find_library(options.library)
        done = run_all(Machine(options.simulated, options.null, library, vcuda, scratch))
    except (Failure, subprocess.SubprocessError) as failure:
        print(f"{script}: {failure}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    failed = [section.name for section in done if section.failed]
    print(f"\n{time.monotonic() - start:.0f} s, results in {options.out}" + (f"; not as expected: {' '.join(failed)}" if failed else ""))
    return 1 if failed else 0
