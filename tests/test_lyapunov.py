import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.analysis import exponents
from jrnn.analysis.exponents import Lyapunov, lyapunov, orthonormalize, predictability
from tests.test_jacobians import linear

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def autonomous(step, start):
    """A cell that takes no notice of its input."""
    return jrnn.from_functions(
        init=lambda key, in_features: (),
        initial_carry=lambda params, batch_shape=(), *, key=None: jnp.array(start),
        step=lambda params, h, x: (step(h), h),
        out_features=len(start),
    )


def idle(steps):
    return jnp.zeros((steps, 1))


# known answers


@pytest.mark.parametrize("rho", [0.5, 1.0, 3.0])
def test_a_linear_cell_grows_by_its_radius(rho):
    cell, params = linear(rho * np.linalg.qr(RNG.normal(size=(6, 6)))[0])
    found = lyapunov(cell, params, idle(400), exponents=None)
    np.testing.assert_allclose(found.exponents, np.log(rho), atol=1e-6)
    np.testing.assert_allclose(found.standard_error, 0, atol=1e-12)


def test_an_orthogonal_cell_keeps_everything():
    cell = jrnn.OrthogonalRNN(8, activation="identity")
    with jax.enable_x64(False):  # in float32 too
        params = cell.init(jax.random.key(0), 2)
        found = lyapunov(cell, params, jax.random.normal(jax.random.key(1), (300, 2)), exponents=None)
    np.testing.assert_allclose(found.exponents, 0, atol=1e-6)


def test_a_triangular_cell_shows_its_diagonal():
    diagonal = [0.5, 0.9, 1.2, 0.7]  # the largest is not the first
    matrix = np.triu(RNG.normal(size=(4, 4)), 1) + np.diag(diagonal)
    cell, params = linear(matrix)
    found = lyapunov(cell, params, idle(400), exponents=None, discard=200)
    np.testing.assert_allclose(found.exponents, np.log([1.2, 0.9, 0.7, 0.5]), atol=1e-6)
    assert lyapunov(cell, params, idle(400), discard=200).exponents == pytest.approx(np.log(1.2), abs=1e-6)


def test_independent_units_have_exponents_of_their_own():
    cell = jrnn.IndRNN(4, activation="tanh")
    u = np.array([0.3, -0.9, 1.4, 0.6])
    params = cell.init(jax.random.key(0), 2)._replace(w_hh=jnp.array(u), b=jnp.array([0.1, -0.2, 0.3, 0.0]))
    xs = 0.3 * jax.random.normal(jax.random.key(1), (500, 2))
    h = np.asarray(jrnn.unroll(cell, params, xs)[1])
    needed = np.sort(np.log(np.abs(u)) + np.log(1 - h[200:] ** 2).mean(0))[::-1]
    np.testing.assert_allclose(
        lyapunov(cell, params, xs, exponents=4, discard=200).exponents, needed, atol=1e-9
    )


def test_a_sigmoid_cell_below_a_norm_of_4_contracts():
    cell = jrnn.Elman(6, activation="sigmoid")
    for seed in range(3):
        params = cell.init(jax.random.key(seed), 2)
        w = params.w_hh * 3.99 / jnp.linalg.norm(params.w_hh, 2)
        xs = 0.1 * jax.random.normal(jax.random.key(seed), (100, 2))
        assert lyapunov(cell, params._replace(w_hh=w), xs).exponents[0] < 0


def test_the_logistic_map():
    found = lyapunov(autonomous(lambda h: 4 * h * (1 - h), [0.3141]), (), idle(20_000), discard=100)
    assert found.exponents[0] == pytest.approx(np.log(2), rel=0.01)
    assert found.entropy == found.exponents[0] and found.dimension == 1


def test_henon():
    def step(h):
        return jnp.array([1 - 1.4 * h[0] ** 2 + h[1], 0.3 * h[0]])

    found = lyapunov(autonomous(step, [0.1, 0.1]), (), idle(60_000), exponents=2, discard=100)
    np.testing.assert_allclose(found.exponents, [0.41922, -1.62319], rtol=0.01)
    assert found.exponents.sum() == pytest.approx(np.log(0.3), abs=1e-9)  # |det J| = 0.3 everywhere
    assert found.dimension == pytest.approx(1.258, abs=0.005)
    assert found.entropy == found.exponents[0]
    assert abs(found.exponents[0] - 0.41922) < 4 * found.standard_error[0] < 0.02


def test_lorenz():
    dt = 0.01

    def field(h):
        x, y, z = h
        return jnp.array([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])

    def step(h):  # Runge-Kutta of order 4
        a = field(h)
        b = field(h + dt / 2 * a)
        c = field(h + dt / 2 * b)
        return h + dt / 6 * (a + 2 * b + 2 * c + field(h + dt * c))

    found = lyapunov(autonomous(step, [1.0, 2.0, 20.0]), (), idle(60_000), exponents=3, discard=2000, every=4)
    rates = found.exponents / dt
    np.testing.assert_allclose(rates, [0.9056, 0, -14.572], rtol=0.01, atol=0.009)
    assert found.dimension == pytest.approx(2.062, abs=0.005)


