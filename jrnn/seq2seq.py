"""Encoder-decoder: one sequence read, another one written."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._checks import brief
from jrnn._fields import AnyModel, Width, checked
from jrnn._traits import is_noisy, require_time
from jrnn.attention.decoders import AttentionCarry, attach
from jrnn.cell import Shape, carry_spec, in_ndim, is_layer, key_or_none, quiet
from jrnn.cells._activations import Activation, activation
from jrnn.cells.maps import Dense, DenseParams
from jrnn.combinators.carries import FeedbackCarry
from jrnn.data import Pair
from jrnn.initializers import default_float
from jrnn.layers import apply
from jrnn.paradigms import last, many_to_one
from jrnn.unrolling import Scan, unroll
from jrnn.unrolling.methods import Method


@checked
@dataclass(frozen=True)
class DenseBridge:
    """The decoder starts from a map of all that the encoder ends with.

        s₋₁ = f([encoder's state, all layers and directions] w + b)

    Every float entry of the decoder's state gets its part, of whatever cell, the query of an attention
    included; a complex one counts as two. Integers, and the output that a `Feedback` hands back, stay as they
    start. Of an encoder without any state (`Dense`) the last output is mapped.

    Args:
      activation: f.

    Reference: Cho et al., Learning phrase representations using RNN encoder-decoder for statistical machine
    translation, 2014, arXiv:1406.1078.

    >>> import jrnn
    >>> jrnn.DenseBridge("identity")
    DenseBridge(activation='identity')
    """

    activation: Activation = "tanh"

    def init(self, key: Array, end: Any, start: Any) -> DenseParams:
        """Parameters, for the shapes of an encoder's last and a decoder's first carry without batch."""
        sizes = [sum(_size(leaf, 0) for leaf in _state(tree)) for tree in (end, start)]
        if 0 in sizes:
            whose = "encoder ends with" if sizes[0] == 0 else "decoder starts from"
            raise ValueError(f"the {whose} no float state: use bridge=None")
        return Dense(sizes[1]).init(key, sizes[0])

    def start(self, params: DenseParams, end: Any, carry: Any, batch_shape: Shape) -> Any:
        """The decoder's carry, its state made of the encoder's last one."""
        flat = jnp.concatenate([_flat(leaf, len(batch_shape)) for leaf in _state(end)], -1)
        made, places = activation(self.activation)(flat @ params.w + params.b), _state(carry)
        sizes = [_size(place, len(batch_shape)) for place in places]
        ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
        return _replaced(carry, jnp.split(made, ends[:-1], axis=-1))


@checked
@dataclass(frozen=True)
class CopyBridge:
    """The decoder starts from the very state that the encoder ends with.

        s₋₁ = encoder's state

    Entry by entry, so both have the same cells; what an attention or a `Feedback` hands round stays zero.

    Reference: Sutskever, Vinyals, Le, Sequence to sequence learning with neural networks, 2014,
    arXiv:1409.3215.

    >>> import jrnn
    >>> jrnn.CopyBridge()
    CopyBridge()
    """

    def init(self, key: Array, end: Any, start: Any) -> tuple[()]:
        """Nothing; raises where the two do not fit."""
        given, needed = ([leaf.shape for leaf in _state(tree, copied=True)] for tree in (end, start))
        if given != needed:
            raise ValueError(
                f"CopyBridge: the encoder ends with state of {given}, the decoder starts from {needed}: "
                "use DenseBridge()"
            )
        return ()

    def start(self, params: tuple[()], end: Any, carry: Any, batch_shape: Shape) -> Any:
        """The decoder's carry, its state that of the encoder."""
        return _replaced(carry, _state(end, copied=True), copied=True)


Bridge = DenseBridge | CopyBridge


class EncoderDecoderParams(NamedTuple):
    """Parameters of `EncoderDecoder`."""

    encoder: Any
    bridge: Any
    decoder: Any


@checked
@dataclass(frozen=True)
class EncoderDecoder:
    """Sequence to sequence: an encoder reads the source, a decoder writes the target.

        (end, memory) = encoder(source)
        s₋₁ = bridge(end),   attention of the decoder: memory
        yₜ = decoder(inputsₜ),   t = 0 … T−1

    `apply` takes a `Pair`; its `lengths` and `mask` are those of the target, its `carry` the one that the
    encoder starts from, and what it returns the decoder's. `inputs` are the targets one step late (teacher
    forcing); of a decoder `Feedback(cell, emit="argmax")` they are `(given, use_given)`, which makes
    scheduled sampling. `encode` gives the carry from which `generate` and `beam_search` write.

    Without attention in the decoder all that it knows is its start. With `summary` the memory is a single
    position: the last output of the encoder, of a bidirectional one that of both ends. Attention to it is
    the fixed context vector that is read at every step.

    Args:
      encoder: a cell or a layer, such as `Sequential((Embed(64), Bidirectional(GRU(64))))`.
      decoder: a cell, such as `Stack((Embed(64), LuongAttention(...), Dense(vocabulary)))`.
      bridge: `DenseBridge()`, `CopyBridge()`, or None: the decoder starts as it does by itself.
      summary: whether the memory is the encoder's last output instead of all.
      target_features: `in_features` of the decoder; `decoder.out_features`, as of a language model, if left
        out.

    Raises:
      TypeError: the decoder is no cell.
      ValueError: at `init`, a bridge that does not fit.

    Reference: Cho et al., 2014, arXiv:1406.1078; Sutskever, Vinyals, Le, Sequence to sequence learning with
    neural networks, 2014, arXiv:1409.3215.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> attention = jrnn.LuongAttention(jrnn.GRU(8), jrnn.attention.General(), memory_features=8, features=8)
    >>> decoder = jrnn.Stack((jrnn.Embed(4), attention, jrnn.Dense(11)))
    >>> model = jrnn.EncoderDecoder(jrnn.Stack((jrnn.Embed(4), jrnn.GRU(8))), decoder)
    >>> params = model.init(jax.random.key(0), in_features=9)             # 9 words there, 11 here
    >>> pair = jrnn.Pair(source=jnp.ones((7, 2), int), inputs=jnp.ones((5, 2), int))
    >>> model.apply(params, pair)[1].shape
    (5, 2, 11)
    """

    encoder: AnyModel
    decoder: AnyModel
    _: KW_ONLY
    bridge: Bridge | None = DenseBridge()
    summary: bool = False
    target_features: Width | None = None

    def __post_init__(self) -> None:
        require_time("EncoderDecoder: encoder", self.encoder)
        if is_layer(self.decoder):
            raise TypeError(
                f"EncoderDecoder: decoder must be a cell, which goes step by step, got {brief(self.decoder)}"
            )
        if self.bridge is not None and not isinstance(self.bridge, Bridge):
            raise TypeError(f"bridge must be DenseBridge(), CopyBridge() or None, got {brief(self.bridge)}")

    @property
    def in_ndim(self) -> int:
        return in_ndim(self.encoder)

    @property
    def out_features(self) -> int:
        return self.decoder.out_features

    def init(self, key: Array, in_features: int) -> EncoderDecoderParams:
        k_encoder, k_bridge, k_decoder = jax.random.split(key, 3)
        encoder = self.encoder.init(k_encoder, in_features)
        decoder = self.decoder.init(k_decoder, self.target_features or self.out_features)
        bridge: Any = ()
        if self.bridge is not None:
            end, start = carry_spec(self.encoder, encoder), carry_spec(self.decoder, decoder)
            if not jax.tree.leaves(end):
                end = jax.ShapeDtypeStruct((self.encoder.out_features,), default_float())
            bridge = self.bridge.init(k_bridge, end, start)
        return EncoderDecoderParams(encoder, bridge, decoder)

    def initial_carry(
        self, params: EncoderDecoderParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> Any:
        return self.encoder.initial_carry(params.encoder, batch_shape, key=key)

    def is_noisy(self, params: EncoderDecoderParams) -> bool:
        return is_noisy(self.encoder, params.encoder) or is_noisy(self.decoder, params.decoder)

    def encode(
        self,
        params: EncoderDecoderParams,
        source: Any,
        carry: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        key: Array | None = None,
        method: Method = Scan(),
    ) -> Any:
        """Read the source: the carry from which the decoder starts, its attention filled.

        The memory is as long as the source, and every length has programs of its own, here and where the
        decoder writes: pad sources of ever new lengths to a few, with `lengths`.

        Args:
          params: those of the model.
          source: (S, batch..., features) or (S, batch...) tokens.
          carry: the encoder's; a new one if left out.
          lengths: (batch...), valid steps of each source.
          mask: (S, batch...), False at steps of the source to skip.
          key: draws the noise of the encoder.
          method: how the encoder's loop is run.

        Returns:
          A carry of the decoder, without noise.
        """
        options: dict[str, Any] = {"lengths": lengths, "mask": mask, "key": key, "method": method}
        leaf = jax.tree.leaves(source)[0]
        batch_shape = leaf.shape[1 : leaf.ndim - in_ndim(self.encoder)]
        start = self.decoder.initial_carry(params.decoder, batch_shape)
        if self.summary:
            end, read = many_to_one(self.encoder, params.encoder, source, carry, **options)
            memory, ends, valid = read[None], None, None
        else:
            end, memory = apply(self.encoder, params.encoder, source, carry, **options)
            ends, valid = lengths, mask
        if self.bridge is not None:
            state = quiet(self.encoder, params.encoder, end)
            state = state if jax.tree.leaves(state) else last(memory, ends, mask=valid)
            start = self.bridge.start(params.bridge, state, start, batch_shape)
        if not _attends(start):
            return start
        return attach(self.decoder, params.decoder, start, memory, lengths=ends, mask=valid)

    def apply(
        self,
        params: EncoderDecoderParams,
        xs: Pair,
        carry: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
        key: Array | None = None,
        method: Method = Scan(),
    ) -> tuple[Any, Any]:
        """Write to a given target: see `jrnn.apply`; lengths and mask are those of the target."""
        if resets is not None:
            raise ValueError("EncoderDecoder takes no resets: a pair is one sequence")
        source, inputs, source_mask = xs
        k_encoder, k_decoder = key_or_none(key, 2)
        start = self.encode(params, source, carry, mask=source_mask, key=k_encoder, method=method)
        options: dict[str, Any] = {"lengths": lengths, "mask": mask, "key": k_decoder, "method": method}
        return unroll(self.decoder, params.decoder, inputs, start, **options)


def _is_loop(node: Any) -> bool:
    return isinstance(node, (FeedbackCarry, AttentionCarry))


def _attends(carry: Any) -> bool:
    """Whether there is attention inside."""
    nodes = jax.tree.leaves(carry, is_leaf=_is_loop)
    return any(isinstance(n, AttentionCarry) or (_is_loop(n) and _attends(n.cell)) for n in nodes)


def _filled(leaf: Any, copied: bool) -> bool:
    """Whether a bridge fills an entry: a copy takes all, a map the floats."""
    return copied or jnp.issubdtype(leaf.dtype, jnp.inexact)


def _state(carry: Any, copied: bool = False) -> list[Any]:
    """The state that a bridge fills: not the y of `Feedback`, and by a map the query of attention as well."""
    found: list[Any] = []
    for node in jax.tree.leaves(carry, is_leaf=_is_loop):
        if _is_loop(node):
            found += _state(node.cell, copied)
            found += [node.last] if isinstance(node, AttentionCarry) and not copied else []
        elif _filled(node, copied):
            found.append(node)
    return found


def _replaced(carry: Any, given: list[Array], copied: bool = False) -> Any:
    """The carry with other values in the place of `_state(carry)`."""
    values = iter(given)

    def visit(node: Any) -> Any:
        if _is_loop(node):
            inner = jax.tree.map(visit, node.cell, is_leaf=_is_loop)
            query = isinstance(node, AttentionCarry) and not copied
            return node._replace(cell=inner, **({"last": visit(node.last)} if query else {}))
        return _shaped(next(values), node) if _filled(node, copied) else node

    return jax.tree.map(visit, carry, is_leaf=_is_loop)


def _size(leaf: Any, batch_ndim: int) -> int:
    """Real numbers in an entry of one sequence."""
    return math.prod(leaf.shape[batch_ndim:]) * (2 if jnp.iscomplexobj(leaf) else 1)


def _flat(leaf: Array, batch_ndim: int) -> Array:
    """(batch..., n), the real and imaginary parts of a complex entry side by side."""
    flat = leaf.reshape(*leaf.shape[:batch_ndim], math.prod(leaf.shape[batch_ndim:]))
    return jnp.concatenate([flat.real, flat.imag], -1) if jnp.iscomplexobj(flat) else flat


def _shaped(value: Array, like: Array) -> Array:
    """A value in the shape and dtype of an entry; two real parts for a complex one."""
    if jnp.iscomplexobj(like) and not jnp.iscomplexobj(value):
        value = jax.lax.complex(*jnp.split(value, 2, axis=-1))
    return value.reshape(like.shape).astype(like.dtype)
