"""Splitting a step into stages: ops that run once, for all steps at once, or in a loop.

An LSTM layer and a read-out, y = h @ v, as one step:

    a = x @ w_ih         reads no carry                  all steps at once, before the loop
    z = a + h @ w_hh     on a cycle through the carry    the loop
    y = h @ v            reads the loop, feeds no carry  all steps at once, after the loop
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any, NamedTuple

import numpy as np

from jrnn._caching import cached
from jrnn._jaxprs import Op, Program, merge_slices

Values = tuple[int, ...]  # numbers of values
Pairs = tuple[tuple[int, int], ...]  # entries of the carry: (before the step, after it)
Env = dict[int, Any]  # value -> its array

UNKNOWN = 32  # assumed size of a symbolic axis of `jax.export`; affects only speed


class StepSignature(NamedTuple):
    """The flat inputs and outputs of a traced step, as numbers of values."""

    consts: Values
    carry: Values
    xs: Values
    tangents: Values  # () unless the step computes its own derivative
    carry_out: Values
    ys: Values
    tangents_out: Values

    @classmethod
    def of(cls, program: Program, consts: int, carry: int, xs: int, ys: int) -> "StepSignature":
        """Divide the inputs (consts, carry, xs, tangents) and outputs (carry, ys, tangents) of a program.

        Args:
          program: the traced step.
          consts: number of constants among the inputs, including those that the step closes over.
          carry: number of entries of the carry.
          xs: number of inputs of each step; the rest are tangents.
          ys: number of outputs after the carry; the rest are tangents.
        """
        inputs, outputs = program.inputs, program.outputs
        xs_from, xs_to, ys_to = consts + carry, consts + carry + xs, carry + ys
        return cls(
            consts=inputs[:consts],
            carry=inputs[consts:xs_from],
            xs=inputs[xs_from:xs_to],
            tangents=inputs[xs_to:],
            carry_out=outputs[:carry],
            ys=outputs[carry:ys_to],
            tangents_out=outputs[ys_to:],
        )


@dataclass(frozen=True, eq=False)
class Stage:
    """Ops that run together: in a loop if they have a carry, otherwise for all steps at once."""

    ops: tuple[Op, ...]
    consts: Values
    xs: Values  # read at each step, from the inputs or from earlier stages
    carry: Pairs
    ys: Values  # outputs of each step

    @property
    def carry_in(self) -> Values:
        """The carry before a step."""
        return tuple(before for before, _ in self.carry)

    @property
    def carry_out(self) -> Values:
        """The carry after a step."""
        return tuple(after for _, after in self.carry)


@dataclass(frozen=True, eq=False)
class StagedStep:
    """A step in order of execution: hoisted ops once, then stage by stage."""

    hoisted: tuple[Op, ...]  # depend on constants alone
    stages: tuple[Stage, ...]
    consts: Values  # those that the stages read
    carry: Pairs  # entries that change
    ys: Values  # outputs that change from step to step

    @property
    def carry_in(self) -> Values:
        """The carry before a step."""
        return tuple(before for before, _ in self.carry)


def read(env: Env, values: Iterable[int]) -> tuple[Any, ...]:
    """Read the arrays of values."""
    return tuple(env[value] for value in values)


def eval_ops(ops: Iterable[Op], env: Env) -> None:
    """Run ops in order, and add their results to `env`."""
    for op in ops:
        env.update(zip(op.outputs, op.run(*read(env, op.inputs)), strict=True))


def dce(ops: Iterable[Op], wanted: Iterable[int], known: Iterable[int] = ()) -> list[Op]:
    """Eliminate dead code: return the ops that compute `wanted` from `known`."""
    known = set(known)
    needed, alive = set(wanted) - known, []
    # Backwards: an op is needed if a later needed one reads it.
    for op in reversed(list(ops)):
        if needed.intersection(op.outputs):
            needed.update(i for i in op.inputs if i not in known)
            alive.append(op)
    return alive[::-1]


def element_count(shape: Iterable[Any]) -> int:
    """Number of elements of an array of this shape."""
    return math.prod(n if isinstance(n, int) else UNKNOWN for n in shape)


def _elements(values: Iterable[int], program: Program) -> int:
    return sum(element_count(program.types[v].shape) for v in values)


def size_in_bytes(values: Iterable[int], program: Program) -> int:
    """Total bytes of values."""
    return sum(element_count(program.types[v].shape) * program.types[v].dtype.itemsize for v in values)


def only_broadcasts(op: Op, program: Program) -> bool:
    """True if an op's results are larger than its inputs: on constants, cheaper to repeat than to store."""
    return op.fusible and _elements(op.outputs, program) > _elements(op.inputs, program)


