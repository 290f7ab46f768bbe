"""What decoding starts from: a prompt, checked, and the carry that has read all of it but its last token."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn.alignment import on_device, promoted
from jrnn.cell import in_ndim
from jrnn.combinators import Feedback, FeedbackCarry
from jrnn.paradigms import last
from jrnn.unrolling import unroll

Adjust = Callable[[Array, Array, Array], Array]  # (logits, tokens, t) -> logits


def open_loop(cell: Any, carry: Any) -> tuple[Any, Any]:
    """The cell inside a `Feedback`, and its part of the carry: what it said is handed to it from outside.

    The carry may be that of the cell inside already, as decoding returns it.
    """
    while isinstance(cell, Feedback):
        cell, carry = cell.cell, carry.cell if isinstance(carry, FeedbackCarry) else carry
    return cell, carry


def read_prompt(cell: Any, params: Any, prompt: Array, carry: Any, lengths: Any) -> tuple[Any, Array]:
    """The carry that has read each prompt but for its last token, and that token."""
    before = None if lengths is None else lengths - 1
    carry, _ = unroll(cell, params, prompt[:-1], carry, lengths=before)
    return carry, last(prompt, lengths)


def adjusted(adjust: Adjust | None, logits: Array, tokens: Array, t: Array) -> Array:
    """One row's logits, in float32 at least, as the user's function wants them."""
    logits = logits.astype(promoted(logits.dtype, jnp.float32))
    return logits if adjust is None else adjust(logits, tokens, t)


def log_softmax(logits: Array) -> Array:
    """Log-probabilities; −∞ where the logit is, even where all of them are."""
    return jnp.where(jnp.isneginf(logits), -jnp.inf, jax.nn.log_softmax(logits))


def checked_prompt(cell: Any, prompt: Any) -> Array:
    """The prompt as an int32 array (time, batch...)."""
    if in_ndim(cell) != 0:
        raise ValueError(f"cell must take tokens, got {cell}: put Embed before it, in a Stack")
    if isinstance(prompt, str):
        raise TypeError("prompt is a str, needs integer tokens: encode it with the vocabulary of the model")
    tokens = on_device(prompt)
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"prompt must hold integer tokens, got {tokens.dtype}")
    if tokens.ndim == 0 or tokens.shape[0] == 0:
        raise ValueError(f"prompt has shape {tokens.shape}, needs (time, batch...) and at least one step")
    low, high = (value_of("prompt", f(), unknown=0) for f in (tokens.min, tokens.max))
    if tokens.size and not 0 <= low <= high < cell.out_features:
        raise ValueError(f"prompt must hold tokens from 0 to {cell.out_features - 1}, got {low} to {high}")
    return tokens.astype(jnp.int32)


def checked_lengths(given: Any, steps: int) -> Array | None:
    """Lengths of the prompts, at least 1 each."""
    if given is None:
        return None
    lengths = on_device(given)
    with jax.transfer_guard_host_to_device("allow"):  # of the bounds
        low = value_of("lengths", lengths.min(initial=steps), unknown=steps)
        high = value_of("lengths", lengths.max(initial=1), unknown=1)
    if low < 1 or high > steps:
        raise ValueError(
            f"lengths must lie between 1 and the {steps} steps of prompt, got {low:g} to {high:g}"
        )
    return lengths


def value_of(name: str, given: Any, unknown: float) -> float:
    """The value of a scalar, `unknown` under jit."""
    if np.ndim(given) != 0:
        raise ValueError(f"{name} must be a scalar, got shape {np.shape(given)}")
    return unknown if isinstance(given, jax.core.Tracer) else float(jax.device_get(given))


def checked_length(length: Any) -> int:
    """How many tokens to write."""
    if isinstance(length, bool) or not isinstance(length, int) or length < 0:
        raise ValueError(f"length must be a whole number of tokens, got {length!r}")
    return length


def checked_stop(cell: Any, stop: Any) -> Array | None:
    """The token that ends a row, as an array: another one is not compiled anew."""
    last_token = cell.out_features - 1
    if stop is not None and not 0 <= value_of("stop", stop, unknown=0) <= last_token:
        raise ValueError(f"stop must be a token of {cell}, from 0 to {last_token}, got {stop}")
    return None if stop is None else on_device(stop, jnp.int32)
