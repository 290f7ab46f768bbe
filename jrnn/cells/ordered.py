"""Long short-term memory: units ordered by how long they remember."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._checks import check_multiple
from jrnn._fields import Width, checked
from jrnn.cell import Shape, broadcasting, zero_state
from jrnn.cells._gating import GateParams, gates, repeated
from jrnn.cells.lstm import LSTMCarry
from jrnn.initializers import glorot


@checked
@dataclass(frozen=True)
class ONLSTM:
    """Ordered-neurons LSTM: master gates forget a whole range of units, from the quickest upwards.

        i, f, o = σ(xₜ w + hₜ₋₁ u + b),   gₜ = tanh(xₜ w_g + hₜ₋₁ u_g + b_g)
        p = cumax(xₜ w_p + hₜ₋₁ u_p + b_p),   q = 1 − cumax(xₜ w_q + hₜ₋₁ u_q + b_q),   cumax = cumsum softmax
        ω = p · q,   f̂ = f · ω + (p − ω),   î = i · ω + (q − ω)
        cₜ = f̂ · cₜ₋₁ + î · gₜ
        hₜ = oₜ · tanh(cₜ),   yₜ = hₜ

    Gate order: i f g o p q. p and q have hidden / chunk entries, one for `chunk` units in a row. p rises from
    0 to 1 along the units, so that the last ones keep what they hold.

    Args:
      hidden: width of h and c.
      chunk: number of units that share a master gate.
      forget_bias: start of b_f.

    Raises:
      ValueError: a width that chunk does not divide.

    Reference: Shen, Tan, Sordoni, Courville, Ordered neurons: integrating tree structures into recurrent
    neural networks, 2019, arXiv:1810.09536.

    >>> import jrnn
    >>> jrnn.ONLSTM(8, chunk=2).out_features
    8
    """

    hidden: Width
    _: KW_ONLY
    chunk: Width = 1
    forget_bias: float = 1.0

    def __post_init__(self) -> None:
        check_multiple("hidden", self.hidden, "chunk", self.chunk)

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> GateParams:
        masters = self.hidden // self.chunk
        k_ih, k_hh = jax.random.split(key)
        biases = (0, self.forget_bias, 0, 0)

        def draw(key: Array, rows: int) -> Array:
            keys, widths, gates = jax.random.split(key), (self.hidden, masters), (4, 2)
            packed = zip(keys, widths, gates, strict=True)
            return jnp.concatenate([glorot(k, (rows, n * width), blocks=n) for k, width, n in packed], -1)

        return GateParams(
            w_ih=draw(k_ih, in_features),
            w_hh=draw(k_hh, self.hidden),
            b=jnp.concatenate([repeated(biases, self.hidden), repeated((0, 0), masters)]),
        )

    def initial_carry(
        self, params: GateParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> LSTMCarry:
        return LSTMCarry(*(zero_state(params, batch_shape, self.hidden) for _ in "hc"))

    @broadcasting
    def step(self, params: GateParams, carry: LSTMCarry, x: Any) -> tuple[LSTMCarry, Array]:
        z = x @ params.w_ih + carry.h @ params.w_hh + params.b
        i, f, g, o = gates(z[..., : 4 * self.hidden], "ifgo", candidate="g")
        master = z[..., 4 * self.hidden :]
        master = jnp.cumsum(jax.nn.softmax(master.reshape(*master.shape[:-1], 2, -1), -1), -1)
        master = jnp.repeat(master, self.chunk, -1)
        p, q = checkpoint_name(master[..., 0, :], "p"), checkpoint_name(1 - master[..., 1, :], "q")
        both = p * q
        c = (f * both + p - both) * carry.c + (i * both + q - both) * g
        h = o * jnp.tanh(c)
        return LSTMCarry(h, c), h
