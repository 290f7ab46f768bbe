"""A loop whose derivative is taken beside it: weight gradients behind the loop, in it only what must be.

A loop's weight gradient is a sum over its steps. `lax.scan` adds it up step by step, in an array of the
weights' size. Here every value z through which weights act (a `Cut`) gets a perturbation ε of its own,

    zₜ = g(w, aₜ) + εₜ,   ε̇ₜ = ∂g/∂w(w, aₜ) · ẇ,

the loop is linearised with w held constant, and the tangents ε̇ of all steps are computed beside it, at once.
Transposed, by JAX, that is the loop of the adjoints δₜ and behind it one product Σₜ aₜᵀ δₜ per weight.
"""

import contextlib
import functools
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero, zero_from_primal

from jrnn._alignment import align_leaf
from jrnn._caching import cached
from jrnn._jaxprs import Op, Program, trace
from jrnn.unrolling._keeping import split
from jrnn.unrolling._planning import Cut, Stage, size_of

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


def turned(tangent: Array) -> Array:
    """A tangent as it is, whose adjoint is made transposed if it is a matrix.

    The gradient of W in Z = A W is Aᵀ δ. JAX makes it (δᵀ A)ᵀ, XLA turns that into a product of two
    transposed matrices, and on a CPU that takes twice the time; the barrier keeps it from doing so.
    """
    if tangent.ndim != 2:
        return tangent
    return jnp.swapaxes(lax.optimization_barrier(jnp.swapaxes(tangent, 0, 1)), 0, 1)


@jax.custom_jvp
def turn(weight: Array) -> Array:
    """A weight as it is; its tangent is `turned`."""
    return weight


@turn.defjvp
def _turn_jvp(primals: Any, tangents: Any) -> Any:
    return primals[0], turned(tangents[0])


def run_ops(ops: Iterable[Op], values: Values) -> None:
    """Run ops one after the other, and add what they compute to `values`."""
    for op in ops:
        values.update(zip(op.outputs, op.run(*(values[i] for i in op.inputs)), strict=True))


