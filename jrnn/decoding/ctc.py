"""Connectionist temporal classification: label sequences without an alignment to the steps."""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from jrnn._alignment import like_rows, on_device, promoted, select
from jrnn._checks import check_lag, check_width
from jrnn.cell import broadcasting
from jrnn.data import Batch
from jrnn.decoding._prompting import checked_lengths
from jrnn.losses import length_mask
from jrnn.unrolling._rounding import is_eager, lengthened, native, rounded, shortened

# optax adds it to log-probabilities: far below any of them, but −inf would come back as NaN
LOG_ZERO = -1e30


@dataclass(frozen=True)
class CTC:
    """CTC as a loss for `fit`: outputs are logits of every step, targets the labels of every sequence.

        loss = −Σ log p(labels | logits) / count,   over the sequences that count

    Targets are (batch, n), each row padded after its labels with −1 or the blank. `lengths` of the batch
    are those of the inputs; a sequence of length 0, or masked by `target_mask` (batch,), does not count. A
    sequence with fewer steps than its labels need makes the mean inf, and adds nothing to the gradient.

    Args:
      blank: the class that means no label.

    Reference: Graves, Fernández, Gomez, Schmidhuber, Connectionist temporal classification: labeling
    unsegmented sequence data with recurrent neural networks, 2006, doi:10.1145/1143844.1143891.

    >>> import jax.numpy as jnp, jrnn
    >>> from jrnn.decoding.ctc import CTC
    >>> batch = jrnn.Batch(xs=None, targets=jnp.array([[1, -1]]), lengths=jnp.array([2]))
    >>> print(f"{jnp.exp(-CTC().mean(jnp.zeros((3, 1, 2)), batch)):.2f}")  # 11, 01 and 10, of 4
    0.75
    """

    blank: int = 0
    per_sequence: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_lag("blank", self.blank)

    def mean(self, ys: Any, batch: Batch) -> Array:
        """The mean over the sequences that count."""
        counts = self._counts(batch)
        steps = ys.shape[0] if batch.lengths is None else batch.lengths
        losses = ctc_loss(ys, batch.targets, jnp.where(counts, steps, 0), blank=self.blank)
        return jnp.where(counts, losses, 0).sum() / jnp.maximum(counts.sum(), 1).astype(losses.dtype)

    def count(self, batch: Batch) -> Any:
        """The number of sequences that count."""
        return self._counts(batch).sum()

    def _counts(self, batch: Batch) -> Array:
        rows = batch.targets.shape[:-1]
        if batch.target_mask is not None and np.shape(batch.target_mask) != rows:
            raise ValueError(
                f"target_mask has shape {np.shape(batch.target_mask)}, CTC needs one per sequence, {rows}"
            )
        counts = jnp.ones(rows, bool) if batch.target_mask is None else jnp.asarray(batch.target_mask)
        return counts if batch.lengths is None else counts & (jnp.asarray(batch.lengths) > 0)


def ctc_loss(logits: Any, labels: Any, lengths: Any = None, *, blank: int = 0) -> Array:
    """Negative log-probability of labels, summed over all alignments with the steps, in nats.

        loss = −log Σ_π Πₜ softmax(logitsₜ)[πₜ],   π: repeats dropped, then blanks, leaves the labels

    This is `optax.ctc_loss` with time first, in float32 at least. Padding affects neither value nor gradient.

    Args:
      logits: (time, batch..., classes), floats; −inf for an impossible class.
      labels: (batch..., n), integers in [0, classes), each row padded after its labels with the blank or
        negative numbers. A label out of range, or after padding, gives NaN.
      lengths: (batch...), number of valid steps of each sequence.
      blank: the class that means no label.

    Returns:
      (batch...), inf with no gradient if there are fewer steps than the labels need: one for each, and one
      between two equal ones.

    Raises:
      ValueError: a wrong shape or dtype; the message names the argument.

    Reference: Graves, Fernández, Gomez, Schmidhuber, Connectionist temporal classification: labeling
    unsegmented sequence data with recurrent neural networks, 2006, doi:10.1145/1143844.1143891.

    >>> import jax.numpy as jnp
    >>> from jrnn.decoding.ctc import ctc_loss
    >>> print(f"{jnp.exp(-ctc_loss(jnp.zeros((2, 2)), jnp.array([1]))):.2f}")  # 11, 01 and 10, of 4
    0.75
    """
    shape = np.shape(logits)
    logits, lengths = _checked(logits, lengths, blank)
    labels = native(labels) if isinstance(labels, np.ndarray) else jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if labels.ndim == 0 or labels.shape[:-1] != shape[1:-1]:
        raise ValueError(
            f"labels has shape {labels.shape}, logits of shape {shape} need {shape[1:-1]} and an axis for "
            "the labels of a sequence"
        )
    labels = labels.astype(np.int32) if labels.dtype.itemsize < 4 else labels  # int8 wraps 300 classes to 44
    if is_eager(logits, lengths, labels):
        labels = lengthened(labels, rounded(labels.shape[-1]), axis=-1, fill=-1)
    return _losses(logits, lengths, labels, blank=blank)


