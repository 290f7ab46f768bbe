"""The influence of parameters on the state: started at zero, moved by a step, read by an adjoint."""

import functools
import string
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn._alignment import promoted, zeros_like_type
from jrnn._jaxprs.programs import Op, Program, dce, inputs_of, read, trace
from jrnn.cell import Shape
from jrnn.online._holding import held_tangent
from jrnn.online._patterns import Booleans, Kept, Places
from jrnn.online._rows import Row, state_step, tangent_step
from jrnn.online._structure import LINEAR, Leaf, Structure, dense_structure, structure_of

UNROLLED = 4  # slots up to which J P is written out, and fused; above, it is a matmul
TERMS = 32  # rows up to which a gradient is written out as a sum


# of one parameter: (slots, *shape), or for few slots a list of arrays of its shape
Memory = Array | list[Array]


class Factors(NamedTuple):
    """The probes of a step."""

    jacobian: Array  # (colors, D): J times the indicator of each color
    immediate: list[Memory]  # (colors, *shape) for each parameter that learns: indicators times I


class Derivative(NamedTuple):
    """The traced derivative of a step of one row."""

    program: Program
    closed_over: list[Any]


class BackwardOnly(NamedTuple):
    """A step without a forward derivative: the parameters that reach the state."""

    reaching: tuple[int, ...]


def derivative_of(
    cell: Any, shape: Shape, theta: list[Any], v: Any, row: Row, held: bool = False
) -> Derivative | BackwardOnly:
    """Trace the forward derivative of a step; arrays or types will do.

    `held`: of the step in terms of its new state, by the state before and after it, a vector of 2 D numbers.
    """
    primal, closed_over, _ = trace(state_step(cell, shape), theta, v, row)
    needed = dce(primal.ops, primal.outputs)
    if any(op.reverse_only for op in needed):
        seen, first = {*inputs_of(needed), *primal.outputs}, len(closed_over)
        learned = primal.inputs[first : first + len(theta)]
        return BackwardOnly(tuple(n for n, value in enumerate(learned) if value in seen))
    v_dot = jax.ShapeDtypeStruct((2 * v.shape[0],), v.dtype) if held else v
    tangent = held_tangent(cell, shape) if held else tangent_step(cell, shape)
    program, closed_over, _ = trace(tangent, theta, v, row, theta, v_dot)
    return Derivative(program, closed_over)


def structure_at(
    derivative: Derivative | BackwardOnly, theta: list[Any], v: Any, row: Row, how: Any
) -> Structure:
    """The structure of a step; `how` is (steps, local), see `structure_of`."""
    if isinstance(derivative, BackwardOnly):
        return dense_structure({n: theta[n].shape for n in derivative.reaching}, v.shape[0])
    inputs, known = derivative.program.inputs, len(derivative.closed_over) + len(theta)
    params = inputs[known + 1 : known + 1 + len(jax.tree.leaves(row.params))]  # behind v; some are fixed
    return structure_of(derivative.program, len(theta), frozenset(inputs[:known] + params), *how)


def started(structure: Structure, theta: list[Any], v: Any) -> list[Memory]:
    """No influence."""
    memory = []
    for leaf in structure.leaves:
        like = theta[leaf.number]
        count, dtype = len(leaf.slots), promoted(like.dtype, v.dtype, jnp.float32)
        few = count <= UNROLLED  # each a buffer of its own, as it may be donated
        memory.append(
            [jnp.zeros(like.shape, dtype) for _ in range(count)]
            if few
            else jnp.zeros((count, *like.shape), dtype)
        )
    return memory


