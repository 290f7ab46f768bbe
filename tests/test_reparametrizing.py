"""Weights computed from others, and candidates dropped: values, noise, names, what is refused."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jrnn
from jrnn.cells.lstm import LSTMCarry
from jrnn.combinators.reparametrizing import Computed, LowRankParams, SpectralNormParams, WeightNormParams

KEY = jax.random.key(0)
XS = jax.random.normal(jax.random.key(1), (6, 2, 3))


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def params_of(cell, form, name="w_hh"):
    """Params of the wrapped cell, moved away from their start, and the wrapper."""
    wrapped = jrnn.Reparametrize(cell, name, form)
    params = wrapped.init(KEY, 3)
    return wrapped, jax.tree.map(
        lambda p: p + 0.1 * jnp.sin(1.0 + jnp.arange(p.size).reshape(p.shape)), params
    )


def normalized(p):
    return p.g * p.v / np.linalg.norm(p.v, axis=0)


def bounded(p):
    return 0.7 * p.w / np.linalg.svd(p.w)[1][0]


def diagonals(p):
    return np.hstack([np.diag(block) for block in p])


FORMS = {  # form, the weight that its parameters stand for, written in NumPy, tolerance
    "WeightNorm": (jrnn.WeightNorm(), normalized, 1e-12),
    "SpectralNorm": (jrnn.SpectralNorm(0.7, iterations=300), bounded, 1e-9),
    "LowRank": (jrnn.LowRank(2), lambda p: p.a @ p.b, 1e-12),
    "Diagonal": (jrnn.Diagonal(), diagonals, 1e-12),
    "DropConnect": (jrnn.DropConnect(0.5), lambda p: p, 1e-12),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_cell_runs_on_the_weight(name):
    form, weight, tolerance = FORMS[name]
    wrapped, params = params_of(jrnn.GRU(4), form)
    plain = params._replace(w_hh=jnp.asarray(weight(jax.tree.map(np.asarray, params.w_hh.params))))
    found, expected = jrnn.unroll(wrapped, params, XS)[1], jrnn.unroll(jrnn.GRU(4), plain, XS)[1]
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    assert np.max(np.abs(found - jrnn.unroll(jrnn.GRU(4), wrapped.cell.init(KEY, 3), XS)[1])) > 1e-3


@pytest.mark.parametrize("form", [jrnn.WeightNorm(), jrnn.LowRank(4)], ids=str)
def test_a_form_starts_at_the_weight_that_the_cell_drew(form):
    wrapped = jrnn.Reparametrize(jrnn.LSTM(4), "w_hh", form)
    drawn = jrnn.LSTM(4).init(jax.random.split(KEY)[0], 3).w_hh
    np.testing.assert_allclose(wrapped.weights(wrapped.init(KEY, 3)).w_hh, drawn, atol=1e-12)


def test_every_parameter_of_that_name():
    cell = jrnn.Stack((jrnn.LSTM(4), jrnn.Residual(jrnn.GRU(4)), jrnn.Dense(2)))
    wrapped = jrnn.Reparametrize(jrnn.Reparametrize(cell, "w_hh", jrnn.WeightNorm()), "w_ih", jrnn.LowRank(2))
    params = wrapped.init(KEY, 3)
    kinds = [type(p.params) for p in (params[0].w_hh, params[1].w_hh, params[0].w_ih, params[1].w_ih)]
    assert kinds == [WeightNormParams, WeightNormParams, LowRankParams, LowRankParams]
    assert jrnn.unroll(wrapped, params, XS)[1].shape == (6, 2, 2)


def test_what_a_form_is_computed_from_can_be_computed_too():
    inner = jrnn.Reparametrize(jrnn.Elman(4), "w_hh", jrnn.WeightNorm())
    wrapped = jrnn.Reparametrize(inner, "v", jrnn.LowRank(4))
    params = wrapped.init(KEY, 3)
    expected = inner.weights(inner.init(jax.random.split(KEY)[0], 3)).w_hh
    np.testing.assert_allclose(inner.weights(wrapped.weights(params)).w_hh, expected, atol=1e-12)
    assert jrnn.unroll(wrapped, params, XS)[1].shape == (6, 2, 4)


def test_the_start_of_the_power_iteration_is_fixed():
    wrapped, params = params_of(jrnn.Elman(4), jrnn.SpectralNorm())
    assert jrnn.trainable(params).w_hh == Computed(SpectralNormParams(w=True, fixed=False))
    grads = jax.grad(lambda p: jnp.sum(jrnn.unroll(wrapped, p, XS)[1] ** 2))(params)
    assert not np.any(grads.w_hh.params.fixed) and np.all(grads.w_hh.params.w)


def test_dropconnect_drops_the_same_weights_at_every_step():
    cell = jrnn.Elman(200, activation="identity")
    wrapped = jrnn.Reparametrize(cell, "w_hh", jrnn.DropConnect(0.25))
    params = wrapped.init(KEY, 3)
    zero = params._replace(w_ih=jnp.zeros_like(params.w_ih))
    carry = wrapped.initial_carry(params, (200,), key=jax.random.key(2))._replace(cell=jnp.eye(200))
    after, seen = wrapped.step(zero, carry, jnp.zeros((200, 3)))  # the weight itself, row by row
    _, again = wrapped.step(zero, after._replace(cell=jnp.eye(200)), jnp.zeros((200, 3)))
    np.testing.assert_array_equal(seen, again)
    w, dropped = params.w_hh.params, np.asarray(seen) == 0
    assert 0.23 < dropped.mean() < 0.27
    np.testing.assert_allclose(seen, np.where(dropped, 0, w / 0.75), rtol=1e-12)
    quiet = wrapped.step(zero, jrnn.quiet(wrapped, params, carry), jnp.zeros((200, 3)))[1]
    np.testing.assert_allclose(quiet, w, rtol=1e-12)


def test_two_weights_get_masks_of_their_own():
    cell = jrnn.Stack((jrnn.Elman(50, activation="identity"), jrnn.Elman(50, activation="identity")))
    wrapped = jrnn.Reparametrize(cell, "w_hh", jrnn.DropConnect(0.5))
    first, second = (p.w_hh for p in wrapped.weights(wrapped.init(KEY, 3), jax.random.key(2)))
    assert 0.4 < np.mean((first == 0) == (second == 0)) < 0.6


def test_the_candidate_is_dropped_and_memory_is_not():
    """C = f c′ + i (m · g): what was remembered stays, what is written is masked, alike at every step."""
    cell = jrnn.Dropout(jrnn.LSTM(400), candidate=0.25)
    params = cell.init(KEY, 3)
    carry = cell.initial_carry(params, (), key=jax.random.key(2))
    carry = carry._replace(cell=LSTMCarry(*jax.random.normal(jax.random.key(3), (2, 400))))
    _, inside = jrnn.Tap(jrnn.LSTM(400), ("i", "f", "g")).step(params, carry.cell, XS[0, 0])[1]
    kept = inside["f"] * carry.cell.c
    after, y = cell.step(params, carry, XS[0, 0])
    mask = (after.cell.c - kept) / (inside["i"] * inside["g"])
    dropped = np.abs(mask) < 1e-9
    assert 0.18 < dropped.mean() < 0.32
    np.testing.assert_allclose(mask, np.where(dropped, 0, 1 / 0.75), rtol=1e-9, atol=1e-9)
    again, _ = cell.step(params, carry._replace(key=after.key), XS[0, 0])
    np.testing.assert_array_equal(again.cell.c, after.cell.c)
    np.testing.assert_allclose(y, after.cell.h, rtol=1e-12)


def test_every_candidate_of_a_stack_gets_a_mask_of_its_own():
    cell = jrnn.Dropout(jrnn.Stack((jrnn.GRU(40), jrnn.LSTM(40))), candidate=0.5)
    params = cell.init(KEY, 3)
    carry = cell.initial_carry(params, (), key=jax.random.key(2))
    after, _ = cell.step(params, carry, XS[0, 0])  # from zero, a dropped candidate leaves zero
    first, second = (np.asarray(c) == 0 for c in (after.cell.cells[0], after.cell.cells[1].c))
    assert 0.2 < first.mean() < 0.8 and 0.2 < second.mean() < 0.8 and np.any(first != second)


def test_gradients_go_through_dropped_candidates():
    cell = jrnn.Dropout(jrnn.GRU(4), candidate=0.5)
    params = cell.init(KEY, 3)

    def loss(w):
        return jnp.sum(jnp.sin(jrnn.unroll(cell, params._replace(w_hh=w), XS, key=jax.random.key(2))[1]))

    check_grads(loss, (params.w_hh,), order=2, modes=["fwd", "rev"], rtol=1e-6, atol=1e-6)


REFUSED = {
    "no parameter 'w_hh', it is computed already": lambda: jrnn.Reparametrize(
        jrnn.Reparametrize(jrnn.LSTM(4), "w_hh", jrnn.WeightNorm()), "w_hh", jrnn.DropConnect(0.5)
    ).init(KEY, 3),
    r"WeightNorm\(\) takes matrices, w_hh of SLSTM.* has shape \(2, 2, 8\)": lambda: jrnn.Reparametrize(
        jrnn.SLSTM(4, heads=2), "w_hh", jrnn.WeightNorm()
    ).init(KEY, 3),
    "no parameter 'w_hx', it has w_ih, w_hh, b": lambda: jrnn.Reparametrize(
        jrnn.LSTM(4), "w_hx", jrnn.WeightNorm()
    ).init(KEY, 3),
    r"form must be a form like WeightNorm\(\)": lambda: jrnn.Reparametrize(
        jrnn.LSTM(4), "w_hh", jrnn.WeightNorm
    ),
    "cell must be a cell": lambda: jrnn.Reparametrize(jrnn.LSTM, "w_hh", jrnn.WeightNorm()),
    r"rank must be at most 4 for a matrix of shape \(4, 16\), got 5": lambda: jrnn.Reparametrize(
        jrnn.LSTM(4), "w_hh", jrnn.LowRank(5)
    ).init(KEY, 3),
    r"square blocks side by side, got a matrix of shape \(3, 16\)": lambda: jrnn.Reparametrize(
        jrnn.LSTM(4), "w_ih", jrnn.Diagonal()
    ).init(KEY, 3),
    r"rate must be a rate in \[0, 1\), got 1": lambda: jrnn.DropConnect(1),
    "bound must be a number above 0, got 0": lambda: jrnn.SpectralNorm(0),
    "the step names no g or n; it names .'h'": lambda: jrnn.unroll(
        jrnn.Dropout(jrnn.Elman(4), candidate=0.5), jrnn.Elman(4).init(KEY, 3), XS, key=KEY
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused(message):
    with pytest.raises((ValueError, TypeError), match=message):
        REFUSED[message]()


# parts with the same weights

LANGUAGE = jrnn.Stack((jrnn.Embed(4), jrnn.LSTM(4), jrnn.Dense(7)))
TIES = {
    "table": (
        jrnn.Tie(LANGUAGE, "0.table", "2.w", transposed=True),
        7,
        lambda p: (p[0], p[1], p[2]._replace(w=p[0].table.T)),
    ),
    "cell": (
        jrnn.Tie(jrnn.Stack((jrnn.GRU(3), jrnn.GRU(3), jrnn.Dense(2))), "0", "1"),
        3,
        lambda p: (p[0], p[0], p[2]),
    ),
    "matrix": (jrnn.Tie(jrnn.Elman(3), "w_ih", "w_hh"), 3, lambda p: p._replace(w_hh=p.w_ih)),
    "no bias": (jrnn.Tie(jrnn.Stack((jrnn.GRU(3, bias=False),) * 2), "1", "0"), 3, lambda p: (p[1], p[1])),
    "one of two": (
        jrnn.Tie(jrnn.Tie(LANGUAGE, "1.w_ih", "1.w_hh"), "0.table", "2.w", transposed=True),
        7,
        lambda p: (p[0], p[1]._replace(w_hh=p[1].w_ih), p[2]._replace(w=p[0].table.T)),
    ),
}


@pytest.mark.parametrize("name", TIES)
def test_tied_parts_are_one_set_of_parameters_whose_gradient_sums_both_uses(name):
    tied, width, whole = TIES[name]
    plain = tied.cell.cell if isinstance(tied.cell, jrnn.Tie) else tied.cell
    params = tied.init(KEY, width)
    xs = jnp.arange(12).reshape(6, 2) % 7 if tied.in_ndim == 0 else XS
    assert len(jax.tree.leaves(params)) < len(jax.tree.leaves(plain.init(KEY, width)))
    loss = lambda cell, p: jnp.sum(jnp.sin(jrnn.unroll(cell, p, xs)[1]))
    found, gradient = jax.value_and_grad(lambda p: loss(tied, p))(params)
    expected, needed = jax.value_and_grad(lambda p: loss(plain, whole(p)))(params)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(needed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_a_tied_language_model_writes_and_is_stored(tmp_path):
    tied, _, _ = TIES["table"]
    params = tied.init(KEY, 7)
    tokens = jrnn.generate(tied, params, jnp.array([1, 2]), 3, temperature=0).tokens
    assert tokens.shape == (3,)
    jrnn.save(tmp_path / "tied", jrnn.Snapshot(tied, 7, params))
    loaded = jrnn.load(tmp_path / "tied")
    assert loaded.cell == tied and jax.tree.structure(loaded.params) == jax.tree.structure(params)


NO_TIES = {
    "Tie: Elman(hidden=3) has no part 'w', it has w_ih, w_hh, b": (jrnn.Elman(3), "w", "w_hh", False),
    "Tie: Elman(hidden=3) has no part 'u', it has w_ih, w_hh, b": (jrnn.Elman(3), "w_ih", "u", False),
    "Tie: 'w_hh' has shapes [(3, 3)], 'b' gives [(3,)]": (jrnn.Elman(3), "b", "w_hh", False),
    "Tie: '2.w' has shapes [(4, 7)], '0.table' gives [(7, 4)]: use transposed=True": (
        LANGUAGE,
        "0.table",
        "2.w",
        False,
    ),
    "Tie: '0.table' has shapes [(7, 4)], '0.table' gives [(7, 4)]": (LANGUAGE, "0.table", "0.table", False),
}


@pytest.mark.parametrize("message", NO_TIES)
def test_what_cannot_be_tied_is_named(message):
    *parts, transposed = NO_TIES[message]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        jrnn.Tie(*parts, transposed=transposed).init(KEY, 7)
