"""Blocks of language models: a cell between a norm, a convolution, a gate and a skip connection."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, NamedTuple

import jax
from jax import Array

from jrnn._checks import require_cell
from jrnn._fields import AnyCell, Lag, checked
from jrnn._timing import is_timed, timed_inside, values_and_dt
from jrnn.cell import Cell, Shape, broadcasting, is_linear
from jrnn.cells._activations import Activation, activation
from jrnn.cells.history import ShortConv
from jrnn.cells.maps import Dense, Norm
from jrnn.cells.minimal import InputParams, draw_input
from jrnn.combinators.stacking import Residual, Stack, check_features, check_sum


class GatedParams(NamedTuple):
    """Parameters of `Gated`."""

    cell: Any
    gate: InputParams  # (in, out_features)


@checked
@dataclass(frozen=True)
class Gated:
    """Output gate that sees the input alone; the recurrence does not see it.

        yₜ = cell(xₜ) · f(xₜ w + b)

    The carry is that of the cell. `Stack((Gated(Dense(n)), Dense(features)))` is a gated feed-forward layer
    (SwiGLU).

    Args:
      cell: any cell that takes features.
      activation: f.

    Raises:
      ValueError: a cell that takes tokens.

    Reference: Dauphin, Fan, Auli, Grangier, Language modeling with gated convolutional networks, 2017,
    arXiv:1612.08083; with silu Shazeer, GLU variants improve transformer, 2020, arXiv:2002.05202.

    >>> import jrnn
    >>> jrnn.Gated(jrnn.GRU(8)).out_features
    8
    """

    cell: AnyCell
    _: KW_ONLY
    activation: Activation = "silu"
    timed = timed_inside

    def __post_init__(self) -> None:
        check_features("Gated", self.cell)

    @property
    def linear(self) -> bool:
        return is_linear(self.cell)

    @property
    def out_features(self) -> int:
        return self.cell.out_features

    def init(self, key: Array, in_features: int) -> GatedParams:
        k_cell, k_gate = jax.random.split(key)
        gate = draw_input(k_gate, in_features, self.out_features, 1)
        return GatedParams(self.cell.init(k_cell, in_features), gate)

    def initial_carry(self, params: GatedParams, batch_shape: Shape = (), *, key: Array | None = None) -> Any:
        return self.cell.initial_carry(params.cell, batch_shape, key=key)

    @broadcasting
    def step(self, params: GatedParams, carry: Any, x: Any) -> tuple[Any, Array]:
        values, _ = values_and_dt(self, x)
        gate = activation(self.activation)(values @ params.gate.w_ih + params.gate.b)
        carry, y = self.cell.step(params.cell, carry, x)
        return carry, y * gate


@checked
@dataclass(frozen=True)
class Block:
    """Layer of a language model: norm, convolution, cell, norm of its heads, gate, read-out and skip.

        u = norm(xₜ)
        z = norm per head of cell(silu(conv(u)))
        yₜ = xₜ + (z · silu(u w + b)) w_out

    The norms are `Norm`, the convolution `ShortConv`, the gate `Gated`, the read-out `Dense` without a bias:
    `parts` is the chain, whose parameters and carry these are. Papers convolve queries, keys and values after
    they have been projected, each on its own; here all see the same convolution of the input.

    Args:
      cell: a cell as wide as its input; its norm is by heads if it has any.
      k: steps that the convolution looks back; 0: there is none, as around RWKV.

    Raises:
      ValueError: a cell that takes tokens; at `init`, input and output that differ in width.

    Reference: Sun et al., Retentive network, 2023, arXiv:2307.08621, and with the convolution Yang, Kautz,
    Hatamizadeh, Gated delta networks, 2025, arXiv:2412.06464, figure 1.

    >>> import jrnn
    >>> layers = [jrnn.Block(jrnn.GatedDeltaNet(64, heads=4)) for _ in range(2)]
    >>> model = jrnn.Stack((jrnn.Embed(64), *layers, jrnn.Dense(100)))
    """

    cell: Annotated[Cell[Any, Any], require_cell]
    _: KW_ONLY
    k: Lag = 3

    def __post_init__(self) -> None:
        check_features("Block", self.cell)

    @property
    def parts(self) -> Residual[Any, Any]:
        """The chain of cells that it is."""
        width = self.cell.out_features
        before = (ShortConv(width, k=self.k),) if self.k else ()
        norm = Norm(width, heads=getattr(self.cell, "heads", 1))
        gated = Gated(Stack((*before, self.cell, norm)))
        return Residual(Stack((Norm(width), gated, Dense(width, bias=False))))

    @property
    def linear(self) -> bool:
        return is_linear(self.parts)

    @property
    def timed(self) -> bool:
        return is_timed(self.parts)

    @property
    def out_features(self) -> int:
        return self.cell.out_features

    def init(self, key: Array, in_features: int) -> Any:
        check_sum("Block", self.cell, in_features)
        return self.parts.init(key, in_features)

    def initial_carry(self, params: Any, batch_shape: Shape = (), *, key: Array | None = None) -> Any:
        return self.parts.initial_carry(params, batch_shape, key=key)

    def step(self, params: Any, carry: Any, x: Any) -> tuple[Any, Array]:
        return self.parts.step(params, carry, x)
