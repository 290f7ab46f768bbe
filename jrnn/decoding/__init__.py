"""Decoding: a model writes."""

from jrnn.decoding.beams import Beams as Beams
from jrnn.decoding.beams import beam_search as beam_search
from jrnn.decoding.generating import Generated as Generated
from jrnn.decoding.generating import generate as generate
