"""GRUs, and what was made smaller or larger of them."""

from functools import partial

import numpy as np

import jrnn
from tests import references as ref
from tests.values.case import HIDDEN, IN, WINDOWS, Case, blocks, packed, split


def gru(p):
    return packed("r", "z", "")(p) | ({} if p.b_hn is None else {"d": p.b_hn})


def mut(on_x, on_h):
    def unpack(p):
        weights = split(p.w_ih, "W", on_x) | split(p.w_hh, "U", on_h) | split(p.b, "b", ("z", "r", ""))
        return weights if p.w_ix is None else weights | {"Wp": p.w_ix.T}

    return unpack


def light_ru(p):
    return split(p.w_ih, "W", ("", "f")) | {"Uf": p.w_hh.T, "bf": p.b}


def minimal_rnn(p):
    return {"Wz": p.w_ih.T, "bz": p.b, "Uu": p.w_hh.T, "Vu": p.w_nh.T, "bu": p.b_u}


def cfn(p):
    return split(p.w_ih, "W", ("t", "e", "")) | split(p.w_hh, "U", "te") | split(p.b, "b", "te")


def star(p):
    return split(p.w_ih, "W", "zk") | split(p.b, "b", "zk") | {"Uk": p.w_hh.T}


def ran(p):
    gates = split(p.w_ih, "W", ("i", "f", "")) | split(p.b, "b", ("i", "f", ""))
    return gates | split(p.w_hh, "U", "if")


def brc(p):
    letter = "u" if p.w_hh.ndim == 1 else "U"
    gates = split(p.w_ih, "W", ("a", "c", "")) | split(p.b, "b", ("a", "c", ""))
    return gates | split(p.w_hh, letter, "ac")


def fast_rnn(p):
    return packed("")(p) | {"alpha": p.alpha, "beta": p.beta}


def fast_grnn(p):
    weights = split(p.b, "b", "zh") | {"zeta": p.zeta, "nu": p.nu}
    for letter, down, up in (("W", p.w_ih, p.w_ih_up), ("U", p.w_hh, p.w_hh_up)):
        weights |= {letter: down.T} if up is None else {letter + "1": up.T, letter + "2": down.T}
    return weights


def fast(**ranks):
    return Case(jrnn.FastGRNN(HIDDEN, **ranks), ref.fastgrnn, fast_grnn)


def sgrn(p):
    return {"W": p.w_ih.T, "U": p.w_hh.T, "b": p.b}


def layer_norm(p):
    weights = split(p.w_ih, "W", ("r", "z", "")) | split(p.w_hh, "U", ("r", "z", "")) | {"d": p.b_hn}
    for letters, array in ((("ax", "acx"), p.gain_x), (("ah", "ach"), p.gain_h), (("bg", "b"), p.b)):
        weights |= dict(zip(letters, np.split(array, (2 * HIDDEN,)), strict=True))
    return weights


def gru_d(p):
    decays = {"wx": p.w_dx, "bx": p.b_dx, "Wh": p.w_dh.T, "bh": p.b_dh, "mean": p.fixed}
    return packed("r", "z", "")(p.gru) | split(p.w_mh, "V", ("r", "z", "")) | decays


def gaps(rng, lead):
    """`(values, mask, delta)`."""
    shape = (*lead, IN)
    return rng.normal(size=shape), rng.random(shape) < 0.6, rng.uniform(0, 2, shape)


def convolutional(p):
    names = "r", "z", ""
    return blocks(p.w_ih, "W", names) | blocks(p.w_hh, "U", names) | blocks(p.b, "b", names)


