"""Cells that a peer keeps under another name, or makes of options: the same weights, the same answers.

Beside `tests/test_peers.py`, whose means it shares: float64, every parameter random, ys, last carry and the
gradients of both with respect to params, start and inputs.
"""

import os
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jrnn
from jrnn.cells.gru import GRUParams
from jrnn.cells.lstm import LSTMCarry, LSTMParams
from tests.test_peers import (
    BATCH,
    HIDDEN,
    IN,
    LENGTHS,
    RUNS,
    STEPS,
    VALID,
    answer,
    assert_same,
    biased,
    columns,
    draw,
    energy,
    kernels,
    linen_peer,
    linen_simple,
    nnx_fused,
    nnx_lstm,
    nnx_optimized,
    nnx_peer,
)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


@cache
def unrolled(cell, how, change=None):
    """What jrnn answers to `draw(cell)`, on `change(params)`; computed once for all peers."""
    changed = change or (lambda params: params)
    run = lambda params, carry, xs: jrnn.unroll(cell, changed(params), xs, carry, **RUNS[how])
    return answer(run, draw(cell))


# PyTorch: a projected LSTM is an option of its LSTM.

PROJECTED = jrnn.LSTMVariant(HIDDEN, projection=2)


def torch_weights(torch, p, suffix=""):
    second = torch.linspace(-0.5, 0.5, len(p.b)).double()
    weights = {"weight_ih": p.w_ih.T, "weight_hh": p.w_hh.T, "weight_hr": p.w_hr.T}
    weights |= {"bias_ih": p.b - second, "bias_hh": second}
    return {f"{name}_l0{suffix}": value for name, value in weights.items()}


