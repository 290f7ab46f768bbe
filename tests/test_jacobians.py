import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.analysis import from_vector, jacobians, to_vector
from jrnn.analysis.jacobians import growth, jacobian, spectra, spectrum, transient_growth

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def elman(scale=1.5, steps=11, hidden=5):
    """A cell, its params, inputs, and its Jacobians by the chain rule in NumPy."""
    cell = jrnn.Elman(hidden)
    w_ih, w_hh = RNG.normal(size=(2, hidden)), scale * RNG.normal(size=(hidden, hidden)) / hidden**0.5
    params = cell.init(jax.random.key(0), 2)._replace(w_ih=jnp.array(w_ih), w_hh=jnp.array(w_hh))
    xs, h, found = RNG.normal(size=(steps, 2)), np.zeros(hidden), []
    for x in xs:
        h = np.tanh(x @ w_ih + h @ w_hh)
        found.append((1 - h**2)[:, None] * w_hh.T)
    return cell, params, jnp.array(xs), np.array(found)


def linear(matrix):
    """hₜ = A hₜ₋₁, and its params."""
    cell = jrnn.Elman(len(matrix), activation="identity")
    return cell, cell.init(jax.random.key(0), 1)._replace(w_hh=jnp.array(matrix).T)


# the Jacobian


def test_the_jacobian_is_that_of_finite_differences():
    cell = jrnn.Stack((jrnn.LSTM(3), jrnn.Dense(4), jrnn.LRU(2)))  # h and c, and a complex state
    params = cell.init(jax.random.key(0), 2)
    carry, _ = jrnn.unroll(cell, params, jax.random.normal(jax.random.key(1), (4, 2)))
    x, h = jnp.array([0.3, -0.8]), to_vector(cell, params, carry)

    def after(h):
        return np.asarray(
            to_vector(cell, params, cell.step(params, from_vector(cell, params, h, carry), x)[0])
        )

    columns = [(after(h + e) - after(h - e)) / 2e-5 for e in 1e-5 * jnp.eye(len(h))]
    found = jacobian(cell, params, carry, x)
    assert found.shape == (10, 10)
    np.testing.assert_allclose(found, np.stack(columns, 1), atol=1e-9)


def test_the_jacobian_is_traced():
    cell, params, xs, needed = elman()
    carries = jnp.concatenate([jnp.zeros((1, 5)), jrnn.unroll(cell, params, xs)[1][:-1]])
    found = jax.jit(jax.vmap(lambda h, x: jacobian(cell, params, h, x)))(carries, xs)
    np.testing.assert_allclose(found, needed, atol=1e-12)


# along a trajectory


@pytest.mark.parametrize(("every", "chunk"), [(1, 2**21), (1, 75), (3, 50), (4, 1), (20, 75)])
def test_spectra_are_those_of_the_jacobians(monkeypatch, every, chunk):
    monkeypatch.setattr(jacobians, "CHUNK", chunk)  # 75: three Jacobians of 5 x 5 at a time
    cell, params, xs, needed = elman()
    found = spectra(cell, params, xs, every=every)
    needed = needed[::every]
    assert found.eigenvalues.shape == found.singular_values.shape == (len(needed), 5)
    np.testing.assert_allclose(found.singular_values, np.linalg.svd(needed)[1], atol=1e-12)
    for values, matrix in zip(found.eigenvalues, needed, strict=True):
        assert (np.diff(np.abs(values)) < 1e-12).all()
        for value in values:  # each is one: A − λ I is singular
            assert np.linalg.svd(matrix - value * np.eye(5))[1][-1] < 1e-10
        np.testing.assert_allclose(values.sum(), np.trace(matrix), atol=1e-10)
    np.testing.assert_allclose(found.spectral_radius, np.abs(np.linalg.eigvals(needed)).max(-1))
    np.testing.assert_allclose(found.norm, np.linalg.norm(needed, 2, (1, 2)))
    np.testing.assert_allclose(found.smallest * np.linalg.norm(np.linalg.inv(needed), 2, (1, 2)), 1)


def test_a_run_may_go_on():
    cell, params, xs, _ = elman()
    carry, _ = jrnn.unroll(cell, params, xs[:4])
    whole, rest = spectra(cell, params, xs), spectra(cell, params, xs[4:], carry)
    np.testing.assert_allclose(whole.singular_values[4:], rest.singular_values, atol=1e-12)
    assert abs(spectra(cell, params, xs[4:]).norm[0] - rest.norm[0]) > 1e-3


def test_noise_needs_a_key():
    cell = jrnn.Dropout(jrnn.Elman(6), state=0.5)
    params = cell.init(jax.random.key(0), 2)
    ranks = [
        (spectra(cell, params, jnp.ones((3, 2)), key=key).singular_values > 1e-9).sum(-1).tolist()
        for key in (None, jax.random.key(3))
    ]
    assert ranks[0] == [6, 6, 6] and max(ranks[1]) < 6


