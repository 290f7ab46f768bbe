"""Long short-term memory: cells that conserve a quantity."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._checks import check_in_features
from jrnn._fields import Width, checked
from jrnn.cell import broadcasting, zero_carry
from jrnn.cells._gating import GateParams, shared_out, sigmoid, zeros
from jrnn.initializers import glorot


@checked
@dataclass(frozen=True)
class MassConservingLSTM:
    """Mass-conserving LSTM: all that enters stays in some unit, or leaves as output.

        xₜ = [mass, a];   c̄ = cₜ₋₁ / Σ|cₜ₋₁|, or 0;   z = a w_ih + c̄ w_hh + b, split into z_i, z_r, z_o
        i = softmax(z_i), (masses, hidden),   r = softmax(z_r), (hidden, hidden),   o = σ(z_o)
        m = cₜ₋₁ r + mass i
        cₜ = (1 − o) · m,   yₜ = o · m

    The softmax runs over the units that receive, so that Σ cₜ + Σ yₜ = Σ cₜ₋₁ + Σ mass. The first `masses`
    features of x are amounts, at least 0, the others say what happens to them. b_o starts at −3, so that
    little leaves. The authors' code also has rectified shares in the place of the softmax of r.

    Args:
      masses: number of features that are amounts.

    Raises:
      ValueError: at `init`, an input narrower than `masses`.

    Reference: Hoedt et al., MC-LSTM: mass-conserving LSTM, 2021, arXiv:2101.05186.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.MassConservingLSTM(8)
    >>> c, ys = jrnn.unroll(cell, cell.init(jax.random.key(0), in_features=3), jnp.ones((5, 3)))
    >>> round(float(c.sum() + ys.sum()), 3)
    5.0
    """

    hidden: Width
    _: KW_ONLY
    masses: Width = 1

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> GateParams:
        check_in_features(in_features)
        if in_features < self.masses:
            raise ValueError(f"{self} needs in_features of at least {self.masses}, got {in_features}")
        k_ih, k_hh = jax.random.split(key)
        rows = self.masses + self.hidden
        shares = rows * self.hidden
        return GateParams(
            w_ih=glorot(k_ih, (in_features - self.masses, shares + self.hidden), blocks=rows + 1),
            w_hh=glorot(k_hh, (self.hidden, shares + self.hidden), blocks=rows + 1),
            b=zeros(shares + self.hidden).at[shares:].set(-3),
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: GateParams, carry: Array, x: Any) -> tuple[Array, Array]:
        mass, a = x[..., : self.masses], x[..., self.masses :]
        z = a @ params.w_ih + shared_out(carry) @ params.w_hh + params.b
        z, z_o = z[..., : -self.hidden], z[..., -self.hidden :]
        shares = jax.nn.softmax(z.reshape(*z.shape[:-1], -1, self.hidden), -1)
        shares = checkpoint_name(shares, "shares")  # of what enters and of what is there
        m = jnp.sum(jnp.concatenate([mass, carry], -1)[..., None] * shares, -2)
        o = sigmoid(z_o, "o")
        return (1 - o) * m, o * m
