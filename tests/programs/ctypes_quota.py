"""Takes device memory through ctypes until it is refused, gives it back, and says what it got."""

import ctypes
import subprocess
import sys

MIB = 1 << 20


def main() -> int:
    most_mib = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    cuda = ctypes.CDLL("libcuda.so.1")

    def must(result: int) -> None:
        if result:
            raise SystemExit(f"failed {result}")

    must(cuda.cuInit(0))
    context = ctypes.c_void_p()
    must(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
    must(cuda.cuCtxSetCurrent(context))
    held, result = [], 0
    while len(held) * 64 < most_mib:
        pointer = ctypes.c_uint64()
        result = cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(64 * MIB))
        if result:
            break
        held.append(pointer)
    print("refused", result)
    print("got_mib", len(held) * 64)
    # Python closes the descriptors of what it starts, and forks without telling anybody.
    child = subprocess.run([sys.executable, "-c", "print(1 + 1)"], capture_output=True, text=True, close_fds=True)
    print("child", child.returncode, child.stdout.strip(), repr(child.stderr))
    for pointer in held:
        must(cuda.cuMemFree_v2(pointer))
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    must(cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)))
    print("total_mib", total.value // MIB)
    return 0


if __name__ == "__main__":
    sys.exit(main())
