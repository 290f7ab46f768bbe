"""Linear recurrences: structured state spaces with diagonal matrices, S4D, S5 and S6."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._checks import check_equal_widths, check_in_features, check_multiple
from jrnn._fields import Positive, Width, checked
from jrnn._timing import values_and_time
from jrnn.cell import Shape, broadcasting, complex_state, zero_complex_carry, zero_state
from jrnn.cells._gating import before_softplus, split, zeros
from jrnn.cells.minimal import InputParams, draw_input
from jrnn.initializers import default_float, glorot


class S4DParams(NamedTuple):
    """Parameters of `S4D`; real parts before imaginary parts."""

    rate: Array  # (hidden, state), log of −Re λ
    frequency: Array  # (hidden, state), Im λ
    log_dt: Array  # (hidden,), δ
    w_ho: Array  # (hidden, 2·state), c
    d: Array  # (hidden,)


@checked
@dataclass(frozen=True)
class S4D:
    """Diagonal state space of every channel alone, sampled; x is values or `(values, dt)`.

        λ = −exp(rate) + i · frequency,   a = exp(λ · Δ),   Δ = exp(δ) · dt,   for every channel and state
        hₜ = a · hₜ₋₁ + (a − 1) / λ · xₜ
        yₜ = 2 Re(Σ c · hₜ) + d · xₜ,   the sum over the states of a channel

    The state is complex, and stands for twice as many units in conjugate pairs. Channels are not mixed: x
    must be as wide as y, put a `Dense` before it and one with an activation behind it. The vector B of the
    paper is 1, since only its product with c matters. λ starts at −½ + i π n for n = 0, 1, … (S4D-Lin),
    exp(δ) between `dt_min` and `dt_max`, with a uniform logarithm.

    Args:
      hidden: number of channels, width of x and y.
      state: number of complex states of a channel.
      dt_min: smallest Δ at the start.
      dt_max: largest Δ at the start.

    Raises:
      ValueError: an input of a different width, or dt_min ≥ dt_max.

    Reference: Gu, Gupta, Goel, Ré, On the parameterization and initialization of diagonal state space models,
    2022, arXiv:2206.11893.

    >>> import jrnn
    >>> jrnn.Stack((jrnn.Dense(8), jrnn.S4D(8, state=16))).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    state: Width = 32
    dt_min: Positive = 0.001
    dt_max: Positive = 0.1
    linear: ClassVar[bool] = True
    timed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_rising(self)

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> S4DParams:
        check_equal_widths(self, in_features)
        k_c, k_d, k_dt = jax.random.split(key, 3)
        c = jax.random.normal(k_c, (self.hidden, 2 * self.state), default_float()) / math.sqrt(2)
        frequency = math.pi * jnp.arange(self.state, dtype=c.dtype)
        return S4DParams(
            rate=jnp.full((self.hidden, self.state), math.log(0.5), c.dtype),
            frequency=jnp.tile(frequency, (self.hidden, 1)),
            log_dt=_draw_log_dt(k_dt, self),
            w_ho=c,
            d=jax.random.normal(k_d, (self.hidden,), c.dtype),
        )

    def initial_carry(self, params: S4DParams, batch_shape: Shape = (), *, key: Array | None = None) -> Array:
        return complex_state(params, (*batch_shape, self.hidden), self.state)

    @broadcasting
    def step(self, params: S4DParams, carry: Array, x: Any) -> tuple[Array, Array]:
        (x, dt), wide = values_and_time(self, x), carry.real.dtype  # complex: float32 and float64 only
        rate, frequency, log_dt = (p.astype(wide) for p in (params.rate, params.frequency, params.log_dt))
        delta = (jnp.exp(log_dt) * jnp.asarray(dt, wide))[..., None]
        less, scale = _sampled(jax.lax.complex(-jnp.exp(rate), frequency), delta)
        h = (1 + less) * carry + scale * x[..., None].astype(carry.dtype)
        parts = jnp.concatenate([h.real, -h.imag], -1).astype(x.dtype)
        return h, 2 * jnp.sum(params.w_ho * parts, -1) + params.d * x


def _check_rising(cell: Any) -> None:
    if cell.dt_min >= cell.dt_max:
        raise ValueError(f"dt_min must be below dt_max, got {cell.dt_min} and {cell.dt_max}")


def _draw_log_dt(key: Array, cell: Any) -> Array:
    low, high = math.log(cell.dt_min), math.log(cell.dt_max)
    return jax.random.uniform(key, (cell.hidden,), default_float(), low, high)