def torch_projected(arguments, lengths=None):
    """Last carries, ys and gradients; `arguments` are params, carry of each direction, and xs."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    leaves, structure = jax.tree.flatten(arguments)
    tensors = [torch.tensor(leaf, requires_grad=True) for leaf in leaves]
    params, carries, x = jax.tree.unflatten(structure, tensors)
    if lengths is not None:
        x = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    module = torch.nn.LSTM(IN, HIDDEN, proj_size=2, bidirectional=len(params) == 2).double()
    weights = {}
    for p, suffix in zip(params, ("", "_reverse"), strict=False):
        weights |= torch_weights(torch, p, suffix)
    start = tuple(torch.stack(parts) for parts in zip(*((c.h, c.c) for c in carries), strict=True))
    ys, last = torch.func.functional_call(module, weights, (x, start))
    if lengths is not None:
        ys, _ = torch.nn.utils.rnn.pad_packed_sequence(ys)
    energy(ys, last).backward()
    h, c = (part.detach().numpy() for part in last)
    last = [carry._replace(h=h[k], c=c[k]) for k, carry in enumerate(arguments[1])]
    return (last, ys.detach().numpy()), jax.tree.unflatten(structure, [t.grad.numpy() for t in tensors])


@pytest.mark.parametrize("how", ["full", "ragged"])
def test_torch_projection(how):
    params, carry, xs = draw(PROJECTED)

    def run(params, carry, xs):
        last, ys = jrnn.unroll(PROJECTED, params[0], xs, carry[0], **RUNS[how])
        return [last], ys

    arguments = ([params], [carry], xs)
    assert_same(answer(run, arguments), torch_projected(arguments, **RUNS[how]))


def test_torch_projection_both_directions():
    (first, first_carry, xs), (second, second_carry, _) = draw(PROJECTED), draw(PROJECTED, seed=1)
    layer = jrnn.Bidirectional(PROJECTED)

    def run(params, carry, xs):
        last, ys = layer.apply(tuple(params), xs, tuple(carry), lengths=LENGTHS)
        return list(last), ys

    arguments = ([first, second], [first_carry, second_carry], xs)
    assert_same(answer(run, arguments), torch_projected(arguments, lengths=LENGTHS))


# torchrecurrent: cells in the form of torch.nn's, a step at a time.


def torch_gates(p):
    """Both biases of every gate, of which jrnn has the sum."""
    return {"weight_ih": p.w_ih.T, "weight_hh": p.w_hh.T, "bias_ih": 0.3 * p.b, "bias_hh": 0.7 * p.b}


def torch_sgu(p):
    """The peer has a further bias, within the gate g."""
    weights = {"weight_ih": p.w_ih.T, "weight_hh": pytest.importorskip("torch").cat([p.w_gg.T, p.w_hh.T])}
    weights |= {"bias_ih": p.b, "bias_hh": 0 * p.b}
    return weights if p.w_go is None else weights | {"weight_ho": p.w_go.T}


TORCH_RECURRENT = {  # the cell of jrnn, that of the peer, its options, its weights
    "MiRU1": (jrnn.MiRU(HIDDEN, keep=0.3), "MiRU1Cell", {"update_coefficient": 0.3}, torch_gates),
    "MiRU2": (
        jrnn.MiRU(HIDDEN, keep=0.3, reset=0.6),
        "MiRU2Cell",
        {"update_coefficient": 0.3, "reset_coefficient": 0.6},
        torch_gates,
    ),
    "WMCLSTM": (
        jrnn.WMCLSTM(HIDDEN),
        "WMCLSTMCell",
        {"memory_bias": False},
        lambda p: torch_gates(p.lstm) | {"weight_mh": p.w_ch.T},
    ),
    "SGU": (jrnn.SGU(HIDDEN), "SGUCell", {}, torch_sgu),
    "DSGU": (jrnn.SGU(HIDDEN, deep=True), "DSGUCell", {}, torch_sgu),
    "ResLSTM": (
        jrnn.ResidualLSTM(HIDDEN),
        "ResLSTMCell",
        {},
        lambda p: torch_gates(p.lstm) | {"weight_ph": p.p, "weight_proj": p.w_ho.T, "weight_res": p.w_ix.T},
    ),
}


def torch_recurrent(name, options, weights, arguments):
    """Last carry, ys and gradients of the cell of that name."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    peer = pytest.importorskip("torchrecurrent", reason="torchrecurrent is not installed")
    module = getattr(peer, name)(IN, HIDDEN, **options).double()
    leaves, structure = jax.tree.flatten(arguments)
    tensors = [torch.tensor(leaf, requires_grad=True) for leaf in leaves]
    params, carry, xs = jax.tree.unflatten(structure, tensors)
    ys = []
    for x in xs:
        made = torch.func.functional_call(module, weights(params), (x, carry))
        carry = made if torch.is_tensor(made) else type(carry)(*made)
        ys.append(jax.tree.leaves(carry)[0])
    ys = torch.stack(ys)
    energy(ys, carry).backward()
    last = jax.tree.map(lambda leaf: leaf.detach().numpy(), carry)
    return (last, ys.detach().numpy()), jax.tree.unflatten(structure, [t.grad.numpy() for t in tensors])


@pytest.mark.parametrize("name", TORCH_RECURRENT)
def test_torchrecurrent(name):
    cell, peer, options, weights = TORCH_RECURRENT[name]
    got, want = unrolled(cell, "full"), torch_recurrent(peer, options, weights, draw(cell))
    if isinstance(cell, jrnn.SGU):  # the slope of torch's hard sigmoid, 1/6, is rounded to float32
        assert_same(got[0], want[0])
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), got[1], want[1])
    else:
        assert_same(got, want)


# Keras: convolutions, other activations, merges.


def keras_layers():
    os.environ["KERAS_BACKEND"] = "jax"
    return pytest.importorskip("keras", reason="Keras is not installed")


def keras_options(reverse=False):
    sequences = {"return_sequences": True, "return_state": True, "zero_output_for_mask": True}
    return sequences | {"go_backwards": reverse, "dtype": "float64"}


def keras_run(layer, weights, carry, xs, mask=None):
    """Last states and ys of a Keras layer with other weights; ys in the order that they were visited."""
    layer.build((xs.shape[1], xs.shape[0], *xs.shape[2:]))
    assert [tuple(v.shape) for v in layer.trainable_variables] == [w.shape for w in weights]
    (ys, *last), _ = layer.stateless_call(
        weights,
        [v.value for v in layer.non_trainable_variables],
        jnp.swapaxes(xs, 0, 1),
        initial_state=jax.tree.leaves(carry),
        mask=mask,
    )
    return last, jnp.swapaxes(ys, 0, 1)


