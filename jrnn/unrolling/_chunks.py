"""One chunk of a matrix recurrence: C steps at once, by products of matrices.

With P[a, b] the product of the decays of steps b + 1 … a, S the state before the first step, and zⱼ what is
written under the key kⱼ, for every query q and every step i

    yᵢ  = P[i−1, 0] qᵢᵀ S + Σ_{j<i} P[i−1, j] (qᵢ·kⱼ) zⱼ       inter-chunk term + intra-chunk term
    S_C = P[C, 0] S + Σ_j P[C, j] kⱼ zⱼᵀ                       chunk state

In a delta rule zⱼ = vⱼ + cⱼ yⱼ depends on what was read before. With r the inter-chunk terms of the query
that is read for it, and A its products P (q·k), z solves (I − c A) z = v + c r.

P is made of products alone: a decay may be 0 or negative, and no logarithm, exponential or division can
overflow. `solve_chunk` takes a `Chunk` of such vectors, of any number of batch axes, and the state before it;
it gives the state after it and y for every query. Several keys or queries at each step stand side by side,
step by step: rows (1, a), (1, b), (2, a), (2, b), ... of one matrix of C · n rows.
"""

import functools
import operator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax

from jrnn.unrolling._recurrences import solve


@dataclass(frozen=True)
class Structure:
    """Parts that a recurrence has."""

    valued: tuple[bool, ...]  # for each key: whether a value is given, and not only corrections
    corrections: tuple[tuple[int, int], ...]  # numbers of a key and of the query that is read for it


class Chunk(NamedTuple):
    """Vectors of C steps, behind batch axes, which may be of length 1."""

    decay: Array | None  # (..., C), the same for all keys, or (..., C, K)
    keys: tuple[Array, ...]  # (..., C, K)
    values: tuple[Array, ...]  # (..., C, V), of the keys that have one
    coefficients: tuple[Array, ...]  # (..., C), of the corrections
    constants: tuple[Array, ...]  # (..., C) or (..., C, K), factors of matrices that never change
    queries: tuple[Array, ...]  # (..., C, K)


def solve_chunk(
    structure: Structure, chunk: Chunk, state: Array, matrices: tuple[Array, ...]
) -> tuple[Array, tuple[Array, ...]]:
    """The state after a chunk, and the products of the states before each step with the queries, (..., C, V).

    Args:
      structure: what the recurrence is made of.
      chunk: its vectors.
      state: (..., K, V), the state before the first step.
      matrices: (..., K, V), what is added with the factors `chunk.constants`.
    """
    # 1. Inter-chunk: what the queries read of the first state, and of matrices added on the way.
    decays = _decays(chunk)
    size, count = decays.size, len(chunk.queries)
    q = jnp.stack(jnp.broadcast_arrays(*chunk.queries), -2)  # (..., C, queries, K)
    seen = _rows(_scaled(q, decays.before)) @ state  # y so far: (..., C · queries, V)
    end = state if decays.whole is None else decays.whole * state
    for factors, matrix in zip(chunk.constants, matrices, strict=True):
        before, after = decays.sums(factors)
        seen = seen + _rows(_scaled(q, before)) @ matrix
        end = end + after * matrix
    # 2. Intra-chunk: what they read of earlier steps of the chunk, for which z of all steps comes first.
    if chunk.keys:
        k = jnp.stack(jnp.broadcast_arrays(*chunk.keys), -2)  # (..., C, keys, K)
        within = decays.products(q, k)  # (..., C · queries, C · keys)
        written = _values(structure, chunk, state)
        if structure.corrections:  # (I − c A) z = v + c r
            written = written + _corrections(structure, chunk, seen)
            written = inverse(_corrections(structure, chunk, within)) @ written
        seen = seen + within @ written
        end = end + jnp.swapaxes(_rows(_scaled(k, decays.after)), -1, -2) @ written
    seen = seen.reshape(*seen.shape[:-2], size, count, seen.shape[-1])
    return end, tuple(_unstacked(seen, -2))


