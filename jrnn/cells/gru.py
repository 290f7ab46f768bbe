"""Gated recurrent units: the GRU, and one with delayed feedback."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._fields import Positive, Width, checked
from jrnn.cell import Shape, broadcasting, zero_carry, zero_state
from jrnn.cells._activations import Activation, activation
from jrnn.cells._gating import cut, gates, plus, sigmoid, split, tanh
from jrnn.initializers import default_float, glorot, orthogonal


class GRUParams(NamedTuple):
    """Parameters of `GRU`; gate order: r z n."""

    w_ih: Array  # (in, 3·hidden)
    w_hh: Array  # (hidden, 3·hidden)
    b: Any  # (3·hidden,); None without a bias
    b_hn: Any  # (hidden,), bias of hₜ₋₁ u_n; None without a bias or with reset_after=False


@checked
@dataclass(frozen=True)
class GRU:
    """Gated recurrent unit: one gate mixes state and candidate, another resets the state in the candidate.

        rₜ = σ(xₜ w_r + hₜ₋₁ u_r + b_r)
        zₜ = σ(xₜ w_z + hₜ₋₁ u_z + b_z)
        nₜ = f(xₜ w_n + b_n + rₜ · (hₜ₋₁ u_n + b_hn))        reset_after=True
        nₜ = f(xₜ w_n + b_n + (rₜ · hₜ₋₁) u_n)               reset_after=False
        hₜ = zₜ · hₜ₋₁ + (1 − zₜ) · nₜ                       z_keeps=True
        hₜ = (1 − zₜ) · hₜ₋₁ + zₜ · nₜ                       z_keeps=False
        yₜ = hₜ

    The reset comes after the product in arXiv:1406.1078v1, cuDNN, torch, Keras and flax; before it in
    version 3, Chung et al. 2014 and haiku. z keeps the old state in Cho, torch, Keras and flax; in Chung et
    al. and haiku it takes the new one: to convert, negate w_z, u_z and b_z. The gate order of `w_ih`, `w_hh`
    and `b` is r z n, as in torch (Keras: z r n). Where torch and Keras have two biases per gate, r and z have
    one, and `b_hn` is the recurrent bias of n.

    Args:
      reset_after: apply the reset gate after the recurrent product.
      z_keeps: z is the weight of the old state; False: of the candidate.
      activation: f, by name: "tanh", "relu", "gelu", "silu", ...
      gate_activation: the activation used as σ, by name.
      bias: add b and b_hn.
      clip: bound on the arguments of σ and f, as in ONNX.

    Reference: Cho et al., Learning phrase representations using RNN encoder-decoder for statistical
    machine translation, 2014, arXiv:1406.1078.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.GRU(3)
    >>> params = cell.init(jax.random.key(0), in_features=2)
    >>> h, ys = jrnn.unroll(cell, params, jnp.ones((5, 4, 2)))
    >>> bool(jnp.allclose(ys[-1], h))
    True
    """

    hidden: Width
    _: KW_ONLY
    reset_after: bool = True
    z_keeps: bool = True
    activation: Activation = "tanh"
    gate_activation: Activation = "sigmoid"
    bias: bool = True
    clip: Positive | None = None

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> GRUParams:
        k_ih, k_hh = jax.random.split(key)
        return GRUParams(
            w_ih=glorot(k_ih, (in_features, 3 * self.hidden), blocks=3),
            w_hh=orthogonal(k_hh, (self.hidden, 3 * self.hidden)),
            b=jnp.zeros(3 * self.hidden, default_float()) if self.bias else None,
            b_hn=jnp.zeros(self.hidden, default_float()) if self.reset_after and self.bias else None,
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: GRUParams, carry: Array, x: Any) -> tuple[Array, Array]:
        h, two = carry, 2 * self.hidden
        a_r, a_z, a_n = split(plus(x @ params.w_ih, params.b), 3)
        if self.reset_after:
            u_r, u_z, u_n = split(h @ params.w_hh, 3)
        else:
            u_r, u_z = split(h @ params.w_hh[:, :two], 2)
        (r,) = gates(cut(a_r + u_r, self.clip), "r", gate=self.gate_activation)
        (z,) = gates(cut(a_z + u_z, self.clip), "z", gate=self.gate_activation)
        u_n = r * plus(u_n, params.b_hn) if self.reset_after else (r * h) @ params.w_hh[:, two:]
        n = checkpoint_name(activation(self.activation)(cut(a_n + u_n, self.clip)), "n")
        h = z * h + (1 - z) * n if self.z_keeps else (1 - z) * h + z * n
        return h, h


class TauGRUParams(NamedTuple):
    """Parameters of `TauGRU`."""

    w_ih: Array  # (in, 4·hidden), order g a n d
    w_hh: Array  # (hidden, 3·hidden), order g a n
    b: Array  # (4·hidden,)
    w_lh: Array  # (hidden, hidden), from the delayed state to d


class TauGRUCarry(NamedTuple):
    """State of `TauGRU`."""

    h: Array  # (..., hidden), also the output
    past: Array  # (..., delay, hidden), previous states, oldest first


@checked
@dataclass(frozen=True)
class TauGRU:
    """GRU with delayed feedback: a second gate weighs the contribution of an earlier state.

        gₜ = σ(xₜ w_g + hₜ₋₁ u_g + b_g)
        aₜ = σ(xₜ w_a + hₜ₋₁ u_a + b_a)
        nₜ = tanh(xₜ w_n + hₜ₋₁ u_n + b_n)
        dₜ = tanh(xₜ w_d + lₜ w_lh + b_d),   lₜ = hₜ₋₁ of `delay` steps ago
        hₜ = (1 − gₜ) · hₜ₋₁ + gₜ · (nₜ + aₜ · dₜ),   yₜ = hₜ

    States before the first are zero. The paper's τ is `delay` steps of its differential equation.

    Args:
      delay: number of steps from l to hₜ₋₁.

    Reference: Erichson, Lim, Mahoney, Gated recurrent neural networks with weighted time-delay feedback,
    2022, arXiv:2212.00228.

    >>> import jax, jrnn
    >>> cell = jrnn.TauGRU(8, delay=5)
    >>> cell.initial_carry(cell.init(jax.random.key(0), in_features=3), (2,)).past.shape
    (2, 5, 8)
    """

    hidden: Width
    _: KW_ONLY
    delay: Width = 10

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> TauGRUParams:
        k_ih, k_hh, k_lh = jax.random.split(key, 3)
        return TauGRUParams(
            w_ih=glorot(k_ih, (in_features, 4 * self.hidden), blocks=4),
            w_hh=orthogonal(k_hh, (self.hidden, 3 * self.hidden)),
            b=jnp.zeros(4 * self.hidden, default_float()),
            w_lh=orthogonal(k_lh, (self.hidden, self.hidden)),
        )

    def initial_carry(
        self, params: TauGRUParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> TauGRUCarry:
        past = zero_state(params, (*batch_shape, self.delay), self.hidden)
        return TauGRUCarry(zero_state(params, batch_shape, self.hidden), past)

    @broadcasting
    def step(self, params: TauGRUParams, carry: TauGRUCarry, x: Any) -> tuple[TauGRUCarry, Array]:
        h, past = carry
        z = x @ params.w_ih + params.b
        z = z + jnp.concatenate([h @ params.w_hh, past[..., 0, :] @ params.w_lh], -1)
        g, a, n, d = split(z, 4)
        g, a, n, d = sigmoid(g, "g"), sigmoid(a, "a"), tanh(n, "n"), tanh(d, "d")
        past = jnp.concatenate([past[..., 1:, :], h[..., None, :]], -2)
        h = (1 - g) * h + g * (n + a * d)
        return TauGRUCarry(h, past), h
