"""Loops without a derivative: what is taken before them, and what is joined in them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from tests.plain import Plain

pytestmark = pytest.mark.engine

T, B, H = 9, 3, 4


def cell_of(step, columns=3 * H, hidden=H):
    """A cell of x W, b and a recurrent matrix, as wide as its step reads."""

    def init(key, width):
        keys = jax.random.split(key, 3)
        shapes = (width, columns), (columns,), (hidden, columns)
        return [jax.random.normal(k, shape) / 2 for k, shape in zip(keys, shapes, strict=True)]

    return jrnn.from_functions(
        init=init,
        initial_carry=lambda params, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, hidden)),
        step=step,
        out_features=hidden,
    )


def products(cell, rows, features, steps=20, of=lambda run: run):
    """Shapes of what the matmuls in the loops of a jaxpr read, and the function with its arguments."""
    params = cell.init(jax.random.key(0), features)
    xs = jax.random.normal(jax.random.key(1), (steps, rows, features))
    run = of(lambda params, xs: jrnn.unroll(cell, params, xs)[1])
    return in_loops(run, params, xs), run, params, xs


def in_loops(run, *args):
    """Shapes of what each matmul in the loops of a function reads."""
    return [
        tuple(v.aval.shape for v in inner.invars)
        for eqn in every(jax.make_jaxpr(run)(*args).jaxpr)
        if eqn.primitive.name == "scan"
        for inner in every(eqn.params["jaxpr"].jaxpr)
        if inner.primitive.name == "dot_general"
    ]


def every(jaxpr):
    """All equations, also of inner functions."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "jaxpr")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from every(getattr(inner, "jaxpr", inner))


def by_scan(cell, params, xs):
    carry = cell.initial_carry(params, xs.shape[1:-1])
    return jax.lax.scan(lambda carry, x: cell.step(params, carry, x), carry, xs)[1]


def matmuls(cell, features=5, rows=B, steps=T):
    """The number of matmuls in the loop of an unroll without a derivative."""
    return len(products(cell, rows, features, steps)[0])


def equal_to_plain(cell, features=5, rows=B, steps=T, rtol=1e-11, **options):
    params = cell.init(jax.random.key(0), features)
    xs = jax.random.normal(jax.random.key(1), (steps, rows, features))
    found, expected = (jrnn.unroll(cell, params, xs, method=m, **options) for m in (jrnn.Scan(), Plain()))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


def gru(params, h, x):
    w, b, u = params
    a, u = x @ w + b, h @ u
    r, z = (jax.nn.sigmoid(a[..., n : n + H] + u[..., n : n + H]) for n in (0, H))
    h = (1 - z) * jnp.tanh(a[..., 2 * H :] + r * u[..., 2 * H :]) + z * h
    return h, h


def of_a(read):
    """A step that reads a = x W + b, and u = h U."""

    def step(params, h, x):
        w, b, u = params
        h = read(x @ w + b, h @ u)
        return h, h

    return step


BEFORE = {  # the loop reads parts of a
    "a GRU": gru,
    "two of three parts": of_a(lambda a, u: jnp.tanh(a[..., :H] + u[..., :H]) * a[..., 2 * H :]),
    "one part twice": of_a(lambda a, u: jnp.tanh(a[..., :H] + u[..., H : 2 * H]) + jnp.sin(a[..., :H])),
    "parts that overlap": of_a(lambda a, u: jnp.tanh(a[..., :H] + u[..., :H]) + a[..., 1 : H + 1]),
}
INSIDE = {  # it would read them in parts, or there is no part of a alone
    "a sum is sliced": of_a(lambda a, u: jnp.tanh((a + u)[..., :H]) * (a + u)[..., H : 2 * H]),
    "a part is cut again": of_a(lambda a, u: (lambda g: g[..., :H] * g[..., H:])(jnp.tanh((a + u)[..., H:]))),
    "a part of a part": of_a(lambda a, u: jnp.tanh(a[..., : 2 * H][..., H:] + u[..., :H])),
    "a part of a gate": of_a(
        lambda a, u: (lambda g: g[..., :H] * g[..., H:])(jnp.tanh(a[..., H:] + u[..., H:]))
    ),
}


@pytest.mark.parametrize("name", BEFORE)
def test_x_w_that_is_read_in_parts_is_taken_before_the_loop(name):
    assert matmuls(cell_of(BEFORE[name])) == 1


@pytest.mark.parametrize("name", INSIDE)
def test_x_w_stays_where_the_loop_would_read_it_in_parts_all_the_same(name):
    assert matmuls(cell_of(INSIDE[name])) == 2


@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"lengths": jnp.array([T, 0, 4])}], ids=str)
@pytest.mark.parametrize("name", [*BEFORE, *INSIDE])
def test_it_is_the_same_computation(name, options):
    with jax.enable_x64(True):
        equal_to_plain(cell_of((BEFORE | INSIDE)[name]), **options)


