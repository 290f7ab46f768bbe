"""The laws: each takes a subject and raises a `LawError` where the cell breaks it."""

import functools
import pickle
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn.cell import FunctionCell, carry_spec, is_linear, map_state, trainable
from jrnn.testing.subject import (
    BATCH,
    STEPS,
    LawError,
    Subject,
    assert_close,
    avals,
    cast,
    direction,
    dot,
    float_leaves,
    identical,
    poison_padding,
    refill,
    same_avals,
    smooth_loss,
    take,
    visible_state,
    weighted_sum,
)
from jrnn.unrolling import Associative, Scan, unroll


def interface(subject: Subject) -> None:
    """The members can be called as the contract says, and the output is `out_features` wide."""
    cell, params, xs = subject.cell, subject.params(), subject.xs(BATCH)
    if not all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(params)):
        raise LawError("init returns leaves that are no arrays")
    subject.start(params, xs, jax.random.key(0))
    for what, tree in (("init", params), ("initial_carry", subject.start(params, xs))):
        leaves = jax.tree.leaves(tree)
        if len({id(leaf) for leaf in leaves}) < len(leaves):
            raise LawError(f"{what} returns one array in two places, which a call cannot take as donated")
    returned = cell.step(params, subject.start(params, xs), xs)
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise LawError("step must return (carry, y)")
    width = jax.tree.leaves(returned[1])[0].shape[-1:]
    if width != (cell.out_features,):
        raise LawError(f"out_features is {cell.out_features}, the output is {width} wide")


def splitting(subject: Subject) -> None:
    """One run over a ‖ b equals a run over a and one over b from its carry."""
    cell, params, xs = subject.cell, subject.params(), subject.xs(STEPS, BATCH)
    for reverse in (False, True):
        first, second = (slice(2, None), slice(2)) if reverse else (slice(2), slice(2, None))
        end, ys = unroll(cell, params, xs, reverse=reverse)
        middle, a = unroll(cell, params, take(xs, first), reverse=reverse)
        resumed, b = unroll(cell, params, take(xs, second), middle, reverse=reverse)
        assert_close(resumed, end, "carry after resuming")
        parts = (b, a) if reverse else (a, b)
        assert_close(jax.tree.map(lambda *p: jnp.concatenate(p), *parts), ys, "outputs after resuming")


def scan_is_loop(subject: Subject) -> None:
    """The loop equals a Python loop over `step`, with and without recomputation, eager and jitted."""
    cell, params, xs = subject.cell, subject.params(), subject.xs(STEPS, BATCH)
    carry, ys = subject.start(params, take(xs, 0)), []
    for t in range(STEPS):
        carry, y = cell.step(params, carry, take(xs, t))
        ys.append(y)
    loop = carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *ys)
    assert_close(unroll(cell, params, xs), loop, "unroll against a Python loop")
    blocks = unroll(cell, params, xs, method=Scan(memory="sqrt"))
    assert_close(blocks, loop, "unroll with recomputation against a Python loop")
    assert_close(jax.jit(lambda p, x: unroll(cell, p, x))(params, xs), loop, "jitted against eager")


def batching(subject: Subject) -> None:
    """A batched step equals `vmap` of the step over two batch axes, and every row starts alike."""
    cell, params = subject.cell, subject.params()
    xs, carry = subject.xs(2, BATCH), subject.carry(params, 2, BATCH)
    batched = cell.step(params, carry, xs)
    starts, alone = cell.initial_carry(params, (2, BATCH)), cell.initial_carry(params)
    spec = carry_spec(cell, params)
    copies = map_state(lambda many, one: jnp.broadcast_to(one, many.shape), spec, starts, alone)
    assert_close(starts, copies, "initial_carry of a batch against that of one sequence")
    one: Any = jax.vmap(jax.vmap(lambda c, x: cell.step(params, c, x)))
    assert_close(one(carry, xs), batched, "vmap(step) against the batched step")


