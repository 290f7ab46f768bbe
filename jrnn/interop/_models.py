"""Models made of converted parts, and taken apart again: what all formats share."""

from collections.abc import Callable, Iterable
from typing import Any

import jax

from jrnn._checks import brief
from jrnn.cell import in_ndim, is_layer
from jrnn.cells.maps import Map
from jrnn.combinators import Dropout, Stack
from jrnn.combinators.reparametrising import Tie
from jrnn.layers import Sequential


def chained(parts: Iterable[tuple[Any, Any] | Callable[..., Any]]) -> tuple[Any, Any]:
    """Make one model of `(model, params)` in the order in which they are applied, functions among them.

    Returns:
      `(model, params)`: a `Stack` of cells, a `Sequential` where there are layers, or the only part.

    Raises:
      ValueError: a part needs inputs of another width than what comes before it gives.
    """
    models: list[Any] = []
    params: list[Any] = []
    for part in parts:
        if callable(part) and not isinstance(part, tuple):
            if not models:
                raise ValueError(f"{brief(part)} comes first: the width of what it reads is not known")
            part = (Map(part, models[-1].out_features), ())
        model, own = part
        needed = width_of(model, own)
        if models and needed not in (None, models[-1].out_features):
            before = models[-1]
            raise ValueError(
                f"{brief(model)} needs inputs of width {needed}, "
                f"{brief(before)} before it gives {before.out_features}"
            )
        models.append(model)
        params.append(own)
    if len(models) == 1:
        return models[0], params[0]
    chain = Sequential(tuple(models)) if any(map(is_layer, models)) else Stack(tuple(models))
    return chain, tuple(params)


def width_of(model: Any, params: Any) -> int | None:
    """Width of the inputs of a converted part, which its first weight multiplies; None if it takes any."""
    leaves = jax.tree.leaves(params)
    return int(leaves[0].shape[-2]) if leaves and in_ndim(model) else None


def without_noise(model: Any) -> Any:
    """A cell without a dropout around it, which does nothing in evaluation and has no parameters."""
    return model.cell if isinstance(model, Dropout) else model


def parts_of(model: Any, params: Any) -> list[tuple[Any, Any]] | None:
    """Take a `Stack` or `Sequential` apart, shared weights in each of their places; None for other models."""
    if isinstance(model, Tie):
        return parts_of(model.cell, model.weights(params))
    if not isinstance(model, Stack | Sequential):
        return None
    return list(zip(model.cells if isinstance(model, Stack) else model.layers, params, strict=True))
