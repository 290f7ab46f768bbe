"""Gradients forward in time: what a step costs, and what is learned at each step of a stream.

    taskset -c 0 python -m benchmarks.online    # cost of a step, by cell, width and method, on one core
    python -m benchmarks.online tasks           # copy and adding, beside backpropagation through time
    python -m benchmarks.online stream          # a rule that changes

Times are microseconds of this machine's CPU for one step of one row in float32, forward, gradient and sum of
gradients, the median of nine turns, each a mean over a tenth of a second; bytes are those of the influence,
and what XLA allocates.
"""

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jrnn
from jrnn import RFLO, RTRL, UORO, EProp, KroneckerRTRL, Online, SnAp, Truncated
from jrnn.losses import cross_entropy, mean_squared_error

WIDTH, STEPS = 32, 50
SEEDS, SEQUENCES, ROWS = 3, 1500, 8  # of the tasks: batches of this many sequences


def backpropagation(model, xs, targets):
    """The gradient by a plain `lax.scan`, and by `unroll`."""

    def plain(params):
        def loss(params):
            start = model.initial_carry(params, xs.shape[1:2])
            ys = jax.lax.scan(lambda carry, x: model.step(params, carry, x), start, xs)[1]
            return len(xs) * mean_squared_error(ys, targets)

        return jax.grad(loss)(params)

    def hoisted(params):
        loss = lambda params: len(xs) * mean_squared_error(jrnn.unroll(model, params, xs)[1], targets)
        return jax.grad(loss)(params)

    return {"BPTT, lax.scan": plain, "BPTT, unroll": hoisted}


def forward(online, xs, targets):
    """The sum of the gradients of all steps."""

    def gradient(params):
        def step(state, inputs):
            *state, total = state
            *state, _, found = online.step(*state, params, *inputs)
            return (*state, jax.tree.map(jnp.add, total, found)), None

        start = (*online.init(params, xs[0]), jax.tree.map(jnp.zeros_like, params))
        return jax.lax.scan(step, start, (xs, targets))[0][-1]

    return gradient


def seconds_of(program, params, least=0.1):
    """Seconds of CPU of a call, the mean of as many as take `least`: clocks of CPU are coarse."""
    calls, begin = 0, time.process_time()
    while calls == 0 or time.process_time() - begin < least:
        jax.block_until_ready(program(params))
        calls += 1
    return (time.process_time() - begin) / calls


def cost(rounds=9):
    """Print what a step costs."""
    diagonal = (RTRL(), SnAp(1), UORO(), EProp())
    dense = (SnAp(1), UORO(), EProp(), RFLO(), Truncated(10))
    sizes = [(kind(128), dense) for kind in (jrnn.Elman, jrnn.GRU, jrnn.LSTM)]
    sizes += [(jrnn.IndRNN(128), diagonal), (jrnn.LRU(128), diagonal)]
    sizes += [(jrnn.GRU(32), (RTRL(), KroneckerRTRL(), *dense))]
    for cell, methods in sizes:
        model = jrnn.Stack((cell, jrnn.Dense(4)))
        params = model.init(jax.random.key(0), WIDTH)
        xs = jax.random.normal(jax.random.key(1), (STEPS, 1, WIDTH))
        targets = jax.random.normal(jax.random.key(2), (STEPS, 1, 4))
        onlines = {str(m): Online(model, mean_squared_error, m) for m in methods}
        runs = backpropagation(model, xs, targets)
        runs |= {name: forward(online, xs, targets) for name, online in onlines.items()}
        programs = {name: jax.jit(run).lower(params).compile() for name, run in runs.items()}
        spent = {name: [] for name in programs}
        for _ in range(rounds):
            for name, program in programs.items():
                spent[name].append(seconds_of(program, params) / STEPS)
        base = np.median(spent["BPTT, lax.scan"])
        for name, seconds in spent.items():
            stored = onlines[name].influence_bytes(params, xs[0]) if name in onlines else 0
            temporary = programs[name].memory_analysis().temp_size_in_bytes
            print(
                f"{cell!s:20} {name:22} {1e6 * np.median(seconds):9.1f} us x {np.median(seconds) / base:6.1f}"
                f"  influence {stored / 1e3:9.1f} kB  temporary {temporary / 1e3:9.1f} kB",
                flush=True,
            )


def copies(key, rows, symbols=4, kinds=4):
    """Copy: symbols, a signal, then the symbols again are the targets; −1: no target."""
    said = jax.random.randint(key, (symbols, rows), 0, kinds)
    blank = jnp.full((symbols + 1, rows), kinds).at[0].set(kinds + 1)
    xs = jax.nn.one_hot(jnp.concatenate([said, blank[: symbols + 1]]), kinds + 2)
    return xs, jnp.concatenate([jnp.full((symbols + 1, rows), -1), said])


def additions(key, rows, steps=12):
    """Adding: the sum of the two numbers that are marked, at the last step; NaN: no target."""
    values = jax.random.uniform(key, (steps, rows))
    half = steps // 2
    first, second = jax.random.randint(jax.random.fold_in(key, 1), (2, rows), 0, half)
    steps_ = jnp.arange(steps)[:, None]
    marks = (steps_ == first) | (steps_ == half + second)
    total = (values * marks).sum(0)
    targets = jnp.full((steps, rows), jnp.nan).at[-1].set(total)
    return jnp.stack([values, marks.astype(float)], -1), targets[..., None]


def copy_loss(y, target, _):
    """Cross-entropy where there is a target."""
    return cross_entropy(y, jnp.maximum(target, 0), target >= 0)