def keras_activation(name):
    """Keras' function of that name; its tanh computes in float32, its leaky relu has another slope."""
    keras = keras_layers()
    ours = {"tanh": jnp.tanh, "leaky_relu": partial(keras.activations.leaky_relu, negative_slope=0.01)}
    return ours.get(name) or keras.activations.get({"identity": "linear"}.get(name, name))


# not 4 along the last: there XLA 0.10.2 with AVX-512 gets Flax's gradients wrong, in float64 at width 5
PLACES = {1: (7,), 2: (4, 3), 3: (3, 4, 2)}


def draw_fields(cell):
    """Like `draw`, with places between batch and channels."""
    rng = np.random.default_rng(cell.spatial)
    shape = (BATCH, *PLACES[cell.spatial])
    params = jax.eval_shape(lambda key: cell.init(key, IN), jax.random.key(0))
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, shape), params)
    params, carry = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), (params, carry))
    return params, carry, rng.normal(size=(STEPS, *shape, IN))


@pytest.mark.parametrize("how", ["full", "backward"])
@pytest.mark.parametrize("spatial", PLACES)
def test_keras_conv_lstm(spatial, how):
    """The gates i f c o of Keras are our i f g o."""
    cell, options = jrnn.ConvLSTM(2, spatial=spatial), dict(RUNS[how])
    reverse, mask = options.get("reverse", False), options.get("mask")
    if mask is not None:  # a mask without axes for the places does not broadcast in Keras
        mask = mask.T.reshape(BATCH, STEPS, *(1 for _ in range(spatial + 1)))

    def peer(params, carry, xs):
        make = getattr(keras_layers().layers, f"ConvLSTM{spatial}D")
        given = keras_options(reverse) | {"padding": "same", "activation": jnp.tanh}
        last, ys = keras_run(make(2, 3, **given), list(params), carry, xs, mask)
        return LSTMCarry(*last), ys[::-1] if reverse else ys

    ours = lambda params, carry, xs: jrnn.unroll(cell, params, xs, carry, **options)
    assert_same(answer(ours, draw_fields(cell)), answer(peer, draw_fields(cell)))


KERAS_WINDOWS = [
    {"padding": "VALID"},
    {"kernel": (3, 5)},
    {"strides": (2, 3)},
    {"strides": 2, "padding": "VALID", "kernel": (1, 3)},
    {"dilation": 2},
    {"dilation": (1, 2), "padding": "VALID"},
]


@pytest.mark.parametrize("options", KERAS_WINDOWS, ids=repr)
def test_keras_conv_lstm_windows(options):
    """Padding, strides and dilation of the input's convolution; the state keeps its size."""
    cell = jrnn.ConvLSTM(2, **options)
    rng, shape = np.random.default_rng(7), (BATCH, 8, 9)
    params = jax.eval_shape(lambda key: cell.init(key, IN), jax.random.key(0))
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, shape), params)
    params, carry = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), (params, carry))
    drawn = params, carry, rng.normal(size=(STEPS, *shape, IN))

    def peer(params, carry, xs):
        given = keras_options() | {"activation": jnp.tanh, "padding": cell.padding.lower()}
        given |= {"strides": cell.strides, "dilation_rate": cell.dilation}
        last, ys = keras_run(
            keras_layers().layers.ConvLSTM2D(2, cell.kernel, **given), list(params), carry, xs
        )
        return LSTMCarry(*last), ys

    ours = lambda params, carry, xs: jrnn.unroll(cell, params, xs, carry)
    assert_same(answer(ours, drawn), answer(peer, drawn))


NAMES = ("sigmoid", "identity", "elu", "leaky_relu", "softplus", "softsign", "hard_sigmoid", "hard_tanh")


@pytest.mark.parametrize("name", NAMES)
def test_keras_simple_activations(name):
    cell = jrnn.Elman(HIDDEN, activation=name)

    def peer(params, carry, xs):
        make = keras_layers().layers.SimpleRNN
        layer = make(HIDDEN, activation=keras_activation(name), **keras_options())
        (last,), ys = keras_run(layer, list(params), carry, xs)
        return last, ys

    assert_same(unrolled(cell, "full"), answer(peer, draw(cell)))


