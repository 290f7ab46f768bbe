"""The method by default: one step after the other."""

from dataclasses import dataclass
from typing import Any

import jax
from jax import lax

from jrnn._caching import cached
from jrnn.unrolling._engine import Prepared, prepare
from jrnn.unrolling._loops import plain
from jrnn.unrolling._memory import blocks
from jrnn.unrolling.methods import Body, Loop


@dataclass(frozen=True)
class Scan:
    """One step after the other, by `lax.scan`, and beside the loop whatever needs none.

    The step is traced, and its ops run where they cost least: what depends on parameters alone once, what
    comes before, between and behind recurrences for all steps at once, and the gradient of every weight in a
    loop as one product behind that loop. A step that prints or calls back runs as it is written.

    The backward pass reads what the forward pass keeps of every step: the fewest bytes that spare it to
    repeat a product. With `memory` it keeps the carry at the ends of blocks alone and runs a block again when
    it reaches it; blocks of blocks, where the bytes ask for it, are run again once a level.

    Args:
      memory: None: all steps are kept, which takes least time. "sqrt": blocks of the length that takes least
        memory, about √T steps. A number of bytes: as few levels of blocks, and as long blocks, as fit into
        it, as `jrnn.gradient_memory` counts them.

    Raises:
      ValueError: another `memory`; in `unroll`: bytes into which no blocks of the loop fit.

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

    def run(self, loop: Loop) -> tuple[Any, Any]:
        """Return the carry after the last step, and the outputs of all steps."""
        prepared = prepare(loop)
        run = prepared.run
        for block in reversed(self._blocks(prepared, loop.length)):
            run = _in_blocks(run, block, loop.reverse)
        return prepared.finish(*run(prepared.held, prepared.state, prepared.given))

    def gradient_bytes(self, loop: Loop) -> int:
        """Predict what the gradient of `run` with respect to the constants takes."""
        prepared = prepare(loop)
        return prepared.footprint().bytes(self._blocks(prepared, loop.length), loop.length)

    def _blocks(self, loop: Prepared, length: int) -> tuple[int, ...]:
        return () if self.memory is None else blocks(self.memory, loop.footprint(), length)


@cached
def _in_blocks(run: Body, block: int, reverse: bool) -> Body:
    """`run` in blocks, each computed again when the backward pass reaches it."""
    again: Body = jax.checkpoint(run, prevent_cse=False)

    def in_blocks(constants: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
        leaves, structure = jax.tree.flatten(xs)
        count, rest = divmod(leaves[0].shape[0], block)
        short = slice(0, rest) if reverse else slice(count * block, None)  # the last one visited
        whole = slice(rest, None) if reverse else slice(0, count * block)
        # without axes of length 1, which tempt XLA to copy all of `xs` into another layout
        folded = [a[whole].reshape(count, block, *(n for n in a.shape[1:] if n != 1)) for a in leaves]
        run_block = _with_shapes(run, structure, tuple(a.shape[1:] for a in leaves))
        carry, ys = plain(run_block, reverse)(constants, carry, folded)
        ys = jax.tree.map(lambda a: a.reshape(count * block, *a.shape[2:]), ys)
        if rest == 0:
            return carry, ys
        carry, tail = again(constants, carry, jax.tree.map(lambda a: a[short], xs))
        parts = (tail, ys) if reverse else (ys, tail)
        return carry, jax.tree.map(lambda a, b: lax.concatenate([a, b], 0), *parts)

    return in_blocks


@cached
def _with_shapes(run: Body, structure: Any, shapes: tuple[Any, ...]) -> Body:
    def shaped(constants: Any, carry: Any, leaves: Any) -> tuple[Any, Any]:
        whole = [a.reshape(a.shape[0], *shape) for a, shape in zip(leaves, shapes, strict=True)]
        return run(constants, carry, jax.tree.unflatten(structure, whole))

    return jax.checkpoint(shaped, prevent_cse=False)
