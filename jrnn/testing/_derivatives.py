"""The laws of derivatives: finite differences, JAX's transforms, and linear recurrences."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn.cell import is_linear, trainable
from jrnn.testing.subject import (
    BATCH,
    STEPS,
    LawError,
    Subject,
    assert_close,
    direction,
    dot,
    float_leaves,
    is_float,
    refill,
    smooth_loss,
    weighted_sum,
)
from jrnn.unrolling import Associative, Scan, unroll


def gradients(subject: Subject) -> None:
    """Gradients equal finite differences to second order, and are finite and nonzero for every parameter."""
    with jax.enable_x64(True):
        params, xs = subject.params("float64"), subject.xs(3, 2, dtype="float64")
        loss, leaves = smooth_loss(subject, params, xs)
        v = direction((params, xs))

        def derivatives(x: list[Array]) -> Any:
            # forward over reverse: both first derivatives, and the second
            (value, grad), (forward, twice) = jax.jvp(jax.value_and_grad(loss), (x,), (v,))
            return value, grad, forward, twice, jax.grad(lambda z: dot(jax.grad(loss)(z), v))(x)

        step = 1e-5
        program = subject.program(derivatives, leaves)
        below, here, above = (program(_moved(leaves, v, s)) for s in (-step, 0.0, step))
        _, grad, forward, twice, reverse_twice = here
        slope = (above[0] - below[0]) / (2 * step)
        curve = [(a - b) / (2 * step) for a, b in zip(above[1], below[1], strict=True)]
        along = sum(np.vdot(g, d) for g, d in zip(grad, v, strict=True))
        wrong = (
            "" if np.allclose(along, slope, 1e-6, 1e-6) else _wrong(program, leaves, v, grad, (params, xs))
        )
    assert_close(forward, slope, f"forward mode against finite differences{wrong}", 1e-6)
    assert_close(along, slope, f"reverse mode against finite differences{wrong}", 1e-6)
    assert_close(twice, curve, "second order against finite differences", 1e-6)
    assert_close(reverse_twice, twice, "second order, reverse over reverse", 1e-9)
    _check_reach(subject, params, refill((params, xs), grad)[0])


def _moved(leaves: list[Any], v: list[Any], by: float) -> list[Any]:
    return [a + by * d for a, d in zip(leaves, v, strict=True)]


def _wrong(program: Any, leaves: list[Any], v: list[Any], grad: list[Any], tree: Any) -> str:
    """Name the leaves whose gradients differ from finite differences."""
    found, step = [], 1e-5
    named = [path for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if is_float(leaf)]
    for i, path in enumerate(named):
        alone = [d if i == j else 0 * d for j, d in enumerate(v)]
        below, above = (program(_moved(leaves, alone, s))[0] for s in (-step, step))
        if not np.allclose(np.vdot(grad[i], v[i]), (above - below) / (2 * step), 1e-6, 1e-6):
            found.append(("params", "xs")[path[0].idx] + jax.tree_util.keystr(path[1:]))
    return f" (of {', '.join(found)})" if found else ""


def _check_reach(subject: Subject, params: Any, grads: Any) -> None:
    """Check that gradients are finite, nonzero for trainable parameters, and zero for fixed ones."""
    named = jax.tree_util.tree_leaves_with_path(grads)
    for (path, grad), trains in zip(named, jax.tree.leaves(trainable(params)), strict=True):
        if grad.size == 0:  # weights of an input of width 0
            continue
        name = jax.tree_util.keystr(path).strip(".[]'") or "params"
        if not np.all(np.isfinite(grad)):
            raise LawError(f"the gradient of {name} is not finite")
        if trains and not np.any(grad) and name not in subject.ignore:
            raise LawError(f"the gradient of {name} is zero: the parameter is never used")
        if not trains and np.any(grad):
            raise LawError(f"the gradient of {name}, which is fixed, is not zero")


def transforms(subject: Subject) -> None:
    """jvp, jacfwd, hessian, vmap, checkpoint and linearize work and agree with grad."""
    with jax.enable_x64(True):
        params, xs = subject.params("float64"), subject.xs(3, 2, dtype="float64")
        loss, (small, *rest) = smooth_loss(subject, params, xs)

        def run(a: Array) -> Any:
            def f(leaf: Array) -> Array:
                return loss([leaf, *rest])

            ones = jnp.ones_like(a)
            value, grad = jax.value_and_grad(f)(a)
            slopes = jnp.vdot(grad, ones), jax.jvp(f, (a,), (ones,))[1], jax.linearize(f, a)[1](ones)
            forward, hessian = jax.jacfwd(jax.value_and_grad(f))(a)
            grads = grad, forward, jax.grad(jax.checkpoint(f))(a)
            return slopes, grads, hessian, value, jax.vmap(f)(jnp.stack([a, 0.5 * a]))

        here, halved = subject.run_each(run, [small, 0.5 * small])
        (slope, *slopes), (grad, *grads), hessian, value, mapped = here
    for name, given in zip(("jvp", "linearize"), slopes, strict=True):
        assert_close(given, slope, name, 1e-10)
    for name, given in zip(("jacfwd", "checkpoint"), grads, strict=True):
        assert_close(given, grad, name, 1e-10)
    square = hessian.reshape(small.size, small.size)
    assert_close(square, square.T, "symmetry of the hessian", 1e-9)
    assert_close(mapped, np.stack([value, halved[3]]), "vmap over params", 1e-10)


def linearity(subject: Subject) -> None:
    """For a cell with `linear = True`, `Associative` equals `Scan`, derivatives included."""
    cell = subject.cell
    if not is_linear(cell):
        return
    resets = np.zeros((STEPS, BATCH), bool)
    resets[2] = True

    def run(params: Any, xs: Any) -> Any:
        start = jax.tree.map(
            lambda a: a + jnp.asarray(0.3, a.dtype), subject.carry(params, BATCH, dtype="float64")
        )

        def loss(floats: list[Array], method: Any, reverse: bool) -> Any:
            p, x, carry = refill((params, xs, start), floats)
            given = functools.partial(unroll, cell, p, x, carry, reverse=reverse, method=method)
            end, ys = given(lengths=np.array([STEPS, 2, 4]), resets=resets)
            return weighted_sum((end, ys)), (end, ys)

        derivatives = jax.value_and_grad(loss, has_aux=True)
        floats = float_leaves((params, xs, start))
        return [
            [derivatives(floats, method, reverse) for method in (Associative(tree=tree), Scan())]
            for reverse, tree in ((False, True), (True, False))
        ]

    with jax.enable_x64(True):
        both = subject.run(run, subject.params("float64"), subject.xs(STEPS, BATCH, dtype="float64"))
    for solved, scanned in both:
        assert_close(solved, scanned, "Associative against Scan", 1e-11)
