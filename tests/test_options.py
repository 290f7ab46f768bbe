"""Fields of every public cell, combinator and layer: their order, their types, what is stored of them."""

import copy
import dataclasses
import functools
import inspect
import json
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.cells._activations import ACTIVATIONS
from jrnn.checkpoint.cells import cell_from_json, cell_to_json
from tests.cases import CASES
from tests.test_house import MODELS

GRU = jrnn.GRU(4)
PARTS = [  # what cells hold beside cells
    jrnn.SpectralNorm(0.9, iterations=3),
    jrnn.LowRank(2),
    jrnn.DropConnect(0.5),
    jrnn.DenseBridge("relu"),
    jrnn.attention.Additive(3),
    jrnn.attention.Dot(scaled=True),
    jrnn.attention.Location(7),
    jrnn.attention.Local(jrnn.attention.General(), 2.0),
]
LAYERS = [
    jrnn.Bidirectional(GRU, jrnn.LSTM(4), merge="sum"),
    jrnn.Reversed(GRU),
    jrnn.Sequential((GRU, jrnn.Dense(3))),
    jrnn.ManyToOne(GRU, read="max"),
    jrnn.EncoderDecoder(GRU, GRU, bridge=jrnn.CopyBridge(), target_features=4),
    jrnn.CRF(5),
    jrnn.BahdanauAttention(GRU, jrnn.attention.Additive(6), 11),
    jrnn.LuongAttention(GRU, jrnn.attention.General(), 11, 6),
]
VALUES = [case.cell for case in CASES] + LAYERS + PARTS
EXAMPLES = {type(value): value for value in VALUES if type(value) in MODELS or value in PARTS}

# by the kind of value that a field holds: what it must not take
WRONG = {
    bool: (8, 1.0, "yes", np.ones(2, bool)),
    int: (True, np.True_, 2.5, 4.0, np.float32(4), "4", -1, jnp.ones(2, int)),
    float: (True, "0.5", np.nan, np.inf, 1j, np.ones(2)),
    str: (8, True, "nonsense", b"tanh", jnp.tanh(1.0)),
    tuple: (8, "i", (True,), ("nonsense", 8)),
}
ELSEWHERE = {  # any string may be the name of a parameter, until `init`
    (jrnn.Reparametrize, "name"),
    (jrnn.Tie, "source"),
    (jrnn.Tie, "target"),
}


def test_help_shows_types_and_not_how_they_are_checked():
    assert str(inspect.signature(jrnn.LSTM)).startswith("(hidden: int, *, forget_bias: float = 1.0, max_lag")
    assert not [kind for kind in EXAMPLES if "Annotated" in str(inspect.signature(kind))]


def fields_of(kind):
    return [field for field in dataclasses.fields(kind) if field.init]


def given(value):
    return {field.name: getattr(value, field.name) for field in fields_of(type(value))}


def test_every_model_has_an_example():
    assert set(MODELS) <= set(EXAMPLES)


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)
def test_options_go_by_name_alone(kind):
    """What has a default is an option; torch's order, the width of the input first, is told."""
    fields = fields_of(kind)
    first = [f.name for f in fields if not f.kw_only]
    optional = [f.name for f in fields if f.default is not dataclasses.MISSING]
    alone = (
        {"backward", "rates", "names", "bound", "activation"}
        if len(first) == len(fields)
        else {"backward", "bound"}
    )
    assert set(optional) & set(first) <= alone
    values = [getattr(EXAMPLES[kind], name) for name in first]
    with pytest.raises(TypeError) as caught:
        kind(*values, 8)
    message = str(caught.value)
    assert message.startswith(f"{kind.__name__} takes {len(first)} by position ({', '.join(first)}), got ")
    assert all(f.name in message for f in fields)
    if first in (["hidden"], ["features"]):
        with pytest.raises(TypeError, match=re.escape(f"{kind.__name__}(8).init(key, in_features=3)")):
            kind(3, 8)


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)
def test_an_unknown_option_is_told_with_those_that_there_are(kind):
    with pytest.raises(TypeError, match=rf"{kind.__name__} has no option 'num_layers', it takes .") as caught:
        kind(**given(EXAMPLES[kind]), num_layers=2)
    assert all(f.name in str(caught.value) for f in fields_of(kind))


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)
def test_a_field_refuses_what_is_not_of_its_kind(kind):
    plain = given(EXAMPLES[kind])
    for name, value in plain.items():
        wrong = next((wrong for base, wrong in WRONG.items() if isinstance(value, base)), (True, jrnn.GRU))
        for other in (v for v in wrong if not (isinstance(v, str) and (kind, name) in ELSEWHERE)):
            with pytest.raises((TypeError, ValueError), match=rf"(^|[: ]){name}\b") as caught:
                kind(**plain | {name: other})
            assert "\n" not in str(caught.value)


