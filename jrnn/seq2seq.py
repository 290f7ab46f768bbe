"""Encoder-decoder models: read one sequence, write another."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._checks import brief
from jrnn._fields import AnyModel, Width, checked
from jrnn._states import ravel, size_of, unravel, updated
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
    """Initialize the decoder's state by a dense map of the encoder's final state.

        s₋₁ = f([encoder's state, all layers and directions] w + b)

    The map fills every float entry of the decoder's state, including the query of an attention; a complex
    entry counts as two. Integers, and the output that `Feedback` feeds back, keep their initial values. If
    the encoder has no state (`Dense`), its last output is mapped.

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
        """Parameters, from the encoder's final and the decoder's initial carry without batch axes."""
        sizes = [size_of(_bridged(tree)) for tree in (end, start)]
        if 0 in sizes:
            whose = "encoder ends with" if sizes[0] == 0 else "decoder starts from"
            raise ValueError(f"the {whose} no float state: use bridge=None")
        return Dense(sizes[1]).init(key, sizes[0])

    def start(self, params: DenseParams, end: Any, carry: Any, batch_shape: Shape) -> Any:
        """The decoder's carry, with its state computed from the encoder's final carry."""
        flat = ravel(_bridged(end), len(batch_shape))
        made = activation(self.activation)(flat @ params.w + params.b)
        return updated(carry, unravel(made, _bridged(carry)))


@checked
@dataclass(frozen=True)
class CopyBridge:
    """Initialize the decoder's state with a copy of the encoder's final state.

        s₋₁ = encoder's state

    Entries are copied one by one, so both need the same cells. The query of an attention and the output that
    `Feedback` feeds back stay zero.

    Reference: Sutskever, Vinyals, Le, Sequence to sequence learning with neural networks, 2014,
    arXiv:1409.3215.

    >>> import jrnn
    >>> jrnn.CopyBridge()
    CopyBridge()
    """

    def init(self, key: Array, end: Any, start: Any) -> tuple[()]:
        """No parameters; raise a ValueError if the two carries do not match."""
        given, needed = (
            [leaf.shape for leaf in jax.tree.leaves(_bridged(tree, copied=True))] for tree in (end, start)
        )
        if given != needed:
            raise ValueError(
                f"CopyBridge: the encoder's state has shapes {given}, the decoder's needs {needed}: "
                "use DenseBridge()"
            )
        return ()

    def start(self, params: tuple[()], end: Any, carry: Any, batch_shape: Shape) -> Any:
        """The decoder's carry, with the encoder's state."""
        given = jax.tree.leaves(_bridged(end, copied=True))
        needed, structure = jax.tree.flatten(_bridged(carry, copied=True))
        copies = [value.astype(entry.dtype) for value, entry in zip(given, needed, strict=True)]
        return updated(carry, jax.tree.unflatten(structure, copies))


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

    `apply` takes a `Pair`. Its `lengths` and `mask` are those of the target, its `carry` is the encoder's
    initial carry, and the carry it returns is the decoder's. `inputs` are the targets shifted by one step
    (teacher forcing); for a decoder `Feedback(cell, emit="argmax")` they are `(given, use_given)`, which
    allows scheduled sampling. `encode` returns the carry from which `generate` and `beam_search` start.

    A decoder without attention sees the source only through its initial state. With `summary` the memory is a
    single position: the last output of the encoder (of a bidirectional one, the outputs at both ends).
    Attention to it is the fixed context vector that is read at every step.

    Args:
      encoder: a cell or a layer, such as `Sequential((Embed(64), Bidirectional(GRU(64))))`.
      decoder: a cell, such as `Stack((Embed(64), LuongAttention(...), Dense(vocabulary)))`.
      bridge: `DenseBridge()`, `CopyBridge()`, or None for the decoder's own initial state.
      summary: use only the encoder's last output as the memory, not all outputs.
      target_features: `in_features` of the decoder; defaults to `decoder.out_features`, as for a language
        model.

    Raises:
      TypeError: the decoder is not a cell.
      ValueError: at `init`, a bridge that does not match.

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
            layer = brief(self.decoder)
            raise TypeError(f"EncoderDecoder: decoder must be a cell, got the layer {layer}: it has no step")
        if self.bridge is not None and not isinstance(self.bridge, Bridge):
            kinds = "DenseBridge(), CopyBridge() or None"
            raise TypeError(f"EncoderDecoder: bridge must be {kinds}, got {brief(self.bridge)}")

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
        """Read the source, and return the carry from which the decoder starts, attention memory included.

        The memory is as long as the source, so every source length is compiled once, here and in the decoder:
        pad sources to a few lengths, and pass `lengths`.

        Args:
          params: parameters of the model.
          source: (S, batch..., features) or (S, batch...) tokens.
          carry: initial carry of the encoder; defaults to `encoder.initial_carry`.
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
        """Encode the source and run the decoder on `inputs`; lengths and mask are those of the target."""
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
    """True if a carry contains that of an attention."""
    nodes = jax.tree.leaves(carry, is_leaf=_is_loop)
    return any(isinstance(n, AttentionCarry) or (_is_loop(n) and _attends(n.cell)) for n in nodes)


def _bridged(carry: Any, copied: bool = False) -> Any:
    """The entries of a carry that a bridge fills, with `None` in place of the others.

    A copy fills all entries but the y of `Feedback` and the query of an attention; a map fills that query
    too, but no integers.
    """
    nothing: Any = None

    def visit(node: Any) -> Any:
        if isinstance(node, FeedbackCarry):
            return FeedbackCarry(_bridged(node.cell, copied), y=nothing)
        if isinstance(node, AttentionCarry):
            query = nothing if copied else _bridged(node.last)
            return AttentionCarry(_bridged(node.cell, copied), query, memory=None)
        return node if copied or jnp.issubdtype(node.dtype, jnp.inexact) else None

    return jax.tree.map(visit, carry, is_leaf=_is_loop)
