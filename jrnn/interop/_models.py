"""Composing models from converted parts, and splitting them again, for all formats."""

from collections.abc import Callable, Iterable
from typing import Any

import jax

from jrnn._checks import brief
from jrnn.cell import in_ndim, is_layer
from jrnn.cells.maps import Map
from jrnn.combinators import Dropout, Stack
from jrnn.combinators.reparametrizing import Tie
from jrnn.layers import Sequential


def chained(parts: Iterable[tuple[Any, Any] | Callable[..., Any]]) -> tuple[Any, Any]:
    """Compose one model from `(model, params)` pairs and functions, in the order in which they are applied.

    Returns:
      `(model, params)`: a `Stack` of cells, a `Sequential` if there are layers, or the only part.

    Raises:
      ValueError: a part needs inputs of a different width than the previous part gives.
    """
    models: list[Any] = []
    params: list[Any] = []
    for part in parts:
        if callable(part) and not isinstance(part, tuple):
            if not models:
                raise ValueError(f"{brief(part)} comes first, so the width of its inputs is unknown")
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
    """Width of the inputs of a converted part, from its first weight; None if it takes any."""
    leaves = jax.tree.leaves(params)
    return int(leaves[0].shape[-2]) if leaves and in_ndim(model) else None


def without_noise(model: Any) -> Any:
    """A cell without dropout around it, which does nothing in evaluation and has no parameters."""
    return model.cell if isinstance(model, Dropout) else model


def parts_of(model: Any, params: Any) -> list[tuple[Any, Any]] | None:
    """Split a `Stack` or `Sequential`, repeating shared weights; None for other models."""
    if isinstance(model, Tie):
        return parts_of(model.cell, model.weights(params))
    if not isinstance(model, Stack | Sequential):
        return None
    return list(zip(model.cells if isinstance(model, Stack) else model.layers, params, strict=True))
