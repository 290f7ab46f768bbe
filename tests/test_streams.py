"""Noise in the Flax modules: streams, `deterministic`, `train` and `eval`, as in Flax's own `Dropout`."""

import re

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jrnn
import jrnn.linen

XS = jax.random.normal(jax.random.key(1), (6, 3, 2))
CELL = jrnn.Dropout(jrnn.GRU(40), output=0.5)
PAIR = jrnn.Pair(XS, jnp.ones((4, 3, 5)))
NOISY = {  # every place where noise can stand
    "Dropout": CELL,
    "Zoneout": jrnn.Zoneout(jrnn.GRU(40), 0.5),
    "Stack": jrnn.Stack((jrnn.GRU(40), jrnn.Dense(3)), dropout=0.5),
    "DropConnect": jrnn.Reparametrize(jrnn.GRU(40), "w_hh", jrnn.DropConnect(0.5)),
    "LeakyRNN": jrnn.LeakyRNN(40, noise=0.3),
    "inside": jrnn.Stack((jrnn.Dense(3), jrnn.Residual(jrnn.Zoneout(jrnn.GRU(3), 0.5)))),
    "one side": jrnn.Bidirectional(jrnn.GRU(40), CELL),
    "Reversed": jrnn.Reversed(CELL),
    "Sequential": jrnn.Sequential((CELL, jrnn.Dense(3))),
    "ManyToOne": jrnn.ManyToOne(CELL),
    "decoder": jrnn.EncoderDecoder(jrnn.GRU(3), jrnn.Stack((CELL, jrnn.Dense(5))), bridge=None),
}
QUIET = {
    "LSTM": jrnn.LSTM(4),
    "no rate": jrnn.Stack((jrnn.GRU(4), jrnn.Dense(2))),
    "layer": jrnn.Sequential((jrnn.Bidirectional(jrnn.GRU(4)), jrnn.Dense(2), jrnn.CRF(2))),
}


def inputs_of(model):
    return PAIR if isinstance(model, jrnn.EncoderDecoder) else XS


def module(model=CELL, rngs=None, **options):
    return jrnn.RNN(model, 2, rngs=rngs or nnx.Rngs(params=0, dropout=1), **options)


def outputs(result):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(result[1])])


def needed(rnn, key=None):
    return outputs(jrnn.apply(rnn.cell, rnn.params, inputs_of(rnn.cell), key=key))


def keys(count):
    """The first keys that `nnx.Dropout` takes from `nnx.Rngs(params=0, dropout=1)`."""
    stream = nnx.Dropout(0.5, rngs=nnx.Rngs(params=0, dropout=1)).rngs
    return [stream() for _ in range(count)]


@pytest.mark.parametrize("name", NOISY)
def test_every_call_of_a_noisy_module_takes_the_next_key_of_its_stream(name):
    rnn = module(NOISY[name])
    xs, (first, second) = inputs_of(rnn.cell), keys(2)
    np.testing.assert_allclose(outputs(rnn(xs)), needed(rnn, first), rtol=1e-6)
    np.testing.assert_allclose(outputs(rnn(xs)), needed(rnn, second), rtol=1e-6)
    assert not np.allclose(needed(rnn, first), needed(rnn, second))
    rnn.eval()
    np.testing.assert_allclose(outputs(rnn(xs)), needed(rnn), rtol=1e-6)


@pytest.mark.parametrize("name", NOISY)
def test_a_noisy_linen_module_takes_its_stream(name):
    rnn, xs = jrnn.linen.RNN(NOISY[name], 2), inputs_of(NOISY[name])
    variables = rnn.init(jax.random.key(0), xs)  # needs no stream
    run = lambda seed, **options: outputs(
        rnn.apply(variables, xs, rngs={"dropout": jax.random.key(seed)}, **options)
    )
    plain = outputs(rnn.apply(variables, xs, deterministic=True))
    assert not np.allclose(run(1), run(2)) and not np.allclose(run(1), plain)
    np.testing.assert_array_equal(run(1), run(1))
    np.testing.assert_array_equal(run(1, deterministic=True), plain)
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        rnn.apply(variables, xs)


@pytest.mark.parametrize("name", QUIET)
def test_a_model_without_noise_needs_no_stream_and_has_no_state(name):
    rnn, linen = module(QUIET[name], nnx.Rngs(params=0)), jrnn.linen.RNN(QUIET[name], 2)
    assert jax.tree.leaves(nnx.state(rnn, nnx.Not(nnx.Param))) == []
    np.testing.assert_array_equal(outputs(rnn(XS)), needed(rnn))
    variables = linen.init(jax.random.key(0), XS)
    assert outputs(linen.apply(variables, XS)).shape == outputs(rnn(XS)).shape


def test_the_flag_of_a_call_goes_before_that_of_the_module_and_a_key_before_both():
    rnn, (first, *_), other = module(), keys(1), jax.random.key(7)
    np.testing.assert_array_equal(outputs(rnn(XS, deterministic=True)), needed(rnn))
    np.testing.assert_allclose(outputs(rnn(XS, key=other)), needed(rnn, other), rtol=1e-6)
    rnn.eval()
    np.testing.assert_allclose(outputs(rnn(XS, key=other)), needed(rnn, other), rtol=1e-6)
    np.testing.assert_allclose(outputs(rnn(XS, deterministic=False)), needed(rnn, first), rtol=1e-6)
    np.testing.assert_array_equal(outputs(module(deterministic=True)(XS)), needed(rnn))
    np.testing.assert_array_equal(outputs(nnx.view(module(), deterministic=True)(XS)), needed(rnn))
    rnn.train()
    assert not np.allclose(outputs(rnn(XS)), needed(rnn))
    linen = jrnn.linen.RNN(CELL, 2, deterministic=True)
    variables = linen.init(jax.random.key(0), XS)
    params = type(rnn.params)(**variables["params"])
    for key, options in ((None, {}), (other, {"key": other}), (other, {"key": other, "deterministic": True})):
        ys = jrnn.unroll(CELL, params, XS, key=key)[1]
        np.testing.assert_allclose(linen.apply(variables, XS, **options)[1], ys, rtol=1e-6)
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        linen.apply(variables, XS, deterministic=False)


