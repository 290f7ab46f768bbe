"""Gated recurrent units: a GRU or LSTM with one gate."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._fields import Rate, Share, Width, checked
from jrnn.cell import broadcasting, zero_carry
from jrnn.cells._gating import GateParams, draw_gates, gates, sigmoid, split, tanh, zeros
from jrnn.initializers import glorot, orthogonal


@checked
@dataclass(frozen=True)
class MGU:
    """Minimal gated unit: a GRU whose one gate both resets and updates.

        fₜ = σ(xₜ w_f + hₜ₋₁ u_f + b_f)
        nₜ = tanh(xₜ w_n + (fₜ · hₜ₋₁) u_n + b_n)
        hₜ = (1 − fₜ) · hₜ₋₁ + fₜ · nₜ,   yₜ = hₜ

    Gate order: f n. Flax's `MGUCell` is a different cell: a `GRU` whose r and z are one gate, or, without its
    reset gate, a `UGRNN`.

    Args:
      gate: what f reads: "xhb", or "hb", "h" or "b" alone (MGU1, MGU2, MGU3 of the second paper). The first
        part of `w_ih`, `w_hh` or `b` is left out with what f does not read.

    Reference: Zhou, Wu, Zhang, Zhou, Minimal gated unit for recurrent neural networks, 2016,
    arXiv:1603.09420; `gate`: Heck, Salem, Simplified minimal gated unit variations for recurrent neural
    networks, 2017, arXiv:1701.03452.

    >>> import jax, jrnn
    >>> jrnn.MGU(4).init(jax.random.key(0), in_features=3).w_ih.shape
    (3, 8)
    """

    hidden: Width
    _: KW_ONLY
    gate: Literal["xhb", "hb", "h", "b"] = "xhb"

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> GateParams:
        w_ih, w_hh, b = draw_gates(key, in_features, self.hidden, biases=(0, 0))
        kept = ((w_ih, "x"), (w_hh, "h"), (b, "b"))
        return GateParams(*(w if name in self.gate else w[..., self.hidden :] for w, name in kept))

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: GateParams, carry: Array, x: Any) -> tuple[Array, Array]:
        h, (u_f, u_n) = carry, self._parts(params.w_hh, "h")
        (a_f, a_n), (b_f, b_n) = self._parts(x @ params.w_ih, "x"), self._parts(params.b, "b")
        f = sigmoid(a_f + (h @ u_f if "h" in self.gate else 0.0) + b_f, "f")
        n = tanh(a_n + (f * h) @ u_n + b_n, "n")
        h = (1 - f) * h + f * n
        return h, h

    def _parts(self, packed: Array, name: str) -> tuple[Any, Array]:
        """The parts of gate and candidate; 0 for a gate that does not read it."""
        first, *rest = split(packed, 2) if name in self.gate else (0.0, packed)
        return first, rest[0]


@checked
@dataclass(frozen=True)
class UGRNN:
    """Update gate RNN: an Elman network with one gate between old state and candidate.

        gₜ = σ(xₜ w_g + hₜ₋₁ u_g + b_g)
        nₜ = tanh(xₜ w_n + hₜ₋₁ u_n + b_n)
        hₜ = gₜ · hₜ₋₁ + (1 − gₜ) · nₜ,   yₜ = hₜ

    Gate order: g n. The paper adds 1 to b_g; here it starts at `gate_bias`.

    Args:
      gate_bias: start of b_g.

    Reference: Collins, Sohl-Dickstein, Sussillo, Capacity and trainability in recurrent neural networks,
    2017, arXiv:1611.09913.

    >>> import jax, jrnn
    >>> jrnn.UGRNN(2).init(jax.random.key(0), in_features=3).b
    Array([1., 1., 0., 0.], dtype=float32)
    """

    hidden: Width
    _: KW_ONLY
    gate_bias: float = 1.0

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> GateParams:
        return draw_gates(key, in_features, self.hidden, biases=(self.gate_bias, 0))

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: GateParams, carry: Array, x: Any) -> tuple[Array, Array]:
        g, n = gates(x @ params.w_ih + carry @ params.w_hh + params.b, "gn", candidate="n")
        h = g * carry + (1 - g) * n
        return h, h


@checked
@dataclass(frozen=True)
class JANET:
    """Just another network: an LSTM with only a forget gate.

        sₜ = xₜ w_s + hₜ₋₁ u_s + b_s
        nₜ = tanh(xₜ w_n + hₜ₋₁ u_n + b_n)
        hₜ = σ(sₜ) · hₜ₋₁ + (1 − σ(sₜ − β)) · nₜ,   yₜ = hₜ

    Gate order: s n. The forget gate σ(sₜ) is named f. With β = 0 it is a UGRNN.

    Args:
      beta: β, how much more is written than forgotten.
      forget_bias: start of b_s.

    Reference: van der Westhuizen, Lasenby, The unreasonable effectiveness of the forget gate, 2018,
    arXiv:1804.04849.

    >>> import jrnn
    >>> jrnn.JANET(8)
    JANET(hidden=8)
    """

    hidden: Width
    _: KW_ONLY
    beta: float = 1.0
    forget_bias: float = 1.0

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> GateParams:
        return draw_gates(key, in_features, self.hidden, biases=(self.forget_bias, 0))

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: GateParams, carry: Array, x: Any) -> tuple[Array, Array]:
        s, n = split(x @ params.w_ih + carry @ params.w_hh + params.b, 2)
        f, n = sigmoid(s, "f"), tanh(n, "n")
        h = f * carry + (1 - jax.nn.sigmoid(s - self.beta)) * n
        return h, h


@checked
@dataclass(frozen=True)
class LiGRU:
    """Light GRU: no reset gate, and relu in place of tanh.

        zₜ = σ(xₜ w_z + hₜ₋₁ u_z + b_z)
        nₜ = relu(xₜ w_n + hₜ₋₁ u_n + b_n)
        hₜ = zₜ · hₜ₋₁ + (1 − zₜ) · nₜ,   yₜ = hₜ

    Gate order: z n. The paper has batch normalization of xₜ w, replaced here by a bias.

    Reference: Ravanelli, Brakel, Omologo, Bengio, Light gated recurrent units for speech recognition,
    2018, arXiv:1803.10225.

    >>> import jrnn
    >>> jrnn.LiGRU(8).out_features
    8
    """

    hidden: Width

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> GateParams:
        return draw_gates(key, in_features, self.hidden, biases=(0, 0))

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: GateParams, carry: Array, x: Any) -> tuple[Array, Array]:
        z, n = split(x @ params.w_ih + carry @ params.w_hh + params.b, 2)
        z, n = sigmoid(z, "z"), checkpoint_name(jax.nn.relu(n), "n")
        h = z * carry + (1 - z) * n
        return h, h


class LightRUParams(NamedTuple):
    """Parameters of `LightRU`; order of `w_ih`: n f."""

    w_ih: Array  # (in, 2·hidden)
    w_hh: Array  # (hidden, hidden), of f
    b: Array  # (hidden,), of f


@checked
@dataclass(frozen=True)
class LightRU:
    """Light recurrent unit: the candidate sees only the input, the gate also the state.

        nₜ = tanh(xₜ w_n)
        fₜ = σ(xₜ w_f + hₜ₋₁ w_hh + b)
        hₜ = (1 − fₜ) · hₜ₋₁ + fₜ · nₜ,   yₜ = hₜ

    Reference: Ye et al., Light recurrent unit: towards an interpretable recurrent neural network for
    modeling long-range dependency, 2024, doi:10.3390/electronics13163204.

    >>> import jrnn
    >>> jrnn.LightRU(8).out_features
    8
    """

    hidden: Width

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> LightRUParams:
        k_ih, k_hh = jax.random.split(key)
        return LightRUParams(
            w_ih=glorot(k_ih, (in_features, 2 * self.hidden), blocks=2),
            w_hh=orthogonal(k_hh, (self.hidden, self.hidden)),
            b=zeros(self.hidden),
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: LightRUParams, carry: Array, x: Any) -> tuple[Array, Array]:
        a_n, a_f = split(x @ params.w_ih, 2)
        n = tanh(a_n, "n")
        f = sigmoid(a_f + carry @ params.w_hh + params.b, "f")
        h = (1 - f) * carry + f * n
        return h, h


@checked
@dataclass(frozen=True)
class SGRN:
    """Simple gated recurrent network: gate and candidate share one product with the input.

        aₜ = xₜ w_ih
        fₜ = σ(aₜ + hₜ₋₁ w_hh + b)
        hₜ = tanh((1 − fₜ) · aₜ + fₜ · hₜ₋₁),   yₜ = hₜ

    Reference: Zu, Wei, A simple gated recurrent network for detection of power quality disturbances, 2021,
    doi:10.1049/gtd2.12056.

    >>> import jrnn
    >>> jrnn.SGRN(8).out_features
    8
    """

    hidden: Width

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> GateParams:
        return draw_gates(key, in_features, self.hidden, biases=(0,))

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: GateParams, carry: Array, x: Any) -> tuple[Array, Array]:
        a = x @ params.w_ih
        f = sigmoid(a + carry @ params.w_hh + params.b, "f")
        h = jnp.tanh((1 - f) * a + f * carry)
        return h, h


@checked
@dataclass(frozen=True)
class MiRU:
    """Minion recurrent unit: a GRU that keeps a constant share of its state.

        rₜ = σ(xₜ w_r + hₜ₋₁ u_r + b_r)
        nₜ = tanh(xₜ w_n + (rₜ · hₜ₋₁) u_n + b_n)
        hₜ = λ · hₜ₋₁ + (1 − λ) · nₜ,   yₜ = hₜ

    Gate order: r n. This is the paper's MiRU 1; with a number for `reset`, rₜ = θ has no parameters, as in
    its MiRU 2.

    Args:
      keep: λ, the share of the state that is kept.
      reset: θ, which replaces the gate r; None: the gate.

    Reference: Zyarah, Kudithipudi, Minion gated recurrent unit for continual learning, 2025,
    arXiv:2503.06175.

    >>> import jax, jrnn
    >>> cells = jrnn.MiRU(8), jrnn.MiRU(8, reset=0.5)
    >>> [cell.init(jax.random.key(0), in_features=3).w_ih.shape for cell in cells]
    [(3, 16), (3, 8)]
    """

    hidden: Width
    _: KW_ONLY
    keep: Rate = 0.5
    reset: Share | None = None

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> GateParams:
        return draw_gates(key, in_features, self.hidden, biases=(0, 0) if self.reset is None else (0,))

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: GateParams, carry: Array, x: Any) -> tuple[Array, Array]:
        h, a_n, u_n, r = carry, x @ params.w_ih + params.b, params.w_hh, cast(Any, self.reset)
        if self.reset is None:
            (a_r, a_n), (u_r, u_n) = split(a_n, 2), split(u_n, 2)
            r = sigmoid(a_r + h @ u_r, "r")
        n = tanh(a_n + (r * h) @ u_n, "n")
        h = self.keep * h + (1 - self.keep) * n
        return h, h