def hoist(ops: Iterable[Op], constant: set[int]) -> tuple[list[Op], list[Op]]:
    """Divide ops into those on constants alone, whose results are added to `constant`, and the rest."""
    hoisted: list[Op] = []
    varying: list[Op] = []
    for op in ops:
        if constant.issuperset(op.inputs):
            constant.update(op.outputs)
            hoisted.append(op)
        else:
            varying.append(op)
    return hoisted, varying


@cached
def stage_step(program: Program, signature: StepSignature, precompute: bool) -> StagedStep:
    """Split a step into stages.

    Ops on a cycle through the carry need a loop, one for each cycle; all ops before, between and after the
    cycles run for all steps at once. This splits a `Stack` into its layers.

    Args:
      program: the step.
      signature: its inputs and outputs.
      precompute: compute every possible matmul before its loop; False: only if that is faster on a CPU.
    """
    # 1. Constants. An entry that every step returns unchanged, such as an attention memory, is one too.
    carry = tuple((a, b) for a, b in zip(signature.carry, signature.carry_out, strict=True) if a != b)
    unchanged = set(signature.carry) - {a for a, _ in carry}
    constant = {*signature.consts, *unchanged, *program.literals}
    alive = dce(program.ops, [*(b for _, b in carry), *signature.ys])
    hoisted, varying = hoist(alive, constant)
    ys = tuple(dict.fromkeys(y for y in signature.ys if y not in constant))

    # 2. Levels. A bias broadcast over the rows is not stored: each stage that reads it repeats the broadcast.
    repeated = [op for op in hoisted if only_broadcasts(op, program)]
    levels = _levels(varying, carry, constant)
    _sink_into_loops(program, varying, _Graph(carry, constant, ys, precompute), levels)
    # 3. One stage for each level with ops or entries of the carry, in order of execution.
    stages = []
    for level in sorted({*(levels[op] for op in varying), *(levels[a] for a, _ in carry)}):
        inside = [op for op in varying if levels[op] == level]
        carried = tuple((a, b) for a, b in carry if levels[a] == level)
        # The outputs of a stage are the values read by other stages, their carries and the caller.
        read_later = set(ys)
        for op in varying:
            if levels[op] != level:
                read_later.update(op.inputs)
        read_later.update(b for a, b in carry if levels[a] != level)
        stages.append(_stage(program, repeated, inside, carried, read_later, constant))
    consts = tuple(dict.fromkeys(c for stage in stages for c in stage.consts))
    once = dce(hoisted, [*consts, *(y for y in signature.ys if y in constant)])
    return StagedStep(tuple(merge_slices(once, program.types)), tuple(stages), consts, carry, ys)


def _stage(
    program: Program,
    repeated: list[Op],
    inside: list[Op],
    carry: Pairs,
    read_later: set[int],
    constant: set[int],
) -> Stage:
    carry_out = [b for _, b in carry]
    # Keep only the repeated ops that something inside reads.
    wanted = [o for op in inside for o in op.outputs]
    ops = merge_slices(dce([*repeated, *inside], [*wanted, *carry_out]), program.types)
    made = {o for op in ops for o in op.outputs} | {a for a, _ in carry}
    # The distinct values that the stage reads from outside, in the order of the ops.
    inputs = dict.fromkeys([i for op in ops for i in op.inputs] + carry_out)
    outer = [i for i in inputs if i not in made]
    return Stage(
        tuple(ops),
        consts=tuple(i for i in outer if i in constant),
        xs=tuple(i for i in outer if i not in constant),
        carry=carry,
        ys=tuple(sorted((made & read_later) - constant)),
    )