PAIRS = [("hard_sigmoid", "tanh"), ("sigmoid", "softsign"), ("softsign", "hard_tanh")]


@pytest.mark.parametrize(("gate", "name"), PAIRS)
def test_keras_lstm_activations(gate, name):
    """Keras has one function for the candidate and for c."""
    options = {"gate_activation": gate, "activation": name, "output_activation": name}
    cell = jrnn.LSTMVariant(HIDDEN, **options)

    def peer(params, carry, xs):
        given = {"activation": keras_activation(name), "recurrent_activation": keras_activation(gate)}
        layer = keras_layers().layers.LSTM(HIDDEN, use_cudnn=False, **given, **keras_options())
        last, ys = keras_run(layer, [params.w_ih, params.w_hh, params.b], carry, xs)
        return carry._replace(h=last[0], c=last[1]), ys

    assert_same(unrolled(cell, "full"), answer(peer, draw(cell)))


def both(cell):
    """Arguments of a `Bidirectional`, drawn for each direction."""
    (first, start, xs), (second, other, _) = draw(cell), draw(cell, seed=1)
    return jrnn.BidirectionalParams(first, second), jrnn.BidirectionalCarry(start, other), xs


@pytest.mark.parametrize("merge", ["concat", "sum", "mul", "mean"])
def test_keras_merges(merge):
    layer = jrnn.Bidirectional(jrnn.Elman(HIDDEN, activation="softsign"), merge=merge)
    options = RUNS["masked"]

    def peer(params, carry, xs):
        layers = keras_layers().layers
        one = layers.SimpleRNN(HIDDEN, activation="softsign", **keras_options())
        two = layers.Bidirectional(one, merge_mode={"mean": "ave"}.get(merge, merge), dtype="float64")
        last, ys = keras_run(two, jax.tree.leaves(params), carry, xs, options["mask"].T)
        return jrnn.BidirectionalCarry(*last), ys

    ours = lambda params, carry, xs: layer.apply(params, xs, carry, **options)
    arguments = both(layer.forward)
    assert_same(answer(ours, arguments), answer(peer, arguments))


# Flax: what its cells have beside the defaults.


def linen_mgu(p):
    """From z n of a `GRU`, or from g n of a `UGRNN`: in both the gate keeps the old state."""
    two = lambda packed: packed[..., -2 * HIDDEN :]
    weights = kernels(two(p.w_ih), ("if", "in")) | kernels(two(p.w_hh), ("hf", "hn"))
    weights["if"]["bias"], weights["in"]["bias"] = jnp.split(two(p.b), 2)
    if isinstance(p, GRUParams):
        weights["hn"]["bias"] = p.b_hn
    return weights


def tied(p):
    """A GRU whose r is its z."""
    tie = lambda packed: jnp.concatenate([packed[..., HIDDEN:][..., :HIDDEN], packed[..., HIDDEN:]], -1)
    return p._replace(w_ih=tie(p.w_ih), w_hh=tie(p.w_hh), b=tie(p.b))


MGU = {"reset": (jrnn.GRU(HIDDEN), tied, True), "plain": (jrnn.UGRNN(HIDDEN), lambda p: p, False)}


@pytest.mark.parametrize("how", ["full", "ragged"])
@pytest.mark.parametrize("name", MGU)
def test_linen_mgu(name, how):
    """Flax's MGU resets after the product and its f keeps: a tied GRU, a UGRNN; it is not our `MGU`."""
    cell, change, reset = MGU[name]
    valid = None if how == "full" else VALID
    weights = lambda params: linen_mgu(change(params))
    peer = partial(linen_peer, partial(linen.MGUCell, reset_gate=reset), weights, cell, mask=valid)
    assert_same(unrolled(cell, how, change), answer(peer, draw(cell), valid))


def linen_conv(p):
    """The gates i g f o, a bias of each product, 1 added to that of f."""
    order = (0, 2, 1, 3)
    second = jnp.linspace(-0.5, 0.5, 4 * HIDDEN)
    first = columns(p.b - second, order) - jnp.repeat(jnp.array([0.0, 0.0, 1.0, 0.0]), HIDDEN)
    return {
        "ih": {"kernel": columns(p.w_ih, order), "bias": first},
        "hh": {"kernel": columns(p.w_hh, order), "bias": columns(second, order)},
    }


