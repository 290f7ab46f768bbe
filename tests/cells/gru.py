"""GRU, with its reset before or after the product; TauGRU."""

from functools import partial

import numpy as np

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, gate, packed, split
from tests.references import clamp, gelu, sigmoid, softsign, tanh, times


def gru_reset_after(p, h, x, keep=True, f=tanh, clip=np.inf, gate=sigmoid):
    """Cho et al. 2014, arXiv:1406.1078v1, with the biases of cuDNN: r scales U h + d.

    With `keep` z weighs the past, as in that paper; without, the candidate, as in Chung et al. 2014. `clip`
    bounds what `gate` and f are applied to.
    """
    update = gate(clamp(times(p["Wz"], x) + times(p["Uz"], h) + p.get("bz", 0), clip))
    reset = gate(clamp(times(p["Wr"], x) + times(p["Ur"], h) + p.get("br", 0), clip))
    inside = reset * (times(p["U"], h) + p.get("d", 0))
    candidate = f(clamp(times(p["W"], x) + p.get("b", 0) + inside, clip))
    h = update * h + (1 - update) * candidate if keep else (1 - update) * h + update * candidate
    return h, h


def gru_reset_before(p, h, x, keep=True, f=tanh, clip=np.inf, gate=sigmoid):
    """Cho et al. 2014, arXiv:1406.1078v3: r scales h before the product; `keep` as above."""
    update = gate(clamp(times(p["Wz"], x) + times(p["Uz"], h) + p.get("bz", 0), clip))
    reset = gate(clamp(times(p["Wr"], x) + times(p["Ur"], h) + p.get("br", 0), clip))
    candidate = f(clamp(times(p["W"], x) + times(p["U"], reset * h) + p.get("b", 0), clip))
    h = update * h + (1 - update) * candidate if keep else (1 - update) * h + update * candidate
    return h, h


def unpack_gru(p):
    return packed("r", "z", "")(p) | ({} if p.b_hn is None else {"d": p.b_hn})


STEPS = {"after": gru_reset_after, "before": gru_reset_before}
OPTIONS = {  # of ours, of the reference
    "": ({}, {}),
    "-takes": ({"z_keeps": False}, {"keep": False}),
    "-gelu": ({"activation": "gelu"}, {"f": gelu}),
    "-no bias": ({"bias": False}, {}),
    "-clip": ({"clip": 0.9}, {"clip": 0.9}),
    "-softsign gates": ({"gate_activation": "softsign"}, {"gate": softsign}),
}


GRU = Entry(
    laws=[
        Case(jrnn.GRU(4), 2),
        Case(jrnn.GRU(4, reset_after=False), 2),
        Case(jrnn.GRU(4, z_keeps=False), 2),
        Case(jrnn.GRU(4, activation="softplus", bias=False, clip=9.0), 2),
    ],
    values={
        f"GRU-{kind}{name}": Comparison(
            jrnn.GRU(HIDDEN, reset_after=kind == "after", **ours), partial(step, **theirs), unpack_gru
        )
        for kind, step in STEPS.items()
        for name, (ours, theirs) in OPTIONS.items()
    },
    counts=lambda i, h: {
        jrnn.GRU(h): 3 * gate(i, h) + h,  # cuDNN has two biases of every gate, of which this one counts
        jrnn.GRU(h, reset_after=False): 3 * gate(i, h),
        jrnn.GRU(h, bias=False): 3 * (gate(i, h) - h),
    },
)


def tau_gru(p, carry, x):
    """Erichson et al. 2022: a weighs the feedback z of a state `len(past)` steps older than the last one.

    As in torchrecurrent (`tests/test_peer_steps.py`) and RecurrentLayers.jl. There is code that has factors
    Δt, α and β, here 1, and code that computes a from the delayed state, and delays x with it.
    """
    h, past = carry
    g = sigmoid(times(p["W3"], h) + times(p["U3"], x) + p["b3"])
    a = sigmoid(times(p["W4"], h) + times(p["U4"], x) + p["b4"])
    u = tanh(times(p["W1"], h) + times(p["U1"], x) + p["b1"])
    z = tanh(times(p["W2"], past[0]) + times(p["U2"], x) + p["b2"])
    past = [*past[1:], h]
    h = (1 - g) * h + g * (u + a * z)
    return (h, past), h


def unpack_tau_gru(p):
    weights = split(p.w_ih, "U", "3412") | split(p.b, "b", "3412")
    return weights | split(p.w_hh, "W", "341") | {"W2": p.w_lh.T}


TauGRU = Entry(
    laws=[
        Case(jrnn.TauGRU(4, delay=1), 2),
        Case(jrnn.TauGRU(4, delay=3), 2, exempt=("gradients",)),  # which take 3 steps, too few for w_lh
    ],
    values={
        f"TauGRU-{delay}": Comparison(
            jrnn.TauGRU(HIDDEN, delay=delay),
            tau_gru,
            unpack_tau_gru,
            theirs=lambda carry: (carry.h, [*carry.past.swapaxes(0, -2)]),
        )
        for delay in (1, 3)
    },
    counts=lambda i, h: {jrnn.TauGRU(h): 4 * gate(i, h)},
)