@functools.partial(jax.jit, static_argnames="blank")
def _losses(logits: Array, lengths: Array, labels: Array, *, blank: int) -> Array:
    logits, valid = _without_padding(logits, lengths)
    impossible = jnp.isneginf(logits) & (logits.max(-1, keepdims=True) > -jnp.inf)
    logits = jnp.where(impossible, LOG_ZERO, logits)

    def loss(logits: Array, valid: Array, labels: Array) -> Array:
        dtype = logits.dtype
        is_label = (labels >= 0) & (labels != blank)
        inside = jnp.arange(labels.size) < is_label.sum()
        # one more step and label of padding, since optax rejects sequences without steps or labels
        # optax picks labels by a matmul, so no TF32; and it mixes its float32 with our float64
        with jax.default_matmul_precision("highest"), jax.numpy_dtype_promotion("standard"):
            (found,) = optax.ctc_loss(
                jnp.pad(logits, ((0, 1), (0, 0)))[None],
                jnp.pad(~valid, (0, 1), constant_values=True)[None].astype(dtype),
                jnp.pad(jnp.where(inside, labels, blank), (0, 1), constant_values=blank)[None],
                jnp.pad(~inside, (0, 1), constant_values=True)[None].astype(dtype),
                blank_id=blank,
                log_epsilon=LOG_ZERO,
            )
        found = jnp.where(found > -LOG_ZERO / 2, jnp.inf, found)
        found -= lax.stop_gradient(jnp.minimum(found, 0))  # rounding
        wrong = jnp.any(inside & ~(is_label & (labels < logits.shape[-1])))
        return jnp.where(wrong, jnp.nan, found).astype(dtype)

    for _ in valid.shape[1:]:
        loss = jax.vmap(loss, in_axes=(1, 1, 0))
    return loss(logits, valid, labels)


def ctc_greedy(logits: Any, lengths: Any = None, *, blank: int = 0) -> Array:
    """Labels of the most likely alignment.

        πₜ = arg max logitsₜ;   repeats dropped, then blanks

    These need not be the most likely labels, which may have many alignments, none of them the best.

    Args:
      logits: (time, batch..., classes), floats.
      lengths: (batch...), number of valid steps of each sequence.
      blank: the class that means no label.

    Returns:
      (batch..., time), int32, each row padded with −1 after its labels.

    Raises:
      ValueError: a wrong shape, dtype or blank; the message names the argument.

    Reference: Graves, Fernández, Gomez, Schmidhuber, Connectionist temporal classification: labeling
    unsegmented sequence data with recurrent neural networks, 2006, doi:10.1145/1143844.1143891.

    >>> import jax, jax.numpy as jnp
    >>> from jrnn.decoding.ctc import ctc_greedy
    >>> ctc_greedy(jax.nn.one_hot(jnp.array([1, 1, 0, 1, 2, 2]), 3)).tolist()
    [1, 1, 2, -1, -1, -1]
    """
    steps = len(logits)
    logits, lengths = _checked(logits, lengths, blank)
    return shortened(_collapsed(logits, lengths, blank=blank), steps, axis=-1)


