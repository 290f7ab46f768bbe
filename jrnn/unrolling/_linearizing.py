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

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._alignment import zeros_like_type
from jrnn._caching import cached
from jrnn._jaxprs.programs import (
    Op,
    Program,
    Values,
    dce,
    enlarges,
    eval_ops,
    free_values,
    inputs_of,
    is_inexact,
    outputs_of,
    read,
    size_in_bytes,
    split_constant,
    trace,
)
from jrnn.unrolling._graphs import sink_side
from jrnn.unrolling._sites import Active, Stacked, stacked_activations
from jrnn.unrolling._staging import Stage, StepSignature
from jrnn.unrolling._transposing import multiplying_rows


class TangentInputs(NamedTuple):
    """The xs of a tangent step: arrays of one step, or of all."""

    primals: tuple[Any, ...]  # those of `Partition.primals_read`
    xs: tuple[Any, ...]  # the tangents of the active xs
    epsilons: tuple[Any, ...]  # ε̇ of the active sites


@dataclass(frozen=True, eq=False)
class LinearizedStep:
    """A step of a loop and its derivative as two steps: one runs forward, the other is transposed."""

    primal: Callable[..., Any]  # (consts, carry, xs) -> (carry, Stacked)
    tangent: Callable[..., Any]  # (its consts, tangents of carry, TangentInputs) -> tangents of (carry, ys)
    consts_for_tangent: Callable[[Any], Any]  # consts of the loop -> consts of the tangent step
    primals_for_tangent: Callable[[Any, Stacked], Any]  # (xs, what the primal loop stacked) -> its primals
    nonzero: tuple[bool, ...]  # for the tangents of the inexact carry and ys: False where always zero
    stacked_types: Stacked
    stacked_bytes: int


@cached  # as everything from a step to its loops: `lax.scan` compiles again for a new function
def linearize_step(stage: Stage, program: Program, active: Active) -> LinearizedStep:
    """Linearize a step of a loop in its carry, its active xs and the perturbations of its active sites.

    Args:
      stage: the loop.
      program: the step that contains the stage.
      active: the weight sites and xs where tangents enter.
    """
    # One program of the step together with its derivative, then its parts. Tracing it gives the values new
    # numbers: `stage`, `program` and `active` have the old ones, `whole`, `signature` and `parts` the new.
    whole, signature, closed_over = _trace_with_tangents(stage, program, active)
    parts = partition(whole, signature)
    n_ys = len(stage.ys)  # `signature.ys` are these, and then the activations that are stacked
    stacked_values = Stacked(signature.ys[:n_ys], signature.ys[n_ys:], parts.residuals)

    # The two steps, each of which evaluates its part of the ops, and what the tangent one is given.
    def primal(consts: Any, carry: Any, xs: Any) -> Any:
        inputs = (*signature.consts, *signature.carry_in, *signature.xs)
        env = whole.literals | dict(zip(inputs, (*closed_over, *consts, *carry, *xs), strict=True))
        eval_ops(parts.primal_ops, env)
        return read(env, signature.carry_out), Stacked(*(read(env, part) for part in stacked_values))

    def tangent(consts: Any, carry_tangents: Any, inputs: TangentInputs) -> Any:
        # `signature.tangents_in`: those of the inexact carry, then of the active xs, then of the sites.
        values = (*parts.consts, *parts.primals_read, *signature.tangents_in)
        arrays = (*consts, *inputs.primals, *carry_tangents, *inputs.xs, *inputs.epsilons)
        env = whole.literals | dict(zip(values, arrays, strict=True))
        # The ops read W, so it is swapped back here; XLA folds that into the product.
        env |= {c: jnp.swapaxes(env[c], 0, 1) for c in parts.transposed}
        eval_ops(parts.tangent_ops, env)
        out = read(env, signature.tangents_out)
        return out[: len(carry_tangents)], out[len(carry_tangents) :]

    def consts_for_tangent(consts: Any) -> Any:
        env = whole.literals | dict(zip(signature.consts, (*closed_over, *consts), strict=True))
        eval_ops(parts.hoisted_ops, env)
        # For the transpose of ḣ W, Wᵀ is made once, here.
        return tuple(jnp.swapaxes(env[c], 0, 1) if c in parts.transposed else env[c] for c in parts.consts)

    def primals_for_tangent(xs: Any, stacked: Stacked) -> Any:
        values, arrays = (*signature.xs, *itertools.chain(*stacked_values)), (*xs, *itertools.chain(*stacked))
        return read(dict(zip(values, arrays, strict=True)), parts.primals_read)

    stacked_types = Stacked(*(read(whole.types, part) for part in stacked_values))
    stacked_bytes = size_in_bytes(itertools.chain(*stacked_values), whole)
    return LinearizedStep(
        primal, tangent, consts_for_tangent, primals_for_tangent, parts.nonzero, stacked_types, stacked_bytes
    )


