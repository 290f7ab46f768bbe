"""Bytes that the gradient of a loop takes, and the blocks of steps that bring them down.

With blocks, the carry is saved at the ends of blocks alone, and a block is run again when the backward pass
reaches it (gradient checkpointing). 1000 steps in blocks of 100, and these in blocks of 10, are (100, 10):

    10 carries for the blocks of 100, 10 for the blocks of 10 in one of them, residuals of 10 steps
"""

import functools
import itertools
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that the gradient of a loop takes, by what they are for."""

    carry: int  # for each block
    step: int  # for each step of the innermost block: residuals and adjoints
    xs: int  # the inputs of a step
    ys: int  # the outputs of a step
    consts: int  # once

    def bytes(self, blocks: tuple[int, ...], length: int) -> int:
        """Temporaries of the gradient, with blocks of these lengths, the outermost first."""
        total, steps = 7 * self.consts // 5, length  # their gradient, and room to add to it
        for block in blocks:
            count, rest = divmod(steps, block)
            total += count * self.carry + block * (self.xs + self.ys)
            if rest:  # the inputs are copied, but for the last steps, which are run by themselves
                total += self.consts + count * block * self.xs + rest * (self.xs + self.ys)
            steps = block
        return total + steps * self.step


def choose_blocks(memory: int | str, estimate: MemoryEstimate, length: int) -> tuple[int, ...]:
    """Choose the lengths of blocks, the outermost first: as few levels as fit `memory`, then as long ones."""
    if not isinstance(length, int):  # a symbolic axis of jax.export, which nothing is known to divide
        if isinstance(memory, int):
            raise ValueError(f"memory={memory} bytes needs a known number of steps, xs has {length}")
        return ()
    if length < 4:
        return ()
    if not isinstance(memory, int):
        return min(_nested(1, length), key=lambda found: estimate.bytes(found, length))
    best = estimate.bytes((), length)
    for levels in range(length.bit_length()):
        chains = [(estimate.bytes(found, length), found) for found in _nested(levels, length)]
        fitting = [found for size, found in chains if size <= memory]
        # Of those that fit, the one whose innermost blocks are longest runs the fewest carries again.
        if fitting:
            return max(fitting, key=lambda found: found[-1:])
        best = min([best, *(size for size, _ in chains)])
    raise ValueError(
        f"memory={memory} bytes is too little for {length} steps: the gradient takes at least {best} bytes"
    )


def _nested(levels: int, length: int) -> list[tuple[int, ...]]:
    """Candidates for `levels` levels of blocks, each of which divides into about as many as the others."""
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
    """A number close to `wanted` that divides `length`, or leaves a small remainder."""
    fitting = (d for d in _divisors(length) if wanted / 1.5 <= d <= wanted * 1.5)
    parts = max(1, round(length / wanted))
    return min(fitting, key=lambda d: abs(math.log(d / wanted)), default=length // parts)


@functools.lru_cache(maxsize=1024)
def _divisors(length: int) -> tuple[int, ...]:
    small = [d for d in range(1, math.isqrt(length) + 1) if length % d == 0]
    return tuple({d for low in small for d in (low, length // low)})