def _rows(a: Array) -> Array:
    """(..., C, n, entries) as (..., C · n, entries): step by step, and within a step one after the other."""
    return a.reshape(*a.shape[:-3], a.shape[-3] * a.shape[-2], a.shape[-1])


def _unstacked(a: Array, axis: int) -> list[Array]:
    """The entries along an axis; the adjoint joins theirs, and fills up none with zeros."""
    axis += a.ndim
    return [lax.squeeze(one, (axis,)) for one in lax.split(a, (1,) * a.shape[axis], axis)]


def _scaled(a: Array, factors: Array | None) -> Array:
    """(..., C, n, K) times factors of each step, (..., C, 1) or (..., C, K)."""
    if factors is None:
        return a
    # one by one: the adjoint of a broadcast is a sum over the axis n, which XLA computes slowly on CPUs
    return jnp.stack([one * factors for one in _unstacked(a, -2)], -2)


def _values(structure: Structure, chunk: Chunk, state: Array) -> Array:
    """The values that are given, (..., C · keys, V); 0 for keys with corrections alone."""
    shape = chunk.queries[0].shape[-2], state.shape[-1]
    given = jnp.broadcast_arrays(jnp.zeros(shape, state.dtype), *chunk.values)
    places = iter(range(1, len(given)))
    return _rows(jnp.stack([given[next(places) if valued else 0] for valued in structure.valued], -2))