@functools.partial(jax.jit, static_argnames="blank")
def _collapsed(logits: Array, lengths: Array, *, blank: int) -> Array:
    logits, valid = _without_padding(logits, lengths)
    path = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    before = jnp.concatenate([jnp.full_like(path[:1], blank), path[:-1]])
    keep = jnp.moveaxis(valid & (path != before) & (path != blank), 0, -1)
    first = jnp.argsort(~keep, axis=-1, stable=True)
    return jnp.take_along_axis(jnp.where(keep, jnp.moveaxis(path, 0, -1), -1), first, axis=-1)


def ctc_beam_search(logits: Any, lengths: Any = None, *, width: int, blank: int = 0) -> tuple[Array, Array]:
    """Search for the most likely labels by prefix beam search, in one compiled loop.

        blank(ℓ) ← p[blank] · (blank(ℓ) + label(ℓ))
        label(ℓc) ← p[c] · (label(ℓc) + blank(ℓ) + label(ℓ)),   without the last where ℓ ends in c

    Both are probabilities of a prefix, summed over its alignments that end in a blank or in a label; each
    step keeps the `width` prefixes with the greatest sum of the two. Alignments through dropped prefixes are
    not counted, so log-probabilities are lower bounds, exact if there are at most `width` prefixes.

    Args:
      logits: (time, batch..., classes), floats.
      lengths: (batch...), number of valid steps of each sequence.
      width: number of prefixes to keep.
      blank: the class that means no label.

    Returns:
      `(labels, log_probabilities)`, best first: (batch..., width, time), int32, each row padded with −1
      after its labels; (batch..., width), −inf if there are fewer label sequences than `width`.

    Raises:
      ValueError: a wrong shape, dtype, width or blank; the message names the argument.

    Reference: Hannun, Maas, Jurafsky, Ng, First-pass large vocabulary continuous speech recognition using
    bi-directional recurrent DNNs, 2014, arXiv:1408.2873 (without its language model).

    >>> import jax.numpy as jnp
    >>> from jrnn.decoding.ctc import ctc_beam_search, ctc_greedy
    >>> logits = jnp.log(jnp.array([[0.6, 0.4], [0.6, 0.4]]))  # 00 has 0.36, but 01, 10 and 11 have 0.64
    >>> labels, log_probabilities = ctc_beam_search(logits, width=2)
    >>> print(ctc_greedy(logits), labels[0], f"{jnp.exp(log_probabilities[0]):.2f}")
    [-1 -1] [ 1 -1] 0.64
    """
    check_width("width", width)
    steps = len(logits)
    logits, lengths = _checked(logits, lengths, blank)
    labels, log_probabilities = _search_all(logits, lengths, width=width, blank=blank)
    return shortened(labels, steps, axis=-1), log_probabilities


@functools.partial(jax.jit, static_argnames=("width", "blank"))
def _search_all(logits: Array, lengths: Array, *, width: int, blank: int) -> tuple[Array, Array]:
    logits, valid = _without_padding(logits, lengths)
    log_p, rows = jax.nn.log_softmax(logits), valid.any(axis=0)
    search = functools.partial(_search, blank=blank)
    start = jax.tree.map(
        lambda a: like_rows(jnp.broadcast_to(a, (*rows.shape, *a.shape)), rows),
        _empty_prefix(width, len(log_p), log_p.dtype),
    )
    for _ in rows.shape:
        search = jax.vmap(search, in_axes=(0, 1, 1))
    return search(start, log_p, valid)


class _Beam(NamedTuple):
    prefixes: Array  # (width, time), −1 after the labels; those of nonzero probability are distinct
    counts: Array  # (width,), number of labels of each
    last: Array  # (width,), last label of each, −1 if it has none
    blank: Array  # (width,), log-probability of alignments that end in a blank
    label: Array  # (width,), log-probability of alignments that end in a label


def _empty_prefix(width: int, steps: int, dtype: Any) -> _Beam:
    nothing = jnp.full(width, -jnp.inf, dtype)
    prefixes = jnp.full((width, steps), -1, jnp.int32)
    none = jnp.zeros(width, jnp.int32)
    return _Beam(prefixes, none, none - 1, nothing.at[0].set(0), nothing)


