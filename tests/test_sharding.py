"""Time or hidden units split over devices: values, gradients, and what the devices exchange."""

import collections
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrnn

STEPS, ROWS = 16, 4
DEEP = jrnn.Stack(
    (jrnn.MinGRU(4), jrnn.Dense(6, activation="tanh"), jrnn.QRNN(5, window=2), jrnn.LearnedCarry(jrnn.LRU(3)))
)
COUNTING = jrnn.from_functions(  # an entry that is no float, and depends on what is valid
    lambda key, width: None,
    lambda params, batch_shape=(), *, key=None: jnp.zeros(batch_shape, jnp.int32),
    lambda params, n, x: (n + 1, n[..., None] * x),
    3,
)
LINEAR = type("Counting", (type(COUNTING),), {"linear": True})(*vars(COUNTING).values())


def drawn():
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.standard_normal((STEPS, ROWS, 3)))
    lengths = jnp.array([16, 0, 5, 11])
    mask, resets = (jnp.asarray(rng.random((STEPS, ROWS)) < rate) for rate in (0.8, 0.2))
    return xs, {"lengths": lengths, "mask": mask, "resets": resets}


def gradient(cell, method, reverse):
    """Of the parameters, the inputs and the carry, with values."""

    def loss(params, xs, carry, flags):
        out = jrnn.unroll(cell, params, xs, carry, **flags, reverse=reverse, method=method)
        return sum(jnp.sum(jnp.sin(jnp.abs(leaf))) for leaf in jax.tree.leaves(out)), out

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True, allow_int=True))


def exchanges(program):
    """How often each kind of exchange between devices stands in a compiled program.

    Not those of `_in_turn`, which are permutations, and wait for a product of factors that overflows.
    """
    kinds = re.findall(r" (all-\w+|reduce-scatter)(?:-start)?\(", program.as_text())
    return dict(collections.Counter(kinds))


def close(found, needed):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(needed), strict=True):
        if a.dtype != jax.dtypes.float0:
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-9, atol=1e-9)


def sharded(xs, carry):
    return jax.reshard(xs, jax.P("time", "data")), jax.tree.map(
        lambda a: jax.reshard(a, jax.P("data")), carry
    )


def equal():
    xs, flags = drawn()
    params = DEEP.init(jax.random.key(0), 3)
    carry = jax.tree.map(lambda leaf: leaf + 0.3, DEEP.initial_carry(params, (ROWS,)))
    for reverse, shapes in ((False, [(2, 1), (8, 1)]), (True, [(2, 2), (8, 1)])):
        needed = gradient(DEEP, jrnn.Scan(), reverse)(params, xs, carry, flags)
        for shape in shapes:
            devices = jax.devices()[: shape[0] * shape[1]]
            with jax.set_mesh(jax.make_mesh(shape, ("time", "data"), devices=devices)):
                split, start = sharded(xs, carry)
                given = {n: leaf if leaf.ndim == 1 else sharded(leaf, ())[0] for n, leaf in flags.items()}
                found = gradient(DEEP, jrnn.Associative(tree=reverse), reverse)(params, split, start, given)
                assert jax.typeof(found[0][1][1]).sharding.spec == jax.P("time", "data", None)
            close(found, needed)
    print("equal")


def derivatives():
    """Of second order, and of a count of steps, in the smallest case."""
    xs, flags = drawn()
    cell = jrnn.MinGRU(2)
    params = cell.init(jax.random.key(0), 3)

    def curvature(xs, method):
        def loss(xs):
            return jnp.sum(jnp.sin(jrnn.unroll(cell, params, xs, lengths=flags["lengths"], method=method)[1]))

        return jax.jvp(jax.grad(loss), (xs,), (xs,))

    needed = jax.jit(lambda x: curvature(x, jrnn.Scan()))(xs)
    counted = [jrnn.unroll(LINEAR, None, xs, **flags, reverse=r) for r in (False, True)]
    with jax.set_mesh(jax.make_mesh((2,), ("time",), devices=jax.devices()[:2])):
        split = jax.reshard(xs, jax.P("time"))
        close(jax.jit(lambda x: curvature(x, jrnn.Associative()))(split), needed)
        for reverse, number in zip((False, True), counted, strict=True):
            run = lambda x, r=reverse: jrnn.unroll(
                LINEAR, None, x, **flags, reverse=r, method=jrnn.Associative()
            )
            close(jax.jit(run)(split), number)
        with pytest.raises(ValueError, match="sharded along time, over 'time' of the mesh, which only Assoc"):
            jrnn.unroll(cell, params, split)
    print("equal")


