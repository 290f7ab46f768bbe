"""The laws: each takes a subject, and raises a `LawError` if the cell breaks it.

A law consists of a few abstract traces (structure, shapes, dtypes), and of one program that `Subject.run`
compiles and runs; its results are compared in NumPy.
"""

import pickle
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn.cell import FunctionCell, carry_spec, in_ndim, map_state, trainable
from jrnn.testing._derivatives import gradients, linearity, transforms
from jrnn.testing.subject import (
    BATCH,
    STEPS,
    LawError,
    Subject,
    assert_close,
    avals,
    float_leaves,
    identical,
    joined,
    poison_padding,
    refill,
    same_avals,
    take,
    visible_state,
    weighted_sum,
)
from jrnn.unrolling import Scan, unroll


def interface(subject: Subject) -> None:
    """The members can be called; parameters depend on key and width, and y has the width `out_features`."""
    cell, key = subject.cell, jax.random.key(0)
    subject.abstractly(lambda k: _distinct_arrays("init", cell.init(k, subject.in_features)), key)
    params, xs = subject.params(), subject.xs(BATCH)
    start = jax.eval_shape(lambda p: _distinct_arrays("initial_carry", subject.start(p, xs)), params)
    jax.eval_shape(lambda p, k: subject.start(p, xs, k), params, key)
    returned = jax.eval_shape(lambda p, c: _pair(cell.step(p, c, xs)), params, start)
    shape = jax.tree.leaves(returned[1])[0].shape
    if shape[-1:] != (cell.out_features,):
        raise LawError(f"out_features is {cell.out_features}, but y has shape {shape}")
    matrices = [leaf for leaf, free in _with_free(params) if free and leaf.ndim > 1]
    if matrices and identical(*subject.draws):
        raise LawError("init ignores its key: two keys give the same parameters")
    if in_ndim(cell) == 1 and isinstance(xs, np.ndarray):
        _check_width(subject, params, xs)


def _with_free(params: Any) -> list[tuple[Any, bool]]:
    return list(zip(jax.tree.leaves(params), jax.tree.leaves(trainable(params)), strict=True))


def _check_width(subject: Subject, params: Any, xs: Any) -> None:
    """Check that `init` depends on the width, or that its parameters work for any width."""
    cell, width = subject.cell, subject.in_features + 1
    try:
        wider = subject.abstractly(lambda key: cell.init(key, width), jax.random.key(0))
    except (TypeError, ValueError):  # a cell for inputs of one width only
        return
    if not same_avals(wider, params):
        return
    wide = np.concatenate([xs, xs[..., :1]], -1)
    try:
        jax.eval_shape(lambda p: cell.step(p, subject.start(p, wide), wide), params)
    except Exception as error:
        raise LawError(
            f"init ignores in_features: its parameters do not fit width {width}: {error}"
        ) from error


def _distinct_arrays(what: str, tree: Any) -> Any:
    leaves = jax.tree.leaves(tree)
    if not all(hasattr(leaf, "dtype") for leaf in leaves):
        raise LawError(f"{what} returns leaves that are not arrays")
    if len({id(leaf) for leaf in leaves}) < len(leaves):
        raise LawError(f"{what} returns the same array twice, which cannot be donated")
    return tree


def _pair(returned: Any) -> Any:
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise LawError("step must return (carry, y)")
    return returned


def splitting(subject: Subject) -> None:
    """One run over a ‖ b equals a run over a, followed by a run over b from its carry."""

    def run(params: Any, xs: Any) -> Any:
        middle, a = unroll(subject.cell, params, take(xs, slice(2)))
        resumed, b = unroll(subject.cell, params, take(xs, slice(2, None)), middle)
        return unroll(subject.cell, params, xs), (resumed, joined(a, b))

    (end, ys), (resumed, parts) = subject.run(run, subject.params(), subject.xs(STEPS, BATCH))
    assert_close(resumed, end, "carry after resuming")
    assert_close(parts, ys, "outputs after resuming")


def scan_is_loop(subject: Subject) -> None:
    """`unroll` equals a Python loop over `step`, with and without recomputation, eager and jitted."""
    cell, params, xs = subject.cell, subject.params(), subject.xs(STEPS, BATCH)

    def run(params: Any, xs: Any) -> Any:
        carry, ys = subject.start(params, take(xs, 0)), []
        for t in range(STEPS):
            carry, y = cell.step(params, carry, take(xs, t))
            ys.append(jax.tree.map(lambda leaf: leaf[None], y))
        blocks = unroll(cell, params, xs, method=Scan(memory="sqrt"))
        return (carry, joined(*ys)), unroll(cell, params, xs), blocks

    loop, scanned, blocks = subject.run(run, params, xs)
    assert_close(scanned, loop, "unroll against a Python loop")
    assert_close(blocks, loop, "unroll with recomputation against a Python loop")
    assert_close(subject.eagerly(unroll, cell, params, xs), scanned, "eager against jitted")


