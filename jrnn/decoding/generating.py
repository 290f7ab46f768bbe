"""Sampling from a language model or a decoder, token by token."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jrnn._alignment import like_rows
from jrnn.cell import Cell
from jrnn.decoding._prompting import (
    Adjust,
    adjusted,
    checked_length,
    checked_lengths,
    checked_prompt,
    checked_stop,
    log_softmax,
    on_host,
    open_loop,
    padded,
    read_prompt,
    transferring,
    value_of,
)
from jrnn.unrolling import Scan
from jrnn.unrolling._boundary import check_runs
from jrnn.unrolling._other_loops import hoisted
from jrnn.unrolling._rounding import can_pad, native, shortened


class Generated(NamedTuple):
    """Result of `generate`.

    Fields:
      tokens: (length, batch...), int32, without the prompt.
      log_probs: (length, batch...), of each token before temperature, top_k and top_p; 0 after a stop.
      carry: the carry after all tokens but the last; to continue, pass that token as the prompt.
    """

    tokens: Array
    log_probs: Array
    carry: Any


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
    adjust: Adjust | None = None,
) -> Generated:
    """Sample a continuation of a prompt from a language model or a decoder, in one compiled loop.

        (carryₜ, logitsₜ) = step(params, carryₜ₋₁, tokenₜ₋₁),   token₋₁ the last one of the prompt
        tokenₜ ~ softmax(logitsₜ / temperature),   the arg max if temperature is 0

    `top_k` keeps the k most likely tokens; `top_p` then keeps, of those, the smallest set of the most
    likely ones whose probabilities, at this temperature, sum to at least top_p: always one or more.
    Of equally likely tokens the lower one comes first. Noise is drawn from the key, the row number and the
    step, so the tokens of a row do not depend on the other rows.

    Changing temperature, top_p, stop or key does not recompile. Eager calls pad prompts, and `length` if
    there is no `adjust`, to 1, 2, 3, 4, 6, 8, 12, … steps: two programs per doubling. Tokens after `length`
    are not sampled. A new batch shape compiles a new program.

    A decoder starts from `carry=model.encode(...)` and a prompt of the token that starts every target. To
    continue where a call ended, pass `tokens[-1:]` as the prompt and its `carry`.

    Args:
      cell: a cell from tokens to logits over the same tokens, such as a `Stack` from `Embed` to
        `Dense(vocabulary)`; for a `Feedback`, its inner cell is used.
      params: its parameters.
      prompt: (T,) or (T, batch...), integer tokens, T at least 1.
      length: number of tokens to generate.
      key: PRNG key; needed unless temperature is 0.
      temperature: a scalar, at least 0; 0 takes the most likely token.
      top_k: number of tokens to choose from; None: all.
      top_p: probability to choose from, in (0, 1]; None: 1.
      stop: the token that ends a row; the rest of the row is filled with it.
      carry: initial carry, with the same batch; defaults to `cell.initial_carry`.
      lengths: (batch...), steps of each prompt, at least 1; defaults to T.
      adjust: `(logits, tokens, t) -> logits`, a JAX function of one row: its logits (vocabulary,), its tokens
        (length,), of which the first t are generated, and t. −∞ forbids a token. Equal functions are compiled
        once.

    Returns:
      `Generated(tokens, log_probs, carry)`.

    Raises:
      ValueError: an argument out of range, no key to sample with, or a cell that does not take tokens.
      TypeError: a prompt that is not of integers.

    Reference: top_k: Fan et al., 2018, arXiv:1805.04833; top_p: Holtzman et al., The curious case of neural
    text degeneration, 2020, arXiv:1904.09751.

    >>> import jax, jax.numpy as jnp
    >>> from jrnn.cells.maps import Embed, EmbedParams
    >>> bigram = EmbedParams(table=jnp.eye(3)[jnp.array([1, 2, 0])])  # 0 → 1 → 2 → 0
    >>> from jrnn.decoding import generate
    >>> generate(Embed(3), bigram, jnp.array([0]), 5, temperature=0).tokens.tolist()
    [1, 2, 0, 1, 2]
    """
    check_runs(cell, Scan(), key)
    params, carry = native((params, carry))
    cell, carry = open_loop(cell, carry)
    prompt = checked_prompt(cell, prompt)
    _check_choice(key, temperature, top_k, top_p)
    lengths, capacity = checked_lengths(lengths, prompt.shape[0]), checked_length(length)
    choice = {
        "key": key,
        # arrays of fixed dtypes, so that a NumPy int or float does not recompile
        "temperature": on_host(temperature, jnp.float32),
        "top_p": None if top_p is None else on_host(top_p, jnp.float32),
        "stop": checked_stop(cell, stop),
    }
    wanted = None  # all of the capacity
    if can_pad(cell, params, carry, prompt, lengths, choice):
        prompt, lengths, wanted, capacity = padded(prompt, lengths, capacity, adjust)
    with transferring():
        found: Generated = _generate(
            cell,
            params,
            prompt,
            carry,
            **choice,
            lengths=lengths,
            wanted=wanted,
            capacity=capacity,
            top_k=None if top_k is None else int(top_k),
            adjust=adjust,
        )
    if wanted is None:
        return found
    tokens, log_probs, carry = found
    return Generated(shortened(tokens, length), shortened(log_probs, length), carry)


@functools.partial(jax.jit, static_argnames=("cell", "capacity", "top_k", "adjust"))
def _generate(
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
    wanted: Array | None,
    capacity: int,
    top_k: int | None,
    adjust: Adjust | None,
) -> Generated:
    carry, token = read_prompt(cell, params, prompt, carry, lengths)
    cell = hoisted(cell, params, carry, token, steps=capacity)
    batch_shape = prompt.shape[1:]
    rows = jnp.arange(prompt[0].size, dtype=jnp.int32).reshape(batch_shape)
    written = jnp.zeros((*batch_shape, 0 if adjust is None else capacity), jnp.int32)
    rows, written = like_rows(rows, token), like_rows(written, token)

    def choose(logits: Array, row: Any, written: Any, t: Array) -> tuple[Array, Array]:
        own = None if key is None else jax.random.fold_in(row, t)
        logits = adjusted(adjust, logits, written, t)
        token = _choose(own, logits, temperature, top_k, top_p)
        return token, log_softmax(logits)[token]

    def own_key(row: Array) -> Any:
        return row if key is None else jax.random.fold_in(key, row)

    for _ in batch_shape:
        own_key = jax.vmap(own_key)
        choose = jax.vmap(choose, in_axes=(0, 0, 0, None))

    keys = own_key(rows)

    def advance(state: Any, t: Array) -> tuple[Any, Any]:
        carry, token, done, written = state
        carry, logits = cell.step(params, carry, token)
        token, log_prob = choose(logits, keys, written, t)
        if stop is not None:
            token, log_prob = jnp.where(done, stop, token), jnp.where(done, 0, log_prob)
            done = token == stop
        written = written if adjust is None else written.at[..., t].set(token)
        return (carry, token, done, written), (token, log_prob)

    start: Any = (carry, token, jnp.zeros_like(token, bool), written)
    (carry, *_), (tokens, log_probs) = _scan_up_to(wanted, capacity, advance, start)
    return Generated(tokens, log_probs, carry)


def _scan_up_to(wanted: Array | None, capacity: int, advance: Any, start: Any) -> Any:
    """`lax.scan` over step numbers, of as many steps as are wanted, `None`: all; zeros fill the rest."""
    if wanted is None or capacity == 0:
        return lax.scan(advance, start, jnp.arange(capacity, dtype=jnp.int32))
    outputs = jax.eval_shape(advance, start, jax.ShapeDtypeStruct((), jnp.int32))[1]
    stacked = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), outputs)

    def body(t: Array, both: Any) -> Any:
        (state, stacked), put = both, functools.partial(lax.dynamic_update_index_in_dim, index=t, axis=0)
        state, ys = advance(state, t)
        return state, jax.tree.map(put, stacked, ys)

    return lax.fori_loop(jnp.int32(0), wanted, body, (start, stacked))


def _choose(
    key: Array | None, logits: Array, temperature: Array, top_k: int | None, top_p: Array | None
) -> Array:
    """One token from (vocabulary,) logits; the most likely one without a key."""
    most_likely = jnp.argmax(logits).astype(jnp.int32)
    if key is None:
        return most_likely
    highest = logits.max()  # so that no quotient overflows
    logits = logits - jnp.where(jnp.isfinite(highest), highest, 0)
    logits = logits / jnp.where(temperature == 0, 1, temperature).astype(logits.dtype)
    if top_k is None and top_p is None:
        token = jax.random.categorical(key, logits)
    else:
        logits, tokens = lax.top_k(logits, min(top_k or logits.size, logits.size))  # most likely first
        if top_p is not None:
            p = jax.nn.softmax(logits)
            before = jnp.cumsum(p) - p  # total probability of all more likely tokens
            # a sum equal to top_p must not pass because rounding made it a little less
            keep = (before < top_p.astype(p.dtype) - 1e-6).at[0].set(True)
            logits = jnp.where(keep, logits, -jnp.inf)
        token = tokens[jax.random.categorical(key, logits)]
    return jnp.where(temperature == 0, most_likely, token).astype(jnp.int32)


def _check_choice(key: Any, temperature: Any, top_k: int | None, top_p: Any) -> None:
    heat = value_of("temperature", temperature, unknown=1)
    if not heat >= 0:
        raise ValueError(f"temperature must be at least 0, got {heat:g}")
    if key is None and heat > 0:
        raise ValueError("key is missing: pass key=jax.random.key(seed), or temperature=0 for no sampling")
    whole = isinstance(top_k, int | np.integer) and not isinstance(top_k, bool)
    if top_k is not None and not (whole and top_k >= 1):
        raise ValueError(f"top_k must be a whole number, at least 1, got {top_k!r}")
    if top_p is not None and not 0 < value_of("top_p", top_p, unknown=1) <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p}")
