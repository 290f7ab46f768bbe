"""Linear recurrences: gates that see only the input."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._fields import Width, checked
from jrnn.cell import broadcasting, zero_carry, zero_complex_carry
from jrnn.cells._gating import sigmoid, split, zeros
from jrnn.initializers import default_float, glorot


class InputParams(NamedTuple):
    """Parameters of gates that see only the input; the cell's docstring gives the order."""

    w_ih: Array  # (in, gates · hidden)
    b: Array  # (gates · hidden,)


def draw_input(key: Array, in_features: int, hidden: int, count: int) -> InputParams:
    """Initialize `count` gates: Glorot weights for each, zero bias."""
    return InputParams(glorot(key, (in_features, count * hidden), blocks=count), zeros(count * hidden))


@checked
@dataclass(frozen=True)
class MinGRU:
    """Minimal GRU: neither gate nor candidate sees the state.

        zₜ = σ(xₜ w_z + b_z)
        nₜ = xₜ w_n + b_n
        hₜ = (1 − zₜ) · hₜ₋₁ + zₜ · nₜ,   yₜ = hₜ

    Gate order: z n. The paper's other form, in log space, makes the candidate positive, which is a different
    model, and loses precision on long sequences.

    Reference: Feng, Tung, Ahmed, Bengio, Hajimirsadeghi, Were RNNs all we needed?, 2024, arXiv:2410.01201.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.MinGRU(8)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> jrnn.unroll(cell, params, jnp.ones((1000, 3)), method=jrnn.Associative())[1].shape
    (1000, 8)
    """

    hidden: Width
    linear: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> InputParams:
        return draw_input(key, in_features, self.hidden, 2)

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: InputParams, carry: Array, x: Any) -> tuple[Array, Array]:
        z, n = split(x @ params.w_ih + params.b, 2)
        z, n = sigmoid(z, "z"), checkpoint_name(n, "n")
        h = (1 - z) * carry + z * n
        return h, h


@checked
@dataclass(frozen=True)
class MinLSTM:
    """Minimal LSTM: forget and input gate see only the input, and are normalized to sum to one.

        fₜ = σ(xₜ w_f + b_f),   iₜ = σ(xₜ w_i + b_i)
        nₜ = xₜ w_n + b_n
        hₜ = (fₜ · hₜ₋₁ + iₜ · nₜ) / (fₜ + iₜ),   yₜ = hₜ

    Gate order: f i n. fₜ / (fₜ + iₜ) is computed as σ(log fₜ − log iₜ), finite even if both gates are closed;
    this value is named f.

    Reference: Feng, Tung, Ahmed, Bengio, Hajimirsadeghi, Were RNNs all we needed?, 2024, arXiv:2410.01201.

    >>> import jrnn
    >>> jrnn.MinLSTM(8).out_features
    8
    """

    hidden: Width
    linear: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> InputParams:
        return draw_input(key, in_features, self.hidden, 3)

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: InputParams, carry: Array, x: Any) -> tuple[Array, Array]:
        f, i, n = split(x @ params.w_ih + params.b, 3)
        f = sigmoid(jax.nn.log_sigmoid(f) - jax.nn.log_sigmoid(i), "f")
        h = f * carry + (1 - f) * checkpoint_name(n, "n")
        return h, h


class HGRNParams(NamedTuple):
    """Parameters of `HGRN`; order: p q f o, of which o is twice as wide."""

    w_ih: Array  # (in, 5·hidden)
    b: Array  # (5·hidden,)
    theta: Array  # (hidden,), angle of the rotation
    low: Array  # (hidden,), the least that is kept, before the sigmoid


@checked
@dataclass(frozen=True)
class HGRN:
    """Hierarchically gated network: forget gates with a lower bound, and a complex state that rotates.

        nₜ = silu(xₜ w_p + b_p) + i · silu(xₜ w_q + b_q)
        fₜ = γ + (1 − γ) · σ(xₜ w_f + b_f),   γ = σ(low)
        hₜ = fₜ · exp(iθ) · hₜ₋₁ + (1 − fₜ) · nₜ
        yₜ = oₜ · [Re hₜ, Im hₜ],   oₜ = σ(xₜ w_o + b_o)

    In the paper γ rises from layer to layer, as a cumulative softmax over the layers; here each cell learns
    its own, from `lower_bound`. The norm and the projection of y are left out. θ starts at
    10000^(−2j/hidden).

    Args:
      hidden: number of complex units; y is twice as wide.
      lower_bound: γ at the start, in (0, 1).

    Raises:
      ValueError: a lower bound outside (0, 1).

    Reference: Qin, Yang, Zhong, Hierarchically gated recurrent neural network for sequence modeling, 2023,
    arXiv:2311.04823.

    >>> import jrnn
    >>> deep = jrnn.Stack((jrnn.HGRN(8, lower_bound=0.1), jrnn.HGRN(8, lower_bound=0.5)))
    >>> deep.out_features
    16
    """

    hidden: Width
    _: KW_ONLY
    lower_bound: float = 0.1
    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.lower_bound < 1:
            raise ValueError(f"HGRN: lower_bound must be in (0, 1), got {self.lower_bound}")

    @property
    def out_features(self) -> int:
        return 2 * self.hidden

    def init(self, key: Array, in_features: int) -> HGRNParams:
        bound = math.log(self.lower_bound / (1 - self.lower_bound))
        return HGRNParams(
            *draw_input(key, in_features, self.hidden, 5),
            theta=10000.0 ** (jnp.arange(self.hidden, dtype=default_float()) * (-2 / self.hidden)),
            low=zeros(self.hidden) + bound,
        )

    initial_carry = zero_complex_carry

    @broadcasting
    def step(self, params: HGRNParams, carry: Array, x: Any) -> tuple[Array, Array]:
        p, q, f, *o = split(x @ params.w_ih + params.b, 5)
        wide, low = carry.real.dtype, jax.nn.sigmoid(params.low)
        f = checkpoint_name(low + (1 - low) * jax.nn.sigmoid(f), "f")
        kept = [f * turn for turn in (jnp.cos(params.theta), jnp.sin(params.theta))]
        new = [(1 - f) * jax.nn.silu(part) for part in (p, q)]
        a, n = (jax.lax.complex(*(part.astype(wide) for part in parts)) for parts in (kept, new))
        h = a * carry + n
        y = sigmoid(jnp.concatenate(o, -1), "o") * jnp.concatenate([h.real, h.imag], -1).astype(x.dtype)
        return h, y
