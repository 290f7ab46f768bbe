"""Data: text, vocabularies, files, generated tasks and batches, in NumPy."""

from jrnn.data import synthetic as synthetic
from jrnn.data.audio import Recording as Recording
from jrnn.data.audio import log_mel as log_mel
from jrnn.data.audio import read_wav as read_wav
from jrnn.data.audio import read_wavs as read_wavs
from jrnn.data.batching import Batch as Batch
from jrnn.data.batching import PaddedBatches as PaddedBatches
from jrnn.data.batching import Stream as Stream
from jrnn.data.batching import pad_sequences as pad_sequences
from jrnn.data.batching import padded_batches as padded_batches
from jrnn.data.columns import Sentence as Sentence
from jrnn.data.columns import TaggedSentence as TaggedSentence
from jrnn.data.columns import read_columns as read_columns
from jrnn.data.columns import read_conllu as read_conllu
from jrnn.data.corpus import python_reference as python_reference
from jrnn.data.corpus import read_text as read_text
from jrnn.data.corpus import split as split
from jrnn.data.forecasting import Scaler as Scaler
from jrnn.data.forecasting import persistence as persistence
from jrnn.data.forecasting import seasonal_naive as seasonal_naive
from jrnn.data.forecasting import standardize as standardize
from jrnn.data.forecasting import time_split as time_split
from jrnn.data.forecasting import windows as windows
from jrnn.data.images import read_idx as read_idx
from jrnn.data.language import ENGLISH_ABBREVIATIONS as ENGLISH_ABBREVIATIONS
from jrnn.data.language import ENGLISH_STOP_WORDS as ENGLISH_STOP_WORDS
from jrnn.data.language import ngrams as ngrams
from jrnn.data.language import normalize as normalize
from jrnn.data.language import remove_stop_words as remove_stop_words
from jrnn.data.language import spans as spans
from jrnn.data.language import spell_out as spell_out
from jrnn.data.language import stem as stem
from jrnn.data.language import strip_accents as strip_accents
from jrnn.data.language import strip_punctuation as strip_punctuation
from jrnn.data.language import tokenize as tokenize
from jrnn.data.lines import LabelledTexts as LabelledTexts
from jrnn.data.lines import read_labelled as read_labelled
from jrnn.data.lines import read_pairs as read_pairs
from jrnn.data.pairing import PairBatches as PairBatches
from jrnn.data.pairing import ScheduledSampling as ScheduledSampling
from jrnn.data.pairing import pair_batches as pair_batches
from jrnn.data.pianorolls import PianoRolls as PianoRolls
from jrnn.data.pianorolls import read_pianorolls as read_pianorolls
from jrnn.data.series import LabelledSeries as LabelledSeries
from jrnn.data.series import Table as Table
from jrnn.data.series import blocks as blocks
from jrnn.data.series import read_csv as read_csv
from jrnn.data.series import read_ts as read_ts
from jrnn.data.text import CharVocabulary as CharVocabulary
from jrnn.data.text import Vocabulary as Vocabulary
from jrnn.exports import public_names

__all__ = public_names(globals(), "synthetic")
