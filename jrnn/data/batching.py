"""Batches: rows of one long stream, or padded sequences of different lengths."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jrnn._checks import brief, check_lag, check_width

INT32 = np.iinfo(np.int32)


class Batch(NamedTuple):
    """One batch of inputs and targets; arrays are time first.

    Fields:
      xs: (T, B, features...), the inputs.
      targets: (T, B, ...), one per step, or (B, ...), one per sequence.
      lengths: (B,), valid steps of each sequence, for the model; None: all.
      target_mask: (T, B) or (B,), the targets that count in the loss; None: all. The model does not see it.
      resets: (T, B), True at the first step of a sequence, for the model; None: no resets.
    """

    xs: Any
    targets: Any
    lengths: Any = None
    target_mask: Any = None
    resets: Any = None


class Pair(NamedTuple):
    """Input of an `EncoderDecoder`; arrays are time first.

    Fields:
      source: (S, batch..., features), or (S, batch...) tokens.
      inputs: (T, batch..., ...), inputs of the decoder: its targets delayed by one step, or a Feedback's xs.
      source_mask: (S, batch...), False in the padding of the source; None: all valid.
    """

    source: Any
    inputs: Any
    source_mask: Any = None


@dataclass(frozen=True, eq=False)
class Stream:
    """A long token stream cut into batches, in which every row continues that of the previous batch.

        xs[t, b] of batch i      = tokens[b·N·T + i·T + t],   N = ⌊(len(tokens) − 1) / (B·T)⌋ batches
        targets[t, b] of batch i = tokens[b·N·T + i·T + t + 1]

    Row b of batch i + 1 continues row b of batch i, so the carry can be passed on. The targets of all
    batches are tokens[1 : 1 + N·B·T], each once; fewer than B·T tokens at the end are dropped. Tokens are not
    copied, and may be an `np.memmap` larger than memory: a batch is read when it is asked for.
    `len(stream)` is N, `stream[i]` a `Batch` of int32 arrays, (T, B).

    Args:
      tokens: (n,), integers.
      batch_size: B, number of rows.
      steps: T, steps of each batch.

    Raises:
      ValueError: tokens that are not integers, have more than one axis, or are too few for one batch; from
        `stream[i]`, tokens of batch i that do not fit into int32.

    >>> import numpy as np
    >>> from jrnn.data import Stream
    >>> stream = Stream(np.arange(14), batch_size=2, steps=3)
    >>> len(stream), stream[1].xs.T.tolist(), stream[1].targets.T.tolist()
    (2, [[3, 4, 5], [9, 10, 11]], [[4, 5, 6], [10, 11, 12]])
    """

    tokens: NDArray[Any] = field(repr=False)
    batch_size: int
    steps: int
    part: slice = field(default_factory=lambda: slice(None), repr=False)  # the rows to build, by `share`

    def __post_init__(self) -> None:
        check_width("batch_size", self.batch_size)
        check_width("steps", self.steps)
        if isinstance(self.tokens, str):
            raise TypeError("tokens is a str, needs integers: encode it, as with CharVocabulary.from_text")
        tokens = np.asarray(self.tokens)
        if tokens.ndim != 1:
            raise ValueError(f"tokens has shape {tokens.shape}, needs one axis")
        if tokens.size and not np.issubdtype(tokens.dtype, np.integer):
            raise ValueError(f"tokens must be integers, got {tokens.dtype}")
        needed = self.batch_size * self.steps + 1
        if len(tokens) < needed:
            raise ValueError(
                f"tokens has {len(tokens)} elements, needs {needed} for a batch of {self.batch_size} rows "
                f"and {self.steps} steps: lower batch_size or steps"
            )
        object.__setattr__(self, "tokens", np.ascontiguousarray(tokens))

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // (self.batch_size * self.steps)

    def __getitem__(self, index: int) -> Batch:
        index = checked_index(index, len(self))
        return Batch(xs=self._cut(index, shift=0), targets=self._cut(index, shift=1))

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))

    def share(self, index: int, count: int) -> "Stream":
        """The rows that process `index` of `count` has of each batch; `fit` calls it.

        Args:
          index: number of the process, from 0.
          count: number of processes; must divide `batch_size`.

        Returns:
          As many batches, of the same shapes in every process, without the rows of the others.

        Raises:
          ValueError: `count` does not divide `batch_size`.
        """
        return replace(self, part=rows_of_part(self.batch_size, index, count))

    def _cut(self, index: int, shift: int) -> NDArray[np.int32]:
        used = len(self) * self.batch_size * self.steps
        rows = self.tokens[shift : shift + used].reshape(self.batch_size, -1)
        steps = slice(index * self.steps, (index + 1) * self.steps)
        return as_int32(rows[self.part, steps].T)


@dataclass(frozen=True, eq=False)
class PaddedBatches:
    """Sequences of different lengths as batches of a few shapes, made by `padded_batches`.

    `len(batches)` is their number and `batches[i]` a `Batch`, sorted by length; `batches.rows[i]` are the
    indices of its sequences. `epoch(n)` returns the same sequences in the order of epoch n.

    >>> import numpy as np
    >>> from jrnn.data import padded_batches
    >>> batches = padded_batches([np.ones((n, 4)) for n in (3, 5, 2)], np.arange(3), batch_size=2, key_seed=0)
    >>> [(b.xs.shape, b.lengths.tolist(), b.target_mask.tolist()) for b in batches]
    [((4, 2, 4), [2, 3], [True, True]), ((5, 2, 4), [5, 0], [True, False])]
    """

    sequences: tuple[NDArray[Any], ...] = field(repr=False)
    targets: tuple[NDArray[Any], ...] = field(repr=False)
    padded: NDArray[np.int64] = field(repr=False)  # (n,), length of each sequence, rounded up
    rows: tuple[NDArray[np.int64], ...] = field(repr=False)  # for each batch, the indices of its sequences
    batch_size: int
    per_step: bool
    seed: int | None
    part: slice = field(default_factory=lambda: slice(None), repr=False)  # the rows to build, by `share`

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        rows = self.rows[checked_index(index, len(self))]
        steps, size = int(self.padded[rows].max()), len(range(self.batch_size)[self.part])
        rows = rows[self.part]
        lengths = np.zeros(size, np.int32)
        lengths[: len(rows)] = [len(self.sequences[row]) for row in rows]
        xs = pad([self.sequences[row] for row in rows], (steps, size), self.sequences[0])
        targets = [self.targets[row] for row in rows]
        if self.per_step:
            mask = np.arange(steps)[:, None] < lengths
            return Batch(xs, pad(targets, (steps, size), self.targets[0]), lengths, mask)
        filler = [np.zeros_like(self.targets[0])] * (size - len(rows))
        return Batch(xs, np.stack(targets + filler), lengths, np.arange(size) < len(rows))

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))

    def epoch(self, number: int) -> "PaddedBatches":
        """Shuffle by (seed, number): both the grouping into batches and their order.

        Args:
          number: epoch number, from 0.

        Returns:
          Batches of the same shapes; without a seed, the same batches.
        """
        if self.seed is None:
            return self
        random = np.random.default_rng((self.seed, number))
        rows = grouped(self.padded, random.permutation(len(self.padded)), self.batch_size)
        return replace(self, rows=tuple(rows[index] for index in random.permutation(len(rows))))

    def share(self, index: int, count: int) -> "PaddedBatches":
        """The rows that process `index` of `count` has of each batch, as `Stream.share` says."""
        return replace(self, part=rows_of_part(self.batch_size, index, count))


def padded_batches(
    sequences: Sequence[Any],
    targets: Any,
    batch_size: int,
    *,
    key_seed: int | None = None,
    bucket: int | None = None,
) -> PaddedBatches:
    """Batch sequences of similar lengths, padded with zeros to one of a few lengths.

    A batch is as long as its longest sequence, rounded up to the next power of two or multiple of
    `bucket`, but never longer than the longest sequence overall, so that only a few shapes are compiled. The
    last batch is filled up with masked rows of length 0.

    Args:
      sequences: arrays (Tᵢ, features...) that differ in Tᵢ only.
      targets: one array (n, ...) or list of scalars, one target per sequence; or a list or object array of
        arrays (Tᵢ, ...), one target per step.
      batch_size: B.
      key_seed: seed with which `epoch(number)` shuffles, by (key_seed, number).
      bucket: round lengths up to a multiple of this; by default, to a power of two.

    Returns:
      Batches with `lengths` and a `target_mask` of those that count: (T, B) if they are per step, else (B,).

    Raises:
      ValueError: no sequences, values that are not numbers, or shapes that do not match; the message names
        the argument.

    >>> from jrnn.data import padded_batches
    >>> batches = padded_batches([[1, 2, 3], [4]], [[1, 1, 0], [1]], batch_size=2)
    >>> batches[0].xs.T.tolist(), batches[0].target_mask.T.tolist()
    ([[4, 0, 0], [1, 2, 3]], [[True, False, False], [True, True, True]])
    """
    check_options(batch_size, key_seed, bucket)
    arrays = alike("sequences", sequences)
    per_step, labels = checked_targets(targets, arrays)
    lengths = [len(array) for array in arrays]
    padded = np.array([min(round_up(length, bucket), max(lengths)) for length in lengths])
    rows = grouped(padded, np.argsort(lengths, kind="stable"), batch_size)
    return PaddedBatches(tuple(arrays), tuple(labels), padded, tuple(rows), batch_size, per_step, key_seed)


def pad_sequences(
    sequences: Sequence[Any], *, bucket: int | None = None
) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Pad sequences with zeros to one batch, in the given order, as for inference.

    Args:
      sequences: arrays (Tᵢ, features...) that differ in Tᵢ only.
      bucket: round the longest length up to a multiple of this, so that few shapes are compiled; no rounding
        by default.

    Returns:
      `(xs, lengths)`, (T, n, features...) and (n,).

    Raises:
      ValueError: no sequences, values that are not numbers, or shapes that do not match.

    >>> from jrnn.data import pad_sequences
    >>> xs, lengths = pad_sequences([[1, 2, 3], [4]])
    >>> xs.T.tolist(), lengths.tolist()
    ([[1, 2, 3], [4, 0, 0]], [3, 1])
    """
    if bucket is not None:
        check_width("bucket", bucket)
    arrays = alike("sequences", sequences)
    lengths = np.array([len(array) for array in arrays], np.int32)
    steps = round_up(int(lengths.max()), 1 if bucket is None else bucket)
    return pad(arrays, (steps, len(arrays)), arrays[0]), lengths


