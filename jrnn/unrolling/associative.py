"""Linear recurrences, solved for all steps at once."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jrnn._caching import cached
from jrnn._checks import brief
from jrnn._jaxprs.programs import Env, Program, is_inexact, read
from jrnn.cell import is_linear
from jrnn.unrolling._engine import broadcast_over_steps, prepare, trace_loop
from jrnn.unrolling._groups import cycles
from jrnn.unrolling._loops import step_of
from jrnn.unrolling._recurrences import (
    How,
    Solved,
    equal_everywhere,
    joined_everywhere,
    own_stretch,
    shift,
    solve_all,
)
from jrnn.unrolling._staging import Stage
from jrnn.unrolling.methods import Loop, Method


class PartArrays(NamedTuple):
    """The arrays that a part of a loop reads."""

    consts: Any
    start: Any  # its carry before the first step
    xs: Any  # of all steps


# (part, program, arrays, length, reverse) -> the states of each entry of its carry
_SolvePart = Callable[[Stage, Program, PartArrays, int, bool], list[Solved]]


@dataclass(frozen=True)
class Associative:
    """Parallel scan over time, for a cell whose next state is elementwise affine in its state.

        sₜ = aₜ · sₜ₋₁ + bₜ,   bₜ = step at zero state,   aₜ = its derivative along ones
        (a₂, b₂) ∘ (a₁, b₁) = (a₂ a₁, a₂ b₁ + b₂)

    Such a cell declares `linear = True`; a, b and the outputs are derived from its `step`, with lengths,
    masks, resets, `reverse` and a given carry. An entry of the state may depend in any way on entries that
    do not depend on it: a `Stack` of linear cells is linear. Derivatives of every order and mode are those of
    the linear system (I − shift a) s = b; the backward pass saves a and s.

    A wrong declaration is not detected at run time, unless entries depend on each other;
    `jrnn.testing.check_cell` finds it. NaN or inf in one sequence reaches no output beyond a reset, but
    gradients there, unlike with `Scan`.

    On a GPU or TPU a tree combines the pairs (a, b), in log T passes. On a CPU a loop over a and b takes a
    quarter of the time, as passes over memory dominate. Everything else in the step runs for all steps at
    once in both cases.

    If `xs` is sharded along time over an Explicit axis of a mesh, each device solves its stretch of steps,
    and the outputs are sharded alike. An entry of the state then takes one all-gather in the forward pass and
    one in the backward pass, of a product of factors and a state from each device.

    Args:
      tree: combine pairs by a tree (True) or a loop (False); None: a loop on CPUs, else a tree.
      otherwise: the method for cells that are not linear; None: raise. If time is sharded, each device runs
        all steps by it.

    Raises:
      ValueError: in `unroll`, a cell that is not linear, if `otherwise` is None.

    Reference: Blelloch, Prefix sums and their applications, 1990; Martin, Cundy, Parallelizing linear
    recurrent neural nets over sequence length, 2018, arXiv:1709.04057.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> deep = jrnn.Stack((jrnn.MinGRU(8), jrnn.Dense(8, activation="tanh"), jrnn.LRU(8)))
    >>> params = deep.init(jax.random.key(0), in_features=3)
    >>> jrnn.unroll(deep, params, jnp.ones((1000, 3)), method=jrnn.Associative())[1].shape
    (1000, 8)
    """

    tree: bool | None = None
    otherwise: Method | None = None

    def run(self, loop: Loop[Any, Any, Any]) -> tuple[Any, Any]:
        """Return the carry after the last step, and the outputs of all steps."""
        if not is_linear(loop.cell) and self.otherwise is not None:
            return self.otherwise.run(loop)
        return self.run_stretch(loop, None)

    def splits(self, cell: Any) -> bool:
        """True if the steps of this cell may be split over devices, False if `otherwise` runs it."""
        return is_linear(cell) or self.otherwise is None

    def run_stretch(self, loop: Loop[Any, Any, Any], axis: Any) -> tuple[Any, Any]:
        """Run the stretch that this device has of a loop whose steps are split over an axis of a mesh."""
        if not is_linear(loop.cell):
            raise ValueError(
                f"method=Associative() needs a cell with linear = True, got {brief(loop.cell)}; "
                "Associative(otherwise=Scan()) runs other cells by Scan"
            )
        if axis is not None and trace_loop(loop, precompute_all=True).staged is None:
            raise ValueError(
                f"{brief(loop.cell)} prints or calls back, so its steps cannot be split over devices"
            )
        prepared = prepare(loop, _solver(How(self.tree, loop.reset is not None, axis)), precompute_all=True)
        return prepared.finish(*prepared.run_stages(prepared.consts, prepared.carry, prepared.xs))


@cached
def _solver(how: How) -> Any:
    return functools.partial(solve_parts, functools.partial(_solve_affine, how), how.axis)


@cached
def solve_parts(
    solve_part: _SolvePart, axis: Any, stage: Stage, program: Program, length: int, reverse: bool
) -> Any:
    """A stage solved part by part, and then its outputs: `(consts, carry, xs) -> (carry, ys)`.

    Args:
      solve_part: solves a part whose entries of the carry are floats.
      axis: the mesh axis over which the steps are split, inside `shard_map`; None: they are not.
      stage: a stage with a carry.
      program: the step that contains it.
      length: number of steps.
      reverse: run from the last step to the first.
    """
    parts = cycles(stage, program)
    outputs = replace(stage, carry_pairs=(), xs=parts[-1].xs + parts[-1].carry_in)

    def run(consts: Any, carry: Any, xs: Any) -> Any:
        initial = dict(zip(stage.carry_in, carry, strict=True))
        # `env` has arrays of all steps: inputs, and the carry before each step of parts already solved.
        env: Env = dict(zip(stage.xs, xs, strict=True))
        states: Env = {}  # after each step
        ends: Env = {}
        for part in parts:
            arrays = PartArrays(consts, read(initial, part.carry_in), read(env, part.xs))
            if all(is_inexact(program.types[value]) for value in part.carry_in):
                found = solve_part(part, program, arrays, length, reverse)
            else:  # e.g. keys that advance
                found = _scanned(step_of(part), arrays, length, reverse, axis)
            for (before, after), solved in zip(part.carry_pairs, found, strict=True):
                states[after], env[before], ends[before] = solved
        # With all states known, no step depends on another: the outputs of all are computed at once.
        mapped = jax.vmap(functools.partial(step_of(outputs), consts, ()), axis_size=length)
        ys = dict(zip(stage.ys, mapped(read(env, outputs.xs))[1], strict=True))
        return read(ends, stage.carry_in), read(ys | states, stage.ys)

    return run


def _solve_affine(
    how: How, part: Stage, program: Program, arrays: PartArrays, length: int, reverse: bool
) -> list[Solved]:
    """The states of an entry that is affine in itself.

    A step s ← a s + b gives b at s = 0, and a as its derivative along ones: both for all steps at once.
    """
    if len(part.carry_pairs) > 1:
        raise ValueError(
            "method=Associative(): entries of the state depend on each other, so the cell is not linear"
        )
    consts, (start,), xs = arrays
    step = functools.partial(step_of(part), consts)
    zero = broadcast_over_steps(jnp.zeros_like(start), length)
    (b,), (a,) = jax.jvp(
        lambda before: jax.vmap(step, axis_size=length)((before,), xs)[1], (zero,), (jnp.ones_like(zero),)
    )
    return [solve_all(a, b, start, how, reverse=reverse)]


def _scanned(step: Any, arrays: PartArrays, length: int, reverse: bool, axis: Any) -> list[Solved]:
    """States of entries that are no floats, such as keys that advance: one step after the other.

    If the steps are split over devices, each takes all of them and keeps those of its stretch.
    """
    consts, start, xs = arrays
    if axis is not None:
        xs = joined_everywhere(xs, axis)
        length = length * lax.axis_size(axis)
    end, after = lax.scan(functools.partial(step, consts), start, xs, length=length, reverse=reverse)
    before = [shift(leaf, first, reverse) for leaf, first in zip(after, start, strict=True)]
    if axis is not None:
        after, before = own_stretch((after, before), axis)
        end = equal_everywhere(end, axis)
    return list(map(Solved, after, before, end))
