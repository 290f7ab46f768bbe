"""Recurrent networks in JAX: write one step as a pure function, jrnn does the rest."""

import importlib
from typing import Any

from jrnn import initializers as initializers
from jrnn.cell import Cell as Cell
from jrnn.cell import from_functions as from_functions
from jrnn.cell import quiet as quiet
from jrnn.cell import trainable as trainable
from jrnn.cells import GRU as GRU
from jrnn.cells import LSTM as LSTM
from jrnn.cells import Dense as Dense
from jrnn.cells import DenseParams as DenseParams
from jrnn.cells import Elman as Elman
from jrnn.cells import ElmanParams as ElmanParams
from jrnn.cells import Embed as Embed
from jrnn.cells import EmbedParams as EmbedParams
from jrnn.cells import GRUParams as GRUParams
from jrnn.cells import Jordan as Jordan
from jrnn.cells import JordanParams as JordanParams
from jrnn.cells import LSTMCarry as LSTMCarry
from jrnn.cells import LSTMParams as LSTMParams
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
