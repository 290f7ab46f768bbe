"""Batches for sequence-to-sequence models: padded pairs, and scheduled sampling."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jrnn._checks import brief, check_lag
from jrnn.data.batching import (
    Batch,
    Pair,
    alike,
    as_int32,
    check_options,
    checked_index,
    grouped,
    pad,
    round_up,
    rows_of_part,
)

Schedule = Callable[[int], Any]  # step -> probability of the given token, an optax schedule


@dataclass(frozen=True, eq=False)
class PairBatches:
    """Pairs of sequences as batches of a few shapes, made by `pair_batches`.

    `len(batches)` is their number and `batches[i]` a `Batch` whose xs is a `Pair`; `batches.rows[i]` are the
    indices of its pairs. `epoch(n)` returns the same pairs in the order of epoch n.

    >>> from jrnn.data import pair_batches
    >>> batch = pair_batches([[5, 6], [7]], [[3], [4, 4, 3]], batch_size=2, start=1, stop=2)[0]
    >>> batch.xs.inputs.T.tolist(), batch.targets.T.tolist()
    ([[1, 4, 4, 3], [1, 3, 0, 0]], [[4, 4, 3, 2], [3, 2, 0, 0]])
    """

    sources: tuple[NDArray[Any], ...] = field(repr=False)
    targets: tuple[NDArray[np.int32], ...] = field(repr=False)  # without start and stop
    padded: NDArray[np.int64] = field(repr=False)  # (n, 2), lengths of source and target, rounded up
    rows: tuple[NDArray[np.int64], ...] = field(repr=False)  # for each batch, the indices of its pairs
    batch_size: int
    start: int
    stop: int
    seed: int | None
    part: slice = field(default_factory=lambda: slice(None), repr=False)  # the rows to build, by `share`

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        rows = self.rows[checked_index(index, len(self))]
        source_steps, steps = self.padded[rows].max(0).tolist()
        size = len(range(self.batch_size)[self.part])
        sources, targets = ([side[row] for row in rows[self.part]] for side in (self.sources, self.targets))
        inputs = [np.append(np.int32(self.start), target) for target in targets]
        outputs = [np.append(target, np.int32(self.stop)) for target in targets]
        pair = Pair(
            pad(sources, (source_steps, size), self.sources[0]),
            pad(inputs, (steps, size), self.targets[0]),
            np.arange(source_steps)[:, None] < self._lengths(sources, size),
        )
        lengths = self._lengths(outputs, size)
        mask = np.arange(steps)[:, None] < lengths
        return Batch(pair, pad(outputs, (steps, size), self.targets[0]), lengths, mask)

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))

    def epoch(self, number: int) -> "PairBatches":
        """Shuffle by (seed, number): both the grouping into batches and their order.

        Args:
          number: epoch number, from 0.

        Returns:
          Batches of the same shapes; without a seed, the same batches.
        """
        if self.seed is None:
            return self
        random = np.random.default_rng((self.seed, number))
        rows = _grouped(self.padded, random.permutation(len(self.padded)), self.batch_size)
        return replace(self, rows=tuple(rows[index] for index in random.permutation(len(rows))))

    def share(self, index: int, count: int) -> "PairBatches":
        """The rows that process `index` of `count` has of each batch, as `Stream.share` says."""
        return replace(self, part=rows_of_part(self.batch_size, index, count))

    def _lengths(self, arrays: list[NDArray[Any]], size: int) -> NDArray[np.int32]:
        lengths = np.zeros(size, np.int32)
        lengths[: len(arrays)] = [len(array) for array in arrays]
        return lengths


def pair_batches(
    sources: Sequence[Any],
    targets: Sequence[Any],
    batch_size: int,
    *,
    start: int,
    stop: int,
    key_seed: int | None = None,
    bucket: int | None = None,
) -> PairBatches:
    """Batch pairs of similar lengths, padded to one of a few shapes.

    The decoder's inputs are `[start, *target]`, its targets `[*target, stop]`. Both sides are padded with
    zeros to the next power of two or multiple of `bucket`, but never beyond the longest, so that only a few
    shapes are compiled. The last batch is filled up with masked pairs of length 0.

    Args:
      sources: arrays (Sᵢ, features...) or (Sᵢ,) of tokens that differ in Sᵢ only.
      targets: lists or arrays (Tᵢ,) of tokens, without start and stop.
      batch_size: B.
      start: the first token of every decoder input.
      stop: the last token of every target.
      key_seed: seed with which `epoch(number)` shuffles, by (key_seed, number).
      bucket: round lengths up to a multiple of this; by default, to a power of two.

    Returns:
      Batches with `xs` a `Pair(source, inputs, source_mask)`, `targets` and `target_mask` (T, B), and
      `lengths` (B,).

    Raises:
      ValueError: no pairs, different numbers of targets and sources, or targets that are not tokens.

    >>> from jrnn.data import pair_batches
    >>> pair_batches([[5, 6], [7]], [[3], [4, 4, 3]], 2, start=1, stop=2)[0].xs.source_mask.T.tolist()
    [[True, False], [True, True]]
    """
    check_options(batch_size, key_seed, bucket)
    check_lag("start", start)
    check_lag("stop", stop)
    read, written = alike("sources", sources), alike("targets", targets)
    if len(read) != len(written):
        raise ValueError(f"targets has {len(written)} entries, sources has {len(read)}")
    if written[0].ndim != 1 or any(t.size and not np.issubdtype(t.dtype, np.integer) for t in written):
        raise ValueError("targets must be lists of integer tokens: encode them with their vocabulary")
    lengths = np.array([(len(s), len(t) + 1) for s, t in zip(read, written, strict=True)])
    padded = np.array([[round_up(n, bucket) for n in pair] for pair in lengths.tolist()])
    padded = np.minimum(padded, lengths.max(0))
    order = np.lexsort((lengths[:, 1], lengths[:, 0]))
    rows = _grouped(padded, order, batch_size)
    tokens = tuple(as_int32(target, "targets") for target in written)
    return PairBatches(tuple(read), tokens, padded, tuple(rows), batch_size, start, stop, key_seed)


def _grouped(padded: NDArray[Any], order: NDArray[Any], batch_size: int) -> list[NDArray[Any]]:
    """Sort by padded shape, with ties in the given `order`, and cut into batches."""
    return grouped(padded[:, 0] * (1 + padded[:, 1].max()) + padded[:, 1], order, batch_size)


@dataclass(frozen=True, eq=False)
class ScheduledSampling:
    """Batches of pairs for scheduled sampling, with a decoder `Feedback(cell, emit="argmax")`.

        use_givenₜ ~ Bernoulli(schedule(s)) at training step s,   always given at t = 0

    The decoder's inputs become `(given, use_given)`. They are drawn independently for every step and row of
    a batch, by (seed, s), so that a resumed run repeats them. A schedule of 1 is teacher forcing, one of 0
    free running.

    Args:
      batches: the result of `pair_batches`.
      schedule: probability of the given token as a function of the step; any optax schedule, such as
        `optax.linear_schedule(1.0, 0.25, 2000)`.
      seed: random seed.

    Reference: Bengio, Vinyals, Jaitly, Shazeer, Scheduled sampling for sequence prediction with recurrent
    neural networks, 2015, arXiv:1506.03099.

    >>> import numpy as np
    >>> from jrnn.data import ScheduledSampling, pair_batches
    >>> batches = pair_batches([[5, 6], [7]], [[3], [4, 4, 3]], 2, start=1, stop=2)
    >>> sampled = ScheduledSampling(batches, lambda step: 0.0)
    >>> given, use_given = next(iter(sampled.epoch(0))).xs.inputs
    >>> use_given.T.tolist()
    [[True, False, False, False], [True, False, False, False]]
    """

    batches: PairBatches
    schedule: Schedule
    seed: int = 0

    def __post_init__(self) -> None:
        if not callable(self.schedule):
            raise TypeError(
                f"schedule must be a function of the step, such as optax.constant_schedule(0.5), got "
                f"{brief(self.schedule)}"
            )

    def epoch(self, number: int) -> Iterable[Batch]:
        """The batches of an epoch; pass this method to `fit`."""
        first = number * len(self.batches)
        for step, batch in enumerate(self.batches.epoch(number), first):
            inputs = batch.xs.inputs
            random = np.random.default_rng((self.seed, step))
            use_given = random.random(inputs.shape) < float(self.schedule(step))
            use_given[:1] = True
            yield batch._replace(xs=batch.xs._replace(inputs=(inputs, use_given)))