def adding_loss(y, target, _):
    """Squared error where there is a target."""
    there = ~jnp.isnan(target)
    return mean_squared_error(y, jnp.where(there, target, 0), there)


def learn(task, loss, model, method):
    """Losses of batches, (seeds, batches); parameters change after each, by the sum of all gradients."""
    optimizer = optax.adam(5e-3)
    width = task(jax.random.key(0), 1)[0].shape[-1]

    def through_time(params, xs, targets):
        ys = jrnn.unroll(model, params, xs)[1]
        return jnp.sum(jax.vmap(lambda y, target: loss(y, target, None))(ys, targets))

    def online(params, xs, targets):
        way = Online(model, loss, method)

        def step(state, inputs):
            *state, total = state
            *state, value, found = way.step(*state, params, *inputs)
            return (*state, jax.tree.map(jnp.add, total, found)), value

        start = (*way.init(params, xs[0]), jax.tree.map(jnp.zeros_like, params))
        state, losses = jax.lax.scan(step, start, (xs, targets))
        return losses.sum(), state[-1]

    gradient = jax.value_and_grad(through_time) if method is None else online

    def train(key):
        def step(state, key):
            params, moments = state
            value, found = gradient(params, *task(key, ROWS))
            updates, moments = optimizer.update(found, moments, params)
            return (optax.apply_updates(params, updates), moments), value

        params = model.init(key, width)
        keys = jax.random.split(key, SEQUENCES)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[1]

    return np.asarray(jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), SEEDS)))


def tasks():
    """Print losses as they fall, by quarters of the batches, mean and range of the seeds; draw the curves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    methods = (None, RTRL(), SnAp(1), UORO(), KroneckerRTRL(), EProp(), Truncated(3))
    for panel, (name, task, loss, model, scale, unit) in zip(
        figure.subplots(1, 2),
        (
            # ln 4 = 1.386 without memory
            ("copy", copies, copy_loss, jrnn.Stack((jrnn.GRU(16), jrnn.Dense(4))), 1 / 4, "nats per symbol"),
            # the variance of a sum of two numbers, 1/6, without memory
            (
                "adding",
                additions,
                adding_loss,
                jrnn.Stack((jrnn.GRU(16), jrnn.Dense(1))),
                100,
                "error, 1/100",
            ),
        ),
        strict=True,
    ):
        for color, method in enumerate(methods):
            begin = time.process_time()
            losses = scale * learn(task, loss, model, method)
            parts = losses.reshape(SEEDS, 4, -1).mean(-1)
            columns = [f"{part.mean():6.3f} ({part.min():.3f}–{part.max():.3f})" for part in parts.T]
            spent = time.process_time() - begin
            print(f"{name:7} {method or 'BPTT'!s:20}", *columns, f"{spent:5.0f} s", flush=True)
            curves = losses.reshape(SEEDS, 20, -1).mean(-1)
            batches = (np.arange(20) + 0.5) * SEQUENCES / 20
            style = {"linestyle": "--", "zorder": 3} if method is None else {}  # lies on that of RTRL
            panel.plot(batches, curves.mean(0), color=f"C{color}", label=str(method or "BPTT"), **style)
            panel.fill_between(batches, curves.min(0), curves.max(0), color=f"C{color}", alpha=0.15)
        panel.set(title=name, xlabel="batches", ylabel=unit, yscale="log")
    panel.legend(frameon=False, fontsize=8)
    figure.savefig(Path(__file__).parent.parent / "docs/static/online.png", dpi=100)


def changing(key, steps, period):
    """Numbers ±1; the target is that of two steps ago, with a sign that flips every `period` steps."""
    xs = jnp.sign(jax.random.normal(key, (steps, 1, 1)))
    sign = jnp.where((jnp.arange(steps) // period) % 2, -1.0, 1.0)
    return xs, sign[:, None, None] * jnp.roll(xs, 2, 0)


def stream(steps=12_000, period=3_000, rate=3e-3):
    """Print losses on a stream whose rule changes; parameters change at every step, or are frozen."""
    model = jrnn.Stack((jrnn.GRU(16), jrnn.Dense(1)))
    optimizer, (xs, targets) = optax.adam(rate), changing(jax.random.key(1), steps, period)
    for method in (RTRL(), SnAp(1), UORO(), EProp(), Truncated(1), Truncated(3)):
        online = Online(model, mean_squared_error, method)

        @jax.jit
        def run(params, frozen, online=online):
            def step(state, inputs):
                influence, carry, params, moments = state
                x, target, learns = inputs
                influence, carry, loss, found = online.step(influence, carry, params, x, target)
                updates, moments = optimizer.update(found, moments, params)
                moved = optax.apply_updates(params, updates)
                params = jax.tree.map(lambda new, old: jnp.where(learns, new, old), moved, params)
                return (influence, carry, params, moments), loss

            start = (*online.init(params, xs[0]), params, optimizer.init(params))
            learns = (jnp.arange(steps) < period) | ~frozen
            return jax.lax.scan(step, start, (xs, targets, learns))[1]

        params = model.init(jax.random.key(0), 1)
        for frozen in (False, True) if method == RTRL() else (False,):
            losses = np.asarray(run(params, frozen)).reshape(-1, period // 3)
            name = f"{method}{', frozen' if frozen else ''}"
            print(f"{name:22}", *(f"{part.mean():6.2f}" for part in losses), flush=True)


if __name__ == "__main__":
    {"tasks": tasks, "stream": stream, "cost": cost}[sys.argv[1] if len(sys.argv) > 1 else "cost"]()
