"""Methods of running the loop: they say how, never what."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
from jax import lax

from jrnn.checks import check_choice

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
    """One step after the other, by `lax.scan`.

    Args:
      memory: what the backward pass keeps. None: what JAX keeps for plain `lax.scan`, every
        intermediate of every step. "sqrt": the carry at every √T-th step, and one block of √T steps
        that is computed again when the backward pass reaches it: memory O(√T), one more forward pass.

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
        if self.memory is None or length < 4:
            return _scan(body, constants, carry, xs, length, reverse)
        return _scan_in_blocks(body, constants, carry, xs, length, reverse)


def _scan(body: Body, constants: Any, carry: Any, xs: Any, length: int, reverse: bool) -> tuple[Any, Any]:
    (_, carry), ys = lax.scan(_threaded(body), (constants, carry), xs, length=length, reverse=reverse)
    return carry, ys


def _scan_in_blocks(
    body: Body, constants: Any, carry: Any, xs: Any, length: int, reverse: bool
) -> tuple[Any, Any]:
    block = math.isqrt(length)
    count, rest = divmod(length, block)
    split = rest if reverse else length - rest  # the short block is the last one visited
    first, second = (jax.tree.map(lambda a, p=part: a[p], xs) for part in (slice(split), slice(split, None)))
    whole, short = (second, first) if reverse else (first, second)
    folded = jax.tree.map(lambda a: a.reshape(count, block, *a.shape[1:]), whole)
    run_block = _checkpointed(body, reverse)
    carry, ys = _scan(run_block, constants, carry, folded, count, reverse)
    ys = jax.tree.map(lambda a: a.reshape(count * block, *a.shape[2:]), ys)
    if rest == 0:
        return carry, ys
    carry, tail = run_block(constants, carry, short)
    parts = (tail, ys) if reverse else (ys, tail)
    return carry, jax.tree.map(lambda a, b: lax.concatenate([a, b], 0), *parts)


# Bodies are cached by value: `lax.scan` compiles anew for every function object that it is given.


@functools.lru_cache(maxsize=1024)
def _threaded(body: Body) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Thread the constants through the carry, where `lax.scan` recognises them as constants."""

    def threaded(loop: Any, x: Any) -> tuple[Any, Any]:
        constants, carry = loop
        carry, y = body(constants, carry, x)
        return (constants, carry), y

    return threaded


@functools.lru_cache(maxsize=1024)
def _checkpointed(body: Body, reverse: bool) -> Body:
    def run_block(constants: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
        length = jax.tree.leaves(xs)[0].shape[0]
        return _scan(body, constants, carry, xs, length, reverse)

    return jax.checkpoint(run_block, prevent_cse=False)
