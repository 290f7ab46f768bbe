"""Recurrences linear in the state given the input, and their kin."""

from functools import partial

import numpy as np

import jrnn
from tests import references as ref
from tests.values.case import HIDDEN, IN, Case, blocks, split

WIDE = 6  # heads of 3 units


def inputs(*names):
    """Unpacking of gates that read x alone."""
    return lambda p: split(p.w_ih, "W", names) | split(p.b, "b", names)


def two_inputs(p):
    now, before = np.split(p.w_ih, 2)
    return split(now, "W", "zfo") | split(before, "V", "zfo") | split(p.b, "b", "zfo")


def in_blocks(array, letter, names):
    """Parts of block-diagonal matrices (heads, in, out), each block transposed."""
    return {name: part.swapaxes(-1, -2) for name, part in blocks(array, letter, names).items()}


def lru(p):
    weights = split(p.w_ih, "B", "ri") | dict(
        zip(("Cr", "Ci"), (c.T for c in np.split(p.w_ho, 2)), strict=True)
    )
    weights |= {"nu": p.nu, "theta": p.theta, "gamma": p.gamma}
    return weights if p.d is None else weights | {"D": p.d}


def rg_lru(p):
    return in_blocks(p.w, "W", "ri") | split(p.b, "b", "ri") | {"Lambda": p.decay}


def sru(p):
    weights = split(p.w_ih, "W", ("f", "r", "")) | split(p.b, "b", "fr")
    weights |= {} if p.v is None else split(p.v, "v", "fr")
    return weights if p.w_ix is None else weights | {"Wx": p.w_ix.T}


def qrnn(names):
    def unpack(p):
        weights = split(p.b, "b", names)
        for lag, w in enumerate(p.w_ih):
            weights |= {name + str(lag): part for name, part in split(w, "W", names).items()}
        return weights

    return unpack


def slstm(p):
    return split(p.w_ih, "W", "ifzo") | in_blocks(p.w_hh, "U", "ifzo") | split(p.b, "b", "ifzo")


def mlstm(p):
    wide, narrow = p
    weights = split(wide.w_ih, "W", "qkvo") | split(wide.b, "b", "qkvo")
    return weights | split(narrow.w_ih, "W", "if") | split(narrow.b, "b", "if")


def positive(params, carry):
    """A normaliser is a sum of gates."""
    return params, carry._replace(n=np.abs(carry.n))


def unscaled_slstm(carry):
    """Without the stabiliser; a power takes NumPy's arrays and JAX's."""
    h, c, n, m = carry
    return h, c * np.e**m, n * np.e**m


def unscaled_mlstm(carry):
    c, n, m = carry
    return c * np.e ** m[..., None, None], n * np.e ** m[..., None]


POOLINGS = {"f": "zf", "fo": "zfo", "ifo": "zfoi"}
SRUS = {"SRU": {}, "SRU-linear": {"recurrent": False}, "SRU-bias": {"highway_bias": -1.5}}
CASES = {
    "MinGRU": Case(jrnn.MinGRU(HIDDEN), ref.min_gru, inputs("z", "h")),
    "MinLSTM": Case(jrnn.MinLSTM(HIDDEN), ref.min_lstm, inputs("f", "i", "h")),
    "LRU": Case(jrnn.LRU(HIDDEN), ref.lru, lru),
    "LRU-skip": Case(jrnn.LRU(HIDDEN, outputs=IN), ref.lru, lru),
    **{
        f"RGLRU-{heads}": Case(
            jrnn.RGLRU(WIDE, heads=heads), partial(ref.rg_lru, heads=heads), rg_lru, width=WIDE
        )
        for heads in (1, 2)
    },
    **{
        f"{name}-{width}": Case(
            jrnn.SRU(HIDDEN, **options),
            partial(
                ref.sru,
                recurrent=options.get("recurrent", True),
                scale=np.sqrt(1 + 2 * np.exp(options.get("highway_bias", 0))),
            ),
            sru,
            width=width,
        )
        for name, options in SRUS.items()
        for width in (IN, HIDDEN)
    },
    **{
        f"QRNN-{pooling}-{window}": Case(
            jrnn.QRNN(HIDDEN, window=window, pooling=pooling),
            partial(ref.qrnn, k=window, pooling=pooling),
            qrnn(names),
        )
        for pooling, names in POOLINGS.items()
        for window in (1, 2, 3)
    },
    "TRNN": Case(jrnn.TRNN(HIDDEN), ref.t_rnn, inputs("z", "f")),
    "TGRU": Case(jrnn.TGRU(HIDDEN), ref.t_gru, two_inputs),
    "TLSTM": Case(jrnn.TLSTM(HIDDEN), ref.t_lstm, two_inputs),
    **{
        f"SLSTM-{heads}-{forget}": Case(
            jrnn.SLSTM(WIDE, heads=heads, forget=forget),
            partial(ref.slstm, heads=heads, forget=short),
            slstm,
            adapt=positive,
            theirs=unscaled_slstm,
        )
        for heads in (1, 2)
        for forget, short in (("sigmoid", "sigmoid"), ("exponential", "exp"))
    },
    **{
        f"MLSTM-{heads}": Case(
            jrnn.MLSTM(WIDE, heads=heads), partial(ref.mlstm, heads=heads), mlstm, theirs=unscaled_mlstm
        )
        for heads in (1, 2)
    },
}
