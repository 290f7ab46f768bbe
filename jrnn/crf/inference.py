"""Inference in a conditional random field: likelihood, marginals, and the best tag sequence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jrnn._alignment import expand, looked_up, promoted
from jrnn._checks import brief
from jrnn.cell import Shape, broadcasting
from jrnn.crf.layer import Potentials
from jrnn.unrolling import unroll
from jrnn.unrolling._masking import schedule


class Constraint(NamedTuple):
    """The tag sequences that `viterbi` may return, as booleans."""

    transitions: Any  # (tags, tags), from a tag to the next
    start: Any  # (tags,)
    end: Any  # (tags,)


def crf_log_likelihood(potentials: Potentials, tags: Any, lengths: Any = None, *, mask: Any = None) -> Array:
    """Log-probability of tag sequences.

        log p(y) = score(y) − log Σ_y′ exp score(y′)

    Invalid steps are skipped anywhere in the sequence: a transition leads from a valid step to the next valid
    one, and the steps between affect neither the value nor the gradient. Summed in float32 or wider.

    Args:
      potentials: outputs of `CRF`.
      tags: (time, batch...), integers in [0, tags). Other values at a valid step give NaN.
      lengths: (batch...), valid steps of each sequence.
      mask: (time, batch...), False at steps to skip.

    Returns:
      (batch...), 0 where no step is valid.

    Raises:
      ValueError: a wrong shape or dtype; the message names the argument.
      TypeError: `potentials` are not `Potentials`.

    Reference: Sutton, McCallum, An introduction to conditional random fields, 2012, arXiv:1011.4088.

    >>> import jax.numpy as jnp
    >>> from jrnn.crf import Potentials, crf_log_likelihood
    >>> even = Potentials(jnp.zeros((3, 2)), jnp.zeros((2, 2)), jnp.zeros(2), jnp.zeros(2))
    >>> print(f"{jnp.exp(crf_log_likelihood(even, jnp.array([0, 1, 1]))):.3f}")  # one of 2³
    0.125
    """
    potentials, valid = _checked(potentials, lengths, mask)
    return _log_probability(potentials, tags, valid)


def crf_loss(potentials: Potentials, tags: Any, mask: Any = None) -> Array:
    """Negative log-likelihood of tag sequences, averaged over the valid steps, in nats.

        loss = −Σ log p(y) / Σₜ maskₜ

    For `jrnn.PerStep(crf_loss)`, with a `CRF` at the end of the model.

    Args:
      potentials: outputs of `CRF`.
      tags: (time, batch...), integers in [0, tags). Other values at a valid step give NaN.
      mask: (time, batch...), False at steps to skip.

    Returns:
      A scalar, 0 without any valid step.

    Raises:
      ValueError: a wrong shape or dtype; the message names the argument.
      TypeError: `potentials` are not `Potentials`.

    >>> import jax.numpy as jnp
    >>> from jrnn.crf import Potentials, crf_loss
    >>> even = Potentials(jnp.zeros((3, 2)), jnp.zeros((2, 2)), jnp.zeros(2), jnp.zeros(2))
    >>> print(f"{crf_loss(even, jnp.array([0, 1, 1])):.4f}")  # log 2
    0.6931
    """
    potentials, valid = _checked(potentials, None, mask)
    total = -_log_probability(potentials, tags, valid).sum()
    return total / jnp.maximum(valid.sum(), 1).astype(total.dtype)


def marginals(potentials: Potentials, lengths: Any = None, *, mask: Any = None) -> Array:
    """Probability of every tag at every step, given the whole sequence.

        pₜ[k] = Σ_{y: yₜ = k} p(y) = ∂ log Z / ∂ unariesₜ[k]

    Args:
      potentials: outputs of `CRF`.
      lengths: (batch...), valid steps of each sequence.
      mask: (time, batch...), False at steps to skip.

    Returns:
      (time, batch..., tags), rows that sum to 1; zeros at invalid steps.

    Raises:
      ValueError: a wrong shape or dtype; the message names the argument.
      TypeError: `potentials` are not `Potentials`.

    Reference: Sutton, McCallum, An introduction to conditional random fields, 2012, arXiv:1011.4088.

    >>> import jax.numpy as jnp
    >>> from jrnn.crf import Potentials, marginals
    >>> stay = Potentials(jnp.zeros((2, 2)), jnp.log(jnp.eye(2)), jnp.log(jnp.array([1, 3])), jnp.zeros(2))
    >>> print(marginals(stay).round(2))
    [[0.25 0.75]
     [0.25 0.75]]
    """
    potentials, valid = _checked(potentials, lengths, mask)

    def log_z(unaries: Array) -> Array:
        return _log_partition(potentials._replace(unaries=unaries), valid).sum()

    return jax.grad(log_z)(potentials.unaries)


def viterbi(
    potentials: Potentials, lengths: Any = None, *, mask: Any = None, allowed: Constraint | None = None
) -> tuple[Array, Array]:
    """Find the best tag sequence of each row, and its score.

        tags = arg max_y score(y)

    Ties are broken in favor of lower tags, from the last step backwards. If all sequences are allowed,
    `score − log Z` is the log-probability. If `allowed` excludes every sequence of that length, the score is
    −inf and the tags are meaningless.

    Args:
      potentials: outputs of `CRF`.
      lengths: (batch...), valid steps of each sequence.
      mask: (time, batch...), False at steps to skip.
      allowed: the sequences to choose from, such as `bio_constraint(names)`; defaults to all.

    Returns:
      `(tags, score)`: (time, batch...), int32, 0 at invalid steps; (batch...), 0 where no step is valid.

    Raises:
      ValueError: a wrong shape or dtype; the message names the argument.
      TypeError: `potentials` are not `Potentials`.

    Reference: Viterbi, Error bounds for convolutional codes and an asymptotically optimum decoding
    algorithm, 1967, doi:10.1109/TIT.1967.1054010.

    >>> import jax.numpy as jnp
    >>> from jrnn.crf import Potentials, viterbi
    >>> change = Potentials(jnp.zeros((3, 2)), -3 * jnp.eye(2), jnp.array([0.0, 1.0]), jnp.zeros(2))
    >>> [x.tolist() for x in viterbi(change)]
    [[1, 0, 1], 1.0]
    """
    potentials, valid = _checked(potentials, lengths, mask)
    if allowed is not None:
        potentials = _constrained(potentials, allowed)
    count = potentials.start.size
    best, pointers = unroll(_Best(count), _edges(potentials), potentials.unaries, mask=valid)
    _, tags = unroll(_Backtrace(count), (), (pointers,), mask=valid, reverse=True)
    return tags, _result(best)


# Both recursions carry a score for each next tag and one for ending here, so that they can stop after any
# step. The scores are shifted so that the largest is 0; the last entry of the carry is the sum of the shifts.


def _rebased(a: Array, base: Array) -> Array:
    """Shift `a` to a maximum of 0, which keeps its precision in long sequences; add the shift to `base`."""
    top = jax.lax.stop_gradient(a.max(-1, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, 0)
    return jnp.concatenate([a - top, base + top], axis=-1)


def _result(carry: Array) -> Array:
    """The score of ending after the last valid step, (batch...)."""
    return carry[..., -2] + carry[..., -1]


class _Edges(NamedTuple):
    start: Array  # (tags,)
    onward: Array  # (tags, tags + 1), to the next tag or to the end


def _edges(potentials: Potentials) -> _Edges:
    _, transitions, start, end = potentials
    return _Edges(start, jnp.concatenate([transitions, end[:, None]], axis=-1))


@dataclass(frozen=True)
class _Total:
    """All paths: aₜ₊₁[j] = log Σᵢ exp(aₜ[i] + xₜ[i] + onward[i, j])."""

    tags: int

    @property
    def out_features(self) -> int:
        return 1

    def init(self, key: Array, in_features: int) -> _Edges:
        return _Edges(jnp.zeros(in_features), jnp.zeros((in_features, in_features + 1)))

    def initial_carry(self, params: _Edges, batch_shape: Shape = (), *, key: Array | None = None) -> Array:
        start = jnp.append(
            params.start, jnp.zeros(2, params.start.dtype)
        )  # the empty path has score 0 and shift 0
        return jnp.broadcast_to(start, (*batch_shape, self.tags + 2))

    @broadcasting
    def step(self, params: _Edges, carry: Array, x: Array) -> tuple[Array, Array]:
        paths = (carry[..., : self.tags] + x)[..., None] + params.onward
        barred = jnp.all(paths == -jnp.inf, axis=-2)  # where the derivative of logsumexp would be NaN
        a = jax.nn.logsumexp(jnp.where(barred[..., None, :], 0, paths), axis=-2)
        carry = _rebased(jnp.where(barred, -jnp.inf, a), carry[..., -1:])
        return carry, carry[..., -1:]


@dataclass(frozen=True)
class _Best:
    """Best path: aₜ₊₁[j] = maxᵢ (aₜ[i] + xₜ[i] + onward[i, j]), and the maximizing i."""

    tags: int

    @property
    def out_features(self) -> int:
        return self.tags + 1

    def init(self, key: Array, in_features: int) -> _Edges:
        return _Total(self.tags).init(key, in_features)

    def initial_carry(self, params: _Edges, batch_shape: Shape = (), *, key: Array | None = None) -> Array:
        return _Total(self.tags).initial_carry(params, batch_shape)

    @broadcasting
    def step(self, params: _Edges, carry: Array, x: Array) -> tuple[Array, Array]:
        paths = (carry[..., : self.tags] + x)[..., None] + params.onward
        return _rebased(paths.max(axis=-2), carry[..., -1:]), paths.argmax(axis=-2).astype(jnp.int32)


@dataclass(frozen=True)
class _Backtrace:
    """Follow the pointers from the end: tagₜ = pointersₜ[tagₜ₊₁]."""

    tags: int

    @property
    def out_features(self) -> int:
        return 1

    def init(self, key: Array, in_features: int) -> tuple[()]:
        return ()

    def initial_carry(self, params: Any, batch_shape: Shape = (), *, key: Array | None = None) -> Array:
        return jnp.full(batch_shape, self.tags, jnp.int32)  # the end

    def step(self, params: Any, carry: Array, x: tuple[Array]) -> tuple[Array, Array]:
        tag = jnp.take_along_axis(x[0], carry[..., None], axis=-1)[..., 0]
        return tag, tag


def _log_partition(potentials: Potentials, valid: Array) -> Array:
    """Log Σ_y exp score(y), (batch...)."""
    cell = _Total(potentials.start.size)
    return _result(unroll(cell, _edges(potentials), potentials.unaries, mask=valid)[0])


def _log_probability(potentials: Potentials, tags: Any, valid: Array) -> Array:
    """Log p(tags), (batch...), at most 0.

    The score of the tags and the log-partition are long sums that nearly cancel. So the scores of the given
    tags are first subtracted from all tags of their step, part by part, so that the sums along the given tags
    are exactly 0.
    """
    *parts, end = _scores(potentials, tags, valid)
    unaries, found = potentials.unaries, end
    for part in parts:
        finite = jnp.where(jnp.isfinite(part), part, 0)
        unaries, found = unaries - finite[..., None], found + (part - finite).sum(0)
    found -= _log_partition(potentials._replace(unaries=unaries), valid)
    return found - jax.lax.stop_gradient(jnp.maximum(found, 0))  # rounding


def _scores(potentials: Potentials, tags: Any, valid: Array) -> tuple[Array, Array, Array]:
    """Scores of tags and of transitions to them, (time, batch...), and of the end, (batch...)."""
    unaries, transitions, start, end = potentials
    tags = jnp.asarray(tags)
    if not jnp.issubdtype(tags.dtype, jnp.integer):
        raise ValueError(f"tags must be integers, got {tags.dtype}")
    if tags.shape != valid.shape:
        raise ValueError(f"tags has shape {tags.shape}, unaries of {unaries.shape} need {valid.shape}")
    tags = tags.astype(jnp.int32) if tags.dtype.itemsize < 4 else tags  # in int8, 300 tags would be 44
    tags = jnp.where((tags >= 0) & (tags < start.size), tags, start.size).astype(jnp.int32)
    tags = jnp.where(valid, tags, 0)
    own = jnp.take_along_axis(unaries, tags[..., None], -1, mode="fill", fill_value=jnp.nan)[..., 0]
    # 1 + tag of the last valid step before each step, and after the last one; 0 if there is none
    before = jnp.pad(_last_valid(tags + 1, valid), [(1, 0)] + [(0, 0)] * (tags.ndim - 1))
    entered = looked_up(jnp.concatenate([start[None], transitions]), before[:-1], tags)
    left = looked_up(jnp.append(0, end), before[-1])
    return jnp.where(valid, own, 0), jnp.where(valid, entered, 0), left


def _last_valid(tags: Array, valid: Array) -> Array:
    """The tag of the last valid step up to each, or 0."""
    times = expand(jnp.arange(len(tags), dtype=jnp.int32), tags.ndim)
    source = lax.cummax(jnp.where(valid, times, -1), axis=0)
    return jnp.where(source >= 0, jnp.take_along_axis(tags, jnp.maximum(source, 0), axis=0), 0)


def _checked(potentials: Any, lengths: Any, mask: Any) -> tuple[Potentials, Array]:
    """Check potentials, promote them to one float dtype, and compute the valid steps, (time, batch...)."""
    if not isinstance(potentials, Potentials):
        raise TypeError(
            f"potentials must be the outputs of CRF, got {brief(potentials)}: put CRF(tags) last in the model"
        )
    arrays = [jnp.asarray(p) for p in potentials]
    dtype = promoted(*arrays, jnp.float32)
    unaries, transitions, start, end = (a.astype(dtype) for a in arrays)
    if unaries.ndim < 2:
        raise ValueError(f"unaries has shape {unaries.shape}, needs (time, batch..., tags)")
    _check_shapes("potentials", (transitions, start, end), unaries.shape[-1])
    shape = unaries.shape[:-1]
    valid = schedule(shape[0], shape[1:], lengths, mask, None, reverse=False).valid
    valid = jnp.ones(shape, bool) if valid is None else jnp.broadcast_to(expand(valid, len(shape)), shape)
    return Potentials(unaries, transitions, start, end), valid


def _check_shapes(name: str, parts: Sequence[Any], count: int) -> None:
    given, needed = [jnp.shape(p) for p in parts], [(count, count), (count,), (count,)]
    if given != needed:
        raise ValueError(
            f"transitions, start and end of {name} have shapes {given}, {count} tags need {needed}"
        )


def _constrained(potentials: Potentials, allowed: Constraint) -> Potentials:
    """Set forbidden transitions to −inf."""
    _check_shapes("allowed", allowed, potentials.start.size)
    edges = [jnp.where(jnp.asarray(a), p, -jnp.inf) for a, p in zip(allowed, potentials[1:], strict=True)]
    return Potentials(potentials.unaries, *edges)
