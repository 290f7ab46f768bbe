"""Long short-term memory: the cell as first published."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._checks import check_multiple
from jrnn._fields import Width, checked, one_of
from jrnn.cell import Shape, broadcasting, zero_state
from jrnn.cells._gating import GateParams, sigmoid, zeros
from jrnn.cells.lstm import LSTMCarry
from jrnn.initializers import glorot

SQUASH = {"logistic": (2.0, 0.5), "tanh": (1.0, 1.0)}  # (height of g, slope of g and of h)


@checked
@dataclass(frozen=True)
class LSTM1997:
    """Long short-term memory of 1997: no forget gate, and blocks of cells that share their gates.

        iₜ = σ(xₜ w_i + hₜ₋₁ u_i + b_i),   oₜ = σ(xₜ w_o + hₜ₋₁ u_o + b_o)
        gₜ = g(xₜ w_g + hₜ₋₁ u_g + b_g)
        cₜ = cₜ₋₁ + iₜ · gₜ
        hₜ = oₜ · h(cₜ),   yₜ = hₜ
        squash="logistic": g(z) = 4σ(z) − 2 = 2 tanh(z/2),  h(z) = 2σ(z) − 1 = tanh(z/2);   "tanh": both tanh

    i and o have hidden / block units, each for `block` neighboring cells. Gate order: i g o. The paper
    truncates gradients where they leave a memory cell; here they are exact. A negative start of b_i keeps
    the state from drifting.

    Args:
      hidden: width of c and h.
      block: cells per memory block.
      squash: "logistic" or "tanh".
      input_bias: start of b_i.

    Raises:
      ValueError: a width not divisible by block.

    Reference: Hochreiter, Schmidhuber, Long short-term memory, 1997, doi:10.1162/neco.1997.9.8.1735.

    >>> import jax, jrnn
    >>> jrnn.LSTM1997(8, block=2).init(jax.random.key(0), in_features=3).w_ih.shape
    (3, 16)
    """

    hidden: Width
    _: KW_ONLY
    block: Width = 1
    squash: Annotated[str, one_of(SQUASH)] = "logistic"
    input_bias: float = -1.0

    def __post_init__(self) -> None:
        check_multiple("hidden", self.hidden, "block", self.block)

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> GateParams:
        k_ih, k_hh = jax.random.split(key)
        blocks = self.hidden // self.block
        widths = blocks, self.hidden, blocks

        def draw(key: Array, rows: int) -> Array:
            keys = jax.random.split(key, 3)
            return jnp.concatenate([glorot(k, (rows, n)) for k, n in zip(keys, widths, strict=True)], -1)

        return GateParams(
            w_ih=draw(k_ih, in_features),
            w_hh=draw(k_hh, self.hidden),
            b=zeros(sum(widths)).at[:blocks].set(self.input_bias),
        )

    def initial_carry(
        self, params: GateParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> LSTMCarry:
        return LSTMCarry(*(zero_state(params, batch_shape, self.hidden) for _ in "hc"))

    @broadcasting
    def step(self, params: GateParams, carry: LSTMCarry, x: Any) -> tuple[LSTMCarry, Array]:
        (height, slope), blocks = SQUASH[self.squash], self.hidden // self.block
        z = x @ params.w_ih + carry.h @ params.w_hh + params.b
        z_i, z_g, z_o = jnp.split(z, (blocks, blocks + self.hidden), axis=-1)
        i, o = (jnp.repeat(gate, self.block, -1) for gate in (sigmoid(z_i, "i"), sigmoid(z_o, "o")))
        g = checkpoint_name(height * jnp.tanh(slope * z_g), "g")
        c = carry.c + i * g
        h = o * jnp.tanh(slope * c)
        return LSTMCarry(h, c), h
