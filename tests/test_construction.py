"""Mistakes in making cells, layers and combinators: named in one line, as in test_errors.py."""

import flax.linen
import jax
import jax.numpy as jnp
import pytest

import jrnn
from tests.test_errors import (
    BOTH,
    EMBED,
    FLAGS,
    GRU,
    GRU_PARAMS,
    JORDAN,
    JORDAN_PARAMS,
    KEY,
    LSTM,
    XS,
    check,
    fed,
    run,
)

# what was done: (how, type of error, what the message must say)
MISTAKES = {
    "no units": (lambda: jrnn.LSTM(0), ValueError, "hidden must be at least 1, got 0"),
    "half a unit": (lambda: jrnn.GRU(2.5), TypeError, "hidden must be an int, got 2.5"),
    "unknown activation": (
        lambda: jrnn.Elman(3, activation="gelo"),
        ValueError,
        "activation must be one of tanh, relu, sigmoid, identity, softmax, gelu, silu, elu, leaky_relu, "
        "softplus, softsign, hard_sigmoid, hard_tanh, scaled_tanh, thresholded_relu, celu, hard_silu, "
        "log_sigmoid, mish, relu6, selu, sparse_plus, sparse_sigmoid, squareplus, got 'gelo'",
    ),
    "constants for an activation without": (
        lambda: jrnn.Elman(3, activation="gelu()"),
        ValueError,
        "activation with constants must be one of affine(",
    ),
    "class for an activation": (
        lambda: jrnn.Elman(3, activation=jrnn.GRU),
        ValueError,
        "Elman: activation must be one of tanh, relu, sigmoid, identity, softmax, gelu",
    ),
    "width of the input first": (
        lambda: jrnn.LSTM(3, 8),
        TypeError,
        "takes 1 by position (hidden), got 2, options must be given by name: forget_bias, max_lag, "
        "activation, bias; the input width is an argument of init, as in LSTM(8).init(key, in_features=3)",
    ),
    "a number for a choice of two": (
        lambda: jrnn.GRU(3, reset_after=8),
        TypeError,
        "GRU: reset_after must be True or False, got 8",
    ),
    "rate above one": (
        lambda: jrnn.Dropout(LSTM, state=1.5),
        ValueError,
        "state must be a rate in [0, 1), got 1.5",
    ),
    "rate of one": (lambda: jrnn.Stack((LSTM,), dropout=1.0), ValueError, "dropout must be a rate in [0, 1)"),
    "stack of a class": (
        lambda: jrnn.Stack((LSTM, jrnn.GRU)),
        TypeError,
        "Stack: cells[1] must be a cell, got the class GRU: call it",
    ),
    "stack of a layer": (lambda: jrnn.Stack((BOTH,)), TypeError, "Stack: cells[0] must be a cell, got Bidir"),
    "stack of one bare cell": (
        lambda: jrnn.Stack(LSTM),
        TypeError,
        "Stack: cells must be a tuple, got LSTM(",
    ),
    "empty stack": (lambda: jrnn.Stack(()), ValueError, "Stack: cells is empty, needs at least one cell"),
    "one bare layer": (
        lambda: jrnn.Sequential(BOTH),
        TypeError,
        "Sequential: layers must be a tuple, got Bidir",
    ),
    "no layers": (lambda: jrnn.Sequential([]), ValueError, "Sequential: layers is empty"),
    "module of Flax among layers": (
        lambda: jrnn.Sequential((GRU, flax.linen.Dense(3))),
        TypeError,
        "Sequential: layers[1] must be a cell, got the Flax module Dense",
    ),
    "layer classes": (
        lambda: jrnn.Sequential((jrnn.Sequential,)),
        TypeError,
        "got the class Sequential: call it",
    ),
    "class in a combinator": (
        lambda: jrnn.LearnedCarry(jrnn.GRU),
        TypeError,
        "LearnedCarry: cell must be a cell",
    ),
    "too many zoneout rates": (
        lambda: run(cell=jrnn.Zoneout(GRU, rates=(0.1, 0.2)), params=GRU_PARAMS),
        ValueError,
        "Zoneout: rates has 2 rates, needs 1: one for each entry of the state",
    ),
    "sum of different widths": (
        lambda: jrnn.Bidirectional(jrnn.GRU(3), jrnn.GRU(4), merge="sum"),
        ValueError,
        "Bidirectional: merge='sum' needs equal widths, got [3, 4]",
    ),
    "unknown merge": (
        lambda: jrnn.Bidirectional(GRU, merge="add"),
        ValueError,
        "merge must be one of concat, sum",
    ),
    "merge that keeps no rows": (
        lambda: jrnn.Bidirectional(GRU, merge=lambda a, b: (a * b).sum(0)),
        ValueError,
        "merge must return one array and keep all axes but the last, got ShapeDtypeStruct(shape=(4,)",
    ),
    "merge that keeps both": (
        lambda: jrnn.Bidirectional(GRU, merge=lambda a, b: (a, b)),
        ValueError,
        "merge must return one array and keep all axes but the last, got (ShapeDtypeStruct(",
    ),
    "function before any cell": (
        lambda: jrnn.Stack((jax.nn.relu, GRU)),
        TypeError,
        "Stack: cells[0] needs the width of its input: Map(<",
    ),
    "function of a whole row": (
        lambda: jrnn.Stack((GRU, jnp.sum)),
        ValueError,
        "Map: function must keep all axes but the last, maps ShapeDtypeStruct(shape=(2, 4)",
    ),
    "map of another width": (
        lambda: jrnn.Stack((jrnn.Map("relu", 4), GRU)).init(KEY, 3),
        ValueError,
        "Map(function='relu', features=4) needs in_features=4, got 3",
    ),
    "skip of another width": (
        lambda: jrnn.Skip(GRU, 4).init(KEY, 3),
        ValueError,
        "Skip(cell=GRU(hidden=4), features=4) needs in_features=4, got 3",
    ),
    "skip of tokens": (
        lambda: jrnn.Skip(EMBED, 4),
        ValueError,
        "Skip: Embed(features=4) takes tokens, which have no features: put Embed before it",
    ),
    "gate of tokens": (
        lambda: jrnn.Gated(EMBED),
        ValueError,
        "Gated: Embed(features=4) takes tokens, which have no features: put Embed before it",
    ),
    "block of another width": (
        lambda: jrnn.Block(LSTM).init(KEY, 3),
        ValueError,
        "Block: LSTM(hidden=4) gives 4 features, needs in_features=4 to add them to, got 3",
    ),
    "norm of another width": (
        lambda: jrnn.Norm(4, heads=2).init(KEY, 3),
        ValueError,
        "Norm(features=4, heads=2) needs in_features=4, got 3",
    ),
    "norm of heads of no equal width": (
        lambda: jrnn.Norm(4, heads=3),
        ValueError,
        "features must be a multiple of heads=3, got 4",
    ),
    "convolution of another width": (
        lambda: jrnn.ShortConv(4).init(KEY, 3),
        ValueError,
        "ShortConv(features=4) needs in_features=4, got 3",
    ),
    "chrono biases without biases": (
        lambda: jrnn.LSTM(3, max_lag=9, bias=False),
        ValueError,
        "max_lag=9 sets initial biases, so it cannot go with bias=False",
    ),
    "residual of tokens": (
        lambda: jrnn.Residual(jrnn.Stack((jrnn.Embed(4), LSTM))),
        ValueError,
        "Residual: Stack(cells=(Embed(features=4), LSTM(hidden=4))) takes tokens, which have no features",
    ),
    "residual of another width": (
        lambda: jrnn.Residual(LSTM).init(KEY, 3),
        ValueError,
        "Residual: LSTM(hidden=4) gives 4 features, needs in_features=4",
    ),
    "unknown dtype": (
        lambda: jrnn.Cast(LSTM, compute="half"),
        ValueError,
        "compute must be one of bfloat16,",
    ),
    "unknown name inside": (
        lambda: run(cell=jrnn.Tap(LSTM, ("q",))),
        ValueError,
        "the step names no 'q'; it names ['i', 'f', 'g', 'o']",
    ),
    "bare string of names": (lambda: jrnn.Tap(LSTM, "f"), TypeError, "Tap: names must be a tuple, got 'f'"),
    "inputs of a loop without flags": (
        lambda: run(cell=jrnn.Feedback(JORDAN), params=JORDAN_PARAMS),
        ValueError,
        "Feedback: xs must be (given, use_given)",
    ),
    "loop of another width": (
        lambda: fed(XS, FLAGS, jrnn.Jordan(4)),
        ValueError,
        "given has shape (2, 3), the fed back output has shape (2, 4)",
    ),
    "a flag in words": (lambda: run(reverse="no"), TypeError, "reverse must be True or False, got 'no'"),
    "a number for a batch shape": (
        lambda: LSTM.initial_carry(LSTM.init(jax.random.key(0), 3), 3),
        TypeError,
        "batch_shape must be a tuple, got 3: put it in one, as in (3,)",
    ),
    "several keys": (
        lambda: run(key=jax.random.split(jax.random.key(0))),
        TypeError,
        "key must be a random key, as in jax.random.key(0), got an array of key<fry>(2,)",
    ),
    "a key of floats": (
        lambda: run(key=jnp.ones(2)),
        TypeError,
        "key must be a random key, as in jax.random.key(0), got an array of float32(2,)",
    ),
    "a module of Linen": (
        lambda: run(cell=jrnn.linen.RNN(LSTM, 2)),
        TypeError,
        "unroll: cell must be a cell, got the Flax module RNN: pass its module.cell",
    ),
    "a module of PyTorch": (
        lambda: run(cell=type("LSTM", (), {"__module__": "torch.nn.modules.rnn"})()),
        TypeError,
        "unroll: cell must be a cell, got the PyTorch module LSTM: convert it with jrnn.interop",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_making_is_named_in_one_line(mistake):
    check(*MISTAKES[mistake])