@cached
def plain(body: Any, reverse: bool, length: int | None = None) -> Callable[..., Any]:
    """`lax.scan` as it is: `run(constants, carry, xs)`, for a body that must not be reordered."""

    def threaded(loop: Any, x: Any) -> Any:
        constants, carry = loop  # handed on unchanged, `lax.scan` takes the constants out of its carry
        carry, y = body(constants, carry, x)
        return (constants, carry), y

    def run(constants: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
        leaves = jax.tree.leaves(xs)
        known = None if leaves else length  # beside xs a symbolic one is refused
        nothing = leaves and leaves[0].shape[0] == 0  # which `lax.scan` refuses where jit is disabled
        with jax.disable_jit(False) if nothing else contextlib.nullcontext():
            (_, carry), ys = lax.scan(threaded, (constants, carry), xs, length=known, reverse=reverse)
        return carry, ys

    return run


@cached
def run_loop(stage: Stage, program: Program, length: int, reverse: bool) -> Callable[..., Any]:
    """A stage with a carry: `(constants, carry, given) -> (carry, emitted)`."""
    emitted_types = pick(program.types, stage.emitted)
    if any(op.reverse_only for op in stage.ops):  # left to lax.scan, as below it would be taken forward
        return plain(step_of(stage), reverse, length)

    def scan(step: Any, constants: Any, carry: Any, xs: tuple[Any, ...], out: Iterable[Any]) -> Any:
        start = (constants, carry)  # handed on unchanged, `lax.scan` takes the constants out of its carry
        units = tuple(_units(x.shape[1:]) for x in xs)
        thin = [lax.squeeze(x, [axis + 1 for axis in u]) for x, u in zip(xs, units, strict=True)]
        known = None if thin else length  # beside xs a symbolic one is refused
        (_, carry), ys = lax.scan(_body(step, units), start, thin, length=known, reverse=reverse)
        wide = [[axis + 1 for axis in _units(o.shape)] for o in out]
        return carry, tuple(lax.expand_dims(y, axes) for y, axes in zip(ys, wide, strict=True))

    @jax.custom_jvp
    def run(constants: Any, carry: Any, given: Any) -> Any:
        return scan(step_of(stage), constants, carry, given, emitted_types)

    def rule(primals: Any, tangents: Any) -> Any:
        constants, carry, given = primals
        weights, moving = (
            _moving(names, primals[i], tangents[i]) for i, names in ((0, stage.constants), (2, stage.given))
        )
        cuts, moved = _ways(stage, weights, moving)
        halves = _halves(stage, program, cuts, moved)
        after, out = scan(halves.forward, constants, carry, given, halves.out)
        known = dict(zip(stage.constants, constants, strict=True))
        seen = dict(zip((*stage.given, *_handed_out(stage, cuts)), (*given, *out), strict=False))
        own = {g: t for g, t in moving.items() if stage.given.index(g) not in moved}
        met = dict(zip(_recorded(cuts), pick(seen, _recorded(cuts)), strict=True))
        moving_in = {w: turned(t) for w, t in weights.items()}, own
        pushes = _pushes(cuts, program, length, known, met, moving_in)
        start = tuple(_dense(t, c) for t, c in zip(tangents[1], carry, strict=True) if _moves(c))
        xs = (*halves.read(given, out), *(tangents[2][i] for i in moved), *pushes)
        emitted = out[: len(stage.emitted)]
        ends, outs = scan(halves.linear, halves.held(constants), start, xs, filter(_moves, emitted_types))
        return (after, emitted), _filled((after, emitted), (*ends, *outs))

    run.defjvp(rule, symbolic_zeros=True)
    keyed = any(map(_is_key, (*emitted_types, *(program.types[b] for _, b in stage.carried))))
    return (lambda *args: jax.tree.map(_unused, run(*args))) if keyed else run


def _is_key(value: Any) -> bool:
    return bool(jnp.issubdtype(value.dtype, jax.dtypes.prng_key))


def _unused(value: Array) -> Array:
    # what leaves a custom derivative counts as consumed, where `jax_debug_key_reuse` looks for that
    return jax.random.clone(value) if _is_key(value) else value


def step_bytes(stage: Stage, program: Program, still: Container[int]) -> tuple[int, int]:
    """Bytes of a step that its derivative takes, in the loop and behind it, if all moves but `still`."""
    if not stage.carried:
        return size_of(stage.emitted, program), 0
    if any(op.reverse_only for op in stage.ops):
        return size_of((o for op in stage.ops for o in op.outputs), program), 0
    moving = {v for v in (*stage.constants, *stage.given) if v not in still and _moves(program.types[v])}
    cuts, moved = _ways(stage, moving, moving)
    values = {cut.value for cut in cuts}
    adjoints = size_of([*values, *(stage.given[i] for i in moved)], program)
    # products of an adjoint with what the weights met read a copy of it; cuts of one product are put together
    own = {g for i, g in enumerate(stage.given) if g in moving and i not in moved}
    products = {op.outputs[0]: cut.value for cut in cuts for op in cut.ops if op.product}
    products |= {s: cut.value for cut in cuts for s in own.intersection(cut.summands)}
    whole = {p for p, value in products.items() if size_of([p], program) > size_of([value], program)}
    copies = whole | {value for p, value in products.items() if p not in whole}
    met = _handed_out(stage, cuts)[len(stage.emitted) :]
    in_loop = _halves(stage, program, cuts, moved).kept + adjoints
    # given values that are only added count where they are made, and are free before the weights' gradients
    return in_loop, size_of([*met, *copies], program) + adjoints - size_of(own, program)


def _ways(
    stage: Stage, weights: Container[int], given: Container[int]
) -> tuple[tuple[Cut, ...], tuple[int, ...]]:
    """Where what moves comes in: through cuts, and through given values, by place, that none of them owns."""
    cuts = tuple(cut for cut in stage.cuts if any(w in weights for w in cut.weights))
    inside = {op for cut in cuts for op in cut.ops}
    elsewhere = {b for _, b in stage.carried}.union(*(cut.recorded for cut in cuts))
    elsewhere |= {i for op in stage.ops if op not in inside for i in op.inputs}
    own = {s for cut in cuts for s in cut.summands} - elsewhere
    return cuts, tuple(i for i, g in enumerate(stage.given) if g in given and g not in own)


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


def _units(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes of length 1; among stacked steps they tempt XLA to copy whole arrays into another layout."""
    return tuple(axis for axis, size in enumerate(shape) if size == 1)


@cached
def _body(step: Callable[..., Any], units: tuple[tuple[int, ...], ...]) -> Callable[..., Any]:
    """A loop body that is given arrays without axes of length 1, and hands them out without.

    Of what it computes, nothing but its arguments is kept for the backward pass.
    """

    @functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.nothing_saveable, prevent_cse=False)
    def thin(constants: Any, carry: Any, xs: Any) -> Any:
        carry, ys = step(constants, carry, [lax.expand_dims(x, u) for x, u in zip(xs, units, strict=True)])
        return carry, tuple(lax.squeeze(y, _units(y.shape)) for y in ys)

    def body(loop: Any, xs: Any) -> Any:
        constants, carry = loop
        carry, ys = thin(constants, carry, xs)
        return (constants, carry), ys

    return body


@cached
def step_of(stage: Stage) -> Callable[..., Any]:
    """One step of a stage: `(constants, carry, given) -> (carry, emitted)`."""

    def step(constants: Any, carry: Any, given: Any) -> Any:
        values = _values(stage, constants, carry, given)
        run_ops(stage.ops, values)
        return pick(values, (b for _, b in stage.carried)), pick(values, stage.emitted)

    return step


def _values(stage: Stage, constants: Any, carry: Any, given: Any) -> Values:
    names = (*stage.constants, *(a for a, _ in stage.carried), *stage.given)
    return dict(zip(names, (*constants, *carry, *given), strict=True))


def _handed_out(stage: Stage, cuts: tuple[Cut, ...]) -> tuple[int, ...]:
    """What a loop hands out at every step: its results, and what weights meet in it."""
    return (*stage.emitted, *(r for r in _recorded(cuts) if r not in (*stage.given, *stage.emitted)))


@dataclass(frozen=True, eq=False)
class Halves:
    """A step of a loop, and its derivative, linear in the tangents: two steps of a loop."""

    forward: Callable[..., Any]
    linear: Callable[..., Any]
    held: Callable[[Any], Any]  # the constants of `linear`, of those of the loop
    read: Callable[[Any, Any], Any]  # what `linear` reads at every step
    out: tuple[Any, ...]  # types of what `forward` hands out at every step
    kept: int  # its bytes


@cached
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

    handed_out = (*whole.outputs[carried:primal], *parts.kept)

    def forward(constants: Any, carry: Any, given: Any) -> Any:
        values = whole.known | dict(
            zip(whole.inputs, (*closed_over, *constants, *carry, *given), strict=False)
        )
        run_ops(parts.forward, values)
        return pick(values, whole.outputs[:carried]), pick(values, handed_out)

    def linear(held: Any, start: Any, xs: Any) -> Any:
        read, moving = xs[: len(parts.reads)], xs[len(parts.reads) :]
        values = whole.known | dict(zip((*parts.held, *parts.reads), (*held, *read), strict=True))
        values |= {c: jnp.swapaxes(values[c], 0, 1) for c in parts.turned}
        values |= dict(zip(parts.tangents, (*start, *moving), strict=True))
        run_ops(parts.linear, values)
        ends = pick(values, whole.outputs[primal:])
        return ends[: len(start)], ends[len(start) :]

    def held(given: Any) -> Any:
        values = whole.known | dict(zip(whole.inputs, (*closed_over, *given), strict=False))
        run_ops(parts.once, values)
        # a matrix h W is read as its transpose when the loop is transposed, which is slower in every step
        return tuple(jnp.swapaxes(values[c], 0, 1) if c in parts.turned else values[c] for c in parts.held)

    def read(given: Any, out: Any) -> Any:
        names = (*whole.inputs[constants + carried :][: len(given)], *handed_out)
        return pick(dict(zip(names, (*given, *out), strict=True)), parts.reads)

    return Halves(forward, linear, held, read, pick(whole.types, handed_out), size_of(handed_out, whole))


@cached
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


def _recorded(cuts: tuple[Cut, ...]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(r for cut in cuts for r in cut.recorded))


def _pushes(
    cuts: tuple[Cut, ...],
    program: Program,
    length: int,
    constants: Values,
    met: Values,
    tangents: tuple[Values, Values],
) -> tuple[Array, ...]:
    """ε̇ of all cuts at all steps: what the tangents of the weights, and of given values of their own, do.

    The tangents are taken of all steps at once, rather than of each step and then of all: what vmap makes of
    a `cond` in a function that is linear already cannot be transposed.
    """

    def cut_values(met: Any, moving: Any, owned: Any) -> tuple[Array, ...]:
        known = constants | met | moving
        summands = {s: _zeros(program.types[s]) for cut in cuts for s in cut.summands} | owned
        results: dict[Any, Any] = {}  # an op that several cuts share is run once

        def value(cut: Cut) -> Array:
            values = known | {s: summands[s] for s in cut.summands}
            for op in cut.ops:
                key = (op, *(id(values[i]) for i in op.inputs))
                if key not in results:
                    results[key] = op.run(*pick(values, op.inputs))
                values.update(zip(op.outputs, results[key], strict=True))
            return values[cut.value]

        return tuple(map(value, cuts))

    def at_all_steps(moving: Any, owned: Any) -> tuple[Array, ...]:
        return jax.vmap(cut_values, in_axes=(0, None, 0), axis_size=length)(met, moving, owned)

    weights, own = tangents
    at = {w: constants[w] for w in weights}, jax.tree.map(jnp.zeros_like, own)
    return jax.jvp(at_all_steps, at, tangents)[1]
