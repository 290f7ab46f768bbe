"""Packing: sequences of different lengths put one after another into rows of equal length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jrnn._checks import brief, check_flag, check_width
from jrnn.data.batching import (
    Batch,
    alike,
    check_options,
    checked_index,
    checked_targets,
    pad,
    rows_of_part,
)


@dataclass(frozen=True, eq=False)
class PackedBatches:
    """Sequences of different lengths in rows of equal length, made by `packed_batches`.

    `len(batches)` is their number and `batches[i]` a `Batch`, all of one shape; `batches.rows` holds the
    indices of the sequences of each row, in order, with those of batch i at `[i * batch_size :]`. `epoch(n)`
    returns the same sequences in the order of epoch n.

    >>> import numpy as np
    >>> from jrnn.data import packed_batches
    >>> batches = packed_batches([np.ones((n, 4)) for n in (2, 5, 3)], np.arange(3), batch_size=2)
    >>> [row.tolist() for row in batches.rows], batches[0].lengths.tolist()
    ([[1], [2, 0]], [5, 5])
    """

    sequences: tuple[NDArray[Any], ...] = field(repr=False)
    targets: tuple[NDArray[Any], ...] = field(repr=False)
    rows: tuple[NDArray[np.int64], ...] = field(repr=False)  # the indices of the sequences of each row
    batch_size: int
    steps: int
    per_step: bool
    seed: int | None
    part: slice = field(default_factory=lambda: slice(None), repr=False)  # the rows to build, by `share`

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        rows = self._rows(index)
        shape = self._shape()
        lengths = np.zeros(shape[1], np.int32)
        mask, resets = np.zeros(shape, bool), np.zeros(shape, bool)
        for row, members in enumerate(rows):
            ends = np.cumsum(self._lengths(members))
            lengths[row] = ends[-1]
            resets[0, row] = True
            resets[ends[:-1], row] = True
            if self.per_step:
                mask[: ends[-1], row] = True
            else:
                mask[ends - 1, row] = True
        xs = pad(self._joined(self.sequences, rows), shape, self.sequences[0])
        if self.per_step:
            targets = pad(self._joined(self.targets, rows), shape, self.targets[0])
            return Batch(xs, targets, lengths, mask, resets)
        targets = np.zeros((*shape, *self.targets[0].shape), self.targets[0].dtype)
        labels = [self.targets[member] for members in rows for member in members]
        if labels:
            targets.swapaxes(0, 1)[mask.T] = labels  # row after row, as `labels` are
        return Batch(xs, targets, lengths, mask, resets)

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))

    def epoch(self, number: int) -> "PackedBatches":
        """Shuffle by (seed, number): which of equally long sequences share a row, and the order of rows.

        Args:
          number: epoch number, from 0.

        Returns:
          As many batches of the same shape; without a seed, the same batches.
        """
        if self.seed is None:
            return self
        random = np.random.default_rng((self.seed, number))
        members = np.sort(np.concatenate(self.rows))
        rows = first_fit(self._lengths(members), random.permutation(len(members)), self.steps)
        return replace(self, rows=tuple(members[rows[index]] for index in random.permutation(len(rows))))

    def share(self, index: int, count: int) -> "PackedBatches":
        """The rows that process `index` of `count` has of each batch, as `Stream.share` says."""
        return replace(self, part=rows_of_part(self.batch_size, index, count))

    def unpack(self, index: int, ys: Any) -> dict[int, NDArray[Any]]:
        """Split the outputs for a batch into those of its sequences.

        Args:
          index: number of the batch, i in `batches[i]`.
          ys: (T, B, ...), such as the outputs that `predict` yields.

        Returns:
          For each sequence of the batch, from its index in `sequences`, its outputs (Tᵢ, ...).

        Raises:
          ValueError: ys that has another number of steps or rows.

        >>> from jrnn.data import packed_batches
        >>> batches = packed_batches([[1, 2, 3], [4], [5, 6]], [0, 1, 2], batch_size=2)
        >>> {i: ys.tolist() for i, ys in batches.unpack(0, 10 * batches[0].xs).items()}
        {0: [10, 20, 30], 2: [50, 60], 1: [40]}
        """
        ys, shape = np.asarray(ys), self._shape()
        if ys.shape[:2] != shape:
            raise ValueError(f"ys has shape {ys.shape}, needs {shape} as its first axes, time and batch")
        found: dict[int, NDArray[Any]] = {}
        for row, members in enumerate(self._rows(index)):
            parts = np.split(ys[:, row], np.cumsum(self._lengths(members)))
            found.update(zip(members.tolist(), parts, strict=False))  # the last part is what is left over
        return found

    def _rows(self, index: int) -> tuple[NDArray[np.int64], ...]:
        first = checked_index(index, len(self)) * self.batch_size
        return self.rows[first : first + self.batch_size][self.part]

    def _shape(self) -> tuple[int, int]:
        return self.steps, len(range(self.batch_size)[self.part])

    def _lengths(self, members: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.array([len(self.sequences[member]) for member in members], np.int64)

    def _joined(self, arrays: tuple[NDArray[Any], ...], rows: Any) -> list[NDArray[Any]]:
        return [np.concatenate([arrays[member] for member in members]) for members in rows]


def packed_batches(
    sequences: Sequence[Any],
    targets: Any,
    batch_size: int,
    *,
    steps: int | None = None,
    key_seed: int | None = None,
    truncate: bool = False,
) -> PackedBatches:
    """Batch sequences by packing: each row holds several, one after another, and little or no padding.

    Sequences are put into rows of `steps` steps, the longest first, each into the first row with room for
    it (first-fit decreasing). `resets` mark where they start, so that none sees the state of another, and
    `lengths` where the row ends. All batches have one shape, and the last is filled up with empty rows.

    The loss is `PerStep` for either kind of target, with the mean over exactly the same outputs as with
    `padded_batches`: `target_mask` selects every step of a sequence, or only its last if it has one target,
    which stands there. Batches have different numbers of sequences. `resets` do not draw noise anew: a
    dropout mask for a whole sequence is one for a whole row. Packing cannot feed a model with one output
    per row (`ManyToOne`, `CRF`) or one that reads the first step as the last (`Reversed`);
    `padded_batches` can.

    Args:
      sequences: arrays (Tᵢ, features...) that differ in Tᵢ only. Empty ones have no step that could count
        and are left out, as losses do for padded ones.
      targets: one array (n, ...) or list of scalars, one target per sequence; or a list or object array of
        arrays (Tᵢ, ...), one target per step.
      batch_size: B, number of rows.
      steps: T, length of the rows; by default, of the longest sequence. Longer rows have less padding.
      key_seed: seed with which `epoch(number)` shuffles, by (key_seed, number).
      truncate: cut longer sequences after `steps` steps; by default, they are an error.

    Returns:
      Batches with `lengths` (B,), `targets` (T, B, ...), `target_mask` and `resets` (T, B).

    Raises:
      ValueError: no sequences, only empty ones or longer ones than `steps`, values that are not numbers, or
        shapes that do not match; the message names the argument.

    >>> from jrnn.data import packed_batches
    >>> batch = packed_batches([[1, 2, 3], [4], [5, 6]], [7, 8, 9], batch_size=2)[0]
    >>> batch.xs.T.tolist(), batch.resets.astype(int).T.tolist(), batch.targets.T.tolist()
    ([[1, 2, 3], [5, 6, 4]], [[1, 0, 0], [1, 0, 1]], [[0, 0, 7], [0, 9, 8]])
    """
    check_options(batch_size, key_seed, None)
    arrays = alike("sequences", sequences)
    per_step, labels = checked_targets(targets, arrays)
    lengths = np.array([len(array) for array in arrays])
    if not lengths.any():
        raise ValueError("sequences are all empty, needs at least one step")
    steps = int(lengths.max()) if steps is None else check_width("steps", steps)
    longer = np.flatnonzero(lengths > steps)
    if check_flag("truncate", truncate):
        arrays = [array[:steps] for array in arrays]
        labels = [label[:steps] for label in labels] if per_step else labels
        lengths = np.minimum(lengths, steps)
    elif len(longer):
        raise ValueError(
            f"{len(longer)} sequences are longer than steps={steps}, sequences[{longer[0]}] has "
            f"{lengths[longer[0]]} steps (indices {brief(longer.tolist())}): raise steps to {lengths.max()}, "
            "or cut them by truncate=True"
        )
    rows = first_fit(lengths, np.arange(len(lengths)), steps)
    return PackedBatches(tuple(arrays), tuple(labels), tuple(rows), batch_size, steps, per_step, key_seed)


def first_fit(lengths: NDArray[Any], order: NDArray[Any], steps: int) -> list[NDArray[Any]]:
    """First-fit decreasing: indices of non-empty sequences by row, equal lengths in the given `order`."""
    space = np.zeros(0, np.int64)  # left in each row
    chosen = np.full(len(lengths), -1)
    for length in np.unique(lengths[lengths > 0])[::-1]:
        # equal lengths fill one row after another, so that a cumulative sum places them all at once
        members = order[lengths[order] == length]
        unused = np.full(-(-len(members) // (steps // length)), steps)
        space = np.concatenate([space, unused])
        placed = np.minimum(np.cumsum(space // length), len(members))
        taken = np.diff(placed, prepend=0)
        chosen[members] = np.repeat(np.arange(len(space)), taken)
        space = space - taken * length
        space = space[space < steps]  # the unused ones are the last
    order = order[np.argsort(-lengths[order], kind="stable")]
    order = order[lengths[order] > 0]
    order = order[np.argsort(chosen[order], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(chosen[order])) + 1)
