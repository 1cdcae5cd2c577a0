"""CuPy does real work and compares it with NumPy. Ends with 77 where CuPy isn't installed."""

import sys

import numpy

try:
    import cupy
except ImportError as error:
    print(f"{error.name} is not installed")
    sys.exit(77)

KERNEL = r"""
extern "C" __global__ void scale(const float* in, float* out, float factor, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) out[i] = in[i] * factor;
}
"""


def main() -> None:
    generator = numpy.random.default_rng(0)
    left, right = generator.standard_normal((2, 1024, 1024))
    product = cupy.asnumpy(cupy.asarray(left) @ cupy.asarray(right))
    wave = generator.standard_normal(1 << 18)
    spectrum = cupy.asnumpy(cupy.fft.rfft(cupy.asarray(wave)))
    ordered = cupy.asnumpy(cupy.sort(cupy.asarray(wave)))
    values = cupy.asarray(wave.astype(numpy.float32))
    scaled = cupy.empty_like(values)
    cupy.RawKernel(KERNEL, "scale")((1024,), (256,), (values, scaled, numpy.float32(3), numpy.int32(values.size)))
    checks = {
        "matmul": numpy.allclose(product, left @ right),
        "fft": numpy.allclose(spectrum, numpy.fft.rfft(wave)),
        "sort": numpy.array_equal(ordered, numpy.sort(wave)),
        "kernel": numpy.allclose(cupy.asnumpy(scaled), wave.astype(numpy.float32) * 3),
    }
    print("result", ", ".join(f"{name} {'right' if good else 'WRONG'}" for name, good in checks.items()))
    print("right", all(checks.values()))
    print("total", cupy.cuda.Device().mem_info[1])
    try:
        cupy.empty(20 << 30, dtype=cupy.uint8)
        print("too_much 20 GiB were got")
    except cupy.cuda.memory.OutOfMemoryError as error:
        print("too_much refused with", type(error).__name__)


if __name__ == "__main__":
    main()
