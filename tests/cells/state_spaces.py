"""Structured state spaces: S4D, S5, S6."""

import numpy as np

import jrnn
from tests.entries import HIDDEN, IN, Case, Comparison, Entry, irregular, read, split
from tests.references import softplus, times


def held(p, step):
    """Zero-order hold: exp(λ Δ), and (exp(λ Δ) - 1) / λ, as two real arrays each."""
    l_re, l_im = -np.exp(p["rate"]), p["omega"]
    a_re, a_im = np.exp(l_re * step) * np.cos(l_im * step), np.exp(l_re * step) * np.sin(l_im * step)
    norm = l_re * l_re + l_im * l_im  # (a - 1) / λ = (a - 1) λ* / |λ|²
    b_re = ((a_re - 1) * l_re + a_im * l_im) / norm
    b_im = (a_im * l_re - (a_re - 1) * l_im) / norm
    return a_re, a_im, b_re, b_im


def s4d(p, carry, x):
    """Gu et al. 2022, eqs. 1-3 and section 3.3 with B = 1: one system of N states for every channel."""
    re, im = carry
    x, dt = x if isinstance(x, tuple) else (x, np.ones(x.shape[:-1]))
    a_re, a_im, b_re, b_im = held(p, (np.exp(p["delta"]) * dt[..., None])[..., None])
    u = x[..., None]
    re, im = a_re * re - a_im * im + b_re * u, a_re * im + a_im * re + b_im * u
    return (re, im), 2 * (p["Cr"] * re - p["Ci"] * im).sum(axis=-1) + p["D"] * x


def unpack_s4d(p):
    found = dict(zip(("Cr", "Ci"), np.split(p.w_ho, 2, axis=-1), strict=True))
    return found | {"rate": p.rate, "omega": p.frequency, "delta": p.log_dt, "D": p.d}


S4D = Entry(
    laws=[Case(jrnn.S4D(4, state=3), 4), Case(jrnn.S4D(3, state=2), 3, irregular)],
    values={
        "S4D": Comparison(jrnn.S4D(HIDDEN, state=4), s4d, unpack_s4d, width=HIDDEN),
        "S4D-irregular": Comparison(jrnn.S4D(IN, state=4), s4d, unpack_s4d, inputs=irregular),
    },
    counts=lambda i, h: {jrnn.S4D(h, state=7): 2 * 7 * h + 2 * 7 * h + 2 * h} if i == h else {},
)


def s5(p, carry, x):
    """Smith et al. 2023, eqs. 5-6: zero-order hold of s' = Λ s + B x, y = 2 Re(C s) + D x.

    The state and every complex number stand as two real arrays.
    """
    re, im = carry
    x, dt = x if isinstance(x, tuple) else (x, np.ones(x.shape[:-1]))
    a_re, a_im, b_re, b_im = held(p, np.exp(p["delta"]) * dt[..., None])
    u_re, u_im = times(p["Br"], x), times(p["Bi"], x)
    re, im = (
        a_re * re - a_im * im + b_re * u_re - b_im * u_im,
        a_re * im + a_im * re + b_re * u_im + b_im * u_re,
    )
    y = 2 * (times(p["Cr"], re) - times(p["Ci"], im))
    return (re, im), y + p["D"] * x if "D" in p else y


def unpack_s5(p):
    c = dict(zip(("Cr", "Ci"), (part.T for part in np.split(p.w_ho, 2)), strict=True))
    found = split(p.w_ih, "B", "ri") | c | {"rate": p.rate, "omega": p.frequency, "delta": p.log_dt}
    return found if p.d is None else found | {"D": p.d}


S5 = Entry(
    laws=[Case(jrnn.S5(4, outputs=3), 2), Case(jrnn.S5(4, outputs=3, blocks=2), 3, irregular)],
    values={
        "S5": Comparison(jrnn.S5(HIDDEN), s5, unpack_s5),
        "S5-irregular": Comparison(jrnn.S5(HIDDEN, outputs=IN), s5, unpack_s5, inputs=irregular),
    },
    counts=lambda i, h: {jrnn.S5(h, outputs=4): 3 * h + 2 * h * i + 2 * h * 4 + (4 if i == 4 else 0)},
)


def s6(p, h, x):
    """Gu & Dao 2023, algorithm 2, behind a projection of x: Δ, B and C are read from it; Δ B for B̄."""
    u = times(p["W"], x) + p["b"]
    step = softplus(times(p["Wdt"], times(p["Wlow"], u)) + p["bdt"])
    b, c = times(p["WB"], u), times(p["WC"], u)
    kept = np.exp(step[..., None] * -np.exp(p["A"]))
    h = kept * h + step[..., None] * b[..., None, :] * u[..., None]
    return h, (h * c[..., None, :]).sum(axis=-1) + p["D"] * u


def unpack_s6(p):
    low, b, c = (part.T for part in np.split(p.w_v, [len(p.w_dt), len(p.w_dt) + 4], axis=-1))
    found = {"W": p.values.w_ih.T, "b": p.values.b, "Wlow": low, "WB": b, "WC": c}
    return found | {"Wdt": p.w_dt.T, "bdt": p.b_dt, "A": p.a_log, "D": p.skip}


S6 = Entry(
    laws=[Case(jrnn.S6(4, state=3), 2)],
    values={"S6": Comparison(jrnn.S6(HIDDEN, state=4, rank=2), s6, unpack_s6)},
    counts=lambda i, h: {jrnn.S6(h, state=7, rank=2): read(i, h) + h * (2 + 2 * 7) + 2 * h + h + 7 * h + h},
)
