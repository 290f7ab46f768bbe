"""What the steps of `tests/cells` are made of, in NumPy, and what drives them: `run`, `derivative`.

All functions are analytic (relu piecewise), so that a complex step gives derivatives exact to rounding.
Vectors stand in the last axis, so the same lines serve any batch.
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


def softplus(a):
    """log(1 + exp a), without overflow on either side."""
    positive = np.real(a) > 0
    return np.where(positive, a, 0) + np.log1p(np.exp(np.where(positive, -a, a)))


def gelu(a):
    """Hendrycks & Gimpel 2016, arXiv:1606.08415, with the tanh in the place of the error function."""
    return a / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a * a * a)))


def silu(a):
    """Elfwing et al. 2018, arXiv:1702.03118; the swish of Ramachandran et al. 2017."""
    return a * sigmoid(a)


def elu(a):
    """Clevert et al. 2016, α = 1."""
    return np.where(np.real(a) > 0, a, np.exp(a) - 1)


def leaky_relu(a):
    return np.where(np.real(a) > 0, a, 0.01 * a)


def softsign(a):
    return a / (1 + absolute(a))


def hard_sigmoid(a):
    return (clamp(a, 3) + 3) / 6


def hard_tanh(a):
    return clamp(a, 1)


def scaled_tanh(a):
    """LeCun et al. 1998: f(1) = 1 and f(-1) = -1, nearly."""
    return 1.7159 * np.tanh(2 * a / 3)


def thresholded_relu(a):
    """Konda et al. 2015, θ = 1."""
    return np.where(np.real(a) > 1, a, 0)


def celu(a):
    """Barron 2017, α = 1, where it is elu."""
    return elu(a)


def selu(a):
    """Klambauer et al. 2017: the fixed point of mean 0 and variance 1."""
    return 1.0507009873554804934 * np.where(np.real(a) > 0, a, 1.6732632423543772848 * (np.exp(a) - 1))


def relu6(a):
    return np.where(np.real(a) > 6, 6, relu(a))


def hard_silu(a):
    """Howard et al. 2019: a relu6(a + 3) / 6."""
    return a * relu6(a + 3) / 6


def log_sigmoid(a):
    return -softplus(-a)


def mish(a):
    """Misra 2020."""
    return a * np.tanh(softplus(a))


def squareplus(a):
    """Barron 2021, b = 4."""
    return (a + np.sqrt(a * a + 4)) / 2


def sparse_plus(a):
    """Peters et al. 2019: 0, then a parabola, then the identity."""
    return np.where(np.real(a) <= -1, 0, np.where(np.real(a) >= 1, a, (a + 1) ** 2 / 4))


def sparse_sigmoid(a):
    """The slope of `sparse_plus`."""
    return (clamp(a, 1) + 1) / 2


def absolute(a):
    """|a| along the real axis: the sign of the real part is a constant to the complex step."""
    return a * np.sign(np.real(a))


def maximum(a, b):
    return np.where(np.real(a) > np.real(b), a, b)


def clamp(a, bound):
    """`a` kept within [-bound, bound]."""
    return np.where(np.real(a) > bound, bound, np.where(np.real(a) < -bound, -bound, a))


def modrelu(a, b):
    """Arjovsky et al. 2016 on real numbers: sign(a) relu(|a| + b)."""
    return np.sign(np.real(a)) * relu(absolute(a) + b)


def times(matrix, vector):
    """W v for a vector in the last axis, whatever batch axes stand before it."""
    return np.einsum("ij,...j->...i", matrix, vector)


def in_heads(vector, heads):
    """The last axis cut into consecutive slices of one length: (..., n) to (..., heads, n / heads)."""
    return np.stack(np.split(vector, heads, axis=-1), axis=-2)


def times_heads(matrices, vector, heads):
    """W v for a block-diagonal W, its blocks (heads, i, j): each acts on its own slice of the vector."""
    slices = np.split(vector, heads, axis=-1)
    return np.concatenate([times(w, v) for w, v in zip(matrices, slices, strict=True)], axis=-1)


def layer_norm(a, gain=1, bias=0, eps=1e-6):
    """Ba et al. 2016: mean 0 and variance 1 over the last axis, then a gain and a bias."""
    centered = a - a.mean(axis=-1, keepdims=True)
    variance = (centered * centered).mean(axis=-1, keepdims=True)
    return gain * centered / np.sqrt(variance + eps) + bias


def exponential(matrix):
    """The exponential of a matrix: the Taylor series of matrix / 2^s, squared s times."""
    norm = np.abs(matrix).sum(axis=-1).max()
    squarings = max(0, int(np.ceil(np.log2(norm))) + 1) if norm > 0 else 0
    scaled = matrix / 2**squarings
    term = total = np.eye(len(matrix))
    for n in range(1, 21):
        term = term @ scaled / n
        total = total + term
    for _ in range(squarings):
        total = total @ total
    return total


def run(step, p, carry, xs, **options):
    """Take `step` along the first axis of `xs`, or of each array of a tuple: `(last carry, all y)`."""
    ys = []
    for x in zip(*xs, strict=True) if isinstance(xs, tuple) else xs:
        carry, y = step(p, carry, x, **options)
        ys.append(y)
    return carry, np.stack(ys)


def derivative(function, array, along, size=1e-30):
    """Derivative of a real analytic function of `array` along a direction: Im f(a + i·size·along) / size.

    Along a random one it is right only if the gradient is, in every element: a run of the reference for each
    of them took half the time of the tests.
    """
    return np.imag(function(np.asarray(array) + 1j * size * along)) / size


FUNCTIONS = {
    "tanh": tanh,
    "relu": relu,
    "sigmoid": sigmoid,
    "identity": linear,
    "gelu": gelu,
    "silu": silu,
    "elu": elu,
    "leaky_relu": leaky_relu,
    "softplus": softplus,
    "softsign": softsign,
    "hard_sigmoid": hard_sigmoid,
    "hard_tanh": hard_tanh,
    "scaled_tanh": scaled_tanh,
    "thresholded_relu": thresholded_relu,
    "celu": celu,
    "hard_silu": hard_silu,
    "log_sigmoid": log_sigmoid,
    "mish": mish,
    "relu6": relu6,
    "selu": selu,
    "sparse_plus": sparse_plus,
    "sparse_sigmoid": sparse_sigmoid,
    "squareplus": squareplus,
}
