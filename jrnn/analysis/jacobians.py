"""Jacobians of a step: their eigenvalues and singular values, and how their products grow."""

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
from jrnn.analysis.states import begin, fixed_normal, linear_step, to_vector
from jrnn.unrolling._hoisting import hoisted, types_of_step

CHUNK = 2**21  # entries of the Jacobians that `spectra` holds at a time: 16 MiB in float64


class Spectrum(NamedTuple):
    """Eigenvalues and singular values of a matrix, or of a stack of them; on the host.

    Fields:
      eigenvalues: (..., D), complex, the largest modulus first.
      singular_values: (..., D), the largest first.
    """

    eigenvalues: NDArray[Any]
    singular_values: NDArray[Any]

    @property
    def spectral_radius(self) -> NDArray[Any]:
        """(...), max |λᵢ|: the rate per step at which powers of the matrix grow in the long run."""
        return np.abs(self.eigenvalues[..., 0])

    @property
    def norm(self) -> NDArray[Any]:
        """(...), the largest singular value: the most that one step stretches any vector."""
        return self.singular_values[..., 0]

    @property
    def smallest(self) -> NDArray[Any]:
        """(...), the smallest singular value: the least that one step leaves of any vector."""
        return self.singular_values[..., -1]

    @property
    def departure_from_normality(self) -> NDArray[Any]:
        """(...), √(Σ σᵢ² − Σ |λᵢ|²), Henrici's: 0 where eigenvectors are orthogonal, and nothing grows that
        eigenvalues do not show.
        """
        squares = np.square(self.singular_values).sum(-1) - np.square(np.abs(self.eigenvalues)).sum(-1)
        return np.sqrt(np.maximum(squares, 0))


def spectrum(matrix: Any) -> Spectrum:
    """Eigenvalues and singular values of a matrix, such as the recurrent one.

        W vᵢ = λᵢ vᵢ,   W = Σ uᵢ σᵢ wᵢᵀ

    Computed on the host, by numpy in float64: it cannot be traced.

    Args:
      matrix: (..., D, D), real or complex.

    Returns:
      `Spectrum(eigenvalues, singular_values)`, with its `spectral_radius`, `norm` and `smallest`.

    Raises:
      ValueError: no square matrix, or one that holds NaN or inf.

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
        raise ValueError("matrix holds NaN or inf: it has no eigenvalues")
    values = np.linalg.eigvals(given).astype(np.complex128)
    order = np.argsort(-np.abs(values), axis=-1, kind="stable")
    return Spectrum(np.take_along_axis(values, order, -1), np.linalg.svd(given, compute_uv=False))


def jacobian(cell: Any, params: Any, carry: Any, x: Any) -> Array:
    """The derivative of the state after a step by the state before it.

        Jᵢⱼ = ∂hₜ[i] / ∂hₜ₋₁[j]

    h is the state as one real vector (`to_vector`): of an LSTM h and c, of a Stack that of all its cells.

    Args:
      cell: the cell.
      params: its parameters.
      carry: the carry before the step, of one sequence; `None` for a new one.
      x: the input of the step, (features,).

    Returns:
      (D, D), rows: after, columns: before.

    Raises:
      ValueError, TypeError: as of `begin`; x counts as a sequence of one step.

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
    """Eigenvalues and singular values of the Jacobians along a trajectory.

        Jₜ = ∂hₜ/∂hₜ₋₁,   at t = 0, every, 2 every, ...

    |λ| and σ below 1 shrink what the state holds and the gradient that comes back, above 1 they stretch it:
    for how long is what `growth` and `lyapunov` add. Jacobians are made a few at a time. Their eigenvalues
    are computed on the host, by numpy in float64: it works on every backend and cannot be traced, and
    costs some 10 ms a step at D = 100, 100 ms at D = 256; so look at every n-th step of a long run.

    Args:
      cell: the cell.
      params: its parameters.
      xs: inputs of one sequence, (time, features): of a batch, `xs[:, b]`.
      carry: carry to start from; a new one if left out.
      every: look at every n-th step.
      key: draws the noise; without one there is none.

    Returns:
      `Spectrum(eigenvalues, singular_values)`, each (⌈T / every⌉, D), as of `xs[::every]`.

    Raises:
      ValueError: no steps, a Jacobian that is not finite, or as of `begin`.

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
        # what would stand behind the last step is never looked at: any step fills it
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
) -> Array:
    """How much a small change of the first state has grown, step by step.

        growthₜ = ln ‖Jₜ … J₂ J₁ V‖₂,   VᵀV = I

    The slope is what the largest Lyapunov exponent is the limit of. With V = I, all directions, it is ln of
    the largest singular value of ∂hₜ/∂h₀, exactly. With k random ones it is a lower bound, low by about
    ½ ln(D / k) once one direction outgrows all others, and costs k / D of it. The product is scaled at every
    step, so nothing overflows; where it is zero, growth is −∞.

    Args:
      cell: the cell.
      params: its parameters.
      xs: inputs of one sequence, (time, features): of a batch, `xs[:, b]`.
      carry: carry to start from; a new one if left out.
      directions: k, columns of V, which a fixed seed draws; all D if left out.
      key: draws the noise; without one there is none.

    Returns:
      (T,), in nats.

    Raises:
      ValueError: more directions than the state has, or as of `begin`.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> from jrnn.analysis import growth
    >>> cell = jrnn.IndRNN(4, activation="identity")
    >>> params = cell.init(jax.random.key(0), 2)._replace(w_hh=jnp.array([0.1, 0.5, 2.0, -1.0]))
    >>> [f"{g:.3f}" for g in growth(cell, params, jnp.ones((3, 2))) / jnp.log(2)]
    ['1.000', '2.000', '3.000']
    """
    carry = begin(cell, params, xs, carry, key)
    size = to_vector(cell, params, carry).size
    return _growth(cell, checked_directions("directions", directions, size))(params, carry, xs)


def transient_growth(matrix: Any, steps: int) -> Array:
    """Norms of the powers of a matrix: what a linear recurrence makes of its worst start.

        gₖ = ‖Aᵏ‖₂,   ρᵏ ≤ gₖ ≤ σ_maxᵏ

    Of a normal matrix gₖ = ρᵏ. Of another it can grow for long though ρ < 1: a memory, or an explosion,
    that eigenvalues do not show.

    Args:
      matrix: A, (D, D).
      steps: the largest k.

    Returns:
      (steps + 1,), k = 0 … steps.

    Raises:
      ValueError: no square matrix, or a number of steps below 0.

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
        power, grown = _normalised(a @ power)
        return (power, log + grown), log + grown

    start = (jnp.eye(len(a), dtype=a.dtype), jnp.zeros((), a.real.dtype))
    _, logs = lax.scan(body, start, length=steps)
    return jnp.exp(jnp.append(jnp.zeros_like(logs, shape=1), logs))


