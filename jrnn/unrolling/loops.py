"""A loop whose derivative is taken beside it: weight gradients behind the loop, in it only what must be.

A loop's weight gradient is a sum over its steps. `lax.scan` adds it up step by step, in an array of the
weights' size. Here every value z through which weights act (a `Cut`) gets a perturbation ε of its own,

    zₜ = g(w, aₜ) + εₜ,   ε̇ₜ = ∂g/∂w(w, aₜ) · ẇ,

the loop is linearised with w held constant, and the tangents ε̇ of all steps are computed beside it, at once.
Transposed, by JAX, that is the loop of the adjoints δₜ and behind it one product Σₜ aₜᵀ δₜ per weight.
"""

import functools
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero, zero_from_primal

from jrnn.alignment import align_leaf
from jrnn.jaxprs import Op, Program, trace
from jrnn.unrolling.keeping import split
from jrnn.unrolling.planning import Cut, Stage, size_of

Values = dict[int, Any]


def first(xs: Any) -> Any:
    """The first step of arrays with a leading axis of steps."""
    return jax.tree.map(lambda x: lax.index_in_dim(x, 0, keepdims=False), xs)


def spread(value: Array, length: int) -> Array:
    """The same value at every step."""
    return jax.vmap(lambda: value, axis_size=length)()


def pick(values: Values, names: Iterable[int]) -> tuple[Any, ...]:
    """Values by their numbers."""
    return tuple(values[name] for name in names)


def run_ops(ops: Iterable[Op], values: Values) -> None:
    """Run ops one after the other, and add what they compute to `values`."""
    for op in ops:
        values.update(zip(op.outputs, op.run(*(values[i] for i in op.inputs)), strict=True))


@functools.lru_cache(maxsize=1024)
def loop(stage: Stage, program: Program, length: int, reverse: bool) -> Callable[..., Any]:
    """A stage with a carry: `(constants, carry, given) -> (carry, emitted)`."""

    def scan(body: Any, constants: Any, carry: Any, xs: Any) -> Any:
        start = (constants, carry)  # handed on unchanged, `lax.scan` takes the constants out of its carry
        (_, carry), ys = lax.scan(body, start, xs, length=length, reverse=reverse)
        return carry, ys

    @jax.custom_jvp
    def run(constants: Any, carry: Any, given: Any) -> Any:
        return scan(_body(stage), constants, carry, given)

    def rule(primals: Any, tangents: Any) -> Any:
        constants, carry, given = primals
        weights = _moving(stage.constants, constants, tangents[0])
        cuts = tuple(cut for cut in stage.cuts if any(w in weights for w in cut.weights))
        moved = tuple(i for i, t in enumerate(tangents[2]) if not isinstance(t, SymbolicZero))
        halves = _halves(stage, program, cuts, moved)
        after, (out, kept) = scan(halves.forward, constants, carry, given)
        known = dict(zip(stage.constants, constants, strict=True))
        seen = dict(zip((*stage.given, *_handed_out(stage, cuts)), (*given, *out), strict=True))
        pushes = [_push(cut, program, known, weights, seen, length) for cut in cuts]
        start = [_dense(t, c) for t, c in zip(tangents[1], carry, strict=True) if _moves(c)]
        given_tangents = [tangents[2][i] for i in moved]
        linear = (halves.read(given, out, kept), (given_tangents, pushes))
        ends, outs = scan(halves.linear, halves.held(constants), start, linear)
        result = after, out[: len(stage.emitted)]
        return result, _filled(result, [*ends, *outs])

    run.defjvp(rule, symbolic_zeros=True)
    return run


def step_bytes(stage: Stage, program: Program, still: Container[int]) -> int:
    """Bytes of a step that its derivative takes, if all moves but what is `still`."""
    if not stage.carried:
        return 2 * size_of(stage.emitted, program)  # with their adjoints
    cuts = tuple(cut for cut in stage.cuts if any(w not in still for w in cut.weights))
    moved = tuple(i for i, g in enumerate(stage.given) if g not in still and _moves(program.types[g]))
    adjoints = [cut.value for cut in cuts] + [stage.given[i] for i in moved]
    return _halves(stage, program, cuts, moved).kept + size_of(adjoints, program)


