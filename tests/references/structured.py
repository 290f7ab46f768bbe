"""Cells with a structure in their matrices, their time or their depth; discretised differential equations."""

import numpy as np

from tests.references.functions import exponential, modrelu, relu, sigmoid, tanh, times


def antisymmetric_rnn(p, h, x, *, gamma, epsilon):
    """Chang et al. 2019: an Euler step of size ε with the matrix U - Uᵀ - γ I."""
    recurrent = times(p["U"], h) - times(p["U"].T, h) - gamma * h
    h = h + epsilon * tanh(recurrent + times(p["W"], x) + p["b"])
    return h, h


def gated_antisymmetric_rnn(p, h, x, *, gamma, epsilon):
    """Chang et al. 2019: the step gated, the gate seeing h by the same antisymmetric matrix."""
    recurrent = times(p["U"], h) - times(p["U"].T, h) - gamma * h
    z = sigmoid(recurrent + times(p["Wz"], x) + p["bz"])
    h = h + epsilon * z * tanh(recurrent + times(p["W"], x) + p["b"])
    return h, h


def clockwork_rnn(p, carry, x, *, periods, f=tanh):
    """Koutník et al. 2014: module i ticks when its period divides t, and sees no module faster than it."""
    h, t = carry
    modules = np.split(h, len(periods), axis=-1)
    ticked = []
    for i, period in enumerate(periods):
        a = times(p[f"W{i}"], x) + p[f"b{i}"]
        for j, other in enumerate(periods):
            if other >= period:
                a = a + times(p[f"U{i}{j}"], modules[j])
        ticks = np.expand_dims(t, -1) % period == 0
        ticked.append(np.where(ticks, f(a), modules[i]))
    h = np.concatenate(ticked, axis=-1)
    return (h, t + 1), h


def scrn(p, carry, x, alpha=0.95):
    """Mikolov et al. 2014: a context m that moves slowly beside a sigmoid hidden layer; no biases."""
    h, m = carry
    m = (1 - alpha) * times(p["B"], x) + alpha * m
    h = sigmoid(times(p["P"], m) + times(p["A"], x) + times(p["R"], h))
    return (h, m), np.concatenate([h, m], axis=-1)


def rhn(p, s, x, depth=1, coupled=True):
    """Zilly et al. 2017: a highway network of `depth` layers in each step; x enters the first alone."""
    for n in range(depth):
        a_h = times(p[f"Rh{n}"], s) + p[f"bh{n}"]
        a_t = times(p[f"Rt{n}"], s) + p[f"bt{n}"]
        if n == 0:
            a_h = a_h + times(p["Wh"], x)
            a_t = a_t + times(p["Wt"], x)
        transform = sigmoid(a_t)
        if coupled:
            keep = 1 - transform
        else:
            a_c = times(p[f"Rc{n}"], s) + p[f"bc{n}"]
            keep = sigmoid(a_c + times(p["Wc"], x) if n == 0 else a_c)
        s = tanh(a_h) * transform + s * keep
    return s, s


def nas(p, carry, x):
    """Zoph & Le 2017: the cell that their search found on Penn Treebank; no biases."""
    h, c = carry
    xs = [None] + [times(p[f"W{n}"], x) for n in range(1, 9)]
    hs = [None] + [times(p[f"U{n}"], h) for n in range(1, 9)]
    o1 = sigmoid(xs[1] + hs[1])
    o2 = relu(xs[2] + hs[2])
    o3 = sigmoid(xs[3] + hs[3])
    o4 = relu(xs[4] * hs[4])
    o5 = tanh(xs[5] + hs[5])
    o6 = sigmoid(xs[6] + hs[6])
    o7 = tanh(xs[7] + hs[7])
    o8 = sigmoid(xs[8] + hs[8])
    l1 = tanh(o1 * o2)
    l2 = tanh(o3 + o4)
    l3 = tanh(o5 * o6)
    l4 = sigmoid(o7 + o8)
    c = tanh(l1 + c) * l2
    h = tanh(c * tanh(l3 + l4))
    return (h, c), h


def cornn(p, carry, x, *, dt, gamma, epsilon):
    """Rusch & Mishra 2021: coupled damped oscillators, velocity z first; the damping sees the old z."""
    h, z = carry
    force = tanh(times(p["W"], x) + times(p["Uz"], z) + times(p["Uh"], h) + p["b"])
    z = z + dt * (force - gamma * h - epsilon * z)
    h = h + dt * z
    return (h, z), h


def unicornn(p, carry, x, *, dt, alpha):
    """Rusch & Mishra 2021: undamped and uncoupled oscillators, each with a step dt σ(c) of its own."""
    h, z = carry
    step = dt * sigmoid(p["c"])
    z = z - step * (tanh(p["u"] * h + times(p["W"], x) + p["b"]) + alpha * h)
    h = h + step * z
    return (h, z), h


def lem(p, carry, x, dt=1):
    """Rusch et al. 2022: two time scales, both steps gated by the old h (the paper's y); h sees the new z."""
    h, z = carry
    step_z = dt * sigmoid(times(p["W1"], x) + times(p["U1"], h) + p["b1"])
    step_h = dt * sigmoid(times(p["W2"], x) + times(p["U2"], h) + p["b2"])
    z = (1 - step_z) * z + step_z * tanh(times(p["Wz"], x) + times(p["Uz"], h) + p["bz"])
    h = (1 - step_h) * h + step_h * tanh(times(p["Wy"], x) + times(p["Uy"], z) + p["by"])
    return (h, z), h


def orthogonal(s, size, method):
    """Q of S = L - Lᵀ, L strictly lower triangular and filled row by row from `s`."""
    lower = np.zeros((size, size), s.dtype)
    filled = 0
    for row in range(1, size):
        lower[row, :row] = s[filled : filled + row]
        filled += row
    skew = lower - lower.T
    if method == "exponential":
        return exponential(skew)
    return {"cayley": np.linalg.solve}[method](np.eye(size) + skew, np.eye(size) - skew)


def orthogonal_rnn(p, h, x, method="exponential", f=tanh):
    """U orthogonal: exp(S), Lezcano-Casado & Martínez-Rubio 2019; (I + S)⁻¹(I - S), Helfrich et al. 2018.

    Under modrelu the bias is the threshold.
    """
    a = times(p["W"], x) + times(orthogonal(p["s"], h.shape[-1], method), h)
    h = modrelu(a, p["b"]) if f is modrelu else f(a + p["b"])
    return h, h


def legendre(theta, order):
    """The memory θ dm/dt = A m + B u over one step of constant u: m becomes Ā m + B̄ u."""
    system = np.zeros((order + 1, order + 1))
    for i in range(order):
        for j in range(order):
            system[i, j] = (2 * i + 1) * (-1 if i < j else (-1) ** (i - j + 1))
        system[i, order] = (2 * i + 1) * (-1) ** i
    held = exponential(system / theta)
    return held[:order, :order], held[:order, order]


def lmu(p, carry, x, *, theta, order):
    """Voelker et al. 2019: a linear memory of the last θ steps of one signal u, in Legendre polynomials.

    u is read from x, the hidden layer and the memory; the hidden layer sees the new memory; no biases.
    """
    h, m = carry
    u = (p["ex"] * x).sum(axis=-1) + (p["eh"] * h).sum(axis=-1) + (p["em"] * m).sum(axis=-1)
    state, entry = legendre(theta, order)
    m = times(state, m) + entry * u[..., None]
    h = tanh(times(p["Wx"], x) + times(p["Wh"], h) + times(p["Wm"], m))
    return (h, m), h