def otherwise():
    """Cells that are not linear, by another method on each device."""
    xs, flags = drawn()
    cell = jrnn.Stack((jrnn.GRU(2), jrnn.MinGRU(2)))
    params = cell.init(jax.random.key(0), 3)
    carry = jax.tree.map(lambda leaf: leaf + 0.3, cell.initial_carry(params, (ROWS,)))
    needed = gradient(cell, jrnn.Scan(), False)(params, xs, carry, flags)
    with jax.set_mesh(jax.make_mesh((2, 2), ("time", "data"), devices=jax.devices()[:4])):
        split, start = sharded(xs, carry)
        run = gradient(cell, jrnn.Associative(otherwise=jrnn.Scan()), False)
        close(run(params, split, start, flags), needed)
        with pytest.raises(ValueError, match="needs a cell with linear = True, got Stack"):
            jrnn.unroll(cell, params, split, method=jrnn.Associative())
    print("equal")


def filled():
    """A stretch of padding, before a step whose derivative is not finite at zero."""
    log = jrnn.from_functions(
        lambda key, width: jnp.ones(width),
        lambda params, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, 3)),
        lambda params, s, x: (s + jnp.log(params * x), s),
        3,
    )
    linear = type("Log", (type(log),), {"linear": True})(*vars(log).values())
    xs, _ = drawn()
    flags = {"mask": jnp.asarray(np.random.default_rng(1).random((STEPS, ROWS)) < 0.2).at[0].set(True)}
    args = jnp.ones(3), jnp.where(flags["mask"][..., None], jnp.exp(xs), jnp.nan), None
    assert not flags["mask"].reshape(8, -1, ROWS)[:, 0].all(), "no stretch begins with padding"
    needed = gradient(linear, jrnn.Scan(), False)(*args, flags)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(needed))
    with jax.set_mesh(jax.make_mesh((8,), ("time",), devices=jax.devices())):
        split = args[0], jax.reshard(args[1], jax.P("time")), None
        close(gradient(linear, jrnn.Associative(), False)(*split, flags), needed)
        empty = jax.reshard(jnp.ones((0, ROWS, 3)), jax.P("time"))
        assert jrnn.unroll(linear, args[0], empty, method=jrnn.Associative())[1].shape == (0, ROWS, 3)
    print("equal")


def overflowing():
    """Factors whose product over a stretch overflows, where the states do not."""
    scaled = jrnn.from_functions(
        lambda key, width: None,
        lambda params, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, 2)),
        lambda params, s, x: 2 * (x[..., :2] * s + x[..., 2:],),
        2,
    )
    linear = type("Scaled", (type(scaled),), {"linear": True})(*vars(scaled).values())
    xs = (
        jnp.asarray(np.random.default_rng(0).random((STEPS, ROWS, 4)))
        .at[:6]
        .mul(jnp.array([1e90, 1e90, 0, 0]))
    )
    start = jnp.zeros((ROWS, 2)).at[0].set(1e-300)
    for given, reverse in ((xs, False), (xs[::-1], True)):
        needed = jrnn.unroll(linear, None, given, start, reverse=reverse)
        assert all(jnp.isfinite(leaf).all() for leaf in needed)
        for count in (2, 4):
            with jax.set_mesh(jax.make_mesh((count,), ("time",), devices=jax.devices()[:count])):
                split = jax.reshard(given, jax.P("time"))
                run = jax.jit(
                    lambda x, s, r=reverse: jrnn.unroll(
                        linear, None, x, s, reverse=r, method=jrnn.Associative()
                    )
                )
                close(run(split, start), needed)
    print("equal")


def exchanged():
    xs, flags = drawn()
    cell = jrnn.MinGRU(4)
    params = cell.init(jax.random.key(0), 3)
    flags = {"resets": flags["resets"]}, {"lengths": flags["lengths"]}

    def run(xs, params, flags=flags[0]):
        return jrnn.unroll(cell, params, xs, **flags, method=jrnn.Associative())[1]

    def loss(xs, params):
        return jnp.sin(run(xs, params)).sum(axis=(1, 2))  # of each step

    with jax.set_mesh(jax.make_mesh((4,), ("time",), devices=jax.devices()[:4])):
        split = jax.reshard(xs, jax.P("time"))
        forward = exchanges(jax.jit(run).lower(split, params).compile())
        backward = lambda x, p: jax.vjp(lambda x: loss(x, p), x)[1](jnp.ones_like(loss(x, p)))
        both = exchanges(jax.jit(backward).lower(split, params).compile())
        tangent = jax.jit(lambda x, p: jax.jvp(lambda x: run(x, p), (x,), (x,)))
        forth = exchanges(tangent.lower(split, params).compile())
        ragged = exchanges(jax.jit(run).lower(split, params, flags[1]).compile())
    print(forward, both, forth, ragged)


