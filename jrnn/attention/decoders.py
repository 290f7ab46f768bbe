"""Decoders with attention: combinators around any cell, and their memory."""

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
from jrnn._timing import timed_inside, values_and_dt, with_dt
from jrnn.attention.scores import Score, require_score
from jrnn.cell import Shape, zero_state
from jrnn.combinators.reparametrizing import Computed
from jrnn.initializers import glorot
from jrnn.unrolling._masking import schedule


class Memory(NamedTuple):
    """One memory, as made by `attach`."""

    values: Array  # (..., S, features), zeros where not valid
    keys: Array  # (..., S, n), projected once by the score
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
    """Attention before the step: the cell's previous output is the query, its input the context.

        aₜ = weights(sₜ₋₁, memory)
        cₜ = Σᵢ aₜᵢ memoryᵢ
        sₜ = cell([xₜ, cₜ])
        yₜ = [sₜ, cₜ]

    `attach` provides the memory, after `init` and before the first step. The weights aₜ are named
    "attention", for `Tap(..., ("attention",))`. s is the *output* of the cell; s₋₁ is zero unless a bridge or
    carry sets it. The paper's maxout layer over (sₜ, yₜ₋₁, cₜ) is not included.

    Args:
      cell: any cell that takes features; it reads those of x and of all memories.
      score: a score such as `Additive(n)`; a tuple for several memories.
      memory_features: width of the memory; a tuple for several.

    Raises:
      TypeError: not a cell, a score, or a width.
      ValueError: different numbers of scores and widths; at a step, no memory attached.

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
    timed = timed_inside

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

    def step(self, params: AttentionParams, carry: AttentionCarry, x: Any) -> tuple[AttentionCarry, Array]:
        values, dt = values_and_dt(self, x)
        c = _attend(self, params, carry.last, carry.memory)
        inner, s = self.cell.step(params.cell, carry.cell, with_dt(self.cell, joined(values, *c), dt))
        return AttentionCarry(inner, s, carry.memory), joined(s, *c)


@checked
@dataclass(frozen=True)
class LuongAttention:
    """Attention after the step: the cell's output is the query, and is combined with the context.

        sₜ = cell([xₜ, h̃ₜ₋₁])     with input feeding, else cell(xₜ)
        aₜ = weights(sₜ, memory)
        cₜ = Σᵢ aₜᵢ memoryᵢ
        h̃ₜ = tanh([cₜ, sₜ] W)
        yₜ = h̃ₜ

    `attach` provides the memory, after `init` and before the first step. The weights aₜ are named
    "attention", for `Tap(..., ("attention",))`. Without input feeding, attention is not part of the
    recurrence, and `unroll` computes it for all steps at once.

    Args:
      cell: any cell that takes features; with input feeding it reads those of x and of h̃.
      score: a score such as `General()`; a tuple for several memories.
      memory_features: width of the memory; a tuple for several.
      features: width of h̃.
      input_feeding: feed h̃ₜ₋₁ to the cell.

    Raises:
      TypeError: not a cell, a score, or a width.
      ValueError: different numbers of scores and widths; at a step, no memory attached.

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
    timed = timed_inside

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

    def step(self, params: AttentionParams, carry: AttentionCarry, x: Any) -> tuple[AttentionCarry, Array]:
        values, dt = values_and_dt(self, x)
        values = joined(values, carry.last) if self.input_feeding else values
        inner, s = self.cell.step(params.cell, carry.cell, with_dt(self.cell, values, dt))
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
        raise ValueError(f"{name}: got {len(scores)} scores for memory_features={attention.memory_features}")


def _draw(attention: Attention, key: Array, in_features: int) -> AttentionParams:
    """Initialize the cell, which reads `in_features`, and the scores."""
    k_cell, *keys = jax.random.split(key, 1 + len(_tuple(attention.score)))
    parts = zip(_tuple(attention.score), keys, _tuple(attention.memory_features), strict=True)
    scores = tuple(score.init(k, attention.cell.out_features, width) for score, k, width in parts)
    return AttentionParams(attention.cell.init(k_cell, in_features), scores)


def _attend(attention: Attention, params: AttentionParams, query: Array, memories: Any) -> list[Array]:
    """The context of the query in each memory: Σᵢ aᵢ memoryᵢ."""
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
    """Attach a memory to every attention inside a cell, and precompute its projections.

    Invalid positions, even with NaN, affect neither outputs nor gradients; their weights are exactly 0. The
    context of a row without valid positions is zero.

    Args:
      cell: a cell with attention somewhere inside: `Stack((Embed(64), LuongAttention(...), Dense(99)))`.
      params: its parameters.
      carry: its carry; state and noise are kept.
      memory: (S, batch..., features), the outputs of an encoder; a tuple for several memories.
      lengths: (batch...), number of valid positions of each row; defaults to all. For several memories, one
        for all, or a tuple with one for each.
      mask: (S, batch...), boolean, False at positions to skip; for several memories, like `lengths`.

    Returns:
      The carry with its context filled.

    Raises:
      ValueError: a cell without attention, params or carry of another cell, a wrong number of memories, or a
        width other than `memory_features`.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.Stack((jrnn.BahdanauAttention(jrnn.GRU(4), jrnn.attention.Dot(), 4), jrnn.Dense(2)))
    >>> params = cell.init(jax.random.key(0), in_features=3)
    >>> carry = jrnn.attach(cell, params, cell.initial_carry(params), jnp.ones((7, 4)))
    >>> carry.cells[0].memory[0].valid.shape
    (7,)
    """
    attentions = list(_inside(cell))
    if not attentions:
        raise ValueError(f"{brief(cell)} has no attention to attach a memory to")
    for name, kind, tree in (("params", AttentionParams, params), ("carry", AttentionCarry, carry)):
        if (found := len(_nodes(tree, kind))) != len(attentions):
            raise ValueError(f"{name} has {found} attentions, {brief(cell)} has {len(attentions)}")
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
    """Check that memories and carry have the same batch shape, or that a memory has none."""
    try:
        jnp.broadcast_shapes(*shapes)  # which takes the symbolic sizes of jax.export
    except ValueError as error:
        raise ValueError(f"memory and carry must have the same batch shape, got {sorted(shapes)}") from error


def attached(carry: Any) -> list[Memory]:
    """The memories in a carry, in the order in which a step reads them."""
    return _nodes(carry, Memory)


def _nodes(tree: Any, kind: type) -> list[Any]:
    leaves = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, kind))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]


def _inside(cell: Any) -> Iterator[Attention]:
    """The outermost attentions inside a cell, in the order of params and carry."""
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
        raise ValueError(f"memory has {len(memories)} arrays, {type(attention).__name__} needs {len(scores)}")
    flags = []
    for name, value in (("lengths", lengths), ("mask", mask)):
        each = value if several and isinstance(value, tuple) else (value,) * len(scores)
        if len(each) != len(scores):
            raise ValueError(f"{name} has {len(each)} entries, needs {len(scores)}: one for each memory")
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
    """Project the memory by the score; a TypeError if that needs a weight computed within the step."""
    try:
        return score.keys(params, values)
    except TypeError as error:
        if not _nodes(params, Computed):
            raise
        raise TypeError(
            f"attach projects the memory by a weight of {score} before the first step, but Reparametrize "
            "computes that weight within the step: reparametrize another weight"
        ) from error
