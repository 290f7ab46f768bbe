"""A loop without the engine, to compare it with."""

from jax import lax


class Plain:
    """`lax.scan` over the step as it is written."""

    def run(self, loop):
        step = lambda carry, inputs: loop.body(loop.consts, carry, inputs)
        return lax.scan(step, loop.carry, loop.inputs, length=loop.length, reverse=loop.reverse)
