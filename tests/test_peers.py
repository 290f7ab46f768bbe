"""The same weights in PyTorch, Keras and Flax give the same outputs, last carry and gradients.

Every parameter is random and float64, biases included. Weights go to a peer by differentiable operations
on jrnn's own params, so what the peer's autodiff returns is already in jrnn's layout. A peer is a function
`(params, carry, xs, mask, reverse) -> (carry, ys)`; ys at padding are not compared where a peer leaves
other values than zero there.
"""

import os
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jrnn
from jrnn.cells.lstm import LSTMCarry

STEPS, BATCH, IN, HIDDEN = 6, 4, 3, 5
LENGTHS = np.array([6, 1, 4, 3])
VALID = np.arange(STEPS)[:, None] < LENGTHS
ROWS = ([1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0], [1, 0, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0])
MASK = np.array(ROWS, bool).T  # holes in the middle, padding on the left, a row that is all padding
RUNS = {
    "full": {},
    "ragged": {"lengths": LENGTHS},
    "masked": {"mask": MASK},
    "backward": {"mask": MASK, "reverse": True},
}
ELMAN, RELU, LSTM = jrnn.Elman(HIDDEN), jrnn.Elman(HIDDEN, activation="relu"), jrnn.LSTM(HIDDEN)
GRU, GRU_BEFORE = jrnn.GRU(HIDDEN), jrnn.GRU(HIDDEN, reset_after=False)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def draw(cell, seed=0):
    """Random float64 params (biases too), carry and xs, as NumPy arrays in the cell's own structure."""
    rng = np.random.default_rng(seed)
    params = jax.eval_shape(lambda key: cell.init(key, IN), jax.random.key(0))
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, (BATCH,)), params)
    random = partial(jax.tree.map, lambda leaf: rng.normal(size=leaf.shape))
    return random(params), random(carry), rng.normal(size=(STEPS, BATCH, IN))


def columns(packed, order):
    """Gates of a packed array in the order of a peer: `order[i]` is the place of its i-th gate in jrnn."""
    parts = jnp.split(packed, len(order), axis=-1)
    return jnp.concatenate([parts[i] for i in order], axis=-1)


# PyTorch: one module, its own autograd, two biases per gate.


def torch_weights(torch, cell, p):
    """PyTorch has two biases for jrnn's one: any constant may move from the first to the second."""
    if isinstance(cell, jrnn.GRU):
        moved = torch.linspace(-0.5, 0.5, 2 * HIDDEN).double()
        b_hh = torch.cat([moved, p.b_hn])
        b_ih = p.b - torch.cat([moved, torch.zeros(HIDDEN).double()])
    else:
        b_hh = torch.linspace(-0.5, 0.5, len(p.b)).double()
        b_ih = p.b - b_hh
    return {"weight_ih_l0": p.w_ih.T, "weight_hh_l0": p.w_hh.T, "bias_ih_l0": b_ih, "bias_hh_l0": b_hh}


def torch_module(torch, cell, **options):
    if isinstance(cell, jrnn.Elman):
        return torch.nn.RNN(IN, HIDDEN, nonlinearity=cell.activation, **options).double()
    return getattr(torch.nn, type(cell).__name__)(IN, HIDDEN, **options).double()


