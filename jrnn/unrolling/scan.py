"""The default method: step by step."""

from dataclasses import dataclass
from typing import Any

import jax
from jax import lax

from jrnn._caching import cached
from jrnn.cell import C, P, Y
from jrnn.unrolling._blocks import choose_blocks, memory_estimate
from jrnn.unrolling._engine import prepare
from jrnn.unrolling._loops import plain_scan
from jrnn.unrolling.methods import Body, Loop


@dataclass(frozen=True)
class Scan:
    """Step by step, by `lax.scan`; operations that need no loop are computed outside of it.

    The step is traced, and its operations run where they cost least: those that depend only on parameters
    once, those before, between and after recurrences for all steps at once, and the gradient of each weight
    in a loop as one matmul after that loop. A step with effects (prints, callbacks) runs unchanged.

    The forward pass saves the smallest set of residuals (a minimum cut) that avoids recomputing a matmul.
    With `memory` it saves only the carries between blocks of steps, and the backward pass recomputes each
    block when it reaches it; nested blocks, if the bytes require them, once per level.

    Args:
      memory: None: save residuals of all steps, which is fastest. "sqrt": blocks of the length that needs
        the least memory, about √T steps. A number of bytes: the fewest levels of blocks, and the longest
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
        prepared = prepare(loop)
        run = prepared.run
        # From the innermost level outwards, each a loop over blocks of the previous one.
        for block in reversed(self._blocks(loop)):
            run = in_blocks(run, block, loop.reverse)
        return prepared.finish(*run(prepared.consts, prepared.carry, prepared.xs))

    def gradient_bytes(self, loop: Loop[Any, Any, Any]) -> int:
        """Predict the bytes needed for the gradient of `run` with respect to the constants."""
        return memory_estimate(loop).bytes(self._blocks(loop), loop.length)

    def _blocks(self, loop: Loop[Any, Any, Any]) -> tuple[int, ...]:
        return () if self.memory is None else choose_blocks(self.memory, memory_estimate(loop), loop.length)


@cached
def in_blocks(run: Body, block: int, reverse: bool) -> Body:
    """A scan of `run` over blocks, each of which the backward pass recomputes."""
    rematerialized: Body = jax.checkpoint(run, prevent_cse=False)

    def in_blocks(consts: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
        # 100 steps in blocks of 30: three blocks in a scan, and the last 10 visited steps separately
        leaves, structure = jax.tree.flatten(xs)
        count, rest = divmod(leaves[0].shape[0], block)
        short = slice(0, rest) if reverse else slice(count * block, None)  # the last block visited
        whole = slice(rest, None) if reverse else slice(0, count * block)
        # (T, ...) -> (blocks, steps, ...), without axes of length 1, as XLA may copy all of `xs`
        folded = [a[whole].reshape(count, block, *(n for n in a.shape[1:] if n != 1)) for a in leaves]
        run_block = _with_shapes(run, structure, tuple(a.shape[1:] for a in leaves))
        carry, ys = plain_scan(run_block, reverse)(consts, carry, folded)
        ys = jax.tree.map(lambda a: a.reshape(count * block, *a.shape[2:]), ys)
        if rest == 0:
            return carry, ys
        carry, tail = rematerialized(consts, carry, jax.tree.map(lambda a: a[short], xs))
        parts = (tail, ys) if reverse else (ys, tail)
        return carry, jax.tree.map(lambda a, b: lax.concatenate([a, b], 0), *parts)

    return in_blocks


@cached
def _with_shapes(run: Body, structure: Any, shapes: tuple[Any, ...]) -> Body:
    """`run` on leaves from which axes of length 1 have been removed."""

    def shaped(consts: Any, carry: Any, leaves: Any) -> tuple[Any, Any]:
        whole = [a.reshape(a.shape[0], *shape) for a, shape in zip(leaves, shapes, strict=True)]
        return run(consts, carry, jax.tree.unflatten(structure, whole))

    return jax.checkpoint(shaped, prevent_cse=False)
