"""Loops whose weight gradients are computed after the loop, for all steps at once.

The gradient of a weight is a sum over steps. The transpose of `lax.scan` accumulates it in the loop: each
step has a matmul, and reads and writes an array of the size of the weight. Here each value z through which
weights act (a weight site) gets a perturbation ε,

    zₜ = g(w, aₜ) + εₜ,   ε̇ₜ = ∂g/∂w(w, aₜ) · ẇ,

the loop is linearized with w held constant, and the tangents ε̇ of all steps are computed outside of it. JAX
transposes that into a loop over the adjoints δₜ, followed by one matmul Σₜ aₜᵀ δₜ per weight.

`loop_of_stage` makes the loop, as a function `(consts, carry, xs) -> (carry, ys)` with a derivative rule of
its own. The rule calls, in this order:

    _sites         active_inputs     which weight sites and xs have tangents
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
from jax.custom_derivatives import SymbolicZero, zero_from_primal

from jrnn._caching import cached
from jrnn._jaxprs.programs import Env, Program, Values, eval_ops, is_inexact, read
from jrnn.unrolling._fallbacks import checkpoints_transpose, has_rule
from jrnn.unrolling._linearizing import LinearizedStep, linearize_step
from jrnn.unrolling._sites import active_inputs, site_tangents
from jrnn.unrolling._staging import Stage


@cached
def loop_of_stage(stage: Stage, program: Program, length: int, reverse: bool) -> Callable[..., Any]:
    """The loop of a stage with a carry: `(consts, carry, xs) -> (carry, ys)`."""
    if not has_rule(stage, program):  # an op that cannot be linearized or mapped, a `custom_vjp` for instance
        return plain_scan(step_of(stage), reverse, length)
    direction = _Direction(length, reverse)
    y_types = read(program.types, stage.ys)  # of one step

    # A custom jvp of ordinary operations, not a custom vjp: JAX transposes it, and differentiates it again.
    @jax.custom_jvp
    def loop(consts: Any, carry: Any, xs: Any) -> Any:
        return _squeezed_scan(step_of(stage), consts, carry, xs, y_types, direction)

    def jvp(primals: Any, tangents: Any) -> Any:
        consts, carry, xs = primals
        # 1. Which inputs have tangents, and where they enter.
        weight_tangents = _nonzero_tangents(stage.consts, consts, tangents[0])
        active = active_inputs(stage, program, weight_tangents, _nonzero_tangents(stage.xs, xs, tangents[2]))
        # 2. The primal loop, which also stacks activations of sites, and residuals.
        linearized = linearize_step(stage, program, active.sites, active.x_indices)
        primal, stacked_types = linearized.primal, linearized.stacked_types
        after, stacked = _squeezed_scan(primal, consts, carry, xs, stacked_types, direction)
        # 3. The tangents of the sites due to weights, outside of the loop.
        epsilon_tangents = site_tangents(stage, program, active, length, (consts, xs, stacked))
        # 4. The tangent loop. Transposed by JAX, 4 is the loop over the adjoints, 3 the matmuls after it.
        outputs = (after, stacked[: len(stage.ys)])
        carry_tangents, x_tangents = tangents[1], [tangents[2][i] for i in active.x_indices]
        # in the order that `LinearizedStep.tangent` takes them
        read_each_step = (*linearized.primals_read(xs, stacked), *x_tangents, *epsilon_tangents)
        both = carry, carry_tangents
        flat_tangents = _tangent_scan(linearized, consts, both, read_each_step, y_types, direction)
        return outputs, _with_zero_tangents(outputs, flat_tangents, linearized.nonzero)

    loop.defjvp(jvp, symbolic_zeros=True)  # so that inputs without a tangent are known
    if any(_is_key(program.types[value]) for value in (*stage.ys, *stage.carry_out)):
        return lambda *args: jax.tree.map(_unused, loop(*args))
    return loop


class _Direction(NamedTuple):
    """The number of steps of a loop, and whether it runs in reverse."""

    length: int
    reverse: bool


@cached
def step_of(stage: Stage) -> Callable[..., Any]:
    """One step of a stage: `(consts, carry, xs) -> (carry, ys)`."""

    def step(consts: Any, carry: Any, xs: Any) -> Any:
        inputs = (*stage.consts, *stage.carry_in, *stage.xs)  # literals are among the constants
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
    step: Any, consts: Any, carry: Any, xs: Any, y_types: Iterable[Any], direction: _Direction
) -> tuple[Any, tuple[Array, ...]]:
    """`lax.scan` over stacked arrays without axes of length 1, which only `step` sees.

    With such axes XLA may copy whole arrays into another layout.

        x of one row, (T, 1, n)   the loop reads (T, n)   `step` gets (1, n)
    """
    unit_axes = tuple(_unit_axes(x.shape[1:]) for x in xs)  # of one step
    squeezed = [lax.squeeze(x, [a + 1 for a in axes]) for x, axes in zip(xs, unit_axes, strict=True)]
    length = None if squeezed else direction.length  # a symbolic length is rejected together with xs
    # The body closes over no arrays, so that it can be cached. So constants ride in the carry, and `lax.scan`
    # moves them out, as they are returned unchanged.
    init = (consts, carry)
    body = _squeezed_body(step, unit_axes)
    (_, carry), squeezed_ys = lax.scan(body, init, squeezed, length=length, reverse=direction.reverse)
    ys = []
    for y, type_ in zip(squeezed_ys, y_types, strict=True):
        ys.append(lax.expand_dims(y, [axis + 1 for axis in _unit_axes(type_.shape)]))
    return carry, tuple(ys)


@cached
def _squeezed_body(step: Callable[..., Any], unit_axes: tuple[tuple[int, ...], ...]) -> Callable[..., Any]:
    """The body of `_squeezed_scan`: `((consts, carry), xs) -> ((consts, carry), ys)`.

    When JAX transposes the tangent loop, it would compute what depends on no tangent, such as 1 − hₜ², in a
    loop of its own, and stack it. A checkpoint that saves only its arguments keeps it in the loop over the
    adjoints. Every loop has it: in the primal one it matters only where that is differentiated in turn, for
    second derivatives, which then store its carry and xs, and not every value in between.
    """

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


def _tangent_scan(
    linearized: LinearizedStep, consts: Any, carry: Any, xs: Any, y_types: Any, direction: _Direction
) -> tuple[Array, ...]:
    """The loop over tangents: returns those of the inexact carry and ys.

        ḣₜ = (1 − hₜ²) ⊙ (ε̇ₜ + ḣₜ₋₁ w_hh)       reads hₜ, stacked by the primal loop, and ε̇ₜ

    JAX transposes it into the loop over the adjoints. `carry` is a pair: the carry, and its tangents.
    """
    init = tuple(_instantiate(t, c) for c, t in zip(*carry, strict=True) if is_inexact(c))
    inexact_types = filter(is_inexact, y_types)
    constants = linearized.constants_read(consts)
    after, ys = _squeezed_scan(linearized.tangent, constants, init, xs, inexact_types, direction)
    return (*after, *ys)


def _instantiate(tangent: Any, value: Array) -> Array:
    return jnp.zeros_like(value) if isinstance(tangent, SymbolicZero) else tangent


def _with_zero_tangents(values: Any, tangents: Iterable[Array], nonzero: Iterable[bool]) -> Any:
    """The tangents of all values, given those of the inexact ones; zeros are symbolic."""
    remaining = iter(zip(tangents, nonzero, strict=True))

    def tangent(value: Array) -> Any:
        found, is_nonzero = next(remaining) if is_inexact(value) else (None, False)
        return found if is_nonzero else zero_from_primal(value, True)

    return jax.tree.map(tangent, values)


def _is_key(value: Any) -> bool:
    return bool(jnp.issubdtype(value.dtype, jax.dtypes.prng_key))


def _unused(value: Array) -> Array:
    # `jax_debug_key_reuse` counts keys returned by a custom derivative as consumed
    return jax.random.clone(value) if _is_key(value) else value


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
