"""Orthogonal recurrences: OrthogonalRNN, ShufflingRNN, SphericalRNN."""

from functools import partial

import numpy as np

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, read
from tests.references import exponential, modrelu, relu, sigmoid, tanh, times


def orthogonal(s, size, method):
    """Q of S = L - Lᵀ, L strictly lower triangular and filled row by row from `s`."""
    lower = np.zeros((size, size), s.dtype)
    filled = 0
    for row in range(1, size):
        lower[row, :row] = s[filled : filled + row]
        filled += row
    skew = lower - lower.T
    if method == "exponential":
        return exponential(skew)
    return {"cayley": np.linalg.solve}[method](np.eye(size) + skew, np.eye(size) - skew)


def orthogonal_rnn(p, h, x, method="exponential", f=tanh):
    """U orthogonal: exp(S), Lezcano-Casado & Martínez-Rubio 2019; (I + S)⁻¹(I - S), Helfrich et al. 2018.

    Under modrelu the bias is the threshold.
    """
    a = times(p["W"], x) + times(orthogonal(p["s"], h.shape[-1], method), h)
    h = modrelu(a, p["b"]) if f is modrelu else f(a + p["b"])
    return h, h


def unpack_orthogonal(p):
    # a row vector times Q is Qᵀ times a column, and Qᵀ is the image of −S
    return {"W": p.w_ih.T, "s": -p.skew, "b": p.b}


OrthogonalRNN = Entry(
    laws=[
        Case(jrnn.OrthogonalRNN(4), 2),
        Case(jrnn.OrthogonalRNN(4, map="cayley", activation="modrelu"), 2),
    ],
    values={
        f"OrthogonalRNN-{kind}-{name}": Comparison(
            jrnn.OrthogonalRNN(HIDDEN, map=kind, activation=name),
            partial(orthogonal_rnn, method=kind, f=f),
            unpack_orthogonal,
        )
        for kind in ("exponential", "cayley")
        for name, f in (("tanh", tanh), ("modrelu", modrelu))
    },
    counts=lambda i, h: {jrnn.OrthogonalRNN(h): read(i, h) + h * (h - 1) // 2},
)


def shuffling_rnn(p, h, x, f=relu):
    """Rotman & Wolf 2021, eqs. 1-3: a permutation of the state, plus a gated network of the input."""
    drive = times(p["W2"], relu(times(p["W1"], x) + p["b1"])) + p["b2"]
    h = f(np.roll(h, 1, axis=-1) + drive * sigmoid(times(p["Wg"], x) + p["bg"]))
    return h, h


def unpack_shuffling(p):
    found = {"W1": p.inner.w.T, "b1": p.inner.b, "W2": p.outer.w.T, "b2": p.outer.b}
    return found | {"Wg": p.gate.w.T, "bg": p.gate.b}


ShufflingRNN = Entry(
    laws=[Case(jrnn.ShufflingRNN(4, width=3, activation="tanh"), 2)],
    values={
        "ShufflingRNN": Comparison(jrnn.ShufflingRNN(HIDDEN), shuffling_rnn, unpack_shuffling),
        "ShufflingRNN-tanh": Comparison(
            jrnn.ShufflingRNN(HIDDEN, width=4, activation="tanh"),
            partial(shuffling_rnn, f=tanh),
            unpack_shuffling,
        ),
    },
    counts=lambda i, h: {jrnn.ShufflingRNN(h, width=7): read(i, 7) + read(7, h) + read(i, h)},
)


def spherical_rnn(p, h, x, method="exponential"):
    """Spherical of memax: h = exp(A - Aᵀ) h, where x fills A above its diagonal, row by row."""
    size, angles = h.shape[-1], times(p["W"], x) + p["b"]
    turned = []
    for a, state in zip(angles, h, strict=True):
        above = np.zeros((size, size), a.dtype)
        above[np.triu_indices(size, 1)] = a
        s, eye = above - above.T, np.eye(size)
        turn = exponential(s) if method == "exponential" else np.linalg.solve(eye + s, eye - s)
        turned.append(turn @ state)
    h = np.stack(turned)
    return h, times(p["Wy"], h) + p["by"]


def unpack_spherical(p):
    return {"W": p.skew.w.T, "b": p.skew.b, "Wy": p.out.w.T, "by": p.out.b}


def gentle(params, carry):
    """Small angles, whose exponential loses no digits."""
    w, b = params.skew
    return params._replace(skew=params.skew._replace(w=w / 5, b=b / 5)), carry


SphericalRNN = Entry(
    laws=[Case(jrnn.SphericalRNN(3, map="cayley"), 2)],
    values={
        f"SphericalRNN-{method}": Comparison(
            jrnn.SphericalRNN(HIDDEN, map=method),
            partial(spherical_rnn, method=method),
            unpack_spherical,
            adapt=gentle,
        )
        for method in ("exponential", "cayley")
    },
    counts=lambda i, h: {jrnn.SphericalRNN(h): (i + 1) * h * (h - 1) // 2 + h**2 + h},
)
