"""How many bytes the backward pass of a loop takes, and the blocks that bring them down."""

import functools
import itertools
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Footprint:
    """What the gradient of a loop keeps, in bytes."""

    carry: int  # at the end of a block
    step: int  # of every step of a block that is differentiated
    given: int  # of the inputs of a step
    out: int  # of its outputs
    weights: int  # once

    def bytes(self, blocks: tuple[int, ...], length: int) -> int:
        """Temporaries of the gradient, with blocks of these lengths, the outermost first."""
        total, steps = 7 * self.weights // 5, length  # their gradient, and room to add to it
        for block in blocks:
            count, rest = divmod(steps, block)
            total += count * self.carry + block * (self.given + self.out)
            if rest:  # the inputs are copied, but for the last steps, which are run by themselves
                total += self.weights + count * block * self.given + rest * (self.given + self.out)
            steps = block
        return total + steps * self.step


def blocks(memory: int | str, footprint: Footprint, length: int) -> tuple[int, ...]:
    """Lengths of blocks, the outermost first: as few levels as `memory` allows, then as long ones."""
    if not isinstance(length, int):  # a symbolic axis of jax.export, which nothing is known to divide
        if isinstance(memory, int):
            raise ValueError(f"memory={memory} bytes needs a known number of steps, xs has {length}")
        return ()
    if length < 4:
        return ()
    if not isinstance(memory, int):
        return min(_nested(1, length), key=lambda found: footprint.bytes(found, length))
    best = footprint.bytes((), length)
    for levels in range(length.bit_length()):
        chains = [(footprint.bytes(found, length), found) for found in _nested(levels, length)]
        fitting = [found for size, found in chains if size <= memory]
        if fitting:
            return max(fitting, key=lambda found: found[-1:])
        best = min([best, *(size for size, _ in chains)])
    raise ValueError(
        f"memory={memory} bytes is too little for {length} steps: the gradient takes at least {best} bytes"
    )


def _nested(levels: int, length: int) -> list[tuple[int, ...]]:
    """Blocks in blocks, `levels` deep, each level into about as many as the others."""
    if levels == 0:
        return [()]
    found = []
    for j in range(2 * length.bit_length()):
        block, chain = _near(length, length / 2 ** (j / 2)), list[int]()
        many = (length / block) ** (1 / levels)
        for level in range(1, levels):
            chain.append(_near(chain[-1] if chain else length, length / many**level))
        chain.append(_near(chain[-1] if chain else length, block))
        if all(a > b > 1 for a, b in itertools.pairwise((length, *chain))):
            found.append(tuple(chain))
    return found


def _near(length: int, wanted: float) -> int:
    """A number close to `wanted` that goes into `length` without a rest, or with a small one."""
    fitting = (d for d in _divisors(length) if wanted / 1.5 <= d <= wanted * 1.5)
    parts = max(1, round(length / wanted))
    return min(fitting, key=lambda d: abs(math.log(d / wanted)), default=length // parts)


@functools.lru_cache(maxsize=1024)
def _divisors(length: int) -> tuple[int, ...]:
    small = [d for d in range(1, math.isqrt(length) + 1) if length % d == 0]
    return tuple({d for low in small for d in (low, length // low)})
