"""The one list of everything that the laws are checked over: every cell, and every combinator."""

import functools
import os
import zlib

import jax

import jrnn
from jrnn.cell import carry_spec, is_linear, structure_of
from jrnn.testing.subject import Subject, default_inputs
from tests.attending import Attending
from tests.cells import ENTRIES
from tests.entries import Case, irregular


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


LANGUAGE = jrnn.Stack((jrnn.Embed(4), jrnn.GRU(4), jrnn.Dense(6)))

COMBINATORS = [
    Case(jrnn.Stack((jrnn.Embed(4), jrnn.LSTM(7), jrnn.Dense(6)), dropout=0.5), 8),
    Case(jrnn.Stack((jrnn.MinGRU(4), jrnn.Dense(7, activation="tanh"), jrnn.QRNN(3, window=2))), 2),  # linear
    Case(jrnn.Stack((jrnn.GRU(4), jax.nn.softplus, jrnn.Dense(3, bias=False))), 2),
    Case(jrnn.Residual(jrnn.GRU(4)), 4),
    Case(jrnn.Residual(jrnn.Stack((jrnn.Dense(4), jrnn.CfC(6), jrnn.MGU(4), jrnn.S5(3)))), 3, irregular),
    Case(jrnn.Gated(jrnn.GRU(4)), 2),
    Case(jrnn.Block(jrnn.GLA(4, heads=2), k=2), 4),
    Case(jrnn.Skip(jrnn.GRU(4), 2), 2),
    Case(jrnn.Skip(jrnn.MinGRU(4), 2), 2),  # linear
    Case(jrnn.SkipStack((jrnn.GRU(4), jrnn.Dense(6), jrnn.Elman(7))), 2),
    Case(jrnn.Dilated(jrnn.LSTM(4), 2), 2),
    # u passes ½ by a step, whose derivative is taken to be 1; its gradient: tests/test_pacing.py
    Case(jrnn.SkipRNN(jrnn.LSTM(4)), 2, exempt=("gradients",)),
    Case(jrnn.FastSlow((jrnn.GRU(4),) * 3, jrnn.LSTM(7)), 2),
    Case(jrnn.Multiplicative(jrnn.LSTM(4)), 2),
    Case(jrnn.MultiplicativeIntegration(jrnn.LSTM(4)), 2),
    Case(jrnn.MultiplicativeIntegration(jrnn.TauGRU(4, delay=1)), 2),
    Case(jrnn.MixedMemory(jrnn.CfC(4)), 3, irregular),
    Case(jrnn.Project(jrnn.LSTM(4), 6), 2),
    Case(jrnn.Dropout(jrnn.LSTM(4), input=0.5, state=0.5, output=0.5), 2),
    Case(jrnn.Dropout(jrnn.LSTM(4), candidate=0.5), 2),
    Case(jrnn.Reparametrize(jrnn.GRU(4), "w_hh", jrnn.WeightNorm()), 2),
    Case(jrnn.Reparametrize(jrnn.Elman(4), "w_hh", jrnn.SpectralNorm(0.9, iterations=3)), 2),
    Case(jrnn.Reparametrize(jrnn.Stack((jrnn.MGU(4), jrnn.Elman(7))), "w_hh", jrnn.LowRank(3)), 2),
    Case(jrnn.Reparametrize(jrnn.GRU(4), "w_hh", jrnn.Diagonal()), 2),
    Case(jrnn.Reparametrize(jrnn.LSTM(4), "w_hh", jrnn.DropConnect(0.5)), 2),
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

CASES = [*(case for entry in ENTRIES.values() for case in entry.laws), *COMBINATORS]
FIRST = [entry.laws[0] for entry in ENTRIES.values()]
VARIANTS = [case for entry in ENTRIES.values() for case in entry.laws[1:]]


def turn(case, count):
    """Which of `count` parts of a test a case takes, by its name: a new case changes the turn of no other."""
    return zlib.crc32(repr(case.cell).encode()) % count


ALL = "EVERY_CASE" in os.environ  # set before a release: no test is content with a part of the cases


def one_in(count, cases, part=0):
    """One in `count` of the cases; tests with different parts take different ones."""
    return [case for case in cases if ALL or turn(case, count) == part]


def has_state_of_first(variant):
    """Whether an option leaves the state and the linearity of a cell as they are in its first case."""
    first = ENTRIES[type(variant.cell).__name__].laws[0]
    return kind(variant) == kind(first)


@functools.cache
def kind(case):
    """What laws of the state depend on: its structure, slots included, and whether steps are linear."""
    params = jax.eval_shape(lambda key: case.cell.init(key, case.in_features), jax.random.key(0))
    return str(structure_of(carry_spec(case.cell, params))), is_linear(case.cell)
