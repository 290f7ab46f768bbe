"""`analysis.memory`: pulses, retention and capacity against what is known of them, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.analysis import linear_step, to_vector
from jrnn.analysis.memory import forgetting_curve, memory_capacity, pulse_response, retention, time_scale
from jrnn.cells.elman import ElmanParams
from jrnn.cells.lstm import LSTMCarry, LSTMParams
from tests.cases import CASES, one_in, subject_of

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def one_unit(activation, w, bias=0.0):
    """The lecture's probe h = f(w h + x + bias)."""
    params = ElmanParams(jnp.eye(1), w * jnp.eye(1), jnp.full(1, bias))
    return jrnn.Elman(1, activation=activation), params


# pulses


@pytest.mark.parametrize("w", [0.5, 0.9, 1.0, 1.1, 2.0])
def test_a_relu_unit_keeps_a_pulse_as_a_power_of_its_weight(w):
    found = pulse_response(*one_unit("relu", w), jnp.ones(1), 30)
    np.testing.assert_allclose(found, w ** np.arange(30.0), rtol=1e-13)


@pytest.mark.parametrize("w", [0.5, 0.9, 1.0, 1.1, 2.0])
def test_a_sigmoid_unit_forgets_a_quarter_of_its_weight_a_step_or_faster(w):
    found = np.asarray(pulse_response(*one_unit("sigmoid", w), jnp.ones(1), 30))
    assert found[0] == pytest.approx(1 / (1 + np.exp(-1)) - 0.5)  # from h = 0, without the pulse ½
    assert (found[1:] <= w / 4 * found[:-1] + 1e-15).all() and found[1] > w / 6 * found[0]


@pytest.mark.parametrize("w", [0.5, 0.9, 1.0, -0.9])
def test_a_tanh_unit_forgets_its_weight_a_step_or_faster(w):
    found = np.asarray(pulse_response(*one_unit("tanh", w), jnp.ones(1), 30))
    assert found[0] == pytest.approx(np.tanh(1)) and (found[1:] <= abs(w) * found[:-1]).all()
    assert found[-1] > 0


def test_a_tanh_unit_of_weight_2_latches():
    h = 1.0
    for _ in range(200):
        h = np.tanh(2 * h)
    found = pulse_response(*one_unit("tanh", 2.0), jnp.ones(1), 60)
    np.testing.assert_allclose(found[30:], h, rtol=1e-12)
    stays = pulse_response(*one_unit("tanh", 2.0), jnp.ones(1), 60, jnp.full(1, h))
    assert stays[-1] < 1e-12 < stays[0]  # it stands there already
    other = pulse_response(*one_unit("tanh", 2.0), jnp.full(1, -3.0), 60, jnp.full(1, h))
    np.testing.assert_allclose(other[-1], 2 * h, rtol=1e-12)


def test_the_background_stands_at_all_other_steps_and_in_place_of_the_pulse():
    cell, params = one_unit("tanh", 0.9)
    run = lambda xs: jrnn.unroll(cell, params, jnp.array(xs)[:, None])[1][:, 0]
    needed = jnp.abs(run([2.0, 0.5, 0.5, 0.5]) - run([0.5, 0.5, 0.5, 0.5]))
    found = pulse_response(cell, params, jnp.array([2.0]), 4, background=jnp.array([0.5]))
    np.testing.assert_allclose(found, needed, rtol=1e-13)


def test_tokens_and_noise():
    cell = jrnn.Dropout(jrnn.Stack((jrnn.Embed(3), jrnn.LSTM(4))), state=0.3)
    params = cell.init(KEY, 5)
    token, comma = jnp.array(3), jnp.array(1)
    found = pulse_response(cell, params, token, 5, background=comma)
    runs = [
        jrnn.unroll(jrnn.Tap(cell), params, xs)[1][1] for xs in (jnp.array([3, 1, 1, 1, 1]), jnp.full(5, 1))
    ]
    h, other = (jax.vmap(lambda c: to_vector(cell, params, c))(carry) for carry in runs)
    np.testing.assert_allclose(found, np.linalg.norm(h - other, axis=1), rtol=1e-12)
    assert (pulse_response(cell, params, comma, 5, background=comma, key=KEY) == 0).all()
    assert abs(pulse_response(cell, params, token, 5, background=comma, key=KEY) - found).max() > 1e-3


