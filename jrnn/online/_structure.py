"""The stored part of the influence of parameters on the state, and how little it takes to move it.

    P[d, θ] = ∂ s_d / ∂θ          kept where the step lets it be other than 0 (within some steps)
    P ← J P + I                   J = ∂ s'/∂ s, I = ∂ s'/∂θ

`slots` are, for each number of a parameter, the numbers of the state that it has an influence on. Those of
a weight depend on its column alone, so they have the shape (slots, 1, n) for one of (m, n).

J is needed at pairs of numbers that share a parameter. It is probed with tangents, each 1 at all numbers of
one color: no two of a color meet in one number after the step. In a dense network all meet all, at a matmul;
but of its products only those are needed through which a wanted pair passes. For pairs of a unit with itself
these are h_i w_ii: with the others left out, one probe yields the diagonal. I is probed the same way with
adjoints: no parameter reaches two numbers of a color.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jrnn._caching import cached
from jrnn._jaxprs.programs import Op, Program
from jrnn.online._patterns import (
    Booleans,
    Kept,
    Places,
    Sets,
    by_axes,
    closure,
    colors,
    kept_products,
    product,
    sinks,
    sources,
)

LINEAR = (
    "reduce_sum",
    "cumsum",
    "conv_general_dilated",
    "gather",
    "dynamic_slice",
)  # neither fused nor matmuls


@dataclass(frozen=True, eq=False)
class Leaf:
    """The influence of a parameter: (slots, *shape)."""

    number: int  # place among the parameters that learn
    slots: Places  # (slots, ...), axes as those of the parameter or 1: numbers of the state, or −1
    immediate: Places  # (slots, ...): colors of the numbers that it reaches in one step, or −1
    between: Places  # (slots, ...): in slots that are −1, numbers through which a held step passes, or −1


@dataclass(frozen=True, eq=False)
class Structure:
    """The structure of a step of D numbers."""

    size: int
    leaves: tuple[Leaf, ...]
    jacobian: Booleans  # (D, D), [after, before]: what the probes may find; held: (D, 2 D)
    before: Places  # colors of the numbers before the step, and after it if it is held
    after: Places  # (D,), colors of the numbers after it
    kept: Mapping[Op, Kept | None]  # ops of which only some products are kept; None: none of them
    ordered: bool = True  # a number reads only those of the new state that are in earlier slots

    @property
    def held(self) -> bool:
        """True for a step in terms of its new state; J is by the state before and after it."""
        return len(self.before) > self.size

    def colors(self, which: Places) -> int:
        """Number of colors."""
        return int(which.max(initial=-1)) + 1


@cached
def structure_of(
    program: Program, learned: int, constant: frozenset[int], steps: int | None, local: bool
) -> Structure:
    """Find the structure of a step from its derivative, `tangent_step`.

    Args:
      program: the derivative; its last inputs are the tangents of what learns and of the state, with the new
        state behind if the step is held.
      learned: number of parameters that learn.
      constant: inputs that are the same at every step.
      steps: within how many steps a number is reached; None: ever.
      local: leave out what passes through a product with weights.
    """
    moving, (size,) = program.inputs[-1], program.types[program.outputs[0]].shape
    width = program.types[moving].shape[0]
    weights = program.inputs[len(program.inputs) - 1 - learned : -1]
    moved = _computed_from(program, {moving, *weights})
    fixed = _constants(program, {*constant, *weights})
    kept: dict[Op, Kept | None] = {}
    if local:
        kept = {op: None for op in program.ops if _mixes(op, moved - fixed, fixed)}
    reached = sinks(program, moved, size, kept)
    known = sources(program, moving, width, kept)
    jacobian = _matrix(known.get(program.outputs[0]), size, width)
    within = jacobian[:, size:] if width > size else np.zeros((size, size), bool)
    through = closure(np.eye(size, dtype=bool), within, None)  # what a number reaches in the same step
    whole = product(through.T, jacobian[:, :size])
    immediate = {n: reached[w] for n, w in enumerate(weights) if w in reached and reached[w].table.any()}
    stored = {n: closure(product(sets.table, through), whole, steps) for n, sets in immediate.items()}
    wanted = np.zeros((size, width), bool)
    for table in stored.values():
        wanted |= np.tile(product(table.T, table), width // max(size, 1))
    if not (local or wanted.all()):  # a local step has no such products left
        kept |= _few_products(program, moved - fixed, (known, reached), wanted, kept)
        found = sources(program, moving, width, kept).get(program.outputs[0])
        jacobian = _matrix(found, size, width)
    after = np.zeros((size, size), bool)
    for sets in immediate.values():
        after |= product(sets.table.T, sets.table)
    at_once, rank = colors(after), through.sum(0)
    ordered = not (within & (rank[:, None] <= rank)).any()
    order = np.argsort(rank, kind="stable")
    leaves = tuple(
        _leaf(n, sets, stored[n], _between(stored[n], jacobian, through), at_once, order)
        for n, sets in immediate.items()
    )
    return Structure(size, leaves, jacobian, colors(product(jacobian.T, jacobian)), at_once, kept, ordered)


def dense_structure(shapes: Mapping[int, Any], size: int) -> Structure:
    """The structure of a step that is not looked into: all depends on all, and on these parameters."""
    every, order = np.ones((size, size), bool), np.arange(size)
    slots = {number: order.reshape(-1, *[1] * len(shape)) for number, shape in shapes.items()}
    leaves = tuple(Leaf(number, own, own, np.full_like(own, -1)) for number, own in slots.items())
    return Structure(size, leaves, every, order, order, {})


def _between(stored: Booleans, jacobian: Booleans, through: Booleans) -> Booleans:
    """The numbers of the new state through which a held step leads from stored numbers to such."""
    size, found = len(through), stored
    while jacobian.shape[1] > size:
        more = found | product(found, jacobian[:, :size].T) & product(found, through.T)
        if (more == found).all():
            break
        found = more
    return found & ~stored


def _leaf(
    number: int, sets: Sets, stored: Booleans, between: Booleans, at_once: Places, order: Places
) -> Leaf:
    """The slots of a parameter: the numbers of the state in order, for each of its sets; fewer come last."""
    there = stored | between
    count = int(there.sum(1).max())
    order = order[np.argsort(there[:, order], axis=1, kind="stable")[:, -count:]]  # (sets, slots)
    own, passed, reached = (np.take_along_axis(a, order, 1) for a in (stored, between, sets.table))
    found = ((own, order), (reached, at_once[order]), (passed, order))
    return Leaf(number, *(_placed(np.where(where, a, -1), sets.rows) for where, a in found))


def _placed(table: Places, rows: Places) -> Places:
    """A row of a table for each number of an array, slots first, without the axes along which they agree."""
    _, same = np.unique(table, axis=0, return_inverse=True)
    representative = np.unique(same, return_index=True)[1]
    small = by_axes(same.reshape(-1)[rows])
    found = table[representative][small]
    return np.moveaxis(found, -1, 0)


def _computed_from(program: Program, values: set[int]) -> set[int]:
    found = set(values)
    for op in program.ops:
        if found.intersection(op.inputs):
            found.update(op.outputs)
    return found


def _constants(program: Program, values: set[int]) -> set[int]:
    """The values that are computed from these alone, and from nothing."""
    found = {*values, *program.literals}
    for op in program.ops:
        if found.issuperset(op.inputs):
            found.update(op.outputs)
    return found


def _mixes(op: Op, moved: set[int], fixed: set[int]) -> bool:
    """True for the product of something that moves with weights."""
    if op.primitive not in ("dot_general", "conv_general_dilated"):
        return False
    return any(i in moved for i in op.inputs) and any(i in fixed for i in op.inputs)


def _matrix(sets: Sets | None, *shape: int) -> Booleans:
    return np.zeros(shape, bool) if sets is None else sets.table[sets.rows]


def _few_products(
    program: Program,
    moved: set[int],
    sets: tuple[dict[int, Sets], dict[int, Sets]],
    wanted: Booleans,
    cut: Mapping[Op, Any],
) -> dict[Op, Kept | None]:
    """The matmuls of which few products are needed."""
    known, reached = sets
    found: dict[Op, Kept | None] = {}
    mixed: set[int] = set()  # results of loops and branches, which hold more than tangents
    for op in program.ops:
        if mixed.intersection(op.inputs) or not (op.fusible or op.matmul or op.primitive in LINEAR):
            mixed.update(op.outputs)
        elif op.matmul and op not in cut and op.outputs[0] in reached:
            sides = [side for side, a in enumerate(op.operands) if isinstance(a, int) and a in moved]
            if len(sides) == 1 and op.operands[sides[0]] in known:
                pair = known[op.operands[sides[0]]], reached[op.outputs[0]]
                few = kept_products(op, sides[0], pair, wanted, program)
                found |= {} if few is None else {op: few}
    return found
