"""Draws for a `Comparison`, and both ways to run it: jrnn's cell and the step in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jrnn
from tests.references import run

STEPS, BATCH = 4, 2


def parts(tree):
    """A tree with a pair (real, imaginary) in the place of every complex leaf."""
    return jax.tree.map(lambda a: (a.real, a.imag) if jnp.iscomplexobj(a) else a, tree)


def random(rng, tree):
    """Normal numbers, or small integers, in the structure and shapes of `parts(tree)`."""

    def visit(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return rng.integers(0, 9, leaf.shape)
        pair = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
        return tuple(rng.normal(size=(2, *leaf.shape))) if pair else np.array(rng.normal(size=leaf.shape))

    return jax.tree.map(visit, tree)


def initial(case, batch):
    """Shapes of params and carry."""
    params = jax.eval_shape(partial(case.cell.init, in_features=case.width), jax.random.key(0))
    return params, jax.eval_shape(lambda p: case.cell.initial_carry(p, (*batch, *case.places)), params)


def draw(case, batch, seed=0, steps=STEPS):
    """Random float64 params (biases too), carry and xs, as NumPy arrays in the cell's own structure."""
    rng = np.random.default_rng(seed)
    drawn = (random(rng, tree) for tree in initial(case, batch))
    lead = (steps, *batch, *case.places)
    xs = case.inputs(rng, lead) if case.inputs else rng.normal(size=(*lead, case.width))
    return *case.adapt(*drawn), xs


def reference(case, params, carry, xs):
    return run(case.step, case.unpack(params), case.theirs(carry), xs)


def ours(case, batch, params, carry, xs, **options):
    """The same of jrnn's cell, with options of `unroll`; its last carry in the form of the reference."""
    spec = initial(case, batch)[1]
    whole = lambda leaf, given: jax.lax.complex(*given) if isinstance(given, tuple) else jnp.asarray(given)
    carry, xs = jax.tree.map(whole, spec, carry), jax.tree.map(jnp.asarray, xs)
    last, ys = jrnn.unroll(case.cell, params, xs, carry, **options)
    return case.theirs(parts(last)), ys


def assert_close(got, want, rtol=1e-12):
    """Leaf by leaf: a carry of jrnn has names where that of a reference is a plain tuple."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == jnp.float64 or jnp.issubdtype(a.dtype, jnp.integer)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12)


def weigh(rng, tree):
    """A linear function of a whole tree, that no two of its elements enter alike."""
    weights = [rng.normal(size=np.shape(leaf)) for leaf in jax.tree.leaves(tree)]
    return lambda t: sum((w * leaf).sum() for w, leaf in zip(weights, jax.tree.leaves(t), strict=True))
