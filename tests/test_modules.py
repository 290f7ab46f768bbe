import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jrnn
import jrnn.linen

CELLS = [
    jrnn.LSTM(4),
    jrnn.Stack((jrnn.GRU(5), jrnn.Dense(4))),
    jrnn.Sequential((jrnn.Bidirectional(jrnn.GRU(3), jrnn.LSTM(2)), jrnn.Dense(4))),
]
XS = jax.random.normal(jax.random.key(1), (6, 3, 2))
LENGTHS = jnp.array([6, 0, 3])


@pytest.fixture(params=[True, False], ids=["graph", "tree"])
def graph_mode(request):
    with nnx.set_graph_mode(request.param), nnx.set_graph_updates(request.param):
        yield request.param


def module(cell):
    return jrnn.RNN(cell, 2, rngs=nnx.Rngs(0))


def total(rnn, xs):
    carry, ys = rnn(xs, lengths=LENGTHS)
    return sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves((carry, ys)))


def reference(cell, params, xs):
    carry, ys = jrnn.apply(cell, params, xs, lengths=LENGTHS)
    return sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves((carry, ys)))


def split_and_merge(rnn):
    graph, state = nnx.split(rnn)
    return total(nnx.merge(graph, state), XS)


TRANSFORMS = {
    "eager": lambda m: total(m, XS),
    "jax.jit of a closure": lambda m: jax.jit(lambda x: total(m, x))(XS),
    "jax.jit of the module": lambda m: jax.jit(total)(m, XS),
    "nnx.jit": lambda m: nnx.jit(total)(m, XS),
    "jax.checkpoint": lambda m: jax.checkpoint(lambda x: total(m, x))(XS),
    "vmap": lambda m: jax.vmap(lambda x: total(m, x))(XS[None])[0],
    "split and merge": split_and_merge,
}

GRADIENTS = {
    "jax.grad of a closure": lambda m: jax.grad(lambda x: total(m, x))(XS),
    "jax.jacrev under jax.jit": lambda m: jax.jit(jax.jacrev(lambda x: total(m, x)))(XS),
    "hessian, contracted": lambda m: jax.jvp(lambda x: jax.grad(lambda z: total(m, z))(x), (XS,), (XS,))[0],
}


@pytest.mark.parametrize("cell", CELLS, ids=repr)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_module_under_any_transform_equals_the_function(graph_mode, cell, transform):
    rnn = module(cell)
    np.testing.assert_allclose(TRANSFORMS[transform](rnn), reference(cell, rnn.params, XS), rtol=1e-6)


@pytest.mark.parametrize("cell", CELLS, ids=repr)
@pytest.mark.parametrize("transform", GRADIENTS)
def test_gradients_of_inputs_equal_the_function(graph_mode, cell, transform):
    rnn = module(cell)
    needed = jax.grad(lambda x: reference(cell, rnn.params, x))(XS)
    np.testing.assert_allclose(GRADIENTS[transform](rnn), needed, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS, ids=repr)