def numbers_of(value, whole, real):
    if isinstance(value, tuple):
        return [numbers_of(entry, whole, real) for entry in value]  # a list, which is a tuple soon
    if isinstance(value, bool):
        return np.bool_(value)
    return whole(value) if isinstance(value, int) else real(value) if isinstance(value, float) else value


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    ("whole", "real"),
    [(np.int64, np.float64), (np.uint8, float), (np.array, np.array), (jnp.int32, float)],
    ids=["NumPy", "bytes", "arrays", "JAX"],
)
def test_numbers_of_arrays_are_stored_as_plain_ones(kind, whole, real):
    for value in (v for v in VALUES if type(v) is kind):
        same = kind(**{name: numbers_of(entry, whole, real) for name, entry in given(value).items()})
        assert same == value and hash(same) == hash(value) and repr(same) == repr(value)
        assert json.dumps(cell_to_json(same)) == json.dumps(cell_to_json(value))


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_survive_copies_and_print_as_they_are_written(value):
    assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value) == dataclasses.replace(value) == value
    if type(value).__name__ in jrnn.__all__ and type(value) in MODELS:
        assert cell_from_json(json.loads(json.dumps(cell_to_json(value)))) == value
    names = {name: getattr(jrnn, name) for name in dir(jrnn)} | vars(jrnn.attention)
    if "Attending" not in repr(value):
        assert eval(repr(value), names) == value


def test_whole_numbers_for_floats_print_as_they_are_written():
    for two in (2, np.int64(2), jnp.int32(2)):
        cell = jrnn.LSTM(3, forget_bias=two)
        assert repr(cell) == "LSTM(hidden=3, forget_bias=2)"
        assert cell == jrnn.LSTM(3, forget_bias=2.0) and hash(cell) == hash(jrnn.LSTM(3, forget_bias=2.0))


def test_a_traced_width_is_refused_by_name():
    with pytest.raises(TypeError, match="GRU: hidden must be an int, got "):
        jax.jit(lambda n: jrnn.GRU(n).init(jax.random.key(0), 2))(4)


def test_widths_given_to_functions_are_numbers_of_numpy_as_well():
    cell, four = jrnn.Project(jrnn.GRU(8), 3), np.int64(4)
    params = cell.init(jax.random.key(0), np.int64(3))
    xs = jnp.ones((5, 2, 3))
    assert jrnn.forecast(cell, params, xs, four)[1].shape == (4, 2, 3)
    assert jrnn.one_to_many(cell, params, xs[0], four, then="output")[1].shape == (4, 2, 3)
    assert jrnn.delayed(cell, params, xs, four)[1].shape == (5, 2, 3)


# activations: by name, or any function


def cubed(z):
    return z**3


SOFTMAX = functools.partial(jax.nn.softmax, axis=-1)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_function_that_has_a_name_is_stored_by_it(name):
    assert jrnn.Elman(3, activation=ACTIVATIONS[name]) == jrnn.Elman(3, activation=name)


def test_a_function_without_a_name_is_taken_as_it_is():
    dense = jrnn.Dense(4, activation=SOFTMAX)
    params = dense.init(jax.random.key(0), 3)
    _, y = dense.step(params, (), jnp.ones((2, 3)))
    np.testing.assert_allclose(y, jax.nn.softmax(jnp.ones((2, 3)) @ params.w + params.b), rtol=1e-6)
    assert dense == jrnn.Dense(4, activation=SOFTMAX) != jrnn.Dense(4, activation=lambda z: SOFTMAX(z))
    cube = jrnn.Dense(4, activation=cubed)
    assert pickle.loads(pickle.dumps(cube)) == cube  # by the name of the function in its module
    with pytest.raises(TypeError, match=r"Dense\.activation must be a number, string"):
        cell_to_json(dense)


def test_an_option_prints_where_it_is_not_the_default():
    deep = jrnn.Stack((jrnn.Embed(4), jrnn.GRU(8), jrnn.LSTM(8, max_lag=9), jrnn.Dense(3)), dropout=0.0)
    cells = "(Embed(features=4), GRU(hidden=8), LSTM(hidden=8, max_lag=9), Dense(features=3))"
    assert repr(deep) == f"Stack(cells={cells})"
    assert repr(jrnn.Zoneout(jrnn.GRU(8))) == "Zoneout(cell=GRU(hidden=8), rates=0.1)"
