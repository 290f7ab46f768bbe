"""Prompts: checks, and the carry after all tokens but the last."""

import contextlib
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn._alignment import promoted
from jrnn.cell import in_ndim
from jrnn.combinators import Feedback, FeedbackCarry
from jrnn.paradigms import last
from jrnn.unrolling import unroll
from jrnn.unrolling._rounding import is_eager, native, rounded

Adjust = Callable[[Array, Array, Array], Array]  # (logits, tokens, t) -> logits


def open_loop(cell: Any, carry: Any) -> tuple[Any, Any]:
    """The cell inside a `Feedback`, and its part of the carry, since decoding itself feeds outputs back.

    The carry may already be that of the inner cell, as decoding returns it.
    """
    while isinstance(cell, Feedback):
        cell, carry = cell.cell, carry.cell if isinstance(carry, FeedbackCarry) else carry
    return cell, carry


def read_prompt(cell: Any, params: Any, prompt: Array, carry: Any, lengths: Any) -> tuple[Any, Array]:
    """The carry after all tokens of each prompt but the last, and that last token."""
    before = None if lengths is None else lengths - 1
    carry, _ = unroll(cell, params, prompt[:-1], carry, lengths=before)
    return carry, last(prompt, lengths)


def adjusted(adjust: Adjust | None, logits: Array, tokens: Array, t: Array) -> Array:
    """The logits of one row, in float32 at least, as changed by the user's function."""
    logits = logits.astype(promoted(logits.dtype, jnp.float32))
    return logits if adjust is None else adjust(logits, tokens, t)


def log_softmax(logits: Array) -> Array:
    """Log-probabilities; −∞ where the logit is −∞, even if all of them are."""
    return jnp.where(jnp.isneginf(logits), -jnp.inf, jax.nn.log_softmax(logits))


def padded(prompt: Any, lengths: Any, wanted: int, adjust: Adjust | None) -> tuple[Any, Any, Any, int]:
    """Prompts padded to a rounded length, their lengths, the number of tokens wanted, and room for them.

    With `adjust` the room is not rounded up, since the user's function sees the whole array of tokens.
    """
    steps = len(prompt)
    if lengths is None:
        lengths = np.full(prompt.shape[1:], steps, np.int32)
    capacity = wanted if adjust else rounded(wanted)
    missing = [(0, rounded(steps) - steps), *[(0, 0)] * (prompt.ndim - 1)]
    return np.pad(prompt, missing), on_host(lengths), on_host(wanted), capacity


def on_host(value: Any, dtype: Any = jnp.int32) -> Any:
    """A value as an array of this dtype, which `transferring` lets a compiled function move to the device.

    That is five times as fast as moving each array explicitly.
    """
    return value.astype(dtype) if isinstance(value, Array) else np.asarray(value, dtype)


def transferring() -> contextlib.AbstractContextManager[None]:
    """A context in which compiled functions take NumPy arrays, whatever `jax_transfer_guard` says."""
    context: contextlib.AbstractContextManager[None] = jax.transfer_guard_host_to_device("allow")
    return context


def checked_prompt(cell: Any, prompt: Any) -> Any:
    """The prompt as int32 tokens (time, batch...), on the host unless it is traced or sharded."""
    if in_ndim(cell) != 0:
        raise ValueError(f"cell must take tokens, got {cell}: put Embed before it, in a Stack")
    if isinstance(prompt, str):
        raise TypeError("prompt is a str, needs integer tokens: encode it with the vocabulary of the model")
    tokens = prompt if isinstance(prompt, Array) else np.asarray(prompt)
    if is_eager(tokens):
        tokens = jax.device_get(tokens)
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"prompt must hold integer tokens, got {tokens.dtype}")
    if tokens.ndim == 0 or tokens.shape[0] == 0:
        raise ValueError(f"prompt has shape {tokens.shape}, needs (time, batch...) and at least one step")
    if not isinstance(tokens, jax.core.Tracer) and tokens.size:
        low, high = (value_of("prompt", f(), unknown=0) for f in (tokens.min, tokens.max))
        if not 0 <= low <= high < cell.out_features:
            raise ValueError(
                f"prompt must hold tokens from 0 to {cell.out_features - 1}, got {low:g} to {high:g}"
            )
    return tokens.astype(jnp.int32)


def checked_lengths(given: Any, steps: int, of: str = "prompt", least: int = 1) -> Any:
    """Lengths of the sequences `of` an argument, on the host unless they are traced or sharded."""
    if given is None:
        return None
    lengths = given if isinstance(given, Array) else native(np.asarray(given))
    if is_eager(lengths):
        lengths = jax.device_get(lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"lengths must be integers, got {lengths.dtype}")
    if not isinstance(lengths, jax.core.Tracer) and lengths.size:
        low, high = (value_of("lengths", f(), unknown=1) for f in (lengths.min, lengths.max))
        if low < least or high > steps:
            raise ValueError(
                f"lengths must lie between {least} and the {steps} steps of {of}, got {low:g} to {high:g}"
            )
    return lengths


def value_of(name: str, given: Any, unknown: float) -> float:
    """The value of a real scalar, `unknown` under jit."""
    if np.ndim(given) != 0:
        raise ValueError(f"{name} must be a scalar, got shape {np.shape(given)}")
    if not any(jnp.issubdtype(_dtype(given), kind) for kind in (jnp.integer, jnp.floating)):
        raise ValueError(f"{name} must be a number, got {given!r}")
    return unknown if isinstance(given, jax.core.Tracer) else float(jax.device_get(given))


def checked_length(length: Any) -> int:
    """The number of tokens to generate."""
    if isinstance(length, bool) or not hasattr(length, "__index__") or operator.index(length) < 0:
        raise ValueError(f"length must be a whole number of tokens, got {length!r}")
    return operator.index(length)


def checked_stop(cell: Any, stop: Any) -> Any:
    """The token that ends a row, as an array, so that a different one does not recompile."""
    if stop is None:
        return None
    last_token = cell.out_features - 1
    if (
        not jnp.issubdtype(_dtype(stop), jnp.integer)
        or not 0 <= value_of("stop", stop, unknown=0) <= last_token
    ):
        raise ValueError(f"stop must be a token of {cell}, an integer from 0 to {last_token}, got {stop!r}")
    return on_host(stop)


def _dtype(given: Any) -> Any:
    return given.dtype if isinstance(given, Array) else np.asarray(given).dtype
