"""What the backward pass keeps of a step: the fewest bytes that spare it what is costly to repeat."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from jrnn._caching import cached
from jrnn._jaxprs import Op, Program
from jrnn.unrolling._planning import entries, live, size_of, spreads

UNBOUNDED = 2**30


@dataclass(frozen=True, eq=False)
class Split:
    """A step and its derivative, in two parts: the first hands the second what it keeps."""

    forward: tuple[Op, ...]
    kept: tuple[int, ...]  # what the first part hands out at every step for the second, besides its results
    reads: tuple[int, ...]  # what the second part reads of each step: inputs, results and what is kept
    tangents: tuple[int, ...]  # its inputs
    once: tuple[Op, ...]  # ops of constants, before the second part
    held: tuple[int, ...]  # constants of the second part
    turned: frozenset[int]  # matrices among them that it multiplies more than one row with
    linear: tuple[Op, ...]


@cached
def split(program: Program, constants: int, carried: int, given: int, primal: int) -> Split:
    """Take the derivative of a step apart from the step.

    Args:
      program: a step and its tangents, inputs (constants, carry, per-step values, tangents), outputs
        (carry, per-step values, tangents).
      constants: how many of its inputs are constants.
      carried: how many are the carry.
      given: how many are per-step values; the rest are tangents.
      primal: how many of its outputs are not tangents.
    """
    fixed = {*program.inputs[:constants], *program.known}
    carry, rest = program.inputs[constants : constants + carried], program.inputs[constants + carried :]
    free, moving = rest[:given], rest[given:]
    tangents = set(moving)
    ops: dict[str, list[Op]] = {"fixed": [], "forward": [], "linear": []}
    for op in program.ops:
        if tangents.intersection(op.inputs):
            ops["linear"].append(op)
            tangents.update(op.outputs)
        elif fixed.issuperset(op.inputs):
            ops["fixed"].append(op)
            fixed.update(op.outputs)
        else:
            ops["forward"].append(op)
    results = program.outputs[primal:]
    moved = live(ops["linear"], results)
    read = {i for op in moved for i in op.inputs} | set(results)
    needed = read - tangents - fixed
    stacked = program.outputs[carried:primal]
    kept = _cheapest(program, ops["forward"], carry, needed - set(free), set(stacked))
    again = live([op for op in ops["forward"] if not kept.issuperset(op.outputs)], needed, known=kept)
    repeated = [op for op in ops["fixed"] if spreads(op, program)]
    inside = live([*repeated, *again, *moved], [*results])
    made = {o for op in inside for o in op.outputs}.union(program.known, moving)
    reads = dict.fromkeys(i for i in [*(i for op in inside for i in op.inputs), *results] if i not in made)
    held = tuple(i for i in reads if i in fixed)
    products = [op for op in moved if op.product and _rows(program, op.outputs[0]) > 1]
    turned = {i for op in products for i in op.inputs if i in held and len(program.types[i].shape) == 2}
    return Split(
        forward=tuple(live([*ops["fixed"], *ops["forward"]], [*program.outputs[:primal], *kept])),
        kept=tuple(sorted(kept.difference(stacked))),
        reads=tuple(i for i in reads if i not in fixed),
        tangents=moving,
        once=tuple(live(ops["fixed"], held)),
        held=held,
        turned=frozenset(turned),
        linear=tuple(inside),
    )


def _rows(program: Program, value: int) -> int:
    return entries(program.types[value].shape[:-1])


def _cheapest(
    program: Program, ops: list[Op], carry: Iterable[int], needed: set[int], stacked: set[int]
) -> set[int]:
    """The values to keep: the cheapest set on every way from the carry and from costly ops to `needed`.

    By the theorem of Ford and Fulkerson that is a minimum cut in the graph of the values, each of
    them split in an entry and an exit with its size as the capacity between them.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    values = [*carry, *(o for op in ops for o in op.outputs)]
    place = {value: 2 + 2 * i for i, value in enumerate(values)}  # entry; exit = entry + 1
    source, sink = 0, 1
    edges = {(source, place[c]): UNBOUNDED for c in carry}
    sizes = {v: size_of([v], program) for v in values}
    unit = 1 + sum(sizes.values()) // (UNBOUNDED // 4)
    for v, entry in place.items():
        edges[entry, entry + 1] = 1 if v in stacked else 2 + sizes[v] // unit
    for op in ops:
        for o in op.outputs:
            if not op.quick:
                edges[source, place[o]] = UNBOUNDED
                continue
            edges.update({(place[i] + 1, place[o]): UNBOUNDED for i in op.inputs if i in place})
    edges.update({(place[v] + 1, sink): UNBOUNDED for v in needed})
    rows, columns = np.array(list(edges)).T
    shape = (2 + 2 * len(values),) * 2
    capacity = csr_array((np.array(list(edges.values()), np.int32), (rows, columns)), shape)
    flow = maximum_flow(capacity, source, sink).flow
    left = (capacity - flow).T.tocsr()
    left.data = (left.data > 0).astype(np.int32)
    left.eliminate_zeros()
    late = set(breadth_first_order(left, sink, return_predecessors=False).tolist())
    return {v for v, entry in place.items() if entry not in late and entry + 1 in late}
