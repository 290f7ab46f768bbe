"""Weight sites: the values of a loop through which weights act, and their tangents due to weights.

A *weight* is an inexact constant of a loop. In an LSTM, w_ih, w_hh and b act through one value, a site:

    z = x w_ih + h w_hh + b        activations: x and h, which multiply weights
    z = s + h w_hh                 the same, with s = x w_ih + b computed before the loop: s is additive
    ε̇ = x ẇ_ih + h ẇ_hh + ḃ        the tangent of z due to weights, at one step

`weight_sites` finds the sites of a loop, `active_inputs` those whose weights have tangents, and
`site_tangents` computes ε̇ for all steps at once. JAX transposes it: from the adjoints δ of all sites, which
the loop over the adjoints yields, to the gradients of the weights, Σₜ xₜᵀ δₜ and Σₜ hₜ₋₁ᵀ δₜ, a matmul each.
"""

import itertools
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._alignment import zeros_like_type
from jrnn._caching import cached
from jrnn._jaxprs.programs import (
    Env,
    Op,
    Program,
    Values,
    dce,
    is_inexact,
    outputs_of,
    size_in_bytes,
    split_constant,
)
from jrnn.unrolling._staging import Stage
from jrnn.unrolling._transposing import with_transposed_adjoint


@dataclass(frozen=True, eq=False)
class WeightSite:
    """A value of a loop through which weights act: value = ops(weights, activations) + additive inputs."""

    value: int
    ops: tuple[Op, ...]
    weights: Values
    activations: Values  # multiplied with the weights at each step
    additive: Values  # inputs that are only added, so that weight derivatives do not read them


@cached
def weight_sites(stage: Stage, program: Program) -> tuple[WeightSite, ...]:
    """Find the values through which weights act on what changes from step to step.

    A site is the result of an op on weights. Sums and reshapes that follow are additive, so they are part
    of it, and several such ops share one site:

        z = x @ w_ih + h @ w_hh + b      one site, z, not one per product

    Slices of a value become sites instead of it if together they are no larger.
    """
    # What is the same at every step is no site itself.
    constant_ops, varying_ops, constant = split_constant(stage.ops, stage.consts)
    of_weights = made_of(stage.consts, constant_ops, program)
    readers: dict[int, list[Op]] = {}  # value -> the ops that read it
    for op in varying_ops:
        for i in op.inputs:
            readers.setdefault(i, []).append(op)
    outputs = {*stage.ys, *stage.carry_out}

    # One pass over the ops that change, in order. `pending` takes each chain of ops from its weights to the
    # site at its end:
    #   p = h @ w_hh    pending {p: [dot]}
    #   z = s + p       p passes on, as the sum is its only reader:   pending {p: [dot], z: [dot, add]}
    #   t = tanh(z)     z does not, as tanh is not additive: a site, z, with the ops [dot, add]
    pending: dict[int, list[Op]] = {}  # value -> the ops from weights to it; sites are taken out, others stay
    sites: list[WeightSite] = []
    for op in varying_ops:
        # Either this op continues the chain of ops that leads to a site, or the chain ends before it.
        brought: list[Op] = []
        for i in op.inputs:
            if i in pending and i not in outputs and _passes_on(i, readers[i], program):
                brought += pending[i]
            elif i in pending:
                sites.append(_site(i, pending.pop(i), constant_ops, constant))
        if brought or of_weights.intersection(op.inputs):
            pending.update({o: [*brought, op] for o in op.outputs if is_inexact(program.types[o])})
    # What is left in `pending` was passed on, is an output of the loop, or is read by nothing.
    for value, chain in pending.items():
        if value in outputs:
            sites.append(_site(value, chain, constant_ops, constant))
    return tuple(sites)


def made_of(weights: Iterable[int], constant_ops: Iterable[Op], program: Program) -> set[int]:
    """Weights, and what ops on constants make of them: a norm, a broadcast bias; not integers."""
    found = {weight for weight in weights if is_inexact(program.types[weight])}
    for op in constant_ops:
        if found.intersection(op.inputs):
            found.update(o for o in op.outputs if is_inexact(program.types[o]))
    return found


def _passes_on(value: int, readers: list[Op], program: Program) -> bool:
    """True if a site may come after a value: all its readers are additive, and do not copy it."""
    if not all(op.additive for op in readers):
        return False
    # Each site costs an array of its size, and a matmul after the loop. Two sums that read z whole would be
    # two sites as large as z; slices i, f, g, o of z are together no larger than z.
    parts = outputs_of(readers)
    return len(readers) == 1 or size_in_bytes(parts, program) <= size_in_bytes([value], program)


def _site(value: int, chain: list[Op], constant_ops: list[Op], constant: set[int]) -> WeightSite:
    # All ops from weights to the value, including those on weights alone: a weight's norm, its transpose.
    ops = dce(dict.fromkeys([*constant_ops, *chain]), [value])
    made = set(outputs_of(ops))
    # In s + x @ w the gradient of w needs the value of x, an activation; s is only added, so it needs none.
    # In x @ (w * g) the weights are w and g: the ops begin with the product of the two.
    weights: set[int] = set()
    activations: set[int] = set()
    additive: set[int] = set()
    for op in ops:
        outer = set(op.inputs) - made
        weights |= outer & constant
        (additive if op.additive else activations).update(outer - constant)
    additive -= activations
    return WeightSite(value, tuple(ops), *(tuple(sorted(v)) for v in (weights, activations, additive)))


def activations_of(sites: Iterable[WeightSite]) -> Values:
    """The distinct activations of weight sites."""
    return tuple(dict.fromkeys(activation for site in sites for activation in site.activations))


