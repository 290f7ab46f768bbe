"""The memory of a loop's gradient, and gradient checkpointing by blocks of steps, which reduces it.

With blocks, only the carries between blocks are saved, and the backward pass recomputes each block when it
reaches it. 1000 steps in blocks of 100, split into blocks of 10, are (100, 10):

    10 carries for the blocks of 100, 10 for the blocks of 10 in one of them, residuals of 10 steps
"""

import functools
import itertools
import math
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

import jax
from jax import lax

from jrnn._caching import cached
from jrnn._jaxprs.programs import Program, element_count, is_inexact, outputs_of, size_in_bytes
from jrnn.unrolling._engine import trace_loop
from jrnn.unrolling._fallbacks import rule_applies
from jrnn.unrolling._linearizing import linearize_step
from jrnn.unrolling._loops import plain_scan
from jrnn.unrolling._sites import active_inputs, stacked_activations
from jrnn.unrolling._staging import Stage, StagedStep, StepSignature
from jrnn.unrolling.methods import Body, Loop, Run


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that the gradient of a loop needs, by purpose."""

    carry_bytes: int  # per block
    step_bytes: int  # per step of the innermost block: residuals and adjoints
    xs_bytes: int  # the inputs of a step
    ys_bytes: int  # the outputs of a step
    consts_bytes: int  # once

    def bytes(self, blocks: tuple[int, ...], length: int) -> int:
        """Temporaries of the gradient, with blocks of these lengths, outermost first."""
        io_bytes = self.xs_bytes + self.ys_bytes
        total, steps = 7 * self.consts_bytes // 5, length  # their gradient, and room to accumulate it
        for block in blocks:
            count, rest = divmod(steps, block)
            total += count * self.carry_bytes + block * io_bytes
            if rest:  # all inputs but those of the remaining steps, which run separately, are copied
                total += self.consts_bytes + count * block * self.xs_bytes + rest * io_bytes
            steps = block
        return total + steps * self.step_bytes


def choose_blocks(memory: int | str, estimate: MemoryEstimate, length: int) -> tuple[int, ...]:
    """Choose block lengths, outermost first: the least nesting that fits, then the longest blocks."""
    if not isinstance(length, int):  # a symbolic axis of jax.export, with unknown divisors
        if isinstance(memory, int):
            raise ValueError(f"memory={memory} bytes needs a known number of steps, xs has {length}")
        return ()
    if length < 4:
        return ()
    if not isinstance(memory, int):
        return min(_nested(1, length), key=lambda found: estimate.bytes(found, length))
    best = estimate.bytes((), length)
    for depth in range(length.bit_length()):
        # pairs of bytes and the lengths of blocks that need them
        chains = [(estimate.bytes(found, length), found) for found in _nested(depth, length)]
        fitting = [found for size, found in chains if size <= memory]
        # Of those that fit, the one with the longest innermost blocks recomputes the fewest carries.
        if fitting:
            return max(fitting, key=lambda found: found[-1:])
        best = min([best, *(size for size, _ in chains)])
    raise ValueError(
        f"memory={memory} bytes is too little for {length} steps: the gradient takes at least {best} bytes"
    )


def _nested(depth: int, length: int) -> list[tuple[int, ...]]:
    """Candidates for blocks nested `depth` deep, each divided into about the same number of blocks.

    1000 steps in innermost blocks of 10 are 100 of them; at a depth of 2 these are 10 · 10: (100, 10).
    """
    if depth == 0:
        return [()]
    found = []
    for j in range(2 * length.bit_length()):
        # the length of the innermost blocks: T, T/√2, T/2, ...
        block, chain = near_divisor(length, length / 2 ** (j / 2)), list[int]()
        many = (length / block) ** (1 / depth)
        for outer in range(1, depth):
            chain.append(near_divisor(chain[-1] if chain else length, length / many**outer))
        chain.append(near_divisor(chain[-1] if chain else length, block))
        if all(a > b > 1 for a, b in itertools.pairwise((length, *chain))):
            found.append(tuple(chain))
    return found


def near_divisor(length: int, wanted: float) -> int:
    """A number close to `wanted` that divides `length`, or leaves a small remainder."""
    fitting = (d for d in _divisors(length) if wanted / 1.5 <= d <= wanted * 1.5)
    parts = max(1, round(length / wanted))
    return min(fitting, key=lambda d: abs(math.log(d / wanted)), default=length // parts)


@functools.lru_cache(maxsize=1024)
def _divisors(length: int) -> tuple[int, ...]:
    divisors: set[int] = set()
    for d in range(1, math.isqrt(length) + 1):
        if length % d == 0:
            divisors.add(d)
            divisors.add(length // d)
    return tuple(divisors)


def memory_estimate(loop: Loop[Any, Any, Any], precompute_all: bool | None = None) -> MemoryEstimate:
    """Predict the memory of a loop's gradient with respect to its constants, from arrays or types.

    Args:
      loop: the loop.
      precompute_all: as for `trace_loop`.
    """
    step_bytes = 0
    if loop.length != 0:
        program, signature, staged, closed_over, _ = trace_loop(loop, precompute_all)
        if staged is not None:
            return _estimate(program, signature, staged, len(closed_over))
        step_bytes = size_in_bytes(outputs_of(program.ops), program)

    def tree_bytes(tree: Any) -> int:
        return sum(element_count(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

    return MemoryEstimate(
        carry_bytes=tree_bytes(loop.carry),
        step_bytes=step_bytes,
        xs_bytes=0,
        ys_bytes=0,
        consts_bytes=tree_bytes(loop.consts),
    )


@cached
def _estimate(
    program: Program, signature: StepSignature, staged: StagedStep, n_closed_over: int
) -> MemoryEstimate:
    # Values that the step closes over, and those computed from them alone, have no gradient.
    nondifferentiated = {*signature.consts[:n_closed_over], *program.literals, *signature.xs}
    for op in staged.hoisted_ops:
        if nondifferentiated.issuperset(op.inputs):
            nondifferentiated.update(op.outputs)
    # (in the loop, after it), for each stage
    per_step = [_gradient_bytes_per_step(stage, program, nondifferentiated) for stage in staged.stages]
    # Residuals of all loops live until the backward pass; memory needed after a loop is freed stage by stage.
    in_loops = sum(in_loop for in_loop, _ in per_step)
    return MemoryEstimate(
        carry_bytes=size_in_bytes(staged.carry_in, program),
        step_bytes=in_loops + max([0, *(after - in_loop for in_loop, after in per_step)]),
        xs_bytes=size_in_bytes(signature.xs, program),
        ys_bytes=size_in_bytes(staged.ys, program),
        consts_bytes=size_in_bytes(staged.consts, program),
    )


def _gradient_bytes_per_step(
    stage: Stage, program: Program, nondifferentiated: Container[int]
) -> tuple[int, int]:
    """Bytes per step that the gradient of a stage needs, in the loop and after it.

    Args:
      stage: the stage.
      program: the step that contains the stage.
      nondifferentiated: values without a tangent.
    """
    if not stage.carry_pairs:
        return size_in_bytes(stage.ys, program), 0
    if not rule_applies(stage, program):
        return size_in_bytes(outputs_of(stage.ops), program), 0
    tangents: set[int] = set()
    for value in (*stage.consts, *stage.xs):
        if value not in nondifferentiated and is_inexact(program.types[value]):
            tangents.add(value)
    active = active_inputs(stage, program, tangents, tangents)
    sites, folded = active.sites, {x for x in stage.xs if x in tangents and x not in active.xs}
    # adjoints, δ: one for each site, and one for each input whose own tangent enters the loop
    with_adjoint = [*{site.value for site in sites}, *active.xs]
    adjoints = size_in_bytes(with_adjoint, program)
    # a matmul of an adjoint with activations reads a copy of it; the parts of one matmul are concatenated
    matmuls: dict[int, int] = {}  # result -> the site that it is part of
    for site in sites:
        matmuls.update({op.outputs[0]: site.value for op in site.ops if op.matmul})
    for site in sites:
        matmuls.update(dict.fromkeys(folded.intersection(site.additive), site.value))
    copies: set[int] = set()  # one of each result that is larger than its site, otherwise one of the site
    for result, site_value in matmuls.items():
        larger = size_in_bytes([result], program) > size_in_bytes([site_value], program)
        copies.add(result if larger else site_value)
    activations = stacked_activations(stage, sites)
    in_loop = linearize_step(stage, program, active).stacked_bytes + adjoints
    # folded xs count where they are computed, and are freed before the gradients of the weights
    after = size_in_bytes([*activations, *copies], program) + adjoints - size_in_bytes(folded, program)
    return in_loop, after


@cached
def in_blocks(run: Run, block: int, reverse: bool) -> Run:
    """`run` in a loop over blocks, each of which the backward pass recomputes."""
    rematerialized: Run = jax.checkpoint(run, prevent_cse=False)

    def in_blocks(consts: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
        # 100 steps in blocks of 30: three blocks in a scan, and the last 10 visited steps separately
        leaves, structure = jax.tree.flatten(xs)
        count, rest = divmod(leaves[0].shape[0], block)
        short = slice(0, rest) if reverse else slice(count * block, None)  # the last block visited
        whole = slice(rest, None) if reverse else slice(0, count * block)
        # (T, ...) -> (blocks, steps, ...), without axes of length 1, as XLA may copy all of `xs`
        by_block = [a[whole].reshape(count, block, *(n for n in a.shape[1:] if n != 1)) for a in leaves]
        run_block = _with_shapes(run, structure, tuple(a.shape[1:] for a in leaves))
        carry, ys = plain_scan(run_block, reverse)(consts, carry, by_block)
        ys = jax.tree.map(lambda a: a.reshape(count * block, *a.shape[2:]), ys)
        if rest == 0:
            return carry, ys
        carry, tail = rematerialized(consts, carry, jax.tree.map(lambda a: a[short], xs))
        parts = (tail, ys) if reverse else (ys, tail)
        return carry, jax.tree.map(lambda a, b: lax.concatenate([a, b], 0), *parts)

    return in_blocks


@cached
def _with_shapes(run: Run, structure: Any, shapes: tuple[Any, ...]) -> Body:
    """`run` as the body of the loop over blocks, on leaves from which axes of length 1 have been removed."""

    def shaped(consts: Any, carry: Any, leaves: Any) -> tuple[Any, Any]:
        whole = [a.reshape(a.shape[0], *shape) for a, shape in zip(leaves, shapes, strict=True)]
        return run(consts, carry, jax.tree.unflatten(structure, whole))

    return jax.checkpoint(shaped, prevent_cse=False)
