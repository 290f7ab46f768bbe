"""Long short-term memory: along the depth of a stack as well as along time."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._fields import Width, checked
from jrnn.cell import Shape, broadcasting, zero_state
from jrnn.cells._gating import GateParams, draw_gates, gates, split
from jrnn.cells.lstm import LSTMCarry
from jrnn.initializers import glorot


class GridLayer(NamedTuple):
    """Parameters of one layer of `GridLSTM`: w_ih from the layer below, w_hh from time."""

    time: GateParams  # i f g o
    depth: GateParams  # i f g o


class GridLSTMParams(NamedTuple):
    """Parameters of `GridLSTM`."""

    w_in: Array  # (in, 2·hidden), order d e
    layers: tuple[GridLayer, ...]  # one if tied


@checked
@dataclass(frozen=True)
class GridLSTM:
    """Grid LSTM of depth and time: layers hand on a memory, too, through gates of their own.

        d⁰, e⁰ = xₜ w_in
        hˡₜ, cˡₜ = lstm(cˡₜ₋₁, dˡ⁻¹ w + hˡₜ₋₁ u + b),   l = 1 … depth
        dˡ, eˡ = lstm(eˡ⁻¹, dˡ⁻¹ w' + sˡ u' + b'),   s = hₜ₋₁, or hₜ with `depth_last`
        yₜ = d of the last layer

        lstm(c, z):   i, f, o = σ(z_i, z_f, z_o),   g = tanh(z_g),   c̃ = f · c + i · g,   h̃ = tanh(o · c̃)

    Along the depth it is a gated deep network, as easy to train at many layers as an LSTM at many steps. The
    state has h and c of each layer. The grid of the paper may have more axes than these two; an LSTM's h is
    o · tanh(c).

    Args:
      hidden: width of h, c, d and e.
      depth: number of layers.
      tied: the same weights in all layers.
      depth_last: the depth reads what time has just computed (the paper's priority dimension).
      forget_bias: start of the bias of f.

    Reference: Kalchbrenner, Danihelka, Graves, Grid long short-term memory, 2016, arXiv:1507.01526.

    >>> import jax, jrnn
    >>> cell = jrnn.GridLSTM(8, depth=6, tied=True)
    >>> len(cell.initial_carry(cell.init(jax.random.key(0), in_features=3)))
    6
    """

    hidden: Width
    _: KW_ONLY
    depth: Width = 2
    tied: bool = False
    depth_last: bool = False
    forget_bias: float = 1.0

    @property
    def out_features(self) -> int:
        return self.hidden

    def init(self, key: Array, in_features: int) -> GridLSTMParams:
        k_in, *keys = jax.random.split(key, 1 + (1 if self.tied else self.depth))
        biases = 0, self.forget_bias, 0, 0

        def layer(key: Array) -> GridLayer:
            return GridLayer(
                *(draw_gates(k, self.hidden, self.hidden, biases) for k in jax.random.split(key))
            )

        w_in = glorot(k_in, (in_features, 2 * self.hidden), blocks=2)
        return GridLSTMParams(w_in, tuple(map(layer, keys)))

    def initial_carry(
        self, params: GridLSTMParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> tuple[LSTMCarry, ...]:
        zeros = ([zero_state(params, batch_shape, self.hidden) for _ in "hc"] for _ in range(self.depth))
        return tuple(LSTMCarry(*pair) for pair in zeros)

    @broadcasting
    def step(
        self, params: GridLSTMParams, carry: tuple[LSTMCarry, ...], x: Any
    ) -> tuple[tuple[LSTMCarry, ...], Array]:
        d, e = split(x @ params.w_in, 2)
        layers, carries = params.layers * (self.depth if self.tied else 1), []
        for (time, depth), (h, c) in zip(layers, carry, strict=True):
            new = _lstm(time, c, d, h)
            d, e = _lstm(depth, e, d, new.h if self.depth_last else h)
            carries.append(new)
        return tuple(carries), d


def _lstm(params: GateParams, c: Array, below: Array, before: Array) -> LSTMCarry:
    """One block along one axis."""
    i, f, g, o = gates(below @ params.w_ih + before @ params.w_hh + params.b, "ifgo", candidate="g")
    c = f * c + i * g
    return LSTMCarry(jnp.tanh(o * c), c)