# the method


def chaos(steps=200, hidden=5, gain=3.0):
    cell = jrnn.Elman(hidden)
    params = cell.init(jax.random.key(0), 2)
    turn = jax.random.orthogonal(jax.random.key(1), hidden)
    params = params._replace(w_hh=turn * jnp.linspace(1.0, gain, hidden))
    return cell, params, 0.3 * jax.random.normal(jax.random.key(2), (steps, 2))


def test_the_sum_is_that_of_the_volume_whatever_the_interval():
    cell, params, xs = chaos(gain=1.5)  # products of six Jacobians of more gain lose too many digits
    h = np.asarray(jrnn.unroll(cell, params, xs)[1])
    volume = np.log(1 - h**2).sum(1) + np.linalg.slogdet(np.asarray(params.w_hh))[1]
    for discard, every, first in ((0, 1, 0), (30, 1, 30), (0, 3, 2), (31, 6, 32), (1, 3, 2)):
        found = lyapunov(cell, params, xs, exponents=None, discard=discard, every=every)
        assert found.local.shape == ((200 - discard) // every, 5)
        assert found.exponents.sum() == pytest.approx(volume[first:].mean(), abs=1e-11)
        blocks = volume[first:].reshape(-1, every).mean(1)
        np.testing.assert_allclose(found.local.sum(1), blocks, atol=1e-11)


def test_intervals_and_fewer_exponents_change_nothing():
    cell, params, xs = chaos()
    whole = lyapunov(cell, params, xs, exponents=5, discard=100)
    np.testing.assert_allclose(
        lyapunov(cell, params, xs, exponents=2, discard=100).exponents, whole.exponents[:2], atol=1e-3
    )
    np.testing.assert_allclose(
        lyapunov(cell, params, xs, exponents=5, discard=100, every=5).exponents, whole.exponents, atol=1e-6
    )
    assert (np.diff(whole.exponents) < 0).all()


def test_the_standard_error_is_that_of_batch_means():
    cell, params, xs = chaos()
    found = lyapunov(cell, params, xs, exponents=3, discard=55)  # 145: the last 140, by 7
    means = np.asarray(found.local)[5:].reshape(20, 7, 3).mean(1)
    np.testing.assert_allclose(found.standard_error, means.std(0, ddof=1) / 20**0.5, rtol=1e-9)
    np.testing.assert_allclose(found.exponents, found.local.mean(0), rtol=1e-9)
    few = lyapunov(cell, params, xs[:3], exponents=1)
    assert few.standard_error[0] == pytest.approx(np.std(few.local[:, 0], ddof=1) / 3**0.5)
    assert np.isnan(lyapunov(cell, params, xs[:1]).standard_error[0])
    still = jax.grad(lambda p: lyapunov(cell, p, xs[:3]).standard_error.sum())(params)
    assert not still.w_hh.any()  # of a spread of zero it would be NaN


def test_a_run_may_go_on_and_is_traced():
    cell, params, xs = chaos(40)
    carry, _ = jrnn.unroll(cell, params, xs)
    eager = lyapunov(cell, params, xs, carry, exponents=2)
    assert abs(eager.exponents[0] - lyapunov(cell, params, xs, exponents=2).exponents[0]) > 1e-3
    batch = jnp.stack([xs, xs[::-1]], 1)
    found = jax.jit(jax.vmap(lambda xs: lyapunov(cell, params, xs, carry, exponents=2), in_axes=1))(batch)
    np.testing.assert_allclose(found.exponents[0], eager.exponents, atol=1e-9)
    assert abs(found.exponents[1] - eager.exponents).max() > 1e-4


def test_an_equal_cell_is_traced_once():
    traces = []
    cell = autonomous(lambda h: traces.append(1) or 0.5 * h, [1.0])
    lyapunov(cell, (), idle(5))
    seen = len(traces)
    assert lyapunov(cell, (), idle(5)).exponents[0] == pytest.approx(np.log(0.5)) and len(traces) == seen


def test_what_cannot_be_measured_is_refused():
    cell, params, xs = chaos(10)
    with pytest.raises(ValueError, match=r"^exponents must be at most 5, the size of the state, got 6$"):
        lyapunov(cell, params, xs, exponents=6)
    with pytest.raises(ValueError, match=r"^xs has 10 steps, needs at least discard \+ every = 11$"):
        lyapunov(cell, params, xs, discard=8, every=3)
    with pytest.raises(ValueError, match=r"^discard must be a whole number, 0 or more, got -1$"):
        lyapunov(cell, params, xs, discard=-1)
    with pytest.raises(ValueError, match=r"^every must be at least 1, got 0$"):
        lyapunov(cell, params, xs, every=0)
    assert np.isnan(lyapunov(cell, params, xs.at[3].set(jnp.nan), exponents=None).exponents).all()


# gradients


def floss(cell, xs, exponents=None):
    def loss(params):
        found = lyapunov(cell, params, xs, exponents=exponents).exponents
        return jnp.sum(jnp.where(jnp.isfinite(found), found, 0) ** 2)

    return loss


def differences(loss, w, replace):
    found = np.zeros(w.shape)
    for at in itertools.product(*map(range, w.shape)):
        e = np.zeros(w.shape)
        e[at] = 1e-5
        found[at] = (loss(replace(w + e)) - loss(replace(w - e))) / 2e-5
    return found


@pytest.mark.parametrize("exponents", [2, None])
def test_the_gradient_of_flossing_is_that_of_finite_differences(exponents):
    cell, params, xs = chaos(12, hidden=3)
    loss = floss(cell, xs, exponents)
    found = jax.grad(loss)(params).w_hh
    needed = differences(jax.jit(loss), params.w_hh, lambda w: params._replace(w_hh=w))
    np.testing.assert_allclose(found, needed, rtol=1e-6, atol=1e-7)
    assert np.abs(found).max() > 0.1


def test_dead_units_leave_the_gradient_of_the_others():
    cell = jrnn.Elman(4, activation="relu")
    params = cell.init(jax.random.key(0), 2)
    w = 0.5 * jnp.abs(jax.random.normal(jax.random.key(1), (4, 4)))
    params = params._replace(w_hh=w, w_ih=0 * params.w_ih, b=jnp.array([1.0, -9.0, 1.0, -9.0]))
    loss = floss(cell, idle(6) + jnp.zeros(2))
    found = lyapunov(cell, params, idle(6) + jnp.zeros(2), exponents=None)
    assert np.isfinite(found.exponents).tolist() == [True, True, False, False]
    assert found.standard_error[2:].tolist() == [0, 0] and found.dimension >= 0
    alive = np.log(np.abs(np.linalg.det(np.asarray(w)[np.ix_([0, 2], [0, 2])])))
    # the first step comes from a random start, of which the live units see a part
    assert found.local[1:, :2].sum(1) == pytest.approx(alive)
    needed = differences(jax.jit(loss), w, lambda w: params._replace(w_hh=w))
    np.testing.assert_allclose(jax.grad(loss)(params).w_hh, needed, rtol=1e-6, atol=1e-7)
    for bad in (0.0, 1.0):  # nothing is left, or one direction
        gradient = jax.grad(loss)(params._replace(w_hh=bad * jnp.ones((4, 4)))).w_hh
        assert np.isfinite(gradient).all()
    infinite = jax.grad(lambda p: lyapunov(cell, p, idle(6) + jnp.zeros(2), exponents=4).exponents.sum())
    assert np.isfinite(infinite(params).w_hh).all()


def test_orthonormalize_is_the_qr_with_its_derivative():
    z, dz = jnp.array(RNG.normal(size=(2, 5, 3)))
    (q, growth), (dq, rate) = jax.jvp(orthonormalize, (z,), (dz,))
    (p, r), (dp, dr) = jax.jvp(jnp.linalg.qr, (z,), (dz,))
    np.testing.assert_allclose(q, p)
    np.testing.assert_allclose(growth, np.log(np.abs(np.diag(r))), atol=1e-12)
    np.testing.assert_allclose(dq, dp, atol=1e-10)
    np.testing.assert_allclose(rate, np.diag(dr) / np.diag(r), atol=1e-10)


def test_panels_make_one_orthonormal_matrix(monkeypatch):
    monkeypatch.setattr(exponents, "PANEL", 3)
    z, dz = jnp.array(RNG.normal(size=(2, 9, 8)))
    (q, growth), (dq, rate) = jax.jvp(orthonormalize, (z,), (dz,))
    (p, r), (dp, dr) = jax.jvp(jnp.linalg.qr, (z,), (dz,))
    signs = jnp.sign(jnp.sum(p * q, 0))
    np.testing.assert_allclose(q * signs, p, atol=1e-12)
    np.testing.assert_allclose(dq * signs, dp, atol=1e-10)
    np.testing.assert_allclose(growth, np.log(np.abs(np.diag(r))), atol=1e-12)
    np.testing.assert_allclose(rate, np.diag(dr) / np.diag(r), atol=1e-10)
    hard = z * 10.0 ** -jnp.arange(8) @ z[:8]  # columns that are nearly one: of condition 1e7 and more
    q, growth = orthonormalize(hard)
    np.testing.assert_allclose(q.T @ q, np.eye(8), atol=1e-14)
    np.testing.assert_allclose(growth, np.log(np.abs(np.diag(np.linalg.qr(hard)[1]))), atol=1e-7)
    for rank in (0, 1, 4, 7):  # nothing new in the rest, and unit vectors already there
        for low in (jnp.eye(9, 8) * (jnp.arange(8) < rank), z[:, :rank] @ dz[:rank, :]):
            q, growth = orthonormalize(low)
            np.testing.assert_allclose(q.T @ q, np.eye(8), atol=1e-14)
            assert np.isneginf(growth).tolist() == [False] * rank + [True] * (8 - rank)


# what follows of it


def of(*exponents):
    return Lyapunov(jnp.array(exponents), jnp.zeros(len(exponents)), jnp.zeros((1, len(exponents))))


def test_dimension_and_entropy():
    assert of(0.5, -0.25, -1.0).dimension == pytest.approx(2.25)
    assert of(0.5, 0.1, -0.7).dimension == pytest.approx(2 + 0.6 / 0.7)
    assert of(0.5, -1.0, -3.0).dimension == pytest.approx(1.5)
    assert of(-0.1, -0.2).dimension == 0
    assert of(0.0, -0.2).dimension == 1
    assert of(0.5, -0.1).dimension == 2  # more exponents are needed
    assert of(0.5, -np.inf).dimension == 1
    assert of(0.5, -0.5, -0.2).dimension == 2
    assert of(0.5, 0.1, -0.7, -np.inf).entropy == pytest.approx(0.6)
    assert of(-0.5).entropy == 0


def test_predictability_in_numbers():
    for rate in (-0.7, -1e-9, 0.0, 1e-9, 0.2):
        found = predictability(rate, 50, precision=1e-6)
        assert found.log_amplification == pytest.approx(np.log(np.exp(rate * np.arange(50)).sum()), rel=1e-6)
        assert found.converges == (rate < 0)
        assert found.horizon == (pytest.approx(np.log(1e6) / rate) if rate > 0 else np.inf)
    assert predictability(np.float32(0.5), 10**6).log_amplification == pytest.approx(
        0.5 * (10**6 - 1) - np.log(1 - np.exp(-0.5)), rel=1e-5
    )
    assert predictability(jnp.array([0.1, -0.1]), 10).converges.tolist() == [False, True]
    assert predictability(-np.inf, 10).log_amplification == 0
    assert predictability(0, 1).log_amplification == 0
    with pytest.raises(ValueError, match=r"^precision must be in \(0, 1\), got 1$"):
        predictability(0.1, 10, precision=1)
    with pytest.raises(ValueError, match=r"^steps must be at least 1, got 0$"):
        predictability(0.1, 0)


def newton(w, drive, tolerance=1e-8):
    """Newton iterations that tanh(W h + x) takes to find all of its states at once."""
    states, h = [], np.zeros(len(w))
    for x in drive:
        states.append(h := np.tanh(w @ h + x))
    guess = np.zeros_like(drive)
    for iteration in range(1, len(drive) + 1):
        before = np.vstack([np.zeros(len(w)), guess[:-1]])
        after, h, found = np.tanh(before @ w.T + drive), np.zeros(len(w)), []
        for f, b in zip(after, before, strict=True):
            found.append(h := np.clip(f + (1 - f**2) * (w @ (h - b)), -1e6, 1e6))
        guess = np.array(found)
        if np.abs(guess - states).max() < tolerance:
            return iteration
    return len(drive) + 1


def test_newton_converges_where_it_should():
    rng = np.random.default_rng(0)
    drive, w = 0.5 * rng.normal(size=(150, 16)), rng.normal(size=(16, 16)) / 4
    cell = jrnn.Elman(16)
    params = cell.init(jax.random.key(0), 16)._replace(w_ih=jnp.eye(16))
    for gain, fast in ((0.5, True), (1.0, True), (4.0, False)):
        found = lyapunov(cell, params._replace(w_hh=gain * jnp.array(w).T), jnp.array(drive))
        assert bool(predictability(found.exponents[0], 150).converges) == fast
        iterations = newton(gain * w, drive)
        assert iterations < 20 if fast else iterations > 75


def test_a_dead_column_is_a_constant_of_the_columns_after_it():
    z = np.random.default_rng(3).normal(size=(5, 3))
    z[:, 1] = 2 * z[:, 0]
    growth = lambda z: orthonormalize(z)[1]
    assert np.isneginf(growth(jnp.array(z))[1])
    gradient = np.asarray(jax.grad(lambda z: growth(z)[2])(jnp.array(z)))
    assert np.isfinite(gradient).all() and gradient[:, 2].any()
    np.testing.assert_array_equal(gradient[:, 1], 0)
