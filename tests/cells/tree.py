"""Trees as sequences: TreeLSTM."""

import numpy as np

import jrnn
from tests.entries import HIDDEN, IN, Case, Comparison, Entry, gate, packed
from tests.references import sigmoid, tanh, times


def tree_lstm(p, carry, x):
    """Tai et al. 2015, eqs. 2-8, row by row; a child that the stack does not hold counts for nothing."""
    values, n = x
    kind = np.result_type(values, *carry, *p.values())
    hs, cs = (np.array(part, kind) for part in carry)
    ys = np.zeros((*n.shape, hs.shape[-1]), kind)
    for row in np.ndindex(n.shape):
        children = list(zip(hs[row], cs[row], strict=True))[: n[row]]
        waiting = list(zip(hs[row], cs[row], strict=True))[n[row] :]
        total = sum((h for h, _ in children), np.zeros(hs.shape[-1]))
        i, o = (sigmoid(times(p["W" + k], values[row]) + times(p["U" + k], total) + p["b" + k]) for k in "io")
        u = tanh(times(p["Wu"], values[row]) + times(p["Uu"], total) + p["bu"])
        c = i * u
        for h_k, c_k in children:
            c = c + sigmoid(times(p["Wf"], values[row]) + times(p["Uf"], h_k) + p["bf"]) * c_k
        ys[row] = o * tanh(c)
        waiting = [(ys[row], c), *waiting]
        empty = [(0 * c, 0 * c)] * (hs.shape[-2] - len(waiting))
        hs[row], cs[row] = (np.stack(part) for part in zip(*[*waiting, *empty][: hs.shape[-2]], strict=True))
    return (hs, cs), ys


def nodes(rng, lead, features=IN):
    """`(values, n)` of nodes with up to 3 children."""
    return rng.normal(size=(*lead, features)), rng.integers(0, 4, lead)


TreeLSTM = Entry(
    laws=[Case(jrnn.TreeLSTM(4, stack=5), 3, nodes)],
    values={
        "TreeLSTM": Comparison(
            jrnn.TreeLSTM(HIDDEN, stack=4), tree_lstm, packed("i", "u", "o", "f"), inputs=nodes
        )
    },
    counts=lambda i, h: {jrnn.TreeLSTM(h): 4 * gate(i, h)},
)
