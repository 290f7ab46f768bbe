"""A recurrence as a system of equations for all of its states, solved by Newton's method.

    rₜ(s) = f(sₜ₋₁, xₜ) − sₜ = 0,   Jₜ = ∂f(sₜ₋₁, xₜ)/∂sₜ₋₁
    s ← s + δ,   δₜ = Jₜ δₜ₋₁ + rₜ             one linear recurrence for all steps

After k iterations the first k states are exact. The correction δ is solved for, not the state, so that
rounding in products of Jacobians does not reach a state that has converged. With damping μ, δ is the mean of
a Kalman filter: δₜ = Jₜ δₜ₋₁ + rₜ + noise of variance 1, of which 0 is observed with variance 1 / μ.

The derivative is that of the solution: δs solves the linear recurrence δsₜ = Jₜ δsₜ₋₁ + ∂f/∂(params, x), the
adjoint the transposed one. It reads the states alone, however they were found.

Here a residual is rₜ, the error of a state; in the loops of `Scan` it is what is saved for the backward pass.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jrnn._alignment import expand, promoted
from jrnn._caching import cached
from jrnn._jaxprs.programs import Program, read
from jrnn._states import ravel, unravel
from jrnn.unrolling._groups import Groups, groups_of
from jrnn.unrolling._loops import plain_scan, step_of
from jrnn.unrolling._recurrences import shift, solve
from jrnn.unrolling._staging import Stage


class Settings(NamedTuple):
    """The fields of `Newton`, and whether the loop has resets."""

    diagonal: bool  # iterate with the diagonal of the Jacobian alone
    tolerance: float | None
    iterations: int
    damping: float
    guess_a_step: bool  # where the caller gives no states
    tree: bool | None
    resets: bool
    batch_axes: int


class Solution(NamedTuple):
    """States after all steps, (time, rows..., n), and how they were found."""

    states: Array
    iterations: Array  # (rows...)
    recomputed: Array  # (time, rows...): True where a step was taken one by one


@dataclass(frozen=True, eq=False)
class System:
    """A loop whose state is vectors, (rows..., n): independent rows of n numbers that are not."""

    part: Stage
    types: tuple[Any, ...]  # of the entries of the carry
    groups: Groups

    @property
    def dtype(self) -> Any:
        """The dtype of the vectors, float32 at least."""
        return promoted(*(np.zeros((), t.dtype).real.dtype for t in self.types), jnp.float32)

    @property
    def tolerance(self) -> float:
        """A few roundings of the state of the least precision."""
        return 16 * max(
            2**-7 if t.dtype == jnp.bfloat16 else float(np.finfo(t.dtype).eps) for t in self.types
        )

    @property
    def bytes(self) -> int:
        """Bytes of the state as vectors."""
        lead = math.prod(self.types[0].shape[: self.groups.rows])
        return lead * self.groups.index.size * int(jnp.dtype(self.dtype).itemsize)

    @property
    def _order(self) -> Any:
        """Places of all numbers in a row, group by group; None if they are in order."""
        order = self.groups.index.ravel()
        return None if np.array_equal(order, np.arange(len(order))) and len(self.groups.index) == 1 else order

    def vectors(self, leaves: Any) -> Array:
        """The entries of a carry as vectors."""
        wide = [a.astype(promoted(a.dtype, self.dtype)) for a in leaves]
        row = ravel(wide, self.groups.rows)
        if self._order is None:
            return row
        if (self._order < 0).any():
            row = jnp.concatenate([row, jnp.zeros_like(row[..., :1])], -1)
        return row[..., self._order].reshape(*row.shape[:-1], *self.groups.index.shape)

    def leaves(self, vectors: Array) -> tuple[Array, ...]:
        """The entries of a carry, from vectors."""
        if self._order is not None:
            row = vectors.reshape(*vectors.shape[: self.groups.rows], -1)
            places = np.argsort(np.where(self._order < 0, len(self._order), self._order), kind="stable")
            vectors = row[..., places[: (self._order >= 0).sum()]]
        return tuple(unravel(vectors, self.types))

    def step(self, consts: Any, before: Array, x: Any) -> Array:
        """One step, (rows..., n) to (rows..., n)."""
        return self.vectors(step_of(self.part)(consts, self.leaves(before), x)[1])

    def steps(self, consts: Any, before: Array, xs: Any) -> Array:
        """All steps at once, each from a state of its own, (time, rows..., n)."""
        return jax.vmap(self.step, (None, 0, 0))(consts, before, xs)

    def jacobians(self, consts: Any, before: Array, xs: Any, diagonal: bool) -> Array:
        """Jₜ of all steps, (time, rows..., n, n), or their diagonals, (time, rows..., n)."""
        size = self.groups.size

        def column(unit: Array) -> Array:
            # sharded as the states
            moved = jnp.ones_like(before) * unit.reshape((1,) * (before.ndim - 1) + (size,))
            column = jax.jvp(lambda s: self.steps(consts, s, xs), (before,), (moved,))[1]
            return (column * moved).sum(-1) if diagonal else column

        units = jnp.eye(size, dtype=before.dtype)
        if size == 1:
            return column(units[0]).reshape(before.shape)
        columns = lax.map(column, units) if diagonal else jax.vmap(column)(units)
        return jnp.moveaxis(columns, 0, -1)

    def close(self, tolerance: float, states: Array, after: Array) -> Array:
        """(time, rows...), True where a state is that after its step, up to rounding of each entry.

        Infinite states have to be equal; NaN is close to nothing.
        """
        owner = self.groups.owner
        alike = (owner == owner[:1]).all()
        bounds = [0, *np.flatnonzero(np.diff(owner[0])) + 1] if alike else [0]

        def largest(a: Array) -> Array:
            ends = [*bounds[1:], a.shape[-1]]
            parts = [jnp.abs(a[..., i:j]).max(-1) for i, j in zip(bounds, ends, strict=True)]
            return jnp.stack(parts, -1)

        scale = _finite(largest(after))
        apart = jnp.where(after == states, jnp.zeros_like(after), after - states)
        return (largest(apart) <= tolerance * scale + np.finfo(self.dtype).tiny).all(-1)


@cached
def system_of(part: Stage, program: Program, batch_axes: int) -> System:
    """The vector form of a loop, all of whose entries are floating or complex."""
    return System(part, read(program.types, part.carry_in), groups_of(part, program, batch_axes))


class _Recurrence(NamedTuple):
    """The functions that an iteration needs of a recurrence sₜ = fₜ(sₜ₋₁)."""

    steps: Callable[[Array], Array]  # states before all steps -> states after them
    step: Callable[[Array, Array], Array]  # (t, the state before step t) -> the state after it
    jacobians: Callable[[Array], Array]  # states before all steps -> Jacobians, or their diagonals
    start: Array
    reverse: bool


def _iterate(system: System, settings: Settings, recurrence: _Recurrence, guess: Array) -> Solution:
    """Newton's method from a guess of all states; rows that are done stay as they are."""
    tolerance = system.tolerance if settings.tolerance is None else settings.tolerance
    start, reverse = recurrence.start, recurrence.reverse
    guess = lax.optimization_barrier(guess)  # else XLA computes with it while it compiles, if it is constant

    def residuals(states: Array) -> tuple[Array, Array]:
        before = shift(states, start, reverse)
        after = recurrence.steps(before)
        close = system.close(tolerance, states, after)
        # What depends on a state without a derivative, as a comparison does, is not seen in the Jacobian: so
        # a row of the batch is certified as a whole.
        within = tuple(range(1 + settings.batch_axes, close.ndim))
        return _finite(after - states), jnp.broadcast_to(close.all(within, keepdims=True), close.shape)

    def unfinished(current: Any) -> Array:
        number, _, (_, close), _ = current
        return (number < settings.iterations) & (~close.all() | (number == 0))

    def iteration(current: Any) -> Any:
        number, states, (residual, close), used = current
        done = close.all(0) & (number > 0)  # a small residual of the guess may sum up: at least one iteration
        factors = _finite(recurrence.jacobians(shift(states, start, reverse)))
        if settings.damping:
            change = damped(factors, residual, settings.damping, reverse)
        else:
            zero, how = jnp.zeros_like(start), (settings.tree, settings.resets)
            change = solve(factors, residual, zero, *how, reverse=reverse, mend=False)  # the next may do
        moved = states + change
        moved = jnp.where(jnp.isfinite(moved), moved, guess)
        states = jnp.where(done[None, ..., None], states, moved)
        return number + 1, states, residuals(states), used + (~done).astype(used.dtype)

    first = residuals(guess)
    none = first[1][0].astype(jnp.int32) * 0
    _, states, (_, close), used = lax.while_loop(unfinished, iteration, (jnp.int32(0), guess, first, none))
    # what is returned is a step from what was certified, a rounding away from it rather than the tolerance
    states = jnp.where(close[..., None], recurrence.steps(shift(states, start, reverse)), states)
    certified = lax.cumprod(close.astype(jnp.int32), 0, reverse).sum(0, dtype=jnp.int32)
    return _one_by_one(recurrence, states, jnp.where(close.all(0), len(states), certified), used)