def test_a_missing_stream_is_named():
    message = "RNN: Dropout(cell=GRU(hidden=40"
    for rnn, name in (
        (module(rngs=nnx.Rngs(params=0)), "dropout"),
        (module(rng_collection="noise", rngs=nnx.Rngs(params=0, dropout=1)), "noise"),
    ):
        with pytest.raises(
            ValueError, match=rf"^{re.escape(message)}.*stream '{name}'.*nnx\.Rngs\({name}=\.\.\.\)"
        ):
            rnn(XS)
        with pytest.raises(ValueError, match=f"stream '{name}'"):
            rnn(XS, rngs=nnx.Rngs(params=0))
        key = nnx.Rngs(**{name: 3})[name]()
        for rngs in (nnx.Rngs(**{name: 3}), nnx.Rngs(3), nnx.Rngs(**{name: 3})[name]):
            np.testing.assert_allclose(outputs(rnn(XS, rngs=rngs)), needed(rnn, key), rtol=1e-6)


def test_evaluation_takes_the_noise_out_of_a_carry_of_training():
    rnn, linen = module(), jrnn.linen.RNN(CELL, 2)
    carry, _ = rnn(XS)
    assert carry.key is not None
    plain = jrnn.unroll(CELL, rnn.params, XS, carry._replace(key=None))[1]
    np.testing.assert_allclose(rnn(XS, carry, deterministic=True)[1], plain, rtol=1e-6)
    variables = {"params": rnn.params._asdict()}
    np.testing.assert_allclose(linen.apply(variables, XS, carry, deterministic=True)[1], plain, rtol=1e-6)


# the key advances under every transform


def test_under_nnx_jit_the_key_advances():
    rnn, expected = module(), keys(3)
    run = nnx.jit(lambda m: m(XS)[1], graph=True, graph_updates=True)
    for key in expected:
        np.testing.assert_allclose(np.ravel(run(rnn)), needed(rnn, key), rtol=1e-5, atol=1e-6)


def test_under_jax_jit_the_state_carries_the_key():
    rnn, expected = module(), keys(3)
    graph, params, rest = nnx.split(rnn, nnx.Param, ...)

    @jax.jit
    def run(params, rest):
        m = nnx.merge(graph, params, rest)
        ys = m(XS)[1]
        return ys, nnx.state(m, nnx.Not(nnx.Param))

    for key in expected:
        ys, rest = run(params, rest)
        np.testing.assert_allclose(np.ravel(ys), needed(rnn, key), rtol=1e-5, atol=1e-6)


def test_under_vmap_every_row_has_a_key_of_its_own():
    rnn = module()

    @nnx.split_rngs(splits=4, only="dropout")
    @nnx.vmap(in_axes=(nnx.StateAxes({nnx.RngState: 0, ...: None}),), out_axes=0)
    def run(m):
        return m(XS)[1]

    dropped = np.asarray(run(rnn) == 0).reshape(4, -1)
    assert len({row.tobytes() for row in dropped}) == 4 and 0.3 < dropped.mean() < 0.7
    assert not np.array_equal(np.asarray(run(rnn) == 0).reshape(4, -1), dropped)


def test_under_scan_every_turn_has_a_key_of_its_own():
    rnn = module()

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0), graph=True, graph_updates=True)
    def run(m, xs):
        return m, m(xs)[1]

    _, ys = run(rnn, jnp.stack([XS] * 3))
    for y, key in zip(ys, keys(3), strict=True):
        np.testing.assert_allclose(np.ravel(y), needed(rnn, key), rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_the_noisy_function():
    rnn, (key,) = module(), keys(1)
    grads = nnx.grad(lambda m: jnp.sum(m(XS)[1] ** 2))(rnn)
    nnx.update(rnn, nnx.state(grads, nnx.Param))
    params = module().params
    needed = jax.grad(lambda p: jnp.sum(jrnn.unroll(CELL, p, XS, key=key)[1] ** 2))(params)
    for given, leaf in zip(rnn.params, needed, strict=True):
        np.testing.assert_allclose(given, leaf, rtol=1e-4, atol=1e-5)


class Two(nn.Module):
    """Two equal modules in one: Flax gives each its own noise."""

    @nn.compact
    def __call__(self, xs):
        return [jrnn.linen.RNN(CELL, 2, name=name)(xs)[1] for name in ("a", "b")]


def test_linen_modules_inside_another_draw_apart():
    model, rngs = Two(), {"dropout": jax.random.key(3)}
    variables = model.init(jax.random.key(0), XS)
    a, b = (np.asarray(y == 0) for y in jax.jit(model.apply)(variables, XS, rngs=rngs))
    assert not np.array_equal(a, b) and 0.3 < a.mean() < 0.7


def test_linen_vmap_splits_the_stream():
    rows = nn.vmap(
        jrnn.linen.RNN,
        variable_axes={"params": None},
        split_rngs={"params": False, "dropout": True},
        in_axes=0,
    )(CELL, 2)
    many = jnp.stack([XS] * 4)
    variables = rows.init(jax.random.key(0), many)
    dropped = np.asarray(rows.apply(variables, many, rngs={"dropout": jax.random.key(3)})[1] == 0)
    assert len({row.tobytes() for row in dropped}) == 4 and 0.3 < dropped.mean() < 0.7
