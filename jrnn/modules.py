"""Flax NNX: one thin module for every cell and layer."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jrnn.cell import is_layer, trainable
from jrnn.checks import Text, brief, require_cell
from jrnn.layers import apply
from jrnn.unrolling import Scan
from jrnn.unrolling.methods import Method


class Fixed(nnx.Variable[Any]):
    """What is drawn but never learned: a reservoir, a fixed matrix."""


class RNN(nnx.Module):
    """A cell or a layer as an NNX module, on the very parameters of the functions.

        carry, ys = module(xs)   is   carry, ys = jrnn.apply(cell, module.params, xs)

    One `nnx.Param` per leaf (`Fixed` for what stands under `fixed`), no state besides. It works under
    plain `jax.jit`, `jax.grad`, `vmap`, closures and the `nnx` transforms alike.

    Args:
      cell: a cell or a layer.
      in_features: width of the inputs (size of the vocabulary for a model that takes tokens).
      rngs: where the parameters are drawn from, `nnx.Rngs(0)`.
      time_axis: axis of time in inputs, outputs and masks: 0, or 1 for batch first.

    Raises:
      TypeError: no cell or layer, or no `nnx.Rngs`.
      ValueError: `time_axis` is neither 0 nor 1.

    >>> import jax.numpy as jnp, jrnn
    >>> from flax import nnx
    >>> module = jrnn.RNN(jrnn.GRU(8), in_features=3, rngs=nnx.Rngs(0), time_axis=1)
    >>> carry, ys = module(jnp.ones((4, 20, 3)))
    >>> ys.shape
    (4, 20, 8)
    """

    def __init__(self, cell: Any, in_features: int, *, rngs: nnx.Rngs, time_axis: int = 0) -> None:
        if not isinstance(rngs, nnx.Rngs):
            raise TypeError(f"rngs must be nnx.Rngs(0) or the like, got {brief(rngs)}")
        if not is_layer(cell):
            require_cell("RNN: cell", cell)
        if time_axis not in (0, 1):
            raise ValueError(f"time_axis must be 0 or 1, got {time_axis}")
        self.cell = cell
        self.in_features = in_features
        self.time_axis = time_axis
        params = cell.init(rngs.params(), in_features)
        kinds = jax.tree.map(lambda free: nnx.Param if free else Fixed, trainable(params))
        self.variables = nnx.data(jax.tree.map(lambda kind, leaf: kind(leaf), kinds, params))

    @property
    def params(self) -> Any:
        """The parameters, as the functions take them."""
        return jax.tree.map(lambda v: v[...], self.variables, is_leaf=lambda v: isinstance(v, nnx.Variable))

    @property
    def out_features(self) -> int:
        """Width of the outputs."""
        return int(self.cell.out_features)

    def __call__(
        self,
        xs: Any,
        carry: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
        key: Array | None = None,
        method: Method = Scan(),
    ) -> tuple[Any, Any]:
        """Run over sequences: `jrnn.apply` with this module's parameters and time axis."""
        xs, mask, resets = (move_time(tree, self.time_axis) for tree in (xs, mask, resets))
        carry, ys = apply(
            self.cell,
            self.params,
            xs,
            carry,
            lengths=lengths,
            mask=mask,
            resets=resets,
            key=key,
            method=method,
        )
        return carry, move_time(ys, self.time_axis)

    def initial_carry(self, batch_shape: tuple[int, ...] = (), *, key: Array | None = None) -> Any:
        """The carry that a call starts from when it is given none."""
        return self.cell.initial_carry(self.params, batch_shape, key=key)


def move_time(tree: Any, time_axis: int) -> Any:
    """Swap time and the first batch axis of every array, if time is not first."""
    if any(leaf.ndim < 2 for leaf in jax.tree.leaves(tree)) and time_axis:
        raise ValueError("time_axis=1 needs arrays of (batch, time, ...), got one of a single axis")
    return tree if time_axis == 0 else jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), tree)


def summary(cell: Any, in_features: int) -> str:
    """A table of the parameters of a cell or layer: a row for each, a line for each part and the sum.

    Args:
      cell: a cell or a layer.
      in_features: width of the inputs.

    Returns:
      The table: name, shape, dtype, number of parameters, bytes; it prints as it stands.

    >>> import jrnn
    >>> jrnn.summary(jrnn.Elman(3), in_features=2)
    Elman(hidden=3, activation='tanh', recurrent_init='orthogonal')
    parameter  shape   dtype    count  bytes
    w_ih       (2, 3)  float32      6     24
    w_hh       (3, 3)  float32      9     36
    b          (3,)    float32      3     12
    total                          18     72
    """
    if not is_layer(cell):
        require_cell("summary: cell", cell)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), in_features))
    rows = [("parameter", "shape", "dtype", "count", "bytes")]
    count = size = 0
    for part, subtree in _parts(cell, params):
        if part:
            rows.append((part, "", "", str(_count(subtree)), str(_bytes(subtree))))
        for path, leaf in jax.tree_util.tree_leaves_with_path(subtree):
            name = ("  " if part else "") + jax.tree_util.keystr(path, simple=True, separator=".")
            rows.append((name, str(leaf.shape), str(leaf.dtype), str(leaf.size), str(_bytes(leaf))))
        count, size = count + _count(subtree), size + _bytes(subtree)
    rows.append(("total", "", "", str(count), str(size)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = ("<", "<", "<", ">", ">")
    lines = ("  ".join(f"{c:{a}{w}}" for c, a, w in zip(r, aligned, widths, strict=True)) for r in rows)
    return Text("\n".join([str(cell), *(line.rstrip() for line in lines)]))


def _parts(cell: Any, params: Any) -> list[tuple[str, Any]]:
    """`(name, parameters)` of every cell that a stack or layer holds; of the cell itself otherwise."""
    inner = getattr(cell, "cells", None) or getattr(cell, "layers", None)
    if inner is None and type(params).__name__ == "BidirectionalParams":
        inner = (cell.forward, cell.backward)
    if inner is None:
        return [("", params)]
    return [(f"{i} {part}", p) for i, (part, p) in enumerate(zip(inner, params, strict=True))]


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
