"""Weights from and to Flax: the same outputs as Linen's and NNX's own modules, and the same bits again.

Every weight is random, biases too; lengths are ragged.
"""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jrnn
from jrnn.cells.gru import GRUParams
from jrnn.cells.lstm import LSTMCarry
from jrnn.interop import from_linen, from_nnx, to_linen, to_nnx
from tests.converting import (
    HIDDEN,
    IN,
    LENGTHS,
    TOLERANCE,
    VALID,
    VOCABULARY,
    apart,
    cast,
    drawn,
    drawn_model,
    inputs,
    same_bits,
)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def batch_first(xs):
    return jnp.swapaxes(xs, 0, 1)


# Linen: how a module of some dtype is made, what it is in jrnn, and whether the very tree comes back

GRU, LSTM = jrnn.GRU(HIDDEN), jrnn.LSTM(HIDDEN)


def simple(dtype, **options):
    return linen.RNN(linen.SimpleCell(HIDDEN, param_dtype=dtype, **options))


def lstm(dtype, **options):
    return linen.RNN(linen.LSTMCell(HIDDEN, param_dtype=dtype, **options))


def gru(dtype, **options):
    return linen.RNN(linen.GRUCell(HIDDEN, param_dtype=dtype), **options)


def mgu(dtype, **options):
    return linen.RNN(linen.MGUCell(HIDDEN, param_dtype=dtype, **options))


def conv(dtype, *size, **options):
    return linen.RNN(linen.ConvLSTMCell(HIDDEN, size, param_dtype=dtype, **options))


def optimized(dtype):
    cell = linen.OptimizedLSTMCell(HIDDEN, activation_fn=linen.soft_sign, param_dtype=dtype)
    return linen.RNN(cell)


def both(dtype):
    return linen.Bidirectional(gru(dtype), lstm(dtype))


def stack(dtype):
    embed, dense = linen.Embed(VOCABULARY, 3, param_dtype=dtype), linen.Dense(2, False, param_dtype=dtype)
    return linen.Sequential([embed, lstm(dtype), linen.relu, dense])


def sequential(dtype):
    first = linen.Sequential([simple(dtype)])
    return linen.Sequential([first, both(dtype), linen.Dense(2, param_dtype=dtype)])


STACK = jrnn.Stack((jrnn.Embed(3), LSTM, jax.nn.relu, jrnn.Dense(2, bias=False)))
BOTH = jrnn.Bidirectional(GRU, LSTM)
LINEN = {
    "SimpleCell": (simple, jrnn.Elman(HIDDEN), True),
    "SimpleCell relu residual": (
        partial(simple, activation_fn=linen.relu, residual=True),
        jrnn.Elman(HIDDEN, activation="relu"),
        False,
    ),
    "LSTMCell": (lstm, LSTM, True),
    "OptimizedLSTMCell softsign": (optimized, jrnn.LSTM(HIDDEN, activation="softsign"), True),
    "GRUCell": (gru, GRU, True),
    "MGUCell": (mgu, GRU, False),
    "MGUCell no reset": (partial(mgu, reset_gate=False), jrnn.UGRNN(HIDDEN), True),
    "ConvLSTMCell": (lambda dtype: conv(dtype, 3, 1), jrnn.ConvLSTM(HIDDEN, kernel=(3, 1)), False),
    "ConvLSTMCell circular, no bias": (
        lambda dtype: conv(dtype, 3, padding="CIRCULAR", use_bias=False),
        jrnn.ConvLSTM(HIDDEN, spatial=1, padding="CIRCULAR"),
        False,
    ),
    "reversed": (partial(gru, reverse=True, keep_order=True), jrnn.Reversed(GRU), True),
    "Bidirectional": (both, BOTH, True),
    "Bidirectional maximum": (
        lambda dtype: linen.Bidirectional(gru(dtype), gru(dtype), merge_fn=jnp.maximum),
        jrnn.Bidirectional(GRU, merge=jnp.maximum),
        True,
    ),
    "Stack": (stack, STACK, True),
    "Sequential": (sequential, jrnn.Sequential((jrnn.Elman(HIDDEN), BOTH, jrnn.Dense(2))), False),
}


@cache
def linen_variables(name):
    make, model, _ = LINEN[name]
    shapes = jax.eval_shape(make(float).init, jax.random.key(0), batch_first(inputs(model)))
    return drawn(shapes)