# gates that keep


@pytest.mark.parametrize("f", [0.5, 0.9, 0.99])
def test_a_forget_gate_held_at_f_multiplies_the_cell_state_by_f_a_step(f):
    """dc_T/dc_0 = f^T exactly, where the gates do not see h; and it is what a bias retains."""
    bias, steps = np.log(f / (1 - f)), 20
    rng = np.random.default_rng(0)
    params = LSTMParams(
        jnp.asarray(rng.normal(size=(2, 12))), jnp.zeros((3, 12)), jnp.asarray(rng.normal(size=12))
    )
    params = params._replace(w_ih=params.w_ih.at[:, 3:6].set(0), b=params.b.at[3:6].set(bias))
    cell, carry = jrnn.LSTM(3), LSTMCarry(*jnp.asarray(rng.normal(size=(2, 3))))
    product = jnp.eye(6)
    for x in rng.normal(size=(steps, 2)):
        carry, push = linear_step(cell, params, carry, jnp.asarray(x))
        product = jax.vmap(push, 1, 1)(product)
    np.testing.assert_allclose(product[3:, 3:], f**steps * np.eye(3), rtol=1e-13, atol=0)
    np.testing.assert_allclose(retention(bias, steps), f**steps, rtol=1e-13)
    np.testing.assert_allclose(np.exp(-steps / time_scale(f)), f**steps, rtol=1e-13)


def test_retention_of_the_usual_biases():
    found = retention(np.array([1.0, 2.0, 5.0]), 20)
    np.testing.assert_allclose(found, (1 / (1 + np.exp([-1.0, -2.0, -5.0]))) ** 20, rtol=1e-13)
    np.testing.assert_allclose(found, [1.9e-3, 7.9e-2, 0.874], rtol=0.02)
    assert retention(1, np.arange(3)).shape == (3,) and retention(-800.0, 2) == 0 and retention(3.0, 0) == 1


def test_time_scales_at_the_ends():
    np.testing.assert_allclose(time_scale([np.exp(-1), np.exp(-0.1), np.exp(0.5)]), [1, 10, -2], rtol=1e-12)
    assert time_scale(1) == jnp.inf and time_scale(0.0) == 0


# capacity


def by_least_squares(states, signal, max_lag, washout):
    """R² on the second half of a fit on the first, with NumPy."""
    ones = np.ones((len(states), 1))
    features, half = np.concatenate([states, ones], 1)[washout:], (len(states) - washout) // 2
    scores = []
    for lag in range(max_lag):
        target = signal[washout - lag : len(signal) - lag]
        w = np.linalg.lstsq(features[:half], target[:half], rcond=None)[0]
        error = features[half:] @ w - target[half:]
        scores.append(1 - np.mean(error**2) / np.var(target[half:]))
    return np.array(scores)


def test_a_delay_line_has_its_length():
    found = memory_capacity(jrnn.Window(5, 1), (), KEY, max_lag=9, steps=4000)
    np.testing.assert_allclose(found.by_lag[:5], 1, atol=1e-8)
    assert found.size == 5 and (found.by_lag[5:] < 0.001).all() and (found.by_lag[5:] > -0.01).all()
    assert found.total == pytest.approx(5, abs=0.03) and found.total == found.by_lag.sum()


