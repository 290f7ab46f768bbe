"""Recurrences linear in the state given the input, and their kin: quasi-recurrent, strongly typed, xLSTM."""

import numpy as np

from tests.references.functions import (
    absolute,
    in_heads,
    maximum,
    sigmoid,
    softplus,
    tanh,
    times,
    times_heads,
)


def min_gru(p, h, x):
    """Feng et al. 2024: gate and linear candidate of x alone; z weighs the candidate."""
    z = sigmoid(times(p["Wz"], x) + p["bz"])
    candidate = times(p["Wh"], x) + p["bh"]
    h = (1 - z) * h + z * candidate
    return h, h


def min_lstm(p, h, x):
    """Feng et al. 2024: the two gates of x alone are scaled to sum to one."""
    forget_gate = sigmoid(times(p["Wf"], x) + p["bf"])
    input_gate = sigmoid(times(p["Wi"], x) + p["bi"])
    candidate = times(p["Wh"], x) + p["bh"]
    total = forget_gate + input_gate
    h = forget_gate / total * h + input_gate / total * candidate
    return h, h


def lru(p, carry, x):
    """Orvieto et al. 2023: s = λ s + exp(γ) B x with λ = exp(-exp(ν) + i exp(θ)), y = Re(C s) + D x.

    D is a vector, left out where y is not as wide as x. The state and every complex number stand as two
    real arrays.
    """
    re, im = carry
    modulus, phase = np.exp(-np.exp(p["nu"])), np.exp(p["theta"])
    l_re, l_im = modulus * np.cos(phase), modulus * np.sin(phase)
    re, im = (
        l_re * re - l_im * im + np.exp(p["gamma"]) * times(p["Br"], x),
        l_re * im + l_im * re + np.exp(p["gamma"]) * times(p["Bi"], x),
    )
    y = times(p["Cr"], re) - times(p["Ci"], im)
    return (re, im), y + p["D"] * x if "D" in p else y


def rg_lru(p, h, x, heads=1):
    """De et al. 2024 (Griffin): the decay a^(8 r) is gated, and what enters is scaled to keep the variance.

    log a = -softplus(Λ), and the matrices of the two gates are block-diagonal.
    """
    r = sigmoid(times_heads(p["Wr"], x, heads) + p["br"])
    i = sigmoid(times_heads(p["Wi"], x, heads) + p["bi"])
    a = np.exp(-8 * softplus(p["Lambda"]) * r)
    h = a * h + np.sqrt(1 - a * a) * (i * x)
    return h, h


def sru(p, c, x, recurrent=True, scale=3**0.5):
    """Lei et al. 2018, the version of EMNLP: gates see the cell through vectors v, then a highway past it.

    The highway is x itself, scaled, or a product of its own with x.
    """
    skip = times(p["Wx"], x) if "Wx" in p else scale * x
    forget = times(p["Wf"], x) + p["bf"]
    reset = times(p["Wr"], x) + p["br"]
    if recurrent:
        forget = forget + p["vf"] * c
        reset = reset + p["vr"] * c
    forget, reset = sigmoid(forget), sigmoid(reset)
    c = forget * c + (1 - forget) * times(p["W"], x)
    h = reset * c + (1 - reset) * skip
    return c, h


def qrnn(p, carry, x, k=2, pooling="fo"):
    """Bradbury et al. 2017: gates and candidate by a causal convolution of width `k`; then a pooling."""
    past, c = carry
    inputs = (x, *past)
    assert len(inputs) == k

    def convolved(gate):
        return sum(times(p[f"W{gate}{lag}"], value) for lag, value in enumerate(inputs)) + p["b" + gate]

    z = tanh(convolved("z"))
    forget = sigmoid(convolved("f"))
    enter = sigmoid(convolved("i")) if pooling == "ifo" else 1 - forget
    c = forget * c + enter * z
    h = c if pooling == "f" else sigmoid(convolved("o")) * c
    return (inputs[: k - 1], c), h


def t_rnn(p, h, x):
    """Balduzzi & Ghifary 2016: strongly typed, so nothing of the state passes a matrix; z is linear."""
    z = times(p["Wz"], x) + p["bz"]
    forget = sigmoid(times(p["Wf"], x) + p["bf"])
    h = forget * h + (1 - forget) * z
    return h, h


def t_gru(p, carry, x):
    """Balduzzi & Ghifary 2016: z linear, o by tanh, all of the input and the one before; h = f h + z o."""
    last, h = carry
    z = times(p["Wz"], x) + times(p["Vz"], last) + p["bz"]
    forget = sigmoid(times(p["Wf"], x) + times(p["Vf"], last) + p["bf"])
    output = tanh(times(p["Wo"], x) + times(p["Vo"], last) + p["bo"])
    h = forget * h + z * output
    return (x, h), h


def t_lstm(p, carry, x):
    """Balduzzi & Ghifary 2016: as the T-GRU, but o scales the cell on its way out."""
    last, c = carry
    z = times(p["Wz"], x) + times(p["Vz"], last) + p["bz"]
    forget = sigmoid(times(p["Wf"], x) + times(p["Vf"], last) + p["bf"])
    output = tanh(times(p["Wo"], x) + times(p["Vo"], last) + p["bo"])
    c = forget * c + (1 - forget) * z
    return (x, c), c * output


def slstm(p, carry, x, heads=1, forget="sigmoid"):
    """Beck et al. 2024: an exponential input gate, and n which sums the gates to normalise the cell.

    As defined, without the stabiliser; the recurrent matrices are block-diagonal.
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


def mlstm(p, carry, x, heads=1):
    """Beck et al. 2024: the cell of each head is a matrix C that stores v at the key k, read by the query q.

    As defined, without the stabiliser; one input (exponential) and one forget gate (sigmoid) per head.
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
