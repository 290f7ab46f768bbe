"""Decoding: a language model writes on."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jrnn.cell import Cell, in_ndim
from jrnn.losses import last
from jrnn.unrolling import unroll


def generate(
    cell: Cell[Any, Any],
    params: Any,
    prompt: Any,
    length: int,
    *,
    key: Array | None = None,
    temperature: Any = 1.0,
    top_k: int | None = None,
    top_p: Any = None,
    stop: int | None = None,
    carry: Any = None,
    lengths: Any = None,
) -> Array:
    """Let a language model continue a prompt, in one compiled loop.

        (carry, logits) = unroll(cell, prompt)
        tokenₜ ~ softmax(logitsₜ₋₁ / temperature),   the arg max where temperature is 0
        (carryₜ, logitsₜ) = step(params, carryₜ₋₁, tokenₜ)

    `top_k` keeps the k most likely tokens; `top_p` then keeps, of those, the smallest set of the most
    likely ones whose probabilities, at this temperature, sum to at least top_p: always one or more.
    Of equally likely tokens the lower one comes first. A row's noise is drawn from the key, the number of
    the row and the step, so its tokens do not depend on its neighbours. Temperature, top_p, stop and key
    may change without compiling anew.

    Args:
      cell: takes tokens and gives logits over the same tokens, as a `Stack` from `Embed`
        to `Dense(vocabulary)`.
      params: its parameters.
      prompt: (T,) or (T, batch...), integer tokens, T at least 1.
      length: how many tokens to generate.
      key: PRNG key; needed unless temperature is 0.
      temperature: a scalar, at least 0; 0 takes the most likely token.
      top_k: how many tokens to choose from; all if left out, or if there are fewer.
      top_p: probability to choose from, in (0, 1]; all if left out.
      stop: the token that ends a row; the rest of the row is filled with it.
      carry: of the same batch, to go on from; a new one if left out.
      lengths: (batch...), steps of each prompt, at least 1; all T if left out.

    Returns:
      (length,) or (length, batch...), int32, the generated tokens without the prompt.

    Raises:
      ValueError: an argument out of range, no key to sample with, or a cell that takes no tokens.
      TypeError: a prompt that holds no integers.

    Reference: top_k: Fan et al., 2018, arXiv:1805.04833; top_p: Holtzman et al., The curious case of neural
    text degeneration, 2020, arXiv:1904.09751.

    >>> import jax, jax.numpy as jnp
    >>> from jrnn.cells.maps import Embed, EmbedParams
    >>> bigram = EmbedParams(table=jnp.eye(3)[jnp.array([1, 2, 0])])  # 0 → 1 → 2 → 0
    >>> from jrnn.decoding import generate
    >>> generate(Embed(3), bigram, jnp.array([0]), 5, temperature=0).tolist()
    [1, 2, 0, 1, 2]
    """
    prompt = _checked_prompt(cell, prompt)
    lengths = None if lengths is None else _checked_lengths(lengths, len(prompt))
    _check_choice(key, temperature, top_k, top_p)
    if isinstance(length, bool) or not isinstance(length, int) or length < 0:
        raise ValueError(f"length must be a whole number of tokens, got {length!r}")
    last_token = cell.out_features - 1
    if stop is not None and not 0 <= _value("stop", stop, unknown=0) <= last_token:
        raise ValueError(f"stop must be a token of {cell}, from 0 to {last_token}, got {stop}")
    tokens: Array = _decode(
        cell,
        params,
        prompt,
        carry,
        key=key,
        # arrays of one dtype each, so that an int or a float of NumPy does not compile anew
        temperature=jnp.asarray(temperature, jnp.float32),
        top_p=None if top_p is None else jnp.asarray(top_p, jnp.float32),
        stop=None if stop is None else jnp.asarray(stop, jnp.int32),
        lengths=lengths,
        length=length,
        top_k=top_k,
    )
    return tokens


@functools.partial(jax.jit, static_argnames=("cell", "length", "top_k"))
def _decode(
    cell: Any,
    params: Any,
    prompt: Array,
    carry: Any,
    *,
    key: Array | None,
    temperature: Array,
    top_p: Array | None,
    stop: Array | None,
    lengths: Any,
    length: int,
    top_k: int | None,
) -> Array:
    carry, ys = unroll(cell, params, prompt, carry, lengths=lengths)
    batch_shape = prompt.shape[1:]
    rows = jnp.arange(prompt[0].size).reshape(batch_shape)

    def advance(loop: Any, t: Array) -> tuple[Any, Array]:
        carry, logits, done = loop

        def choose(logits: Array, row: Array) -> Array:
            own = None if key is None else jax.random.fold_in(jax.random.fold_in(key, row), t)
            return _choose(own, logits, temperature, top_k, top_p)

        for _ in batch_shape:
            choose = jax.vmap(choose)
        token = choose(logits, rows)
        if stop is not None:
            token = jnp.where(done, stop, token)
            done = token == stop
        carry, logits = cell.step(params, carry, token)
        return (carry, logits, done), token

    start = (carry, last(ys, lengths), jnp.zeros(batch_shape, bool))
    return lax.scan(advance, start, jnp.arange(length))[1]


def _choose(
    key: Array | None, logits: Array, temperature: Array, top_k: int | None, top_p: Array | None
) -> Array:
    """One token from (vocabulary,) logits; the most likely one without a key."""
    most_likely = jnp.argmax(logits).astype(jnp.int32)
    if key is None:
        return most_likely
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    logits = logits / jnp.where(temperature == 0, 1, temperature)
    if top_k is None and top_p is None:
        token = jax.random.categorical(key, logits)
    else:
        logits, tokens = lax.top_k(logits, min(top_k or logits.size, logits.size))  # most likely first
        if top_p is not None:
            p = jax.nn.softmax(logits)
            before = jnp.cumsum(p) - p  # probability of all that are more likely
            logits = jnp.where(before < top_p, logits, -jnp.inf)
        token = tokens[jax.random.categorical(key, logits)]
    return jnp.where(temperature == 0, most_likely, token).astype(jnp.int32)


def _checked_prompt(cell: Any, prompt: Any) -> Array:
    if in_ndim(cell) != 0:
        raise ValueError(f"cell must take tokens, got {cell}: put Embed before it, in a Stack")
    if isinstance(prompt, str):
        raise TypeError("prompt is a str, needs integer tokens: encode it with the vocabulary of the model")
    tokens = jnp.asarray(prompt)
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"prompt must hold integer tokens, got {tokens.dtype}")
    if tokens.ndim == 0 or tokens.shape[0] == 0:
        raise ValueError(f"prompt has shape {tokens.shape}, needs (time, batch...) and at least one step")
    low, high = (_value("prompt", f(), unknown=0) for f in (tokens.min, tokens.max))
    if tokens.size and not 0 <= low <= high < cell.out_features:
        raise ValueError(f"prompt must hold tokens from 0 to {cell.out_features - 1}, got {low} to {high}")
    return tokens.astype(jnp.int32)


def _checked_lengths(given: Any, steps: int) -> Array:
    lengths = jnp.asarray(given)
    low = _value("lengths", lengths.min(initial=steps), unknown=steps)
    high = _value("lengths", lengths.max(initial=1), unknown=1)
    if low < 1 or high > steps:
        raise ValueError(
            f"lengths must lie between 1 and the {steps} steps of prompt, got {low:g} to {high:g}"
        )
    return lengths


def _check_choice(key: Any, temperature: Any, top_k: int | None, top_p: Any) -> None:
    heat = _value("temperature", temperature, unknown=1)
    if not heat >= 0:
        raise ValueError(f"temperature must be at least 0, got {heat:g}")
    if key is None and heat > 0:
        raise ValueError("key is missing: pass key=jax.random.key(seed), or temperature=0 not to sample")
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
        raise ValueError(f"top_k must be a whole number, at least 1, got {top_k!r}")
    if top_p is not None and not 0 < _value("top_p", top_p, unknown=1) <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p}")


def _value(name: str, given: Any, unknown: float) -> float:
    """The value of a scalar, `unknown` under jit."""
    if np.ndim(given) != 0:
        raise ValueError(f"{name} must be a scalar, got shape {np.shape(given)}")
    return unknown if isinstance(given, jax.core.Tracer) else float(given)
