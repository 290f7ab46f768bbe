"""Quasi-recurrent networks: QRNN."""

from functools import partial

import jrnn
from tests.entries import HIDDEN, Case, Comparison, Entry, split
from tests.references import sigmoid, tanh, times


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


def unpack_qrnn(names):
    def unpack(p):
        weights = split(p.b, "b", names)
        for lag, w in enumerate(p.w_ih):
            weights |= {name + str(lag): part for name, part in split(w, "W", names).items()}
        return weights

    return unpack


POOLINGS = {"f": "zf", "fo": "zfo", "ifo": "zfoi"}


QRNN = Entry(
    laws=[Case(jrnn.QRNN(4, window=3), 2), Case(jrnn.QRNN(4, window=1, pooling="ifo"), 2)],
    values={
        f"QRNN-{pooling}-{window}": Comparison(
            jrnn.QRNN(HIDDEN, window=window, pooling=pooling),
            partial(qrnn, k=window, pooling=pooling),
            unpack_qrnn(names),
        )
        for pooling, names in POOLINGS.items()
        for window in (1, 2, 3)
    },
    counts=lambda i, h: {
        jrnn.QRNN(h, window=4): 3 * (4 * i * h + h),
        jrnn.QRNN(h, pooling="f"): 2 * (2 * i * h + h),
        jrnn.QRNN(h, pooling="ifo"): 4 * (2 * i * h + h),
    },
)
