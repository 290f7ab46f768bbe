"""Data: text, vocabularies and batches, in NumPy."""

from jrnn.data.batching import Batch as Batch
from jrnn.data.batching import PaddedBatches as PaddedBatches
from jrnn.data.batching import Stream as Stream
from jrnn.data.batching import padded_batches as padded_batches
from jrnn.data.corpus import python_reference as python_reference
from jrnn.data.corpus import read_text as read_text
from jrnn.data.corpus import split as split
from jrnn.data.pairing import PairBatches as PairBatches
from jrnn.data.pairing import ScheduledSampling as ScheduledSampling
from jrnn.data.pairing import pair_batches as pair_batches
from jrnn.data.text import CharVocabulary as CharVocabulary
