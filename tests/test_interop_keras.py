"""Weights from and to Keras: the same outputs, masks included.

In float64 softsign takes the place of tanh, which Keras computes in float32 whatever it is given.
"""

import contextlib
import dataclasses
import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.interop import from_keras, to_keras
from jrnn.interop.keras import NEEDS

os.environ["KERAS_BACKEND"] = "jax"
keras = pytest.importorskip("keras", reason="Keras is not installed")
L = keras.layers

STEPS, IN, HIDDEN, WORDS, FIELD = 5, 3, 4, 7, 6
MASK = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [1, 0, 0, 0, 0]], bool).T  # a hole, and padding

CASES = [  # a layer, its options
    ("SimpleRNN", {}),
    ("SimpleRNN", {"activation": "leaky_relu", "use_bias": False}),
    ("SimpleRNN", {"return_sequences": False}),
    ("GRU", {}),
    ("GRU", {"reset_after": False}),
    ("GRU", {"use_bias": False, "activation": "softsign", "recurrent_activation": "hard_sigmoid"}),
    ("GRU", {"reset_after": False, "use_bias": False}),
    ("LSTM", {}),
    ("LSTM", {"use_bias": False, "unit_forget_bias": False}),
    ("LSTM", {"activation": "relu", "recurrent_activation": "hard_sigmoid"}),
    ("LSTM", {"dropout": 0.2, "recurrent_dropout": 0.3, "stateful": False}),
    ("LSTM", {"return_sequences": False, "go_backwards": True}),
    ("Bidirectional", {"layer": "LSTM"}),
    ("Bidirectional", {"layer": "GRU", "merge_mode": "sum"}),
    ("Bidirectional", {"layer": "SimpleRNN", "merge_mode": "mul"}),
    ("Bidirectional", {"layer": "LSTM", "merge_mode": "ave"}),
    ("Bidirectional", {"layer": "GRU", "return_sequences": False}),
    ("RNN", {"cells": ("LSTMCell", "GRUCell", "SimpleRNNCell")}),
    ("RNN", {"cells": ("GRUCell",)}),
    ("ConvLSTM1D", {"kernel_size": 3, "padding": "same"}),
    ("ConvLSTM1D", {"kernel_size": 3, "padding": "valid", "strides": 2, "use_bias": False}),
    ("ConvLSTM2D", {"kernel_size": (3, 1), "padding": "same", "return_sequences": False}),
    ("ConvLSTM2D", {"kernel_size": (2, 4), "padding": "same", "strides": 2}),
    ("ConvLSTM3D", {"kernel_size": 3, "padding": "valid"}),
    ("Embedding", {"mask_zero": True}),
    ("Dense", {"activation": "softmax"}),
    ("TimeDistributed", {"use_bias": False}),
]


RECURRENT = ("SimpleRNN", "GRU", "LSTM", "Bidirectional", "RNN")


@contextlib.contextmanager
def computing(dtype):
    """Have Keras, and JAX, compute in a dtype."""
    before = keras.config.floatx()
    try:
        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(dtype)
        with jax.enable_x64(dtype == "float64"):
            yield
    finally:
        keras.config.set_floatx(before)
        keras.config.set_dtype_policy(before)


def layer_of(name, options):
    if name not in ("Embedding", "Dense", "TimeDistributed") and "return_sequences" not in options:
        options = {"return_sequences": True, "zero_output_for_mask": True, **options}
    if name == "Bidirectional":
        own = ("return_sequences", "zero_output_for_mask", "activation")
        inner = {key: options[key] for key in own if key in options}
        options = {key: value for key, value in options.items() if key not in inner}
        return L.Bidirectional(getattr(L, options.pop("layer"))(HIDDEN, **inner), **options)
    if name == "RNN":
        inner = {"activation": options.pop("activation", "tanh")}
        cells = [getattr(L, cell)(HIDDEN + i, **inner) for i, cell in enumerate(options.pop("cells"))]
        return L.RNN(L.StackedRNNCells(cells) if len(cells) > 1 else cells[0], **options)
    if name == "Embedding":
        return L.Embedding(WORDS, HIDDEN, **options)
    if name == "TimeDistributed":
        return L.TimeDistributed(L.Dense(HIDDEN, **options))
    return getattr(L, name)(HIDDEN, **options)


