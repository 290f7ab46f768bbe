"""Decoding: a model writes."""

from jrnn.decoding.beams import Beams as Beams
from jrnn.decoding.beams import beam_search as beam_search
from jrnn.decoding.ctc import CTC as CTC
from jrnn.decoding.ctc import ctc_beam_search as ctc_beam_search
from jrnn.decoding.ctc import ctc_greedy as ctc_greedy
from jrnn.decoding.ctc import ctc_loss as ctc_loss
from jrnn.decoding.generating import Generated as Generated
from jrnn.decoding.generating import generate as generate