def test_what_has_no_spectrum_is_refused():
    cell, params, xs, _ = elman()
    with pytest.raises(ValueError, match=r"^xs has no steps: spectra needs at least one$"):
        spectra(cell, params, xs[:0])
    with pytest.raises(ValueError, match=r"^every must be at least 1, got 0$"):
        spectra(cell, params, xs, every=0)
    with pytest.raises(ValueError, match=r"^xs has shape \(11, 1, 2\), needs one sequence"):
        spectra(cell, params, xs[:, None])
    with pytest.raises(TypeError, match="takes cells"):
        spectra(jrnn.Bidirectional(cell, cell), params, xs)
    bad = xs.at[4].set(jnp.nan)
    with pytest.raises(ValueError, match=r"^the Jacobian of step 4 has NaN or inf: does the state div.*\?$"):
        spectra(cell, params, bad, every=2)


# a matrix


def test_the_spectrum_of_a_matrix():
    angle = 0.3
    turn = 2 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.zeros((3, 3))
    matrix[0, 0], matrix[1:, 1:] = 0.5, turn
    found = spectrum(matrix)
    np.testing.assert_allclose(found.eigenvalues, [2 * np.exp(0.3j), 2 * np.exp(-0.3j), 0.5])
    np.testing.assert_allclose(found.singular_values, [2, 2, 0.5])
    assert (found.spectral_radius, found.norm) == pytest.approx((2, 2))
    assert found.smallest == pytest.approx(0.5)
    assert found.departure_from_normality == pytest.approx(0, abs=1e-7)
    assert spectrum([[1.0, 3.0], [0.0, -4.0]]).departure_from_normality == pytest.approx(3)  # Schur: N = 3
    assert spectrum(jnp.eye(2, dtype=jnp.bfloat16)).norm == 1
    assert spectrum(1j * np.eye(2)).eigenvalues.tolist() == [1j, 1j]


def test_what_is_no_matrix_is_refused():
    for bad in (np.ones((2, 3)), np.ones(3), np.ones((0, 0))):
        with pytest.raises(ValueError, match=r"^matrix has shape .*, needs \(..., D, D\): one gate's block"):
            spectrum(bad)
        with pytest.raises(ValueError, match=r"^matrix has shape .*, needs \(D, D\)$"):
            transient_growth(bad, 2)
    with pytest.raises(ValueError, match=r"^matrix has NaN or inf, needs finite numbers$"):
        spectrum([[np.nan, 1], [0, 1]])
    with pytest.raises(ValueError, match=r"^steps must be a whole number, 0 or more, got -1$"):
        transient_growth(np.eye(2), -1)


# products


def test_growth_is_the_norm_of_the_product():
    cell, params, xs, needed = elman()
    product, logs = np.eye(5), []
    for matrix in needed:
        product = matrix @ product
        logs.append(np.log(np.linalg.norm(product, 2)))
    np.testing.assert_allclose(growth(cell, params, xs), logs, atol=1e-10)
    fewer = growth(cell, params, xs, directions=2)
    assert (fewer < np.array(logs) + 1e-10).all() and (fewer > np.array(logs) - 3).all()
    assert np.abs(fewer - np.array(logs)).max() > 0.01


def test_growth_neither_overflows_nor_underflows():
    for rate in (3.0, 1e-3):
        cell, params = linear(rate * np.linalg.qr(RNG.normal(size=(4, 4)))[0])
        found = growth(cell, params, jnp.zeros((900, 1)))
        np.testing.assert_allclose(found, np.log(rate) * np.arange(1, 901), rtol=1e-10)


def test_growth_of_what_is_forgotten():
    cell, params = linear([[0.0, 2.0], [0.0, 0.0]])
    assert growth(cell, params, jnp.zeros((4, 1)))[0] == pytest.approx(np.log(2))
    assert growth(cell, params, jnp.zeros((4, 1)))[1:].tolist() == [-np.inf] * 3


def test_directions_are_at_most_those_of_the_state():
    cell, params, xs, _ = elman()
    with pytest.raises(ValueError, match=r"^directions must be at most 5, the size of the state, got 6$"):
        growth(cell, params, xs, directions=6)


def test_powers_grow_before_they_fade():
    matrix = 0.9 * np.eye(4) + np.diag([2.0] * 3, 1)
    found = transient_growth(matrix, 60)
    powers = [np.linalg.norm(np.linalg.matrix_power(matrix, k), 2) for k in range(61)]
    np.testing.assert_allclose(found, powers, rtol=1e-10)
    assert found[0] == 1 and found.max() > 100 and found[-1] < found.max() / 2
    cell, params = linear(matrix)
    np.testing.assert_allclose(jnp.log(found[1:]), growth(cell, params, jnp.zeros((60, 1))), atol=1e-9)
    normal = 0.8 * np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    np.testing.assert_allclose(transient_growth(normal, 5), 0.8 ** np.arange(6))
    assert transient_growth([[2]], 0).tolist() == [1]
    assert transient_growth(jnp.eye(1, dtype=jnp.float32) * 1e30, 3)[-1] == jnp.inf
