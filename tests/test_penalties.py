"""Penalties against their definitions, what they do to a gradient, and monitors that return numbers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrnn
from jrnn.analysis import (
    ActivationPenalty,
    GradientFlossing,
    OrthogonalPenalty,
    VanishingGradientPenalty,
    Watch,
    lyapunov,
    recurrent_matrices,
    sensitivity,
)

T, B, IN, H = 6, 3, 2, 4
XS = np.random.default_rng(0).normal(size=(T, B, IN))
SQUARES = jrnn.PerStep(jrnn.losses.mean_squared_error)
LAST = jrnn.AtLast(jrnn.losses.mean_squared_error)


@pytest.fixture
def _x64():
    with jax.enable_x64(True):
        yield


def test_activations_and_their_changes_are_penalized_where_they_are_valid(_x64):
    xs = np.random.default_rng(1).normal(size=(T, B, IN))
    lengths, resets = np.array([6, 2, 1]), np.zeros((T, B), bool)
    resets[3, 0] = True
    batch = jrnn.Batch(jnp.asarray(xs), None, jnp.asarray(lengths), None, jnp.asarray(resets))
    rows = [xs[:n, row] for row, n in enumerate(lengths)]
    changes = [
        row[t] - row[t - 1] for n, row in enumerate(rows) for t in range(1, len(row)) if (t, n) != (3, 0)
    ]
    assert len(changes) == 5
    by_hand = 2.0 * np.mean(np.concatenate(rows) ** 2) + 0.5 * np.mean(np.square(changes))
    penalty = ActivationPenalty(jrnn.Map("identity", IN), size=2.0, change=0.5)
    np.testing.assert_allclose(penalty((), batch), by_hand, rtol=1e-12)
    whole = ActivationPenalty(jrnn.Map("identity", IN), 0.0, 1.0)((), jrnn.Batch(jnp.asarray(xs), None))
    np.testing.assert_allclose(whole, np.mean(np.diff(xs, axis=0) ** 2), rtol=1e-12)
    ones = jrnn.Batch(jnp.ones((512, 160, 1), jnp.float16), None)
    with jax.numpy_dtype_promotion("strict"):
        assert ActivationPenalty(jrnn.Map("identity", 1), 1.0, 1.0)((), ones) == 1
    with pytest.raises(TypeError, match="ActivationPenalty: cell"):
        ActivationPenalty("LSTM", 1.0, 1.0)


def test_recurrent_matrices_are_square_blocks():
    model = jrnn.Stack((jrnn.Embed(3), jrnn.LSTM(4), jrnn.IndRNN(5), jrnn.Elman(2)))
    params = model.init(jax.random.key(0), 7)
    found = recurrent_matrices(params)
    assert list(found) == ["[1].w_hh", "[3].w_hh"]
    np.testing.assert_array_equal(found["[1].w_hh"][1], params[1].w_hh[:, 4:8])
    np.testing.assert_array_equal(found["[3].w_hh"][0], params[3].w_hh)


def test_orthogonal_penalty():
    params = jrnn.GRU(H).init(jax.random.key(0), IN)
    assert OrthogonalPenalty(1.0)(params, None) < 1e-9  # that is how a GRU starts
    params = params._replace(w_hh=params.w_hh + 0.1)
    expected = sum(np.square(u.T @ u - np.eye(H)).sum() for u in np.split(np.asarray(params.w_hh), 3, axis=1))
    np.testing.assert_allclose(OrthogonalPenalty(0.5)(params, None), 0.5 * expected, rtol=1e-5)
    with pytest.raises(ValueError, match="OrthogonalPenalty: params have no recurrent matrix named w_hh"):
        OrthogonalPenalty(1.0)({"w": jnp.ones(2)}, None)


@pytest.mark.usefixtures("_x64")
@pytest.mark.parametrize("lengths", [None, np.array([6, 2, 4])])
def test_vanishing_gradient_penalty_and_its_gradient_are_those_of_the_definition(lengths):
    cell = jrnn.Elman(H)
    params = jax.tree.map(lambda a: a + 0.1, cell.init(jax.random.key(0), IN))
    targets = np.random.default_rng(1).normal(size=(T, B, H))
    batch = jrnn.Batch(XS, jnp.asarray(targets), lengths)
    known = np.full(B, T) if lengths is None else lengths
    h = [np.zeros((B, H))]
    for x in XS:
        h.append(np.asarray(cell.step(params, h[-1], x)[0]))
    adjoint, adjoints = np.zeros((B, H)), {}
    for t in reversed(range(T)):
        valid = (t < known)[:, None]
        direct = 2 * (h[t + 1] - targets[t]) * valid / (known.sum() * H)
        adjoint = direct + adjoint
        adjoints[t] = adjoint
        adjoint = ((1 - h[t + 1] ** 2) * adjoint) @ np.asarray(params.w_hh).T * valid

    def definition(params):
        total, count = 0.0, 0
        for t in range(T):
            z = XS[t] @ params.w_ih + h[t] @ params.w_hh + params.b
            back = ((1 - jnp.tanh(z) ** 2) * adjoints[t]) @ params.w_hh.T
            for b in range(B):
                if t < known[b]:
                    ratio = jnp.linalg.norm(back[b]) / np.linalg.norm(adjoints[t][b])
                    total, count = total + (ratio - 1) ** 2, count + 1
        return 0.7 * total / count

    penalty = VanishingGradientPenalty(cell, SQUARES, 0.7)
    value, gradient = jax.value_and_grad(lambda p: penalty(p, batch))(params)
    wanted, by = jax.value_and_grad(definition)(params)
    np.testing.assert_allclose(value, wanted, rtol=1e-10)
    for name in ("w_ih", "w_hh", "b"):
        np.testing.assert_allclose(getattr(gradient, name), getattr(by, name), rtol=1e-8, atol=1e-12)


def test_padding_of_a_penalty_may_hold_anything():
    cell, lengths = jrnn.LSTM(H), np.array([6, 2, 4])
    params = cell.init(jax.random.key(0), IN)
    penalty = VanishingGradientPenalty(cell, SQUARES, 1.0)
    results = []
    for filler in (0.0, np.nan):
        xs = np.where(np.arange(T)[:, None, None] < lengths[:, None], XS, filler).astype(np.float32)
        batch = jrnn.Batch(xs, jnp.ones((T, B, H)), lengths)
        results.append(jax.value_and_grad(lambda p, batch=batch: penalty(p, batch))(params))
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, b)


def test_flossing_is_the_mean_of_squared_exponents():
    cell = jrnn.GRU(H)
    params = cell.init(jax.random.key(0), IN)
    penalty = GradientFlossing(cell, 0.5, exponents=2, sequences=2, discard=1)
    batch = jrnn.Batch(XS.astype(np.float32), None)
    found = [lyapunov(cell, params, batch.xs[:, b], exponents=2, discard=1).exponents for b in (0, 1)]
    np.testing.assert_allclose(penalty(params, batch), 0.5 * np.square(found).sum(1).mean(), rtol=1e-5)


def grown(penalties):
    """Rate per step of the gradient of a shrunken network, trained on nothing but penalties."""
    cell = jrnn.Elman(H)
    params = cell.init(jax.random.key(0), IN)
    params = params._replace(w_hh=0.5 * params.w_hh)
    batch = jrnn.Batch(0.3 * XS.astype(np.float32), jnp.zeros((B, H)))
    nothing = jrnn.AtLast(lambda ys, targets, mask: 0.0 * ys.sum())
    fitted = jrnn.fit(
        cell, [batch] * 60, nothing, optimizer=optax.adam(1e-2), key=jax.random.key(1), params=params,
        penalties=penalties, progress=jrnn.Progress(bar=False),
    )  # fmt: skip
    return sensitivity(cell, fitted.params, batch.xs[:, 0]).verdict.rate


@pytest.mark.parametrize(
    "penalty",
    [
        OrthogonalPenalty(1.0),
        GradientFlossing(jrnn.Elman(H), 1.0, exponents=3),
        VanishingGradientPenalty(jrnn.Elman(H), LAST, 1.0),
    ],
    ids=lambda penalty: type(penalty).__name__,
)
def test_a_penalty_cures_a_vanishing_gradient(penalty):
    before, after = grown((lambda params, batch: 0.0,)), grown((penalty,))
    assert before < 0.55 and after > 0.75


def test_penalties_are_added_and_recorded(tmp_path):
    cell, batch = jrnn.Elman(H), jrnn.Batch(XS.astype(np.float32), jnp.ones((T, B, H)))
    params = cell.init(jax.random.key(0), IN)
    step = jrnn.train_step(
        cell, SQUARES, optax.sgd(1.0), penalties=(lambda p, b: 3.0 * p.b.sum(), lambda p, b: b.xs.sum())
    )
    state = jrnn.init_state(cell, params, optax.sgd(1.0), jax.random.key(1))
    plain = jrnn.train_step(cell, SQUARES, optax.sgd(1.0))(state, batch)
    after, metrics = step(state, batch)
    np.testing.assert_allclose(metrics["loss"], plain[1]["loss"])
    np.testing.assert_allclose(metrics["penalty"], XS.sum(), rtol=1e-5)
    np.testing.assert_allclose(after.params.b, plain[0].params.b - 3.0, rtol=1e-5)
    assert "penalty" not in plain[1]
    watch = Watch({"bias": lambda p: p.b.sum(), "size": lambda p: optax.tree.norm(p)}, every=2)
    seen = []
    fitted = jrnn.fit(
        cell, [batch] * 3, SQUARES, optimizer=optax.sgd(0.1), key=jax.random.key(0), in_features=IN,
        monitors=(watch, lambda record, state: (seen.append(dict(record)), None)), out=tmp_path / "run",
        progress=jrnn.Progress(bar=False), penalties=(OrthogonalPenalty(0.1),),
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert ["bias" in line for line in lines] == [True, False, True, False]
    assert lines[2]["bias"] == pytest.approx(float(fitted.params.b.sum()))
    assert all("penalty" in line and "grad_norm" in line for line in lines[:3])
    assert len(seen) == 4


def test_errors():
    cell, batch = jrnn.Elman(H), jrnn.Batch(XS.astype(np.float32), jnp.ones((T, B, H)))
    options = {"optimizer": optax.sgd(0.1), "key": jax.random.key(0), "in_features": IN}
    options["progress"] = jrnn.Progress(bar=False)
    with pytest.raises(TypeError, match=r"penalties must be a tuple of functions, got OrthogonalPenalty\("):
        jrnn.fit(cell, [batch], SQUARES, penalties=OrthogonalPenalty(1.0), **options)
    with pytest.raises(TypeError, match=r"monitors must be a tuple of functions, got \('print',\)"):
        jrnn.fit(cell, [batch], SQUARES, monitors=("print",), **options)
    taken = Watch({"loss": lambda p: 0.0})
    with pytest.raises(ValueError, match=r"monitors return \['loss'\], which the record already has"):
        jrnn.fit(cell, [batch], SQUARES, monitors=(taken,), **options)
    with pytest.raises(ValueError, match="every must be"):
        Watch({}, every=0)
    for make in (lambda c: VanishingGradientPenalty(c, SQUARES, 1.0), lambda c: GradientFlossing(c, 1.0)):
        with pytest.raises(TypeError, match=": cell must be a cell"):
            make(3)
    with pytest.raises(ValueError, match="exponents must be"):
        GradientFlossing(cell, 1.0, exponents=0)