def inputs(name):
    rng = np.random.default_rng(0)
    if name == "Embedding":
        return rng.integers(0, WORDS, (STEPS, MASK.shape[1]))
    field = (FIELD,) * int(name[-2]) if name.startswith("ConvLSTM") else ()
    return rng.normal(size=(STEPS, MASK.shape[1], *field, IN)).astype(np.float32)


def randomized(layer):
    rng = np.random.default_rng(1)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
    return layer


def theirs(layer, xs, mask=None):
    xs = np.swapaxes(xs, 0, 1)
    return np.asarray(layer(xs) if mask is None else layer(xs, mask=jnp.asarray(mask.T)))


def ours(model, params, xs, mask=None):
    ys = np.asarray(jrnn.apply(model, params, xs, mask=mask)[1])
    return ys if isinstance(model, jrnn.ManyToOne) else np.swapaxes(ys, 0, 1)


def redrawn(params):
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), params)


def rebuilt(model, params, xs):
    """The model in Keras."""
    config, weights = to_keras(model, params)
    layer = keras.Sequential.from_config(config)
    if not layer.built:
        layer.build((None, *np.swapaxes(xs, 0, 1).shape[1:]))
    layer.set_weights(weights)
    return layer


@functools.cache
def differences(number, dtype="float32"):
    """Largest difference of outputs `(in, out)`: weights from Keras, and weights to it."""
    with computing(dtype):
        name, options = CASES[number]
        if dtype == "float64" and name in RECURRENT:
            options = {"activation": "softsign", **options}
        return _differences(name, options, dtype)


def _differences(name, options, dtype):
    layer, xs = layer_of(name, options), inputs(name)
    xs = xs.astype(dtype) if xs.dtype.kind == "f" else xs
    mask = MASK if name in ("SimpleRNN", "GRU", "LSTM", "Bidirectional", "RNN") else None
    layer.build(np.swapaxes(xs, 0, 1).shape)
    model, params = from_keras(randomized(layer))
    expected = theirs(layer, xs, mask)
    assert np.ptp(expected) > 0.1
    into = np.abs(ours(model, params, xs, mask) - expected).max()
    params = redrawn(params)
    out = np.abs(ours(model, params, xs, mask) - masked(rebuilt(model, params, xs), xs, mask)).max()
    return float(into), float(out)


def masked(model, xs, mask):
    """The layers of a model one by one, each with the mask and with zeros where it does not hold."""
    for layer in model.layers:
        for inner in (getattr(layer, "forward_layer", layer), getattr(layer, "backward_layer", layer)):
            inner.zero_output_for_mask = getattr(inner, "return_sequences", False)
        xs = np.swapaxes(theirs(layer, xs, mask), 0, 1)
    return np.swapaxes(xs, 0, 1)


def named(case):
    name, options = case
    return " ".join([name, *(f"{key}={value}" for key, value in options.items())])


PARITY = {"Keras": {named(case): functools.partial(differences, i) for i, case in enumerate(CASES)}}


@pytest.mark.parametrize("number", range(len(CASES)), ids=[named(case) for case in CASES])
def test_outputs_are_those_of_keras(number):
    into, out = differences(number)
    assert into < 1e-5 and out < 1e-5


@pytest.mark.parametrize("number", [1, 4, 7, 13, 17, 24], ids=lambda number: named(CASES[number]))
def test_they_are_in_float64(number):
    into, out = differences(number, "float64")
    assert into < 1e-10 and out < 1e-10


@pytest.mark.parametrize("number", range(len(CASES)), ids=[named(case) for case in CASES])
def test_a_round_trip_keeps_every_bit(number):
    name, options = CASES[number]
    layer = layer_of(name, options)
    layer.build(np.swapaxes(inputs(name), 0, 1).shape)
    model, params = from_keras(randomized(layer))
    config, weights = to_keras(model, params)
    again, params_again = from_keras(json.loads(json.dumps(config)), weights)
    assert again == model
    assert jax.tree.structure(params) == jax.tree.structure(params_again)
    for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(params_again), strict=True):
        assert one.tobytes() == other.tobytes()


def test_bfloat16_and_float64_keep_their_dtype():
    for dtype in ("bfloat16", "float64"):
        with jax.enable_x64(True):
            model = jrnn.Bidirectional(jrnn.GRU(HIDDEN))
            spec = jax.eval_shape(lambda model=model: model.init(jax.random.key(0), IN))
            params = jax.tree.map(lambda leaf, dtype=dtype: jnp.full(leaf.shape, 1 / 3, dtype), spec)
            config, weights = to_keras(model, params)
            assert {weight.dtype.name for weight in weights} == {dtype}
            theirs = keras.Sequential.from_config(config)
            theirs.set_weights(weights)
            again, params_again = from_keras(theirs)
            assert again == model
            assert jax.tree.all(jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), params, params_again))


