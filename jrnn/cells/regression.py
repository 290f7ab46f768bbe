"""Memories that are matrices: fitted at every step to the keys and values so far."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jrnn._checks import check_multiple
from jrnn._fields import Positive, Width, checked
from jrnn.cell import Shape, broadcasting
from jrnn.cells._gating import before_softplus, sigmoid, split, widened, zeros
from jrnn.cells._memory import in_heads, joined, look_up, outer, unit, zero_memory
from jrnn.cells.minimal import InputParams, draw_input
from jrnn.cells.normalized import normalize

LEAST = 0.25  # of the ridge Λ, so that there is always a solution


class MesaNetParams(NamedTuple):
    """Parameters of `MesaNet`."""

    qkv: InputParams  # (in, 3·hidden), side by side
    gates: InputParams  # (in, 2·heads), in the order β γ
    ridge: Array  # (heads, d), λ̃


class MesaNetCarry(NamedTuple):
    """State of `MesaNet`."""

    s: Array  # (..., heads, d, d), keys by values, d = hidden / heads
    h: Array  # (..., heads, d, d), keys by keys


@checked
@dataclass(frozen=True)
class MesaNet:
    """Memory that is read through the least squares of all keys and values so far (mesa layer).

        q̃, k̃, v = xₜ w + b per head,   q and k = silu(q̃) and silu(k̃) of length 1
        β, γ = σ(xₜ w_g + b_g), one number per head;   Λ = diag(softplus(λ̃) + 0.25)
        Hₜ = γ Hₜ₋₁ + β k kᵀ,   Sₜ = γ Sₜ₋₁ + β k vᵀ
        yₜ = Sₜᵀ (Hₜ + Λ)⁻¹ q

    Sᵀ (H + Λ)⁻¹ is the matrix that minimizes Σ γ… β |W k − v|² + tr W Λ Wᵀ. The paper solves by 30 steps of
    conjugate gradients, here it is exact. `Chunked` takes S, and runs H step by step. `Block` adds the
    convolution and the norm of the paper's block.

    Reference: von Oswald et al., MesaNet: sequence modeling by locally optimal test-time training, 2025,
    arXiv:2506.05233.

    >>> import jrnn
    >>> jrnn.MesaNet(8, heads=2).out_features
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

    def init(self, key: Array, in_features: int) -> MesaNetParams:
        k_qkv, k_gates = jax.random.split(key)
        return MesaNetParams(
            qkv=draw_input(k_qkv, in_features, self.hidden, 3),
            gates=draw_input(k_gates, in_features, self.heads, 2),
            ridge=before_softplus(zeros(self.heads, self.hidden // self.heads) + 1 - LEAST),  # Λ = 1
        )

    def initial_carry(
        self, params: MesaNetParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> MesaNetCarry:
        return MesaNetCarry(*(zero_memory(self, params, batch_shape) for _ in "sh"))

    @broadcasting
    def step(self, params: MesaNetParams, carry: MesaNetCarry, x: Any) -> tuple[MesaNetCarry, Array]:
        q, k, v = in_heads(x @ params.qkv.w_ih + params.qkv.b, 3, self.heads)
        q, k = unit(jax.nn.silu(q)), unit(jax.nn.silu(k))
        beta, gamma = split(x @ params.gates.w_ih + params.gates.b, 2)
        beta, gamma = sigmoid(beta, "beta")[..., None], sigmoid(gamma, "gamma")[..., None, None]
        s, h = gamma * carry.s + outer(beta * k, v), gamma * carry.h + outer(beta * k, k)
        ridge = (jax.nn.softplus(params.ridge) + LEAST)[..., None] * jnp.eye(k.shape[-1], dtype=h.dtype)
        weights = _solve(widened(h + ridge), widened(q)).astype(q.dtype)
        return MesaNetCarry(s, h), joined(look_up(s, weights))


@jax.custom_jvp
def _solve(a: Array, b: Array) -> Array:
    """A⁻¹ b for positive definite matrices A, (..., n, n), and vectors b, (..., n).

    By elimination in products of matrices: solvers of LAPACK that run side by side, as in the backward pass
    of a chunk, can wait for one another for ever on a CPU.
    """
    return (_inverse(a) @ b[..., None])[..., 0]


@_solve.defjvp
def _solve_jvp(primals: Any, tangents: Any) -> Any:
    (a, b), (da, db) = primals, tangents
    inverse = _inverse(a)
    x = inverse @ b[..., None]
    return x[..., 0], (inverse @ (db[..., None] - da @ x))[..., 0]


@jax.custom_jvp
def _inverse(a: Array) -> Array:
    """A⁻¹ by Gauss-Jordan elimination in place, of as many rows at a time as there are such blocks."""
    size = a.shape[-1]
    rows = math.isqrt(size - 1) + 1 if size > 4 else 1
    short = -size % rows
    a = jnp.pad(a, [(0, 0)] * (a.ndim - 2) + [(0, short)] * 2)
    added = jnp.diag(jnp.asarray([0] * size + [1] * short, a.dtype))  # what is added is its own inverse
    return _eliminated(a + jnp.broadcast_to(added, a.shape), rows)[..., :size, :size]


@_inverse.defjvp
def _inverse_jvp(primals: Any, tangents: Any) -> Any:
    x = _inverse(*primals)
    return x, -x @ tangents[0] @ x


def _eliminated(a: Array, rows: int) -> Array:
    def eliminate(i: Array, a: Array) -> Array:
        #  P  R    becomes    P⁻¹    P⁻¹ R          where P is block i of the diagonal, R and C are
        #  C  D              −C P⁻¹  D − C P⁻¹ R    the rest of its rows and columns, D all others
        above = lax.dynamic_slice_in_dim(a, i * rows, rows, -2)
        left = lax.dynamic_slice_in_dim(a, i * rows, rows, -1)
        block = lax.dynamic_slice_in_dim(above, i * rows, rows, -1)
        pivot = 1 / block if rows == 1 else _eliminated(block, 1)
        above = pivot @ above
        a = a - left @ above
        a = lax.dynamic_update_slice_in_dim(a, above, i * rows, -2)
        left = lax.dynamic_update_slice_in_dim(-left @ pivot, pivot, i * rows, -2)
        return lax.dynamic_update_slice_in_dim(a, left, i * rows, -1)

    return lax.fori_loop(0, a.shape[-1] // rows, eliminate, a)


class TTTLinearParams(NamedTuple):
    """Parameters of `TTTLinear`."""

    qkv: InputParams  # (in, 3·hidden), side by side
    rate: InputParams  # (in, heads), η̃
    w: Array  # (heads, d, d), W₀
    b: Array  # (heads, d), c₀
    gain: Array  # (heads, d), γ
    shift: Array  # (heads, d), β


class TTTLinearCarry(NamedTuple):
    """State of `TTTLinear`: what has been learned since the start."""

    w: Array  # (..., heads, d, d), Wₜ − W₀, keys by values, d = hidden / heads
    b: Array  # (..., heads, d), cₜ − c₀


@checked
@dataclass(frozen=True)
class TTTLinear:
    """Linear model that is trained while it runs, on keys and values (test-time training, TTT-Linear).

        q, k, v = xₜ w + b per head;   η = rate · σ(xₜ w_η + b_η) / d, one number per head
        f(z) = γ · LN(z) + β,   LN over each head
        g = ∂/∂z ½ |f(z) − (v − k)|²  at  z = Wₜ₋₁ᵀ k + cₜ₋₁
        Wₜ = Wₜ₋₁ − η k gᵀ,   cₜ = cₜ₋₁ − η g
        yₜ = q + f(Wₜᵀ q + cₜ)

    W₀ and c₀ are learned as all parameters are. A step of gradient descent at every token, where the paper
    takes one for 16 of them; the rotation of q and k by their position is left out. fla has Wᵀ q + c in place
    of the q in front. Because of LN, `Chunked` does not take it. `Block` adds the norm of the paper's block.

    Args:
      rate: step size of a gate that is open.

    Reference: Sun et al., Learning to (learn at test time): RNNs with expressive hidden states, 2024,
    arXiv:2407.04620.

    >>> import jrnn
    >>> jrnn.TTTLinear(8, heads=2).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    heads: Width = 1
    rate: Positive = 1.0

    def __post_init__(self) -> None:
        check_multiple("hidden", self.hidden, "heads", self.heads)

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> TTTLinearParams:
        k_qkv, k_rate, k_w = jax.random.split(key, 3)
        shape = self.heads, self.hidden // self.heads
        return TTTLinearParams(
            qkv=draw_input(k_qkv, in_features, self.hidden, 3),
            rate=draw_input(k_rate, in_features, self.heads, 1),
            w=0.02 * jax.random.normal(k_w, (*shape, shape[1]), zeros().dtype),
            b=zeros(*shape),
            gain=zeros(*shape) + 1,
            shift=zeros(*shape),
        )

    def initial_carry(
        self, params: TTTLinearParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> TTTLinearCarry:
        w = zero_memory(self, params, batch_shape)
        return TTTLinearCarry(w, w[..., 0])

    @broadcasting
    def step(self, params: TTTLinearParams, carry: TTTLinearCarry, x: Any) -> tuple[TTTLinearCarry, Array]:
        def f(z: Array) -> Array:
            return params.gain * normalize(z, 1e-6) + params.shift

        q, k, v = in_heads(x @ params.qkv.w_ih + params.qkv.b, 3, self.heads)
        eta = sigmoid(x @ params.rate.w_ih + params.rate.b, "eta")[..., None] * (self.rate / k.shape[-1])
        guess, pull = jax.vjp(f, look_up(params.w + carry.w, k) + params.b + carry.b)
        (g,) = pull(guess - (v - k))
        carry = TTTLinearCarry(carry.w - outer(k, eta * g), carry.b - eta * g)
        return carry, joined(q + f(look_up(params.w + carry.w, q) + params.b + carry.b))
