"""Cells with one gate: MGU, UGRNN, JANET, LiGRU, LightRU, SGRN, MiRU."""

from functools import partial

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, gate, packed, split
from tests.references import relu, sigmoid, tanh, times


def mgu(p, h, x, gate="xhb"):
    """Zhou et al. 2016: one gate both resets and updates, and weighs the candidate.

    Heck & Salem 2017: the gate without the input, the bias, or both the input and the state.
    """
    parts = {"x": lambda: times(p["Wf"], x), "h": lambda: times(p["Uf"], h), "b": lambda: p["bf"]}
    forget = sigmoid(sum(parts[name]() for name in gate))
    candidate = tanh(times(p["W"], x) + times(p["U"], forget * h) + p["b"])
    h = (1 - forget) * h + forget * candidate
    return h, h


def unpack_mgu(p):
    named = (("W", p.w_ih), ("U", p.w_hh), ("b", p.b))
    parts = (split(w, letter, ("f", "")[-w.shape[-1] // HIDDEN :]) for letter, w in named)
    return {name: part for found in parts for name, part in found.items()}


MGU = Entry(
    laws=[Case(jrnn.MGU(4), 2), Case(jrnn.MGU(4, gate="b"), 2)],
    values={
        f"MGU-{gate}": Comparison(jrnn.MGU(HIDDEN, gate=gate), partial(mgu, gate=gate), unpack_mgu)
        for gate in ("xhb", "hb", "h", "b")
    },
    counts=lambda i, h: {jrnn.MGU(h): 2 * gate(i, h), jrnn.MGU(h, gate="h"): gate(i, h) + h**2},
)


def ugrnn(p, h, x):
    """Collins et al. 2017: an Elman network whose update is gated; g weighs the past."""
    gate = sigmoid(times(p["Wg"], x) + times(p["Ug"], h) + p["bg"])
    candidate = tanh(times(p["W"], x) + times(p["U"], h) + p["b"])
    h = gate * h + (1 - gate) * candidate
    return h, h


UGRNN = Entry(
    laws=[Case(jrnn.UGRNN(4), 2)],
    values={"UGRNN": Comparison(jrnn.UGRNN(HIDDEN), ugrnn, packed("g", ""))},
    counts=lambda i, h: {jrnn.UGRNN(h): 2 * gate(i, h)},
)


def janet(p, h, x, beta=1):
    """Van der Westhuizen & Lasenby 2018: the forget gate alone; the input is weighed by 1 - σ(s - β)."""
    s = times(p["Wf"], x) + times(p["Uf"], h) + p["bf"]
    candidate = tanh(times(p["Wc"], x) + times(p["Uc"], h) + p["bc"])
    h = sigmoid(s) * h + (1 - sigmoid(s - beta)) * candidate
    return h, h


JANET = Entry(
    laws=[Case(jrnn.JANET(4), 2)],
    values={
        "JANET": Comparison(jrnn.JANET(HIDDEN), janet, packed("f", "c")),
        "JANET-beta": Comparison(jrnn.JANET(HIDDEN, beta=0.4), partial(janet, beta=0.4), packed("f", "c")),
    },
    counts=lambda i, h: {jrnn.JANET(h): 2 * gate(i, h)},
)


def ligru(p, h, x):
    """Ravanelli et al. 2018, without batch normalization: no reset gate, relu; z weighs the past."""
    update = sigmoid(times(p["Wz"], x) + times(p["Uz"], h) + p["bz"])
    candidate = relu(times(p["W"], x) + times(p["U"], h) + p["b"])
    h = update * h + (1 - update) * candidate
    return h, h


LiGRU = Entry(
    laws=[Case(jrnn.LiGRU(4), 2)],
    values={"LiGRU": Comparison(jrnn.LiGRU(HIDDEN), ligru, packed("z", ""))},
    counts=lambda i, h: {jrnn.LiGRU(h): 2 * gate(i, h)},
)


def lightru(p, h, x):
    """Ye et al. 2024: the candidate is of x alone, without bias; f weighs it."""
    forget = sigmoid(times(p["Wf"], x) + times(p["Uf"], h) + p["bf"])
    candidate = tanh(times(p["W"], x))
    h = (1 - forget) * h + forget * candidate
    return h, h


def unpack_light_ru(p):
    return split(p.w_ih, "W", ("", "f")) | {"Uf": p.w_hh.T, "bf": p.b}


LightRU = Entry(
    laws=[Case(jrnn.LightRU(4), 2)],
    values={"LightRU": Comparison(jrnn.LightRU(HIDDEN), lightru, unpack_light_ru)},
    counts=lambda i, h: {jrnn.LightRU(h): 2 * i * h + h**2 + h},
)


def sgrn(p, h, x):
    """Zu & Wei 2021: one matrix W, which makes both the gate and, without the bias, the candidate."""
    from_x = times(p["W"], x)
    forget = sigmoid(from_x + times(p["U"], h) + p["b"])
    h = tanh((1 - forget) * from_x + forget * h)
    return h, h


def unpack_sgrn(p):
    return {"W": p.w_ih.T, "U": p.w_hh.T, "b": p.b}


SGRN = Entry(
    laws=[Case(jrnn.SGRN(4), 2)],
    values={"SGRN": Comparison(jrnn.SGRN(HIDDEN), sgrn, unpack_sgrn)},
    counts=lambda i, h: {jrnn.SGRN(h): gate(i, h)},
)


def miru(p, h, x, keep=0.5, reset=None):
    """Zyarah & Kudithipudi 2025: the update is a coefficient λ, and in version 2 the reset one θ as well."""
    reset = sigmoid(times(p["Wr"], x) + times(p["Ur"], h) + p["br"]) if reset is None else reset
    candidate = tanh(times(p["W"], x) + times(p["U"], reset * h) + p["b"])
    h = keep * h + (1 - keep) * candidate
    return h, h


MiRU = Entry(
    laws=[Case(jrnn.MiRU(4), 2), Case(jrnn.MiRU(4, keep=0.9, reset=0.7), 2)],
    values={
        "MiRU-1": Comparison(jrnn.MiRU(HIDDEN, keep=0.3), partial(miru, keep=0.3), packed("r", "")),
        "MiRU-2": Comparison(
            jrnn.MiRU(HIDDEN, keep=0.3, reset=0.6), partial(miru, keep=0.3, reset=0.6), packed("")
        ),
    },
    counts=lambda i, h: {jrnn.MiRU(h): 2 * gate(i, h), jrnn.MiRU(h, reset=0.5): gate(i, h)},
)
