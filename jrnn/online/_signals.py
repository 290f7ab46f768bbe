"""Learning signals: the derivative of the loss by each number of the state after a step, and before it.

Of the numbers of one recurrence the others are held constant, so that a path c → h → y counts for h alone.
What lies behind other recurrences of the step, such as layers above, is differentiated through. Outputs may
read the state before the step past that after it, as in (c, x) -> ((1 − o) m, o m): that counts too.

A state and outputs may be copies of one value, as in h, y = a.reshape(2, 2), a. So a number of the state is
found by the value that it is a copy of.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jrnn._jaxprs.programs import Op, Program, dce, eval_ops, inputs_of, is_inexact, read, trace
from jrnn._states import float_state, state_of, unravel
from jrnn.cell import carry_spec
from jrnn.online._patterns import Booleans, sources
from jrnn.online._rows import Row, unmasked, where_valid, whole_step
from jrnn.online.moments import Moment, require_forward

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
    before: int  # the value that is the state before the step
    copied: list[Copied]
    ys: tuple[int, ...]


class Reading(NamedTuple):
    """The part of one recurrence that outputs read."""

    group: list[int]  # its leaves of the state
    after: set[int]  # those that y depends on after the step, directly or through other recurrences
    before: Booleans  # (D,), numbers of them that it depends on past these


def outputs_of(moment: Moment, theta: Any, v: Any, row: Row) -> Outputs:
    """Trace a step without masks, behind which y would not read the state that is returned."""
    function = whole_step(moment.cell, moment.shape)
    program, closed_over, (carry, y) = trace(function, theta, v, row)
    places = jax.tree.unflatten(jax.tree.structure(carry), range(len(jax.tree.leaves(carry))))
    spec = carry_spec(moment.cell, row.params, moment.shape)
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
    return Outputs(program, closed_over, jax.tree.structure(y), float_state(spec, carry), before, copied, ys)


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


def recurrences(moment: Moment, outputs: Outputs) -> list[list[int]]:
    """The leaves of the state that depend on each other, as places in `outputs.state`."""
    from scipy.sparse.csgraph import connected_components

    _, v, row = moment.types()
    derivative = require_forward("EProp", moment, moment.derivative(v, unmasked(row)))
    size = v.shape[0]
    found = sources(derivative.program, derivative.program.inputs[-1], size, {}).get(
        derivative.program.outputs[0]
    )
    jacobian = np.zeros((size, size), bool) if found is None else found.table[found.rows]
    owner = owners(outputs)
    count = len(jax.tree.leaves(outputs.state))
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


def readings(moment: Moment) -> tuple[Outputs, list[Reading]]:
    """The step, and what its outputs read of each recurrence."""
    theta, v, row = moment.types()
    outputs = outputs_of(moment, theta, v, row)
    program, owner = outputs.program, owners(outputs)
    found = []
    for group in recurrences(moment, outputs):
        own = [c for c in outputs.copied if c.leaf in group]
        ops = dce(program.ops, outputs.ys, {c.value for c in own})
        wanted = {*inputs_of(ops), *outputs.ys}
        after = {c.leaf for c in own if c.first and c.value in wanted}
        before = np.zeros(len(owner), bool)
        if all(c.value != outputs.before for c in own):
            known = sources(replace(program, ops=tuple(ops)), outputs.before, len(owner), {})
            for y in set(outputs.ys).intersection(known):
                before |= known[y].table[known[y].rows.ravel()].any(0)
        found.append(Reading(group, after, before & np.isin(owner, group)))
    return outputs, found


def signals(moment: Moment) -> tuple[Array, Array | None]:
    """The derivatives of the loss by each number of the state after the step and before it, (rows..., D).

    None: outputs read nothing of the state before the step past that after it.
    """
    outputs, found = readings(moment)
    owner, total = owners(outputs), [jnp.zeros_like(moment.v)] * 2
    for reading in found:
        step = _with_state(moment, reading.group)

        def loss(added: Array, v: Array, step: Callable[..., Any] = step) -> Array:
            return moment.loss(moment.at(v, moment.row).each(step, added))

        if reading.before.any():
            slopes = jax.grad(loss, (0, 1))(jnp.zeros_like(moment.v), moment.v)
        elif reading.after:
            slopes = (jax.grad(loss)(jnp.zeros_like(moment.v), moment.v),)
        else:
            continue
        own = np.isin(owner, reading.group)
        total[: len(slopes)] = [jnp.where(own, a, b) for a, b in zip(slopes, total, strict=False)]
    after, before = (_of_valid(moment, leaf) for leaf in total)
    return after, before if any(reading.before.any() for reading in found) else None


def _of_valid(moment: Moment, rows: Array) -> Array:
    valid = moment.row.flags.valid
    return rows if valid is None else jnp.where(valid[..., None], rows, 0)


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
    return _of_valid(moment, jnp.concatenate([leaf.reshape(*lead, -1) for leaf in found], -1))


def _with_state(moment: Moment, group: list[int]) -> Callable[[Array, Row, Array], Any]:
    """The outputs of a row's step, with the leaves of one recurrence after it constant, but for an addend."""

    def step(v: Array, row: Row, added: Array) -> Any:
        plain = unmasked(row)
        outputs = outputs_of(moment, moment.theta, v, plain)
        program = outputs.program
        arrays = [*outputs.closed_over, *jax.tree.leaves((moment.theta, v, plain))]
        env = program.literals | dict(zip(program.inputs, arrays, strict=True))
        leaves = jax.tree.leaves(unravel(added, outputs.state))
        own = [c for c in outputs.copied if c.leaf in group]
        addends = {c.value: c.back(leaves[c.leaf]) for c in own if c.first}

        def hold(values: Any) -> None:
            for value in {c.value for c in own}.intersection(values):
                env[value] = lax.stop_gradient(env[value])
                if value in addends:
                    env[value] += addends[value]

        hold(program.inputs)
        for op in program.ops:
            eval_ops([op], env)
            hold(op.outputs)
        y = jax.tree.unflatten(outputs.tree, read(env, outputs.ys))
        return where_valid(row.flags.valid, y, jax.tree.map(jnp.zeros_like, y))

    return step
