"""Elementwise linear recurrences, solved for all states, the steps on one device or split over several."""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jrnn._alignment import expand, varied, varying_axes

BLOCKS = 16  # of a tree

_Product = Callable[[Array, Array], Array]


class How(NamedTuple):
    """The way in which a recurrence is solved."""

    tree: bool | None = None  # by a tree, by a loop, or None: a loop on CPUs
    resets: bool = False  # some factors are 0 because a sequence starts there
    axis: Any = None  # the mesh axis over which the steps are split, inside `shard_map`
    mend: bool = True  # what a tree finds that is not finite is found again, by a loop


class Solved(NamedTuple):
    """The states of a recurrence."""

    after: Array  # (time, ...), after each step
    before: Array  # (time, ...), before each step
    end: Array  # (...), after the last step visited, of all stretches


def solve_all(a: Array, b: Array, start: Array, how: How, *, reverse: bool) -> Solved:
    """Solve sₜ = aₜ · sₜ₋₁ + bₜ for the states before and after each step."""
    if how.axis is not None:
        return _solve_stretch(a, b, start, how, reverse)
    return solved(solve(a, b, start, how.tree, how.resets, reverse=reverse), start, reverse)


def solved(after: Array, start: Array, reverse: bool) -> Solved:
    """The states of a recurrence, from those after each step."""
    return Solved(after, shift(after, start, reverse), after[0 if reverse else -1])


def solve(
    a: Array,
    b: Array,
    start: Array,
    tree: bool | None = None,
    resets: bool = False,
    *,
    reverse: bool = False,
    mend: bool = True,
) -> Array:
    """Solve a linear recurrence for all states.

        sₜ = aₜ · sₜ₋₁ + bₜ,   s₋₁ = start

    Args:
      a: (time, ...), factors; or (time, ..., n, n), matrices that multiply vectors (..., n).
      b: (time, ...), summands.
      start: (...), the state before the first step.
      tree: as for `Associative`.
      resets: whether some factors are 0 because a sequence starts there.
      reverse: run from the last step to the first.
      mend: find what a tree finds that is not finite again, by a loop.

    Returns:
      (time, ...), the states.
    """
    how, matrices = How(tree, resets, mend=mend), a.ndim > b.ndim
    times: _Product = _matmul if matrices else operator.mul  # not cut, so that a factor of 0 has a derivative
    # With a · start added to b at the first step, the recurrence starts from zero.
    first = -1 if reverse else 0
    b = b.at[first].add(times(a[first], start))

    # The transposed system is a recurrence too, in the other direction, with the factors of the next step.
    def transposed(_: Any, adjoint: Array) -> Array:
        factors = shift(a, jnp.zeros_like(a[0]), not reverse)
        return _scan(jnp.swapaxes(factors, -1, -2) if matrices else factors, adjoint, how, not reverse)

    return lax.custom_linear_solve(
        lambda s: s - times(a, shift(s, jnp.zeros_like(start), reverse)),
        b,
        lambda _, right: _scan(a, right, how, reverse),
        transposed,
    )


def _solve_stretch(a: Array, b: Array, start: Array, how: How, reverse: bool) -> Solved:
    """The stretch of steps that this device has; `start` counts on the device that is visited first.

    The unknowns are the state before the stretch and those after its steps:

        u₀ = the last u of the stretch before,   uₜ₊₁ = aₜ uₜ + bₜ

    No factor stands in an equation that two devices share, so that a derivative by it reads no other device.
    The transposed system has this form too, in the other direction, with the same factors: either takes one
    all-gather, of the product of the factors of a stretch and its end from zero.
    """
    axis, count = how.axis, lax.axis_size(how.axis)
    first, last = (-1, 0) if reverse else (0, -1)  # in the order of visits
    opens, closes = (lax.axis_index(axis) == at % count for at in (first, last))

    def matvec(u: Array) -> Array:
        handed = lax.ppermute(u[last], axis, _onward(count, reverse))
        return _joined(u[first] - handed, _after(u, reverse) - a * _before(u, reverse), reverse)

    a, b = (varied(leaf, (axis,)) for leaf in (a, b))
    u = lax.custom_linear_solve(
        matvec,
        _joined(jnp.where(opens, start, jnp.zeros_like(start)), b, reverse),
        lambda _, right: _across(a, right, how, reverse),
        lambda _, adjoint: _across(a, adjoint, how, not reverse),
    )
    end = lax.psum(jnp.where(closes, u[last], jnp.zeros_like(u[last])), axis)
    return Solved(_after(u, reverse), _before(u, reverse), end)


