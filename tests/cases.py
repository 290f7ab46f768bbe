"""The one list of every public cell and combinator; sizes are pairwise distinct."""

import functools
from typing import Any, NamedTuple

import jax

import jrnn
from jrnn.testing.subject import Subject, default_inputs
from tests.attending import Attending


class Case(NamedTuple):
    """A cell, the width it is tested at, how its inputs are drawn, what it is exempt from and why."""

    cell: Any
    in_features: int
    inputs: Any = None
    exempt: tuple[str, ...] = ()


@functools.cache
def subject_of(case):
    """Parameters moved from their start, drawn once, and inputs, in NumPy; programs that compile quickly."""
    inputs = case.inputs or default_inputs(case.cell, case.in_features)
    return Subject(case.cell, case.in_features, inputs, case.exempt)


def fed(rng, lead):
    """`(given, use_given)` for a loop of 4 features."""
    return rng.standard_normal((*lead, 4)), rng.random(lead) < 0.5


def words(rng, lead):
    """`(given, use_given)` for a loop of 6 tokens."""
    return rng.integers(0, 6, lead), rng.random(lead) < 0.5


def driven(rng, lead):
    """`(given, use_given, external)` for a loop of 4 features beside 2 others."""
    return *fed(rng, lead), rng.standard_normal((*lead, 2))


def fields(*spatial, channels=2):
    """Fields of numbers at places, for convolutions."""
    return lambda rng, lead: rng.standard_normal((*lead, *spatial, channels))


def gaps(rng, lead):
    """`(values, mask, delta)` of 3 series, some values missing."""
    return rng.standard_normal((*lead, 3)), rng.random((*lead, 3)) < 0.6, rng.random((*lead, 3))


def steered(rng, lead):
    """`(given, use_given, external)` for a model of 3 outputs and 2 inputs."""
    return rng.standard_normal((*lead, 3)), rng.random(lead) < 0.5, rng.standard_normal((*lead, 2))


LANGUAGE = jrnn.Stack((jrnn.Embed(4), jrnn.GRU(4), jrnn.Dense(6)))

