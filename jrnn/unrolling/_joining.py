"""Sums of two matmuls as one, in loops that are not differentiated.

    x W + h U = [x h] [W; U]

The right side is computed on a CPU where it is large: measured, it is then mostly faster. In a gradient it
costs more than it spares: there the two stay apart.
"""

import dataclasses
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jrnn._alignment import sharded_axes
from jrnn._caching import cached
from jrnn._jaxprs.programs import Op, Program, dce, element_count, inputs_of
from jrnn.unrolling._staging import Stage

_LEAST = 2**22  # multiplications of a joined matmul; below, the two sizes measured were slower
_STEPS = 16  # that pay for joining the weights, a copy of them


class JoinedStage(NamedTuple):
    """A stage with joined matmuls, whose `consts` end with the joined weights."""

    stage: Stage
    places: tuple[tuple[int, int], ...]  # of the two weights of each, among the constants

    def consts(self, consts: tuple[Any, ...]) -> tuple[Any, ...]:
        """Append the joined weights to the constants of the stage as it was."""
        arrays = list(consts)
        for above, below in self.places:
            arrays.append(jnp.concatenate([arrays[above], arrays[below]]))
        return tuple(arrays)


@cached
def join_matmuls(stage: Stage, program: Program, length: int) -> JoinedStage:
    """Join each two matmuls whose results are only added to one another, if that is faster."""
    if jax.default_backend() != "cpu" or element_count((length,)) < _STEPS:
        return JoinedStage(stage, ())
    uses = Counter([*inputs_of(stage.ops), *stage.ys, *stage.carry_out])
    matmuls = {op.outputs[0]: op for op in stage.ops if _multiplies_rows(op, stage, program)}
    consts, places, ops = list(stage.consts), list[tuple[int, int]](), list[Op]()
    for op in stage.ops:
        terms = [matmuls[v] for v in op.inputs if v in matmuls and uses[v] == 1]
        if op.primitive in ("add", "add_any") and len(terms) == 2 and _pays(program, *terms):
            weight = len(program.types) + len(places)  # a new number
            places.append((consts.index(terms[0].operands[1]), consts.index(terms[1].operands[1])))
            consts.append(weight)
            op = _joined(weight, op, *terms)
        ops.append(op)
    alive = dce(ops, [*stage.ys, *stage.carry_out], [*consts, *stage.carry_in, *stage.xs])
    return JoinedStage(dataclasses.replace(stage, ops=tuple(alive), consts=tuple(consts)), tuple(places))


def _multiplies_rows(op: Op, stage: Stage, program: Program) -> bool:
    """True for (rows..., n) by (n, m), with a constant matrix and rows that change from step to step."""
    if not op.matmul or op.operands[1] not in stage.consts or op.operands[0] in stage.consts:
        return False
    rows, weight = (program.types[value] for value in op.operands)
    numbers = (((rows.ndim - 1,), (0,)), ((), ()))
    sharded = any(map(sharded_axes, (rows, weight, program.types[op.outputs[0]])))
    return weight.ndim == 2 and op.params["dimension_numbers"] == numbers and not sharded


def _pays(program: Program, one: Op, other: Op) -> bool:
    """True for two matmuls of the same kind that are large together."""
    (a, w), (b, u) = ([program.types[value] for value in op.operands] for op in (one, other))
    alike = a.shape[:-1] == b.shape[:-1] and len({a.dtype, b.dtype, w.dtype, u.dtype}) == 1
    size = element_count(a.shape[:-1]) * element_count((w.shape[0] + u.shape[0], w.shape[1]))
    return alike and one.params == other.params and size >= _LEAST


def _joined(weight: int, total: Op, one: Op, other: Op) -> Op:
    """The op that computes the sum of two matmuls as one."""
    inputs = one.operands[0], other.operands[0], weight

    def multiply(a: Array, b: Array, joined: Array) -> list[Array]:
        return [lax.dot_general(jnp.concatenate([a, b], -1), joined, **one.params)]

    return dataclasses.replace(one, fun=multiply, inputs=inputs, outputs=total.outputs, operands=inputs)