@pytest.mark.parametrize("how", ["full", "ragged"])
@pytest.mark.parametrize("spatial", [1, 2])
def test_linen_conv_lstm(spatial, how):
    cell, options = jrnn.ConvLSTM(HIDDEN, spatial=spatial), RUNS[how]
    mask = None if how == "full" else VALID
    valid = None if mask is None else np.expand_dims(VALID, tuple(range(2, 2 + spatial)))
    make = partial(linen.ConvLSTMCell, kernel_size=(3,) * spatial)
    ours = lambda params, carry, xs: jrnn.unroll(cell, params, xs, carry, **options)
    peer = partial(linen_peer, make, linen_conv, cell, mask=mask)
    assert_same(answer(ours, draw_fields(cell)), answer(peer, draw_fields(cell), valid))


RESIDUAL = {
    "linen": partial(
        linen_peer, partial(linen.SimpleCell, residual=True, activation_fn=nnx.sigmoid), linen_simple
    ),
    "nnx": partial(nnx_peer, partial(nnx.SimpleCell, residual=True, activation_fn=nnx.sigmoid), nnx_fused),
}


@pytest.mark.parametrize("name", RESIDUAL)
def test_flax_residual(name):
    """hₜ₋₁ added before the activation is a one on the diagonal of w_hh."""
    cell = jrnn.Elman(HIDDEN, activation="sigmoid")
    whole = lambda params: params._replace(w_hh=params.w_hh + jnp.eye(HIDDEN))
    assert_same(unrolled(cell, "full", whole), answer(partial(RESIDUAL[name], cell), draw(cell)))


OTHERS = {"gate_fn": jax.nn.hard_sigmoid, "activation_fn": jax.nn.softplus}
LSTMS = {
    "linen-LSTMCell": (linen_peer, linen.LSTMCell, partial(biased, names="ifgo")),
    "linen-OptimizedLSTMCell": (linen_peer, linen.OptimizedLSTMCell, partial(biased, names="ifgo")),
    "nnx-LSTMCell": (nnx_peer, nnx.LSTMCell, nnx_lstm),
    "nnx-OptimizedLSTMCell": (nnx_peer, nnx.OptimizedLSTMCell, nnx_optimized),
}


@pytest.mark.parametrize("name", LSTMS)
def test_flax_lstm_activations(name):
    """Flax has one function for the candidate and for c."""
    names = {"activation": "softplus", "output_activation": "softplus", "gate_activation": "hard_sigmoid"}
    cell, (run, make, weights) = jrnn.LSTMVariant(HIDDEN, **names), LSTMS[name]

    def peer(params, carry, xs):
        params, start = LSTMParams(params.w_ih, params.w_hh, params.b), LSTMCarry(carry.h, carry.c)
        last, ys = run(partial(make, **OTHERS), weights, cell, params, start, xs)
        return carry._replace(h=last.h, c=last.c), ys

    assert_same(unrolled(cell, "full"), answer(peer, draw(cell)))


@pytest.mark.parametrize("merge", ["concat", "sum"])
def test_linen_both_directions(merge):
    layer = jrnn.Bidirectional(jrnn.Elman(HIDDEN), merge=merge)
    merge_fn = {"concat": lambda a, b: jnp.concatenate([a, b], -1), "sum": jnp.add}[merge]

    def peer(params, carry, xs):
        rnn = lambda: linen.RNN(linen.SimpleCell(HIDDEN, dtype=jnp.float64, param_dtype=jnp.float64))
        two = linen.Bidirectional(rnn(), rnn(), merge_fn, time_major=True, return_carry=True)
        names = zip(("forward_rnn", "backward_rnn"), params, strict=True)
        weights = {name: {"cell": linen_simple(p)} for name, p in names}
        last, ys = two.apply({"params": weights}, xs, initial_carry=tuple(carry), seq_lengths=LENGTHS)
        return jrnn.BidirectionalCarry(*last), ys

    ours = lambda params, carry, xs: layer.apply(params, xs, carry, lengths=LENGTHS)
    arguments = both(layer.forward)
    assert_same(answer(ours, arguments, VALID), answer(peer, arguments, VALID))