def test_models_are_those_that_a_user_of_jrnn_writes():
    def model(name, **options):
        layer = layer_of(name, options)
        layer.build(np.swapaxes(inputs(name), 0, 1).shape)
        return from_keras(layer)[0]

    lstm = jrnn.LSTM(HIDDEN)
    assert model("LSTM") == model("LSTM", unit_forget_bias=False) == model("LSTM", stateful=False) == lstm
    assert model("LSTM", return_sequences=False) == jrnn.ManyToOne(lstm)
    assert model("GRU", reset_after=False) == jrnn.GRU(HIDDEN, reset_after=False)
    assert model("LSTM", dropout=0.1, recurrent_dropout=0.2) == jrnn.Dropout(lstm, input=0.1, state=0.2)
    assert model("Bidirectional", layer="LSTM", merge_mode="ave") == jrnn.Bidirectional(lstm, merge="mean")
    assert model("RNN", cells=("LSTMCell", "GRUCell")) == jrnn.Stack((lstm, jrnn.GRU(HIDDEN + 1)))
    gated = model("LSTM", recurrent_activation="hard_sigmoid")
    assert gated == jrnn.LSTMVariant(HIDDEN, gate_activation="hard_sigmoid")
    convolutional = model("ConvLSTM2D", kernel_size=(3, 1), strides=2, padding="same")
    assert convolutional == jrnn.ConvLSTM(HIDDEN, kernel=(3, 1), strides=2)


def classifier():
    layers = [
        keras.Input((None,), dtype="int32"),
        L.Embedding(WORDS, IN, mask_zero=True),
        L.SpatialDropout1D(0.3),
        L.LSTM(HIDDEN, return_sequences=True),
        L.Activation("relu"),
        L.Bidirectional(L.GRU(HIDDEN)),
        L.Dropout(0.5),
        L.Dense(2, activation="softmax"),
    ]
    return randomized(keras.Sequential(layers))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras, as it saves
def test_a_classifier_with_a_mask(tmp_path):
    module = classifier()
    module.save_weights(tmp_path / "x.weights.h5")
    again = classifier()
    again.load_weights(tmp_path / "x.weights.h5")
    lstm, gru = jrnn.LSTM(HIDDEN), jrnn.Bidirectional(jrnn.GRU(HIDDEN))
    layers = (jrnn.Embed(IN), lstm, jrnn.Map("relu", HIDDEN), gru, jrnn.Dense(2, activation="softmax"))
    tokens = np.array([[3, 1, 0, 5, 0], [2, 0, 0, 0, 0]]).T
    expected = np.asarray(module(tokens.T))
    weights = [np.asarray(weight) for weight in module.weights]
    for given in ((again,), (module.get_config(), weights), (json.loads(module.to_json()), weights)):
        model, params = from_keras(*given)
        assert model == jrnn.ManyToOne(jrnn.Sequential(layers))
        _, ys = jrnn.apply(model, params, tokens, mask=tokens != 0)
        np.testing.assert_allclose(ys, expected, atol=1e-5)
    kinds = ["InputLayer", "Embedding", "LSTM", "Activation", "Bidirectional", "Dense"]
    assert [layer["class_name"] for layer in to_keras(model, params)[0]["layers"]] == kinds


def test_a_functional_chain_with_a_mask():
    i = keras.Input((None,), dtype="int32")
    e = L.Embedding(WORDS, IN, mask_zero=True)(i)
    h = L.Bidirectional(L.GRU(HIDDEN, return_sequences=True))(L.Dropout(0.1)(e))
    y, *states = L.LSTM(HIDDEN, return_state=True)(h)
    module = randomized(keras.Model(i, L.Dense(2)(y)))
    model, params = from_keras(module)
    layers = jrnn.Embed(IN), jrnn.Bidirectional(jrnn.GRU(HIDDEN)), jrnn.LSTM(HIDDEN), jrnn.Dense(2)
    assert model == jrnn.ManyToOne(jrnn.Sequential(layers))
    tokens = np.array([[3, 1, 0, 5, 0], [2, 0, 0, 0, 0]]).T
    expected = module(tokens.T)
    _, ys = jrnn.apply(model, params, tokens, mask=tokens != 0)
    np.testing.assert_allclose(ys, expected, atol=1e-5)
    again, _ = from_keras(json.loads(module.to_json()), [np.asarray(w) for w in module.weights])
    assert again == model
    stateful, _ = from_keras(keras.Model(i, [y, *states]))  # which the carry holds
    assert stateful == jrnn.ManyToOne(jrnn.Sequential(layers[:3]))


