"""A step, run in stages: once, for all steps at once, and in loops.

A loop's weight gradient is a sum over its steps. `lax.scan` adds it up step by step, in an array of the
weights' size. Here every value z through which weights act (a `Cut`) gets a perturbation ε of its own,

    zₜ = g(w, aₜ) + εₜ,   ε̇ₜ = ∂g/∂w(w, aₜ) · ẇ,

the loop is linearised with w held constant, and the tangents ε̇ of all steps are computed beside it, at once.
Transposed, by JAX, that is the loop of the adjoints δₜ and behind it one product Σₜ aₜᵀ δₜ per weight.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from jrnn.alignment import align_leaf
from jrnn.jaxprs import Op, Program, is_cheap, trace
from jrnn.unrolling.planning import Cut, Plan, Stage, plan

Values = dict[int, Any]


@dataclass(frozen=True)
class Prepared:
    """A loop that is ready to run: `run(held, state, given)` returns the state after it and its outputs."""

    run: Callable[[Any, Any, Any], tuple[Any, Any]]
    held: Any  # constants, whatever had to be computed from them included
    state: Any
    given: Any  # arrays with a leading axis, the steps
    finish: Callable[[Any, Any], tuple[Any, Any]]  # (state, outputs) -> (carry, ys)


def prepare(body: Any, constants: Any, carry: Any, xs: Any, *, length: int, reverse: bool) -> Prepared:
    """Plan the loop of `body` over the leading axis of `xs`, and compute what it needs only once.

    Args:
      body: `(constants, carry, x) -> (carry, y)`; the same function object is planned once.
      constants: a tree of arrays, the same at every step.
      carry: a tree of arrays.
      xs: a tree of arrays with a leading axis of `length`.
      length: number of steps.
      reverse: from the far end.
    """
    if length == 0:
        return Prepared(plain(body, reverse), constants, carry, xs, lambda *result: result)
    program, closed_over, result = trace(body, constants, carry, jax.eval_shape(_first, xs))
    if not program.pure:
        return Prepared(plain(body, reverse), constants, carry, xs, lambda *result: result)
    held, state = [*closed_over, *jax.tree.leaves(constants)], jax.tree.leaves(carry)
    schedule = plan(program, len(held), len(state), jax.default_backend() != "cpu")
    values: Values = dict(program.known)
    values.update(zip(program.inputs, [*held, *state, *jax.tree.leaves(xs)], strict=True))
    _run_ops(schedule.once, values)

    def finish(after: Any, outputs: Any) -> tuple[Any, Any]:
        last = values | dict(zip((a for a, _ in schedule.carried), after, strict=True))
        ends = [last[c] for c in program.inputs[len(held) : len(held) + len(state)]]
        stacked = dict(zip(schedule.outputs, outputs, strict=True))
        outs = program.outputs[len(state) :]
        ys = [stacked[o] if o in stacked else _spread(values[o], length) for o in outs]
        finished: tuple[Any, Any] = jax.tree.unflatten(jax.tree.structure(result), [*ends, *ys])
        return finished

    changing = _pick(values, (a for a, _ in schedule.carried))
    run = _staged(program, schedule, reverse)
    return Prepared(run, _pick(values, schedule.held), changing, tuple(jax.tree.leaves(xs)), finish)


@functools.lru_cache(maxsize=1024)
def plain(body: Any, reverse: bool) -> Callable[..., Any]:
    """`lax.scan` as it is: `run(constants, carry, xs)`, for a body that must not be reordered."""

    def threaded(loop: Any, x: Any) -> Any:
        constants, carry = loop  # handed on unchanged, `lax.scan` takes the constants out of its carry
        carry, y = body(constants, carry, x)
        return (constants, carry), y

    def run(constants: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
        (_, carry), ys = lax.scan(threaded, (constants, carry), xs, reverse=reverse)
        return carry, ys

    return run


@functools.lru_cache(maxsize=1024)
def _staged(program: Program, schedule: Plan, reverse: bool) -> Callable[..., Any]:
    def run(held: Any, state: Any, given: Any) -> tuple[Any, Any]:
        length = given[0].shape[0]
        given_names = program.inputs[len(program.inputs) - len(given) :]
        names = (*schedule.held, *(a for a, _ in schedule.carried), *given_names)
        final: Values = {}
        values: Values = dict(zip(names, (*held, *state, *given), strict=True))
        for stage in schedule.stages:
            constant, per_step = _pick(values, stage.constants), _pick(values, stage.given)
            if stage.carried:
                before = _pick(values, (a for a, _ in stage.carried))
                after, emitted = _loop(stage, program, length, reverse)(constant, before, per_step)
                final.update(zip((a for a, _ in stage.carried), after, strict=True))
            else:
                emitted = jax.vmap(_at_once(stage), in_axes=(None, 0), axis_size=length)(constant, per_step)
            values.update(zip(stage.emitted, emitted, strict=True))
        return _pick(final, (a for a, _ in schedule.carried)), _pick(values, schedule.outputs)

    return run


def _first(xs: Any) -> Any:
    return jax.tree.map(lambda x: lax.index_in_dim(x, 0, keepdims=False), xs)


def _spread(value: Array, length: int) -> Array:
    return jax.vmap(lambda: value, axis_size=length)()


def _pick(values: Values, names: Iterable[int]) -> tuple[Any, ...]:
    return tuple(values[name] for name in names)


def _run_ops(ops: Iterable[Op], values: Values) -> None:
    for op in ops:
        values.update(zip(op.outputs, op.run(*(values[i] for i in op.inputs)), strict=True))


@functools.lru_cache(maxsize=1024)
def _at_once(stage: Stage) -> Callable[..., Any]:
    """One step of a stage without a carry, to be mapped over all steps."""

    def step(constants: Any, given: Any) -> Any:
        values = dict(zip((*stage.constants, *stage.given), (*constants, *given), strict=True))
        _run_ops(stage.ops, values)
        return _pick(values, stage.emitted)

    return step


@jax.custom_jvp
def _perturb(value: Array, by: Array) -> Array:
    """`value + by`, where `by` is zero and never read: it is there for its tangent."""
    return value


@_perturb.defjvp
def _perturb_jvp(primals: Any, tangents: Any) -> Any:
    return primals[0], tangents[0] + tangents[1]


def _keep(primitive: Any, *_: Any, **__: Any) -> bool:
    """Keep products for the backward pass; the arithmetic behind them is faster done again than read back."""
    return not is_cheap(primitive)


@functools.lru_cache(maxsize=1024)
def _body(stage: Stage, cuts: tuple[Cut, ...], records: tuple[int, ...], lean: bool) -> Callable[..., Any]:
    """The body of a loop: values at `cuts` are perturbed, those of `records` handed out beside the result."""

    def step(constants: Any, carry: Any, given: Any, by: Any) -> Any:
        befores = [a for a, _ in stage.carried]
        names = (*stage.constants, *befores, *stage.given)
        values = dict(zip(names, (*constants, *carry, *given), strict=True))
        perturbed = dict(zip((cut.value for cut in cuts), by, strict=True))
        for op in stage.ops:
            _run_ops([op], values)
            for o in op.outputs:
                if o in perturbed:
                    values[o] = _perturb(values[o], perturbed[o])
        after = _pick(values, (b for _, b in stage.carried))
        return after, _pick(values, stage.emitted), _pick(values, records)

    kept = jax.checkpoint(step, policy=_keep, prevent_cse=False) if lean else step

    def body(loop: Any, x: Any) -> Any:
        constants, carry = loop  # handed on unchanged, `lax.scan` takes the constants out of its carry
        carry, emitted, recorded = kept(constants, carry, *x)
        return (constants, carry), (emitted, recorded)

    return body


@functools.lru_cache(maxsize=1024)
def _loop(stage: Stage, program: Program, length: int, reverse: bool) -> Callable[..., Any]:
    """A stage with a carry: `(constants, carry, given) -> (carry, emitted)`."""

    def scan(constants: Any, carry: Any, given: Any, by: Any, body: Any) -> Any:
        start = (constants, carry)
        (_, carry), (emitted, recorded) = lax.scan(body, start, (given, by), length=length, reverse=reverse)
        return (carry, emitted), recorded

    @jax.custom_jvp
    def loop(constants: Any, carry: Any, given: Any) -> Any:
        return scan(constants, carry, given, (), _body(stage, (), (), False))[0]

    def rule(primals: Any, tangents: Any) -> Any:
        constants, carry, given = primals
        weights = _moving(stage.constants, constants, tangents[0])
        cuts = tuple(cut for cut in stage.cuts if any(w in weights for w in cut.weights))
        met = dict.fromkeys(r for cut in cuts for r in cut.recorded)
        records = tuple(r for r in met if r not in stage.given)
        moved = {i: t for i, t in enumerate(tangents[2]) if not isinstance(t, SymbolicZero)}
        driven = [i for i, c in enumerate(carry) if jnp.issubdtype(c.dtype, jnp.inexact)]

        def perturbed(start: Any, inputs: Any, by: Any) -> Any:
            whole = _replaced(carry, driven, start), _replaced(given, list(moved), inputs)
            return scan(constants, *whole, by, _body(stage, cuts, records, True))

        by = tuple(_zeros(program.types[cut.value], length) for cut in cuts)
        start = [carry[i] for i in driven], [given[i] for i in moved], by
        out, linear, recorded = jax.linearize(perturbed, *start, has_aux=True)
        known = dict(zip(stage.constants, constants, strict=True))
        stacked = dict(zip((*stage.given, *records), (*given, *recorded), strict=True))
        pushes = tuple(_push(cut, program, known, weights, stacked, length) for cut in cuts)
        begin = [_dense(tangents[1][i], carry[i]) for i in driven]
        return out, linear(begin, list(moved.values()), pushes)

    loop.defjvp(rule, symbolic_zeros=True)
    return loop


def _moving(names: tuple[int, ...], values: Any, tangents: Any) -> Values:
    return {
        name: tangent
        for name, value, tangent in zip(names, values, tangents, strict=True)
        if jnp.issubdtype(value.dtype, jnp.inexact) and not isinstance(tangent, SymbolicZero)
    }


def _replaced(values: Any, places: list[int], new: Any) -> tuple[Any, ...]:
    changed = dict(zip(places, new, strict=True))
    return tuple(changed.get(i, value) for i, value in enumerate(values))


def _dense(tangent: Any, value: Array) -> Array:
    return jnp.zeros_like(value) if isinstance(tangent, SymbolicZero) else tangent


def _zeros(like: Any, length: int | None = None) -> Array:
    zero = align_leaf(jnp.zeros(like.shape, like.dtype), like)
    return zero if length is None else _spread(zero, length)


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
        _run_ops(cut.ops, values)
        return values[cut.value]

    def push(given: Any) -> Array:
        at = tuple(constants[w] for w in moving), tuple(weights[w] for w in moving)
        return jax.jvp(functools.partial(value, given), *at)[1]

    return jax.vmap(push, axis_size=length)(tuple(stacked[r] for r in cut.recorded))
