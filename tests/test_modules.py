import functools
import re

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


@functools.cache
def expected(cell):
    """The value, and its gradients by parameters and inputs."""
    return jax.value_and_grad(functools.partial(reference, cell), (0, 1))(module(cell).params, XS)


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
    np.testing.assert_allclose(TRANSFORMS[transform](module(cell)), expected(cell)[0], rtol=1e-6)


@pytest.mark.parametrize("cell", CELLS, ids=repr)
@pytest.mark.parametrize("transform", GRADIENTS)
def test_gradients_of_inputs_equal_the_function(graph_mode, cell, transform):
    needed = expected(cell)[1][1]
    np.testing.assert_allclose(GRADIENTS[transform](module(cell)), needed, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS, ids=repr)
@pytest.mark.parametrize("grad", [jax.grad, nnx.grad], ids=["jax.grad", "nnx.grad"])
def test_gradients_of_parameters_equal_the_function(graph_mode, cell, grad):
    rnn, needed = module(cell), expected(cell)[1][0]
    given = grad(lambda m: total(m, XS))(rnn)
    if isinstance(given, nnx.State):
        nnx.update(rnn, given)
        given = rnn
    for a, b in zip(jax.tree.leaves(given.params), jax.tree.leaves(needed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


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


# time at another axis

POTENTIALS = jrnn.Sequential((jrnn.Bidirectional(jrnn.GRU(3)), jrnn.Dense(4), jrnn.CRF(4)))
LOOKING = jrnn.BahdanauAttention(jrnn.GRU(4), jrnn.attention.Additive(3), 5)
MODELS = {
    "cell": jrnn.LSTM(4),
    "tap": jrnn.Tap(jrnn.LSTM(4), ("i",)),
    "Bidirectional": jrnn.Bidirectional(jrnn.GRU(3), jrnn.LSTM(2)),
    "Reversed": jrnn.Reversed(jrnn.GRU(4)),
    "Sequential": jrnn.Sequential((jrnn.GRU(3), jrnn.Bidirectional(jrnn.GRU(3)), jrnn.Dense(4))),
    "ManyToOne": jrnn.ManyToOne(jrnn.GRU(5)),
    "ManyToOne at both ends": jrnn.ManyToOne(jrnn.Bidirectional(jrnn.GRU(3))),
    "ManyToOne, then": jrnn.Sequential(
        (jrnn.ManyToOne(jrnn.GRU(5)), jrnn.Dense(3), jrnn.Reversed(jrnn.GRU(2)))
    ),
    "CRF": POTENTIALS,  # of which the unaries have time, the transitions none
    "EncoderDecoder": jrnn.EncoderDecoder(jrnn.GRU(3), jrnn.GRU(4), target_features=2),
    "attention": jrnn.EncoderDecoder(jrnn.GRU(5), LOOKING, target_features=2),
    "loop": jrnn.Feedback(jrnn.Stack((jrnn.GRU(3), jrnn.Dense(2)))),
}
TIMELESS = ("ManyToOne", "ManyToOne at both ends", "ManyToOne, then")
STEPS, BATCH, SPAN = 6, (3, 4), 5


def inputs_for(model, batch):
    """Time first; the source of a pair has other steps than its target."""
    draw = lambda steps: jax.random.normal(jax.random.key(steps), (steps, *batch, 2))
    if isinstance(model, jrnn.EncoderDecoder):
        mask = jnp.arange(SPAN).reshape(-1, *[1] * len(batch)) < 3 + jnp.zeros(batch, int)
        return jrnn.Pair(draw(SPAN), draw(STEPS), mask)
    return (draw(STEPS), jnp.ones((STEPS, *batch), bool)) if isinstance(model, jrnn.Feedback) else draw(STEPS)


def to_axis(tree, axis):
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, axis), tree)


