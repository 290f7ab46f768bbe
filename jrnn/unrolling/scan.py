"""Methods of running the loop: they say how, never what."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
from jax import lax

from jrnn.checks import check_choice
from jrnn.unrolling.engine import plain, prepare

Body = Callable[[Any, Any, Any], tuple[Any, Any]]  # (constants, carry, x) -> (carry, y)


class Method(Protocol):
    """How a loop is run: a frozen dataclass with one method."""

    def run(
        self, body: Body, constants: Any, carry: Any, xs: Any, *, length: int, reverse: bool
    ) -> tuple[Any, Any]:
        """Run `body` over the leading axis of `xs`, from the far end if `reverse`."""
        ...


@dataclass(frozen=True)
class Scan:
    """One step after the other, by `lax.scan`, and beside the loop whatever needs none.

    The step is traced, and its ops run where they cost least: what depends on parameters alone once, what
    comes before, between and behind recurrences for all steps at once, and the gradient of every weight in a
    loop as one product behind that loop. A step that prints or calls back runs as it is written.

    Args:
      memory: what the backward pass keeps. None: the products of every step; the arithmetic behind them
        is done again, which is faster than to read it back. "sqrt": the carry at every √T-th step, and
        one block of √T steps that is computed again when the backward pass reaches it: memory O(√T), one
        more forward pass.

    Raises:
      ValueError: another `memory`.

    Reference: Chen et al., Training deep nets with sublinear memory cost, 2016, arXiv:1604.06174.

    >>> import jrnn
    >>> jrnn.Scan(memory="sqrt")
    Scan(memory='sqrt')
    """

    memory: str | None = None

    def __post_init__(self) -> None:
        if self.memory is not None:
            check_choice("memory", self.memory, ("sqrt",))

    def run(
        self, body: Body, constants: Any, carry: Any, xs: Any, *, length: int, reverse: bool
    ) -> tuple[Any, Any]:
        """Run `body` over the leading axis of `xs`, from the far end if `reverse`."""
        loop = prepare(body, constants, carry, xs, length=length, reverse=reverse)
        run = loop.run if self.memory is None or length < 4 else _in_blocks(loop.run, length, reverse)
        return loop.finish(*run(loop.held, loop.state, loop.given))


@functools.lru_cache(maxsize=1024)
def _in_blocks(run: Body, length: int, reverse: bool) -> Body:
    """`run` in blocks of √T steps, each computed again when the backward pass reaches it."""
    block = math.isqrt(length)
    count, rest = divmod(length, block)
    split = rest if reverse else length - rest  # the short block is the last one visited
    again: Body = jax.checkpoint(run, prevent_cse=False)
    whole_blocks = plain(again, reverse)

    def blocks(constants: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
        first = jax.tree.map(lambda a: a[:split], xs)
        second = jax.tree.map(lambda a: a[split:], xs)
        whole, short = (second, first) if reverse else (first, second)
        folded = jax.tree.map(lambda a: a.reshape(count, block, *a.shape[1:]), whole)
        carry, ys = whole_blocks(constants, carry, folded)
        ys = jax.tree.map(lambda a: a.reshape(count * block, *a.shape[2:]), ys)
        if rest == 0:
            return carry, ys
        carry, tail = again(constants, carry, short)
        parts = (tail, ys) if reverse else (ys, tail)
        return carry, jax.tree.map(lambda a, b: lax.concatenate([a, b], 0), *parts)

    return blocks
