"""Learning signals: the derivative of the loss by each number of the state after a step.

Of the numbers of one recurrence the others are held constant, so that a path c → h → y counts for h alone.
What lies behind other recurrences of the step, such as layers above, is differentiated through.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn._jaxprs.programs import Program, dce, eval_ops, inputs_of, is_inexact, read, trace
from jrnn._states import float_state, state_of, unravel
from jrnn.cell import carry_spec
from jrnn.online._patterns import sources
from jrnn.online._rows import Row, unmasked, where_valid, whole_step
from jrnn.online.moments import Moment, require_forward


class Outputs(NamedTuple):
    """A traced step of one row, in which the state after it can be replaced."""

    program: Program
    closed_over: list[Any]
    tree: Any  # of (carry, y)
    state: Any  # the floats of the carry, as types
    values: list[int]  # that are their leaves
    ys: tuple[int, ...]


def outputs_of(moment: Moment, theta: Any, v: Any, row: Row) -> Outputs:
    """Trace a step without masks, behind which y would not read the state that is returned."""
    function = whole_step(moment.cell, moment.shape)
    program, closed_over, result = trace(function, theta, v, row)
    carry, y = result
    places = jax.tree.unflatten(jax.tree.structure(carry), range(len(jax.tree.leaves(carry))))
    spec = carry_spec(moment.cell, row.params, moment.shape)
    own = jax.tree.leaves(state_of(spec, places))
    leaves = jax.tree.leaves(carry)
    values = [program.outputs[n] for n in own if is_inexact(leaves[n])]
    state = float_state(spec, carry)
    ys = program.outputs[len(leaves) :]
    return Outputs(program, closed_over, jax.tree.structure(y), state, values, ys)


def recurrences(moment: Moment, outputs: Outputs) -> list[list[int]]:
    """The leaves of the state that depend on each other, as places in `outputs.values`."""
    from scipy.sparse.csgraph import connected_components

    _, v, row = moment.types()
    derivative = require_forward("EProp", moment, moment.derivative(v, unmasked(row)))
    size = v.shape[0]
    found = sources(derivative.program, derivative.program.inputs[-1], size, {}).get(
        derivative.program.outputs[0]
    )
    jacobian = np.zeros((size, size), bool) if found is None else found.table[found.rows]
    owner = owners(outputs)
    count = len(outputs.values)
    meets = np.zeros((count, count), bool)
    np.logical_or.at(meets, (owner[:, None], owner[None]), jacobian)
    _, labels = connected_components(meets, directed=True, connection="strong")
    return [np.flatnonzero(labels == label).tolist() for label in dict.fromkeys(labels.tolist())]


def owners(outputs: Outputs) -> Any:
    """The leaf of each number of the state."""
    counts = [
        int(np.prod(leaf.shape)) * (2 if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else 1)
        for leaf in jax.tree.leaves(outputs.state)
    ]
    return np.repeat(np.arange(len(counts)), counts)


def read_leaves(outputs: Outputs, group: list[int]) -> list[int]:
    """The leaves of a recurrence that y depends on, directly or through other recurrences."""
    known = {outputs.values[n] for n in group}
    wanted = {*inputs_of(dce(outputs.program.ops, outputs.ys, known)), *outputs.ys}
    return [n for n in group if outputs.values[n] in wanted]


def signals(moment: Moment) -> Array:
    """The derivative of the loss by each number of the state after the step, (rows..., D)."""
    after = moment.each(lambda v, row: moment.state_step(moment.theta, v, row))
    theta, v, row = moment.types()
    outputs = outputs_of(moment, theta, v, unmasked(row))
    owner, total = owners(outputs), jnp.zeros_like(after)
    for group in recurrences(moment, outputs):
        step = _with_state(moment, group)

        def loss(given: Array, step: Callable[..., Any] = step) -> Array:
            return moment.loss(moment.each(step, given))

        total = jnp.where(np.isin(owner, group), jax.grad(loss)(after), total)
    return total


def errors(moment: Moment) -> Array:
    """The derivative of the loss by the floats of y, (rows..., K)."""
    step = whole_step(moment.cell, moment.shape)
    y = moment.each(lambda v, row: step(moment.theta, v, row)[1])
    leaves, tree = jax.tree.flatten(y)
    places = [n for n, leaf in enumerate(leaves) if is_inexact(leaf)]

    def loss(given: list[Array]) -> Array:
        changed = list(leaves)
        for n, leaf in zip(places, given, strict=True):
            changed[n] = leaf
        return moment.loss(jax.tree.unflatten(tree, changed))

    lead = moment.v.shape[:-1]
    found = jax.grad(loss)([leaves[n] for n in places])
    return jnp.concatenate([leaf.reshape(*lead, -1) for leaf in found], -1)


def _with_state(moment: Moment, group: list[int]) -> Callable[[Array, Row, Array], Any]:
    """The outputs of a row's step with the leaves of one recurrence after it replaced."""

    def step(v: Array, row: Row, given: Array) -> Any:
        plain = unmasked(row)
        outputs = outputs_of(moment, moment.theta, v, plain)
        program = outputs.program
        arrays = [*outputs.closed_over, *jax.tree.leaves((moment.theta, v, plain))]
        env = program.literals | dict(zip(program.inputs, arrays, strict=True))
        leaves = jax.tree.leaves(unravel(given, outputs.state))
        chosen = {outputs.values[n]: leaves[n] for n in group}
        for op in program.ops:
            eval_ops([op], env)
            env.update({o: chosen[o] for o in op.outputs if o in chosen})
        return jax.tree.unflatten(outputs.tree, read(env, outputs.ys))

    return step
