"""Beam search for the most likely sequences."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jrnn._alignment import expand, like_rows
from jrnn._checks import check_width
from jrnn.attention.decoders import attached
from jrnn.cell import Cell, Shape, carry_spec, is_slot, map_state
from jrnn.combinators import Tap
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

TINY = 1e-30  # least coverage of a position, so that its logarithm is finite


class Beams(NamedTuple):
    """Result of `beam_search`: the best sequences, best first.

    Fields:
      tokens: (length, batch..., width), int32; `stop` after the end of a sequence.
      scores: (batch..., width); −∞ if there are fewer sequences than `width`.
      log_probs: (batch..., width), of the whole sequence.
      lengths: (batch..., width), number of tokens of each sequence, including its stop.
    """

    tokens: Array
    scores: Array
    log_probs: Array
    lengths: Array


class Beam(NamedTuple):
    """Sequences that have not ended; the leading axes are batch and width."""

    tokens: Array  # (..., length), padded with `stop`
    log_probs: Array  # (...)
    coverage: Array  # (..., S), total attention to each position of a memory; S = 0 without a penalty


class Rule(NamedTuple):
    """The scoring of sequences, and the token that ends one."""

    length_penalty: Array  # (), α
    coverage_penalty: Array  # (), β
    stop: Array | None  # (), the token that ends a sequence

    def divisor(self, length: Any) -> Array:
        """((5 + n) / 6)^α."""
        return ((5 + jnp.asarray(length, self.length_penalty.dtype)) / 6) ** self.length_penalty

    def score(self, log_probs: Array, length: Any, coverage: Array, valid: Array) -> Array:
        """Scores of sequences of the same length."""
        covered = jnp.where(valid, jnp.log(jnp.clip(coverage, TINY, 1)), 0).sum(-1)
        return log_probs / self.divisor(length) + self.coverage_penalty * covered


def beam_search(
    cell: Cell[Any, Any],
    params: Any,
    prompt: Any,
    length: int,
    *,
    width: int,
    stop: int | None = None,
    carry: Any = None,
    lengths: Any = None,
    length_penalty: Any = 0.0,
    coverage_penalty: Any = 0.0,
    adjust: Adjust | None = None,
) -> Beams:
    """Search for the most likely continuations of a prompt, in one compiled loop.

        score = log p(tokens) / ((5 + n) / 6)^α + β Σᵢ log min(Σₜ aₜᵢ, 1)

    α is `length_penalty`, β `coverage_penalty`, n the number of tokens including the stop, aₜᵢ the attention
    weight of position i of the memory at step t. At every step the search keeps the `width` most likely
    sequences that have not ended, and the `width` best-scored that have. A sequence ends with `stop` or after
    `length` tokens. If the beam is wider than the number of prefixes, the search is exhaustive. It stops
    early once no sequence in a beam can outscore those that have ended. Prompts and `length` are rounded up
    as in `generate`, so that a few programs serve all lengths.

    Args:
      cell: a cell from tokens to logits, as for `generate`.
      params: its parameters.
      prompt: (T,) or (T, batch...), integer tokens, T at least 1.
      length: maximum number of tokens of a sequence.
      width: width of the beam, and number of returned sequences.
      stop: the token that ends a sequence; None: all have `length` tokens.
      carry: initial carry, with the same batch, such as `model.encode(...)`; defaults to
        `cell.initial_carry`.
      lengths: (batch...), steps of each prompt, at least 1; defaults to T.
      length_penalty: α, at least 0; 0 compares log-probabilities, which favors short sequences.
      coverage_penalty: β, at least 0; nonzero only for a cell with attention.
      adjust: `(logits, tokens, t) -> logits`, as for `generate`; applied to each sequence of the beam.

    Returns:
      `Beams(tokens, scores, log_probs, lengths)`, best first.

    Raises:
      ValueError: an argument out of range, or a coverage penalty for a cell without attention.
      TypeError: a prompt that is not of integers.

    Reference: penalties: Wu et al., Google's neural machine translation system, 2016, arXiv:1609.08144,
    equation 14.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> from jrnn.cells.maps import EmbedParams
    >>> rows = [0.0, 0.6, 0.4, 0.0], [0.0, 0.4, 0.3, 0.3], [0.0, 0.0, 0.1, 0.9], [0.0, 0.0, 0.0, 1.0]
    >>> bigram = EmbedParams(jnp.log(jnp.array(rows)))                       # greedy: 0 → 1 → 1 → 1
    >>> found = jrnn.beam_search(jrnn.Embed(4), bigram, jnp.array([0]), 3, width=2, stop=3)
    >>> found.tokens.T.tolist(), [f"{p:.2f}" for p in jnp.exp(found.log_probs)]
    ([[2, 3, 3], [1, 3, 3]], ['0.36', '0.18'])
    """
    check_runs(cell, Scan(), None)
    params, carry = native((params, carry))
    cell, carry = open_loop(cell, carry)
    prompt = checked_prompt(cell, prompt)
    check_width("width", width)
    penalties = []
    for name, given in (("length_penalty", length_penalty), ("coverage_penalty", coverage_penalty)):
        if not value_of(name, given, unknown=0) >= 0:
            raise ValueError(f"{name} must be at least 0, got {given}")
        penalties.append(on_host(given, jax.dtypes.canonicalize_dtype(float)))
    rule = Rule(penalties[0], penalties[1], checked_stop(cell, stop))
    lengths, capacity = checked_lengths(lengths, prompt.shape[0]), checked_length(length)
    wanted: Any = length
    if eager := can_pad(cell, params, carry, prompt, lengths, rule):
        prompt, lengths, wanted, capacity = padded(prompt, lengths, length, adjust)
    with transferring():
        found = _search(
            cell,
            params,
            prompt,
            carry,
            rule,
            lengths=lengths,
            wanted=wanted,
            capacity=capacity,
            width=width,
            adjust=adjust,
            covers=value_of("coverage_penalty", coverage_penalty, unknown=1) > 0,
        )
    return found._replace(tokens=shortened(found.tokens, length)) if eager else found


@functools.partial(jax.jit, static_argnames=("cell", "capacity", "width", "adjust", "covers"))
def _search(
    cell: Any,
    params: Any,
    prompt: Array,
    carry: Any,
    rule: Rule,
    *,
    lengths: Any,
    wanted: Any,
    capacity: int,
    width: int,
    adjust: Adjust | None,
    covers: bool,
) -> Beams:
    batch_shape = prompt.shape[1:]
    carry, token = read_prompt(cell, params, prompt, carry, lengths)
    valid = like_rows(_positions(cell, carry, batch_shape, covers), token)
    spec = carry_spec(cell, params, batch_shape)
    tapped = Tap(cell, ("attention",)) if covers else cell
    tapped = hoisted(tapped, params, carry, token, steps=capacity * width)
    step = _step(tapped, params, spec, len(batch_shape), covers)
    carry = map_state(lambda a: _repeat(a, len(batch_shape), width), spec, carry)
    advance_row = functools.partial(_advance_row, rule, adjust=adjust)
    finish_row = functools.partial(_finish_row, rule, wanted)
    for _ in batch_shape:
        advance_row = jax.vmap(advance_row, in_axes=(0, 0, 0, 0, None))
        finish_row = jax.vmap(finish_row, in_axes=(0, 0, 0, None))

    def advance(state: Any) -> Any:
        t, carry, token, beam, ended = state
        carry, logits, weights = step(carry, token)
        beam = beam._replace(coverage=beam.coverage + weights.astype(beam.coverage.dtype))
        parent, token, beam, ended = advance_row(logits, beam, ended, valid, t)
        take = functools.partial(_take, parent, axis=len(batch_shape))
        return t + 1, map_state(take, spec, carry), token, beam, ended

    def can_improve(state: Any) -> Array:
        t, _, _, beam, ended = state  # log-probabilities only fall, and the last divisor is the largest
        best = beam.log_probs.max(-1) / rule.divisor(wanted)
        return (t < wanted) & jnp.any(best > ended.scores.min(-1))

    token = _repeat(token, len(batch_shape), width)
    beam, ended = _nothing_yet(batch_shape, width, capacity, rule.stop, valid)
    beam, ended = jax.tree.map(lambda leaf: like_rows(leaf, token), (beam, ended))
    start = (jnp.zeros((), jnp.int32), carry, token, beam, ended)
    t, _, _, beam, ended = lax.while_loop(can_improve, advance, start) if capacity else start
    found: Beams = finish_row(beam, ended, valid, t)
    return found._replace(tokens=jnp.moveaxis(found.tokens, -1, 0))


def _positions(cell: Any, carry: Any, batch_shape: Shape, covers: bool) -> Array:
    """Valid positions of all memories, (batch..., S)."""
    if not covers:
        return jnp.zeros((*batch_shape, 0), bool)
    memories = attached(carry)
    if not memories:
        raise ValueError(f"coverage_penalty needs a cell with attention and its memory attached, got {cell}")
    valid = [memory.valid for memory in memories]
    return jnp.concatenate([jnp.broadcast_to(v, (*batch_shape, v.shape[-1])) for v in valid], -1)


def _repeat(leaf: Array, axis: int, width: int) -> Array:
    return jnp.repeat(jnp.expand_dims(leaf, axis), width, axis)


def _take(index: Array, leaf: Array, axis: int) -> Array:
    return jnp.take_along_axis(leaf, expand(index, leaf.ndim), axis)


def _step(cell: Any, params: Any, spec: Any, axis: int, tapped: bool) -> Any:
    """The step of a whole beam: state has an axis for the width, the other slots are shared by the beam."""
    axes = jax.tree.map(lambda leaf: None if leaf is None else axis, spec, is_leaf=is_slot)

    def step(carry: Any, token: Array) -> tuple[Any, Array, Array]:
        carry, y = cell.step(params, carry, token)
        if not tapped:
            return carry, y, jnp.zeros((*y.shape[:-1], 0))
        logits, inside = y
        weights = inside["attention"]
        return carry, logits, jnp.concatenate(weights, -1) if isinstance(weights, tuple) else weights

    return jax.vmap(step, in_axes=(axes, axis), out_axes=(axes, axis, axis))


def _nothing_yet(
    batch_shape: Shape, width: int, capacity: int, stop: Array | None, valid: Array
) -> tuple[Beam, Beams]:
    """A beam with one empty sequence, and no sequences that have ended."""
    shape, dtype = (*batch_shape, width), jnp.result_type(float)
    tokens = jnp.full((*shape, capacity), 0 if stop is None else stop, jnp.int32)
    first = jnp.broadcast_to(jnp.where(jnp.arange(width) == 0, 0, -jnp.inf).astype(dtype), shape)
    none = jnp.full(shape, -jnp.inf, dtype)
    beam = Beam(tokens, first, jnp.zeros((*shape, valid.shape[-1]), dtype))
    return beam, Beams(tokens, none, none, jnp.zeros(shape, jnp.int32))


def _advance_row(
    rule: Rule, logits: Array, beam: Beam, ended: Beams, valid: Array, t: Array, *, adjust: Adjust | None
) -> Any:
    """Extend the beam of one row by a token; logits are (width, vocabulary)."""
    own = jax.vmap(lambda z, tokens: log_softmax(adjusted(adjust, z, tokens, t)))(logits, beam.tokens)
    log_probs = beam.log_probs[:, None] + own.astype(beam.log_probs.dtype)
    if (stop := rule.stop) is not None:
        ending = log_probs[:, stop]
        scores = rule.score(ending, t + 1, beam.coverage, valid)
        lengths = jnp.full_like(ended.lengths, t + 1)
        ended = _best(ended, Beams(beam.tokens.at[:, t].set(stop), scores, ending, lengths))
        log_probs = log_probs.at[:, stop].set(-jnp.inf)
    kept, index = lax.top_k(log_probs.ravel(), len(log_probs))
    parent, token = index // logits.shape[-1], index % logits.shape[-1]
    tokens = beam.tokens[parent].at[:, t].set(token)
    return parent, token, Beam(tokens, kept, beam.coverage[parent]), ended


def _finish_row(rule: Rule, wanted: Any, beam: Beam, ended: Beams, valid: Array, t: Array) -> Beams:
    """The best of the sequences that have ended and those that reached the full length."""
    scores = rule.score(beam.log_probs, wanted, beam.coverage, valid)
    scores = jnp.where((t < wanted) & ~jnp.isnan(scores), -jnp.inf, scores)  # stopped early: the beam lost
    return _best(ended, Beams(beam.tokens, scores, beam.log_probs, jnp.full_like(ended.lengths, wanted)))


def _best(ended: Beams, more: Beams) -> Beams:
    """The best of both, as many as in `ended`."""
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), ended, more)
    _, index = lax.top_k(joined.scores, len(ended.scores))
    return jax.tree.map(lambda a: a[index], joined)
