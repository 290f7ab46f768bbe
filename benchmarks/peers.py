"""One layer as jrnn has it and as other libraries document it, for `speed.py`.

A peer is a function `(layer, size) -> Model`, or None where the library has no such layer. Each takes its
inputs in the order of axes that its own documentation shows.
"""

import functools
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jrnn
from jrnn.unrolling import Scan


class Size(NamedTuple):
    batch: int
    steps: int
    features: int
    hidden: int

    def __str__(self):
        return "×".join(map(str, self))


class Model(NamedTuple):
    apply: Callable[..., Any]  # (params, *inputs) -> outputs of all steps
    params: Any
    inputs: tuple[Any, ...]  # xs; with lengths behind it for BiLSTM
    batch_axis: int  # of xs and of the outputs


def lengths_of(layer, size):
    """Valid steps of each sequence: for BiLSTM from T down to T/2, sorted, which PyTorch likes best."""
    shortest = size.steps // 2 if layer == "BiLSTM" else size.steps
    return np.linspace(size.steps, shortest, size.batch).astype(np.int32)


PRODUCTS = {  # columns, in widths of h, of the products with xs and with states
    **{"LSTM": (4, 4), "GRU": (3, 3), "Elman": (1, 1), "Peephole": (4, 4), "MUT1": (3, 2)},
    "BiLSTM": (8, 8 + 2 * 8 + 8),  # the second layer's input is two states, h of either direction
    "Three LSTMs": (4, 4 + 2 * (4 + 4)),
}


def flops(layer, size, kind):
    # forward 2·n·(I·a + H·b)·H, n = T·B less padding; train that again for the gradients of the weights, and
    # 2·n·H·b·H once more for those of the states; those of xs nobody asks for
    a, b = PRODUCTS[layer]
    xs, states = size.features * a, size.hidden * b
    terms = xs + states if kind == "forward" else 2 * xs + 3 * states
    return 2 * int(lengths_of(layer, size).sum()) * terms * size.hidden


def inputs_of(layer, size, batch_axis):
    shape = (size.batch, size.steps) if batch_axis == 0 else (size.steps, size.batch)
    xs = np.random.default_rng(0).standard_normal((*shape, size.features), np.float32)
    return (xs, lengths_of(layer, size)) if layer == "BiLSTM" else (xs,)


def jax_inputs(layer, size, batch_axis, dtype="float32"):
    xs, *lengths = inputs_of(layer, size, batch_axis)
    return jnp.asarray(xs, dtype), *map(jnp.asarray, lengths)


# Cells that no kernel knows. The equations are the same text for every library: `w` holds its arrays.


def peephole(w, carry, x, sigmoid, tanh):
    """LSTM whose gates see the cell: i and f the last state, o the new one (Gers, Schmidhuber, 2000)."""
    h, c = carry
    n = c.shape[-1]
    z = x @ w["w_ih"] + h @ w["w_hh"] + w["b"]
    i = sigmoid(z[..., :n] + w["p_i"] * c)
    f = sigmoid(z[..., n : 2 * n] + w["p_f"] * c)
    c = f * c + i * tanh(z[..., 2 * n : 3 * n])
    h = sigmoid(z[..., 3 * n :] + w["p_o"] * c) * tanh(c)
    return (h, c), h


def mut1(w, carry, x, sigmoid, tanh):
    """The first mutation of Jozefowicz et al., 2015; x is projected to the width of h inside its tanh."""
    (h,) = carry
    n = h.shape[-1]
    a = x @ w["w_ih"]
    z = sigmoid(a[..., :n] + w["b_z"])
    r = sigmoid(a[..., n : 2 * n] + h @ w["w_hr"] + w["b_r"])
    h = tanh((r * h) @ w["w_hh"] + tanh(a[..., 2 * n :]) + w["b_h"]) * z + h * (1 - z)
    return (h,), h


CUSTOM = {"Peephole": peephole, "MUT1": mut1}
STATES = {"Peephole": 2, "MUT1": 1}


