"""Streams for the tests of gradients forward in time."""

import jax
import jax.numpy as jnp

import jrnn
from jrnn import RFLO, RTRL, UORO, EProp, KroneckerRTRL, SnAp, Truncated

METHODS = RTRL(), SnAp(1), UORO(), KroneckerRTRL(), EProp(), RFLO(), Truncated(3)
ROWS = 2


def free(tree):
    """The floats of parameters that learn."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(jrnn.trainable(tree)), strict=True)
    return [leaf for leaf, learns in pairs if learns and jnp.issubdtype(leaf.dtype, jnp.floating)]


def run(online, params, xs, targets=None, valid=None, reset=None, key=None):
    """The loss and the gradient of every step, with fixed parameters, and the last influence and carry."""
    started = online.init(params, jax.tree.map(lambda a: a[0], xs), key=key)

    def step(state, inputs):
        x, target, valid, reset = inputs
        *state, loss, gradient = online.step(*state, params, x, target, valid=valid, reset=reset)
        return tuple(state), (loss, gradient)

    state, found = jax.lax.scan(step, started, (xs, targets, valid, reset))
    return found, state


def total(*args, **kwargs):
    """The gradient summed over steps, as a vector."""
    (_, gradients), _ = run(*args, **kwargs)
    return jnp.concatenate([g.sum(0).ravel() for g in free(gradients)])


def drawn(cell, width=3, steps=4, rows=(ROWS,), seed=0):
    """Parameters away from their start, inputs, and targets."""
    keys = jax.random.split(jax.random.key(seed), 3)
    params = cell.init(keys[0], width)
    params = jax.tree.map(lambda a: a + 0.3 * jnp.cos(jnp.arange(a.size).reshape(a.shape)), params)
    xs = jax.random.normal(keys[1], (steps, *rows, width))
    y = jax.eval_shape(lambda p: jrnn.unroll(cell, p, xs)[1], params)
    return params, xs, jax.random.normal(keys[2], y.shape)
