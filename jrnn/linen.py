"""Flax Linen: the same one module."""

from typing import Any

import flax.linen as nn
import jax
from jax import Array

from jrnn.cell import trainable
from jrnn.layers import apply
from jrnn.modules import move_time
from jrnn.unrolling import Scan
from jrnn.unrolling.methods import Method


class RNN(nn.Module):
    """A cell or a layer as a Linen module, on the very parameters of the functions.

        carry, ys = module.apply(variables, xs)   is   carry, ys = jrnn.apply(cell, params, xs)

    Every leaf is a parameter of the collection "params", named by its path ("w_ih", "0.table"); what
    stands under `fixed` is in the collection "fixed".

    Args:
      cell: a cell or a layer.
      in_features: width of the inputs (size of the vocabulary for a model that takes tokens).
      time_axis: axis of time in inputs, outputs and masks: 0, or 1 for batch first.

    Raises:
      ValueError: `time_axis` is neither 0 nor 1.

    >>> import jax, jax.numpy as jnp, jrnn, jrnn.linen
    >>> module = jrnn.linen.RNN(jrnn.GRU(8), in_features=3)
    >>> variables = module.init(jax.random.key(0), jnp.ones((20, 4, 3)))
    >>> sorted(variables["params"])
    ['b', 'b_hn', 'w_hh', 'w_ih']
    """

    cell: Any
    in_features: int
    time_axis: int = 0

    @nn.compact
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
        if self.time_axis not in (0, 1):
            raise ValueError(f"time_axis must be 0 or 1, got {self.time_axis}")
        params = self._declare()
        xs, mask, resets = (move_time(tree, self.time_axis) for tree in (xs, mask, resets))
        carry, ys = apply(
            self.cell, params, xs, carry, lengths=lengths, mask=mask, resets=resets, key=key, method=method
        )
        return carry, move_time(ys, self.time_axis)

    def _declare(self) -> Any:
        key = self.make_rng("params") if self.is_initializing() else jax.random.key(0)
        drawn = self.cell.init(key, self.in_features) if self.is_initializing() else None
        spec = jax.eval_shape(lambda: self.cell.init(jax.random.key(0), self.in_features))
        paths = jax.tree_util.tree_leaves_with_path(spec)
        values = [None] * len(paths) if drawn is None else jax.tree.leaves(drawn)
        leaves = []
        for (path, _), value, free in zip(paths, values, jax.tree.leaves(trainable(spec)), strict=True):
            name = jax.tree_util.keystr(path, simple=True, separator=".") or "w"
            if free:
                leaves.append(self.param(name, lambda _, v=value: v))
            else:
                leaves.append(self.variable("fixed", name, lambda v=value: v).value)
        return jax.tree.unflatten(jax.tree.structure(spec), leaves)
