"""Recurrent networks in JAX: write one step as a pure function, jrnn does the rest."""

import importlib
from typing import Any

from jrnn import initializers as initializers
from jrnn.cell import Cell as Cell
from jrnn.cell import from_functions as from_functions
from jrnn.cell import quiet as quiet
from jrnn.cell import trainable as trainable
from jrnn.cells.elman import Elman as Elman
from jrnn.cells.elman import Jordan as Jordan
from jrnn.cells.gru import GRU as GRU
from jrnn.cells.lstm import LSTM as LSTM
from jrnn.cells.maps import Dense as Dense
from jrnn.cells.maps import Embed as Embed
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
from jrnn.exports import public_names
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
    "ablations": "jrnn.cells.ablations",
    "analysis": "jrnn.analysis",
    "AntisymmetricRNN": "jrnn.cells.continuous:AntisymmetricRNN",
    "AtLast": "jrnn.training:AtLast",
    "ATR": "jrnn.cells.additive:ATR",
    "attach": "jrnn.attention:attach",
    "attention": "jrnn.attention",
    "AttentionCarry": "jrnn.attention:AttentionCarry",
    "AttentionParams": "jrnn.attention:AttentionParams",
    "autoregressive": "jrnn.paradigms:autoregressive",
    "BahdanauAttention": "jrnn.attention:BahdanauAttention",
    "Batch": "jrnn.data:Batch",
    "beam_search": "jrnn.decoding:beam_search",
    "Beams": "jrnn.decoding:Beams",
    "BRC": "jrnn.cells.bistable:BRC",
    "CFN": "jrnn.cells.additive:CFN",
    "CharVocabulary": "jrnn.data:CharVocabulary",
    "checkpoint": "jrnn.checkpoint",
    "CheckpointError": "jrnn.checkpoint:CheckpointError",
    "ClipGradient": "jrnn.combinators:ClipGradient",
    "ClockworkRNN": "jrnn.cells.timescales:ClockworkRNN",
    "ConvGRU": "jrnn.cells.convolutional:ConvGRU",
    "ConvLSTM": "jrnn.cells.convolutional:ConvLSTM",
    "CopyBridge": "jrnn.seq2seq:CopyBridge",
    "CoRNN": "jrnn.cells.oscillators:CoRNN",
    "crf": "jrnn.crf",
    "CRF": "jrnn.crf:CRF",
    "crf_loss": "jrnn.crf:crf_loss",
    "CRFParams": "jrnn.crf:CRFParams",
    "CTC": "jrnn.decoding.ctc:CTC",
    "data": "jrnn.data",
    "decoding": "jrnn.decoding",
    "delayed": "jrnn.paradigms:delayed",
    "DenseBridge": "jrnn.seq2seq:DenseBridge",
    "Diagonal": "jrnn.combinators.reparametrising:Diagonal",
    "DropConnect": "jrnn.combinators.reparametrising:DropConnect",
    "EchoState": "jrnn.cells.reservoir:EchoState",
    "EncoderDecoder": "jrnn.seq2seq:EncoderDecoder",
    "EncoderDecoderParams": "jrnn.seq2seq:EncoderDecoderParams",
    "evaluate": "jrnn.training:evaluate",
    "FastGRNN": "jrnn.cells.fast:FastGRNN",
    "FastRNN": "jrnn.cells.fast:FastRNN",
    "fit": "jrnn.training:fit",
    "FitResult": "jrnn.training:FitResult",
    "forecast": "jrnn.decoding:forecast",
    "generate": "jrnn.decoding:generate",
    "Generated": "jrnn.decoding:Generated",
    "GRUD": "jrnn.cells.decay:GRUD",
    "IndRNN": "jrnn.cells.diagonal:IndRNN",
    "init_state": "jrnn.training:init_state",
    "IntersectionRNN": "jrnn.cells.intersection:IntersectionRNN",
    "JANET": "jrnn.cells.single_gate:JANET",
    "last": "jrnn.paradigms:last",
    "LayerNormGRU": "jrnn.cells.normalised:LayerNormGRU",
    "LayerNormLSTM": "jrnn.cells.normalised:LayerNormLSTM",
    "LeakyRNN": "jrnn.cells.continuous:LeakyRNN",
    "LEM": "jrnn.cells.oscillators:LEM",
    "LightRU": "jrnn.cells.single_gate:LightRU",
    "LiGRU": "jrnn.cells.single_gate:LiGRU",
    "linen": "jrnn.linen",
    "LMU": "jrnn.cells.legendre:LMU",
    "load": "jrnn.checkpoint:load",
    "losses": "jrnn.losses",
    "LowRank": "jrnn.combinators.reparametrising:LowRank",
    "LRU": "jrnn.cells.linear_units:LRU",
    "LSTM1997": "jrnn.cells.lstm_1997:LSTM1997",
    "LSTMVariant": "jrnn.cells.lstm_variant:LSTMVariant",
    "LuongAttention": "jrnn.attention:LuongAttention",
    "many_to_one": "jrnn.paradigms:many_to_one",
    "ManyToOne": "jrnn.paradigms:ManyToOne",
    "metrics": "jrnn.metrics",
    "MGU": "jrnn.cells.single_gate:MGU",
    "MinGRU": "jrnn.cells.minimal:MinGRU",
    "MinimalRNN": "jrnn.cells.additive:MinimalRNN",
    "MinLSTM": "jrnn.cells.minimal:MinLSTM",
    "MLSTM": "jrnn.cells.xlstm:MLSTM",
    "MogrifierLSTM": "jrnn.cells.modulated:MogrifierLSTM",
    "MultiplicativeLSTM": "jrnn.cells.modulated:MultiplicativeLSTM",
    "MUT1": "jrnn.cells.mutations:MUT1",
    "MUT2": "jrnn.cells.mutations:MUT2",
    "MUT3": "jrnn.cells.mutations:MUT3",
    "NARX": "jrnn.combinators.narx:NARX",
    "nearest": "jrnn.training.word2vec:nearest",
    "NASCell": "jrnn.cells.highway:NASCell",
    "NBRC": "jrnn.cells.bistable:NBRC",
    "one_to_many": "jrnn.decoding:one_to_many",
    "OrthogonalRNN": "jrnn.cells.orthogonal:OrthogonalRNN",
    "pad_sequences": "jrnn.data:pad_sequences",
    "padded_batches": "jrnn.data:padded_batches",
    "Pair": "jrnn.seq2seq:Pair",
    "pair_batches": "jrnn.data:pair_batches",
    "PerSequence": "jrnn.training:PerSequence",
    "PerStep": "jrnn.training:PerStep",
    "plots": "jrnn.plots",
    "Progress": "jrnn.training:Progress",
    "QRNN": "jrnn.cells.quasi:QRNN",
    "RAN": "jrnn.cells.additive:RAN",
    "Reparametrise": "jrnn.combinators.reparametrising:Reparametrise",
    "RGLRU": "jrnn.cells.linear_units:RGLRU",
    "RHN": "jrnn.cells.highway:RHN",
    "ridge_readout": "jrnn.cells.reservoir:ridge_readout",
    "RNN": "jrnn.modules:RNN",
    "save": "jrnn.checkpoint:save",
    "ScheduledSampling": "jrnn.data:ScheduledSampling",
    "SCRN": "jrnn.cells.timescales:SCRN",
    "SGRN": "jrnn.cells.single_gate:SGRN",
    "SLSTM": "jrnn.cells.xlstm:SLSTM",
    "Snapshot": "jrnn.checkpoint:Snapshot",
    "SpectralNorm": "jrnn.combinators.reparametrising:SpectralNorm",
    "SRU": "jrnn.cells.simple_units:SRU",
    "STAR": "jrnn.cells.additive:STAR",
    "Stream": "jrnn.data:Stream",
    "summary": "jrnn.modules:summary",
    "testing": "jrnn.testing",
    "TGRU": "jrnn.cells.strongly_typed:TGRU",
    "TLSTM": "jrnn.cells.strongly_typed:TLSTM",
    "train_step": "jrnn.training:train_step",
    "TrainState": "jrnn.training:TrainState",
    "TRNN": "jrnn.cells.strongly_typed:TRNN",
    "UGRNN": "jrnn.cells.single_gate:UGRNN",
    "UnICORNN": "jrnn.cells.oscillators:UnICORNN",
    "use_cores": "jrnn.training:use_cores",
    "viterbi": "jrnn.crf:viterbi",
    "Vocabulary": "jrnn.data:Vocabulary",
    "WeightNorm": "jrnn.combinators.reparametrising:WeightNorm",
    "Window": "jrnn.cells.history:Window",
    "word2vec": "jrnn.training.word2vec:word2vec",
}

__all__ = public_names(globals(), "initializers", *_LAZY)


def __getattr__(name: str) -> Any:
    """Import one of `_LAZY`."""
    if name not in _LAZY:
        raise AttributeError(f"module 'jrnn' has no attribute {name!r}")
    module, _, attribute = _LAZY[name].partition(":")
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or "jrnn").partition(".")[0]
        if missing == "jrnn":
            raise
        # as hasattr, help and completion expect it
        raise AttributeError(f"jrnn.{name} needs {missing}, which is not installed") from error
    return getattr(loaded, attribute) if attribute else loaded


def __dir__() -> list[str]:
    """All names, those not imported yet included."""
    return sorted({*globals(), *_LAZY})
