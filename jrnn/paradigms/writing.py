"""Sequences from less than a sequence: one to many, delayed, autoregressive."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn.alignment import expand, select
from jrnn.cell import Cell
from jrnn.checks import check_choice, check_lag, check_width, require_cell
from jrnn.combinators.carries import Feedback, FeedbackCarry
from jrnn.layers import apply
from jrnn.paradigms.reading import last
from jrnn.sequential import looks_ahead
from jrnn.traits import map_time, out_axes
from jrnn.unrolling import Scan, unroll
from jrnn.unrolling.masking import schedule
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

        x₀ = x,   xₜ = 0        then="zeros": the state alone goes on
                  xₜ = x        then="repeat"
                  xₜ = yₜ₋₁     then="output": the cell reads what it said

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
    given = jnp.broadcast_to(x, (steps, *jnp.shape(x)))
    if then == "repeat":
        return unroll(cell, params, given, carry, key=key, method=method)
    first = expand(jnp.arange(steps) == 0, given.ndim)
    given = jnp.where(first, given, 0)
    if then == "zeros":
        return unroll(cell, params, given, carry, key=key, method=method)
    loop, batch_shape = Feedback(cell), jnp.shape(x)[:-1]
    if carry is not None:
        carry = loop.initial_carry(params, batch_shape)._replace(cell=carry)
    use_given = jnp.broadcast_to(first[..., 0], given.shape[:-1])
    end, ys = unroll(loop, params, (given, use_given), carry, key=key, method=method)
    return end.cell, ys


def delayed(
    model: Any,
    params: Any,
    xs: Any,
    delay: int,
    carry: Any = None,
    *,
    lengths: Any = None,
    key: Array | None = None,
    method: Method = Scan(),
) -> tuple[Any, Any]:
    """Answers that come d steps late: the model has seen xₜ₊₁ … xₜ₊d when it answers for step t.

        ysₜ = model([x₀ … x_T₋₁, 0 … 0])ₜ₊d,   d zeros behind the end of each sequence

    d = 0 is in step; d = T reads all before the first answer.

    Args:
      model: a cell or a layer that takes features.
      params: its parameters.
      xs: inputs, (time, batch..., features).
      delay: d, at least 0.
      carry: carry to start from.
      lengths: (batch...), valid steps of each sequence; at the others ys is 0.
      key: draws the noise; without one there is none.
      method: how the loop is run.

    Returns:
      `(carry, ys)`, the carry after the last answer, and ys of shape (T, batch..., out).

    Raises:
      ValueError: a negative delay, or what `jrnn.apply` raises.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.GRU(8)
    >>> jrnn.delayed(cell, cell.init(jax.random.key(0), 3), jnp.ones((7, 2, 3)), delay=2)[1].shape
    (7, 2, 8)
    """
    delay = check_lag("delay", delay)
    steps = jax.tree.leaves(xs)[0].shape[0]
    if lengths is not None:
        valid = jnp.asarray(schedule(steps, np.shape(lengths), lengths, None, None, reverse=False).valid)
        xs = jax.tree.map(lambda x: select(valid, x, jnp.zeros_like(x)), xs)
        lengths = valid.sum(0)
        lengths = jnp.where(lengths > 0, lengths + delay, 0)
    longer = jax.tree.map(lambda x: jnp.pad(x, [(0, delay)] + [(0, 0)] * (x.ndim - 1)), xs)
    end, ys = apply(model, params, longer, carry, lengths=lengths, key=key, method=method)
    return end, map_time(lambda y: y[delay:], out_axes(model), ys)


def autoregressive(
    model: Any,
    params: Any,
    xs: Any,
    carry: Any = None,
    *,
    start: Any = 0,
    lengths: Any = None,
    key: Array | None = None,
    method: Method = Scan(),
) -> tuple[Any, Any]:
    """Predict every step of a sequence from the steps before it.

        ysₜ = model(start, x₀ … xₜ₋₁),   of which p(xₜ | x₀ … xₜ₋₁) is made

    An autoregressive model of order m is `Stack((Window(m − 1, features), Dense(n)))`; a latent one any
    recurrent cell, p(xₜ | xₜ₋₁, hₜ).

    Args:
      model: a cell, or a layer that does not look ahead.
      params: its parameters.
      xs: (time, batch..., features), or (time, batch...) tokens.
      carry: carry to start from.
      start: what stands before the first step, to be broadcast over a step of xs; a token for tokens.
      lengths: (batch...), valid steps of each sequence; at the others ys is 0.
      key: draws the noise; without one there is none.
      method: how the loop is run.

    Returns:
      `(carry, ys)`; the carry has not read the last step.

    Raises:
      ValueError: a layer that looks ahead, or as of `jrnn.apply`.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> model = jrnn.Stack((jrnn.Embed(4), jrnn.GRU(8), jrnn.Dense(6)))
    >>> tokens = jnp.array([3, 1, 4, 1, 5])
    >>> _, logits = jrnn.autoregressive(model, model.init(jax.random.key(0), 6), tokens)
    >>> bool(jrnn.losses.cross_entropy(logits, tokens) > 0)                     # −log p(tokens) / 5
    True
    """
    if looks_ahead(model):
        raise ValueError(f"autoregressive: {model} looks ahead, and sees what is to be predicted")

    def late(x: Any) -> Array:
        x = jnp.asarray(x)
        first = jnp.broadcast_to(jnp.asarray(start, x.dtype), (1, *x.shape[1:]))
        return jnp.concatenate([first, x])[: x.shape[0]]

    return apply(model, params, jax.tree.map(late, xs), carry, lengths=lengths, key=key, method=method)


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
    """Go on from a sequence: each prediction of the next step is read as if it had happened.

        ŷ₀ = cell(x₀ … x_T₋₁)_T₋₁
        ŷₖ = cell(x₀ … x_T₋₁, ŷ₀ … ŷₖ₋₁)

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
    carry, past = unroll(cell, params, xs, carry, lengths=lengths, key=key, method=method)
    first = last(past, lengths)
    if first.shape != jnp.shape(xs)[1:]:
        raise ValueError(
            f"forecast: the output of {cell} has shape {first.shape}, needs {jnp.shape(xs)[1:]}, that of a "
            f"step of xs, which it predicts: put Dense({jnp.shape(xs)[-1]}) behind it"
        )
    own = (jnp.zeros((steps - 1, *first.shape), first.dtype), jnp.zeros((steps - 1, *first.shape[:-1]), bool))
    start = FeedbackCarry(carry, first)
    end, ys = unroll(Feedback(cell), params, own, start, method=method)  # the noise of the past goes on
    return end.cell, jnp.concatenate([first[None], ys])