def _across(a: Array, b: Array, how: How, reverse: bool) -> Array:
    """The states of this stretch, the one before it included."""
    first = -1 if reverse else 0
    opening, b = b[first], _after(b, reverse)
    times = _times(how)
    total = jnp.stack(_total(a, b, opening, how, reverse))[None]
    factors, ends = jnp.moveaxis(lax.all_gather(total, how.axis, tiled=True), 1, 0)

    def hand_on(state: Array, pair: tuple[Array, Array]) -> tuple[Array, Array]:
        return times(pair[0], state) + pair[1], state

    _, starts = lax.scan(hand_on, jnp.zeros_like(ends[0]), (factors, ends), reverse=reverse)
    found = opening + lax.dynamic_index_in_dim(starts, lax.axis_index(how.axis), keepdims=False)
    # A product of factors overflows where the states do not, as in `_mended`.
    wrong = ~jnp.isfinite(starts).all(), found
    in_turn = functools.partial(_in_turn, a, b, opening, how, reverse)
    opening = lax.while_loop(lambda now: now[0], lambda now: (now[0] & False, in_turn()), wrong)[1]
    states = _scan(a, b.at[first].add(times(a[first], opening)), how, reverse)
    return _joined(opening, states, reverse)


def _in_turn(a: Array, b: Array, opening: Array, how: How, reverse: bool) -> Array:
    """The state before this stretch, from one stretch after the other, by loops."""
    times, count = _times(how), lax.axis_size(how.axis)

    def handed(_: Any, state: Array) -> Array:
        end = lax.scan(lambda s, at: (times(at[0], s) + at[1], None), state, (a, b), reverse=reverse)[0]
        return opening + lax.ppermute(end, how.axis, _onward(count, reverse))

    return lax.fori_loop(1, count, handed, opening)


def _onward(count: int, reverse: bool) -> list[tuple[int, int]]:
    """From each stretch to the one visited after it."""
    return [(at, at - 1) if reverse else (at - 1, at) for at in range(1, count)]


def _total(a: Array, b: Array, start: Array, how: How, reverse: bool) -> tuple[Array, Array]:
    """The product of all factors, and the state after all steps."""
    times = _times(how)
    b = b.at[-1 if reverse else 0].add(times(a[-1 if reverse else 0], start))

    def loop(a: Array, b: Array) -> tuple[Array, Array]:
        def step(before: tuple[Array, Array], pair: tuple[Array, Array]) -> tuple[Any, None]:
            return _join(times)(before, pair), None

        return lax.scan(step, (jnp.ones_like(a[0]), jnp.zeros_like(b[0])), (a, b), reverse=reverse)[0]

    def tree(a: Array, b: Array) -> tuple[Array, Array]:
        found = lax.associative_scan(_join(times), (a, b), reverse=reverse)
        return found[0][0 if reverse else -1], found[1][0 if reverse else -1]

    return _by(how, loop, tree, a, b)


