"""What an output reads: windows on the inputs, past outputs, all of the past."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn

STEPS, IN, HIDDEN, OUT = 6, 2, 4, 3
LAG = np.subtract.outer(range(STEPS), range(STEPS))  # (time of y, time of x)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def params_of(cell, width=IN):
    """Random parameters, biases too."""
    shapes = jax.eval_shape(lambda key: cell.init(key, width), jax.random.key(0))
    return jax.tree.map(lambda leaf: normal(*leaf.shape, seed=leaf.size), shapes)


def reads(jacobian):
    """Which steps of x an output reads, from (time, out, time, in)."""
    return np.any(jacobian != 0, axis=(1, 3))


@pytest.mark.parametrize("k", [0, 1, 3])
def test_window_is_exactly_as_long_as_it_says(k):
    impulse = jnp.zeros((STEPS, IN)).at[2].set(normal(IN))
    _, ys = jrnn.unroll(jrnn.Window(k, IN), (), impulse)
    np.testing.assert_array_equal(np.any(ys != 0, -1), [2 <= t <= 2 + k for t in range(STEPS)])
    model = jrnn.Stack((jrnn.Window(k, IN), jrnn.Dense(HIDDEN, activation="tanh"), jrnn.Dense(OUT)))
    params = params_of(model)
    jacobian = jax.jacobian(lambda xs: jrnn.unroll(model, params, xs)[1])(normal(STEPS, IN))
    np.testing.assert_array_equal(reads(jacobian), np.isin(LAG, range(k + 1)))


@pytest.mark.parametrize("inputs, outputs", [(0, 1), (2, 1), (1, 3), (STEPS - 1, STEPS)])
def test_narx_in_open_loop_reads_its_lags_and_complete_narx_all_of_the_past(inputs, outputs):
    """At step t it is given the output of t - 1, which is lag 1."""
    cell = jrnn.NARX(HIDDEN, outputs=OUT, input_lags=inputs, output_lags=outputs)
    params, teacher = params_of(cell), jnp.ones(STEPS, bool)
    run = lambda given, xs: jrnn.unroll(cell, params, (given, teacher, xs))[1]
    of_outputs, of_inputs = jax.jacobian(run, (0, 1))(normal(STEPS, OUT), normal(STEPS, IN, seed=1))
    np.testing.assert_array_equal(reads(of_inputs), np.isin(LAG, range(inputs + 1)))
    np.testing.assert_array_equal(reads(of_outputs), np.isin(LAG, range(outputs)))


def test_narx_in_closed_loop_reads_all_of_the_past():
    cell = jrnn.NARX(HIDDEN, outputs=OUT, input_lags=0, output_lags=1)
    params, own = params_of(cell), (jnp.zeros((STEPS, OUT)), jnp.zeros(STEPS, bool))
    jacobian = jax.jacobian(lambda xs: jrnn.unroll(cell, params, (*own, xs))[1])(normal(STEPS, IN))
    np.testing.assert_array_equal(reads(jacobian), LAG >= 0)


def test_closed_loop_is_an_open_one_that_is_given_its_outputs():
    cell = jrnn.NARX(HIDDEN, outputs=OUT, input_lags=1, output_lags=3)
    params, xs = params_of(cell), normal(STEPS, IN)
    end, closed = jrnn.unroll(cell, params, (jnp.zeros((STEPS, OUT)), jnp.zeros(STEPS, bool), xs))
    given = jnp.concatenate([jnp.zeros((1, OUT)), closed[:-1]])
    open_end, opened = jrnn.unroll(cell, params, (given, jnp.ones(STEPS, bool), xs))
    for a, b in zip(jax.tree.leaves((open_end, opened)), jax.tree.leaves((end, closed)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
