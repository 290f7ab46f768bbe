"""The engine against plain `lax.scan`: the same numbers in every mode, and no weight gradient in a loop."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jrnn
from jrnn.testing.subject import dot
from tests.cases import CASES, one_in, subject_of
from tests.plain import Plain

pytestmark = pytest.mark.engine

T, B = 9, 5


def floats(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]


def shaken(cell, width):
    """Random parameters in NumPy, biases too."""
    rng = np.random.default_rng(7)
    shapes = jax.eval_shape(lambda key: cell.init(key, width), jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype) / 2, shapes)


def waves(tree):
    """A scalar to which every entry adds something of its own."""
    parts = [p for y in floats(tree) for p in ((y.real, y.imag) if jnp.iscomplexobj(y) else (y,))]
    terms = [jnp.sin(y) * (1 + jnp.arange(y.size).reshape(y.shape) % 7) for y in parts]
    return sum(jnp.sum(term) for term in terms)


def subject(case, method, options, dtype="float32"):
    """A scalar of everything that `unroll` returns, as a function of params and the float inputs."""
    drawn = subject_of(case)
    params, xs = drawn.params(dtype), drawn.xs(T, B, dtype=dtype)
    leaves, structure = jax.tree.flatten(xs)
    moving = [i for i, leaf in enumerate(leaves) if floats(leaf)]

    def loss(params, inputs):
        given = dict(zip(moving, inputs, strict=True))
        whole = jax.tree.unflatten(structure, [given.get(i, leaf) for i, leaf in enumerate(leaves)])
        out = jrnn.unroll(case.cell, params, whole, method=method, **options)
        return waves(out)

    return loss, params, [leaves[i] for i in moving]


def modes(loss, params, inputs, kind):
    """Value and derivatives of order one and two; law "transforms" compares the other modes."""
    both = (params, inputs)
    slope = jax.tree.map(jnp.cos, both)
    derivatives = jax.value_and_grad(lambda both: loss(*both))
    gradient = lambda both: derivatives(both)[1]
    copies = jax.tree.map(lambda a: jnp.stack([a, 1.1 * a]), both)
    found = {"jvp of value and grad": jax.jvp(derivatives, (both,), (slope,))}
    if kind == "bare":
        found["jvp"] = jax.jvp(lambda both: loss(*both), (both,), (slope,))[1]
        found["grad of grad"] = jax.grad(
            lambda both: dot(jax.tree.leaves(gradient(both)), jax.tree.leaves(slope))
        )(both)
        found["vmap"] = jax.vmap(gradient)(copies)
    return found


def options_of(kind):
    if kind == "bare":
        return {}
    resets = np.zeros((T, B), bool)
    resets[2, 0] = resets[4, 3] = True
    lengths = np.array([9, 3, 0, 8, 5])
    return {"lengths": lengths, "resets": resets, "reverse": True, "key": jax.random.key(5)}


# Of many cells that do alike, these differ in kind: in the entries of their carry, in shapes, in ops.
# All cells keep the laws, gradients of every mode among them.
KINDS = (
    "ClockworkRNN ConvLSTM Dense Elman Embed GRU GRUD Jordan LRU LSTM LSTMVariant MLSTM OrthogonalRNN QRNN"
)
ALIKE = [  # to the engine, which sees no other ops in them than in their neighbors of the list
    *(jrnn.Elman(4, activation=name) for name in ("sigmoid", "identity")),
    jrnn.LSTM(4, max_lag=20),
    jrnn.GRU(4, z_keeps=False),
]
MIXED = [
    pytest.param(case, kind, id=f"{case.cell!r}-{kind}")
    for case in CASES
    if case.cell not in ALIKE
    for kind in ("bare", "all options")
    if type(case.cell).__name__ in ("Elman", "GRU", "LSTM", "Stack")
    or (kind == "all options" and type(case.cell).__name__ in KINDS.split())
    or (kind == "all options" and type(case.cell).__module__.startswith("jrnn.combinators"))
]


def mode_values(case, method, kind):
    loss, params, inputs = subject(case, method, options_of(kind), "float64")
    return subject_of(case).run(lambda params, inputs: modes(loss, params, inputs, kind), params, inputs)


@pytest.mark.parametrize(("case", "kind"), MIXED)
def test_every_mode_equals_plain_autodiff(case, kind):
    bound = 1e-3 if isinstance(case.cell, jrnn.Cast) else 1e-12  # Cast computes in float32
    with jax.enable_x64(True):
        found, expected = (mode_values(case, method, kind) for method in (jrnn.Scan(), Plain()))
    for mode, values in expected.items():
        for a, b in zip(jax.tree.leaves(found[mode]), jax.tree.leaves(values), strict=True):
            scale = 1 + np.max(np.abs(np.asarray(b)), initial=0)
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=bound * scale, err_msg=mode)


AROUND = {
    "jacfwd": lambda f, p: jax.jacfwd(f)(p),
    "jacrev": lambda f, p: jax.jacrev(f)(p),
    "hessian": lambda f, p: jax.hessian(f)(p),
    "linearize": lambda f, p: jax.linearize(jax.grad(f), p)[1](p),
    "checkpoint": lambda f, p: jax.grad(jax.checkpoint(f))(p),
    "scan": lambda f, p: jax.grad(
        lambda p: lax.scan(lambda c, s: (c + f(jax.tree.map(lambda a: a * s, p)), s), 0.0, jnp.arange(3.0))[0]
    )(p),
    "while_loop": lambda f, p: lax.while_loop(
        lambda c: c[0] < 3,
        lambda c: (c[0] + 1, jax.tree.map(lambda a, g: a - 0.01 * g, c[1], jax.grad(f)(c[1]))),
        (0, p),
    )[1],
    "while_loop, forward": lambda f, p: jax.jvp(
        lambda p: lax.fori_loop(0, jnp.int32(2), lambda i, s: s + f(jax.tree.map(lambda a: a * s, p)), 1.0),
        (p,),
        (p,),
    ),
    "cond": lambda f, p: jax.grad(lambda p: lax.cond(p.b[0] > 9, lambda p: 0.0, f, p))(p),
    "shard_map": lambda f, p: jax.shard_map(
        jax.grad(f), mesh=jax.make_mesh((1,), ("data",)), in_specs=jax.P(), out_specs=jax.P()
    )(p),
}


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("cell", [jrnn.LSTM(3), jrnn.GRU(3)], ids=repr)
def test_every_transform_around_a_loop_equals_plain_autodiff(cell, name):
    with jax.enable_x64(True):
        params, xs = shaken(cell, 2), np.random.default_rng(1).normal(size=(5, 2, 2))
        loss = lambda method: lambda p: waves(jrnn.unroll(cell, p, xs, method=method)) / 100
        around = lambda method: jax.jit(lambda p: AROUND[name](loss(method), p))(params)
        found, expected = around(jrnn.Scan()), around(Plain())
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            scale = 1 + np.max(np.abs(np.asarray(b)), initial=0)
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=1e-12 * scale)


TWO_WAYS = {
    "added and met": lambda a, h, old: jnp.tanh(a + h) * jnp.cos(a),
    "added and carried": lambda a, h, old: jnp.tanh(a + h + old),
}


@pytest.mark.parametrize("ways", TWO_WAYS)
def test_a_product_ahead_of_the_loop_may_act_there_in_two_ways(ways):
    """Its tangent comes in with those of the weights where it is added to them, and by itself elsewhere."""

    def step(p, carry, x):
        a = x @ p["w"]
        h = TWO_WAYS[ways](a, carry[0] @ p["u"], carry[1])
        return (h, a), h

    cell = jrnn.from_functions(
        init=lambda key, width: {"w": jax.random.normal(key, (width, 3)), "u": jnp.eye(3)},
        initial_carry=lambda params, batch_shape=(), *, key=None: (jnp.zeros((*batch_shape, 3)),) * 2,
        step=step,
        out_features=3,
    )
    with jax.enable_x64(True):
        params, xs = cell.init(jax.random.key(0), 2), jax.random.normal(jax.random.key(1), (T, 2, 2))
        loss = lambda method: lambda p: waves(jrnn.unroll(cell, p, xs, method=method))
        found, expected = (jax.grad(loss(method))(params) for method in (jrnn.Scan(), Plain()))
        for name in params:
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-11)


def inner_jaxprs(eqn):
    for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda value: hasattr(value, "jaxpr")):
        inner = getattr(value, "jaxpr", value)
        if hasattr(inner, "eqns"):
            yield inner


def in_loops(jaxpr, inside=False):
    """Every equation that runs once a step."""
    for eqn in jaxpr.eqns:
        if inside:
            yield eqn
        for inner in inner_jaxprs(eqn):
            yield from in_loops(inner, inside or eqn.primitive.name in ("scan", "while"))


SUMS = {"add", "add_any", "mul", "dot_general", "conv_general_dilated", "scatter-add"}


def weight_gradients(case, method):
    """Equations of the gradient that make something of a weight's shape at every step."""
    loss, params, inputs = subject(case, method, {})
    made = in_loops(jax.make_jaxpr(jax.grad(loss))(params, inputs).jaxpr)
    shapes = {s for p in jax.tree.leaves(params) if p.ndim > 1 for s in (p.shape, p.shape[::-1])}
    return [str(eqn) for eqn in made if eqn.primitive.name in SUMS and eqn.outvars[0].aval.shape in shapes]


