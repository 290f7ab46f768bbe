"""Running a loop in stages: hoisted ops once, others for all steps at once or in loops.

`prepare` traces the step of a `Loop` into a `Program`, a list of ops over numbered values (`trace`), divides
the ops into stages (`stage_step`), and runs the hoisted ones. The rest is a function of the constants, the
carry and the xs of all steps. For an LSTM whose x @ w_ih is computed before its loop:

    numbers    consts 0 scale, 1 w_ih, 2 w_hh, 3 b   carry 4 h, 5 c   xs 6 x
    hoisted    b and scale, (512,), given an axis for the rows: (1, 512)
    stage      x @ w_ih                    no carry: a `vmap` over all steps
    stage      everything else             a carry: a loop with a derivative of its own (`loop_of_stage`)

`scale` is what an LSTM multiplies z with before its tanh: ½ for the gates, 1 for g (`cells/_gating.py`).

What cannot be taken apart, a step that prints for instance, is left to `lax.scan` (`plain_scan`).

Here and in the files below, the fields `consts`, `carry_in`, `xs`, `carry_out` and `ys` of signatures and
stages are numbers of values, and functions `(consts, carry, xs) -> (carry, ys)` take arrays; `env` maps the
one to the other. Under the number of an x or y, `env` here holds all steps of it, (time, ...), and inside a
loop that of one step. Of a step, xs are all that it reads anew: the leaves of `Loop.inputs`, x and flags.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from jrnn._caching import cached
from jrnn._jaxprs.programs import Env, Program, Values, element_count, eval_ops, read, trace
from jrnn._jaxprs.tables import with_tables_multiplied
from jrnn.unrolling._fallbacks import can_be_mapped
from jrnn.unrolling._loops import loop_of_stage, plain_scan, step_of
from jrnn.unrolling._staging import Stage, StagedStep, StepSignature, sliced_values, stage_step
from jrnn.unrolling._transposing import with_transposed_gradient
from jrnn.unrolling.methods import Loop, Run, types_of_step

# Makes the loop of a stage with a carry, from (stage, program, length, reverse).
LoopMaker = Callable[[Stage, Program, int, bool], Run]


class Prepared(NamedTuple):
    """A loop that is ready to run: `finish(*run_stages(consts, carry, xs))` gives its carry and outputs."""

    run_stages: Run  # gives what changes from step to step
    consts: Any  # hoisted values included
    carry: Any
    xs: Any
    finish: Callable[[Any, Any], tuple[Any, Any]]


def prepare(
    loop: Loop[Any, Any, Any], make_stage_loop: LoopMaker = loop_of_stage, precompute_all: bool | None = None
) -> Prepared:
    """Split the step of a loop into stages, and run the hoisted ops.

    Args:
      loop: the loop.
      make_stage_loop: makes the loop of each stage with a carry.
      precompute_all: as for `trace_loop`.
    """
    traced = None if loop.length == 0 else trace_loop(loop, precompute_all)
    if traced is None or traced.staged is None:  # no step to trace, or one that must stay as it is
        run = plain_scan(loop.body, loop.reverse)
        return Prepared(run, loop.consts, loop.carry, loop.inputs, lambda *result: result)
    program, signature, _, closed_over, result_types = traced
    staged = traced.staged
    # From here on trees are flat tuples, in the order of their leaves, until `finish` restores them.
    xs = tuple(jax.tree.leaves(loop.inputs))
    arrays = [*closed_over, *jax.tree.leaves(loop.consts), *jax.tree.leaves(loop.carry), *xs]
    # `env` has xs of all steps under the numbers of one step; harmless: hoisted ops read constants only.
    env: Env = program.literals | dict(zip(program.inputs, arrays, strict=True))
    eval_ops(staged.hoisted_ops, env)

    def finish(after: Any, ys: Any) -> tuple[Any, Any]:
        """Add the parts of the carry and the outputs that do not change from step to step."""
        # The final carry, under the numbers of the carry before a step: `after` has the entries that change,
        # `env` the others.
        last = env | dict(zip(staged.carry_in, after, strict=True))
        varying = dict(zip(staged.ys, ys, strict=True))
        all_ys = []
        for y in signature.ys:
            all_ys.append(varying[y] if y in varying else broadcast_over_steps(env[y], loop.length))
        leaves = [*read(last, signature.carry_in), *all_ys]
        finished: tuple[Any, Any] = jax.tree.unflatten(jax.tree.structure(result_types), leaves)
        return finished

    run_stages = _all_stages(program, signature.xs, staged, loop.reverse, make_stage_loop)
    return Prepared(run_stages, read(env, staged.consts), read(env, staged.carry_in), xs, finish)


class TracedLoop(NamedTuple):
    """A loop whose step is traced and split into stages."""

    program: Program
    signature: StepSignature
    staged: StagedStep | None  # None: the step has effects (prints, callbacks), whose order matters
    closed_over: list[Any]  # arrays that the step closes over, which precede its other constants
    result_types: Any  # of (carry, y)


def trace_loop(loop: Loop[Any, Any, Any], precompute_all: bool | None = None) -> TracedLoop:
    """Trace the step of a loop and split it into stages; cached by body and types.

    Args:
      loop: the loop, of one step or more; may hold types instead of arrays.
      precompute_all: compute every possible matmul before its loop; None: if that is faster on this backend.
    """
    step_types = types_of_step(loop.inputs)
    program, closed_over, result_types = trace(loop.body, loop.consts, loop.carry, step_types)
    n_consts, n_carry, n_xs = (len(jax.tree.leaves(a)) for a in (loop.consts, loop.carry, loop.inputs))
    n_ys = len(program.outputs) - n_carry
    signature = StepSignature.of(program, len(closed_over) + n_consts, n_carry, n_xs, n_ys)
    if precompute_all is None:
        precompute_all = jax.default_backend() != "cpu"
    if not precompute_all:
        # Half of the steps, as the gradient also adds up rows. XLA would not vectorize a sliced lookup.
        constant, sliced = tuple(signature.constant(program)), tuple(sliced_values(program.ops, program))
        program = with_tables_multiplied(program, constant, element_count((loop.length,)) // 2, sliced)
    staged = stage_step(program, signature, precompute_all) if program.pure else None
    return TracedLoop(program, signature, staged, closed_over, result_types)


@cached  # `lax.scan` and `checkpoint` compile again for a new function, so an equal call returns the same one
def _all_stages(
    program: Program, x_values: Values, staged: StagedStep, reverse: bool, make_stage_loop: LoopMaker
) -> Run:
    """All stages, one after the other: `(consts, carry, xs) -> (carry, ys)`; `x_values` are xs."""

    def run_stages(consts: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
        length = xs[0].shape[0]  # of a block, if this runs in blocks: `in_blocks`
        values = (*staged.consts, *staged.carry_in, *x_values)
        env: Env = dict(zip(values, (*consts, *carry, *xs), strict=True))
        last: Env = {}  # the final carry, under the numbers of the carry before a step
        for stage in staged.stages:
            stage_consts, stage_xs = read(env, stage.consts), read(env, stage.xs)
            if stage.carry_pairs:
                run_loop = make_stage_loop(stage, program, length, reverse)
                after, ys = run_loop(stage_consts, read(env, stage.carry_in), stage_xs)
                last.update(zip(stage.carry_in, after, strict=True))
            elif can_be_mapped(stage.ops, stage.consts, program):  # nearly always: `vmap` takes its ops
                mapped = jax.vmap(_step_without_carry(stage), in_axes=(None, 0), axis_size=length)
                ys = mapped(stage_consts, stage_xs)
            else:
                _, ys = plain_scan(step_of(stage), reverse, length)(stage_consts, (), stage_xs)
            # Outputs of a stage, (time, ...), are inputs of later ones. A later stage may read the carry
            # before each step, hₜ₋₁: then it is among `stage.ys`, and its number, until here the initial
            # carry, means that of all steps.
            env.update(zip(stage.ys, ys, strict=True))
        return read(last, staged.carry_in), read(env, staged.ys)

    return run_stages


@cached
def _step_without_carry(stage: Stage) -> Callable[..., Any]:
    """One step of a stage without a carry, `(consts, xs) -> ys`, for `vmap` over all steps."""
    # Weights of matmuls, whose gradient is one large matmul, (n, T · rows) by (T · rows, m).
    in_matmuls = {i for op in stage.ops if op.matmul for i in op.inputs}

    def step(consts: Any, xs: Any) -> Any:
        env = dict(zip((*stage.consts, *stage.xs), (*consts, *xs), strict=True))
        for c in stage.consts:
            if c in in_matmuls and env[c].ndim == 2:
                # the identity; its gradient is a matmul, then a transpose
                env[c] = with_transposed_gradient(env[c])
        eval_ops(stage.ops, env)
        return read(env, stage.ys)

    return step


def broadcast_over_steps(array: Array, length: int) -> Array:
    """Broadcast an array over all steps."""
    return jax.vmap(lambda: array, axis_size=length)()
