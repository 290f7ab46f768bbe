"""Gated recurrent units and what was made smaller or larger of them: no letter marks the candidate."""

import numpy as np

from tests.references.functions import clamp, layer_norm, relu, sigmoid, tanh, times


def gru_reset_after(p, h, x, keep=True, f=tanh, clip=np.inf, gate=sigmoid):
    """Cho et al. 2014, arXiv:1406.1078v1, with the biases of cuDNN: r scales U h + d.

    With `keep` z weighs the past, as in that paper; without, the candidate, as in Chung et al. 2014. `clip`
    bounds what `gate` and f are applied to.
    """
    update = gate(clamp(times(p["Wz"], x) + times(p["Uz"], h) + p.get("bz", 0), clip))
    reset = gate(clamp(times(p["Wr"], x) + times(p["Ur"], h) + p.get("br", 0), clip))
    inside = reset * (times(p["U"], h) + p.get("d", 0))
    candidate = f(clamp(times(p["W"], x) + p.get("b", 0) + inside, clip))
    h = update * h + (1 - update) * candidate if keep else (1 - update) * h + update * candidate
    return h, h


def gru_reset_before(p, h, x, keep=True, f=tanh, clip=np.inf, gate=sigmoid):
    """Cho et al. 2014, arXiv:1406.1078v3: r scales h before the product; `keep` as above."""
    update = gate(clamp(times(p["Wz"], x) + times(p["Uz"], h) + p.get("bz", 0), clip))
    reset = gate(clamp(times(p["Wr"], x) + times(p["Ur"], h) + p.get("br", 0), clip))
    candidate = f(clamp(times(p["W"], x) + times(p["U"], reset * h) + p.get("b", 0), clip))
    h = update * h + (1 - update) * candidate if keep else (1 - update) * h + update * candidate
    return h, h


def mut1(p, h, x):
    """Jozefowicz et al. 2015: z sees x alone, and tanh(x) enters the candidate as it is."""
    bare = times(p["Wp"], x) if "Wp" in p else x
    update = sigmoid(times(p["Wz"], x) + p["bz"])
    reset = sigmoid(times(p["Wr"], x) + times(p["Ur"], h) + p["br"])
    candidate = tanh(times(p["U"], reset * h) + tanh(bare) + p["b"])
    h = candidate * update + h * (1 - update)
    return h, h


def mut2(p, h, x):
    """Jozefowicz et al. 2015: x enters the reset gate as it is."""
    bare = times(p["Wp"], x) if "Wp" in p else x
    update = sigmoid(times(p["Wz"], x) + times(p["Uz"], h) + p["bz"])
    reset = sigmoid(bare + times(p["Ur"], h) + p["br"])
    candidate = tanh(times(p["U"], reset * h) + times(p["W"], x) + p["b"])
    h = candidate * update + h * (1 - update)
    return h, h


def mut3(p, h, x):
    """Jozefowicz et al. 2015: z sees tanh(h)."""
    update = sigmoid(times(p["Wz"], x) + times(p["Uz"], tanh(h)) + p["bz"])
    reset = sigmoid(times(p["Wr"], x) + times(p["Ur"], h) + p["br"])
    candidate = tanh(times(p["U"], reset * h) + times(p["W"], x) + p["b"])
    h = candidate * update + h * (1 - update)
    return h, h


def mgu(p, h, x):
    """Zhou et al. 2016: one gate both resets and updates, and weighs the candidate."""
    forget = sigmoid(times(p["Wf"], x) + times(p["Uf"], h) + p["bf"])
    candidate = tanh(times(p["W"], x) + times(p["U"], forget * h) + p["b"])
    h = (1 - forget) * h + forget * candidate
    return h, h


def ugrnn(p, h, x):
    """Collins et al. 2017: an Elman network whose update is gated; g weighs the past."""
    gate = sigmoid(times(p["Wg"], x) + times(p["Ug"], h) + p["bg"])
    candidate = tanh(times(p["W"], x) + times(p["U"], h) + p["b"])
    h = gate * h + (1 - gate) * candidate
    return h, h


