"""Gets NVIDIA's headers: pinned wheels from PyPI, verified, cached and unpacked under target/."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .library import ROOT, Failure


@dataclass(frozen=True)
class Wheel:
    project: str
    version: str
    sha256: str


WHEELS = [
    Wheel("nvidia-cuda-runtime", "13.5.37", "df2b79a8852f10d1fef8c848489c49eebb5754051bf870202a862831412b179d"),
    Wheel("nvidia-cuda-profiler-api", "13.5.25", "1b4c77ff668bdb7bc55331b0b3fb853d3cd13810b19a1b77648e71d11cd360f9"),
    Wheel("nvidia-nvml-dev", "13.5.37", "7394fcbefa9ba537e8238cbb1caa4cd2db6bbfbff208d217a8a884947113ae6d"),
]

# Headers of other projects that NVIDIA's include. Only the types that cross the driver's functions matter.
FOREIGN_HEADERS = {
    "GL/gl.h": "typedef unsigned int GLenum; typedef unsigned int GLuint;",
    "EGL/egl.h": "typedef int EGLint; typedef unsigned int EGLBoolean;",
    "EGL/eglext.h": "typedef void *EGLImageKHR; typedef void *EGLStreamKHR; typedef void *EGLSyncKHR;",
    "vdpau/vdpau.h": (
        "#include <stdint.h>\n"
        "typedef uint32_t VdpDevice; typedef uint32_t VdpFuncId; typedef uint32_t VdpStatus;"
        "typedef uint32_t VdpVideoSurface; typedef uint32_t VdpOutputSurface;"
        "typedef VdpStatus VdpGetProcAddress(VdpDevice, VdpFuncId, void **);"
    ),
}


def cache_folder() -> Path:
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "cuda-headers"


def pip_download(requirement: str, folder: Path) -> None:
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
        "--only-binary=:all:", "--platform=manylinux2014_x86_64", "--platform=manylinux_2_28_x86_64",
        f"--dest={folder}", requirement,
    ]  # fmt: skip
    if subprocess.run(command, stdout=sys.stderr).returncode != 0:
        raise Failure(f"cannot download {requirement}: pip failed, see above")


def download(wheel: Wheel, folder: Path) -> Path:
    """The wheel's file, from the cache or from the package index; its checksum is verified either way."""
    pattern = f"{wheel.project.replace('-', '_')}-{wheel.version}-*.whl"
    if not any(folder.glob(pattern)):
        pip_download(f"{wheel.project}=={wheel.version}", folder)
    file = next(folder.glob(pattern))
    actual = hashlib.sha256(file.read_bytes()).hexdigest()
    if actual != wheel.sha256:
        raise Failure(f"{file}: checksum is {actual}, expected {wheel.sha256}; remove the file and try again")
    return file


def fetch_headers(wheels: list[Wheel], folder: Path) -> Path:
    """The folder that holds the headers of `wheels`; fetches and unpacks them where that has not been done."""
    folder.mkdir(parents=True, exist_ok=True)
    include = folder / "include"
    stamp = include / "wheels"
    wanted = "".join(f"{wheel.project} {wheel.version}\n" for wheel in wheels)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                fresh = Path(scratch, "include")
                for wheel in wheels:
                    unpack_headers(download(wheel, folder), fresh)
                for name, text in FOREIGN_HEADERS.items():
                    destination = fresh / "foreign" / name
                    destination.parent.mkdir(parents=True, exist_ok=True)
                    destination.write_text(f"#pragma once\n{text}\n")
                Path(fresh, stamp.name).write_text(wanted)
                shutil.rmtree(include, ignore_errors=True)
                fresh.rename(include)
    return include


def unpack_headers(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            path = Path(member.filename)
            if "include" in path.parts and path.suffix in (".h", ".hpp") and ".." not in path.parts:
                destination = folder.joinpath(*path.parts[path.parts.index("include") + 1 :])
                destination.parent.mkdir(parents=True, exist_ok=True)
                destination.write_bytes(archive.read(member))


def newest_wheels(folder: Path) -> list[Wheel]:
    """The pinned projects at their newest version, downloaded to `folder`."""
    newest = []
    for wheel in WHEELS:
        pip_download(wheel.project, folder)
        file = next(folder.glob(f"{wheel.project.replace('-', '_')}-*.whl"))
        newest.append(Wheel(wheel.project, file.name.split("-")[1], hashlib.sha256(file.read_bytes()).hexdigest()))
    return newest


def preprocess(include: Path, headers: list[str], defines: list[str]) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".c") as source:
        source.write("".join(f"#include <{header}>\n" for header in headers))
        source.flush()
        command = ["cc", "-E", "-P", f"-I{include}", f"-I{include / 'foreign'}"]
        command += [f"-D{define}" for define in defines] + [source.name]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"the C preprocessor failed on {', '.join(headers)}:\n{done.stderr}")
    return done.stdout