def test_a_linear_ring_has_its_size_spread_over_lags_as_is_known():
    """A unit holds uₜ₋ₖ + ρᴰ uₜ₋ₖ₋ᴰ + …: R²ₖ = (1 − ρ²ᴰ) ρ²ᴰᵐ at a lag of m turns, D in all."""
    size, rho = 8, 0.95
    cell = jrnn.Elman(size, activation="identity")
    ring = rho * jnp.roll(jnp.eye(size), 1, axis=1)
    params = ElmanParams(jnp.eye(size)[:1], ring, jnp.full(size, 0.3))
    found = memory_capacity(cell, params, KEY, max_lag=40, steps=20_000, washout=400)
    turns = np.arange(40) // size
    needed = (1 - rho ** (2 * size)) * rho ** (2 * size * turns)
    np.testing.assert_allclose(found.by_lag, needed, atol=0.02)
    assert found.total == pytest.approx(needed.sum(), abs=0.1) and found.total < size


def test_a_random_linear_cell_has_what_its_powers_say_and_never_more_than_its_size():
    """R²ₖ = vₖ C⁻¹ vₖ, vₖ = w Wᵏ, C = Σ vₖᵀ vₖ."""
    size = 4
    rng = np.random.default_rng(1)
    w, win = rng.normal(size=(size, size)), rng.normal(size=(2, size))
    w *= 0.8 / np.abs(np.linalg.eigvals(w)).max()
    direction = np.array([0.5, -1.0])
    v = [direction @ win]
    for _ in range(300):
        v.append(v[-1] @ w)
    v = np.array(v)
    needed = np.einsum("ki,ij,kj->k", v, np.linalg.inv(v.T @ v), v)
    cell = jrnn.Elman(size, activation="identity")
    params = ElmanParams(jnp.asarray(win), jnp.asarray(w), jnp.zeros(size))
    found = memory_capacity(cell, params, KEY, max_lag=20, steps=20_000, direction=direction, penalty=1e-12)
    np.testing.assert_allclose(found.by_lag, needed[:20], atol=0.02)
    assert found.total <= size


def test_the_curve_is_a_fit_on_one_half_measured_on_the_other():
    cell, xs = jrnn.LSTM(3), jax.random.normal(KEY, (400, 2))
    params, signal = cell.init(KEY, 2), xs[:, 1] ** 2
    states = np.concatenate(jrnn.unroll(jrnn.Tap(cell), params, xs)[1][1], 1)
    found = forgetting_curve(cell, params, xs, signal, max_lag=6, washout=30, penalty=0.0)
    np.testing.assert_allclose(found, by_least_squares(states, np.asarray(signal), 6, 30), atol=1e-9)
    assert found[0] > 0.1 and (found <= 1).all()
    start = LSTMCarry(jnp.ones(3), 9 * jnp.ones(3))
    other = forgetting_curve(cell, params, xs, signal, start, max_lag=2, washout=1)
    assert abs(other - forgetting_curve(cell, params, xs, signal, max_lag=2, washout=1)).max() > 1e-4


def test_the_capacity_is_the_curve_of_uniform_noise_along_a_direction():
    cell, direction = jrnn.Elman(3), jnp.array([2.0, -1.0])
    params = cell.init(KEY, 2)
    u = jax.random.uniform(KEY, (50 + 2 * 100,), minval=-1, maxval=1)
    options = {"max_lag": 4, "washout": 50}
    found = memory_capacity(cell, params, KEY, steps=100, direction=direction, **options)
    needed = forgetting_curve(cell, params, u[:, None] * direction, u, **options)
    np.testing.assert_allclose(found.by_lag, needed, rtol=1e-12)


def test_noise_in_the_state_costs_memory():
    cell = jrnn.LeakyRNN(3, activation="tanh", noise=0.5)
    params, xs = cell.init(KEY, 1), jax.random.uniform(KEY, (1000, 1), minval=-1.0)
    clean, noisy = (forgetting_curve(cell, params, xs, xs[:, 0], max_lag=4, key=k) for k in (None, KEY))
    assert noisy.sum() < 0.8 * clean.sum()


# every cell