def ligru(p, h, x):
    """Ravanelli et al. 2018, without batch normalisation: no reset gate, relu; z weighs the past."""
    update = sigmoid(times(p["Wz"], x) + times(p["Uz"], h) + p["bz"])
    candidate = relu(times(p["W"], x) + times(p["U"], h) + p["b"])
    h = update * h + (1 - update) * candidate
    return h, h


def lightru(p, h, x):
    """Ye et al. 2024: the candidate is of x alone, without bias; f weighs it."""
    forget = sigmoid(times(p["Wf"], x) + times(p["Uf"], h) + p["bf"])
    candidate = tanh(times(p["W"], x))
    h = (1 - forget) * h + forget * candidate
    return h, h


def minimal_rnn(p, h, x):
    """Chen 2017: x is mapped to a latent z, and a gate u of h and z mixes the two; u weighs the past."""
    z = tanh(times(p["Wz"], x) + p["bz"])
    update = sigmoid(times(p["Uu"], h) + times(p["Vu"], z) + p["bu"])
    h = update * h + (1 - update) * z
    return h, h


def cfn(p, h, x):
    """Laurent & von Brecht 2017: chaos-free, as without input the state only decays; gates θ (t), η (e)."""
    theta = sigmoid(times(p["Wt"], x) + times(p["Ut"], h) + p["bt"])
    eta = sigmoid(times(p["We"], x) + times(p["Ue"], h) + p["be"])
    h = theta * tanh(h) + eta * tanh(times(p["W"], x))
    return h, h


def star(p, h, x):
    """Turkoglu et al. 2019: one gate k, which weighs a candidate of x alone; tanh around the sum."""
    z = tanh(times(p["Wz"], x) + p["bz"])
    k = sigmoid(times(p["Wk"], x) + times(p["Uk"], h) + p["bk"])
    h = tanh((1 - k) * h + k * z)
    return h, h


def ran(p, c, x, f=tanh):
    """Lee et al. 2017: a linear candidate of x alone; the gates see h = f(c), and c alone is carried."""
    h = f(c)
    candidate = times(p["W"], x) + p["b"]
    input_gate = sigmoid(times(p["Wi"], x) + times(p["Ui"], h) + p["bi"])
    forget_gate = sigmoid(times(p["Wf"], x) + times(p["Uf"], h) + p["bf"])
    c = input_gate * candidate + forget_gate * c
    return c, f(c)


def atr(p, h, x):
    """Zhang et al. 2018: the sum and the difference of what x and h say are the twin gates."""
    from_x = times(p["W"], x) + p["b"]
    from_h = times(p["U"], h)
    input_gate = sigmoid(from_x + from_h)
    forget_gate = sigmoid(from_x - from_h)
    h = input_gate * from_x + forget_gate * h
    return h, h


def brc(p, h, x):
    """Vecoven et al. 2021: every neuron sees itself alone, and can be bistable (a > 1)."""
    a = 1 + tanh(times(p["Wa"], x) + p["ua"] * h + p["ba"])
    c = sigmoid(times(p["Wc"], x) + p["uc"] * h + p["bc"])
    h = c * h + (1 - c) * tanh(times(p["W"], x) + a * h + p["b"])
    return h, h


def nbrc(p, h, x):
    """Vecoven et al. 2021: the bistable cell with its a and c neuromodulated by all neurons."""
    a = 1 + tanh(times(p["Wa"], x) + times(p["Ua"], h) + p["ba"])
    c = sigmoid(times(p["Wc"], x) + times(p["Uc"], h) + p["bc"])
    h = c * h + (1 - c) * tanh(times(p["W"], x) + a * h + p["b"])
    return h, h


def factored(p, letter, vector):
    """W v, or W1 (W2 v) where W is given as a product of low rank."""
    if letter + "1" in p:
        return times(p[letter + "1"], times(p[letter + "2"], vector))
    return times(p[letter], vector)


