"""What every cell costs to train: time and temporary memory of a step, beside its parameters, in one figure.

python benchmarks/cells.py --out cells.png
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import jrnn
from jrnn._cli.tables import count_parameters, recurrence, recurrent_cells

BATCH, STEPS, FEATURES, HIDDEN = 32, 100, 128, 128
PLACES = 8  # of a field, for cells that convolve


def inputs(name, batch=BATCH):
    """A sequence as the cell reads it: features alone, fields, values with gaps, or outputs fed back."""
    shape = STEPS, batch, FEATURES
    xs = jax.random.normal(jax.random.key(1), shape)
    if name.startswith("Conv"):
        return jax.random.normal(jax.random.key(1), (STEPS, batch, PLACES, FEATURES))
    if name == "GRUD":
        return xs, jax.random.bernoulli(jax.random.key(2), 0.5, shape), jnp.ones(shape)
    if name == "NARX":
        return xs[..., :1], jnp.zeros(shape[:2], bool), xs
    return xs


def measure(names, rounds):
    """{name: (parameters, milliseconds, MiB, kind)} of a gradient step, all cells in turn in every round."""
    works, found, times = {}, {}, {name: [] for name in names}
    for name in names:
        kind = recurrent_cells()[name]
        cell = kind(HIDDEN, spatial=1) if name.startswith("Conv") else kind(HIDDEN)
        params, xs = cell.init(jax.random.key(0), FEATURES), inputs(name)

        def step(params, xs, cell=cell):
            grads = jax.grad(lambda p: jnp.mean(jrnn.unroll(cell, p, xs)[1] ** 2))(params)
            return jax.tree.map(lambda p, g: p - 1e-3 * g, params, grads)

        compiled = jax.jit(step).lower(params, xs).compile()
        memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
        found[name] = [count_parameters(cell, FEATURES), memory, recurrence(cell)]
        works[name] = lambda run=compiled, args=(params, xs): jax.block_until_ready(run(*args))
        works[name]()
    for _ in range(rounds):
        for name, work in works.items():
            begun = time.perf_counter()
            work()
            times[name].append(1e3 * (time.perf_counter() - begun))
    return {n: (p, statistics.median(times[n]), memory, kind) for n, (p, memory, kind) in found.items()}


COLORS = {"": "#4878d0", "diagonal": "#ee854a", "linear": "#6acc64"}


def draw(rows, path):
    """Three panels side by side, cells from fast to slow."""
    order = sorted(rows, key=lambda name: -rows[name][1])
    figure = Figure((11, 0.21 * len(order) + 1), layout="constrained")
    FigureCanvasAgg(figure)
    titles = "parameters", "train step, ms", "temporary memory, MiB"
    for column, (ax, title) in enumerate(zip(figure.subplots(1, 3, sharey=True), titles, strict=True)):
        colors = [COLORS[rows[name][3]] for name in order]
        ax.barh(order, [max(rows[name][column], 1e-2) for name in order], color=colors)
        ax.set_xscale("log")
        ax.set_xlim(left=0.5 * min(rows[name][column] for name in order if rows[name][column] > 0.1))
        ax.set_title(title)
        ax.margins(y=0.005)
        ax.grid(axis="x", alpha=0.3)
    for kind, color in COLORS.items():
        ax.barh([order[0]], [0], color=color, label=kind or "full")
    ax.legend(title="recurrence", loc="upper right")
    figure.suptitle(f"batch {BATCH}, {STEPS} steps, {FEATURES} inputs, {HIDDEN} units")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="cells.png", help="the figure (default: cells.png)")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is timed (default: 7)")
    parser.add_argument("cells", nargs="*", help="names of cells (default: all)")
    arguments = parser.parse_args()
    rows = measure(arguments.cells or list(recurrent_cells()), arguments.rounds)
    print(f"{'cell':20} {'parameters':>10} {'ms':>8} {'MiB':>8}")
    for name, (parameters, milliseconds, memory, kind) in sorted(rows.items(), key=lambda row: row[1][1]):
        print(f"{name:20} {parameters:10,} {milliseconds:8.1f} {memory:8.1f}  {kind}")
    draw(rows, arguments.out)


if __name__ == "__main__":
    main()