@pytest.mark.slow
@pytest.mark.parametrize("case", one_in(6, CASES, 1), ids=lambda case: str(case.cell))
def test_every_cell_with_a_state_answers_a_pulse_and_the_others_say_so(case):
    cell, steps, subject = case.cell, 3, subject_of(case)
    params = subject.params("float64")
    pulse, rest = (subject.xs(dtype="float64", seed=seed) for seed in (3, 5))
    if not jax.tree.leaves(jax.eval_shape(cell.initial_carry, params, ())):
        with pytest.raises(ValueError, match="has no real-valued state to analyze"):
            pulse_response(cell, params, pulse, steps)
        return
    xs, others = (jax.tree.map(lambda a, b: np.stack([a, b, b]), first, rest) for first in (pulse, rest))

    def both(params, pulse, rest):
        states = (jrnn.unroll(jrnn.Tap(cell), params, given)[1][1] for given in (xs, others))
        h, other = (jax.vmap(lambda c: to_vector(cell, params, c))(state) for state in states)
        return pulse_response(cell, params, pulse, steps, background=rest), jnp.linalg.norm(h - other, axis=1)

    found, needed = subject.run(both, params, pulse, rest)
    np.testing.assert_allclose(found, needed, rtol=1e-6, atol=1e-9)
    differ = not all(jax.tree.leaves(jax.tree.map(np.array_equal, pulse, rest)))  # tokens may be the same
    assert found[0] > 0 if differ and "relu" not in str(cell) else found[0] >= 0  # all units may be off
    assert differ or not np.any(found)


# what does not fit

ELMAN = jrnn.Elman(2)
U = jnp.ones((20, 1))


def capacity(**options):
    return memory_capacity(ELMAN, ELMAN.init(KEY, 1), KEY, **{"max_lag": 3, **options})


def curve(xs=U, signal=U[:, 0], cell=ELMAN, **options):
    return forgetting_curve(cell, cell.init(KEY, 1), xs, signal, **{"max_lag": 3, "washout": 2, **options})


def pulse(x=U[0], steps=3, cell=ELMAN, **options):
    return pulse_response(cell, cell.init(KEY, 1), x, steps, **options)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: pulse(steps=0), ValueError, "steps must be at least 1, got 0"),
        (lambda: pulse(background=U), ValueError, "background has shape (20, 1), needs that of pulse, (1,)"),
        (lambda: pulse(x=U), ValueError, "xs has shape (3, 20, 1), needs one sequence"),
        (lambda: pulse(cell=jrnn.Bidirectional(ELMAN)), TypeError, "is a layer: pass one of its cells"),
        (
            lambda: curve(signal=U[:5, 0]),
            ValueError,
            "signal has shape (5,), needs (20,), one number per step",
        ),
        (lambda: curve(washout=1), ValueError, "washout must be at least max_lag − 1 = 2, got 1"),
        (lambda: curve(washout=-1), ValueError, "washout must be a whole number, 0 or more, got -1"),
        (lambda: curve(max_lag=0), ValueError, "max_lag must be at least 1, got 0"),
        (
            lambda: curve(washout=16),
            ValueError,
            "has a state of 2 numbers and needs more steps than that for the fit, got 2:",
        ),
        (lambda: curve(xs=U[:, None]), ValueError, "xs has shape (20, 1, 1), needs one sequence"),
        (lambda: curve(cell=jrnn.Dense(2)), ValueError, "has no real-valued state"),
        (lambda: capacity(steps=0), ValueError, "steps must be at least 1, got 0"),
        (lambda: capacity(washout=1), ValueError, "washout must be at least max_lag − 1 = 2, got 1"),
        (lambda: capacity(direction=jnp.ones(2)), ValueError, "w_ih is (1, 2), width 2 needs (2, 2)"),
    ],
)
def test_what_does_not_fit_is_named(call, error, message):
    with pytest.raises(error) as raised:
        call()
    assert message in str(raised.value)
