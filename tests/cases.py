"""The one list of every public cell and combinator; sizes are pairwise distinct."""

from typing import Any, NamedTuple

import jax

import jrnn


class Case(NamedTuple):
    """A cell, the width it is tested at, how its inputs are drawn, what it is exempt from and why."""

    cell: Any
    in_features: int
    inputs: Any = None
    exempt: tuple[str, ...] = ()


def fed(key, lead):
    """`(given, use_given)` for a loop of 4 features."""
    given, use = jax.random.split(key)
    return jax.random.normal(given, (*lead, 4)), jax.random.bernoulli(use, 0.5, lead)


def words(key, lead):
    """`(given, use_given)` for a loop of 6 tokens."""
    given, use = jax.random.split(key)
    return jax.random.randint(given, lead, 0, 6), jax.random.bernoulli(use, 0.5, lead)


def driven(key, lead):
    """`(given, use_given, external)` for a loop of 4 features beside 2 others."""
    rest, external = jax.random.split(key)
    return *fed(rest, lead), jax.random.normal(external, (*lead, 2))


CASES = [
    Case(jrnn.Elman(4), 2),
    Case(jrnn.Elman(4, activation="relu", recurrent_init="identity"), 2),
    Case(jrnn.Elman(4, activation="sigmoid"), 2),
    Case(jrnn.Elman(4, activation="identity"), 2),
    Case(jrnn.Jordan(4, outputs=6), 2),
    Case(jrnn.LSTM(4), 2),
    Case(jrnn.LSTM(4, max_lag=20), 2),
    Case(jrnn.GRU(4), 2),
    Case(jrnn.GRU(4, reset_after=False), 2),
    Case(jrnn.Dense(4, activation="tanh"), 2),
    Case(jrnn.Embed(4), 6),
    Case(jrnn.Stack((jrnn.Embed(4), jrnn.LSTM(7), jrnn.Dense(6)), dropout=0.5), 8),
    Case(jrnn.Residual(jrnn.GRU(4)), 4),
    Case(jrnn.Project(jrnn.LSTM(4), 6), 2),
    Case(jrnn.Dropout(jrnn.LSTM(4), input=0.5, state=0.5, output=0.5), 2),
    Case(jrnn.Zoneout(jrnn.LSTM(4), rates=(0.1, 0.5)), 2),
    Case(jrnn.LearnedCarry(jrnn.LSTM(4)), 2),
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
    Case(jrnn.Tap(jrnn.LSTM(4), ("i", "f")), 2),
    Case(jrnn.Tap(jrnn.GRU(4)), 2),
]
