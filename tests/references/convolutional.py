"""Cells whose products are convolutions: one, two or three spatial axes stand before the channels."""

import numpy as np

from tests.references.functions import sigmoid, tanh


def convolve(kernel, x):
    """Cross-correlation with a kernel (*odd sizes, in, out), zeros around `x` so that its size is kept."""
    *sizes, _, _ = kernel.shape
    batch_axes = x.ndim - len(sizes) - 1
    padded = np.pad(x, [(0, 0)] * batch_axes + [(size // 2, size // 2) for size in sizes] + [(0, 0)])
    axes = tuple(range(batch_axes, x.ndim - 1))
    seen = np.lib.stride_tricks.sliding_window_view(padded, sizes, axes)  # (..., *places, in, *sizes)
    kernel = np.moveaxis(kernel, -2, 0).reshape(-1, kernel.shape[-1])  # (in · sizes, out)
    return seen.reshape(*x.shape[:-1], -1) @ kernel


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
