"""Jacobians of a step: eigenvalues, singular values, and the growth of their products."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from jrnn._alignment import promoted
from jrnn._caching import cached
from jrnn._checks import check_lag, check_width
from jrnn.analysis._products import growth_at_once
from jrnn.analysis.states import begin, fixed_normal, linear_step, to_vector
from jrnn.unrolling import Method, Scan
from jrnn.unrolling._other_loops import hoisted, types_of_step

CHUNK = 2**21  # entries of the Jacobians that `spectra` computes at a time: 16 MiB in float64


class Spectrum(NamedTuple):
    """Eigenvalues and singular values of a matrix or a stack of matrices, as NumPy arrays.

    Fields:
      eigenvalues: (..., D), complex, the largest modulus first.
      singular_values: (..., D), the largest first.
    """

    eigenvalues: NDArray[Any]
    singular_values: NDArray[Any]

    @property
    def spectral_radius(self) -> NDArray[Any]:
        """(...), max |λᵢ|: the asymptotic growth of powers of the matrix per step."""
        return np.abs(self.eigenvalues[..., 0])

    @property
    def norm(self) -> NDArray[Any]:
        """(...), the largest singular value: the largest stretch of any vector in one step."""
        return self.singular_values[..., 0]

    @property
    def smallest(self) -> NDArray[Any]:
        """(...), the smallest singular value: the smallest stretch of any vector in one step."""
        return self.singular_values[..., -1]

    @property
    def departure_from_normality(self) -> NDArray[Any]:
        """(...), √(Σ σᵢ² − Σ |λᵢ|²) by Henrici: 0 for orthogonal eigenvectors, without transient growth."""
        squares = np.square(self.singular_values).sum(-1) - np.square(np.abs(self.eigenvalues)).sum(-1)
        return np.sqrt(np.maximum(squares, 0))


def spectrum(matrix: Any) -> Spectrum:
    """Eigenvalues and singular values of a matrix, such as the recurrent one.

        W vᵢ = λᵢ vᵢ,   W = Σ uᵢ σᵢ wᵢᵀ

    Computed on the host, by NumPy in float64, so it cannot be traced.

    Args:
      matrix: (..., D, D), real or complex.

    Returns:
      `Spectrum(eigenvalues, singular_values)`, with its `spectral_radius`, `norm` and `smallest`.

    Raises:
      ValueError: a matrix that is not square, or has NaN or inf.

    >>> from jrnn.analysis import spectrum
    >>> found = spectrum([[0.5, 3.0], [0.0, 0.5]])  # fades in the end, but not at once
    >>> print(f"{found.spectral_radius:.2f} {found.norm:.2f} {found.departure_from_normality:.2f}")
    0.50 3.08 3.00
    """
    given = np.asarray(jax.device_get(matrix))
    if given.ndim < 2 or given.shape[-1] != given.shape[-2] or not given.size:
        raise ValueError(f"matrix has shape {given.shape}, needs (..., D, D): one gate's block of w_hh")
    given = given.astype(np.complex128 if np.iscomplexobj(given) else np.float64)
    if not np.isfinite(given).all():
        raise ValueError("matrix has NaN or inf, needs finite numbers")
    values = np.linalg.eigvals(given).astype(np.complex128)
    order = np.argsort(-np.abs(values), axis=-1, kind="stable")
    return Spectrum(np.take_along_axis(values, order, -1), np.linalg.svd(given, compute_uv=False))


def jacobian(cell: Any, params: Any, carry: Any, x: Any) -> Array:
    """Compute the Jacobian of the state after a step with respect to the state before it.

        Jᵢⱼ = ∂hₜ[i] / ∂hₜ₋₁[j]

    h is the state as one real vector (`to_vector`): h and c of an LSTM, the states of all cells of a `Stack`.

    Args:
      cell: the cell.
      params: its parameters.
      carry: the carry before the step, of one sequence; `None` for `cell.initial_carry`.
      x: the input of the step, (features,).

    Returns:
      (D, D), rows: after, columns: before.

    Raises:
      TypeError: a layer, or not a cell.
      ValueError: x has a batch axis, a cell without a real-valued state, or invalid inputs.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> from jrnn.analysis import jacobian
    >>> cell = jrnn.Elman(3, activation="identity")
    >>> params = cell.init(jax.random.key(0), 2)
    >>> bool(jnp.allclose(jacobian(cell, params, None, jnp.ones(2)), params.w_hh.T))
    True
    """
    carry = begin(cell, params, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], x), carry)
    return _look(cell)(params, carry, x)[1]


def spectra(
    cell: Any, params: Any, xs: Any, carry: Any = None, *, every: int = 1, key: Array | None = None
) -> Spectrum:
    """Compute eigenvalues and singular values of the Jacobians along a trajectory.

        Jₜ = ∂hₜ/∂hₜ₋₁,   at t = 0, every, 2 every, ...

    |λ| and σ below 1 shrink the state and its gradient, above 1 they stretch them; `growth` and `lyapunov`
    show the effect over many steps. Jacobians are computed a few at a time, their eigenvalues on the host, by
    NumPy in float64: this works on every backend, cannot be traced, and costs about 10 ms per step at D = 100
    and 100 ms at D = 256, so use `every` for a long run.

    Args:
      cell: the cell.
      params: its parameters.
      xs: inputs of one sequence, (time, features); for a batch, `xs[:, b]`.
      carry: initial carry; defaults to `cell.initial_carry`.
      every: use every n-th step.
      key: draws the noise; without a key there is none.

    Returns:
      `Spectrum(eigenvalues, singular_values)`, each (⌈T / every⌉, D), at the steps of `xs[::every]`.

    Raises:
      ValueError: no steps, a Jacobian that is not finite, or invalid inputs.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> from jrnn.analysis import spectra
    >>> cell = jrnn.OrthogonalRNN(4, activation="identity")
    >>> found = spectra(cell, cell.init(jax.random.key(0), 2), jnp.ones((6, 2)), every=2)
    >>> found.eigenvalues.shape, bool(abs(found.spectral_radius - 1).max() < 1e-5)
    ((3, 4), True)
    """
    check_width("every", every)
    carry = begin(cell, params, xs, carry, key)
    steps = len(jax.tree.leaves(xs)[0])
    if not steps:
        raise ValueError("xs has no steps: spectra needs at least one")
    seen = -(-steps // every)
    size = max(1, min(seen, CHUNK // to_vector(cell, params, carry).size ** 2))
    found = []
    for first in range(0, seen, size):
        # entries after the last step are cut off below, so any step may fill them
        index = np.minimum(np.arange(first * every, (first + size) * every), steps - 1)
        carry, jacobians = _along(cell)(params, carry, _rows(xs, index.reshape(size, every)))
        found.append(_spectrum_at(np.asarray(jax.device_get(jacobians))[: seen - first], first, every))
    return Spectrum(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def growth(
    cell: Any,
    params: Any,
    xs: Any,
    carry: Any = None,
    *,
    directions: int | None = None,
    key: Array | None = None,
    method: Method = Scan(),
) -> Array:
    """Measure the growth of a small change of the initial state, step by step.

        growthₜ = ln ‖Jₜ … J₂ J₁ V‖₂,   VᵀV = I

    Its slope tends to the largest Lyapunov exponent. With V = I, all directions, it is exactly ln of the
    largest singular value of ∂hₜ/∂h₀. With k random directions it is a lower bound at k / D of the cost, too
    low by about ½ ln(D / k) once one direction outgrows all others. The product is rescaled at every step, so
    nothing overflows; if it is zero, growth is −∞.

    Args:
      cell: the cell.
      params: its parameters.
      xs: inputs of one sequence, (time, features); for a batch, `xs[:, b]`.
      carry: initial carry; defaults to `cell.initial_carry`.
      directions: k, columns of V, drawn with a fixed seed; defaults to all D.
      key: draws the noise; without a key there is none.
      method: `Scan()` runs step by step. With another, such as `Newton()`, which finds the states, the
        Jacobians of all steps are computed at once and multiplied by a tree: T · D² numbers.

    Returns:
      (T,), in nats.

    Raises:
      ValueError: more directions than the state has, or invalid inputs.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> from jrnn.analysis import growth
    >>> cell = jrnn.IndRNN(4, activation="identity")
    >>> params = cell.init(jax.random.key(0), 2)._replace(w_hh=jnp.array([0.1, 0.5, 2.0, -1.0]))
    >>> [f"{g:.3f}" for g in growth(cell, params, jnp.ones((3, 2))) / jnp.log(2)]
    ['1.000', '2.000', '3.000']
    """
    carry = begin(cell, params, xs, carry, key)
    size = to_vector(cell, params, carry).size
    count = checked_directions("directions", directions, size)
    return _growth(cell, count, method)(params, carry, xs)


def transient_growth(matrix: Any, steps: int) -> Array:
    """Norms of the powers of a matrix: the largest growth of a state in a linear recurrence.

        gₖ = ‖Aᵏ‖₂,   ρᵏ ≤ gₖ ≤ σ_maxᵏ

    For a normal matrix gₖ = ρᵏ. Otherwise it can grow for a long time even if ρ < 1: a memory, or an
    explosion, that eigenvalues do not show.

    Args:
      matrix: A, (D, D).
      steps: the largest k.

    Returns:
      (steps + 1,), k = 0 … steps.

    Raises:
      ValueError: a matrix that is not square, or a negative number of steps.

    Reference: Ganguli, Huh, Sompolinsky, Memory traces in dynamical systems, 2008,
    doi:10.1073/pnas.0804451105.

    >>> from jrnn.analysis import transient_growth
    >>> [f"{g:.2f}" for g in transient_growth([[0.5, 3.0], [0.0, 0.5]], 3)]
    ['1.00', '3.08', '3.02', '2.26']
    """
    a = jnp.asarray(matrix)
    a = a.astype(promoted(a.dtype, jnp.float32))
    check_lag("steps", steps)
    if a.ndim != 2 or a.shape[0] != a.shape[1] or not a.size:
        raise ValueError(f"matrix has shape {a.shape}, needs (D, D)")

    def body(state: Any, _: Any) -> Any:
        power, log = state
        power, grown = _normalized(a @ power)
        return (power, log + grown), log + grown

    start = (jnp.eye(len(a), dtype=a.dtype), jnp.zeros((), a.real.dtype))
    _, logs = lax.scan(body, start, length=steps)
    return jnp.exp(jnp.append(jnp.zeros_like(logs, shape=1), logs))


def push_rows(cell: Any, params: Any, carry: Any, x: Any, rows: Array) -> tuple[Any, Array]:
    """Take a step, and apply its Jacobian to some directions.

        V ↦ V Jᵀ

    Args:
      cell: the cell.
      params: its parameters.
      carry: the carry before the step, of one sequence.
      x: the input of the step.
      rows: (k, D), one direction per row, in float32 or wider, whatever the dtype of the state.

    Returns:
      `(after, rows)`.
    """
    after, push = linear_step(cell, params, carry, x)
    dtype = to_vector(cell, params, carry).dtype
    return after, jax.vmap(push)(rows.astype(dtype)).astype(rows.dtype)


def start_rows(cell: Any, params: Any, carry: Any, count: int) -> Array:
    """Orthonormal random directions, (count, D), drawn with a fixed seed.

    A unit vector may have no component along growing directions, for example in a triangular system.
    """
    vector = to_vector(cell, params, carry)
    dtype = promoted(vector.dtype, jnp.float32)
    drawn = fixed_normal(0, (vector.size, count), dtype)
    return jnp.linalg.qr(drawn)[0].T


def checked_directions(argument: str, given: int | None, size: int) -> int:
    """Check a number of directions in a state of `size` entries; `None` means all."""
    if given is None:
        return size
    check_width(argument, given)
    if given > size:
        raise ValueError(f"{argument} must be at most {size}, the size of the state, got {given}")
    return given


def _normalized(product: Array) -> tuple[Array, Array]:
    """A matrix divided by its norm, and the logarithm of the norm; for zero, the matrix itself and −∞."""
    norm = jnp.linalg.norm(product, 2)
    return product / jnp.where(norm == 0, 1, norm), jnp.log(norm)


def _rows(xs: Any, at: Any) -> Any:
    with jax.transfer_guard_host_to_device("allow"):  # of the index
        return jax.tree.map(lambda x: jnp.asarray(x)[at], xs)


def _spectrum_at(jacobians: NDArray[Any], first: int, every: int) -> Spectrum:
    bad = np.flatnonzero(~np.isfinite(jacobians.astype(np.float64)).all((1, 2)))
    if bad.size:
        raise ValueError(
            f"the Jacobian of step {(first + int(bad[0])) * every} has NaN or inf: does the state diverge?"
        )
    return spectrum(jacobians)


@cached
def _look(cell: Any) -> Callable[..., Any]:
    """`(params, carry, x) -> (after, J)`."""
    return jax.jit(functools.partial(_jacobian_of_step, cell))


def _jacobian_of_step(cell: Any, params: Any, carry: Any, x: Any) -> tuple[Any, Array]:
    vector = to_vector(cell, params, carry)
    after, rows = push_rows(cell, params, carry, x, jnp.eye(vector.size, dtype=vector.dtype))
    return after, rows.T


@cached
def _along(cell: Any) -> Callable[..., Any]:
    """`(params, carry, blocks) -> (after, Jacobians of the first step of every block)`."""

    @jax.jit
    def along(params: Any, carry: Any, blocks: Any) -> Any:
        ready = hoisted(cell, params, carry, types_of_step(_rows(blocks, 0)))

        def block(carry: Any, xs: Any) -> Any:
            carry, found = _jacobian_of_step(ready, params, carry, _rows(xs, 0))
            rest = _rows(xs, slice(1, None))
            if len(jax.tree.leaves(rest)[0]):  # without jit, scan rejects a loop of no steps
                carry, _ = lax.scan(lambda c, x: (ready.step(params, c, x)[0], None), carry, rest)
            return carry, found

        return lax.scan(block, carry, blocks)

    return along


@cached
def _growth(cell: Any, directions: int, method: Method) -> Callable[..., Array]:
    @jax.jit
    def run(params: Any, carry: Any, xs: Any) -> Array:
        def body(state: Any, x: Any) -> Any:
            carry, rows, log = state
            carry, rows = push_rows(ready, params, carry, x, rows)
            rows, grown = _normalized(rows)
            return (carry, rows, log + grown), log + grown

        rows = start_rows(cell, params, carry, directions)
        if not isinstance(method, Scan):
            return growth_at_once(cell, params, carry, xs, rows, method)
        ready = hoisted(cell, params, carry, types_of_step(xs))
        return lax.scan(body, (carry, rows, jnp.zeros((), rows.dtype)), xs)[1]

    return run
