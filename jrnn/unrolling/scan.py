"""The default method: step by step.

`prepare` (`_engine`) takes the step apart and gives the loops that are left, as one function `run_stages`,
`(consts, carry, xs of all steps) -> (carry, ys)`; `in_blocks` (`_blocks`) makes it run in blocks of steps,
whose lengths `Scan(memory=...)` chooses.
"""

from dataclasses import dataclass
from typing import Any

from jrnn.cell import C, P, Y
from jrnn.unrolling._blocks import choose_blocks, in_blocks, memory_estimate
from jrnn.unrolling._engine import prepare
from jrnn.unrolling.methods import Loop


@dataclass(frozen=True)
class Scan:
    """Step by step, by `lax.scan`; operations that need no loop are computed outside of it.

    The step is traced, and its operations run where they cost least: those that depend only on parameters
    once, those before, between and after recurrences for all steps at once, and the gradient of each weight
    in a loop as one matmul after that loop. A step with effects (prints, callbacks) runs unchanged.

    The forward pass saves the smallest set of residuals (a minimum cut) that avoids recomputing a matmul or a
    transcendental function.
    With `memory` it saves only the carries between blocks of steps, and the backward pass recomputes each
    block when it reaches it; nested blocks, if the bytes require them, once per depth.

    Args:
      memory: None: save residuals of all steps, which is fastest. "sqrt": blocks of the length that needs
        the least memory, about √T steps. A number of bytes: the least nesting of blocks, and the longest
        blocks, that fit according to `jrnn.gradient_memory`.

    Raises:
      ValueError: an invalid `memory`; in `unroll`, too few bytes for any blocks.

    Reference: Chen et al., Training deep nets with sublinear memory cost, 2016, arXiv:1604.06174.

    >>> import jrnn
    >>> jrnn.Scan(memory="sqrt")
    Scan(memory='sqrt')
    """

    memory: int | str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.memory, int) and not isinstance(self.memory, bool) and self.memory > 0:
            return
        if self.memory is not None and self.memory != "sqrt":
            raise ValueError(f"memory must be a number of bytes, 'sqrt' or None, got {self.memory!r}")

    def run(self, loop: Loop[P, C, Y]) -> tuple[C, Y]:
        """Run a loop: return the carry after its last step, and the outputs of all steps."""
        # 1. The step is traced and divided, and what depends on params alone is computed.
        prepared = prepare(loop)
        run = prepared.run_stages
        # 2. With `memory`, it becomes a loop over blocks, from the innermost blocks outwards.
        for block in reversed(self._blocks(loop)):
            run = in_blocks(run, block, loop.reverse)
        # 3. The loops run, and what does not change from step to step is added to their results.
        return prepared.finish(*run(prepared.consts, prepared.carry, prepared.xs))

    def gradient_bytes(self, loop: Loop[Any, Any, Any]) -> int:
        """Predict the bytes needed for the gradient of `run` with respect to the constants."""
        return memory_estimate(loop).bytes(self._blocks(loop), loop.length)

    def _blocks(self, loop: Loop[Any, Any, Any]) -> tuple[int, ...]:
        """Lengths of blocks, outermost first; () if all residuals are saved."""
        return () if self.memory is None else choose_blocks(self.memory, memory_estimate(loop), loop.length)
