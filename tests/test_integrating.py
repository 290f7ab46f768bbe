"""Multiplicative integration of a cell: against the equations of the paper, written out for each cell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from tests.references import run, sigmoid, tanh
from tests.values import random

XS = np.random.default_rng(1).normal(size=(5, 2, 3))


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def integrate(p, number, wx, uh):
    """Wu et al. 2016, eq. 4, without b: α (W x) (U h) + β₁ U h + β₂ W x."""
    alpha, beta_1, beta_2 = p.sums[number]
    return alpha * wx * uh + beta_1 * uh + beta_2 * wx


def mi_rnn(p, h, x):
    h = tanh(integrate(p, 0, x @ p.cell.w_ih, h @ p.cell.w_hh) + p.cell.b)
    return h, h


def lstm(z, c):
    i, f, g, o = np.split(z, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h = sigmoid(o) * tanh(c)
    return (h, c), h


def mi_lstm(p, carry, x):
    h, c = carry
    return lstm(integrate(p, 0, x @ p.cell.w_ih, h @ p.cell.w_hh) + p.cell.b, c)


def mi_gru(p, h, x):
    """Reset before the product: both products of the candidate are of the paper's appendix A."""
    (w_r, w_z, w_n), (u_r, u_z, u_n) = (np.split(w, 3, axis=-1) for w in (p.cell.w_ih, p.cell.w_hh))
    r = sigmoid(integrate(p, 0, x @ w_r, h @ u_r) + p.cell.b[:4])
    z = sigmoid(integrate(p, 1, x @ w_z, h @ u_z) + p.cell.b[4:8])
    n = tanh(integrate(p, 2, x @ w_n, (r * h) @ u_n) + p.cell.b[8:])
    h = z * h + (1 - z) * n
    return h, h


def mi_gru_after(p, h, x):
    """Reset after the product: r scales U h before it meets W x, and r b_hn is of b."""
    (w_r, w_z, w_n), (u_r, u_z, u_n) = (np.split(w, 3, axis=-1) for w in (p.cell.w_ih, p.cell.w_hh))
    r = sigmoid(integrate(p, 0, x @ w_r, h @ u_r) + p.cell.b[:4])
    z = sigmoid(integrate(p, 1, x @ w_z, h @ u_z) + p.cell.b[4:8])
    n = tanh(integrate(p, 2, x @ w_n, r * (h @ u_n)) + p.cell.b[8:] + r * p.cell.b_hn)
    h = z * h + (1 - z) * n
    return h, h


def mi_independent(p, h, x):
    h = np.maximum(integrate(p, 0, x @ p.cell.w_ih, p.cell.w_hh * h) + p.cell.b, 0)
    return h, h


def mi_oscillators(p, carry, x):
    """What decays and pulls is no product of weights."""
    h, z = carry
    n = tanh(integrate(p, 0, x @ p.cell.w_ih, np.concatenate([h, z], -1) @ p.cell.w_hh) + p.cell.b)
    z = z + 0.5 * (n - h - z)
    h = h + 0.5 * z
    return (h, z), h


def init_two(key, in_features):
    return {"w": jnp.zeros((in_features, 4)), "u": jnp.zeros((4, 4)), "v": jnp.zeros((4, 4))}


def start_two(params, batch_shape=(), *, key=None):
    return jnp.zeros((*batch_shape, 4))


def step_two(params, h, x):
    z = h @ params["u"] - jnp.tanh(h) @ params["v"] + 2 * (x @ params["w"]) + h
    return jnp.sin(z), z / 2


def mi_two(p, h, x):
    """Two products of the state are one; h, which no weights multiply, is of b."""
    uh = h @ p.cell["u"] - tanh(h) @ p.cell["v"]
    z = integrate(p, 0, 2 * (x @ p.cell["w"]), uh) + h
    return np.sin(z), z / 2


