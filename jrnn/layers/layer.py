"""The contract of a layer, and `apply`, which runs a layer or a cell."""

from typing import Any, Protocol, cast, runtime_checkable

from jax import Array

from jrnn.cell import C, Cell, P, Shape, is_layer
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
    run = cast(Layer[P, C], model).apply if is_layer(model) else _unroll_of(model)
    return run(params, xs, carry, lengths=lengths, mask=mask, resets=resets, key=key, method=method)


def _unroll_of(cell: Any) -> Any:
    return lambda *args, **options: unroll(cell, *args, **options)