@pytest.mark.parametrize("case", one_in(3, CASES, 1), ids=lambda case: repr(case.cell))
def test_no_loop_makes_a_weight_gradient(case):
    assert weight_gradients(case, jrnn.Scan()) == []


def test_plain_scan_makes_them_in_its_loop():
    assert all(weight_gradients(case, Plain()) for case in CASES[:8])


def orthogonal_cell():
    cayley = lambda skew: jnp.linalg.solve(jnp.eye(6) + skew, jnp.eye(6) - skew)
    return jrnn.from_functions(
        init=lambda key, width: {"a": 0.1 * jax.random.normal(key, (6, 6)), "w": jnp.ones((width, 6))},
        initial_carry=lambda params, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, 6)),
        step=lambda p, h, x: 2 * (jnp.tanh(x @ p["w"] + h @ cayley(p["a"] - p["a"].T)),),
        out_features=6,
    )


def test_a_function_of_the_weights_is_computed_once():
    cell = orthogonal_cell()
    params, xs = cell.init(jax.random.key(0), 4), jax.random.normal(jax.random.key(1), (T, B, 4))
    loss = lambda method: lambda p: jnp.sum(jrnn.unroll(cell, p, xs, method=method)[1] ** 2)
    ((_, inside),) = loops(loss(jrnn.Scan()), params)
    assert set(inside) <= {"dot_general", "add", "tanh", "broadcast_in_dim"}, inside
    for method in (jrnn.Scan(), jrnn.Scan(memory="sqrt")):
        found, expected = jax.grad(loss(method))(params), jax.grad(loss(Plain()))(params)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def primitives(jaxpr):
    """Of a jaxpr, those of what it computes again in the backward pass written out."""
    for eqn in jaxpr.eqns:
        inner = eqn.params["jaxpr"] if eqn.primitive.name in ("checkpoint", "remat2") else None
        yield from [eqn.primitive.name] if inner is None else primitives(inner)


