"""`backpropagate`: autodiff against the equations derived by hand, and against those that were got wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.analysis.backpropagation import Weights, backpropagate
from jrnn.cells.elman import ElmanParams
from jrnn.cells.maps import DenseParams
from jrnn.losses import cross_entropy

IN, HIDDEN, OUT = 2, 4, 3
sigmoid = lambda z: 1 / (1 + np.exp(-z))
F = {"tanh": np.tanh, "sigmoid": sigmoid, "relu": lambda z: np.maximum(z, 0), "identity": lambda z: z}
SLOPE = {
    "tanh": lambda z: 1 - np.tanh(z) ** 2,
    "sigmoid": lambda z: sigmoid(z) * (1 - sigmoid(z)),
    "relu": lambda z: (z > 0).astype(float),
    "identity": np.ones_like,
}


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def problem(steps, seed=0):
    """Weights, inputs, targets and a start, all random."""
    rng = np.random.default_rng(seed)
    weights = Weights(*(rng.normal(size=shape) for shape in ((IN, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, OUT))))
    weights = weights._replace(w11=1.2 * np.linalg.qr(weights.w11)[0])
    return weights, rng.normal(size=(steps, IN)), rng.normal(size=(steps, OUT)), rng.normal(size=HIDDEN)


def by_hand(weights, xs, targets, start, f1, f2, later="z1"):
    """The derivation for ½‖y − target‖², from the last step to the first; `later` is what comes back."""
    w1, w11, w2 = weights
    steps, h = len(xs), [start]
    z1, z2 = [], []
    for x in xs:
        z1.append(w1.T @ x + w11.T @ h[-1])
        h.append(F[f1](z1[-1]))
        z2.append(w2.T @ h[-1])
    y = [F[f2](z) for z in z2]
    d = {name: [None] * steps for name in ("dz1", "dh", "dz2", "dy")}
    dw1, dw11, dw2 = (np.zeros_like(w) for w in weights)
    for t in reversed(range(steps)):
        d["dy"][t] = y[t] - targets[t]
        d["dz2"][t] = SLOPE[f2](z2[t]) * d["dy"][t]
        back = {"z1": lambda s: w11 @ d["dz1"][s], "z2": lambda s: w11 @ np.resize(d["dz2"][s], HIDDEN)}
        back["nothing"] = lambda s: 0.0
        d["dh"][t] = w2 @ d["dz2"][t] + (back[later](t + 1) if t + 1 < steps else 0)
        d["dz1"][t] = SLOPE[f1](z1[t]) * d["dh"][t]
        dw1 += np.outer(xs[t], d["dz1"][t])
        dw11 += np.outer(h[t], d["dz1"][t])  # h[t] is that of the step before
        dw2 += np.outer(h[t + 1], d["dz2"][t])
    losses = [0.5 * np.sum((a - b) ** 2) for a, b in zip(y, targets, strict=True)]
    return {
        "losses": losses,
        "z1": z1,
        "h": h[1:],
        "z2": z2,
        "y": y,
        **d,
        "dw1": dw1,
        "dw11": dw11,
        "dw2": dw2,
    }


def close(found, needed, tolerance=1e-10):
    scale = max(1.0, float(np.max(np.abs(needed))))
    np.testing.assert_allclose(found, needed, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("steps", [1, 50])
@pytest.mark.parametrize("f1, f2", [("tanh", "identity"), ("sigmoid", "sigmoid"), ("relu", "tanh")])
def test_every_quantity_is_that_of_the_derivation_by_hand(f1, f2, steps):
    given = problem(steps)
    found = backpropagate(*given, activation=f1, output_activation=f2)
    needed = by_hand(*given, f1, f2)
    for name, value in needed.items():
        close(getattr(found, name), np.asarray(value))
    assert np.abs(needed["dw11"]).max() > 0.01


def test_gradients_at_the_last_but_one_step_come_back_through_z1_not_through_z2():
    """The lecture's slide has dz2 of the last step in the second term of dh of the step before."""
    given = problem(5)
    found = backpropagate(*given)
    wrong = by_hand(*given, "tanh", "identity", later="z2")
    close(found.dh[-1], wrong["dh"][-1])
    assert np.abs(found.dh[-2] - wrong["dh"][-2]).max() > 0.1


def test_the_direct_effect_of_a_weight_alone_is_not_its_gradient():
    """dO₁₀/dw is the sum over k of (Π dOₜ/dOₜ₋₁) times the direct effect at k, not that at 10 alone."""
    steps, (w, u, v) = 10, (0.7, 0.9, 1.1)
    xs = np.random.default_rng(0).normal(size=(steps, 1))
    o = [0.0]
    for x in xs[:, 0]:
        o.append(np.tanh(w * x + u * o[-1]))
    last = lambda y, target: target * y[0]  # the output of the last step
    found = backpropagate(Weights([[w]], [[u]], [[v]]), xs, np.eye(steps)[-1], loss=last)
    slope = [0.0, *(1 - np.square(o[1:]))]
    direct = [slope[k] * o[k - 1] for k in range(1, steps + 1)]
    chain = [np.prod([u * slope[t] for t in range(k + 1, steps + 1)]) for k in range(1, steps + 1)]
    close(found.dw11, v * np.sum(np.multiply(chain, direct)).reshape(1, 1), 1e-13)
    assert abs(found.dw11 - v * direct[-1]).item() > 0.1 * abs(found.dw11).item()
    wrong = by_hand(*problem(5), "tanh", "identity", later="nothing")
    right = backpropagate(*problem(5))
    close(right.dw2, wrong["dw2"])
    assert np.abs(right.dw11 - wrong["dw11"]).max() > 0.1


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_gradient_of_a_weight_is_the_sum_over_the_steps_that_use_it(activation):
    weights, xs, targets, start = problem(7)
    found = backpropagate(weights, xs, targets, start, activation=activation)
    before = np.concatenate([start[None], found.h[:-1]])
    for name, left, right in (("w1", xs, found.dz1), ("w11", before, found.dz1), ("w2", found.h, found.dz2)):
        close(getattr(found.steps, name), np.einsum("ti,tj->tij", left, right))
        close(getattr(found.steps, name).sum(0), getattr(found, f"d{name}"))