def depth(length: int) -> int:
    """Products that wait for each other in a tree over this many steps."""
    block = -(-length // BLOCKS)
    return 2 * -(-length // block) * (block - 1).bit_length()


def shift(states: Array, start: Array, reverse: bool) -> Array:
    """The state before each step: `start`, then the states of the previous steps."""
    return _joined(start, states[1:] if reverse else states[:-1], reverse)


def _joined(first: Array, rest: Array, reverse: bool) -> Array:
    """An entry, and those that are visited after it."""
    return jnp.concatenate([rest, first[None]] if reverse else [first[None], rest])


def _before(u: Array, reverse: bool) -> Array:
    return u[1:] if reverse else u[:-1]


def _after(u: Array, reverse: bool) -> Array:
    return u[:-1] if reverse else u[1:]


def equal_everywhere(tree: Any, axis: Any) -> Any:
    """Arrays that are equal on all devices, as JAX should see them."""

    def visit(leaf: Array) -> Array:
        if axis not in varying_axes(jax.typeof(leaf)):
            return leaf
        return lax.all_gather(leaf[None], axis, tiled=True, to="invarying")[0]

    return jax.tree.map(visit, tree)


def joined_everywhere(tree: Any, axis: Any) -> Any:
    """Arrays of all steps, from those of each stretch, of the same type."""

    def visit(leaf: Array) -> Array:
        to = "varying" if axis in varying_axes(jax.typeof(leaf)) else "invarying"
        return lax.all_gather(varied(leaf, (axis,)), axis, tiled=True, to=to)

    return jax.tree.map(visit, tree)


def own_stretch(tree: Any, axis: Any) -> Any:
    """The steps of this device, of arrays of all steps."""

    def visit(leaf: Array) -> Array:
        size = len(leaf) // lax.axis_size(axis)
        return lax.dynamic_slice_in_dim(leaf, lax.axis_index(axis) * size, size)

    return jax.tree.map(visit, tree)


def _scan(a: Array, b: Array, how: How, reverse: bool) -> Array:
    """The states from zero."""
    times = _times(how, a.ndim > b.ndim)
    loop, tree = _loop(reverse, times), _tree(reverse, times)
    if how.mend:
        tree = functools.partial(_mended, tree, loop)
    if not isinstance(a.shape[0], int):  # a symbolic axis of jax.export, which a tree cannot divide
        return loop(a, b)
    found: Array = _by(how, loop, tree, a, b)
    return found


def _mended(tree: _Product, loop: _Product, a: Array, b: Array) -> Array:
    """The result of a tree, or if that is not finite, of a loop.

    A product of factors overflows where the states do not: inf · 0 is NaN. A `while` of at most one turn, as
    `vmap` would run both branches of a `cond`.
    """
    found = tree(a, b)
    first = ~jnp.isfinite(found).all(), found
    return lax.while_loop(lambda now: now[0], lambda now: (now[0] & False, loop(a, b)), first)[1]


def _by(how: How, loop: Any, tree: Any, *arrays: Array) -> Any:
    if how.tree is None:
        return lax.platform_dependent(*arrays, cpu=loop, default=tree)
    return (tree if how.tree else loop)(*arrays)


def _times(how: How, matrices: bool = False) -> _Product:
    times: _Product = _matmul if matrices else operator.mul
    return functools.partial(_cut, times, (-1, -2) if matrices else ()) if how.resets else times


def _cut(times: _Product, axes: tuple[int, ...], a: Array, state: Array) -> Array:
    """The product; 0 where a is 0, so that NaN or inf in one sequence does not pass the reset of the next."""
    product = times(a, state)
    return jnp.where(expand((a == 0).all(axes), product.ndim), jnp.zeros_like(product), product)


def _matmul(a: Array, state: Array) -> Array:
    """Matrices times matrices, or times vectors if `state` has one axis less."""
    if state.ndim < a.ndim:
        return _matmul(a, state[..., None])[..., 0]
    return jnp.matmul(a, state, precision=lax.Precision.HIGHEST)


def _loop(reverse: bool, times: _Product) -> Callable[[Array, Array], Array]:
    def step(state: Array, pair: tuple[Array, Array]) -> tuple[Array, Array]:
        state = times(pair[0], state) + pair[1]
        return state, state

    return lambda a, b: lax.scan(step, jnp.zeros_like(b[0]), (a, b), reverse=reverse)[1]


def _join(times: _Product) -> Callable[..., tuple[Array, Array]]:
    def join(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        return times(second[0], first[0]), times(second[0], first[1]) + second[1]

    return join


def _tree(reverse: bool, times: _Product) -> Callable[[Array, Array], Array]:
    """A tree per block of steps, blocks in sequence: a tree over all steps takes more memory."""

    def run(a: Array, b: Array) -> Array:
        length, first = len(b), -1 if reverse else 0
        block = -(-length // BLOCKS)

        def fill(number: Array, states: Array) -> Array:
            begin = jnp.minimum(number * block, length - block)  # the last block overlaps the one before
            begin = length - block - begin if reverse else begin
            # the step visited before the block; before the first block it is clipped to one that is still 0
            edge = begin + block if reverse else begin - 1
            before = lax.dynamic_index_in_dim(states, jnp.clip(edge, 0, length - 1), keepdims=False)
            factors, added = (lax.dynamic_slice_in_dim(x, begin, block) for x in (a, b))
            added = added.at[first].add(times(factors[first], before))
            within = lax.associative_scan(_join(times), (factors, added), reverse=reverse)[1]
            return lax.dynamic_update_slice_in_dim(states, within, begin, 0)

        return lax.fori_loop(0, -(-length // block), fill, jnp.zeros_like(b))

    return run