def loops(function, *args):
    """Trip counts of the scans of a function, and the primitives in each."""
    return [
        (eqn.params["length"], list(primitives(eqn.params["jaxpr"].jaxpr)))
        for eqn in jax.make_jaxpr(function)(*args).jaxpr.eqns
        if eqn.primitive.name == "custom_jvp_call"
        for eqn in eqn.params["call_jaxpr"].jaxpr.eqns
        if eqn.primitive.name == "scan"
    ]


def test_what_only_feeds_the_outputs_is_computed_behind_the_loop():
    cell = jrnn.Stack((jrnn.Embed(4), jrnn.Elman(7), jrnn.Dense(6)))
    params = cell.init(jax.random.key(0), 100)  # more rows than tokens: looked up, then multiplied
    ((length, inside),) = loops(lambda p: jrnn.unroll(cell, p, jnp.zeros((T, B), int)), params)
    assert length == T
    assert "gather" not in inside
    assert inside.count("dot_general") <= 2  # of the state, and of the input where that does not pay ahead


def of_step(step, hidden, width):
    """A cell of one square matrix, and inputs for it."""
    cell = jrnn.from_functions(
        init=lambda key, width: jax.random.normal(key, (hidden, hidden)),
        initial_carry=lambda params, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, hidden)),
        step=step,
        out_features=hidden,
    )
    return cell, cell.init(jax.random.key(0), width), jax.random.normal(jax.random.key(1), (T, B, width))


