"""Long short-term memory and its variants: the letter c on a parameter is the candidate."""

import numpy as np

from tests.references.functions import clamp, layer_norm, sigmoid, tanh, times


def lstm(p, carry, x, f=tanh):
    """Gers et al. 2000, without peepholes: input, forget and output gate around one cell."""
    h, c = carry
    input_gate = sigmoid(times(p["Wi"], x) + times(p["Ui"], h) + p.get("bi", 0))
    forget_gate = sigmoid(times(p["Wf"], x) + times(p["Uf"], h) + p.get("bf", 0))
    output_gate = sigmoid(times(p["Wo"], x) + times(p["Uo"], h) + p.get("bo", 0))
    candidate = f(times(p["Wc"], x) + times(p["Uc"], h) + p.get("bc", 0))
    c = forget_gate * c + input_gate * candidate
    h = output_gate * f(c)
    return (h, c), h


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


def lstm_1997(p, carry, x, block=1, squash="logistic"):
    """Hochreiter & Schmidhuber 1997: nothing forgets, and the `block` cells of a block share their gates.

    The candidate is squashed into [-2, 2] by 4σ - 2 and the cell into [-1, 1] by 2σ - 1, or both by tanh.
    """
    h, c = carry
    into, out = {
        "logistic": (lambda a: 4 * sigmoid(a) - 2, lambda a: 2 * sigmoid(a) - 1),
        "tanh": (tanh, tanh),
    }[squash]
    input_gate = sigmoid(times(p["Wi"], x) + times(p["Ui"], h) + p["bi"])
    output_gate = sigmoid(times(p["Wo"], x) + times(p["Uo"], h) + p["bo"])
    candidate = into(times(p["Wc"], x) + times(p["Uc"], h) + p["bc"])
    c = c + np.repeat(input_gate, block, axis=-1) * candidate
    h = np.repeat(output_gate, block, axis=-1) * out(c)
    return (h, c), h


def layer_norm_lstm(p, carry, x, eps=1e-6):
    """Ba et al. 2016: the sums from h, those from x and the cell on its way out normalised, each alone.

    The first two over all gates at once, in the order i, f, candidate, o; the cell is carried as it is.
    """
    h, c = carry
    from_h = np.concatenate([times(p["U" + gate], h) for gate in "ifco"], axis=-1)
    from_x = np.concatenate([times(p["W" + gate], x) for gate in "ifco"], axis=-1)
    a = layer_norm(from_h, p["ah"], eps=eps) + layer_norm(from_x, p["ax"], eps=eps) + p["b"]
    a_i, a_f, a_c, a_o = np.split(a, 4, axis=-1)
    c = sigmoid(a_f) * c + sigmoid(a_i) * tanh(a_c)
    h = sigmoid(a_o) * tanh(layer_norm(c, p["ac"], p["bc"], eps))
    return (h, c), h


def multiplicative_lstm(p, carry, x):
    """Krause et al. 2016: every gate sees m, the product of a view of x and a view of h, in place of h."""
    h, c = carry
    m = times(p["Wm"], x) * times(p["Um"], h)
    input_gate = sigmoid(times(p["Wi"], x) + times(p["Ui"], m) + p["bi"])
    forget_gate = sigmoid(times(p["Wf"], x) + times(p["Uf"], m) + p["bf"])
    output_gate = sigmoid(times(p["Wo"], x) + times(p["Uo"], m) + p["bo"])
    candidate = tanh(times(p["Wc"], x) + times(p["Uc"], m) + p["bc"])
    c = forget_gate * c + input_gate * candidate
    h = output_gate * tanh(c)
    return (h, c), h


def mogrifier_lstm(p, carry, x, rounds=5):
    """Melis et al. 2020: x and h gate each other in turn, x first, before the LSTM sees them."""
    h, c = carry
    for n in range(1, rounds + 1):
        if n % 2:
            x = 2 * sigmoid(times(p[f"Q{n}"], h)) * x
        else:
            h = 2 * sigmoid(times(p[f"R{n}"], x)) * h
    return lstm(p, (h, c), x)


def janet(p, h, x, beta=1):
    """Van der Westhuizen & Lasenby 2018: the forget gate alone; the input is weighed by 1 - σ(s - β)."""
    s = times(p["Wf"], x) + times(p["Uf"], h) + p["bf"]
    candidate = tanh(times(p["Wc"], x) + times(p["Uc"], h) + p["bc"])
    h = sigmoid(s) * h + (1 - sigmoid(s - beta)) * candidate
    return h, h
