"""What the tests of several libraries' weights share: sizes, random weights, and comparisons."""

import jax
import jax.numpy as jnp
import numpy as np

import jrnn

STEPS, BATCH, IN, HIDDEN, VOCABULARY, FIELD = 4, 3, 2, 5, 7, (4, 3, 2)
LENGTHS = np.array([4, 1, 3])
VALID = np.arange(STEPS)[:, None] < LENGTHS  # (time, batch)
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def drawn(tree, seed=0):
    """Random weights in the place of those of a tree."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(scale=0.5, size=leaf.shape), tree)


def drawn_model(model, width=IN):
    """A model and random parameters."""
    return model, drawn(jax.eval_shape(lambda: model.init(jax.random.key(0), width)))


def cast(tree, dtype):
    return jax.tree.map(lambda a: jnp.asarray(a, dtype if a.dtype == float else None), tree)


def inputs(model):
    """Sequences for a model, (time, batch, ...): tokens for a stack."""
    rng = np.random.default_rng(1)
    if isinstance(model, jrnn.Stack):
        return rng.integers(0, VOCABULARY, (STEPS, BATCH))
    field = FIELD[: model.spatial] if isinstance(model, jrnn.ConvLSTM) else ()
    return rng.normal(size=(STEPS, BATCH, *field, IN))


def apart(ours, theirs):
    """The largest difference."""
    assert ours.shape == theirs.shape
    return np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)).max()


def same_bits(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
