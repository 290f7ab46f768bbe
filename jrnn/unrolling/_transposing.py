"""Matmuls for gradients, without operands that are transposed.

JAX computes the gradient of W in A W as (δᵀ A)ᵀ. XLA fuses the transpose into a matmul of two transposed
operands, which is twice as slow on a CPU: a barrier keeps them apart.

The transpose of ḣ W, in a loop over the adjoints, reads Wᵀ at every step. So the tangent loop is passed Wᵀ,
made once, instead of W.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jrnn._jaxprs.programs import Op, Program, Values, element_count


def with_transposed_adjoint(tangent: Array) -> Array:
    """The identity on the tangent of a weight, whose adjoint remains a matmul, then a transpose."""
    if tangent.ndim != 2:
        return tangent
    return jnp.swapaxes(lax.optimization_barrier(jnp.swapaxes(tangent, 0, 1)), 0, 1)


@jax.custom_jvp
def with_transposed_gradient(weight: Array) -> Array:
    """The identity on a weight, whose gradient remains a matmul, then a transpose."""
    return weight


@with_transposed_gradient.defjvp
def _with_transposed_gradient_jvp(primals: Any, tangents: Any) -> Any:
    return primals[0], with_transposed_adjoint(tangents[0])


def multiplying_rows(on_tangents: Iterable[Op], consts: Iterable[int], program: Program) -> Values:
    """The matrices among constants that multiply more than one row of tangents: better passed transposed.

    Of one row, a product with W or Wᵀ costs the same.

    Args:
      on_tangents: the ops of a tangent step that read tangents.
      consts: its constants.
      program: the step that contains them.
    """
    multiplied: set[int] = set()
    for op in on_tangents:
        if op.matmul and element_count(program.types[op.outputs[0]].shape[:-1]) > 1:
            multiplied.update(op.inputs)
    return tuple(sorted(c for c in consts if c in multiplied and len(program.types[c].shape) == 2))
