"""Simple recurrent networks: orthogonal recurrences, which preserve the norm of the state."""

import itertools
import math
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._fields import Width, checked
from jrnn.cell import Shape, broadcasting, zero_carry, zero_state
from jrnn.cells._activations import Activation, Function, activation, check_activation
from jrnn.cells._gating import sigmoid, widened, zeros
from jrnn.cells.maps import Dense, DenseParams
from jrnn.initializers import default_float, glorot


class OrthogonalParams(NamedTuple):
    """Parameters of `OrthogonalRNN`."""

    w_ih: Array  # (in, hidden)
    skew: Array  # (hidden · (hidden − 1) / 2,), below the diagonal of S, row by row
    b: Array  # (hidden,)


def check_or_modrelu(argument: str, given: Any) -> str | Function:
    """Check an activation, or "modrelu", whose bias `check_activation` does not know."""
    return "modrelu" if isinstance(given, str) and given == "modrelu" else check_activation(argument, given)


@checked
@dataclass(frozen=True)
class OrthogonalRNN:
    """Orthogonal RNN: the recurrent matrix is orthogonal, computed from a skew-symmetric one.

        S = L − Lᵀ,   L strictly lower triangular
        Q = exp(S)                    map="exponential"
        Q = (I + S)⁻¹ (I − S)         map="cayley"
        hₜ = f(xₜ w_ih + hₜ₋₁ Q + b),   yₜ = hₜ
        hₜ = f(xₜ w_ih + hₜ₋₁ Q, b),   f(z, b) = sign(z) · relu(|z| + b)      activation="modrelu"

    Any optimizer can train L: Q stays orthogonal up to rounding. Q is computed once per call, in float32 at
    least. S starts as rotations of pairs of units by angles U(−π/2, π/2).

    Args:
      map: "exponential" or "cayley" (which excludes the eigenvalue −1).
      activation: f, by name, or "modrelu".

    Reference: Lezcano-Casado, Martínez-Rubio, Cheap orthogonal constraints in neural networks, 2019,
    arXiv:1901.08428; Cayley: Helfrich, Willmott, Ye, 2018, arXiv:1707.09520; modrelu: arXiv:1511.06464.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.OrthogonalRNN(8)
    >>> q = cell.recurrence(cell.init(jax.random.key(0), in_features=3))
    >>> bool(jnp.allclose(q.T @ q, jnp.eye(8), atol=1e-5))
    True
    """

    hidden: Width
    _: KW_ONLY
    map: Literal["exponential", "cayley"] = "exponential"
    activation: Annotated[str | Function, check_or_modrelu] = "tanh"

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> OrthogonalParams:
        k_ih, k_skew = jax.random.split(key)
        angles = jax.random.uniform(k_skew, (self.hidden,), default_float(), -math.pi / 2, math.pi / 2)
        sizes = angles if self.map == "exponential" else jnp.tan(angles / 2)
        rows, columns = jnp.tril_indices(self.hidden, -1)
        pairs = (rows % 2 == 1) & (columns == rows - 1)
        return OrthogonalParams(
            w_ih=glorot(k_ih, (in_features, self.hidden)),
            skew=jnp.where(pairs, sizes[rows], 0),
            b=zeros(self.hidden),
        )

    def recurrence(self, params: OrthogonalParams) -> Array:
        """Q, (hidden, hidden)."""
        skew = params.skew.astype(jnp.float64 if params.skew.dtype == jnp.float64 else jnp.float32)
        low = jnp.zeros((self.hidden, self.hidden), skew.dtype)
        low = low.at[jnp.tril_indices(self.hidden, -1)].set(skew)
        return _rotation(low - low.T, self.map).astype(params.skew.dtype)

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: OrthogonalParams, carry: Array, x: Any) -> tuple[Array, Array]:
        z = x @ params.w_ih + carry @ self.recurrence(params)
        if self.activation == "modrelu":
            h = jnp.sign(z) * jax.nn.relu(jnp.abs(z) + params.b)
        else:
            h = activation(self.activation)(z + params.b)
        h = checkpoint_name(h, "h")
        return h, h


def _rotation(s: Array, method: str) -> Array:
    """The orthogonal matrix of a skew-symmetric one, (..., n, n)."""
    if method == "exponential":
        return jax.scipy.linalg.expm(s)
    eye = jnp.eye(s.shape[-1], dtype=s.dtype)
    return jnp.linalg.solve(eye + s, eye - s)


class ShufflingParams(NamedTuple):
    """Parameters of `ShufflingRNN`."""

    inner: DenseParams  # (in, width)
    outer: DenseParams  # (width, hidden)
    gate: DenseParams  # (in, hidden)


