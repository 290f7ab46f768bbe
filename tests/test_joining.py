"""Sums of two matmuls as one: where, and that values are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn

pytestmark = pytest.mark.engine


def products(cell, rows, features, steps=20, of=lambda run: run):
    """Shapes of what the matmuls in the loops of a jaxpr read, and the function with its arguments."""
    params = cell.init(jax.random.key(0), features)
    xs = jax.random.normal(jax.random.key(1), (steps, rows, features))
    run = of(lambda params, xs: jrnn.unroll(cell, params, xs)[1])
    jaxpr = jax.make_jaxpr(run)(params, xs).jaxpr
    found = [
        tuple(v.aval.shape for v in inner.invars)
        for eqn in every(jaxpr)
        if eqn.primitive.name == "scan"
        for inner in every(eqn.params["jaxpr"].jaxpr)
        if inner.primitive.name == "dot_general"
    ]
    return found, run, params, xs


def every(jaxpr):
    """All equations, also of inner functions."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "jaxpr")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from every(getattr(inner, "jaxpr", inner))


def by_scan(cell, params, xs):
    carry = cell.initial_carry(params, xs.shape[1:-1])
    return jax.lax.scan(lambda carry, x: cell.step(params, carry, x), carry, xs)[1]


@pytest.mark.parametrize("cell, features, rows", [(jrnn.LSTM(128), 130, 32), (jrnn.Elman(256), 256, 33)])
def test_a_large_sum_of_matmuls_is_one_and_has_the_same_values(cell, features, rows):
    found, run, params, xs = products(cell, rows, features)
    (shapes,) = found
    assert shapes[0] == (rows, features + cell.hidden)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), (params, xs))
        np.testing.assert_allclose(jax.jit(run)(*wide), by_scan(cell, *wide), atol=1e-13)


def test_a_mask_and_layers_above_are_as_before():
    model = jrnn.Stack((jrnn.LSTM(128), jrnn.LSTM(160)))
    found, _, params, xs = products(model, 32, 130)
    assert [shapes[0] for shapes in found] == [(32, 258), (32, 288)]
    lengths = jnp.arange(32) % 21
    ys = jax.jit(lambda params, xs: jrnn.unroll(model, params, xs, lengths=lengths)[1])(params, xs)
    for row in (0, 7, 20):
        alone = by_scan(model, params, xs[: row % 21, row : row + 1])
        np.testing.assert_allclose(ys[: row % 21, row], alone[:, 0], atol=2e-6)
        assert not ys[row % 21 :, row].any()


def test_small_sums_and_short_loops_stay_apart():
    for rows, steps in ((16, 20), (32, 15)):
        found, *_ = products(jrnn.LSTM(128), rows, 130, steps)
        assert sorted(shapes[0] for shapes in found) == [(rows, 128), (rows, 130)]


def test_a_gradient_has_them_apart():
    found, *_ = products(jrnn.LSTM(128), 32, 130, of=lambda run: jax.grad(lambda *args: run(*args).sum()))
    assert (32, 258) not in {shape for shapes in found for shape in shapes}


def test_a_matmul_that_is_read_elsewhere_stays():
    def step(params, carry, x):
        w, u = params
        z = x @ w
        h = jnp.tanh(z + carry @ u)
        return h, h * z

    init = lambda key, features: tuple(jax.random.normal(key, (2, 256, 256)) / 16)
    cell = jrnn.from_functions(init, lambda params, batch, key=None: jnp.zeros((*batch, 256)), step, 256)
    found, run, params, xs = products(cell, 64, 256)
    assert {shapes[0] for shapes in found} <= {(64, 256)}
    np.testing.assert_allclose(jax.jit(run)(params, xs), by_scan(cell, params, xs), atol=1e-5)
