"""Linear recurrences, solved for all steps at once."""

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jrnn._caching import cached
from jrnn._checks import brief
from jrnn._jaxprs.programs import Env, Program, dce, is_inexact, read
from jrnn.cell import is_linear
from jrnn.unrolling._engine import broadcast_over_steps, prepare, trace_loop
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
      otherwise: the method for cells that are not linear; None: raise.

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

    def run_stretch(self, loop: Loop[Any, Any, Any], axis: Any) -> tuple[Any, Any]:
        """Run the stretch that this device has of a loop whose steps are split over an axis of a mesh."""
        if not is_linear(loop.cell):
            raise ValueError(
                f"method=Associative() needs a cell with linear = True, got {brief(loop.cell)}; "
                "Associative(otherwise=Scan()) runs other cells by Scan"
            )
        if axis is not None and trace_loop(loop, precompute=True).staged is None:
            raise ValueError(
                f"{brief(loop.cell)} prints or calls back, so its steps cannot be split over devices"
            )
        prepared = prepare(loop, _runner(How(self.tree, loop.reset is not None, axis)), precompute=True)
        return prepared.finish(*prepared.scan(prepared.consts, prepared.carry, prepared.xs))


@cached
def _runner(how: How) -> Any:
    return functools.partial(_solver, how)


@cached
def _solver(how: How, stage: Stage, program: Program, length: int, reverse: bool) -> Any:
    """A stage solved part by part, and then its outputs: `(consts, carry, xs) -> (carry, ys)`."""
    parts = _parts(stage, program)
    outputs = replace(stage, carry=(), xs=parts[-1].xs + parts[-1].carry_in)

    def run(consts: Any, carry: Any, xs: Any) -> Any:
        initial = dict(zip(stage.carry_in, carry, strict=True))
        # `env` has arrays of all steps: inputs, and the carry before each step of parts already solved.
        env: Env = dict(zip(stage.xs, xs, strict=True))
        states: Env = {}  # after each step
        ends: Env = {}
        for part in parts:
            start, part_xs = read(initial, part.carry_in), read(env, part.xs)
            run_part = _solved if all(map(is_inexact, start)) else _scanned  # e.g. keys that advance
            found = run_part(step_of(part), (consts, start, part_xs), length, reverse, how)
            for (before, after), solved in zip(part.carry, found, strict=True):
                states[after], env[before], ends[before] = solved
        # With all states known, no step depends on another: the outputs of all are computed at once.
        mapped = jax.vmap(functools.partial(step_of(outputs), consts, ()), axis_size=length)
        ys = dict(zip(stage.ys, mapped(read(env, outputs.xs))[1], strict=True))
        return read(ends, stage.carry_in), read(ys | states, stage.ys)

    return run


def _parts(stage: Stage, program: Program) -> list[Stage]:
    """Split a stage so that within a part no entry of the carry depends on another.

    With two layers without a matmul between them, h ← a h + x and s ← a s + h, h is solved first; its states
    are then inputs of s.
    """
    depends = {}  # entry -> the others that its next value depends on
    for pair in stage.carry:
        read_by = {pair[1]}.union(*(op.inputs for op in dce(stage.ops, [pair[1]])))
        depends[pair] = read_by.intersection(stage.carry_in) - {pair[0]}
    parts: list[Stage] = []
    left, xs = list(stage.carry), stage.xs
    while left:
        unsolved = {before for before, _ in left}
        ready = [pair for pair in left if not depends[pair].intersection(unsolved)]
        if not ready:
            raise ValueError(
                "method=Associative(): entries of the state depend on each other, so the cell is not linear"
            )
        inexact = is_inexact(program.types[ready[0][0]])
        ready = [pair for pair in ready if is_inexact(program.types[pair[0]]) == inexact]
        after = tuple(b for _, b in ready)
        ops = tuple(dce(stage.ops, after))
        parts.append(replace(stage, ops=ops, carry=tuple(ready), xs=xs, ys=after))
        left, xs = [pair for pair in left if pair not in ready], xs + parts[-1].carry_in
    return parts


def _solved(step: Any, arrays: Any, length: int, reverse: bool, how: How) -> list[Solved]:
    """States of entries that are affine in themselves and independent of each other.

    A step s ← a s + b gives b at s = 0, and a as its derivative along ones: both for all steps at once.
    """
    consts, start, xs = arrays
    zero = tuple(broadcast_over_steps(jnp.zeros_like(c), length) for c in start)
    one = tuple(jnp.ones_like(z) for z in zero)
    b, a = jax.jvp(
        lambda before: jax.vmap(functools.partial(step, consts), axis_size=length)(before, xs)[1],
        (zero,),
        (one,),
    )
    return [solve_all(*entry, how, reverse=reverse) for entry in zip(a, b, start, strict=True)]


def _scanned(step: Any, arrays: Any, length: int, reverse: bool, how: How) -> list[Solved]:
    """States of entries that are no floats, such as keys that advance: one step after the other.

    If the steps are split over devices, each takes all of them and keeps those of its stretch.
    """
    consts, start, xs = arrays
    if how.axis is not None:
        xs = joined_everywhere(xs, how.axis)
        length = length * lax.axis_size(how.axis)
    end, after = lax.scan(functools.partial(step, consts), start, xs, length=length, reverse=reverse)
    before = [shift(leaf, first, reverse) for leaf, first in zip(after, start, strict=True)]
    if how.axis is not None:
        after, before = own_stretch((after, before), how.axis)
        end = equal_everywhere(end, how.axis)
    return list(map(Solved, after, before, end))
