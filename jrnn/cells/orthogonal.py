"""A recurrence that keeps the length of its state: an orthogonal matrix, exactly, at every update."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._fields import Width, checked
from jrnn.cell import broadcasting, zero_carry
from jrnn.cells._activations import Function, activation, check_activation
from jrnn.cells._gating import zeros
from jrnn.initializers import default_float, glorot


class OrthogonalParams(NamedTuple):
    """Parameters of `OrthogonalRNN`."""

    w_ih: Array  # (in, hidden)
    skew: Array  # (hidden · (hidden − 1) / 2,), below the diagonal of S, row by row
    b: Array  # (hidden,)


def check_or_modrelu(argument: str, given: Any) -> str | Function:
    """As `check_activation`, which modrelu with its bias is not among."""
    return "modrelu" if isinstance(given, str) and given == "modrelu" else check_activation(argument, given)


@checked
@dataclass(frozen=True)
class OrthogonalRNN:
    """Orthogonal RNN: the recurrent matrix is the image of a skew-symmetric one.

        S = L − Lᵀ,   L strictly lower triangular
        Q = exp(S)                    map="exponential"
        Q = (I + S)⁻¹ (I − S)         map="cayley"
        hₜ = f(xₜ w_ih + hₜ₋₁ Q + b),   yₜ = hₜ
        hₜ = f(xₜ w_ih + hₜ₋₁ Q, b),   f(z, b) = sign(z) · relu(|z| + b)      activation="modrelu"

    Any optimizer may move L: Q stays orthogonal to rounding. It is computed once per call, in float32 at
    least. S starts as rotations of pairs of units by angles U(−π/2, π/2).

    Args:
      map: "exponential" or "cayley" (which does not reach an eigenvalue −1).
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
        s, eye = low - low.T, jnp.eye(self.hidden, dtype=skew.dtype)
        q = jax.scipy.linalg.expm(s) if self.map == "exponential" else jnp.linalg.solve(eye + s, eye - s)
        return q.astype(params.skew.dtype)

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
