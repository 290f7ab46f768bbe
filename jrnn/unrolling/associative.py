"""Linear recurrences, solved for all steps at once."""

import functools
import itertools
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jrnn._caching import cached
from jrnn._checks import brief
from jrnn._jaxprs.programs import Env, Program, dce, is_inexact, read
from jrnn.cell import is_linear
from jrnn.unrolling._engine import broadcast_over_steps, prepare
from jrnn.unrolling._loops import step_of
from jrnn.unrolling._staging import Stage
from jrnn.unrolling.methods import Loop, Method

_BLOCKS = 16  # of a tree

_How = tuple[bool | None, bool]  # by a tree or a loop, with resets or without
_Product = Callable[[Array, Array], Array]


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
        if not is_linear(loop.cell):
            if self.otherwise is not None:
                return self.otherwise.run(loop)
            raise ValueError(
                f"method=Associative() needs a cell with linear = True, got {brief(loop.cell)}; "
                "Associative(otherwise=Scan()) runs other cells by Scan"
            )
        prepared = prepare(loop, _SOLVERS[self.tree, loop.reset is not None], precompute=True)
        return prepared.finish(*prepared.scan(prepared.consts, prepared.carry, prepared.xs))


@cached
def _solver(how: _How, stage: Stage, program: Program, length: int, reverse: bool) -> Any:
    """A stage solved part by part, and then its outputs: `(consts, carry, xs) -> (carry, ys)`."""
    parts = _parts(stage, program)
    outputs = replace(stage, carry=(), xs=parts[-1].xs + parts[-1].carry_in)

    def run(consts: Any, carry: Any, xs: Any) -> Any:
        initial = dict(zip(stage.carry_in, carry, strict=True))
        # `env` has arrays of all steps: inputs, and the carry before each step of parts already solved.
        env: Env = dict(zip(stage.xs, xs, strict=True))
        states: Env = {}  # after each step
        for part in parts:
            step = functools.partial(step_of(part), consts)
            start, part_xs = read(initial, part.carry_in), read(env, part.xs)
            if all(map(is_inexact, start)):
                after = _solved(step, start, part_xs, length, reverse, how)
            else:  # e.g. keys that advance
                after = lax.scan(step, start, part_xs, length=length, reverse=reverse)[1]
            states.update(zip(part.ys, after, strict=True))
            for value, state, before in zip(part.carry_in, after, start, strict=True):
                env[value] = shift(state, before, reverse)
        # With all states known, no step depends on another: the outputs of all are computed at once.
        mapped = jax.vmap(functools.partial(step_of(outputs), consts, ()), axis_size=length)
        ys = dict(zip(stage.ys, mapped(read(env, outputs.xs))[1], strict=True))
        ends = (states[after][0 if reverse else -1] for after in stage.carry_out)
        return tuple(ends), read(ys | states, stage.ys)

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


def _solved(step: Any, start: Any, xs: Any, length: int, reverse: bool, how: _How) -> Any:
    """States after all steps, of entries that are affine in themselves and independent of each other.

    A step s ← a s + b gives b at s = 0, and a as its derivative along ones: both for all steps at once.
    """
    zero = tuple(broadcast_over_steps(jnp.zeros_like(c), length) for c in start)
    one = tuple(jnp.ones_like(z) for z in zero)
    b, a = jax.jvp(lambda before: jax.vmap(step, axis_size=length)(before, xs)[1], (zero,), (one,))
    return tuple(solve(*entry, *how, reverse=reverse) for entry in zip(a, b, start, strict=True))


def solve(
    a: Array, b: Array, start: Array, tree: bool | None = None, resets: bool = False, *, reverse: bool = False
) -> Array:
    """Solve a linear recurrence for all states.

        sₜ = aₜ · sₜ₋₁ + bₜ,   s₋₁ = start

    Args:
      a: (time, ...), factors.
      b: (time, ...), summands.
      start: (...), the state before the first step.
      tree: as for `Associative`.
      resets: whether some factors are 0 because a sequence starts there.
      reverse: run from the last step to the first.

    Returns:
      (time, ...), the states.
    """
    # With a · start added to b at the first step, the recurrence starts from zero.
    first = -1 if reverse else 0
    b = b.at[first].add(a[first] * start)

    def scan(a: Array, b: Array, reverse: bool) -> Array:
        times = _cut if resets else operator.mul
        loop, join = _loop(reverse, times), _tree(reverse, times)
        if not isinstance(a.shape[0], int):  # a symbolic axis of jax.export, which a tree cannot divide
            return loop(a, b)
        if tree is None:
            return lax.platform_dependent(a, b, cpu=loop, default=join)
        return (join if tree else loop)(a, b)

    # The transposed system is a recurrence too, in the other direction, with the factors of the next step.
    def transposed(_: Any, adjoint: Array) -> Array:
        return scan(shift(a, jnp.zeros_like(start), not reverse), adjoint, not reverse)

    return lax.custom_linear_solve(
        lambda s: s - a * shift(s, jnp.zeros_like(start), reverse),
        b,
        lambda _, right: scan(a, right, reverse),
        transposed,
    )


def shift(states: Array, start: Array, reverse: bool) -> Array:
    """The state before each step: `start`, then the states of the previous steps."""
    return jnp.concatenate([states[1:], start[None]] if reverse else [start[None], states[:-1]])


def _cut(a: Array, state: Array) -> Array:
    """The product; 0 where a is 0, so that NaN or inf in one sequence does not pass the reset of the next."""
    return jnp.where(a == 0, jnp.zeros_like(state), a * state)


def _loop(reverse: bool, times: _Product) -> Callable[[Array, Array], Array]:
    def step(state: Array, pair: tuple[Array, Array]) -> tuple[Array, Array]:
        state = times(pair[0], state) + pair[1]
        return state, state

    return lambda a, b: lax.scan(step, jnp.zeros_like(b[0]), (a, b), reverse=reverse)[1]


def _tree(reverse: bool, times: _Product) -> Callable[[Array, Array], Array]:
    """A tree per block of steps, blocks in sequence: a tree over all steps takes more memory."""

    def join(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        return times(second[0], first[0]), times(second[0], first[1]) + second[1]

    def run(a: Array, b: Array) -> Array:
        length, first = len(b), -1 if reverse else 0
        block = -(-length // _BLOCKS)

        def fill(number: Array, states: Array) -> Array:
            begin = jnp.minimum(number * block, length - block)  # the last block overlaps the one before
            begin = length - block - begin if reverse else begin
            # the step visited before the block; before the first block it is clipped to one that is still 0
            edge = begin + block if reverse else begin - 1
            before = lax.dynamic_index_in_dim(states, jnp.clip(edge, 0, length - 1), keepdims=False)
            factors, added = (lax.dynamic_slice_in_dim(x, begin, block) for x in (a, b))
            added = added.at[first].add(times(factors[first], before))
            solved = lax.associative_scan(join, (factors, added), reverse=reverse)[1]
            return lax.dynamic_update_slice_in_dim(states, solved, begin, 0)

        return lax.fori_loop(0, -(-length // block), fill, jnp.zeros_like(b))

    return run


_SOLVERS = {
    how: functools.partial(_solver, how) for how in itertools.product((None, True, False), (False, True))
}
