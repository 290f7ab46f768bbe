"""Backpropagation through time made visible: every quantity of the derivation by hand, and its gradient."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jrnn.cells.activations import ACTIVATIONS
from jrnn.checks import check_choice

Loss = Callable[[Array, Any], Array]  # (yₜ, targetₜ) -> a scalar

OUTPUTS = {**ACTIVATIONS, "softmax": jax.nn.softmax}


class Weights(NamedTuple):
    """Weights of a simple recurrent network of one hidden layer; wᵢⱼ leads from unit i to unit j.

    Fields:
      w1: (in, hidden), input to hidden layer.
      w11: (hidden, hidden), hidden layer to itself, one step later.
      w2: (hidden, out), hidden to output layer.
    """

    w1: Any
    w11: Any
    w2: Any


class Quantities(NamedTuple):
    """All that a simple recurrent network computes at each step, or the gradients of these.

    Fields:
      z1: (time, hidden).
      h: (time, hidden).
      z2: (time, out).
      y: (time, out).
    """

    z1: Array
    h: Array
    z2: Array
    y: Array


class Backpropagation(NamedTuple):
    """Result of `backpropagate`; a d before a name is the gradient of the loss by it.

    Fields:
      losses: (time,), Lₜ; their sum is the loss L.
      z1: (time, hidden).
      h: (time, hidden).
      z2: (time, out).
      y: (time, out).
      dz1: (time, hidden).
      dh: (time, hidden).
      dz2: (time, out).
      dy: (time, out).
      dw1: (in, hidden).
      dw11: (hidden, hidden).
      dw2: (hidden, out).
      steps: (time, ...), what the use of the weights at each step adds to dw1, dw11 and dw2.
    """

    losses: Array
    z1: Array
    h: Array
    z2: Array
    y: Array
    dz1: Array
    dh: Array
    dz2: Array
    dy: Array
    dw1: Array
    dw11: Array
    dw2: Array
    steps: Weights


def squared_error(y: Array, target: Array) -> Array:
    """½ Σ (y − target)², of which the gradient by y is y − target."""
    return jnp.sum((y - target) ** 2) / 2


def backpropagate(
    weights: Weights,
    xs: Array,
    targets: Any,
    start: Array | None = None,
    *,
    activation: str = "tanh",
    output_activation: str = "identity",
    loss: Loss = squared_error,
) -> Backpropagation:
    """Run a simple recurrent network, and backpropagate through time, with nothing left out.

        z1ₜ = W1ᵀ xₜ + W11ᵀ hₜ₋₁,   hₜ = f1(z1ₜ),   z2ₜ = W2ᵀ hₜ,   yₜ = f2(z2ₜ),   L = Σₜ loss(yₜ, targetₜ)

    The gradients come from automatic differentiation: a zero is added to every quantity at every step, the
    weights included, and the loss differentiated by these zeros. They are what is derived by hand:

        dz2ₜ = f2′(z2ₜ) · dyₜ
        dhₜ  = W2 dz2ₜ + W11 dz1ₜ₊₁        the second term is 0 at the last step
        dz1ₜ = f1′(z1ₜ) · dhₜ
        dW1  = Σₜ xₜ dz1ₜᵀ,   dW11 = Σₜ hₜ₋₁ dz1ₜᵀ,   dW2 = Σₜ hₜ dz2ₜᵀ

    It is `Stack((Elman(hidden, activation), Dense(out, output_activation)))` with w_ih = W1, w_hh = W11,
    w = W2 and biases of zero. One sequence; of a batch by `jax.vmap`, where gradients of the weights add up.

    Args:
      weights: `Weights(w1, w11, w2)`.
      xs: inputs, (time, in).
      targets: (time, ...), what the loss takes beside y; or a tree of such.
      start: h₀, (hidden,); zeros if left out.
      activation: f1, by name: "tanh", "relu", "sigmoid", "identity", ... (`jrnn.cells.activations`).
      output_activation: f2, likewise, or "softmax".
      loss: of a step, `(y, target) -> scalar`; `jrnn.losses.cross_entropy` takes y as logits.

    Returns:
      `Backpropagation(losses, z1, h, z2, y, dz1, dh, dz2, dy, dw1, dw11, dw2, steps)`.

    Raises:
      ValueError: an unknown name, or shapes that do not fit one another.

    Reference: Werbos, Backpropagation through time: what it does and how to do it, 1990,
    doi:10.1109/5.58337.

    >>> import jax.numpy as jnp
    >>> from jrnn.analysis import Weights, backpropagate
    >>> one, half = jnp.ones((1, 1)), jnp.full((1, 1), 0.5)
    >>> found = backpropagate(Weights(one, half, one), jnp.ones((3, 1)), jnp.zeros((3, 1)), activation="relu")
    >>> print(found.h.ravel(), found.dh.ravel(), found.dw11)  # dh₂ = h₂ + ½ dh₃, dw11 = h₁ dh₂ + h₂ dh₃
    [1.   1.5  1.75] [2.1875 2.375  1.75  ] [[5.]]
    """
    check_choice("activation", activation, tuple(ACTIVATIONS))
    check_choice("output_activation", output_activation, tuple(OUTPUTS))
    arrays = [jnp.asarray(a) for a in (*weights, xs)]
    dtype = jnp.result_type(*arrays, float)
    *matrices, xs = (a.astype(dtype) for a in arrays)
    weights, targets = Weights(*matrices), jax.tree.map(jnp.asarray, targets)
    start = jnp.zeros(weights.w11.shape[:1], dtype) if start is None else jnp.asarray(start, dtype)
    _check_shapes(weights, xs, targets, start)
    return _backpropagation(activation, output_activation, loss)(weights, xs, targets, start)


@functools.lru_cache(maxsize=16)
def _backpropagation(activation: str, output_activation: str, loss: Loss) -> Callable[..., Backpropagation]:
    f1, f2 = ACTIVATIONS[activation], OUTPUTS[output_activation]

    def step(weights: Weights, h: Array, given: Any) -> tuple[Array, tuple[Array, Quantities]]:
        x, target, (shift, by) = given
        w1, w11, w2 = (w + s for w, s in zip(weights, by, strict=True))
        z1 = x @ w1 + h @ w11 + shift.z1
        h = f1(z1) + shift.h
        z2 = h @ w2 + shift.z2
        y = f2(z2) + shift.y
        return h, (loss(y, target), Quantities(z1, h, z2, y))

    def total(weights: Weights, shifts: Any, xs: Array, targets: Any, start: Array) -> Any:
        _, (losses, values) = lax.scan(functools.partial(step, weights), start, (xs, targets, shifts))
        return losses.sum(), (losses, values)

    def run(weights: Weights, xs: Array, targets: Any, start: Array) -> Backpropagation:
        hidden, out = (jnp.zeros((len(xs), width), start.dtype) for width in weights.w2.shape)
        by = jax.tree.map(lambda w: jnp.zeros((len(xs), *w.shape), w.dtype), weights)
        shifts = Quantities(hidden, hidden, out, out), by
        (dw, (d, steps)), (losses, values) = jax.grad(total, (0, 1), has_aux=True)(
            weights, shifts, xs, targets, start
        )
        return Backpropagation._make((losses, *values, *d, *dw, steps))

    return jax.jit(run)


def _check_shapes(weights: Weights, xs: Array, targets: Any, start: Array) -> None:
    shapes = {name: jnp.shape(w) for name, w in zip(Weights._fields, weights, strict=True)}
    for name, shape in shapes.items():
        if len(shape) != 2:
            raise ValueError(f"{name} has shape {shape}, needs two axes, (from, to)")
    hidden = shapes["w11"][0]
    needed = {"w1": (shapes["w1"][0], hidden), "w11": (hidden, hidden), "w2": (hidden, shapes["w2"][1])}
    for name, shape in shapes.items():
        if shape != needed[name]:
            raise ValueError(f"{name} has shape {shape}, a hidden layer of {hidden} needs {needed[name]}")
    if xs.ndim != 2 or xs.shape[1] != shapes["w1"][0]:
        raise ValueError(f"xs has shape {xs.shape}, needs one sequence, (time, {shapes['w1'][0]})")
    if start.shape != (hidden,):
        raise ValueError(f"start has shape {start.shape}, needs ({hidden},)")
    for leaf in jax.tree.leaves(targets):
        if leaf.shape[:1] != xs.shape[:1]:
            raise ValueError(f"targets has shape {leaf.shape}, needs a target for each of {len(xs)} steps")
