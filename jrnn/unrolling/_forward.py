"""Loops that are not differentiated, rewritten for a CPU that is one device.

    a = x W;  a[:n], a[n:] are read    a of all steps before the loop, whose inputs are the two parts
    x W + h U = [x h] [W; U]           one matmul in place of two, where it is large

XLA reads a whole row of a at each step fast, but does not vectorize a loop that reads it in parts. A loop
that is differentiated stays as it is: there the first stores more than it spares, and the second costs more.
So does one under `vmap`: the parts of many loops may need much memory, and [x h] repeats what they share.
"""

import dataclasses
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jrnn._alignment import sharded_axes
from jrnn._caching import cached
from jrnn._jaxprs.programs import (
    Op,
    Program,
    dce,
    element_count,
    enlarges,
    eval_ops,
    inputs_of,
    outputs_of,
    read,
    size_in_bytes,
    split_constant,
)
from jrnn.unrolling._staging import Stage, make_stage, sliced_values, taken_apart

_LEAST = 2**22  # multiplications of a joined matmul, from sizes on two cores
_READS = 512  # rows of all steps; with less, joining the weights, a copy of them, was slower
_MOST = 10_000_000  # bytes of parts of all steps; with more, page faults may cost more than is gained
_PARTS = 16  # read by the loop; more, as if each feature is read by itself, would make large programs
_NOTHING = Stage((), (), (), (), ())  # no ops before the loop


class ForwardLoop(NamedTuple):
    """A stage as it runs without a derivative: ops for all steps at once, and a loop."""

    before: Stage  # without a carry
    loop: Stage  # `consts` end with the joined weights
    weights: tuple[tuple[int, int], ...]  # the two of each joined weight, among the constants of the stage

    def inputs(self, stage: Stage, consts: Any, xs: Any, length: int) -> tuple[Any, Any]:
        """Constants and xs of the loop, from those of the stage."""
        env = dict(zip((*stage.consts, *stage.xs), (*consts, *xs), strict=True))
        if self.before.ys:
            given = read(env, self.before.consts), read(env, self.before.xs)
            ys = jax.vmap(self._step, in_axes=(None, 0), axis_size=length)(*given)
            env.update(zip(self.before.ys, ys, strict=True))
        joined = [jnp.concatenate(read(env, pair)) for pair in self.weights]
        own = self.loop.consts[: len(self.loop.consts) - len(joined)]
        return (*read(env, own), *joined), read(env, self.loop.xs)

    def _step(self, consts: Any, xs: Any) -> Any:
        env = dict(zip((*self.before.consts, *self.before.xs), (*consts, *xs), strict=True))
        eval_ops(self.before.ops, env)
        return read(env, self.before.ys)