def fastrnn(p, h, x, f=tanh):
    """Kusupati et al. 2018: a residual connection weighed by two scalars, each behind a sigmoid."""
    candidate = f(factored(p, "W", x) + factored(p, "U", h) + p["b"])
    h = sigmoid(p["beta"]) * h + sigmoid(p["alpha"]) * candidate
    return h, h


def fastgrnn(p, h, x):
    """Kusupati et al. 2018: gate and candidate share W and U; z weighs the past."""
    shared = factored(p, "W", x) + factored(p, "U", h)
    z = sigmoid(shared + p["bz"])
    candidate = tanh(shared + p["bh"])
    h = (sigmoid(p["zeta"]) * (1 - z) + sigmoid(p["nu"])) * candidate + z * h
    return h, h


def sgrn(p, h, x):
    """Zu et al. 2020: one matrix W, which makes both the gate and, without the bias, the candidate."""
    from_x = times(p["W"], x)
    forget = sigmoid(from_x + times(p["U"], h) + p["b"])
    h = tanh((1 - forget) * from_x + forget * h)
    return h, h


def intersection_rnn(p, h, x):
    """Collins et al. 2017: the +RNN, gated both in time (h) and in depth (y), so x and h are of one size."""
    y_in = relu(times(p["Wy"], x) + times(p["Uy"], h) + p["by"])
    h_in = tanh(times(p["Wh"], x) + times(p["Uh"], h) + p["bh"])
    y_gate = sigmoid(times(p["Wgy"], x) + times(p["Ugy"], h) + p["bgy"])
    h_gate = sigmoid(times(p["Wgh"], x) + times(p["Ugh"], h) + p["bgh"])
    y = y_gate * x + (1 - y_gate) * y_in
    h = h_gate * h + (1 - h_gate) * h_in
    return h, y


def layer_norm_gru(p, h, x, eps=1e-6):
    """Ba et al. 2016: the sums from x and those from h normalised apart, r and z together (in that order).

    The candidate's two sums have norms of their own, and r scales the one from h; z weighs the candidate.
    """
    from_x = np.concatenate([times(p["Wr"], x), times(p["Wz"], x)], axis=-1)
    from_h = np.concatenate([times(p["Ur"], h), times(p["Uz"], h)], axis=-1)
    a = layer_norm(from_x, p["ax"], eps=eps) + layer_norm(from_h, p["ah"], eps=eps) + p["bg"]
    reset, update = np.split(sigmoid(a), 2, axis=-1)
    from_x = layer_norm(times(p["W"], x), p["acx"], p["b"], eps)
    from_h = layer_norm(times(p["U"], h), p["ach"], p["d"], eps)
    candidate = tanh(from_x + reset * from_h)
    h = (1 - update) * h + update * candidate
    return h, h


def gru_d(p, carry, x):
    """Che et al. 2018: x comes with a mask (1 observed, 0 missing) and the time since the last observation.

    With that time a missing value decays from the last one observed to the mean, and the state to zero.
    """
    h, last = carry
    x, mask, delta = x
    x_decay = np.exp(-relu(p["wx"] * delta + p["bx"]))
    h_decay = np.exp(-relu(times(p["Wh"], delta) + p["bh"]))
    filled = mask * x + (1 - mask) * (x_decay * last + (1 - x_decay) * p["mean"])
    last = mask * x + (1 - mask) * last
    h = h_decay * h
    reset = sigmoid(times(p["Wr"], filled) + times(p["Ur"], h) + times(p["Vr"], mask) + p["br"])
    update = sigmoid(times(p["Wz"], filled) + times(p["Uz"], h) + times(p["Vz"], mask) + p["bz"])
    candidate = tanh(times(p["W"], filled) + times(p["U"], reset * h) + times(p["V"], mask) + p["b"])
    h = (1 - update) * h + update * candidate
    return (h, last), h
