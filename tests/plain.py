"""A loop without the engine, to compare it with."""

from jax import lax


class Plain:
    """`lax.scan` over the step as it is written."""

    def run(self, loop):
        step = lambda carry, x: loop.body(loop.constants, carry, x)
        return lax.scan(step, loop.carry, loop.xs, length=loop.length, reverse=loop.reverse)
