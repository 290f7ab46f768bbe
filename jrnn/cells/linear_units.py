"""Linear recurrences: a diagonal recurrence between dense maps."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._checks import check_equal_widths, check_in_features, check_multiple
from jrnn._fields import Positive, Width, checked
from jrnn.cell import Shape, broadcasting, complex_state, zero_complex_carry, zero_state
from jrnn.cells._activations import Activation, activation
from jrnn.cells._gating import before_softplus, draw_blocks, sigmoid, split, times_blocks, widened, zeros
from jrnn.initializers import default_float, glorot


class LRUParams(NamedTuple):
    """Parameters of `LRU`; real parts before imaginary parts."""

    nu: Array  # (hidden,)
    theta: Array  # (hidden,)
    gamma: Array  # (hidden,), log of the scale of the input
    w_ih: Array  # (in, 2·hidden), B
    w_ho: Array  # (2·hidden, out), C
    d: Any  # (out,), None if in and out differ


@checked
@dataclass(frozen=True)
class LRU:
    """Linear recurrent unit: a complex diagonal recurrence whose modulus is below 1 by construction.

        λ = exp(−exp(ν) + i exp(θ))
        hₜ = λ · hₜ₋₁ + exp(γ) · (xₜ B)
        yₜ = Re(hₜ C) + d · xₜ                 without d if x and y differ in width

    The state is complex. `w_ih` is [Re B, Im B], `w_ho` [Re C; Im C]. |λ|² starts uniform in
    (r_min², r_max²) (in the paper 0 and 1), the angle in (0, max_phase), and γ at log √(1 − |λ|²). In a
    deep network, put a `Dense` with an activation between two of them.

    Args:
      hidden: number of complex units.
      outputs: width of y; defaults to `hidden`.
      r_min: smallest modulus at the start.
      r_max: largest modulus at the start, below 1.
      max_phase: largest angle at the start, in radians.

    Raises:
      ValueError: moduli that are not 0 ≤ r_min < r_max < 1.

    Reference: Orvieto et al., Resurrecting recurrent neural networks for long sequences, 2023,
    arXiv:2303.06349.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.LRU(8, outputs=3)
    >>> h, ys = jrnn.unroll(cell, cell.init(jax.random.key(0), in_features=3), jnp.ones((5, 3)))
    >>> h.dtype, ys.shape
    (dtype('complex64'), (5, 3))
    """

    hidden: Width
    _: KW_ONLY
    outputs: Width | None = None
    r_min: float = 0.9
    r_max: float = 0.999
    max_phase: Positive = 2 * math.pi
    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.r_min < self.r_max < 1:
            raise ValueError(f"moduli must be 0 ≤ r_min < r_max < 1, got {self.r_min} and {self.r_max}")

    @property
    def out_features(self) -> int:
        return self.hidden if self.outputs is None else self.outputs

    def init(self, key: Array, in_features: int) -> LRUParams:
        check_in_features(in_features)
        k_modulus, k_phase, k_b, k_c, k_d = jax.random.split(key, 5)
        nu, theta, squared = _draw_rotation(k_modulus, k_phase, self)
        b = jax.random.normal(k_b, (in_features, 2 * self.hidden), default_float())
        c = jax.random.normal(k_c, (2 * self.hidden, self.out_features), default_float())
        d = jax.random.normal(k_d, (self.out_features,), default_float())
        return LRUParams(
            nu=nu,
            theta=theta,
            gamma=0.5 * jnp.log(1 - squared),
            w_ih=b / math.sqrt(2 * in_features),
            w_ho=c / math.sqrt(self.hidden),
            d=d if in_features == self.out_features else None,
        )

    initial_carry = zero_complex_carry

    @broadcasting
    def step(self, params: LRUParams, carry: Array, x: Any) -> tuple[Array, Array]:
        wide = carry.real.dtype  # complex dtypes exist only for float32 and float64
        nu, theta = jnp.exp(params.nu.astype(wide)), jnp.exp(params.theta.astype(wide))
        modulus = jnp.exp(-nu)
        lam = jax.lax.complex(modulus * jnp.cos(theta), modulus * jnp.sin(theta))
        u = jnp.exp(jnp.tile(params.gamma, 2)) * (x @ params.w_ih)
        h = lam * carry + jax.lax.complex(*split(u.astype(wide), 2))
        y = jnp.concatenate([h.real, -h.imag], -1).astype(u.dtype) @ params.w_ho
        return h, y if params.d is None else y + params.d * x


def _draw_rotation(k_modulus: Array, k_phase: Array, cell: Any) -> tuple[Array, Array, Array]:
    """Draw ν and θ of λ = exp(−exp(ν) + i exp(θ)), with |λ|² and the angle uniform; also returns |λ|²."""
    uniform = jax.random.uniform(k_modulus, (cell.hidden,), default_float())
    squared = uniform * (cell.r_max**2 - cell.r_min**2) + cell.r_min**2
    squared = jnp.clip(squared, 1e-12, 1 - 1e-7)  # so that ν is finite
    phase = cell.max_phase * jax.random.uniform(k_phase, (cell.hidden,), default_float(), 1e-6)
    return jnp.log(-0.5 * jnp.log(squared)), jnp.log(phase), squared


class RGLRUParams(NamedTuple):
    """Parameters of `RGLRU`."""

    w: Array  # (heads, hidden / heads, 2 · units / heads), order r i within a head
    b: Array  # (2·units,), order r i; of hidden units, or half of them, complex
    decay: Array  # (units,), Λ
    phase: Any = None  # (units,), θ; None if h is real


@checked
@dataclass(frozen=True)
class RGLRU:
    """Real-gated linear recurrent unit of Griffin: decay and input are gated by the input.

        rₜ = σ(xₜ w_r + b_r),   iₜ = σ(xₜ w_i + b_i)
        log aₜ = −8 · softplus(Λ) · rₜ
        hₜ = aₜ · hₜ₋₁ + √(1 − aₜ²) · (iₜ · xₜ),   yₜ = hₜ

    with complex=True, of the halves p and q of x

        hₜ = aₜ · exp(i θ rₜ) · hₜ₋₁ + √(1 − aₜ²) · iₜ · (pₜ + i qₜ),   yₜ = [Re hₜ, Im hₜ]

    w is block-diagonal, one block per head. √(1 − aₜ²) is computed from log aₜ, in float32 at least, so that
    it is accurate near a = 1, and is at least 1e-6. x must be as wide as y: put a `Dense` before it. Λ starts
    so that aₜ² at rₜ = 1 is uniform between 0.9² and 0.999², θ uniform in (0, π/10), as in recurrentgemma;
    there a first step has no √(1 − aₜ²).

    Args:
      hidden: width of x and y, and of h; a complex h is half as wide.
      heads: number of blocks of the gates' matrices.
      complex: rotation of the state.

    Raises:
      ValueError: a width of h not divisible by heads, or an input of a different width.

    Reference: De et al., Griffin: mixing gated linear recurrences with local attention for efficient language
    models, 2024, arXiv:2402.19427.

    >>> import jrnn
    >>> jrnn.Stack((jrnn.Dense(8), jrnn.RGLRU(8, heads=2))).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    heads: Width = 1
    complex: bool = False
    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.complex:
            check_multiple("hidden", self.hidden, "twice the heads", 2 * self.heads)
        check_multiple("hidden", self.hidden, "heads", self.heads)

    @property
    def out_features(self) -> int:
        return self.hidden

    @property
    def _units(self) -> int:
        return self.hidden // 2 if self.complex else self.hidden

    def init(self, key: Array, in_features: int) -> RGLRUParams:
        check_equal_widths(self, in_features)
        k_w, k_a = jax.random.split(key)
        squared = jax.random.uniform(k_a, (self._units,), default_float(), 0.9**2, 0.999**2)
        phase = jax.random.uniform(jax.random.fold_in(k_a, 1), squared.shape, squared.dtype, 0, 0.1 * math.pi)
        return RGLRUParams(
            w=draw_blocks(k_w, self.hidden, 2 * self._units, self.heads, gates=2),
            b=zeros(2 * self._units),
            decay=before_softplus(-0.5 * jnp.log(squared) / 8),
            phase=phase if self.complex else None,
        )

    def initial_carry(
        self, params: RGLRUParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> Array:
        zero = complex_state if self.complex else zero_state
        return zero(params, batch_shape, self._units)

    @broadcasting
    def step(self, params: RGLRUParams, carry: Array, x: Any) -> tuple[Array, Array]:
        (z_r, z_i), (b_r, b_i) = times_blocks(x, params.w, 2), split(params.b, 2)
        r, i = sigmoid(z_r + b_r, "r"), sigmoid(z_i + b_i, "i")
        log_a = widened(-8 * jax.nn.softplus(params.decay) * r)
        scale = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_a), 1e-12))  # √ has no derivative at 0
        a = checkpoint_name(jnp.exp(log_a).astype(r.dtype), "a")
        if params.phase is None:
            h = a * carry + scale.astype(r.dtype) * (i * x)
            return h, h
        wide, angle = carry.real.dtype, params.phase * r
        kept = [(a * turn).astype(wide) for turn in (jnp.cos(angle), jnp.sin(angle))]
        new = [scale.astype(wide) * (i * part).astype(wide) for part in split(x, 2)]
        h = jax.lax.complex(*kept) * carry + jax.lax.complex(*new)
        return h, jnp.concatenate([h.real, h.imag], -1).astype(r.dtype)


