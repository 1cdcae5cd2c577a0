"""Compares the tables with newer headers, with a driver's exports, and with a live driver."""

import ctypes
import re
import tempfile
from pathlib import Path

from .classes import read_classes, warning
from .declarations import read_header
from .headers import WHEELS, fetch_headers, newest_wheels
from .library import CLASSIFY, CUDA, LIBRARIES, NVML, Failure, relative
from .output import names_in


def report_newest() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        wheels = newest_wheels(Path(scratch))
        for pinned, newest in zip(WHEELS, wheels):
            print(f"{newest.project}: pinned {pinned.version}, newest {newest.version}, sha256 {newest.sha256}")
        include = fetch_headers(wheels, Path(scratch))
        new = []
        for library in LIBRARIES:
            declared = set(read_header(library, include).functions)
            known = names_in(library.folder / "symbols.rs")
            for name in sorted(declared - known):
                new.append(f"  {name}{warning(library, name)}")
            for name in sorted(known - declared - set(read_classes(library).exported_only)):
                print(f"no longer declared: {name}")
    if new:
        raise Failure(f"new functions to classify in {relative(CLASSIFY)}:\n" + "\n".join(new))
    print("no new functions")


def compare_exports(file: Path) -> None:
    exported = {name for name in file.read_text().split() if re.match(r"^(cu|nvml)[A-Za-z]", name)}
    library = NVML if sum(name.startswith("nvml") for name in exported) * 2 > len(exported) else CUDA
    classes = read_classes(library)
    known = names_in(library.folder / "symbols.rs")
    unknown = sorted(exported - known - set(classes.exported_data))
    for name in unknown:
        print(f"exported, but unknown: {name}{warning(library, name)}")
    for name in sorted(known - exported):
        print(f"known, but not exported: {name}")
    if unknown:
        raise Failure(f"{len(unknown)} exported names are not in the table; see exported_only in {relative(CLASSIFY)}")


def compare_driver() -> None:
    """Asks this machine's driver for every name at every version, and compares its answers with the table."""
    driver = ctypes.CDLL("libcuda.so.1")
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    row = re.compile(r'^    row\("(\w+)", "(\w+)", (\d+), (\w+), ', re.M)
    families: dict[str, list[tuple[int, str, str]]] = {}
    exported = {}
    for name, base, since, mode in row.findall((CUDA.folder / "symbols.rs").read_text()):
        families.setdefault(base, []).append((int(since), name, mode))
        if function := getattr(driver, name, None):
            exported[ctypes.cast(function, ctypes.c_void_p).value] = name
    versions = sorted({since for family in families.values() for since, *_ in family} | {version.value})
    versions = [since for since in versions if 0 < since <= version.value]

    def table(base: str, at: int, mode: str) -> str | None:
        own = [row for row in families[base] if row[2] == mode]
        legacy = [row for row in families[base] if row[2] == "Legacy"]
        name = max((row for row in own or legacy if 0 < row[0] <= at), default=(0, None))[1]
        return name if name in exported.values() else None

    def ask(base: str, at: int, mode: str) -> str | None:
        found, status = ctypes.c_void_p(), ctypes.c_int()
        flags = ctypes.c_uint64(2 if mode == "PerThread" else 1)
        driver.cuGetProcAddress_v2(base.encode(), ctypes.byref(found), at, flags, ctypes.byref(status))
        return exported.get(found.value, "a function it does not export") if found.value else None

    different: dict[tuple, list[int]] = {}
    for base in families:
        for at in versions:
            for mode in ("Legacy", "PerThread"):
                ours, theirs = table(base, at, mode), ask(base, at, mode)
                if ours != theirs:
                    different.setdefault((base, mode, ours, theirs), []).append(at)
    for (base, mode, ours, theirs), at in different.items():
        print(f"{base}, {mode}, {at[0]} to {at[-1]}: {ours} in the table, {theirs} from the driver")
    print(f"CUDA {version.value}: asked {len(families)} names at {len(versions)} versions in 2 stream modes")
    if different:
        raise Failure("the table and this machine's driver differ")
