"""A linear recurrence, trained four ways: time and temporary memory of the gradient of a `MinGRU`.

python benchmarks/linear.py
"""

import statistics
import time

import jax
import jax.numpy as jnp
from jax import lax

import jrnn

SIZES = (100, 32, 128), (1000, 16, 64), (16_384, 1, 128)  # steps, batch, units
ROUNDS = 7


def by_hand(cell):
    """What one writes without a library: `lax.scan` over the step, and `lax.associative_scan` over (a, b)."""

    def scan(params, xs):
        start = cell.initial_carry(params, xs.shape[1:2])
        return lax.scan(lambda carry, x: cell.step(params, carry, x), start, xs)[1]

    def associative(params, xs):
        z, n = jnp.split(xs @ params.w_ih + params.b, 2, -1)
        z = jax.nn.sigmoid(z)
        return lax.associative_scan(lambda p, q: (q[0] * p[0], q[0] * p[1] + q[1]), (1 - z, z * n))[1]

    return {"lax.scan": scan, "lax.associative_scan": associative}


def main():
    for steps, batch, hidden in SIZES:
        cell = jrnn.MinGRU(hidden)
        params = cell.init(jax.random.key(0), hidden)
        xs = jax.random.normal(jax.random.key(1), (steps, batch, hidden))
        ways = by_hand(cell) | {
            str(m): lambda p, x, m=m, cell=cell: jrnn.unroll(cell, p, x, method=m)[1]
            for m in (jrnn.Scan(), jrnn.Associative())
        }
        loss = {name: lambda p, x, way=way: jnp.mean(way(p, x) ** 2) for name, way in ways.items()}
        compiled = {name: jax.jit(jax.grad(f)).lower(params, xs).compile() for name, f in loss.items()}
        times = {name: [] for name in compiled}
        for _ in range(ROUNDS + 1):  # the first is not counted
            for name, run in compiled.items():
                begun = time.perf_counter()
                jax.block_until_ready(run(params, xs))
                times[name].append(1e3 * (time.perf_counter() - begun))
        print(f"{steps} steps, batch {batch}, {hidden} units")
        for name, run in compiled.items():
            memory = run.memory_analysis().temp_size_in_bytes / 2**20
            print(f"  {name:40} {statistics.median(times[name][1:]):7.1f} ms {memory:7.1f} MiB")


if __name__ == "__main__":
    main()
