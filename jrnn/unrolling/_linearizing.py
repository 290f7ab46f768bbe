"""The derivative of one step of a loop: where weights enter, what is saved, and the linear step.

A step is linearized with its weights held constant. The part that does not depend on tangents is the primal
step, which runs forward and outputs residuals; the rest is the linear step, which JAX transposes:

    zₜ = aₜ + h w_hh,   hₜ = tanh(zₜ)             the step
    hₜ                                            primal, and here the only residual
    ḣₜ = (1 − hₜ²) ⊙ (ε̇ₜ + ḣₜ₋₁ w_hh)             linear; ε̇ₜ is the tangent of zₜ due to weights
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn._alignment import match_type
from jrnn._caching import cached
from jrnn._jaxprs import Op, Program, trace
from jrnn.unrolling._staging import (
    Stage,
    StepSignature,
    Values,
    dce,
    element_count,
    eval_ops,
    hoist,
    only_broadcasts,
    read,
    size_in_bytes,
)

UNBOUNDED = 2**30


def is_inexact(value: Any) -> bool:
    """True if a value or type is floating or complex, and so has a tangent."""
    return bool(jnp.issubdtype(value.dtype, jnp.inexact))


@dataclass(frozen=True, eq=False)
class WeightSite:
    """A value of a loop through which weights act: value = ops(weights, operands) + additive inputs.

    In z = x w_ih + h w_hh + b the weights are w_ih, w_hh and b, the operands x and h. If x w_ih has been
    computed before the loop, it is an additive input.
    """

    value: int
    ops: tuple[Op, ...]
    weights: Values
    operands: Values  # multiplied with the weights at each step
    additive: Values  # inputs that are only added, so that weight derivatives do not read them


@cached
def weight_sites(stage: Stage, program: Program) -> tuple[WeightSite, ...]:
    """Find the values through which weights act on what changes from step to step.

    A site is the result of an op on weights. Sums and reshapes that follow are linear, so they are part of
    it, and several such ops share one site:

        z = x @ w_ih + h @ w_hh + b      one site, z, not one per product

    Slices of a value become sites instead of it if together they are no larger.
    """
    readers: dict[int, list[Op]] = {}
    for op in stage.ops:
        for i in op.inputs:
            readers.setdefault(i, []).append(op)
    ends = {*stage.ys, *stage.carry_out}

    def passes_on(value: int) -> bool:
        """True if a site may come after `value`: all its readers are linear, and do not copy it."""
        if value in ends or not all(op.linear for op in readers[value]):
            return False
        parts = [o for op in readers[value] for o in op.outputs]
        return len(readers[value]) == 1 or size_in_bytes(parts, program) <= size_in_bytes([value], program)

    # One pass over the ops, in order. `constant` and `weights` grow by what is computed only from them, such
    # as a broadcast bias; `pending` carries each chain of ops from its weights to the site where it ends.
    constant = set(stage.consts)
    weights = {c for c in constant if is_inexact(program.types[c])}
    pending: dict[int, list[Op]] = {}  # value -> its ops on weights that have no site yet
    sites: list[WeightSite] = []
    for op in stage.ops:
        inexact = [o for o in op.outputs if is_inexact(program.types[o])]
        if constant.issuperset(op.inputs):
            constant.update(op.outputs)
            if weights.intersection(op.inputs):
                weights.update(inexact)
            continue
        # Either this op continues the chain of ops that leads to a site, or the chain ends before it.
        brought: list[Op] = []
        for i in [i for i in op.inputs if i in pending]:
            if passes_on(i):
                brought += pending[i]
            else:
                sites.append(_site(i, pending.pop(i), stage.ops, constant))
        if brought or weights.intersection(op.inputs):
            pending.update({o: [*brought, op] for o in inexact})
    sites += [_site(value, inner, stage.ops, constant) for value, inner in pending.items() if value in ends]
    return tuple(sites)


def _site(value: int, inner: list[Op], ops: Iterable[Op], constant: set[int]) -> WeightSite:
    # All ops from weights to the value, including those on weights alone: a weight's norm, its transpose.
    of_constants = [op for op in ops if constant.issuperset(op.outputs)]
    chain = dce(dict.fromkeys([*of_constants, *inner]), [value])
    made = {o for op in chain for o in op.outputs}
    # In a @ w + s the gradient of w needs the value of a, an operand; s is only added, so it needs none.
    operands: set[int] = set()
    additive: set[int] = set()
    for op in chain:
        (additive if op.linear else operands).update(set(op.inputs) - made - constant)
    weights = {i for op in chain for i in op.inputs} & constant - made
    additive -= operands
    return WeightSite(value, tuple(chain), *(tuple(sorted(v)) for v in (weights, operands, additive)))


def operands_of(sites: Iterable[WeightSite]) -> Values:
    """The distinct operands of all weight sites."""
    return tuple(dict.fromkeys(operand for site in sites for operand in site.operands))


def loop_outputs(stage: Stage, sites: Iterable[WeightSite]) -> Values:
    """Outputs of a differentiated loop at each step: those of the stage, and operands computed in it."""
    return (*stage.ys, *(o for o in operands_of(sites) if o not in (*stage.xs, *stage.ys)))


@dataclass(frozen=True, eq=False)
class LinearizedStep:
    """A step of a loop and its derivative as two steps: one runs forward, the other is transposed."""

    primal: Callable[..., Any]  # (consts, carry, xs) -> (carry, saved)
    linear: Callable[..., Any]  # (linear consts, tangents of the carry, (linear xs, tangents)) -> tangents
    linear_consts: Callable[[Any], Any]  # constants of the loop -> those of the linear loop
    linear_xs: Callable[[Any, Any], Any]  # (xs of the loop, saved values) -> xs of the linear loop
    moving: tuple[bool, ...]  # of the tangents of the inexact carry and ys: False where always zero
    saved_types: tuple[Any, ...]  # of `loop_outputs` and residuals
    saved_bytes: int


@cached
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
    # Trace the step together with its derivative, in one program of (consts, carry, xs, tangents).
    types = [read(program.types, values) for values in (stage.consts, stage.carry_in, stage.xs)]
    consts, carry, xs = types
    tangents = [t for t in carry if is_inexact(t)], [xs[i] for i in active_xs]
    perturbations = [program.types[site.value] for site in sites]
    with_tangents = _step_with_tangents(stage, program, sites, active_xs)
    whole, closed_over, _ = trace(with_tangents, *types, *tangents, perturbations)
    ys = len(loop_outputs(stage, sites))
    signature = StepSignature.of(whole, len(closed_over) + len(consts), len(carry), len(xs), ys)
    parts = partition(whole, signature)
    saved = (*signature.ys, *parts.residuals)

    # The two steps, each of which evaluates its part of the ops.
    def primal(consts: Any, carry: Any, xs: Any) -> Any:
        inputs = (*signature.consts, *signature.carry, *signature.xs)
        env = whole.literals | dict(zip(inputs, (*closed_over, *consts, *carry, *xs), strict=True))
        eval_ops(parts.primal, env)
        return read(env, signature.carry_out), read(env, saved)

    def linear(consts: Any, carry_tangents: Any, xs: Any) -> Any:
        inputs = (*parts.consts, *parts.xs, *signature.tangents)
        # The loop stacks residuals, tangents of active inputs and site tangents in one tuple of xs.
        row, tangents = xs[: len(parts.xs)], xs[len(parts.xs) :]
        env = whole.literals | dict(zip(inputs, (*consts, *row, *carry_tangents, *tangents), strict=True))
        env |= {c: jnp.swapaxes(env[c], 0, 1) for c in parts.transposed}
        eval_ops(parts.linear, env)
        ends = read(env, signature.tangents_out)
        return ends[: len(carry_tangents)], ends[len(carry_tangents) :]

    def linear_consts(consts: Any) -> Any:
        env = whole.literals | dict(zip(signature.consts, (*closed_over, *consts), strict=True))
        eval_ops(parts.hoisted, env)
        # the transpose of ḣ W reads Wᵀ, which is slow if it must be transposed at every step
        return tuple(jnp.swapaxes(env[c], 0, 1) if c in parts.transposed else env[c] for c in parts.consts)

    def linear_xs(xs: Any, saved_values: Any) -> Any:
        return read(dict(zip((*signature.xs, *saved), (*xs, *saved_values), strict=True)), parts.xs)

    saved_types = read(whole.types, saved)
    saved_bytes = size_in_bytes(saved, whole)
    return LinearizedStep(primal, linear, linear_consts, linear_xs, parts.moving, saved_types, saved_bytes)


@cached
def _step_with_tangents(
    stage: Stage, program: Program, sites: tuple[WeightSite, ...], active_xs: tuple[int, ...]
) -> Callable[..., Any]:
    """A step and its tangents: `(consts, carry, xs, *tangents) -> ((carry, outputs), tangents)`."""

    def step(consts: Any, carry: Any, xs: Any, *tangents: Any) -> Any:
        inexact = [i for i, c in enumerate(carry) if is_inexact(c)]

        def perturbed(carry_part: Any, xs_part: Any, perturbations: Any) -> Any:
            carry_at = _replaced(carry, inexact, carry_part)
            xs_at = _replaced(xs, active_xs, xs_part)
            inputs = (*stage.consts, *stage.carry_in, *stage.xs)
            env = dict(zip(inputs, (*consts, *carry_at, *xs_at), strict=True))
            epsilon = dict(zip((site.value for site in sites), perturbations, strict=True))
            # Weights are not arguments of `perturbed`, so that its derivative holds them constant.
            for op in stage.ops:
                eval_ops([op], env)
                env.update({o: _perturb(env[o], epsilon[o]) for o in op.outputs if o in epsilon})
            after, out = read(env, stage.carry_out), read(env, loop_outputs(stage, sites))
            return [v for v in (*after, *out[: len(stage.ys)]) if is_inexact(v)], (after, out)

        zeros = [zeros_like_type(program.types[site.value]) for site in sites]
        at = [carry[i] for i in inexact], [xs[i] for i in active_xs], zeros
        _, linear, result = jax.linearize(perturbed, *at, has_aux=True)
        return result, linear(*tangents)

    return step


def zeros_like_type(like: Any) -> Array:
    """Zeros with the shape, dtype, sharding and varying axes of a type."""
    return match_type(jnp.zeros(like.shape, like.dtype), like)


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
    residuals: Values  # saved by the primal step for the linear one, besides its outputs
    hoisted: tuple[Op, ...]  # ops of constants, before the linear loop
    linear: tuple[Op, ...]
    consts: Values  # of the linear step
    xs: Values  # read by the linear step at each step: inputs, outputs and residuals
    transposed: Values  # matrices among `consts` that multiply more than one row
    moving: tuple[bool, ...]  # of the tangents that the linear step returns: False where always zero


@cached
def partition(program: Program, signature: StepSignature) -> Partition:
    """Divide a linearized step into the forward part, and the part that is linear in the tangents.

    The values that the linear part reads are saved, or recomputed from saved ones (rematerialized).

    Args:
      program: a step and its tangents.
      signature: its inputs and outputs.
    """
    # An op that reads a tangent is linear in it.
    tangents = set(signature.tangents)
    linear: list[Op] = []
    nonlinear: list[Op] = []
    for op in program.ops:
        if tangents.intersection(op.inputs):
            tangents.update(op.outputs)
            linear.append(op)
        else:
            nonlinear.append(op)
    constant = {*signature.consts, *program.literals}
    hoisted, varying = hoist(nonlinear, constant)
    linear = dce(linear, signature.tangents_out)

    # The primal values that the linear ops need are saved, or recomputed from saved ones.
    reads = {i for op in linear for i in op.inputs}.union(signature.tangents_out)
    needed = reads - tangents - constant
    saved = _cheapest_residuals(program, varying, signature, needed - set(signature.xs))
    again = dce([op for op in varying if not saved.issuperset(op.outputs)], needed, known=saved)
    repeated = [op for op in hoisted if only_broadcasts(op, program)]
    inside = dce([*repeated, *again, *linear], signature.tangents_out)

    # Values that are then read from outside are constants, or stacked over the steps.
    made = {o for op in inside for o in op.outputs}.union(program.literals, signature.tangents)
    read_inside = [*(i for op in inside for i in op.inputs), *signature.tangents_out]
    inputs = tuple(dict.fromkeys(i for i in read_inside if i not in made))
    consts = tuple(i for i in inputs if i in constant)
    operands: set[int] = set()  # of matmuls with more than one row
    for op in linear:
        if op.product and element_count(program.types[op.outputs[0]].shape[:-1]) > 1:
            operands.update(op.inputs)
    return Partition(
        primal=tuple(dce([*hoisted, *varying], [*signature.carry_out, *signature.ys, *saved])),
        residuals=tuple(sorted(saved.difference(signature.ys))),
        hoisted=tuple(dce(hoisted, consts)),
        linear=tuple(inside),
        consts=consts,
        xs=tuple(i for i in inputs if i not in constant),
        transposed=tuple(sorted(c for c in consts if c in operands and len(program.types[c].shape) == 2)),
        moving=tuple(t in tangents for t in signature.tangents_out),
    )


def _cheapest_residuals(
    program: Program, ops: list[Op], signature: StepSignature, needed: set[int]
) -> set[int]:
    """Choose residuals: the fewest bytes from which recomputable ops give all of `needed`.

    A minimum cut (Ford and Fulkerson) in the graph of the values, each split into an entry and an exit
    connected by an edge whose capacity is its size. For σ = ½ + ½ tanh z, with σ needed:

        source ─∞→ t:  tanh is not recomputable        t ─size→ t' ─∞→ σ ─size→ σ' ─∞→ sink

    Either edge cuts the path. An output of the loop is stacked anyway, so its capacity is almost zero.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    # Nodes 0 and 1 are source and sink. An edge of unbounded capacity is never cut.
    values = [*signature.carry, *(o for op in ops for o in op.outputs)]
    entry = {value: 2 + 2 * i for i, value in enumerate(values)}  # exit = entry + 1
    source, sink = 0, 1
    edges = {(source, entry[c]): UNBOUNDED for c in signature.carry}
    sizes = {v: size_in_bytes([v], program) for v in values}
    unit = 1 + sum(sizes.values()) // (UNBOUNDED // 4)  # capacities are int32
    for v in values:
        edges[entry[v], entry[v] + 1] = 1 if v in signature.ys else 2 + sizes[v] // unit
    # The source feeds all values that must not be recomputed: the carry, and results of other ops.
    for op in ops:
        for o in op.outputs:
            if not op.recomputable:
                edges[source, entry[o]] = UNBOUNDED
                continue
            for i in op.inputs:
                if i in entry:
                    edges[entry[i] + 1, entry[o]] = UNBOUNDED
    edges.update({(entry[v] + 1, sink): UNBOUNDED for v in needed})

    rows, columns = np.array(list(edges)).T
    shape = (2 + 2 * len(values),) * 2
    capacity = csr_array((np.array(list(edges.values()), np.int32), (rows, columns)), shape)
    # By max-flow min-cut, the edges that separate source and sink in the residual graph are a minimum cut.
    flow = maximum_flow(capacity, source, sink).flow
    remaining = (capacity - flow).T.tocsr()
    remaining.data = (remaining.data > 0).astype(np.int32)
    remaining.eliminate_zeros()
    # the minimum cut nearest to the sink: its side contains all nodes that still reach the sink
    sink_side = set(breadth_first_order(remaining, sink, return_predecessors=False).tolist())
    return {v for v in values if entry[v] not in sink_side and entry[v] + 1 in sink_side}
