"""LSTMs with options, and the ablations: LSTMVariant, WMCLSTM, ResidualLSTM, MemoryControllerLSTM."""

from functools import partial

import numpy as np

import jrnn
from jrnn.cells import ablations
from tests.entries import HIDDEN, Case, Comparison, Entry, gate, packed, split
from tests.references import clamp, hard_sigmoid, linear, relu, sigmoid, softsign, tanh, times


def lstm_variant(
    p,
    carry,
    x,
    gates="ifo",
    coupled=False,
    peepholes=None,
    gate_recurrence=False,
    clip=None,
    bound=None,
    projection=False,
    gate_f=sigmoid,
    f=tanh,
    g=tanh,
):
    """Gers et al. 2002 and the variants of Greff et al. 2017, with the projection of Sak et al. 2014.

    A gate left out of `gates` is 1; a coupled forget gate is 1 - i and has no parameters. Peepholes show
    the old cell to i and f and the new one to o, by a vector each or by a full matrix each. Under gate
    recurrence every gate with parameters, in the order i, f, o, sees all their values one step ago. `clip`
    bounds the cell, `bound` what `gate_f` and `f` are applied to.
    """
    h, c, *values = carry
    present = [gate for gate in "ifo" if gate in gates and not (coupled and gate == "f")]
    last = np.split(values[0], len(present), axis=-1) if gate_recurrence else []
    now = {}

    def value(gate, cell):
        if gate not in present:
            return 1
        a = times(p["W" + gate], x) + times(p["U" + gate], h) + p["b" + gate]
        if peepholes == "diagonal":
            a = a + p["p" + gate] * cell
        if peepholes == "full":
            a = a + times(p["P" + gate], cell)
        if gate_recurrence:
            for source, before in zip(present, last, strict=True):
                a = a + times(p["R" + gate + source], before)
        now[gate] = gate_f(a if bound is None else clamp(a, bound))
        return now[gate]

    input_gate = value("i", c)
    forget_gate = 1 - input_gate if coupled else value("f", c)
    a = times(p["Wc"], x) + times(p["Uc"], h) + p["bc"]
    candidate = f(a if bound is None else clamp(a, bound))
    c = forget_gate * c + input_gate * candidate
    if clip is not None:
        c = clamp(c, clip)
    h = value("o", c) * g(c)
    if projection:
        h = times(p["P"], h)
    if gate_recurrence:
        return (h, c, np.concatenate([now[gate] for gate in present], axis=-1)), h
    return (h, c), h


def compared(cell, **options):
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

    return Comparison(cell, partial(lstm_variant, **options), unpack)


GREFF = {
    "V": {},
    "NIG": {"gates": "fo"},
    "NFG": {"gates": "io"},
    "NOG": {"gates": "if"},
    "NIAF": {"f": linear},
    "NOAF": {"g": linear},
    "CIFG": {"coupled": True},
    "NP": {"peepholes": None},
    "FGR": {"gate_recurrence": True},
}
JOZEFOWICZ = {
    "LSTM": {},
    "LSTM-f": {"gates": "io"},
    "LSTM-i": {"gates": "fo"},
    "LSTM-o": {"gates": "if"},
    "LSTM-b": {},
}


make = partial(jrnn.LSTMVariant, HIDDEN)
OTHERS = {
    "none": compared(make(gates=""), gates=""),
    "f": compared(make(gates="f", peepholes="diagonal"), gates="f", peepholes="diagonal"),
    "coupled-i": compared(
        make(gates="i", coupled=True, peepholes="full"), gates="i", coupled=True, peepholes="full"
    ),
    "full": compared(make(peepholes="full"), peepholes="full"),
    "coupled-recurrence": compared(
        make(coupled=True, gate_recurrence=True), coupled=True, gate_recurrence=True
    ),
    "f-o-recurrence": compared(make(gates="fo", gate_recurrence=True), gates="fo", gate_recurrence=True),
    "projection": compared(make(projection=2, peepholes="full"), projection=True, peepholes="full"),
    "projection-recurrence": compared(
        make(projection=4, gate_recurrence=True), projection=True, gate_recurrence=True
    ),
    "cell-clip": compared(make(cell_clip=0.5, peepholes="diagonal"), clip=0.5, peepholes="diagonal"),
    "clip": compared(make(clip=1.5), bound=1.5),
    "functions": compared(
        make(activation="softsign", output_activation="relu", gate_activation="hard_sigmoid"),
        f=softsign,
        g=relu,
        gate_f=hard_sigmoid,
    ),
}


def counts(i, h):
    """Of the ablations V, NIG, NFG, NOG, NIAF, NOAF, CIFG, NP, FGR, and of others."""
    whole, less = 4 * gate(i, h) + 3 * h, 3 * gate(i, h) + 2 * h
    greff = whole, less, less, less, whole, whole, less, 4 * gate(i, h), whole + 9 * h**2
    return {
        **dict(zip(ablations.greff(h).values(), greff, strict=True)),
        jrnn.LSTMVariant(h, peepholes="full"): 4 * i * h + 7 * h**2 + 4 * h,
        jrnn.LSTMVariant(h, projection=2): 4 * (i * h + 2 * h + h) + h * 2,
    }


