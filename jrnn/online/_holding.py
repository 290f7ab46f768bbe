"""A step in terms of its new state: what reads a number of the state after the step reads a stand-in for it.

An LSTM has c' = f(h, x) c + i(h, x) g(h, x) and h' = o(h, x) tanh(c'). With a stand-in for c', the derivative
of h' by c is 0 and that by c' is one number for each unit; with one for h', that of y by c' is 0.

A state and outputs may be copies of one value, as in h, y = a.reshape(2, 2), a. So a number of the state is
found by the value that it is a copy of.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jrnn._caching import cached
from jrnn._jaxprs.programs import Env, Op, Program, eval_ops, is_inexact, read, trace
from jrnn._states import float_state, ravel, state_of, unravel
from jrnn.cell import Shape, carry_spec
from jrnn.online._rows import Row, unmasked, whole_step

COPIES = (
    "concatenate",
    "convert_element_type",
    "copy",
    "expand_dims",
    "reshape",
    "rev",
    "squeeze",
    "stack",
    "transpose",
)


class Copied(NamedTuple):
    """A value of the step that numbers of a leaf of the state are copies of."""

    value: int
    leaf: int
    back: Callable[[Array], Array]  # the leaf -> these numbers, in the shape of the value
    first: bool  # no earlier leaf has them


class Outputs(NamedTuple):
    """A traced step of one row, in which the state after it can be replaced."""

    program: Program
    closed_over: list[Any]
    tree: Any  # of y
    state: Any  # the floats of the carry, as types
    leaves: list[int]  # their values after the step
    before: int  # the value that is the state before the step
    copied: list[Copied]
    ys: tuple[int, ...]


def outputs_of(cell: Any, shape: Shape, theta: Any, v: Any, row: Row) -> Outputs:
    """Trace a step without masks, behind which y would not read the state that is returned."""
    program, closed_over, (carry, y) = trace(whole_step(cell, shape), theta, v, row)
    places = jax.tree.unflatten(jax.tree.structure(carry), range(len(jax.tree.leaves(carry))))
    spec = carry_spec(cell, row.params, shape)
    own = jax.tree.leaves(state_of(spec, places))
    leaves = jax.tree.leaves(carry)
    values = [program.outputs[n] for n in own if is_inexact(leaves[n])]
    made = {o: op for op in program.ops for o in op.outputs}
    copied: list[Copied] = []
    for leaf, value in enumerate(values):
        for origin, back in _origins(program, made, value, lambda given: given):
            copied.append(Copied(origin, leaf, back, all(c.value != origin for c in copied)))
    before = program.inputs[len(closed_over) + len(theta)]
    ys = program.outputs[len(leaves) :]
    tree, state = jax.tree.structure(y), float_state(spec, carry)
    return Outputs(program, closed_over, tree, state, values, before, copied, ys)


def _origins(
    program: Program, made: dict[int, Op], value: int, back: Callable[[Array], Array]
) -> Iterator[tuple[int, Callable[[Array], Array]]]:
    """The values that a value is made of by copying alone, with the way back."""
    op = made.get(value)
    if op is None or op.primitive not in COPIES or op.operands != op.inputs:
        yield value, back
        return
    types = [jax.ShapeDtypeStruct(program.types[i].shape, program.types[i].dtype) for i in op.inputs]
    if not all(map(is_inexact, types)):
        yield value, back
        return
    pull = jax.linear_transpose(op.fun, *types)

    def part(n: int, given: Array) -> Array:
        found: Array = pull([back(given)])[n]
        return found

    for n, origin in enumerate(op.inputs):
        yield from _origins(program, made, origin, functools.partial(part, n))


@cached
def held_step(
    cell: Any, batch_shape: Shape, group: frozenset[int] | None = None
) -> Callable[[list[Array], Array, Row, Array], tuple[Array, Any]]:
    """One step of a row in terms of its new state.

    `(theta, v, row, added) -> (v, y)`, with a stand-in for each leaf of the state after it: the same number,
    held constant, plus that of `added`, which is zero. `group`: only for these leaves.
    """

    def step(theta: list[Array], v: Array, row: Row, added: Array) -> tuple[Array, Any]:
        outputs = outputs_of(cell, batch_shape, theta, v, unmasked(row))
        program = outputs.program
        arrays = [*outputs.closed_over, *jax.tree.leaves((theta, v, unmasked(row)))]
        env = program.literals | dict(zip(program.inputs, arrays, strict=True))
        own = [c for c in outputs.copied if group is None or c.leaf in group]
        leaves = jax.tree.leaves(unravel(added, outputs.state))
        addends = {c.value: c.back(leaves[c.leaf]) for c in own if c.first}
        computed: Env = {}  # what stand-ins stand for, and its copies

        def hold(values: Any) -> None:
            for value in {c.value for c in own}.intersection(values):
                computed[value] = env[value]
                env[value] = lax.stop_gradient(env[value])
                if value in addends:
                    env[value] += addends[value]

        hold(program.inputs)
        for op in program.ops:
            eval_ops([op], env)
            if op.primitive in COPIES and not computed.keys().isdisjoint(op.inputs):
                computed.update(zip(op.outputs, op.fun(*read(env | computed, op.inputs)), strict=True))
            hold(op.outputs)
        after = [computed.get(value, env[value]) for value in outputs.leaves]
        state = jax.tree.unflatten(jax.tree.structure(outputs.state), after)
        return ravel(state) if after else v, jax.tree.unflatten(outputs.tree, read(env, outputs.ys))

    return step


@cached
def held_tangent(cell: Any, batch_shape: Shape) -> Callable[..., Array]:
    """The forward derivative of the state of `held_step`, by the state before and after it as one vector."""

    def tangent(theta: list[Array], v: Array, row: Row, theta_dot: list[Array], v_dot: Array) -> Array:
        def step(theta: list[Array], v: Array, added: Array) -> Array:
            return held_step(cell, batch_shape)(theta, v, row, added)[0]

        at = theta, v, jnp.zeros_like(v)
        found: Array = jax.jvp(step, at, (theta_dot, *jnp.split(v_dot, 2)))[1]
        return found

    return tangent