def _search(start: _Beam, log_p: Array, valid: Array, *, blank: int) -> tuple[Array, Array]:
    """Beam search over one (time, classes) sequence."""

    def advance(beam: _Beam, step: tuple[Array, Array]) -> tuple[_Beam, None]:
        now, is_valid = step
        after = _extended(beam, now, blank)
        return jax.tree.map(functools.partial(jnp.where, is_valid), after, beam), None

    beam, _ = lax.scan(advance, start, (log_p, valid))
    total = jnp.minimum(jnp.logaddexp(beam.blank, beam.label), 0)  # rounding
    return jnp.where(total[:, None] > -jnp.inf, beam.prefixes, -1), total


@broadcasting  # the prefixes are the batch
def _extended(beam: _Beam, now: Array, blank: int) -> _Beam:
    """One step: each prefix stays or is extended by a label, and the best of all are kept."""
    (width, steps), classes = beam.prefixes.shape, now.size
    last, total = beam.last, jnp.logaddexp(beam.blank, beam.label)
    numbers, places = (jnp.arange(n, dtype=jnp.int32) for n in (classes, steps))
    stay_blank = total + now[blank]
    stay_label = beam.label + now[last]  # an empty prefix has no last label; its `label` is −inf
    longer = jnp.where(numbers == last[:, None], beam.blank[:, None], total[:, None]) + now
    # an extended prefix may equal another one of the beam: add its probability there
    shorter = jnp.where(places == beam.counts[:, None] - 1, -1, beam.prefixes)
    grows = jnp.all(beam.prefixes[:, None] == shorter, axis=-1) & (beam.counts > 0) & (total > -jnp.inf)
    gained = jnp.where(grows, longer[:, last], -jnp.inf).max(axis=0)
    stay_label = jnp.logaddexp(stay_label, gained)
    moved = jnp.any(grows[..., None] & (last[:, None] == numbers), axis=1)  # (width, classes)
    longer = jnp.where(moved, -jnp.inf, longer)
    candidates = longer.at[:, blank].set(jnp.logaddexp(stay_blank, stay_label))  # in the column of the blank
    scores, chosen = lax.top_k(candidates.reshape(-1), width)
    source, label = jnp.divmod(chosen.astype(jnp.int32), classes)
    stays, end = label == blank, beam.counts[source]
    prefixes = beam.prefixes[source]
    return _Beam(
        jnp.where(stays[:, None] | (places != end[:, None]), prefixes, label[:, None]),
        jnp.where(stays, end, end + 1),
        jnp.where(stays, last[source], label),
        jnp.where(stays, stay_blank[source], -jnp.inf),
        jnp.where(stays, stay_label[source], scores),
    )


def _checked(logits: Any, lengths: Any, blank: int) -> tuple[Array, Array]:
    """Logits, padded to a rounded number of steps in eager calls, and the lengths of the sequences."""
    logits = native(logits) if isinstance(logits, np.ndarray) else jnp.asarray(logits)
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"logits must be floats, got {logits.dtype}")
    if logits.ndim < 2:
        raise ValueError(f"logits has shape {logits.shape}, needs (time, batch..., classes)")
    check_lag("blank", blank)
    if blank >= logits.shape[-1]:
        raise ValueError(f"blank must be one of the {logits.shape[-1]} classes of logits, got {blank}")
    steps, batch_shape = len(logits), logits.shape[1:-1]
    if lengths is not None and np.shape(lengths) != batch_shape:
        raise ValueError(
            f"lengths has shape {np.shape(lengths)}, logits of shape {logits.shape} need {batch_shape}"
        )
    lengths = checked_lengths(lengths, steps, "logits", least=0)
    lengths = on_device(np.full(batch_shape, steps) if lengths is None else lengths, jnp.int32)
    if is_eager(logits, lengths):
        logits = lengthened(logits, rounded(steps))
    return logits, lengths


def _without_padding(logits: Array, lengths: Array) -> tuple[Array, Array]:
    """Logits in float32 at least, with zeros in padding, and the valid steps, (time, batch...)."""
    logits = logits.astype(promoted(logits.dtype, jnp.float32))
    valid = length_mask(lengths, len(logits))
    return select(valid, logits, jnp.zeros_like(logits)), valid
