"""Initializers for recurrent networks that `jax.nn.initializers` lacks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn._checks import check_in_features
from jrnn.cell import Shape

Initializer = Callable[..., Array]


def default_float() -> Any:
    """The dtype in which parameters are drawn: float32, or float64 under `jax_enable_x64`."""
    return jnp.result_type(float)


def orthogonal(key: Array, shape: Shape, dtype: Any = None) -> Array:
    """Matrix with orthonormal rows or columns, drawn for each square block independently.

        W = [Q₁ | Q₂ | … | Q_k],   Qᵢᵀ Qᵢ = I

    A shape `(n, k·n)` is treated as k square blocks, one per gate, any other shape as one block. A single
    orthogonal matrix of shape `(n, 4n)`, as some libraries draw it, does not give orthogonal gates.

    Args:
      key: PRNG key.
      shape: `(rows, columns)`.
      dtype: the dtype of the result; drawn in the default float and then cast, so bfloat16 works.

    Returns:
      The matrix.

    Reference: Saxe, McClelland, Ganguli, Exact solutions to the nonlinear dynamics of learning in deep
    linear neural networks, 2014, arXiv:1312.6120.

    >>> import jax, jax.numpy as jnp
    >>> w = orthogonal(jax.random.key(0), (3, 6))
    >>> bool(jnp.allclose(w[:, 3:].T @ w[:, 3:], jnp.eye(3), atol=1e-6))
    True
    """
    return _per_block(jax.nn.initializers.orthogonal(), key, shape, _square_blocks(shape), dtype)


def glorot(key: Array, shape: Shape, dtype: Any = None, *, blocks: int = 1) -> Array:
    """Glorot-uniform matrix with the fan-out of a single gate, not of all gates together.

        W_ij ~ U(−a, a),   a = √(6 / (rows + columns / blocks))

    Args:
      key: PRNG key.
      shape: `(rows, columns)`.
      dtype: the dtype of the result.
      blocks: number of gates side by side in the columns.

    Returns:
      The matrix.

    Raises:
      ValueError: the columns cannot be divided equally among the gates.

    Reference: Glorot, Bengio, Understanding the difficulty of training deep feedforward neural
    networks, 2010.
    """
    return _per_block(jax.nn.initializers.glorot_uniform(), key, shape, blocks, dtype)


def identity(key: Array, shape: Shape, dtype: Any = None, *, scale: float = 1.0) -> Array:
    """Identity matrix in every square block: with relu, the initialization of an IRNN.

        W = scale · [I | I | … | I]

    Args:
      key: unused; all initializers have the same signature.
      shape: `(n, k·n)`.
      dtype: the dtype of the result.
      scale: factor of the identity.

    Returns:
      The matrix.

    Raises:
      ValueError: the shape is not that of square blocks side by side.

    Reference: Le, Jaitly, Hinton, A simple way to initialize recurrent networks of rectified linear
    units, 2015, arXiv:1504.00941.
    """
    del key
    if shape[1] % shape[0]:
        raise ValueError(f"shape {shape} must be square blocks side by side, (n, k·n)")
    eye = jnp.eye(shape[0], dtype=dtype or default_float())
    return scale * jnp.tile(eye, (1, shape[1] // shape[0]))


def spectral_radius(
    key: Array, shape: Shape, dtype: Any = None, *, radius: float = 0.9, density: float = 1.0
) -> Array:
    """Gaussian matrix, optionally sparse, scaled to a given spectral radius.

        W = radius · G / max|λ(G)|,   G_ij ~ N(0, 1) with probability density, else 0

    A very sparse draw may have no eigenvalue but 0: then W = radius · G.

    Args:
      key: PRNG key.
      shape: `(n, n)`.
      dtype: the dtype of the result.
      radius: the spectral radius.
      density: fraction of nonzero entries, in (0, 1].

    Returns:
      The matrix.

    Raises:
      ValueError: a density outside (0, 1].

    Reference: Jaeger, The echo state approach to analyzing and training recurrent neural networks, 2001.
    """
    if not 0 < density <= 1:
        raise ValueError(f"density must be in (0, 1], got {density}")
    k_value, k_place = jax.random.split(key)
    g = jax.random.normal(k_value, shape, default_float())
    g = jnp.where(jax.random.bernoulli(k_place, density, shape), g, 0)
    return (radius * g / _largest(g).astype(g.dtype)).astype(dtype or g.dtype)


def _largest(g: Array) -> Any:
    """The spectral radius, computed on the host: not every backend has eigenvalues of a general matrix."""
    if not isinstance(g, jax.core.Tracer):  # on one core, a callback would wait for ever for its argument
        return _spectral_radius(g)
    scalar = jax.ShapeDtypeStruct((), jnp.float32)  # float64 may be disabled
    return jax.pure_callback(_spectral_radius, scalar, g, vmap_method="sequential")


def _spectral_radius(matrix: Any) -> Any:
    largest = np.abs(np.linalg.eigvals(np.asarray(matrix, np.float64))).max()
    vanishes = largest <= 1e-6 * np.linalg.norm(matrix)  # a nilpotent matrix, which cannot be scaled
    return np.float32(1.0 if vanishes else largest)


def ring(key: Array, shape: Shape, dtype: Any = None, *, scale: float = 1.0) -> Array:
    """Ring of units, each of which feeds the next one: a delay line without loss.

        W_ij = scale where j = i + 1 mod n, else 0

    Its eigenvalues are the n-th roots of unity times scale.

    Args:
      key: unused; all initializers have the same signature.
      shape: `(n, k·n)`, with a ring in each square block.
      dtype: the dtype of the result.
      scale: weight of every connection.

    Returns:
      The matrix.

    Raises:
      ValueError: the shape is not that of square blocks side by side.

    Reference: Rodan, Tiňo, Minimum complexity echo state network, 2011, doi:10.1109/TNN.2010.2089641.

    >>> import jax
    >>> ring(jax.random.key(0), (3, 3))
    Array([[0., 1., 0.],
           [0., 0., 1.],
           [1., 0., 0.]], dtype=float32)
    """
    turned = jnp.roll(identity(key, shape[:1] * 2, dtype, scale=scale), 1, axis=1)
    return jnp.tile(turned, identity(key, shape).shape[1] // shape[0])


def chrono(key: Array, shape: Shape, dtype: Any = None, *, max_lag: int) -> Array:
    """Forget-gate bias for dependencies over up to `max_lag` steps (an input gate gets its negative).

        b_f = log u,   u ~ U(1, max_lag − 1)

    Args:
      key: PRNG key.
      shape: `(hidden,)`.
      dtype: the dtype of the result.
      max_lag: longest expected dependency, in steps; at least 3.

    Returns:
      The bias; a unit with bias b forgets with a time constant of about exp(b) + 1 steps.

    Raises:
      ValueError: `max_lag` is below 3.

    Reference: Tallec, Ollivier, Can recurrent neural networks warp time?, 2018, arXiv:1804.11188.
    """
    if max_lag < 3:
        raise ValueError(f"max_lag must be at least 3 steps, got {max_lag}")
    draw = jax.random.uniform(key, shape, default_float(), 1.0, max_lag - 1.0)
    return jnp.log(draw).astype(dtype or default_float())


def _per_block(draw: Initializer, key: Array, shape: Shape, blocks: int, dtype: Any) -> Array:
    check_in_features(shape[0])  # here, since nearly every `init` calls this
    if blocks < 1 or shape[1] % blocks:
        raise ValueError(f"shape {shape} cannot be split into {blocks} blocks of columns of equal width")
    if 0 in shape:  # for a cell without inputs
        return jnp.zeros(shape, dtype or default_float())
    keys = jax.random.split(key, blocks)
    parts = [draw(k, (shape[0], shape[1] // blocks), default_float()) for k in keys]
    return jnp.concatenate(parts, axis=1).astype(dtype or default_float())


def _square_blocks(shape: Shape) -> int:
    rows, columns = shape
    return columns // rows if columns > rows and columns % rows == 0 else 1