def read_behind(params, h, x):
    a, u = x @ params[0] + params[1], h @ params[2]
    h = jnp.tanh(a[..., :H] + u[..., :H]) * a[..., H : 2 * H]
    return h, jnp.einsum("...h,...h->...", h, a[..., :H])[..., None]  # a matmul of its own, behind the loop


def kept(params, carry, x):
    (h, part), a = carry, x @ params[0] + params[1]
    h = jnp.tanh(a[..., H : 2 * H] + part * (h @ params[2])[..., :H])
    return (h, a[..., :H]), h


def test_a_part_may_also_be_read_behind_the_loop_or_be_the_next_state():
    one = lambda params, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, H))
    two = lambda params, batch_shape=(), *, key=None: (jnp.zeros((*batch_shape, H)),) * 2
    with jax.enable_x64(True):
        equal_to_plain(jrnn.from_functions(cell_of(kept).init, one, read_behind, 1))
        equal_to_plain(jrnn.from_functions(cell_of(kept).init, two, kept, H))


def test_a_gradient_has_x_w_in_the_loop_and_stores_no_parts():
    found, *_ = products(jrnn.GRU(7), B, 5, of=lambda run: jax.grad(lambda *args: run(*args).sum()))
    assert (B, 5) in {shapes[0] for shapes in found}


@pytest.mark.parametrize(("features", "rows"), [(1, 2), (512, 128)], ids=["wide results", "many rows"])
def test_x_w_stays_in_the_loop_where_that_was_measured_to_be_faster(features, rows):
    cell = jrnn.GRU(8 if features == 1 else 256)
    assert matmuls(cell, features, rows) == 2


def test_parts_of_more_than_ten_megabytes_are_not_made():
    assert matmuls(jrnn.GRU(128), 128, rows=31, steps=200) == 1
    assert matmuls(jrnn.GRU(128), 128, rows=31, steps=220) == 2


def test_no_part_is_taken_before_the_loop_if_another_is_read_behind_it():
    assert matmuls(jrnn.ELSTM(8)) == 1  # x W, which holds the output gate too


def test_few_rows_that_a_matmul_does_not_widen_are_multiplied_before_the_loop():
    assert matmuls(jrnn.LSTM(40), 400, rows=20) == 1
    assert matmuls(jrnn.LSTM(192), 96, rows=24) == 2


@pytest.mark.parametrize("cell, features, rows", [(jrnn.LSTM(128), 130, 32), (jrnn.Elman(256), 256, 33)])
def test_a_large_sum_of_matmuls_is_one_and_has_the_same_values(cell, features, rows):
    found, run, params, xs = products(cell, rows, features)
    (shapes,) = found
    assert shapes[0] == (rows, features + cell.hidden)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), (params, xs))
        np.testing.assert_allclose(jax.jit(run)(*wide), by_scan(cell, *wide), atol=1e-13)


def test_a_mask_and_layers_above_are_as_before():
    model = jrnn.Stack((jrnn.LSTM(128), jrnn.LSTM(160)))
    found, _, params, xs = products(model, 32, 130)
    assert [shapes[0] for shapes in found] == [(32, 258), (32, 288)]
    lengths = jnp.arange(32) % 21
    ys = jax.jit(lambda params, xs: jrnn.unroll(model, params, xs, lengths=lengths)[1])(params, xs)
    for row in (0, 7, 20):
        alone = by_scan(model, params, xs[: row % 21, row : row + 1])
        np.testing.assert_allclose(ys[: row % 21, row], alone[:, 0], atol=2e-6)
        assert not ys[row % 21 :, row].any()


def test_small_sums_and_short_loops_stay_apart():
    for rows, steps in ((16, 40), (32, 15)):
        found, *_ = products(jrnn.LSTM(128), rows, 130, steps)
        assert sorted(shapes[0] for shapes in found) == [(rows, 128), (rows, 130)]


def test_a_gradient_has_them_apart():
    found, *_ = products(jrnn.LSTM(128), 32, 130, of=lambda run: jax.grad(lambda *args: run(*args).sum()))
    assert (32, 258) not in {shape for shapes in found for shape in shapes}


def test_a_matmul_that_is_read_elsewhere_stays():
    def step(params, carry, x):
        w, u = params
        z = x @ w
        h = jnp.tanh(z + carry @ u)
        return h, h * z

    init = lambda key, features: tuple(jax.random.normal(key, (2, 256, 256)) / 16)
    cell = jrnn.from_functions(init, lambda params, batch, key=None: jnp.zeros((*batch, 256)), step, 256)
    found, run, params, xs = products(cell, 64, 256)
    assert {shapes[0] for shapes in found} <= {(64, 256)}
    np.testing.assert_allclose(jax.jit(run)(params, xs), by_scan(cell, params, xs), atol=1e-5)


