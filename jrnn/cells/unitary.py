"""Simple recurrent networks: unitary recurrences of complex states, which preserve their norm."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._fields import Width, checked
from jrnn.cell import broadcasting, zero_complex_carry
from jrnn.cells._gating import split, widened, zeros
from jrnn.initializers import default_float, glorot


def _modrelu(z: Array, b: Array) -> Array:
    """The modrelu z / |z| · relu(|z| + b), 0 at z = 0."""
    squared = z.real**2 + z.imag**2
    size = jnp.sqrt(jnp.where(squared > 0, squared, 1))  # √ has no derivative at 0
    scale = jax.nn.relu(size + b) / size
    return jax.lax.complex(scale * z.real, scale * z.imag)


def _moved(self: Any, params: Any, turned: Array, x: Array) -> tuple[Array, Array]:
    """Modrelu of the turned state and the input, and y."""
    wide = turned.real.dtype
    u = x @ params.w_ih
    h = _modrelu(turned + jax.lax.complex(*split(u.astype(wide), 2)), params.b.astype(wide))
    return h, checkpoint_name(jnp.concatenate([h.real, h.imag], -1), "h").astype(u.dtype)


class UnitaryParams(NamedTuple):
    """Parameters of `UnitaryRNN`; real parts before imaginary parts."""

    w_ih: Array  # (in, 2·hidden)
    angles: Array  # (3·hidden,), of the three diagonal matrices
    mirrors: Array  # (2, 2, hidden), the vectors v of the two reflections
    b: Array  # (hidden,), of the modrelu
    fixed: Array  # (2, hidden), places in whose order P puts the units: two digits, exact even in bfloat16


@checked
@dataclass(frozen=True)
class UnitaryRNN:
    """Unitary evolution RNN: rotations, reflections and Fourier transforms of a complex state.

        U h = D₃ R₂ F⁻¹ D₂ P R₁ F D₁ h,   D = diag(exp(i · angle)),   R = I − 2 v v* / |v|²
        hₜ = modrelu(U hₜ₋₁ + xₜ w_ih),   modrelu(z) = z / |z| · relu(|z| + b)
        yₜ = [Re hₜ, Im hₜ]

    F is the discrete Fourier transform divided by √hidden, applied as a matrix, P a random permutation. U has
    7 · hidden parameters. The paper's initial state is learned: `LearnedCarry`.

    Args:
      hidden: number of complex units; y is twice as wide.

    Reference: Arjovsky, Shah, Bengio, Unitary evolution recurrent neural networks, 2016, arXiv:1511.06464.

    >>> import jrnn
    >>> jrnn.UnitaryRNN(8).out_features
    16
    """

    hidden: Width

    @property
    def out_features(self) -> int:
        return 2 * self.hidden

    def init(self, key: Array, in_features: int) -> UnitaryParams:
        k_ih, k_angles, k_mirrors, k_order = jax.random.split(key, 4)
        places = jax.random.permutation(k_order, self.hidden)
        return UnitaryParams(
            w_ih=glorot(k_ih, (in_features, 2 * self.hidden), blocks=2),
            angles=jax.random.uniform(k_angles, (3 * self.hidden,), default_float(), -math.pi, math.pi),
            mirrors=jax.random.uniform(k_mirrors, (2, 2, self.hidden), default_float(), -1, 1),
            b=zeros(self.hidden),
            fixed=jnp.stack(jnp.divmod(places, 256)).astype(default_float()),
        )

    initial_carry = zero_complex_carry

    def turn(self, params: UnitaryParams, h: Array) -> Array:
        """U h, of the shape of h."""
        angles, mirrors = (p.astype(h.real.dtype) for p in (params.angles, params.mirrors))
        d_1, d_2, d_3 = (jax.lax.complex(jnp.cos(angle), jnp.sin(angle)) for angle in split(angles, 3))
        r_1, r_2 = (jax.lax.complex(*mirror) for mirror in mirrors)
        high, low = widened(jax.lax.stop_gradient(params.fixed))
        order = jnp.argsort(256 * high + low)
        fourier = jnp.asarray(_fourier(self.hidden), h.dtype)
        z = _reflected((d_1 * h) @ fourier, r_1)[..., order]
        return d_3 * _reflected((d_2 * z) @ fourier.conj(), r_2)

    @broadcasting
    def step(self, params: UnitaryParams, carry: Array, x: Any) -> tuple[Array, Array]:
        return _moved(self, params, self.turn(params, carry), x)


def _fourier(n: int) -> Any:
    """The matrix of the discrete Fourier transform; XLA's own fails on a CPU under some transforms."""
    places = np.arange(n)
    return np.exp(-2j * np.pi * np.outer(places, places) / n) / math.sqrt(n)


