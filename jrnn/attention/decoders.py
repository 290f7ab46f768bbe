"""Decoders with attention: combinators around any cell, and the memory that they read."""

import dataclasses
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jrnn._alignment import expand, joined, select
from jrnn._checks import brief, check_in_features
from jrnn._fields import AnyCell, Width, checked
from jrnn.attention.scores import Score, require_score
from jrnn.cell import Shape, zero_state
from jrnn.combinators.reparametrising import Computed
from jrnn.initializers import glorot
from jrnn.unrolling._masking import schedule


class Memory(NamedTuple):
    """One memory, as a decoder reads it: made by `attach`."""

    values: Array  # (..., S, features), zeros where not valid
    keys: Array  # (..., S, n), what the score makes of it once
    valid: Array  # (..., S)


class AttentionParams(NamedTuple):
    """Parameters of a cell with attention."""

    cell: Any
    scores: tuple[Any, ...]  # one per memory
    w: Any = None  # (memories + hidden, features); LuongAttention only


class AttentionCarry(NamedTuple):
    """Carry of a cell with attention."""

    cell: Any
    last: Array  # (..., n), sₜ₋₁ (BahdanauAttention) or h̃ₜ₋₁ (LuongAttention)
    memory: tuple[Memory, ...] | None  # context: filled by `attach`


