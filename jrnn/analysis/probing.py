"""Perturbations of every state of a model: zeros that are added, and are there for their gradient."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jrnn.analysis.states import state_leaves, state_places
from jrnn.cell import is_layer
from jrnn.jaxprs import shifted
from jrnn.unrolling.driver import body_of
from jrnn.unrolling.methods import Loop, Method

Shifts = list[dict[str, Any]]  # a loop each: path of a leaf of the state -> (time, *its shape)


@dataclass(frozen=True)
class Shifted:
    """A cell to whose state something is added where its step computes it, so that its output sees the sum.

    Its x is `(x, {path of a leaf of the state: what is added})`, its carry that of the cell.
    """

    cell: Any

    @property
    def out_features(self) -> int:
        return int(self.cell.out_features)

    def init(self, key: Array, in_features: int) -> Any:
        return self.cell.init(key, in_features)

    def initial_carry(self, params: Any, batch_shape: Any = (), *, key: Array | None = None) -> Any:
        return self.cell.initial_carry(params, batch_shape, key=key)

    def step(self, params: Any, carry: Any, x: Any) -> tuple[Any, Any]:
        x, by = x
        places = state_places(self.cell, params, carry)
        result: tuple[Any, Any] = shifted(
            self.cell.step, {places[name]: shift for name, shift in by.items()}, params, carry, x
        )
        return result


@dataclass(eq=False)
class Shifting:
    """A method that adds `shifts` to the states of the loops that it runs, in their order.

    Run without them it takes note of their types, and of how many axes a state has behind its batch axes.
    """

    method: Method
    shifts: Shifts | None = None
    types: Shifts = field(default_factory=list)
    ranks: list[dict[str, int]] = field(default_factory=list)

    def run(self, loop: Loop) -> tuple[Any, Any]:
        """Return the carry after the last step, and the outputs of all steps."""
        cell, (params, _), number = loop.cell, loop.constants, len(self.types)
        leaves = state_leaves(cell, params, loop.carry)
        single = state_leaves(cell, params, cell_carry(cell, params))
        self.types.append(
            {n: jax.ShapeDtypeStruct((loop.length, *leaf.shape), leaf.dtype) for n, leaf in leaves.items()}
        )
        self.ranks.append({name: leaf.ndim for name, leaf in single.items()})
        if self.shifts is None:
            return self.method.run(loop)
        x, valid, reset = loop.xs
        xs = ((x, self.shifts[number]), valid, reset)
        shifted_cell = Shifted(cell)
        return self.method.run(replace(loop, cell=shifted_cell, body=body_of(shifted_cell), xs=xs))


def cell_carry(cell: Any, params: Any) -> Any:
    """Shapes of the carry of one sequence of a cell."""
    return jax.eval_shape(cell.initial_carry, params)


def loop_names(model: Any, count: int) -> list[str]:
    """What the loops of a model are called: the paths of its cells, "layers[1].forward"; "" of a cell."""
    names = list(_paths(model, ""))
    return names if len(names) == count else [f"loops[{i}]" for i in range(count)]


def _paths(model: Any, path: str) -> list[str]:
    if not is_layer(model):
        return [path]
    if not is_dataclass(model):
        return []
    found: list[str] = []
    for entry in fields(model):
        value = getattr(model, entry.name)
        inner = {f"{entry.name}": value}
        if isinstance(value, tuple):
            inner = {f"{entry.name}[{i}]": v for i, v in enumerate(value)}
        for name, part in inner.items():
            if is_layer(part) or hasattr(part, "step"):
                found += _paths(part, f"{path}.{name}".lstrip("."))
    return found


def gradients_of_states(
    run: Callable[[Method], Array], method: Method
) -> tuple[Array, Shifts, list[dict[str, int]]]:
    """Value of a scalar function of the method that its loops are run by, and its gradients by the states.

    Args:
      run: runs a model by the method given, and returns a loss.
      method: how the loops are run.

    Returns:
      `(loss, gradients, ranks)`: of each loop and leaf of its state, (time, *its shape), and how many axes
      of it stand behind the batch axes.
    """
    probe = Shifting(method)
    jax.eval_shape(lambda: run(probe))
    zeros = [{name: jnp.zeros(t.shape, t.dtype) for name, t in types.items()} for types in probe.types]
    loss, gradients = jax.value_and_grad(lambda shifts: run(Shifting(method, shifts)))(zeros)
    return loss, gradients, probe.ranks
