"""Windows of a long token stream in random order."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jrnn._checks import check_lag
from jrnn.data.batching import Batch, Stream, as_int32, checked_index, rows_of_part


@dataclass(frozen=True, eq=False)
class Windows:
    """A long token stream cut into windows, which are shuffled into batches.

        xs[t, b] of batch i      = tokens[sₖ + t],       sₖ = shift + T·order[k],   k = i·B + b
        targets[t, b] of batch i = tokens[sₖ + t + 1]

    Every window starts anew, so there is no carry to pass on (`Stream` passes it on). `order` is a random
    permutation and `shift`, below T, a random number, both of (key_seed, epoch): borders of windows differ
    from epoch to epoch. `len(windows)` is ⌊W / B⌋ for W = ⌊(len(tokens) − T) / T⌋ windows; the last W mod B
    of the order are left out. Tokens are not copied, and may be an `np.memmap` larger than memory: the
    order takes 8 bytes per window, and a batch is read when it is asked for.

    Args:
      tokens: (n,), integers.
      batch_size: B, windows in a batch.
      steps: T, steps of each window.
      key_seed: seed of the order.

    Raises:
      ValueError: tokens that are not integers, have more than one axis, or are too few for one batch; from
        `windows[i]`, tokens of batch i that do not fit into int32.

    >>> import numpy as np
    >>> from jrnn.data import Windows
    >>> windows = Windows(np.arange(20), batch_size=2, steps=3)
    >>> len(windows), (windows.epoch(1)[0].targets - windows.epoch(1)[0].xs).T.tolist()
    (2, [[1, 1, 1], [1, 1, 1]])
    """

    tokens: NDArray[Any] = field(repr=False)
    batch_size: int
    steps: int
    key_seed: int = 0
    starts: NDArray[np.int64] = field(init=False, repr=False)  # of the windows, in order
    number: int = field(default=0, repr=False)  # of the epoch
    part: slice = field(default_factory=lambda: slice(None), repr=False)  # the rows to build, by `share`

    def __post_init__(self) -> None:
        check_lag("key_seed", self.key_seed)
        stream = Stream(self.tokens, self.batch_size, self.steps)  # checks them
        count = (len(stream.tokens) - self.steps) // self.steps
        if count < self.batch_size:
            needed = (self.batch_size + 1) * self.steps
            raise ValueError(
                f"tokens has {len(stream.tokens)} elements, needs {needed} for a batch of {self.batch_size} "
                f"windows of {self.steps} steps: lower batch_size or steps"
            )
        random = np.random.default_rng((self.key_seed, self.number))
        order, shift = random.permutation(count), random.integers(self.steps)
        object.__setattr__(self, "tokens", stream.tokens)
        object.__setattr__(self, "starts", shift + self.steps * order)

    def __len__(self) -> int:
        return len(self.starts) // self.batch_size

    def __getitem__(self, index: int) -> Batch:
        first = checked_index(index, len(self)) * self.batch_size
        starts = self.starts[first : first + self.batch_size][self.part]
        rows = [self.tokens[start : start + self.steps + 1] for start in starts]
        read = as_int32(np.stack(rows, axis=1))
        return Batch(xs=read[:-1], targets=read[1:])

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))

    def epoch(self, number: int) -> "Windows":
        """Shuffle by (key_seed, number).

        Args:
          number: epoch number, from 0.

        Returns:
          Batches of the same shape.
        """
        return replace(self, number=number)

    def share(self, index: int, count: int) -> "Windows":
        """The rows that process `index` of `count` has of each batch, as `Stream.share` says."""
        return replace(self, part=rows_of_part(self.batch_size, index, count))
