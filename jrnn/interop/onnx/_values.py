"""Values of an ONNX graph that is being read: known arrays, and values that depend on the inputs.

The latter track the layers they have gone through, and their axes: a dimension is a tuple of axes, several if
a Reshape has merged them, none if its size is 1. The size of a dynamic axis is a string, as is a product with
one.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Size = int | str
TIME, BATCH, DIRECTION, FEATURES = "time", "batch", "direction", "features"
END = 2**31 - 1  # a Slice whose end is at least this goes to the end


def product(sizes: Iterable[Size]) -> Size:
    """Multiply sizes, some of which may be unknown.

    >>> product([2, "xs:0", 3]), product([2, 3])
    ('6·xs:0', 6)
    """
    number = 1
    names: list[str] = []
    for size in sizes:
        if isinstance(size, str):
            *first, last = size.split("·")
            for factor in (*first, last):
                number, names = (
                    (number * int(factor), names) if factor.isdigit() else (number, [*names, factor])
                )
        else:
            number *= int(size)
    if not names:
        return number
    return "·".join([*([str(number)] if number != 1 else []), *sorted(names)])


class Axis(NamedTuple):
    """An axis of an input, or one created by an operator."""

    label: str
    size: Size


Dim = tuple[Axis, ...]


@dataclass(frozen=True)
class Known:
    """An array that does not depend on the inputs; along dynamic axes it is constant, and has size 1."""

    array: np.ndarray[Any, Any]
    shape: tuple[Size, ...]

    @staticmethod
    def of(array: Any) -> "Known":
        """Wrap an array with known sizes."""
        array = np.asarray(array)
        return Known(array, array.shape)

    def transpose(self, order: Sequence[int]) -> "Known":
        """Reorder axes."""
        return Known(self.array.transpose(order), tuple(self.shape[i] for i in order))

    def unsqueeze(self, axes: Sequence[int]) -> "Known":
        """Add axes of size 1."""
        return Known(np.expand_dims(self.array, tuple(axes)), _with_ones(self.shape, axes, 1))

    def squeeze(self, axes: Sequence[int]) -> "Known":
        """Remove axes of size 1."""
        found = _normal(axes, len(self.shape)) or [i for i, n in enumerate(self.shape) if n == 1]
        if any(self.shape[i] != 1 for i in found):
            raise ValueError(f"a shape {self.shape} has no axes of size 1 at {found}")
        kept = tuple(n for i, n in enumerate(self.shape) if i not in found)
        return Known(np.squeeze(self.array, tuple(found)), kept)

    def reshape(self, target: Sequence[Size]) -> "Known":
        """Reshape an array with known sizes."""
        if self.shape != self.array.shape:
            raise ValueError(f"cannot reshape a constant of shape {self.shape}")
        return Known.of(self.array.reshape([int(n) for n in target]))

    def cut(self, axis: int, start: int, stop: int) -> "Known":
        """Take a slice."""
        if isinstance(self.shape[axis], str):
            raise ValueError(f"cannot slice a constant of shape {self.shape} along axis {axis}")
        index = [slice(None)] * self.array.ndim
        index[axis] = slice(start, stop)
        array = self.array[tuple(index)]
        shape = list(self.shape)
        shape[axis] = array.shape[axis]
        return Known(array, tuple(shape))

    def pick(self, axis: int, index: int) -> "Known":
        """Take one entry along an axis, without the axis."""
        stop = END if index == -1 else index + 1
        return self.cut(axis, index, stop).squeeze([axis])

    def expand(self, target: Sequence[Size]) -> "Known":
        """Broadcast, except along dynamic axes."""
        rank = max(len(target), len(self.shape))
        own = (1,) * (rank - len(self.shape)) + self.shape
        given = (1,) * (rank - len(target)) + tuple(target)
        shape = tuple(b if a == 1 else a for a, b in zip(own, given, strict=True))
        array = self.array.reshape((1,) * (rank - self.array.ndim) + self.array.shape)
        sizes = [b if isinstance(a, str) else int(a) for a, b in zip(shape, array.shape, strict=True)]
        return Known(np.broadcast_to(array, sizes), shape)


@dataclass(frozen=True, eq=False)
class Source:
    """An input of the graph."""

    name: str
    integer: bool


@dataclass(frozen=True, eq=False)
class Part:
    """A layer read from a node; compared by identity, as it has its own weights."""

    kind: str  # "forward", "backward", "both" or "map"
    cell: Any
    params: Any
    halves: tuple["Chain", ...] = ()  # of both directions, from the source on
    node: str = ""  # that it comes from

    def members(self) -> list["Part"]:
        """List the layers of nodes that this one consists of; itself if it is a single one."""
        return [m for chain in self.halves for p in chain[1:] for m in p.members()] if self.halves else [self]


Chain = tuple[Any, ...]  # a Source, followed by each Part applied to it


@dataclass(frozen=True, eq=False)
class Flow:
    """A value that depends on the inputs: one chain for each index of its axis of directions."""

    chains: tuple[Chain, ...]
    dims: tuple[Dim, ...]
    # how it lost its time: "state", "cell", "step", "mean" or "max"; "last" and "first" of both directions,
    # of which only one has seen the whole sequence there
    read: str = ""
    whole: bool = True  # False for a slice of an input
    reverse: bool = False  # its steps are in the order of a layer that reads backward
    repeats: bool = False  # masked steps repeat the output before them

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Sizes of the dimensions."""
        return tuple(product(axis.size for axis in dim) for dim in self.dims)

    @property
    def chain(self) -> Chain:
        """The only chain, once directions have been merged."""
        if len(self.chains) > 1:
            raise ValueError("it reads both directions before they are merged")
        return self.chains[0]

    def given(self) -> bool:
        """True for an unchanged input, or a slice of one."""
        return all(len(chain) == 1 for chain in self.chains)

    def integer(self) -> bool:
        """True for an input of integers."""
        return self.given() and bool(self.chains[0][0].integer)

    def transpose(self, order: Sequence[int]) -> "Flow":
        """Reorder dimensions."""
        return dataclasses.replace(self, dims=tuple(self.dims[i] for i in order))

    def unsqueeze(self, axes: Sequence[int]) -> "Flow":
        """Add dimensions of size 1."""
        return dataclasses.replace(self, dims=_with_ones(self.dims, axes, ()))

    def squeeze(self, axes: Sequence[int]) -> "Flow":
        """Remove dimensions of size 1."""
        found = _normal(axes, len(self.dims)) or [i for i, dim in enumerate(self.dims) if not dim]
        if any(self.sizes[i] != 1 for i in found):
            raise ValueError(f"sizes {self.sizes} are not 1 at {found}")
        return dataclasses.replace(self, dims=tuple(d for i, d in enumerate(self.dims) if i not in found))

    def reshape(self, target: Sequence[Size]) -> "Flow":
        """Merge dimensions, or split merged ones again."""
        dims = regrouped([axis for dim in self.dims for axis in dim], list(target))
        return dataclasses.replace(self, dims=tuple(dims))

    def pick(self, axis: int, index: int) -> "Flow":
        """Take one entry along a dimension, without the dimension."""
        found = self.cut(axis, index, END if index == -1 else index + 1)
        return dataclasses.replace(found, dims=tuple(d for i, d in enumerate(found.dims) if i != axis))

    def cut(self, axis: int, start: int, stop: int) -> "Flow":
        """Take a slice: of directions, of the features of one direction, or of the first or last step."""
        dim, size = self.dims[axis], self.sizes[axis]
        if isinstance(size, int):
            start, stop, _ = slice(start, stop).indices(size)
        if start == 0 and (stop >= END or stop == size):
            return self
        kept = (Axis(f"{dim[0].label}'", stop - start if isinstance(size, int) else "?"),) if dim else ()
        if self.given():
            return dataclasses.replace(self, dims=_put(self.dims, axis, kept), whole=False)
        label = dim[0].label if len(dim) == 1 else ""
        if label == DIRECTION:
            chains = self.chains[start:stop]
            kept = (Axis(DIRECTION, len(chains)),) if len(chains) > 1 else ()
            return dataclasses.replace(self, chains=chains, dims=_put(self.dims, axis, kept))
        if label == FEATURES:
            return self._half(axis, start, stop)
        if label == TIME:
            return self._end(axis, start, stop)
        raise ValueError(
            f"it takes [{start}:{stop}] of axis {axis} of {size}; an exporter that writes out each step, "
            "as torch's with dynamo=True does for nn.RNN, leaves no operator to read"
        )

    def _half(self, axis: int, start: int, stop: int) -> "Flow":
        """The features of one direction."""
        halves = getattr(self.chain[-1], "halves", ())
        begin = 0
        for chain, seen in zip(halves, ("last", "first"), strict=False):
            width = int(chain[-1].cell.out_features)
            if (start, stop) == (begin, begin + width) and self.read in ("", seen):
                dims = _put(self.dims, axis, (Axis(FEATURES, width),))
                read = "step" if self.read else ""
                return dataclasses.replace(self, chains=(chain,), dims=dims, read=read)
            begin += width
        where = f" that has seen the whole sequence at the {self.read} step" if self.read else ""
        raise ValueError(f"features [{start}:{stop}] are not those of one direction{where}")

    def _end(self, axis: int, start: int, stop: int) -> "Flow":
        """The step at which a direction has read the whole sequence."""
        size = self.sizes[axis]
        last = (start, stop) == (size - 1, size) if isinstance(size, int) else start == -1 and stop >= END
        if not (last or (start, stop) == (0, 1)):
            raise ValueError(f"it takes steps [{start}:{stop}] of a layer")
        last ^= self.reverse
        read = {"forward": "step" if last else "", "backward": "" if last else "step"}
        for chain in self.chains:
            kind = next((part.kind for part in chain[:0:-1] if part.kind != "map"), "map")
            found = "both" if kind == "both" and chain[-1].kind == "both" else kind
            seen = read | {"both": "last" if last else "first"}
            if not seen.get(found, ""):
                raise ValueError(
                    f"it takes steps [{start}:{stop}] of a layer that reads {kind}, not its last one"
                )
        read_as = "state" if self.repeats else seen[found]
        return dataclasses.replace(self, dims=_put(self.dims, axis, ()), read=read_as, reverse=False)

    def features(self) -> int:
        """Width of the last dimension, which must hold the features and nothing else."""
        if self.read == "cell":
            raise ValueError("it reads the cell state of an LSTM, which is not an output of a cell")
        if self.read in ("last", "first"):
            raise ValueError(
                f"it reads the {self.read} step of both directions, where one of them has seen that step only"
            )
        labels = [axis.label for axis in self.dims[-1] if axis.size != 1 or axis.label == FEATURES]
        if labels != [FEATURES] or not isinstance(self.sizes[-1], int):
            raise ValueError(f"its last axis must be the features, and no other axis, got {self.dims}")
        return self.sizes[-1]