LSTMVariant = Entry(
    laws=[
        Case(jrnn.LSTMVariant(4, peepholes="diagonal"), 2),
        Case(jrnn.LSTMVariant(4, peepholes="full", coupled=True, gate_recurrence=True), 2),
        Case(jrnn.LSTMVariant(4, gates="f", projection=3, cell_clip=0.9, output_activation="identity"), 2),
    ],
    values={
        **{
            f"LSTMVariant-{name}": compared(
                ablations.greff(HIDDEN)[name], **{"peepholes": "diagonal"} | options
            )
            for name, options in GREFF.items()
        },
        **{
            f"LSTMVariant-{name}": compared(ablations.jozefowicz(HIDDEN)[name], **options)
            for name, options in JOZEFOWICZ.items()
        },
        **{f"LSTMVariant-{name}": comparison for name, comparison in OTHERS.items()},
    },
    counts=counts,
)


def wmc_lstm(p, carry, x):
    """Landi et al. 2021: the gates see the cell through a matrix and a tanh each, o the new one.

    As in torchrecurrent (`tests/test_peer_cells.py`) and RecurrentLayers.jl; their equations leave out the
    tanh or U_c h, their code has both.
    """
    h, c = carry
    input_gate = sigmoid(times(p["Wi"], x) + times(p["Ui"], h) + tanh(times(p["Vi"], c)) + p["bi"])
    forget_gate = sigmoid(times(p["Wf"], x) + times(p["Uf"], h) + tanh(times(p["Vf"], c)) + p["bf"])
    candidate = tanh(times(p["Wc"], x) + times(p["Uc"], h) + p["bc"])
    c = forget_gate * c + input_gate * candidate
    output_gate = sigmoid(times(p["Wo"], x) + times(p["Uo"], h) + tanh(times(p["Vo"], c)) + p["bo"])
    h = output_gate * tanh(c)
    return (h, c), h


def unpack_wmc_lstm(p):
    return packed(*"ifco")(p.lstm) | split(p.w_ch, "V", "ifo")


WMCLSTM = Entry(
    laws=[Case(jrnn.WMCLSTM(4), 2)],
    values={"WMCLSTM": Comparison(jrnn.WMCLSTM(HIDDEN), wmc_lstm, unpack_wmc_lstm)},
    counts=lambda i, h: {jrnn.WMCLSTM(h): 4 * gate(i, h) + 3 * h**2},
)


def residual_lstm(p, carry, x):
    """Kim et al. 2017: o also weighs the input, behind a matrix where it is of another width."""
    h, c = carry
    input_gate = sigmoid(times(p["Wi"], x) + times(p["Ui"], h) + p["pi"] * c + p["bi"])
    forget_gate = sigmoid(times(p["Wf"], x) + times(p["Uf"], h) + p["pf"] * c + p["bf"])
    c = forget_gate * c + input_gate * tanh(times(p["Wc"], x) + times(p["Uc"], h) + p["bc"])
    output_gate = sigmoid(times(p["Wo"], x) + times(p["Uo"], h) + p["po"] * c + p["bo"])
    shortcut = times(p["Wx"], x) if "Wx" in p else x
    h = output_gate * (times(p["Wp"], tanh(c)) + shortcut)
    return (h, c), h


def unpack_residual_lstm(p):
    weights = packed(*"ifco")(p.lstm) | split(p.p, "p", "ifo") | {"Wp": p.w_ho.T}
    return weights if p.w_ix is None else weights | {"Wx": p.w_ix.T}


ResidualLSTM = Entry(
    laws=[Case(jrnn.ResidualLSTM(4), 2)],
    values={
        "ResidualLSTM": Comparison(jrnn.ResidualLSTM(HIDDEN), residual_lstm, unpack_residual_lstm),
        "ResidualLSTM-square": Comparison(
            jrnn.ResidualLSTM(HIDDEN), residual_lstm, unpack_residual_lstm, width=HIDDEN
        ),
    },
    counts=lambda i, h: {jrnn.ResidualLSTM(h): 4 * gate(i, h) + 3 * h + h**2 + (0 if i == h else i * h)},
)


def memory_controller_lstm(p, carry, x):
    """As torchrecurrent has it (`MCLSTM`): the gates read a control vector v, h is only the output."""
    v, c = carry
    i, f, o, m = (sigmoid(times(p["W" + g], x) + times(p["U" + g], v) + p["b" + g]) for g in "ifom")
    n = tanh(times(p["Wn"], x) + times(p["Un"], v) + p["bn"])
    c = f * c + i * n
    return (m * tanh(c), c), o * tanh(c)


MemoryControllerLSTM = Entry(
    laws=[Case(jrnn.MemoryControllerLSTM(4), 2)],
    values={
        "MemoryControllerLSTM": Comparison(
            jrnn.MemoryControllerLSTM(HIDDEN), memory_controller_lstm, packed("i", "f", "n", "o", "m")
        )
    },
    counts=lambda i, h: {jrnn.MemoryControllerLSTM(h): 5 * gate(i, h)},
)
