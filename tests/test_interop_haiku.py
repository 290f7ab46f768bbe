"""Weights from and to Haiku: the same outputs as its modules, and the same bits again.

Every weight is random, biases too. Haiku is optional: what is said of its layout is tested without it.
"""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.interop import from_haiku, to_haiku
from tests.converting import (
    BATCH,
    FIELD,
    HIDDEN,
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


GRU = jrnn.GRU(HIDDEN, reset_after=False, z_keeps=False)
RELU = jrnn.Elman(HIDDEN, activation="relu")
DEEP = jrnn.Stack((jrnn.Embed(3), jrnn.LSTM(HIDDEN), jnp.tanh, jrnn.LSTM(4), GRU, jrnn.Dense(2, bias=False)))


def conv(spatial, kernel):
    names = {1: "Conv1DLSTM", 2: "Conv2DLSTM", 3: "Conv3DLSTM"}
    model = jrnn.ConvLSTM(HIDDEN, spatial=spatial, kernel=kernel)
    return model, lambda hk: getattr(hk, names[spatial])(FIELD[:spatial], HIDDEN, kernel), None, True


def deep(hk):
    head = hk.Linear(2, with_bias=False)
    return hk.DeepRNN([hk.Embed(VOCABULARY, 3), hk.LSTM(HIDDEN), jnp.tanh, hk.LSTM(4), hk.GRU(HIDDEN), head])


LAYERS = ("embed", "lstm", jnp.tanh, "lstm_1", "gru", "linear")
CASES = {  # the model, Haiku's core, the layers, and whether a bias becomes one with another
    "VanillaRNN": (RELU, lambda hk: hk.VanillaRNN(HIDDEN), None, True),
    "VanillaRNN, one bias": (RELU, lambda hk: hk.VanillaRNN(HIDDEN, double_bias=False), None, True),
    "LSTM": (jrnn.LSTM(HIDDEN), lambda hk: hk.LSTM(HIDDEN), ["lstm"], True),
    "LSTM by a name": (jrnn.LSTM(HIDDEN), lambda hk: hk.LSTM(HIDDEN, "core"), [("core", "LSTM")], True),
    "GRU": (GRU, lambda hk: hk.GRU(HIDDEN), None, False),
    "Conv1DLSTM": conv(1, 3),
    "Conv2DLSTM": conv(2, (3, 1)),
    "Conv3DLSTM": conv(3, (1, 3, 1)),
    "DeepRNN": (DEEP, deep, LAYERS, True),
}


def core(name):
    """Haiku's core of a case, as a function of parameters and inputs."""
    hk = pytest.importorskip("haiku")

    def run(xs):
        made = CASES[name][1](hk)
        return hk.dynamic_unroll(made, xs, made.initial_state(BATCH))

    return hk.without_apply_rng(hk.transform(run))


@cache
def params_of(name):
    return drawn(jax.eval_shape(core(name).init, jax.random.key(0), inputs(CASES[name][0])))


WRITTEN = {"LSTM by a name": "LSTM", "VanillaRNN, one bias": "VanillaRNN"}  # as what to_haiku writes a case


def differences(name, dtype):
    """The largest difference of outputs and states `(in, out)`: weights from Haiku, and weights to it."""
    with jax.enable_x64(dtype == "float64"):  # its states are in the widest dtype
        model, params = from_haiku(cast(params_of(name), dtype), CASES[name][2])
        other = cast(drawn(params, seed=2), dtype)
        into = difference(name, cast(params_of(name), dtype), model, params, dtype)
        out = difference(WRITTEN.get(name, name), cast(to_haiku(model, other), dtype), model, other, dtype)
        return into, out


def difference(name, given, model, params, dtype):
    xs = cast(inputs(CASES[name][0]), dtype)
    theirs, last = jax.jit(core(name).apply)(given, xs)
    carry, ours = jrnn.apply(model, params, xs)
    assert ours.dtype == dtype
    pairs = [(ours, theirs), *zip(jax.tree.leaves(carry), jax.tree.leaves(last), strict=True)]
    if not isinstance(model, jrnn.ConvLSTM):
        _, ragged = jrnn.apply(model, params, xs, lengths=LENGTHS)
        pairs.append((ragged[VALID], theirs[VALID]))
    return float(max(apart(a, b) for a, b in pairs))


PARITY = {"Haiku": {name: partial(differences, name) for name in CASES}}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_haiku_gives_the_same_outputs(name, dtype):
    assert from_haiku(params_of(name), CASES[name][2])[0] == CASES[name][0]
    into, out = differences(name, dtype)
    assert into < TOLERANCE[dtype] and out < TOLERANCE[dtype]


@pytest.mark.parametrize("name", CASES)
def test_haiku_gets_the_same_bits_back(name):
    model, params = from_haiku(params_of(name), CASES[name][2])
    written = to_haiku(model, params)
    again = from_haiku(written, CASES[name][2] if name == "DeepRNN" else None)[1]
    rounded = ("LSTM" in name and "Conv" not in name) or name == "DeepRNN"
    if not rounded:
        same_bits(again, params)
    assert all(
        apart(a, b) < 1e-15 for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(params), strict=True)
    )
    if not CASES[name][3]:
        same_bits(written, params_of(name))