@dataclass(frozen=True)
class Steps:
    """Numbers of the steps, and with `lengths` whether each is valid."""

    dims: tuple[Dim, ...]
    lengths: str = ""  # the input that they are
    backward: bool = False

    def unsqueeze(self, axes: Sequence[int]) -> "Steps":
        """Add dimensions of size 1."""
        return dataclasses.replace(self, dims=_with_ones(self.dims, axes, ()))


@dataclass(frozen=True)
class Tokens:
    """A value computed elementwise from the integers of an input, before the embedding."""

    flow: Flow
    function: Callable[[Any], Any]


@dataclass(frozen=True)
class Unread:
    """A value that could not be read, with the reason, which is an error only if the model depends on it."""

    reason: str


Value = Known | Flow | Steps | Tokens | Unread


def regrouped(axes: list[Axis], target: list[Size]) -> list[Dim]:
    """Split a sequence of axes into dimensions of these sizes, one of which may be -1.

    Exporters may write the size of their example for a dynamic axis: such a number matches the axis.
    """
    left = list(axes)

    def take(sizes: list[Size], end: int) -> list[Dim]:
        groups = []
        for size in sizes:
            group: list[Axis] = []
            example = left and isinstance(left[end].size, str) and isinstance(size, int) and size != 1
            if example or (left and size == left[end].size == 1):
                group.append(left.pop(end))
            while not example and product(axis.size for axis in group) != size:
                if not left:
                    raise ValueError(f"cannot reshape axes {tuple(axes)} to {tuple(target)}")
                group.append(left.pop(end))
            groups.append(tuple(group if end == 0 else group[::-1]))
        return groups

    place = target.index(-1) if -1 in target else len(target)
    first = take(target[:place], 0)
    after = take(target[place + 1 :][::-1], -1)[::-1]
    rest = tuple(axis for axis in left if axis.size != 1) or tuple(left)
    if place < len(target):
        return [*first, rest, *after]
    if any(axis.size != 1 for axis in left):
        raise ValueError(f"cannot reshape axes {tuple(axes)} to {tuple(target)}")
    return first


def _put(dims: tuple[Any, ...], place: int, dim: Any) -> tuple[Any, ...]:
    return (*dims[:place], dim, *dims[place + 1 :])


def _normal(axes: Sequence[int], rank: int) -> list[int]:
    """Axes counted from the front."""
    if any(not -rank <= axis < rank for axis in axes):
        raise ValueError(f"axes {list(axes)} of {rank}")
    return [int(axis) % rank for axis in axes]


def _with_ones(sizes: tuple[Any, ...], axes: Sequence[int], one: Any) -> tuple[Any, ...]:
    rank = len(sizes) + len(axes)
    places, rest = _normal(axes, rank), iter(sizes)
    if len(set(places)) < len(axes):
        raise ValueError(f"axes {list(axes)} name one twice")
    return tuple(one if i in places else next(rest) for i in range(rank))


def elementwise(function: Any, *values: Known) -> Known:
    """Compute with sizes, some of which may be unknown."""
    arrays = [value.array.astype(object) for value in values]
    return Known.of(np.asarray(np.frompyfunc(function, len(arrays), 1)(*arrays), object))