def probed(
    structure: Structure, derivative: Derivative | BackwardOnly, step: Any, at: tuple[list[Array], Array, Row]
) -> Factors:
    """Probe J and I; `step` is the `state_step`."""
    theta, v, row = at
    back = _indicators(structure.after, v.dtype)
    front = _indicators(structure.before, v.dtype)
    plain = len(back) == structure.size and not structure.kept and not structure.held
    if isinstance(derivative, BackwardOnly) or plain:
        immediate, jacobian = jax.vmap(jax.vjp(lambda a, b: step(a, b, row), theta, v)[1])(back)
        return Factors(front @ jacobian.T, immediate)

    def push(theta_dot: list[Any], v_dot: Array | None) -> Array:
        return evaluated(structure, derivative, at, theta_dot, v_dot)

    jacobian = jax.vmap(lambda unit: push([None] * len(theta), unit))(front)
    if None in structure.kept.values() or structure.held:  # what J leaves out, I does too
        pull = jax.vjp(lambda theta_dot: push(theta_dot, None), jax.tree.map(jnp.zeros_like, theta))[1]
    else:
        pull = jax.vjp(lambda a: step(a, v, row), theta)[1]
    if len(back) <= UNROLLED:  # one by one, as XLA fuses the outer products of a single vector alone
        each = [pull(unit)[0] for unit in back]
        return Factors(jacobian, [list(leaves) for leaves in zip(*each, strict=True)])
    return Factors(jacobian, jax.vmap(pull)(back)[0])


def _indicators(colors: Any, dtype: Any) -> Array:
    return jnp.asarray(colors[None] == np.arange(int(colors.max(initial=-1)) + 1)[:, None], dtype)


def evaluated(
    structure: Structure, derivative: Derivative, at: Any, theta_dot: list[Any], v_dot: Any
) -> Array:
    """The tangent of the state after a step, with some products left out; a tangent of None is zero."""
    program = derivative.program
    arrays = [*derivative.closed_over, *jax.tree.leaves(at), *theta_dot, v_dot]
    env = program.literals | dict(zip(program.inputs, arrays, strict=True))
    moved = set(program.inputs[-1 - len(theta_dot) :])
    for op in program.ops:
        zero = [i for i in op.inputs if env[i] is None]
        rest = [i for i in op.inputs if env[i] is not None]
        if zero and op.primitive in ("add", "add_any") and moved.issuperset(op.inputs):
            env[op.outputs[0]] = env[rest[0]] if rest else None
        elif zero and _is_linear(op) and moved.isdisjoint(rest):
            env.update(dict.fromkeys(op.outputs))
        else:
            given = env | {i: zeros_like_type(program.types[i]) for i in zero}
            given.update(_results(op, structure.kept, given, program))
            env.update({o: given[o] for o in op.outputs})
        if moved.intersection(op.inputs):
            moved.update(op.outputs)
    found = env[program.outputs[0]]
    return zeros_like_type(program.types[program.outputs[0]]) if found is None else found


def _is_linear(op: Op) -> bool:
    """True for an op that is linear in its tangents, and returns nothing else."""
    return op.fusible or op.matmul or op.primitive in LINEAR


def _results(op: Op, kept: Mapping[Op, Kept | None], env: Any, program: Program) -> dict[int, Any]:
    if op in kept:
        return {op.outputs[0]: _few(op, kept[op], env, program)}
    return dict(zip(op.outputs, op.fun(*read(env, op.inputs)), strict=True))


def _few(op: Op, kept: Kept | None, env: Any, program: Program) -> Array:
    like = program.types[op.outputs[0]]
    if kept is None or kept.moved.shape[1] == 0:
        return jnp.zeros(like.shape, like.dtype)
    moved, other = (env[op.operands[side]].reshape(-1) for side in (kept.side, 1 - kept.side))
    terms = moved[kept.moved] * jnp.where(kept.there, other[kept.other], jnp.zeros((), other.dtype))
    return terms.sum(1).reshape(like.shape).astype(like.dtype)


def moved(structure: Structure, memory: list[Memory], factors: Factors) -> list[Memory]:
    """J P."""
    found = []
    for leaf, p in zip(structure.leaves, memory, strict=True):
        probes = factors.jacobian.astype(jax.tree.leaves(p)[0].dtype)
        found.append(_times(structure, leaf.slots, probes, p))
    return found


