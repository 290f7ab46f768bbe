"""Traits of cells and layers: the time axes of their outputs, and whether they draw noise."""

from collections.abc import Callable
from typing import Any

import jax

from jrnn._checks import brief
from jrnn.cell import carry_spec, structure_of


def out_axes(model: Any) -> Any:
    """The time axes of the outputs of a cell or layer: 0, None, or a tree of both."""
    return getattr(model, "out_axes", 0)


def require_time(where: str, model: Any) -> None:
    """Raise a ValueError unless all outputs of a model have a time axis."""
    if out_axes(model) != 0:
        raise ValueError(f"{where} needs outputs at every step, which {brief(model)} does not have")


def map_time(f: Callable[[Any], Any], axes: Any, ys: Any) -> Any:
    """Apply `f` to the leaves of `ys` that have a time axis; `axes` is a tree prefix of `ys`."""

    def visit(axis: Any, part: Any) -> Any:
        return part if axis is None else jax.tree.map(f, part)

    return jax.tree.map(visit, axes, ys, is_leaf=lambda axis: axis is None)


def is_noisy(model: Any, params: Any) -> bool:
    """True if a cell or layer draws noise from a key."""
    if hasattr(model, "is_noisy"):
        return bool(model.is_noisy(params))
    drawn = carry_spec(model, params, key=jax.random.key(0))
    return structure_of(drawn) != structure_of(carry_spec(model, params))
