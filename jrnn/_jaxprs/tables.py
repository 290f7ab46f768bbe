"""Products with rows of a table: `(table @ w)[i]` in place of `table[i] @ w`."""

import dataclasses
import functools
from typing import Any

from jax import lax
from jax.core import ShapedArray

from jrnn._alignment import sharded_axes
from jrnn._caching import cached
from jrnn._jaxprs.programs import Op, Program, Values, element_count, split_constant


@cached  # all that follows is cached by the program
def with_tables_multiplied(program: Program, constant: Values, steps: int, excluded: Values = ()) -> Program:
    """A program in which rows of constant tables are looked up after products with constant weights.

        e = gather(table, i)               p = dot_general(table, w)    (rows of the table, n)
        z = dot_general(e, w)      ->      z = gather(p, i)

    That is done where the table has no more rows than are looked up in `steps` runs of the program, so that
    computing p once costs no more than all the products in its place. In the gradient, those with the
    adjoints of all rows that were looked up become products with their sums, one for each row of the table.

    Args:
      program: the program.
      constant: values that are the same in all runs.
      steps: number of runs.
      excluded: products that stay as they are.
    """
    gathers = {op.outputs[0]: op for op in program.ops if op.primitive == "gather"}
    if not gathers:
        return program
    types, ops = dict(program.types), list[Op]()
    _, _, known = split_constant(program.ops, constant)
    for op in program.ops:
        gather = gathers.get(op.inputs[0]) if op.matmul and op.outputs[0] not in excluded else None
        if gather is None or not _pays(gather, op, program, known, steps):
            ops.append(op)
            continue
        table, weight = gather.operands[0], op.operands[1]
        product, rows, columns = len(types), types[table].shape[0], types[weight].shape[1]
        types[product] = ShapedArray((rows, columns), types[op.outputs[0]].dtype)
        kept = {name: op.params[name] for name in ("precision", "preferred_element_type")}
        multiply = functools.partial(lax.dot_general, dimension_numbers=(((1,), (0,)), ((), ())), **kept)
        look_up = functools.partial(lax.gather, **gather.params | {"slice_sizes": (1, columns)})
        ops.append(_op(op, multiply, (table, weight), product))
        lookup = _op(gather, look_up, (product, gather.operands[1]), op.outputs[0])
        # In a loop it reads a matrix in the cache; before it, the rows of all steps would be written.
        ops.append(dataclasses.replace(lookup, fusible=True))
    return dataclasses.replace(program, ops=tuple(ops), types=types)


def _pays(gather: Op, product: Op, program: Program, constant: set[int], steps: int) -> bool:
    """True if a product may be taken before a lookup, and should be."""
    operands = gather.operands[0], product.operands[1]  # table, weight
    if not constant.issuperset(operands) or product.operands[0] != gather.outputs[0]:
        return False
    table, weight = (program.types[value] for value in operands)
    rows = program.types[gather.outputs[0]].shape[:-1]
    numbers = gather.params["dimension_numbers"]
    of_rows = (
        table.ndim == weight.ndim == 2
        and gather.params["slice_sizes"] == (1, table.shape[1])
        and numbers.collapsed_slice_dims == numbers.start_index_map == (0,)
        and numbers.offset_dims == (len(rows),)
        and product.params["dimension_numbers"] == (((len(rows),), (0,)), ((), ()))
    )
    if not of_rows or any(map(sharded_axes, (table, weight, program.types[product.outputs[0]]))):
        return False
    return bool(table.shape[0] <= steps * element_count(rows))


def _op(like: Op, function: Any, inputs: tuple[int, int], output: int) -> Op:
    """An op of two operands, of the kind of another."""
    return dataclasses.replace(
        like, fun=lambda *arrays: [function(*arrays)], inputs=inputs, outputs=(output,), operands=inputs
    )