def test_with_cores_as_devices_loops_stay_as_they_are():
    for count, expected in ((1, 1), (2, 2), (1, 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax, "device_count", lambda count=count: count)
            assert matmuls(jrnn.LSTM(256), 256, rows=32, steps=21) == expected
            assert matmuls(jrnn.GRU(9)) == expected


def wide(params, h, x):
    g = x @ params[0] + h @ params[2]
    h = jnp.tanh(h * jax.nn.sigmoid(g[..., :1]) + g.sum(-1, keepdims=True))
    return h, h


def shared(params, h, x):
    h = jnp.tanh(h @ params[0] + h @ params[2] + x)
    return h, h


@pytest.mark.parametrize("cell", [cell_of(wide, 4, 512), cell_of(shared, 512, 512)], ids=["narrow", "of h"])
def test_a_narrow_sum_and_one_of_the_same_rows_stay_two_matmuls(cell):
    assert matmuls(cell, 512, rows=1024, steps=20) == 2


def by_features(params, h, x):
    h = jnp.tanh(sum(x[..., i : i + 1] * jnp.sin(h + i) for i in range(20)))
    return h, h


def test_each_feature_by_itself_is_read_in_the_loop():
    cell = cell_of(by_features, 20)
    xs = jnp.zeros((T, B, 20))
    params = cell.init(jax.random.key(0), 20)
    jaxpr = jax.make_jaxpr(lambda params, xs: jrnn.unroll(cell, params, xs)[1])(params, xs)
    (scan,) = (eqn for eqn in every(jaxpr.jaxpr) if eqn.primitive.name == "scan")
    assert len(scan.invars) < 10


MAPPED = {  # of params, xs, carry
    "params": (0, None, None),
    "xs": (None, 0, None),
    "carry": (None, None, 0),
    "all": (0, 0, 0),
}


@pytest.mark.parametrize("axes", MAPPED.values(), ids=MAPPED)
@pytest.mark.parametrize(
    "cell",
    [cell_of(gru), jrnn.LSTM(128), jrnn.Stack((jrnn.GRU(5), jrnn.GRU(6)))],
    ids=["step", "LSTM", "stack"],
)
def test_many_loops_by_vmap_are_as_they_were_written(cell, axes):
    with jax.enable_x64(True):
        rows, features = (32, 130) if isinstance(cell, jrnn.LSTM) else (B, 5)
        params = cell.init(jax.random.key(0), features)
        xs = jax.random.normal(jax.random.key(1), (17, rows, features))
        carry = cell.initial_carry(params, (rows,))
        several = lambda tree, axis: (
            tree if axis is None else jax.tree.map(lambda a: jnp.stack([a, 2 * a]), tree)
        )
        args = [several(tree, axis) for tree, axis in zip((params, xs, carry), axes, strict=True)]
        run = lambda params, xs, carry: jrnn.unroll(cell, params, xs, carry)[1]
        mapped = jax.vmap(run, axes)
        assert len(in_loops(mapped, *args)) == 2 * (2 if isinstance(cell, jrnn.Stack) else 1)
        part = lambda tree, axis, i: tree if axis is None else jax.tree.map(lambda a: a[i], tree)
        for i, ys in enumerate(mapped(*args)):
            one = [part(tree, axis, i) for tree, axis in zip(args, axes, strict=True)]
            np.testing.assert_allclose(ys, run(*one), atol=1e-12)


def test_of_symbolic_sizes_nothing_is_known():
    cell = jrnn.GRU(4)
    params = cell.init(jax.random.key(0), 5)
    steps, rows = jax.export.symbolic_shape("t, b")
    xs = jax.ShapeDtypeStruct((steps, rows, 5), jnp.float32)
    assert len(in_loops(lambda params, xs: jrnn.unroll(cell, params, xs)[1], params, xs)) == 2


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("batch", [(), (B,), (2, B)], ids=str)
def test_batches_and_narrow_numbers(batch, dtype):
    cell = cell_of(gru)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), cell.init(jax.random.key(0), 5))
    xs = jax.random.normal(jax.random.key(1), (T, *batch, 5), dtype)
    cell = jrnn.from_functions(
        cell.init, lambda params, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, H), dtype), gru, H
    )
    ys = jrnn.unroll(cell, params, xs)[1]
    assert ys.dtype == dtype
    tolerance = 0.05 if dtype == jnp.bfloat16 else 1e-6
    np.testing.assert_allclose(
        np.asarray(ys, float), np.asarray(by_scan(cell, params, xs), float), atol=tolerance
    )


def test_a_frozen_layer_below_a_trained_one_is_not_differentiated():
    below, above = jrnn.GRU(7), jrnn.LSTM(6)
    frozen = below.init(jax.random.key(0), 5)

    def run(params, xs):
        return jrnn.unroll(above, params, jrnn.unroll(below, frozen, xs)[1])[1]

    params = above.init(jax.random.key(1), 7)
    xs = jax.random.normal(jax.random.key(2), (T, B, 5))
    found = jax.grad(lambda params: run(params, xs).sum())(params)
    plain = jax.grad(lambda params: by_scan(above, params, by_scan(below, frozen, xs)).sum())(params)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