def batching(subject: Subject) -> None:
    """A batched step equals `vmap` of the step over two batch axes, and all rows have the same start."""
    cell = subject.cell

    def run(params: Any, xs: Any) -> Any:
        carry = subject.carry(params, 2, BATCH)
        starts, alone = cell.initial_carry(params, (2, BATCH)), cell.initial_carry(params)
        spec = carry_spec(cell, params)
        copies = map_state(lambda many, one: jnp.broadcast_to(one, many.shape), spec, starts, alone)
        one: Any = jax.vmap(jax.vmap(lambda c, x: cell.step(params, c, x)))
        return (starts, copies), (one(carry, xs), cell.step(params, carry, xs))

    starts, steps = subject.run(run, subject.params(), subject.xs(2, BATCH))
    assert_close(starts[0], starts[1], "initial_carry of a batch against that of one sequence")
    assert_close(steps[0], steps[1], "vmap(step) against the batched step")


def rows(subject: Subject) -> None:
    """Batch elements are independent, in values and gradients."""
    cell, params, xs = subject.cell, subject.params(), subject.xs(STEPS, BATCH)
    other = subject.xs(STEPS, BATCH, seed=9)
    mixed = jax.tree.map(lambda a, b: np.concatenate([a[:, :1], b[:, 1:]], 1), xs, other)

    def run(params: Any, xs: Any, mixed: Any) -> Any:
        def row_0(floats: list[Array]) -> tuple[Array, Any]:
            end, ys = unroll(cell, params, refill(xs, floats))
            return weighted_sum(take(ys, (slice(None), 0))), (end, ys)

        grads, ran = jax.grad(row_0, has_aux=True)(float_leaves(xs))
        return ran, unroll(cell, params, mixed), grads

    (end_a, a), (end_b, b), grads = subject.run(run, params, xs, mixed)
    assert_close(take(a, (slice(None), 0)), take(b, (slice(None), 0)), "outputs of row 0")
    assert_close(take(end_a, 0), take(end_b, 0), "state of row 0")
    if any(np.any(grad[:, 1:]) for grad in grads):
        raise LawError("the gradient of row 0 is nonzero in other rows")


def raggedness(subject: Subject) -> None:
    """With lengths, each sequence runs as if alone, and length 0 returns the given carry bit for bit."""
    lengths = np.array([STEPS, 0, 2])

    def run(params: Any, xs: Any, start: Any, reverse: bool) -> Any:
        alone = []
        ragged = unroll(subject.cell, params, xs, start, lengths=lengths, reverse=reverse)
        for row, length in enumerate(lengths):
            x = jax.tree.map(lambda a, n=length, r=row: a[:n, r : r + 1], xs)
            begin = take(start, slice(row, row + 1))
            alone.append(unroll(subject.cell, params, x, begin, reverse=reverse) if length else (begin, None))
        return ragged, alone

    def both_ways(params: Any, xs: Any) -> Any:
        start = subject.carry(params, BATCH)
        return [run(params, xs, start, reverse) for reverse in (False, True)]

    both = subject.run(both_ways, subject.params(), subject.xs(STEPS, BATCH))
    for (end, ys), alone in both:
        for row, (length, (begin, y)) in enumerate(zip(lengths, alone, strict=True)):
            one = slice(row, row + 1)
            if length:
                assert_close(take(ys, (slice(length), one)), y, "outputs of a row alone")
            elif not identical(take(end, one), begin):
                raise LawError("length 0 does not return the given carry bit for bit")
            assert_close(take(end, one), begin, "carry of a row alone")
            if any(np.any(np.asarray(a[length:, row], np.float64)) for a in jax.tree.leaves(ys)):
                raise LawError("outputs after the end of a sequence are not zero")


def dtypes(subject: Subject) -> None:
    """Carry and outputs keep structure and shape, and the dtype of params and inputs."""

    def run(params: Any, xs: Any) -> Any:
        return unroll(subject.cell, params, xs, lengths=np.array([STEPS, 0, 2]))

    for dtype in ("float32", "bfloat16", "float16", "float64"):
        with jax.enable_x64(dtype == "float64"):
            given = subject.params(dtype), subject.xs(STEPS, BATCH, dtype=dtype)
            _check_dtypes(subject, dtype, *given, jax.eval_shape(run, *given))
    halves = [(subject.params(d), subject.xs(STEPS, BATCH, dtype=d)) for d in ("bfloat16", "float16")]
    for dtype, (_, ys) in zip(("bfloat16", "float16"), subject.run(_each(run), halves), strict=True):
        if not all(np.all(np.isfinite(np.asarray(a, np.float64))) for a in float_leaves(ys)):
            raise LawError(f"in {dtype} an output is not finite")


