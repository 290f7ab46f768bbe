"""Hoisting for loops other than `unroll`: what depends only on parameters is computed before the loop."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._alignment import same_type
from jrnn._jaxprs.programs import Env, dce, enlarges, eval_ops, free_values, read, split_constant, trace
from jrnn._jaxprs.tables import with_tables_multiplied
from jrnn.cell import Shape, in_ndim, structure_of
from jrnn.unrolling._staging import StepSignature
from jrnn.unrolling.methods import LoopConsts, StepInputs, body_of


@dataclass(frozen=True, eq=False)
class HoistedCell:
    """A cell with fixed parameters: its steps do not recompute what depends only on them.

    With other parameters, or types that it was not traced for, it takes the step of the cell.
    """

    cell: Any
    params: Any
    types: Any  # of (carry, x)
    hoisted_step: Callable[[Any, Any], tuple[Any, Any]]  # (carry, x) -> (carry, y)

    @property
    def out_features(self) -> int:
        return int(self.cell.out_features)

    @property
    def in_ndim(self) -> int:
        return in_ndim(self.cell)

    def init(self, key: Array, in_features: int) -> Any:
        return self.cell.init(key, in_features)

    def initial_carry(self, params: Any, batch_shape: Shape = (), *, key: Array | None = None) -> Any:
        return self.cell.initial_carry(params, batch_shape, key=key)

    def step(self, params: Any, carry: Any, x: Any) -> tuple[Any, Any]:
        if _all(lambda a, b: a is b, params, self.params) and _all(_fits, (carry, x), self.types):
            return self.hoisted_step(carry, x)
        result: tuple[Any, Any] = self.cell.step(params, carry, x)
        return result


def hoisted(cell: Any, params: Any, carry: Any, x: Any, steps: int = 0) -> Any:
    """Run what a step computes from parameters alone, and return a cell with the results.

        cell = hoisted(cell, params, carry, x)               before a loop: normalizes a weight, say
        carry, y = cell.step(params, carry, x)               in the loop: reads it

    XLA hoists such operations too, but not if their results are larger than their inputs, nor out of a
    branch. A step with effects (prints, callbacks) is not changed.

    Args:
      cell: the cell.
      params: its parameters, arrays.
      carry: the carry of a step, or its types.
      x: the input of a step, or its types.
      steps: number of steps of the loop; with enough of them the product of a weight with looked-up rows
        becomes a lookup in the product with the whole table.
    """
    consts, inputs = LoopConsts(params, None), StepInputs(x, None, None)
    program, closed_over, result_types = trace(body_of(cell), consts, carry, inputs)
    if not program.pure:
        return cell
    arrays = [*closed_over, *jax.tree.leaves(consts)]
    n_carry, n_xs = len(jax.tree.leaves(carry)), len(jax.tree.leaves(x))
    signature = StepSignature.of(program, len(arrays), n_carry, n_xs, len(program.outputs) - n_carry)
    # The carry and x are not constant, even if the step returns them unchanged: a loop may change them.
    constants = (*signature.consts, *program.literals)
    program = with_tables_multiplied(program, constants, steps)
    constant_ops, varying_ops, constant = split_constant(program.ops, constants)
    broadcasts = [op for op in constant_ops if enlarges(op, program)]
    ops = dce([*broadcasts, *varying_ops], program.outputs)
    # The constants that the remaining ops read; those not computed in the step must be computed now.
    needed = constant.intersection(free_values(ops, program.outputs, bound=()))
    env: Env = program.literals | dict(zip(signature.consts, arrays, strict=True))
    eval_ops(dce(constant_ops, needed), env)
    consts_env = {value: env[value] for value in needed}

    def step(carry: Any, x: Any) -> tuple[Any, Any]:
        varying_inputs = zip((*signature.carry_in, *signature.xs), jax.tree.leaves((carry, x)), strict=True)
        env = consts_env | dict(varying_inputs)
        eval_ops(ops, env)
        leaves = read(env, program.outputs)
        pair: tuple[Any, Any] = jax.tree.unflatten(jax.tree.structure(result_types), leaves)
        return pair

    types = read(program.types, (*signature.carry_in, *signature.xs))
    return HoistedCell(cell, params, jax.tree.unflatten(jax.tree.structure((carry, x)), types), step)


def types_of_step(xs: Any) -> Any:
    """The types of one step of time-first inputs, for `hoisted`."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)


def _all(holds: Callable[[Any, Any], bool], tree: Any, other: Any) -> bool:
    """True if two trees have the same structure, and `holds` is True for every pair of leaves."""
    if structure_of(tree) != structure_of(other):
        return False
    return all(map(holds, jax.tree.leaves(tree), jax.tree.leaves(other)))


def _fits(leaf: Any, type_: Any) -> bool:
    return jnp.shape(leaf) == type_.shape and same_type(jax.typeof(leaf), type_)
