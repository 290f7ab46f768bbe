"""Maps without memory: Dense, Norm, Map, Embed."""

from functools import partial

import numpy as np

import jrnn
from tests.entries import IN, OUT, VOCABULARY, WIDE, Case, Comparison, Entry, read
from tests.references import FUNCTIONS, in_heads, layer_norm, linear, times


def dense(p, carry, x, f=linear):
    """A perceptron layer."""
    return carry, f(times(p["W"], x) + p.get("b", 0))


def unpack_dense(p):
    return {"W": p.w.T} | ({} if p.b is None else {"b": p.b})


Dense = Entry(
    laws=[Case(jrnn.Dense(4, activation="tanh"), 2)],
    values={
        **{
            f"Dense-{name}": Comparison(jrnn.Dense(OUT, activation=name), partial(dense, f=f), unpack_dense)
            for name, f in FUNCTIONS.items()
        },
        "Dense-no bias": Comparison(jrnn.Dense(OUT, bias=False), dense, unpack_dense),
    },
    counts=lambda i, h: {jrnn.Dense(h): read(i, h), jrnn.Dense(h, bias=False): i * h},
)


def rms_norm(p, carry, x, heads=1):
    """Zhang & Sennrich 2019, of each head on its own."""
    z = in_heads(x, heads)
    z = z / np.sqrt((z * z).mean(axis=-1, keepdims=True) + 1e-6)
    return carry, p["γ"] * np.concatenate([z[..., head, :] for head in range(heads)], axis=-1)


def group_norm(p, carry, x, heads=1):
    """Ba et al. 2016, of each head on its own (Wu & He 2018)."""
    z = layer_norm(in_heads(x, heads))
    return carry, p["γ"] * np.concatenate([z[..., head, :] for head in range(heads)], axis=-1) + p["b"]


Norm = Entry(
    laws=[Case(jrnn.Norm(4, heads=2), 4), Case(jrnn.Norm(4, centered=True), 4)],
    values={
        f"Norm-{heads}-{centered}": Comparison(
            jrnn.Norm(WIDE, heads=heads, centered=centered),
            partial(step, heads=heads),
            lambda p: {"γ": p.gain, "b": p.b},
            width=WIDE,
        )
        for centered, step in ((False, rms_norm), (True, group_norm))
        for heads in (1, 2)
    },
    counts=lambda i, h: {jrnn.Norm(i): i, jrnn.Norm(i, centered=True): 2 * i},
)


def mapping(p, carry, x, f=linear):
    """A function of the features, without memory or parameters."""
    return carry, f(x)


Map = Entry(
    laws=[Case(jrnn.Map("softsign", 4), 4)],
    values={
        f"Map-{name}": Comparison(jrnn.Map(name, IN), partial(mapping, f=FUNCTIONS[name]), lambda p: {})
        for name in ("tanh", "relu", "sigmoid", "identity")
    },
    counts=lambda i, h: {jrnn.Map("relu", i): 0},
)


def embed(p, carry, token):
    """A look-up written as the product that it is: the table times a one-hot vector."""
    one_hot = np.equal.outer(token, np.arange(p["E"].shape[1])).astype(float)
    return carry, times(p["E"], one_hot)


def unpack_embed(p):
    return {"E": p.table.T}


def tokens(rng, lead):
    return rng.integers(0, VOCABULARY, lead)


Embed = Entry(
    laws=[Case(jrnn.Embed(4), 6)],
    values={
        "Embed": Comparison(jrnn.Embed(OUT), embed, unpack_embed, width=VOCABULARY, inputs=tokens),
    },
    counts=lambda i, h: {jrnn.Embed(h): i * h},
)
