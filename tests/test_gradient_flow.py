"""Gradients by states, sensitivity, bound and verdict against products of Jacobians and known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn._jaxprs.naming import shifted
from jrnn.analysis import gradient_flow, log_bound, sensitivity, verdict

T, B, IN = 5, 3, 2
LENGTHS = np.array([5, 3, 1])
XS = np.random.default_rng(0).normal(size=(T, B, IN))
SQUARES = jrnn.PerStep(jrnn.losses.mean_squared_error)


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def moved(params):
    """Every parameter random, biases as well."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    drawn = [jax.random.normal(k, leaf.shape, leaf.dtype) * 0.5 for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def test_norms_of_a_deep_network_are_those_of_perturbed_states():
    elman, lstm, dense = cell = jrnn.Elman(3), jrnn.LSTM(4), jrnn.Dense(2)
    model = jrnn.Stack(cell)
    params = moved(model.init(jax.random.key(0), IN))
    targets = jnp.ones((T, B, 2))
    zeros = {n: jnp.zeros((T, B, w)) for n, w in (("cells[0]", 3), ("cells[1].h", 4), ("cells[1].c", 4))}

    def loss(by):
        h, (lh, c), total = jnp.zeros((B, 3)), lstm.initial_carry(params[1], (B,)), 0.0
        for t in range(T):
            valid = (t < LENGTHS)[:, None]
            new = elman.step(params[0], h, XS[t])[0] + by["cells[0]"][t]
            z = new @ params[1].w_ih + lh @ params[1].w_hh + params[1].b
            i, f, g, o = jnp.split(z, 4, -1)
            new_c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g) + by["cells[1].c"][t]
            new_h = jax.nn.sigmoid(o) * jnp.tanh(new_c) + by["cells[1].h"][t]
            y = dense.step(params[2], (), new_h)[1]
            total += (jnp.square(y - 1) * valid).sum() / (2 * LENGTHS.sum())
            h, lh, c = (jnp.where(valid, *pair) for pair in ((new, h), (new_h, lh), (new_c, c)))
        return total

    value, expected = jax.value_and_grad(loss)(zeros)
    found = gradient_flow(model, params, jrnn.Batch(XS, targets, LENGTHS), SQUARES)
    np.testing.assert_allclose(found.loss, value, rtol=1e-12)
    assert list(found.norms) == ["cells[0]", "cells[1].h", "cells[1].c"]
    for name, norms in found.norms.items():
        np.testing.assert_allclose(norms, jnp.linalg.norm(expected[name], axis=-1), rtol=1e-10, atol=1e-15)
        assert not norms[3:, 1].any() and norms[2, 1] > 0  # padding


@pytest.mark.parametrize("method", [jrnn.Scan(), jrnn.Scan(memory="sqrt")], ids=str)
def test_layers_have_their_own_names_and_directions(method):
    layer = jrnn.Sequential(
        (
            jrnn.Embed(3),
            jrnn.Bidirectional(jrnn.Elman(3, activation="identity"), jrnn.Elman(4, activation="identity")),
        )
    )
    params = moved(layer.init(jax.random.key(0), 6))
    batch = jrnn.Batch(jnp.zeros((T, B), int), jnp.zeros((T, B, 7)), LENGTHS)
    first = jrnn.AtLast(lambda ys, targets, mask: ys[..., :3].sum())  # of the forward half alone
    norms = gradient_flow(layer, params, batch, first, method=method).norms
    assert list(norms) == ["layers[1].forward.h", "layers[1].backward.h"]
    assert not norms["layers[1].backward.h"].any()
    w = params[1].forward.w_hh
    for row, length in enumerate(LENGTHS):
        expected = [
            np.linalg.norm(np.linalg.matrix_power(w, length - 1 - t) @ np.ones(3)) for t in range(length)
        ]
        np.testing.assert_allclose(norms["layers[1].forward.h"][:length, row], expected, rtol=1e-10)


def test_a_given_carry_and_a_key_enter():
    cell = jrnn.Dropout(jrnn.Elman(4), output=0.5)
    params = moved(cell.init(jax.random.key(0), IN))
    batch = jrnn.Batch(XS, jnp.ones((T, B, 4)))
    carry = cell.initial_carry(params, (B,))
    other = jax.tree.map(lambda leaf: leaf + 1.0, carry)
    plain, started, noisy = (
        gradient_flow(cell, params, batch, SQUARES, carry=c, key=k).loss
        for c, k in ((None, None), (other, None), (None, jax.random.key(1)))
    )
    ys = jrnn.unroll(cell, params, XS, other)[1]
    np.testing.assert_allclose(started, jnp.square(ys - 1).mean(), rtol=1e-12)
    assert plain != started and plain != noisy


