"""Parts of a state that depend on each other: entries on a cycle, and groups of numbers in these.

    GRU, h: (batch, 8)             one group of 8 numbers in each row, as h @ w_hh mixes them
    IndRNN, h: (batch, 8)          eight groups of one number in each row
    SLSTM, h, c, n: (batch, 8)     with two heads two groups, of four units with three numbers each

The derivative of a step is traced, and followed from the tangents of the state, each number under a label of
its own, to those of the next state. Where two labels meet, their groups are one. Only the structure of the
operations counts, not a zero in a weight, so groups that are told apart are independent for all parameters.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from jrnn._caching import cached
from jrnn._jaxprs.programs import Op, Program, dce, is_inexact, read, trace
from jrnn.unrolling._loops import step_of
from jrnn.unrolling._staging import Stage, entries_after

Labels = NDArray[np.int32]  # of the shape of a value: a label for each number, −1 for no dependence


@cached
def cycles(stage: Stage, program: Program) -> list[Stage]:
    """Split a stage into parts whose entries of the carry depend on each other, in order of dependence.

    The states of earlier parts, before each step, are inputs of later ones. With two layers without a matmul
    between them, h ← a h + x and s ← a s + h, h is the first part; the h and c of an LSTM are one.
    """
    reach: dict[
        int, set[int]
    ] = {}  # entry -> the entries that its next value depends on, in any number of steps
    for before, after in stage.carry_pairs:
        reads = {after}.union(*(op.inputs for op in dce(stage.ops, [after])))
        reach[before] = reads.intersection(stage.carry_in)
    for middle in reach:
        for entries in reach.values():
            if middle in entries:
                entries |= reach[middle]
    parts: list[Stage] = []
    left, xs = list(stage.carry_pairs), stage.xs
    while left:
        unsolved = {before for before, _ in left}
        first = next(b for b in unsolved if all(b in reach[a] for a in reach[b] & unsolved))
        cycle = {first} | (reach[first] & unsolved)
        pairs = tuple(pair for pair in left if pair[0] in cycle)
        ends = entries_after(pairs)
        parts.append(replace(stage, ops=tuple(dce(stage.ops, ends)), carry_pairs=pairs, xs=xs, ys=ends))
        left, xs = [pair for pair in left if pair[0] not in cycle], xs + parts[-1].carry_in
    return parts


@dataclass(frozen=True, eq=False)
class Groups:
    """Independent groups of the numbers of a state: (row axes..., group, number), equally many in each."""

    rows: int  # leading axes of all entries, along which numbers are independent
    index: NDArray[np.int32]  # (groups, size): places in one row, `ravel`ed; −1 fills up smaller groups
    owner: NDArray[np.int32]  # (groups, size): the entry that a number belongs to

    @property
    def size(self) -> int:
        """Numbers of a group."""
        return int(self.index.shape[1])


@cached
def groups_of(part: Stage, program: Program, batch_axes: int = 0) -> Groups:
    """Find the independent groups of the numbers of a state.

    Args:
      part: a loop, all of whose entries are floating or complex.
      program: the step that contains it.
      batch_axes: leading axes of the entries along which a cell never mixes numbers.
    """
    types = read(program.types, part.carry_in)
    labels = _linked(part, program, batch_axes)
    shared = 0  # leading axes of all entries
    while len({t.shape[: shared + 1] for t in types}) == 1 and shared < min(len(t.shape) for t in types):
        shared += 1
    rows = next(n for n in range(shared, -1, -1) if _apart(labels, n))
    entries = [(math.prod(t.shape[rows:]), t) for t in types]
    return _in_order(rows, np.concatenate([a[(0,) * rows].ravel() for a in labels]), entries)


def _apart(labels: Sequence[Labels], rows: int) -> bool:
    """True if no group reaches from one row to another, and all rows are divided alike."""
    width = math.prod(labels[0].shape[:rows])
    by_row = np.concatenate([a.reshape(width, -1) for a in labels], axis=1)
    return len(np.unique(by_row)) == sum(len(np.unique(row)) for row in by_row) and _alike(by_row)


def _alike(by_row: Labels) -> bool:
    """True if all rows are divided into the same groups."""

    def first_places(row: Labels) -> Labels:
        _, first, inverse = np.unique(row, return_index=True, return_inverse=True)
        return first[inverse].astype(np.int32)

    reference = first_places(by_row[0])
    return all(np.array_equal(first_places(row), reference) for row in by_row[1:])


def _in_order(rows: int, row: Labels, entries: Sequence[tuple[int, Any]]) -> Groups:
    """The groups of a row of labels, as places in a vector with real and imaginary parts apart."""
    label, owner, begin = [], [], 0
    for number, (size, type_) in enumerate(entries):
        parts = 2 if np.issubdtype(type_.dtype, np.complexfloating) else 1
        label += [row[begin : begin + size]] * parts
        owner.append(np.full(parts * size, number, np.int32))
        begin += size
    labels, owners = np.concatenate(label), np.concatenate(owner)
    members = [np.flatnonzero(labels == one) for one in dict.fromkeys(labels.tolist())]
    index = np.full((len(members), max(map(len, members))), -1, np.int32)
    for line, places in zip(index, members, strict=True):
        line[: len(places)] = places
    return Groups(rows, index, np.where(index < 0, -1, owners[index]).astype(np.int32))


def _linked(part: Stage, program: Program, batch_axes: int) -> list[Labels]:
    """The label of the group of every number of every entry."""
    types = [read(program.types, values) for values in (part.consts, part.carry_in, part.xs)]
    derivative = trace(_derivative(part), *types, types[1])[0]
    ends = np.cumsum([0, *(math.prod(t.shape) for t in types[1])])
    labels: dict[int, Labels] = {}
    for value, type_, begin in zip(derivative.inputs[-len(types[1]) :], types[1], ends, strict=False):
        labels[value] = begin + np.arange(math.prod(type_.shape), dtype=np.int32).reshape(type_.shape)
    own = [labels[value] for value in derivative.inputs[-len(types[1]) :]]
    links = _Links(own, batch_axes)
    for op in derivative.ops:
        # no counter of a loop has a tangent
        moving = [o for o in op.outputs if is_inexact(derivative.types[o])]
        if moving and any(i in labels for i in op.inputs):
            shapes = [derivative.types[o].shape for o in moving]
            labels.update(zip(moving, _follow(op, labels, derivative, shapes, links), strict=True))
    for before, after in zip(own, derivative.outputs, strict=True):
        if after in labels:
            links.join(before, labels[after])
    found = _components(links, int(ends[-1]))
    return [found[a] for a in own]


@cached
def _derivative(part: Stage) -> Callable[..., Any]:
    """The tangents of a step, `(consts, carry, xs, tangents of the carry) -> tangents`."""

    def tangents(consts: Any, carry: Any, xs: Any, moved: Any) -> Any:
        step = step_of(part)
        return jax.jvp(lambda carry: step(consts, carry, xs)[1], (carry,), (moved,))[1]

    return tangents


class _Links:
    """Pairs of labels that belong to one group.

    Args:
      entries: the labels of the entries of the state.
      batch_axes: leading axes of each along which numbers are independent.
    """

    def __init__(self, entries: Sequence[Labels], batch_axes: int) -> None:
        self.found: list[tuple[Labels, Labels]] = []
        self.batch = entries[0].shape[:batch_axes]
        rows = np.arange(math.prod(self.batch), dtype=np.int32)
        self.row = np.concatenate([np.repeat(rows, a.size // max(len(rows), 1)) for a in entries])

    def in_rows(self, labels: Labels) -> bool:
        """True if the leading axes of an array are the batch, each place with labels of its own row."""
        count = len(self.batch)
        if not count or labels.shape[:count] != self.batch:
            return False
        by_row = labels.reshape(len(np.unique(self.row)), -1)
        return bool(((by_row < 0) | (self.row[by_row] == np.arange(len(by_row))[:, None])).all())

    def join(self, *parts: Labels) -> Labels:
        """Link the labels at each place of arrays of one shape, and return one of them for each."""
        one = functools.reduce(np.maximum, parts)
        for part in parts:
            there = (part >= 0) & (part != one)
            if there.any():
                self.found.append((part[there], one[there]))
        return one

    def along(self, labels: Labels, axes: Sequence[int]) -> Labels:
        """Link all labels along some axes, which are left with length 1."""
        one = labels.max(axis=tuple(axes), keepdims=True, initial=-1)
        self.join(labels, np.broadcast_to(one, labels.shape))
        return one

    def pairs(self) -> tuple[Labels, Labels]:
        """All pairs, as two arrays."""
        empty = [np.zeros(0, np.int32)]
        left = np.concatenate([*empty, *(pair[0] for pair in self.found)])
        right = np.concatenate([*empty, *(pair[1] for pair in self.found)])
        return left, right


def _follow(
    op: Op, known: dict[int, Labels], program: Program, shapes: list[Any], links: _Links
) -> list[Labels]:
    """The labels of the results of an op, from those of its operands."""
    given = [known.get(a) if isinstance(a, int) else None for a in op.operands]
    there = [a for a in given if a is not None]
    p, kind, x = op.params, op.primitive, there[0] if there else None
    if x is None:  # a region of several equations
        return _mixed([known[i] for i in op.inputs if i in known], shapes, links)
    if kind in _MOVES and len(there) == 1:
        moved = _MOVES[kind](x, p, shapes[0])
        return list(moved) if kind == "split" else [moved]
    if kind == "concatenate":
        types = [program.types[a] if isinstance(a, int) else a.val for a in op.operands]
        parts = [
            np.full(t.shape, -1, np.int32) if a is None else a for a, t in zip(given, types, strict=True)
        ]
        return [np.concatenate(parts, p["dimension"])]
    if kind == "reduce_sum":
        return [links.along(x, p["axes"]).reshape(shapes[0])]
    if kind.startswith("cum"):
        return [np.broadcast_to(links.along(x, [p["axis"]]), shapes[0])]
    if kind == "dot_general" and len(there) == 1:
        return [_product(given, p["dimension_numbers"], shapes[0], links)]
    if kind == "conv_general_dilated" and given[0] is not None and len(there) == 1:
        spec = p["dimension_numbers"]
        rows = links.along(x, spec.lhs_spec[1:]).reshape(-1)
        return [np.broadcast_to(_on_axis(rows, spec.out_spec[0], len(shapes[0])), shapes[0])]
    if (
        (op.fusible or kind == "complex")
        and kind not in _MIXING
        and len(shapes) == 1
        and all(_broadcasts(a.shape, shapes[0]) for a in there)
    ):
        return [links.join(*(np.broadcast_to(a, shapes[0]) for a in there))]
    return _mixed(there, shapes, links)


def followed(op: Op, moved: Sequence[int], program: Program) -> tuple[dict[int, Labels], list[Labels]]:
    """Labels of the numbers of some inputs of an op and of its results: a result depends on equal ones.

    Returns:
      `({input: labels}, labels of each result)`, with −1 for no dependence.
    """
    shapes = [program.types[i].shape for i in moved]
    ends = np.cumsum([0, *map(math.prod, shapes)])
    own = {
        i: begin + np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
        for i, shape, begin in zip(moved, shapes, ends, strict=False)
    }
    links = _Links(list(own.values()), 0)
    results = _follow(op, own, program, [program.types[o].shape for o in op.outputs], links)
    found = np.append(_components(links, int(ends[-1])), np.int32(-1))  # the last for the label −1
    return {i: found[a] for i, a in own.items()}, [found[a] for a in results]


def _components(links: _Links, count: int) -> Labels:
    """The group of each label."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = links.pairs()
    graph = coo_array((np.ones(len(pairs[0]), np.int8), pairs), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int32)