def custom_weights(layer, features, hidden):
    shapes = {
        "Peephole": {"w_ih": (features, 4 * hidden), "w_hh": (hidden, 4 * hidden), "b": (4 * hidden,)}
        | dict.fromkeys(("p_i", "p_f", "p_o"), (hidden,)),
        "MUT1": {"w_ih": (features, 3 * hidden), "w_hr": (hidden, hidden), "w_hh": (hidden, hidden)}
        | dict.fromkeys(("b_z", "b_r", "b_h"), (hidden,)),
    }[layer]
    draw = np.random.default_rng(1).standard_normal
    return {
        name: draw(shape, np.float32) / np.sqrt(hidden, dtype=np.float32) for name, shape in shapes.items()
    }


# jrnn


@dataclass(frozen=True)
class Custom:
    layer: str
    out_features: int

    def init(self, key, in_features):
        del key  # every library starts from the same weights
        return jax.tree.map(jnp.asarray, custom_weights(self.layer, in_features, self.out_features))

    def initial_carry(self, params, batch_shape=(), *, key=None):
        del key
        return (jnp.zeros((*batch_shape, self.out_features), params["w_hh"].dtype),) * STATES[self.layer]

    def step(self, params, carry, x):
        return CUSTOM[self.layer](params, carry, x, jax.nn.sigmoid, jnp.tanh)


def jrnn_model(layer, size, method=Scan(), dtype="float32", api=jrnn):
    if layer == "BiLSTM":
        model = api.Sequential((api.Bidirectional(api.LSTM(size.hidden)),) * 2)
    elif layer == "Three LSTMs":
        model = api.Stack((api.LSTM(size.hidden),) * 3)
    elif layer in CUSTOM:
        model = Custom(layer, size.hidden)
    else:
        model = getattr(api, layer)(size.hidden)
    params = jax.tree.map(lambda a: a.astype(dtype), model.init(jax.random.key(0), size.features))
    apply = lambda params, xs, lengths=None: api.apply(model, params, xs, lengths=lengths, method=method)[1]
    return Model(apply, params, jax_inputs(layer, size, 1, dtype), 1)


def jrnn_before(layer, size):
    """The jrnn of the commit that `speed.py --before` was given."""
    package = importlib.import_module("jrnn_before")
    method = importlib.import_module("jrnn_before.unrolling").Scan()
    return jrnn_model(layer, size, method, api=package)


def jrnn_cudnn(layer, size):
    if layer != "LSTM" or jax.default_backend() != "gpu":
        return None
    return jrnn_model(layer, size, jrnn.CuDNN())


# Libraries on JAX


def nnx_custom(layer, size):
    from flax import nnx

    class Cell(nnx.RNNCellBase):
        def __init__(self):
            weights = custom_weights(layer, size.features, size.hidden)
            self.w = nnx.Dict({name: nnx.Param(jnp.asarray(w)) for name, w in weights.items()})

        def __call__(self, carry, x):
            weights = {name: w[...] for name, w in self.w.items()}
            return CUSTOM[layer](weights, carry, x, jax.nn.sigmoid, jnp.tanh)

        def initialize_carry(self, input_shape, rngs=None, carry_init=None):
            return (jnp.zeros((*input_shape[:-1], size.hidden)),) * STATES[layer]

        @property
        def num_feature_axes(self):
            return 1

    return Cell()


def nnx_module(layer, size):
    from flax import nnx

    cells = {"LSTM": nnx.OptimizedLSTMCell, "GRU": nnx.GRUCell, "Elman": nnx.SimpleCell}
    if layer in CUSTOM:
        return nnx.RNN(nnx_custom(layer, size))
    rngs = nnx.Rngs(0)
    if layer in cells:
        return nnx.RNN(cells[layer](size.features, size.hidden, rngs=rngs))
    half = lambda features: nnx.RNN(nnx.OptimizedLSTMCell(features, size.hidden, rngs=rngs))
    if layer == "Three LSTMs":
        return nnx.Sequential(half(size.features), half(size.hidden), half(size.hidden))
    both = lambda features: nnx.Bidirectional(half(features), half(features))
    return nnx.List([both(size.features), both(2 * size.hidden)])