def rows(subject: Subject) -> None:
    """A row of the batch does not depend on its neighbours, in value and in gradient."""
    cell, params, xs = subject.cell, subject.params(), subject.xs(STEPS, BATCH)
    other = subject.xs(STEPS, BATCH, seed=9)
    mixed = jax.tree.map(lambda a, b: jnp.concatenate([a[:, :1], b[:, 1:]], 1), xs, other)
    for reverse in (False, True):
        (end_a, a), (end_b, b) = (unroll(cell, params, x, reverse=reverse) for x in (xs, mixed))
        assert_close(take(a, (slice(None), 0)), take(b, (slice(None), 0)), "outputs of row 0")
        assert_close(take(end_a, 0), take(end_b, 0), "state of row 0")

    def row_0(floats: list[Array]) -> Array:
        ys = unroll(cell, params, refill(xs, floats))[1]
        return weighted_sum(take(ys, (slice(None), 0)))

    for grad in jax.jit(jax.grad(row_0))(float_leaves(xs)):
        if jnp.any(grad[:, 1:]):
            raise LawError("the gradient of row 0 reaches other rows")


def raggedness(subject: Subject) -> None:
    """With lengths, each sequence runs as if alone; length 0 returns the given carry bit for bit."""
    cell, params, xs = subject.cell, subject.params(), subject.xs(STEPS, BATCH)
    lengths, start = (STEPS, 0, 2), subject.carry(params, BATCH)
    for reverse in (False, True):
        end, ys = unroll(cell, params, xs, start, lengths=jnp.array(lengths), reverse=reverse)
        for row, length in enumerate(lengths):
            alone = jax.tree.map(lambda a, n=length, r=row: a[:n, r : r + 1], xs)
            begin = jax.tree.map(lambda a, r=row: a[r : r + 1], start)
            if length:
                begin, y = unroll(cell, params, alone, begin, reverse=reverse)
                assert_close(take(ys, (slice(length), slice(row, row + 1))), y, "outputs of a row alone")
            elif not identical(take(end, slice(row, row + 1)), begin):
                raise LawError("length 0 does not return the given carry bit for bit")
            assert_close(take(end, slice(row, row + 1)), begin, "carry of a row alone")
            if any(np.any(np.asarray(a[length:, row], np.float64)) for a in jax.tree.leaves(ys)):
                raise LawError("outputs behind the end of a sequence are not zero")


def dtypes(subject: Subject) -> None:
    """Carry and outputs keep structure and shape, and the dtype of params and inputs."""
    cell = subject.cell
    for dtype in ("float32", "bfloat16", "float16", "float64"):
        with jax.enable_x64(dtype == "float64"):
            params, xs = subject.params(dtype), subject.xs(STEPS, BATCH, dtype=dtype)
            start = subject.start(params, take(xs, 0))
            with jax.numpy_dtype_promotion("strict"):
                end, y = jax.eval_shape(cell.step, params, start, take(xs, 0))
            if not same_avals(start, end):
                raise LawError(f"in {dtype} the step changes the carry {avals(start)} to {avals(end)}")
            final, ys = unroll(cell, params, xs, lengths=jnp.array([STEPS, 0, 2]))
            if not same_avals(start, final):
                raise LawError(f"in {dtype} unroll changes the carry {avals(start)} to {avals(final)}")
            floats = float_leaves(ys)
            if any(a.dtype != jnp.dtype(dtype) for a in [*floats, *float_leaves(y)]):
                raise LawError(f"in {dtype} the outputs are {avals(ys)}")
            if not all(np.all(np.isfinite(np.asarray(a, np.float64))) for a in floats):
                raise LawError(f"in {dtype} an output is not finite")


def value(subject: Subject) -> None:
    """A cell is a value: equal to its copy, hashable, picklable (so that it is traced once)."""
    cell, params, xs = subject.cell, subject.params(), subject.xs(STEPS, BATCH)
    copy = cell
    if not isinstance(cell, FunctionCell):
        copy = pickle.loads(pickle.dumps(cell))
        if copy != cell or hash(copy) != hash(cell) or repr(copy) != repr(cell):
            raise LawError("a pickled copy is not equal, with an equal hash and the same print")
    programs = {_program(c, params, subject.start(params, take(xs, 0)), xs) for c in (cell, copy, cell)}
    if len(programs) > 1:
        raise LawError("tracing twice gives two programs: the step keeps hidden Python state")


