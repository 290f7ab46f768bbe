"""Long short-term memory: exponential gates, stabilized by a running maximum."""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._checks import check_multiple
from jrnn._fields import Width, checked, one_of
from jrnn.cell import Shape, broadcasting, zero_state
from jrnn.cells._gating import draw_blocks, repeated, sigmoid, split, tanh, times_blocks
from jrnn.cells.minimal import InputParams, draw_input
from jrnn.initializers import glorot

FORGET: dict[str, Callable[[Array], Array]] = {  # the logarithm of the forget gate
    "sigmoid": jax.nn.log_sigmoid,
    "exponential": lambda z: z,
}


class SLSTMParams(NamedTuple):
    """Parameters of `SLSTM`; gate order: i f z o."""

    w_ih: Array  # (in, 4·hidden)
    w_hh: Array  # (heads, hidden / heads, 4 · hidden / heads)
    b: Array  # (4·hidden,)


class SLSTMCarry(NamedTuple):
    """State of `SLSTM`; c and n are scaled by exp(−m)."""

    h: Array  # (..., hidden), also the output
    c: Array  # (..., hidden)
    n: Array  # (..., hidden), the normalizer
    m: Array  # (..., hidden), the running maximum


@checked
@dataclass(frozen=True)
class SLSTM:
    """LSTM with exponential gates and a normalizer (sLSTM).

        ĩₜ, f̃ₜ, z̃ₜ, õₜ = xₜ w_ih + hₜ₋₁ w_hh + b
        log fₜ = log σ(f̃ₜ),  or f̃ₜ with forget="exponential"
        mₜ = max(log fₜ + mₜ₋₁, ĩₜ)
        i = exp(ĩₜ − mₜ),   f = exp(log fₜ + mₜ₋₁ − mₜ)
        cₜ = f · cₜ₋₁ + i · tanh(z̃ₜ),   nₜ = f · nₜ₋₁ + i
        hₜ = σ(õₜ) · cₜ / nₜ,   yₜ = hₜ

    m starts so low that m = ĩ at the first step; c / n does not depend on it. w_hh is block-diagonal, one
    block per head.

    Args:
      hidden: width of h, c, n and m.
      heads: number of blocks of w_hh.
      forget: "sigmoid" or "exponential".
      forget_bias: start of b_f.

    Raises:
      ValueError: a width not divisible by heads.

    Reference: Beck et al., xLSTM: extended long short-term memory, 2024, arXiv:2405.04517.

    >>> import jrnn
    >>> jrnn.SLSTM(8, heads=2).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    heads: Width = 1
    forget: Annotated[str, one_of(FORGET)] = "sigmoid"
    forget_bias: float = 1.0

    def __post_init__(self) -> None:
        check_multiple("hidden", self.hidden, "heads", self.heads)

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> SLSTMParams:
        k_ih, k_hh = jax.random.split(key)
        return SLSTMParams(
            w_ih=glorot(k_ih, (in_features, 4 * self.hidden), blocks=4),
            w_hh=draw_blocks(k_hh, self.hidden, 4 * self.hidden, self.heads, gates=4),
            b=repeated((0, self.forget_bias, 0, 0), self.hidden),
        )

    def initial_carry(
        self, params: SLSTMParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> SLSTMCarry:
        h, c, n, m = (zero_state(params, batch_shape, self.hidden) for _ in range(4))
        return SLSTMCarry(h, c, n, lowest(m))

    @broadcasting
    def step(self, params: SLSTMParams, carry: SLSTMCarry, x: Any) -> tuple[SLSTMCarry, Array]:
        h, c, n, m = carry
        given, past = split(x @ params.w_ih + params.b, 4), times_blocks(h, params.w_hh, 4)
        z_i, z_f, z_z, z_o = (a + u for a, u in zip(given, past, strict=True))
        i, f, m = stabilized(z_i, FORGET[self.forget](z_f), m)
        c = f * c + i * tanh(z_z, "z")
        n = f * n + i
        h = sigmoid(z_o, "o") * (c / n)
        return SLSTMCarry(h, c, n, m), h


class MLSTMParams(NamedTuple):
    """Parameters of `MLSTM`."""

    qkvo: InputParams  # (in, 4·hidden), order q k v o
    gates: InputParams  # (in, 2·heads), order i f


class MLSTMCarry(NamedTuple):
    """State of `MLSTM`; c and n are scaled by exp(−m)."""

    c: Array  # (..., heads, d, d), values by keys, d = hidden / heads
    n: Array  # (..., heads, d), the normalizer
    m: Array  # (..., heads), the running maximum


@checked
@dataclass(frozen=True)
class MLSTM:
    """LSTM with a matrix memory, which stores values under keys (mLSTM).

        q, k, v, õ = xₜ w + b per head,   k scaled by 1/√d,   ĩₜ, f̃ₜ one number per head
        mₜ = max(log σ(f̃ₜ) + mₜ₋₁, ĩₜ)
        i = exp(ĩₜ − mₜ),   f = exp(log σ(f̃ₜ) + mₜ₋₁ − mₜ)
        Cₜ = f · Cₜ₋₁ + i · v kᵀ,   nₜ = f · nₜ₋₁ + i · k
        hₜ = σ(õₜ) · Cₜ q / max(|nₜ · q|, exp(−mₜ), 1e-6 exp(−min(mₜ, 0))),   yₜ = hₜ

    m starts so low that m = ĩ at the first step; h does not depend on it. Numerator and denominator are
    multiplied by exp(min(m, 0)), so that no exponential overflows; the paper has no third bound. The gradient
    saves C of every step, hidden² / heads numbers per row; `Chunked` saves fewer, and
    is faster.

    Args:
      hidden: width of y.
      heads: number of memories.
      forget_bias: start of the bias of f̃.

    Raises:
      ValueError: a width not divisible by heads.

    Reference: Beck et al., xLSTM: extended long short-term memory, 2024, arXiv:2405.04517.

    >>> import jax, jrnn
    >>> cell = jrnn.MLSTM(8, heads=2)
    >>> cell.initial_carry(cell.init(jax.random.key(0), in_features=3), (5,)).c.shape
    (5, 2, 4, 4)
    """

    hidden: Width
    _: KW_ONLY
    heads: Width = 1
    forget_bias: float = 3.0

    def __post_init__(self) -> None:
        check_multiple("hidden", self.hidden, "heads", self.heads)

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> MLSTMParams:
        k_qkvo, k_gates = jax.random.split(key)
        gates = draw_input(k_gates, in_features, self.heads, 2)
        return MLSTMParams(
            qkvo=draw_input(k_qkvo, in_features, self.hidden, 4),
            gates=gates._replace(b=repeated((0, self.forget_bias), self.heads)),
        )

    def initial_carry(
        self, params: MLSTMParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> MLSTMCarry:
        size = self.hidden // self.heads
        m = zero_state(params, batch_shape, self.heads)
        c = zero_state(params, (*batch_shape, self.heads, size), size)
        return MLSTMCarry(c, c[..., 0], lowest(m))

    @broadcasting
    def step(self, params: MLSTMParams, carry: MLSTMCarry, x: Any) -> tuple[MLSTMCarry, Array]:
        c, n, m = carry
        size = self.hidden // self.heads
        packed = split(x @ params.qkvo.w_ih + params.qkvo.b, 4)
        q, k, v, o = (part.reshape(*part.shape[:-1], self.heads, size) for part in packed)
        z_i, z_f = split(x @ params.gates.w_ih + params.gates.b, 2)
        i, f, m = stabilized(z_i, jax.nn.log_sigmoid(z_f), m)
        k = k / math.sqrt(size)
        c = f[..., None, None] * c + i[..., None, None] * (v[..., :, None] * k[..., None, :])
        n = f[..., None] * n + i[..., None] * k
        small = jnp.exp(jnp.minimum(m, 0))[..., None]
        seen = jnp.abs(jnp.sum(n * q, -1, keepdims=True)) * small
        floor = jnp.maximum(jnp.exp(-jnp.maximum(m, 0)), 1e-6)[..., None]
        read = jnp.sum(c * q[..., None, :], -1) * small / jnp.maximum(seen, floor)
        h = (sigmoid(o, "o") * read).reshape(*x.shape[:-1], self.hidden)
        return MLSTMCarry(c, n, m), h


def stabilized(z_i: Array, log_f: Array, m: Array) -> tuple[Array, Array, Array]:
    """Input gate, forget gate and running maximum: i = exp(z_i − m), f = exp(log f + m' − m)."""
    moved = log_f + m
    m = jnp.maximum(moved, z_i)
    return jnp.exp(z_i - m), jnp.exp(moved - m), m


def lowest(like: Array) -> Array:
    """Half the lowest number of a dtype, below every gate."""
    return jnp.nan_to_num(jnp.full_like(like, -jnp.inf)) / 2
