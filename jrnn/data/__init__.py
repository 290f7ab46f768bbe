"""Data in NumPy: text, vocabularies, synthetic tasks and batches."""

from jrnn._exports import public_names
from jrnn.data import synthetic as synthetic
from jrnn.data.batching import Batch as Batch
from jrnn.data.batching import PaddedBatches as PaddedBatches
from jrnn.data.batching import Pair as Pair
from jrnn.data.batching import Stream as Stream
from jrnn.data.batching import pad_sequences as pad_sequences
from jrnn.data.batching import padded_batches as padded_batches
from jrnn.data.corpus import python_reference as python_reference
from jrnn.data.corpus import read_text as read_text
from jrnn.data.corpus import split as split
from jrnn.data.gaps import gaps as gaps
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
from jrnn.data.packing import PackedBatches as PackedBatches
from jrnn.data.packing import packed_batches as packed_batches
from jrnn.data.pairing import PairBatches as PairBatches
from jrnn.data.pairing import ScheduledSampling as ScheduledSampling
from jrnn.data.pairing import pair_batches as pair_batches
from jrnn.data.text import CharVocabulary as CharVocabulary
from jrnn.data.text import Vocabulary as Vocabulary
from jrnn.data.text import contexts as contexts

__all__ = public_names(globals(), "synthetic")
