"""Learning signals: the derivative of the loss by each number of the state after a step, and before it.

Of the numbers of one recurrence the others are held constant, so that a path c → h → y counts for h alone.
What lies behind other recurrences of the step, such as layers above, is differentiated through. Outputs may
read the state before the step past that after it, as in (c, x) -> ((1 − o) m, o m): that counts too.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn._jaxprs.programs import dce, inputs_of, is_inexact
from jrnn._states import ravel
from jrnn.online._holding import Outputs, held_step, outputs_of
from jrnn.online._patterns import Booleans, sources
from jrnn.online._rows import Row, unmasked, where_valid, whole_step
from jrnn.online.moments import Moment, require_forward


class Reading(NamedTuple):
    """The part of a group of leaves of the state that outputs read."""

    group: list[int]
    after: set[int]  # those that y depends on after the step, directly or through other recurrences
    before: Booleans  # (D,), numbers of them that it depends on past these


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
    outputs = outputs_of(moment.cell, moment.shape, *moment.types())
    return outputs, [_reading(outputs, group) for group in recurrences(moment, outputs)]


def _reading(outputs: Outputs, group: list[int]) -> Reading:
    program, owner = outputs.program, owners(outputs)
    own = [c for c in outputs.copied if c.leaf in group]
    ops = dce(program.ops, outputs.ys, {c.value for c in own})
    wanted = {*inputs_of(ops), *outputs.ys}
    after = {c.leaf for c in own if c.first and c.value in wanted}
    before = np.zeros(len(owner), bool)
    if all(c.value != outputs.before for c in own):
        known = sources(replace(program, ops=tuple(ops)), outputs.before, len(owner), {})
        for y in set(outputs.ys).intersection(known):
            before |= known[y].table[known[y].rows.ravel()].any(0)
    return Reading(group, after, before & np.isin(owner, group))


def signals(moment: Moment) -> tuple[Array, Array | None]:
    """The derivatives of the loss by each number of the state after the step and before it, (rows..., D).

    None: outputs read nothing of the state before the step past that after it.
    """
    outputs, found = readings(moment)
    owner, after, before = owners(outputs), jnp.zeros_like(moment.v), jnp.zeros_like(moment.v)
    for reading in found:
        if reading.after or reading.before.any():
            (new, old, _), own = _slopes(moment, reading.group), np.isin(owner, reading.group)
            after, before = jnp.where(own, new, after), jnp.where(own, old, before)
    return after, before if any(reading.before.any() for reading in found) else None


class Held(NamedTuple):
    """The derivatives of the loss with all of the state after the step held.

    Fields:
      after: (rows..., D), by the state after the step.
      before: (rows..., D), by the state before it; None: outputs do not read it.
      direct: by the parameters.
      seen: (D,), numbers of the state after the step that outputs read.
    """

    after: Array
    before: Array | None
    direct: list[Array]
    seen: Booleans


def held_slopes(moment: Moment) -> Held:
    """The derivatives of the loss with all of the state after the step held."""
    outputs = outputs_of(moment.cell, moment.shape, *moment.types())
    group = list(range(len(outputs.leaves)))
    reading = _reading(outputs, group)
    after, before, direct = _slopes(moment, group)
    seen = np.isin(owners(outputs), list(reading.after))
    return Held(after, before if reading.before.any() else None, direct, seen)


def _slopes(moment: Moment, group: list[int]) -> tuple[Array, Array, list[Array]]:
    """The derivatives of the loss by the state after the step, if that is held, before it, and parameters."""
    step, valid = held_step(moment.cell, moment.shape, frozenset(group)), moment.row.flags.valid

    def loss(added: Array, v: Array, theta: list[Array]) -> Array:
        def outputs(v: Array, row: Row, added: Array) -> Any:
            y = step(theta, v, row, added)[1]
            return where_valid(row.flags.valid, y, jax.tree.map(jnp.zeros_like, y))

        return moment.loss(moment.at(v, moment.row).each(outputs, added))

    *found, direct = jax.grad(loss, (0, 1, 2))(jnp.zeros_like(moment.v), moment.v, moment.theta)
    happens = None if valid is None else valid.any()
    after, before = (_of_valid(moment, leaf) for leaf in found)
    return after, before, where_valid(happens, direct, jax.tree.map(jnp.zeros_like, direct))


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

    found, lead = jax.grad(loss)([leaves[n] for n in places]), moment.v.ndim - 1
    return _of_valid(moment, ravel(found, lead))
