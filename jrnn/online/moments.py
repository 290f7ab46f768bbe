"""One step of all rows of a batch, as the methods see it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._checks import brief
from jrnn.cell import Shape
from jrnn.online._influence import UNROLLED, BackwardOnly, Derivative, derivative_of, structure_at
from jrnn.online._rows import Row, state_step, unmasked, where_valid
from jrnn.online._structure import Structure


@dataclass(frozen=True, eq=False)
class Moment:
    """One step of all rows: where it begins, and the functions of one row.

    Args:
      cell: the cell.
      shape: batch axes inside of a row.
      batched: True if there is an axis of rows.
      theta: the parameters that learn.
      v: the state before the step as vectors, (rows, D), or (D,).
      row: all that the step reads, with the axis of rows but for the parameters.
      loss: outputs of the step -> the loss.
    """

    cell: Any
    shape: Shape
    batched: bool
    theta: list[Array]
    v: Array
    row: Row
    loss: Callable[[Any], Array]

    def each(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function(v, row, *args)` for each row."""
        if not self.batched:
            return function(self.v, self.row, *args)
        axes: Any = (0, Row(None, 0, 0, jax.tree.map(lambda _: 0, self.row.flags)), *[0] * len(args))
        return jax.vmap(function, in_axes=axes)(self.v, self.row, *args)

    def moved(self, function: Callable[..., Any], influence: Any) -> Any:
        """`function(v, row, influence)` for each row, without masks; of invalid rows the given influence."""

        def one(v: Array, row: Row, influence: Any) -> Any:
            return where_valid(row.flags.valid, function(v, unmasked(row), influence), influence)

        return self.each(one, influence)

    def state_step(self, theta: list[Array], v: Array, row: Row) -> Array:
        """The state of a row after the step."""
        return state_step(self.cell, self.shape)(theta, v, row)

    def types(self) -> tuple[list[Any], Any, Row]:
        """Types of the arguments of `state_step`, without masks."""

        def of_row(leaf: Any) -> Any:
            return jax.ShapeDtypeStruct(leaf.shape[1:] if self.batched else leaf.shape, leaf.dtype)

        whole = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (self.theta, self.row.params))
        rows = jax.tree.map(of_row, unmasked(self.row)._replace(params=None))
        return whole[0], of_row(self.v), rows._replace(params=whole[1])

    def derivative(self, v: Any, row: Row) -> Derivative | BackwardOnly:
        """The derivative of the step of a row."""
        return derivative_of(self.cell, self.shape, self.theta, v, row)

    def derived(self, v: Any, row: Row, steps: int | None) -> tuple[Derivative | BackwardOnly, Structure]:
        """The derivative of a row's step and its structure; in terms of its new state if few slots do."""
        for held in (True, False) if steps == 1 else (False,):
            derivative = derivative_of(self.cell, self.shape, self.theta, v, row, held)
            structure = structure_at(derivative, self.theta, v, row, (steps, False))
            few = all(len(leaf.slots) <= UNROLLED for leaf in structure.leaves)
            if few and structure.ordered:
                break
        return derivative, structure

    def structure(self, steps: int | None, local: bool = False) -> Structure:
        """The structure of the step of a row; see `structure_of`."""
        theta, v, row = self.types()
        if not local:
            return self.derived(v, row, steps)[1]
        return structure_at(self.derivative(v, row), theta, v, row, (steps, True))

    def at(self, v: Array, row: Row) -> "Moment":
        """Another step of the same rows."""
        return replace(self, v=v, row=row)

    def reaching(self) -> list[int]:
        """The parameters that reach the state in one step."""
        return [leaf.number for leaf in self.structure(1).leaves]

    def keys(self, seed: int) -> Array:
        """A key for each row."""
        key = jax.random.key(seed)
        return jax.random.split(key, len(self.v)) if self.batched else key

    def rows(self, tree: Any) -> Any:
        """A tree with an axis of rows, of length 1 if there is none."""
        return tree if self.batched else jax.tree.map(lambda a: a[None], tree)

    def started(self, leaf: Array) -> Array:
        """The same for every row."""
        return jnp.broadcast_to(leaf, (len(self.v), *leaf.shape)) if self.batched else leaf


class OnlineMethod(Protocol):
    """The way in which an `Online` remembers the past: a frozen dataclass with two methods."""

    def start(self, moment: Moment) -> Any:
        """The memory before the first step."""
        ...

    def learn(
        self, moment: Moment, influence: Any, direct: list[Array], adjoint: Array
    ) -> tuple[Any, list[Array]]:
        """The memory after a step, and the gradient.

        Args:
          moment: the step.
          influence: what is remembered before it.
          direct: the gradient of the loss with the state before the step held constant.
          adjoint: (rows..., D), the derivative of the loss by that state.
        """
        ...


def require_forward(method: Any, moment: Moment, derivative: Derivative | BackwardOnly) -> Derivative:
    """Return a derivative, or raise a ValueError."""
    if isinstance(derivative, BackwardOnly):
        raise ValueError(
            f"method={method} cannot run {brief(moment.cell)}: its step has no forward derivative "
            "(a custom_vjp); RTRL, SnAp and Truncated run it"
        )
    return derivative
