"""Models with an output per step: delayed outputs, and autoregressive prediction."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn._alignment import select
from jrnn._checks import check_lag
from jrnn._traits import map_time, out_axes
from jrnn.layers import apply
from jrnn.layers.sequential import looks_ahead
from jrnn.unrolling import Scan
from jrnn.unrolling._masking import schedule
from jrnn.unrolling.methods import Method


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
    """Run a model with outputs delayed by d steps, so that ysₜ depends on xₜ₊₁ … xₜ₊d too.

        ysₜ = model([x₀ … x_T₋₁, 0 … 0])ₜ₊d,   d zeros after the end of each sequence

    d = 0 means no delay; with d = T the model reads everything before its first output.

    Args:
      model: a cell or a layer that takes features.
      params: its parameters.
      xs: inputs, (time, batch..., features).
      delay: d, at least 0.
      carry: initial carry.
      lengths: (batch...), valid steps of each sequence; ys is 0 at the others.
      key: draws the noise; without a key there is none.
      method: how the loop is run.

    Returns:
      `(carry, ys)`, the carry after the last output, and ys of shape (T, batch..., out).

    Raises:
      ValueError: a negative delay, or invalid inputs, as for `jrnn.apply`.

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

        ysₜ = model(start, x₀ … xₜ₋₁),   the parameters of p(xₜ | x₀ … xₜ₋₁)

    `Stack((Window(m − 1, features), Dense(n)))` is an autoregressive model of order m; any recurrent cell is
    a latent one, p(xₜ | xₜ₋₁, hₜ).

    Args:
      model: a cell, or a layer that does not look ahead.
      params: its parameters.
      xs: (time, batch..., features), or (time, batch...) tokens.
      carry: initial carry.
      start: the input before the first step, broadcast to the shape of a step of xs; a token for tokens.
      lengths: (batch...), valid steps of each sequence; ys is 0 at the others.
      key: draws the noise; without a key there is none.
      method: how the loop is run.

    Returns:
      `(carry, ys)`; the carry has not read the last step.

    Raises:
      ValueError: a layer that looks ahead, or invalid inputs, as for `jrnn.apply`.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> model = jrnn.Stack((jrnn.Embed(4), jrnn.GRU(8), jrnn.Dense(6)))
    >>> tokens = jnp.array([3, 1, 4, 1, 5])
    >>> _, logits = jrnn.autoregressive(model, model.init(jax.random.key(0), 6), tokens)
    >>> bool(jrnn.losses.cross_entropy(logits, tokens) > 0)                     # −log p(tokens) / 5
    True
    """
    if looks_ahead(model):
        raise ValueError(f"autoregressive: {model} looks ahead, so it would see what it has to predict")

    def late(x: Any) -> Array:
        x = jnp.asarray(x)
        first = jnp.broadcast_to(jnp.asarray(start, x.dtype), (1, *x.shape[1:]))
        return jnp.concatenate([first, x])[: x.shape[0]]

    return apply(model, params, jax.tree.map(late, xs), carry, lengths=lengths, key=key, method=method)