def carry_first(carry):
    """Our carry in Flax's order, c before h."""
    carry = carry if isinstance(carry, jrnn.layers.BidirectionalCarry) else (carry,)
    return [c[::-1] if isinstance(c, LSTMCarry) else c for c in carry]


def difference(run, model, params, dtype):
    """The largest one of outputs and last carries: of a Flax module, `run(xs, **options)`, and of a model."""
    xs = cast(inputs(model), dtype)
    stacked = isinstance(model, (jrnn.Stack, jrnn.Sequential))
    lengths = None if stacked or isinstance(model, jrnn.ConvLSTM) else LENGTHS
    carry, ours = jrnn.apply(model, params, xs, lengths=lengths)
    options = {} if stacked else {"seq_lengths": lengths, "return_carry": True}
    theirs = run(batch_first(xs), **options)
    last, theirs = (None, theirs) if stacked else theirs
    valid = slice(None) if lengths is None else VALID
    assert ours.dtype == dtype
    pairs = [(ours[valid], batch_first(theirs)[valid])]
    if not stacked:
        pairs += zip(*map(jax.tree.leaves, (carry_first(carry), last)), strict=True)
    return max(apart(a, b) for a, b in pairs)


WRITTEN = {  # the module that has what to_linen writes, where it is another one
    "SimpleCell relu residual": partial(simple, activation_fn=linen.relu),
    "MGUCell": gru,
    "ConvLSTMCell circular, no bias": lambda dtype: conv(dtype, 3, padding="CIRCULAR"),
    "Sequential": lambda dtype: linen.Sequential(
        [simple(dtype), both(dtype), linen.Dense(2, param_dtype=dtype)]
    ),
}


def linen_differences(name, dtype):
    """The largest difference of outputs and carries `(in, out)`: weights from Linen, and weights to it."""
    make = LINEN[name][0]
    model, params = from_linen(cast(linen_variables(name), dtype), make(dtype))
    other = cast(drawn(params, seed=2), dtype)
    found = []
    for theirs, own, tree in (
        (make, params, linen_variables(name)),
        (WRITTEN.get(name, make), other, {"params": to_linen(model, other)}),
    ):
        run = partial(_applied, theirs(dtype), cast(tree, dtype))
        found.append(float(difference(run, model, own, dtype)))
    return tuple(found)


def _applied(module, variables, xs, **options):
    return jax.jit(partial(module.apply, **options))(variables, xs)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", LINEN)
def test_linen_gives_the_same_outputs(name, dtype):
    assert from_linen(linen_variables(name), LINEN[name][0](float))[0] == LINEN[name][1]
    into, out = linen_differences(name, dtype)
    assert into < TOLERANCE[dtype] and out < TOLERANCE[dtype]


@pytest.mark.parametrize("name", LINEN)
def test_linen_gets_the_same_bits_back(name):
    make, _, same_tree = LINEN[name]
    variables = linen_variables(name)
    model, params = from_linen(variables, make(float))
    tree = to_linen(model, params)
    if same_tree:
        same_bits(tree, variables["params"])
    same_bits(from_linen(tree, make(float) if name == "Stack" else None)[1], params)


# NNX: how a module of some dtype is made, what it is in jrnn, and how it is written


def nnx_cell(dtype, kind, width=IN, **options):
    numbers = {"dtype": dtype, "param_dtype": dtype, "rngs": nnx.Rngs(0)}
    return nnx.RNN(kind(width, HIDDEN, **numbers, **options))


def nnx_both(dtype, width=IN):
    rnns = (nnx_cell(dtype, kind, width) for kind in (nnx.GRUCell, nnx.LSTMCell))
    return nnx.Bidirectional(*rnns)


def nnx_stack(dtype):
    numbers = {"param_dtype": dtype, "rngs": nnx.Rngs(0)}
    head = nnx.Linear(HIDDEN, 2, use_bias=False, **numbers)
    return nnx.Sequential(
        nnx.Embed(VOCABULARY, 3, **numbers), nnx_cell(dtype, nnx.LSTMCell, 3), nnx.relu, head
    )


def nnx_sequential(dtype):
    head = nnx.Linear(2 * HIDDEN, 2, param_dtype=dtype, rngs=nnx.Rngs(0))
    return nnx.Sequential(nnx_cell(dtype, nnx.SimpleCell), nnx_both(dtype, HIDDEN), head)


