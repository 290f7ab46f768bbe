"""A window on the past, and the networks on one: Window, ShortConv, NARX."""

from functools import partial

import numpy as np

import jrnn
from tests.entries import HIDDEN, IN, OUT, Case, Comparison, Entry
from tests.references import FUNCTIONS, silu, tanh, times


def window(p, carry, x, k=1):
    """A tapped delay line: the input and its `k` predecessors, newest first; no parameters."""
    taps = (x, *carry)
    assert len(taps) == k + 1
    return taps[:k], np.concatenate(taps, axis=-1)


LAGS = 2, 0, 1  # of every feature of x


def windows(p, carry, x):
    """A window of its own on every feature."""
    slices = zip(carry, np.split(x, IN, axis=-1), LAGS, strict=True)
    pasts, ys = zip(*(window(p, past, part, k) for past, part, k in slices), strict=True)
    return pasts, np.concatenate(ys, axis=-1)


def unpack_nothing(p):
    return {}


def first(carry):
    """The past of all features, where they share a window."""
    return carry[0]


Window = Entry(
    laws=[Case(jrnn.Window(3, 2), 2)],
    values={
        "Window-0": Comparison(jrnn.Window(0, IN), partial(window, k=0), unpack_nothing, theirs=first),
        "Window-2": Comparison(jrnn.Window(2, IN), partial(window, k=2), unpack_nothing, theirs=first),
        "Window-each": Comparison(jrnn.Window(LAGS, (1,) * IN), windows, unpack_nothing),
    },
    counts=lambda i, h: {jrnn.Window(7, i): 0},
)


def short_conv(p, past, x, f=silu):
    """A filter for each feature, newest first."""
    taps = (x, *past)
    return taps[:-1], f(sum(w * tap for w, tap in zip(p["w"], taps, strict=True)) + p["b"])


ShortConv = Entry(
    laws=[Case(jrnn.ShortConv(4, k=2), 4)],
    values={
        f"ShortConv-{k}": Comparison(
            jrnn.ShortConv(IN, k=k, activation=name),
            partial(short_conv, f=f),
            lambda p: {"w": p.w, "b": p.b},
            theirs=first,
        )
        for k, name, f in ((0, "tanh", tanh), (3, "silu", silu))
    },
    counts=lambda i, h: {jrnn.ShortConv(i): 4 * i + i},
)


def finite_response(p, past, x, f=tanh):
    """A perceptron with one hidden layer f on the input and those before it, newest first."""
    taps = (x, *past)
    h = f(sum(times(p[f"W{lag}"], tap) for lag, tap in enumerate(taps)) + p["b"])
    return taps[:-1], times(p["V"], h) + p["c"]


def narx(p, carry, x, f=tanh):
    """Lin et al. 1996: a finite-response model that also sees past outputs, given ones or its own.

    The past of y starts with the model's own last output; further back stands what was read there.
    """
    past_x, (own, *past_y) = carry
    given, use_given, external = x
    xs = (external, *past_x)
    ys = (np.where(np.expand_dims(use_given, -1), given, own), *past_y)
    a = sum(times(p[f"W{lag}"], tap) for lag, tap in enumerate(xs))
    a = a + sum(times(p[f"U{lag}"], tap) for lag, tap in enumerate(ys, start=1))
    y = times(p["V"], f(a + p["b"])) + p["c"]
    return (xs[:-1], (y, *ys[:-1])), y


def unpack_two_layers(inputs, outputs=0):
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


def taps(carry):
    """The carry of NARX: past inputs, and past outputs with its own last one before them."""
    past_x, past_y = carry.cell.cells[0]
    return past_x, (carry.y, *past_y)


def steered(rng, lead):
    """`(given, use_given, external)` of the laws: 3 outputs and 2 inputs."""
    return rng.standard_normal((*lead, 3)), rng.random(lead) < 0.5, rng.standard_normal((*lead, 2))


def driven(rng, lead):
    """The same of the values: OUT outputs and IN inputs."""
    return rng.normal(size=(*lead, OUT)), rng.random(lead) < 0.4, rng.normal(size=(*lead, IN))


def compared(inputs, outputs, name="tanh"):
    """NARX of so many past inputs and outputs."""
    cell = jrnn.NARX(HIDDEN, outputs=OUT, input_lags=inputs, output_lags=outputs, activation=name)
    unpack, f = unpack_two_layers(inputs, outputs), FUNCTIONS[name]
    if outputs:
        return Comparison(cell, partial(narx, f=f), unpack, inputs=driven, theirs=taps)
    return Comparison(cell, partial(finite_response, f=f), unpack, theirs=lambda carry: carry.cells[0][0])


NARX = Entry(
    laws=[
        Case(jrnn.NARX(4, outputs=3, input_lags=2, output_lags=2), 2, steered),
        Case(jrnn.NARX(4, outputs=3, input_lags=2, output_lags=0), 2),
    ],
    values={
        "NARX-0-1": compared(0, 1),
        "NARX-2-3": compared(2, 3, "softplus"),
        "NARX-2-0": compared(2, 0),
    },
    counts=lambda i, h: {
        jrnn.NARX(h, outputs=2, input_lags=2, output_lags=4): h * (3 * i + 4 * 2) + h + h * 2 + 2,
        jrnn.NARX(h, outputs=2, input_lags=2, output_lags=0): h * 3 * i + h + h * 2 + 2,
    },
)
