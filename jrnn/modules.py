"""Flax NNX: one module for every cell and layer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jrnn._checks import Text, brief, check_flag, check_text, check_whole, check_width, require_model
from jrnn._traits import is_noisy, map_time, out_axes
from jrnn.cell import in_ndim, is_layer, quiet, trainable
from jrnn.layers import Reversed, apply
from jrnn.unrolling import Scan
from jrnn.unrolling.methods import Method


class Fixed(nnx.Variable[Any]):
    """Variable that is drawn but never learned: a reservoir, a fixed matrix."""


class RNN(nnx.Module):
    """A cell or a layer as an NNX module, with the same parameters as the functions.

        carry, ys = module(xs)   is   carry, ys = jrnn.apply(cell, module.params, xs)

    Each leaf is an `nnx.Param` (or `Fixed` if it is under `fixed`). The module works with plain `jax.jit`,
    `jax.grad`, `vmap`, closures and `nnx` transforms.

    **Noise** follows Flax's conventions, as in `nnx.Dropout`: it is on unless `deterministic`, which
    `train()` and `eval()` set. Every call draws new noise from a fork of the stream "dropout" of `rngs`, or
    from `key`. A model without noise has no stream, and no state except its parameters. The stream advances
    under `nnx` transforms and wherever its state is passed on; inside a plain `jax.jit` or `jax.vmap`, pass
    a `key`.

    Args:
      cell: a cell or a layer.
      in_features: width of the inputs (size of the vocabulary for a model that takes tokens).
      rngs: source of the parameters and of the noise stream: `nnx.Rngs(0)`, or
        `nnx.Rngs(params=0, dropout=1)`.
      time_axis: axis of time in inputs, outputs and masks, among the axes before the features: 0; 1 for batch
        first; −1 for time after all batch axes.
      reverse: run a cell from the end of the sequence (`Reversed`).
      deterministic: disable noise.
      rng_collection: name of the stream.

    Raises:
      TypeError: not a cell or layer, not an `nnx.Rngs`, or an option of another type.
      ValueError: at a call, a `time_axis` that the inputs do not have; noise without a stream or key.

    >>> import jax.numpy as jnp, jrnn
    >>> from flax import nnx
    >>> module = jrnn.RNN(jrnn.GRU(8), in_features=3, rngs=nnx.Rngs(0), time_axis=1)
    >>> carry, ys = module(jnp.ones((4, 20, 3)))
    >>> ys.shape
    (4, 20, 8)
    """

    def __init__(
        self,
        cell: Any,
        in_features: int,
        *,
        rngs: nnx.Rngs,
        time_axis: int = 0,
        reverse: bool = False,
        deterministic: bool = False,
        rng_collection: str = "dropout",
    ) -> None:
        if not isinstance(rngs, nnx.Rngs):
            raise TypeError(f"rngs must be nnx.Rngs(0) or the like, got {brief(rngs)}")
        self.cell = require_model("RNN: cell", cell)
        self.in_features = check_width("in_features", in_features)
        self.time_axis = check_whole("time_axis", time_axis)
        self.reverse = check_flag("reverse", reverse)
        self.deterministic = check_flag("deterministic", deterministic)
        self.rng_collection = check_text("rng_collection", rng_collection)
        params = cell.init(rngs.params(), in_features)
        kinds = jax.tree.map(lambda free: nnx.Param if free else Fixed, trainable(params))
        self.variables = nnx.data(jax.tree.map(lambda kind, leaf: kind(leaf), kinds, params))
        self.noisy = is_noisy(cell, params)
        drawn = self.noisy and (rng_collection in rngs or "default" in rngs)
        self.rngs = nnx.data(rngs[rng_collection].fork() if drawn else None)

    @property
    def params(self) -> Any:
        """The parameters, in the form that the functions take."""
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
        reverse: bool | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        key: Array | None = None,
        method: Method = Scan(),
    ) -> tuple[Any, Any]:
        """Run over sequences: `jrnn.apply` with this module's parameters and time axis.

        `reverse`, `deterministic` and `rngs` override those of the module, and `key` overrides the last two.
        """
        call = Call(self.cell, self.params, self.time_axis, self.reverse if reverse is None else reverse)
        quiet = self.deterministic if deterministic is None else check_flag("deterministic", deterministic)
        if self.noisy and key is None:
            carry = call.quiet(carry) if quiet else carry
            key = None if quiet else self._key(rngs)
        return call(xs, carry, lengths=lengths, mask=mask, resets=resets, key=key, method=method)

    def _key(self, rngs: nnx.Rngs | nnx.RngStream | None) -> Array:
        """The next key of the stream."""
        name, stream = self.rng_collection, self.rngs if rngs is None else rngs
        if isinstance(stream, nnx.Rngs):
            stream = stream[name] if name in stream or "default" in stream else None
        if stream is None:
            raise ValueError(
                f"RNN: {brief(self.cell)} draws noise and needs a stream {name!r}: pass "
                f"rngs=nnx.Rngs({name}=...) or key, or deterministic=True for no noise"
            )
        return stream()

    def set_view(self, deterministic: bool | None = None) -> None:
        """Class method used by `nnx.view`.

        Args:
          deterministic: disable noise.
        """
        if deterministic is not None:
            self.deterministic = deterministic

    def initial_carry(self, batch_shape: tuple[int, ...] = (), *, key: Array | None = None) -> Any:
        """The default initial carry of a call."""
        return self.cell.initial_carry(self.params, batch_shape, key=key)


class Call(NamedTuple):
    """A call of a cell or layer, shared by both Flax modules."""

    model: Any
    params: Any
    time_axis: int
    reverse: bool

    def __call__(self, xs: Any, carry: Any, *, mask: Any, resets: Any, **options: Any) -> tuple[Any, Any]:
        """Call `jrnn.apply` with time at `time_axis` in all arguments and results."""
        model = self.model
        if check_flag("reverse", self.reverse):
            if is_layer(model):
                raise TypeError(
                    f"reverse must be False for the layer {brief(model)}: put Reversed inside it instead"
                )
            model = Reversed(model)
        axis = self._axis(xs)
        xs, mask, resets = (jax.tree.map(lambda leaf: _move(leaf, axis, 0), a) for a in (xs, mask, resets))
        carry, ys = apply(model, self.params, xs, carry, mask=mask, resets=resets, **options)
        return carry, map_time(lambda leaf: _move(leaf, 0, axis), out_axes(model), ys)

    def quiet(self, carry: Any) -> Any:
        """Remove the noise that an earlier call may have left in a carry."""
        return carry if carry is None else quiet(self.model, self.params, carry)

    def _axis(self, xs: Any) -> int:
        """The axis of time, as a non-negative number."""
        leaves = jax.tree.leaves(xs)
        ahead = jnp.ndim(leaves[0]) - in_ndim(self.model) if self.time_axis and leaves else 1
        if not -ahead <= self.time_axis < ahead:
            raise ValueError(
                f"time_axis={self.time_axis} is out of range for xs of shape {jnp.shape(leaves[0])}: needs "
                "an axis before the features"
            )
        return self.time_axis % ahead


def _move(leaf: Any, source: int, destination: int) -> Any:
    """Move an axis, unless it is already there."""
    if source == destination:
        return leaf
    if jnp.ndim(leaf) <= max(source, destination):
        raise ValueError(
            f"time_axis={max(source, destination)} is out of range for an array of shape {jnp.shape(leaf)}"
        )
    return jnp.moveaxis(leaf, source, destination)


def summary(cell: Any, in_features: int) -> str:
    """Tabulate the parameters of a cell or layer: one row each, with totals for each part and overall.

    Args:
      cell: a cell or a layer.
      in_features: width of the inputs.

    Returns:
      A string whose repr is itself: name, shape, dtype, number of parameters, bytes.

    >>> import jrnn
    >>> jrnn.summary(jrnn.Elman(3), in_features=2)
    Elman(hidden=3)
    parameter  shape   dtype    count  bytes
    w_ih       (2, 3)  float32      6     24
    w_hh       (3, 3)  float32      9     36
    b          (3,)    float32      3     12
    total                          18     72
    """
    require_model("summary: cell", cell)
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
    """`(name, parameters)` of every cell in a stack or layer; for another cell, of itself."""
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
