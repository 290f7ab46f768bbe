"""Recurrent cells of other libraries, and what jrnn calls them: what is printed as missing jrnn lacks.

python -m benchmarks.peers_cells

Read from the sources of these versions: memax 0.1.1, memorax 1.0.1, torchrecurrent 0.2.5 and what its
repository has beyond it, RecurrentLayers.jl and LuxRecurrentLayers.jl (2026-03), ncps 1.0.1, xlstm 2.0.6,
rnn-jax 0.0.2, Keras 3.15, PyTorch 2.13, Flax 0.12.8, Haiku 0.0.17, Equinox 0.13.8, recurrentgemma 1.0.1,
haste (2023-07), TensorFlow Addons (2024-04), Praxis, Sonnet 2, MXNet Gluon, flashrnn 1.0.8, ONNX opset 22,
popgym 1.0.7. Attention over a window, which memax and memorax list beside their cells, is no recurrence.
"""

import functools
import inspect
import statistics

import jax

import jrnn

ZOO = {  # torchrecurrent and RecurrentLayers.jl, which have one author
    "AntisymmetricRNN": "AntisymmetricRNN(4)",
    "GatedAntisymmetricRNN": "AntisymmetricRNN(4, gated=True)",
    "ATR": "ATR(4)",
    "BR": "BRC(4)",
    "NBR": "NBRC(4)",
    "CFN": "CFN(4)",
    "coRNN": "CoRNN(4)",
    "FastGRNN": "FastGRNN(4)",
    "FastRNN": "FastRNN(4)",
    "IndRNN": "IndRNN(4)",
    "IntersectionRNN": "IntersectionRNN(4)",
    "JANET": "JANET(4)",
    "LEM": "LEM(4)",
    "LiGRU": "LiGRU(4)",
    "LightRU": "LightRU(4)",
    "MCLSTM": "MemoryControllerLSTM(4)",
    "MGU": "MGU(4)",
    "MinimalRNN": "MinimalRNN(4)",
    "MiRU1": "MiRU(4)",
    "MiRU2": "MiRU(4, reset=0.5)",
    "MultiplicativeLSTM": "MultiplicativeLSTM(4)",
    "MUT1": "MUT1(4)",
    "MUT2": "MUT2(4)",
    "MUT3": "MUT3(4)",
    "NAS": "NASCell(4)",
    "OriginalLSTM": "LSTM1997(4)",
    "PeepholeLSTM": 'LSTMVariant(4, peepholes="diagonal")',
    "RAN": "RAN(4)",
    "SCRN": "SCRN(4)",
    "SGRN": "SGRN(4)",
    "STAR": "STAR(4)",
    "TRNN": "TRNN(4)",
    "TGRU": "TGRU(4)",
    "TLSTM": "TLSTM(4)",
    "UGRNN": "UGRNN(4)",
    "UnICORNN": "UnICORNN(4)",
    "WMCLSTM": "WMCLSTM(4)",
    "SGU": "SGU(4)",
    "DSGU": "SGU(4, deep=True)",
    "ResLSTM": "ResidualLSTM(4)",
    "tauGRU": "TauGRU(4)",
    "RHN": "RHN(4)",
}
BASIC_GATED = {"LSTM": "LSTM(4)", "GRU": "GRU(4)"}
BASIC = BASIC_GATED | {"RNN": "Elman(4)"}