GRUS = {"GRU-after": ref.gru_reset_after, "GRU-before": ref.gru_reset_before}
MUTS = {
    "MUT1": (jrnn.MUT1(HIDDEN), ref.mut1, mut("zr", ("r", ""))),
    "MUT2": (jrnn.MUT2(HIDDEN), ref.mut2, mut(("z", ""), ("z", "r", ""))),
    "MUT3": (jrnn.MUT3(HIDDEN), ref.mut3, mut(("z", "r", ""), ("z", "r", ""))),
}
CASES = {
    **{
        f"ConvGRU-{name}": Case(
            jrnn.ConvGRU(2, kernel=(3, 1), **options),
            partial(ref.conv_gru, **options),
            convolutional,
            width=1,
            places=(5, 4),
        )
        for name, options in WINDOWS.items()
    },
    **{
        f"GRU-{name}-{after}": Case(
            jrnn.GRU(HIDDEN, reset_after=after, **ours),
            partial(ref.gru_reset_after if after else ref.gru_reset_before, **theirs),
            gru,
        )
        for after in (True, False)
        for name, ours, theirs in [
            ("gelu", {"activation": "gelu"}, {"f": ref.gelu}),
            ("no bias", {"bias": False}, {}),
            ("clip", {"clip": 0.9}, {"clip": 0.9}),
            ("softsign gates", {"gate_activation": "softsign"}, {"gate": ref.softsign}),
        ]
    },
    **{
        name + ("" if keeps else "-takes"): Case(
            jrnn.GRU(HIDDEN, reset_after=name == "GRU-after", z_keeps=keeps), partial(step, keep=keeps), gru
        )
        for name, step in GRUS.items()
        for keeps in (True, False)
    },
    **{name: Case(*case) for name, case in MUTS.items()},
    **{f"{name}-square": Case(*MUTS[name], width=HIDDEN) for name in ("MUT1", "MUT2")},
    "MGU": Case(jrnn.MGU(HIDDEN), ref.mgu, packed("f", "")),
    "UGRNN": Case(jrnn.UGRNN(HIDDEN), ref.ugrnn, packed("g", "")),
    "LiGRU": Case(jrnn.LiGRU(HIDDEN), ref.ligru, packed("z", "")),
    "LightRU": Case(jrnn.LightRU(HIDDEN), ref.lightru, light_ru),
    "SGRN": Case(jrnn.SGRN(HIDDEN), ref.sgrn, sgrn),
    "MinimalRNN": Case(jrnn.MinimalRNN(HIDDEN), ref.minimal_rnn, minimal_rnn),
    "CFN": Case(jrnn.CFN(HIDDEN), ref.cfn, cfn),
    "STAR": Case(jrnn.STAR(HIDDEN), ref.star, star),
    "RAN": Case(jrnn.RAN(HIDDEN), ref.ran, ran),
    "RAN-identity": Case(jrnn.RAN(HIDDEN, activation="identity"), partial(ref.ran, f=ref.linear), ran),
    "ATR": Case(jrnn.ATR(HIDDEN), ref.atr, packed("")),
    "BRC": Case(jrnn.BRC(HIDDEN), ref.brc, brc),
    "NBRC": Case(jrnn.NBRC(HIDDEN), ref.nbrc, brc),
    "FastRNN": Case(jrnn.FastRNN(HIDDEN), ref.fastrnn, fast_rnn),
    "FastGRNN": fast(),
    "FastGRNN-recurrent": fast(recurrent_rank=2),
    "FastGRNN-both": fast(input_rank=2, recurrent_rank=4),
    "IntersectionRNN": Case(
        jrnn.IntersectionRNN(HIDDEN), ref.intersection_rnn, packed("y", "h", "gy", "gh"), width=HIDDEN
    ),
    "LayerNormGRU": Case(jrnn.LayerNormGRU(HIDDEN), ref.layer_norm_gru, layer_norm),
    "LayerNormGRU-epsilon": Case(
        jrnn.LayerNormGRU(HIDDEN, epsilon=0.1), partial(ref.layer_norm_gru, eps=0.1), layer_norm
    ),
    "GRUD": Case(jrnn.GRUD(HIDDEN), ref.gru_d, gru_d, inputs=gaps),
    "ConvGRU-1": Case(jrnn.ConvGRU(2, spatial=1), ref.conv_gru, convolutional, width=3, places=(4,)),
    "ConvGRU-2": Case(jrnn.ConvGRU(2, spatial=2), ref.conv_gru, convolutional, width=1, places=(3, 2)),
    "ConvGRU-3": Case(jrnn.ConvGRU(1, spatial=3), ref.conv_gru, convolutional, width=1, places=(2, 3, 1)),
}
