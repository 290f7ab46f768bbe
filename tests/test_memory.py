"""`Scan(memory=...)`: what its gradient takes is what was predicted, and what was allowed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from tests.plain import Plain

pytestmark = pytest.mark.engine

MIB = 2**20
SIZES = {"batch": (8, 1000, 24, 64), "one row": (1, 40_000, 16, 32), "prime": (3, 997, 20, 50)}  # B T I H
MODELS = {
    "Elman": lambda h: jrnn.Elman(h),
    "GRU": lambda h: jrnn.GRU(h),
    "GRU, reset before": lambda h: jrnn.GRU(h, reset_after=False),
    "LSTM": lambda h: jrnn.LSTM(h),
    "two layers": lambda h: jrnn.Stack((jrnn.LSTM(h), jrnn.GRU(h))),
}


def gradient(cell, method):
    """Of a loss on the final state."""
    final = lambda params, xs: jrnn.unroll(cell, params, xs, method=method)[0]
    return jax.grad(lambda params, xs: sum(jnp.sum(c**2) for c in jax.tree.leaves(final(params, xs))))


def arguments(cell, batch, steps, features):
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), features))
    return params, jax.ShapeDtypeStruct((steps, batch, features), jnp.float32)


def measured(cell, method, *sizes):
    compiled = jax.jit(gradient(cell, method)).lower(*arguments(cell, *sizes)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


LIMITS = [("batch", memory) for memory in (None, "sqrt", 0.5, 0.2)]
LIMITS += [("one row", "sqrt"), ("one row", 0.2), ("prime", None), ("prime", 0.5)]


@pytest.mark.parametrize("size, memory", LIMITS)
@pytest.mark.parametrize("model", MODELS)
def test_a_gradient_takes_what_was_predicted(model, size, memory):
    batch, steps, features, hidden = SIZES[size]
    cell, sizes = MODELS[model](hidden), (batch, steps, features)
    if isinstance(memory, float):
        memory = int(memory * jrnn.gradient_memory(cell, *arguments(cell, *sizes)))
    method = jrnn.Scan(memory)
    predicted = jrnn.gradient_memory(cell, *arguments(cell, *sizes), method=method)
    taken = measured(cell, method, *sizes)
    assert taken <= predicted <= 1.33 * taken
    if isinstance(memory, int):
        assert predicted <= memory


def test_bytes_that_just_suffice_do():
    given = (jrnn.LSTM(3), *arguments(jrnn.LSTM(3), 2, 100, 2))
    least = jrnn.gradient_memory(*given, method=jrnn.Scan("sqrt"))
    assert jrnn.gradient_memory(*given, method=jrnn.Scan(least)) == least


@pytest.mark.parametrize(
    "step", [lambda p, h, x: (h, x), lambda p, h, x: (h, h), lambda p, h, x: (x, h)], ids=["x", "h", "delay"]
)
def test_a_step_without_ops_takes_next_to_nothing(step):
    initial = lambda params, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, 3))
    cell = jrnn.from_functions(lambda key, width: jnp.ones(2), initial, step, 3)
    xs = jax.random.normal(jax.random.key(0), (4, 2, 3))
    assert jrnn.gradient_memory(cell, jnp.ones(2), xs) <= xs.nbytes
    found, expected = (jrnn.unroll(cell, jnp.ones(2), xs, method=m) for m in (jrnn.Scan(), Plain()))
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_million_steps_train_within_64_mib():
    taken = measured(jrnn.LSTM(64), jrnn.Scan(64 * MIB), 1, 1_000_000, 64)
    assert taken <= 64 * MIB


def test_blocks_take_a_twentieth_of_what_plain_autodiff_takes():
    plain, blocks = (measured(jrnn.LSTM(256), m, 32, 1000, 256) for m in (Plain(), jrnn.Scan("sqrt")))
    assert blocks <= 0.05 * plain


@pytest.mark.parametrize("steps", [1, 2, 4, 30, 31, 64])
def test_blocks_in_blocks_give_the_same_gradient(steps):
    with jax.enable_x64(True):
        cell = jrnn.LSTM(3)
        params = cell.init(jax.random.key(0), 2)
        xs = jax.random.normal(jax.random.key(1), (steps, 1, 2))
        weight = jax.random.normal(jax.random.key(2), (steps, 1, 3))

        def gradients(method, reverse):
            outputs = lambda p, xs: jrnn.unroll(cell, p, xs, reverse=reverse, method=method)[1]
            return jax.jit(jax.grad(lambda *given: jnp.sum(jnp.sin(outputs(*given)) * weight), (0, 1)))

        least = jrnn.gradient_memory(cell, params, xs, method=jrnn.Scan("sqrt"))
        expected = [gradients(Plain(), reverse)(params, xs) for reverse in (False, True)]
        for i, memory in enumerate(range(least // 2, 4 * least, least // 3)):  # in both directions by turns
            try:
                found = gradients(jrnn.Scan(memory), i % 2 == 1)(params, xs)
            except ValueError:
                assert memory < least
                continue
            for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected[i % 2]), strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
