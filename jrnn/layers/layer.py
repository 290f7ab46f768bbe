"""The contract of a layer, and `apply`, which runs a layer or a cell."""

from typing import Any, Protocol, cast, runtime_checkable

from jax import Array

from jrnn._checks import brief
from jrnn._traits import map_time, out_axes
from jrnn.cell import C, Cell, P, Shape, batch_shape_of, is_layer
from jrnn.unrolling import Scan, unroll
from jrnn.unrolling.methods import Method


@runtime_checkable
class Layer(Protocol[P, C]):
    """A map from sequences to sequences: a value like a cell, with `apply` in place of `step`.

    **Optional attributes.** `out_axes`: the time axis of the outputs, as in `jax.vmap`: 0 (the default), None
    for outputs without time (`ManyToOne`), or a tree of both. `is_noisy(params)`: whether the layer draws
    noise from a key; needed only if its initial carry does not show this.

    >>> import jrnn
    >>> isinstance(jrnn.Sequential((jrnn.LSTM(8),)), jrnn.Layer)
    True
    """

    @property
    def out_features(self) -> int: ...

    def init(self, key: Array, in_features: int) -> P: ...

    def initial_carry(self, params: P, batch_shape: Shape = (), *, key: Array | None = None) -> C: ...

    def apply(
        self,
        params: P,
        xs: Any,
        carry: C | None = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
        key: Array | None = None,
        method: Method = Scan(),
    ) -> tuple[C, Any]: ...


def apply(
    model: Cell[P, C] | Layer[P, C],
    params: P,
    xs: Any,
    carry: C | None = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    resets: Any = None,
    key: Array | None = None,
    method: Method = Scan(),
) -> tuple[C, Any]:
    """Run a cell or a layer over sequences, by `unroll` or by the layer's `apply`.

    Args:
      model: a cell or a layer.
      params: its parameters.
      xs: inputs, (time, ..., features).
      carry: initial carry; defaults to `model.initial_carry`.
      lengths: (...), number of valid steps of each sequence.
      mask: (time, ...), False at steps to skip.
      resets: (time, ...), True at the first step of a sequence.
      key: PRNG key for noise; None: no noise.
      method: how to run the loop.

    Returns:
      `(carry, ys)`.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> layer = jrnn.Bidirectional(jrnn.GRU(3), jrnn.GRU(3))
    >>> jrnn.apply(layer, layer.init(jax.random.key(0), 2), jnp.ones((5, 4, 2)))[1].shape
    (5, 4, 6)
    """
    options: dict[str, Any] = {"lengths": lengths, "mask": mask, "resets": resets}
    options |= {"key": key, "method": method}
    if not is_layer(model):
        return unroll(cast(Cell[P, C], model), params, xs, carry, **options)
    end, ys = cast(Layer[P, C], model).apply(params, xs, carry, **options)
    _check_time(model, xs, ys)
    return end, ys


def _check_time(layer: Any, xs: Any, ys: Any) -> None:
    """Raise if outputs that are said to have a time axis start with the batch instead."""
    steps, batch = batch_shape_of(layer, xs)[:1], batch_shape_of(layer, xs)[1:]
    count = len(batch)

    def check(leaf: Any) -> None:
        shape = tuple(leaf.shape)
        if count and shape[:count] == batch != shape[1 : 1 + count] and shape[:1] != steps:
            raise ValueError(
                f"{brief(layer)} returns outputs of shape {leaf.shape}, needs (time, batch, ...): a layer "
                "whose outputs have no time axis has the attribute out_axes = None"
            )

    map_time(check, out_axes(layer), ys)
