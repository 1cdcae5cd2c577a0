"""The two libraries, what is special about their headers, and where things are."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DRIVER = ROOT / "src" / "driver"
CLASSIFY = DRIVER / "src" / "classify.toml"


class Failure(Exception):
    """Something a person has to see to; the text says what."""


@dataclass(frozen=True)
class Danger:
    """What there is to fear of a function, by words in its name."""

    fear: str
    words: str
    harmless: str = ""
    # Whether such a function may be left to the driver as long as its use is reported.
    may_be_watched: bool = True

    def is_in(self, name: str) -> bool:
        for word in self.harmless.split():
            name = name.replace(word, "")
        return any(word in name for word in self.words.split())


@dataclass
class Library:
    """One of the two libraries, and what is special about its headers."""

    name: str
    prefix: str
    result: str
    rust_result: str
    includes: list[str]
    typedef_includes: list[str]
    defines: list[str]
    # What must not be left to the driver unseen.
    dangers: list[Danger]

    @property
    def folder(self) -> Path:
        return DRIVER / "src" / self.name


CUDA = Library(
    name="cuda",
    prefix="cu",
    result="CUresult",
    rust_result="CUresult",
    includes=["cuda.h", "cudaGL.h", "cudaEGL.h", "vdpau/vdpau.h", "cudaVDPAU.h", "cudaProfiler.h"],
    typedef_includes=[
        "cudaTypedefs.h",
        "cudaGLTypedefs.h",
        "cudaEGLTypedefs.h",
        "cudaVDPAUTypedefs.h",
        "cudaProfilerTypedefs.h",
    ],
    defines=["__CUDA_API_VERSION_INTERNAL"],
    dangers=[
        Danger(
            "looks as if it takes device memory",
            "Alloc MemCreate ArrayCreate Array3DCreate PoolCreate CtxCreate PrimaryCtxRetain CtxFromGreen "
            "CtxSetLimit Import IpcOpenMem MemMap SetMemPool Multicast LogicalEndpointBind StreamCreate "
            "ModuleLoad LibraryLoad FuncLoad GetUnifiedFunction LinkComplete ProcessRestore",
        ),
        Danger(
            "looks as if it launches work",
            "Launch GraphInstantiate GraphUpload GraphAddNode Memcpy Memset BatchMemOp StreamWriteValue "
            "Prefetch Decompress CpyBatch",
            may_be_watched=False,
        ),
        Danger("looks as if it tells how much memory there is", "MemGetInfo TotalMem LocationInfo"),
    ],
)

NVML = Library(
    name="nvml",
    prefix="nvml",
    result="nvmlReturn_t",
    rust_result="NvmlResult",
    includes=["nvml.h"],
    typedef_includes=[],
    defines=["NVML_NO_UNVERSIONED_FUNC_DEFS"],
    dangers=[
        Danger(
            "looks as if it tells how much memory there is, or who uses the GPU",
            "Memory MemSize BAR1 Process Utilization Accounting Samples FieldValues GetAttributes FbUsage",
            "MemoryAffinity MemoryBus MemoryError MemoryClock MemoryLocked MemoryFlag",
        ),
    ],
)

LIBRARIES = [CUDA, NVML]


def split_name(name: str) -> tuple[str, int, str]:
    """(base name, ABI version, stream variant) of an ABI symbol."""
    match = re.match(r"^(.*?)(?:_v(\d+))?(_ptsz|_ptds)?$", name)
    return match[1], int(match[2] or 1), match[3] or ""


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
