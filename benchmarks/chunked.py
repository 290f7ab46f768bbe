"""Cells whose state is a matrix, by `Scan` and by `Chunked`: a training step, its memory, its error.

    python -m benchmarks.chunked                       # every cell: time and memory against `Scan`
    python -m benchmarks.chunked error                 # float32 against float64, over 16,384 steps
    python -m benchmarks.chunked curves > curves.txt   # by steps of a chunk, and by steps of a sequence
    python -m benchmarks.chunked draw curves.txt chunked.png
    python -m benchmarks.chunked curves GLA MLSTM      # these cells alone

Times are seconds of CPU of the whole process, the smallest of a few turns, in which all methods run one after
the other: on a busy machine they are steadier than those of the clock.
"""

import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

import jrnn

BATCH, STEPS, HIDDEN, HEADS = 8, 1024, 256, 4  # four memories of 64 x 64 for each row
SIZES = (8, 16, 32, 64, 128)
LENGTHS = (1024, 4096, 16384, 65536)
KINDS = (
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


def cells(hidden, heads):
    """All cells with a matrix for a state, by name."""
    found = {kind.__name__: kind(hidden, heads=heads) for kind in KINDS}
    found["Mamba2"] = jrnn.Mamba2(hidden, heads=heads, state=hidden // heads)
    return found


def training_step(cell, method, steps, batch):
    """A compiled training step, and its arguments."""
    params = cell.init(jax.random.key(0), 64)
    xs = jax.random.normal(jax.random.key(1), (steps, batch, 64))

    def loss(params, xs):
        return jnp.mean(jrnn.unroll(cell, params, xs, method=method)[1] ** 2)

    return jax.jit(jax.value_and_grad(loss)).lower(params, xs).compile(), (params, xs)


def least_times(programs, turns=3):
    """The least seconds of CPU of each program; in every turn, each runs as long as the slowest."""
    best = [float("inf")] * len(programs)
    for program, arguments in programs:
        jax.block_until_ready(program(*arguments))
    for _ in range(turns):
        for place, (program, arguments) in enumerate(programs):
            spent = 0.0
            while spent == 0 or spent + best[place] < min(max(best), 3):
                begin = time.process_time()
                jax.block_until_ready(program(*arguments))
                seconds = time.process_time() - begin
                best[place], spent = min(best[place], seconds), spent + seconds
    return best


def compare(cell, steps=STEPS, batch=BATCH):
    """Print time and temporaries of a training step by both methods."""
    methods = jrnn.Scan(), jrnn.Chunked()
    programs = [training_step(cell, method, steps, batch) for method in methods]
    scan, chunked = least_times(programs)
    bytes_of = [program.memory_analysis().temp_size_in_bytes for program, _ in programs]
    print(
        f"{cell!r:38} {1e3 * scan:6.0f} {1e3 * chunked:6.0f} ms  x {scan / chunked:4.1f}"
        f" {bytes_of[0] / 2**20:6.0f} {bytes_of[1] / 2**20:5.0f} MiB  x {bytes_of[0] / bytes_of[1]:4.1f}",
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
    print(f"{cell!r:38}", "  ".join(f"{name} {far:.1e}" for name, far in found.items()), flush=True)


def curves(name):
    """Print a training step's microseconds of CPU for each step of a row.

    By the size of a chunk, for the shapes above; and by the number of steps, for one row and small memories.
    """
    cell, times = cells(HIDDEN, HEADS)[name], {}
    programs = [training_step(cell, jrnn.Chunked(size), STEPS, BATCH) for size in SIZES]
    for size, seconds in zip(SIZES, least_times(programs), strict=True):
        times[size] = round(1e6 * seconds / (STEPS * BATCH), 2)
    print(json.dumps({"cell": name, "by": "steps of a chunk", "times": times}), flush=True)
    cell, times = cells(64, 2)[name], {}
    for steps in LENGTHS:
        (seconds,) = least_times([training_step(cell, jrnn.Chunked(), steps, 1)])
        times[steps] = round(1e6 * seconds / steps, 2)
    print(json.dumps({"cell": name, "by": "steps of a sequence", "times": times}), flush=True)


def draw(path, png):
    """Draw what `curves` printed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = dict(zip(("steps of a chunk", "steps of a sequence"), figure.subplots(1, 2), strict=True))
    for line in Path(path).read_text().splitlines():
        curve = json.loads(line)
        steps = [int(n) for n in curve["times"]]
        panels[curve["by"]].plot(steps, list(curve["times"].values()), marker=".", label=curve["cell"])
    for label, panel in panels.items():
        panel.set(xscale="log", xlabel=label, ylabel="CPU per step of a row (µs)", ylim=(0, None))
    first, _ = panels.values()
    first.set_xticks(SIZES, map(str, SIZES))
    first.minorticks_off()
    first.legend(frameon=False, ncols=2)
    figure.savefig(png, dpi=100)


def main():
    """Run what is asked for."""
    asked = sys.argv[1:]
    if "draw" in asked:
        draw(*asked[1:])
        return
    names = [name for name in cells(HIDDEN, HEADS) if name in asked] or list(cells(HIDDEN, HEADS))
    for name in names:
        if "curves" in asked:
            curves(name)
        if "error" in asked:
            error(cells(64, 2)[name])
        elif "curves" not in asked:
            compare(cells(HIDDEN, HEADS)[name])
    if not asked:
        compare(jrnn.MLSTM(128), steps=100, batch=32)


if __name__ == "__main__":
    main()