@pytest.mark.parametrize("loss", ["squares", "cross entropy"])
def test_it_is_a_stack_of_an_elman_and_a_dense_cell(loss):
    weights, xs, targets, start = problem(6)
    labels = np.array([0, 2, 1, 1, 0, 2])
    per_step = {"squares": lambda y, t: 0.5 * jnp.sum((y - t) ** 2), "cross entropy": cross_entropy}[loss]
    targets = targets if loss == "squares" else labels
    cell = jrnn.Stack((jrnn.Elman(HIDDEN, activation="sigmoid"), jrnn.Dense(OUT)))
    params = ElmanParams(*weights[:2], np.zeros(HIDDEN)), DenseParams(weights.w2, np.zeros(OUT))

    def total(params):
        carry = cell.initial_carry(params)._replace(cells=(jnp.asarray(start), ()))
        ys = jrnn.unroll(cell, params, jnp.asarray(xs), carry)[1]
        return jnp.sum(jax.vmap(per_step)(ys, jnp.asarray(targets)))

    value, (elman, dense) = jax.value_and_grad(total)(params)
    found = backpropagate(weights, xs, targets, start, activation="sigmoid", loss=per_step)
    close(found.losses.sum(), value)
    for a, b in zip((found.dw1, found.dw11, found.dw2), (elman.w_ih, elman.w_hh, dense.w), strict=True):
        close(a, b)


def test_softmax_outputs_and_cross_entropy_give_the_difference_of_probabilities():
    """dz2 = y − target for one-hot targets, although softmax lets every unit move every output."""
    weights, xs, _, start = problem(4)
    targets = np.eye(OUT)[[0, 1, 1, 2]]
    loss = lambda y, target: -jnp.sum(target * jnp.log(y))
    found = backpropagate(weights, xs, targets, start, output_activation="softmax", loss=loss)
    close(found.y.sum(-1), np.ones(4))
    close(found.dz2, found.y - targets)
    close(found.dy, -targets / found.y)


def test_a_start_of_zeros_a_tree_of_targets_and_vmap():
    weights, xs, targets, _ = problem(3)
    weighted = lambda y, given: given["weight"] * jnp.sum((y - given["y"]) ** 2) / 2
    given = {"y": targets, "weight": np.array([1.0, 0.0, 2.0])}
    found = backpropagate(weights, xs, given, loss=weighted)
    close(found.dy, (found.y - targets) * given["weight"][:, None])
    close(found.h, backpropagate(weights, xs, targets, np.zeros(HIDDEN)).h)
    batch = jax.vmap(lambda x: backpropagate(weights, x, targets).dw11)(np.stack([xs, 2 * xs]))
    close(batch[1], backpropagate(weights, 2 * xs, targets).dw11)


def test_the_dtype_is_that_of_weights_and_inputs():
    weights, xs, targets, _ = problem(3)
    single = Weights(*(np.float32(w) for w in weights))
    assert backpropagate(single, np.float32(xs), targets).dw1.dtype == np.float32
    assert backpropagate(single, xs, targets).h.dtype == np.float64
    whole = backpropagate(Weights([[1]], [[1]], [[1]]), [[1], [1]], np.zeros((2, 1)), activation="identity")
    assert whole.h.ravel().tolist() == [1, 2] and whole.dh.ravel().tolist() == [3, 2]


W, X, Y, H = problem(5)
BAD = [
    ((W._replace(w1=W.w1[0]), X, Y), {}, "w1 has shape (4,), needs two axes, (from, to)"),
    ((W._replace(w11=W.w11[:, :3]), X, Y), {}, "w11 has shape (4, 3), a hidden layer of 4 needs (4, 4)"),
    ((W._replace(w2=W.w2.T), X, Y), {}, "w2 has shape (3, 4), a hidden layer of 4 needs (4, 4)"),
    ((W, X[:, None], Y), {}, "xs has shape (5, 1, 2), needs one sequence, (time, 2)"),
    ((W, X, Y[:4]), {}, "targets has shape (4, 3), needs a target for each of 5 steps"),
    ((W, X, Y, H[None]), {}, "start has shape (1, 4), needs (4,)"),
    ((W, X, Y), {"activation": "softmax"}, "activation must be one of tanh, relu"),
    ((W, X, Y), {"output_activation": "soft"}, "output_activation must be one of tanh, relu"),
]


@pytest.mark.parametrize("arguments, options, message", BAD)
def test_what_does_not_fit_is_named(arguments, options, message):
    with pytest.raises(ValueError) as error:
        backpropagate(*arguments, **options)
    assert str(error.value).startswith(message)