def _one_by_one(recurrence: _Recurrence, states: Array, certified: Array, used: Array) -> Solution:
    """Take the steps after the first `certified` ones of each row in order."""
    length, start, reverse = len(states), recurrence.start, recurrence.reverse

    def step(current: tuple[Array, Array]) -> tuple[Array, Array]:
        number, states = current
        at = length - 1 - number if reverse else number
        earlier = jnp.clip(at + 1 if reverse else at - 1, 0, length - 1)
        before = jnp.where(number == 0, start, lax.dynamic_index_in_dim(states, earlier, keepdims=False))
        known = lax.dynamic_index_in_dim(states, at, keepdims=False)
        after = jnp.where((number < certified)[..., None], known, recurrence.step(at, before))
        return number + 1, lax.dynamic_update_index_in_dim(states, after, at, 0)

    first = certified.min(initial=length)
    states = lax.while_loop(lambda current: current[0] < length, step, (first, states))[1]
    order = jnp.arange(length, dtype=jnp.int32)
    visited = expand(jnp.flip(order) if reverse else order, 1 + certified.ndim)
    return Solution(states, used, visited >= certified[None])


def _finite(a: Array) -> Array:
    """Zero in the place of what has overflowed, so that it reaches no earlier row or later sequence."""
    return jnp.where(jnp.isfinite(a), a, jnp.zeros_like(a))


