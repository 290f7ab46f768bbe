"""What runs when: the ops of a step, sorted into what runs once, what runs for all steps, what loops."""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jrnn._caching import cached
from jrnn._jaxprs import Op, Program, joined

Pairs = tuple[tuple[int, int], ...]  # entries of the carry: (before, after)
UNKNOWN = 32  # what a symbolic axis of jax.export counts for, where sizes are weighed: the speed, no result


@dataclass(frozen=True, eq=False)
class Cut:
    """A value of the loop through which weights act, and how: value = ops(weights, recorded) + the rest."""

    value: int
    ops: tuple[Op, ...]
    weights: tuple[int, ...]
    recorded: tuple[int, ...]  # what the weights meet at every step
    summands: tuple[int, ...]  # what is only added, so that its value does not matter


@dataclass(frozen=True, eq=False)
class Stage:
    """Ops that run together: in a loop if something is carried, otherwise for all steps at once."""

    ops: tuple[Op, ...]
    constants: tuple[int, ...]
    given: tuple[int, ...]  # values of each step, from the inputs or from earlier stages
    carried: Pairs
    emitted: tuple[int, ...]
    cuts: tuple[Cut, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """A step, ordered: what depends on constants alone runs once, the rest stage by stage."""

    once: tuple[Op, ...]
    stages: tuple[Stage, ...]
    held: tuple[int, ...]  # constants that the stages read
    carried: Pairs  # what changes of the carry
    outputs: tuple[int, ...]  # what changes of the outputs


@cached
def plan(program: Program, constants: int, carried: int, ahead: bool) -> Plan:
    """Order the ops of a step.

    Recurrent are the ops on a cycle through the carry. Each cycle is a loop; what lies before, between and
    behind loops needs no loop. So input products, read-outs and the layers of a stack fall apart.

    Args:
      program: the step, inputs (constants, carry, per-step values), outputs (carry, per-step values).
      constants: how many of its inputs are constants.
      carried: how many are the carry.
      ahead: whether every product that can be computed before its loop is; False: where that pays on a CPU.
    """
    before = program.inputs[constants : constants + carried]
    pairs = tuple((a, b) for a, b in zip(before, program.outputs[:carried], strict=True) if a != b)
    outputs = program.outputs[carried:]
    unchanged = set(before) - {a for a, _ in pairs}
    constant = {*program.inputs[:constants], *unchanged, *program.known}
    fixed: list[Op] = []
    rest: list[Op] = []
    for op in live(program.ops, [b for _, b in pairs] + list(outputs)):
        if constant.issuperset(op.inputs):
            constant.update(op.outputs)
        (fixed if constant.issuperset(op.outputs) else rest).append(op)
    copied = [op for op in fixed if spreads(op, program)]
    varying = tuple(dict.fromkeys(o for o in outputs if o not in constant))
    levels = _levels(program, rest, pairs, constant, varying, ahead)
    stages = []
    for level in sorted({*(levels[op] for op in rest), *(levels[a] for a, _ in pairs)}):
        loop = tuple((a, b) for a, b in pairs if levels[a] == level)
        inside = [op for op in rest if levels[op] == level]
        elsewhere = {i for op in rest if levels[op] != level for i in op.inputs}
        elsewhere |= {b for a, b in pairs if levels[a] != level}
        stages.append(_stage(program, inside, copied, loop, elsewhere.union(varying), constant))
    held = dict.fromkeys(c for stage in stages for c in stage.constants)
    once = joined(live(fixed, [*held, *(o for o in outputs if o in constant)]), program.types)
    return Plan(tuple(once), tuple(stages), tuple(held), pairs, varying)


def entries(shape: Iterable[Any]) -> int:
    """Entries of an array of this shape."""
    return math.prod(n if isinstance(n, int) else UNKNOWN for n in shape)


def _size(values: Iterable[int], program: Program) -> int:
    return sum(entries(program.types[v].shape) for v in values)


def size_of(values: Iterable[int], program: Program) -> int:
    """Bytes of values."""
    return sum(entries(program.types[v].shape) * program.types[v].dtype.itemsize for v in values)


def live(ops: Iterable[Op], wanted: Iterable[int], known: Iterable[int] = ()) -> list[Op]:
    """The ops that `wanted` are computed by, from what is `known`."""
    known = set(known)
    needed, found = set(wanted) - known, []
    for op in reversed(list(ops)):
        if needed.intersection(op.outputs):
            needed.update(i for i in op.inputs if i not in known)
            found.append(op)
    return found[::-1]


def spreads(op: Op, program: Program) -> bool:
    """Whether an op of constants only spreads them out: cheaper to repeat in a loop than to keep."""
    return op.cheap and _size(op.outputs, program) > _size(op.inputs, program)


def _levels(
    program: Program, ops: list[Op], pairs: Pairs, constant: set[int], outputs: tuple[int, ...], ahead: bool
) -> dict[Any, int]:
    """Level of each op and of each value: loops are odd, what needs none is even."""
    cycles = _cycles(ops, pairs)
    leaf = {a: 1 << i for i, (a, _) in enumerate(pairs)}
    levels: dict[Any, int] = {}
    of_cycle = dict.fromkeys({*cycles.values()} - {0}, 1)

    def level(value: int) -> int:
        return of_cycle[cycles[leaf[value]]] if value in leaf else levels.get(value, 0)

    def highest(values: Iterable[int]) -> int:
        return max((level(v) for v in values if v not in constant), default=0)

    while True:
        was = dict(of_cycle)
        for op in ops:
            found = highest(op.inputs)
            if cycle := cycles[op]:
                found = of_cycle[cycle] = max(of_cycle[cycle], found | 1)
            elif not op.cheap:
                found += found % 2
            levels.update(dict.fromkeys((*op.outputs, op), found))
        for a, b in pairs:
            cycle = cycles[leaf[a]]
            of_cycle[cycle] = max(of_cycle[cycle], highest([b]) | 1)
        if was == of_cycle:
            break
    levels.update({a: level(a) for a, _ in pairs})
    sliced = _sliced(ops, program)
    sinks = {
        op
        for op in ops
        if op.cheap or (op.product and not ahead and not _pays(op, program, constant, sliced))
    }
    _sink(ops, sinks, pairs, constant, outputs, levels)
    return levels


def _pays(op: Op, program: Program, constant: set[int], sliced: set[int]) -> bool:
    """Whether a CPU gains by a product for all steps at once, which costs to write and read its result.

    As measured, it does with one row a step; with few rows or few multiplications, unless its result is
    sliced: XLA then reads one array at several offsets in a loop, which it does not vectorise; and with a
    weight of more than half a million numbers, which a core's cache does not hold.
    """
    weight = max((_size([i], program) for i in op.inputs if i in constant), default=0)
    rows = min((entries(program.types[i].shape[:-1]) for i in op.inputs if i not in constant), default=0)
    few = rows < 8 or rows * weight < 2**20
    return rows == 1 or (few and sliced.isdisjoint(op.outputs)) or (rows < 32 and weight > 2**19)


def _sliced(ops: list[Op], program: Program) -> set[int]:
    """Values of which parts are taken, as they are or after sums; a function reads them whole."""
    sliced: set[int] = set()
    for op in reversed(ops):
        takes = any(_size([o], program) < _size([i], program) for i in op.inputs for o in op.outputs)
        if op.linear and (takes or not sliced.isdisjoint(op.outputs)):
            sliced.update(op.inputs)
    return sliced


def _sink(
    ops: list[Op],
    sinks: set[Op],
    pairs: Pairs,
    constant: set[int],
    outputs: tuple[int, ...],
    levels: dict[Any, int],
) -> None:
    """Move ops of `sinks` before a loop into it, where they fuse, if the loop then reads no more arrays."""
    readers: dict[int, list[int]] = {o: [levels.get(o, 0)] for o in outputs}
    for a, b in pairs:
        readers.setdefault(b, []).append(levels[a])
    for op in reversed(ops):
        own = levels[op]
        first = min((r for o in op.outputs for r in readers.get(o, [])), default=own)
        if op in sinks and own % 2 == 0 and first > own and len(set(op.inputs) - constant) == 1:
            levels.update(dict.fromkeys((*op.outputs, op), first))
        for i in op.inputs:
            readers.setdefault(i, []).append(levels[op])


def _cycles(ops: list[Op], pairs: Pairs) -> dict[Any, int]:
    """The cycle on which an op, or a carry entry by its bit, lies: a set of entries, as bits."""
    bits = [1 << i for i in range(len(pairs))]
    entry = {a: bit for (a, _), bit in zip(pairs, bits, strict=True)}
    reads: dict[Any, int] = dict(entry)  # value -> entries that it is computed from within the step
    for op in ops:
        mask = functools.reduce(int.__or__, (reads.get(i, 0) for i in op.inputs), 0)
        reads.update(dict.fromkeys((*op.outputs, op), mask))
    feeds: dict[Any, int] = {}  # value -> entries that are computed from it within the step
    for (_, b), bit in zip(pairs, bits, strict=True):
        feeds[b] = feeds.get(b, 0) | bit
    for op in reversed(ops):
        mask = functools.reduce(int.__or__, (feeds.get(o, 0) for o in op.outputs), 0)
        feeds[op] = mask
        for i in op.inputs:
            feeds[i] = feeds.get(i, 0) | mask
    past = [reads.get(b, 0) for _, b in pairs]  # entries that an entry depends on, then transitively
    for k, bit in enumerate(bits):
        past = [p | past[k] if p & bit else p for p in past]
    future = [sum(b for b, p in zip(bits, past, strict=True) if p & bit) for bit in bits]

    def closed(mask: int, step: list[int]) -> int:
        return functools.reduce(int.__or__, (s for b, s in zip(bits, step, strict=True) if mask & b), mask)

    cycles = {op: closed(reads[op], past) & closed(feeds[op], future) for op in ops}
    return cycles | {bit: bit | (past[i] & future[i]) for i, bit in enumerate(bits)}


def _stage(
    program: Program,
    inside: list[Op],
    copied: list[Op],
    loop: Pairs,
    used: set[int],
    constant: set[int],
) -> Stage:
    ops = live([*copied, *inside], [o for op in inside for o in op.outputs] + [b for _, b in loop])
    ops = joined(ops, program.types)
    made = {o for op in ops for o in op.outputs} | {a for a, _ in loop}
    read = dict.fromkeys([i for op in ops for i in op.inputs] + [b for _, b in loop])
    outer = [i for i in read if i not in made]
    emitted = sorted((made & used) - constant)
    held = tuple(i for i in outer if i in constant)
    given = tuple(i for i in outer if i not in constant)
    ends = {*emitted, *(b for _, b in loop)}
    cuts = _cuts(program, ops, held, ends) if loop else ()
    return Stage(tuple(ops), held, given, loop, tuple(emitted), cuts)


def _cuts(program: Program, ops: list[Op], constants: Iterable[int], ends: set[int]) -> tuple[Cut, ...]:
    """Where to take the weights out: behind the ops in which they meet what changes from step to step.

    Sums and changes of shape behind such an op are linear, so that several of them share one cut, and slices
    of a value are cut in its place if they are no larger than it.
    """

    def inexact(value: int) -> bool:
        return bool(jnp.issubdtype(program.types[value].dtype, jnp.inexact))

    readers: dict[int, list[Op]] = {}
    for op in ops:
        for i in op.inputs:
            readers.setdefault(i, []).append(op)

    def passes(value: int) -> bool:
        if value in ends or not all(op.linear for op in readers[value]):
            return False
        parts = [o for op in readers[value] for o in op.outputs]
        return len(readers[value]) == 1 or size_of(parts, program) <= size_of([value], program)

    fixed = set(constants)
    weights = {c for c in fixed if inexact(c)}
    through: dict[int, list[Op]] = {}  # value -> ops that bring weights into it and are not cut off yet
    cuts: list[Cut] = []
    for op in ops:
        if fixed.issuperset(op.inputs):
            fixed.update(op.outputs)
            weights.update(o for o in op.outputs if inexact(o) and weights.intersection(op.inputs))
            continue
        met = bool(weights.intersection(op.inputs))
        brought: list[Op] = []
        for i in [i for i in op.inputs if i in through]:
            if passes(i):
                brought += through[i]
            else:
                cuts.append(_cut(i, through.pop(i), ops, fixed))
        if met or brought:
            through.update({o: [*brought, op] for o in op.outputs if inexact(o)})
    return (*cuts, *(_cut(v, inner, ops, fixed) for v, inner in through.items() if v in ends))


def _cut(value: int, inner: list[Op], ops: list[Op], fixed: set[int]) -> Cut:
    copies = [op for op in ops if fixed.issuperset(op.outputs)]
    chain = live(dict.fromkeys([*copies, *inner]), [value])
    made = {o for op in chain for o in op.outputs}
    recorded: set[int] = set()
    summands: set[int] = set()
    for op in chain:
        loose = set(op.inputs) - made - fixed
        (summands if op.linear else recorded).update(loose)
    held = {i for op in chain for i in op.inputs} & fixed - made
    summands -= recorded
    return Cut(value, tuple(chain), *(tuple(sorted(found)) for found in (held, recorded, summands)))