def torch_answer(cell, params, carry, xs, lengths=None):
    """Last carry, ys, and the gradients of `energy`, all from PyTorch."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    leaves, structure = jax.tree.flatten((params, carry, xs))
    tensors = [torch.tensor(leaf, requires_grad=True) for leaf in leaves]
    p, c, x = jax.tree.unflatten(structure, tensors)
    start = (c.h[None], c.c[None]) if isinstance(cell, jrnn.LSTM) else c[None]
    if lengths is not None:
        x = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    module = torch_module(torch, cell)
    ys, last = torch.func.functional_call(module, torch_weights(torch, cell, p), (x, start))
    if lengths is not None:
        ys, _ = torch.nn.utils.rnn.pad_packed_sequence(ys)
    last = [part[0] for part in last] if isinstance(last, tuple) else [last[0]]
    energy(ys, last).backward()
    gradients = jax.tree.unflatten(structure, [t.grad.numpy() for t in tensors])
    last = jax.tree.unflatten(jax.tree.structure(carry), [part.detach().numpy() for part in last])
    return (last, ys.detach().numpy()), gradients


# Keras on the JAX backend: batch first, a list of states, gates i f c o and z r h.


def keras_peer(cell, params, carry, xs, mask=None, reverse=False):
    os.environ["KERAS_BACKEND"] = "jax"
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    options = {"return_sequences": True, "return_state": True, "go_backwards": reverse, "dtype": "float64"}
    options["zero_output_for_mask"] = True
    options["activation"] = jnp.tanh  # its own computes in float32, whatever the dtype of the layer
    weights = [params.w_ih, params.w_hh, params.b]
    if isinstance(cell, jrnn.Elman):
        options |= {"activation": "relu"} if cell.activation == "relu" else {}
        layer = keras.layers.SimpleRNN(HIDDEN, **options)
    elif isinstance(cell, jrnn.LSTM):
        layer = keras.layers.LSTM(HIDDEN, use_cudnn=False, **options)
    else:
        layer = keras.layers.GRU(HIDDEN, use_cudnn=False, reset_after=cell.reset_after, **options)
        weights = [columns(w, (1, 0, 2)) for w in weights]
        if cell.reset_after:  # two biases: the second is the recurrent one
            moved = jnp.linspace(-0.5, 0.5, 2 * HIDDEN)
            first = weights[2] - jnp.pad(moved, (0, HIDDEN))
            weights[2] = jnp.stack([first, jnp.concatenate([moved, params.b_hn])])
    layer.build((BATCH, STEPS, IN))
    assert [tuple(v.shape) for v in layer.trainable_variables] == [w.shape for w in weights]
    (ys, *last), _ = layer.stateless_call(
        weights,
        [v.value for v in layer.non_trainable_variables],
        jnp.swapaxes(xs, 0, 1),
        initial_state=jax.tree.leaves(carry),
        mask=None if mask is None else mask.T,
    )
    ys = jnp.swapaxes(ys, 0, 1)
    last = jax.tree.unflatten(jax.tree.structure(carry), last)
    return last, ys[::-1] if reverse else ys


# Flax: separate matrices per gate in Linen, fused ones in some of NNX; the carry of an LSTM is (c, h).


def kernels(packed, names):
    parts = jnp.split(packed, len(names), axis=-1)
    return {name: {"kernel": part} for name, part in zip(names, parts, strict=True)}


def biased(p, names):
    """Weights per gate as Flax keeps them, the bias of every gate with the matrix that acts on h."""
    weights = kernels(p.w_ih, [f"i{n}" for n in names]) | kernels(p.w_hh, [f"h{n}" for n in names])
    for name, part in zip(names, jnp.split(p.b, len(names)), strict=True):
        weights[f"h{name}"]["bias"] = part
    return weights


def linen_gru(p):
    weights = kernels(p.w_ih, ("ir", "iz", "in")) | kernels(p.w_hh, ("hr", "hz", "hn"))
    for name, part in zip(("ir", "iz", "in"), jnp.split(p.b, 3), strict=True):
        weights[name]["bias"] = part
    weights["hn"]["bias"] = p.b_hn
    return weights


def linen_simple(p):
    return {"i": {"kernel": p.w_ih, "bias": p.b}, "h": {"kernel": p.w_hh}}


def nnx_lstm(p):
    weights = biased(p, "ifgo")
    weights["if_"] = weights.pop("if")
    return weights


def nnx_optimized(p):
    return {"dense_i": {"kernel": p.w_ih}, "dense_h": {"kernel": p.w_hh, "bias": p.b}}


def nnx_fused(p):
    """SimpleCell and GRUCell: NNX has no recurrent bias b_hn, so a GRU compares only where it is zero."""
    return {"dense_i": {"kernel": p.w_ih, "bias": p.b}, "dense_h": {"kernel": p.w_hh}}


def swapped(carry):
    return (carry.c, carry.h) if isinstance(carry, LSTMCarry) else carry


def flax_options(mask):
    return {"return_carry": True, "seq_lengths": None if mask is None else mask.sum(0)}


def linen_peer(make, weights, cell, params, carry, xs, mask=None):
    rnn = linen.RNN(make(HIDDEN, dtype=jnp.float64, param_dtype=jnp.float64), time_major=True)
    variables = {"params": {"cell": weights(params)}}
    last, ys = rnn.apply(variables, xs, initial_carry=swapped(carry), **flax_options(mask))
    return (type(carry)(*last[::-1]) if isinstance(last, tuple) else last), ys


def nnx_peer(make, weights, cell, params, carry, xs, mask=None):
    module = make(IN, HIDDEN, dtype=jnp.float64, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    given = nnx.to_flat_state(nnx.state(module, nnx.Param))
    weights = weights(params)
    assert {path: v.shape for path, v in given} == {
        (outer, inner): leaf.shape for outer, leaves in weights.items() for inner, leaf in leaves.items()
    }
    nnx.update(module, weights)
    rnn = nnx.RNN(module, time_major=True, rngs=nnx.Rngs(0))
    last, ys = rnn(xs, initial_carry=swapped(carry), **flax_options(mask))
    return (type(carry)(*last[::-1]) if isinstance(last, tuple) else last), ys


FLAX = {
    "linen-SimpleCell": (ELMAN, partial(linen_peer, linen.SimpleCell, linen_simple)),
    "linen-LSTMCell": (LSTM, partial(linen_peer, linen.LSTMCell, partial(biased, names="ifgo"))),
    "linen-OptimizedLSTMCell": (
        LSTM,
        partial(linen_peer, linen.OptimizedLSTMCell, partial(biased, names="ifgo")),
    ),
    "linen-GRUCell": (GRU, partial(linen_peer, linen.GRUCell, linen_gru)),
    "nnx-SimpleCell": (ELMAN, partial(nnx_peer, nnx.SimpleCell, nnx_fused)),
    "nnx-LSTMCell": (LSTM, partial(nnx_peer, nnx.LSTMCell, nnx_lstm)),
    "nnx-OptimizedLSTMCell": (LSTM, partial(nnx_peer, nnx.OptimizedLSTMCell, nnx_optimized)),
    "nnx-GRUCell": (GRU, partial(nnx_peer, nnx.GRUCell, nnx_fused)),
}
TORCH = {"tanh": ELMAN, "relu": RELU, "LSTM": LSTM, "GRU": GRU}
KERAS = {"tanh": ELMAN, "relu": RELU, "LSTM": LSTM, "GRU-after": GRU, "GRU-before": GRU_BEFORE}


def energy(ys, carry):
    """A scalar that every output and the last carry enter, by operators that all frameworks share."""
    return (ys**2).sum() + sum((leaf**2).sum() for leaf in jax.tree.leaves(carry))


def answer(run, arguments, valid=None):
    """Last carry, ys (zero where not valid) and the gradients of `energy`, by JAX."""

    def loss(params, carry, xs):
        last, ys = run(params, carry, xs)
        ys = ys if valid is None else ys * valid[..., None]
        return energy(ys, last), (last, ys)

    arguments = jax.tree.map(jnp.asarray, arguments)
    gradients, outputs = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*arguments)
    return outputs, gradients


@cache
def ours(cell, how, without=None):
    """What jrnn answers to `draw(cell)`, the parameter `without` zero; computed once for all peers."""
    params, carry, xs = draw(cell)
    if without:
        params = params._replace(**{without: np.zeros_like(getattr(params, without))})
    return answer(lambda p, c, x: jrnn.unroll(cell, p, x, c, **RUNS[how]), (params, carry, xs))


def assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype == np.float64
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("how", ["full", "ragged"])
@pytest.mark.parametrize("name", TORCH)
def test_torch(name, how):
    cell = TORCH[name]
    assert_same(ours(cell, how), torch_answer(cell, *draw(cell), **RUNS[how]))


@pytest.mark.parametrize("name", TORCH)
def test_torch_both_directions(name):
    """The second direction of a packed sequence starts at each row's own end."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    cell = TORCH[name]
    forward, carry, xs = draw(cell)
    backward, back_carry, _ = draw(cell, seed=1)
    module = torch_module(torch, cell, bidirectional=True)
    weights = torch_weights(torch, cell, jax.tree.map(torch.tensor, forward))
    for key, value in torch_weights(torch, cell, jax.tree.map(torch.tensor, backward)).items():
        weights[f"{key}_reverse"] = value
    start = jax.tree.map(lambda *c: torch.tensor(np.stack(c)), carry, back_carry)
    start = tuple(start) if isinstance(cell, jrnn.LSTM) else start
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.tensor(xs), list(LENGTHS), enforce_sorted=False)
    ys, last = torch.func.functional_call(module, weights, (packed, start))
    ys, _ = torch.nn.utils.rnn.pad_packed_sequence(ys)
    want = np.split(ys.detach().numpy(), 2, axis=-1)
    runs = ((forward, carry, False), (backward, back_carry, True))
    for direction, (params, given, reverse) in enumerate(runs):
        options = {"lengths": LENGTHS, "reverse": reverse}
        got_last, got = jrnn.unroll(cell, *jax.tree.map(jnp.asarray, (params, xs, given)), **options)
        assert_same(got, want[direction])
        parts = last if isinstance(last, tuple) else (last,)
        assert_same(jax.tree.leaves(got_last), [part[direction].detach().numpy() for part in parts])


@pytest.mark.parametrize("how", ["full", "masked", "backward"])
@pytest.mark.parametrize("name", KERAS)
def test_keras(name, how):
    cell = KERAS[name]
    assert_same(ours(cell, how), answer(partial(keras_peer, cell, **RUNS[how]), draw(cell)))


@pytest.mark.parametrize("how", ["full", "ragged"])
@pytest.mark.parametrize("name", FLAX)
def test_flax(name, how):
    cell, peer = FLAX[name]
    without = "b_hn" if name == "nnx-GRUCell" else None  # it has no such parameter
    valid = None if how == "full" else VALID
    params, carry, xs = draw(cell)
    if without:
        params = params._replace(b_hn=np.zeros(HIDDEN))
    got, want = ours(cell, how, without), answer(partial(peer, cell, mask=valid), (params, carry, xs), valid)
    if without:
        of_ours, of_peer = got[1][0], want[1][0]
        assert np.any(of_ours.b_hn) and not np.any(of_peer.b_hn)
        want = want[0], (of_peer._replace(b_hn=of_ours.b_hn), *want[1][1:])
    assert_same(got, want)
