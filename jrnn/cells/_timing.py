"""Time between inputs: the stream `(values, dt)` of cells for irregular series."""

from typing import Any

import jax.numpy as jnp
from jax import Array


def timed(cell: Any, x: Any) -> tuple[Array, Any]:
    """Split the input of one step into values and dt, (..., 1); with values alone, dt is 1."""
    if not isinstance(x, tuple):
        return x, 1.0
    shapes = [jnp.shape(part) for part in x]
    if len(x) != 2 or shapes[1] != shapes[0][:-1]:
        raise ValueError(
            f"{type(cell).__name__}: x must be values or (values, dt), with a dt for every vector of values, "
            f"got a tuple of shapes {shapes}"
        )
    values, dt = x
    return values, dt[..., None].astype(values.dtype)