def _program(cell: Any, params: Any, carry: Any, xs: Any) -> str:
    """The step as a jaxpr, traced anew, without the addresses of Python functions."""
    traced = jax.make_jaxpr(lambda p, c, x: cell.step(p, c, x))(params, carry, take(xs, 0))
    return re.sub("0x[0-9a-f]+", "", str(traced))


def gradients(subject: Subject) -> None:
    """Gradients equal finite differences to second order; every parameter has a finite, non-zero one."""
    with jax.enable_x64(True):
        params, xs = subject.params(), subject.xs(3, 2)
        loss, leaves = smooth_loss(subject, params, xs)
        v = direction((params, xs))

        @jax.jit
        def derivatives(x: list[Array]) -> Any:
            grad = jax.grad(loss)
            forward = jax.jvp(loss, (x,), (v,))[1]
            twice = jax.jvp(grad, (x,), (v,))[1]  # forward over reverse
            return loss(x), grad(x), forward, twice, jax.grad(lambda z: dot(grad(z), v))(x)

        step = 1e-5
        (below, below_grad, *_), (above, above_grad, *_) = (
            derivatives([a + s * d for a, d in zip(leaves, v, strict=True)]) for s in (-step, step)
        )
        _, grad, forward, twice, reverse_twice = derivatives(leaves)
        slope = (above - below) / (2 * step)
        curve = [(a - b) / (2 * step) for a, b in zip(above_grad, below_grad, strict=True)]
        assert_close(forward, slope, "forward mode against finite differences", 1e-6)
        assert_close(dot(grad, v), slope, "reverse mode against finite differences", 1e-6)
        assert_close(twice, curve, "second order against finite differences", 1e-6)
        assert_close(reverse_twice, twice, "second order, reverse over reverse", 1e-9)
        _check_reach(subject, params, refill((params, xs), grad)[0])


def _check_reach(subject: Subject, params: Any, grads: Any) -> None:
    """Every parameter has a finite gradient, that of a trainable one is not zero, of a fixed one is."""
    named = jax.tree_util.tree_leaves_with_path(grads)
    for (path, grad), trains in zip(named, jax.tree.leaves(trainable(params)), strict=True):
        name = jax.tree_util.keystr(path).strip(".[]'") or "params"
        if not jnp.all(jnp.isfinite(grad)):
            raise LawError(f"the gradient of {name} is not finite")
        if trains and not jnp.any(grad) and name not in subject.ignore:
            raise LawError(f"the gradient of {name} is zero: the parameter is never used")
        if not trains and jnp.any(grad):
            raise LawError(f"the gradient of {name}, which is fixed, is not zero")


def transforms(subject: Subject) -> None:
    """jvp, jacfwd, hessian, vmap, checkpoint and linearize work and agree with grad."""
    with jax.enable_x64(True):
        params, xs = subject.params(), subject.xs(3, 2)
        loss, (small, *rest) = smooth_loss(subject, params, xs)

        @jax.jit
        def run(a: Array) -> Any:
            def f(leaf: Array) -> Array:
                return loss([leaf, *rest])

            ones = jnp.ones_like(a)
            slope = jnp.vdot(jax.grad(f)(a), ones)
            slopes = slope, jax.jvp(f, (a,), (ones,))[1], jax.linearize(f, a)[1](ones)
            grads = jax.grad(f)(a), jax.jacfwd(f)(a), jax.grad(jax.checkpoint(f))(a)
            pair = jnp.stack([a, 0.5 * a])
            return slopes, grads, jax.hessian(f)(a), jax.vmap(f)(pair), jax.lax.map(f, pair)

        (slope, *slopes), (grad, *grads), hessian, mapped, looped = run(small)
        for name, given in zip(("jvp", "linearize"), slopes, strict=True):
            assert_close(given, slope, name, 1e-10)
        for name, given in zip(("jacfwd", "checkpoint"), grads, strict=True):
            assert_close(given, grad, name, 1e-10)
        square = hessian.reshape(small.size, small.size)
        assert_close(square, square.T, "symmetry of the hessian", 1e-9)
        assert_close(mapped, looped, "vmap over params", 1e-10)


