"""Sequences from a single input, and forecasts."""

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn._alignment import expand, on_device
from jrnn._checks import check_choice, check_lag, check_width, require_cell
from jrnn.cell import Cell
from jrnn.combinators import Feedback, FeedbackCarry
from jrnn.decoding._prompting import checked_lengths
from jrnn.paradigms import last
from jrnn.unrolling import Scan, unroll
from jrnn.unrolling._boundary import check_inputs, check_runs
from jrnn.unrolling._rounding import can_pad, lengthened, native, rounded, shortened
from jrnn.unrolling.methods import Method


def one_to_many(
    cell: Any,
    params: Any,
    x: Any,
    steps: int,
    carry: Any = None,
    *,
    then: str = "zeros",
    key: Array | None = None,
    method: Method = Scan(),
) -> tuple[Any, Any]:
    """Generate a sequence from a single input, or from a carry alone.

        x₀ = x,   xₜ = 0        then="zeros": driven by the state alone
                  xₜ = x        then="repeat"
                  xₜ = yₜ₋₁     then="output": the cell reads its last output

    Eager calls compile the loop for 1, 2, 3, 4, 6, 8, 12, … steps, and run the first T of them.

    Args:
      cell: a cell that takes features.
      params: its parameters.
      x: (batch..., features), the first input; zeros to start from the carry alone.
      steps: T.
      carry: initial carry, such as one computed from an image; defaults to `cell.initial_carry`.
      then: the input from the second step on.
      key: PRNG key for noise; None: no noise.
      method: how to run the loop.

    Returns:
      `(carry, ys)`, ys of shape (T, batch..., out).

    Raises:
      ValueError: an unknown `then`, or, with "output", a cell whose output and x have different widths.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.Project(jrnn.GRU(8), 3)
    >>> jrnn.one_to_many(cell, cell.init(jax.random.key(0), 3), jnp.ones((2, 3)), 5, then="output")[1].shape
    (5, 2, 3)
    """
    require_cell("one_to_many: cell", cell)
    steps = check_lag("steps", steps)
    check_choice("then", then, ("zeros", "repeat", "output"))
    check_runs(cell, method, key)
    params, x, carry = native((params, x, carry))
    x, wanted, capacity = jnp.asarray(x), None, steps
    if key is None and can_pad(cell, params, carry, x, lead=0):
        wanted, capacity = on_device(steps, jnp.int32), rounded(steps)
    end, ys = _one_to_many(
        cell, params, x, carry, wanted=wanted, capacity=capacity, then=then, key=key, method=method
    )
    return end, shortened(ys, steps)


@functools.partial(jax.jit, static_argnames=("cell", "capacity", "then", "method"))
def _one_to_many(
    cell: Any,
    params: Any,
    x: Array,
    carry: Any,
    *,
    wanted: Array | None,
    capacity: int,
    then: str,
    key: Array | None,
    method: Method,
) -> tuple[Any, Any]:
    given = jnp.broadcast_to(x, (capacity, *x.shape))
    first = expand(jnp.arange(capacity) == 0, given.ndim)
    if then != "repeat":
        given = jnp.where(first, given, 0)
    if then != "output":
        return unroll(cell, params, given, carry, lengths=wanted, key=key, method=method)
    loop, use_given = Feedback(cell), jnp.broadcast_to(first[..., 0], given.shape[:-1])
    if carry is not None:
        carry = loop.initial_carry(params, x.shape[:-1])._replace(cell=carry)
    end, ys = unroll(loop, params, (given, use_given), carry, lengths=wanted, key=key, method=method)
    return end.cell, ys


def forecast(
    cell: Cell[Any, Any],
    params: Any,
    xs: Any,
    steps: int,
    carry: Any = None,
    *,
    lengths: Any = None,
    key: Array | None = None,
    method: Method = Scan(),
) -> tuple[Any, Array]:
    """Continue a sequence: each prediction of the next step is fed back as an input.

        ŷ₀ = cell(x₀ … x_T₋₁)_T₋₁
        ŷₖ = cell(x₀ … x_T₋₁, ŷ₀ … ŷₖ₋₁)

    Eager calls pad past and future to 1, 2, 3, 4, 6, 8, 12, … steps, so that a few programs serve all
    lengths.

    Args:
      cell: a cell whose output predicts its next input, and has the same width.
      params: its parameters.
      xs: the past, (time, batch..., features).
      steps: number of steps to predict, at least 1.
      carry: initial carry; defaults to `cell.initial_carry`.
      lengths: (batch...), number of valid steps of each past.
      key: PRNG key for noise; None: no noise.
      method: how to run the loop.

    Returns:
      `(carry, ys)`, ys of shape (steps, batch..., features); the carry has not read the last prediction.

    Raises:
      ValueError: no steps, or input and output of different widths.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> model = jrnn.Stack((jrnn.GRU(8), jrnn.Dense(3)))
    >>> jrnn.forecast(model, model.init(jax.random.key(0), 3), jnp.ones((7, 2, 3)), steps=4)[1].shape
    (4, 2, 3)
    """
    steps = check_width("steps", steps)
    check_runs(cell, method, key)
    params, xs, carry = native((params, xs, carry))
    check_inputs(cell, xs)
    lengths = checked_lengths(lengths, np.shape(xs)[0], "xs", least=0)
    options: dict[str, Any] = {"key": key, "method": method}
    if key is None and can_pad(cell, params, carry, xs, lengths):
        with contextlib.suppress(TypeError, ValueError):  # raised below, with the shapes before rounding
            valid = on_device(len(xs) if lengths is None else lengths, jnp.int32)
            past, wanted = lengthened(xs, rounded(len(xs))), on_device(steps - 1, jnp.int32)
            room: dict[str, Any] = {"wanted": wanted, "capacity": rounded(steps)}
            end, ys = _forecast(cell, params, past, carry, lengths=valid, **room, **options)
            return end, shortened(ys, steps)
    found: tuple[Any, Array] = _forecast(
        cell, params, xs, carry, lengths=lengths, wanted=None, capacity=steps, **options
    )
    return found


@functools.partial(jax.jit, static_argnames=("cell", "capacity", "method"))
def _forecast(
    cell: Any,
    params: Any,
    xs: Any,
    carry: Any,
    *,
    lengths: Any,
    wanted: Array | None,
    capacity: int,
    key: Array | None,
    method: Method,
) -> tuple[Any, Array]:
    carry, past = unroll(cell, params, xs, carry, lengths=lengths, key=key, method=method)
    first = last(past, lengths)
    if first.shape != xs.shape[1:]:
        raise ValueError(
            f"forecast: the output of {cell} has shape {first.shape}, needs {xs.shape[1:]}, the shape of a "
            f"step of xs, which it predicts: append Dense({xs.shape[-1]})"
        )
    given = jnp.zeros((capacity - 1, *first.shape), first.dtype)
    use_given = jnp.zeros(given.shape[:-1], bool)
    start = FeedbackCarry(carry, first)  # keeps the noise of the past
    end, ys = unroll(Feedback(cell), params, (given, use_given), start, lengths=wanted, method=method)
    return end.cell, jnp.concatenate([first[None], ys])
