"""Lengths, masks and resets as per-step flags, and padding replaced by valid inputs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jrnn._alignment import expand, select
from jrnn._checks import brief
from jrnn.cell import Shape


class Schedule(NamedTuple):
    """Per-step flags; `None` if all steps are valid, or none is a reset."""

    valid: Array | None  # (time, leading batch axes), False: the state is kept, and y is 0
    reset: Array | None  # (time, leading batch axes), True: the state is reset before the step


def schedule(steps: int, batch_shape: Shape, lengths: Any, mask: Any, resets: Any, reverse: bool) -> Schedule:
    """Check lengths, mask and resets against the batch, and combine them.

    A step is valid where `mask` is True and t < lengths. Resets at invalid steps are dropped. With `reverse`,
    resets move from the first step of a sequence to the last, which is visited first:

        resets  1 0 0 1 0     two sequences, of three and two steps
        forward 1 0 0 1 0     reverse 0 0 1 0 0, as the last step starts from the initial carry anyway

    Raises:
      ValueError: a wrong shape, dtype or value; the message names the argument.
    """
    valid = None
    if lengths is not None:
        valid = jnp.asarray(valid_steps(lengths, steps, batch_shape))
    if mask is not None:
        mask = _checked_flags("mask", mask, steps, batch_shape)
        ndim = max(mask.ndim, 0 if valid is None else valid.ndim)
        valid = expand(mask, ndim) if valid is None else expand(valid, ndim) & expand(mask, ndim)
    if resets is None:
        return Schedule(valid, None)
    resets = _checked_flags("resets", resets, steps, batch_shape)
    if valid is not None:
        ndim = max(resets.ndim, valid.ndim)
        resets, valid = expand(resets, ndim), expand(valid, ndim)
    return Schedule(valid, _effective(resets, valid, reverse))


def valid_steps(lengths: Any, steps: int, batch_shape: Shape) -> Any:
    """The steps before the end of each sequence, t < lengths, as (time, leading batch axes).

    Of lengths on the host an array of NumPy, since JAX would compile a program for each number of steps.
    """
    lengths = _checked_lengths(lengths, steps, batch_shape)
    if isinstance(lengths, np.ndarray):
        return np.arange(steps).reshape(steps, *[1] * lengths.ndim) < lengths
    return expand(_times(steps), 1 + lengths.ndim) < lengths[None]


def _effective(resets: Array, valid: Array | None, reverse: bool) -> Array:
    if valid is not None:
        resets = resets & valid
    if not reverse:
        return resets
    # In reverse, step t is the first visited of its sequence if the valid step visited before it, the next
    # in time, is the first step of another sequence.
    steps = resets.shape[0]
    valid = jnp.ones_like(resets) if valid is None else jnp.broadcast_to(valid, resets.shape)
    times = expand(_times(steps), resets.ndim)
    following = lax.cummin(jnp.where(valid, times, steps), axis=0, reverse=True)
    following = jnp.concatenate([following[1:], jnp.full_like(following[:1], steps)])
    padded = jnp.concatenate([resets, jnp.zeros_like(resets[:1])])
    return jnp.take_along_axis(padded, following, axis=0) & valid


def fill_padding(xs: Any, valid: Array, axis: Any = None) -> Any:
    """Replace each invalid input by the first valid one of its row, or by ones if there is none.

    Thus padding, even NaN, affects neither values nor gradients: masking after the step would leave NaN · 0
    in the gradient, and so would zeros in a step with a logarithm or a norm. If the steps are split over an
    axis of a mesh, a row that is all padding in a stretch takes its input from another one.
    """

    def fill(x: Array) -> Array:
        if x.shape[1 : valid.ndim] != valid.shape[1:]:
            raise ValueError(
                f"a leaf of xs has shape {x.shape}, with lengths or a mask of rows {valid.shape[1:]} needs "
                "(time, rows, ...): repeat what the rows share"
            )
        example, known = _first_valid(x, valid)
        example = lax.stop_gradient(example)  # nothing valid reads it, so its derivative is zero
        if axis is not None:
            example, known = _first_valid(
                *(lax.all_gather(leaf, axis, tiled=True) for leaf in (example, known))
            )
        of_none = jnp.ones_like if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.zeros_like
        return select(valid, x, jnp.broadcast_to(select(known, example, of_none(example)), x.shape))

    return xs if valid.shape[0] == 0 else jax.tree.map(fill, xs)


def _first_valid(x: Array, valid: Array) -> tuple[Array, Array]:
    """The first valid input of each row, (1, ...), and whether there is one."""
    first = lax.expand_dims(lax.argmax(valid, 0, jnp.int32), [0])
    return jnp.take_along_axis(x, expand(first, x.ndim), axis=0), valid.any(axis=0, keepdims=True)


def _times(steps: int) -> Array:
    return jnp.arange(steps, dtype=jnp.int32)  # the dtype of lengths, also under x64


def _checked_lengths(lengths: Any, steps: int, batch_shape: Shape) -> Any:
    lengths = as_array("lengths", lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"lengths must be integers, got {lengths.dtype}")
    if lengths.shape != batch_shape[: lengths.ndim]:
        raise ValueError(
            f"lengths has shape {lengths.shape}, needs {_prefixes(batch_shape)}: one length per sequence"
            f"{_swapped(lengths.shape, steps)}"
        )
    check_range(lengths, steps)
    if isinstance(lengths, np.ndarray) and isinstance(steps, int):
        return lengths  # in range, in any dtype
    most = min(steps, int(np.iinfo(lengths.dtype).max)) if isinstance(steps, int) else steps
    if isinstance(lengths, np.ndarray):  # its dtype may be one that JAX lacks without x64
        return jnp.asarray(np.minimum(lengths, most).astype(np.int32))
    return jnp.minimum(lengths, most).astype(jnp.int32)


def check_range(lengths: Any, steps: int) -> None:
    """Raise if lengths that are known are negative, or more than the number of steps."""
    low, high = _range(lengths)
    if low < 0 or (isinstance(steps, int) and high > steps):
        raise ValueError(f"lengths must lie between 0 and the {steps} steps of xs, got {low} to {high}")


def on_host(array: Any) -> Any:
    """An array as one of NumPy if that costs nothing, else None."""
    if isinstance(array, np.ndarray):
        return array
    if (
        not isinstance(array, jax.Array)
        or isinstance(array, jax.core.Tracer)
        or not array.is_fully_addressable
    ):
        return None
    cheap = all(device.platform == "cpu" for device in array.devices())
    return np.asarray(jax.device_get(array)) if cheap else None


def as_array(name: str, value: Any) -> Any:
    """An array of JAX as it is, anything else as one of NumPy: JAX would wrap 64-bit values."""
    if isinstance(value, jax.Array):
        return value
    try:
        array = np.asarray(value)
    except jax.errors.TracerArrayConversionError:  # a list of traced numbers
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be an array, got {brief(value)}") from error
    if array.dtype == object:
        raise TypeError(f"{name} must be an array, got {brief(value)}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _checked_flags(name: str, flags: Any, steps: int, batch_shape: Shape) -> Array:
    flags = as_array(name, flags)
    if flags.dtype != jnp.bool_:
        raise ValueError(f"{name} must be boolean, got {flags.dtype}: use {name} != 0")
    needed = (steps, *batch_shape)
    if flags.ndim == 0 or flags.shape != needed[: flags.ndim]:
        hint = "" if flags.shape[:2] != needed[1::-1] else f": time comes first, swap the axes of {name}"
        raise ValueError(f"{name} has shape {flags.shape}, needs {needed} or its leading axes{hint}")
    return jnp.asarray(flags)


def _prefixes(batch_shape: Shape) -> str:
    return f"the batch shape {batch_shape} of xs" + (" or its leading axes" if len(batch_shape) > 1 else "")


def _swapped(shape: Shape, steps: int) -> str:
    if shape[:1] != (steps,):
        return ""
    return f"; xs has {steps} along its first axis, and time comes first: swap axes 0 and 1 of xs"


def _range(lengths: Array) -> tuple[int, int]:
    """Smallest and largest length; (0, 0) if traced."""
    if lengths.size == 0:
        return 0, 0
    try:
        values = np.asarray(jax.device_get(lengths))
    except jax.errors.TracerArrayConversionError:
        return 0, 0
    return int(values.min()), int(values.max())
