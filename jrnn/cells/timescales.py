"""Cells with slow and fast units."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._alignment import select
from jrnn._checks import check_multiple
from jrnn._fields import Rate, Width, checked
from jrnn.cell import Shape, broadcasting, zero_state
from jrnn.cells._gating import sigmoid, tanh, zeros
from jrnn.initializers import glorot


class ClockworkParams(NamedTuple):
    """Parameters of `ClockworkRNN`."""

    w_ih: Array  # (in, hidden)
    w_hh: tuple[Array, ...]  # module i reads itself and the slower ones: (hidden − i · size, size)
    b: Array  # (hidden,)


class ClockworkCarry(NamedTuple):
    """State of `ClockworkRNN`."""

    h: Array  # (..., hidden), modules side by side, fast ones first
    t: Array  # (...), integer, steps taken since the start of the sequence


@checked
@dataclass(frozen=True)
class ClockworkRNN:
    """Clockwork RNN: modules of an Elman network that tick at periods of their own.

        h⁽ⁱ⁾ₜ = tanh(xₜ w⁽ⁱ⁾ + Σ_{j ≥ i} h⁽ʲ⁾ₜ₋₁ u⁽ⁱʲ⁾ + b⁽ⁱ⁾)   where t mod Tᵢ = 0, else h⁽ⁱ⁾ₜ₋₁
        yₜ = hₜ

    A module reads itself and the modules of longer period. All of them tick at t = 0, the first step of a
    sequence; t is part of the state, so that a sequence goes on where its carry left it.

    Args:
      hidden: width of h, shared equally by the modules.
      periods: Tᵢ, one per module, ascending, in steps.

    Raises:
      ValueError: a width that the modules cannot share, or periods that do not ascend.

    Reference: Koutník, Greff, Gomez, Schmidhuber, A clockwork RNN, 2014, arXiv:1402.3511.

    >>> import jax, jrnn
    >>> params = jrnn.ClockworkRNN(8, periods=(1, 4)).init(jax.random.key(0), in_features=3)
    >>> [w.shape for w in params.w_hh]
    [(8, 4), (4, 4)]
    """

    hidden: Width
    _: KW_ONLY
    periods: tuple[Width, ...] = (1, 2, 4, 8)

    def __post_init__(self) -> None:
        if not self.periods or sorted(set(self.periods)) != list(self.periods):
            raise ValueError(f"periods must ascend, got {self.periods}")
        check_multiple("hidden", self.hidden, "the number of periods", len(self.periods))

    @property
    def out_features(self) -> int:
        return self.hidden

    @property
    def _size(self) -> int:
        return self.hidden // len(self.periods)

    def init(self, key: Array, in_features: int) -> ClockworkParams:
        k_ih, *keys = jax.random.split(key, 1 + len(self.periods))
        rows = range(self.hidden, 0, -self._size)
        return ClockworkParams(
            w_ih=glorot(k_ih, (in_features, self.hidden)),
            w_hh=tuple(glorot(k, (n, self._size)) for k, n in zip(keys, rows, strict=True)),
            b=zeros(self.hidden),
        )

    def initial_carry(
        self, params: ClockworkParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> ClockworkCarry:
        return ClockworkCarry(zero_state(params, batch_shape, self.hidden), jnp.zeros(batch_shape, jnp.int32))

    @broadcasting
    def step(self, params: ClockworkParams, carry: ClockworkCarry, x: Any) -> tuple[ClockworkCarry, Array]:
        h, t, size = carry.h, carry.t, self._size
        past = [h[..., i * size :] @ w for i, w in enumerate(params.w_hh)]
        n = tanh(x @ params.w_ih + jnp.concatenate(past, -1) + params.b, "n")
        periods = jnp.repeat(jnp.array(self.periods, t.dtype), size)
        h = select(t[..., None] % periods == 0, n, h)
        return ClockworkCarry(h, t + 1), h


class SCRNParams(NamedTuple):
    """Parameters of `SCRN`."""

    w_im: Array  # (in, context)
    w_mh: Array  # (context, hidden)
    w_ih: Array  # (in, hidden)
    w_hh: Array  # (hidden, hidden)


class SCRNCarry(NamedTuple):
    """State of `SCRN`."""

    h: Array  # (..., hidden)
    m: Array  # (..., context), the slow units


@checked
@dataclass(frozen=True)
class SCRN:
    """Structurally constrained network: an Elman network beside slowly changing context units.

        mₜ = (1 − α) · (xₜ w_im) + α · mₜ₋₁
        hₜ = σ(mₜ w_mh + xₜ w_ih + hₜ₋₁ w_hh)
        yₜ = [hₜ, mₜ]

    The paper's output softmax(hₜ u + mₜ v) is a `Dense` on top.

    Args:
      context: width of m; that of h if left out.
      alpha: α, how much of the context is kept, in [0, 1).

    Reference: Mikolov, Joulin, Chopra, Mathieu, Ranzato, Learning longer memory in recurrent neural networks,
    2014, arXiv:1412.7753.

    >>> import jrnn
    >>> jrnn.SCRN(100, context=40).out_features
    140
    """

    hidden: Width
    _: KW_ONLY
    context: Width | None = None
    alpha: Rate = 0.95

    @property
    def out_features(self) -> int:
        return self.hidden + self._context

    @property
    def _context(self) -> int:
        return self.hidden if self.context is None else self.context

    def init(self, key: Array, in_features: int) -> SCRNParams:
        keys = jax.random.split(key, 4)
        pairs = (
            (in_features, self._context),
            (self._context, self.hidden),
            (in_features, self.hidden),
            (self.hidden, self.hidden),
        )
        return SCRNParams(*(glorot(k, pair) for k, pair in zip(keys, pairs, strict=True)))

    def initial_carry(
        self, params: SCRNParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> SCRNCarry:
        return SCRNCarry(*(zero_state(params, batch_shape, n) for n in (self.hidden, self._context)))

    def step(self, params: SCRNParams, carry: SCRNCarry, x: Any) -> tuple[SCRNCarry, Array]:
        m = (1 - self.alpha) * (x @ params.w_im) + self.alpha * carry.m
        h = sigmoid(m @ params.w_mh + x @ params.w_ih + carry.h @ params.w_hh, "h")
        return SCRNCarry(h, m), jnp.concatenate([h, m], -1)
