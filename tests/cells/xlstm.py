"""Exponential gates: SLSTM, MLSTM."""

from functools import partial

import numpy as np

import jrnn
from tests.entries import WIDE, Case, Comparison, Entry, gate, in_blocks, read, split
from tests.references import absolute, in_heads, maximum, sigmoid, tanh, times, times_heads


def slstm(p, carry, x, heads=1, forget="sigmoid"):
    """Beck et al. 2024: an exponential input gate, and n which sums the gates to normalize the cell.

    As defined, without the stabilizer; the recurrent matrices are block-diagonal.
    """
    h, c, n = carry
    z = tanh(times(p["Wz"], x) + times_heads(p["Uz"], h, heads) + p["bz"])
    input_gate = np.exp(times(p["Wi"], x) + times_heads(p["Ui"], h, heads) + p["bi"])
    forget_gate = {"sigmoid": sigmoid, "exp": np.exp}[forget](
        times(p["Wf"], x) + times_heads(p["Uf"], h, heads) + p["bf"]
    )
    output_gate = sigmoid(times(p["Wo"], x) + times_heads(p["Uo"], h, heads) + p["bo"])
    c = forget_gate * c + input_gate * z
    n = forget_gate * n + input_gate
    h = output_gate * c / n
    return (h, c, n), h


def unpack_slstm(p):
    return split(p.w_ih, "W", "ifzo") | in_blocks(p.w_hh, "U", "ifzo") | split(p.b, "b", "ifzo")


def positive(params, carry):
    """A normalizer is a sum of gates."""
    return params, carry._replace(n=np.abs(carry.n))


def unscaled_slstm(carry):
    """Without the stabilizer; a power takes NumPy's arrays and JAX's."""
    h, c, n, m = carry
    return h, c * np.e**m, n * np.e**m


SLSTM = Entry(
    laws=[Case(jrnn.SLSTM(4, heads=2), 3)],
    values={
        f"SLSTM-{heads}-{forget}": Comparison(
            jrnn.SLSTM(WIDE, heads=heads, forget=forget),
            partial(slstm, heads=heads, forget=short),
            unpack_slstm,
            adapt=positive,
            theirs=unscaled_slstm,
        )
        for heads in (1, 2)
        for forget, short in (("sigmoid", "sigmoid"), ("exponential", "exp"))
    },
    counts=lambda i, h: {
        jrnn.SLSTM(h): 4 * gate(i, h),
        jrnn.SLSTM(h, heads=2): 4 * (i * h + h**2 // 2 + h),
    },
)


def mlstm(p, carry, x, heads=1):
    """Beck et al. 2024: the cell of each head is a matrix C that stores v at the key k, read by the query q.

    As defined, without the stabilizer; one input (exponential) and one forget gate (sigmoid) per head.
    """
    C, n = carry
    q = in_heads(times(p["Wq"], x) + p["bq"], heads)
    k = in_heads(times(p["Wk"], x) + p["bk"], heads)
    v = in_heads(times(p["Wv"], x) + p["bv"], heads)
    k = k / np.sqrt(k.shape[-1])
    input_gate = np.exp(times(p["Wi"], x) + p["bi"])[..., None]
    forget_gate = sigmoid(times(p["Wf"], x) + p["bf"])[..., None]
    output_gate = sigmoid(times(p["Wo"], x) + p["bo"])
    outer = np.einsum("...i,...j->...ij", v, k)
    C = forget_gate[..., None] * C + input_gate[..., None] * outer
    n = forget_gate * n + input_gate * k
    read = np.einsum("...ij,...j->...i", C, q)
    norm = maximum(absolute(np.einsum("...i,...i->...", n, q)), 1)
    each = read / norm[..., None]
    h = output_gate * np.concatenate([each[..., head, :] for head in range(heads)], axis=-1)
    return (C, n), h


def unpack_mlstm(p):
    wide, narrow = p
    weights = split(wide.w_ih, "W", "qkvo") | split(wide.b, "b", "qkvo")
    return weights | split(narrow.w_ih, "W", "if") | split(narrow.b, "b", "if")


def unscaled_mlstm(carry):
    c, n, m = carry
    return c * np.e ** m[..., None, None], n * np.e ** m[..., None]


MLSTM = Entry(
    laws=[Case(jrnn.MLSTM(4, heads=2), 3)],
    values={
        f"MLSTM-{heads}": Comparison(
            jrnn.MLSTM(WIDE, heads=heads), partial(mlstm, heads=heads), unpack_mlstm, theirs=unscaled_mlstm
        )
        for heads in (1, 2)
    },
    counts=lambda i, h: {jrnn.MLSTM(h, heads=2): 3 * read(i, h) + 2 * (i * 2 + 2) + read(i, h)},
)