def _corrections(structure: Structure, chunk: Chunk, a: Array) -> Array:
    """Of rows for each query, (..., C · queries, n), those that are written: (..., C · keys, n)."""
    count = len(chunk.queries)
    of_queries = _unstacked(a.reshape(*a.shape[:-2], a.shape[-2] // count, count, a.shape[-1]), -2)
    terms: list[list[Array]] = [[] for _ in structure.valued]
    for (key, query), factors in zip(structure.corrections, chunk.coefficients, strict=True):
        terms[key].append(factors[..., None] * of_queries[query])
    zeros = jnp.zeros_like(of_queries[0])
    parts = [functools.reduce(operator.add, of_key, zeros) if of_key else zeros for of_key in terms]
    return _rows(jnp.stack(jnp.broadcast_arrays(*parts), -2))


class Decays(Protocol):
    """The products P of the decays of a chunk; where all are 1, None."""

    size: int

    @property
    def before(self) -> Array | None:
        """P[i−1, 0], (..., C, 1) or (..., C, K)."""
        ...

    @property
    def after(self) -> Array | None:
        """P[C, j], likewise."""
        ...

    @property
    def whole(self) -> Array | None:
        """P[C, 0], (..., 1, 1) or (..., K, 1)."""
        ...

    def products(self, q: Array, k: Array) -> Array:
        """P[i−1, j] qᵢ·kⱼ, 0 for j ≥ i, of (..., C, n, K) and (..., C, m, K): (..., C · n, C · m)."""
        ...

    def sums(self, factors: Array) -> tuple[Array, Array]:
        """Σ_j P[i−1, j] cⱼ as `before`, and Σ_j P[C, j] cⱼ as `whole`."""
        ...


def _decays(chunk: Chunk) -> Decays:
    """The products of decays: of one decay for all keys if that suffices, or of one for each."""
    axes = chunk.queries[0].ndim
    by_key = [a for a in (chunk.decay, *chunk.constants) if a is not None and a.ndim == axes]
    if not by_key:
        return _Alike(chunk.decay, chunk.queries[0])
    ones = jnp.ones_like(by_key[0])
    if chunk.decay is None:
        return _ByKey(ones)
    return _ByKey(chunk.decay if chunk.decay.ndim == axes else chunk.decay[..., None] * ones)


class _Alike:
    """Decays that are the same for all keys: one matrix P for a chunk."""

    def __init__(self, decay: Array | None, like: Array) -> None:
        self.size = like.shape[-2]
        self.before: Array | None = None
        self.after: Array | None = None
        self.whole: Array | None = None
        if decay is None:
            self.table = jnp.tril(jnp.ones((self.size + 1, self.size + 1), like.dtype))
            return
        self.table = decay_products(decay)
        self.before = self.table[..., :-1, :1]
        self.after = jnp.swapaxes(self.table[..., -1:, 1:], -1, -2)
        self.whole = self.table[..., -1:, :1]

    def products(self, q: Array, k: Array) -> Array:
        table = self.table[..., :-1, 1:]  # P[i−1, j], i and j from 1 to C
        # one entry for each pair of steps: repeated for all pairs of queries and keys at them
        for axis, n in ((-2, q.shape[-2]), (-1, k.shape[-2])):
            table = jnp.repeat(table, n, axis) if n > 1 else table
        return table * (_rows(q) @ jnp.swapaxes(_rows(k), -1, -2))

    def sums(self, factors: Array) -> tuple[Array, Array]:
        sums = self.table[..., 1:] @ factors[..., None]
        return sums[..., :-1, :], sums[..., -1:, :]


class _ByKey:
    """A decay for every key: the chunk in halves, and halves of these, down to single steps.

    For j in a first half and i in the second half behind it, which meet at b, P[i−1, j] = P[i−1, b] P[b, j],
    so that all products of the two halves are one product of matrices, (P[i−1, b] qᵢ) · (P[b, j] kⱼ):

        · · · ·     of four steps, first those at ○ for two pairs of halves of one step,
        ○ · · ·     then those at ● for one pair of halves of two; no array has axes of steps, steps and keys,
        ● ● · ·     and no decay is divided by another
        ● ● ○ ·
    """

    def __init__(self, decay: Array) -> None:
        self.decay, self.size = decay, decay.shape[-2]
        self.padded = 1 << (self.size - 1).bit_length()
        whole = _padded(decay, self.padded - self.size, 1)  # of each run of steps; at first, of single steps
        before = after = jnp.ones_like(whole)[..., None, :]
        self.halves: list[tuple[Array, Array]] = []  # what q of second halves, and k of first ones, decay by
        while whole.shape[-2] > 1:
            (b1, b2), (a1, a2), (w1, w2) = _halves(before, -3), _halves(after, -3), _halves(whole, -2)
            self.halves.append((b2, a1))
            before = jnp.concatenate([b1, b2 * w1[..., None, :]], -2)
            after = jnp.concatenate([a1 * w2[..., None, :], a2], -2)
            whole = w1 * w2
        self.before, self.after = before[..., 0, : self.size, :], after[..., 0, : self.size, :]
        self.whole = jnp.swapaxes(whole, -1, -2)

    def products(self, q: Array, k: Array) -> Array:
        n, m = q.shape[-2], k.shape[-2]
        q, k = (_padded(a, self.padded - self.size, 0, axis=-3) for a in (q, k))
        done = jnp.zeros(((1,) * (q.ndim - 3) + (self.padded, n, m)), q.dtype)
        for before, after in self.halves:
            half = before.shape[-2]
            (_, q2), (k1, _) = _halves(_runs(q, half), -4), _halves(_runs(k, half), -4)
            below = _rows(_scaled(q2, before)) @ jnp.swapaxes(_rows(_scaled(k1, after)), -1, -2)
            first, second, below = jnp.broadcast_arrays(*_halves(done, -3), below)
            upper = jnp.concatenate([first, jnp.zeros_like(below)], -1)
            done = jnp.concatenate([upper, jnp.concatenate([below, second], -1)], -2)
        return done[..., 0, : self.size * n, : self.size * m]

    def sums(self, factors: Array) -> tuple[Array, Array]:
        # Σ_j P[i, j] cⱼ is the recurrence s ← d s + c
        factors = factors if factors.ndim == self.decay.ndim else factors[..., None]
        decay, factors = jnp.broadcast_arrays(self.decay, factors)
        decay, factors = jnp.moveaxis(decay, -2, 0), jnp.moveaxis(factors, -2, 0)
        sums = jnp.moveaxis(solve(decay, factors, jnp.zeros_like(factors[0]), resets=True), 0, -2)
        before = jnp.concatenate([jnp.zeros_like(sums[..., :1, :]), sums[..., :-1, :]], -2)
        return before, jnp.swapaxes(sums[..., -1:, :], -1, -2)


def _runs(a: Array, steps: int) -> Array:
    """(..., C, n, K) as (..., runs, steps, n, K)."""
    return a.reshape(*a.shape[:-3], a.shape[-3] // steps, steps, *a.shape[-2:])


def _padded(a: Array, more: int, value: float, axis: int = -2) -> Array:
    widths = [(0, 0)] * a.ndim
    widths[axis] = (0, more)
    return jnp.pad(a, widths, constant_values=value) if more else a


def _halves(a: Array, axis: int) -> tuple[Array, Array]:
    """Every other entry along an axis: the first halves of pairs, and the second ones."""
    place = a.ndim + axis
    first, second = _unstacked(
        a.reshape(*a.shape[:place], a.shape[place] // 2, 2, *a.shape[place + 1 :]), axis
    )
    return first, second


def decay_products(decay: Array) -> Array:
    """P[a, b] of 0 ≤ b ≤ a ≤ C, (..., C + 1, C + 1), 0 for a < b, from (..., C).

        C = 2, decays d₁ d₂:    1    0    0      row a = 0
                                d₁   1    0      row a = 1
                                d₁d₂ d₂   1      row a = 2

    Of two runs of steps side by side it is made of theirs, so that no number is divided by another one.
    """
    size = decay.shape[-1]
    d = _padded(decay, (1 << (size - 1).bit_length()) - size, 1, axis=-1)
    # Rows a = 1 ... of each run of steps, at first of single steps: (..., runs, steps, 1 + steps)
    done = jnp.stack([d, jnp.ones_like(d)], -1)[..., None, :]
    while done.shape[-3] > 1:
        first, second = _halves(done, -3)
        upper = jnp.concatenate([first, jnp.zeros_like(second[..., 1:])], -1)
        # from before the second run on, all of the first: its last row times the decays of the second
        lower = jnp.concatenate([second[..., :1] * first[..., -1:, :], second[..., 1:]], -1)
        done = jnp.concatenate([upper, lower], -2)
    done = done[..., 0, :size, : size + 1]
    return jnp.concatenate([jnp.zeros_like(done[..., :1, :]).at[..., 0].set(1), done], -2)


def inverse(a: Array) -> Array:
    """(I − A)⁻¹ of matrices A, (..., n, n), with zeros on the diagonal and above.

    Of two blocks on the diagonal it is made of theirs, by products of matrices: on a CPU, solvers of LAPACK
    that run side by side can wait for one another for ever.

        I − [A₁ 0; B A₂]   has the inverse   [X₁ 0; X₂ B X₁ X₂]
    """
    return _inverse(a) if a.shape[-1] > 1 else jnp.ones_like(a)


@jax.custom_jvp
def _inverse(a: Array) -> Array:
    size = a.shape[-1]
    whole = 1 << (size - 1).bit_length()
    a = _padded(_padded(a, whole - size, 0), whole - size, 0, axis=-1)
    done = jnp.ones_like(a[..., :1])[..., None]  # of each step: (..., n, 1, 1)
    while done.shape[-3] > 1:
        half = done.shape[-1]
        blocks = []  # B of each pair of blocks on the diagonal
        for start in range(0, whole, 2 * half):
            blocks.append(a[..., start + half : start + 2 * half, start : start + half])
        below = jnp.stack(blocks, -3)
        first, second = _halves(done, -3)
        below = jnp.matmul(jnp.matmul(second, below, precision="highest"), first, precision="highest")
        upper = jnp.concatenate([first, jnp.zeros_like(first)], -1)
        done = jnp.concatenate([upper, jnp.concatenate([below, second], -1)], -2)
    return done[..., 0, :size, :size]


@_inverse.defjvp
def _inverse_jvp(primals: Any, tangents: Any) -> Any:
    x = _inverse(*primals)
    return x, x @ tangents[0] @ x
