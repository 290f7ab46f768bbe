"""Recurrent networks in JAX: write one step as a pure function, jrnn does the rest."""

import importlib
from typing import Any

from jrnn import initializers as initializers
from jrnn.cell import Cell as Cell
from jrnn.cell import from_functions as from_functions
from jrnn.cell import quiet as quiet
from jrnn.cell import trainable as trainable
from jrnn.cells.additive import ATR as ATR
from jrnn.cells.additive import CFN as CFN
from jrnn.cells.additive import RAN as RAN
from jrnn.cells.additive import STAR as STAR
from jrnn.cells.additive import MinimalRNN as MinimalRNN
from jrnn.cells.bistable import BRC as BRC
from jrnn.cells.bistable import NBRC as NBRC
from jrnn.cells.continuous import AntisymmetricRNN as AntisymmetricRNN
from jrnn.cells.continuous import LeakyRNN as LeakyRNN
from jrnn.cells.convolutional import ConvGRU as ConvGRU
from jrnn.cells.convolutional import ConvLSTM as ConvLSTM
from jrnn.cells.decay import GRUD as GRUD
from jrnn.cells.diagonal import IndRNN as IndRNN
from jrnn.cells.elman import Elman as Elman
from jrnn.cells.elman import Jordan as Jordan
from jrnn.cells.fast import FastGRNN as FastGRNN
from jrnn.cells.fast import FastRNN as FastRNN
from jrnn.cells.gru import GRU as GRU
from jrnn.cells.highway import RHN as RHN
from jrnn.cells.highway import NASCell as NASCell
from jrnn.cells.history import Window as Window
from jrnn.cells.intersection import IntersectionRNN as IntersectionRNN
from jrnn.cells.legendre import LMU as LMU
from jrnn.cells.linear_units import LRU as LRU
from jrnn.cells.linear_units import RGLRU as RGLRU
from jrnn.cells.lstm import LSTM as LSTM
from jrnn.cells.lstm_1997 import LSTM1997 as LSTM1997
from jrnn.cells.lstm_variant import LSTMVariant as LSTMVariant
from jrnn.cells.maps import Dense as Dense
from jrnn.cells.maps import Embed as Embed
from jrnn.cells.minimal import MinGRU as MinGRU
from jrnn.cells.minimal import MinLSTM as MinLSTM
from jrnn.cells.modulated import MogrifierLSTM as MogrifierLSTM
from jrnn.cells.modulated import MultiplicativeLSTM as MultiplicativeLSTM
from jrnn.cells.mutations import MUT1 as MUT1
from jrnn.cells.mutations import MUT2 as MUT2
from jrnn.cells.mutations import MUT3 as MUT3
from jrnn.cells.normalised import LayerNormGRU as LayerNormGRU
from jrnn.cells.normalised import LayerNormLSTM as LayerNormLSTM
from jrnn.cells.orthogonal import OrthogonalRNN as OrthogonalRNN
from jrnn.cells.oscillators import LEM as LEM
from jrnn.cells.oscillators import CoRNN as CoRNN
from jrnn.cells.oscillators import UnICORNN as UnICORNN
from jrnn.cells.quasi import QRNN as QRNN
from jrnn.cells.reservoir import EchoState as EchoState
from jrnn.cells.reservoir import ridge_readout as ridge_readout
from jrnn.cells.simple_units import SRU as SRU
from jrnn.cells.single_gate import JANET as JANET
from jrnn.cells.single_gate import MGU as MGU
from jrnn.cells.single_gate import SGRN as SGRN
from jrnn.cells.single_gate import UGRNN as UGRNN
from jrnn.cells.single_gate import LightRU as LightRU
from jrnn.cells.single_gate import LiGRU as LiGRU
from jrnn.cells.strongly_typed import TGRU as TGRU
from jrnn.cells.strongly_typed import TLSTM as TLSTM
from jrnn.cells.strongly_typed import TRNN as TRNN
from jrnn.cells.timescales import SCRN as SCRN
from jrnn.cells.timescales import ClockworkRNN as ClockworkRNN
from jrnn.cells.xlstm import MLSTM as MLSTM
from jrnn.cells.xlstm import SLSTM as SLSTM
from jrnn.combinators import NARX as NARX
from jrnn.combinators import Cast as Cast
from jrnn.combinators import Dropout as Dropout
from jrnn.combinators import Feedback as Feedback
from jrnn.combinators import FeedbackCarry as FeedbackCarry
from jrnn.combinators import LearnedCarry as LearnedCarry
from jrnn.combinators import LearnedCarryParams as LearnedCarryParams
from jrnn.combinators import NoisyCarry as NoisyCarry
from jrnn.combinators import Project as Project
from jrnn.combinators import ProjectParams as ProjectParams
from jrnn.combinators import Residual as Residual
from jrnn.combinators import Stack as Stack
from jrnn.combinators import StackCarry as StackCarry
from jrnn.combinators import Tap as Tap
from jrnn.combinators import Zoneout as Zoneout
from jrnn.layers import Bidirectional as Bidirectional
from jrnn.layers import BidirectionalCarry as BidirectionalCarry
from jrnn.layers import BidirectionalParams as BidirectionalParams
from jrnn.layers import Layer as Layer
from jrnn.layers import Sequential as Sequential
from jrnn.layers import apply as apply
from jrnn.unrolling import Associative as Associative
from jrnn.unrolling import CuDNN as CuDNN
from jrnn.unrolling import Scan as Scan
from jrnn.unrolling import gradient_memory as gradient_memory
from jrnn.unrolling import unroll as unroll

_LAZY = {  # what a plain recurrence does not need is imported on first use
    "Batch": "jrnn.data:Batch",
    "CharVocabulary": "jrnn.data:CharVocabulary",
    "CheckpointError": "jrnn.checkpoint:CheckpointError",
    "FitResult": "jrnn.training:FitResult",
    "Progress": "jrnn.training:Progress",
    "RNN": "jrnn.modules:RNN",
    "Snapshot": "jrnn.checkpoint:Snapshot",
    "Stream": "jrnn.data:Stream",
    "TrainState": "jrnn.training:TrainState",
    "AtLast": "jrnn.training:AtLast",
    "checkpoint": "jrnn.checkpoint",
    "data": "jrnn.data",
    "evaluate": "jrnn.training:evaluate",
    "fit": "jrnn.training:fit",
    "generate": "jrnn.decoding:generate",
    "init_state": "jrnn.training:init_state",
    "last": "jrnn.losses:last",
    "linen": "jrnn.linen",
    "load": "jrnn.checkpoint:load",
    "losses": "jrnn.losses",
    "padded_batches": "jrnn.data:padded_batches",
    "PerStep": "jrnn.training:PerStep",
    "plots": "jrnn.plots",
    "save": "jrnn.checkpoint:save",
    "summary": "jrnn.modules:summary",
    "testing": "jrnn.testing",
    "train_step": "jrnn.training:train_step",
    "use_cores": "jrnn.training:use_cores",
}


def __getattr__(name: str) -> Any:
    """Import one of `_LAZY`."""
    if name not in _LAZY:
        raise AttributeError(f"module 'jrnn' has no attribute {name!r}")
    module, _, attribute = _LAZY[name].partition(":")
    loaded = importlib.import_module(module)
    return getattr(loaded, attribute) if attribute else loaded


def __dir__() -> list[str]:
    """All names, those not imported yet included."""
    return sorted({*globals(), *_LAZY})
