"""What was computed for a cell goes with the cell; for an equal one it is found again."""

import copy
import dataclasses
import functools
import gc
import pickle
import weakref

import jax
import jax.numpy as jnp
import optax
import pytest

import jrnn
from jrnn._caching import cached, owner_of

pytestmark = pytest.mark.engine

XS = jnp.ones((4, 2, 3))
BATCHES = [jrnn.Batch(XS, jnp.zeros((4, 2, 5)))]
LOSS = jrnn.PerStep(jrnn.losses.mean_squared_error)
SGD = optax.sgd(0.1)


class Held:
    """Stands for the arrays that a step closes over."""

    value = 0.5


def init(key, in_features):
    return jax.random.normal(key, (in_features, 5))


def initial_carry(params, batch_shape=(), *, key=None):
    return jnp.zeros((*batch_shape, 5))


def closure():
    held = Held()

    def step(params, h, x):
        h = jnp.tanh(x @ params + held.value * h)
        return h, h

    return jrnn.from_functions(init, initial_carry, step, 5), held


def partial():
    held = Held()

    def step(held, params, h, x):
        h = jnp.tanh(x @ params + held.value * h)
        return h, h

    return jrnn.from_functions(init, initial_carry, functools.partial(step, held), 5), held


def method():
    class Holder(Held):
        def step(self, params, h, x):
            h = jnp.tanh(x @ params + self.value * h)
            return h, h

    held = Holder()
    return jrnn.from_functions(init, initial_carry, held.step, 5), held


def local_class():
    held = Held()

    @dataclasses.dataclass(frozen=True)
    class Local:
        out_features: int = 5
        init = staticmethod(init)
        initial_carry = staticmethod(initial_carry)

        def step(self, params, h, x):
            h = jnp.tanh(x @ params + held.value * h)
            return h, h

    return Local(), held


def fit(cell, params):
    quiet = jrnn.Progress(bar=False)
    options = {"optimizer": SGD, "key": jax.random.key(0), "validation": BATCHES, "progress": quiet}
    jrnn.fit(cell, BATCHES, LOSS, params=params, **options)


USES = {
    "unroll": lambda cell, params: jrnn.unroll(cell, params, XS, lengths=jnp.array([2, 4])),
    "gradient": lambda cell, params: jax.grad(lambda p: jrnn.unroll(cell, p, XS)[1].sum())(params),
    "blocks": lambda cell, params: jrnn.unroll(cell, params, XS, method=jrnn.Scan("sqrt")),
    "stack": lambda cell, params: jrnn.unroll(jrnn.Stack((cell,)), (params,), XS),
    "evaluate": lambda cell, params: jrnn.evaluate(cell, params, BATCHES, LOSS),
    "fit": fit,
    "predict": lambda cell, params: list(jrnn.predict(cell, params, BATCHES)),
    "gradient_flow": lambda cell, params: jrnn.analysis.gradient_flow(cell, params, BATCHES[0], LOSS),
    "lyapunov": lambda cell, params: jrnn.analysis.lyapunov(cell, params, XS[:, 0]),
    "spectra": lambda cell, params: jrnn.analysis.spectra(cell, params, XS[:, 0]),
    "sensitivity": lambda cell, params: jrnn.analysis.sensitivity(cell, params, XS[:, 0]),
    "fixed points": lambda cell, params: jrnn.analysis.find_fixed_points(
        cell, params, jnp.zeros(3), jnp.zeros((2, 5))
    ),
    "pulse": lambda cell, params: jrnn.analysis.pulse_response(cell, params, XS[0, 0], 4),
}


@pytest.mark.parametrize(
    ("make", "use"),
    [*((closure, use) for use in USES), *((make, "unroll") for make in (partial, method, local_class))],
)
def test_nothing_keeps_what_a_cell_of_the_user_holds(make, use):
    cell, held = make()
    USES[use](cell, cell.init(jax.random.key(0), 3))
    alive = weakref.ref(held)
    del cell, held
    jax.clear_caches()
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("make", [closure, partial, method, local_class])
def test_an_eager_call_keeps_nothing_either_while_the_caches_of_jax_stay(make):
    cell, held = make()
    jrnn.unroll(cell, cell.init(jax.random.key(0), 3), XS)
    alive = weakref.ref(held)
    del cell, held
    gc.collect()
    assert alive() is None


def test_nothing_keeps_what_a_loss_a_penalty_or_an_optimizer_holds():
    def train(held):
        loss = jrnn.PerStep(lambda ys, targets, mask: held.value * jnp.mean((ys - targets) ** 2))
        scale = optax.stateless(lambda updates, params: jax.tree.map(lambda u: held.value * u, updates))
        penalty = lambda params, batch: held.value * optax.tree.norm(params)
        jrnn.fit(
            jrnn.EchoState(5), BATCHES, loss, optimizer=optax.chain(scale, SGD), key=jax.random.key(0),
            in_features=3, penalties=(penalty,), validation=BATCHES, progress=jrnn.Progress(bar=False),
        )  # fmt: skip
        return weakref.ref(held)

    alive = train(Held())
    jax.clear_caches()
    gc.collect()
    assert alive() is None


def test_an_equal_value_finds_what_was_computed():
    calls = []

    def count(cell, number):
        calls.append(number)
        return object()

    look_up = cached(count)
    assert look_up(jrnn.LSTM(8), 1) is look_up(jrnn.LSTM(8), 1)
    assert look_up(jrnn.Stack((jrnn.LSTM(8),)), 1) is not look_up(jrnn.LSTM(8), 2)
    cell, _ = closure()
    again = jrnn.from_functions(cell.init, cell.initial_carry, cell.step, 5)
    assert look_up(cell, 1) is look_up(again, 1)
    assert len(calls) == 4


def stacked(params):
    return jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params)


EAGER = {
    "grad": lambda f, params: jax.grad(f)(params),
    "hessian": lambda f, params: jax.hessian(lambda b: f(params._replace(b=b)))(params.b),
    "grad of vmap": lambda f, params: jax.grad(lambda p: jax.vmap(f)(stacked(p)).sum())(params),
    "jvp": lambda f, params: jax.jvp(f, (params,), (params,)),
    "vmap": lambda f, params: jax.vmap(f)(stacked(params)),
}


@pytest.mark.parametrize("transform", EAGER)
def test_an_eager_transform_of_an_equal_cell_compiles_nothing(transform, programs):
    params = jrnn.LSTM(5).init(jax.random.key(0), 3)

    def call():
        cell = jrnn.LSTM(5)
        EAGER[transform](lambda p: jrnn.unroll(cell, p, XS)[1].sum(), params)

    call()
    before = programs()
    call()
    assert programs() == before > 0


@pytest.mark.parametrize("value", [jrnn.LSTM(8), (1, "a", None), jnp.tanh, jrnn.LSTM, init, jnp.float32])
def test_what_stays_has_no_owner(value):
    assert owner_of((value, 3)) is None


def test_an_owner_is_copied_and_pickled_without_its_caches():
    owner = functools.partial(init)
    cached(lambda f: object())(owner)
    assert pickle.loads(pickle.dumps(owner)).func is init
    assert not vars(copy.deepcopy(owner))["_jrnn_caches"] and vars(owner)["_jrnn_caches"]
