"""Fixed points: known answers, the flip-flop's cube of states, every cell, and projections."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import brentq

import jrnn
from jrnn.analysis.fixed_points import (
    _distinct,
    _jacobian,
    _search,
    draw_starts,
    find_fixed_points,
    trajectory,
)
from jrnn.analysis.projections import principal_components
from jrnn.analysis.states import begin, from_vector, to_vector
from jrnn.data.synthetic import flip_flop
from tests.cases import CASES, one_in, subject_of

GRID = jnp.linspace(-1.5, 1.5, 31)[:, None]


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def elman(w, b, activation="tanh"):
    """An Elman network h = activation(w h + b) of one input that it does not see, and its parameters."""
    w, b = np.atleast_2d(w), np.atleast_1d(b)
    cell = jrnn.Elman(len(b), activation=activation)
    params = cell.init(jax.random.key(0), 1)
    return cell, params._replace(w_ih=0 * params.w_ih, w_hh=jnp.asarray(w.T), b=jnp.asarray(b))


def find(cell, params, starts, **options):
    return find_fixed_points(cell, params, jnp.zeros(1), starts, **options)


# ---------------------------------------------------------------- known answers


def test_a_linear_contraction_has_one_fixed_point(x64):
    random = np.random.default_rng(0)
    a, b = random.normal(size=(5, 5)), random.normal(size=5)
    a *= 0.9 / np.abs(np.linalg.eigvals(a)).max()
    found = find(*elman(a, b, "identity"), random.normal(size=(7, 5)))
    np.testing.assert_allclose(found.states, [np.linalg.solve(np.eye(5) - a, b)], rtol=1e-10)
    expected = np.linalg.eigvals(a)
    np.testing.assert_allclose(np.sort_complex(found.eigenvalues[0]), np.sort_complex(expected), rtol=1e-8)
    assert (np.diff(np.abs(found.eigenvalues[0])) < 1e-12).all()  # the largest first
    assert found.kinds.tolist() == ["stable"] and found.starts.tolist() == [7] and found.missed == 0
    assert found.unstable.tolist() == [0] and found.speeds[0] < 1e-14


@pytest.mark.parametrize("w", [1.01, 2.0, 5.0])
def test_a_latch_of_one_unit(w):
    """With h = tanh(w h), ±h* hold a bit, and 0 parts them."""
    latched = brentq(lambda h: np.tanh(w * h) - h, 1e-3, 1)
    found = find(*elman(w, 0.0), GRID)
    np.testing.assert_allclose(found.states[:, 0], [-latched, latched, 0], atol=2e-6)
    assert found.kinds.tolist() == ["stable", "stable", "unstable"]
    slope = w * (1 - latched**2)
    np.testing.assert_allclose(found.eigenvalues[:, 0], [slope, slope, w], rtol=1e-4, atol=3e-6)
    constants = -1 / np.log([slope, slope, w])
    np.testing.assert_allclose(found.time_constants[:, 0], constants, rtol=2e-3)
    assert constants[2] < 0 < constants[0]
    assert found.missed == 0 and found.starts.sum() == len(GRID)


def test_two_latches_side_by_side_have_nine_points(x64):
    """Two units that do not see each other: each is at −h*, 0 or h*."""
    latched = brentq(lambda h: np.tanh(2 * h) - h, 1e-3, 1)
    starts = 1.2 * np.random.default_rng(0).uniform(-1, 1, (200, 2))
    found = find(*elman(2 * np.eye(2), np.zeros(2)), starts)
    expected = np.array([*itertools.product((-latched, latched), repeat=2),
                         (-latched, 0), (0, -latched), (0, latched), (latched, 0), (0, 0)])  # fmt: skip
    np.testing.assert_allclose(found.states, expected, atol=1e-9)
    assert found.kinds.tolist() == ["stable"] * 4 + ["saddle"] * 4 + ["unstable"]
    assert found.unstable.tolist() == [0] * 4 + [1] * 4 + [2]


def test_a_linear_saddle(x64):
    """λ = 1.5 and 0.5 along (1, 1) and (1, −1): no trajectory ends there, the search does."""
    found = find(*elman([[1.0, 0.5], [0.5, 1.0]], [1.0, 0.0], "identity"), np.array([[3.0, -4.0]]))
    np.testing.assert_allclose(found.states, [[0.0, -2.0]], atol=1e-12)  # h₁ = h₁ + h₂/2 + 1, h₂ = h₂ + h₁/2
    np.testing.assert_allclose(found.eigenvalues, [[1.5, 0.5]], rtol=1e-12)
    assert found.kinds.tolist() == ["saddle"] and found.unstable.tolist() == [1]
    np.testing.assert_allclose(found.time_constants, [[-1 / np.log(1.5), 1 / np.log(2)]], rtol=1e-10)


def test_a_rotation_has_complex_eigenvalues():
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found = find(*elman(0.9 * turn, np.zeros(2), "identity"), np.ones((1, 2)))
    np.testing.assert_allclose(found.eigenvalues, 0.9 * np.exp([[-0.7j, 0.7j]]), rtol=1e-5)
    np.testing.assert_allclose(found.time_constants, -1 / np.log(0.9), rtol=1e-4)


@pytest.mark.parametrize("gap", [1e-2, 1e-3, 1e-4])
def test_what_a_saddle_node_leaves_behind_is_slow(gap):
    """At b = atanh √½ − 2 √½, tanh(2 h + b) = h has a double root √½; a gap below, speed gap / 2 is left."""
    b = np.arctanh(np.sqrt(0.5)) - 2 * np.sqrt(0.5) - gap
    found = find(*elman(2.0, b), GRID)
    assert found.kinds.tolist() == ["stable", "slow"]
    np.testing.assert_allclose(found.speeds[1], gap / 2, rtol=1e-2)
    np.testing.assert_allclose(found.states[1], np.sqrt(0.5) + gap / 2, atol=1e-3)
    np.testing.assert_allclose(found.eigenvalues[1], 1, atol=2e-3)
    assert found.starts.sum() == len(GRID) and found.missed == 0
    without = find(*elman(2.0, b), GRID, slow=gap / 3)  # too fast to count
    assert without.kinds.tolist() == ["stable"] and without.missed == found.starts[1]


def test_an_lstm_is_held_in_h_and_c(x64):
    """With f = 0.9, i = o = ½: c = f c + i tanh b, h = o tanh c, and the Jacobian is that of c alone."""
    cell = jrnn.LSTM(1)
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0), 1))
    params = params._replace(b=jnp.array([0.0, np.log(9), 0.7, 0.0]))  # i f g o
    found = find(cell, params, jnp.array([[0.3, 0.1], [-1.0, 2.0]]))
    c = 0.5 * np.tanh(0.7) / 0.1
    np.testing.assert_allclose(found.states, [[0.5 * np.tanh(c), c]], rtol=1e-10)
    np.testing.assert_allclose(found.eigenvalues, [[0.9, 0.0]], atol=1e-12)
    np.testing.assert_allclose(found.time_constants, [[-1 / np.log(0.9), 0.0]], rtol=1e-9)


def test_the_input_moves_the_fixed_point(x64):
    cell, params = elman(0.5, 0.0, "identity")
    params = params._replace(w_ih=jnp.ones((1, 1)))
    found = find_fixed_points(cell, params, jnp.full(1, 3.0), jnp.zeros((1, 1)))
    np.testing.assert_allclose(found.states, [[6.0]], rtol=1e-12)


def test_a_line_of_fixed_points_is_sampled_as_far_apart_as_distance():
    starts = np.stack([np.linspace(0, 1, 101), np.ones(101)], axis=1)
    found = find(*elman(np.diag([1.0, 0.5]), np.zeros(2), "identity"), starts, distance=0.25)
    assert np.abs(found.states[:, 1]).max() < 1e-6 and found.starts.sum() == 101
    gaps = np.diff(np.sort(found.states[:, 0]))
    assert gaps.min() >= 0.25 and 3 <= len(found.states) <= 5


def test_of_neighbors_the_slowest_is_kept():
    states, speeds = np.array([[0.0], [0.1], [5.0], [0.2]]), np.array([3.0, 1.0, 2.0, 0.0])
    chosen, counts = _distinct(states, speeds, np.array([0, 1, 2]), 0.5)
    assert chosen.tolist() == [1, 2] and counts.tolist() == [2, 1]


def test_what_runs_away_is_missed():
    found = find(*elman(1.0, 1.0, "identity"), jnp.zeros((3, 1)))  # h + 1
    assert found.missed == 3
    assert [a.shape for a in found[:-1]] == [(0, 1), (0,), (0, 1), (0,), (0,)]


def test_a_search_that_is_cut_short_has_found_nothing():
    """Where h halves, 0.01 moves by 0.005, which is slow, but states nearer to 0 are slower still."""
    given = *elman(0.5, 0.0, "identity"), jnp.full((1, 1), 0.01)
    assert find(*given, steps=0).missed == 1
    found = find(*given)
    assert found.missed == 0 and found.kinds.tolist() == ["stable"] and abs(found.states).max() < 1e-7


def test_near_a_pitchfork_float32_finds_what_float64_finds():
    random = np.random.default_rng(1)
    q = np.linalg.qr(random.normal(size=(12, 12)))[0]
    a, b = q @ np.diag([0.9999, *np.linspace(-0.9, 0.9, 11)]) @ q.T, random.normal(size=12)
    found = find(*elman(a, b, "identity"), random.normal(size=(9, 12)), tolerance=1e-3, distance=100.0)
    exact = np.linalg.solve(np.eye(12) - a, b)
    assert found.starts.tolist() == [9] and np.linalg.norm(exact) > 1000
    assert np.linalg.norm(found.states[0] - exact) < 1e-2 * np.linalg.norm(exact)  # of a condition of 2e4


# ---------------------------------------------------------------- the flip-flop


def trained(seed, hidden, steps=50, width=64, count=10, epochs=40):
    """A GRU with a readout, trained on the 3-bit flip-flop, and fresh data."""
    xs, targets = (np.stack(given, 1) for given in flip_flop(width * count, steps, seed))
    rows = [slice(i * width, (i + 1) * width) for i in range(count)]
    batches = [jrnn.Batch(xs[:, row], targets[:, row]) for row in rows]
    rate = optax.cosine_decay_schedule(0.01, count * epochs)
    model = jrnn.Stack((jrnn.GRU(hidden), jrnn.Dense(3)))
    result = jrnn.fit(
        model, batches, jrnn.PerStep(jrnn.losses.mean_squared_error),
        optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
        key=jax.random.key(seed), in_features=3, epochs=epochs, progress=jrnn.Progress(bar=False),
    )  # fmt: skip
    return model, result.params, *(np.stack(given, 1) for given in flip_flop(100, steps, 1000 + seed))


@pytest.mark.slow
def test_a_gru_on_the_flip_flop_has_a_cube_of_27_points():
    """8 corners hold the states; 12 edges, 6 faces and the center are saddles of 1, 2 and 3 unstable ways."""
    model, params, xs, targets = trained(seed=0, hidden=24)
    ys = np.asarray(jrnn.unroll(model, params, jnp.asarray(xs))[1])
    assert (np.sign(ys) == targets).mean() > 0.99
    states = jax.vmap(lambda xs: trajectory(model, params, xs), in_axes=1)(jnp.asarray(xs))
    starts = draw_starts(states, 1024, jax.random.key(10))
    found = find_fixed_points(model, params, jnp.zeros(3), starts)

    stable, saddle = found.kinds == "stable", found.kinds == "saddle"
    assert (stable.sum(), saddle.sum(), len(found.kinds)) == (8, 19, 27)
    assert np.bincount(found.unstable).tolist() == [8, 12, 6, 1]
    assert found.speeds.max() < 1e-6 and found.missed < 50

    carry = begin(model, params, jnp.zeros((1, 3)))
    read = lambda h: model.step(params, from_vector(model, params, h, carry), jnp.zeros(3))[1]
    out = np.asarray(jax.vmap(read)(jnp.asarray(found.states)))
    corners = set(itertools.product((-1, 1), repeat=3))
    assert {tuple(signs) for signs in np.sign(out[stable]).astype(int)} == corners
    assert np.abs(np.abs(out[stable]) - 1).max() < 0.25
    edges = out[found.unstable == 1]  # two outputs are held, the third is between −1 and 1
    ends = {tuple(np.where(np.abs(e) > 0.7, np.sign(e), 0).astype(int)) for e in edges}
    assert ends == {e for e in itertools.product((-1, 0, 1), repeat=3) if e.count(0) == 1}
    # a trajectory without pulses ends at a stable point
    h = jrnn.unroll(model, params, jnp.zeros((500, 100, 3)), jrnn.unroll(model, params, jnp.asarray(xs))[0])
    ends = jax.vmap(lambda carry: to_vector(model, params, carry))(h[0])
    apart = np.linalg.norm(np.asarray(ends)[:, None] - found.states[stable], axis=-1)
    assert apart.min(axis=1).max() < 0.05 and len(set(apart.argmin(axis=1))) == 8


# ---------------------------------------------------------------- every cell


REFUSED = {
    "ClockworkRNN": "ClockworkRNN(hidden=4, periods=(1, 2)) has no fixed points: a step changes the integer "
    "t of its state from 0 to 1, so every step is a different map",
    "Dense": "Dense(features=4, activation='tanh') has no real-valued state to analyze",
    "Map": "Map(function='softsign', features=4) has no real-valued state to analyze",
    "Norm": ") has no real-valued state to analyze",
    "Embed": "Embed(features=4) has no real-valued state to analyze",
}


WITHOUT = [case for case in CASES if type(case.cell).__name__ in REFUSED]


@pytest.mark.parametrize("case", WITHOUT, ids=lambda case: str(case.cell))
def test_a_cell_without_fixed_points_says_why(case):
    params, x = subject_of(case).params(), subject_of(case).xs()
    with pytest.raises(ValueError, match=re.escape(REFUSED[type(case.cell).__name__])):
        find_fixed_points(case.cell, params, x, jnp.zeros((1, 4)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [case for case in one_in(8, CASES, 7) if case not in WITHOUT], ids=lambda case: str(case.cell)
)
def test_every_cell(case):
    cell, key = case.cell, jax.random.key(0)
    params, xs = subject_of(case).params(), subject_of(case).xs(6)
    x = jax.tree.map(lambda leaf: leaf[0], xs)
    states, carry = trajectory(cell, params, xs), begin(cell, params, xs)
    found = find_fixed_points(cell, params, x, draw_starts(states, 8, key))
    assert found.starts.sum() + found.missed == 8 and np.isfinite(found.states).all()
    held = jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], 6, axis=0), xs)
    for h, speed in zip(found.states, found.speeds, strict=True):
        after = trajectory(cell, params, held, from_vector(cell, params, jnp.asarray(h), carry))[0]
        np.testing.assert_allclose(np.linalg.norm(after - h), speed, atol=2e-6)


def test_an_equal_cell_compiles_once():
    _, params = elman(np.eye(3) / 2, np.ones(3), "relu")
    for seed in range(3):
        cell = jrnn.Elman(3, activation="relu")
        find(cell, params, jax.random.normal(jax.random.key(seed), (4, 3)))
        assert _search(cell, 200)._cache_size() == _jacobian(cell)._cache_size() == 1


# ---------------------------------------------------------------- starts, projections


def test_starts_lie_between_two_states():
    states = jnp.array([[0.0, 0.0], [4.0, 0.0], [0.0, 2.0]])
    starts = np.asarray(draw_starts(states[None], 500, jax.random.key(0), noise=0.0))
    a, b = starts.T
    on_an_edge = (np.abs(a) < 1e-6) | (np.abs(b) < 1e-6) | (np.abs(a / 4 + b / 2 - 1) < 1e-5)
    assert on_an_edge.all() and ((a > 0.1) & (b > 0.1)).any() and a.max() > 3.5
    noisy = np.asarray(draw_starts(jnp.ones((3, 2)), 4000, jax.random.key(1), noise=0.3))
    np.testing.assert_allclose(noisy.std(axis=0), 0.3, rtol=0.05)
    np.testing.assert_allclose(noisy.mean(axis=0), 1, atol=0.02)


def test_trajectory_is_that_of_unroll():
    cell = jrnn.Stack((jrnn.GRU(3), jrnn.Dense(2), jrnn.LSTM(4)))
    params = cell.init(jax.random.key(0), 2)
    xs = jax.random.normal(jax.random.key(1), (9, 5, 2))
    states = jax.vmap(lambda xs: trajectory(cell, params, xs), in_axes=1, out_axes=1)(xs)
    ys = jrnn.unroll(cell, params, xs)[1]
    assert states.shape == (9, 5, 11)
    np.testing.assert_allclose(states[..., 3:7], ys, rtol=1e-5, atol=1e-6)  # h of the LSTM
    carry, _ = jrnn.unroll(cell, params, xs[:4, 0])
    np.testing.assert_allclose(
        trajectory(cell, params, xs[4:, 0], carry), states[4:, 0], rtol=1e-4, atol=1e-6
    )


def test_principal_components_are_eigenvectors_of_the_covariance(x64):
    states = np.random.default_rng(0).normal(size=(6, 7, 4)) @ np.diag([1.0, 5.0, 2.0, 0.1]) + 3
    found = principal_components(states, 3)
    rows = states.reshape(-1, 4)
    values, vectors = np.linalg.eigh(np.cov(rows.T, bias=True))
    np.testing.assert_allclose(found.explained, values[::-1][:3] / values.sum(), rtol=1e-10)
    np.testing.assert_allclose(np.abs(np.sum(found.axes.T * vectors[:, ::-1][:, :3], axis=0)), 1, rtol=1e-10)
    assert (np.take_along_axis(np.asarray(found.axes), np.abs(found.axes).argmax(1)[:, None], 1) > 0).all()
    flipped = principal_components(states[::-1, ::-1], 3)
    np.testing.assert_allclose(flipped.axes, found.axes, atol=1e-12)
    points = found.project(states)
    assert points.shape == (6, 7, 3)
    np.testing.assert_allclose(points, (states - rows.mean(0)) @ np.asarray(found.axes).T, atol=1e-12)
    whole = principal_components(states, 4)
    np.testing.assert_allclose(whole.project(states) @ whole.axes + whole.mean, states, atol=1e-12)


def test_states_that_do_not_vary_have_no_variance_to_explain():
    assert principal_components(jnp.ones((3, 2)), 1).explained.tolist() == [0.0]


# ---------------------------------------------------------------- errors

CELL, PARAMS = jrnn.GRU(4), jrnn.GRU(4).init(jax.random.key(0), 2)
STARTS = jnp.zeros((3, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: find_fixed_points(CELL, PARAMS, jnp.zeros(2), jnp.zeros((3, 5))),
            "starts has shape (3, 5), GRU(hidden=4) needs (N, 4): states as "
            "vectors, such as those of draw_starts",
        ),
        (
            lambda: find_fixed_points(CELL, PARAMS, jnp.zeros(2), jnp.zeros((0, 4))),
            "starts has shape (0, 4), GRU(hidden=4) needs (N, 4): states as "
            "vectors, such as those of draw_starts",
        ),
        (
            lambda: find_fixed_points(CELL, PARAMS, jnp.zeros(2), STARTS.at[1, 2].set(jnp.nan)),
            "starts must be finite, got NaN or inf",
        ),
        (
            lambda: find_fixed_points(CELL, PARAMS, jnp.zeros((7, 2)), STARTS),
            "x must be the input of one step; with a time axis added, xs has shape (1, 7, 2), needs one "
            "sequence, (time, features); from a batch, take xs[:, b]",
        ),
        (
            lambda: find_fixed_points(CELL, PARAMS, jnp.zeros(2), STARTS, tolerance=0),
            "tolerance must be a number above 0, got 0",
        ),
        (
            lambda: find_fixed_points(CELL, PARAMS, jnp.zeros(2), STARTS, steps=-1),
            "steps must be a whole number, 0 or more, got -1",
        ),
        (lambda: draw_starts(STARTS, 0, jax.random.key(0)), "count must be at least 1, got 0"),
        (
            lambda: draw_starts(STARTS[0], 2, jax.random.key(0)),
            "states has shape (4,), needs (..., D) with at least one state",
        ),
        (
            lambda: principal_components(STARTS, 4),
            "count must be at most 3 for 3 states of 4 numbers, got 4",
        ),
        (
            lambda: trajectory(CELL, PARAMS, jnp.zeros((3, 1, 2))),
            "xs has shape (3, 1, 2), needs one sequence, (time, features); from a batch, take xs[:, b]",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