def products(cell, params, xs):
    """∂h_T/∂h_t and ∂h_T/∂x_t for every t, by whole Jacobians."""
    from jrnn.analysis import from_vector, to_vector
    from jrnn.analysis.states import begin

    carry = begin(cell, params, xs)
    by_h, by_x = [], []
    for x in xs:

        def advance(h, x, carry=carry):
            return to_vector(cell, params, cell.step(params, from_vector(cell, params, h, carry), x)[0])

        jh, jx = jax.jacobian(advance, (0, 1))(to_vector(cell, params, carry), x)
        by_h.append(jh)
        by_x.append(jx)
        carry = cell.step(params, carry, x)[0]
    whole, states, inputs = jnp.eye(by_h[0].shape[0]), [], []
    for jh, jx in zip(reversed(by_h), reversed(by_x), strict=True):
        states.append(whole)
        inputs.append(whole @ jx)
        whole = whole @ jh
    return states[::-1], inputs[::-1]


@pytest.mark.parametrize(("norm", "order"), [("frobenius", "fro"), ("spectral", 2)])
def test_sensitivity_is_the_product_of_jacobians(norm, order):
    cell = jrnn.Stack((jrnn.GRU(3), jrnn.LRU(2)))  # complex states as well
    params = moved(cell.init(jax.random.key(0), IN))
    states, inputs = products(cell, params, XS[:, 0])
    found = sensitivity(cell, params, XS[:, 0], norm=norm)
    np.testing.assert_allclose(found.state, [jnp.linalg.norm(m, order) for m in states], rtol=1e-9)
    np.testing.assert_allclose(found.inputs, [jnp.linalg.norm(m, order) for m in inputs], rtol=1e-9)


def test_probes_estimate_the_frobenius_norm():
    cell = jrnn.LSTM(4)
    params = moved(cell.init(jax.random.key(0), IN))
    exact = sensitivity(cell, params, XS[:, 0]).state
    estimate = sensitivity(cell, params, XS[:, 0], probes=4000).state
    np.testing.assert_allclose(estimate, exact, rtol=0.1)
    few = sensitivity(cell, params, XS[:, 0], probes=2).state
    assert not np.allclose(few, exact, rtol=0.01)


def test_norms_beyond_the_range_of_floats_are_exact_logarithms():
    cell = jrnn.Elman(3, activation="identity")
    params = cell.init(jax.random.key(0), IN)
    for factor in (0.1, 10.0):
        scaled = params._replace(w_hh=factor * params.w_hh)
        found = sensitivity(cell, scaled, jnp.zeros((500, IN)), norm="spectral")
        np.testing.assert_allclose(found.log_state, np.arange(499, -1, -1) * np.log(factor), atol=1e-9)
        assert found.verdict.rate == pytest.approx(factor)


@pytest.mark.parametrize(("factor", "kind"), [(2.0, "exploding"), (0.5, "vanishing")])
def test_gradients_that_differ_by_more_than_squares_hold_are_all_there(factor, kind):
    """In float32 the square of a number 1e-23 times the largest is zero; rows have a loss of their own."""
    cell, weights = jrnn.Elman(2, activation="identity"), jnp.array([1.0, 1e-21], jnp.float32)
    params = jax.tree.map(lambda a: a.astype(jnp.float32), cell.init(jax.random.key(0), IN))
    params = params._replace(w_hh=jnp.asarray(factor * np.eye(2), jnp.float32))
    batch = jrnn.Batch(jnp.zeros((80, 2, IN), jnp.float32), weights)
    loss = jrnn.AtLast(lambda ys, targets, mask: (ys * targets[:, None]).sum())
    flow = gradient_flow(cell, params, batch, loss)
    expected = np.sqrt(2) * factor ** np.arange(79, -1, -1.0)[:, None] * np.array([1, 1e-21])
    np.testing.assert_allclose(flow.norms["h"], expected, rtol=1e-4, atol=1e-37)
    assert flow.verdicts["h"].kind == kind and flow.verdicts["h"].rate == pytest.approx(factor, rel=1e-3)


