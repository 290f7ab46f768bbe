"""Cells whose state is a matrix, by `Scan` and by `Chunked`: a training step, its memory, its error.

    python -m benchmarks.chunked            # every cell, at the usual size of a chunk
    python -m benchmarks.chunked sizes      # every cell, at several sizes
    python -m benchmarks.chunked error      # in float32 against float64, over 16,384 steps

Seconds are those of the process, the smallest of a few turns, in which all methods run one after the other.
"""

import sys
import time

import jax
import jax.numpy as jnp

import jrnn

CELLS = {
    kind.__name__: kind
    for kind in (
        jrnn.MLSTM,
        jrnn.LinearAttention,
        jrnn.RetNet,
        jrnn.GLA,
        jrnn.HGRN2,
        jrnn.DeltaNet,
        jrnn.GatedDeltaNet,
        jrnn.DeltaProduct,
        jrnn.KDA,
        jrnn.GDN2,
        jrnn.Comba,
        jrnn.RWKV6,
        jrnn.RWKV7,
        jrnn.MesaNet,
    )
} | {"Mamba2": lambda hidden, heads: jrnn.Mamba2(hidden, heads=heads, state=64)}


def compare(cell, methods, steps=1024, batch=8, turns=2):
    """Print the time and the memory of a training step by each method."""
    params = cell.init(jax.random.key(0), 64)
    xs = jax.random.normal(jax.random.key(1), (steps, batch, 64))
    programs, best = {}, dict.fromkeys(methods, 1e9)
    for name, method in methods.items():

        def loss(params, xs, method=method):
            return jnp.mean(jrnn.unroll(cell, params, xs, method=method)[1] ** 2)

        programs[name] = jax.jit(jax.value_and_grad(loss)).lower(params, xs).compile()
        jax.block_until_ready(programs[name](params, xs))
    for _ in range(turns):
        for name, program in programs.items():
            begin = time.process_time()
            jax.block_until_ready(program(params, xs))
            best[name] = min(best[name], time.process_time() - begin)
    for name, program in programs.items():
        mebibytes = program.memory_analysis().temp_size_in_bytes / 2**20
        ratio = best["scan"] / best[name]
        print(
            f"{cell!r:36} {name:8} {1e3 * best[name]:8.0f} ms  x {ratio:5.1f} {mebibytes:8.0f} MiB",
            flush=True,
        )


def error(cell, steps=16384):
    """Print how far float32 is from a scan in float64, relative to the largest output."""
    params = cell.init(jax.random.key(0), 64)
    xs = jax.random.normal(jax.random.key(1), (steps, 1, 64))
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: a.astype("float64"), (params, xs))
        right = jax.jit(lambda p, xs: jrnn.unroll(cell, p, xs)[1])(*wide)
    found = {}
    for name, method in {"scan": jrnn.Scan(), "chunked": jrnn.Chunked()}.items():
        ys = jax.jit(lambda p, xs, method=method: jrnn.unroll(cell, p, xs, method=method)[1])(params, xs)
        with jax.enable_x64(True):
            found[name] = float(jnp.abs(ys.astype("float64") - right).max() / jnp.abs(right).max())
    print(f"{cell!r:36}", "  ".join(f"{name} {far:.1e}" for name, far in found.items()), flush=True)


def main():
    """Run what is asked for."""
    asked = sys.argv[1:]
    names = [name for name in asked if name in CELLS] or list(CELLS)
    for name in names:
        if "error" in asked:
            error(CELLS[name](64, heads=2))
            continue
        sizes = (8, 16, 32, 64, 128) if "sizes" in asked else (None,)
        methods = {"scan": jrnn.Scan()} | {str(size or "chunked"): jrnn.Chunked(size) for size in sizes}
        compare(CELLS[name](256, heads=4), methods)
    if not asked:
        compare(jrnn.MLSTM(128), {"scan": jrnn.Scan(), "chunked": jrnn.Chunked()}, steps=100, batch=32)


if __name__ == "__main__":
    main()
