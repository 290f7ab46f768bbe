"""Fixed and slow points of a cell at a constant input, and their stability."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from jrnn._alignment import promoted
from jrnn._caching import cached
from jrnn._checks import check_lag, check_positive, check_width
from jrnn.analysis.projections import rows_of
from jrnn.analysis.states import begin, from_vector, linear_step, to_vector
from jrnn.cell import carry_spec, is_slot, structure_of
from jrnn.unrolling._other_loops import hoisted, types_of_step

NEWTON = 1e-5  # damping below which a step is Newton's
FLAT = 0.01  # largest slope of the speed at a slow point
AT_ONCE = 2**22  # entries of the Jacobians of the starts that are searched in parallel


class FixedPoints(NamedTuple):
    """Distinct fixed and slow points of h ↦ F(h, x), as found by `find_fixed_points`.

        τ = −1 / ln |λ|

    Sorted by kind: stable points, saddles with the fewest unstable directions first, unstable points, slow
    points. `states[kinds == "saddle"]` selects one kind.

    Fields:
      states: (n, D), h as a vector.
      speeds: (n,), ‖F(h, x) − h‖, the distance that one step moves the state.
      eigenvalues: (n, D), λ of ∂F/∂h, complex, the largest |λ| first.
      kinds: (n,), "stable", "saddle", "unstable" or "slow".
      starts: (n,), number of starts that led to the point.
      missed: number of starts that led to none.
    """

    states: NDArray[Any]
    speeds: NDArray[Any]
    eigenvalues: NDArray[Any]
    kinds: NDArray[np.str_]
    starts: NDArray[Any]
    missed: int

    @property
    def unstable(self) -> NDArray[Any]:
        """(n,), number of directions in which a small deviation does not shrink: |λ| ≥ 1."""
        return _unstable(self.eigenvalues)

    @property
    def time_constants(self) -> NDArray[Any]:
        """(n, D), τ: steps in which a deviation shrinks to 1/e; negative if it grows e-fold instead."""
        with np.errstate(divide="ignore"):
            return -1 / np.log(np.abs(self.eigenvalues))


def find_fixed_points(
    cell: Any,
    params: Any,
    x: Any,
    starts: Any,
    carry: Any = None,
    *,
    tolerance: float = 1e-5,
    slow: float = 1e-2,
    distance: float = 1e-2,
    steps: int = 200,
) -> FixedPoints:
    """Find the states that a step at a constant input does not move, or moves least.

        F(h, x) = h,   q(h) = ½ ‖F(h, x) − h‖²,   J = ∂F/∂h
        δ = −(AᵀA + μ I)⁻¹ Aᵀ (F(h, x) − h),   A = J − I

    From every start, Levenberg-Marquardt steps δ minimize q, of which saddles are minima too; μ decreases
    until the steps are those of Newton's method, δ = −A⁻¹ (F(h, x) − h). The end points are classified as

        stable      speed ‖F(h, x) − h‖ ≤ tolerance, and all |λ| < 1
        unstable    speed ≤ tolerance, and all |λ| ≥ 1
        saddle      speed ≤ tolerance, and some of both
        slow        tolerance < speed ≤ slow, and ‖∂speed/∂h‖ ≤ 0.01: no nearby state is much slower

    with the eigenvalues λ of J, where a modulus of 1 up to rounding may count either way; all other starts
    are missed. In float32 the speed of an exact fixed point is about 1e-7 ‖h‖. If fixed points form a line or
    a surface, the returned points are at least `distance` apart.

    Slots and integers in the state are held constant. If a step changes an integer, like the clock of a
    `ClockworkRNN`, every step is a different map without fixed points, and a ValueError is raised.

    Args:
      cell: the cell.
      params: its parameters.
      x: the input of one step, without batch axes.
      starts: (N, D), states as from `to_vector`; `trajectory` and `draw_starts` return suitable ones.
      carry: carry of one sequence with the slots and integers to use; defaults to `cell.initial_carry`.
      tolerance: largest speed of a fixed point.
      slow: largest speed of a slow point.
      distance: points closer than this to a slower one are considered the same.
      steps: maximal number of Levenberg-Marquardt steps from every start.

    Returns:
      `FixedPoints`, NumPy arrays. Eigenvalues are computed on the host, so this does not work under `jit`.

    Raises:
      TypeError: a layer, or not a cell.
      ValueError: wrong shapes, starts that are not finite, a clock in the state, or invalid inputs.

    Reference: Sussillo, Barak, Opening the black box: low-dimensional dynamics in high-dimensional recurrent
    neural networks, 2013, doi:10.1162/NECO_a_00409; Golub, Sussillo, FixedPointFinder, 2018,
    doi:10.21105/joss.01003.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> from jrnn.analysis import find_fixed_points
    >>> cell, two = jrnn.Elman(1), jnp.full((1, 1), 2.0)  # h = tanh(2 h)
    >>> params = cell.init(jax.random.key(0), 1)._replace(w_hh=two)
    >>> found = find_fixed_points(cell, params, jnp.zeros(1), jnp.array([[-0.9], [0.1], [0.9]]))
    >>> f"{found.states[1, 0]:.3f}", found.kinds.tolist()
    ('0.958', ['stable', 'stable', 'unstable'])
    """
    for name, given in (("tolerance", tolerance), ("slow", slow), ("distance", distance)):
        check_positive(name, given)
    check_lag("steps", steps)
    carry = _held(cell, params, x, carry)
    starts = _checked_starts(cell, starts, to_vector(cell, params, carry))
    ends = jax.device_get(_search(cell, steps)(params, x, carry, starts))
    fixed = ends.speed <= tolerance
    resting = ~fixed & (ends.speed <= slow) & (ends.slope <= FLAT)
    reached = np.flatnonzero((fixed | resting) & np.isfinite(ends.slope))  # NaN if anything was
    chosen, counts = _distinct(ends.state, ends.speed, reached, distance)
    states, width = ends.state[chosen], starts.shape[1]
    eigenvalues = np.zeros(states.shape, np.result_type(states, np.complex64))
    for place, state in enumerate(states):
        values = np.linalg.eigvals(_jacobian(cell)(params, x, carry, state))
        eigenvalues[place] = values[np.lexsort((values.imag, -np.abs(values)))]
    rank = np.where(fixed[chosen], _unstable(eigenvalues), width + 1)
    kinds = np.array(["stable", *["saddle"] * (width - 1), "unstable", "slow"])[rank]
    order = np.lexsort((*np.round(states / distance).T[::-1], rank))
    speeds, missed = ends.speed[chosen], len(starts) - len(reached)
    return FixedPoints(states[order], speeds[order], eigenvalues[order], kinds[order], counts[order], missed)


def trajectory(cell: Any, params: Any, xs: Any, carry: Any = None, key: Array | None = None) -> Array:
    """Compute the states along a sequence, as vectors.

        hₜ = F(hₜ₋₁, xₜ)

    For a batch: `jax.vmap(lambda xs: trajectory(cell, params, xs), in_axes=1)(xs)`.

    Args:
      cell: the cell.
      params: its parameters.
      xs: inputs of one sequence, (T, features).
      carry: initial carry; defaults to `cell.initial_carry`.
      key: draws the noise; without a key there is none.

    Returns:
      (T, D), the state after every step, as from `to_vector`.

    Raises:
      TypeError: a layer, or not a cell.
      ValueError: xs has a batch axis, or invalid inputs.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> from jrnn.analysis import trajectory
    >>> cell = jrnn.LSTM(4)
    >>> trajectory(cell, cell.init(jax.random.key(0), 2), jnp.ones((7, 2))).shape  # h and c
    (7, 8)
    """
    return _trajectory(cell)(params, begin(cell, params, xs, carry, key), xs)


def draw_starts(states: Any, count: int, key: Array, noise: float = 0.1) -> Array:
    """Draw starts of a search: random points between two given states, plus noise.

        start = a + u (b − a) + noise · ε,   a, b drawn from the states,   u ~ U[0, 1),   ε ~ N(0, I)

    Saddles lie between the states where a trajectory comes to rest.

    Args:
      states: (..., D), such as those of `trajectory`.
      count: N.
      key: random key.
      noise: standard deviation of the noise added to every entry.

    Returns:
      (count, D).

    Raises:
      ValueError: no states, or a count below 1.

    >>> import jax, jax.numpy as jnp
    >>> from jrnn.analysis import draw_starts
    >>> draw_starts(jnp.ones((7, 2)), 3, jax.random.key(0), noise=0.0).tolist()
    [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    """
    check_width("count", count)
    rows = rows_of(states)
    ends, between, around = jax.random.split(key, 3)
    a, b = jax.random.choice(ends, rows, (2, count))  # (count, D) each
    u = jax.random.uniform(between, (count, 1), rows.dtype)
    return a + u * (b - a) + noise * jax.random.normal(around, a.shape, rows.dtype)


class End(NamedTuple):
    """End point of a search."""

    state: Any  # (..., D)
    speed: Any  # (...), ‖r‖
    slope: Any  # (...), ‖Aᵀ r‖ / ‖r‖, of the speed as a function of h


class Descent(NamedTuple):
    """Current point of a search, and the next step to try."""

    h: Array  # (D,)
    r: Array  # (D,), F(h) − h
    a: Array  # (D, D), J − I
    delta: Array  # (D,)
    damping: Array  # μ, in units of the mean of the diagonal of AᵀA
    tried: Array  # number of steps so far


@cached
def _search(cell: Any, steps: int) -> Callable[..., End]:
    """Search from many starts: `(params, x, carry, starts) -> End`."""

    def search(params: Any, x: Any, carry: Any, starts: Array) -> End:
        ready = hoisted(cell, params, carry, x)
        width = starts.shape[1]
        eye = jnp.eye(width, dtype=starts.dtype)

        def residual(h: Array) -> tuple[Array, Array]:
            f, j = _linearized(ready, params, x, carry, h)
            return f - h, j - eye

        def advance(at: Descent) -> Descent:
            h = at.h + at.delta
            r, a = residual(h)
            better = _norm(r) < _norm(at.r)  # not so if NaN
            h, r, a = (jnp.where(better, *pair) for pair in ((h, at.h), (r, at.r), (a, at.a)))
            damping = jnp.where(better, at.damping / 10, at.damping * 10)
            return Descent(h, r, a, _next_step(r, a, damping), damping, at.tried + 1)

        def moves(at: Descent) -> Array:
            still = _norm(at.delta) <= np.finfo(starts.dtype).eps * _norm(at.h)
            return (at.tried == 0) | (~still & (at.tried <= steps))

        def descend(start: Array) -> End:
            zero, damping = jnp.zeros_like(start), jnp.asarray(0.1, start.dtype)
            at = Descent(start, zero + jnp.inf, eye, zero, damping, jnp.asarray(0))  # any r is better
            at = lax.while_loop(moves, advance, at)
            speed = _norm(at.r)
            return End(at.h, speed, _norm(at.r @ at.a) / jnp.where(speed > 0, speed, 1))

        return lax.map(descend, starts, batch_size=min(len(starts), max(1, AT_ONCE // width**2)))

    return jax.jit(search)


def _next_step(r: Array, a: Array, damping: Array) -> Array:
    """The Levenberg-Marquardt step, or Newton's once the damping would vanish in the rounding of AᵀA."""
    square = a.T @ a
    mu = damping * jnp.trace(square) / len(square)
    matrix = square + mu * jnp.eye(len(square), dtype=square.dtype)
    damped = jax.scipy.linalg.solve(matrix, -a.T @ r, assume_a="pos")
    return jnp.where(damping < NEWTON, jnp.linalg.solve(a, -r), damped)


def _linearized(cell: Any, params: Any, x: Any, carry: Any, h: Array) -> tuple[Array, Array]:
    """F(h), (D,), and its Jacobian, (D, D)."""
    after, push = linear_step(cell, params, from_vector(cell, params, h, carry), x)
    f = to_vector(cell, params, after)
    j = jax.vmap(push, out_axes=1)(jnp.eye(len(h), dtype=f.dtype))
    return f.astype(h.dtype), j.astype(h.dtype)


def _norm(values: Array) -> Array:
    return jnp.sqrt(jnp.sum(values**2))


@cached
def _jacobian(cell: Any) -> Callable[..., Array]:
    """J at a state: `(params, x, carry, state) -> (D, D)`."""
    return jax.jit(lambda *given: _linearized(cell, *given)[1])


@cached
def _trajectory(cell: Any) -> Callable[..., Array]:
    def run(params: Any, carry: Any, xs: Any) -> Array:
        ready = hoisted(cell, params, carry, types_of_step(xs))

        def step(carry: Any, x: Any) -> tuple[Any, Array]:
            carry, _ = ready.step(params, carry, x)
            return carry, to_vector(cell, params, carry)

        return lax.scan(step, carry, xs)[1]

    return jax.jit(run)


def _held(cell: Any, params: Any, x: Any, carry: Any) -> Any:
    """The carry with the slots and integers to hold constant; a ValueError if a step changes an integer."""
    try:
        carry = begin(cell, params, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], x), carry)
    except ValueError as error:
        raise ValueError(f"x must be the input of one step; with a time axis added, {error}") from error
    counters = _counters(cell, params, carry)
    after = _counters(cell, params, cell.step(params, carry, x)[0]) if counters else {}
    for name, given in counters.items():
        if bool(jnp.any(after[name] != given)):
            raise ValueError(
                f"{cell} has no fixed points: a step changes the integer {name} of its state from {given} to "
                f"{after[name]}, so every step is a different map"
            )
    return carry


