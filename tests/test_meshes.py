"""On a mesh with Explicit axes every option equals its run on one device; in a process of its own."""

import os
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

import jrnn

TOKENS = jax.random.randint(jax.random.key(0), (6, 4), 0, 5)
XS = jax.random.normal(jax.random.key(0), (6, 4, 3))
LENGTHS = jnp.array([6, 0, 3, 5])
KEY = jax.random.key(3)
MODEL = jrnn.Stack((jrnn.Embed(3), jrnn.LSTM(4), jrnn.Dense(5)), dropout=0.2)
PARAMS = MODEL.init(jax.random.key(1), 5)
NOISY = (
    jrnn.Zoneout(jrnn.LSTM(4), rates=(0.1, 0.5)),
    jrnn.Dropout(jrnn.LSTM(4), input=0.3, state=0.3, output=0.3),
)
MATRICES = jrnn.MLSTM(4, heads=2), jrnn.DeltaNet(4, heads=2), jrnn.RWKV7(4, heads=2)
LOOP = jrnn.Feedback(jrnn.Stack((jrnn.Elman(5), jrnn.Dense(3))))


def run(model, xs, **options):
    params = model.init(jax.random.key(1), 5 if model is MODEL else 3)
    return jrnn.unroll(model, params, xs, **options)


def train(tokens):
    optimizer = optax.adam(1e-2)
    step = jrnn.train_step(MODEL, jrnn.PerStep(jrnn.losses.cross_entropy), optimizer)
    state = jrnn.init_state(MODEL, PARAMS, optimizer, KEY, batch_shape=(4,))
    batch = jrnn.Batch(tokens, tokens, lengths=LENGTHS)
    state, _ = step(state, batch, True)
    return step(state, batch)


def masked_loss(tokens):
    return jrnn.losses.cross_entropy(run(MODEL, tokens)[1], tokens, mask=tokens > 1)


def drawn(cell, xs):
    """All that a run hands out, with lengths, and its gradient, of random parameters."""
    params = cell.init(jax.random.key(1), jax.tree.leaves(xs)[-1].shape[-1])

    def loss(params):
        ys = jrnn.unroll(cell, params, xs, lengths=LENGTHS, resets=TOKENS > 3)[1]
        return jnp.mean(jnp.sin(ys)), ys

    return jax.grad(loss, has_aux=True)(params)


def chunks(cell, x):
    flags = {"lengths": LENGTHS, "resets": x[..., 0] > 0, "reverse": True}
    return run(cell, x, method=jrnn.Chunked(3), **flags)


def keeping_inputs(x):
    """Cells whose state is made of inputs, and convolutions of fields."""
    cells = jrnn.TGRU(4), jrnn.TLSTM(4), jrnn.QRNN(4, window=12), jrnn.Window(12, 3)
    narx = jrnn.NARX(4, outputs=3, input_lags=2, output_lags=2)
    fields = jnp.stack([x, -x, x * x], 2), jrnn.ConvGRU(2, spatial=1), jrnn.ConvLSTM(2, spatial=1)
    convolutions = [drawn(cell, fields[0]) for cell in fields[1:]]
    return [drawn(cell, x) for cell in cells], drawn(narx, (x, x[..., 0] > 0, x)), convolutions


class Counting(NamedTuple):
    """A state of which one entry depends on no input, and one is computed with axes that are automatic."""

    count: jax.Array
    h: jax.Array


def counting_step(w, carry, x):
    def inner(w, h, x):
        return jnp.tanh(jnp.tanh(h @ w) * x)

    if any(jax.typeof(x).sharding.spec):
        inner = jax.sharding.auto_axes(inner, out_sharding=jax.typeof(x).sharding)
    count, h = jnp.minimum(carry.count + 1, 3), inner(w, carry.h, x)
    return Counting(count, h), h * count[..., None]


COUNTING = jrnn.from_functions(
    lambda key, in_features: jax.random.normal(key, (in_features, in_features)),
    lambda params, batch_shape=(), *, key=None: Counting(
        jnp.zeros(batch_shape, jnp.int32), jnp.zeros((*batch_shape, len(params)))
    ),
    counting_step,
    3,
)