def flax_nnx(layer, size, dtype="float32"):
    from flax import nnx

    module = nnx_module(layer, size)
    if dtype != "float32":  # of a single layer: no LSTM is drawn in bfloat16, and its carry has this dtype
        module.cell.param_dtype = jnp.dtype(dtype)
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    params = jax.tree.map(lambda a: a.astype(dtype), params)

    def apply(params, xs, lengths=None):
        module = nnx.merge(graph, params, rest, copy=True)
        for bidirectional in module if layer == "BiLSTM" else ():
            xs = bidirectional(xs, seq_lengths=lengths)
        return xs if layer == "BiLSTM" else module(xs)

    return Model(apply, params, jax_inputs(layer, size, 0, dtype), 0)


def haiku(layer, size):
    import haiku as hk

    three = lambda hidden: hk.DeepRNN([hk.LSTM(hidden) for _ in range(3)])
    cores = {"LSTM": hk.LSTM, "GRU": hk.GRU, "Elman": hk.VanillaRNN, "Three LSTMs": three}
    if layer not in cores:
        return None

    def run(xs):
        core = cores[layer](size.hidden)
        return hk.dynamic_unroll(core, xs, core.initial_state(size.batch))[0]

    init, apply = hk.without_apply_rng(hk.transform(run))
    inputs = jax_inputs(layer, size, 1)
    return Model(apply, init(jax.random.key(0), *inputs), inputs, 1)


def equinox(layer, size):
    import equinox as eqx

    cells = {"LSTM": eqx.nn.LSTMCell, "GRU": eqx.nn.GRUCell}
    if layer not in cells:
        return None

    def run(cell, xs):
        zero = jnp.zeros(size.hidden)

        def step(state, x):
            state = cell(x, state)
            return state, state[0] if layer == "LSTM" else state

        return jax.lax.scan(step, (zero, zero) if layer == "LSTM" else zero, xs)[1]

    cell = cells[layer](size.features, size.hidden, key=jax.random.key(0))
    return Model(jax.vmap(run, in_axes=(None, 0)), cell, jax_inputs(layer, size, 0), 0)


def keras(layer, size):
    os.environ["KERAS_BACKEND"] = "jax"
    from keras import layers

    kinds = {"LSTM": layers.LSTM, "GRU": layers.GRU, "Elman": layers.SimpleRNN}
    if layer in CUSTOM:
        return None
    if layer in kinds:
        modules = [kinds[layer](size.hidden, return_sequences=True)]
    elif layer == "Three LSTMs":
        modules = [layers.LSTM(size.hidden, return_sequences=True) for _ in range(3)]
    else:
        lstm = lambda: layers.LSTM(size.hidden, return_sequences=True)
        modules = [layers.Bidirectional(lstm()), layers.Bidirectional(lstm())]
    later = (2 if layer == "BiLSTM" else 1) * size.hidden
    for module, features in zip(modules, (size.features, later, later), strict=False):
        module.build((size.batch, size.steps, features))
    values = lambda variables: [variable.value for variable in variables]
    rest = [values(module.non_trainable_variables) for module in modules]

    def apply(params, xs, lengths=None):
        mask = None if lengths is None else jnp.arange(size.steps) < lengths[:, None]
        for module, weights, others in zip(modules, params, rest, strict=True):
            xs = module.stateless_call(weights, others, xs, mask=mask)[0]
        return xs

    params = [values(module.trainable_variables) for module in modules]
    return Model(apply, params, jax_inputs(layer, size, 0), 0)