def _trace_with_tangents(
    stage: Stage, program: Program, active: Active
) -> tuple[Program, StepSignature, list[Any]]:
    """A step and its tangents as a program, its signature, and the arrays that it closes over.

        (consts, carry, xs, tangents)  ->  (carry, ys, stacked activations, tangents)

    Tangents go in for the inexact carry, the active xs and the sites (ε̇), and come out for the inexact carry
    and the inexact ys of the stage. The step closes over arrays only where a derivative rule does.
    """
    step_types = [read(program.types, values) for values in (stage.consts, stage.carry_in, stage.xs)]
    tangent_types = [read(program.types, values) for values in _active_values(stage, program, active)]
    whole, closed_over, _ = trace(_step_with_tangents(stage, program, active), *step_types, *tangent_types)
    n_consts = len(closed_over) + len(stage.consts)
    n_ys = len(stage.ys) + len(stacked_activations(stage, active.sites))
    # what is left of its inputs and outputs are tangents
    signature = StepSignature.of(whole, n_consts, len(stage.carry_in), len(stage.xs), n_ys)
    return whole, signature, closed_over


def _active_values(stage: Stage, program: Program, active: Active) -> tuple[Values, Values, Values]:
    """The values in which a step is linearized: those of its carry, of its xs, and the active sites."""
    # integers and keys have no tangents
    inexact_carry = tuple(value for value in stage.carry_in if is_inexact(program.types[value]))
    return inexact_carry, active.xs, tuple(site.value for site in active.sites)


@cached
def _step_with_tangents(stage: Stage, program: Program, active: Active) -> Callable[..., Any]:
    """A step and its tangents: `(consts, carry, xs, *tangents) -> ((carry, ys, activations), tangents)`."""
    inexact_carry, active_xs, site_values = _active_values(stage, program, active)

    def step(consts: Any, carry: Any, xs: Any, *tangents: Any) -> Any:
        given = dict(zip((*stage.consts, *stage.carry_in, *stage.xs), (*consts, *carry, *xs), strict=True))

        # Weights are not arguments of `perturbed`, so that its derivative holds them constant.
        def perturbed(carry_part: Any, xs_part: Any, epsilons: Any) -> Any:
            env = given | dict(zip((*inexact_carry, *active_xs), (*carry_part, *xs_part), strict=True))
            # All readers of a site see z + ε, so that the tangent of ε goes wherever that of z would.
            epsilon = dict(zip(site_values, epsilons, strict=True))
            for op in stage.ops:
                eval_ops([op], env)
                env.update({o: _perturb(env[o], epsilon[o]) for o in op.outputs if o in epsilon})
            after, ys = read(env, stage.carry_out), read(env, stage.ys)
            # The activations need no tangents.
            result = after, ys, read(env, stacked_activations(stage, active.sites))
            return [v for v in (*after, *ys) if is_inexact(v)], result

        zeros = tuple(zeros_like_type(program.types[value]) for value in site_values)
        primals = read(given, inexact_carry), read(given, active_xs), zeros
        # Not `jvp`, which makes one equation of a `cond` or `scan` inside the step. `linearize` makes two,
        # one of primal values and one linear in the tangents: `partition` needs each op to be either.
        _, pushforward, result = jax.linearize(perturbed, *primals, has_aux=True)
        return result, pushforward(*tangents)

    return step


@jax.custom_jvp
def _perturb(z: Array, epsilon: Array) -> Array:
    """`z + ε`, where ε is zero and never read: only its tangent matters."""
    return z


@_perturb.defjvp
def _perturb_jvp(primals: Any, tangents: Any) -> Any:
    return primals[0], tangents[0] + tangents[1]


