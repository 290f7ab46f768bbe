"""States that are matrices: many steps at once, by products of matrices.

_forms       each value of a step as a sum of products that are affine in the state
_matrices    from these, the recurrence: decay, writes, queries; or why there is none
_phases      the order: scans over other entries, matrices solved for behind them
_vectors     the vectors of a recurrence, computed from the values of the step
_chunks      one chunk of a recurrence
chunked      all phases of a step, chunk by chunk
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._alignment import like_batch
from jrnn._caching import cached
from jrnn._checks import brief
from jrnn._jaxprs.programs import eval_ops, read
from jrnn.unrolling._blocks import in_blocks, near_divisor
from jrnn.unrolling._chunks import solve_chunk
from jrnn.unrolling._engine import TracedLoop, broadcast_over_steps, prepare, trace_loop
from jrnn.unrolling._loops import plain_scan
from jrnn.unrolling._matrices import Matrix
from jrnn.unrolling._phases import Plan, plan_step, product_names, vector_names
from jrnn.unrolling._staging import entries_before
from jrnn.unrolling._vectors import Env, chunk_of, from_chunk, from_matrices, structure_of, to_matrices
from jrnn.unrolling.methods import Loop, Method, Run

USUAL = 32  # keys of a chunk, steps times keys at each; measured by `benchmarks.chunked curves`


@dataclass(frozen=True)
class Chunked:
    """Chunks of steps by products of matrices, for a state that is a matrix.

        Sₜ = dₜ ⊙ Sₜ₋₁ + Σ k (v + Σ c (wᵀ Sₜ₋₁))ᵀ,   and of S only products qᵀ S with vectors are read

    Linear attention, `MLSTM`, gated and delta rules and products of Householders have this form. d is one
    number for a matrix, or one for each of its rows or columns, and may be 0 or negative; there may be
    several writes k and corrections c wᵀ S at each step. The form is found in the traced `step`, which is
    written as for any cell. Heads and batch are further axes, and keys may be rows or columns. A normalizer
    is a matrix of one column; a running maximum, windows of inputs and further layers run as `Scan` runs
    them.

    Within a chunk all steps are computed at once, between chunks the state is handed on. A gradient keeps the
    states between chunks alone and computes each chunk again, its projections too, when the backward pass
    reaches it. Lengths, masks, resets, a given carry and `reverse` compose as with `Scan`, except that NaN or
    inf in one sequence passes a reset within its chunk.

    Args:
      size: steps of a chunk; None: about 32, or 16 with two keys a step, a divisor of the number of steps
        if one is near. The time hardly depends on it between 16 and 64; memory between chunks is that of
        steps / size states.
      otherwise: the method for cells without such a state; None: that is an error.

    Raises:
      ValueError: another `size`; in `unroll`, a cell without such a state where `otherwise` is None; the
        message says what stands in the way, and on which line of the step.

    Reference: Yang et al., Parallelizing linear transformers with the delta rule over sequence length, 2024,
    arXiv:2406.06484; Yang et al., Gated linear attention transformers with hardware-efficient training, 2024,
    arXiv:2312.06635, whose secondary chunks are halves here, down to single steps.

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
        if isinstance(loop.length, int):
            return self._run(loop, self.size and min(self.size, loop.length))
        # a symbolic axis of `jax.export`
        size = self.size or USUAL
        carry, ys = self._run(_in_whole_chunks(loop, size), size)
        steps = slice(-loop.length, None) if loop.reverse else slice(loop.length)
        return carry, jax.tree.map(lambda y: y[steps], ys)

    def _run(self, loop: Loop[Any, Any, Any], size: int | None) -> tuple[Any, Any]:
        traced = trace_loop(loop)
        plan, refusals = plan_step(traced.program, traced.signature)
        if plan is not None:
            return _run_plan(plan, loop, traced, size or near_divisor(loop.length, usual_size(plan)))
        if self.otherwise is not None:
            return self.otherwise.run(loop)
        raise ValueError(_refusal(loop, refusals))


def usual_size(plan: Plan) -> int:
    """Steps of a chunk of `USUAL` keys, of the matrix with the most of them."""
    return max(1, USUAL // max(len(matrix.writes) for matrix in plan.matrices.values()))


def _refusal(loop: Loop[Any, Any, Any], refusals: Iterable[tuple[int, str]]) -> str:
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(loop.carry)]
    told = "; ".join(f"of carry{names[place]}, {why}" for place, why in refusals)
    return (
        f"method=Chunked() needs a state that is a matrix and is read by products with vectors, "
        f"{brief(loop.cell)} has none ({told or 'no carry'}); "
        "Chunked(otherwise=Scan()) runs the rest by a scan"
    )