def _moving(names: tuple[int, ...], values: Any, tangents: Any) -> Values:
    return {
        name: tangent
        for name, value, tangent in zip(names, values, tangents, strict=True)
        if _moves(value) and not isinstance(tangent, SymbolicZero)
    }


def _moves(value: Any) -> bool:
    return bool(jnp.issubdtype(value.dtype, jnp.inexact))


def _dense(tangent: Any, value: Array) -> Array:
    return jnp.zeros_like(value) if isinstance(tangent, SymbolicZero) else tangent


def _filled(values: Any, tangents: Any) -> Any:
    """Tangents of all values, given those of the values that can move."""
    left = iter(tangents)
    return jax.tree.map(lambda v: next(left) if _moves(v) else zero_from_primal(v, True), values)


def _zeros(like: Any) -> Array:
    return align_leaf(jnp.zeros(like.shape, like.dtype), like)


@functools.lru_cache(maxsize=1024)
def _body(stage: Stage) -> Callable[..., Any]:
    def body(loop: Any, given: Any) -> Any:
        constants, carry = loop
        values = _values(stage, constants, carry, given)
        run_ops(stage.ops, values)
        return (constants, pick(values, (b for _, b in stage.carried))), pick(values, stage.emitted)

    return body


def _values(stage: Stage, constants: Any, carry: Any, given: Any) -> Values:
    names = (*stage.constants, *(a for a, _ in stage.carried), *stage.given)
    return dict(zip(names, (*constants, *carry, *given), strict=True))


def _handed_out(stage: Stage, cuts: tuple[Cut, ...]) -> tuple[int, ...]:
    """What a loop hands out at every step: its results, and what weights meet in it."""
    met = dict.fromkeys(r for cut in cuts for r in cut.recorded)
    return (*stage.emitted, *(r for r in met if r not in (*stage.given, *stage.emitted)))


@dataclass(frozen=True, eq=False)
class Halves:
    """A step of a loop, and its derivative, linear in the tangents: two loop bodies."""

    forward: Callable[..., Any]
    linear: Callable[..., Any]
    held: Callable[[Any], Any]  # the constants of `linear`, of those of the loop
    read: Callable[[Any, Any, Any], Any]  # what `linear` reads at every step
    kept: int  # bytes of a step that are handed out by `forward`


@functools.lru_cache(maxsize=1024)
def _halves(stage: Stage, program: Program, cuts: tuple[Cut, ...], moved: tuple[int, ...]) -> Halves:
    inputs = stage.constants, tuple(a for a, _ in stage.carried), stage.given
    types = [pick(program.types, names) for names in inputs]
    tangents = [t for t in types[1] if _moves(t)], [types[2][i] for i in moved]
    pushes = [program.types[cut.value] for cut in cuts]
    step = _with_tangents(stage, program, cuts, moved)
    whole, closed_over, _ = trace(step, *types, *tangents, pushes)
    constants, carried = len(closed_over) + len(types[0]), len(types[1])
    primal = carried + len(_handed_out(stage, cuts))
    parts = split(whole, constants, carried, len(types[2]), primal)
    ahead = {c for c in parts.held if c in parts.turned}

    def forward(loop: Any, given: Any) -> Any:
        held, carry = loop
        values = whole.known | dict(zip(whole.inputs, (*closed_over, *held, *carry, *given), strict=False))
        run_ops(parts.forward, values)
        after, out = pick(values, whole.outputs[:carried]), pick(values, whole.outputs[carried:primal])
        return (held, after), (out, pick(values, parts.kept))

    @functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.nothing_saveable, prevent_cse=False)
    def derivative(held: Any, start: Any, read: Any, moving: Any) -> Any:
        values = whole.known | dict(zip((*parts.held, *parts.reads), (*held, *read), strict=True))
        values |= {c: jnp.swapaxes(values[c], 0, 1) for c in ahead}
        values |= dict(zip(parts.tangents, jax.tree.leaves((start, moving)), strict=True))
        run_ops(parts.linear, values)
        return pick(values, whole.outputs[primal:])

    def linear(loop: Any, x: Any) -> Any:
        held, start = loop
        ends = derivative(held, start, *x)
        return (held, list(ends[: len(start)])), ends[len(start) :]

    def held(given: Any) -> Any:
        values = whole.known | dict(zip(whole.inputs, (*closed_over, *given), strict=False))
        run_ops(parts.once, values)
        # a matrix h W is read as its transpose when the loop is transposed, which is slower in every step
        return tuple(jnp.swapaxes(values[c], 0, 1) if c in ahead else values[c] for c in parts.held)

    def read(given: Any, out: Any, kept: Any) -> Any:
        per_step = whole.inputs[constants + carried :][: len(given)]
        names = (*per_step, *whole.outputs[carried:primal], *parts.kept)
        return pick(dict(zip(names, (*given, *out, *kept), strict=True)), parts.reads)

    kept = size_of(whole.outputs[carried:primal], whole) + size_of(parts.kept, whole)
    return Halves(forward, linear, held, read, kept)


