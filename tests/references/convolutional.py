"""Cells whose products are convolutions: one, two or three spatial axes stand before the channels."""

import numpy as np

from tests.references.functions import sigmoid, tanh


def convolve(kernel, x):
    """Cross-correlation with a kernel (*odd sizes, in, out), zeros around `x` so that its size is kept."""
    *sizes, _, _ = kernel.shape
    batch_axes = x.ndim - len(sizes) - 1
    padded = np.pad(x, [(0, 0)] * batch_axes + [(size // 2, size // 2) for size in sizes] + [(0, 0)])
    y = 0
    for offset in np.ndindex(*sizes):
        part = padded
        for axis, start in enumerate(offset, start=batch_axes):
            part = np.take(part, range(start, start + x.shape[axis]), axis=axis)
        y = y + np.einsum("...i,io->...o", part, kernel[offset])
    return y


def conv_lstm(p, carry, x):
    """Shi et al. 2015, without peepholes: an LSTM on images."""
    h, c = carry
    input_gate = sigmoid(convolve(p["Wi"], x) + convolve(p["Ui"], h) + p["bi"])
    forget_gate = sigmoid(convolve(p["Wf"], x) + convolve(p["Uf"], h) + p["bf"])
    output_gate = sigmoid(convolve(p["Wo"], x) + convolve(p["Uo"], h) + p["bo"])
    candidate = tanh(convolve(p["Wc"], x) + convolve(p["Uc"], h) + p["bc"])
    c = forget_gate * c + input_gate * candidate
    h = output_gate * tanh(c)
    return (h, c), h


def conv_gru(p, h, x):
    """Ballas et al. 2016: a GRU on images, r before the convolution; here z weighs the past."""
    update = sigmoid(convolve(p["Wz"], x) + convolve(p["Uz"], h) + p["bz"])
    reset = sigmoid(convolve(p["Wr"], x) + convolve(p["Ur"], h) + p["br"])
    candidate = tanh(convolve(p["W"], x) + convolve(p["U"], reset * h) + p["b"])
    h = update * h + (1 - update) * candidate
    return h, h
