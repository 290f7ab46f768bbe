"""Cells whose products are convolutions: ConvLSTM, ConvGRU, ConvRNN."""

from functools import partial

import numpy as np

import jrnn
from tests.entries import Case, Comparison, Entry, blocks
from tests.references import sigmoid, tanh


def around(n, size, stride, padding):
    """Places before and behind an axis of `n`: none, or as many as make ⌈n / stride⌉ places come out."""
    if padding == "VALID":
        return 0, 0
    if padding == "CIRCULAR":
        return (size - 1) // 2, size // 2
    total = max((-(-n // stride) - 1) * stride + size - n, 0)
    return total // 2, total - total // 2


def convolve(kernel, x, padding="SAME", strides=1, dilation=1):
    """Cross-correlation with a kernel (*sizes, in, out), its entries `dilation` places apart."""
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


WINDOWS = {  # of convolutions over two axes
    "valid": {"padding": "VALID"},
    "circular": {"padding": "CIRCULAR"},
    "strides": {"strides": (2, 1)},
    "dilation": {"dilation": 2},
    "circular-strides-dilation": {"padding": "CIRCULAR", "strides": 2, "dilation": (2, 1)},
    "even": {"kernel": (2, 4)},
    "circular-even": {"kernel": (2, 4), "padding": "CIRCULAR"},
    "valid-strides": {"padding": "VALID", "strides": (1, 2)},
}


def _seen_by(options):
    """What a reference is told, which sees the size of a kernel."""
    return {name: option for name, option in options.items() if name != "kernel"}


def fields(*spatial, channels=2):
    """Inputs of the laws: numbers at places."""
    return lambda rng, lead: rng.standard_normal((*lead, *spatial, channels))


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


def unpack_conv_lstm(p):
    return blocks(p.w_ih, "W", "ifco") | blocks(p.w_hh, "U", "ifco") | blocks(p.b, "b", "ifco")


ConvLSTM = Entry(
    laws=[
        Case(jrnn.ConvLSTM(3, spatial=1), 2, fields(5)),
        Case(jrnn.ConvLSTM(3, spatial=1, padding="VALID", strides=2), 2, fields(7)),
    ],
    values={
        "ConvLSTM-1": Comparison(
            jrnn.ConvLSTM(2, kernel=5, spatial=1), conv_lstm, unpack_conv_lstm, width=3, places=(4,)
        ),
        "ConvLSTM-2": Comparison(
            jrnn.ConvLSTM(2, spatial=2), conv_lstm, unpack_conv_lstm, width=1, places=(3, 4)
        ),
        "ConvLSTM-3": Comparison(
            jrnn.ConvLSTM(2, spatial=3), conv_lstm, unpack_conv_lstm, width=1, places=(2, 3, 1)
        ),
        **{
            f"ConvLSTM-{name}": Comparison(
                jrnn.ConvLSTM(2, **{"kernel": (3, 1)} | options),
                partial(conv_lstm, **_seen_by(options)),
                unpack_conv_lstm,
                width=1,
                places=(5, 4),
            )
            for name, options in WINDOWS.items()
        },
    },
    counts=lambda i, h: {jrnn.ConvLSTM(h): 4 * (9 * i * h + 9 * h**2 + h)},
)


def conv_gru(p, h, x, padding="SAME", **options):
    """Ballas et al. 2016: a GRU on images, r before the convolution; here z weighs the past."""
    read = lambda letter: convolve(p["W" + letter], x, padding, **options)
    feel = lambda letter, h: convolve(p["U" + letter], h, state(padding))
    update = sigmoid(read("z") + feel("z", h) + p["bz"])
    reset = sigmoid(read("r") + feel("r", h) + p["br"])
    candidate = tanh(read("") + feel("", reset * h) + p["b"])
    h = update * h + (1 - update) * candidate
    return h, h


def unpack_conv_gru(p):
    names = "r", "z", ""
    return blocks(p.w_ih, "W", names) | blocks(p.w_hh, "U", names) | blocks(p.b, "b", names)


ConvGRU = Entry(
    laws=[
        Case(jrnn.ConvGRU(3, kernel=(1, 3), padding="CIRCULAR", dilation=2), 2, fields(2, 5)),
        Case(jrnn.ConvGRU(4, spatial=2), 2, fields(5, 3)),
    ],
    values={
        "ConvGRU-1": Comparison(jrnn.ConvGRU(2, spatial=1), conv_gru, unpack_conv_gru, width=3, places=(4,)),
        "ConvGRU-2": Comparison(
            jrnn.ConvGRU(2, spatial=2), conv_gru, unpack_conv_gru, width=1, places=(3, 2)
        ),
        "ConvGRU-3": Comparison(
            jrnn.ConvGRU(1, spatial=3), conv_gru, unpack_conv_gru, width=1, places=(2, 3, 1)
        ),
        **{
            f"ConvGRU-{name}": Comparison(
                jrnn.ConvGRU(2, **{"kernel": (3, 1)} | options),
                partial(conv_gru, **_seen_by(options)),
                unpack_conv_gru,
                width=1,
                places=(5, 4),
            )
            for name, options in WINDOWS.items()
        },
    },
    counts=lambda i, h: {jrnn.ConvGRU(h): 3 * (9 * i * h + 9 * h**2 + h)},
)


def conv_rnn(p, h, x, padding="SAME", f=tanh, **options):
    """An Elman network on images."""
    h = f(convolve(p["W"], x, padding, **options) + convolve(p["U"], h, state(padding)) + p["b"])
    return h, h


ConvRNN = Entry(
    laws=[Case(jrnn.ConvRNN(3, spatial=1), 2, fields(5))],
    values={
        "ConvRNN": Comparison(
            jrnn.ConvRNN(2, kernel=(4, 1), activation="sigmoid", strides=2),
            partial(conv_rnn, f=sigmoid, strides=2),
            lambda p: {"W": p.w_ih, "U": p.w_hh, "b": p.b},
            width=1,
            places=(5, 4),
        )
    },
    counts=lambda i, h: {jrnn.ConvRNN(h): 9 * i * h + 9 * h**2 + h},
)
