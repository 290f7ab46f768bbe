"""Bringing arrays to one dtype, one sharding, one rank."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import NamedSharding, PartitionSpec


def expand(flags: Array, ndim: int) -> Array:
    """Append axes to `flags` until it has `ndim`."""
    return flags.reshape(flags.shape + (1,) * (ndim - flags.ndim))


def select(flags: Array, chosen: Array, other: Array) -> Array:
    """`chosen` where `flags`, which name the leading axes, hold, else `other`, sharded as all three are."""
    flags, (chosen, other) = expand(flags, chosen.ndim), aligned(chosen, other)
    if sharded_axes(jax.typeof(chosen)) or sharded_axes(jax.typeof(flags)):
        flags = flags & jnp.ones_like(chosen, bool)
        chosen, other = (_resharded(leaf, jax.typeof(flags)) for leaf in (chosen, other))
    return jnp.where(flags, chosen, other)


def aligned(*leaves: Array) -> list[Array]:
    """Arrays brought to the dtype that they promote to, and the sharding of the first that is sharded."""
    like = next((leaf for leaf in leaves if sharded_axes(jax.typeof(leaf))), leaves[0])
    dtype = like.dtype if all(leaf.dtype == like.dtype for leaf in leaves) else promoted(*leaves)
    return [_resharded(leaf.astype(dtype), jax.typeof(like)) for leaf in leaves]


def joined(*leaves: Array) -> Array:
    """Arrays one after the other along their last axis, as an input and a state that is zero may be."""
    return jnp.concatenate(aligned(*leaves), axis=-1)


def on_device(value: Any, dtype: Any = None) -> Array:
    """`jnp.asarray`, as a transfer that is meant: `jax_transfer_guard` lets it pass."""
    with jax.transfer_guard_host_to_device("allow"):
        return jnp.asarray(value, dtype)


def promoted(*values: Any) -> Any:
    """The dtype that arrays or dtypes promote to, whatever `jax_numpy_dtype_promotion` says."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*values)


def in_dtype_of(leaf: Array, other: Array) -> Array:
    """An array in the dtype that it and another one promote to, as a state that keeps inputs needs it."""
    return leaf.astype(promoted(leaf, other))


def match_types(tree: Any, like: Any) -> Any:
    """Bring every array of `tree` to the dtype (upwards only), sharding and varying axes of `like`."""
    return jax.tree.map(match_type, tree, like)


def match_type(leaf: Array, like: Any) -> Array:
    """Bring one array to the dtype (upwards only), sharding and varying axes of `like`."""
    if leaf.dtype != like.dtype:
        leaf = leaf.astype(promoted(leaf.dtype, like.dtype))
    leaf = _resharded(leaf, like)
    if missing := tuple(varying_axes(like) - varying_axes(jax.typeof(leaf))):
        leaf = lax.pcast(leaf, missing, to="varying")
    return leaf


def like_rows(leaf: Array, rows: Array) -> Array:
    """An array whose leading axes are those of `rows`, sharded along them as `rows` is."""
    type_ = jax.typeof(rows)
    if not sharded_axes(type_):
        return leaf
    spec = PartitionSpec(*type_.sharding.spec, *(None,) * (leaf.ndim - rows.ndim))
    return jax.reshard(leaf, NamedSharding(type_.sharding.mesh, spec))


def looked_up(table: Array, *index: Array) -> Array:
    """`table[index]`, sharded as the last index is; NaN where an index is negative or too large."""
    type_ = jax.typeof(index[-1])
    rest = (None,) * (table.ndim - len(index))
    spec = PartitionSpec(*type_.sharding.spec, *rest) if sharded_axes(type_) else None
    out = spec and NamedSharding(type_.sharding.mesh, spec)
    return table.at[index].get(mode="fill", wrap_negative_indices=False, out_sharding=out)


def _resharded(leaf: Array, like: Any) -> Array:
    same = sharded_axes(jax.typeof(leaf)) == sharded_axes(like)
    return leaf if same else jax.reshard(leaf, like.sharding)


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
