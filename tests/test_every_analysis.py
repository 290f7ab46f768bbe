"""Every cell: its Jacobians, and all that is made of them, agree; a cell without state says so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.analysis import (
    from_vector,
    gradient_flow,
    growth,
    jacobian,
    lyapunov,
    sensitivity,
    spectra,
    to_vector,
)
from jrnn.analysis.states import begin
from tests.cases import CASES, one_in, subject_of

T = 3


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def drawn(case):
    return case.cell, subject_of(case).params("float64"), subject_of(case).xs(T, dtype="float64")


def energy(ys, targets, mask):
    leaves = [leaf for leaf in jax.tree.leaves(ys) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return sum((jnp.square(leaf).sum() for leaf in leaves), jnp.zeros(()))


def looks(cell, params, xs):
    """Jacobians of all steps, and what functions make of them."""

    def step(carry, x):
        return cell.step(params, carry, x)[0], jacobian(cell, params, carry, x)

    _, jacobians = jax.lax.scan(step, begin(cell, params, xs), xs)
    grown, kept = growth(cell, params, xs), sensitivity(cell, params, xs, norm="spectral")
    return jacobians, grown, kept.log_state, lyapunov(cell, params, xs, exponents=1).exponents


@pytest.mark.slow
@pytest.mark.parametrize("case", one_in(8, CASES, 4), ids=lambda case: repr(case.cell))
def test_jacobians_products_and_exponents_agree(case):
    cell, params, xs = drawn(case)
    if isinstance(cell, jrnn.Dense | jrnn.Embed | jrnn.Map | jrnn.Norm):
        for call in (growth, sensitivity, lyapunov, spectra):
            with pytest.raises(ValueError, match=r"has no real-valued state to analyze$"):
                call(cell, params, xs)
        return
    jacobians, grown, kept, exponents = jax.jit(looks, static_argnums=0)(cell, params, xs)
    first, second, third = np.asarray(jacobians)
    product = third @ second @ first
    scale = 1e-4 if isinstance(cell, jrnn.Cast) else 1e-8  # which computes in float32
    np.testing.assert_allclose(np.exp(grown[-1]), np.linalg.norm(product, 2), rtol=scale, atol=1e-12)
    lengths = [np.linalg.norm(m, 2) for m in (third @ second, third)]
    np.testing.assert_allclose(np.exp(kept[:2]), lengths, rtol=scale, atol=1e-12)
    assert T * exponents[0] <= grown[-1] + scale  # of one direction, and the norm is of the best
    assert np.exp(grown[0]) > 0 or isinstance(cell, jrnn.MLSTM)  # whose first step forgets what was before


@pytest.mark.slow
@pytest.mark.parametrize("case", one_in(6, CASES, 5), ids=lambda case: repr(case.cell))
def test_gradients_flow_through_every_cell(case):
    cell, params, xs = drawn(case)
    batch = jrnn.Batch(jax.tree.map(lambda x: x[:, None], xs), jnp.zeros((T, 1)))
    loss = jrnn.PerStep(energy)
    if isinstance(cell, jrnn.Dense | jrnn.Embed | jrnn.Map | jrnn.Norm):
        with pytest.raises(ValueError, match=r"has no real-valued state to analyze$"):
            gradient_flow(cell, params, batch, loss)
        return
    norms = jax.eval_shape(lambda p: gradient_flow(cell, p, batch, loss), params).norms
    assert norms and all(norm.shape[:2] == (T, 1) for norm in norms.values())


@pytest.mark.parametrize(
    "cell",
    [jrnn.LSTM(3), jrnn.LRU(3), jrnn.ConvLSTM(2, spatial=1), jrnn.Stack((jrnn.GRU(2), jrnn.LSTM(3)))],
    ids=str,
)
def test_spectra_are_those_of_the_jacobians(cell):
    shape = (T, 5, 2) if isinstance(cell, jrnn.ConvLSTM) else (T, 2)
    xs = jax.random.normal(jax.random.key(1), shape)
    params = cell.init(jax.random.key(0), 2)
    found, jacobians = spectra(cell, params, xs), jax.jit(looks, static_argnums=0)(cell, params, xs)[0]
    np.testing.assert_allclose(found.singular_values, np.linalg.svd(jacobians, compute_uv=False), atol=1e-10)
    determinants = np.linalg.det(jacobians)
    np.testing.assert_allclose(found.eigenvalues.prod(-1), determinants, atol=1e-10)


def test_a_state_as_a_vector_and_back():
    cell = jrnn.Stack((jrnn.ClockworkRNN(4, periods=(1, 2)), jrnn.LRU(3), jrnn.LSTM(2)), dropout=0.5)
    params = cell.init(jax.random.key(0), 2)
    carry = cell.initial_carry(params, key=jax.random.key(3))
    for x in np.random.default_rng(0).normal(size=(T, 2)):
        carry, _ = cell.step(params, carry, jnp.asarray(x))
    vector = to_vector(cell, params, carry)
    clock, complex_state, lstm = carry.cells
    parts = (clock.h, complex_state.real, complex_state.imag, lstm.h, lstm.c)
    np.testing.assert_array_equal(vector, np.concatenate(parts))
    start = cell.initial_carry(params, key=jax.random.key(4))
    back = from_vector(cell, params, vector, start)
    for new, old in zip(jax.tree.leaves(back.cells), jax.tree.leaves(carry.cells), strict=True):
        if jnp.issubdtype(new.dtype, jnp.inexact):
            np.testing.assert_array_equal(new, old)
    assert back.key is start.key and complex_state.imag.any()
    assert jax.tree.structure(back) == jax.tree.structure(carry)