def cudnn(layer, size):
    if layer not in ("LSTM", "BiLSTM") or jax.default_backend() != "gpu":
        return None
    from jax.experimental import rnn

    deep = 2 if layer == "BiLSTM" else 1  # two layers of two directions, or one of one
    shape = {"input_size": size.features, "hidden_size": size.hidden, "num_layers": deep}
    start = jnp.zeros((deep * deep, size.batch, size.hidden))
    whole = jnp.full(size.batch, size.steps, jnp.int32)

    def apply(weights, xs, lengths=whole):
        options = shape | {"dropout": 0.0, "bidirectional": deep == 2}
        return rnn.lstm(xs, start, start, weights, lengths, **options)[0]

    weights = rnn.init_lstm_weight(jax.random.key(0), **shape, bidirectional=deep == 2)
    return Model(apply, weights, jax_inputs(layer, size, 0), 0)


# PyTorch


def torch_custom(layer, size):
    """A loop over the steps in Python, which is how PyTorch runs a cell that it has no kernel for."""
    import torch

    class Loop(torch.nn.Module):
        def __init__(self):
            super().__init__()
            weights = custom_weights(layer, size.features, size.hidden)
            self.w = torch.nn.ParameterDict({name: torch.from_numpy(w) for name, w in weights.items()})

        def forward(self, xs):
            carry, ys = (xs.new_zeros(size.batch, size.hidden),) * STATES[layer], []
            for x in xs:
                carry, y = CUSTOM[layer](self.w, carry, x, torch.sigmoid, torch.tanh)
                ys.append(y)
            return torch.stack(ys)

    return Loop()


def torch_packed(size):
    import torch

    class Packed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(size.features, size.hidden, num_layers=2, bidirectional=True)

        def forward(self, xs, lengths):
            packed = torch.nn.utils.rnn.pack_padded_sequence(xs, lengths)
            return torch.nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0])[0]

    return Packed()


def pytorch(layer, size, threads=None, compiled=False, dtype="float32"):
    import torch

    unfit = layer not in CUSTOM or size.steps > 100  # it compiles every step of a loop, in minutes
    if (compiled and unfit) or (threads and jax.default_backend() == "gpu"):
        return None
    three = functools.partial(torch.nn.LSTM, num_layers=3)
    kinds = {"LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU, "Elman": torch.nn.RNN, "Three LSTMs": three}
    place = {"device": "cuda" if jax.default_backend() == "gpu" else "cpu", "dtype": getattr(torch, dtype)}
    xs, *lengths = map(torch.from_numpy, inputs_of(layer, size, 1))
    if layer in kinds:
        module = kinds[layer](size.features, size.hidden).to(**place)
    else:
        module = (torch_custom(layer, size) if layer in CUSTOM else torch_packed(size)).to(**place)
    # the whole loop, not its step: compiling the step alone was three times slower to run
    run = torch.compile(module) if compiled else module

    def apply(params, *inputs):
        torch.set_num_threads(threads or os.cpu_count())
        ys = run(*inputs)
        return ys[0] if layer in kinds else ys

    return Model(apply, list(module.parameters()), (xs.to(**place), *lengths), 1)  # lengths stay on the host


ON_JAX = {
    "jrnn": jrnn_model,
    "before": jrnn_before,
    "jrnn, CuDNN": jrnn_cudnn,
    "flax.nnx": flax_nnx,
    "haiku": haiku,
    "equinox": equinox,
    "keras": keras,
    "jax.experimental.rnn": cudnn,
}
ON_TORCH = {
    "PyTorch, 1 thread": functools.partial(pytorch, threads=1),  # all cores come last: they then stay set
    "PyTorch": pytorch,
    "PyTorch, compiled": functools.partial(pytorch, compiled=True),
}
PACKAGES = {  # library: as imported, as installed
    "jrnn": ("jrnn", "jrnn"),
    "before": ("jrnn_before", "jrnn"),
    "flax.nnx": ("flax", "flax"),
    "haiku": ("haiku", "dm-haiku"),
    "equinox": ("equinox", "equinox"),
    "keras": ("keras", "keras"),
    "jax.experimental.rnn": ("jax", "jax"),
    "PyTorch": ("torch", "torch"),
}


def library(name):
    """Whose a contestant is: "PyTorch" for "PyTorch, compiled"."""
    return name.split(",")[0]


def present(name):
    return importlib.util.find_spec(PACKAGES[library(name)][0]) is not None
