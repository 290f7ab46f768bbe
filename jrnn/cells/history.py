"""Reservoirs and delay lines: memory of past inputs."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._alignment import aligned, joined
from jrnn._checks import check_given_width
from jrnn._fields import Lag, Width, checked
from jrnn.cell import Shape, broadcasting, zero_state
from jrnn.cells._activations import Activation, activation
from jrnn.cells._gating import zeros

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
        check_given_width(self, in_features, sum(self._widths))
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


class ShortConvParams(NamedTuple):
    """Parameters of `ShortConv`."""

    w: Array  # (k + 1, features), latest first
    b: Array  # (features,)


@checked
@dataclass(frozen=True)
class ShortConv:
    """Convolution of each feature with its own last values (causal, depthwise).

        yₜ = f(Σᵢ wᵢ · xₜ₋ᵢ + b),   i = 0 … k

    Inputs before the first step are zero. w starts as in torch's `Conv1d`, uniform up to ±1/√(k + 1).

    Args:
      features: width of x and y.
      k: number of steps to look back, 0 or more.
      activation: f.

    Raises:
      ValueError: a negative k; at `init`, an input of another width.

    Reference: Gu, Dao, Mamba: linear-time sequence modeling with selective state spaces, 2023,
    arXiv:2312.00752, figure 3.

    >>> import jrnn
    >>> jrnn.Stack((jrnn.ShortConv(3), jrnn.DeltaNet(8))).out_features
    8
    """

    features: Width
    _: KW_ONLY
    k: Lag = 3
    activation: Activation = "silu"
    linear: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.features

    def init(self, key: Array, in_features: int) -> ShortConvParams:
        check_given_width(self, in_features, self.features)
        b = zeros(self.features)
        w = jax.random.uniform(key, (self.k + 1, self.features), b.dtype, -1, 1)
        return ShortConvParams(w / math.sqrt(self.k + 1), b)

    def initial_carry(
        self, params: ShortConvParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> Past:
        return (tuple(zero_state(params, batch_shape, self.features) for _ in range(self.k)),)

    @broadcasting
    def step(self, params: ShortConvParams, carry: Past, x: Any) -> tuple[Past, Array]:
        carry, seen = Window(self.k, self.features).step((), carry, x)
        seen = seen.reshape(*x.shape[:-1], self.k + 1, self.features)
        return carry, activation(self.activation)(jnp.sum(params.w * seen, -2) + params.b)
