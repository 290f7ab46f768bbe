"""The equations of the cells written again from the papers, in NumPy, importing nothing of jrnn.

Gate by gate, each with its own matrices, on column vectors: W x + U h + b. Vectors stand in the last
axis, so the same lines serve any batch. Every step is `(p, carry, x) -> (carry, y)`, with `p` a dict
whose keys are the letters of the equation. All functions are analytic (relu piecewise), so that a
complex step gives derivatives exact to rounding.
"""

import numpy as np


def tanh(a):
    return np.tanh(a)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def relu(a):
    return np.where(a.real > 0, a, 0)


def linear(a):
    return a


def times(matrix, vector):
    """W v for a vector in the last axis, whatever batch axes stand before it."""
    return np.einsum("ij,...j->...i", matrix, vector)


def elman(p, h, x, f=tanh):
    """Elman 1990: the context units are a copy of the hidden layer one step ago."""
    h = f(times(p["W"], x) + times(p["U"], h) + p["b"])
    return h, h


def jordan(p, y, x, f=tanh, g=linear):
    """Jordan 1986: the state units are a copy of the output layer one step ago."""
    h = f(times(p["W"], x) + times(p["U"], y) + p["b"])
    y = g(times(p["V"], h) + p["c"])
    return y, y


def lstm(p, carry, x):
    """Gers et al. 2000, without peepholes: input, forget and output gate around one cell."""
    h, c = carry
    input_gate = sigmoid(times(p["Wi"], x) + times(p["Ui"], h) + p["bi"])
    forget_gate = sigmoid(times(p["Wf"], x) + times(p["Uf"], h) + p["bf"])
    output_gate = sigmoid(times(p["Wo"], x) + times(p["Uo"], h) + p["bo"])
    candidate = tanh(times(p["Wc"], x) + times(p["Uc"], h) + p["bc"])
    c = forget_gate * c + input_gate * candidate
    h = output_gate * tanh(c)
    return (h, c), h


def gru_reset_after(p, h, x):
    """Cho et al. 2014, arXiv:1406.1078v1, with the biases of cuDNN: r scales U h + d."""
    update = sigmoid(times(p["Wz"], x) + times(p["Uz"], h) + p["bz"])
    reset = sigmoid(times(p["Wr"], x) + times(p["Ur"], h) + p["br"])
    candidate = tanh(times(p["W"], x) + p["b"] + reset * (times(p["U"], h) + p["d"]))
    h = update * h + (1 - update) * candidate
    return h, h


def gru_reset_before(p, h, x):
    """Cho et al. 2014, arXiv:1406.1078v3: r scales h before the product."""
    update = sigmoid(times(p["Wz"], x) + times(p["Uz"], h) + p["bz"])
    reset = sigmoid(times(p["Wr"], x) + times(p["Ur"], h) + p["br"])
    candidate = tanh(times(p["W"], x) + times(p["U"], reset * h) + p["b"])
    h = update * h + (1 - update) * candidate
    return h, h


def dense(p, carry, x, f=linear):
    """A perceptron layer."""
    return carry, f(times(p["W"], x) + p["b"])


def embed(p, carry, token):
    """A look-up written as the product that it is: the table times a one-hot vector."""
    one_hot = np.equal.outer(token, np.arange(p["E"].shape[1])).astype(float)
    return carry, times(p["E"], one_hot)


def run(step, p, carry, xs):
    """Take `step` along the first axis of `xs`: `(last carry, all y)`."""
    ys = []
    for x in xs:
        carry, y = step(p, carry, x)
        ys.append(y)
    return carry, np.stack(ys)


def derivative(function, array, size=1e-30):
    """Gradient of a real analytic function of `array`: Im f(a + i·size) / size, element by element."""
    gradient = np.zeros(array.shape)
    for index in np.ndindex(array.shape):
        moved = array.astype(complex)
        moved[index] += 1j * size
        gradient[index] = np.imag(function(moved)) / size
    return gradient
