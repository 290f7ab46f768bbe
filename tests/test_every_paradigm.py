"""Every paradigm of every cell: traced, differentiated, and run for cells of each kind."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from tests.cases import CASES, one_in
from tests.test_paradigms import IN, XS, drawn

PLAIN = [c for c in CASES if c.inputs is None and getattr(c.cell, "in_ndim", 1) == 1]


def everything(cell, params, xs, key=None):
    """A number that depends on what every paradigm makes of a cell; `params` are those of its projection."""
    wide, ragged = jrnn.Project(cell, xs.shape[-1]), {"lengths": jnp.array([3, 1]), "key": key}
    outputs = [
        jrnn.many_to_one(cell, params.cell, xs, **ragged),
        jrnn.delayed(cell, params.cell, xs, 2, **ragged),
        jrnn.autoregressive(cell, params.cell, xs, **ragged),
    ]
    if isinstance(cell, jrnn.Tap):  # whose output is no array to read
        outputs += [jrnn.one_to_many(cell, params.cell, xs[0], 3, key=key)]
    else:
        outputs += [
            jrnn.one_to_many(wide, params, xs[0], 3, then="output", key=key),
            jrnn.forecast(wide, params, xs, 3, **ragged),
        ]
    return sum(jnp.sum(jnp.sin(leaf)) for _, ys in outputs for leaf in jax.tree.leaves(ys))


@pytest.mark.slow
@pytest.mark.parametrize("case", one_in(6, PLAIN), ids=lambda case: repr(case.cell))
def test_every_cell_is_traced_and_differentiated_in_every_paradigm(case):
    width, key = case.in_features, jax.random.key(0)
    params = jax.eval_shape(lambda: jrnn.Project(case.cell, width).init(key, width))
    xs = jax.ShapeDtypeStruct((3, 2, width), jnp.float32)
    gradient = jax.eval_shape(jax.grad(partial(everything, case.cell), (0, 1)), params, xs, key)
    assert jax.tree.structure(gradient) == jax.tree.structure((params, xs))


@pytest.mark.parametrize(
    "cell", [jrnn.LSTM(4), jrnn.ClockworkRNN(4, periods=(1, 2)), jrnn.LRU(4, outputs=3)], ids=repr
)
def test_cells_of_each_kind_run_in_every_paradigm(cell):
    params, xs = drawn(jrnn.Project(cell, IN)), jnp.asarray(XS[:3, :2])
    value, gradient = jax.jit(jax.value_and_grad(partial(everything, cell), (0, 1)))(params, xs)
    assert np.isfinite(value)
    for leaf in jax.tree.leaves(gradient):
        assert np.all(np.isfinite(leaf)) and np.any(leaf)