def test_models_inside_models_are_opened():
    inner = keras.Sequential([L.GRU(HIDDEN, return_sequences=True), L.Dense(2)])
    module = randomized(keras.Sequential([keras.Input((None, IN)), inner, L.Masking(), L.SimpleRNN(3)]))
    model, params = from_keras(module)
    assert model.model.layers == (jrnn.GRU(HIDDEN), jrnn.Dense(2), jrnn.Elman(3))
    xs = inputs("GRU")
    assert np.abs(ours(model, params, xs) - theirs(module, xs)).max() < 1e-5


def test_dropout_between_cells_becomes_layers():
    model = jrnn.Stack((jrnn.Embed(3), jrnn.Dropout(jrnn.LSTM(4), input=0.1), jrnn.Dense(2)), dropout=0.5)
    params = redrawn(jax.eval_shape(lambda: model.init(jax.random.key(0), WORDS)))
    config, weights = to_keras(model, params)
    kinds = ["InputLayer", "Embedding", "Dropout", "LSTM", "Dropout", "Dense"]
    assert [layer["class_name"] for layer in config["layers"]] == kinds
    assert config["layers"][2]["config"] == {"rate": 0.5} and config["layers"][3]["config"]["dropout"] == 0.1
    module = keras.Sequential.from_config(config)
    module.set_weights(weights)
    tokens = inputs("Embedding")
    assert np.abs(theirs(module, tokens) - ours(model, params, tokens)).max() < 1e-5


def given(name, **options):
    layer = layer_of(name, options)
    layer.build(np.swapaxes(inputs(name), 0, 1).shape)
    return layer


