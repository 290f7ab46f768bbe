"""What the value tests are made of: a case, what is drawn for it, and both ways to run it."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jrnn
from tests import references as ref

STEPS, BATCH, IN, HIDDEN, OUT, VOCABULARY = 4, 2, 3, 5, 6, 9  # pairwise distinct


def same(tree):
    return tree


class Case(NamedTuple):
    """A cell, the reference's step, and what stands between them."""

    cell: Any
    step: Callable  # options bound
    unpack: Callable  # params of the cell -> params of the reference
    width: int = IN
    places: tuple[int, ...] = ()  # spatial axes, between batch and features
    inputs: Callable | None = None  # (rng, lead) -> xs; normal numbers if left out
    adapt: Callable = lambda params, carry: (params, carry)  # what was drawn -> what the cell allows
    theirs: Callable = same  # carry of the cell -> carry of the reference


WINDOWS = {  # of convolutions over two axes
    "valid": {"padding": "VALID"},
    "circular": {"padding": "CIRCULAR"},
    "strides": {"strides": (2, 1)},
    "dilation": {"dilation": 2},
    "circular-strides-dilation": {"padding": "CIRCULAR", "strides": 2, "dilation": (2, 1)},
    "valid-strides": {"padding": "VALID", "strides": (1, 2)},
}


def blocks(array, letter, names):
    """Equal parts of a packed array, one per gate: `{letter + name: part}`."""
    parts = np.split(array, len(names), axis=-1)
    return {letter + name: part for name, part in zip(names, parts, strict=True)}


def split(array, letter, names):
    """The same, each transposed for column vectors."""
    return {name: part.T for name, part in blocks(array, letter, names).items()}


def packed(*names):
    """Unpacking of gates that all read x and h; the candidate's name is ""."""

    def unpack(p):
        biases = {} if p.b is None else split(p.b, "b", names)
        return split(p.w_ih, "W", names) | split(p.w_hh, "U", names) | biases

    return unpack


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
    return ref.run(case.step, case.unpack(params), case.theirs(carry), xs)


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