def damped(factors: Array, residual: Array, damping: float, reverse: bool) -> Array:
    """The corrections δ kept small by damping, the means of a Kalman filter, by an associative scan.

    δₜ is the last of those that minimize Σ |δ − J δ₋₁ − r|² + μ Σ |δ|² over the steps up to t.

    Args:
      factors: (time, rows..., n, n), or for their diagonals (time, rows..., n).
      residual: (time, rows..., n).
      damping: μ.
      reverse: run from the last step to the first.

    Reference: Särkkä, García-Fernández, Temporal parallelization of Bayesian smoothers, 2021,
    arXiv:1905.13002.
    """
    vector = factors.ndim == residual.ndim
    a = factors[..., None, None] if vector else factors  # (time, rows..., n, n), or n matrices of one number
    r = residual[..., None, None] if vector else residual[..., None]
    a = a.at[-1 if reverse else 0].set(0)  # nothing precedes the first step
    gain = damping / (1 + damping)
    eye = jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape)
    back = jnp.swapaxes(a, -1, -2)

    def join(first: Any, second: Any) -> Any:
        a1, b1, c1, e1, j1 = first
        a2, b2, c2, e2, j2 = second
        unit = jnp.broadcast_to(jnp.eye(a1.shape[-1], dtype=a1.dtype), a1.shape)
        # Its transpose is (I + J₂ C₁)⁻¹, as C and J are symmetric. To compute both is slower, and solvers of
        # LAPACK that run side by side can wait for one another for ever on a CPU.
        inverse = jnp.linalg.inv(unit + c1 @ j2)
        ahead = a2 @ inverse
        behind = jnp.swapaxes(inverse @ a1, -1, -2)
        return (
            ahead @ a1,
            ahead @ (b1 + c1 @ e2) + b2,
            ahead @ c1 @ jnp.swapaxes(a2, -1, -2) + c2,
            behind @ (e2 - j2 @ b1) + e1,
            behind @ j2 @ a1 + j1,
        )

    elements = ((1 - gain) * a, (1 - gain) * r, (1 - gain) * eye, -gain * back @ r, gain * back @ a)
    means = lax.associative_scan(join, elements, reverse=reverse)[1]
    return means[..., 0, 0] if vector else means[..., 0]


