"""Cells whose state is a matrix, by `Scan` and by `Chunked`: a training step, its memory, its error.

    python -m benchmarks.chunked                # every cell: time and memory against `Scan`
    python -m benchmarks.chunked error          # float32 against float64, over 16,384 steps
    python -m benchmarks.chunked curves         # by steps of a chunk, and by steps of a sequence
    python -m benchmarks.chunked draw           # these curves from their file, and lines of a table
    python -m benchmarks.chunked GLA MLSTM      # these cells alone, for any of these

Times are seconds of CPU of the whole process, the least of a few turns, in which all methods run one after
the other: on a busy machine they are steadier than those of the clock. Curves are stored in
tables/chunked.csv; those there do not run again.
"""

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

import jrnn
from jrnn.unrolling._engine import trace_loop
from jrnn.unrolling._phases import plan_step
from jrnn.unrolling.chunked import usual_size
from jrnn.unrolling.driver import make_loop

HERE = Path(__file__).parent
CURVES, FIGURE = HERE / "tables/chunked.csv", HERE.parent / "docs/static/chunked.png"
COLUMNS = "cell", "by", "steps", "microseconds"

BATCH, STEPS, HIDDEN, HEADS = 8, 1024, 256, 4  # four memories of 64 x 64 for each row
SIZES = (16, 32, 64, 128)
LENGTHS = (1024, 4096, 16384, 65536)
LONG = ("MLSTM", "GLA", "GatedDeltaNet", "GDN2")  # cells that run on all lengths
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
    """Seconds of CPU of each program: means of a turn, the least of them; all turns take as long."""
    best = [float("inf")] * len(programs)
    for program, arguments in programs:
        jax.block_until_ready(program(*arguments))
    for _ in range(turns):
        for place, (program, arguments) in enumerate(programs):
            calls, spent = 0, 0.0
            while calls == 0 or spent + spent / calls < min(max(best), 3):
                begin = time.process_time()
                jax.block_until_ready(program(*arguments))
                calls, spent = calls + 1, spent + time.process_time() - begin
            best[place] = min(best[place], spent / calls)
    return best


def compare(cell, steps, batch):
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


def by_size(runs, name):
    """A training step's microseconds of CPU for each step of a row, by the size of a chunk."""
    cell = cells(HIDDEN, HEADS)[name]
    programs = [training_step(cell, jrnn.Chunked(size), STEPS, BATCH) for size in SIZES]
    for size, seconds in zip(SIZES, least_times(programs), strict=True):
        runs.add(cell=name, by="chunk", steps=size, microseconds=1e6 * seconds / (STEPS * BATCH))


def by_length(runs, name):
    """The same by the number of steps, for one row and two memories of 32 x 32."""
    cell = cells(64, 2)[name]
    programs = [training_step(cell, jrnn.Chunked(), steps, 1) for steps in LENGTHS]
    for steps, seconds in zip(LENGTHS, least_times(programs), strict=True):
        runs.add(cell=name, by="sequence", steps=steps, microseconds=1e6 * seconds / steps)


def stored():
    """The curves that have been run."""
    from benchmarks.tables.running import Runs  # here, as accelerator.py has no optax for it

    return Runs(CURVES, COLUMNS)


def curves(names):
    """Run what the file lacks."""
    runs = stored()
    for measure, by, kinds in ((by_size, "chunk", names), (by_length, "sequence", LONG)):
        for name in names:
            if name in kinds and not runs.find(cell=name, by=by):
                measure(runs, name)


def curve_of(runs, name, by):
    """Steps and microseconds."""
    rows = runs.find(cell=name, by=by)
    return [int(row["steps"]) for row in rows], [float(row["microseconds"]) for row in rows]


def default_size(cell):
    """Steps of a chunk where no number is given."""
    loop = make_loop(cell, cell.init(jax.random.key(0), 64), jnp.zeros((STEPS, 1, 64)))
    traced = trace_loop(loop)
    return usual_size(plan_step(traced.program, traced.signature)[0])


def draw(names):
    """Draw the curves by the size of a chunk, the default marked, and print those by steps as a table."""
    from matplotlib.figure import Figure

    runs, figure = stored(), Figure(figsize=(10, 6), layout="constrained")
    names = [name for name in names if runs.find(cell=name, by="chunk")]
    for panel, name in zip(figure.subplots(3, 5, sharex=True).flat, names, strict=False):
        sizes, times = curve_of(runs, name, "chunk")
        panel.plot(sizes, times, color="C0", marker=".")
        usual = default_size(cells(HIDDEN, HEADS)[name])
        panel.plot(usual, times[sizes.index(usual)], color="C1", marker="o")
        panel.set(xscale="log", title=name, ylim=(0, 1.1 * max(times)))
        panel.set_xticks(SIZES, map(str, SIZES))
        panel.minorticks_off()
    figure.supxlabel("steps of a chunk (orange: the default)")
    figure.supylabel("CPU per step of a row (µs)")
    figure.savefig(FIGURE, dpi=100)
    for name in (name for name in LONG if runs.find(cell=name, by="sequence")):
        print(f"| `{name}` |", " | ".join(f"{each:.2f}" for each in curve_of(runs, name, "sequence")[1]), "|")


def main():
    """Run what is asked for."""
    asked = sys.argv[1:]
    names = [name for name in cells(HIDDEN, HEADS) if name in asked] or list(cells(HIDDEN, HEADS))
    if "curves" in asked:
        curves(names)
    elif "draw" in asked:
        draw(names)
    elif "error" in asked:
        for name in names:
            error(cells(64, 2)[name])
    else:
        for name in names:
            compare(cells(HIDDEN, HEADS)[name], STEPS, BATCH)
    if not asked:
        compare(jrnn.MLSTM(128), steps=100, batch=32)


if __name__ == "__main__":
    main()
