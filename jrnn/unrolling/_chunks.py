"""A matrix recurrence, many steps at once.

With P[a, b] the product of the decays of steps b + 1 … a, and S the state before the first of C steps,

    y_qi = P[i−1, 0] qᵢᵀ S + Σ_{j<i} P[i−1, j] ((qᵢ·uⱼ) y_wj + (qᵢ·kⱼ) vⱼ) + …   for every query q
    S_C  = P[C, 0] S + Σ_j P[C, j] (uⱼ y_wjᵀ + kⱼ vⱼᵀ) + …

so products of matrices, and for the y_w, which depend on one another, the inverse of a triangular one.
P is made of products alone, so that decays may be 0 or negative, and no exponential overflows.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jrnn._caching import cached


@dataclass(frozen=True)
class Structure:
    """Numbers of each kind of term: u, k and v, c and M."""

    corrections: tuple[int, ...]  # of each u, the number of its query
    additions: int
    fulls: int
    queries: int
    read: tuple[int, ...]  # queries whose products are handed out


class Vectors(NamedTuple):
    """Vectors of a recurrence: (time, rows, entries)."""

    decay: Array | None  # or (time, rows): the same for all entries
    u: tuple[Array, ...]
    k: tuple[Array, ...]
    v: tuple[Array, ...]
    c: tuple[Array, ...]  # or (time, rows)
    q: tuple[Array, ...]


def run_chunks(
    structure: Structure, vectors: Vectors, start: Array, full: tuple[Array, ...], size: int, reverse: bool
) -> tuple[Array, tuple[Array, ...]]:
    """The state after all steps, and the products of the states before each step with the queries.

    Args:
      structure: what there is.
      vectors: the vectors of all steps.
      start: (rows, keys, values), the state before the first step.
      full: (rows, keys, values), what is added with the factors c.
      size: steps of a chunk, at most.
      reverse: from the last step to the first.
    """
    length = jax.tree.leaves(vectors)[0].shape[0]
    count = -(-length // size)
    if isinstance(length, int):  # all chunks alike, so that little is filled up
        size = -(-length // count)
    spare = count * size - length

    def cut(a: Array, fill: float = 0.0) -> Array:
        a = jnp.flip(a, 0) if reverse else a
        if not isinstance(spare, int) or spare > 0:
            a = jnp.pad(a, [(0, spare), *[(0, 0)] * (a.ndim - 1)], constant_values=fill)
        return a.reshape(count, size, *a.shape[1:])

    chunks = jax.tree.map(cut, vectors._replace(decay=None))
    if vectors.decay is not None:
        chunks = chunks._replace(decay=cut(vectors.decay, 1.0))
    (end, _), seen = lax.scan(_chunk(structure), (start, full), chunks)

    def joined(a: Array) -> Array:
        a = a.reshape(count * size, *a.shape[2:])[:length]
        return jnp.flip(a, 0) if reverse else a

    return end, tuple(map(joined, seen))


@cached
def _chunk(structure: Structure) -> Any:
    """One chunk, whose derivative keeps its arguments alone: `((S, M), vectors) -> ((S, M), products)`."""
    s = structure

    def step(carry: Any, vectors: Vectors) -> Any:
        state, full = carry
        size = vectors.q[0].shape[0]
        products = decay_products(vectors.decay, size, state.dtype)
        q = _stacked(vectors.q)
        seen = _times_rows(q, products[:, :size, 0]) @ state
        if s.additions:
            k, v = _stacked(vectors.k), _stacked(vectors.v)
            seen = seen + _gram(q, k, products, (size, s.queries, s.additions)) @ v
        reach = [_reach(products, jnp.moveaxis(c, 0, 1)) for c in vectors.c]
        for matrix, along in zip(full, reach, strict=True):
            seen = seen + _times_rows(q, along[:, :size]) @ matrix
        if s.corrections:
            u = _stacked(vectors.u)
            among = _gram(q, u, products, (size, s.queries, len(s.corrections)))
            picked = jnp.asarray(s.corrections)
            own = _of_queries(among, size, s.queries, picked)
            right = _of_queries(seen, size, s.queries, picked)
            corrected = inverse(own) @ right
            seen = seen + among @ corrected
        end = _times(products[:, size, 0], state)
        if s.additions:
            end = end + jnp.swapaxes(_times_rows(k, products[:, size, 1:]), 1, 2) @ v
        if s.corrections:
            end = end + jnp.swapaxes(_times_rows(u, products[:, size, 1:]), 1, 2) @ corrected
        for matrix, along in zip(full, reach, strict=True):
            end = end + _times(along[:, size], matrix)
        seen = seen.reshape(seen.shape[0], size, s.queries, seen.shape[2])
        return (end, full), tuple(jnp.moveaxis(seen[:, :, query], 0, 1) for query in s.read)

    return jax.checkpoint(step, prevent_cse=False)


def decay_products(decay: Array | None, size: int, dtype: Any) -> Array:
    """P[a, b] of 0 ≤ b ≤ a ≤ C, (rows, C + 1, C + 1, ...), 0 for a < b; (1, ...) if nothing decays.

    Of two runs of steps side by side it is made of theirs, so that no number is divided by another one.
    """
    if decay is None:
        return jnp.tril(jnp.ones((1, size + 1, size + 1), dtype))
    d = jnp.moveaxis(decay.astype(dtype), 0, 1)
    more = (1 << (size - 1).bit_length()) - size
    d = jnp.pad(d, [(0, 0), (0, more), *[(0, 0)] * (d.ndim - 2)])
    done = jnp.stack([d, jnp.ones_like(d)], 2)[:, :, None]  # (rows, runs, steps, 1 + steps, ...)
    while done.shape[1] > 1:
        first, second = done[:, 0::2], done[:, 1::2]
        zeros = jnp.zeros_like(second[:, :, :, 1:])
        left = second[:, :, :, :1] * first[:, :, -1:]
        upper, lower = jnp.concatenate([first, zeros], 3), jnp.concatenate([left, second[:, :, :, 1:]], 3)
        done = jnp.concatenate([upper, lower], 2)
    start = jnp.zeros_like(done[:, 0, :1, : size + 1]).at[:, :, 0].set(1)
    return jnp.concatenate([start, done[:, 0, :size, : size + 1]], 1)


@jax.custom_jvp
def inverse(a: Array) -> Array:
    """(I − A)⁻¹ of matrices A, (rows, n, n), with zeros on the diagonal and above.

    Of two blocks on the diagonal it is made of theirs, by products of matrices: on a CPU, solvers of LAPACK
    that run side by side can wait for one another for ever.
    """
    size = a.shape[1]
    whole = 1 << (size - 1).bit_length()
    a = jnp.pad(a, ((0, 0), (0, whole - size), (0, whole - size)))
    done = jnp.ones((a.shape[0], whole, 1, 1), a.dtype)
    while done.shape[1] > 1:
        count, half = done.shape[1] // 2, done.shape[2]
        blocks = a.reshape(a.shape[0], count, 2 * half, count, 2 * half)
        on_diagonal = jnp.stack([blocks[:, i, half:, i, :half] for i in range(count)], 1)
        first, second = done[:, 0::2], done[:, 1::2]
        upper = jnp.concatenate([first, jnp.zeros_like(first)], 3)
        lower = jnp.concatenate([second @ on_diagonal @ first, second], 3)
        done = jnp.concatenate([upper, lower], 2)
    return done[:, 0, :size, :size]


@inverse.defjvp
def _inverse_jvp(primals: Any, tangents: Any) -> Any:
    x = inverse(*primals)
    return x, x @ tangents[0] @ x


def _stacked(vectors: tuple[Array, ...]) -> Array:
    """(rows, steps · how many, entries) of (steps, rows, entries), one after the other within a step."""
    a = jnp.stack([jnp.moveaxis(vector, 0, 1) for vector in vectors], 2)
    return a.reshape(a.shape[0], a.shape[1] * a.shape[2], a.shape[3])


def _of_queries(a: Array, size: int, queries: int, picked: Array) -> Array:
    """Rows of some of the queries."""
    a = a.reshape(a.shape[0], size, queries, a.shape[2])
    return a[:, :, picked].reshape(a.shape[0], size * len(picked), a.shape[3])


def _times(factors: Array, state: Array) -> Array:
    """Factors (rows) or (rows, keys), times (rows, keys, values)."""
    return factors.reshape(*factors.shape, *(1,) * (3 - factors.ndim)) * state


def _times_rows(a: Array, factors: Array) -> Array:
    """(rows, steps · how many, keys) times factors of each step, (rows, steps) or (rows, steps, keys)."""
    factors = factors if factors.ndim == 3 else factors[..., None]
    return a * jnp.repeat(factors, a.shape[1] // factors.shape[1], 1)


def _gram(q: Array, k: Array, products: Array, sizes: tuple[int, int, int]) -> Array:
    """P[i−1, j] qᵢ·kⱼ of all pairs of steps."""
    size, queries, keys = sizes
    among = products[:, :size, 1:]
    rows = q.shape[0]
    if products.ndim == 3:
        product = (q @ jnp.swapaxes(k, 1, 2)).reshape(rows, size, queries, size, keys)
        product = product * among[:, :, None, :, None]
    else:
        q = q.reshape(rows, size, queries, q.shape[2])
        k = k.reshape(rows, size, keys, k.shape[2])
        decayed = among[:, :, :, None] * k[:, None]
        product = jnp.einsum("nirk,nijmk->nirjm", q, decayed)
    return product.reshape(rows, size * queries, size * keys)


def _reach(products: Array, c: Array) -> Array:
    """Σ_j P[a, j] c_j: (rows, C + 1) or (rows, C + 1, keys)."""
    among = products[:, :, 1:]
    if products.ndim == 3 and c.ndim == 2:
        return (among @ c[..., None])[..., 0]
    among = among if among.ndim == 4 else among[..., None]
    return jnp.sum(among * (c if c.ndim == 3 else c[..., None])[:, None], 2)
