"""Growth and the largest exponent from products of all Jacobians by a tree, beside those step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.analysis import growth, lyapunov, sensitivity


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def test_products_by_a_tree_are_those_step_by_step():
    cell = jrnn.LSTM(3)
    params = cell.init(jax.random.key(0), 2)
    params = params._replace(w_hh=4 * params.w_hh)
    xs = jax.random.normal(jax.random.key(1), (203, 2))
    options = {"discard": 30, "every": 4}

    def run(method):
        grown = [growth(cell, params, xs, directions=k, method=method) for k in (None, 2)]
        return grown, lyapunov(cell, params, xs, method=method, **options)

    needed, found = jax.jit(lambda: [run(method) for method in (jrnn.Scan(), jrnn.Newton())])()
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(needed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("radius", [1e-3, 1e3])
def test_no_product_overflows(radius):
    """After a million steps it is 10 to the power of three million."""
    cell = jrnn.Elman(2, activation="identity")
    with jax.enable_x64(False):
        params = cell.init(jax.random.key(0), 1)
        params = params._replace(w_hh=radius * jnp.array([[0.6, 0.8], [-0.8, 0.6]]))
        found = growth(cell, params, jnp.zeros((1_000_000, 1)), method=jrnn.Newton())
        np.testing.assert_allclose(found[-1] / 1e6, np.log(radius), rtol=1e-5)


def test_a_product_of_zero_stays_zero():
    cell = jrnn.Elman(2, activation="relu")
    params = cell.init(jax.random.key(0), 1)._replace(b=jnp.array([-1e3, -1e3]))
    found = growth(cell, params, jnp.ones((5, 1)), method=jrnn.Newton())
    assert np.isneginf(found).all()
    assert np.isneginf(lyapunov(cell, params, jnp.ones((5, 1)), method=jrnn.Newton()).exponents).all()


def test_what_is_discarded_may_map_everything_to_zero():
    cell = jrnn.Elman(3, activation="relu")
    params = cell.init(jax.random.key(0), 1)
    params = params._replace(w_hh=0.9 * jnp.eye(3) + 0.1, w_ih=jnp.ones((1, 3)))
    xs = jnp.where(jnp.arange(40) == 7, -1e3, 1.0)[:, None]
    needed, found = (
        lyapunov(cell, params, xs, discard=15, every=2, method=m) for m in (jrnn.Scan(), jrnn.Newton())
    )
    assert np.isfinite(needed.exponents).all()
    for a, b in zip(found, needed, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


@pytest.mark.parametrize("options", [{"norm": "spectral"}, {"probes": 2}], ids=str)
def test_sensitivities_of_all_steps_at_once(options):
    cell = jrnn.LSTM(3)
    params, xs = cell.init(jax.random.key(0), 2), jax.random.normal(jax.random.key(1), (50, 2))
    params = params._replace(w_hh=4 * params.w_hh)
    needed, found = (sensitivity(cell, params, xs, method=m, **options) for m in (jrnn.Scan(), jrnn.Newton()))
    for a, b in zip(found, needed, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_further_exponents_need_a_scan():
    cell = jrnn.Elman(2)
    params = cell.init(jax.random.key(0), 1)
    with pytest.raises(ValueError, match=r"^exponents must be 1 with method=Newton"):
        lyapunov(cell, params, jnp.ones((5, 1)), exponents=2, method=jrnn.Newton())
