"""Weights from and to Equinox: the same outputs as its modules, and the same bits again.

Every weight is random, biases too. Equinox is optional: what is said of its layout is tested without it.
"""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.interop import from_equinox, to_equinox
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


CASES = {
    "LSTMCell": jrnn.LSTM(HIDDEN),
    "LSTMCell without a bias": jrnn.LSTM(HIDDEN, bias=False),
    "GRUCell": jrnn.GRU(HIDDEN),
    "GRUCell without a bias": jrnn.GRU(HIDDEN, bias=False),
}


@cache
def module_of(name):
    """An Equinox cell with random weights, in float64."""
    eqx = pytest.importorskip("equinox")
    kind, *without = name.split(" ", 1)
    make = getattr(eqx.nn, kind)
    with jax.enable_x64(True):
        module = make(IN, HIDDEN, use_bias=not without, key=jax.random.key(0))
        return cast(drawn(module), float)


def run(module, xs):
    """All h, of sequences side by side: Equinox has a step alone."""
    start = jnp.zeros(HIDDEN, xs.dtype)
    start = (start, start) if hasattr(module, "bias_n") is False else start

    def step(state, x):
        state = module(x, state)
        return state, jax.tree.leaves(state)[0]

    return jax.vmap(lambda xs: jax.lax.scan(step, start, xs)[1], 1, 1)(xs)


def filled(name, arrays):
    """An Equinox cell with these arrays by name."""
    eqx = pytest.importorskip("equinox")
    names, values = zip(*arrays.items(), strict=True)
    return eqx.tree_at(lambda m: [getattr(m, name) for name in names], module_of(name), values)


def differences(name, dtype):
    """The largest difference of outputs `(in, out)`: weights from Equinox, and weights to it."""
    xs = cast(inputs(CASES[name]), dtype)
    model, params = from_equinox(cast(module_of(name), dtype))
    other = cast(drawn(params, seed=2), dtype)
    pairs = (module_of(name), params), (filled(name, to_equinox(model, other)), other)
    found = []
    for module, own in pairs:
        _, ours = jrnn.unroll(model, own, xs, lengths=LENGTHS)
        assert ours.dtype == dtype
        theirs = jax.jit(run)(cast(module, dtype), xs)
        found.append(float(apart(ours[VALID], theirs[VALID])))
    return tuple(found)


PARITY = {"Equinox": {name: partial(differences, name) for name in CASES}}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_equinox_gives_the_same_outputs(name, dtype):
    assert from_equinox(module_of(name))[0] == CASES[name]
    into, out = differences(name, dtype)
    assert into < TOLERANCE[dtype] and out < TOLERANCE[dtype]


@pytest.mark.parametrize("name", CASES)
def test_equinox_gets_the_same_bits_back(name):
    model, params = from_equinox(module_of(name))
    same_bits(from_equinox(to_equinox(model, params))[1], params)
    arrays = to_equinox(model, params)
    same_bits(filled(name, arrays), module_of(name))
    assert len(arrays) == len(jax.tree.leaves(module_of(name)))


def test_a_list_becomes_a_stack():
    eqx = pytest.importorskip("equinox")
    embed = eqx.nn.Embedding(VOCABULARY, 3, key=jax.random.key(0))
    cell = eqx.nn.LSTMCell(3, HIDDEN, key=jax.random.key(1))
    head = eqx.nn.Linear(HIDDEN, 2, key=jax.random.key(2))
    model, params = from_equinox([embed, cell, jnp.tanh, head])
    assert model == jrnn.Stack((jrnn.Embed(3), jrnn.LSTM(HIDDEN), jnp.tanh, jrnn.Dense(2)))
    xs = inputs(model)
    _, ours = jrnn.unroll(model, params, xs)
    read = jax.vmap(jax.vmap(lambda h: head(jnp.tanh(h))))
    assert apart(ours, read(run(cell, jax.vmap(jax.vmap(embed))(xs)))) < 1e-10
    table, rows, w = to_equinox(model, params)
    same_bits(table["weight"], embed.weight)
    same_bits(rows["weight_ih"], cell.weight_ih)
    same_bits((w["weight"], w["bias"]), (head.weight, head.bias))


ONES = {"weight_ih": np.ones((12, 2)), "weight_hh": np.ones((12, 4)), "bias": np.ones(12)}
REFUSED = {
    "no weight 'bias_n'": lambda: from_equinox(ONES),
    "no place for 'scale'; unused=True": lambda: from_equinox(
        {**ONES, "bias_n": np.ones(4), "scale": ONES["bias"]}
    ),
    "weight_ih must have shape (12, in), got (2, 12)": lambda: from_equinox(
        {**ONES, "weight_ih": np.ones((2, 12))}
    ),
    "weight_hh must have rows for 3 or 4 gates of 12 units, got (4, 12)": lambda: from_equinox(
        {**ONES, "weight_hh": np.ones((4, 12))}
    ),
    "is not an LSTMCell, GRUCell, Linear or Embedding: it has ['weight']": lambda: from_equinox(
        {"weight": np.ones((3, 2))}
    ),
    "Equinox has no reset_after=False": lambda: to_equinox(*drawn_model(jrnn.GRU(4, reset_after=False))),
    "Equinox has no activation='relu'": lambda: to_equinox(*drawn_model(jrnn.LSTM(4, activation="relu"))),
    "Equinox has no equivalent of Elman": lambda: to_equinox(*drawn_model(jrnn.Elman(4))),
}


@pytest.mark.parametrize("message", REFUSED)
def test_equinox_what_cannot_be_is_said(message):
    with pytest.raises(ValueError, match=re.escape(message)):
        REFUSED[message]()


def test_a_module_of_ones_own_is_taken_by_its_parts():
    with pytest.raises(ValueError, match=r"GRU has no arrays: pass its parts, of hidden, .*, as a list"):
        from_equinox(jrnn.GRU(4))  # a dataclass without arrays
    with pytest.raises(TypeError, match="source must be an Equinox module or a dictionary of its arrays"):
        from_equinox(3)