SLICES = {  # of z = x + (h w, h w): how, how wide, whether z falls into them
    "in order": (lambda z, h: jnp.tanh(z[:, 3:]) + z[:, :3], 6, True),
    "out of order, of three sizes": (
        lambda z, h: z[:, 3:6] * h + jnp.sin(z[:, 1:3]).sum() * z[:, :1],
        6,
        True,
    ),
    "one twice": (lambda z, h: jnp.tanh(z[:, :3]) * h + z[:, :3] * z[:, 3:], 6, True),
    "overlapping": (lambda z, h: jnp.tanh(z[:, :3]) * z[:, 3:] + z[:, 1:4], 6, False),
    "with a gap": (lambda z, h: jnp.tanh(z[:, :3]) * z[:, 4:7], 7, False),
}


@pytest.mark.parametrize("name", SLICES)
def test_slices_that_a_value_falls_into_are_joined_again_and_not_filled_up_and_added(name):
    of, width, whole = SLICES[name]

    def step(w, h, x):
        h = of(x + jnp.concatenate([h @ w] * 2 + [h[:, :1]] * (width - 6), axis=-1), h)
        return h, h

    with jax.enable_x64(True):
        cell, w, xs = of_step(step, 3, width)
        loss = lambda method: lambda w, xs: waves(jrnn.unroll(cell, w, xs, method=method))
        found, expected = (jax.grad(loss(method), (0, 1))(w, xs) for method in (jrnn.Scan(), Plain()))
        program = str(jax.make_jaxpr(jax.grad(loss(jrnn.Scan()), (0, 1)))(w, xs))
    assert (" pad[" not in program) == whole
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11 * np.max(np.abs(b)))


def test_a_part_that_is_read_behind_the_loop_is_not_copied_in_it():
    def step(w, h, x):
        h = jnp.tanh(x[:, :40] + h @ w)
        return h, (h @ w.T) * jnp.sin(x[:, 40:80])

    sizes = [jrnn.gradient_memory(*of_step(step, 40, width)) for width in (80, 81)]
    assert sizes[0] == sizes[1]


def test_layers_of_a_stack_run_one_after_the_other():
    cell = jrnn.Stack((jrnn.Elman(7), jrnn.Elman(6)))
    params = cell.init(jax.random.key(0), 4)
    assert len(loops(lambda p: jrnn.unroll(cell, p, jnp.zeros((T, 1, 4))), params)) == 2


def test_a_step_that_calls_back_runs_step_by_step_in_its_order():
    seen = []
    see = lambda x: seen.append(float(x))
    cell = jrnn.from_functions(
        init=lambda key, width: jnp.ones(()),
        initial_carry=lambda params, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, 1)),
        step=lambda p, h, x: (jax.debug.callback(see, x[0], ordered=True), (h + x, x))[1],
        out_features=1,
    )
    jax.block_until_ready(jrnn.unroll(cell, jnp.ones(()), jnp.arange(4.0)[:, None], reverse=True))
    jax.effects_barrier()
    assert seen == [3, 2, 1, 0]


def test_weights_that_do_not_move_cost_no_gradient():
    cell = jrnn.Elman(4)
    params = cell.init(jax.random.key(0), 2)
    loss = lambda b: jnp.sum(jrnn.unroll(cell, params._replace(b=b), jnp.ones((T, B, 2)))[1])
    text = jax.jit(jax.grad(loss)).lower(params.b).compile().as_text()
    assert not re.search(r"f32\[4,4\]\S* dot\(", text)