CASES = [
    Case(jrnn.Elman(4), 2),
    Case(jrnn.Elman(4, activation="relu", recurrent_init="identity"), 2),
    Case(jrnn.Elman(4, activation="sigmoid"), 2),
    Case(jrnn.Elman(4, activation="identity"), 2),
    Case(jrnn.Elman(4, activation="gelu", bias=False), 2),
    Case(jrnn.Jordan(4, outputs=6), 2),
    Case(jrnn.LSTM(4), 2),
    Case(jrnn.LSTM(4, max_lag=20), 2),
    Case(jrnn.GRU(4), 2),
    Case(jrnn.GRU(4, reset_after=False), 2),
    Case(jrnn.GRU(4, z_keeps=False), 2),
    Case(jrnn.GRU(4, activation="softplus", bias=False, clip=9.0), 2),
    Case(jrnn.LSTM(4, activation="silu", bias=False), 2),
    Case(jrnn.LSTMVariant(4, peepholes="diagonal"), 2),
    Case(jrnn.LSTMVariant(4, peepholes="full", coupled=True, gate_recurrence=True), 2),
    Case(jrnn.LSTMVariant(4, gates="f", projection=3, cell_clip=0.9, output_activation="identity"), 2),
    Case(jrnn.LSTM1997(4, block=2), 3),
    Case(jrnn.LayerNormLSTM(4), 2),
    Case(jrnn.MultiplicativeLSTM(4), 2),
    Case(jrnn.MogrifierLSTM(4, rounds=3), 2),
    Case(jrnn.MogrifierLSTM(6, rounds=2, rank=3), 4),
    Case(jrnn.ConvLSTM(3, spatial=1), 2, fields(5)),
    Case(jrnn.ConvLSTM(3, spatial=1, padding="VALID", strides=2), 2, fields(7)),
    Case(jrnn.ConvGRU(4, spatial=2), 2, fields(5, 3)),
    Case(jrnn.ConvGRU(3, kernel=(1, 3), padding="CIRCULAR", dilation=2), 2, fields(2, 5)),
    Case(jrnn.MGU(4), 2),
    Case(jrnn.UGRNN(4), 2),
    Case(jrnn.JANET(4), 2),
    Case(jrnn.LiGRU(4), 2),
    Case(jrnn.LightRU(4), 2),
    Case(jrnn.SGRN(4), 2),
    Case(jrnn.MUT1(4), 2),
    Case(jrnn.MUT2(4), 2),
    Case(jrnn.MUT3(4), 2),
    Case(jrnn.RAN(4), 2),
    Case(jrnn.ATR(4), 2),
    Case(jrnn.CFN(4), 2),
    Case(jrnn.STAR(4), 2),
    Case(jrnn.MinimalRNN(4), 2),
    Case(jrnn.BRC(4), 2),
    Case(jrnn.NBRC(4), 2),
    Case(jrnn.FastRNN(4), 2),
    Case(jrnn.FastGRNN(4, recurrent_rank=3), 2),
    Case(jrnn.IntersectionRNN(4), 4),
    Case(jrnn.LayerNormGRU(4), 2),
    Case(jrnn.IndRNN(4), 2),
    Case(jrnn.LeakyRNN(4, activation="softplus", noise=0.1), 2),
    Case(jrnn.LeakyRNN(4, activation="tanh", state="potential"), 2),
    Case(jrnn.AntisymmetricRNN(4, epsilon=0.5), 2),
    Case(jrnn.AntisymmetricRNN(4, epsilon=0.5, gated=True), 2),
    Case(jrnn.ClockworkRNN(4, periods=(1, 2)), 2),
    Case(jrnn.SCRN(4, context=7), 2),
    Case(jrnn.RHN(4, depth=2), 2),
    Case(jrnn.RHN(4, depth=2, coupled=False), 2),
    Case(jrnn.NASCell(4), 2),
    Case(jrnn.CoRNN(4, dt=0.5), 2),
    Case(jrnn.UnICORNN(4, dt=0.5), 2),
    Case(jrnn.LEM(4), 2),
    Case(jrnn.OrthogonalRNN(4), 2),
    Case(jrnn.OrthogonalRNN(4, map="cayley", activation="modrelu"), 2),
    Case(jrnn.EchoState(6, density=0.7), 2),
    Case(jrnn.EchoState(6, density=0.7, activation="softsign"), 2),
    Case(jrnn.LMU(4, order=6, theta=9.0), 2),
    Case(jrnn.Window(3, 2), 2),
    Case(jrnn.NARX(4, outputs=3, input_lags=2, output_lags=2), 2, steered),
    Case(jrnn.NARX(4, outputs=3, input_lags=2, output_lags=0), 2),
    Case(jrnn.MinGRU(4), 2),
    Case(jrnn.MinLSTM(4), 2),
    Case(jrnn.LRU(4, outputs=3), 2),
    Case(jrnn.RGLRU(4, heads=2), 4),
    Case(jrnn.SRU(4), 2),
    Case(jrnn.SRU(4, recurrent=False), 4),
    Case(jrnn.QRNN(4, window=3), 2),
    Case(jrnn.QRNN(4, window=1, pooling="ifo"), 2),
    Case(jrnn.TRNN(4), 2),
    Case(jrnn.TGRU(4), 2),
    Case(jrnn.TLSTM(4), 2),
    Case(jrnn.SLSTM(4, heads=2), 3),
    Case(jrnn.MLSTM(4, heads=2), 3),
    Case(jrnn.GRUD(4), 3, gaps),
    Case(jrnn.Dense(4, activation="tanh"), 2),
    Case(jrnn.Map("softsign", 4), 4),
    Case(jrnn.Embed(4), 6),
    Case(jrnn.Stack((jrnn.Embed(4), jrnn.LSTM(7), jrnn.Dense(6)), dropout=0.5), 8),
    Case(jrnn.Stack((jrnn.MinGRU(4), jrnn.Dense(7, activation="tanh"), jrnn.QRNN(3, window=2))), 2),  # linear
    Case(jrnn.Stack((jrnn.GRU(4), jax.nn.softplus, jrnn.Dense(3, bias=False))), 2),
    Case(jrnn.Residual(jrnn.GRU(4)), 4),
    Case(jrnn.Skip(jrnn.GRU(4), 2), 2),
    Case(jrnn.Skip(jrnn.MinGRU(4), 2), 2),  # linear
    Case(jrnn.Project(jrnn.LSTM(4), 6), 2),
    Case(jrnn.Dropout(jrnn.LSTM(4), input=0.5, state=0.5, output=0.5), 2),
    Case(jrnn.Dropout(jrnn.LSTM(4), candidate=0.5), 2),
    Case(jrnn.Reparametrise(jrnn.GRU(4), "w_hh", jrnn.WeightNorm()), 2),
    Case(jrnn.Reparametrise(jrnn.Elman(4), "w_hh", jrnn.SpectralNorm(0.9, iterations=3)), 2),
    Case(jrnn.Reparametrise(jrnn.Stack((jrnn.MGU(4), jrnn.Elman(7))), "w_hh", jrnn.LowRank(3)), 2),
    Case(jrnn.Reparametrise(jrnn.GRU(4), "w_hh", jrnn.Diagonal()), 2),
    Case(jrnn.Reparametrise(jrnn.LSTM(4), "w_hh", jrnn.DropConnect(0.5)), 2),
    Case(jrnn.Tie(LANGUAGE, "0.table", "2.w", transposed=True), 6),
    Case(jrnn.Tie(jrnn.Stack((jrnn.GRU(4), jrnn.GRU(4))), "0", "1"), 4),
    Case(jrnn.Zoneout(jrnn.LSTM(4), rates=(0.1, 0.5)), 2),
    Case(jrnn.LearnedCarry(jrnn.LSTM(4)), 2),
    Case(jrnn.ClipGradient(jrnn.LSTM(4), max_norm=1e6), 2),  # where it clips: tests/test_clipping.py
    # the step computes in the dtype that Cast says: outputs do not follow the dtype of params, and finite
    # differences in x64 see float32 rounding; tests/test_combinators.py has its dtypes and gradients
    Case(
        jrnn.Cast(jrnn.GRU(4), compute="float32", carry="float32"),
        2,
        exempt=("dtypes are kept", "gradients", "transforms"),
    ),
    Case(jrnn.Feedback(jrnn.Stack((jrnn.Elman(7), jrnn.Dense(4)))), 4, fed),
    Case(jrnn.Feedback(jrnn.Stack((jrnn.GRU(7), jrnn.Dense(4))), emit="softmax"), 6, driven),
    Case(jrnn.Feedback(jrnn.Stack((jrnn.Embed(4), jrnn.GRU(7), jrnn.Dense(6))), emit="argmax"), 6, words),
    Case(Attending(jrnn.BahdanauAttention(jrnn.GRU(4), jrnn.attention.Additive(6), 11), 11), 2),
    Case(Attending(jrnn.LuongAttention(jrnn.LSTM(4), jrnn.attention.General(), 11, 6), 11), 2),
    Case(jrnn.Tap(jrnn.LSTM(4), ("i", "f")), 2),
    Case(jrnn.Tap(jrnn.GRU(4)), 2),
]
