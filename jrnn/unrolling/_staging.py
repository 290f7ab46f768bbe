"""Splitting a step into stages: ops that run once, for all steps at once, or in a loop.

An LSTM layer and a read-out, y = h @ v, as one step:

    w_ih * 2             reads constants alone           once: hoisted
    s = x @ w_ih         reads no carry                  all steps at once, before the loop
    z = s + h @ w_hh     on a cycle through the carry    the loop
    y = h @ v            reads the loop, feeds no carry  all steps at once, after the loop

`stage_step` takes the program of a step and says which op goes where; nothing runs here.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from typing import Any, NamedTuple

from jax import lax

from jrnn._caching import cached
from jrnn._jaxprs.programs import (
    Op,
    Program,
    Values,
    count_elements,
    dce,
    element_count,
    enlarges,
    free_values,
    outputs_of,
    split_constant,
)
from jrnn.unrolling._graphs import components

Node = Op | int  # of the graph of a step: an op, or the number of a value
Pairs = tuple[tuple[int, int], ...]  # for each entry of a carry: (its value before a step, that after it)


def entries_before(carry_pairs: Iterable[tuple[int, int]]) -> Values:
    """The carry before a step."""
    return tuple(before for before, _ in carry_pairs)


def entries_after(carry_pairs: Iterable[tuple[int, int]]) -> Values:
    """The carry after a step."""
    return tuple(after for _, after in carry_pairs)


class StepSignature(NamedTuple):
    """The flat inputs and outputs of a traced step, as numbers of values."""

    consts: Values
    carry_in: Values
    xs: Values
    tangents_in: Values  # of the carry, of xs and of sites, if the step computes its derivative; else ()
    carry_out: Values
    ys: Values
    tangents_out: Values

    @classmethod
    def of(cls, program: Program, n_consts: int, n_carry: int, n_xs: int, n_ys: int) -> "StepSignature":
        """Divide the inputs (consts, carry, xs, tangents) and outputs (carry, ys, tangents) of a program.

        Args:
          program: the traced step.
          n_consts: number of constants among the inputs, including those that the step closes over.
          n_carry: number of entries of the carry.
          n_xs: number of inputs of each step; the rest are tangents.
          n_ys: number of outputs after the carry; the rest are tangents.
        """
        inputs, outputs = program.inputs, program.outputs
        xs_from, xs_to, ys_to = n_consts + n_carry, n_consts + n_carry + n_xs, n_carry + n_ys
        return cls(
            consts=inputs[:n_consts],
            carry_in=inputs[n_consts:xs_from],
            xs=inputs[xs_from:xs_to],
            tangents_in=inputs[xs_to:],
            carry_out=outputs[:n_carry],
            ys=outputs[n_carry:ys_to],
            tangents_out=outputs[ys_to:],
        )

    def changing_pairs(self) -> Pairs:
        """The entries of the carry that a step changes; it returns the rest as they are."""
        pairs = zip(self.carry_in, self.carry_out, strict=True)
        return tuple((before, after) for before, after in pairs if before != after)

    def constant(self, program: Program) -> set[int]:
        """The values that are the same at every step, unchanged entries of the carry among them."""
        unchanged = set(self.carry_in).difference(entries_before(self.changing_pairs()))
        return {*self.consts, *unchanged, *program.literals}


@dataclass(frozen=True, eq=False)
class Stage:
    """Ops that run together: in a loop if they have a carry, otherwise for all steps at once."""

    ops: tuple[Op, ...]
    consts: Values
    xs: Values  # read at each step, from the inputs or from earlier stages
    carry_pairs: Pairs  # () unless the stage is a loop
    ys: Values  # outputs of each step

    @property
    def carry_in(self) -> Values:
        """The carry before a step."""
        return entries_before(self.carry_pairs)

    @property
    def carry_out(self) -> Values:
        """The carry after a step."""
        return entries_after(self.carry_pairs)


@dataclass(frozen=True, eq=False)
class StagedStep:
    """A step in order of execution: hoisted ops once, then stage by stage."""

    hoisted_ops: tuple[Op, ...]  # depend on constants alone
    stages: tuple[Stage, ...]
    consts: Values  # those that the stages read, results of hoisted ops among them
    carry_pairs: Pairs  # entries that change
    ys: Values  # outputs that change from step to step

    @property
    def carry_in(self) -> Values:
        """The carry before a step."""
        return entries_before(self.carry_pairs)


@cached  # an equal call must return the same stages: the functions that run them are cached by them
def stage_step(program: Program, signature: StepSignature, precompute_all: bool) -> StagedStep:
    """Split a step into stages.

    Ops on a cycle through the carry need a loop. Cycles with an op between them that does not fuse, as the
    matmul between two layers of a `Stack`, get a loop each; others share one. Of the other ops, those that do
    not fuse (gathers, and matmuls: see `precompute_all`) run for all steps at once, before, between or after
    the loops; those that fuse mostly run in a loop, where they cost nothing.

    Args:
      program: the step.
      signature: its inputs and outputs.
      precompute_all: compute every possible matmul before its loop; False: those that are faster so on a CPU.
    """
    # 1. Constants. An entry that every step returns unchanged, such as an attention memory, is one too.
    carry_pairs = signature.changing_pairs()
    needed = dce(program.ops, [*entries_after(carry_pairs), *signature.ys])
    hoisted, varying, constant = split_constant(needed, signature.constant(program))
    ys = tuple(dict.fromkeys(y for y in signature.ys if y not in constant))

    # 2. Levels: the order of the stages, a number for each op and each entry of the carry.
    levels = _levels(varying, carry_pairs, constant)
    levels = _levels_after_sinking(
        program, varying, levels, carry_pairs, constant, ys=ys, precompute_all=precompute_all
    )

    # 3. One stage for each level. A constant broadcast to a larger array is not stored: each stage that reads
    # it repeats the broadcast.
    broadcasts = [op for op in hoisted if enlarges(op, program)]
    stages = []
    nodes: list[Node] = [*varying, *entries_before(carry_pairs)]
    for level in sorted({levels[node] for node in nodes}):
        inside = [op for op in varying if levels[op] == level]
        own_pairs = tuple(pair for pair in carry_pairs if levels[pair[0]] == level)
        # The outputs of a stage are the values read by other stages, their carries and the caller.
        read_elsewhere = set(ys)
        for op in varying:
            if levels[op] != level:
                read_elsewhere.update(op.inputs)
        read_elsewhere.update(entries_after(pair for pair in carry_pairs if levels[pair[0]] != level))
        stages.append(make_stage(program, broadcasts, inside, own_pairs, read_elsewhere, constant))
    consts = tuple(dict.fromkeys(c for stage in stages for c in stage.consts))
    # Of the hoisted ops those remain whose results a stage or the caller reads.
    hoisted = dce(hoisted, [*consts, *(y for y in signature.ys if y in constant)])
    return StagedStep(tuple(_merge_slices(hoisted, program)), tuple(stages), consts, carry_pairs, ys)


def make_stage(
    program: Program,
    broadcasts: list[Op],
    inside: list[Op],
    carry_pairs: Pairs,
    read_elsewhere: set[int],
    constant: set[int],
) -> Stage:
    """A stage of some ops, with what they read, and the outputs that are read elsewhere."""
    carry_in, carry_out = entries_before(carry_pairs), entries_after(carry_pairs)
    # Keep only the broadcasts that something inside reads.
    needed = dce([*broadcasts, *inside], [*outputs_of(inside), *carry_out])
    ops = _merge_slices(needed, program)
    free = free_values(ops, carry_out, carry_in)
    made = {*carry_in, *outputs_of(ops)}
    return Stage(
        tuple(ops),
        consts=tuple(value for value in free if value in constant),
        xs=tuple(value for value in free if value not in constant),
        carry_pairs=carry_pairs,
        ys=tuple(sorted((made & read_elsewhere) - constant)),
    )


def _levels(ops: list[Op], carry_pairs: Pairs, constant: set[int]) -> dict[Node, int]:
    """Level of each op and each value: stages run in this order; odd levels are loops, even ones are not.

        x @ w_ih  0      the first layer's loop  1      h @ v  2      the second layer's loop  3

    A cycle of ops through the carry has the first odd level that is not below those of its inputs. Any other
    op has the level of its inputs, or the next even one if it does not fuse into that loop.
    """
    # The graph: a node for each op, and one for each entry of the carry, which reads its value after a step:
    #   h = tanh(z), z = s + p, p = h @ w_hh     nodes tanh -> h -> dot -> add -> tanh: a cycle
    producer: dict[int, Node] = {entry: entry for entry in entries_before(carry_pairs)}
    reads: dict[Node, Values] = {}
    for op in ops:
        reads[op] = op.inputs
        producer.update(dict.fromkeys(op.outputs, op))
    for before, after in carry_pairs:
        reads[before] = (after,)
    depends: dict[Node, set[Node]] = {}  # node -> the nodes whose values it reads
    for node, values in reads.items():
        depends[node] = {producer[v] for v in values if v in producer and v not in constant}

    # Within a step the ops are acyclic, so every cycle passes through the carry.
    component = components(depends)
    loops = {component[entry] for entry in entries_before(carry_pairs)}
    members: dict[int, list[Any]] = {}
    earlier: dict[int, set[int]] = {}  # component -> those that it reads
    for node, c in component.items():
        members.setdefault(c, []).append(node)
        earlier.setdefault(c, set()).update(component[d] for d in depends[node])
        earlier[c].discard(c)

    # The graph of components is acyclic: each comes after all that it reads.
    level_of: dict[int, int] = {}
    for c in TopologicalSorter(earlier).static_order():
        level = max((level_of[e] for e in earlier[c]), default=0)
        if c in loops:
            level |= 1  # the first odd level that is not below
        elif not members[c][0].fusible:
            level += level % 2  # a matmul after a loop need not be in it: the next even level
        level_of[c] = level
    levels: dict[Node, int] = {node: level_of[c] for node, c in component.items()}
    for op in ops:
        levels.update(dict.fromkeys(op.outputs, levels[op]))
    return levels


def _levels_after_sinking(
    program: Program,
    ops: list[Op],
    levels: dict[Node, int],
    carry_pairs: Pairs,
    constant: set[int],
    *,
    ys: Values,
    precompute_all: bool,
) -> dict[Node, int]:
    """The levels, after moving ops before a loop into it if they fuse, or if they are no faster before it.

    Only ops that read a single varying value, so that the loop reads no more arrays than before.
    """
    # Before the loop the result of a matmul, (T, rows, n), is written and read again, inside it is not; but
    # inside the loop a matmul of few rows is slow. An op that fuses costs nothing in a loop.
    levels, sliced = dict(levels), sliced_values(ops, program)
    # value -> the levels at which it is read. What the caller reads counts as read where it is made, so that
    # its op stays.
    read_at: dict[int, list[int]] = {y: [levels.get(y, 0)] for y in ys}
    for before, after in carry_pairs:
        read_at.setdefault(after, []).append(levels[before])
    for op in reversed(ops):
        own = levels[op]
        # All readers of an op come before it here, so their levels are final.
        first_level = min((level for o in op.outputs for level in read_at.get(o, [])), default=own)
        if op.matmul and not precompute_all:
            sinks = not _faster_before_loop(op, program, constant, sliced)
        else:
            sinks = op.fusible
        if sinks and own % 2 == 0 and first_level > own and len(set(op.inputs) - constant) == 1:
            levels.update(dict.fromkeys((*op.outputs, op), first_level))
        for i in op.inputs:
            read_at.setdefault(i, []).append(levels[op])
    return levels


def _faster_before_loop(op: Op, program: Program, constant: set[int], sliced: set[int]) -> bool:
    """True if a matmul for all steps at once is faster on a CPU, in spite of writing and reading its result.

    Measured: with one row per step; of less than 32 rows, with a weight of more than half a million numbers,
    which does not fit into a core's cache; and, unless its result is sliced (XLA then reads one array at
    several offsets in a loop, which it does not vectorize), with few rows, few multiplications, or, of less
    than 32 rows, a result at most twice as wide as the input, in place of which the loop then reads it.
    """
    weight_size = max((count_elements([i], program) for i in op.inputs if i in constant), default=0)
    varying = [program.types[i].shape for i in op.inputs if i not in constant]  # (rows..., features)
    rows = min((element_count(shape[:-1]) for shape in varying), default=0)
    features = min((element_count(shape[-1:]) for shape in varying), default=0)
    few = rows < 8 or rows * weight_size < 2**20
    narrow = rows < 32 and weight_size <= 2 * features**2
    large = rows < 32 and weight_size > 2**19
    return rows == 1 or large or ((few or narrow) and sliced.isdisjoint(op.outputs))


def sliced_values(ops: Sequence[Op], program: Program) -> set[int]:
    """Values that are read in slices, directly or after sums; any other function reads them whole."""
    sliced: set[int] = set()
    # Backwards, as the terms of a sliced sum are sliced too: in z = s + p, z[:, :4] slices s and p. An
    # additive op with a result smaller than an input takes a part of it.
    for op in reversed(ops):
        if op.additive and (taken_apart(op, program) or not sliced.isdisjoint(op.outputs)):
            sliced.update(op.inputs)
    return sliced


def taken_apart(op: Op, program: Program) -> set[int]:
    """The inputs of an op that are larger than its smallest output."""
    smallest = min((count_elements([o], program) for o in op.outputs), default=0)
    return {i for i in op.inputs if smallest < count_elements([i], program)}


def _merge_slices(ops: Iterable[Op], program: Program) -> list[Op]:
    """Replace slices that together cover an axis of a value, without overlap, by one `lax.split`.

        i = z[:, :4]; f = z[:, 4:8]; o = z[:, 8:]    becomes    i, f, o = split(z, (4, 4, 4), axis=1)

    The transpose of a split concatenates the adjoints; that of slices pads each with zeros and adds them. The
    split takes the place of the first slice, and so precedes all ops that read a part.
    """
    ops = list(ops)
    slices_of: dict[tuple[int, int], list[Op]] = {}  # (value, axis) -> its slices
    for op in ops:
        if op.bounds:
            slices_of.setdefault((op.inputs[0], op.bounds[0]), []).append(op)
    splits: dict[Op, Op] = {}  # slice -> the split that it is part of
    for (value, axis), slices in slices_of.items():
        parts = sorted(slices, key=lambda op: op.bounds or ())
        starts, stops = zip(*(op.bounds[1:] for op in parts if op.bounds), strict=True)
        # They cover the axis if each starts where the one before stops: (0, 4, 8, 12) == (0, 4, 8, 12).
        if (*starts, program.types[value].shape[axis]) == (0, *stops):
            sizes = [stop - start for start, stop in zip(starts, stops, strict=True)]
            params: dict[str, Any] = {"sizes": tuple(sizes), "axis": axis}
            split = replace(
                slices[0],
                fun=functools.partial(lax.split, **params),
                outputs=tuple(op.outputs[0] for op in parts),
                bounds=None,
                primitive="split",
                params=params,
            )
            splits.update(dict.fromkeys(slices, split))
    return list(dict.fromkeys(splits.get(op, op) for op in ops))
