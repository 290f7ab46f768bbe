"""Loops whose weight gradients are computed after the loop, for all steps at once.

The gradient of a weight is a sum over steps. The transpose of `lax.scan` accumulates it in the loop: each
step has a matmul, and reads and writes an array of the size of the weight. Here each value z through which
weights act (a weight site) gets a perturbation ε,

    zₜ = g(w, aₜ) + εₜ,   ε̇ₜ = ∂g/∂w(w, aₜ) · ẇ,

the loop is linearized with w held constant, and the tangents ε̇ of all steps are computed outside of it. JAX
transposes that into a loop over the adjoints δₜ, followed by one matmul Σₜ aₜᵀ δₜ per weight.

`loop_of_stage` makes the loop, as a function `(consts, carry, xs) -> (carry, ys)` with a derivative rule of
its own. The rule calls, in this order:

    _sites         active_inputs     the weight sites and xs where tangents enter
    _linearizing   linearize_step    the step as two: primal, with residuals, and tangent
    here           _squeezed_scan    the primal loop
    _sites         site_tangents     ε̇ of all steps
    here           _tangent_scan     the tangent loop
"""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import SymbolicZero, zero_from_primal

from jrnn._caching import cached
from jrnn._jaxprs.programs import Env, Program, Values, eval_ops, is_inexact, read
from jrnn.unrolling._fallbacks import checkpoints_transpose, rule_applies
from jrnn.unrolling._forward import forward_loop, on_one_cpu
from jrnn.unrolling._linearizing import LinearizedStep, TangentInputs, linearize_step
from jrnn.unrolling._sites import active_inputs, read_activations, site_tangents
from jrnn.unrolling._staging import Stage


@cached
def loop_of_stage(stage: Stage, program: Program, length: int, reverse: bool) -> Callable[..., Any]:
    """The loop of a stage with a carry: `(consts, carry, xs) -> (carry, ys)`."""
    # False for a step with a `custom_vjp`, say, which has no forward derivative
    if not rule_applies(stage, program):
        return plain_scan(step_of(stage), reverse, length)
    steps = _Steps(length, reverse)

    # A custom jvp of ordinary operations, not a custom vjp: JAX transposes it, and differentiates it again.
    @jax.custom_jvp
    def loop(consts: Any, carry: Any, xs: Any) -> Any:
        return _undifferentiated(stage, program, steps, on_one_cpu())(consts, carry, xs)

    def jvp(primals: Any, tangents: Any) -> Any:
        return _derivative(stage, program, steps, primals, tangents)

    loop.defjvp(jvp, symbolic_zeros=True)  # so that inputs without a tangent are known
    if any(_is_key(program.types[value]) for value in (*stage.ys, *stage.carry_out)):
        return lambda *args: jax.tree.map(_cloned_if_key, loop(*args))
    return loop


class _Steps(NamedTuple):
    """The number of steps of a loop, and whether it runs in reverse."""

    length: int
    reverse: bool


@cached
def _undifferentiated(stage: Stage, program: Program, steps: _Steps, rewrites: bool) -> Callable[..., Any]:
    """The loop without its derivative, rewritten where that is faster, unless `vmap` maps it."""
    y_types = read(program.types, stage.ys)

    def as_written(consts: Any, carry: Any, xs: Any) -> Any:
        return _squeezed_scan(step_of(stage), consts, carry, xs, y_types, steps)

    rewritten = forward_loop(stage, program, steps.length) if rewrites else None
    if rewritten is None:
        return as_written

    @custom_vmap
    def run(consts: Any, carry: Any, xs: Any) -> Any:
        consts, xs = rewritten.inputs(stage, consts, xs, steps.length)
        return _squeezed_scan(step_of(rewritten.loop), consts, carry, xs, y_types, steps)

    @run.def_vmap
    def mapped(axis_size: int, is_mapped: Any, *args: Any) -> Any:
        axes = tuple(jax.tree.map(lambda leaf: 0 if leaf else None, is_mapped))
        outputs = jax.vmap(as_written, axes, axis_size=axis_size)(*args)
        return outputs, jax.tree.map(lambda _: True, outputs)

    return run


