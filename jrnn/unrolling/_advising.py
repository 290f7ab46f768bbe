"""A prediction, from its first steps, of the iterations that Newton's method takes on a loop."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jrnn._alignment import promoted
from jrnn._jaxprs.programs import is_inexact
from jrnn.cell import carry_spec, map_state
from jrnn.unrolling.methods import Loop

FORGETTING = 128  # times 1 / |λ₁|: after so many steps a longer sequence takes no more iterations


class Advice(NamedTuple):
    """The largest exponent over the first steps, and the iterations predicted for all of them."""

    exponent: Array
    iterations: Array


def advise(loop: Loop[Any, Any, Any], count: Callable[[Loop[Any, Any, Any]], Array], probe: int) -> Advice:
    """Predict the iterations for a loop.

        K(T) = K(m) · (T' / m)ᵖ,   p = log₂ (K(m) / K(m / 2)) in [0, 1],   T' = min(T, 128 / |λ₁|) if λ₁ < 0

    Errors of a guess are corrected at all steps together where they decay, and a stretch of steps at a time
    where they do not. A growth by a single iteration counts as none if λ₁ < 0.

    Args:
      loop: the loop.
      count: counts the iterations for a loop.
      probe: m, first steps to look at.
    """
    probe = min(probe, loop.length)
    exponent = _exponent(_head(loop, probe))
    half, whole = (count(_head(loop, n)).astype(exponent.dtype) for n in (max(probe // 2, 1), probe))
    forgets = exponent < 0
    power = jnp.clip(jnp.log2(jnp.maximum(whole, 1) / jnp.maximum(half, 1)), 0, 1)
    power = jnp.where(forgets & (whole - half <= 1), 0, power)
    reach = FORGETTING / jnp.where(forgets, jnp.maximum(-exponent, 1e-6), 1)
    steps = jnp.where(forgets, jnp.clip(reach, probe, loop.length), loop.length)
    return Advice(exponent, jnp.minimum(whole * (steps / probe) ** power, loop.length))


def _head(loop: Loop[Any, Any, Any], steps: int) -> Loop[Any, Any, Any]:
    """The first steps that a loop visits."""
    part = slice(loop.length - steps, None) if loop.reverse else slice(steps)
    xs, valid, reset = jax.tree.map(lambda a: a[part], loop.inputs)
    return replace(loop, xs=xs, valid=valid, reset=reset, length=steps)


def _exponent(loop: Loop[Any, Any, Any]) -> Array:
    """λ₁: the mean growth of a tangent of the state per step, in nats, the first eighth left out.

    Steps that leave nothing of it do not count, unless all do.
    """
    leaves, structure = jax.tree.flatten(loop.carry)
    places = [i for i, leaf in enumerate(leaves) if is_inexact(leaf)]
    if not places:
        return jnp.array(-jnp.inf)
    numbers = jax.tree.unflatten(structure, range(len(leaves)))
    state = set(jax.tree.leaves(map_state(lambda i: i, carry_spec(loop.cell, loop.params), numbers)))
    dtype = promoted(np.zeros((), leaves[places[0]].dtype).real.dtype, jnp.float32)

    def length(tangents: list[Array]) -> Array:
        squares = [jnp.sum(jnp.square(jnp.abs(t).astype(dtype))) for t in tangents]
        return jnp.sqrt(jnp.stack(squares).sum())

    def step(before: Any, inputs: Any) -> Any:
        leaves, tangents = before

        def advance(moved: list[Array]) -> Any:
            given = dict(zip(places, moved, strict=True))
            carry = jax.tree.unflatten(structure, [given.get(i, leaf) for i, leaf in enumerate(leaves)])
            after = jax.tree.leaves(loop.body(loop.consts, carry, inputs)[0])
            return [after[i] for i in places], after

        _, tangents, after = jax.jvp(advance, ([leaves[i] for i in places],), (tangents,), has_aux=True)
        tangents = [t if i in state else jnp.zeros_like(t) for i, t in zip(places, tangents, strict=True)]
        norm = length(tangents)
        alive = ~(norm <= np.finfo(dtype).tiny)  # or NaN
        scaled = [t / jnp.where(alive, norm, 1).astype(t.real.dtype) for t in tangents]
        # where nothing is left, as after a reset of all rows, another tangent starts
        tangents = [jnp.where(alive, t, fresh) for t, fresh in zip(scaled, moved, strict=True)]
        return (after, tangents), (jnp.where(alive, jnp.log(norm), 0), alive)

    moved = []
    for i in places:
        wave = (
            jnp.cos(jnp.arange(leaves[i].size, dtype=dtype)).reshape(leaves[i].shape).astype(leaves[i].dtype)
        )
        moved.append(wave if i in state else jnp.zeros_like(wave))
    _, found = lax.scan(step, (leaves, moved), loop.inputs, loop.length, loop.reverse)
    grown, alive = (jnp.flip(a) if loop.reverse else a for a in found)
    counted = alive[loop.length // 8 :].sum()
    return jnp.where(counted == 0, -jnp.inf, grown[loop.length // 8 :].sum() / jnp.maximum(counted, 1))
