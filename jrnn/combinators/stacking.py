"""Depth: cells on top of cells."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, Generic, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._checks import check_given_width, check_in_features, require_cell
from jrnn._fields import AnyCell, Rate, Width, checked
from jrnn._timing import is_timed, timed_inside, values_and_dt, with_dt
from jrnn.cell import C, Cell, P, Shape, in_ndim, is_linear, key_or_none
from jrnn.cells.maps import check_chain
from jrnn.combinators.noise import drop
from jrnn.initializers import glorot


class StackCarry(NamedTuple):
    """Carry of `Stack`."""

    cells: tuple[Any, ...]  # one carry per cell
    key: Array | None  # noise: advanced by every step; None without dropout or in evaluation


@checked
@dataclass(frozen=True)
class Stack:
    """Deep cell: each cell reads the output of the one below at the same step.

        h⁰ₜ = xₜ
        (carryˡₜ, hˡₜ) = cellˡ(carryˡₜ₋₁, hˡ⁻¹ₜ),   l = 1 … L
        yₜ = hᴸₜ

    Cells may be of any kind and width; params is the tuple of their parameters. `dropout` acts on the values
    between cells, with a new mask at every step, and never inside a recurrence (like torch's `dropout`
    argument); `Dropout` is the variational form. Of x = `(values, dt)`, dt goes to every cell that takes it.

    Args:
      cells: the cells, bottom first; a list becomes a tuple, a function becomes a `Map` of the output below.
      dropout: rate between cells, in [0, 1).

    Raises:
      TypeError: an entry is not a cell.
      ValueError: no cells, or a rate outside [0, 1).

    Reference: Zaremba, Sutskever, Vinyals, Recurrent neural network regularization, 2014,
    arXiv:1409.2329.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.Stack((jrnn.GRU(8), jrnn.LSTM(4)))
    >>> params = cell.init(jax.random.key(0), 3)
    >>> jrnn.unroll(cell, params, jnp.ones((5, 2, 3)))[1].shape
    (5, 2, 4)
    """

    cells: Annotated[tuple[Any, ...], check_chain(require_cell)]
    _: KW_ONLY
    dropout: Rate = 0.0

    def __post_init__(self) -> None:
        if not self.cells:
            raise ValueError("Stack: cells is empty, needs at least one cell")

    @property
    def in_ndim(self) -> int:
        return in_ndim(self.cells[0])

    @property
    def linear(self) -> bool:
        return all(is_linear(cell) for cell in self.cells)

    @property
    def timed(self) -> bool:
        return any(is_timed(cell) for cell in self.cells)

    @property
    def out_features(self) -> int:
        return self.cells[-1].out_features

    def init(self, key: Array, in_features: int) -> tuple[Any, ...]:
        widths = [in_features, *(cell.out_features for cell in self.cells)]
        keys = jax.random.split(key, len(self.cells))
        return tuple(c.init(k, n) for c, k, n in zip(self.cells, keys, widths, strict=False))

    def initial_carry(
        self, params: tuple[Any, ...], batch_shape: Shape = (), *, key: Array | None = None
    ) -> StackCarry:
        *keys, own = key_or_none(key, len(self.cells) + 1)
        carries = (
            cell.initial_carry(p, batch_shape, key=k)
            for cell, p, k in zip(self.cells, params, keys, strict=True)
        )
        return StackCarry(tuple(carries), own if self.dropout > 0 else None)

    def step(self, params: tuple[Any, ...], carry: StackCarry, x: Any) -> tuple[StackCarry, Any]:
        key, *keys = key_or_none(carry.key, len(self.cells))
        y, dt = values_and_dt(self, x)
        carries = []
        for index, cell in enumerate(self.cells):
            noise = keys[index - 1] if index else None
            y = y if noise is None else drop(noise, self.dropout, y)
            inner, y = cell.step(params[index], carry.cells[index], with_dt(cell, y, dt))
            carries.append(inner)
        return StackCarry(tuple(carries), key), y


def check_sum(where: str, cell: Any, in_features: int) -> None:
    """Raise unless the output of a cell is as wide as its input, to which it is added."""
    check_in_features(in_features)
    if in_features != cell.out_features:
        raise ValueError(
            f"{where}: {cell} gives {cell.out_features} features, "
            f"needs in_features={cell.out_features} to add them to, got {in_features}"
        )


def check_features(where: str, cell: Any) -> None:
    """Raise for a cell that takes tokens, where its input is used as features too."""
    if in_ndim(cell) == 0:
        raise ValueError(f"{where}: {cell} takes tokens, which have no features: put Embed before it")


@checked
@dataclass(frozen=True)
class Residual(Generic[P, C]):
    """Skip connection around a cell.

        yₜ = xₜ + cell(xₜ)

    Parameters and carry are those of the cell. `Residual(Stack((Norm(features), cell)))` is pre-norm.

    Args:
      cell: a cell with output and input of equal width.

    Raises:
      ValueError: a cell that takes tokens; input and output differ in width.

    Reference: He et al., Deep residual learning for image recognition, 2015, arXiv:1512.03385; for
    recurrent stacks Wu et al., 2016, arXiv:1609.08144.

    >>> import jrnn
    >>> jrnn.Residual(jrnn.GRU(8))
    Residual(cell=GRU(hidden=8))
    """

    cell: Annotated[Cell[P, C], require_cell]
    timed = timed_inside

    def __post_init__(self) -> None:
        check_features("Residual", self.cell)

    @property
    def linear(self) -> bool:
        return is_linear(self.cell)

    @property
    def out_features(self) -> int:
        return self.cell.out_features

    def init(self, key: Array, in_features: int) -> P:
        check_sum("Residual", self.cell, in_features)
        return self.cell.init(key, in_features)

    def initial_carry(self, params: P, batch_shape: Shape = (), *, key: Array | None = None) -> C:
        return self.cell.initial_carry(params, batch_shape, key=key)

    def step(self, params: P, carry: C, x: Any) -> tuple[C, Any]:
        carry, y = self.cell.step(params, carry, x)
        x, _ = values_and_dt(self, x)
        if y.shape != x.shape:
            raise ValueError(f"Residual: cannot add x of shape {x.shape} and the output of shape {y.shape}")
        return carry, x + y


@checked
@dataclass(frozen=True)
class Skip(Generic[P, C]):
    """Concatenating skip connection: the next cell reads both the input and the output.

        yₜ = [xₜ, cell(xₜ)]

    Parameters and carry are those of the cell.

    Args:
      cell: any cell that takes features.
      features: width of x.

    Raises:
      ValueError: a width below 1, or a cell that takes tokens; at `init`, an input of another width.

    Reference: Huang, Liu, van der Maaten, Weinberger, Densely connected convolutional networks, 2017,
    arXiv:1608.06993; from the input to every layer of a recurrent stack Graves, 2013, arXiv:1308.0850.

    >>> import jrnn
    >>> jrnn.Skip(jrnn.GRU(8), 3).out_features
    11
    """

    cell: Annotated[Cell[P, C], require_cell]
    features: Width
    timed = timed_inside

    def __post_init__(self) -> None:
        check_features("Skip", self.cell)

    @property
    def linear(self) -> bool:
        return is_linear(self.cell)

    @property
    def out_features(self) -> int:
        return self.features + self.cell.out_features

    def init(self, key: Array, in_features: int) -> P:
        check_given_width(self, in_features, self.features)
        return self.cell.init(key, in_features)

    def initial_carry(self, params: P, batch_shape: Shape = (), *, key: Array | None = None) -> C:
        return self.cell.initial_carry(params, batch_shape, key=key)

    def step(self, params: Any, carry: Any, x: Any) -> tuple[Any, Array]:
        carry, y = self.cell.step(params, carry, x)
        values, _ = values_and_dt(self, x)
        return carry, jnp.concatenate([values, y], -1)


class ProjectParams(NamedTuple):
    """Parameters of `Project`."""

    cell: Any
    w: Array  # (cell.out_features, features)


@checked
@dataclass(frozen=True)
class Project:
    """Linear read-out of a cell, without a bias; the recurrence does not see it.

        yₜ = cell(xₜ) w

    For a bias or an activation use `Stack((cell, Dense(features)))`. The carry is that of the cell.

    Args:
      cell: any cell.
      features: width of y.

    Raises:
      ValueError: a width below 1.

    Reference: the output layer V of Elman, 1990, without its bias.

    >>> import jrnn
    >>> jrnn.Project(jrnn.LSTM(8), 2).out_features
    2
    """

    cell: AnyCell
    features: Width
    timed = timed_inside

    @property
    def in_ndim(self) -> int:
        return in_ndim(self.cell)

    @property
    def linear(self) -> bool:
        return is_linear(self.cell)

    @property
    def out_features(self) -> int:
        return self.features

    def init(self, key: Array, in_features: int) -> ProjectParams:
        k_cell, k_w = jax.random.split(key)
        w = glorot(k_w, (self.cell.out_features, self.features))
        return ProjectParams(self.cell.init(k_cell, in_features), w)

    def initial_carry(
        self, params: ProjectParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> Any:
        return self.cell.initial_carry(params.cell, batch_shape, key=key)

    def step(self, params: ProjectParams, carry: Any, x: Any) -> tuple[Any, Array]:
        carry, y = self.cell.step(params.cell, carry, x)
        return carry, y @ params.w


@checked
@dataclass(frozen=True)
class SkipStack:
    """Deep cell with all short cuts: each cell reads the input too, and y is all outputs side by side.

        (carry¹ₜ, h¹ₜ) = cell¹(carry¹ₜ₋₁, xₜ)
        (carryˡₜ, hˡₜ) = cellˡ(carryˡₜ₋₁, [xₜ, hˡ⁻¹ₜ]),   l = 2 … L
        yₜ = [h¹ₜ, …, hᴸₜ]

    It is `deep_rnn_with_skip_connections` in Haiku. A `Stack` of `Skip` concatenates more: there, a cell
    reads the outputs of all cells below.

    Args:
      cells: the cells, bottom first, which take features.

    Raises:
      ValueError: no cells, or a first one that takes tokens.

    Reference: Graves, Generating sequences with recurrent neural networks, 2013, arXiv:1308.0850.

    >>> import jrnn
    >>> jrnn.SkipStack((jrnn.LSTM(8), jrnn.LSTM(4))).out_features
    12
    """

    cells: Annotated[tuple[Any, ...], check_chain(require_cell)]

    def __post_init__(self) -> None:
        if not self.cells or in_ndim(self.cells[0]) == 0:
            raise ValueError(f"SkipStack: cells must be one or more that take features, got {self.cells}")

    @property
    def linear(self) -> bool:
        return all(is_linear(cell) for cell in self.cells)

    @property
    def timed(self) -> bool:
        return any(is_timed(cell) for cell in self.cells)

    @property
    def out_features(self) -> int:
        return sum(cell.out_features for cell in self.cells)

    def init(self, key: Array, in_features: int) -> tuple[Any, ...]:
        check_in_features(in_features)
        widths = [0, *(cell.out_features for cell in self.cells)]
        keys = jax.random.split(key, len(self.cells))
        return tuple(c.init(k, in_features + n) for c, k, n in zip(self.cells, keys, widths, strict=False))

    def initial_carry(
        self, params: tuple[Any, ...], batch_shape: Shape = (), *, key: Array | None = None
    ) -> tuple[Any, ...]:
        keys = key_or_none(key, len(self.cells))
        each = zip(self.cells, params, keys, strict=True)
        return tuple(cell.initial_carry(p, batch_shape, key=k) for cell, p, k in each)

    def step(self, params: tuple[Any, ...], carry: tuple[Any, ...], x: Any) -> tuple[tuple[Any, ...], Array]:
        carries: list[Any] = []
        outputs: list[Array] = []
        values, dt = values_and_dt(self, x)
        for cell, p, inner in zip(self.cells, params, carry, strict=True):
            given = jnp.concatenate([values, outputs[-1]], -1) if outputs else values
            inner, y = cell.step(p, inner, with_dt(cell, given, dt))
            carries.append(inner)
            outputs.append(y)
        return tuple(carries), jnp.concatenate(outputs, -1)