@checked
@dataclass(frozen=True)
class BahdanauAttention:
    """Attention before the step: the cell reads what its last output asks for.

        aₜ = weights(sₜ₋₁, memory)
        cₜ = Σᵢ aₜᵢ memoryᵢ
        sₜ = cell([xₜ, cₜ])
        yₜ = [sₜ, cₜ]

    The memory is given by `attach`, after `init` and before the first step. The weights aₜ are named
    "attention": `Tap(..., ("attention",))` shows them. s₋₁ is zero unless a bridge or carry says otherwise;
    it is the last *output* of the cell. The paper's maxout layer over (sₜ, yₜ₋₁, cₜ) is left to what follows.

    Args:
      cell: any cell that takes features; it reads those of x and of all memories.
      score: `Additive(n)` and the like; a tuple of them for several memories.
      memory_features: width of the memory; a tuple for several.

    Raises:
      TypeError: no cell, no score, or no width.
      ValueError: another number of scores than of widths; at a step, no memory attached.

    Reference: Bahdanau, Cho, Bengio, Neural machine translation by jointly learning to align and translate,
    2015, arXiv:1409.0473.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.BahdanauAttention(jrnn.GRU(8), jrnn.attention.Additive(5), memory_features=6)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> memory, lengths = jnp.ones((7, 2, 6)), jnp.array([7, 4])              # (positions, batch, features)
    >>> carry = jrnn.attach(cell, params, cell.initial_carry(params, (2,)), memory, lengths=lengths)
    >>> jrnn.unroll(cell, params, jnp.ones((5, 2, 3)), carry)[1].shape
    (5, 2, 14)
    """

    cell: AnyCell
    score: Any
    memory_features: Width | tuple[Width, ...]

    def __post_init__(self) -> None:
        _check(self)

    @property
    def out_features(self) -> int:
        return self.cell.out_features + sum(_tuple(self.memory_features))

    def init(self, key: Array, in_features: int) -> AttentionParams:
        check_in_features(in_features)
        return _draw(self, key, in_features + sum(_tuple(self.memory_features)))

    def initial_carry(
        self, params: AttentionParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> AttentionCarry:
        inner = self.cell.initial_carry(params.cell, batch_shape, key=key)
        return AttentionCarry(inner, zero_state(params, batch_shape, self.cell.out_features), None)

    def step(self, params: AttentionParams, carry: AttentionCarry, x: Array) -> tuple[AttentionCarry, Array]:
        c = _attend(self, params, carry.last, carry.memory)
        inner, s = self.cell.step(params.cell, carry.cell, joined(x, *c))
        return AttentionCarry(inner, s, carry.memory), joined(s, *c)


@checked
@dataclass(frozen=True)
class LuongAttention:
    """Attention after the step: the cell's output asks, and is joined with what it finds.

        sₜ = cell([xₜ, h̃ₜ₋₁])     with input feeding, else cell(xₜ)
        aₜ = weights(sₜ, memory)
        cₜ = Σᵢ aₜᵢ memoryᵢ
        h̃ₜ = tanh([cₜ, sₜ] W)
        yₜ = h̃ₜ

    The memory is given by `attach`, after `init` and before the first step. The weights aₜ are named
    "attention": `Tap(..., ("attention",))` shows them. Without input feeding nothing of the attention goes
    round the loop, and `unroll` computes it for all steps at once.

    Args:
      cell: any cell that takes features; with input feeding it reads those of x and of h̃.
      score: `General()` and the like; a tuple of them for several memories.
      memory_features: width of the memory; a tuple for several.
      features: width of h̃.
      input_feeding: whether the cell reads h̃ₜ₋₁.

    Raises:
      TypeError: no cell, no score, or no width.
      ValueError: another number of scores than of widths; at a step, no memory attached.

    Reference: Luong, Pham, Manning, Effective approaches to attention-based neural machine translation,
    2015, arXiv:1508.04025.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.LuongAttention(jrnn.LSTM(8), jrnn.attention.General(), memory_features=6, features=4)
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> carry = jrnn.attach(cell, params, cell.initial_carry(params, (2,)), jnp.ones((7, 2, 6)))
    >>> jrnn.unroll(cell, params, jnp.ones((5, 2, 3)), carry)[1].shape
    (5, 2, 4)
    """

    cell: AnyCell
    score: Any
    memory_features: Width | tuple[Width, ...]
    features: Width
    _: KW_ONLY
    input_feeding: bool = True

    def __post_init__(self) -> None:
        _check(self)

    @property
    def out_features(self) -> int:
        return self.features

    def init(self, key: Array, in_features: int) -> AttentionParams:
        check_in_features(in_features)
        k_cell, k_w = jax.random.split(key)
        joined = sum(_tuple(self.memory_features)) + self.cell.out_features
        drawn = _draw(self, k_cell, in_features + self.features * self.input_feeding)
        return drawn._replace(w=glorot(k_w, (joined, self.features)))

    def initial_carry(
        self, params: AttentionParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> AttentionCarry:
        inner = self.cell.initial_carry(params.cell, batch_shape, key=key)
        return AttentionCarry(inner, zero_state(params, batch_shape, self.features), None)

    def step(self, params: AttentionParams, carry: AttentionCarry, x: Array) -> tuple[AttentionCarry, Array]:
        x = joined(x, carry.last) if self.input_feeding else x
        inner, s = self.cell.step(params.cell, carry.cell, x)
        c = _attend(self, params, s, carry.memory)
        h = jnp.tanh(joined(*c, s) @ params.w)
        return AttentionCarry(inner, h, carry.memory), h


Attention = BahdanauAttention | LuongAttention


def _tuple(given: Any) -> tuple[Any, ...]:
    return given if isinstance(given, tuple) else (given,)


def _check(attention: Attention) -> None:
    name = type(attention).__name__
    scores, widths = _tuple(attention.score), _tuple(attention.memory_features)
    for score in scores:
        require_score(f"{name}: score", score)
    if len(scores) != len(widths):
        raise ValueError(f"{name}: {len(scores)} scores, but memory_features={attention.memory_features}")


def _draw(attention: Attention, key: Array, in_features: int) -> AttentionParams:
    """Parameters of the cell, which reads `in_features`, and of the scores."""
    k_cell, *keys = jax.random.split(key, 1 + len(_tuple(attention.score)))
    parts = zip(_tuple(attention.score), keys, _tuple(attention.memory_features), strict=True)
    scores = tuple(score.init(k, attention.cell.out_features, width) for score, k, width in parts)
    return AttentionParams(attention.cell.init(k_cell, in_features), scores)


def _attend(attention: Attention, params: AttentionParams, query: Array, memories: Any) -> list[Array]:
    """What the query finds in each memory: Σᵢ aᵢ memoryᵢ."""
    if memories is None:
        raise ValueError(
            "no memory is attached: before the first step, "
            "carry = jrnn.attach(cell, params, cell.initial_carry(params, batch_shape), memory)"
        )
    contexts = []
    for score, p, memory in zip(_tuple(attention.score), params.scores, memories, strict=True):
        values, keys = memory.values.astype(query.dtype), memory.keys.astype(query.dtype)
        a = checkpoint_name(score.weights(p, query, keys, memory.valid), "attention")
        contexts.append(jnp.einsum("...s,...sn->...n", a, values))
    return contexts


def attach(cell: Any, params: Any, carry: Any, memory: Any, *, lengths: Any = None, mask: Any = None) -> Any:
    """Give a memory to every attention inside a cell, and do once what depends on the memory alone.

    What stands at positions that are not valid, NaN included, reaches no output and no gradient; their
    weights are exactly 0. A row without a valid position finds zeros.

    Args:
      cell: a cell with attention somewhere inside: `Stack((Embed(64), LuongAttention(...), Dense(99)))`.
      params: its parameters.
      carry: its carry; state and noise stay as they are.
      memory: (S, batch..., features), the outputs of an encoder; a tuple of such where there are several.
      lengths: (batch...), valid positions of each row; all if left out. With several memories it holds for
        all of them, or is a tuple with one for each.
      mask: (S, batch...), boolean, False at positions to pass over; for several as lengths.

    Returns:
      The carry with its context filled.

    Raises:
      ValueError: no attention inside the cell, params or a carry of another cell, another number of memories
        than it reads, or a width that is not `memory_features`.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.Stack((jrnn.BahdanauAttention(jrnn.GRU(4), jrnn.attention.Dot(), 4), jrnn.Dense(2)))
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> carry = jrnn.attach(cell, params, cell.initial_carry(params), jnp.ones((7, 4)))
    >>> carry.cells[0].memory[0].valid.shape
    (7,)
    """
    attentions = list(_inside(cell))
    if not attentions:
        raise ValueError(f"{brief(cell)} has no attention inside to attach a memory to")
    for name, kind, tree in (("params", AttentionParams, params), ("carry", AttentionCarry, carry)):
        if (found := len(_nodes(tree, kind))) != len(attentions):
            raise ValueError(f"{name} has {found} attentions inside, {brief(cell)} has {len(attentions)}")
    given = iter(zip(attentions, _nodes(params, AttentionParams), strict=True))

    def visit(node: Any) -> Any:
        if not isinstance(node, AttentionCarry):
            return node
        attention, own = next(given)
        inner = (
            attach(attention.cell, own.cell, node.cell, memory, lengths=lengths, mask=mask)
            if (any(_inside(attention.cell)))
            else node.cell
        )
        memories = _memories(attention, own, memory, lengths, mask)
        _check_batches({read.valid.shape[:-1] for read in memories} | {node.last.shape[:-1]})
        return AttentionCarry(inner, node.last, memories)

    return jax.tree.map(visit, carry, is_leaf=lambda node: isinstance(node, AttentionCarry))


def _check_batches(shapes: set[tuple[int, ...]]) -> None:
    """Refuse memories of another batch than the carry; one memory for all sequences has no batch axis."""
    try:
        jnp.broadcast_shapes(*shapes)  # which takes the symbolic sizes of jax.export
    except ValueError as error:
        raise ValueError(f"memory and carry must have one batch shape, got {sorted(shapes)}") from error


def attached(carry: Any) -> list[Memory]:
    """The memories in a carry, in the order in which a step reads them."""
    return _nodes(carry, Memory)


def _nodes(tree: Any, kind: type) -> list[Any]:
    leaves = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, kind))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]


