"""What looking inside costs: a whole Lyapunov spectrum, and gradient flow beside a step of training.

python benchmarks/analysis.py [--size 256] [--steps 10000] [--every 1]
"""

import argparse
import time

import jax
import optax

import jrnn
from jrnn import analysis


def seconds(run):
    """Time of one call."""
    begin = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - begin


def spectrum(size, steps, every):
    """All exponents of a random network of gain 1.5, driven by noise."""
    cell = jrnn.Elman(size)
    params = cell.init(jax.random.key(0), 1)
    w_hh = 1.5 * jax.random.normal(jax.random.key(1), (size, size)) / size**0.5
    xs = 0.1 * jax.random.normal(jax.random.key(2), (steps, 1))
    found = []

    def run():
        options = {"exponents": None, "discard": steps // 10, "every": every}
        found[:] = [analysis.lyapunov(cell, params._replace(w_hh=w_hh), xs, **options)]
        return found[0].exponents

    taken = seconds(run)
    (largest, *_), (error, *_), _ = one = found[0]
    print(f"Lyapunov spectrum, {size} units, {steps} steps, QR every {every}: {taken:.1f} s with compilation")
    print(f"  largest {largest:.4f} ± {error:.4f} nats per step, dimension {one.dimension:.1f}", flush=True)


def flow(hidden=256, steps=1000, batch=32, layers=3, rounds=5):
    """Gradients by all states, beside a step of training, in turns."""
    cell = jrnn.Stack((jrnn.LSTM(hidden),) * layers)
    keys = jax.random.split(jax.random.key(0), 3)
    params, shape = cell.init(keys[0], hidden), (steps, batch, hidden)
    data = jrnn.Batch(*(jax.random.normal(k, shape) for k in keys[1:]))
    loss, optimizer = jrnn.PerStep(jrnn.losses.mean_squared_error), optax.adam(1e-3)
    step = jax.jit(jrnn.train_step(cell, loss, optimizer))
    state = jrnn.init_state(cell, params, optimizer, jax.random.key(1))
    runs = (lambda: step(state, data), lambda: analysis.gradient_flow(cell, params, data, loss))
    for run in runs:
        jax.block_until_ready(run())
    train, flow = (
        min(times) for times in zip(*((seconds(r) for r in runs) for _ in range(rounds)), strict=True)
    )
    print(f"{layers} layers of LSTM({hidden}), {steps} steps of {batch}: train step {train:.2f} s, ", end="")
    print(f"gradient flow {flow:.2f} s, ratio {flow / train:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in {"size": 256, "steps": 10_000, "every": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    spectrum(given.size, given.steps, given.every)
    flow()


if __name__ == "__main__":
    main()
