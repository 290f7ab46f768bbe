"""Maxima in place of sums: NMax, DLSE, whose equations are those of memax's code."""

import numpy as np

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, read, split
from tests.references import absolute, elu, maximum, times


def nmax(p, h, x):
    """`NMaxSemigroup` on W x + b, and `backward_map`."""
    h = maximum(p["a"] * h, times(p["W"], x) + p["b"])
    return h, h / absolute(h).sum(axis=-1, keepdims=True)


NMax = Entry(
    laws=[Case(jrnn.NMax(4), 2)],
    values={"NMax": Comparison(jrnn.NMax(HIDDEN), nmax, lambda p: {"W": p.w_ih.T, "b": p.b, "a": p.a})},
    counts=lambda i, h: {jrnn.NMax(h): read(i, h) + h},
)


def dlse(p, s, x):
    """`DLSESemigroup` on the outer product of k and v, and `backward_map`: q S / |S|."""
    q, k, v = (times(p["W" + name], x) for name in "qkv")
    k, v = 1 + elu(k), 1 + elu(v)
    s = np.log(np.exp(np.einsum("ij,...jk->...ik", p["Γ"], s)) + np.exp(np.einsum("...i,...j->...ij", k, v)))
    length = np.sqrt((s * s).sum(axis=(-2, -1)))
    return s, np.einsum("...i,...ij->...j", q, s) / length[..., None]


DLSE = Entry(
    laws=[Case(jrnn.DLSE(4), 2)],
    values={
        "DLSE": Comparison(jrnn.DLSE(HIDDEN), dlse, lambda p: split(p.w_ih, "W", "qkv") | {"Γ": p.gamma})
    },
    counts=lambda i, h: {jrnn.DLSE(h): 3 * i * h + h**2},
)