def _levels(ops: list[Op], carry: Pairs, constant: set[int]) -> dict[Any, int]:
    """Level of each op and each value: stages run in this order; odd levels are loops, even ones are not.

        x @ w_ih  0      the first layer's loop  1      h @ v  2      the second layer's loop  3

    A cycle of ops through the carry has the first odd level that is not below those of its inputs. Any other
    op has the level of its inputs, or the next even one if it does not fuse into that loop.
    """
    # The graph: a node for each op, and one for each entry of the carry, which reads its value after a step.
    producer: dict[int, Any] = {a: a for a, _ in carry}
    reads: dict[Any, tuple[int, ...]] = {}
    for op in ops:
        reads[op] = op.inputs
        producer.update(dict.fromkeys(op.outputs, op))
    reads.update({a: (b,) for a, b in carry})
    depends: dict[Any, set[Any]] = {}
    for node, values in reads.items():
        depends[node] = {producer[v] for v in values if v in producer and v not in constant}

    # Within a step the ops are acyclic, so every cycle passes through the carry.
    component = _components(depends)
    loops = {component[a] for a, _ in carry}
    members: dict[int, list[Any]] = {}
    before: dict[int, set[int]] = {}  # component -> those that it reads
    for node, c in component.items():
        members.setdefault(c, []).append(node)
        before.setdefault(c, set()).update(component[d] for d in depends[node])
        before[c].discard(c)

    # The graph of components is acyclic: each comes after all that it reads.
    level_of: dict[int, int] = {}
    for c in TopologicalSorter(before).static_order():
        level = max((level_of[b] for b in before[c]), default=0)
        if c in loops:
            level |= 1  # the first odd level that is not below
        elif not members[c][0].fusible:
            level += level % 2
        level_of[c] = level
    levels: dict[Any, int] = {node: level_of[c] for node, c in component.items()}
    for op in ops:
        levels.update(dict.fromkeys(op.outputs, levels[op]))
    return levels


def _components(depends: dict[Any, set[Any]]) -> dict[Any, int]:
    """Strongly connected components: the same number for nodes that depend on each other."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    place = {node: i for i, node in enumerate(depends)}
    edges = [(place[d], place[node]) for node in depends for d in depends[node]]
    rows, columns = np.array(edges, np.int32).reshape(-1, 2).T
    graph = csr_array((np.ones(len(edges), np.int8), (rows, columns)), shape=(len(place),) * 2)
    labels = connected_components(graph, directed=True, connection="strong")[1]
    return dict(zip(depends, labels.tolist(), strict=True))


class _Graph(NamedTuple):
    """The context of the ops of a step."""

    carry: Pairs
    constant: set[int]
    ys: Values
    precompute: bool


def _sink_into_loops(program: Program, ops: list[Op], graph: _Graph, levels: dict[Any, int]) -> None:
    """Move ops before a loop into it if they fuse, or if computing them before is not faster.

    Only ops that read a single varying value, so that the loop reads no more arrays than before.
    """
    sliced = _sliced(ops, program)
    readers: dict[int, list[int]] = {y: [levels.get(y, 0)] for y in graph.ys}  # value -> levels that read it
    for a, b in graph.carry:
        readers.setdefault(b, []).append(levels[a])
    for op in reversed(ops):
        own = levels[op]
        # All readers of an op come before it here, so their levels are final.
        first_reader = min((level for o in op.outputs for level in readers.get(o, [])), default=own)
        if op.product and not graph.precompute:
            sinks = not _faster_before_loop(op, program, graph.constant, sliced)
        else:
            sinks = op.fusible
        if sinks and own % 2 == 0 and first_reader > own and len(set(op.inputs) - graph.constant) == 1:
            levels.update(dict.fromkeys((*op.outputs, op), first_reader))
        for i in op.inputs:
            readers.setdefault(i, []).append(levels[op])


def _faster_before_loop(op: Op, program: Program, constant: set[int], sliced: set[int]) -> bool:
    """True if a matmul for all steps at once is faster on a CPU, in spite of writing and reading its result.

    Measured: with one row per step; with few rows or few multiplications, unless its result is sliced (XLA
    then reads one array at several offsets in a loop, which it does not vectorize); and with a weight of
    more than half a million numbers, which does not fit into a core's cache.
    """
    weight = max((_elements([i], program) for i in op.inputs if i in constant), default=0)
    varying = [program.types[i].shape for i in op.inputs if i not in constant]  # (rows..., features)
    rows = min((element_count(shape[:-1]) for shape in varying), default=0)
    few = rows < 8 or rows * weight < 2**20
    return rows == 1 or (few and sliced.isdisjoint(op.outputs)) or (rows < 32 and weight > 2**19)


def _sliced(ops: list[Op], program: Program) -> set[int]:
    """Values that are read in slices, directly or after sums; any other function reads them whole."""
    sliced: set[int] = set()
    # Backwards, as the terms of a sliced sum are sliced too: in z = a + b, z[:, :4] slices a and b.
    for op in reversed(ops):
        smallest = min((_elements([o], program) for o in op.outputs), default=0)
        takes_part = any(smallest < _elements([i], program) for i in op.inputs)
        if op.linear and (takes_part or not sliced.isdisjoint(op.outputs)):
            sliced.update(op.inputs)
    return sliced