def _sampled(lam: Array, delta: Array) -> tuple[Array, Array]:
    """A − 1, without cancellation, and (a − 1) / λ, for a = exp(λ · Δ)."""
    r, t = lam.real * delta, lam.imag * delta
    less = jax.lax.complex(jnp.expm1(r) * jnp.cos(t) - 2 * jnp.sin(t / 2) ** 2, jnp.exp(r) * jnp.sin(t))
    return less, less / lam


class S5Params(NamedTuple):
    """Parameters of `S5`; real parts before imaginary parts."""

    rate: Array  # (hidden,), log of −Re λ
    frequency: Array  # (hidden,), Im λ
    log_dt: Array  # (hidden,), δ
    w_ih: Array  # (in, 2·hidden), B
    w_ho: Array  # (2·hidden, out), C
    d: Any  # (out,); None if in and out differ


@checked
@dataclass(frozen=True)
class S5:
    """Simplified state space: a diagonal continuous system, sampled; x is values or `(values, dt)`.

        λ = −exp(rate) + i · frequency,   a = exp(λ · Δ),   Δ = exp(δ) · dt
        hₜ = a · hₜ₋₁ + (a − 1) / λ · (xₜ B)
        yₜ = 2 Re(hₜ C) + d · xₜ                 without d if x and y differ in width

    The state is complex, and stands for twice as many units in conjugate pairs. λ starts at the eigenvalues
    of the HiPPO-LegS matrix's normal part, of which the states are coefficients of the past in Legendre
    polynomials, and B and C in their basis; exp(δ) between `dt_min` and `dt_max`, with a uniform logarithm.
    The authors' code learns Re λ itself, which may become positive. In a deep network, put a `Dense` with
    an activation between two of them.

    Args:
      hidden: number of complex units.
      outputs: width of y; defaults to `hidden`.
      blocks: number of independent HiPPO matrices at the start.
      dt_min: smallest Δ at the start.
      dt_max: largest Δ at the start.

    Raises:
      ValueError: a width that blocks do not divide, or dt_min ≥ dt_max.

    Reference: Smith, Warrington, Linderman, Simplified state space layers for sequence modeling, 2023,
    arXiv:2208.04933.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.S5(8, outputs=3)
    >>> params, xs = cell.init(jax.random.key(0), in_features=3), jnp.ones((5, 3))
    >>> jrnn.unroll(cell, params, (xs, jnp.ones(5)), method=jrnn.Associative())[1].shape
    (5, 3)
    """

    hidden: Width
    _: KW_ONLY
    outputs: Width | None = None
    blocks: Width = 1
    dt_min: Positive = 0.001
    dt_max: Positive = 0.1
    linear: ClassVar[bool] = True
    timed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_multiple("hidden", self.hidden, "blocks", self.blocks)
        _check_rising(self)

    @property
    def out_features(self) -> int:
        return self.hidden if self.outputs is None else self.outputs

    def init(self, key: Array, in_features: int) -> S5Params:
        check_in_features(in_features)
        k_b, k_c, k_d, k_dt = jax.random.split(key, 4)
        lam, basis = _hippo(self.hidden // self.blocks)
        b, c = (
            jax.random.normal(k, (n, 2 * self.hidden), default_float()) / math.sqrt(2 * self.hidden)
            for k, n in ((k_b, in_features), (k_c, self.out_features))
        )
        d = jax.random.normal(k_d, (self.out_features,), default_float())
        return S5Params(
            rate=jnp.tile(jnp.asarray(np.log(-lam.real), d.dtype), self.blocks),
            frequency=jnp.tile(jnp.asarray(lam.imag, d.dtype), self.blocks),
            log_dt=_draw_log_dt(k_dt, self),
            w_ih=_in_basis(b, basis.conj()),
            w_ho=_in_basis(c, basis).T,
            d=d if in_features == self.out_features else None,
        )

    initial_carry = zero_complex_carry

    @broadcasting
    def step(self, params: S5Params, carry: Array, x: Any) -> tuple[Array, Array]:
        (x, dt), wide = values_and_time(self, x), carry.real.dtype  # complex: float32 and float64 only
        rate, frequency, log_dt = (p.astype(wide) for p in (params.rate, params.frequency, params.log_dt))
        delta = jnp.exp(log_dt) * jnp.asarray(dt, wide)
        less, scale = _sampled(jax.lax.complex(-jnp.exp(rate), frequency), delta)
        u = x @ params.w_ih
        h = (1 + less) * carry + scale * jax.lax.complex(*split(u.astype(wide), 2))
        y = 2 * (jnp.concatenate([h.real, -h.imag], -1).astype(u.dtype) @ params.w_ho)
        return h, y if params.d is None else y + params.d * x


def _hippo(half: int) -> tuple[Any, Any]:
    """Eigenvalues and eigenvectors of HiPPO-LegS's normal part, those with a positive imaginary part.

    The matrix of 2 · half units is A = −½ − (½ √(2i + 1) √(2j + 1) below the diagonal, its negative above).
    """
    root = np.sqrt(1 + 2 * np.arange(2 * half))
    skew = np.tril(-np.outer(root, root), -1) / 2
    frequency, vectors = np.linalg.eigh(-1j * (skew - skew.T))
    return frequency[half:] * 1j - 0.5, vectors[:, half:]


def _in_basis(drawn: Array, basis: Any) -> Array:
    """Rows of real numbers times a complex matrix, block by block: [real parts, imaginary parts]."""
    blocks = drawn.reshape(len(drawn), -1, len(basis))
    parts = (blocks @ jnp.asarray(part, drawn.dtype) for part in (basis.real, basis.imag))
    return jnp.concatenate([part.reshape(len(drawn), -1) for part in parts], -1)


class S6Params(NamedTuple):
    """Parameters of `S6`."""

    values: InputParams  # (in, hidden)
    w_v: Array  # (hidden, rank + 2·state), side by side in the order Δ k q
    w_dt: Array  # (rank, hidden)
    b_dt: Array  # (hidden,)
    a_log: Array  # (hidden, state), the logarithm of the rate of forgetting
    skip: Array  # (hidden,), D


@checked
@dataclass(frozen=True)
class S6:
    """Selective state space: the size of a step, and what is written and read, depend on the input (Mamba).

        v = xₜ w + b;   Δ̃, k, q = v w_v
        Δ = softplus(Δ̃ w_dt + b_dt),   a = exp(−Δ · exp(a_log)),   for every unit and state
        hₜ = a · hₜ₋₁ + (Δ · v) kᵀ
        yₜ = hₜ q + D · v

    k and q are B and C in the paper. The convolution over the last inputs and the gate of its block are left
    out. Each unit has `state` states of its own, of shape (hidden, state), whose rates start at 1, 2, …
    `state`.

    Args:
      hidden: number of units, width of y.
      state: number of states of a unit.
      rank: width of Δ̃; defaults to a sixteenth of `hidden`, rounded up.

    Reference: Gu, Dao, Mamba: linear-time sequence modeling with selective state spaces, 2023,
    arXiv:2312.00752.

    >>> import jax, jrnn
    >>> cell = jrnn.S6(8, state=5)
    >>> cell.initial_carry(cell.init(jax.random.key(0), in_features=3)).shape
    (8, 5)
    """

    hidden: Width
    _: KW_ONLY
    state: Width = 16
    rank: Width | None = None
    linear: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> S6Params:
        k_values, k_v, k_dt, k_bias = jax.random.split(key, 4)
        rank = self.rank or -(-self.hidden // 16)
        low, high = math.log(1e-3), math.log(0.1)
        dt = jnp.exp(jax.random.uniform(k_bias, (self.hidden,), default_float(), low, high))
        rates = jnp.log(jnp.arange(1, self.state + 1, dtype=dt.dtype))
        return S6Params(
            values=draw_input(k_values, in_features, self.hidden, 1),
            w_v=glorot(k_v, (self.hidden, rank + 2 * self.state)),
            w_dt=glorot(k_dt, (rank, self.hidden)),
            b_dt=before_softplus(dt),
            a_log=jnp.tile(rates, (self.hidden, 1)),
            skip=zeros(self.hidden) + 1,
        )

    def initial_carry(self, params: S6Params, batch_shape: Shape = (), *, key: Array | None = None) -> Array:
        return zero_state(params, (*batch_shape, self.hidden), self.state)

    @broadcasting
    def step(self, params: S6Params, carry: Array, x: Any) -> tuple[Array, Array]:
        v, rank = x @ params.values.w_ih + params.values.b, len(params.w_dt)
        low, k, q = jnp.split(v @ params.w_v, (rank, rank + self.state), axis=-1)
        dt = checkpoint_name(jax.nn.softplus(low @ params.w_dt + params.b_dt), "dt")
        a = jnp.exp(-dt[..., None] * jnp.exp(params.a_log))
        h = a * carry + (dt * v)[..., None] * k[..., None, :]
        y = jnp.sum(h * q[..., None, :], -1) + params.skip * v
        return h, y
