"""MinGRU, MinLSTM, HGRN."""

import numpy as np

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, from_x, read, split
from tests.references import sigmoid, silu, times


def min_gru(p, h, x):
    """Feng et al. 2024: gate and linear candidate of x alone; z weighs the candidate."""
    z = sigmoid(times(p["Wz"], x) + p["bz"])
    candidate = times(p["Wh"], x) + p["bh"]
    h = (1 - z) * h + z * candidate
    return h, h


MinGRU = Entry(
    laws=[Case(jrnn.MinGRU(4), 2)],
    values={"MinGRU": Comparison(jrnn.MinGRU(HIDDEN), min_gru, from_x("z", "h"))},
    counts=lambda i, h: {jrnn.MinGRU(h): 2 * read(i, h)},
)


def min_lstm(p, h, x):
    """Feng et al. 2024: the two gates of x alone are scaled to sum to one."""
    forget_gate = sigmoid(times(p["Wf"], x) + p["bf"])
    input_gate = sigmoid(times(p["Wi"], x) + p["bi"])
    candidate = times(p["Wh"], x) + p["bh"]
    total = forget_gate + input_gate
    h = forget_gate / total * h + input_gate / total * candidate
    return h, h


MinLSTM = Entry(
    laws=[Case(jrnn.MinLSTM(4), 2)],
    values={"MinLSTM": Comparison(jrnn.MinLSTM(HIDDEN), min_lstm, from_x("f", "i", "h"))},
    counts=lambda i, h: {jrnn.MinLSTM(h): 3 * read(i, h)},
)


def hgrn(p, carry, x):
    """Qin et al. 2023, eqs. 1-6: λ = γ + (1 - γ) μ, h = λ exp(iθ) h + (1 - λ) c, gated [Re h, Im h]."""
    re, im = carry
    c_re, c_im = silu(times(p["Wcr"], x) + p["bcr"]), silu(times(p["Wci"], x) + p["bci"])
    low = sigmoid(p["gamma"])
    kept = low + (1 - low) * sigmoid(times(p["Wmu"], x) + p["bmu"])
    cos, sin = np.cos(p["theta"]), np.sin(p["theta"])
    re, im = (
        kept * (cos * re - sin * im) + (1 - kept) * c_re,
        kept * (cos * im + sin * re) + (1 - kept) * c_im,
    )
    gates = [sigmoid(times(p[f"Wg{part}"], x) + p[f"bg{part}"]) for part in "ri"]
    return (re, im), np.concatenate([gates[0] * re, gates[1] * im], axis=-1)


def unpack_hgrn(p):
    names = "cr", "ci", "mu", "gr", "gi"
    return split(p.w_ih, "W", names) | split(p.b, "b", names) | {"theta": p.theta, "gamma": p.low}


HGRN = Entry(
    laws=[Case(jrnn.HGRN(4), 2)],
    values={"HGRN": Comparison(jrnn.HGRN(HIDDEN), hgrn, unpack_hgrn)},
    counts=lambda i, h: {jrnn.HGRN(h): 5 * read(i, h) + 2 * h},
)