def push_rows(cell: Any, params: Any, carry: Any, x: Any, rows: Array) -> tuple[Any, Array]:
    """Take a step, and push directions through its derivative.

        V ↦ V Jᵀ

    Args:
      cell: the cell.
      params: its parameters.
      carry: the carry before the step, of one sequence.
      x: the input of the step.
      rows: (k, D), a direction a row, in float32 at least, whatever the dtype of the state.

    Returns:
      `(after, rows)`.
    """
    after, push = linear_step(cell, params, carry, x)
    dtype = to_vector(cell, params, carry).dtype
    return after, jax.vmap(push)(rows.astype(dtype)).astype(rows.dtype)


def start_rows(cell: Any, params: Any, carry: Any, count: int) -> Array:
    """Orthonormal directions, (count, D), that a fixed seed draws.

    Random ones, as a unit vector may see nothing of what grows: in a triangular system, for one.
    """
    vector = to_vector(cell, params, carry)
    dtype = promoted(vector.dtype, jnp.float32)
    drawn = fixed_normal(0, (vector.size, count), dtype)
    return jnp.linalg.qr(drawn)[0].T


def checked_directions(argument: str, given: int | None, size: int) -> int:
    """A number of directions in a state of `size` entries: all of them for `None`."""
    if given is None:
        return size
    check_width(argument, given)
    if given > size:
        raise ValueError(f"{argument} must be at most {size}, the size of the state, got {given}")
    return given


def _normalised(product: Array) -> tuple[Array, Array]:
    """A matrix divided by its norm, and the logarithm of that; of zero, itself and −∞."""
    norm = jnp.linalg.norm(product, 2)
    return product / jnp.where(norm == 0, 1, norm), jnp.log(norm)


def _rows(xs: Any, at: Any) -> Any:
    with jax.transfer_guard_host_to_device("allow"):  # of the index
        return jax.tree.map(lambda x: jnp.asarray(x)[at], xs)


def _spectrum_at(jacobians: NDArray[Any], first: int, every: int) -> Spectrum:
    bad = np.flatnonzero(~np.isfinite(jacobians.astype(np.float64)).all((1, 2)))
    if bad.size:
        raise ValueError(
            f"the Jacobian of step {(first + int(bad[0])) * every} holds NaN or inf: does the state diverge?"
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
            if len(jax.tree.leaves(rest)[0]):  # without jit, a loop of no steps is refused
                carry, _ = lax.scan(lambda c, x: (ready.step(params, c, x)[0], None), carry, rest)
            return carry, found

        return lax.scan(block, carry, blocks)

    return along


@cached
def _growth(cell: Any, directions: int) -> Callable[..., Array]:
    @jax.jit
    def run(params: Any, carry: Any, xs: Any) -> Array:
        def body(state: Any, x: Any) -> Any:
            carry, rows, log = state
            carry, rows = push_rows(ready, params, carry, x, rows)
            rows, grown = _normalised(rows)
            return (carry, rows, log + grown), log + grown

        ready = hoisted(cell, params, carry, types_of_step(xs))
        rows = start_rows(cell, params, carry, directions)
        return lax.scan(body, (carry, rows, jnp.zeros((), rows.dtype)), xs)[1]

    return run
