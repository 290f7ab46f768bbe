"""What jrnn costs besides the arithmetic: eager calls and gradients, a step of a stream, `import jrnn`.

python benchmarks/overhead.py
"""

import importlib.util
import statistics
import subprocess
import sys
import time
from functools import partial

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jrnn

BATCH, STEPS, FEATURES, HIDDEN = 4, 20, 8, 16


def milliseconds(function, rounds):
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - begun))
    return f"median {statistics.median(times):.3f} ms, minimum {min(times):.3f} ms"


def eager_unroll(kind, lengths=None):
    """A second eager call, with an equal cell built anew."""
    params = kind(HIDDEN).init(jax.random.key(0), FEATURES)
    xs = jax.random.normal(jax.random.key(1), (STEPS, BATCH, FEATURES))
    call = lambda: jax.block_until_ready(jrnn.unroll(kind(HIDDEN), params, xs, lengths=lengths))
    call()
    return milliseconds(call, 200)


def eager_gradients(rounds=9):
    """Milliseconds of the gradient of an LSTM by its weights, outside of jit, in turns: {whose: median}."""
    steps, rows, features, hidden = 50, 32, 10, 64
    cell = jrnn.LSTM(hidden)
    params = cell.init(jax.random.key(0), features)
    xs = np.random.default_rng(0).standard_normal((steps, rows, features)).astype(np.float32)
    of_jrnn = lambda params: jnp.square(jrnn.unroll(cell, params, xs)[1]).sum()
    start = cell.initial_carry(params, (rows,))
    of_scan = lambda params: jnp.square(lax.scan(partial(cell.step, params), start, xs)[1]).sum()
    layer = flax.linen.RNN(flax.linen.OptimizedLSTMCell(hidden), time_major=True)
    variables = layer.init(jax.random.key(0), xs)
    of_flax = lambda variables: jnp.square(layer.apply(variables, xs)).sum()
    works = {
        "jrnn": lambda: jax.block_until_ready(jax.grad(of_jrnn)(params)),
        "jrnn in jax.jit": partial(lambda f: jax.block_until_ready(f(params)), jax.jit(jax.grad(of_jrnn))),
        "lax.scan": lambda: jax.block_until_ready(jax.grad(of_scan)(params)),
        "flax.linen": lambda: jax.block_until_ready(jax.grad(of_flax)(variables)),
    }
    if importlib.util.find_spec("torch"):
        import torch

        peer, inputs = torch.nn.LSTM(features, hidden), torch.from_numpy(xs)
        works["torch.nn.LSTM"] = lambda: torch.autograd.grad(
            peer(inputs)[0].square().sum(), list(peer.parameters())
        )
    times = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            begun = time.perf_counter()
            work()
            times[name].append(1e3 * (time.perf_counter() - begun))
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def streaming(hidden=128):
    """Microseconds a step at batch 1, one row after the other: {what: median}."""
    cell = jrnn.LSTM(hidden)
    params = cell.init(jax.random.key(0), hidden)
    step, bare = jax.jit(cell.step), jax.jit(lambda x: x + 1)
    carry, x = cell.initial_carry(params), jax.random.normal(jax.random.key(1), (hidden,))
    works = {"a bare jax.jit call": lambda: bare(x), "jax.jit(LSTM.step)": lambda: step(params, carry, x)[1]}
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(1)  # faster here than all cores
        peer, row = torch.nn.LSTMCell(hidden, hidden), torch.randn(1, hidden)
        state = torch.zeros(1, hidden), torch.zeros(1, hidden)
        works["torch.nn.LSTMCell"] = torch.no_grad()(lambda: peer(row, state)[0])
    times = {name: [] for name in works}
    for _ in range(3000):
        for name, work in works.items():
            work()  # what the one before left in the caches is not to this one's charge
            begun = time.perf_counter()
            jax.block_until_ready(work())
            times[name].append(1e6 * (time.perf_counter() - begun))
    return {name: statistics.median(found) for name, found in times.items()}


def dispatch(hidden=128):
    """Microseconds until a call is back: a bare `jax.jit`, and one of the arguments and results of a step."""
    cell = jrnn.LSTM(hidden)
    params = cell.init(jax.random.key(0), hidden)
    bare, step = jax.jit(lambda x: x + 1), jax.jit(lambda params, carry, x: (carry, x))
    carry, x = cell.initial_carry(params), jax.random.normal(jax.random.key(1), (hidden,))
    times = {bare: [], step: []}
    for _ in range(3000):
        for call, arguments in ((bare, (x,)), (step, (params, carry, x))):
            jax.block_until_ready(call(*arguments))
            begun = time.perf_counter()
            result = call(*arguments)
            times[call].append(1e6 * (time.perf_counter() - begun))
            jax.block_until_ready(result)
    return [statistics.median(found) for found in times.values()]


def fresh_import(statement):
    """Seconds for a statement in a new interpreter, the interpreter's own start taken off."""
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for _ in range(9)]
    return statistics.median(float(run.stdout) for run in runs)


if __name__ == "__main__":
    print(f"eager unroll, second call, {BATCH}×{STEPS}×{FEATURES}×{HIDDEN}")
    for kind in (jrnn.Elman, jrnn.GRU, jrnn.LSTM):
        print(f"  {kind.__name__:6} {eager_unroll(kind)}")
        print(f"  {kind.__name__:6} {eager_unroll(kind, np.arange(BATCH))}, with lengths")
    print("the gradient of LSTM(64) over 50 steps of 32 rows, outside of jit")
    for name, found in eager_gradients().items():
        print(f"  {name:20} {found:.1f} ms")
    bare, step = dispatch()
    print(
        f"dispatch: a bare jax.jit call {bare:.1f} µs, jax.jit(LSTM(128).step) {step - bare:+.1f} µs on top"
    )
    print("a step of a stream, LSTM(128), until its output is there")
    for name, found in streaming().items():
        print(f"  {name:20} {found:.1f} µs")
    base = fresh_import("import jax")
    print(f"import jax {base:.3f} s, import jrnn {fresh_import('import jrnn') - base:+.3f} s on top")
