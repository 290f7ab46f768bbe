"""LSTMs and their variants."""

from functools import partial

import numpy as np

import jrnn
from jrnn.cells import ablations
from tests import references as ref
from tests.values.case import HIDDEN, WINDOWS, Case, blocks, packed, split

WIDE = 6  # blocks of 2

lstm = packed(*"ifco")


def variant(cell, **options):
    """An `LSTMVariant`; `options` are those of the reference."""
    left_out = "f" if options.get("coupled") else ""
    gates = [gate for gate in options.get("gates", "ifo") if gate != left_out]
    parts = [part for part in "ifco" if part in gates or part == "c"]

    def unpack(p):
        weights = packed(*parts)(p)
        if p.p is not None:
            weights |= split(p.p, "p" if p.p.ndim == 1 else "P", gates)
        if p.w_gh is not None:
            for source, rows in zip(gates, np.split(p.w_gh, len(gates)), strict=True):
                weights |= split(rows, "R", [gate + source for gate in gates])
        return weights if p.w_hr is None else weights | {"P": p.w_hr.T}

    return Case(cell, partial(ref.lstm_variant, **options), unpack)


GREFF = {
    "V": {},
    "NIG": {"gates": "fo"},
    "NFG": {"gates": "io"},
    "NOG": {"gates": "if"},
    "NIAF": {"f": ref.linear},
    "NOAF": {"g": ref.linear},
    "CIFG": {"coupled": True},
    "NP": {"peepholes": None},
    "FGR": {"gate_recurrence": True},
}
JOZEFOWICZ = {"LSTM": {}, "LSTM-f": {"gates": "io"}, "LSTM-i": {"gates": "fo"}, "LSTM-o": {"gates": "if"}}
JOZEFOWICZ["LSTM-b"] = {}

make = partial(jrnn.LSTMVariant, HIDDEN)
VARIANTS = {
    "none": variant(make(gates=""), gates=""),
    "f": variant(make(gates="f", peepholes="diagonal"), gates="f", peepholes="diagonal"),
    "coupled-i": variant(
        make(gates="i", coupled=True, peepholes="full"), gates="i", coupled=True, peepholes="full"
    ),
    "full": variant(make(peepholes="full"), peepholes="full"),
    "coupled-recurrence": variant(
        make(coupled=True, gate_recurrence=True), coupled=True, gate_recurrence=True
    ),
    "f-o-recurrence": variant(make(gates="fo", gate_recurrence=True), gates="fo", gate_recurrence=True),
    "projection": variant(make(projection=2, peepholes="full"), projection=True, peepholes="full"),
    "projection-recurrence": variant(
        make(projection=4, gate_recurrence=True), projection=True, gate_recurrence=True
    ),
    "cell-clip": variant(make(cell_clip=0.5, peepholes="diagonal"), clip=0.5, peepholes="diagonal"),
    "clip": variant(make(clip=1.5), bound=1.5),
    "functions": variant(
        make(activation="softsign", output_activation="relu", gate_activation="hard_sigmoid"),
        f=ref.softsign,
        g=ref.relu,
        gate_f=ref.hard_sigmoid,
    ),
}


def lstm_1997(block):
    def unpack(p):
        ends = WIDE // block, WIDE // block + WIDE
        weights = {}
        for letter, array in zip("WUb", p, strict=True):
            parts = np.split(array, ends, axis=-1)
            weights |= {letter + gate: part.T for gate, part in zip("ico", parts, strict=True)}
        return weights

    return unpack


def layer_norm(p):
    weights = split(p.w_ih, "W", "ifco") | split(p.w_hh, "U", "ifco") | {"b": p.b, "bc": p.b_c}
    return weights | {"ax": p.gain_x, "ah": p.gain_h, "ac": p.gain_c}


def multiplicative(p):
    return lstm(p.lstm) | {"Wm": p.w_im.T, "Um": p.w_hm.T}


def product(factors):
    """The product of one matrix or of two."""
    return factors[0] if len(factors) == 1 else factors[0] @ factors[1]


def mogrifier(p):
    odd = {f"Q{2 * n + 1}": product(q).T for n, q in enumerate(p.q)}
    even = {f"R{2 * n + 2}": product(r).T for n, r in enumerate(p.r)}
    return lstm(p.lstm) | odd | even


def convolutional(p):
    return blocks(p.w_ih, "W", "ifco") | blocks(p.w_hh, "U", "ifco") | blocks(p.b, "b", "ifco")


CASES = {
    **{
        f"ConvLSTM-{name}": Case(
            jrnn.ConvLSTM(2, kernel=(3, 1), **options),
            partial(ref.conv_lstm, **options),
            convolutional,
            width=1,
            places=(5, 4),
        )
        for name, options in WINDOWS.items()
    },
    "LSTM": Case(jrnn.LSTM(HIDDEN), ref.lstm, lstm),
    "LSTM-silu": Case(jrnn.LSTM(HIDDEN, activation="silu"), partial(ref.lstm, f=ref.silu), lstm),
    "LSTM-no bias": Case(jrnn.LSTM(HIDDEN, bias=False), ref.lstm, lstm),
    **{
        f"LSTMVariant-{name}": variant(ablations.greff(HIDDEN)[name], **{"peepholes": "diagonal"} | options)
        for name, options in GREFF.items()
    },
    **{
        f"LSTMVariant-{name}": variant(ablations.jozefowicz(HIDDEN)[name], **options)
        for name, options in JOZEFOWICZ.items()
    },
    **{f"LSTMVariant-{name}": case for name, case in VARIANTS.items()},
    **{
        f"LSTM1997-{block}-{squash}": Case(
            jrnn.LSTM1997(WIDE, block=block, squash=squash),
            partial(ref.lstm_1997, block=block, squash=squash),
            lstm_1997(block),
        )
        for block in (1, 2)
        for squash in ("logistic", "tanh")
    },
    "LayerNormLSTM": Case(jrnn.LayerNormLSTM(HIDDEN), ref.layer_norm_lstm, layer_norm),
    "LayerNormLSTM-epsilon": Case(
        jrnn.LayerNormLSTM(HIDDEN, epsilon=0.1), partial(ref.layer_norm_lstm, eps=0.1), layer_norm
    ),
    "MultiplicativeLSTM": Case(jrnn.MultiplicativeLSTM(HIDDEN), ref.multiplicative_lstm, multiplicative),
    "MogrifierLSTM": Case(jrnn.MogrifierLSTM(HIDDEN), ref.mogrifier_lstm, mogrifier),
    "MogrifierLSTM-rank": Case(
        jrnn.MogrifierLSTM(HIDDEN, rounds=4, rank=2), partial(ref.mogrifier_lstm, rounds=4), mogrifier
    ),
    "ConvLSTM-1": Case(
        jrnn.ConvLSTM(2, kernel=5, spatial=1), ref.conv_lstm, convolutional, width=3, places=(4,)
    ),
    "ConvLSTM-2": Case(jrnn.ConvLSTM(2, spatial=2), ref.conv_lstm, convolutional, width=1, places=(3, 4)),
    "ConvLSTM-3": Case(jrnn.ConvLSTM(2, spatial=3), ref.conv_lstm, convolutional, width=1, places=(2, 3, 1)),
    "JANET": Case(jrnn.JANET(HIDDEN), ref.janet, packed("f", "c")),
    "JANET-beta": Case(jrnn.JANET(HIDDEN, beta=0.4), partial(ref.janet, beta=0.4), packed("f", "c")),
}
