"""The structure of a step: the numbers before, and the parameters, on which each number of a state depends.

The forward derivative of a step is traced, and its tangents are followed both ways:

    sources   of each number, the numbers of the state before the step that it depends on
    sinks     of each number, the numbers of the state after the step that depend on it

Only the structure of operations counts, not a zero in a weight. Numbers of one array mostly share their
sets, so these are kept as rows of a table, and each number has the place of its row.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jrnn._jaxprs.programs import Op, Program
from jrnn.unrolling._groups import followed

Places = NDArray[np.int64]
Booleans = NDArray[np.bool_]

MOST_TERMS = 4  # of a number of a matmul that are listed one by one


class Sets(NamedTuple):
    """A set of numbers of the state for each number of an array."""

    rows: Places  # of the shape of the array: places in the table
    table: Booleans  # (sets, D)


class Kept(NamedTuple):
    """The products of an op that are kept: a sum over a few places of each of its operands."""

    side: int  # of the operand that has a tangent
    moved: Places  # (numbers of the result, terms): places in the operand that has a tangent
    other: Places  # places in the other operand
    there: Booleans


def sources(program: Program, start: int, size: int, kept: Mapping[Op, Any]) -> dict[int, Sets]:
    """The numbers of the value `start`, a vector, on which each number of the other values depends.

    `kept` has the products that are kept of an op; None: none.
    """
    known = {start: _each(size)}
    for op in program.ops:
        moved = [i for i in dict.fromkeys(op.inputs) if i in known]
        if moved and op in kept:
            if kept[op] is not None:
                known[op.outputs[0]] = _of_kept(op, kept[op], known[moved[0]], program)
        elif moved:
            inner, outer = followed(op, moved, program)
            table = _gathered([(inner[i], known[i]) for i in moved], _count(inner.values()), size)
            known.update({o: _compact(rows, table) for o, rows in zip(op.outputs, outer, strict=True)})
    return known


def sinks(program: Program, moved: set[int], size: int, cut: Iterable[Op]) -> dict[int, Sets]:
    """The numbers of the result, a vector, that depend on each number of the `moved` values.

    `cut` are ops through which none does.
    """
    known = {program.outputs[0]: _each(size)}
    for op in reversed(program.ops):
        inputs = [i for i in dict.fromkeys(op.inputs) if i in moved]
        if inputs and op not in cut and any(o in known for o in op.outputs):
            inner, outer = followed(op, inputs, program)
            there = zip(op.outputs, outer, strict=True)
            table = _gathered(
                [(rows, known[o]) for o, rows in there if o in known], _count(inner.values()), size
            )
            for i in inputs:
                reached = _compact(inner[i], table)
                known[i] = _joined(known[i], reached) if i in known else reached
    return known


def _of_kept(op: Op, kept: Kept, moved: Sets, program: Program) -> Sets:
    rows = moved.rows.ravel()[kept.moved]
    table = (moved.table[rows] & kept.there[..., None]).any(1)
    used, places = np.unique(table, axis=0, return_inverse=True)
    return Sets(places.reshape(program.types[op.outputs[0]].shape), used)


def closure(table: Booleans, jacobian: Booleans, steps: int | None) -> Booleans:
    """All numbers that sets reach within some steps, counting the first; None: ever."""
    found, count = table, 1
    while steps is None or count < steps:
        more = table | product(found, jacobian.T)
        if (more == found).all():
            break
        found, count = more, count + 1
    return found


def product(a: Booleans, b: Booleans) -> Booleans:
    """The product of Boolean matrices."""
    return (a.astype(np.float32) @ b.astype(np.float32)) > 0


def colors(apart: Booleans) -> Places:
    """A color for each number, such that two that must be kept apart differ; greedily, as few as it takes."""
    found = np.full(len(apart), -1)
    for number, others in enumerate(apart):
        taken = set(found[others & (np.arange(len(apart)) != number)].tolist())
        found[number] = next(color for color in range(len(apart)) if color not in taken)
    return found


def by_axes(rows: Places) -> Places:
    """Places with the axes along which they do not change reduced to 1."""
    for axis in range(rows.ndim):
        first = rows.take([0], axis)
        if (rows == first).all():
            rows = first
    return rows


def _each(size: int) -> Sets:
    return Sets(np.arange(size), np.eye(size, dtype=bool))


def _count(labels: Iterable[Any]) -> int:
    return max((int(a.max(initial=-1)) for a in labels), default=-1) + 1


def _gathered(parts: list[tuple[Any, Sets]], count: int, size: int) -> Booleans:
    """The union of the sets of all numbers under each label; the last row is empty, for the label −1."""
    from scipy.sparse import coo_array

    table = np.zeros((count + 1, size), bool)
    for labels, sets in parts:
        there = labels.ravel() >= 0
        pairs = np.unique(labels.ravel()[there].astype(np.int64) * len(sets.table) + sets.rows.ravel()[there])
        places = pairs // len(sets.table), pairs % len(sets.table)
        links = coo_array((np.ones(len(pairs), np.float32), places), shape=(count, len(sets.table)))
        table[:-1] |= (links.tocsr() @ sets.table.astype(np.float32)) > 0
    return table


def _compact(labels: Any, table: Booleans) -> Sets:
    used, rows = np.unique(labels, return_inverse=True)
    return Sets(rows.reshape(labels.shape), table[used])


def _joined(a: Sets, b: Sets) -> Sets:
    pairs, rows = np.unique(a.rows * len(b.table) + b.rows, return_inverse=True)
    return Sets(rows.reshape(a.rows.shape), a.table[pairs // len(b.table)] | b.table[pairs % len(b.table)])


def kept_products(
    op: Op, side: int, sets: tuple[Sets, Sets], wanted: Booleans, program: Program
) -> Kept | None:
    """The products of a matmul through which a wanted pair passes; None: all, or too many to list.

    Args:
      op: the matmul.
      side: which of its operands has a tangent.
      sets: the sources of that operand, and the sinks of the result.
      wanted: (D, D), the entries of the Jacobian that are needed, [after, before].
      program: the derivative.
    """
    moved, result = sets
    shapes = [program.types[a].shape for a in op.operands]
    places = [np.arange(math.prod(shape)).reshape(shape) for shape in shapes]
    terms = _terms(places, op.params["dimension_numbers"])
    inner, other = terms[side], terms[1 - side]
    passes = product(product(moved.table, wanted.T), result.table.T)  # (sets of operand, sets of result)
    needed = passes[moved.rows.ravel()[inner], result.rows.ravel()[:, None]]
    most = int(needed.sum(1).max(initial=0))
    if most > MOST_TERMS or most == needed.shape[1]:
        return None
    order = np.argsort(~needed, axis=1, kind="stable")[:, :most]
    inner, other = (np.take_along_axis(a, order, 1) for a in (inner, other))
    return Kept(side, inner, other, np.take_along_axis(needed, order, 1))


def _terms(places: list[Places], numbers: Any) -> tuple[Places, Places]:
    """Places in both operands of a matmul of the terms of each number of its result: (numbers, terms)."""
    (contract_a, contract_b), (batch_a, batch_b) = numbers
    a, b = places
    free_a = [i for i in range(a.ndim) if i not in (*contract_a, *batch_a)]
    free_b = [i for i in range(b.ndim) if i not in (*contract_b, *batch_b)]
    batch = [a.shape[i] for i in batch_a]
    terms = int(np.prod([a.shape[i] for i in contract_a]))
    sizes_a, sizes_b = [a.shape[i] for i in free_a], [b.shape[i] for i in free_b]
    a = a.transpose([*batch_a, *free_a, *contract_a]).reshape(*batch, int(np.prod(sizes_a)), 1, terms)
    b = b.transpose([*batch_b, *free_b, *contract_b]).reshape(*batch, 1, int(np.prod(sizes_b)), terms)
    a, b = np.broadcast_arrays(a, b)
    return a.reshape(-1, terms), b.reshape(-1, terms)