PEERS = {
    "memax": {
        "Elman": "Elman(4)",
        "GRU": "GRU(4)",
        "LSTM": "LSTM(4)",
        "MGU": "MGU(4)",
        "Spherical": "SphericalRNN(4)",
        "PSpherical": "SphericalRNN(4)",
        "DeltaNet": "DeltaNet(4)",
        "DeltaProduct": "DeltaProduct(4)",
        "GatedDeltaNet": "GatedDeltaNet(4)",
        "FART": "LinearAttention(4)",
        "FFM": "FFM(4)",
        "FWP": "FastWeights(4)",
        "LinearRecurrent": 'IndRNN(4, activation="identity")',
        "LRU": "LRU(4)",
        "S6": "S6(4)",
        "Stack": "Window(3, 4)",
        "MLP": "Dense(4)",
        "NMax": "NMax(4)",
        "DLSE": "DLSE(4)",
    },
    "memorax": {
        "FFMCell": "FFM(4)",
        "LinearAttentionCell": "LinearAttention(4)",
        "LRUCell": "LRU(4)",
        "MambaCell": "Mamba2(4)",
        "MinGRUCell": "MinGRU(4)",
        "mLSTMCell": "MLSTM(4)",
        "S5Cell": "S5(4)",
        "SHMCell": "SHM(4)",
        "sLSTMCell": "SLSTM(4)",
        "RTUCell": "RTU(4)",
    },
    "torchrecurrent": ZOO
    | {
        "eLSTM": "ELSTM(4)",
        "LipschitzRNN": "LipschitzRNN(4)",
        "PLRNN": "PLRNN(4)",
        "SRNN": "ShufflingRNN(4)",
        "suRNN": "SelectiveUpdateRNN(4)",
        "MGU1": 'MGU(4, gate="hb")',
        "MGU2": 'MGU(4, gate="h")',
        "MGU3": 'MGU(4, gate="b")',
    },
    "RecurrentLayers.jl": ZOO
    | {
        "Multiplicative": "Multiplicative(GRU(4))",
        "FastSlow": "FastSlow((GRU(4), GRU(4)), GRU(4))",
        "Dilated": "Dilated(GRU(4), 2)",
        "StackedRNN": "Stack((GRU(4), GRU(4)))",
        "independent_recurrence": 'Reparametrize(GRU(4), "w_hh", Diagonal())',
        "integration_mode": "MultiplicativeIntegration(GRU(4))",
    },
    "ncps": {
        "LTC": "LTC(4)",
        "CfC": "CfC(4)",
        "WiredCfC": "CfC(8, wiring=NCP(4))",
        "mixed_memory": "MixedMemory(CfC(4))",
    },
    "xlstm": {"sLSTM": "SLSTM(4)", "mLSTM": "MLSTM(4)"},
    "rnn-jax": {
        "ElmanRNN": "Elman(4)",
        "IndRNN": "IndRNN(4)",
        "AntiSymmetricRNN": "AntisymmetricRNN(4)",
        "LongShortTermMemory": "LSTM(4)",
        "GatedRecurrentUnit": "GRU(4)",
        "CoupledOscillatoryRNN": "CoRNN(4)",
        "heterogeneous": "HeterogeneousCoRNN(4)",
        "UnitaryEvolutionRNN": "UnitaryRNN(4)",
        "FullCapacityUnitaryRNN": "FullUnitaryRNN(4)",  # announced, empty there
        "LipschitzRNN": "LipschitzRNN(4)",
        "ClockWorkRNN": "ClockworkRNN(4)",
        "LinearRecurrentUnit": "LRU(4)",
        "SimplifiedStateSpace": "S5(4)",
        "ReservoirComputer": "EchoState(4)",
    },
    "keras": {"SimpleRNN": "Elman(4)", "LSTM": "LSTM(4)", "GRU": "GRU(4)", "ConvLSTM": "ConvLSTM(4)"},
    "torch": BASIC | {"LSTM(proj_size)": "LSTMVariant(4, projection=2)"},
    "flax": {
        "SimpleCell": "Elman(4)",
        "LSTMCell": "LSTM(4)",
        "OptimizedLSTMCell": "LSTM(4)",
        "GRUCell": "GRU(4)",
        "MGUCell": "MGU(4)",
        "ConvLSTMCell": "ConvLSTM(4)",
    },
    "haiku": {
        "VanillaRNN": "Elman(4)",
        "LSTM": "LSTM(4)",
        "GRU": "GRU(4, reset_after=False)",
        "ConvNDLSTM": "ConvLSTM(4)",
        "DeepRNN": "Stack((GRU(4), GRU(4)))",
        "deep_rnn_with_skip_connections": "SkipStack((GRU(4), GRU(4)))",
        "IdentityCore": 'Map("identity", 4)',
    },
    "equinox": {"LSTMCell": "LSTM(4)", "GRUCell": "GRU(4)"},
    "recurrentgemma": {
        "RGLRU": "RGLRU(4)",
        "RGLRU(only_real=False)": "RGLRU(4, complex=True)",
        "Conv1D": "ShortConv(4)",
    },
    "haste": BASIC_GATED
    | {
        "IndRNN": "IndRNN(4)",
        "LayerNormLSTM": "LayerNormLSTM(4)",
        "LayerNormGRU": "LayerNormGRU(4)",
        "LayerNormIndRNN": "IndRNN(4, norm=True)",
        "zoneout": "Zoneout(LSTM(4), rates=(0.1, 0.1))",
    },
    "TF Addons": {
        "NASCell": "NASCell(4)",
        "LayerNormLSTMCell": "LayerNormLSTM(4)",
        "LayerNormSimpleRNNCell": "LayerNormElman(4)",
        "PeepholeLSTMCell": 'LSTMVariant(4, peepholes="diagonal")',
        "ESNCell": "EchoState(4)",
        "AttentionWrapper(LuongAttention)": "LuongAttention(LSTM(4), attention.General(), 4, 4)",
        "AttentionWrapper(BahdanauAttention)": "BahdanauAttention(LSTM(4), attention.Additive(4), 4)",
    },
    "Praxis": {
        "LstmCellSimple": "LSTM(4)",
        "LstmCellSimple(num_hidden_nodes)": "LSTMVariant(4, projection=2)",
        "LstmCellSimple(zo_prob)": "Zoneout(LSTM(4), rates=(0.1, 0.1))",
        "CifgLstmCellSimple": "LSTMVariant(4, coupled=True)",
        "LayerNormalizedLstmCellSimple": "LayerNormLSTM(4)",
        "StackFrnn": "Stack((LSTM(4), LSTM(4)))",
        "StackBiFrnn": "Bidirectional(LSTM(4))",
    },
    "Sonnet": {
        "VanillaRNN": "Elman(4)",
        "LSTM": "LSTM(4)",
        "LSTM(projection_size)": "LSTMVariant(4, projection=2)",
        "lstm_with_recurrent_dropout": "Dropout(LSTM(4), state=0.1)",
        "GRU": "GRU(4, reset_after=False)",
        "CuDNNGRU": "GRU(4)",
        "DeepRNN": "Stack((GRU(4), GRU(4)))",
        "deep_rnn_with_skip_connections": "SkipStack((GRU(4), GRU(4)))",
        "deep_rnn_with_residual_connections": "Stack((Residual(GRU(4)), Residual(GRU(4))))",
        "TrainableState": "LearnedCarry(GRU(4))",
    }
    | {f"Conv{n}DLSTM": f"ConvLSTM(4, spatial={n})" for n in (1, 2, 3)},
    "Gluon": BASIC
    | {
        "LSTMPCell": "LSTMVariant(4, projection=2)",
        "SequentialRNNCell": "Stack((GRU(4), GRU(4)))",
        "DropoutCell": "Dropout(GRU(4), output=0.1)",
        "VariationalDropoutCell": "Dropout(GRU(4), input=0.1, state=0.1, output=0.1)",
        "ZoneoutCell": "Zoneout(GRU(4), rates=(0.1,))",
        "ResidualCell": "Residual(GRU(4))",
        "BidirectionalCell": "Bidirectional(GRU(4))",
    }
    | {
        f"Conv{n}D{kind}Cell": f"Conv{kind}(4, spatial={n})"
        for kind in ("RNN", "LSTM", "GRU")
        for n in (1, 2, 3)
    },
    "flashrnn": {"elman": "Elman(4)", "lstm": "LSTM(4)", "gru": "GRU(4)", "slstm": "SLSTM(4)"},
    "ONNX": BASIC
    | {
        "LSTM(P)": 'LSTMVariant(4, peepholes="diagonal")',
        "LSTM(input_forget)": "LSTMVariant(4, coupled=True)",
        "LSTM(clip)": "LSTMVariant(4, clip=1.0)",
        "GRU(linear_before_reset=0)": "GRU(4, reset_after=False)",
    },
    "popgym": {
        "Elman": "Elman(4)",
        "GRU": "GRU(4)",
        "LSTM": "LSTM(4)",
        "IndRNN": "IndRNN(4)",
        "LMU": "LMU(4)",
        "FastWeightProgrammer": "LinearAttention(4)",
        "LinearAttention": "LinearAttention(4)",
        "S4D": "S4D(4)",
        "DiffNC": "DNC(4)",
        "Framestack": "Window(3, 4)",
        "Frameconv": "ShortConv(4)",
    },
}
ALONE = {  # cells that no test of `tests/test_peer*.py` compares with those of another library, and why
    "no recurrence": "Dense Embed Map Norm ShortConv Window",
    "in no library that is known to us": """FastWeights FullUnitaryRNN GRUD GRUODE GridLSTM HyperLSTM Jordan
        LeakyRNN MinLSTM MogrifierLSTM ODERNN ONLSTM OrthogonalRNN PhasedLSTM QRNN TreeLSTM""",
    "in torchrecurrent's repository, not in its wheel": "ELSTM PLRNN SelectiveUpdateRNN ShufflingRNN",
    "in memorax' repository, not in its wheel": "RTU",
    "in XMA, the library of its authors, which is not on PyPI": "M2RNN",
    "in torchrecurrent h reads the last z, not the new one": "LEM",
    "in torchrecurrent the fourth relu is of a sum, in the paper of a product": "NASCell",
    "in torchrecurrent a read-out stands within the recurrence": "SCRN",
    "in memorax in log space, which makes the candidate positive": "MinGRU",
    "in rnn-jax a reflection of h has 1 in the place of h": "UnitaryRNN",
    "in rnn-jax γ is a number that is subtracted, not a multiple of I": "LipschitzRNN",
    "in rnn-jax, which needs torchvision and reservoirpy": "ClockworkRNN HeterogeneousCoRNN",
    "in RecurrentLayers.jl, for Julia": "RHN",
    "in TensorFlow Addons, Gluon or haste, all abandoned": """LayerNormElman LayerNormGRU LayerNormLSTM
        ConvGRU ConvRNN""",
    "not yet, in memax": "SphericalRNN",
    "not yet, in keras-lmu, which needs TensorFlow": "LMU",
    "not yet, in reservoirpy": "EchoState",
    "not yet, in sru, which is compiled for CUDA": "SRU",
    "not yet, in neuralhydrology": "MassConservingLSTM",
}
BEFORE = 78  # cells and combinators before there were matrix states and liquid cells
NAMES = {name: getattr(jrnn, name) for name in jrnn.__all__}