class RTUParams(NamedTuple):
    """Parameters of `RTU`."""

    nu: Array  # (hidden,)
    theta: Array  # (hidden,)
    w_ih: Array  # (in, 2·hidden), order p q


class RTUCarry(NamedTuple):
    """State of `RTU`: real and imaginary parts, concatenated in the output."""

    real: Array  # (..., hidden)
    imag: Array  # (..., hidden)


@checked
@dataclass(frozen=True)
class RTU:
    """Recurrent trace unit: pairs of units rotate and shrink, with an activation in the recurrence.

        r = exp(−exp(ν)),   φ = exp(θ),   s = √(1 − r²)
        pₜ = f(r cos φ · pₜ₋₁ − r sin φ · qₜ₋₁ + s · (xₜ w_p))
        qₜ = f(r cos φ · qₜ₋₁ + r sin φ · pₜ₋₁ + s · (xₜ w_q))
        yₜ = [pₜ, qₜ]

    `w_ih` is [w_p, w_q]; the carry's `real` is p and its `imag` is q. Pairs are independent, so that
    real-time recurrent learning costs no more than a step. With "identity" for f it is `LRU` without its
    read-out; the paper's linear unit adds an activation after it, for which use a `Map`.

    Args:
      hidden: number of pairs; y is twice as wide.
      activation: f, by name.
      r_min: smallest r at the start.
      r_max: largest r at the start.
      max_phase: largest φ at the start, in radians.

    Raises:
      ValueError: moduli that are not 0 ≤ r_min < r_max ≤ 1.

    Reference: Elelimy, White, Bowling, White, Real-time recurrent learning using trace units in reinforcement
    learning, 2024, arXiv:2409.01449.

    >>> import jrnn
    >>> jrnn.RTU(8).out_features
    16
    """

    hidden: Width
    _: KW_ONLY
    activation: Activation = "tanh"
    r_min: float = 0.0
    r_max: float = 1.0
    max_phase: Positive = 2 * math.pi
    diagonal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.r_min < self.r_max <= 1:
            raise ValueError(f"moduli must be 0 ≤ r_min < r_max ≤ 1, got {self.r_min} and {self.r_max}")

    @property
    def out_features(self) -> int:
        return 2 * self.hidden

    def init(self, key: Array, in_features: int) -> RTUParams:
        k_modulus, k_phase, k_ih = jax.random.split(key, 3)
        nu, theta, _ = _draw_rotation(k_modulus, k_phase, self)
        return RTUParams(nu, theta, w_ih=glorot(k_ih, (in_features, 2 * self.hidden), blocks=2))

    def initial_carry(
        self, params: RTUParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> RTUCarry:
        return RTUCarry(*(zero_state(params, batch_shape, self.hidden) for _ in "pq"))

    @broadcasting
    def step(self, params: RTUParams, carry: RTUCarry, x: Any) -> tuple[RTUCarry, Array]:
        f, (p, q) = activation(self.activation), carry
        nu, phase = jnp.exp(params.nu), jnp.exp(params.theta)
        r, s = jnp.exp(-nu), jnp.sqrt(-jnp.expm1(-2 * nu))
        g, t = r * jnp.cos(phase), r * jnp.sin(phase)
        u_p, u_q = split(jnp.tile(s, 2) * (x @ params.w_ih), 2)
        p, q = f(g * p - t * q + u_p), f(g * q + t * p + u_q)
        p, q = checkpoint_name(p, "p"), checkpoint_name(q, "q")
        return RTUCarry(p, q), jnp.concatenate([p, q], -1)