def joined(structure: Structure, memory: list[Memory], factors: Factors) -> list[Memory]:
    """The influence with that of the step itself: P + I."""
    found = []
    for leaf, p in zip(structure.leaves, memory, strict=True):
        added = _immediate(leaf, factors.immediate[leaf.number])
        found.append(jax.tree.map(lambda a, b: a + b.astype(a.dtype), p, added))
    return found


def renewed(structure: Structure, memory: list[Memory], factors: Factors) -> list[Memory]:
    """J P + I; of a held step slot after slot.

    Each slot reads old slots and new ones before it; the last that reads an old one is the new one in its
    place, so that XLA need not copy it.
    """
    if not structure.held:
        return joined(structure, moved(structure, memory, factors), factors)
    found: list[Memory] = []
    for leaf, p in zip(structure.leaves, memory, strict=True):
        blocks = _held_blocks(structure, leaf, factors.jacobian.astype(p[0].dtype))
        new: list[Array] = []
        for row, added in zip(blocks, _immediate(leaf, factors.immediate[leaf.number]), strict=True):
            terms = [a * q for a, q in zip(row, [*p, *new], strict=True) if a is not None]
            new.append(functools.reduce(jnp.add, terms, added.astype(p[0].dtype)))
        found.append(new)
    return found


class _Block(NamedTuple):
    """J at pairs of numbers of the state; where nothing is there it is 0, and nothing is read for it."""

    there: Booleans
    values: Array


def _held_blocks(structure: Structure, leaf: Leaf, probes: Array) -> list[list[Array | None]]:
    """J of each new slot by all old ones and by the new ones before it; None: zero.

    Of h' = o tanh(c') the weights of o have no slot for c': what h' reads of it is J of c' by the old slots.
    """
    slots, between = np.broadcast_arrays(leaf.slots, leaf.between)
    numbers = np.where(slots >= 0, slots, between)
    after = np.where(numbers >= 0, numbers + structure.size, -1)
    block = functools.partial(_held_block, structure, probes)
    whole: list[list[_Block]] = []  # by old slots, of all numbers
    found: list[list[Array | None]] = []
    for n, number in enumerate(numbers):
        old = [block(number, slot) for slot in slots]
        new = [block(number, other) for other in after[:n]]
        for passed, slot, row in zip(new, slots, whole, strict=False):
            old = [_plus(a, _product(_masked(passed, slot < 0), b)) for a, b in zip(old, row, strict=True)]
        whole.append(old)
        own = [_masked(a, slots[n] >= 0) for a in (*old, *new)]
        found.append([a.values if a.there.any() else None for a in own])
    return found


def _held_block(structure: Structure, probes: Array, after: Places, before: Places) -> _Block:
    return _Block(_meets(structure, after, before), _block(structure, after, before, probes))


def _masked(block: _Block, where: Booleans) -> _Block:
    kept = block.there & where
    same = (kept == block.there).all()
    return block if same else _Block(kept, jnp.where(where, block.values, 0))


def _product(a: _Block, b: _Block) -> _Block:
    return _Block(a.there & b.there, a.values * b.values)


def _plus(a: _Block, b: _Block) -> _Block:
    if not (a.there.any() and b.there.any()):
        return a if a.there.any() else b
    return _Block(a.there | b.there, a.values + b.values)


def _meets(structure: Structure, after: Places, before: Places) -> Booleans:
    """Pairs of numbers of the state at which J may be other than 0."""
    after, before = np.broadcast_arrays(after, before)
    there: Booleans = (after >= 0) & (before >= 0) & structure.jacobian[after, before]
    return there


def _block(structure: Structure, after: Places, before: Places, probes: Array) -> Array:
    """J at pairs of numbers of the state."""
    there = _meets(structure, after, before)
    return jnp.where(there, probes[structure.before[before], after], jnp.zeros((), probes.dtype))