def _mixed(there: Sequence[Labels], shapes: Sequence[Any], links: _Links) -> list[Labels]:
    """An unknown op: all of a row of the batch is linked; if some array has no such rows, everything."""
    count = len(links.batch)
    apart = all(map(links.in_rows, there)) and all(tuple(s[:count]) == links.batch for s in shapes)
    ones = [links.along(a, range(count if apart else 0, a.ndim)).reshape(-1) for a in there]
    one = links.join(*ones)
    lead = links.batch if apart else ()
    return [np.broadcast_to(one.reshape((*lead, *[1] * (len(s) - len(lead)))), s) for s in shapes]


# elementwise for XLA, but moving numbers, or of a rule that is not looked into
_MIXING = "pad", "custom_jvp_call"


def _broadcasts(shape: Any, to: Any) -> bool:
    return shape == () or (len(shape) == len(to) and all(a in (1, b) for a, b in zip(shape, to, strict=True)))


def _on_axis(labels: Labels, axis: int, ndim: int) -> Labels:
    return labels.reshape([-1 if i == axis else 1 for i in range(ndim)])


def _product(given: Sequence[Any], numbers: Any, shape: Any, links: _Links) -> Labels:
    """A matmul of which one operand depends on the state."""
    side = 0 if given[0] is not None else 1
    contracted, batch = (axes[side] for axes in numbers)
    x = given[side]
    free = [axis for axis in range(x.ndim) if axis not in (*contracted, *batch)]
    one = links.along(x, contracted).transpose([*batch, *free, *contracted])
    sizes = [x.shape[axis] for axis in (*batch, *free)]
    others = [1] * (len(shape) - len(sizes))
    lead = [*sizes[: len(batch)], *others] if side else sizes[: len(batch)]
    tail = sizes[len(batch) :] if side else [*sizes[len(batch) :], *others]
    return np.broadcast_to(one.reshape([*lead, *tail]), shape)


def _broadcast(x: Labels, p: Any, shape: Any) -> Labels:
    placed = [1] * len(shape)
    for axis, size in zip(p["broadcast_dimensions"], x.shape, strict=True):
        placed[axis] = size
    return np.broadcast_to(x.reshape(placed), shape)


def _slice(x: Labels, p: Any, _: Any) -> Labels:
    steps = p["strides"] or (1,) * x.ndim
    return x[tuple(map(slice, p["start_indices"], p["limit_indices"], steps))]


_MOVES: dict[str, Callable[[Labels, Any, Any], Any]] = {
    "reshape": lambda x, p, shape: x.reshape(shape),
    "squeeze": lambda x, p, shape: x.reshape(shape),
    "expand_dims": lambda x, p, shape: x.reshape(shape),
    "broadcast_in_dim": _broadcast,
    "tile": lambda x, p, shape: np.tile(x, p["reps"]),
    "transpose": lambda x, p, shape: x.transpose(p["permutation"]),
    "rev": lambda x, p, shape: np.flip(x, p["dimensions"]),
    "slice": _slice,
    "split": lambda x, p, shape: np.split(x, np.cumsum(p["sizes"])[:-1], p["axis"]),
}