@pytest.mark.parametrize("grad", [jax.grad, nnx.grad], ids=["jax.grad", "nnx.grad"])
def test_gradients_of_parameters_equal_the_function(graph_mode, cell, grad):
    rnn = module(cell)
    needed = jax.grad(lambda p: reference(cell, p, XS))(rnn.params)
    given = grad(lambda m: total(m, XS))(rnn)
    if isinstance(given, nnx.State):
        nnx.update(rnn, given)
        given = rnn
    for a, b in zip(jax.tree.leaves(given.params), jax.tree.leaves(needed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_key_draws_noise():
    cell, key = jrnn.Dropout(jrnn.GRU(4), output=0.5), jax.random.key(5)
    rnn, linen = module(cell), jrnn.linen.RNN(cell, 2)
    variables = linen.init(jax.random.key(0), XS)
    for run, params in ((rnn, rnn.params), (functools.partial(linen.apply, variables), variables["params"])):
        params = type(rnn.params)(**params) if isinstance(params, dict) else params
        np.testing.assert_array_equal(run(XS, key=key)[1], jrnn.unroll(cell, params, XS, key=key)[1])
        assert not np.any(run(XS)[1] == 0)


def test_the_hessian_of_a_closure(graph_mode):
    rnn = module(jrnn.GRU(2))
    xs = XS[:2, :1]
    f = lambda x: jnp.sum(rnn(x)[1] ** 2)
    g = lambda x: jnp.sum(jrnn.unroll(rnn.cell, rnn.params, x)[1] ** 2)
    np.testing.assert_allclose(jax.hessian(f)(xs), jax.hessian(g)(xs), rtol=1e-5, atol=1e-7)


def test_the_training_step_of_the_flax_guide_learns(graph_mode):
    import optax

    rnn = module(jrnn.Stack((jrnn.GRU(8), jrnn.Dense(1))))
    optimizer = nnx.Optimizer(rnn, optax.adam(3e-2), wrt=nnx.Param)
    target = jnp.cumsum(XS[..., :1], 0) / 4

    @nnx.jit
    def train_step(rnn, optimizer):
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean((m(XS)[1] - target) ** 2))(rnn)
        optimizer.update(rnn, grads)
        return loss

    if graph_mode:  # in tree mode a transform hands nothing back, the guide's step is functional there
        losses = [float(train_step(rnn, optimizer)) for _ in range(150)]
        assert losses[-1] < 0.05 * losses[0]


def test_time_axis_swaps_inputs_outputs_and_masks():
    cell = jrnn.LSTM(4)
    first = jrnn.RNN(cell, 2, rngs=nnx.Rngs(0))
    second = jrnn.RNN(cell, 2, rngs=nnx.Rngs(0), time_axis=1)
    mask = jnp.arange(6)[:, None] != jnp.array([0, 2, 5])
    carry, ys = first(XS, mask=mask)
    other, swapped = second(jnp.swapaxes(XS, 0, 1), mask=mask.T)
    np.testing.assert_array_equal(jnp.swapaxes(swapped, 0, 1), ys)
    np.testing.assert_array_equal(other.c, carry.c)


def test_two_modules_of_equal_cells_share_a_graph():
    a, b = (nnx.split(jrnn.RNN(jrnn.LSTM(4), 2, rngs=nnx.Rngs(i)))[0] for i in range(2))
    assert a == b


def test_fixed_parameters_are_no_params():
    cell = jrnn.from_functions(
        init=lambda key, n: {"w": jnp.ones((n, 3)), "fixed": {"u": 0.1 * jnp.ones((3, 3))}},
        initial_carry=lambda params, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, 3)),
        step=lambda p, h, x: 2 * (jnp.tanh(x @ p["w"] + h @ jax.lax.stop_gradient(p["fixed"]["u"])),),
        out_features=3,
    )
    rnn = jrnn.RNN(cell, 2, rngs=nnx.Rngs(0))
    assert [v.shape for v in jax.tree.leaves(nnx.state(rnn, nnx.Param))] == [(2, 3)]
    variables = jrnn.linen.RNN(cell, 2).init(jax.random.key(0), XS)
    assert list(variables["params"]) == ["w"] and list(variables["fixed"]) == ["fixed.u"]
    np.testing.assert_array_equal(rnn(XS)[1], jrnn.linen.RNN(cell, 2).apply(variables, XS)[1])


@pytest.mark.parametrize("cell", CELLS, ids=repr)
def test_linen_equals_the_function_under_transforms(cell):
    rnn = jrnn.linen.RNN(cell, 2)
    variables = rnn.init(jax.random.key(0), XS)
    spec = jax.eval_shape(lambda: cell.init(jax.random.key(0), 2))
    names = [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, _ in jax.tree_util.tree_leaves_with_path(spec)
    ]
    params = jax.tree.unflatten(jax.tree.structure(spec), [variables["params"][n] for n in names])
    call = lambda v, x: jnp.sum(rnn.apply(v, x, lengths=LENGTHS)[1] ** 2)
    needed = lambda p, x: jnp.sum(jrnn.apply(cell, p, x, lengths=LENGTHS)[1] ** 2)
    np.testing.assert_allclose(call(variables, XS), needed(params, XS), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(call)(variables, XS), needed(params, XS), rtol=1e-6)
    given = jax.grad(call)(variables, XS)["params"]
    for name, leaf in zip(names, jax.tree.leaves(jax.grad(needed)(params, XS)), strict=True):
        np.testing.assert_allclose(given[name], leaf, rtol=1e-5, atol=1e-6)


def test_summary_counts_every_part():
    text = jrnn.summary(jrnn.Stack((jrnn.LSTM(4), jrnn.Dense(3))), in_features=2)
    lines = text.splitlines()
    assert lines[-1].split() == ["total", "127", "508"]  # 4·(2·4 + 4·4 + 4) + 4·3 + 3
    assert any(line.startswith("0 LSTM(hidden=4") and line.split()[-2:] == ["112", "448"] for line in lines)
    assert any(line.split() == ["w", "(4,", "3)", "float32", "12", "48"] for line in lines)
