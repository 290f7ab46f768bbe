"""The derivative of one step of a loop, and the residuals that are saved for it.

A step is linearized with its weights held constant. The part that does not depend on tangents is the primal
step, which runs forward and outputs residuals; the rest is the tangent step, which JAX transposes:

    zₜ = xₜ w_ih + hₜ₋₁ w_hh,   hₜ = tanh(zₜ)      the step; zₜ is a weight site
    hₜ                                            primal, and here the only residual
    ḣₜ = (1 − hₜ²) ⊙ (ε̇ₜ + ḣₜ₋₁ w_hh)             tangent; ε̇ₜ is the tangent of zₜ due to weights

`linearize_step` makes both steps; `partition` divides their ops, and chooses the residuals by a minimum cut.
Transposed, the tangent step takes the adjoint of hₜ to that of hₜ₋₁ and to δₜ, the adjoint of ε̇ₜ. From the δₜ
of all steps follow the gradients of the weights, after the loop (`_sites.site_tangents`, transposed).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn._alignment import zeros_like_type
from jrnn._caching import cached
from jrnn._jaxprs.programs import (
    Op,
    Program,
    Values,
    dce,
    element_count,
    eval_ops,
    free_values,
    hoist,
    inputs_of,
    is_inexact,
    only_broadcasts,
    outputs_of,
    read,
    size_in_bytes,
    trace,
)
from jrnn.unrolling._sites import WeightSite, primal_ys
from jrnn.unrolling._staging import Stage, StepSignature


@dataclass(frozen=True, eq=False)
class LinearizedStep:
    """A step of a loop and its derivative as two steps: one runs forward, the other is transposed."""

    primal: Callable[..., Any]  # (consts, carry, xs) -> (carry, (*primal_ys, *residuals))
    # (constants, tangents of the carry, (*primal values, *tangents of xs, *ε̇)) -> tangents of (carry, ys)
    tangent: Callable[..., Any]
    constants_read: Callable[[Any], Any]  # constants of the loop -> those that the tangent step reads
    primals_read: Callable[[Any, Any], Any]  # (xs, what the primal loop stacked) -> those that it reads
    nonzero: tuple[bool, ...]  # for the tangents of the inexact carry and ys: False where always zero
    stacked_types: tuple[Any, ...]  # of `primal_ys` and residuals
    stacked_bytes: int


@cached  # as everything from a step to its loops: `lax.scan` compiles again for a new function
def linearize_step(
    stage: Stage, program: Program, sites: tuple[WeightSite, ...], active_xs: tuple[int, ...]
) -> LinearizedStep:
    """Linearize a step of a loop in its carry, its active inputs and the perturbations of its sites.

    Args:
      stage: the loop.
      program: the step that contains the stage.
      sites: the active weight sites.
      active_xs: indices of the active inputs among the xs of the loop.
    """
    # One program of the step together with its derivative, then its parts. Tracing it gives the values new
    # numbers: `stage`, `program` and `sites` have the old ones, `whole`, `signature` and `parts` the new.
    whole, signature, closed_over = _trace_with_tangents(stage, program, sites, active_xs)
    parts = partition(whole, signature)
    stacked = (*signature.ys, *parts.residuals)  # here `signature.ys` are the `primal_ys` of the stage

    # The two steps, each of which evaluates its part of the ops.
    def primal(consts: Any, carry: Any, xs: Any) -> Any:
        inputs = (*signature.consts, *signature.carry, *signature.xs)
        env = whole.literals | dict(zip(inputs, (*closed_over, *consts, *carry, *xs), strict=True))
        eval_ops(parts.primal, env)
        return read(env, signature.carry_out), read(env, stacked)

    def tangent(consts: Any, carry_tangents: Any, xs: Any) -> Any:
        # `signature.tangents`: those of the inexact carry, then of the active xs, then of the sites.
        inputs = (*parts.consts, *parts.xs, *signature.tangents)
        # `lax.scan` takes one tuple of xs: primal values first, then the tangents but those of the carry.
        primals, tangents = xs[: len(parts.xs)], xs[len(parts.xs) :]
        env = whole.literals | dict(zip(inputs, (*consts, *primals, *carry_tangents, *tangents), strict=True))
        # The ops read W, so it is swapped back here; XLA folds that into the product. Transposed, the product
        # then reads Wᵀ as it is passed.
        env |= {c: jnp.swapaxes(env[c], 0, 1) for c in parts.transposed}
        eval_ops(parts.tangent, env)
        out = read(env, signature.tangents_out)
        return out[: len(carry_tangents)], out[len(carry_tangents) :]

    def constants_read(consts: Any) -> Any:
        env = whole.literals | dict(zip(signature.consts, (*closed_over, *consts), strict=True))
        eval_ops(parts.hoisted, env)
        # The transpose of ḣ W reads Wᵀ; transposing W at every step would be slow, so Wᵀ is made once, here.
        return tuple(jnp.swapaxes(env[c], 0, 1) if c in parts.transposed else env[c] for c in parts.consts)

    def primals_read(xs: Any, stacked_arrays: Any) -> Any:
        return read(dict(zip((*signature.xs, *stacked), (*xs, *stacked_arrays), strict=True)), parts.xs)

    stacked_types = read(whole.types, stacked)
    stacked_bytes = size_in_bytes(stacked, whole)
    return LinearizedStep(
        primal, tangent, constants_read, primals_read, parts.nonzero, stacked_types, stacked_bytes
    )


def _trace_with_tangents(
    stage: Stage, program: Program, sites: tuple[WeightSite, ...], active_xs: tuple[int, ...]
) -> tuple[Program, StepSignature, list[Any]]:
    """A step and its tangents as a program, its signature, and the arrays that it closes over.

        (consts, carry, xs, tangents)  ->  (carry, primal_ys, tangents)

    Tangents go in for the inexact carry, the active xs and the sites (ε̇), and come out for the inexact carry
    and the inexact ys of the stage.
    """
    types = [read(program.types, values) for values in (stage.consts, stage.carry_in, stage.xs)]
    consts, carry, xs = types
    tangents = [t for t in carry if is_inexact(t)], [xs[i] for i in active_xs]
    perturbations = [program.types[site.value] for site in sites]
    with_tangents = _step_with_tangents(stage, program, sites, active_xs)
    whole, closed_over, _ = trace(with_tangents, *types, *tangents, perturbations)
    ys = len(primal_ys(stage, sites))
    signature = StepSignature.of(whole, len(closed_over) + len(consts), len(carry), len(xs), ys)
    return whole, signature, closed_over


@cached
def _step_with_tangents(
    stage: Stage, program: Program, sites: tuple[WeightSite, ...], active_xs: tuple[int, ...]
) -> Callable[..., Any]:
    """A step and its tangents: `(consts, carry, xs, *tangents) -> ((carry, primal_ys), tangents)`."""

    def step(consts: Any, carry: Any, xs: Any, *tangents: Any) -> Any:
        # integers and keys have no tangents
        inexact_places = [i for i, c in enumerate(carry) if is_inexact(c)]

        def perturbed(carry_part: Any, xs_part: Any, perturbations: Any) -> Any:
            carry_at = _replaced(carry, inexact_places, carry_part)
            xs_at = _replaced(xs, active_xs, xs_part)
            inputs = (*stage.consts, *stage.carry_in, *stage.xs)
            env = dict(zip(inputs, (*consts, *carry_at, *xs_at), strict=True))
            # All readers of a site see z + ε, so that the tangent of ε goes wherever that of z would.
            epsilon = dict(zip((site.value for site in sites), perturbations, strict=True))
            # Weights are not arguments of `perturbed`, so that its derivative holds them constant.
            for op in stage.ops:
                eval_ops([op], env)
                env.update({o: _perturb(env[o], epsilon[o]) for o in op.outputs if o in epsilon})
            after, ys = read(env, stage.carry_out), read(env, primal_ys(stage, sites))
            # `primal_ys` begin with the ys of the stage; the activations after them need no tangents.
            return [v for v in (*after, *ys[: len(stage.ys)]) if is_inexact(v)], (after, ys)

        zeros = [zeros_like_type(program.types[site.value]) for site in sites]
        primals = [carry[i] for i in inexact_places], [xs[i] for i in active_xs], zeros
        # Not `jvp`, which makes one equation of a `cond` or `scan` inside the step. `linearize` makes two,
        # one of primal values and one linear in the tangents: `partition` needs each op to be either.
        _, pushforward, result = jax.linearize(perturbed, *primals, has_aux=True)
        return result, pushforward(*tangents)

    return step


def _replaced(values: Any, places: Iterable[int], new: Any) -> tuple[Any, ...]:
    changed = dict(zip(places, new, strict=True))
    return tuple(changed.get(i, value) for i, value in enumerate(values))


@jax.custom_jvp
def _perturb(value: Array, epsilon: Array) -> Array:
    """`value + epsilon`, where epsilon is zero and never read: only its tangent matters."""
    return value


@_perturb.defjvp
def _perturb_jvp(primals: Any, tangents: Any) -> Any:
    return primals[0], tangents[0] + tangents[1]


@dataclass(frozen=True, eq=False)
class Partition:
    """The ops of a linearized step, divided between the two steps, and the values passed between them."""

    primal: tuple[Op, ...]
    residuals: Values  # stacked by the primal loop for the tangent loop, besides its ys
    hoisted: tuple[Op, ...]  # ops of constants, before the tangent loop
    tangent: tuple[Op, ...]
    consts: Values  # of the tangent step
    xs: Values  # primal values that the tangent step reads at each step: xs, ys and residuals
    transposed: Values  # matrices among `consts` that multiply more than one row
    nonzero: tuple[bool, ...]  # for the tangents that the tangent step returns: False where always zero


@cached
def partition(program: Program, signature: StepSignature) -> Partition:
    """Divide a linearized step into the primal part, and the part that is linear in the tangents.

    The primal values that the tangent part reads are saved as residuals, or recomputed from residuals
    (rematerialized).

    Args:
      program: a step and its tangents.
      signature: its inputs and outputs.
    """
    # An op that reads a tangent is linear in it, and makes tangents.
    tangents = set(signature.tangents)
    tangent_ops: list[Op] = []
    primal_ops: list[Op] = []
    for op in program.ops:
        if tangents.intersection(op.inputs):
            tangents.update(op.outputs)
            tangent_ops.append(op)
        else:
            primal_ops.append(op)
    constant = {*signature.consts, *program.literals}
    hoisted, varying = hoist(primal_ops, constant)  # adds results to `constant`
    tangent_ops = dce(tangent_ops, signature.tangents_out)

    # The primal values that the tangent ops read are stacked by the primal loop, or recomputed from such.
    reads = {*inputs_of(tangent_ops), *signature.tangents_out}
    needed = reads - tangents - constant
    cut = _min_cut(program, varying, signature, needed - set(signature.xs))
    # The tangent step computes again what leads from the cut to the needed values, and repeats broadcasts.
    recomputed = dce([op for op in varying if not cut.issuperset(op.outputs)], needed, known=cut)
    broadcasts = [op for op in hoisted if only_broadcasts(op, program)]
    inside = dce([*broadcasts, *recomputed, *tangent_ops], signature.tangents_out)

    # What the tangent step then reads from outside is constant, or stacked over the steps.
    free = free_values(inside, signature.tangents_out, {*program.literals, *signature.tangents})
    consts = tuple(value for value in free if value in constant)
    # Of one row, a product with W or Wᵀ costs the same; of more, W is better passed transposed.
    multiply: set[int] = set()  # what multiplies more than one row of tangents
    for op in tangent_ops:
        if op.product and element_count(program.types[op.outputs[0]].shape[:-1]) > 1:
            multiply.update(op.inputs)
    return Partition(
        primal=tuple(dce([*hoisted, *varying], [*signature.carry_out, *signature.ys, *cut])),
        residuals=tuple(sorted(cut.difference(signature.ys))),
        hoisted=tuple(dce(hoisted, consts)),
        tangent=tuple(inside),
        consts=consts,
        xs=tuple(value for value in free if value not in constant),
        transposed=tuple(sorted(c for c in consts if c in multiply and len(program.types[c].shape) == 2)),
        nonzero=tuple(t in tangents for t in signature.tangents_out),
    )


_UNBOUNDED = 2**30  # a capacity that no cut can afford


def _min_cut(program: Program, ops: list[Op], signature: StepSignature, needed: set[int]) -> set[int]:
    """Choose residuals: the fewest bytes from which recomputable ops give all of `needed`.

    A minimum cut (Ford and Fulkerson) in the graph of the values, each split into an entry and an exit, t and
    t', connected by an edge whose capacity is its size. For σ = ½ + ½ t, t = tanh z, with σ needed, and
    t by the derivative of tanh:

        source ─∞→ t:  tanh is not recomputable        t ─size→ t' ─∞→ σ ─size→ σ' ─∞→ sink
                                                                t' ─∞→ sink

    The minimum cut is the edge of t: t is saved, and σ computed from it. With σ alone needed, the edge of
    either would do. A loop stacks its ys anyway, so their capacity is almost zero.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    values = [*signature.carry, *outputs_of(ops)]
    source, sink = 0, 1
    entry = {value: 2 + 2 * i for i, value in enumerate(values)}  # the exit of a value is its entry + 1
    edges = {(source, entry[c]): _UNBOUNDED for c in signature.carry}
    sizes = {v: size_in_bytes([v], program) for v in values}
    unit = 1 + sum(sizes.values()) // (_UNBOUNDED // 4)  # capacities are int32, and so is their sum
    for v in values:
        edges[entry[v], entry[v] + 1] = 1 if v in signature.ys else 2 + sizes[v] // unit
    # The source feeds all values that must not be recomputed: the carry, and results of matmuls, of
    # transcendental functions and of anything unknown. A recomputable op, which is a sum or other arithmetic,
    # joins its inputs to its outputs, as whoever recomputes it needs all of them.
    for op in ops:
        for o in op.outputs:
            if not op.recomputable:
                edges[source, entry[o]] = _UNBOUNDED
                continue
            for i in op.inputs:
                if i in entry:  # constants and xs are at hand for nothing
                    edges[entry[i] + 1, entry[o]] = _UNBOUNDED
    edges.update({(entry[v] + 1, sink): _UNBOUNDED for v in needed})

    # The graph as a sparse matrix: row and column of an entry are the ends of an edge.
    rows, columns = np.array(list(edges)).T
    shape = (2 + 2 * len(values),) * 2
    capacity = csr_array((np.array(list(edges.values()), np.int32), (rows, columns)), shape)
    # By max-flow min-cut, edges with no capacity left separate source and sink, and are a minimum cut. Of
    # several this takes the one nearest to the sink, which leaves the least to recompute: on the sink's side
    # are all nodes from which it can still be reached, found by a search backwards, along transposed edges.
    left = (capacity - maximum_flow(capacity, source, sink).flow).T.tocsr()
    left.data = (left.data > 0).astype(np.int32)
    left.eliminate_zeros()
    sink_side = set(breadth_first_order(left, sink, return_predecessors=False).tolist())
    return {v for v in values if entry[v] not in sink_side and entry[v] + 1 in sink_side}
