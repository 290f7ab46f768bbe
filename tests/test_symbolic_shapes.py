"""A program exported once, with symbolic axes, runs at any number of steps and rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jrnn

MODELS = [
    jrnn.LSTM(4),
    jrnn.GRU(4),
    jrnn.MinGRU(4),
    jrnn.Stack((jrnn.Embed(3), jrnn.LSTM(4), jrnn.Dense(5)), dropout=0.5),
]


def run(model, params, xs, lengths, **options):
    options["lengths"] = lengths
    loss = lambda p: jnp.sum(jnp.sin(jrnn.unroll(model, p, xs, **options)[1]))
    return jrnn.unroll(model, params, xs, **options), jax.grad(loss)(params)


def drawn(model, steps, rows):
    rng = np.random.default_rng(steps)
    tokens = isinstance(model, jrnn.Stack)
    xs = rng.integers(0, 6, (steps, rows)) if tokens else rng.normal(size=(steps, rows, 3))
    return xs.astype(np.int32 if tokens else np.float32), rng.integers(0, steps + 1, rows).astype(np.int32)


@pytest.mark.parametrize("axes", ["t, b", "7, b", "t, 3"])
@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_one_program_for_all_shapes(model, axes):
    params = jax.jit(lambda key: model.init(key, 6 if isinstance(model, jrnn.Stack) else 3))(
        jax.random.key(0)
    )
    steps, rows = export.symbolic_shape(axes)
    xs, _ = drawn(model, 2, 2)
    spec = (
        jax.ShapeDtypeStruct((steps, rows, *xs.shape[2:]), xs.dtype),
        jax.ShapeDtypeStruct((rows,), np.int32),
    )
    function = jax.jit(lambda *given: run(model, *given, reverse=True))
    exported = export.export(function)(params, *spec)
    for size in ((7, 3),) if axes != "t, b" else ((1, 4), (7, 3)):
        given = params, *drawn(model, *size)
        found, needed = map(jax.tree.leaves, (exported.call(*given), function(*given)))
        for a, b in zip(found, needed, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_methods_at_an_unknown_number_of_steps():
    cell = jrnn.MinGRU(4)
    params = cell.init(jax.random.key(0), 3)
    xs = jax.ShapeDtypeStruct((*export.symbolic_shape("t, b"), 3), np.float32)
    for method in (jrnn.Scan("sqrt"), jrnn.Associative()):
        program = export.export(jax.jit(lambda p, xs, m=method: run(cell, p, xs, None, method=m)))(params, xs)
        given = params, drawn(cell, 6, 2)[0]
        for a, b in zip(
            jax.tree.leaves(program.call(*given)), jax.tree.leaves(run(cell, *given, None)), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="memory=9 bytes needs a known number of steps, xs has t"):
        export.export(jax.jit(lambda p, xs: run(cell, p, xs, None, method=jrnn.Scan(9))))(params, xs)
