"""Attention over a memory, for decoders."""

from jrnn._exports import public_names
from jrnn.attention.decoders import AttentionCarry as AttentionCarry
from jrnn.attention.decoders import AttentionParams as AttentionParams
from jrnn.attention.decoders import BahdanauAttention as BahdanauAttention
from jrnn.attention.decoders import LuongAttention as LuongAttention
from jrnn.attention.decoders import Memory as Memory
from jrnn.attention.decoders import attach as attach
from jrnn.attention.scores import Additive as Additive
from jrnn.attention.scores import Dot as Dot
from jrnn.attention.scores import General as General
from jrnn.attention.scores import Local as Local
from jrnn.attention.scores import Location as Location

__all__ = public_names(globals())
