"""Conditional random fields: likelihoods and decoding of tag sequences."""

from jrnn._exports import public_names
from jrnn.crf.inference import Constraint as Constraint
from jrnn.crf.inference import crf_log_likelihood as crf_log_likelihood
from jrnn.crf.inference import crf_loss as crf_loss
from jrnn.crf.inference import marginals as marginals
from jrnn.crf.inference import viterbi as viterbi
from jrnn.crf.layer import CRF as CRF
from jrnn.crf.layer import CRFParams as CRFParams
from jrnn.crf.layer import Potentials as Potentials
from jrnn.crf.schemes import bio_constraint as bio_constraint

__all__ = public_names(globals())
