"""Sequences from a single input, and forecasts from a past."""

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn._alignment import expand
from jrnn._checks import check_choice, check_lag, check_width, require_cell
from jrnn.cell import Cell
from jrnn.combinators import Feedback, FeedbackCarry
from jrnn.decoding._prompting import checked_lengths, on_device
from jrnn.decoding._rounding import can_round, lengthened, rounded, shortened
from jrnn.paradigms import last
from jrnn.unrolling import Scan, unroll
from jrnn.unrolling._boundary import check_inputs, check_runs
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
    """A sequence from a single input, or from a carry alone.

        x₀ = x,   xₜ = 0        then="zeros": driven by the state alone
                  xₜ = x        then="repeat"
                  xₜ = yₜ₋₁     then="output": the cell reads its last output

    Called eagerly, the loop is compiled for 1, 2, 3, 4, 6, 8, 12, … steps, of which the first T are run.

    Args:
      cell: a cell that takes features.
      params: its parameters.
      x: (batch..., features), the first input; zeros to start from the carry alone.
      steps: T.
      carry: carry to start from, such as one made of an image.
      then: what the cell reads from the second step on.
      key: draws the noise; without one there is none.
      method: how the loop is run.

    Returns:
      `(carry, ys)`, ys of shape (T, batch..., out).

    Raises:
      ValueError: an unknown `then`, or with "output" a cell whose output is not as wide as x.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.Project(jrnn.GRU(8), 3)
    >>> jrnn.one_to_many(cell, cell.init(jax.random.key(0), 3), jnp.ones((2, 3)), 5, then="output")[1].shape
    (5, 2, 3)
    """
    require_cell("one_to_many: cell", cell)
    steps = check_lag("steps", steps)
    check_choice("then", then, ("zeros", "repeat", "output"))
    check_runs(cell, method, key)
    x, count = jnp.asarray(x), None
    total = steps
    if key is None and can_round(cell, params, carry, x):
        total, count = rounded(steps), on_device(steps)
    end, ys = _one_to_many(
        cell, params, x, carry, count=count, steps=total, then=then, key=key, method=method
    )
    return end, shortened(ys, steps)


@functools.partial(jax.jit, static_argnames=("cell", "steps", "then", "method"))
def _one_to_many(
    cell: Any,
    params: Any,
    x: Array,
    carry: Any,
    *,
    count: Array | None,
    steps: int,
    then: str,
    key: Array | None,
    method: Method,
) -> tuple[Any, Any]:
    given = jnp.broadcast_to(x, (steps, *x.shape))
    first = expand(jnp.arange(steps) == 0, given.ndim)
    if then != "repeat":
        given = jnp.where(first, given, 0)
    if then != "output":
        return unroll(cell, params, given, carry, lengths=count, key=key, method=method)
    loop, use_given = Feedback(cell), jnp.broadcast_to(first[..., 0], given.shape[:-1])
    if carry is not None:
        carry = loop.initial_carry(params, x.shape[:-1])._replace(cell=carry)
    end, ys = unroll(loop, params, (given, use_given), carry, lengths=count, key=key, method=method)
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

    Called eagerly, past and future are padded to 1, 2, 3, 4, 6, 8, 12, … steps, so that a few programs serve
    pasts of any length.

    Args:
      cell: one whose output predicts its next input, and is as wide.
      params: its parameters.
      xs: the past, (time, batch..., features).
      steps: how many to predict, at least 1.
      carry: carry to start from.
      lengths: (batch...), valid steps of each past.
      key: draws the noise; without one there is none.
      method: how the loop is run.

    Returns:
      `(carry, ys)`, ys of shape (steps, batch..., features); the carry has not read the last of them.

    Raises:
      ValueError: no steps, or input and output of different widths.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> model = jrnn.Stack((jrnn.GRU(8), jrnn.Dense(3)))
    >>> jrnn.forecast(model, model.init(jax.random.key(0), 3), jnp.ones((7, 2, 3)), steps=4)[1].shape
    (4, 2, 3)
    """
    steps = check_width("steps", steps)
    check_runs(cell, method, key)
    check_inputs(cell, xs)
    lengths = checked_lengths(lengths, np.shape(xs)[0], "xs", least=0)
    options: dict[str, Any] = {"key": key, "method": method}
    if key is None and can_round(cell, params, carry, xs, lengths):
        with contextlib.suppress(TypeError, ValueError):  # raised below, about the shapes that were given
            valid = on_device(len(xs) if lengths is None else lengths)
            past, room, count = lengthened(xs, rounded(len(xs))), rounded(steps), on_device(steps - 1)
            end, ys = _forecast(cell, params, past, carry, lengths=valid, count=count, steps=room, **options)
            return end, shortened(ys, steps)
    found: tuple[Any, Array] = _forecast(
        cell, params, xs, carry, lengths=lengths, count=None, steps=steps, **options
    )
    return found


@functools.partial(jax.jit, static_argnames=("cell", "steps", "method"))
def _forecast(
    cell: Any,
    params: Any,
    xs: Any,
    carry: Any,
    *,
    lengths: Any,
    count: Array | None,
    steps: int,
    key: Array | None,
    method: Method,
) -> tuple[Any, Array]:
    carry, past = unroll(cell, params, xs, carry, lengths=lengths, key=key, method=method)
    first = last(past, lengths)
    if first.shape != xs.shape[1:]:
        raise ValueError(
            f"forecast: the output of {cell} has shape {first.shape}, needs {xs.shape[1:]}, that of a "
            f"step of xs, which it predicts: put Dense({xs.shape[-1]}) behind it"
        )
    own = (jnp.zeros((steps - 1, *first.shape), first.dtype), jnp.zeros((steps - 1, *first.shape[:-1]), bool))
    start = FeedbackCarry(carry, first)  # the noise of the past goes on
    end, ys = unroll(Feedback(cell), params, own, start, lengths=count, method=method)
    return end.cell, jnp.concatenate([first[None], ys])
