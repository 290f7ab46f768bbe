"""Linear recurrent units: LRU, RGLRU, RTU."""

from functools import partial

import numpy as np

import jrnn
from tests.entries import HIDDEN, IN, WIDE, Case, Comparison, Entry, in_blocks, split
from tests.references import relu, sigmoid, softplus, tanh, times, times_heads


def lru(p, carry, x):
    """Orvieto et al. 2023: s = λ s + exp(γ) B x with λ = exp(-exp(ν) + i exp(θ)), y = Re(C s) + D x.

    D is a vector, left out where y is not as wide as x. The state and every complex number stand as two
    real arrays.
    """
    re, im = carry
    modulus, phase = np.exp(-np.exp(p["nu"])), np.exp(p["theta"])
    l_re, l_im = modulus * np.cos(phase), modulus * np.sin(phase)
    re, im = (
        l_re * re - l_im * im + np.exp(p["gamma"]) * times(p["Br"], x),
        l_re * im + l_im * re + np.exp(p["gamma"]) * times(p["Bi"], x),
    )
    y = times(p["Cr"], re) - times(p["Ci"], im)
    return (re, im), y + p["D"] * x if "D" in p else y


def unpack_lru(p):
    weights = split(p.w_ih, "B", "ri") | dict(
        zip(("Cr", "Ci"), (c.T for c in np.split(p.w_ho, 2)), strict=True)
    )
    weights |= {"nu": p.nu, "theta": p.theta, "gamma": p.gamma}
    return weights if p.d is None else weights | {"D": p.d}


LRU = Entry(
    laws=[Case(jrnn.LRU(4, outputs=3), 2)],
    values={
        "LRU": Comparison(jrnn.LRU(HIDDEN), lru, unpack_lru),
        "LRU-skip": Comparison(jrnn.LRU(HIDDEN, outputs=IN), lru, unpack_lru),
    },
    counts=lambda i, h: {  # D is a diagonal
        jrnn.LRU(h, outputs=4): 3 * h + 2 * h * i + 2 * h * 4 + (4 if i == 4 else 0)
    },
)


def rg_lru(p, h, x, heads=1):
    """De et al. 2024 (Griffin): the decay a^(8 r) is gated, and what enters is scaled to keep the variance.

    log a = -softplus(Λ), and the matrices of the two gates are block-diagonal.
    """
    r = sigmoid(times_heads(p["Wr"], x, heads) + p["br"])
    i = sigmoid(times_heads(p["Wi"], x, heads) + p["bi"])
    a = np.exp(-8 * softplus(p["Lambda"]) * r)
    h = a * h + np.sqrt(1 - a * a) * (i * x)
    return h, h


def complex_rg_lru(p, carry, x, heads=1):
    """The `RGLRU(only_real=False)` of recurrentgemma: the gate r also turns the state, by θ r.

    Gates are half as wide as x, whose halves are real and imaginary part, as two real arrays.
    """
    re, im = carry
    r = sigmoid(times_heads(p["Wr"], x, heads) + p["br"])
    i = sigmoid(times_heads(p["Wi"], x, heads) + p["bi"])
    a = np.exp(-8 * softplus(p["Lambda"]) * r)
    a_re, a_im, scale = a * np.cos(p["theta"] * r), a * np.sin(p["theta"] * r), np.sqrt(1 - a * a)
    x_re, x_im = np.split(x, 2, axis=-1)
    re, im = a_re * re - a_im * im + scale * i * x_re, a_re * im + a_im * re + scale * i * x_im
    return (re, im), np.concatenate([re, im], axis=-1)


def unpack_rg_lru(p):
    return in_blocks(p.w, "W", "ri") | split(p.b, "b", "ri") | {"Lambda": p.decay, "theta": p.phase}


def rg_lru_comparison(heads, step=rg_lru, **options):
    cell = jrnn.RGLRU(WIDE, heads=heads, **options)
    return Comparison(cell, partial(step, heads=heads), unpack_rg_lru, width=WIDE)


RGLRU = Entry(
    laws=[Case(jrnn.RGLRU(4, heads=2), 4), Case(jrnn.RGLRU(4, heads=2, complex=True), 4)],
    values={f"RGLRU-{heads}": rg_lru_comparison(heads) for heads in (1, 2)}
    | {f"RGLRU-complex-{heads}": rg_lru_comparison(heads, complex_rg_lru, complex=True) for heads in (1, 3)},
    counts=lambda i, h: (
        {
            jrnn.RGLRU(h): 2 * (h**2 + h) + h,
            jrnn.RGLRU(h, heads=2): 2 * (h**2 // 2 + h) + h,
            jrnn.RGLRU(h, complex=True): 2 * (h // 2) * (h + 1) + 2 * (h // 2),
        }
        if i == h
        else {}
    ),
)


def rtu(p, carry, x, f=tanh):
    """Elelimy et al. 2024: c1 and c2 are real and imaginary part of a rotation, f acts on each within it."""
    c1, c2 = carry
    r, angle = np.exp(-np.exp(p["nu"])), np.exp(p["theta"])
    g, phi, norm = r * np.cos(angle), r * np.sin(angle), np.sqrt(1 - r * r)
    c1, c2 = (
        f(g * c1 - phi * c2 + norm * times(p["Bc1"], x)),
        f(g * c2 + phi * c1 + norm * times(p["Bc2"], x)),
    )
    return (c1, c2), np.concatenate([c1, c2], axis=-1)


def unpack_rtu(p):
    return split(p.w_ih, "B", ("c1", "c2")) | {"nu": p.nu, "theta": p.theta}


RTU = Entry(
    laws=[Case(jrnn.RTU(4, r_max=0.9), 2)],
    values={
        "RTU": Comparison(jrnn.RTU(HIDDEN), rtu, unpack_rtu),
        "RTU-relu": Comparison(jrnn.RTU(HIDDEN, activation="relu"), partial(rtu, f=relu), unpack_rtu),
    },
    counts=lambda i, h: {jrnn.RTU(h): 2 * h + 2 * i * h},
)