def check_options(batch_size: int, key_seed: int | None, bucket: int | None) -> None:
    """Raise unless the options are whole numbers in range."""
    check_width("batch_size", batch_size)
    if key_seed is not None:
        check_lag("key_seed", key_seed)
    if bucket is not None:
        check_width("bucket", bucket)


def checked_index(index: int, count: int) -> int:
    """Convert an index to a non-negative one, or raise an IndexError."""
    if not -count <= index < count:
        raise IndexError(f"batch {index} is out of range, there are {count} batches")
    return index % count


def round_up(length: int, bucket: int | None) -> int:
    """The next multiple of `bucket`, or power of two."""
    if bucket is None:
        return 1 << (length - 1).bit_length() if length else 0
    return -(-length // bucket) * bucket


def grouped(padded: NDArray[Any], order: NDArray[Any], batch_size: int) -> list[NDArray[Any]]:
    """Sort by padded length, with ties in the given `order`, and cut into batches."""
    order = order[np.argsort(padded[order], kind="stable")]
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def as_int32(tokens: NDArray[Any], name: str = "tokens") -> NDArray[np.int32]:
    """Copy the tokens of a batch; they alone are checked, since all may be a file larger than memory."""
    wide = tokens.size and not np.can_cast(tokens.dtype, np.int32)
    if wide and (tokens.max() > INT32.max or tokens.min() < INT32.min):
        raise ValueError(f"{name} must fit into int32, got {tokens.min()} to {tokens.max()} in a batch")
    return tokens.astype(np.int32, order="C")


def rows_of_part(batch_size: int, index: int, count: int) -> slice:
    """The rows of a batch that are those of part `index` of `count`."""
    check_width("count", count)
    if batch_size % count:
        raise ValueError(f"batch_size is {batch_size}, {count} processes need a multiple of {count}")
    if not 0 <= index < count:
        raise ValueError(f"index must be at least 0 and below count={count}, got {index}")
    size = batch_size // count
    return slice(index * size, (index + 1) * size)


def pad(arrays: list[NDArray[Any]], shape: tuple[int, int], like: NDArray[Any]) -> NDArray[Any]:
    """Stack (Tᵢ, ...) arrays such as `like` into (*shape, ...), (time, batch, ...), zeros elsewhere."""
    stacked = np.zeros((*shape, *like.shape[1:]), like.dtype)
    for row, array in enumerate(arrays):
        stacked[: len(array), row] = array
    return stacked


def alike(name: str, given: Any) -> list[NDArray[Any]]:
    """Convert to arrays (Tᵢ, ...) of one dtype, and check that they differ in Tᵢ only."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{name} must be a list of arrays, got {brief(given)}")
    arrays = [_numbers(f"{name}[{index}]", entry) for index, entry in enumerate(given)]
    if not arrays:
        raise ValueError(f"{name} is empty, needs at least one")
    for index, array in enumerate(arrays):
        if array.ndim == 0:
            raise ValueError(f"{name}[{index}] is {array.item()}, needs an array with time first")
        if array.shape[1:] != arrays[0].shape[1:]:
            raise ValueError(
                f"{name}[{index}] has shape {array.shape}, {name}[0] has {arrays[0].shape}: "
                "they may differ in their first axis, time, only"
            )
    # the float64 of an empty list carries no information
    dtypes = {array.dtype for array in arrays if array.size} or {arrays[0].dtype}
    return [array.astype(np.result_type(*dtypes), copy=False) for array in arrays]


def _numbers(name: str, given: Any) -> NDArray[Any]:
    """Convert to an array, and check that it holds numbers."""
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise ValueError(f"{name} is not an array, its rows differ in length: {brief(given)}") from error
    if array.dtype.kind in "OSUMm":  # objects, text and times; bfloat16 has another kind
        raise ValueError(
            f"{name} has dtype {array.dtype}, needs numbers: encode words with a Vocabulary, dates as numbers"
        )
    return array


def checked_targets(targets: Any, sequences: list[NDArray[Any]]) -> tuple[bool, list[NDArray[Any]]]:
    """Return True if there is one target per step, and the targets as a list."""
    targets = targets if hasattr(targets, "__len__") else list(targets)
    if len(targets) != len(sequences):
        raise ValueError(f"targets has {len(targets)} entries, sequences has {len(sequences)}")
    one_array = hasattr(targets, "shape") and targets.dtype != object  # one of objects is a list
    if one_array or all(np.ndim(target) == 0 for target in targets):
        return False, list(_numbers("targets", targets))
    arrays = alike("targets", targets)
    for index, (target, sequence) in enumerate(zip(arrays, sequences, strict=True)):
        if len(target) != len(sequence):
            raise ValueError(
                f"targets[{index}] has {len(target)} steps, sequences[{index}] has {len(sequence)}: "
                "for one target per sequence, pass a single array (n, ...)"
            )
    return True, arrays