WIDE = jrnn.Stack((jrnn.LSTM(8), jrnn.GRU(8), jrnn.Dense(3)))


def by_units(params):
    """Weights and biases split over `hidden` by their columns, where it divides them."""
    size = jax.sharding.get_abstract_mesh().shape["hidden"]

    def place(leaf):
        last = "hidden" if leaf.shape[-1] % size == 0 else None
        return jax.device_put(leaf, jax.P(*[None] * (leaf.ndim - 1), last))

    return jax.tree.map(place, params)


def hidden():
    xs, flags = drawn()
    params = WIDE.init(jax.random.key(0), 3)
    needed = gradient(WIDE, jrnn.Scan(), False)(params, xs, None, flags)
    kinds = jax.sharding.AxisType
    for shape, kind in (((1, 8), kinds.Auto), ((2, 4), kinds.Explicit)):
        devices = jax.devices()[: shape[0] * shape[1]]
        mesh = jax.make_mesh(shape, ("data", "hidden"), (kind, kind), devices=devices)
        with jax.set_mesh(mesh):
            split, rows = by_units(params), jax.device_put(xs, jax.P(None, "data"))
            run = gradient(WIDE, jrnn.Scan(), False)
            found = run(split, rows, None, flags)
            close(found, needed)
            assert found[1][0][0].w_hh.sharding.spec == jax.P(None, "hidden")
            program = run.lower(split, rows, None, flags).compile().as_text()
            moved = re.findall(r"= f64\[([\d,]*)\]\S* (?:all-\w+|collective-\w+|reduce-scatter)\(", program)
            shapes = {tuple(map(int, filter(None, one.split(",")))) for one in moved}
            assert shapes and all(one[-2] == ROWS // shape[0] for one in shapes), shapes  # states, no weights
    print("equal")


def trained():
    """By `fit`, which keeps the parameters where they were put."""
    xs, flags = drawn()
    batch = jrnn.Batch(xs, jnp.sin(xs), flags["lengths"])
    options = {"optimizer": optax.adam(0.1), "key": jax.random.key(1), "progress": jrnn.Progress(bar=False)}
    loss = jrnn.PerStep(jrnn.losses.mean_squared_error)
    params = WIDE.init(jax.random.key(0), 3)
    needed = jrnn.fit(WIDE, [batch] * 2, loss, params=params, epochs=2, validation=[batch], **options)
    with jax.set_mesh(jax.make_mesh((4,), ("hidden",), devices=jax.devices()[:4])):
        split = by_units(params)
        found = jrnn.fit(WIDE, [batch] * 2, loss, params=split, epochs=2, validation=[batch], **options)
    close(found.params, needed.params)
    assert found.params[0].w_hh.sharding.spec == jax.P(None, "hidden")
    assert abs(found.history[-1]["validation"] - needed.history[-1]["validation"]) < 1e-9
    print("equal")


def in_a_process(function):
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_ENABLE_X64": "1"}
    code = f"from tests.test_sharding import {function}; {function}()"
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_steps_split_over_devices_change_no_value_and_no_gradient():
    assert in_a_process("equal") == "equal"


def test_steps_split_over_devices_have_derivatives_of_second_order():
    assert in_a_process("derivatives") == "equal"


def test_cells_that_are_not_linear_run_otherwise_where_steps_are_split():
    assert in_a_process("otherwise") == "equal"


def test_a_stretch_that_begins_with_padding_is_filled_by_valid_inputs_of_others():
    assert in_a_process("filled") == "equal"


def test_a_product_of_factors_that_overflows_is_mended():
    assert in_a_process("overflowing") == "equal"


def test_each_pass_takes_one_all_gather():
    once, twice, filled = ({"all-gather": times} for times in (1, 2, 1 + 2))  # an input, and if it is valid
    assert in_a_process("exchanged") == f"{once} {twice} {twice} {filled}"


def test_hidden_units_split_over_devices_change_nothing():
    assert in_a_process("hidden").splitlines()[-1] == "equal"


def test_a_model_whose_units_are_split_trains_to_the_same_parameters():
    assert in_a_process("trained") == "equal"
