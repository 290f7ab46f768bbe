"""Cells without gates, maps without recurrence, windows on the past."""

from functools import partial

import numpy as np

import jrnn
from tests import references as ref
from tests.values.case import HIDDEN, IN, OUT, VOCABULARY, Case, packed

FUNCTIONS = {
    "tanh": ref.tanh,
    "relu": ref.relu,
    "sigmoid": ref.sigmoid,
    "identity": ref.linear,
    "gelu": ref.gelu,
    "silu": ref.silu,
    "elu": ref.elu,
    "leaky_relu": ref.leaky_relu,
    "softplus": ref.softplus,
    "softsign": ref.softsign,
    "hard_sigmoid": ref.hard_sigmoid,
    "hard_tanh": ref.hard_tanh,
    "scaled_tanh": ref.scaled_tanh,
    "thresholded_relu": ref.thresholded_relu,
}
COMMON = {name: FUNCTIONS[name] for name in ("tanh", "relu", "sigmoid", "identity")}


def jordan(p):
    return {"W": p.w_ih.T, "U": p.w_yh.T, "b": p.b, "V": p.w_hy.T, "c": p.c}


def dense(p):
    return {"W": p.w.T} | ({} if p.b is None else {"b": p.b})


def embed(p):
    return {"E": p.table.T}


def indrnn(p):
    return {"W": p.w_ih.T, "u": p.w_hh, "b": p.b}


def reservoir(p):
    return packed("")(p.fixed)


def nothing(p):
    return {}


def tokens(rng, lead):
    return rng.integers(0, VOCABULARY, lead)


LAGS = 2, 0, 1  # of every feature of x


def windows(p, carry, x):
    """A window of its own on every feature."""
    slices = zip(carry, np.split(x, IN, axis=-1), LAGS, strict=True)
    pasts, ys = zip(*(ref.window(p, past, part, k) for past, part, k in slices), strict=True)
    return pasts, np.concatenate(ys, axis=-1)


def two_layers(inputs, outputs=0):
    """NARX: the rows of w belong to the inputs at every lag, then to the outputs at every lag from 1."""

    def unpack(p):
        _, hidden, last = p
        ends = [IN * lag for lag in range(1, inputs + 2)] + [
            IN * (inputs + 1) + OUT * lag for lag in range(1, outputs)
        ]
        rows = np.split(hidden.w, ends if outputs else ends[:-1])
        names = [f"W{lag}" for lag in range(inputs + 1)] + [f"U{lag}" for lag in range(1, outputs + 1)]
        weights = {name: block.T for name, block in zip(names, rows, strict=True)}
        return weights | {"b": hidden.b, "V": last.w.T, "c": last.b}

    return unpack


def driven(rng, lead):
    """`(given, use_given, external)`."""
    return rng.normal(size=(*lead, OUT)), rng.random(lead) < 0.4, rng.normal(size=(*lead, IN))


def taps(carry):
    """The carry of NARX: past inputs, and past outputs with its own last one before them."""
    past_x, past_y = carry.cell.cells[0]
    return past_x, (carry.y, *past_y)


def narx(inputs, outputs, name="tanh"):
    cell = jrnn.NARX(HIDDEN, outputs=OUT, input_lags=inputs, output_lags=outputs, activation=name)
    unpack, f = two_layers(inputs, outputs), FUNCTIONS[name]
    if outputs:
        return Case(cell, partial(ref.narx, f=f), unpack, inputs=driven, theirs=taps)
    return Case(cell, partial(ref.finite_response, f=f), unpack, theirs=lambda carry: carry.cells[0][0])


def leaky(step, name, **options):
    cell = jrnn.LeakyRNN(HIDDEN, tau=10.0, dt=3.0, activation=name, noise=0.1, **options)
    return Case(cell, partial(step, alpha=0.3, f=FUNCTIONS[name]), packed(""), theirs=lambda carry: carry.h)


CASES = {
    **{
        f"Elman-{name}": Case(jrnn.Elman(HIDDEN, activation=name), partial(ref.elman, f=f), packed(""))
        for name, f in COMMON.items()
    },
    "Jordan": Case(jrnn.Jordan(HIDDEN, outputs=OUT), ref.jordan, jordan),
    "Jordan-relu-sigmoid": Case(
        jrnn.Jordan(HIDDEN, outputs=OUT, activation="relu", output_activation="sigmoid"),
        partial(ref.jordan, f=ref.relu, g=ref.sigmoid),
        jordan,
    ),
    **{
        f"Dense-{name}": Case(jrnn.Dense(OUT, activation=name), partial(ref.dense, f=f), dense)
        for name, f in FUNCTIONS.items()
    },
    "Dense-no bias": Case(jrnn.Dense(OUT, bias=False), ref.dense, dense),
    "Elman-no bias": Case(jrnn.Elman(HIDDEN, bias=False), ref.elman, packed("")),
    "Elman-clip": Case(jrnn.Elman(HIDDEN, clip=0.9), partial(ref.elman, clip=0.9), packed("")),
    **{
        f"Map-{name}": Case(jrnn.Map(name, IN), partial(ref.mapping, f=f), nothing)
        for name, f in COMMON.items()
    },
    "Embed": Case(jrnn.Embed(OUT), ref.embed, embed, width=VOCABULARY, inputs=tokens),
    "IndRNN": Case(jrnn.IndRNN(HIDDEN), ref.indrnn, indrnn),
    "IndRNN-tanh": Case(jrnn.IndRNN(HIDDEN, activation="tanh"), partial(ref.indrnn, f=ref.tanh), indrnn),
    "LeakyRNN-rate": leaky(ref.leaky_rnn, "softplus"),
    "LeakyRNN-potential": leaky(partial(ref.leaky_rnn, potential=True), "tanh", state="potential"),
    "EchoState": Case(jrnn.EchoState(HIDDEN), ref.echo_state, reservoir),
    "EchoState-leak": Case(jrnn.EchoState(HIDDEN, leak=0.3), partial(ref.echo_state, leak=0.3), reservoir),
    "EchoState-relu": Case(
        jrnn.EchoState(HIDDEN, activation="relu"), partial(ref.echo_state, f=ref.relu), reservoir
    ),
    "Window-0": Case(jrnn.Window(0, IN), partial(ref.window, k=0), nothing, theirs=lambda carry: carry[0]),
    "Window-2": Case(jrnn.Window(2, IN), partial(ref.window, k=2), nothing, theirs=lambda carry: carry[0]),
    "Window-each": Case(jrnn.Window(LAGS, (1,) * IN), windows, nothing),
    "NARX-0-1": narx(0, 1),
    "NARX-2-3": narx(2, 3, "softplus"),
    "NARX-2-0": narx(2, 0),
}
