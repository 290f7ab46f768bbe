"""A memory with addresses: DNC."""

from functools import partial

import numpy as np

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, gate, read, split
from tests.references import sigmoid, softplus, tanh, times


def softmax(a):
    e = np.exp(a - a.real.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def content(m, k, strength):
    """Eq. of "content-based addressing", with 1e-6 in the norms: (..., keys, rows)."""
    unit = lambda a: a / np.sqrt((a * a).sum(axis=-1, keepdims=True) + 1e-6)
    alike = np.einsum("...iw,...nw->...in", unit(k), unit(m))
    return softmax((1 + softplus(strength))[..., None] * alike)


def allocation(u):
    """The free list φ, row by row of the batch: a[φ[j]] = (1 - u[φ[j]]) Π u[φ[i]] over i < j."""
    flat = u.reshape(-1, u.shape[-1])
    a = np.zeros_like(flat)
    for row, mine in zip(a, flat, strict=True):
        left = 1
        for j in np.argsort(mine.real, kind="stable"):
            row[j], left = (1 - mine[j]) * left, left * mine[j]
    return a.reshape(u.shape)


def dnc(p, carry, x, reads=1):
    """Graves et al. 2016, Methods: weightings of the memory, with an LSTM as the controller."""
    h, c, m, u, links, prec, ww, wr = carry
    seen = np.concatenate([x, *np.moveaxis(np.einsum("...in,...nw->...iw", wr, m), -2, 0)], axis=-1)
    i, f, g, o = (times(p["W" + n], seen) + times(p["U" + n], h) + p["b" + n] for n in "ifgo")
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h = sigmoid(o) * tanh(c)
    xi = {n: times(p["I" + n], h) + p["bI" + n] for n in LETTERS}
    keys, modes = (np.stack(np.split(xi[n], reads, axis=-1), axis=-2) for n in ("kr", "pi"))
    psi = np.prod(1 - sigmoid(xi["f"])[..., None] * wr, axis=-2)
    u = (u + ww - u * ww) * psi
    found = content(m, xi["kw"][..., None, :], xi["bw"])[..., 0, :]
    ga, gw = sigmoid(xi["ga"]), sigmoid(xi["gw"])
    ww = gw * (ga * allocation(u) + (1 - ga) * found)
    column, row = ww[..., :, None], ww[..., None, :]
    m = m * (1 - column * sigmoid(xi["e"])[..., None, :]) + column * xi["v"][..., None, :]
    links = (1 - column - row) * links + column * prec[..., None, :]
    links = links * (1 - np.eye(links.shape[-1]))
    prec = (1 - ww.sum(axis=-1, keepdims=True)) * prec + ww
    forward, backward = np.einsum("...nm,...im->...in", links, wr), np.einsum("...mn,...im->...in", links, wr)
    pi = softmax(modes)
    wr = pi[..., :1] * backward + pi[..., 1:2] * content(m, keys, xi["br"]) + pi[..., 2:] * forward
    r = np.moveaxis(np.einsum("...in,...nw->...iw", wr, m), -2, 0)
    return (h, c, m, u, links, prec, ww, wr), times(p["O"], np.concatenate([h, *r], axis=-1)) + p["bO"]


LETTERS = "kr", "kw", "e", "v", "br", "f", "pi", "bw", "ga", "gw"


def unpack_dnc(p, cell):
    n, w = cell.reads, cell.width
    ends = np.cumsum([n * w, w, w, w, n, n, 3 * n, 1, 1])
    cut = lambda a, letter: dict(
        zip([letter + name for name in LETTERS], np.split(a, ends, axis=-1), strict=True)
    )
    lstm = split(p.lstm.w_ih, "W", "ifgo") | split(p.lstm.w_hh, "U", "ifgo") | split(p.lstm.b, "b", "ifgo")
    interface = {name: w.T for name, w in cut(p.interface.w_ih, "I").items()} | cut(p.interface.b, "bI")
    return lstm | interface | {"O": p.out.w_ih.T, "bO": p.out.b}


def shares(params, carry):
    """Weights and uses of a state that can be: shares of 1, between 0 and 1."""
    usage, write, read, last = sigmoid(carry.usage), *map(softmax, (carry.write, carry.read, carry.last))
    return params, carry._replace(usage=usage, write=write, read=read / 2, last=last, link=carry.link / 10)


def comparison(**options):
    cell = jrnn.DNC(HIDDEN, rows=4, width=3, **options)
    return Comparison(cell, partial(dnc, reads=cell.reads), partial(unpack_dnc, cell=cell), adapt=shares)


DNC = Entry(
    laws=[Case(jrnn.DNC(4, rows=3, width=2, reads=2), 3)],
    values={"DNC": comparison(), "DNC-2": comparison(reads=2)},
    counts=lambda i, h: {  # of the interface: two queries, key, erase, write, β, f, π, and three numbers
        jrnn.DNC(h, rows=7, width=4, reads=2): 4 * gate(i + 8, h)
        + read(h, 8 + 12 + 2 + 2 + 6 + 3)
        + read(h + 8, h)
    },
)
