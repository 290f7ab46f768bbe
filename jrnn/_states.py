"""The state of a carry as a tree, and as a vector of real numbers."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn.cell import is_slot


def state_of(spec: Any, carry: Any) -> Any:
    """A carry with `None` in place of its slots; `spec` is its `carry_spec` without a key."""
    return jax.tree.map(lambda s, given: None if is_slot(s) else given, spec, carry, is_leaf=is_slot)


def float_state(spec: Any, carry: Any) -> Any:
    """A carry with `None` in place of its slots and of all that is not float or complex."""
    state = state_of(spec, carry)
    return jax.tree.map(lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else None, state)


def updated(carry: Any, state: Any) -> Any:
    """The carry with its entries replaced by those of `state` that are not `None`."""
    return jax.tree.map(lambda new, old: old if new is None else new, state, carry, is_leaf=is_slot)


def size_of(state: Any, batch_ndim: int = 0) -> int:
    """Real numbers in a tree of float and complex arrays, for one batch element."""
    return sum(_size(leaf, batch_ndim) for leaf in jax.tree.leaves(state))


def ravel(state: Any, batch_ndim: int = 0) -> Array:
    """Flatten a tree of float and complex arrays to (batch..., D).

    Leaf after leaf; of a complex one, first the real parts and then the imaginary parts.
    """
    leaves = jax.tree.leaves(state)
    parts = [part for leaf in leaves for part in ((leaf.real, leaf.imag) if _is_complex(leaf) else (leaf,))]
    shapes = [(*part.shape[:batch_ndim], math.prod(part.shape[batch_ndim:])) for part in parts]
    return jnp.concatenate([part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)], -1)


def unravel(vector: Array, state: Any) -> Any:
    """Invert `ravel`: a vector in the structure, shapes and dtypes of `state`."""
    leaves, structure = jax.tree.flatten(state)
    sizes = [_size(leaf, vector.ndim - 1) for leaf in leaves]
    parts = jnp.split(vector, np.cumsum(sizes)[:-1], axis=-1)
    return jax.tree.unflatten(structure, map(_shaped, parts, leaves))


def _is_complex(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.complexfloating))


def _size(leaf: Any, batch_ndim: int) -> int:
    return math.prod(leaf.shape[batch_ndim:]) * (2 if _is_complex(leaf) else 1)


def _shaped(part: Array, like: Any) -> Array:
    if _is_complex(like):
        part = jax.lax.complex(*jnp.split(part, 2, axis=-1))
    return part.reshape(like.shape).astype(like.dtype)