def _derivative(stage: Stage, program: Program, steps: _Steps, primals: Any, tangents: Any) -> Any:
    """The derivative rule of a loop: `((carry, ys), their tangents)`, for the tangents of its arguments."""
    consts, carry, xs = primals
    const_tangents, carry_tangents, all_x_tangents = tangents  # symbolic zeros among them
    # 1. Where tangents enter: at the sites of weights, and at xs.
    weight_tangents = _nonzero_tangents(stage.consts, consts, const_tangents)
    x_tangents = _nonzero_tangents(stage.xs, xs, all_x_tangents)
    active = active_inputs(stage, program, weight_tangents, x_tangents)
    # 2. The primal loop, which also stacks activations of sites, and residuals.
    linearized = linearize_step(stage, program, active)
    after, stacked = _squeezed_scan(linearized.primal, consts, carry, xs, linearized.stacked_types, steps)
    # 3. The tangents of the sites due to weights, outside of the loop.
    epsilon_tangents = site_tangents(
        program,
        active.sites,
        steps.length,
        consts=dict(zip(stage.consts, consts, strict=True)),
        activations=read_activations(stage, active.sites, xs, stacked),
        weight_tangents=weight_tangents,
        folded_tangents={x: tangent for x, tangent in x_tangents.items() if x not in active.xs},
    )
    # 4. The tangent loop. Transposed by JAX, 4 is the loop over the adjoints, 3 the matmuls after it.
    primals_read = linearized.primals_for_tangent(xs, stacked)
    inputs = TangentInputs(primals_read, read(x_tangents, active.xs), epsilon_tangents)
    start = tuple(_instantiate(t, c) for c, t in zip(carry, carry_tangents, strict=True) if is_inexact(c))
    y_types = read(program.types, stage.ys)
    flat_tangents = _tangent_scan(linearized, consts, start, inputs, y_types, steps)
    outputs = (after, stacked.ys)
    return outputs, _with_zero_tangents(outputs, flat_tangents, linearized.nonzero)


@cached
def step_of(stage: Stage) -> Callable[..., Any]:
    """One step of a stage: `(consts, carry, xs) -> (carry, ys)`."""

    def step(consts: Any, carry: Any, xs: Any) -> Any:
        inputs = (*stage.consts, *stage.carry_in, *stage.xs)  # `stage_step` counts literals as constants
        env = dict(zip(inputs, (*consts, *carry, *xs), strict=True))
        eval_ops(stage.ops, env)
        return read(env, stage.carry_out), read(env, stage.ys)

    return step


def _nonzero_tangents(values: Values, arrays: Any, tangents: Any) -> Env:
    """The tangents of values that have one, by number: no integers, and no symbolic zeros."""
    found: Env = {}
    for value, array, tangent in zip(values, arrays, tangents, strict=True):
        if is_inexact(array) and not isinstance(tangent, SymbolicZero):
            found[value] = tangent
    return found


def _squeezed_scan(
    step: Any, consts: Any, carry: Any, xs: Any, y_types: Any, steps: _Steps
) -> tuple[Any, Any]:
    """`lax.scan` over trees of stacked arrays without axes of length 1, which only `step` sees.

    With such axes XLA may copy whole arrays into another layout.

        x of one row, (T, 1, n)   the loop reads (T, n)   `step` gets (1, n)
    """
    unit_axes = tuple(_unit_axes(x.shape[1:]) for x in jax.tree.leaves(xs))  # of one step
    squeezed = jax.tree.map(lambda x: lax.squeeze(x, [n + 1 for n in _unit_axes(x.shape[1:])]), xs)
    has_xs = bool(unit_axes)
    length = None if has_xs else steps.length  # `lax.scan` rejects a symbolic length together with xs
    # The body closes over no arrays, so that it can be cached. So constants ride in the carry, and `lax.scan`
    # moves them out, as they are returned unchanged.
    init = (consts, carry)
    body = _squeezed_body(step, unit_axes)
    (_, carry), squeezed_ys = lax.scan(body, init, squeezed, length=length, reverse=steps.reverse)

    def expand(y: Array, type_: Any) -> Array:
        return lax.expand_dims(y, [axis + 1 for axis in _unit_axes(type_.shape)])

    return carry, jax.tree.map(expand, squeezed_ys, y_types)


