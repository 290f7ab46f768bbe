"""Unitary recurrences: UnitaryRNN, FullUnitaryRNN. Complex numbers stand as two real arrays."""

import numpy as np

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, split
from tests.references import exponential, relu, times


def apply(matrix, vector):
    """W z of complex numbers that stand as (real, imaginary)."""
    (w_re, w_im), (re, im) = matrix, vector
    return times(w_re, re) - times(w_im, im), times(w_re, im) + times(w_im, re)


def modrelu(z, b):
    re, im = z
    size = np.sqrt(re * re + im * im)
    scale = relu(size + b) / size
    return scale * re, scale * im


def unitary_rnn(p, h, x):
    """Arjovsky et al. 2016, eqs. 5-8: W = D3 R2 F^-1 D2 P R1 F D1, each a matrix of its own."""
    n = h[0].shape[-1]
    grid = 2 * np.pi * np.outer(np.arange(n), np.arange(n)) / n
    fourier = np.cos(grid) / np.sqrt(n), -np.sin(grid) / np.sqrt(n)
    inverse = fourier[0], -fourier[1]

    def turned(angle, z):
        re, im = z
        return np.cos(angle) * re - np.sin(angle) * im, np.cos(angle) * im + np.sin(angle) * re

    def reflected(v, z):
        (v_re, v_im), (re, im) = v, z
        norm = (v_re * v_re + v_im * v_im).sum()
        along_re = (v_re * re + v_im * im).sum(axis=-1, keepdims=True) / norm
        along_im = (v_re * im - v_im * re).sum(axis=-1, keepdims=True) / norm
        return (
            re - 2 * (v_re * along_re - v_im * along_im),
            im - 2 * (v_re * along_im + v_im * along_re),
        )

    z = reflected(p["v"][0], apply(fourier, turned(p["w"][0], h)))
    z = apply(inverse, turned(p["w"][1], tuple(part[..., p["order"]] for part in z)))
    re, im = turned(p["w"][2], reflected(p["v"][1], z))
    h = modrelu((re + times(p["Vr"], x), im + times(p["Vi"], x)), p["b"])
    return h, np.concatenate(h, axis=-1)


def unpack_unitary(p):
    found = {
        "w": np.split(p.angles, 3),
        "v": p.mirrors,
        "order": np.argsort(256 * p.fixed[0] + p.fixed[1]),
        "b": p.b,
    }
    return found | split(p.w_ih, "V", "ri")


UnitaryRNN = Entry(
    laws=[Case(jrnn.UnitaryRNN(4), 2)],
    values={"UnitaryRNN": Comparison(jrnn.UnitaryRNN(HIDDEN), unitary_rnn, unpack_unitary)},
    counts=lambda i, h: {jrnn.UnitaryRNN(h): 2 * i * h + 7 * h + h},
)


def full_unitary_rnn(p, h, x):
    """Wisdom et al. 2016, eq. 4: any unitary W; here the exponential of a skew-Hermitian S.

    exp(A + iB) is read off the exponential of the real matrix [[A, -B], [B, A]].
    """
    n = h[0].shape[-1]
    w = p["w"].reshape(n, n).T
    upper, lower = np.triu(w, 1), np.tril(w, -1)  # transposed: L lies above the diagonal
    s_re = upper - upper.T
    s_im = lower + lower.T + np.diag(np.diag(w))
    both = exponential(np.block([[s_re, -s_im], [s_im, s_re]]))
    re, im = apply((both[:n, :n], both[n:, :n]), h)
    h = modrelu((re + times(p["Vr"], x), im + times(p["Vi"], x)), p["b"])
    return h, np.concatenate(h, axis=-1)


def unpack_full(p):
    return split(p.w_ih, "V", "ri") | {"w": p.skew, "b": p.b}


FullUnitaryRNN = Entry(
    laws=[Case(jrnn.FullUnitaryRNN(4), 2)],
    values={"FullUnitaryRNN": Comparison(jrnn.FullUnitaryRNN(HIDDEN), full_unitary_rnn, unpack_full)},
    counts=lambda i, h: {jrnn.FullUnitaryRNN(h): 2 * i * h + h**2 + h},
)
