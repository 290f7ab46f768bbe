"""Recurrent layers without gates, the layers without recurrence, and a window on the past."""

import numpy as np

from tests.references.functions import clamp, linear, relu, tanh, times


def elman(p, h, x, f=tanh, clip=np.inf):
    """Elman 1990: the context units are a copy of the hidden layer one step ago."""
    h = f(clamp(times(p["W"], x) + times(p["U"], h) + p.get("b", 0), clip))
    return h, h


def jordan(p, y, x, f=tanh, g=linear):
    """Jordan 1986: the state units are a copy of the output layer one step ago."""
    h = f(times(p["W"], x) + times(p["U"], y) + p["b"])
    y = g(times(p["V"], h) + p["c"])
    return y, y


def indrnn(p, h, x, f=relu):
    """Li et al. 2018: neurons independent of each other, so that the recurrent weights are a vector u."""
    h = f(times(p["W"], x) + p["u"] * h + p["b"])
    return h, h


def leaky_rnn(p, carry, x, *, alpha, f=tanh, potential=False):
    """Leaky integrators, after Jaeger et al. 2007: of the rate f(a), or of the potential under it."""
    if potential:
        v = carry
        v = (1 - alpha) * v + alpha * (times(p["W"], x) + times(p["U"], f(v)) + p["b"])
        return v, f(v)
    h = carry
    h = (1 - alpha) * h + alpha * f(times(p["W"], x) + times(p["U"], h) + p["b"])
    return h, h


def echo_state(p, h, x, leak=1, f=tanh):
    """Jaeger 2001, Jaeger et al. 2007: a reservoir of leaky units, none of its matrices trained."""
    h = (1 - leak) * h + leak * f(times(p["W"], x) + times(p["U"], h) + p["b"])
    return h, h


def window(p, carry, x, k=1):
    """A tapped delay line: the input and its `k` predecessors, newest first; no parameters."""
    taps = (x, *carry)
    assert len(taps) == k + 1
    return taps[:k], np.concatenate(taps, axis=-1)


def finite_response(p, past, x, f=tanh):
    """A perceptron with one hidden layer f on the input and those before it, newest first."""
    taps = (x, *past)
    h = f(sum(times(p[f"W{lag}"], tap) for lag, tap in enumerate(taps)) + p["b"])
    return taps[:-1], times(p["V"], h) + p["c"]


def narx(p, carry, x, f=tanh):
    """Lin et al. 1996: a finite-response model that also sees past outputs, given ones or its own.

    The past of y starts with the model's own last output; further back stands what was read there.
    """
    past_x, (own, *past_y) = carry
    given, use_given, external = x
    xs = (external, *past_x)
    ys = (np.where(np.expand_dims(use_given, -1), given, own), *past_y)
    a = sum(times(p[f"W{lag}"], tap) for lag, tap in enumerate(xs))
    a = a + sum(times(p[f"U{lag}"], tap) for lag, tap in enumerate(ys, start=1))
    y = times(p["V"], f(a + p["b"])) + p["c"]
    return (xs[:-1], (y, *ys[:-1])), y


def dense(p, carry, x, f=linear):
    """A perceptron layer."""
    return carry, f(times(p["W"], x) + p.get("b", 0))


def mapping(p, carry, x, f=linear):
    """A function of the features, without memory or parameters."""
    return carry, f(x)


def embed(p, carry, token):
    """A look-up written as the product that it is: the table times a one-hot vector."""
    one_hot = np.equal.outer(token, np.arange(p["E"].shape[1])).astype(float)
    return carry, times(p["E"], one_hot)