@cached
def _squeezed_body(step: Callable[..., Any], unit_axes: tuple[tuple[int, ...], ...]) -> Callable[..., Any]:
    """The body of `_squeezed_scan`: `((consts, carry), xs) -> ((consts, carry), ys)`.

    A checkpoint that saves nothing but its arguments. Without it JAX, transposing the tangent loop, would
    compute what depends on no tangent, such as 1 − hₜ², in a loop of its own, and stack it. In the primal
    loop it matters for second derivatives only: these then store carry and xs, not every value in between.
    """

    def expanded(consts: Any, carry: Any, xs: Any) -> Any:
        leaves, structure = jax.tree.flatten(xs)
        whole = [lax.expand_dims(x, axes) for x, axes in zip(leaves, unit_axes, strict=True)]
        carry, ys = step(consts, carry, jax.tree.unflatten(structure, whole))
        return carry, jax.tree.map(lambda y: lax.squeeze(y, _unit_axes(y.shape)), ys)

    nothing = jax.checkpoint_policies.nothing_saveable
    rematerialized = jax.checkpoint(expanded, policy=nothing, prevent_cse=False)

    def body(consts_and_carry: Any, xs: Any) -> Any:
        consts, carry = consts_and_carry
        # JAX cannot transpose a checkpoint under its experimental flag `jax_remat3`: then without one
        carry, ys = (rematerialized if checkpoints_transpose() else expanded)(consts, carry, xs)
        return (consts, carry), ys

    return body


def _unit_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis for axis, size in enumerate(shape) if size == 1)


def _tangent_scan(
    linearized: LinearizedStep, consts: Any, start: Any, inputs: TangentInputs, y_types: Any, steps: _Steps
) -> tuple[Array, ...]:
    """The loop over tangents: returns those of the inexact carry and ys.

        ḣₜ = (1 − hₜ²) ⊙ (ε̇ₜ + ḣₜ₋₁ w_hh)       reads hₜ, stacked by the primal loop, and ε̇ₜ

    JAX transposes it into the loop over the adjoints. `consts` are those of the primal loop, and `start` the
    tangents of the inexact carry.
    """
    inexact_types = tuple(filter(is_inexact, y_types))
    constants = linearized.consts_for_tangent(consts)
    after, ys = _squeezed_scan(linearized.tangent, constants, start, inputs, inexact_types, steps)
    return (*after, *ys)


def _instantiate(tangent: Any, array: Array) -> Array:
    return jnp.zeros_like(array) if isinstance(tangent, SymbolicZero) else tangent


def _with_zero_tangents(arrays: Any, tangents: Iterable[Array], nonzero: Iterable[bool]) -> Any:
    """The tangents of all arrays, given those of the inexact ones; zeros are symbolic."""
    remaining = iter(zip(tangents, nonzero, strict=True))

    def tangent(array: Array) -> Any:
        found, is_nonzero = next(remaining) if is_inexact(array) else (None, False)
        return found if is_nonzero else zero_from_primal(array, symbolic_zeros=True)

    return jax.tree.map(tangent, arrays)


def _is_key(array: Any) -> bool:
    """True if an array or type is of PRNG keys."""
    return bool(jnp.issubdtype(array.dtype, jax.dtypes.prng_key))


def _cloned_if_key(array: Array) -> Array:
    # `jax_debug_key_reuse` counts keys returned by a custom derivative as consumed
    return jax.random.clone(array) if _is_key(array) else array


@cached
def plain_scan(body: Any, reverse: bool, length: int | None = None) -> Callable[..., Any]:
    """`lax.scan` of a body that must not be reordered: `(consts, carry, xs) -> (carry, ys)`."""

    def with_consts(consts_and_carry: Any, x: Any) -> Any:
        consts, carry = consts_and_carry  # together, as in `_squeezed_scan`
        carry, y = body(consts, carry, x)
        return (consts, carry), y

    def scan(consts: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
        leaves = jax.tree.leaves(xs)
        steps = None if leaves else length  # `lax.scan` rejects a symbolic length together with xs
        no_steps = leaves and leaves[0].shape[0] == 0  # `lax.scan` rejects it if jit is disabled
        with jax.disable_jit(False) if no_steps else contextlib.nullcontext():
            (_, carry), ys = lax.scan(with_consts, (consts, carry), xs, length=steps, reverse=reverse)
        return carry, ys

    return scan
