"""Steps that the engine cannot transform, and so leaves to `lax.scan` and its own derivative."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jrnn._caching import cached
from jrnn._jaxprs.programs import Op, Program, Values, is_inexact, read, split_constant
from jrnn.unrolling._sites import made_of, weight_sites
from jrnn.unrolling._staging import Stage


@cached
def rule_applies(stage: Stage, program: Program) -> bool:
    """True if the derivative of a loop can be taken as in `loop_of_stage`.

    That needs ops which can be linearized, weight sites that `vmap` maps over the steps, and a carry that
    weights reach through sites: not a weight that is itself the next carry.
    """
    # A weight that is the next carry has no site: nothing perturbs it, and its gradient would be lost.
    weights = set(stage.consts).difference(program.literals)
    of_weights = made_of(weights, split_constant(stage.ops, stage.consts)[0], program)
    if not of_weights.isdisjoint(stage.carry_out):
        return False
    unknown = [op for op in stage.ops if not _is_standard(op)]
    if any(op.reverse_only or not _linearizes(op, read(program.types, op.inputs)) for op in unknown):
        return False
    return all(can_be_mapped(site.ops, stage.consts, program) for site in weight_sites(stage, program))


@cached
def can_be_mapped(ops: tuple[Op, ...], consts: Values, program: Program) -> bool:
    """True unless `vmap` over the steps refuses an op, its gradient or the gradient of that.

    It refuses a `pure_callback` without `vmap_method`, for instance, also in the rule of a `custom_vjp`. A
    derivative that the op itself does not have is not asked for.

    Args:
      ops: ops of a step.
      consts: values that are the same at all steps.
      program: the step.
    """
    _, varying_ops, constant = split_constant(ops, consts)
    for op in varying_ops:
        if not _is_standard(op):
            axes = tuple(None if i in constant else 0 for i in op.inputs)
            if not _maps(op, axes, read(program.types, op.inputs)):
                return False
    return True


def checkpoints_transpose() -> bool:
    """True unless `jax_remat3` is set, an experiment of JAX whose checkpoints have no transpose."""
    return _traces(_transposed_checkpoint, (jax.ShapeDtypeStruct((), jnp.float32),))


def _transposed_checkpoint(number: Any) -> Any:
    return jax.linear_transpose(jax.checkpoint(jnp.negative), number)(number)


def _is_standard(op: Op) -> bool:
    """True for an op of which all transforms are known to work."""
    return op.matmul or (op.fusible and op.primitive != "custom_jvp_call")


def _maps(op: Op, axes: tuple[int | None, ...], types: tuple[Any, ...]) -> bool:
    mapped = _at_two_steps(op.fun, axes)
    if _traces(_gradient(_gradient(mapped)), types):  # the others are traced within it
        return True
    alone = op.fun
    for _ in range(3):  # the op, its gradient, the gradient of that
        if not _traces(alone, types):
            return True  # it has no such derivative, mapped or not
        if not _traces(mapped, types):
            return False
        alone, mapped = _gradient(alone), _gradient(mapped)
    return True


def _linearizes(op: Op, types: tuple[Any, ...]) -> bool:
    """True unless an op has a forward derivative that cannot be linearized, as a `custom_vmap`."""

    def forward(*inputs: Any) -> Any:
        function, primals = _of_inexact(op.fun, inputs)
        return jax.jvp(function, primals, primals)

    def linearized(*inputs: Any) -> Any:
        function, primals = _of_inexact(op.fun, inputs)
        return jax.linearize(function, *primals)[1](*primals)

    return _traces(linearized, types) or not _traces(forward, types)


def _gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """Pull the outputs of a function back to its inputs, both as far as they are inexact."""

    def pulled_back(*inputs: Any) -> Any:
        of_inexact, primals = _of_inexact(function, inputs)
        outputs, pullback = jax.vjp(of_inexact, *primals)
        return pullback(outputs)

    return pulled_back


def _of_inexact(function: Callable[..., Any], inputs: tuple[Any, ...]) -> tuple[Callable[..., Any], Any]:
    """A function from its inexact inputs to its inexact outputs, and these inputs."""
    places = [i for i, a in enumerate(inputs) if is_inexact(a)]

    def of_inexact(*some: Any) -> Any:
        replaced = list(inputs)  # integers and keys are closed over
        for place, array in zip(places, some, strict=True):
            replaced[place] = array
        return [a for a in function(*replaced) if is_inexact(a)]

    return of_inexact, tuple(inputs[i] for i in places)


def _traces(function: Callable[..., Any], types: tuple[Any, ...]) -> bool:
    try:
        jax.eval_shape(function, *types)
    except Exception:  # whatever the rules of JAX and of the user raise
        return False
    return True


def _at_two_steps(function: Callable[..., Any], axes: tuple[int | None, ...]) -> Callable[..., Any]:
    """Map a function over two equal steps, along the given axes of its inputs."""

    def mapped(*inputs: Any) -> Any:
        pairs = []
        for a, axis in zip(inputs, axes, strict=True):
            pairs.append(a if axis is None else jax.vmap(lambda a=a: a, axis_size=2)())
        return jax.vmap(function, in_axes=axes)(*pairs)

    return mapped
