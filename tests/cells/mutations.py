"""The mutants of an architecture search: MUT1, MUT2, MUT3."""

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, gate, split
from tests.references import sigmoid, tanh, times


def unpack_mut(on_x, on_h):
    def unpack(p):
        weights = split(p.w_ih, "W", on_x) | split(p.w_hh, "U", on_h) | split(p.b, "b", ("z", "r", ""))
        return weights if p.w_ix is None else weights | {"Wp": p.w_ix.T}

    return unpack


def compared(cell, step, unpack, square=True):
    """At two widths: where x is as wide as h, it needs no matrix to enter bare."""
    name = type(cell).__name__
    values = {name: Comparison(cell, step, unpack)}
    return values | ({f"{name}-square": Comparison(cell, step, unpack, width=HIDDEN)} if square else {})


def mut1(p, h, x):
    """Jozefowicz et al. 2015: z sees x alone, and tanh(x) enters the candidate as it is."""
    bare = times(p["Wp"], x) if "Wp" in p else x
    update = sigmoid(times(p["Wz"], x) + p["bz"])
    reset = sigmoid(times(p["Wr"], x) + times(p["Ur"], h) + p["br"])
    candidate = tanh(times(p["U"], reset * h) + tanh(bare) + p["b"])
    h = candidate * update + h * (1 - update)
    return h, h


MUT1 = Entry(
    laws=[Case(jrnn.MUT1(4), 2)],
    values=compared(jrnn.MUT1(HIDDEN), mut1, unpack_mut("zr", ("r", ""))),
    counts=lambda i, h: {  # the papers need i = h
        jrnn.MUT1(h): 2 * i * h + 2 * h**2 + 3 * h + (0 if i == h else i * h)
    },
)


def mut2(p, h, x):
    """Jozefowicz et al. 2015: x enters the reset gate as it is."""
    bare = times(p["Wp"], x) if "Wp" in p else x
    update = sigmoid(times(p["Wz"], x) + times(p["Uz"], h) + p["bz"])
    reset = sigmoid(bare + times(p["Ur"], h) + p["br"])
    candidate = tanh(times(p["U"], reset * h) + times(p["W"], x) + p["b"])
    h = candidate * update + h * (1 - update)
    return h, h


MUT2 = Entry(
    laws=[Case(jrnn.MUT2(4), 2)],
    values=compared(jrnn.MUT2(HIDDEN), mut2, unpack_mut(("z", ""), ("z", "r", ""))),
    counts=lambda i, h: {jrnn.MUT2(h): 2 * i * h + 3 * h**2 + 3 * h + (0 if i == h else i * h)},
)


def mut3(p, h, x):
    """Jozefowicz et al. 2015: z sees tanh(h)."""
    update = sigmoid(times(p["Wz"], x) + times(p["Uz"], tanh(h)) + p["bz"])
    reset = sigmoid(times(p["Wr"], x) + times(p["Ur"], h) + p["br"])
    candidate = tanh(times(p["U"], reset * h) + times(p["W"], x) + p["b"])
    h = candidate * update + h * (1 - update)
    return h, h


MUT3 = Entry(
    laws=[Case(jrnn.MUT3(4), 2)],
    values=compared(jrnn.MUT3(HIDDEN), mut3, unpack_mut(("z", "r", ""), ("z", "r", "")), square=False),
    counts=lambda i, h: {jrnn.MUT3(h): 3 * gate(i, h)},
)