@pytest.mark.parametrize(
    ("batch", "time_axis"),
    [((3,), 1), ((3,), -1), (BATCH, 1), (BATCH, 2), (BATCH, -1), (BATCH, -3), ((), -1)],
)
@pytest.mark.parametrize("name", MODELS)
def test_time_is_where_time_axis_says(name, batch, time_axis):
    """As many-to-one answers and transition scores have no time, they stay as they are."""
    model, axis = MODELS[name], time_axis % (1 + len(batch))
    xs = inputs_for(model, batch)
    flags = {"lengths": jnp.arange(np.prod(batch, dtype=int)).reshape(batch) % (STEPS + 1)}
    mask = jnp.ones((STEPS, *batch), bool).at[1].set(False)
    rnn = jrnn.RNN(model, 2, rngs=nnx.Rngs(0), time_axis=time_axis)
    carry, ys = jrnn.apply(model, rnn.params, xs, mask=mask, **flags)
    if name in TIMELESS:
        needed = ys
    elif name == "CRF":
        needed = ys._replace(unaries=to_axis(ys.unaries, axis))
    else:
        needed = to_axis(ys, axis)
    moved, moved_mask = to_axis(xs, axis), to_axis(mask, axis)
    linen = jrnn.linen.RNN(model, 2, time_axis=time_axis)
    names = jax.tree_util.tree_leaves_with_path(rnn.params)
    variables = {"params": {jax.tree_util.keystr(p, simple=True, separator="."): leaf for p, leaf in names}}
    for end, given in (
        rnn(moved, mask=moved_mask, **flags),
        linen.apply(variables, moved, mask=moved_mask, **flags),
    ):
        assert jax.tree.map(jnp.shape, given) == jax.tree.map(jnp.shape, needed)
        for a, b in zip(jax.tree.leaves((end, given)), jax.tree.leaves((carry, needed)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_tokens_have_time_behind_their_batch_axes_as_well():
    model, tokens = jrnn.Stack((jrnn.Embed(4), jrnn.GRU(3))), jnp.arange(60).reshape(5, 3, 4) % 7
    rnn = jrnn.RNN(model, 7, rngs=nnx.Rngs(0), time_axis=-1)
    needed = jrnn.unroll(model, rnn.params, tokens)[1]
    np.testing.assert_allclose(rnn(to_axis(tokens, 2))[1], to_axis(needed, 2), rtol=1e-6)


@pytest.mark.parametrize("name", ["cell", "tap", "loop"])
def test_reverse_is_that_of_unroll(name):
    model, xs = MODELS[name], inputs_for(MODELS[name], (3,))
    rnn = jrnn.RNN(model, 2, rngs=nnx.Rngs(0))
    resets = jnp.zeros((STEPS, 3), bool).at[2, 1].set(True)
    options = {"lengths": LENGTHS, "resets": resets}
    needed = jrnn.unroll(model, rnn.params, xs, reverse=True, **options)
    names = jax.tree_util.tree_leaves_with_path(rnn.params)
    variables = {"params": {jax.tree_util.keystr(p, simple=True, separator="."): leaf for p, leaf in names}}
    backwards = jrnn.RNN(model, 2, rngs=nnx.Rngs(0), reverse=True)
    runs = [
        rnn(xs, reverse=True, **options),
        backwards(xs, **options),
        jrnn.linen.RNN(model, 2).apply(variables, xs, reverse=True, **options),
        jrnn.linen.RNN(model, 2, reverse=True).apply(variables, xs, **options),
    ]
    for given in runs:
        for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(needed), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    forwards = backwards(xs, reverse=False, **options)
    assert not np.allclose(jax.tree.leaves(forwards)[-1], jax.tree.leaves(needed)[-1])


MISTAKES = [
    (
        {"time_axis": 2},
        {},
        ValueError,
        "time_axis=2 is out of range for xs of shape (6, 3, 2): needs an axis before the features",
    ),
    ({"time_axis": -3}, {}, ValueError, "time_axis=-3 is out of range for xs of shape"),
    (
        {"time_axis": 1},
        {"mask": jnp.ones(6, bool)},
        ValueError,
        "time_axis=1 is out of range for an array of shape (6,)",
    ),
    ({"time_axis": 1.0}, {}, TypeError, "time_axis must be an int, got 1.0"),
    ({"time_axis": True}, {}, TypeError, "time_axis must be an int, got True"),
    ({"reverse": 1}, {}, TypeError, "reverse must be True or False, got 1"),
    ({"deterministic": "no"}, {}, TypeError, "deterministic must be True or False, got 'no'"),
    ({"rng_collection": 3}, {}, TypeError, "rng_collection must be a string, got 3"),
]


@pytest.mark.parametrize(("options", "flags", "kind", "message"), MISTAKES)
def test_a_mistake_with_a_module_is_named(options, flags, kind, message):
    xs = jnp.ones((6, 3, 2))
    makers = [
        lambda: jrnn.RNN(jrnn.GRU(4), 2, rngs=nnx.Rngs(0), **options)(xs, **flags),
        lambda: jrnn.linen.RNN(jrnn.GRU(4), 2, **options).init(jax.random.key(0), xs, **flags),
    ]
    for make in makers:
        with pytest.raises(kind, match=re.escape(message)):
            make()


@pytest.mark.parametrize("make", [lambda c, n: jrnn.RNN(c, n, rngs=nnx.Rngs(0)), jrnn.linen.RNN])
def test_what_a_module_is_made_of_is_checked(make):
    with pytest.raises(TypeError, match="RNN: cell must be a cell, got the class GRU: call it"):
        make(jrnn.GRU, 3)
    with pytest.raises(TypeError, match=r"in_features must be an int, got 3\.5"):
        make(jrnn.GRU(4), 3.5)
    with pytest.raises(ValueError, match="in_features must be at least 1, got -1"):
        make(jrnn.GRU(4), -1)


def test_flags_of_a_call_are_flags():
    rnn, linen = jrnn.RNN(jrnn.GRU(4), 2, rngs=nnx.Rngs(0)), jrnn.linen.RNN(jrnn.GRU(4), 2)
    for call in (rnn, lambda xs, **options: linen.init(jax.random.key(0), xs, **options)):
        for name, given in (("deterministic", "no"), ("reverse", 1)):
            with pytest.raises(TypeError, match=f"{name} must be True or False, got"):
                call(XS, **{name: given})


def test_a_layer_is_reversed_inside():
    with pytest.raises(TypeError, match="reverse must be False for the layer Sequential"):
        jrnn.RNN(MODELS["Sequential"], 2, rngs=nnx.Rngs(0))(XS, reverse=True)


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