def _times(structure: Structure, slots: Places, probes: Array, p: Memory) -> Memory:
    """J P of one parameter."""
    if isinstance(p, list):  # pair by pair: of one gather, XLA would make an array with the pairs innermost
        pairs = [[_block(structure, a, b, probes) for b in slots] for a in slots]
        return [functools.reduce(jnp.add, map(jnp.multiply, row, p)) for row in pairs]
    block = _block(structure, slots[:, None], slots[None], probes)
    letters = string.ascii_lowercase[: p.ndim - 1]
    varying, squeezed = _varying(block, letters, 2)
    return jnp.einsum(f"MK{varying},K{letters}->M{letters}", squeezed, p)


def _varying(a: Array, letters: str, lead: int) -> tuple[str, Array]:
    """The letters of the axes behind the leading ones that are longer than 1; the array without others."""
    sizes = a.shape[lead:]
    kept = "".join(c for c, n in zip(letters, sizes, strict=True) if n > 1)
    return kept, a.reshape(*a.shape[:lead], *(n for n in sizes if n > 1))


def _immediate(leaf: Leaf, probes: Memory) -> Memory:
    """I in the slots of a parameter, from its probes (colors, *shape)."""
    place = leaf.immediate
    if len(place) <= UNROLLED:
        return [_chosen(slot, probes) for slot in place]
    if len(probes) == 1:
        return jnp.where(place >= 0, probes[0], 0)
    probes = jnp.stack(probes) if isinstance(probes, list) else probes
    if place.size == len(place) and np.array_equal(place.ravel(), np.arange(len(probes))):
        return probes
    index = np.broadcast_to(np.maximum(place, 0), (len(place), *probes.shape[1:]))
    return jnp.where(place >= 0, jnp.take_along_axis(probes, index, 0), 0)


def _chosen(place: Places, probes: Memory) -> Array:
    """Of each number, the probe of its color; 0 for the color −1."""
    colors = np.unique(place).tolist()
    if len(colors) == 1 and colors[0] >= 0:
        return probes[colors[0]]
    chosen = (jnp.where(place == color, probes[color], 0) for color in colors if color >= 0)
    return functools.reduce(jnp.add, chosen, jnp.zeros_like(probes[0]))


def read_by(
    structure: Structure,
    memory: list[Memory],
    adjoint: Array,
    theta: list[Array],
    seen: Booleans | None = None,
) -> list[Array]:
    """The gradient adjoint · P for each parameter that learns, summed over rows, the first axis of both.

    `seen`: (D,), numbers of the state at which the adjoint may be other than 0.
    """
    found = [jnp.zeros_like(leaf) for leaf in theta]
    for leaf, p in zip(structure.leaves, memory, strict=True):
        given = adjoint.astype(jax.tree.leaves(p)[0].dtype)
        if isinstance(p, list):
            read = [n for n, s in enumerate(leaf.slots) if seen is None or seen[s[s >= 0]].any()]
            slots = [(jnp.where(leaf.slots[n] >= 0, given[:, leaf.slots[n]], 0), p[n]) for n in read]
            total = functools.reduce(jnp.add, [_over_rows(*pair) for pair in slots], found[leaf.number])
        else:
            total = _summed(jnp.where(leaf.slots >= 0, given[:, leaf.slots], 0), p)
        found[leaf.number] = total.astype(found[leaf.number].dtype)
    return found


def _over_rows(weights: Array, p: Array) -> Array:
    """Σ over rows of weights (rows, ...) and an influence in one slot."""
    if not 0 < len(p) <= TERMS:
        return _summed(weights[:, None], p[:, None])
    # XLA sums over a leading axis twenty times slower on a CPU
    return functools.reduce(jnp.add, [w * q for w, q in zip(weights, p, strict=True)])


def _summed(weights: Array, p: Array) -> Array:
    """Σ over rows and slots of weights and an influence, (rows, slots, ...)."""
    letters = string.ascii_lowercase[: p.ndim - 2]
    varying, squeezed = _varying(weights, letters, 2)
    return jnp.einsum(f"RK{varying},RK{letters}->{letters}", squeezed, p)
