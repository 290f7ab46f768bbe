"""Decoding: generation, beam search, forecasting, CTC."""

from jrnn._exports import public_names
from jrnn.decoding.beams import Beams as Beams
from jrnn.decoding.beams import beam_search as beam_search
from jrnn.decoding.continuing import forecast as forecast
from jrnn.decoding.continuing import one_to_many as one_to_many
from jrnn.decoding.ctc import CTC as CTC
from jrnn.decoding.ctc import ctc_beam_search as ctc_beam_search
from jrnn.decoding.ctc import ctc_greedy as ctc_greedy
from jrnn.decoding.ctc import ctc_loss as ctc_loss
from jrnn.decoding.generating import Generated as Generated
from jrnn.decoding.generating import generate as generate

__all__ = public_names(globals())
