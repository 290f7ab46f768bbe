"""A step, run in stages: once, for all steps at once, and in loops."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from jrnn._caching import cached
from jrnn._jaxprs import Program, trace
from jrnn.unrolling._loops import Values, first, pick, plain, run_loop, run_ops, spread, step_bytes, turn
from jrnn.unrolling._memory import Footprint
from jrnn.unrolling._planning import Plan, Stage, plan, size_of
from jrnn.unrolling.methods import Loop


@dataclass(frozen=True)
class Prepared:
    """A loop that is ready to run: `run(held, state, given)` returns the state after it and its outputs."""

    run: Callable[[Any, Any, Any], tuple[Any, Any]]
    held: Any  # constants, whatever had to be computed from them included
    state: Any
    given: Any  # arrays with a leading axis, the steps
    finish: Callable[[Any, Any], tuple[Any, Any]]  # (state, outputs) -> (carry, ys)
    footprint: Callable[[], Footprint]  # of its gradient


RunStage = Callable[[Stage, Program, int, bool], Callable[..., Any]]


def prepare(loop: Loop, run_stage: RunStage = run_loop, ahead: bool | None = None) -> Prepared:
    """Plan a loop and compute what it needs only once; the same body is planned once.

    Args:
      loop: the loop.
      run_stage: runs a stage with a carry: `(stage, program, length, reverse)` to a function of
        `(constants, carry, given)` that returns `(carry, emitted)`.
      ahead: whether all products that can be are computed ahead of the stages with a carry; None: where that
        pays on this backend.
    """
    if loop.length == 0:
        return _as_written(loop, 0)
    body, constants, carry, xs = loop.body, loop.constants, loop.carry, loop.xs
    program, closed_over, result = trace(body, constants, carry, jax.eval_shape(first, xs))
    if not program.pure:
        return _as_written(loop, size_of((o for op in program.ops for o in op.outputs), program))
    held, state = [*closed_over, *jax.tree.leaves(constants)], jax.tree.leaves(carry)
    schedule = plan(
        program, len(held), len(state), jax.default_backend() != "cpu" if ahead is None else ahead
    )
    values: Values = dict(program.known)
    values.update(zip(program.inputs, [*held, *state, *jax.tree.leaves(xs)], strict=True))
    run_ops(schedule.once, values)

    def finish(after: Any, outputs: Any) -> tuple[Any, Any]:
        last = values | dict(zip((a for a, _ in schedule.carried), after, strict=True))
        ends = [last[c] for c in program.inputs[len(held) : len(held) + len(state)]]
        stacked = dict(zip(schedule.outputs, outputs, strict=True))
        outs = program.outputs[len(state) :]
        ys = [stacked[o] if o in stacked else spread(values[o], loop.length) for o in outs]
        finished: tuple[Any, Any] = jax.tree.unflatten(jax.tree.structure(result), [*ends, *ys])
        return finished

    changing = pick(values, (a for a, _ in schedule.carried))
    run = _staged(program, schedule, loop.reverse, run_stage)
    return Prepared(
        run,
        pick(values, schedule.held),
        changing,
        tuple(jax.tree.leaves(xs)),
        finish,
        functools.partial(_footprint, program, schedule, len(closed_over), len(jax.tree.leaves(xs))),
    )


def _as_written(loop: Loop, step: int) -> Prepared:
    run = plain(loop.body, loop.reverse)
    carry, weights = (sum(a.nbytes for a in jax.tree.leaves(t)) for t in (loop.carry, loop.constants))
    footprint = Footprint(carry=carry, step=step, given=0, out=0, weights=weights)
    return Prepared(run, loop.constants, loop.carry, loop.xs, lambda *result: result, lambda: footprint)


@cached
def _footprint(program: Program, schedule: Plan, closed_over: int, given: int) -> Footprint:
    """Of the gradient with respect to the constants that are not closed over."""
    inputs = program.inputs[len(program.inputs) - given :]
    still = {*program.inputs[:closed_over], *program.known, *inputs}
    for op in schedule.once:
        if still.issuperset(op.inputs):
            still.update(op.outputs)
    taken = [step_bytes(stage, program, still) for stage in schedule.stages]
    return Footprint(
        carry=size_of((a for a, _ in schedule.carried), program),
        step=sum(in_loop for in_loop, _ in taken) + max(0, *(behind - in_loop for in_loop, behind in taken)),
        given=size_of(inputs, program),
        out=size_of(schedule.outputs, program),
        weights=size_of(schedule.held, program),
    )


@cached
def _staged(program: Program, schedule: Plan, reverse: bool, run_stage: RunStage) -> Callable[..., Any]:
    def run(held: Any, state: Any, given: Any) -> tuple[Any, Any]:
        length = given[0].shape[0]
        given_names = program.inputs[len(program.inputs) - len(given) :]
        names = (*schedule.held, *(a for a, _ in schedule.carried), *given_names)
        final: Values = {}
        values: Values = dict(zip(names, (*held, *state, *given), strict=True))
        for stage in schedule.stages:
            constant, per_step = pick(values, stage.constants), pick(values, stage.given)
            if stage.carried:
                before = pick(values, (a for a, _ in stage.carried))
                after, emitted = run_stage(stage, program, length, reverse)(constant, before, per_step)
                final.update(zip((a for a, _ in stage.carried), after, strict=True))
            else:
                emitted = jax.vmap(_at_once(stage), in_axes=(None, 0), axis_size=length)(constant, per_step)
            values.update(zip(stage.emitted, emitted, strict=True))
        return pick(final, (a for a, _ in schedule.carried)), pick(values, schedule.outputs)

    return run


@cached
def _at_once(stage: Stage) -> Callable[..., Any]:
    """One step of a stage without a carry, to be mapped over all steps."""

    def step(constants: Any, given: Any) -> Any:
        values = dict(zip((*stage.constants, *stage.given), (*constants, *given), strict=True))
        met = {i for op in stage.ops if op.product for i in op.inputs}.intersection(stage.constants)
        values |= {c: turn(values[c]) for c in met if values[c].ndim == 2}
        run_ops(stage.ops, values)
        return pick(values, stage.emitted)

    return step
