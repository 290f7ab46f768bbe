"""`unroll`: what is traced once, what a key draws, what the loop holds instead of carrying it."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn

IN, HIDDEN, STEPS = 2, 3, 7
PLAIN, BLOCKS = jrnn.Scan(), jrnn.Scan(memory="sqrt")


@dataclass(frozen=True)
class Counting:
    """A cell that counts how often Python runs its step."""

    name: str
    out_features: int = 1

    def init(self, key, in_features):
        return jnp.ones(())

    def initial_carry(self, params, batch_shape=(), *, key=None):
        return jnp.zeros((*batch_shape, 1))

    def step(self, params, carry, x):
        COUNTS[self.name] = COUNTS.get(self.name, 0) + 1
        return carry + params * x, carry


COUNTS: dict[str, int] = {}


@pytest.mark.parametrize("method", [PLAIN, BLOCKS], ids=str)
def test_an_equal_cell_is_traced_once(method):
    name, xs = str(method), jnp.ones((9, 2, 1))
    options = {"lengths": jnp.array([9, 3]), "resets": jnp.zeros((9, 2), bool)}

    def run():
        jrnn.unroll(Counting(name), jnp.ones(()), xs, **options, method=type(method)(method.memory))

    run()
    once = COUNTS[name]
    run()
    run()
    assert COUNTS[name] == once
    assert once <= {"Scan(memory=None)": 2, "Scan(memory='sqrt')": 3}[name]  # one of them is the boundary's


def noisy_run(key=None, carry=None, cell=None):
    cell = cell or jrnn.Dropout(jrnn.LSTM(HIDDEN), input=0.5, state=0.5, output=0.5)
    params = cell.init(jax.random.key(0), IN)
    xs = jax.random.normal(jax.random.key(1), (STEPS, 4, IN))
    return cell, params, jrnn.unroll(cell, params, xs, carry, key=key)


def test_the_same_key_draws_the_same_noise():
    a, b, c, none = (noisy_run(key=k)[2][1] for k in (*map(jax.random.key, (1, 1, 2)), None))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c) and not np.array_equal(a, none)


def test_a_key_beside_a_carry_keeps_the_state_and_draws_the_noise_anew():
    cell, params, (middle, _) = noisy_run(key=jax.random.key(1))
    fresh = cell.initial_carry(params, (4,), key=jax.random.key(2))
    joined = middle._replace(key=fresh.key)
    given, needed = noisy_run(key=jax.random.key(2), carry=middle)[2], noisy_run(carry=joined)[2]
    for a, b in zip(jax.tree.leaves(given[0].cell), jax.tree.leaves(needed[0].cell), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(given[1], needed[1])
    as_it_stands = noisy_run(carry=middle)[2][1]
    np.testing.assert_array_equal(as_it_stands, noisy_run(carry=middle, key=None)[2][1])
    assert not np.array_equal(as_it_stands, given[1])


def test_quiet_takes_the_noise_out_and_keeps_state_and_context():
    cell, params, (middle, _) = noisy_run(key=jax.random.key(1))
    silent = jrnn.quiet(cell, params, middle)
    assert silent.key is None
    start = cell.initial_carry(params, (4,))._replace(cell=middle.cell)
    np.testing.assert_array_equal(noisy_run(carry=silent)[2][1], noisy_run(carry=start)[2][1])
    context = ATTENDING.initial_carry((), (4,))._replace(memory=jnp.ones(3))
    assert jrnn.quiet(ATTENDING, (), context).memory is context.memory


class Attending(NamedTuple):
    h: Any
    memory: Any  # context: None until something fills it


ATTENDING = jrnn.from_functions(
    init=lambda key, n: (),
    initial_carry=lambda p, batch_shape=(), *, key=None: Attending(jnp.zeros((*batch_shape, 1)), None),
    step=lambda p, c, x: (Attending(c.h + x * jnp.sum(c.memory, -1, keepdims=True), c.memory), c.h),
    out_features=1,
)


def scans(jaxpr):
    """Every scan of a jaxpr, nested ones as well."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "scan":
            yield eqn
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from scans(inner)


def carried(scan):
    """Leaves that the loop carries; JAX says it in another parameter since 0.12."""
    params = scan.params
    return params["num_carry"] if "num_carry" in params else len(params["ft_in"].unpack()[1])


@pytest.mark.parametrize("flagged", [False, True])
def test_slots_are_constants_of_the_loop(flagged):
    xs = jnp.ones((STEPS, 4, 1))
    options = {"lengths": jnp.array([7, 0, 2, 3]), "resets": jnp.zeros((STEPS, 4), bool)} if flagged else {}
    dropout = jrnn.Dropout(jrnn.LSTM(HIDDEN), state=0.5)
    params = dropout.init(jax.random.key(0), 1)
    program = jax.make_jaxpr(lambda p, k: jrnn.unroll(dropout, p, xs, key=k, **options))
    (scan,) = scans(program(params, jax.random.key(0)).jaxpr)
    assert carried(scan) == 2  # h and c, neither the key nor the parameters
    start = Attending(jnp.zeros((4, 1)), jnp.ones((4, 5)))
    program = jax.make_jaxpr(lambda m: jrnn.unroll(ATTENDING, (), xs, start._replace(memory=m), **options))
    (scan,) = scans(program(start.memory).jaxpr)
    assert carried(scan) == 1
    end, _ = jrnn.unroll(ATTENDING, (), xs, start, **options)
    np.testing.assert_array_equal(end.memory, start.memory)
    np.testing.assert_array_equal(end.h[:, 0], [35, 0, 10, 15] if flagged else [35] * 4)


@dataclass(frozen=True)
class Two:
    """A cell whose state is two entries, which it hands on and shows."""

    out_features: int = 400

    def init(self, key, in_features):
        return jnp.zeros(())

    def initial_carry(self, params, batch_shape=(), *, key=None):
        return (jnp.ones((*batch_shape, 200)),) * 2

    def step(self, params, carry, x):
        return carry, jnp.concatenate(carry, -1)


def test_every_entry_of_the_state_has_a_mask_of_its_own():
    _, ys = jrnn.unroll(
        jrnn.Dropout(Two(), state=(0.5, 0.5)), jnp.zeros(()), jnp.ones((1, 1)), key=jax.random.key(1)
    )
    first, second = np.split(ys[0] == 0, 2)
    assert 60 < first.sum() < 140 and 60 < second.sum() < 140
    assert 60 < (first != second).sum() < 140


def test_a_learned_start_hands_the_key_on():
    cell = jrnn.LearnedCarry(jrnn.Dropout(jrnn.Elman(3), output=0.5))
    params = cell.init(jax.random.key(0), 2)
    assert cell.initial_carry(params).key is None
    run = lambda key: jrnn.unroll(cell, params, jnp.ones((4, 2)), key=key)[1]
    assert (run(jax.random.key(1)) == 0).any() and not (run(None) == 0).any()


def test_state_that_the_step_hands_on_is_a_constant_of_the_loop():
    program = jax.make_jaxpr(
        lambda m: jrnn.unroll(HANDS_ON, (), jnp.ones((STEPS, 4, 1)), (m, m), lengths=jnp.array([7, 0, 2, 3]))
    )
    (scan,) = scans(program(jnp.ones((4, 1))).jaxpr)
    assert carried(scan) == 1


HANDS_ON = jrnn.from_functions(
    init=lambda key, n: (),
    initial_carry=lambda p, batch_shape=(), *, key=None: (jnp.zeros((*batch_shape, 1)),) * 2,
    step=lambda p, c, x: ((c[0] + c[1] * x, c[1]), c[0]),
    out_features=1,
)
