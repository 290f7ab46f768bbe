"""RHN, NASCell."""

from functools import partial

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, split
from tests.references import relu, sigmoid, tanh, times


def rhn(p, s, x, depth=1, coupled=True):
    """Zilly et al. 2017: a highway network of `depth` layers in each step; x enters the first alone."""
    for n in range(depth):
        a_h = times(p[f"Rh{n}"], s) + p[f"bh{n}"]
        a_t = times(p[f"Rt{n}"], s) + p[f"bt{n}"]
        if n == 0:
            a_h = a_h + times(p["Wh"], x)
            a_t = a_t + times(p["Wt"], x)
        transform = sigmoid(a_t)
        if coupled:
            keep = 1 - transform
        else:
            a_c = times(p[f"Rc{n}"], s) + p[f"bc{n}"]
            keep = sigmoid(a_c + times(p["Wc"], x) if n == 0 else a_c)
        s = tanh(a_h) * transform + s * keep
    return s, s


def unpack_rhn(p):
    names = "ht" if p.w_ih.shape[1] == 2 * HIDDEN else "htc"
    weights = split(p.w_ih, "W", names)
    for n, (u, b) in enumerate(zip(p.w_hh, p.b, strict=True)):
        for letter, array in (("R", u), ("b", b)):
            weights |= {name + str(n): part for name, part in split(array, letter, names).items()}
    return weights


RHN = Entry(
    laws=[Case(jrnn.RHN(4, depth=2), 2), Case(jrnn.RHN(4, depth=2, coupled=False), 2)],
    values={
        f"RHN-{depth}-{'coupled' if coupled else 'free'}": Comparison(
            jrnn.RHN(HIDDEN, depth=depth, coupled=coupled),
            partial(rhn, depth=depth, coupled=coupled),
            unpack_rhn,
        )
        for depth in (1, 3)
        for coupled in (True, False)
    },
    counts=lambda i, h: {
        jrnn.RHN(h, depth=3): 2 * (i * h + 3 * h**2 + 3 * h),
        jrnn.RHN(h, depth=3, coupled=False): 3 * (i * h + 3 * h**2 + 3 * h),
    },
)


def nas(p, carry, x):
    """Zoph & Le 2017: the cell that their search found on Penn Treebank; no biases."""
    h, c = carry
    xs = [None] + [times(p[f"W{n}"], x) for n in range(1, 9)]
    hs = [None] + [times(p[f"U{n}"], h) for n in range(1, 9)]
    o1 = sigmoid(xs[1] + hs[1])
    o2 = relu(xs[2] + hs[2])
    o3 = sigmoid(xs[3] + hs[3])
    o4 = relu(xs[4] * hs[4])
    o5 = tanh(xs[5] + hs[5])
    o6 = sigmoid(xs[6] + hs[6])
    o7 = tanh(xs[7] + hs[7])
    o8 = sigmoid(xs[8] + hs[8])
    l1 = tanh(o1 * o2)
    l2 = tanh(o3 + o4)
    l3 = tanh(o5 * o6)
    l4 = sigmoid(o7 + o8)
    c = tanh(l1 + c) * l2
    h = tanh(c * tanh(l3 + l4))
    return (h, c), h


def unpack_nas(p):
    return split(p.w_ih, "W", "12345678") | split(p.w_hh, "U", "12345678")


NASCell = Entry(
    laws=[Case(jrnn.NASCell(4), 2)],
    values={"NASCell": Comparison(jrnn.NASCell(HIDDEN), nas, unpack_nas)},
    counts=lambda i, h: {jrnn.NASCell(h): 8 * (i * h + h**2)},
)
