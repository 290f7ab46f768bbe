"""Cells whose products are convolutions: one, two or three spatial axes stand before the channels."""

import numpy as np

from tests.references.functions import sigmoid, tanh


def around(n, size, stride, padding):
    """Places before and behind an axis of `n`: none, or as many as make ⌈n / stride⌉ places come out."""
    if padding == "VALID":
        return 0, 0
    if padding == "CIRCULAR":
        return size // 2, size // 2
    total = max((-(-n // stride) - 1) * stride + size - n, 0)
    return total // 2, total - total // 2


def convolve(kernel, x, padding="SAME", strides=1, dilation=1):
    """Cross-correlation with a kernel (*odd sizes, in, out), its entries `dilation` places apart."""
    *sizes, channels, out = kernel.shape
    strides, dilation = (np.broadcast_to(option, len(sizes)) for option in (strides, dilation))
    spans = [(k - 1) * d + 1 for k, d in zip(sizes, dilation, strict=True)]
    spread = np.zeros((*spans, channels, out), kernel.dtype)
    spread[tuple(slice(None, None, d) for d in dilation)] = kernel
    batch_axes = x.ndim - len(sizes) - 1
    axes = tuple(range(batch_axes, x.ndim - 1))
    pads = [around(x.shape[i], k, s, padding) for i, k, s in zip(axes, spans, strides, strict=True)]
    edges = [(0, 0)] * batch_axes + pads + [(0, 0)]
    padded = np.pad(x, edges, mode="wrap" if padding == "CIRCULAR" else "constant")
    seen = np.lib.stride_tricks.sliding_window_view(padded, spans, axes)  # (..., *places, in, *spans)
    seen = seen[(slice(None),) * batch_axes + tuple(slice(None, None, s) for s in strides)]
    places = seen.shape[: batch_axes + len(sizes)]
    rows = np.moveaxis(spread, -2, 0).reshape(-1, out)  # (in · spans, out)
    return seen.reshape(*places, -1) @ rows


def state(padding):
    """The padding of a convolution that keeps the size of the state."""
    return "CIRCULAR" if padding == "CIRCULAR" else "SAME"


def conv_lstm(p, carry, x, padding="SAME", **options):
    """Shi et al. 2015, without peepholes: an LSTM on images."""
    h, c = carry
    read = lambda letter: convolve(p["W" + letter], x, padding, **options)
    feel = lambda letter: convolve(p["U" + letter], h, state(padding))
    input_gate = sigmoid(read("i") + feel("i") + p["bi"])
    forget_gate = sigmoid(read("f") + feel("f") + p["bf"])
    output_gate = sigmoid(read("o") + feel("o") + p["bo"])
    candidate = tanh(read("c") + feel("c") + p["bc"])
    c = forget_gate * c + input_gate * candidate
    h = output_gate * tanh(c)
    return (h, c), h


def conv_gru(p, h, x, padding="SAME", **options):
    """Ballas et al. 2016: a GRU on images, r before the convolution; here z weighs the past."""
    read = lambda letter: convolve(p["W" + letter], x, padding, **options)
    feel = lambda letter, h: convolve(p["U" + letter], h, state(padding))
    update = sigmoid(read("z") + feel("z", h) + p["bz"])
    reset = sigmoid(read("r") + feel("r", h) + p["br"])
    candidate = tanh(read("") + feel("", reset * h) + p["b"])
    h = update * h + (1 - update) * candidate
    return h, h
