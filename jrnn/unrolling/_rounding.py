"""Lengths rounded up in eager calls, so that a few compiled programs serve all lengths.

Arrays are padded and sliced on the host: on a device, each new shape would compile another program.
"""

from typing import Any

import jax
import numpy as np
from jax import Array

from jrnn._caching import cached
from jrnn._jaxprs.programs import trace
from jrnn.cell import batch_shape_of, quiet, structure_of


def rounded(steps: int) -> int:
    """Round up to 1, 2, 3, 4, 6, 8, 12, 16, 24, …: two programs per doubling, at most 50 % padding.

    >>> [rounded(steps) for steps in (1, 4, 5, 7, 9, 100)]
    [1, 4, 6, 8, 12, 128]
    """
    power = 1 << (max(steps, 1) - 1).bit_length()
    return power * 3 // 4 if power >= 4 and steps <= power * 3 // 4 else power


def is_eager(*trees: Any) -> bool:
    """True if no array is traced or sharded over several devices."""
    leaves = [leaf for leaf in jax.tree.leaves(trees) if isinstance(leaf, Array)]
    traced = (isinstance(leaf, jax.core.Tracer) for leaf in leaves)
    return not any(traced) and all(len(leaf.sharding.device_set) == 1 for leaf in leaves)


def can_round(cell: Any, params: Any, carry: Any, *more: Any) -> bool:
    """True if a call is eager and draws no noise, which padding would draw too."""
    if not is_eager(params, carry, *more):
        return False
    if carry is None:
        return True
    try:
        return bool(structure_of(quiet(cell, params, carry)) == structure_of(carry))
    except (TypeError, ValueError):  # not a carry of this cell: `unroll` will raise
        return False


def can_pad(cell: Any, params: Any, carry: Any, xs: Any, *more: Any, lead: int = 1) -> bool:
    """True if `can_round`, and a loop of this step may also take more steps than are asked for.

    A step that prints or calls back would do so once more, and padding makes weak types strong. `lead` says
    whether xs has an axis of time.
    """
    if not can_round(cell, params, carry, xs, *more):
        return False
    if any(getattr(leaf, "weak_type", False) for leaf in jax.tree.leaves((params, carry, xs, more))):
        return False
    known = _purity(cell)
    if not known:
        try:
            x = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[lead:], leaf.dtype), xs)
            known.append(_is_pure(cell, params, carry, x))
        except (TypeError, ValueError):  # as for a carry
            return False
    return known[0]


@cached
def _purity(cell: Any) -> list[bool]:
    """A list of one, once it is known: True if the step of a cell has no effects."""
    return []


def _is_pure(cell: Any, params: Any, carry: Any, x: Any) -> bool:
    """True if a step neither prints nor calls back."""

    def step(params: Any, carry: Any, x: Any) -> Any:
        carry = cell.initial_carry(params, batch_shape_of(cell, x)) if carry is None else carry
        return cell.step(params, carry, x)

    return trace(step, params, carry, x)[0].pure


def native(tree: Any) -> Any:
    """Arrays of NumPy in the order of bytes of this machine: JAX takes others for other numbers."""

    def visit(leaf: Any) -> Any:
        foreign = isinstance(leaf, np.ndarray) and not leaf.dtype.isnative
        return leaf.astype(leaf.dtype.newbyteorder("=")) if foreign else leaf

    return jax.tree.map(visit, tree)


def lengthened(x: Any, size: int, axis: int = 0, fill: int = 0) -> Array:
    """Pad an array to a size along an axis."""
    given = np.asarray(jax.device_get(x))
    missing = [(0, size - given.shape[axis] if i == axis % given.ndim else 0) for i in range(given.ndim)]
    return _placed_like(x, np.pad(given, missing, constant_values=fill))


def shortened(ys: Any, size: int, axis: int = 0) -> Any:
    """Slice the first entries of every array along an axis."""

    def cut(y: Array) -> Array:
        if y.shape[axis] == size:
            return y
        rows = np.moveaxis(jax.device_get(y), axis, 0)[:size]
        return _placed_like(y, np.moveaxis(rows, 0, axis))

    return jax.tree.map(cut, ys)


def _placed_like(x: Any, value: Any) -> Array:
    return jax.device_put(value, x.sharding if isinstance(x, Array) and x.committed else None)