def on_one_cpu() -> bool:
    """True if there is no other device; with cores as devices, none is left over to share a matmul."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


@cached
def forward_loop(stage: Stage, program: Program, length: int) -> ForwardLoop | None:
    """A stage with a carry as it is fastest without a derivative; None: as it is."""
    values = {*inputs_of(stage.ops), *outputs_of(stage.ops)}
    shapes = [(length,), *(program.types[value].shape for value in values)]
    if not all(isinstance(n, int) for shape in shapes for n in shape):
        return None  # of unknown size, as symbolic ones are, parts may need any memory
    before, loop = _parts_before_loop(stage, program)
    if len(before.ys) > _PARTS or length * size_in_bytes(before.ys, program) > _MOST:
        before, loop = _NOTHING, stage
    loop, weights = _with_joined_matmuls(loop, program, length)
    return ForwardLoop(before, loop, weights) if before.ys or weights else None


def _parts_before_loop(stage: Stage, program: Program) -> tuple[Stage, Stage]:
    """Split a stage in two: what comes before the loop, and the loop.

    Before it: matmuls of xs that are read in parts, and these parts; those of xs themselves, too.
    """
    constant_ops, varying_ops, constant = split_constant(stage.ops, stage.consts)
    in_parts = _read_in_parts(varying_ops, program, constant)
    known = in_parts.intersection(stage.xs)  # before the loop, and read in parts
    early, late = list[Op](), list[Op]()
    for op in varying_ops:
        varying = set(op.inputs) - constant
        multiplies = (
            op.matmul and not in_parts.isdisjoint(op.outputs) and _faster_in_parts(op, stage, program)
        )
        adds = op.additive and varying <= known and not enlarges(op, program)  # a bias, or cuts
        if (multiplies or adds) and not set(stage.ys) & set(op.outputs):
            early.append(op)
            known.update(in_parts.intersection(op.outputs))
        else:
            late.append(op)
    made = set(outputs_of(early))
    if not early or any(made & taken_apart(op, program) for op in late):  # not all parts can be taken early
        return _NOTHING, stage
    read_late = {*inputs_of(late), *stage.carry_out}
    before = make_stage(program, constant_ops, early, (), read_late, constant)
    return before, make_stage(program, constant_ops, late, stage.carry_pairs, set(stage.ys), constant)


def _faster_in_parts(op: Op, stage: Stage, program: Program) -> bool:
    """True for x W if it is faster before the loop, from which it is then read in parts.

    Measured: unless its result is far wider than x, or many rows make it large.
    """
    if not _multiplies_rows(op, stage, program) or op.operands[0] not in stage.xs:
        return False
    rows, weight = (program.types[value].shape for value in op.operands)
    few = element_count(rows[:-1]) < 32 or element_count((*rows[:-1], *weight)) < 2**23
    return few and element_count(weight[1:]) <= 16 * element_count(weight[:1])


def _read_in_parts(ops: list[Op], program: Program, constant: set[int]) -> set[int]:
    """Values that are read in slices that can be taken before the loop, and are then read whole.

    a = x W + b, f(a[:n] + u)    x W and a: also sums with constants are taken before the loop
    z = x W + h U, f(z[:n])      neither x W nor z: h U varies within the loop
    g = f(a[:n] + u), g[:m]      not a: the loop would still read a[:n] in parts
    """
    sliced, mixed, cut = sliced_values(ops, program), set[int](), set[int]()
    for op in reversed(ops):
        if op.matmul:
            continue
        parts = taken_apart(op, program)
        is_cut_again = not cut.isdisjoint(op.outputs)
        is_sum = len(set(op.inputs) - constant) > 1 and not sliced.isdisjoint(op.outputs)
        if op.additive and (is_sum or (parts and is_cut_again) or not mixed.isdisjoint(op.outputs)):
            mixed.update(op.inputs)
        cut.update(op.inputs if is_cut_again else parts)
    return sliced - mixed


def _with_joined_matmuls(
    stage: Stage, program: Program, length: int
) -> tuple[Stage, tuple[tuple[int, int], ...]]:
    """Join each two matmuls whose results are only added to one another, if that is faster."""
    uses = Counter([*inputs_of(stage.ops), *stage.ys, *stage.carry_out])
    matmuls = {op.outputs[0]: op for op in stage.ops if _multiplies_rows(op, stage, program)}
    ops, pairs, weights = list[Op](), list[tuple[int, int]](), list[int]()
    for op in stage.ops:
        terms = [matmuls[v] for v in op.inputs if v in matmuls and uses[v] == 1]
        if op.primitive in ("add", "add_any") and len(terms) == 2 and _pays(program, length, *terms):
            weights.append(len(program.types) + len(weights))  # a new number
            pairs.append((terms[0].operands[1], terms[1].operands[1]))
            op = _joined(weights[-1], op, *terms)
        ops.append(op)
    if not pairs:
        return stage, ()
    consts = (*stage.consts, *weights)
    alive = dce(ops, [*stage.ys, *stage.carry_out], [*consts, *stage.carry_in, *stage.xs])
    return dataclasses.replace(stage, ops=tuple(alive), consts=consts), tuple(pairs)


def _multiplies_rows(op: Op, stage: Stage, program: Program) -> bool:
    """True for (rows..., n) by (n, m), with a constant matrix and rows that change from step to step."""
    if not op.matmul or op.operands[1] not in stage.consts or op.operands[0] in stage.consts:
        return False
    rows, weight = (program.types[value] for value in op.operands)
    numbers = (((rows.ndim - 1,), (0,)), ((), ()))
    sharded = any(map(sharded_axes, (rows, weight, program.types[op.outputs[0]])))
    return weight.ndim == 2 and op.params["dimension_numbers"] == numbers and not sharded


def _pays(program: Program, length: int, one: Op, other: Op) -> bool:
    """True for two matmuls of the same kind that are large together, in rows, columns and steps."""
    (a, w), (b, u) = ([program.types[value] for value in op.operands] for op in (one, other))
    alike = a.shape[:-1] == b.shape[:-1] and len({a.dtype, b.dtype, w.dtype, u.dtype}) == 1
    if not alike or one.params != other.params or one.operands[0] == other.operands[0]:
        return False
    rows, height, width = element_count(a.shape[:-1]), w.shape[0] + u.shape[0], w.shape[1]
    # A narrow sum costs less than writing [x h] and reading it again.
    return rows * height * width >= _LEAST and length * rows >= _READS and 2 * width >= height


def _joined(weight: int, total: Op, one: Op, other: Op) -> Op:
    """The op that computes the sum of two matmuls as one."""
    inputs = one.operands[0], other.operands[0], weight

    def multiply(a: Array, b: Array, joined: Array) -> list[Array]:
        return [lax.dot_general(jnp.concatenate([a, b], -1), joined, **one.params)]

    return dataclasses.replace(one, fun=multiply, inputs=inputs, outputs=total.outputs, operands=inputs)
