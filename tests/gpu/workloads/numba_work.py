"""numba compiles kernels that do real work and compares it with NumPy. Ends with 77 where it isn't installed."""

import math
import sys

import numpy

try:
    from numba import cuda, float32
except ImportError as error:
    print(f"{error.name} is not installed")
    sys.exit(77)

TILE = 16


@cuda.jit
def multiply(left, right, out):
    """Tiled matrix product through shared memory."""
    left_tile = cuda.shared.array((TILE, TILE), float32)
    right_tile = cuda.shared.array((TILE, TILE), float32)
    row, column = cuda.grid(2)
    across, down = cuda.threadIdx.x, cuda.threadIdx.y
    total = float32(0)
    for tile in range(left.shape[1] // TILE):
        left_tile[across, down] = left[row, tile * TILE + down]
        right_tile[across, down] = right[tile * TILE + across, column]
        cuda.syncthreads()
        for i in range(TILE):
            total += left_tile[across, i] * right_tile[i, down]
        cuda.syncthreads()
    out[row, column] = total


@cuda.jit
def wave(values):
    i = cuda.grid(1)
    if i < values.size:
        values[i] = math.sin(values[i])


def main() -> None:
    left, right = numpy.random.default_rng(0).standard_normal((2, 512, 512)).astype(numpy.float32)
    out = cuda.device_array_like(left)
    multiply[(32, 32), (TILE, TILE)](cuda.to_device(left), cuda.to_device(right), out)
    values = cuda.to_device(left.ravel())
    wave[(left.size + 255) // 256, 256](values)
    checks = {
        "matmul": numpy.allclose(out.copy_to_host(), left @ right, rtol=1e-3, atol=1e-2),
        "sine": numpy.allclose(values.copy_to_host(), numpy.sin(left.ravel()), rtol=1e-3, atol=1e-4),
    }
    print("result", ", ".join(f"{name} {'right' if good else 'WRONG'}" for name, good in checks.items()))
    print("right", all(checks.values()))
    print("total", int(cuda.current_context().get_memory_info()[1]))
    try:
        cuda.device_array(20 << 30, dtype=numpy.uint8)
        print("too_much 20 GiB were got")
    except Exception as error:
        refused = "OUT_OF_MEMORY" in str(error) or "out of memory" in str(error).lower()
        print("too_much", "refused with" if refused else "failed with", type(error).__name__, str(error)[:60])


if __name__ == "__main__":
    main()
