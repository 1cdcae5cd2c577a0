"""JAX does real work and compares it with NumPy. Ends with 77 where JAX isn't installed."""

import sys

import numpy

try:
    import jax
    import jax.numpy as jnp
except ImportError as error:
    print(f"{error.name} is not installed")
    sys.exit(77)


def loss(weights, inputs, wanted):
    hidden = jnp.tanh(inputs @ weights["first"])
    return jnp.mean((hidden @ weights["second"] - wanted) ** 2)


def train() -> list[float]:
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = jax.random.normal(keys[0], (1024, 64))
    wanted = inputs[:, :8].sum(axis=1, keepdims=True)
    weights = {
        "first": jax.random.normal(keys[1], (64, 256)) / 8,
        "second": jax.random.normal(keys[2], (256, 1)) / 16,
    }
    step = jax.jit(jax.value_and_grad(loss))
    losses = []
    for _ in range(200):
        value, slopes = step(weights, inputs, wanted)
        weights = jax.tree.map(lambda weight, slope: weight - 0.05 * slope, weights, slopes)
        losses.append(float(value))
    return losses


def main() -> None:
    jax.config.update("jax_default_matmul_precision", "highest")
    device = jax.devices()[0]
    if device.platform not in ("gpu", "cuda"):
        print(f"result JAX runs on {device.platform}")
        print("right False")
        sys.exit(1)
    left, right = numpy.random.default_rng(0).standard_normal((2, 1024, 1024)).astype(numpy.float32)
    product = numpy.asarray(jnp.asarray(left) @ jnp.asarray(right))
    ordered = numpy.asarray(jnp.sort(jnp.asarray(left.ravel())))
    losses = train()
    checks = {
        "matmul": numpy.allclose(product, left @ right, rtol=1e-3, atol=1e-2),
        "sort": numpy.array_equal(ordered, numpy.sort(left.ravel())),
        "training": losses[-1] < losses[0] / 2,
    }
    print("result", ", ".join(f"{name} {'right' if good else 'WRONG'}" for name, good in checks.items()))
    print("right", all(checks.values()))
    # What JAX's own allocator may use: a share of the memory that it was told the GPU has.
    print("total", (device.memory_stats() or {}).get("bytes_limit", 0))
    try:
        jnp.zeros(20 << 30, dtype=jnp.uint8).block_until_ready()
        print("too_much 20 GiB were got")
    except Exception as error:
        text = str(error).splitlines()[0][:60]
        print("too_much", "refused with" if "RESOURCE_EXHAUSTED" in str(error) else "failed with", type(error).__name__, text)


if __name__ == "__main__":
    main()