@dataclass(frozen=True, eq=False)
class Partition:
    """The ops of a linearized step, divided between the two steps, and the values passed between them."""

    primal_ops: tuple[Op, ...]
    residuals: Values  # stacked by the primal loop for the tangent loop, besides its ys
    hoisted_ops: tuple[Op, ...]  # of the tangent step, on constants alone: they run before the tangent loop
    tangent_ops: tuple[Op, ...]
    consts: Values  # of the tangent step
    primals_read: Values  # by the tangent step, anew at each step: xs, ys and residuals
    transposed: Values  # matrices among `consts` that are passed transposed (`multiplying_rows`)
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
    tangents = set(signature.tangents_in)
    on_tangents: list[Op] = []
    on_primals: list[Op] = []
    for op in program.ops:
        if tangents.intersection(op.inputs):
            tangents.update(op.outputs)
            on_tangents.append(op)
        else:
            on_primals.append(op)
    on_tangents = dce(on_tangents, signature.tangents_out)
    constant_ops, varying_ops, constant = split_constant(on_primals, {*signature.consts, *program.literals})

    # The primal values that ops on tangents read are stacked by the primal loop, or recomputed from such.
    reads = {*inputs_of(on_tangents), *signature.tangents_out}
    needed = reads - tangents - constant
    cut = _min_cut(program, varying_ops, signature, needed - set(signature.xs))
    # The tangent step computes again what leads from the cut to the needed values, and repeats broadcasts.
    recomputed = dce([op for op in varying_ops if not cut.issuperset(op.outputs)], needed, known=cut)
    broadcasts = [op for op in constant_ops if enlarges(op, program)]
    tangent_ops = dce([*broadcasts, *recomputed, *on_tangents], signature.tangents_out)

    # What the tangent step then reads from outside is constant, or stacked over the steps.
    free = free_values(tangent_ops, signature.tangents_out, {*program.literals, *signature.tangents_in})
    consts = tuple(value for value in free if value in constant)
    return Partition(
        primal_ops=tuple(dce([*constant_ops, *varying_ops], [*signature.carry_out, *signature.ys, *cut])),
        residuals=tuple(sorted(cut.difference(signature.ys))),
        hoisted_ops=tuple(dce(constant_ops, consts)),
        tangent_ops=tuple(tangent_ops),
        consts=consts,
        primals_read=tuple(value for value in free if value not in constant),
        # of an LSTM with several rows: w_hh
        transposed=multiplying_rows(on_tangents, consts, program),
        nonzero=tuple(t in tangents for t in signature.tangents_out),
    )


def _min_cut(program: Program, ops: list[Op], signature: StepSignature, needed: set[int]) -> set[int]:
    """Choose residuals: the fewest bytes from which recomputable ops give all of `needed`.

    A minimum cut (Ford and Fulkerson) in a graph with two nodes for each value, t and t', connected by an
    edge whose capacity is the size of the value. Edges into t come from what it is computed from, those out
    of t' go to what reads it. For σ = ½ + ½ t, t = tanh z, with σ needed, and t by the derivative of tanh:

        source ─∞→ t:  tanh is not recomputable        t ─size→ t' ─∞→ σ ─size→ σ' ─∞→ sink
                                                                t' ─∞→ sink

    The minimum cut is the edge of t: t is saved, and σ computed from it. With σ alone needed, the edge of
    either would do. A loop stacks its ys anyway, so their capacity is almost zero.
    """
    values = {*signature.carry_in, *outputs_of(ops)}
    # The number of a value is its t, and the complement, ~number, its t'.
    capacity: dict[tuple[int, int], float] = {}  # (from, to) -> capacity
    for v in values:
        capacity[v, ~v] = 1 if v in signature.ys else 2 + size_in_bytes([v], program)
    # The source feeds all values that must not be recomputed: the carry, and results of matmuls, of
    # transcendental functions and of anything unknown. A recomputable op, which is a sum or other arithmetic,
    # joins its inputs to its outputs, as whoever recomputes it needs all of them.
    fed = list(signature.carry_in)
    for op in ops:
        if not op.recomputable:
            fed += op.outputs
            continue
        for o in op.outputs:
            # constants and xs are at hand for nothing
            capacity.update({(~i, o): math.inf for i in op.inputs if i in values})
    sink = max(program.types) + 1
    capacity.update({(~v, sink): math.inf for v in needed})
    # Of several minimum cuts the one nearest to the sink leaves the least to recompute.
    side = sink_side(capacity, fed, sink)
    return {v for v in values if v not in side and ~v in side}