def resetting(subject: Subject) -> None:
    """A reset at t equals a fresh start at t, whatever the state was; it goes with noise."""
    cell, params, xs = subject.cell, subject.params(), subject.xs(STEPS, BATCH)
    resets = jnp.zeros((STEPS, BATCH), bool).at[2].set(True)
    start = jax.tree.map(jnp.zeros_like, subject.carry(params, BATCH))
    start = map_state(lambda a: a + cast(jnp.array(0.3), a.dtype), carry_spec(cell, params), start)
    end, ys = unroll(cell, params, xs, start, resets=resets)
    before = unroll(cell, params, take(xs, slice(2)), start)[1]
    fresh_end, after = unroll(cell, params, take(xs, slice(2, None)))
    assert_close(end, fresh_end, "carry after a reset")
    joined = jax.tree.map(lambda *p: jnp.concatenate(p), before, after)
    assert_close(ys, joined, "outputs around a reset")
    ys = unroll(cell, params, xs, resets=resets, reverse=True)[1]
    ends = (unroll(cell, params, take(xs, part), reverse=True)[1] for part in (slice(2), slice(2, None)))
    assert_close(ys, jax.tree.map(lambda *p: jnp.concatenate(p), *ends), "outputs around a reset, reversed")
    jax.eval_shape(lambda k: unroll(cell, params, xs, resets=resets, key=k), jax.random.key(0))  # with noise


def padding(subject: Subject) -> None:
    """NaN, infinity and 1e38 in padding change nothing, bit for bit, in outputs and gradients."""
    cell, params, xs = subject.cell, subject.params(), subject.xs(STEPS, BATCH)
    mask = jnp.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]], bool)

    @jax.jit
    def run(params: Any, xs: Any) -> Any:
        def loss(floats: list[Array]) -> tuple[Array, Any]:
            p, x = refill((params, xs), floats)
            end, ys = unroll(cell, p, x, mask=mask)
            return weighted_sum((visible_state(cell, p, end), ys)), (end, ys)

        return jax.grad(loss, has_aux=True)(float_leaves((params, xs)))

    clean = run(params, xs)
    for poison in (jnp.nan, jnp.inf, -1e38):
        poisoned = jax.tree.map(lambda a, v=poison: poison_padding(a, mask, v), xs)
        if not identical(run(params, poisoned), clean):
            raise LawError(f"{poison} in padding changes an output or a gradient")


def linearity(subject: Subject) -> None:
    """A cell that says `linear = True` is solved by `Associative` as it is run by `Scan`, derivatives too."""
    cell = subject.cell
    if not is_linear(cell):
        return
    with jax.enable_x64(True):
        params, xs = subject.params(), subject.xs(STEPS, BATCH)
        start = jax.tree.map(lambda a: a + cast(jnp.array(0.3), a.dtype), subject.carry(params, BATCH))
        options = {
            "lengths": jnp.array([STEPS, 2, 4]),
            "resets": jnp.zeros((STEPS, BATCH), bool).at[2].set(True),
        }

        def run(floats: list[Array], method: Any, reverse: bool) -> Any:
            p, x, carry = refill((params, xs, start), floats)
            end, ys = unroll(cell, p, x, carry, **options, reverse=reverse, method=method)
            return weighted_sum((end, ys)), (end, ys)

        floats = float_leaves((params, xs, start))
        for reverse, tree in ((False, True), (True, False)):
            solved, scanned = (
                jax.jit(jax.value_and_grad(functools.partial(run, method=m, reverse=reverse), has_aux=True))(
                    floats
                )
                for m in (Associative(tree=tree), Scan())
            )
            assert_close(solved, scanned, "Associative against Scan", 1e-11)


LAWS: dict[str, Callable[[Subject], None]] = {
    "interface": interface,
    "split and resume": splitting,
    "scan = loop": scan_is_loop,
    "batched step = vmap(step)": batching,
    "rows are independent": rows,
    "ragged = alone": raggedness,
    "dtypes are kept": dtypes,
    "value": value,
    "gradients": gradients,
    "transforms": transforms,
    "reset = fresh start": resetting,
    "padding": padding,
    "linear = scan": linearity,
}
