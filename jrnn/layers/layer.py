"""The contract of a layer, and `apply`, which runs a layer or a cell."""

from typing import Any, Protocol, cast, runtime_checkable

from jax import Array

from jrnn.cell import C, Cell, P, Shape, is_layer
from jrnn.unrolling import Scan, unroll
from jrnn.unrolling.methods import Method


@runtime_checkable
class Layer(Protocol[P, C]):
    """A map from sequences to sequences: a value like a cell, with `apply` in place of `step`.

    **More can be said.** `out_axes`: where time stands in the outputs, as `jax.vmap` takes it: 0 unless a
    layer says otherwise, None where there is none (`ManyToOne`), or a tree of both. `is_noisy(params)`:
    whether a key draws noise, for a layer whose initial carry does not show it.

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
    """Run a cell or a layer over sequences: `unroll` for the one, the layer's `apply` for the other.

    Args:
      model: a cell or a layer.
      params: its parameters.
      xs: inputs, (time, ..., features).
      carry: carry to start from.
      lengths: (...), valid steps of each sequence.
      mask: (time, ...), False at steps to skip.
      resets: (time, ...), True at the first step of a sequence.
      key: draws the noise; without one there is none.
      method: how the loop is run.

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