def _run_plan(plan: Plan, loop: Loop[Any, Any, Any], traced: TracedLoop, size: int) -> tuple[Any, Any]:
    """Hoisted ops once, all phases chunk by chunk, and the results in the structure of the step."""
    program, signature, _, closed_over, result_types = traced
    arrays = [*closed_over, *jax.tree.leaves((loop.consts, loop.carry, loop.inputs))]
    env: Env = program.literals | dict(zip(program.inputs, arrays, strict=True))
    eval_ops(plan.hoisted_ops, env)
    # Between chunks a matrix is (batch..., keys, values), in float32 or wider; other entries are as they are.
    entries, matrices = entries_before(plan.step.carry_pairs), plan.matrices
    init = []
    for entry in entries:
        init.append(to_matrices(matrices[entry], env[entry]) if entry in matrices else env[entry])
    scan = in_blocks(_chunk_scan(plan, loop.reverse), size, loop.reverse)
    carry, ys = scan(read(env, plan.consts), tuple(init), read(env, plan.step.xs))
    for entry, after in zip(entries, carry, strict=True):
        like = program.types[entry]
        env[entry] = from_matrices(matrices[entry], after, like) if entry in matrices else after
    varying = dict(zip(plan.step.ys, ys, strict=True))
    leaves = [env[entry] for entry in signature.carry_in]
    for y in signature.ys:
        leaves.append(varying[y] if y in varying else broadcast_over_steps(env[y], loop.length))
    return jax.tree.unflatten(jax.tree.structure(result_types), leaves)


@dataclass(frozen=True, eq=False)
class _Scanned:
    """The loop of a phase: what `prepare` reads of a `Loop`."""

    body: Any
    consts: Any
    carry: Any
    inputs: Any
    length: int
    reverse: bool


@cached
def _chunk_scan(plan: Plan, reverse: bool) -> Run:
    """All phases of a step for a chunk of steps: `(consts, carry, xs) -> (carry, ys)`."""

    def scan(consts: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
        env: Env = dict(zip((*plan.consts, *plan.step.xs), (*consts, *xs), strict=True))
        state = dict(zip(entries_before(plan.step.carry_pairs), carry, strict=True))
        for phase in plan.phases:
            entries = entries_before(phase.carry_pairs)
            arrays = read(env, phase.consts), read(state, entries), read(env, phase.xs)
            loop: Any = _Scanned(phase.body, *arrays, xs[0].shape[0], reverse)
            prepared = prepare(loop, precompute_all=True)
            after, ys = prepared.finish(*prepared.run_stages(prepared.consts, prepared.carry, prepared.xs))
            state.update(zip(entries, after, strict=True))
            env.update(zip(phase.ys, ys, strict=True))
            # Among the ys of the scan, by name, are the vectors of these matrices at all steps of the chunk.
            for matrix in phase.matrices:
                state[matrix.before] = _solve(matrix, plan, env, state[matrix.before], reverse)
        return tuple(state.values()), read(env, plan.step.ys)

    return scan


def _solve(matrix: Matrix, plan: Plan, env: Env, state: Array, reverse: bool) -> Array:
    """Add what is read of a matrix at the steps of a chunk to `env`; return the matrix after them."""

    def turned(a: Array) -> Array:
        return jnp.flip(a, 0) if reverse else a

    like = plan.step.program.types[matrix.before]
    chunk = chunk_of(matrix, map(turned, read(env, vector_names(matrix))))
    constants = tuple(to_matrices(matrix, env[constant]) for _, constant in matrix.constants)
    # what does not depend on the inputs, or on flags alone, may be on all devices
    axes = len(matrix.batch_axes)
    chunk, constants = jax.tree.map(lambda a: like_batch(a, state, axes), (chunk, constants))
    state, products = solve_chunk(structure_of(matrix), chunk, state, constants)
    for name, product in zip(product_names(matrix), products, strict=True):
        env[name] = turned(from_chunk(matrix, product, like))
    return state


def _in_whole_chunks(loop: Loop[Any, Any, Any], size: int) -> Loop[Any, Any, Any]:
    """A loop with skipped steps added behind the last one visited, up to a multiple of `size`."""
    length = -(-loop.length // size) * size
    more = length - loop.length
    widths = (more, 0) if loop.reverse else (0, more)

    def longer(a: Array, mode: str) -> Array:
        return jnp.pad(a, [widths, *[(0, 0)] * (a.ndim - 1)], mode=mode)

    valid = jnp.ones((loop.length,), bool) if loop.valid is None else loop.valid
    return replace(
        loop,
        xs=jax.tree.map(lambda x: longer(x, "edge"), loop.xs),
        valid=longer(valid, "constant"),
        reset=None if loop.reset is None else longer(loop.reset, "constant"),
        length=length,
    )