@checked
@dataclass(frozen=True)
class ShufflingRNN:
    """Shuffling RNN: the recurrence is a permutation, all that is learned is the input.

        vₜ = (relu(xₜ w_inner + b_inner) w_outer + b_outer) · σ(xₜ w_gate + b_gate)
        hₜ = f(hₜ₋₁ P + vₜ),   yₜ = hₜ,   (h P)ⱼ = hⱼ₋₁ around a ring

    Args:
      width: width of the input's hidden layer; defaults to `hidden`.
      activation: f, by name.

    Reference: Rotman, Wolf, Shuffling recurrent neural networks, 2021, arXiv:2007.07324.

    >>> import jrnn
    >>> jrnn.ShufflingRNN(8, width=32).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    width: Width | None = None
    activation: Activation = "relu"

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> ShufflingParams:
        k_inner, k_outer, k_gate = jax.random.split(key, 3)
        width = self.width or self.hidden
        return ShufflingParams(
            inner=Dense(width).init(k_inner, in_features),
            outer=Dense(self.hidden).init(k_outer, width),
            gate=Dense(self.hidden).init(k_gate, in_features),
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: ShufflingParams, carry: Array, x: Any) -> tuple[Array, Array]:
        inner, outer, gate = params
        v = jax.nn.relu(x @ inner.w + inner.b) @ outer.w + outer.b
        v = v * sigmoid(x @ gate.w + gate.b, "gate")
        h = checkpoint_name(activation(self.activation)(jnp.roll(carry, 1, -1) + v), "h")
        return h, h


def _above_diagonal(entries: Array, size: int) -> Array:
    """Matrices (..., size, size) with these entries above their diagonals, row after row, else zero."""
    lengths = range(size - 1, 0, -1)
    parts = jnp.split(entries[..., : sum(lengths)], list(itertools.accumulate(lengths)), axis=-1)
    # pads and no scatter, whose sharding would be ambiguous
    around = [(0, 0)] * (entries.ndim - 1)
    return jnp.stack([jnp.pad(part, [*around, (size - part.shape[-1], 0)]) for part in parts], -2)


class SphericalParams(NamedTuple):
    """Parameters of `SphericalRNN`."""

    skew: DenseParams  # (in, hidden · (hidden − 1) / 2), above the diagonal of S, row by row
    out: DenseParams  # (hidden, hidden)


@checked
@dataclass(frozen=True)
class SphericalRNN:
    """Spherical RNN: every input rotates the state, which stays on the unit sphere.

        S = V − Vᵀ,   V strictly upper triangular, of xₜ w_skew + b_skew
        R = exp(S)                    map="exponential"
        R = (I + S)⁻¹ (I − S)         map="cayley"
        hₜ = R hₜ₋₁,   h₋₁ = 1 / √hidden in all entries
        yₜ = hₜ w_out + b_out

    The state is a product of rotations that do not commute, so it depends on the order of the inputs. The
    map has hidden² / 2 outputs, and a step computes a matrix for every batch element.

    Args:
      map: "exponential" or "cayley", which is cheaper.

    Reference: Biegun, Dolga, Cunningham, Barber, RotRNN: modeling long sequences with rotations, 2024,
    arXiv:2407.07239, whose rotations are the same at every step; the form that reads x is that of memax.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.SphericalRNN(4)
    >>> h, _ = jrnn.unroll(cell, cell.init(jax.random.key(0), in_features=3), jnp.ones((9, 3)))
    >>> round(float(jnp.sum(h**2)), 4)
    1.0
    """

    hidden: Width
    _: KW_ONLY
    map: Literal["exponential", "cayley"] = "exponential"

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> SphericalParams:
        k_skew, k_out = jax.random.split(key)
        return SphericalParams(
            skew=Dense(max(self.hidden * (self.hidden - 1) // 2, 1)).init(k_skew, in_features),
            out=Dense(self.hidden).init(k_out, self.hidden),
        )

    def initial_carry(
        self, params: SphericalParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> Array:
        return zero_state(params, batch_shape, self.hidden) + 1 / math.sqrt(self.hidden)

    @broadcasting
    def step(self, params: SphericalParams, carry: Array, x: Any) -> tuple[Array, Array]:
        angles = x @ params.skew.w + params.skew.b
        above = widened(_above_diagonal(angles, self.hidden))
        turn = _rotation(above - above.mT, self.map).astype(angles.dtype)
        h = checkpoint_name((turn @ carry[..., None])[..., 0], "h")
        return h, h @ params.out.w + params.out.b
