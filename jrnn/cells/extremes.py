"""Simple recurrent networks: the maximum in place of the sum."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._fields import Width, checked
from jrnn.cell import Shape, broadcasting, float_dtype, zero_carry
from jrnn.cells._gating import shared_out, split, zeros
from jrnn.cells._memory import look_up, outer
from jrnn.initializers import default_float, glorot


class NMaxParams(NamedTuple):
    """Parameters of `NMax`."""

    w_ih: Array  # (in, hidden)
    b: Array  # (hidden,)
    a: Array  # (hidden,), decay


@checked
@dataclass(frozen=True)
class NMax:
    """Decaying maximum: each unit holds the largest value that it has seen, and y the share of each.

        hₜ = max(a · hₜ₋₁, xₜ w_ih + b)
        yₜ = hₜ / Σⱼ |hₜⱼ|,   0 where h = 0

    a starts at 1, where nothing is forgotten. It is memax's layer, which takes xₜ as it is.

    Reference: Morad, memax, 2025, https://github.com/smorad/memax, `semigroups/nmax.py`; there is no paper.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.NMax(4)
    >>> _, ys = jrnn.unroll(cell, cell.init(jax.random.key(0), 3), jnp.ones((5, 3)))
    >>> bool(jnp.allclose(ys.sum(-1), 1))
    True
    """

    hidden: Width
    diagonal: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> NMaxParams:
        w_ih = glorot(key, (in_features, self.hidden))
        return NMaxParams(w_ih, zeros(self.hidden), zeros(self.hidden) + 1)

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: NMaxParams, carry: Array, x: Any) -> tuple[Array, Array]:
        h = checkpoint_name(jnp.maximum(params.a * carry, x @ params.w_ih + params.b), "h")
        return h, shared_out(h)


class DLSEParams(NamedTuple):
    """Parameters of `DLSE`."""

    w_ih: Array  # (in, 3·hidden), order q k v
    gamma: Array  # (hidden, hidden)


@checked
@dataclass(frozen=True)
class DLSE:
    """Decaying log-sum-exp: a matrix of maxima over outer products, smooth where `NMax` is not.

        q = xₜ w_q,   k = 1 + elu(xₜ w_k),   v = 1 + elu(xₜ w_v)
        Sₜ = log(exp(Γ Sₜ₋₁) + exp(k vᵀ)),   elementwise,   S₋₁ = I
        yₜ = Sₜᵀ q / |Sₜ|,   by the root of the sum of squares

    Γ starts as the identity. It is memax's layer.

    Reference: Morad, memax, 2025, https://github.com/smorad/memax, `semigroups/dlse.py`; there is no paper.

    >>> import jax, jrnn
    >>> cell = jrnn.DLSE(4)
    >>> cell.initial_carry(cell.init(jax.random.key(0), in_features=3), (2,)).shape
    (2, 4, 4)
    """

    hidden: Width

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> DLSEParams:
        w_ih = glorot(key, (in_features, 3 * self.hidden), blocks=3)
        return DLSEParams(w_ih, jnp.eye(self.hidden, dtype=default_float()))

    def initial_carry(
        self, params: DLSEParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> Array:
        eye = jnp.eye(self.hidden, dtype=float_dtype(params))
        return jnp.broadcast_to(eye, (*batch_shape, *eye.shape))

    @broadcasting
    def step(self, params: DLSEParams, carry: Array, x: Any) -> tuple[Array, Array]:
        q, k, v = split(x @ params.w_ih, 3)
        seen = outer(1 + jax.nn.elu(k), 1 + jax.nn.elu(v))
        memory = checkpoint_name(jnp.logaddexp(params.gamma @ carry, seen), "S")
        length = jnp.sqrt(jnp.square(memory).sum((-2, -1)))
        return memory, look_up(memory, q) / length[..., None]