class Stacked(NamedTuple):
    """The outputs that a differentiated loop stacks: values, their types, or arrays of one step or of all."""

    ys: tuple[Any, ...]  # those of the stage
    activations: tuple[Any, ...]  # of its sites, as far as they are not among its xs or ys
    residuals: tuple[Any, ...]


def stacked_activations(stage: Stage, sites: Iterable[WeightSite]) -> Values:
    """The activations that a loop stacks, besides its ys.

    For an LSTM this is h before a step; h after it is its y, and x, an input of the loop, is stacked already.
    """
    return tuple(a for a in activations_of(sites) if a not in (*stage.xs, *stage.ys))


def read_activations(stage: Stage, sites: tuple[WeightSite, ...], xs: Any, stacked: Stacked) -> Env:
    """The activations of sites at all steps, from the xs of a loop and what it stacked."""
    values = (*stage.xs, *stage.ys, *stacked_activations(stage, sites))
    found = dict(zip(values, (*xs, *stacked.ys, *stacked.activations), strict=True))
    return {a: found[a] for a in activations_of(sites)}


class Active(NamedTuple):
    """The places at which the tangents of a loop's inputs enter it."""

    sites: tuple[WeightSite, ...]  # those with a weight that has a tangent
    xs: Values  # those whose tangents the tangent step reads; those of other xs are folded


def active_inputs(
    stage: Stage, program: Program, weights_with_tangents: Container[int], xs_with_tangents: Container[int]
) -> Active:
    """Find the sites and xs where tangents enter a loop.

    With s = x w_ih computed before the loop, z = s + h w_hh is a site, and s an input that is read nowhere
    else: its tangent is folded into that of z, and the loop reads one array less.

    Args:
      stage: the loop.
      program: the step that contains the stage.
      weights_with_tangents: the constants that have tangents.
      xs_with_tangents: the xs that have tangents.
    """
    # A site is inactive if none of its weights has a tangent: frozen weights cost nothing.
    all_sites = weight_sites(stage, program)
    sites = tuple(site for site in all_sites if any(w in weights_with_tangents for w in site.weights))
    # An input is folded if only the sums at active sites read it.
    at_sites = {op for site in sites for op in site.ops}
    read_elsewhere = {*stage.carry_out, *activations_of(sites)}
    for op in stage.ops:
        if op not in at_sites:
            read_elsewhere.update(op.inputs)
    only_added = {value for site in sites for value in site.additive} - read_elsewhere
    return Active(sites, tuple(x for x in stage.xs if x in xs_with_tangents and x not in only_added))


def site_tangents(
    program: Program,
    sites: tuple[WeightSite, ...],
    length: int,
    *,
    consts: Env,
    activations: Env,
    weight_tangents: Env,
    folded_tangents: Env,
) -> tuple[Array, ...]:
    """ε̇ of active sites at all steps, from the tangents of weights and the folded tangents of xs.

    This is the jvp of a vmap, not a vmap of jvps: vmap makes a `cond` in a linear function impossible to
    transpose (with its predicate mapped it becomes a select between values and their `stop_gradient`).

    Args:
      program: the step that contains the loop.
      sites: the active sites.
      length: number of steps.
      consts: the constants of the loop, (n, m) for a weight.
      activations: those of the sites, at all steps, (T, B, n).
      weight_tangents: of the constants that have one, (n, m).
      folded_tangents: of the xs that are only added at sites, (T, B, m).
    """

    def at_one_step(activations: Env, weights: Env, folded: Env) -> tuple[Array, ...]:
        # The derivative does not read additive inputs, so zeros can replace them.
        zeros = {s: zeros_like_type(program.types[s]) for site in sites for s in site.additive}
        return _eval_sites(sites, consts | activations | weights, zeros | folded)

    def at_all_steps(weights: Env, folded: Env) -> tuple[Array, ...]:
        mapped = jax.vmap(at_one_step, in_axes=(0, None, 0), axis_size=length)
        return mapped(activations, weights, folded)

    # the identity on each tangent, for the matmul after the loop
    weight_tangents = {w: with_transposed_adjoint(t) for w, t in weight_tangents.items()}
    weights = {w: consts[w] for w in weight_tangents}
    primals = weights, jax.tree.map(jnp.zeros_like, folded_tangents)
    # The primal output is dead code; jit removes it.
    return jax.jvp(at_all_steps, primals, (weight_tangents, folded_tangents))[1]


def _eval_sites(sites: tuple[WeightSite, ...], env: Env, additive: Env) -> tuple[Array, ...]:
    """The values of weight sites; ops that several sites share are run once.

    One value may be read at one site as an activation, by its array, and at another as an additive input, as
    zeros, which have a tangent if it is folded. These are two arrays, so the second has the key ("added",
    value), here written s⁺; ops are shared only if they read the same arrays:

        z = h w + s,  u = s v + h      env {h, w, s, v}, additive {s, h}:   z = h w + s⁺,  u = s v + h⁺
    """
    arrays: dict[Any, Any] = env | {("added", value): array for value, array in additive.items()}
    unused = itertools.count(max(env, default=0) + 1)
    computed: dict[Any, Values] = {}  # (op, keys of its inputs) -> keys of its outputs
    results = []
    for site in sites:
        key: dict[int, Any] = {value: ("added", value) for value in site.additive}
        for op in site.ops:
            inputs = tuple(key.get(i, i) for i in op.inputs)
            if (op, inputs) not in computed:
                computed[op, inputs] = tuple(itertools.islice(unused, len(op.outputs)))
                arrays.update(zip(computed[op, inputs], op.fun(*(arrays[i] for i in inputs)), strict=True))
            key.update(zip(op.outputs, computed[op, inputs], strict=True))
        results.append(arrays[key[site.value]])
    return tuple(results)
