"""Simple recurrent networks: gates from the input, and an elementwise recurrence."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import jax
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._fields import Width, checked
from jrnn.cell import broadcasting, zero_carry
from jrnn.cells._gating import sigmoid, split, zeros
from jrnn.initializers import default_float, glorot


class SRUParams(NamedTuple):
    """Parameters of `SRU`."""

    w_ih: Array  # (in, 3·hidden), order f r n
    v: Any  # (2·hidden,), order f r; None without recurrent gates
    b: Array  # (2·hidden,), order f r
    w_ix: Any  # (in, hidden), of the skip connection; None if in = hidden


@checked
@dataclass(frozen=True)
class SRU:
    """Simple recurrent unit, second version: light recurrence and a highway around it.

        fₜ = σ(xₜ w_f + v_f · cₜ₋₁ + b_f)
        rₜ = σ(xₜ w_r + v_r · cₜ₋₁ + b_r)
        cₜ = fₜ · cₜ₋₁ + (1 − fₜ) · (xₜ w_n)
        yₜ = rₜ · cₜ + (1 − rₜ) · x̃ₜ

    x̃ₜ = √(1 + 2 exp(highway_bias)) xₜ if the input is as wide as the state, else xₜ w_ix. The carry is
    c. Without v (`recurrent=False`) the recurrence is linear, and `Associative` can run it.

    Args:
      hidden: width of c.
      recurrent: let the gates see the state, through v.
      highway_bias: start of b_r.

    Reference: Lei, Zhang, Wang, Dai, Artzi, Simple recurrent units for highly parallelizable recurrence,
    2018, arXiv:1709.02755.

    >>> import jrnn
    >>> jrnn.SRU(8).linear, jrnn.SRU(8, recurrent=False).linear
    (False, True)
    """

    hidden: Width
    _: KW_ONLY
    recurrent: bool = True
    highway_bias: float = 0.0
    diagonal: ClassVar[bool] = True

    @property
    def out_features(self) -> int:
        return self.hidden

    @property
    def linear(self) -> bool:
        """True if the recurrence is linear."""
        return not self.recurrent

    def init(self, key: Array, in_features: int) -> SRUParams:
        k_ih, k_v, k_ix = jax.random.split(key, 3)
        v = jax.random.uniform(k_v, (2 * self.hidden,), default_float(), -1, 1)
        return SRUParams(
            w_ih=glorot(k_ih, (in_features, 3 * self.hidden), blocks=3),
            v=v if self.recurrent else None,
            b=zeros(2 * self.hidden).at[self.hidden :].set(self.highway_bias),
            w_ix=glorot(k_ix, (in_features, self.hidden)) if in_features != self.hidden else None,
        )

    initial_carry = zero_carry

    @broadcasting
    def step(self, params: SRUParams, carry: Array, x: Any) -> tuple[Array, Array]:
        (a_f, a_r, n), (b_f, b_r) = split(x @ params.w_ih, 3), split(params.b, 2)
        v_f, v_r = (0, 0) if params.v is None else (v * carry for v in split(params.v, 2))
        f, r = sigmoid(a_f + v_f + b_f, "f"), sigmoid(a_r + v_r + b_r, "r")
        c = f * carry + (1 - f) * checkpoint_name(n, "n")
        scale = math.sqrt(1 + 2 * math.exp(self.highway_bias))
        return c, r * c + (1 - r) * (scale * x if params.w_ix is None else x @ params.w_ix)
