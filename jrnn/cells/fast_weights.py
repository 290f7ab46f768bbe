"""Memories that are matrices: matrices that change in a way that is not linear."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._checks import check_multiple
from jrnn._fields import Positive, Rate, Width, checked
from jrnn.cell import Shape, broadcasting, zero_state
from jrnn.cells._activations import Activation, activation
from jrnn.cells._gating import zeros
from jrnn.cells._memory import (
    draw_rates,
    in_heads,
    joined,
    kept,
    look_up,
    outer,
    zero_memory,
)
from jrnn.cells.minimal import InputParams, draw_input
from jrnn.cells.normalized import normalize
from jrnn.initializers import glorot, identity, orthogonal


class FastWeightsParams(NamedTuple):
    """Parameters of `FastWeights`: the slow weights."""

    w_ih: Array  # (in, hidden)
    w_hh: Array  # (hidden, hidden)
    b: Array  # (hidden,)
    gain: Array  # (hidden,), γ
    shift: Array  # (hidden,), β


class FastWeightsCarry(NamedTuple):
    """State of `FastWeights`."""

    h: Array  # (..., hidden), also the output
    a: Array  # (..., hidden, hidden), the fast weights


@checked
@dataclass(frozen=True)
class FastWeights:
    """Recurrent network that attends to its recent past, by weights that change at every step.

        Aₜ = decay Aₜ₋₁ + rate hₜ₋₁ hₜ₋₁ᵀ
        z = xₜ w_ih + hₜ₋₁ w_hh + b,   s⁰ = f(z),   sⁱ = f(γ · LN(z + Aₜ sⁱ⁻¹) + β)
        hₜ = sⁿ,   yₜ = hₜ

    A s is the sum of all past states, each in the proportion of its product with s, the older the less. w_hh
    starts as 0.05 I, as in the paper. A depends on what is read of it, so `Chunked` does not take it; of fast
    weights that are programmed by the input alone it takes `LinearAttention` and `DeltaNet`.

    Args:
      loops: n, how often s settles within a step.
      decay: of A, in [0, 1).
      rate: of what is added to it.
      activation: f.

    Reference: Ba, Hinton, Mnih, Leibo, Ionescu, Using fast weights to attend to the recent past, 2016,
    arXiv:1610.06258.

    >>> import jax, jrnn
    >>> cell = jrnn.FastWeights(8)
    >>> cell.initial_carry(cell.init(jax.random.key(0), in_features=3), (5,)).a.shape
    (5, 8, 8)
    """

    hidden: Width
    _: KW_ONLY
    loops: Width = 1
    decay: Rate = 0.95
    rate: Positive = 0.5
    activation: Activation = "relu"

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> FastWeightsParams:
        return FastWeightsParams(
            w_ih=glorot(key, (in_features, self.hidden)),
            w_hh=identity(key, (self.hidden, self.hidden), scale=0.05),
            b=zeros(self.hidden),
            gain=zeros(self.hidden) + 1,
            shift=zeros(self.hidden),
        )

    def initial_carry(
        self, params: FastWeightsParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> FastWeightsCarry:
        a = zero_state(params, (*batch_shape, self.hidden), self.hidden)
        return FastWeightsCarry(a[..., 0], a)

    @broadcasting
    def step(
        self, params: FastWeightsParams, carry: FastWeightsCarry, x: Any
    ) -> tuple[FastWeightsCarry, Array]:
        f = activation(self.activation)
        a = self.decay * carry.a + self.rate * outer(carry.h, carry.h)
        z = x @ params.w_ih + carry.h @ params.w_hh + params.b
        s = f(z)
        for _ in range(self.loops):
            s = f(params.gain * normalize(z + (a @ s[..., None])[..., 0], 1e-6) + params.shift)
        return FastWeightsCarry(s, a), s


class M2RNNParams(NamedTuple):
    """Parameters of `M2RNN`."""

    qkv: InputParams  # (in, 3·hidden), side by side
    forget: InputParams  # (in, heads), f̃
    a_log: Array  # (heads,), the logarithm of the rate of forgetting
    w_hh: Array  # (heads, d, d), values by values, d = hidden / heads
    skip: Array  # (heads, d), r: how much of v reaches y past the memory


@checked
@dataclass(frozen=True)
class M2RNN:
    """Recurrent network whose state is a matrix (matrix-to-matrix RNN).

        q, k, v = silu(xₜ w + b) per head
        f = exp(−exp(a_log) · softplus(xₜ w_f + b_f)), one number per head
        Sₜ = f Sₜ₋₁ + (1 − f) tanh(Sₜ₋₁ w_hh + k vᵀ)
        yₜ = Sₜᵀ q + r · v

    w_hh acts on the values, alike for all keys; it starts orthogonal. Not linear in S, so `Chunked` does not
    take it. All heads have a q, k and v of their own; `Block` adds the convolution, the norm and the gate of
    the paper's block.

    Reference: Mishra, Tan, Stoica, Gonzalez, Dao, M²RNN: non-linear RNNs with matrix-valued states for
    scalable language modeling, 2026, arXiv:2603.14360.

    >>> import jrnn
    >>> jrnn.M2RNN(8, heads=2).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    heads: Width = 1

    def __post_init__(self) -> None:
        check_multiple("hidden", self.hidden, "heads", self.heads)

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> M2RNNParams:
        k_qkv, k_forget, k_a, k_hh = jax.random.split(key, 4)
        size = self.hidden // self.heads
        w_hh = orthogonal(k_hh, (size, self.heads * size)).reshape(size, self.heads, size)
        return M2RNNParams(
            qkv=draw_input(k_qkv, in_features, self.hidden, 3),
            forget=draw_input(k_forget, in_features, self.heads, 1),
            a_log=draw_rates(k_a, self.heads),
            w_hh=w_hh.swapaxes(0, 1),
            skip=jnp.ones_like(w_hh, shape=(self.heads, size)),
        )

    initial_carry = zero_memory

    @broadcasting
    def step(self, params: M2RNNParams, carry: Array, x: Any) -> tuple[Array, Array]:
        q, k, v = in_heads(jax.nn.silu(x @ params.qkv.w_ih + params.qkv.b), 3, self.heads)
        f = kept(params.a_log, x @ params.forget.w_ih + params.forget.b, "f")[..., None, None]
        s = f * carry + (1 - f) * jnp.tanh(carry @ params.w_hh + outer(k, v))
        return s, joined(look_up(s, q) + params.skip * v)
