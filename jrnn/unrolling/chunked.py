"""States that are matrices, many steps at once instead of step by step."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jrnn._alignment import promoted
from jrnn._checks import brief
from jrnn._jaxprs import Program, trace
from jrnn.unrolling._chunks import Structure, Vectors, run_chunks
from jrnn.unrolling._engine import broadcast_over_steps, prepare
from jrnn.unrolling._loops import plain_scan
from jrnn.unrolling._matrices import Matrix
from jrnn.unrolling._phases import Phase, constants_of, phases_of, product_names, vector_names
from jrnn.unrolling._staging import eval_ops, read
from jrnn.unrolling.methods import Loop, Method


@dataclass(frozen=True)
class Chunked:
    """Chunks of steps by products of matrices, for a state that is a matrix.

        Sₜ = dₜ ⊙ Sₜ₋₁ + Σ u (wᵀ Sₜ₋₁) + Σ k vᵀ,   and of S only products qᵀ S with vectors are read

    That is what linear attention, `MLSTM`, gated and delta rules have in common; d is one number for a
    matrix, or for each of its rows or columns, and may be 0 or negative. The form is found in the traced
    `step`, which is written as for any cell: heads and batch are further axes, keys may be rows or columns, a
    normaliser, a running maximum, windows of inputs and further layers run as `Scan` runs them. Masks, resets
    and a given carry are part of the step. Within a chunk all steps are computed at once; between chunks
    goes the state, and a gradient keeps only that.

    Args:
      size: steps of a chunk; None: 64, and with a decay for each row, or a w, fewer.
      otherwise: the method for cells without such a state; None: that is an error.

    Raises:
      ValueError: another `size`; in `unroll`, a cell without such a state where `otherwise` is None; the
        message says what stands in the way.

    Reference: Yang et al., Parallelizing linear transformers with the delta rule over sequence length, 2024,
    arXiv:2406.06484.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.MLSTM(8, heads=2)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> jrnn.unroll(cell, params, jnp.ones((1000, 3)), method=jrnn.Chunked())[1].shape
    (1000, 8)
    """

    size: int | None = None
    otherwise: Method | None = None

    def __post_init__(self) -> None:
        if self.size is not None and (
            isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1
        ):
            raise ValueError(f"size must be a number of steps, at least 1, or None, got {self.size!r}")

    def run(self, loop: Loop[Any, Any, Any]) -> tuple[Any, Any]:
        """Return the carry after the last step, and the outputs of all steps."""
        if loop.length == 0:
            return plain_scan(loop.body, loop.reverse)(loop.consts, loop.carry, loop.inputs)
        first = jax.eval_shape(_first_step, loop.inputs)
        program, closed_over, result = trace(loop.body, loop.consts, loop.carry, first)
        held = [*closed_over, *jax.tree.leaves(loop.consts)]
        phases, reasons = phases_of(program, len(held), len(jax.tree.leaves(loop.carry)))
        if not phases:
            if self.otherwise is not None:
                return self.otherwise.run(loop)
            names = [
                jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(loop.carry)
            ]
            told = "; ".join(f"of carry{names[place]}, {why}" for place, why in reasons)
            raise ValueError(
                f"method=Chunked() needs a state that is a matrix and is read by products with vectors, "
                f"{brief(loop.cell)} has none ({told or 'no carry'}); "
                "Chunked(otherwise=Scan()) runs the rest by a scan"
            )
        return _run(loop, program, phases, (held, result), self.size)


def _first_step(xs: Any) -> Any:
    return jax.tree.map(lambda x: lax.index_in_dim(x, 0, keepdims=False), xs)


@dataclass(frozen=True, eq=False)
class _Loop:
    """A loop of a phase: what `Scan` takes of a `Loop`."""

    body: Any
    consts: Any
    carry: Any
    inputs: Any
    length: int
    reverse: bool


def _run(
    loop: Any, program: Program, phases: tuple[Phase, ...], ends: tuple[list[Any], Any], size: int | None
) -> Any:
    held, result = ends
    state, xs = jax.tree.leaves(loop.carry), jax.tree.leaves(loop.inputs)
    constants, _ = constants_of(program, len(held), len(state))
    values: dict[Any, Any] = dict(program.literals)
    values.update(zip(program.inputs, [*held, *state, *xs], strict=True))
    eval_ops(constants, values)
    last = dict(zip(program.inputs[len(held) :], state, strict=False))
    for phase in phases:
        befores = [a for a, _ in phase.carried]
        arrays = read(values, phase.constants), read(last, befores), read(values, phase.given)
        part: Any = _Loop(phase.body, *arrays, loop.length, loop.reverse)
        scan = prepare(part)
        after, out = scan.finish(*scan.run(scan.consts, scan.carry, scan.xs))
        last.update(zip(befores, after, strict=True))
        values.update(zip(phase.emitted, out, strict=True))
        for matrix in phase.matrices:
            last[matrix.before] = _solve(matrix, values, last[matrix.before], size, loop.reverse)
    varying = (
        set().union(*(phase.emitted for phase in phases)).union(program.inputs[len(held) + len(state) :])
    )
    outs = program.outputs[len(state) :]
    ys = [values[o] if o in varying else broadcast_over_steps(values[o], loop.length) for o in outs]
    return jax.tree.unflatten(jax.tree.structure(result), [*last.values(), *ys])


def _solve(matrix: Matrix, values: dict[Any, Any], start: Array, size: int | None, reverse: bool) -> Array:
    """Add what is read of a matrix at all steps to `values`; return the matrix after them."""
    m = matrix
    dtype = promoted(start.dtype, jnp.float32)
    parts = iter(read(values, vector_names(m)))
    decay = None if m.decay is None else next(parts)
    counts = len(m.corrections), len(m.additions), len(m.additions), len(m.fulls), len(m.queries)
    u, k, v, c, q = (tuple(next(parts) for _ in range(count)) for count in counts)
    seen_of = tuple(sorted({query for r in m.reads for query, *_ in r.products}))
    structure = Structure(tuple(query for _, query in m.corrections), len(k), len(c), len(q), seen_of)
    order = (*m.batch, m.key, *m.values)
    shape = tuple(start.shape[axis] for axis in order)
    # rows, keys, values; 1 value where no axis is left, as columns that decay at rates of their own are rows
    flat = math.prod(shape[: len(m.batch)]), start.shape[m.key], math.prod(shape[len(m.batch) + 1 :])

    def matrices(a: Array) -> Array:
        return jnp.transpose(a, order).reshape(flat).astype(dtype)

    vectors = Vectors(decay, u, k, tuple(a.reshape(*a.shape[:2], flat[2]) for a in v), c, q)
    full = tuple(matrices(values[place]) for _, place in m.fulls)
    steps = size or _usual(m, vectors)
    end, seen = run_chunks(structure, vectors, matrices(start), full, steps, reverse)
    names = product_names(m)
    values.update({names[query]: y for query, y in zip(seen_of, seen, strict=True)})
    back = [order.index(axis) for axis in range(len(order))]
    return jnp.transpose(end.reshape(shape), back).astype(start.dtype)


def _usual(matrix: Matrix, vectors: Vectors) -> int:
    if vectors.decay is not None and vectors.decay.ndim == 3:
        return 16
    return 32 if matrix.corrections else 64
