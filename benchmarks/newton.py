"""`Newton` beside `Scan`: time, work and depth, and iterations by the Lyapunov exponent.

    python -m benchmarks.newton                # time, work and depth, by the size of the state and the steps
    python -m benchmarks.newton iterations     # by the largest Lyapunov exponent, for 200 random cells

Times are seconds of this machine's CPU for a forward pass of one row in float32, the least of three. Depth is
counted, not measured: the longest chain of dependent operations on vectors, with a tree for the linear
recurrence, as on an accelerator; nothing here has run on one.
"""

import itertools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import jrnn
from jrnn.analysis import growth
from jrnn.unrolling._recurrences import depth
from jrnn.unrolling.driver import make_loop

SIZES, LENGTHS = (1, 2, 4, 16), (1_000, 10_000, 100_000, 1_000_000)
LARGEST = 2**27  # numbers in the Jacobians of a run; more are left out


def least_time(program, *arguments):
    """Seconds of CPU, the least of three runs."""
    jax.block_until_ready(program(*arguments))
    found = []
    for _ in range(3):
        begin = time.process_time()
        jax.block_until_ready(program(*arguments))
        found.append(time.process_time() - begin)
    return min(found)


def compare(size, steps):
    """Print time, work and depth of a GRU by both methods."""
    cell = jrnn.GRU(size)
    params = cell.init(jax.random.key(0), 2)
    xs = jax.random.normal(jax.random.key(1), (steps, 2))
    scan = jax.jit(lambda p, xs: jrnn.unroll(cell, p, xs)[1])
    newton = jax.jit(lambda p, xs: jrnn.Newton().solve(make_loop(cell, p, xs))[1:])
    ys, found = newton(params, xs)
    iterations = int(found.iterations[0].max())
    error = float(jnp.abs(ys - scan(params, xs)).max())
    times = least_time(scan, params, xs), least_time(newton, params, xs)
    step = 6 * size**2  # multiplications
    work = iterations * (step * (size + 2) + 3 * size**3) / step  # in steps of a scan, per step
    waiting = iterations * (depth(steps) + 2)
    print(
        f"D {size:3} T {steps:8} {iterations:3} iterations {1e3 * times[0]:8.1f} {1e3 * times[1]:9.1f} ms"
        f"  x {times[0] / times[1]:5.2f}  work x {work:6.0f}  depth {steps} : {waiting}  error {error:.0e}",
        flush=True,
    )


def scaled(cell, key, scale, steps):
    """Parameters with a recurrent matrix of another size, and inputs."""
    params = cell.init(key, 3)
    return params._replace(w_hh=scale * params.w_hh), jax.random.normal(
        jax.random.fold_in(key, 1), (steps, 3)
    )


def iterations(steps=512, count=50):
    """Print the iterations of random cells in order of their exponents."""
    for cell, largest in ((jrnn.Elman(8), 3), (jrnn.GRU(6), 12), (jrnn.LSTM(4), 12), (jrnn.MGU(5), 12)):

        def run(key, scale, cell=cell):
            params, xs = scaled(cell, key, scale, steps)
            found = jrnn.Newton(iterations=steps).solve(make_loop(cell, params, xs))[2]
            return growth(cell, params, xs, directions=1)[-1] / steps, found.iterations[0].max()

        keys = jax.random.split(jax.random.key(7), count)
        exponents, used = jax.jit(jax.vmap(run))(keys, jnp.geomspace(0.3, largest, count))
        edges = (-9, -1, -0.5, -0.2, -0.1, -0.05, -0.02, 0, 9)
        for low, high in itertools.pairwise(edges):
            inside = np.asarray(used)[(np.asarray(exponents) >= low) & (np.asarray(exponents) < high)]
            if len(inside):
                told = (
                    f"{np.median(inside):5.0f} iterations, {inside.min()} to {inside.max()}, of {len(inside)}"
                )
                print(f"{cell!r:16} exponent {low:5} to {high:5}: {told}", flush=True)


def main():
    """Run what is asked for."""
    asked = sys.argv[1:]
    if "iterations" in asked:
        iterations()
    if not asked:
        for size in SIZES:
            for steps in LENGTHS:
                if steps * size**2 <= LARGEST:
                    compare(size, steps)


if __name__ == "__main__":
    main()