def _each(function: Callable[..., Any]) -> Callable[[list[Any]], list[Any]]:
    return lambda calls: [function(*args) for args in calls]


def _check_dtypes(subject: Subject, dtype: str, params: Any, xs: Any, returned: Any) -> None:
    cell = subject.cell
    drawn = subject.abstractly(lambda k: cell.init(k, subject.in_features), jax.random.key(0))
    if dtype == "float64" and any(leaf.dtype != jnp.float64 for leaf in float_leaves(drawn)):
        raise LawError(f"where 64 bits are enabled, init returns {avals(drawn)}")
    start = jax.eval_shape(lambda p: subject.start(p, take(xs, 0)), params)
    with jax.numpy_dtype_promotion("strict"):
        end, y = jax.eval_shape(cell.step, params, start, take(xs, 0))
    final, ys = returned
    if not same_avals(start, end):
        raise LawError(f"in {dtype} the step changes the carry {avals(start)} to {avals(end)}")
    if not same_avals(start, final):
        raise LawError(f"in {dtype} unroll changes the carry {avals(start)} to {avals(final)}")
    if any(a.dtype != jnp.dtype(dtype) for a in [*float_leaves(ys), *float_leaves(y)]):
        raise LawError(f"in {dtype} the outputs are {avals(ys)}")


def value(subject: Subject) -> None:
    """A cell is a value, equal to its copy, hashable and picklable, so that it is traced once."""
    cell, params, xs = subject.cell, subject.params(), subject.xs(BATCH)
    copy = cell
    if not isinstance(cell, FunctionCell):
        copy = pickle.loads(pickle.dumps(cell))
        if copy != cell or hash(copy) != hash(cell) or repr(copy) != repr(cell):
            raise LawError("a pickled copy must be equal, with the same hash and repr")
    start = jax.eval_shape(lambda p: subject.start(p, xs), params)
    programs = {_program(c, params, start, xs) for c in (cell, copy, cell)}
    if len(programs) > 1:
        raise LawError("tracing twice gives two programs: the step keeps hidden Python state")


def _program(cell: Any, params: Any, carry: Any, x: Any) -> str:
    """A new trace of the step as a jaxpr, without the addresses of Python functions."""
    traced = jax.make_jaxpr(lambda p, c, x: cell.step(p, c, x))(params, carry, x)
    return re.sub("0x[0-9a-f]+", "", str(traced))


def resetting(subject: Subject) -> None:
    """A reset at t equals a fresh start at t, whatever the state was, and works with noise."""
    cell, params, xs = subject.cell, subject.params(), subject.xs(STEPS, BATCH)
    resets = np.zeros((STEPS, BATCH), bool)
    resets[2] = True
    early, late = slice(2), slice(2, None)

    def run(params: Any, xs: Any) -> Any:
        start = _away(cell, params, subject.carry(params, BATCH))
        reset = unroll(cell, params, xs, start, resets=resets)
        before = unroll(cell, params, take(xs, early), start)[1]
        end, after = unroll(cell, params, take(xs, late))
        return reset, (end, joined(before, after))

    (end, ys), (fresh_end, parts) = subject.run(run, params, xs)
    assert_close(end, fresh_end, "carry after a reset")
    assert_close(ys, parts, "outputs around a reset")
    jax.eval_shape(lambda k: unroll(cell, params, xs, resets=resets, key=k), jax.random.key(0))  # with noise


def _away(cell: Any, params: Any, carry: Any) -> Any:
    """A carry whose state is 0.3 everywhere."""
    return map_state(lambda a: jnp.zeros_like(a) + jnp.asarray(0.3, a.dtype), carry_spec(cell, params), carry)


def padding(subject: Subject) -> None:
    """NaN, infinity and 1e38 in padding do not change a bit of outputs and gradients."""
    cell, params, xs = subject.cell, subject.params(), subject.xs(STEPS, BATCH)
    mask = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]], bool)

    def run(floats: list[Array]) -> Any:
        def loss(floats: list[Array]) -> tuple[Array, Any]:
            p, x = refill((params, xs), floats)
            end, ys = unroll(cell, p, x, mask=mask)
            return weighted_sum((visible_state(cell, p, end), ys)), (end, ys)

        return jax.grad(loss, has_aux=True)(floats)

    poisons = (np.nan, np.inf, -1e38)
    poisoned = [jax.tree.map(lambda a, v=value: poison_padding(a, mask, v), xs) for value in poisons]
    clean, *ran = subject.run_each(run, [float_leaves((params, x)) for x in (xs, *poisoned)])
    for poison, found in zip(poisons, ran, strict=True):
        if not identical(found, clean):
            raise LawError(f"{poison} in padding changes an output or a gradient")


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