def missing(names):
    """The names of a peer's cells for which jrnn has none: what they are here cannot be initialized."""
    return [theirs for theirs, ours in names.items() if not built(ours)]


def built(expression):
    try:
        cell = eval(expression, dict(NAMES))
        jax.eval_shape(functools.partial(cell.init, in_features=4), jax.random.key(0))
    except (AttributeError, NameError, TypeError, ValueError):
        return False
    return True


def steps():
    """Every public class with a step of its own, and the number of lines of that step."""
    cells = {name: value for name, value in NAMES.items() if inspect.isclass(value) and name != "Cell"}
    cells = {name: cell for name, cell in cells.items() if {"initial_carry", "step"} <= set(dir(cell))}
    return {name: _lines(cell.step) for name, cell in cells.items()}


def _lines(function):
    source, _ = inspect.getsourcelines(inspect.unwrap(function))
    return sum(not line.lstrip().startswith("@") for line in source)


def main():
    print(f"{'library':20} {'cells':>5}  jrnn lacks")
    for library, names in PEERS.items():
        lacking = missing(names)
        print(f"{library:20} {len(names):5}  {', '.join(lacking) or '–'}")
    lines = steps()
    longest = max(lines, key=lines.get)
    print(f"cells and combinators: {BEFORE} before, {len(lines)} now")
    print(
        f"lines of a step: {statistics.median(lines.values()):g} in the median, {lines[longest]} in {longest}"
    )


if __name__ == "__main__":
    main()
