"""Recurrent cells of other libraries, and what jrnn calls them: what is printed as missing jrnn lacks.

python -m benchmarks.peers_cells

Read from the sources of these versions: memax 0.1.1, memorax 1.0.1, torchrecurrent 0.2.5 and what its
repository has beyond it, RecurrentLayers.jl and LuxRecurrentLayers.jl (2026-03), ncps 1.0.1, xlstm 2.0.6,
rnn-jax 0.0.2, Keras 3.15, PyTorch 2.13, Flax 0.12.8, Haiku 0.0.17, Equinox 0.13.8. Attention over a window,
which memax and memorax list beside their cells, is no recurrence and left out.
"""

import re

import jrnn

ZOO = {  # torchrecurrent and RecurrentLayers.jl, which have one author
    "AntisymmetricRNN": "AntisymmetricRNN",
    "GatedAntisymmetricRNN": "AntisymmetricRNN(gated=True)",
    "ATR": "ATR",
    "BR": "BRC",
    "NBR": "NBRC",
    "CFN": "CFN",
    "coRNN": "CoRNN",
    "FastGRNN": "FastGRNN",
    "FastRNN": "FastRNN",
    "IndRNN": "IndRNN",
    "IntersectionRNN": "IntersectionRNN",
    "JANET": "JANET",
    "LEM": "LEM",
    "LiGRU": "LiGRU",
    "LightRU": "LightRU",
    "MCLSTM": "MemoryControllerLSTM",
    "MGU": "MGU",
    "MinimalRNN": "MinimalRNN",
    "MiRU1": "MiRU",
    "MiRU2": "MiRU(reset=0.5)",
    "MultiplicativeLSTM": "MultiplicativeLSTM",
    "MUT1": "MUT1",
    "MUT2": "MUT2",
    "MUT3": "MUT3",
    "NAS": "NASCell",
    "OriginalLSTM": "LSTM1997",
    "PeepholeLSTM": 'LSTMVariant(peepholes="diagonal")',
    "RAN": "RAN",
    "SCRN": "SCRN",
    "SGRN": "SGRN",
    "STAR": "STAR",
    "TRNN": "TRNN",
    "TGRU": "TGRU",
    "TLSTM": "TLSTM",
    "UGRNN": "UGRNN",
    "UnICORNN": "UnICORNN",
    "WMCLSTM": "WMCLSTM",
    "SGU": "SGU",
    "DSGU": "SGU(deep=True)",
    "ResLSTM": "ResidualLSTM",
    "tauGRU": "TauGRU",
    "RHN": "RHN",
}
BASIC = {"RNN": "Elman", "LSTM": "LSTM", "GRU": "GRU"}

PEERS = {
    "memax": {
        "Elman": "Elman",
        "GRU": "GRU",
        "LSTM": "LSTM",
        "MGU": "MGU",
        "Spherical": "SphericalRNN",
        "PSpherical": "SphericalRNN",
        "DeltaNet": "DeltaNet",
        "DeltaProduct": "DeltaProduct",
        "GatedDeltaNet": "GatedDeltaNet",
        "FART": "LinearAttention",
        "FFM": "FFM",
        "FWP": "FastWeights",
        "LinearRecurrent": 'IndRNN(activation="identity")',
        "LRU": "LRU",
        "S6": "S6",
        "Stack": "Window",
        "MLP": "Dense",
        "NMax": "NMax",
        "DLSE": "DLSE",
    },
    "memorax": {
        "FFMCell": "FFM",
        "LinearAttentionCell": "LinearAttention",
        "LRUCell": "LRU",
        "MambaCell": "Mamba2",
        "MinGRUCell": "MinGRU",
        "mLSTMCell": "MLSTM",
        "S5Cell": "S5",
        "SHMCell": "SHM",
        "sLSTMCell": "SLSTM",
        "RTUCell": "RTU",
    },
    "torchrecurrent": ZOO
    | {
        "eLSTM": "ELSTM",
        "LipschitzRNN": "LipschitzRNN",
        "PLRNN": "PLRNN",
        "SRNN": "ShufflingRNN",
        "suRNN": "SelectiveUpdateRNN",
        "MGU1": 'MGU(gate="hb")',
        "MGU2": 'MGU(gate="h")',
        "MGU3": 'MGU(gate="b")',
    },
    "RecurrentLayers.jl": ZOO
    | {
        "Multiplicative": "Multiplicative",
        "FastSlow": "FastSlow",
        "Dilated": "Dilated",
        "StackedRNN": "Stack",
        "independent_recurrence": "Diagonal",
        "integration_mode": "MultiplicativeIntegration",
    },
    "ncps": {
        "LTC": "LTC",
        "CfC": "CfC",
        "WiredCfC": "CfC(wiring=NCP(4))",
        "mixed_memory": "MixedMemory",
    },
    "xlstm": {"sLSTM": "SLSTM", "mLSTM": "MLSTM"},
    "rnn-jax": {
        "ElmanRNN": "Elman",
        "IndRNN": "IndRNN",
        "AntiSymmetricRNN": "AntisymmetricRNN",
        "LongShortTermMemory": "LSTM",
        "GatedRecurrentUnit": "GRU",
        "CoupledOscillatoryRNN": "CoRNN",
        "heterogeneous": "HeterogeneousCoRNN",
        "UnitaryEvolutionRNN": "UnitaryRNN",
        "FullCapacityUnitaryRNN": "FullUnitaryRNN",  # announced, empty there
        "LipschitzRNN": "LipschitzRNN",
        "ClockWorkRNN": "ClockworkRNN",
        "LinearRecurrentUnit": "LRU",
        "SimplifiedStateSpace": "S5",
        "ReservoirComputer": "EchoState",
    },
    "keras": {"SimpleRNN": "Elman", "LSTM": "LSTM", "GRU": "GRU", "ConvLSTM": "ConvLSTM"},
    "torch": BASIC | {"LSTM(proj_size)": "LSTMVariant(projection=2)"},
    "flax": {
        "SimpleCell": "Elman",
        "LSTMCell": "LSTM",
        "OptimizedLSTMCell": "LSTM",
        "GRUCell": "GRU",
        "MGUCell": "MGU",
        "ConvLSTMCell": "ConvLSTM",
    },
    "haiku": {
        "VanillaRNN": "Elman",
        "LSTM": "LSTM",
        "GRU": "GRU(reset_after=False)",
        "ConvNDLSTM": "ConvLSTM",
        "DeepRNN": "Stack",
        "deep_rnn_with_skip_connections": "SkipStack",
        "IdentityCore": "Map",
    },
    "equinox": {"LSTMCell": "LSTM", "GRUCell": "GRU"},
}


def missing(names):
    """The names of a peer's cells for which jrnn has none."""
    return [theirs for theirs, ours in names.items() if ours is None or not hasattr(jrnn, _class(ours))]


def _class(expression):
    return re.match(r"\w+", expression)[0]


def main():
    print(f"{'library':20} {'cells':>5}  jrnn lacks")
    for library, names in PEERS.items():
        lacking = missing(names)
        print(f"{library:20} {len(names):5}  {', '.join(lacking) or '–'}")


if __name__ == "__main__":
    main()
