"""Simple recurrent units: SRU."""

from functools import partial

import numpy as np

import jrnn
from tests.entries import HIDDEN, IN, Case, Comparison, Entry, split
from tests.references import sigmoid, times


def sru(p, c, x, recurrent=True, scale=3**0.5):
    """Lei et al. 2018, the version of EMNLP: gates see the cell through vectors v, then a highway past it.

    The highway is x itself, scaled, or a product of its own with x.
    """
    skip = times(p["Wx"], x) if "Wx" in p else scale * x
    forget = times(p["Wf"], x) + p["bf"]
    reset = times(p["Wr"], x) + p["br"]
    if recurrent:
        forget = forget + p["vf"] * c
        reset = reset + p["vr"] * c
    forget, reset = sigmoid(forget), sigmoid(reset)
    c = forget * c + (1 - forget) * times(p["W"], x)
    h = reset * c + (1 - reset) * skip
    return c, h


def unpack_sru(p):
    weights = split(p.w_ih, "W", ("f", "r", "")) | split(p.b, "b", "fr")
    weights |= {} if p.v is None else split(p.v, "v", "fr")
    return weights if p.w_ix is None else weights | {"Wx": p.w_ix.T}


OPTIONS = {"SRU": {}, "SRU-linear": {"recurrent": False}, "SRU-bias": {"highway_bias": -1.5}}


SRU = Entry(
    laws=[Case(jrnn.SRU(4), 2), Case(jrnn.SRU(4, recurrent=False), 4)],
    values={
        f"{name}-{width}": Comparison(
            jrnn.SRU(HIDDEN, **options),
            partial(
                sru,
                recurrent=options.get("recurrent", True),
                scale=np.sqrt(1 + 2 * np.exp(options.get("highway_bias", 0))),
            ),
            unpack_sru,
            width=width,
        )
        for name, options in OPTIONS.items()
        for width in (IN, HIDDEN)
    },
    counts=lambda i, h: {
        jrnn.SRU(h): 3 * i * h + 4 * h + (0 if i == h else i * h),
        jrnn.SRU(h, recurrent=False): 3 * i * h + 2 * h + (0 if i == h else i * h),
    },
)