PROGRAMS = {
    "a language model": (lambda t: run(MODEL, t), TOKENS),
    "with lengths": (lambda t: run(MODEL, t, lengths=LENGTHS), TOKENS),
    "in reverse": (lambda t: run(MODEL, t, mask=t > 0, resets=t > 3, reverse=True), TOKENS),
    "with noise": (lambda t: run(MODEL, t, key=KEY)[1], TOKENS),
    "with zoneout": (lambda x: run(NOISY[0], x, key=KEY)[1], XS),
    "with dropout": (lambda x: run(NOISY[1], x, key=KEY)[1], XS),
    "in a loop": (lambda x: run(LOOP, (x, x[..., 0] > 0)), XS),
    "cells that keep inputs": (keeping_inputs, XS),
    "a state that depends on no input": (lambda x: drawn(COUNTING, x), XS),
    "and starts anew": (lambda x: run(COUNTING, x, resets=x[..., 0] > 0), XS),
    "in chunks": (lambda x: [chunks(cell, x) for cell in MATRICES], XS),
    "a masked loss": (masked_loss, TOKENS),
    "two training steps": (lambda t: (train(t)[0].params, train(t)[1]), TOKENS),
}


def compare():
    mesh = jax.make_mesh((2,), ("data",))
    for name, (function, argument) in PROGRAMS.items():
        alone = jax.jit(function)(argument)
        with jax.set_mesh(mesh):
            sharded = jax.jit(function)(jax.reshard(argument, PartitionSpec(None, "data")))
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(sharded), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6, err_msg=name)
        print(name)


def test_explicit_axes_change_nothing():
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
    command = [sys.executable, "-W", "error", "-c", "from tests.test_meshes import compare; compare()"]
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == list(PROGRAMS)


ON_DEVICES = """
import jax, jax.numpy as jnp, numpy as np, jrnn
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

cell = jrnn.Stack((jrnn.GRU(3), jrnn.LSTM(2)))
params = cell.init(jax.random.key(0), 2)
T, B = 5, 4
xs = jax.random.normal(jax.random.key(1), (T, B, 2))
flags = {"lengths": jnp.array([5, 0, 3, 4]), "mask": jax.random.bernoulli(jax.random.key(2), 0.7, (T, B)),
         "resets": jax.random.bernoulli(jax.random.key(3), 0.4, (T, B))}
specs = {"lengths": P("data"), "mask": P(None, "data"), "resets": P(None, "data")}

def both(params, xs, flags):
    return tuple(jrnn.unroll(cell, params, xs, **flags, reverse=r) for r in (False, True))

def derivative(run):
    def loss(params, xs, flags):
        out = run(params, xs, flags)
        return sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves(out)), out
    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))

def same(given, needed):
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(needed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

needed = derivative(both)(params, xs, flags)
for n in (2, 4):
    devices = jax.devices()[:n]
    mesh = jax.make_mesh((n,), ("data",), axis_types=(AxisType.Explicit,), devices=devices)
    with jax.set_mesh(mesh):
        put = lambda a, spec: jax.device_put(a, NamedSharding(mesh, spec))
        sharded = put(xs, P(None, "data"))
        everywhere = jax.tree.map(lambda a: put(a, P()), params)
        split = {name: put(a, specs[name]) for name, a in flags.items()}
        given = derivative(both)(everywhere, sharded, split)
        same(given, needed)
        assert "data" in str(jax.typeof(given[0][1][0][1]).sharding.spec), "the output is not sharded"
        if n == 2:  # eagerly, and with flags and parameters that nobody put on the mesh
            same(both(everywhere, sharded, split), needed[0][1])
            same(derivative(both)(params, sharded, flags), needed)
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
mapped = jax.shard_map(both, mesh=mesh, in_specs=(P(), P(None, "data"), specs),
                       out_specs=((P("data"), P(None, "data")),) * 2)
same(derivative(mapped)(params, xs, flags), needed)
# a state that no input reaches: what varies over the mesh there comes from the lengths alone
counting = jrnn.from_functions(
    lambda key, width: None, lambda p, batch=(), *, key=None: jnp.zeros(batch), lambda p, n, x: (n + 1, n), 1)
count = lambda x, lengths: jrnn.unroll(counting, None, x, lengths=lengths)
split = jax.shard_map(count, mesh=mesh, in_specs=(P(None, "data"), P("data")),
                      out_specs=(P("data"), P(None, "data")))
same(split(xs, flags["lengths"]), count(xs, flags["lengths"]))
print("equal")
"""


def test_several_devices_equal_one():
    """Explicit meshes of two and four devices, and `shard_map`, with every option, forward and gradient."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", ON_DEVICES], env=environment, capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr[-3000:]
