"""Gradients with respect to every state of a model: zeros are added to the states, and differentiated."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn._alignment import expand, on_device, select
from jrnn._jaxprs.naming import shifted
from jrnn.analysis.states import state_leaves, state_places
from jrnn.cell import is_layer
from jrnn.unrolling.methods import Loop, Method

Shifts = list[dict[str, Any]]  # one per loop: path of a state leaf -> (time, *shape of the leaf)


@dataclass(frozen=True)
class Shifted:
    """A cell that adds a shift to its new state before computing its output.

    Its x is `(x, {path of a state leaf: shift})`, its carry that of the cell.
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
    """A method that adds `shifts` to the states of the loops that it runs, in order.

    Without shifts it records their types, the number of state axes after the batch axes, and the direction.
    With `ends`, only the outputs at one step of each sequence pass a gradient.
    """

    method: Method
    shifts: Shifts | None = None
    ends: list[Array | None] | None = None  # one per loop, (batch...); None without states
    types: Shifts = field(default_factory=list)
    ranks: list[dict[str, int]] = field(default_factory=list)
    reverse: list[bool] = field(default_factory=list)
    valid: list[Array | None] = field(default_factory=list)  # (time, leading batch axes); None: all valid

    def run(self, loop: Loop[Any, Any, Any]) -> tuple[Any, Any]:
        """Return the carry after the last step, and the outputs of all steps."""
        cell, params, number = loop.cell, loop.params, len(self.types)
        leaves = state_leaves(cell, params, loop.carry)
        single = state_leaves(cell, params, cell_carry(cell, params))
        self.types.append(
            {n: jax.ShapeDtypeStruct((loop.length, *leaf.shape), leaf.dtype) for n, leaf in leaves.items()}
        )
        self.ranks.append({name: leaf.ndim for name, leaf in single.items()})
        self.reverse.append(loop.reverse)
        if self.shifts is None:
            return self.method.run(loop)
        self.valid.append(loop.valid)
        xs = (loop.xs, self.shifts[number])
        end, ys = self.method.run(replace(loop, cell=Shifted(cell), xs=xs))
        last = self.ends[number] if self.ends else None
        return end, ys if last is None else _cut(ys, last)


def cell_carry(cell: Any, params: Any) -> Any:
    """Shapes of the carry of one sequence of a cell."""
    return jax.eval_shape(cell.initial_carry, params)


def loop_names(model: Any, count: int) -> list[str]:
    """Names of the loops of a model: the paths of its cells, such as "layers[1].forward"; "" for a cell."""
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


def _cut(ys: Any, ends: Array) -> Any:
    """Stop the gradient of all outputs but those at the step `ends`."""

    def cut(y: Array) -> Array:
        if y.ndim <= ends.ndim:
            return y
        here = expand(jnp.arange(y.shape[0]), 1 + ends.ndim) == ends[None]
        return select(here, y, jax.lax.stop_gradient(y))

    return jax.tree.map(cut, ys)


def gradients_of_states(
    run: Callable[[Method], Array], method: Method
) -> tuple[Array, Shifts, list[dict[str, int]]]:
    """Compute a loss and its gradients with respect to the states of all loops.

    Args:
      run: runs a model by the given method, and returns a loss.
      method: how the loops are run.

    Returns:
      `(loss, gradients, ranks)`: for each loop and state leaf the gradients, (time, *shape of the leaf), and
      the number of its axes after the batch axes.
    """
    probe = _probe(run, method)
    loss, _, gradients = _gradients(run, method, probe, None)
    return loss, gradients, probe.ranks


class StateNorms(NamedTuple):
    """Norms of the gradients with respect to the states of a loop, for each leaf (time, batch...)."""

    whole: dict[str, Array]
    by_lag: dict[str, Array]  # through the last output, by steps before it; −1 if there is no such step


def norms_of_states(run: Callable[[Method], Array], method: Method) -> tuple[Array, list[StateNorms]]:
    """The loss, and for each loop the norms of the gradients of the whole loss and of its last step alone.

    The last step of a sequence is the last visited step with a nonzero gradient.
    """
    probe = _probe(run, method)

    def norms(ends: list[Array | None] | None) -> tuple[Array, Any, list[dict[str, Array]]]:
        loss, valid, loops = _gradients(run, method, probe, ends)
        pairs = zip(loops, probe.ranks, strict=True)
        return loss, valid, [{n: _norms(g[n], rank) for n, rank in ranks.items()} for g, ranks in pairs]

    loss, valid, whole = norms(None)
    ends = [_last(found, reverse) for found, reverse in zip(whole, probe.reverse, strict=True)]
    *_, alone = norms(ends)
    return loss, [
        StateNorms(all_of_it, {name: _lagged(norm, *how) for name, norm in through.items()})
        for all_of_it, through, *how in zip(whole, alone, ends, valid, probe.reverse, strict=True)
    ]


def _probe(run: Callable[[Method], Array], method: Method) -> Shifting:
    probe = Shifting(method)
    jax.eval_shape(lambda: run(probe))
    return probe


def _gradients(
    run: Callable[[Method], Array], method: Method, probe: Shifting, ends: list[Array | None] | None
) -> tuple[Array, list[Array | None], Shifts]:
    zeros = [
        {name: on_device(np.zeros(t.shape, t.dtype)) for name, t in found.items()} for found in probe.types
    ]

    def value(shifts: Shifts) -> tuple[Array, list[Array | None]]:
        shifting = Shifting(method, shifts, ends)
        return run(shifting), shifting.valid

    (loss, valid), gradients = jax.value_and_grad(value, has_aux=True)(zeros)
    return loss, valid, gradients


def _last(norms: dict[str, Array], reverse: bool) -> Array | None:
    """The last visited step with a gradient, (batch...), or out of range if none; None without states."""
    if not norms:
        return None
    flows = functools.reduce(jnp.logical_or, [norm != 0 for norm in norms.values()])
    steps = expand(jnp.arange(len(flows)), flows.ndim)
    if reverse:
        return jnp.where(flows, steps, len(flows)).min(0, initial=len(flows))
    return jnp.where(flows, steps, -1).max(0, initial=-1)


def _lagged(norms: Array, ends: Any, valid: Array | None, reverse: bool) -> Array:
    """Reorder norms by steps before the end; inf for NaN, −1 if there is no such step."""
    norms = jnp.where(jnp.isnan(norms), jnp.inf, norms)
    if valid is not None:
        norms = jnp.where(expand(valid, norms.ndim), norms, -1)
    lags = expand(jnp.arange(len(norms)), norms.ndim)
    steps = ends[None] + lags if reverse else ends[None] - lags
    there = (steps >= 0) & (steps < len(norms))
    return jnp.where(there, jnp.take_along_axis(norms, jnp.where(there, steps, 0), 0), -1)


def _norms(gradients: Array, rank: int) -> Array:
    """Norms over the last `rank` axes, each scaled by its own largest entry: squares over- or underflow."""
    lengths = jnp.abs(gradients)
    axes = tuple(range(lengths.ndim - rank, lengths.ndim))
    largest = lengths.max(axes, initial=0, keepdims=True)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return jnp.squeeze(scale, axes) * jnp.sqrt(jnp.square(lengths / scale).sum(axes))