NNX = {
    "SimpleCell": (partial(nnx_cell, kind=nnx.SimpleCell), jrnn.Elman(HIDDEN), {}),
    "SimpleCell relu residual": (
        partial(nnx_cell, kind=nnx.SimpleCell, activation_fn=nnx.relu, residual=True),
        jrnn.Elman(HIDDEN, activation="relu"),
        None,
    ),
    "LSTMCell": (partial(nnx_cell, kind=nnx.LSTMCell), LSTM, {}),
    "OptimizedLSTMCell softsign": (
        partial(nnx_cell, kind=nnx.OptimizedLSTMCell, activation_fn=jax.nn.soft_sign),
        jrnn.LSTM(HIDDEN, activation="softsign"),
        {"optimized": True},
    ),
    "GRUCell": (partial(nnx_cell, kind=nnx.GRUCell), GRU, {}),
    "Bidirectional": (nnx_both, BOTH, {}),
    "Stack": (nnx_stack, STACK, {}),
    "Sequential": (nnx_sequential, jrnn.Sequential((jrnn.Elman(HIDDEN), BOTH, jrnn.Dense(2))), {}),
}


def nnx_module(name, dtype=float):
    """A module with random weights, and these."""
    module = NNX[name][0](dtype)
    tree = cast(drawn(nnx.to_pure_dict(nnx.state(module, nnx.Param))), dtype)
    nnx.update(module, tree)
    return module, tree


def nnx_differences(name, dtype):
    """The largest difference of outputs and carries `(in, out)`: weights from NNX, and weights to it."""
    module, _ = nnx_module(name, dtype)
    model, params = from_nnx(module)
    into = difference(partial(_called, module), model, params, dtype)
    if NNX[name][2] is None:  # what is written is a cell without the residual
        module = nnx_cell(dtype, nnx.SimpleCell, activation_fn=nnx.relu)
    other = _without_b_hn(cast(drawn(params, seed=2), dtype))
    nnx.update(module, to_nnx(model, other, **(NNX[name][2] or {})))
    return float(into), float(difference(partial(_called, module), model, other, dtype))


def _called(module, xs, **options):
    return nnx.jit(lambda module, xs: module(xs, **options))(module, xs)


def _without_b_hn(params):
    """Parameters whose GRUs have no such bias, as those of NNX."""
    is_gru = lambda node: isinstance(node, GRUParams)
    return jax.tree.map(
        lambda node: node._replace(b_hn=node.b_hn * 0) if is_gru(node) else node, params, is_leaf=is_gru
    )


