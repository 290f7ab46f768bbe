"""Arrays that meet: brought to one dtype, one sharding, one rank."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax


def expand(flags: Array, ndim: int) -> Array:
    """Append axes to `flags` until it has `ndim`."""
    return flags.reshape(flags.shape + (1,) * (ndim - flags.ndim))


def select(flags: Array, chosen: Array, other: Array) -> Array:
    """`chosen` where `flags`, which name the leading axes, hold, else `other`, sharded as `chosen` is."""
    flags, other = expand(flags, chosen.ndim), align_leaf(other, jax.typeof(chosen))
    chosen = align_leaf(chosen, jax.typeof(other))
    if sharded_axes(jax.typeof(chosen)):
        flags = flags & jnp.ones_like(chosen, bool)
    return jnp.where(flags, chosen, other)


def promoted(*values: Any) -> Any:
    """The dtype that arrays or dtypes promote to, also where `jax_numpy_dtype_promotion` forbids it unasked."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*values)


def in_dtype_of(leaf: Array, other: Array) -> Array:
    """An array in the dtype that it and another one promote to, as a state that keeps inputs needs it."""
    return leaf.astype(promoted(leaf, other))


def match(tree: Any, like: Any) -> Any:
    """Bring every array of `tree` to the dtype (upwards only), sharding and varying axes of `like`."""
    return jax.tree.map(align_leaf, tree, like)


def align_leaf(leaf: Array, like: Any) -> Array:
    """Bring one array to the dtype (upwards only), sharding and varying axes of `like`."""
    if leaf.dtype != like.dtype:
        leaf = leaf.astype(promoted(leaf.dtype, like.dtype))
    if sharded_axes(jax.typeof(leaf)) != sharded_axes(like):
        leaf = jax.reshard(leaf, like.sharding)
    if missing := tuple(varying_axes(like) - varying_axes(jax.typeof(leaf))):
        leaf = lax.pcast(leaf, missing, to="varying")
    return leaf


def same_type(a: Any, b: Any) -> bool:
    """Whether dtype, sharding and varying axes agree."""
    facts = ((x.dtype, sharded_axes(x), varying_axes(x)) for x in (a, b))
    return next(facts) == next(facts)


def sharded_axes(leaf: Any) -> tuple[Any, ...]:
    """Mesh axes over which an array is sharded in its type, () if none are."""
    spec = getattr(leaf.sharding, "spec", None) or ()
    return tuple(spec) if any(axis is not None for axis in spec) else ()


def varying_axes(leaf: Any) -> frozenset[str]:
    """Mesh axes over which an array varies inside `shard_map`; newer JAX says it in another attribute."""
    manual = getattr(leaf, "manual_axis_type", None)
    return frozenset(getattr(manual, "varying", None) or getattr(leaf, "vma", None) or ())
