"""Arrays of other libraries: read from any container, and taken by name, each exactly once."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from jrnn._alignment import on_device
from jrnn._checks import brief
from jrnn.unrolling._rounding import native

Size = int | str  # a letter is an unknown size


def array_of(value: Any, name: str) -> np.ndarray[Any, Any]:
    """Read a NumPy, JAX, PyTorch or Keras array, bit for bit.

    Raises:
      ValueError: not real floating-point numbers, such as quantized weights.
    """
    try:
        if hasattr(value, "detach"):  # PyTorch, which cannot convert bfloat16 to NumPy
            value = value.detach().cpu()
            narrow = str(value.dtype) == "torch.bfloat16"
            value = value.float().numpy().astype(ml_dtypes.bfloat16) if narrow else value.numpy()
        array = native(np.asarray(value))
    except (TypeError, ValueError, RuntimeError) as error:  # a packed, quantized or sparse tensor
        raise ValueError(f"{name} must hold floating point numbers, got {brief(value)}") from error
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} must hold floating point numbers, got {array.dtype} of shape {array.shape}")
    return array


def reordered(array: Any, order: Iterable[int], axis: int = -1) -> Any:
    """Reorder the equal parts of an array along an axis, one per gate.

    >>> reordered(np.arange(6), (2, 0, 1))
    array([4, 5, 0, 1, 2, 3])
    """
    order = tuple(order)
    parts = np.split(np.asarray(array), len(order), axis=axis)
    return np.concatenate([parts[place] for place in order], axis=axis)


def to_jax(tree: Any) -> Any:
    """Put arrays on the device unchanged.

    Raises:
      ValueError: float64, which JAX would silently round without jax_enable_x64.
    """

    def put(leaf: Any) -> Any:
        array = on_device(leaf)
        if array.dtype != leaf.dtype:
            raise ValueError(
                f"weights of shape {leaf.shape} are {leaf.dtype}, which JAX rounds to {array.dtype}: turn on "
                "jax_enable_x64, or cast them first"
            )
        return array

    return jax.tree.map(put, tree)


Needs = Mapping[str, tuple[Any, ...]]  # field of a cell -> the weight that it acts on, allowed values


def own_weights(where: str, cell: Any, params: Any, needs: Needs, library: str) -> "Weights":
    """Read the parameters of a cell to be written for a library, if that library has such a cell.

    Raises:
      ValueError: a field of the cell has a value other than those in `needs`.
      TypeError: `params` is not the tuple of such a cell.
    """
    for field, (weight, *allowed) in needs.items():
        if (given := getattr(cell, field)) not in allowed:
            only = " or ".join(map(repr, allowed))
            raise ValueError(
                f"{where}{weight} of {cell}: {library} has no {field}={given!r}, only {only} (see "
                f"jrnn.{type(cell).__name__} for what it means)"
            )
    if not hasattr(params, "_asdict"):
        raise TypeError(f"params of {cell} must be as returned by its init, got {brief(params)}")
    arrays = {where + name: value for name, value in params._asdict().items() if value is not None}
    return Weights(arrays, f"params of {cell}", where)


def keeping(cell: Any, arrays: Iterable[Any]) -> list[Any]:
    """The weights of a GRU whose z keeps the old state, negated if necessary: σ(−a) = 1 − σ(a).

    Raises:
      ValueError: gates other than σ.
    """
    if not cell.z_keeps and cell.gate_activation not in ("sigmoid", "hard_sigmoid"):
        raise ValueError(
            f"w_ih of {cell}: z can only be negated if gates are σ, got {cell.gate_activation!r}"
        )
    sign = 1 if cell.z_keeps else -1
    return [array * np.repeat([1, sign, 1], cell.hidden).astype(array.dtype) for array in arrays]


class Weights:
    """Named arrays, each taken once: missing, unused or misshapen ones are errors.

    >>> weights = Weights({"rnn.w": np.ones((2, 3))}, "a state dict", prefix="rnn.")
    >>> weights.take("w", ("in", 3)).shape
    (2, 3)
    >>> weights.finish()
    """

    def __init__(self, arrays: Mapping[str, Any], source: str, prefix: str = "") -> None:
        self.source, self.prefix = source, prefix
        found = {name: value for name, value in arrays.items() if name.startswith(prefix)}
        if not found:
            raise ValueError(f"{source} has no weight under {prefix!r}, only {_listed(arrays)}")
        self._left = found

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self._left

    def names(self) -> list[str]:
        """List the names that have not been taken, without the prefix."""
        return [name.removeprefix(self.prefix) for name in self._left]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array not taken yet."""
        return tuple(np.shape(self._left[self.prefix + name]))

    def take(self, name: str, shape: tuple[Size, ...]) -> Any:
        """Take an array; checks integers in `shape`, and the number of axes."""
        full = self.prefix + name
        if full not in self._left:
            raise ValueError(f"{self.source} has no weight {full!r}, only {_listed(self._left)}")
        array = array_of(self._left[full], full)
        fits = [not isinstance(n, int) or n == size for n, size in zip(shape, array.shape, strict=False)]
        if array.ndim != len(shape) or not all(fits):
            needed = ", ".join(map(str, shape))
            raise ValueError(f"{full} must have shape ({needed}), got {array.shape}")
        del self._left[full]
        return array

    def finish(self, unused: bool = False) -> None:
        """Raise if arrays remain, unless the caller allows `unused` ones."""
        if self._left and not unused:
            raise ValueError(
                f"{self.source}: no place for {_listed(self._left)}; unused=True drops them, "
                "which changes what the model computes if it uses them"
            )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
