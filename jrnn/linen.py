"""Flax Linen: one module for every cell and layer."""

from dataclasses import KW_ONLY
from typing import Any

import flax.linen as nn
import jax
from jax import Array

from jrnn._checks import check_flag, check_text, check_whole, check_width, require_model
from jrnn._traits import is_noisy
from jrnn.cell import trainable
from jrnn.modules import Call
from jrnn.unrolling import Scan
from jrnn.unrolling.methods import Method


class RNN(nn.Module):
    """A cell or a layer as a Linen module, with the same parameters as the functions.

        carry, ys = module.apply(variables, xs)   is   carry, ys = jrnn.apply(cell, params, xs)

    Each leaf is a parameter of the collection "params", named by its path ("w_ih", "0.table"); leaves under
    `fixed` are in the collection "fixed".

    **Noise** follows Flax's conventions, as in `nn.Dropout`: it is on unless `deterministic`, and drawn from
    the stream "dropout" of `apply(..., rngs={"dropout": key})`, or from `key`. A model without noise needs
    neither.

    Args:
      cell: a cell or a layer.
      in_features: width of the inputs (size of the vocabulary for a model that takes tokens).
      time_axis: axis of time in inputs, outputs and masks, among the axes before the features: 0; 1 for batch
        first; −1 for time after all batch axes.
      reverse: run a cell from the end of the sequence (`Reversed`).
      deterministic: disable noise.
      rng_collection: name of the stream.

    Raises:
      TypeError: not a cell or layer, or an option of another type.
      ValueError: at a call, a `time_axis` that the inputs do not have.
      flax.errors.InvalidRngError: at a call, noise without a stream or key.

    >>> import jax, jax.numpy as jnp, jrnn, jrnn.linen
    >>> module = jrnn.linen.RNN(jrnn.GRU(8), in_features=3)
    >>> variables = module.init(jax.random.key(0), jnp.ones((20, 4, 3)))
    >>> sorted(variables["params"])
    ['b', 'b_hn', 'w_hh', 'w_ih']
    """

    cell: Any
    in_features: int
    _: KW_ONLY
    time_axis: int = 0
    reverse: bool = False
    deterministic: bool = False
    rng_collection: str = "dropout"

    def __post_init__(self) -> None:
        require_model("RNN: cell", self.cell)
        check_width("in_features", self.in_features)
        check_whole("time_axis", self.time_axis)
        check_flag("reverse", self.reverse)
        check_flag("deterministic", self.deterministic)
        check_text("rng_collection", self.rng_collection)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        xs: Any,
        carry: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
        reverse: bool | None = None,
        deterministic: bool | None = None,
        key: Array | None = None,
        method: Method = Scan(),
    ) -> tuple[Any, Any]:
        """Run over sequences: `jrnn.apply` with this module's parameters and time axis.

        `reverse` and `deterministic` override those of the module, and `key` overrides the stream.
        """
        params = self._declare()
        call = Call(self.cell, params, self.time_axis, self.reverse if reverse is None else reverse)
        quiet = self.deterministic if deterministic is None else check_flag("deterministic", deterministic)
        if key is None and not self.is_initializing() and is_noisy(self.cell, params):
            carry = call.quiet(carry) if quiet else carry
            key = None if quiet else self.make_rng(self.rng_collection)
        return call(xs, carry, lengths=lengths, mask=mask, resets=resets, key=key, method=method)

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
