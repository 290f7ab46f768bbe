"""Layers: maps from whole sequences to whole sequences."""

from jrnn._exports import public_names
from jrnn.layers.bidirectional import Bidirectional as Bidirectional
from jrnn.layers.bidirectional import BidirectionalCarry as BidirectionalCarry
from jrnn.layers.bidirectional import BidirectionalParams as BidirectionalParams
from jrnn.layers.bidirectional import Reversed as Reversed
from jrnn.layers.layer import Layer as Layer
from jrnn.layers.layer import apply as apply
from jrnn.layers.sequential import Sequential as Sequential

__all__ = public_names(globals())
