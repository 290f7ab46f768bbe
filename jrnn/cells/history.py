"""Memory of past inputs."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jrnn._alignment import aligned, joined
from jrnn._checks import check_in_features
from jrnn._fields import Lag, Width, checked
from jrnn.cell import Shape, zero_state

Past = tuple[tuple[Array, ...], ...]  # past values of each slice of x, latest first


@checked
@dataclass(frozen=True)
class Window:
    """Tapped delay line: the input and those of the last k steps.

        yₜ = [xₜ, xₜ₋₁, …, xₜ₋ₖ]

    Inputs before the first step are zero, unless a carry is given. There are no parameters. A finite-response
    model is `Stack((Window(k, features), Dense(n, activation="tanh"), Dense(out)))`; it reads k + 1 inputs.
    With tuples, x is split into slices, each with its own window; y concatenates the windows.

    Args:
      k: number of steps to look back, 0 or more; or one per slice.
      features: width of x; or of each slice.

    Raises:
      ValueError: a negative k, tuples of different lengths, or an input of a different width.

    Reference: Waibel, Hanazawa, Hinton, Shikano, Lang, Phoneme recognition using time-delay neural networks,
    1989, doi:10.1109/29.21701.

    >>> import jax.numpy as jnp, jrnn
    >>> _, ys = jrnn.unroll(jrnn.Window(2, 1), (), jnp.array([[1.0], [2.0], [3.0]]))
    >>> ys[2]
    Array([3., 2., 1.], dtype=float32)
    """

    k: Lag | tuple[Lag, ...]
    features: Width | tuple[Width, ...]
    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if len(self._lags) != len(self._widths):
            raise ValueError(
                f"k and features must have one entry per slice, got {self.k} and {self.features}"
            )

    @property
    def _lags(self) -> tuple[int, ...]:
        return self.k if isinstance(self.k, tuple) else (self.k,)

    @property
    def _widths(self) -> tuple[int, ...]:
        return self.features if isinstance(self.features, tuple) else (self.features,)

    @property
    def out_features(self) -> int:
        return sum((k + 1) * width for k, width in zip(self._lags, self._widths, strict=True))

    def init(self, key: Array, in_features: int) -> tuple[()]:
        check_in_features(in_features)
        if in_features != sum(self._widths):
            raise ValueError(f"{self} needs in_features={sum(self._widths)}, got {in_features}")
        return ()

    def initial_carry(self, params: tuple[()], batch_shape: Shape = (), *, key: Array | None = None) -> Past:
        pairs = zip(self._lags, self._widths, strict=True)
        return tuple(tuple(zero_state(params, batch_shape, n) for _ in range(k)) for k, n in pairs)

    def step(self, params: tuple[()], carry: Past, x: Any) -> tuple[Past, Array]:
        ends = [sum(self._widths[: i + 1]) for i in range(len(self._widths) - 1)]
        slices = jnp.split(x, ends, axis=-1)
        pairs = zip(slices, carry, strict=True)
        seen = [aligned(now, *(p.astype(x.dtype) for p in past)) for now, past in pairs]
        kept = zip(seen, carry, strict=True)  # the carry's dtype may differ from that of x
        moved = tuple(tuple(s.astype(c.dtype) for s, c in zip(s, c, strict=False)) for s, c in kept)
        return moved, joined(*[part for parts in seen for part in parts])