def _reflected(z: Array, v: Array) -> Array:
    """The reflection z − 2 v (v* z) / |v|²."""
    unit = v / jnp.sqrt(jnp.sum(v.real**2 + v.imag**2)).astype(v.dtype)
    along = jnp.sum(z * unit.conj(), -1, keepdims=True)
    return z - (along + along) * unit


class FullUnitaryParams(NamedTuple):
    """Parameters of `FullUnitaryRNN`."""

    w_ih: Array  # (in, 2·hidden), real parts before imaginary parts
    skew: Array  # (hidden²,), row by row: real parts of S below the diagonal, imaginary ones on it and above
    b: Array  # (hidden,), of the modrelu


@checked
@dataclass(frozen=True)
class FullUnitaryRNN:
    """Full-capacity unitary RNN: any unitary matrix, as the exponential of a skew-Hermitian one.

        S = L − Lᵀ + i (D + V + Vᵀ),   of skew: L below the diagonal, D the diagonal, V above
        U = exp(S)
        hₜ = modrelu(hₜ₋₁ U + xₜ w_ih),   modrelu(z) = z / |z| · relu(|z| + b)
        yₜ = [Re hₜ, Im hₜ]

    hidden² parameters, as many as unitary matrices have dimensions, so that any optimizer can train them.
    The paper updates U itself, along the manifold of unitary matrices. U is computed once per call.

    Args:
      hidden: number of complex units; y is twice as wide.

    Reference: Wisdom, Powers, Hershey, Le Roux, Atlas, Full-capacity unitary recurrent neural networks, 2016,
    arXiv:1611.00035; the exponential: Lezcano-Casado, Martínez-Rubio, 2019, arXiv:1901.08428.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.FullUnitaryRNN(8)
    >>> u = cell.recurrence(cell.init(jax.random.key(0), in_features=3))
    >>> bool(jnp.allclose(u @ u.conj().T, jnp.eye(8), atol=1e-5))
    True
    """

    hidden: Width

    @property
    def out_features(self) -> int:
        return 2 * self.hidden

    def init(self, key: Array, in_features: int) -> FullUnitaryParams:
        k_ih, k_hh = jax.random.split(key)
        spread = math.pi / (4 * math.sqrt(self.hidden))  # angles between about −π/2 and π/2
        return FullUnitaryParams(
            w_ih=glorot(k_ih, (in_features, 2 * self.hidden), blocks=2),
            skew=spread * jax.random.normal(k_hh, (self.hidden**2,), default_float()),
            b=zeros(self.hidden),
        )

    initial_carry = zero_complex_carry

    def recurrence(self, params: FullUnitaryParams) -> Array:
        """U, (hidden, hidden), complex."""
        w = widened(params.skew).reshape(self.hidden, self.hidden)
        low, high = jnp.tril(w, -1), jnp.triu(w)
        return jax.scipy.linalg.expm(jax.lax.complex(low - low.T, high + jnp.triu(w, 1).T))

    @broadcasting
    def step(self, params: FullUnitaryParams, carry: Array, x: Any) -> tuple[Array, Array]:
        return _moved(self, params, carry @ self.recurrence(params), x)