def _inside(cell: Any) -> Iterator[Attention]:
    """The attentions inside a cell, outermost ones only, in the order of params and carry."""
    if isinstance(cell, Attention):
        yield cell
    elif isinstance(cell, tuple):
        for part in cell:
            yield from _inside(part)
    elif dataclasses.is_dataclass(cell):
        for field in dataclasses.fields(cell):
            yield from _inside(getattr(cell, field.name))


def _memories(
    attention: Attention, params: AttentionParams, memory: Any, lengths: Any, mask: Any
) -> tuple[Memory, ...]:
    scores, widths = _tuple(attention.score), _tuple(attention.memory_features)
    several = isinstance(memory, tuple)
    memories = memory if several else (memory,)
    if len(memories) != len(scores):
        raise ValueError(
            f"memory holds {len(memories)} arrays, {type(attention).__name__} reads {len(scores)}"
        )
    flags = []
    for name, value in (("lengths", lengths), ("mask", mask)):
        each = value if several and isinstance(value, tuple) else (value,) * len(scores)
        if len(each) != len(scores):
            raise ValueError(
                f"{name} holds {len(each)} entries, needs one for each of {len(scores)} memories"
            )
        flags.append(each)
    parts = zip(scores, params.scores, memories, widths, *flags, strict=True)
    return tuple(_memory(*part) for part in parts)


def _memory(score: Score, params: Any, memory: Any, width: int, lengths: Any, mask: Any) -> Memory:
    memory = jnp.asarray(memory)
    if memory.ndim < 2 or memory.shape[-1] != width:
        raise ValueError(f"memory has shape {memory.shape}, needs (positions, batch..., {width})")
    positions, *batch_shape = memory.shape[:-1]
    valid = schedule(positions, tuple(batch_shape), lengths, mask, None, reverse=False).valid
    valid = (
        jnp.ones(memory.shape[:-1], bool)
        if valid is None
        else (jnp.broadcast_to(expand(valid, memory.ndim - 1), memory.shape[:-1]))
    )
    values = jnp.moveaxis(select(valid, memory, jnp.zeros_like(memory)), 0, -2)
    return Memory(values, _keys(score, params, values), jnp.moveaxis(valid, 0, -1))


def _keys(score: Score, params: Any, values: Array) -> Array:
    """What the score makes of the memory, once; a weight that is computed is there in the step alone."""
    try:
        return score.keys(params, values)
    except TypeError as error:
        if not _nodes(params, Computed):
            raise
        raise TypeError(
            f"attach projects the memory by a weight of {score} before the first step, but Reparametrise "
            "computes that weight within the step: reparametrise another one"
        ) from error