@functools.lru_cache(maxsize=1024)
def _with_tangents(
    stage: Stage, program: Program, cuts: tuple[Cut, ...], moved: tuple[int, ...]
) -> Callable[..., Any]:
    """One step and its tangents: those of the carry, of what is `moved` of the inputs, and of the cuts."""

    def step(constants: Any, carry: Any, given: Any, *tangents: Any) -> Any:
        driven = [i for i, c in enumerate(carry) if _moves(c)]

        def perturbed(start: Any, inputs: Any, by: Any) -> Any:
            carry_at, given_at = _replaced(carry, driven, start), _replaced(given, moved, inputs)
            values = _values(stage, constants, carry_at, given_at)
            epsilon = dict(zip((cut.value for cut in cuts), by, strict=True))
            for op in stage.ops:
                run_ops([op], values)
                values |= {o: _perturb(values[o], epsilon[o]) for o in op.outputs if o in epsilon}
            after = pick(values, (b for _, b in stage.carried))
            out = pick(values, _handed_out(stage, cuts))
            return [v for v in (*after, *out[: len(stage.emitted)]) if _moves(v)], (after, out)

        by = [_zeros(program.types[cut.value]) for cut in cuts]
        at = [carry[i] for i in driven], [given[i] for i in moved], by
        _, linear, result = jax.linearize(perturbed, *at, has_aux=True)
        return result, linear(*tangents)

    return step


def _replaced(values: Any, places: Iterable[int], new: Any) -> tuple[Any, ...]:
    changed = dict(zip(places, new, strict=True))
    return tuple(changed.get(i, value) for i, value in enumerate(values))


@jax.custom_jvp
def _perturb(value: Array, by: Array) -> Array:
    """`value + by`, where `by` is zero and never read: it is there for its tangent."""
    return value


@_perturb.defjvp
def _perturb_jvp(primals: Any, tangents: Any) -> Any:
    return primals[0], tangents[0] + tangents[1]


def _push(
    cut: Cut, program: Program, constants: Values, weights: Values, stacked: Values, length: int
) -> Array:
    """ε̇ of one cut at all steps: what the tangents of its weights do to it."""
    moving = [w for w in cut.weights if w in weights]

    def value(given: Any, *moved: Array) -> Array:
        values = {w: constants[w] for w in cut.weights if w in constants}
        values.update(zip(cut.recorded, given, strict=True))
        values.update({s: _zeros(program.types[s]) for s in cut.summands})
        values.update(zip(moving, moved, strict=True))
        run_ops(cut.ops, values)
        return values[cut.value]

    def push(given: Any) -> Array:
        at = tuple(constants[w] for w in moving), tuple(weights[w] for w in moving)
        return jax.jvp(functools.partial(value, given), *at)[1]

    return jax.vmap(push, axis_size=length)(tuple(stacked[r] for r in cut.recorded))