BAD = {
    "go_backwards=True returns the sequence reversed": lambda: given("LSTM", go_backwards=True),
    "recurrent_activation must be one of .*, got 'mish'": lambda: given("GRU", recurrent_activation="mish"),
    "activation must be one of .*, got 'gelu'": lambda: given("LSTM", activation="gelu"),
    "merge_mode must be one of concat.*, got None; .* the halves": lambda: given(
        "Bidirectional", layer="GRU", merge_mode=None
    ),
    "ConvLSTM has no activation='relu'": lambda: given("ConvLSTM1D", kernel_size=3, activation="relu"),
    "is a Conv1D, for which jrnn has no cell": lambda: L.Conv1D(3, 2),
    "an Activation needs a layer before it": lambda: L.Activation("relu"),
    r"is no chain: add\w* reads \['gru\w*', 'dense\w*'\]": lambda: keras.Model(
        i := keras.Input((None, 3)), L.Add()([L.GRU(2, return_sequences=True)(i), L.Dense(2)(i)])
    ),
    r"is no chain: gru\w* reads \['input\w*', 'input\w*'\]": lambda: keras.Model(
        [i := keras.Input((None, 3)), h := keras.Input((2,))], L.GRU(2)(i, initial_state=h)
    ),
    "has the outputs .*: only one": lambda: keras.Model(
        i := keras.Input((None, 3)), [L.GRU(2)(i), L.Dense(2)(i)]
    ),
    "no layer that computes anything": lambda: L.Masking(),
    "allows only Dense after it": lambda: keras.Sequential(
        [keras.Input((None, 3)), L.GRU(2), L.Embedding(WORDS, 2), L.GRU(2)]
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_what_jrnn_lacks_is_refused(message):
    with pytest.raises(ValueError, match=message):
        from_keras(BAD[message]())


def test_weights_that_do_not_fit_are_named():
    layer = {"class_name": "LSTM", "config": given("LSTM").get_config() | {"name": "a"}}
    w_ih, w_hh, b = (np.ones(shape, np.float32) for shape in ((IN, 16), (HIDDEN, 16), (16,)))
    bad = [
        ([], "weights ends before a/kernel"),
        ([w_ih, w_hh], "weights ends before a/bias"),
        ([w_ih, w_hh.T, b], r"a/recurrent_kernel must have shape \(4, 16\), got \(16, 4\)"),
        ([w_ih.T, w_hh, b], r"a/kernel must have shape \(in, 16\), got \(16, 3\)"),
        ([w_ih, w_hh, b, b], r"1 more than the layers have, of shapes \[\(16,\)\]"),
        ([w_ih.astype(np.int8), w_hh, b], "a/kernel must hold floating point numbers, got int8"),
    ]
    for weights, message in bad:
        with pytest.raises(ValueError, match=message):
            from_keras(layer, weights)
    with pytest.raises(TypeError, match="its configuration and weights"):
        from_keras(layer)
    with pytest.raises(TypeError, match="weights must be None with a layer"):
        from_keras(given("LSTM"), [w_ih, w_hh, b])
    with pytest.raises(ValueError, match="a layer is its class_name and its config"):
        from_keras(layer["config"], [w_ih, w_hh, b])
    with pytest.raises(ValueError, match="has no 'units'"):
        from_keras({"class_name": "GRU", "config": {}}, [w_ih, w_hh, b])


@pytest.mark.parametrize("kind", NEEDS, ids=lambda kind: kind.__name__)
def test_every_option_of_a_cell_is_looked_at(kind):
    own = {"hidden", "features", "bias", "z_keeps", "reset_after", "kernel", "spatial", "strides", "dilation"}
    own |= {"output_activation"} if kind is jrnn.LSTMVariant else set()  # compared with the other one
    starts = {"forget_bias", "max_lag", "recurrent_init"}
    assert {field.name for field in dataclasses.fields(kind)} - own - starts == set(NEEDS[kind])


REFUSED = {
    "z can only be negated if gates are σ": jrnn.GRU(3, z_keeps=False, gate_activation="tanh"),
    "p of .*Keras has no peepholes='diagonal'": jrnn.LSTMVariant(3, peepholes="diagonal"),
    "w_hr of .*no projection=2": jrnn.LSTMVariant(3, projection=2),
    "one activation for g and for h": jrnn.LSTMVariant(3, output_activation="relu"),
    "no padding='CIRCULAR'": jrnn.ConvLSTM(3, spatial=1, padding="CIRCULAR"),
    "no clip=1.0": jrnn.GRU(3, clip=1.0),
    "no activation='gelu'": jrnn.Dense(3, activation="gelu"),
    "aligns ys.t. with xs.t.": jrnn.Reversed(jrnn.GRU(3)),
    "no read='mean'": jrnn.ManyToOne(jrnn.GRU(3), read="mean"),
    "no recurrent layer": jrnn.ManyToOne(jrnn.Dense(3)),
    "drops only the input and the state": jrnn.Dropout(jrnn.GRU(3), output=0.5),
    "StackedRNNCells has no dropout=0.5": jrnn.Bidirectional(jrnn.Stack((jrnn.GRU(3),) * 2, dropout=0.5)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_keras_lacks_is_refused_by_weight_and_convention(message):
    model = REFUSED[message]
    params = redrawn(jax.eval_shape(lambda: model.init(jax.random.key(0), 2)))
    with pytest.raises(ValueError, match=message):
        to_keras(model, params)


OTHERS = [
    jrnn.MinGRU(3),
    jrnn.Zoneout(jrnn.GRU(3)),
    jrnn.Bidirectional(jrnn.Dense(3)),
    jrnn.Bidirectional(jrnn.Stack((jrnn.GRU(3), jrnn.Dense(3)))),
]


@pytest.mark.parametrize("model", OTHERS, ids=repr)
def test_other_cells_are_refused(model):
    params = redrawn(jax.eval_shape(lambda: model.init(jax.random.key(0), 2)))
    with pytest.raises(TypeError, match=r"^0.*: Keras has no recurrent layer of"):
        to_keras(model, params)


def test_stacks_inside_a_bidirectional_are_stacked_cells():
    model = jrnn.Bidirectional(jrnn.Stack((jrnn.GRU(3, z_keeps=False), jrnn.LSTM(2))))
    params = redrawn(jax.eval_shape(lambda: model.init(jax.random.key(0), IN)))
    xs = inputs("GRU")
    module = rebuilt(model, params, xs)
    assert np.abs(ours(model, params, xs) - theirs(module, xs)).max() < 1e-5
    assert from_keras(module)[0] == jrnn.Bidirectional(jrnn.Stack((jrnn.GRU(3), jrnn.LSTM(2))))
