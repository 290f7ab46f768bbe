"""Time between inputs: x = `(values, dt)` of cells for irregular series, and of models with one inside.

`TreeLSTM` has the number of children in the place of dt.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array


def is_timed(cell: Any) -> bool:
    """True if a cell declares that its x may be `(values, dt)`."""
    return getattr(cell, "timed", False) is True


timed_inside: Any = property(lambda self: is_timed(self.cell), doc="Whether the cell inside takes dt.")


def values_and_dt(cell: Any, x: Any) -> tuple[Any, Any]:
    """Split x = `(values, dt)`; dt is None if x has none, or the cell takes none."""
    return x if is_timed(cell) and isinstance(x, tuple) and len(x) == 2 else (x, None)


def with_dt(cell: Any, values: Any, dt: Any) -> Any:
    """The x of a cell or layer inside: `(values, dt)` if it takes dt and there is one."""
    return values if dt is None or not is_timed(cell) else (values, dt)


def values_and_time(cell: Any, x: Any) -> tuple[Array, Any]:
    """Split the x of a timed cell into values and dt, (..., 1); with values alone, dt is 1."""
    values, dt = values_and_dt(cell, x)
    if not isinstance(x, tuple):
        return values, 1.0
    if dt is None or jnp.shape(dt) != jnp.shape(values)[:-1]:
        raise ValueError(
            f"{type(cell).__name__}: x must be values or (values, dt), with a dt for every vector of values, "
            f"got a tuple of shapes {[jnp.shape(part) for part in x]}"
        )
    return values, dt[..., None].astype(values.dtype)