PARITY = {
    "Flax Linen": {name: partial(linen_differences, name) for name in LINEN},
    "Flax NNX": {name: partial(nnx_differences, name) for name in NNX},
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", NNX)
def test_nnx_gives_the_same_outputs(name, dtype):
    assert from_nnx(nnx_module(name)[0])[0] == NNX[name][1]
    into, out = nnx_differences(name, dtype)
    assert into < TOLERANCE[dtype] and out < TOLERANCE[dtype]


@pytest.mark.parametrize("name", NNX)
def test_nnx_gets_the_same_bits_back(name):
    module, given = nnx_module(name)
    model, params = from_nnx(module)
    options = NNX[name][2]
    tree = to_nnx(model, params, **(options or {}))
    if options is not None:
        same_bits(tree, given)
    nnx.update(module, tree)
    if name != "SimpleCell relu residual":
        same_bits(from_nnx(module)[1], params)
    if name != "Stack":
        for state in (tree, nnx.state(module)):
            same_bits(from_nnx(state)[1], from_nnx(tree)[1])


def test_parts_of_a_model_are_read_in_the_order_of_a_list():
    tree = linen_variables("Stack")["params"]
    model, params = from_linen([tree["layers_0"], tree["layers_1"]["cell"]])
    assert model == jrnn.Stack((jrnn.Embed(3), LSTM))
    same_bits(params, from_linen(tree, stack(float))[1][:2])


def test_shared_weights_stand_in_both_places():
    model = jrnn.Tie(
        jrnn.Stack((jrnn.Embed(IN), jrnn.Elman(IN), jrnn.Dense(7))), "0.table", "2.w", transposed=True
    )
    params = drawn(jax.eval_shape(lambda: model.init(jax.random.key(0), VOCABULARY)))
    tree = to_linen(model, params)
    same_bits(tree["layers_2"]["kernel"], tree["layers_0"]["embedding"].T)


def test_noise_stands_in_no_parameter():
    _, params = drawn_model(GRU)
    tree = to_linen(GRU, params)
    noisy = jrnn.Dropout(GRU, output=0.5)
    same_bits(to_linen(noisy, params), tree)
    same_bits(to_linen(jrnn.Reversed(noisy), params), tree)
    two = to_linen(jrnn.Bidirectional(noisy, GRU), jrnn.BidirectionalParams(params, params))
    same_bits(two, {"forward_rnn": tree, "backward_rnn": tree})


# what cannot be, by the words of the message


def tree_of(name):
    return linen_variables(name)["params"]


def without(tree, *path):
    tree = dict(tree)
    if len(path) > 1:
        tree[path[0]] = without(tree[path[0]], *path[1:])
    else:
        del tree[path[0]]
    return tree


class Model(linen.Module):
    cell: linen.Module


REFUSED = {
    "no weight 'cell/hf/bias'": lambda: from_linen(without(tree_of("LSTMCell"), "cell", "hf", "bias")),
    "no place for 'head', 'collection stats/mean'; unused=True": lambda: from_linen(
        {"params": {**tree_of("GRUCell"), "head": np.ones(2)}, "stats": {"mean": np.ones(2)}}
    ),
    "cell/h/kernel must have shape (5, 5), got (5, 4)": lambda: from_linen(
        {"cell": {**tree_of("SimpleCell")["cell"], "h": {"kernel": np.ones((5, 4))}}}
    ),
    "cell/i/kernel must hold floating point numbers, got int8": lambda: from_linen(
        {"cell": {**tree_of("SimpleCell")["cell"], "i": {"kernel": np.ones((2, 5), np.int8)}}}
    ),
    "it has Embed_0, GRUCell_0. Parameters of other models": lambda: from_linen(
        {"Embed_0": tree_of("Stack")["layers_0"], "GRUCell_0": tree_of("GRUCell")["cell"]}
    ),
    "has no weights under layers_2": lambda: from_linen(tree_of("Stack")),
    "has no weights of LayerNorm under layers_1": lambda: from_linen(
        {"layers_0": tree_of("LSTMCell")}, linen.Sequential([lstm(float), linen.LayerNorm()])
    ),
    "has no weights under 'backward_rnn/cell'": lambda: from_linen(
        without(tree_of("Bidirectional"), "backward_rnn")
    ),
    "module is a LSTMCell, the weights are those of GRUCell": lambda: from_linen(
        tree_of("GRUCell"), lstm(float)
    ),
    "module is a Model, the weights are those of RNN": lambda: from_linen(
        tree_of("GRUCell"), Model(linen.GRUCell(HIDDEN))
    ),
    "gate_fn of LSTMCell must be sigmoid": lambda: from_linen(
        tree_of("LSTMCell"), lstm(float, gate_fn=linen.hard_sigmoid)
    ),
    "carry_init of LSTMCell must be zeros": lambda: from_linen(
        tree_of("LSTMCell"), lstm(float, carry_init=linen.initializers.ones)
    ),
    "activation_fn of MGUCell(reset_gate=False) must be tanh": lambda: from_linen(
        tree_of("MGUCell no reset"), mgu(float, reset_gate=False, activation_fn=linen.relu)
    ),
    "strides 1": lambda: from_linen(tree_of("ConvLSTMCell"), conv(float, 3, 1, strides=(2, 1))),
    "got 'VALID'": lambda: from_linen(tree_of("ConvLSTMCell"), conv(float, 3, 1, padding="VALID")),
    "keep_order=True": lambda: from_linen(tree_of("GRUCell"), gru(float, reverse=True)),
    "Dense(features=2, bias=False) needs inputs of width 5, Embed(features=3) before it gives 3": lambda: (
        from_linen([tree_of("Stack")["layers_0"], tree_of("Stack")["layers_3"]])
    ),
    "Flax Linen has no reset_after=False": lambda: to_linen(*drawn_model(jrnn.GRU(4, reset_after=False))),
    "Flax Linen has no clip=1.0": lambda: to_linen(*drawn_model(jrnn.Elman(4, clip=1.0))),
    "Flax Linen has no equivalent of LSTMVariant": lambda: to_linen(*drawn_model(jrnn.LSTMVariant(4))),
    "Flax Linen has no equivalent of Stack": lambda: to_linen(
        *drawn_model(jrnn.Bidirectional(jrnn.Stack((GRU, GRU))))
    ),
    "Flax Linen has no strides=2": lambda: to_linen(*drawn_model(jrnn.ConvLSTM(4, strides=2))),
    "Flax Linen has no padding='VALID'": lambda: to_linen(*drawn_model(jrnn.ConvLSTM(4, padding="VALID"))),
    "Flax Linen has no activation='relu'": lambda: to_linen(*drawn_model(jrnn.Dense(4, activation="relu"))),
    "w_ih must have shape (in, 12), got (2, 15)": lambda: to_linen(jrnn.GRU(4), drawn_model(GRU)[1]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_linen_what_cannot_be_is_said(message):
    with pytest.raises(ValueError, match=re.escape(message)):
        REFUSED[message]()


NNX_REFUSED = {
    "b_hn of GRU(hidden=4) must be 0: GRUCell of Flax NNX": lambda: to_nnx(*drawn_model(jrnn.GRU(4))),
    "Flax NNX has no reset_after=False": lambda: to_nnx(*drawn_model(jrnn.GRU(4, reset_after=False))),
    "Flax NNX has no equivalent of UGRNN": lambda: to_nnx(*drawn_model(jrnn.UGRNN(4))),
    "dense_h/kernel must be for 1, 3 or 4 gates of 4 units, got (4, 8)": lambda: from_nnx(
        {"dense_i": {"kernel": np.ones((2, 8))}, "dense_h": {"kernel": np.ones((4, 8))}}
    ),
    "dense_i/kernel must have shape (in, 12), got (12, 2)": lambda: from_nnx(
        {"dense_i": {"kernel": np.ones((12, 2))}, "dense_h": {"kernel": np.ones((4, 12))}}
    ),
    "no weight 'dense_h/bias'": lambda: from_nnx(
        {"dense_i": {"kernel": np.ones((2, 16))}, "dense_h": {"kernel": np.ones((4, 16))}}
    ),
    "no place for 'scale'": lambda: from_nnx({"embedding": np.ones((7, 3)), "scale": np.ones(3)}),
    "under 'layers/1' is not a cell, RNN": lambda: from_nnx(
        nnx.Sequential(nnx_cell(float, nnx.LSTMCell), nnx.LayerNorm(HIDDEN, rngs=nnx.Rngs(0)))
    ),
    "keep_order=True": lambda: from_nnx(nnx.RNN(nnx_cell(float, nnx.GRUCell).cell, reverse=True)),
    "gate_fn of GRUCell must be sigmoid": lambda: from_nnx(
        nnx_cell(float, nnx.GRUCell, gate_fn=jax.nn.hard_sigmoid)
    ),
}


@pytest.mark.parametrize("message", NNX_REFUSED)
def test_nnx_what_cannot_be_is_said(message):
    with pytest.raises(ValueError, match=re.escape(message)):
        NNX_REFUSED[message]()


def test_nnx_parts_may_be_modules_and_states():
    module, tree = nnx_module("Stack")
    layers = list(module.layers)
    model, params = from_nnx([layers[0], nnx.state(layers[1]), tree["layers"][3]])
    assert model == jrnn.Stack((jrnn.Embed(3), LSTM, jrnn.Dense(2, bias=False)))
    assert from_nnx(nnx.Sequential(*layers[:2], nnx.Dropout(0.5), *layers[2:]))[0] == STACK
    whole = from_nnx(module)[1]
    same_bits(params, (*whole[:2], whole[3]))


def test_only_trees_modules_and_states_are_taken():
    with pytest.raises(TypeError, match="params must be a tree of parameters, or a list of them, got None"):
        from_linen(None)
    with pytest.raises(TypeError, match=re.escape("source must be an NNX module or its state, got GRU(")):
        from_nnx(GRU)


def test_what_is_left_over_is_left_out_when_allowed():
    tree = {**tree_of("GRUCell"), "head": np.ones(2)}
    assert from_linen(tree, unused=True)[0] == GRU


def test_float64_needs_x64():
    tree = tree_of("GRUCell")
    with jax.enable_x64(False), pytest.raises(ValueError, match="are float64, which JAX rounds to float32"):
        from_linen(tree)


def test_two_conventions_of_a_gru_are_one_by_a_sign():
    cell, params = drawn_model(jrnn.GRU(HIDDEN, z_keeps=False))
    xs = inputs(cell)
    model, kept = from_linen(to_linen(cell, params))
    assert model == GRU
    assert apart(jrnn.unroll(model, kept, xs)[1], jrnn.unroll(cell, params, xs)[1]) < 1e-12


def test_a_cell_without_a_bias_has_zeros():
    for cell in (jrnn.Elman(HIDDEN, bias=False), jrnn.LSTM(HIDDEN, bias=False), jrnn.GRU(HIDDEN, bias=False)):
        params = from_linen(to_linen(*drawn_model(cell)))[1]
        assert not params.b.any() and params.w_hh.all()