def mi_delayed(p, carry, x):
    """One product of the state and one of the delayed state, side by side."""
    (h, past), cell = carry, p.cell
    uh = np.concatenate([h @ cell.w_hh, past[..., 0, :] @ cell.w_lh], -1)
    g, a, n, d = np.split(integrate(p, 0, x @ cell.w_ih, uh) + cell.b, 4, axis=-1)
    past = np.concatenate([past[..., 1:, :], h[..., None, :]], -2)
    h = (1 - sigmoid(g)) * h + sigmoid(g) * (tanh(n) + sigmoid(a) * tanh(d))
    return (h, past), h


def mi_fast(p, h, x):
    """FastGRNN: the gate and the candidate share one sum, and its parameters."""
    z = integrate(p, 0, x @ p.cell.w_ih, h @ p.cell.w_hh)
    gate, n = sigmoid(z + p.cell.b[:4]), tanh(z + p.cell.b[4:])
    h = (sigmoid(p.cell.zeta) * (1 - gate) + sigmoid(p.cell.nu)) * n + gate * h
    return h, h


STEPS = {
    "Elman": (jrnn.Elman(4), mi_rnn),
    "LSTM": (jrnn.LSTM(4), mi_lstm),
    "GRU": (jrnn.GRU(4, reset_after=False), mi_gru),
    "GRU-after": (jrnn.GRU(4), mi_gru_after),
    "IndRNN": (jrnn.IndRNN(4), mi_independent),
    "CoRNN": (jrnn.CoRNN(4, dt=0.5, gamma=1.0, epsilon=1.0), mi_oscillators),
    "two": (jrnn.from_functions(init_two, start_two, step_two, 4), mi_two),
    "TauGRU": (jrnn.TauGRU(4, delay=2), mi_delayed),
    "FastGRNN": (jrnn.FastGRNN(4), mi_fast),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_equations_of_the_paper(name):
    cell, step = STEPS[name]
    integrated = jrnn.MultiplicativeIntegration(cell)
    rng = np.random.default_rng(0)
    params = random(rng, integrated.init(jax.random.key(0), 3))
    carry = random(rng, integrated.initial_carry(params, (2,)))
    last, ys = jrnn.unroll(integrated, params, jnp.asarray(XS), jax.tree.map(jnp.asarray, carry))
    end, want = run(step, params, carry, XS)
    np.testing.assert_allclose(ys, want, rtol=1e-12, atol=1e-13)
    for got, expected in zip(jax.tree.leaves(last), jax.tree.leaves(end), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-13)


def test_the_integration_mode_of_recurrent_layers():
    """(W x + b_ih) (U h + b_hh) in its `mul_projections`: α = 1, the biases are β, their product is b."""
    b_ih, b_hh = np.random.default_rng(2).normal(size=(2, 16))
    cell = jrnn.MultiplicativeIntegration(jrnn.LSTM(4), beta=0.0)
    params = cell.init(jax.random.key(0), 3)
    inner = params.cell._replace(b=jnp.asarray(b_ih * b_hh))
    params = params._replace(cell=inner, sums=(params.sums[0]._replace(beta_h=b_ih, beta_x=b_hh),))

    def step(p, carry, x):
        h, c = carry
        return lstm((x @ p.w_ih + b_ih) * (h @ p.w_hh + b_hh), c)

    start = np.zeros((2, 4)), np.zeros((2, 4))
    _, want = run(step, params.cell, start, XS)
    np.testing.assert_allclose(jrnn.unroll(cell, params, jnp.asarray(XS))[1], want, rtol=1e-12)


@pytest.mark.parametrize(
    ("cell", "widths"),
    [
        (jrnn.GRUODE(4), [8, 4]),  # four evaluations of one equation
        (jrnn.Elman(4, activation="gelu"), [4]),  # which reads its argument twice
        (jrnn.LayerNormElman(4), [4]),
        (jrnn.ATR(4), [4]),  # p + q and p − q
        (jrnn.Dropout(jrnn.LSTM(4), state=0.5), [16]),
        (jrnn.ConvLSTM(3), [12]),
        (jrnn.Stack((jrnn.Embed(2), jrnn.GRU(4), jrnn.LSTM(5))), [4, 4, 4]),  # those of the first recurrence
    ],
    ids=repr,
)
def test_the_sums_of_a_step(cell, widths):
    """Without α, and with β = 1, it is the cell itself."""
    integrated = jrnn.MultiplicativeIntegration(cell, alpha=0.0)
    params = integrated.init(jax.random.key(0), 3)
    assert [p.alpha.shape for p in params.sums] == [(width,) for width in widths]
    places = (6,) * (2 * hasattr(cell, "spatial"))
    xs = jax.random.normal(jax.random.key(1), (4, 2, *places, 3))
    xs = jnp.zeros((4, 2), int) if integrated.in_ndim == 0 else xs
    key = jax.random.key(2)
    want = jrnn.unroll(cell, params.cell, xs, key=key)[1]
    np.testing.assert_allclose(jrnn.unroll(integrated, params, xs, key=key)[1], want, rtol=1e-9, atol=1e-12)


def test_names_and_time_of_the_cell_inside():
    cell = jrnn.MultiplicativeIntegration(jrnn.CfC(4))
    params = cell.init(jax.random.key(0), 3)
    xs = jnp.asarray(XS), jnp.full((5, 2), 0.7)
    _, (ys, inside) = jrnn.unroll(jrnn.Tap(cell, ("p", "q", "s")), params, xs)
    p, q, s = (inside[name] for name in "pqs")
    np.testing.assert_allclose(ys, (1 - s) * p + s * q, rtol=1e-12)


@pytest.mark.parametrize(
    "cell",
    [jrnn.MinGRU(4), jrnn.TLSTM(4), jrnn.Dense(4), jrnn.DeltaNet(4), jrnn.MogrifierLSTM(4)],
    ids=repr,
)
def test_a_cell_without_such_a_sum_is_refused(cell):
    with pytest.raises(ValueError, match=f"{type(cell).__name__}.* adds no product of weights and input"):
        jrnn.MultiplicativeIntegration(cell).init(jax.random.key(0), 4)


@pytest.mark.parametrize(
    "cell", [jrnn.GRUD(4), jrnn.NARX(4, outputs=3), jrnn.TreeLSTM(4), jrnn.Feedback(jrnn.GRU(3))], ids=repr
)
def test_a_cell_whose_input_is_no_array_is_refused(cell):
    message = f"cell must take features or tokens, got {type(cell).__name__}.*xs must be .*wrap a cell inside"
    with pytest.raises(ValueError, match=message):
        jrnn.MultiplicativeIntegration(cell).init(jax.random.key(0), 3)


def test_a_cell_inside_of_a_loop_is_integrated():
    cell = jrnn.Feedback(jrnn.MultiplicativeIntegration(jrnn.GRU(3), alpha=0.0))
    params, first = cell.init(jax.random.key(0), 3), jnp.zeros((5, 2), bool).at[0].set(True)
    given = jnp.asarray(XS), first
    want = jrnn.unroll(jrnn.Feedback(jrnn.GRU(3)), params.cell, given)[1]
    np.testing.assert_allclose(jrnn.unroll(cell, params, given)[1], want, rtol=1e-12)


def test_sums_are_computed_in_the_dtype_of_the_step():
    cell = jrnn.MultiplicativeIntegration(jrnn.Cast(jrnn.GRU(4)))
    params = cell.init(jax.random.key(0), 3)
    run = lambda cell, params: jrnn.unroll(cell, params, jnp.ones((5, 2, 3)))[1]
    plain = jrnn.MultiplicativeIntegration(jrnn.GRU(4))
    np.testing.assert_allclose(run(cell, params), run(plain, params), atol=0.02)


def test_a_sum_that_times_hide_is_an_error():
    cell = jrnn.MultiplicativeIntegration(jrnn.S5(4))
    params = cell.init(jax.random.key(0), 3)
    jrnn.unroll(cell, params, jnp.ones((5, 2, 3)))
    with pytest.raises(ValueError, match=r"with this x, the step of S5.* has 0 sums like x w \+ h u, and 1"):
        jrnn.unroll(cell, params, (jnp.ones((5, 2, 3)), jnp.ones((5, 2))))
