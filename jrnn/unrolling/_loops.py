"""Loops whose weight gradients are computed after the loop, for all steps at once.

The gradient of a weight is a sum over steps. The transpose of `lax.scan` accumulates it in the loop: each
step has a matmul, and reads and writes an array of the size of the weight. Here each value z through which
weights act (a weight site) gets a perturbation ε,

    zₜ = g(w, aₜ) + εₜ,   ε̇ₜ = ∂g/∂w(w, aₜ) · ẇ,

the loop is linearized with w held constant, and the tangents ε̇ of all steps are computed outside of it. JAX
transposes that into a loop over the adjoints δₜ, followed by one matmul Σₜ aₜᵀ δₜ per weight.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero, zero_from_primal

from jrnn._caching import cached
from jrnn._jaxprs import Program
from jrnn.unrolling._fallbacks import checkpoints_transpose, has_rule
from jrnn.unrolling._linearizing import (
    LinearizedStep,
    WeightSite,
    is_inexact,
    linearize_step,
    loop_outputs,
    operands_of,
    weight_sites,
    zeros_like_type,
)
from jrnn.unrolling._staging import Env, Stage, Values, eval_ops, read


@cached
def step_of(stage: Stage) -> Callable[..., Any]:
    """One step of a stage: `(consts, carry, xs) -> (carry, ys)`."""

    def step(consts: Any, carry: Any, xs: Any) -> Any:
        inputs = (*stage.consts, *stage.carry_in, *stage.xs)
        env = dict(zip(inputs, (*consts, *carry, *xs), strict=True))
        eval_ops(stage.ops, env)
        return read(env, stage.carry_out), read(env, stage.ys)

    return step


@cached
def plain_scan(body: Any, reverse: bool, length: int | None = None) -> Callable[..., Any]:
    """`lax.scan` of a body that must not be reordered: `(consts, carry, xs) -> (carry, ys)`."""

    def with_consts(consts_and_carry: Any, x: Any) -> Any:
        consts, carry = consts_and_carry  # `lax.scan` moves constants, returned unchanged, out of its carry
        carry, y = body(consts, carry, x)
        return (consts, carry), y

    def run(consts: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
        leaves = jax.tree.leaves(xs)
        steps = None if leaves else length  # `lax.scan` rejects a symbolic length together with xs
        no_steps = leaves and leaves[0].shape[0] == 0  # `lax.scan` rejects it if jit is disabled
        with jax.disable_jit(False) if no_steps else contextlib.nullcontext():
            (_, carry), ys = lax.scan(with_consts, (consts, carry), xs, length=steps, reverse=reverse)
        return carry, ys

    return run


@cached
def scan_stage(stage: Stage, program: Program, length: int, reverse: bool) -> Callable[..., Any]:
    """The loop of a stage with a carry: `(consts, carry, xs) -> (carry, ys)`."""
    if not has_rule(stage, program):
        return plain_scan(step_of(stage), reverse, length)
    direction = _Direction(length, reverse)
    y_types = read(program.types, stage.ys)

    # A custom jvp of ordinary operations, not a custom vjp: JAX transposes it, and differentiates it again.
    @jax.custom_jvp
    def run(consts: Any, carry: Any, xs: Any) -> Any:
        return _squeezed_scan(step_of(stage), consts, carry, xs, y_types, direction)

    def jvp(primals: Any, tangents: Any) -> Any:
        consts, carry, xs = primals
        # 1. Which inputs have tangents, and where they enter.
        active = active_inputs(stage, program, *_tangents_of(stage, primals, tangents))
        # 2. The primal loop, which also outputs residuals and the operands of sites.
        linearized = linearize_step(stage, program, active.sites, active.x_indices)
        primal, saved_types = linearized.primal, linearized.saved_types
        after, saved = _squeezed_scan(primal, consts, carry, xs, saved_types, direction)
        # 3. The tangents of the sites due to weights, outside of the loop.
        site_tangents = _site_tangents(stage, program, active, length, (consts, xs, saved))
        # 4. The linear loop.
        outputs = (after, saved[: len(stage.ys)])
        carry_tangents, x_tangents = tangents[1], [tangents[2][i] for i in active.x_indices]
        linear_xs = (*linearized.linear_xs(xs, saved), *x_tangents, *site_tangents)
        inexact = _linear_scan(linearized, consts, (carry, carry_tangents), linear_xs, y_types, direction)
        return outputs, _with_zero_tangents(outputs, inexact, linearized.moving)

    run.defjvp(jvp, symbolic_zeros=True)
    if any(_is_key(program.types[value]) for value in (*stage.ys, *stage.carry_out)):
        return lambda *args: jax.tree.map(_unused, run(*args))
    return run


class _Direction(NamedTuple):
    """The number of steps of a loop, and whether it runs in reverse."""

    length: int
    reverse: bool


def _squeezed_scan(
    step: Any, consts: Any, carry: Any, xs: Any, y_types: Iterable[Any], direction: _Direction
) -> tuple[Any, tuple[Array, ...]]:
    """`lax.scan` over stacked arrays without axes of length 1, which only `step` sees.

    With such axes XLA may copy whole arrays into another layout.
    """
    unit_axes = tuple(_unit_axes(x.shape[1:]) for x in xs)
    squeezed = [lax.squeeze(x, [a + 1 for a in axes]) for x, axes in zip(xs, unit_axes, strict=True)]
    length = None if squeezed else direction.length  # a symbolic length is rejected together with xs
    start = (consts, carry)  # `lax.scan` moves constants, returned unchanged, out of its carry
    body = _squeezed_body(step, unit_axes)
    (_, carry), ys = lax.scan(body, start, squeezed, length=length, reverse=direction.reverse)
    axes_of = ([axis + 1 for axis in _unit_axes(t.shape)] for t in y_types)
    return carry, tuple(lax.expand_dims(y, axes) for y, axes in zip(ys, axes_of, strict=True))


@cached
def _squeezed_body(step: Callable[..., Any], unit_axes: tuple[tuple[int, ...], ...]) -> Callable[..., Any]:
    """The body of `_squeezed_scan`; transposing it saves nothing but its arguments."""

    def expanded(consts: Any, carry: Any, xs: Any) -> Any:
        xs = [lax.expand_dims(x, axes) for x, axes in zip(xs, unit_axes, strict=True)]
        carry, ys = step(consts, carry, xs)
        return carry, tuple(lax.squeeze(y, _unit_axes(y.shape)) for y in ys)

    nothing = jax.checkpoint_policies.nothing_saveable
    rematerialized = jax.checkpoint(expanded, policy=nothing, prevent_cse=False)

    def body(consts_and_carry: Any, xs: Any) -> Any:
        consts, carry = consts_and_carry
        carry, ys = (rematerialized if checkpoints_transpose() else expanded)(consts, carry, xs)
        return (consts, carry), ys

    return body


def _unit_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis for axis, size in enumerate(shape) if size == 1)


def _linear_scan(
    linearized: LinearizedStep, consts: Any, carry: Any, xs: Any, y_types: Any, direction: _Direction
) -> tuple[Array, ...]:
    """The linear loop over tangents: returns those of the inexact carry and ys.

        ḣₜ = (1 − hₜ²) ⊙ (ε̇ₜ + ḣₜ₋₁ w_hh)       reads hₜ, saved by the primal loop, and ε̇ₜ

    JAX transposes it into the loop over the adjoints.
    """
    start = tuple(_instantiate(t, c) for c, t in zip(*carry, strict=True) if is_inexact(c))
    inexact = filter(is_inexact, y_types)
    linear_consts = linearized.linear_consts(consts)
    ends, ys = _squeezed_scan(linearized.linear, linear_consts, start, xs, inexact, direction)
    return (*ends, *ys)


class ActiveInputs(NamedTuple):
    """The inputs of a loop that have tangents, and where these enter."""

    sites: tuple[WeightSite, ...]  # those with a weight that has a tangent
    x_indices: tuple[int, ...]  # of xs whose own tangents enter the loop
    weight_tangents: Env
    folded_tangents: Env  # tangents of xs that are only added at sites: added to those of the sites


def active_inputs(stage: Stage, program: Program, weight_tangents: Env, x_tangents: Env) -> ActiveInputs:
    """Classify the inputs that have tangents.

    With x w_ih computed before the loop, z = x w_ih + h w_hh is a site, and x w_ih an input that is read
    nowhere else: its tangent is folded into that of z, and the loop reads one array less.

    Args:
      stage: the loop.
      program: the step that contains the stage.
      weight_tangents: tangents of constants, without zeros.
      x_tangents: tangents of xs, without zeros.
    """
    # A site is inactive if none of its weights has a tangent: frozen weights cost nothing.
    every = weight_sites(stage, program)
    sites = tuple(site for site in every if any(w in weight_tangents for w in site.weights))
    # An input is folded if only the sums at active sites read it.
    at_sites = {op for site in sites for op in site.ops}
    read_elsewhere = {*stage.carry_out, *operands_of(sites)}
    for op in stage.ops:
        if op not in at_sites:
            read_elsewhere.update(op.inputs)
    only_added = {value for site in sites for value in site.additive} - read_elsewhere
    x_indices = [i for i, x in enumerate(stage.xs) if x in x_tangents and x not in only_added]
    folded = {x: tangent for x, tangent in x_tangents.items() if x in only_added}
    return ActiveInputs(sites, tuple(x_indices), weight_tangents, folded)


def _tangents_of(stage: Stage, primals: Any, tangents: Any) -> tuple[Env, Env]:
    """The nonzero tangents of the constants and of the xs."""

    def nonzero(values: Values, arrays: Any, tangents: Any) -> Env:
        found = {}
        for value, array, tangent in zip(values, arrays, tangents, strict=True):
            if is_inexact(array) and not isinstance(tangent, SymbolicZero):
                found[value] = tangent
        return found

    return nonzero(stage.consts, primals[0], tangents[0]), nonzero(stage.xs, primals[2], tangents[2])


def _site_tangents(
    stage: Stage, program: Program, active: ActiveInputs, length: int, arrays: tuple[Any, Any, Any]
) -> tuple[Array, ...]:
    """ε̇ of all sites at all steps, from the tangents of weights and the folded tangents of xs.

        z = x w_ih + h w_hh + b:   ε̇ = x ẇ_ih + h ẇ_hh + ḃ,   with the operands x and h of all steps stacked

    This is the jvp of a vmap, not a vmap of jvps: vmap makes a `cond` in a linear function impossible to
    transpose.
    """
    consts, xs, saved = arrays
    sites = active.sites
    # Weights are the same at every step, (n, m); operands and folded tangents are stacked, (T, B, n).
    const_env = dict(zip(stage.consts, consts, strict=True))
    # not strict: residuals follow the loop's outputs in `saved`, and no site reads them
    step_env = dict(zip((*stage.xs, *loop_outputs(stage, sites)), (*xs, *saved), strict=False))
    operands = {o: step_env[o] for o in operands_of(sites)}

    def at_one_step(operands: Env, weights: Env, folded: Env) -> tuple[Array, ...]:
        # The derivative does not read additive inputs, so zeros can replace them.
        zeros = {s: zeros_like_type(program.types[s]) for site in sites for s in site.additive}
        return _eval_sites(sites, const_env | operands | weights, zeros | folded)

    def at_all_steps(weights: Env, folded: Env) -> tuple[Array, ...]:
        mapped = jax.vmap(at_one_step, in_axes=(0, None, 0), axis_size=length)
        return mapped(operands, weights, folded)

    weight_tangents = {w: with_transposed_adjoint(t) for w, t in active.weight_tangents.items()}
    at = {w: const_env[w] for w in weight_tangents}, jax.tree.map(jnp.zeros_like, active.folded_tangents)
    # The primal output is dead code; jit removes it.
    return jax.jvp(at_all_steps, at, (weight_tangents, active.folded_tangents))[1]


def _eval_sites(sites: tuple[WeightSite, ...], env: Env, additive: Env) -> tuple[Array, ...]:
    """The values of weight sites; ops that several sites share are run once.

    By value numbering: an op on the same numbers has the same result. A value may be an operand of one site
    and, with a different array, an additive input of another, so the latter gets a separate number.
    """
    arrays = env | {~value: array for value, array in additive.items()}
    unused = itertools.count(max(arrays, default=0) + 1)
    computed: dict[Any, Values] = {}  # (op, numbers of its inputs) -> numbers of its outputs
    results = []
    for site in sites:
        number = {value: ~value for value in site.additive}
        for op in site.ops:
            inputs = tuple(number.get(i, i) for i in op.inputs)
            if (op, inputs) not in computed:
                computed[op, inputs] = tuple(itertools.islice(unused, len(op.outputs)))
                arrays.update(zip(computed[op, inputs], op.run(*read(arrays, inputs)), strict=True))
            number.update(zip(op.outputs, computed[op, inputs], strict=True))
        results.append(arrays[number[site.value]])
    return tuple(results)


def with_transposed_adjoint(tangent: Array) -> Array:
    """The identity on a tangent, whose adjoint is computed transposed if it is a matrix.

    The gradient of W in Z = A W is Aᵀ δ. JAX computes (δᵀ A)ᵀ, which XLA turns into a matmul of two
    transposed matrices, twice as slow on a CPU; the barrier prevents that.
    """
    if tangent.ndim != 2:
        return tangent
    return jnp.swapaxes(lax.optimization_barrier(jnp.swapaxes(tangent, 0, 1)), 0, 1)


def _with_zero_tangents(values: Any, tangents: Iterable[Array], moving: Iterable[bool]) -> Any:
    """The tangents of all values, given those of the inexact ones; zeros are symbolic."""
    remaining = iter(zip(tangents, moving, strict=True))

    def tangent(value: Array) -> Any:
        found, moves = next(remaining) if is_inexact(value) else (None, False)
        return found if moves else zero_from_primal(value, True)

    return jax.tree.map(tangent, values)


def _instantiate(tangent: Any, value: Array) -> Array:
    return jnp.zeros_like(value) if isinstance(tangent, SymbolicZero) else tangent


def _is_key(value: Any) -> bool:
    return bool(jnp.issubdtype(value.dtype, jax.dtypes.prng_key))


def _unused(value: Array) -> Array:
    # `jax_debug_key_reuse` counts keys returned by a custom derivative as consumed
    return jax.random.clone(value) if _is_key(value) else value