def test_names_are_those_that_haiku_gives():
    assert to_haiku(*drawn_model(DEEP, VOCABULARY)).keys() == params_of("DeepRNN").keys()


def test_modules_may_stand_in_others():
    written = to_haiku(*drawn_model(GRU))
    assert from_haiku({"agent/~/gru_3": written["gru"]})[0] == GRU
    lstm = to_haiku(*drawn_model(jrnn.LSTM(4)))["lstm/linear"]
    params = {"agent/~/lstm_1/linear": lstm, "agent/~/core/linear": lstm}
    model, found = from_haiku(params, [("agent/~/core", "LSTM")], unused=True)
    assert model == jrnn.LSTM(4)
    same_bits(found, from_haiku(params, ["agent/~/lstm_1"], unused=True)[1])


def test_conventions_of_a_gru_are_turned_by_a_sign():
    cell, params = drawn_model(jrnn.GRU(HIDDEN, reset_after=False))
    model, turned = from_haiku(to_haiku(cell, params))
    xs = inputs(cell)
    assert model == GRU
    assert apart(jrnn.unroll(model, turned, xs)[1], jrnn.unroll(cell, params, xs)[1]) < 1e-12


def test_the_forget_gate_is_exact_from_a_half_to_two():
    cell, params = drawn_model(jrnn.LSTM(HIDDEN))
    params = params._replace(b=np.linspace(0.5, 2, 4 * HIDDEN))
    same_bits(from_haiku(to_haiku(cell, params))[1], cast(params, float))


ONE = {"w": np.ones((7, 20)), "b": np.ones(20)}
REFUSED = {
    "in which they are applied; there are 'lstm', 'gru'": lambda: from_haiku(
        {"lstm/linear": ONE, "gru": {"w_i": np.ones((2, 3))}}
    ),
    "'core' is not a default name of a Haiku module": lambda: from_haiku({"core/linear": ONE}, ["core"]),
    "class must be one of VanillaRNN, LSTM, GRU": lambda: from_haiku({"a": ONE}, [("a", "GRUCell")]),
    "has no weight 'lstm_1/linear/w'": lambda: from_haiku({"lstm/linear": ONE}, ["lstm_1"]),
    "no place for 'lstm/linear/c'": lambda: from_haiku({"lstm/linear": {**ONE, "c": np.ones(2)}}),
    "no place for 'linear/w', 'linear/b'; unused=True": lambda: from_haiku(
        {"lstm/linear": ONE, "linear": ONE}, ["lstm"]
    ),
    "lstm/linear/w must have shape (in + hidden, 4·hidden), got (7, 18)": lambda: from_haiku(
        {"lstm/linear": {"w": np.ones((7, 18)), "b": np.ones(18)}}
    ),
    "lstm/linear/w must have shape (in + hidden, 4·hidden), got (4, 20)": lambda: from_haiku(
        {"lstm/linear": {"w": np.ones((4, 20)), "b": np.ones(20)}}
    ),
    "gru/w_i must have shape (in, 12), got (12, 2)": lambda: from_haiku(
        {"gru": {"w_i": np.ones((12, 2)), "w_h": np.ones((4, 12)), "b": np.ones(12)}}
    ),
    "must be a kernel over 1 to 3 axes, got 0": lambda: from_haiku({"conv2_dlstm/input_to_hidden": ONE}),
    "LSTM(hidden=5) needs inputs of width 2, Embed(features=3) before it gives 3": lambda: from_haiku(
        {"embed": {"embeddings": np.ones((7, 3))}, "lstm/linear": ONE}, ["embed", "lstm"]
    ),
    "Haiku has no activation='tanh'": lambda: to_haiku(*drawn_model(jrnn.Elman(4))),
    "Haiku has no activation='relu'": lambda: to_haiku(*drawn_model(jrnn.LSTM(4, activation="relu"))),
    "Haiku has no reset_after=True": lambda: to_haiku(*drawn_model(jrnn.GRU(4))),
    "Haiku has no equivalent of Bidirectional": lambda: to_haiku(*drawn_model(jrnn.Bidirectional(GRU))),
    "Haiku has no padding='CIRCULAR'": lambda: to_haiku(*drawn_model(jrnn.ConvLSTM(4, padding="CIRCULAR"))),
}


@pytest.mark.parametrize("message", REFUSED)
def test_haiku_what_cannot_be_is_said(message):
    with pytest.raises(ValueError, match=re.escape(message)):
        REFUSED[message]()


def test_only_haikus_parameters_are_taken():
    with pytest.raises(TypeError, match="params must be arrays by the names of modules, got"):
        from_haiku({"w": np.ones(3)})
