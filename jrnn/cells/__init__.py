"""Recurrent cells, one architecture family per file."""

from jrnn.cells.elman import Elman as Elman
from jrnn.cells.elman import ElmanParams as ElmanParams
from jrnn.cells.elman import Jordan as Jordan
from jrnn.cells.elman import JordanParams as JordanParams
from jrnn.cells.gru import GRU as GRU
from jrnn.cells.gru import GRUParams as GRUParams
from jrnn.cells.lstm import LSTM as LSTM
from jrnn.cells.lstm import LSTMCarry as LSTMCarry
from jrnn.cells.lstm import LSTMParams as LSTMParams
from jrnn.cells.maps import Dense as Dense
from jrnn.cells.maps import DenseParams as DenseParams
from jrnn.cells.maps import Embed as Embed
from jrnn.cells.maps import EmbedParams as EmbedParams