def _counters(cell: Any, params: Any, carry: Any) -> dict[str, Any]:
    """The leaves of the state that are not float or complex, by their paths."""
    spec = carry_spec(cell, params)
    paths = jax.tree_util.tree_leaves_with_path(spec, is_leaf=is_slot)
    leaves = structure_of(spec, slots=True).flatten_up_to(carry)
    return {
        jax.tree_util.keystr(path).lstrip("."): leaf
        for (path, state), leaf in zip(paths, leaves, strict=True)
        if state is not None and not jnp.issubdtype(leaf.dtype, jnp.inexact)
    }


def _checked_starts(cell: Any, starts: Any, state: Array) -> Array:
    """Check the starts, and convert them to at least float32."""
    starts = jnp.asarray(starts)
    if starts.ndim != 2 or starts.shape[1] != len(state) or len(starts) == 0:
        raise ValueError(
            f"starts has shape {starts.shape}, {cell} needs (N, {len(state)}): states as vectors, "
            "such as those of draw_starts"
        )
    if not bool(jnp.isfinite(starts).all()):
        raise ValueError("starts must be finite, got NaN or inf")
    return starts.astype(promoted(state.dtype, jnp.float32))


def _distinct(
    states: NDArray[Any], speeds: NDArray[Any], places: NDArray[Any], distance: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Select the slowest among neighboring states, and count the states that each represents."""
    chosen: list[int] = []
    counts: list[int] = []
    for place in places[np.argsort(speeds[places], kind="stable")]:
        apart = np.linalg.norm(states[chosen] - states[place], axis=-1)
        if chosen and apart.min() < distance:
            counts[int(apart.argmin())] += 1
        else:
            chosen.append(int(place))
            counts.append(1)
    return np.array(chosen, int), np.array(counts, int)


def _unstable(eigenvalues: NDArray[Any]) -> NDArray[Any]:
    return np.asarray((np.abs(eigenvalues) >= 1).sum(axis=-1))
