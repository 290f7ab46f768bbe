"""Arrays with matching dtype, sharding and rank."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import NamedSharding, PartitionSpec


def expand(flags: Array, ndim: int) -> Array:
    """Append axes to `flags` until it has `ndim`."""
    return flags.reshape(flags.shape + (1,) * (ndim - flags.ndim))


def select(flags: Array, chosen: Array, other: Array) -> Array:
    """`chosen` where `flags` (leading axes) are True, else `other`; keeps the sharding of all three."""
    flags, (chosen, other) = expand(flags, chosen.ndim), aligned(chosen, other)
    types = jax.typeof(flags), jax.typeof(chosen)
    if any(map(sharded_axes, types)):
        spec = PartitionSpec(*(a or b for a, b in zip(*(t.sharding.spec for t in types), strict=True)))
        sharding = NamedSharding(next(t for t in types if sharded_axes(t)).sharding.mesh, spec)
        flags = jnp.broadcast_to(flags, chosen.shape, out_sharding=sharding)
        chosen, other = (_resharded(leaf, jax.typeof(flags)) for leaf in (chosen, other))
    return jnp.where(flags, chosen, other)


def aligned(*leaves: Array) -> list[Array]:
    """Arrays in their promoted dtype, with the sharding of the first that is sharded."""
    like = next((leaf for leaf in leaves if sharded_axes(jax.typeof(leaf))), leaves[0])
    dtype = like.dtype if all(leaf.dtype == like.dtype for leaf in leaves) else promoted(*leaves)
    return [_resharded(leaf.astype(dtype), jax.typeof(like)) for leaf in leaves]


def joined(*leaves: Array) -> Array:
    """Concatenate arrays along the last axis, even if dtype or sharding differ, as for a zero state."""
    return jnp.concatenate(aligned(*leaves), axis=-1)


def on_device(value: Any, dtype: Any = None) -> Array:
    """`jnp.asarray` as an explicit transfer, which `jax_transfer_guard` permits.

    `jnp.asarray` compiles a program for each new shape, a transfer none. It may use the memory that it is
    given, so it is given a copy.
    """
    return jnp.asarray(value, dtype) if isinstance(value, Array) else jax.device_put(np.array(value, dtype))


def promoted(*values: Any) -> Any:
    """The dtype that arrays or dtypes promote to, regardless of `jax_numpy_dtype_promotion`."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*values)


def in_dtype_of(leaf: Array, other: Array) -> Array:
    """Cast an array to its common dtype with another, for a state that stores inputs."""
    return leaf.astype(promoted(leaf, other))


def match_types(tree: Any, like: Any) -> Any:
    """Match dtype (upcast only), sharding and varying axes of every array to those of `like`."""
    return jax.tree.map(match_type, tree, like)


def match_type(leaf: Array, like: Any) -> Array:
    """Match dtype (upcast only), sharding and varying axes of an array to those of `like`."""
    if leaf.dtype != like.dtype:
        leaf = leaf.astype(promoted(leaf.dtype, like.dtype))
    leaf = _resharded(leaf, like)
    return varied(leaf, varying_axes(like))


def varied(leaf: Array, axes: Iterable[str]) -> Array:
    """An array that varies over these axes of a mesh, inside `shard_map`."""
    missing = tuple(set(axes) - varying_axes(jax.typeof(leaf)))
    return lax.pcast(leaf, missing, to="varying") if missing else leaf


def zeros_like_type(like: Any) -> Array:
    """Zeros with the shape, dtype, sharding and varying axes of a type."""
    return match_type(jnp.zeros(like.shape, like.dtype), like)


def like_rows(leaf: Array, rows: Array) -> Array:
    """Shard the leading axes of an array as those of `rows`."""
    return like_batch(leaf, rows, rows.ndim)


def like_batch(leaf: Array, other: Array, ndim: int) -> Array:
    """Shard the first axes of an array, as many as `ndim`, as those of another, but for axes of length 1."""
    type_ = jax.typeof(other)
    if not sharded_axes(type_):
        return leaf
    axes = zip(type_.sharding.spec[:ndim], leaf.shape, strict=False)
    spec = [axis if size != 1 else None for axis, size in axes]
    return jax.reshard(leaf, NamedSharding(type_.sharding.mesh, PartitionSpec(*spec)))


def split_over(tree: Any) -> Any:
    """The mesh axis over which arrays are explicitly sharded along their first axis, time; None if none."""
    arrays = (leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array))
    found = (sharded_axes(jax.typeof(leaf))[:1] for leaf in arrays)
    return next((axis for axes in found for axis in axes if axis is not None), None)


def sharded_along_time(leaf: Array, axis: Any) -> Array:
    """Shard the first axis of an array over this axis of the mesh; None: over none."""
    rest = sharded_axes(jax.typeof(leaf))[1:]
    return jax.reshard(leaf, PartitionSpec(axis, *rest))


def looked_up(table: Array, *index: Array) -> Array:
    """`table[index]`, sharded as the last index; NaN where an index is negative or too large."""
    type_ = jax.typeof(index[-1])
    rest = (None,) * (table.ndim - len(index))
    spec = PartitionSpec(*type_.sharding.spec, *rest) if sharded_axes(type_) else None
    out = spec and NamedSharding(type_.sharding.mesh, spec)
    return table.at[index].get(mode="fill", wrap_negative_indices=False, out_sharding=out)


def _resharded(leaf: Array, like: Any) -> Array:
    same = sharded_axes(jax.typeof(leaf)) == sharded_axes(like)
    return leaf if same else jax.reshard(leaf, like.sharding)


def same_type(a: Any, b: Any) -> bool:
    """True if dtype, sharding and varying axes agree."""
    facts = ((x.dtype, sharded_axes(x), varying_axes(x)) for x in (a, b))
    return next(facts) == next(facts)


def sharded_axes(leaf: Any) -> tuple[Any, ...]:
    """Mesh axes over which an array is explicitly sharded; () if none."""
    spec = getattr(leaf.sharding, "spec", None) or ()
    return tuple(spec) if any(axis is not None for axis in spec) else ()


def varying_axes(leaf: Any) -> frozenset[str]:
    """Mesh axes over which an array varies inside `shard_map`; newer JAX has another attribute for them."""
    manual = getattr(leaf, "manual_axis_type", None)
    return frozenset(getattr(manual, "varying", None) or getattr(leaf, "vma", None) or ())