@cached
def states_of(system: System, settings: Settings, reverse: bool) -> Callable[..., Solution]:
    """States after all steps, `(consts, start, xs, guess) -> Solution`, with derivatives of every order."""

    def recurrence(consts: Any, start: Array, xs: Any) -> _Recurrence:
        at = functools.partial(jax.tree.map, lambda x, t: lax.dynamic_index_in_dim(x, t, keepdims=False), xs)
        return _Recurrence(
            lambda before: system.steps(consts, before, xs),
            lambda t, before: system.step(consts, before, at(jax.tree.map(lambda _: t, xs))),
            lambda before: system.jacobians(consts, before, xs, settings.diagonal),
            start,
            reverse,
        )

    def found_by(given: Any, _: Any, __: Any) -> Any:
        consts, start, xs, guess = given
        return (), _iterate(system, settings, recurrence(consts, start, xs), guess)

    @jax.custom_jvp
    def solution(*given: Any) -> Solution:
        # in a loop of one step, which is traced and compiled once for all calls
        stacked = plain_scan(found_by, False, 1)(given, (), ())[1]
        return Solution(*(a[0] for a in stacked))

    @solution.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        found = solution(*primals)
        consts, start, xs, _ = primals
        before = shift(found.states, start, reverse)

        def once_more(consts: Any, start: Array, xs: Any) -> Array:
            return system.steps(consts, shift(found.states, start, reverse), xs)

        direct = jax.jvp(once_more, primals[:3], tangents[:3])[1]
        if settings.diagonal and system.groups.size > 1:
            moved = _linear_states(system, settings, (consts, before, xs), direct, reverse)
        else:
            factors = system.jacobians(consts, before, xs, False)
            zero = jnp.zeros_like(start)
            moved = solve(factors, direct, zero, settings.tree, settings.resets, reverse=reverse)
        nothing: list[Any] = [np.zeros(a.shape, jax.dtypes.float0) for a in found[1:]]
        return found, Solution(moved, *nothing)

    return solution


def _linear_states(system: System, settings: Settings, at: Any, direct: Array, reverse: bool) -> Array:
    """δsₜ = Jₜ δsₜ₋₁ + direct terms, and its transpose, by the same iteration with the diagonal of J."""
    consts, before, xs = at
    zero = jnp.zeros_like(before[0])

    def push(moved: Array) -> Array:
        return jax.jvp(lambda s: system.steps(consts, s, xs), (before,), (moved,))[1]

    def step_at(t: Array) -> tuple[Callable[[Array], Array], Array]:
        state, x = jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, t, keepdims=False), (before, xs))
        return lambda s: system.step(consts, s, x), state

    def forward(_: Any, direct: Array) -> Array:
        def step(t: Array, moved: Array) -> Array:
            function, state = step_at(t)
            return jax.jvp(function, (state,), (moved,))[1] + direct[t]

        diagonal = system.jacobians(consts, before, xs, True)
        linear = _Recurrence(lambda s: push(s) + direct, step, lambda _: diagonal, zero, reverse)
        return _iterate(system, settings, linear, jnp.zeros_like(direct)).states

    def transposed(_: Any, direct: Array) -> Array:
        # λₜ = directₜ + Jₜ₊₁ᵀ λₜ₊₁: the state before step t of the adjoint is λₜ₊₁
        pull, length = jax.linear_transpose(push, before), len(before)

        def steps(later: Array) -> Array:
            (back,) = pull(shift(later, zero, reverse))
            return direct + shift(back, zero, not reverse)

        def step(t: Array, later: Array) -> Array:
            function, state = step_at(jnp.clip(t - 1 if reverse else t + 1, 0, length - 1))
            return jax.vjp(function, state)[1](later)[0] + direct[t]

        diagonal = shift(system.jacobians(consts, before, xs, True), zero, not reverse)
        linear = _Recurrence(steps, step, lambda _: diagonal, zero, not reverse)
        return _iterate(system, settings, linear, jnp.zeros_like(direct)).states

    back = transposed if _transposes(push, before) else None
    found = lax.custom_linear_solve(lambda s: s - push(shift(s, zero, reverse)), direct, forward, back)
    return found if back is not None else _forward_only(found)


def _forward_only(found: Array) -> Array:
    """The same by a `while` of no turns, for its error in reverse mode, which names that of the step."""
    never = jnp.zeros((), bool), found
    result: Array = lax.while_loop(lambda now: now[0], lambda now: (now[0], -now[1]), never)[1]
    return result


def _transposes(push: Callable[[Array], Array], like: Array) -> bool:
    """False if a step has forward derivatives alone, as one with a `while` in it."""
    try:
        jax.eval_shape(jax.linear_transpose(push, like), like)
    except ValueError:
        return False
    return True