@pytest.mark.parametrize("norm", ["frobenius", "spectral"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("method", [jrnn.Scan(), jrnn.Newton()])
def test_logarithms_of_many_steps_are_summed_in_float32(norm, dtype, method):
    cell = jrnn.Elman(2, activation="identity")
    params = jax.tree.map(lambda a: a.astype(dtype), cell.init(jax.random.key(0), IN))
    params = params._replace(w_hh=jnp.asarray(0.5 * np.eye(2), dtype))
    found = sensitivity(cell, params, jnp.zeros((1000, IN), dtype), norm=norm, method=method)
    at_end = 0.5 * np.log(2) if norm == "frobenius" else 0.0
    assert found.log_state[0] == pytest.approx(999 * np.log(0.5) + at_end, rel=1e-3)
    assert found.log_state.dtype == jnp.float32


def test_the_bound_of_pascanu_holds_and_is_reached():
    for activation, slope in (("tanh", 1.0), ("sigmoid", 0.25), ("relu", 1.0)):
        cell = jrnn.Elman(4, activation=activation)
        params = moved(cell.init(jax.random.key(0), IN))
        xs = jax.random.normal(jax.random.key(2), (30, IN))
        measured = sensitivity(cell, params, xs, norm="spectral").log_state
        bound = log_bound(params.w_hh, 30, slope)
        assert (measured <= bound + 1e-9).all() and (measured[:-1] < bound[:-1]).any()
    linear = jrnn.Elman(4, activation="identity")
    at_zero = params._replace(w_hh=3 * jnp.eye(4))
    measured = sensitivity(linear, at_zero, xs, norm="spectral").log_state
    np.testing.assert_allclose(measured, log_bound(at_zero.w_hh, 30), rtol=1e-12)


def test_verdicts():
    steps = np.arange(40)
    assert verdict(-steps * np.log(1.5))[:2] == ("exploding", pytest.approx(1.5))
    assert verdict(steps * np.log(2))[:2] == ("vanishing", pytest.approx(0.5))
    assert verdict(0.01 * steps).kind == "steady" and verdict(0.03 * steps).kind == "vanishing"
    assert verdict(np.where(steps < 39, -np.inf, 0.0)) == ("vanishing", 0.0)
    assert verdict(np.full(3, -np.inf)).kind == "none"
    lines = [str(verdict(s)) for s in (-steps * np.log(2), 0 * steps, np.where(steps < 39, -np.inf, 0.0))]
    assert lines == [
        "exploding: a factor of 2 per step backwards, tenfold every 3.32 steps",
        "steady: a factor of 1 per step backwards",
        "vanishing: a factor of 0 per step backwards",
    ]
    assert str(verdict(np.full(3, -np.inf))) == "no gradient at all"


# what lasts through time, against closed forms

LONG = 40
RUN = jnp.asarray(np.random.default_rng(1).normal(size=(LONG, B, IN)))
LOSSES = {
    "at every step": SQUARES,
    "at the last step": jrnn.AtLast(lambda ys, targets, mask: jnp.square(ys).sum()),
    "of every step but the last": jrnn.PerStep(lambda ys, targets, mask: jnp.square(ys[:-1]).sum()),
}
FATES = {"vanishing": 0.5, "exploding": 1.25, "steady": 1.0}


def turning(hidden, rate):
    """A linear Elman whose eigenvalues are all of that modulus: gradients of any direction change by it."""
    cell = jrnn.Elman(hidden, activation="identity")
    params = moved(cell.init(jax.random.key(0), IN))
    return cell, params._replace(w_hh=rate * jnp.linalg.qr(params.w_hh)[0])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("fate", FATES)
def test_the_verdict_is_the_modulus_of_the_eigenvalues_wherever_losses_are(fate, loss):
    cell, params = turning(3, FATES[fate])
    for lengths in (None, np.array([LONG, 25, 11])):
        if loss == "of every step but the last" and lengths is not None:
            continue
        batch = jrnn.Batch(RUN, jnp.zeros((LONG, B, 3)), lengths)
        found = gradient_flow(cell, params, batch, LOSSES[loss])
        kind, rate = found.verdicts["h"]
        assert kind == fate == sensitivity(cell, params, RUN[:, 0]).verdict.kind
        ends = np.full(B, LONG) if lengths is None else lengths
        ends = ends - 1 if loss == "of every step but the last" else ends
        for row, end in enumerate(ends):
            norms = np.asarray(found.by_lag["h"][:, row])
            np.testing.assert_allclose(norms[:end] / norms[0], FATES[fate] ** np.arange(end), rtol=1e-9)
            assert np.isnan(norms[end:]).all()
            assert norms[0] == pytest.approx(float(found.norms["h"][end - 1, row]))
        assert rate == pytest.approx(FATES[fate])
    if loss == "at the last step":  # which is all that there is
        np.testing.assert_allclose(found.by_lag["h"][:, 0], found.norms["h"][::-1, 0], rtol=1e-9)


def test_ragged_sequences_do_not_change_a_verdict():
    """Nor does it where the short ones have the longer gradients."""
    cell, params = turning(3, 1.0)
    scales, lengths = jnp.array([1.0, 30.0, 50.0]), np.array([LONG, 20, 20])
    loss = jrnn.AtLast(lambda ys, targets, mask: (ys.sum(-1) * scales).sum())
    found = gradient_flow(cell, params, jrnn.Batch(RUN, RUN, lengths), loss)
    np.testing.assert_allclose(found.lasting["h"], np.sqrt(3 * jnp.square(scales).mean()), rtol=1e-9)
    assert found.verdicts["h"].rate == pytest.approx(1)


@pytest.mark.parametrize("loss", ["at every step", "at the last step"])
def test_layers_of_both_directions_and_of_models_that_pool(loss):
    cells, params = zip(turning(3, 0.5), turning(3, 0.8), strict=True)
    both = jrnn.Bidirectional(*cells)
    batch = jrnn.Batch(RUN, jnp.zeros((LONG, B, 6)), np.array([LONG, 25, 11]))
    found = gradient_flow(both, (params[0], params[1]), batch, LOSSES[loss]).verdicts
    assert found["forward.h"].rate == pytest.approx(0.5)
    if loss == "at every step":
        assert found["backward.h"].rate == pytest.approx(0.8)
    mean = jrnn.ManyToOne(jrnn.Sequential((cells[1], jrnn.Dense(2))), read="mean")
    dense = moved(jrnn.Dense(2).init(jax.random.key(0), 3))
    per = jrnn.PerSequence(jrnn.losses.mean_squared_error)
    batch = jrnn.Batch(RUN, jnp.zeros((B, 2)))
    found = gradient_flow(mean, (params[1], dense), batch, per)
    assert found.verdicts["model.layers[0].h"].rate == pytest.approx(0.8)


def test_a_deep_network_goes_back_through_every_layer():
    """By hand: the derivative of the last step's loss alone, by states that are perturbed."""
    model = jrnn.Stack((jrnn.Elman(3), jrnn.LSTM(4), jrnn.Dense(2)))
    params = moved(model.init(jax.random.key(0), IN))
    batch = jrnn.Batch(XS, jnp.ones((T, B, 2)))
    last = jrnn.PerStep(lambda ys, targets, mask: jnp.square(ys - targets)[-1].sum() / ys.size)
    one = gradient_flow(model, params, batch, SQUARES).by_lag
    alone = gradient_flow(model, params, batch, last).norms
    for name, norms in alone.items():
        np.testing.assert_allclose(one[name], norms[::-1], rtol=1e-10, atol=1e-15)
    layers = jrnn.Sequential(model.cells)
    found = gradient_flow(layers, params, batch, SQUARES).by_lag
    np.testing.assert_allclose(found["layers[1].c"], one["cells[1].c"], rtol=1e-10)


def test_an_elman_network_that_forgets_is_said_to_forget():
    """It was said to be steady, times 1.0002 a step: each step's own loss was measured."""
    cell = jrnn.Elman(16)
    params = cell.init(jax.random.key(0), 3)
    params = params._replace(w_hh=0.05 * params.w_hh)
    xs = jax.random.normal(jax.random.key(1), (60, 4, 3))
    found = gradient_flow(cell, params, jrnn.Batch(xs, jnp.zeros((60, 4, 16))), SQUARES)
    kind, rate = found.verdicts["h"]
    assert kind == "vanishing" and rate == pytest.approx(
        sensitivity(cell, params, xs[:, 0]).verdict.rate, rel=0.1
    )


ERRORS = [
    (lambda c, p: gradient_flow(lambda *a: a, p, None, SQUARES), TypeError, "model must be a cell"),
    (lambda c, p: sensitivity(c, p, XS), ValueError,
     "xs has shape (5, 3, 2), needs one sequence, (time, features); from a batch, take xs[:, b]"),
    (lambda c, p: sensitivity(jrnn.Bidirectional(c), p, XS), TypeError,
     "analysis of states takes cells, and "),
    (lambda c, p: sensitivity(c, p, XS[:, 0], norm="max"), ValueError, "norm must be"),
    (lambda c, p: sensitivity(c, p, XS[:, 0], norm="spectral", probes=3), ValueError,
     "probes must be None for spectral norms, which need all directions"),
    (lambda c, p: sensitivity(c, p, XS[:, 0], probes=0), ValueError, "probes must be"),
    (lambda c, p: log_bound(jnp.ones((2, 3)), 4), ValueError,
     "recurrent must be a square matrix, got shape (2, 3)"),
    (lambda c, p: verdict(np.ones((2, 2))), ValueError,
     "log_norms has shape (2, 2), needs (T,) with at least two steps"),
    (lambda c, p: verdict(np.array([0, np.nan])), ValueError, "log_norms is not finite at step 1"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), ERRORS, ids=[m[:30] for _, _, m in ERRORS])
def test_errors(call, error, message):
    cell = jrnn.Elman(3)
    with pytest.raises(error) as caught:
        call(cell, cell.init(jax.random.key(0), IN))
    assert str(caught.value).startswith(message)


def test_something_added_to_two_leaves_of_one_value():
    """All that is computed of the first sees what is added there, the second its own as well."""
    doubled = lambda x: ((y := 2 * x), y, 3 * y)
    assert [float(leaf) for leaf in shifted(doubled, {0: 10.0, 1: 100.0}, 1.0)] == [12, 112, 36]
