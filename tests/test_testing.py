"""`check_cell` certifies what keeps the laws and names the law that is broken."""

import re
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.testing import LAWS, LawError, check_cell


@dataclass(frozen=True)
class Leaky:  # a newcomer's cell of ten lines
    out_features: int

    def init(self, key, in_features):
        return {"w": jax.random.normal(key, (in_features, self.out_features)), "rate": 0.1 * jnp.ones(())}

    def initial_carry(self, params, batch_shape=(), *, key=None):
        return jnp.zeros((*batch_shape, self.out_features), params["w"].dtype)

    def step(self, params, h, x):
        h = h + params["rate"] * (jnp.tanh(x @ params["w"]) - h)
        return h, h


def user_cell(step, start=jnp.zeros):
    """The same cell as functions, with another step or start."""
    leaky = Leaky(3)
    return jrnn.from_functions(
        init=leaky.init,
        initial_carry=lambda p, batch_shape=(), *, key=None: start((*batch_shape, 3), p["w"].dtype),
        step=step,
        out_features=3,
    )


def test_a_cell_of_ten_lines_keeps_every_law():
    check_cell(Leaky(3), in_features=2)


def test_a_cell_of_functions_keeps_the_laws():
    check_cell(
        user_cell(Leaky(3).step), 2, laws=("scan = loop", "rows are independent", "value", "gradients")
    )


def refuses(cell: Any, law: str, why: str, **options: Any) -> None:
    """Refused by that law, which comes first in the message, and by no other reason."""
    with pytest.raises(LawError, match=why) as caught:
        check_cell(cell, 2, laws=(law,), **options)
    assert str(caught.value).startswith(f"{law}: ")


def test_each_law_is_printed_with_its_time(capsys):
    check_cell(Leaky(3), 2, laws=("value", "padding"), verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert [re.sub(r" +\d+\.\d\d s$", "", line) for line in lines] == ["value", "padding"]


def test_an_init_that_reads_values_is_run_as_it_is():
    leaky = user_cell(Leaky(3).step)
    drawn = lambda key, n: {name: jnp.asarray(np.asarray(p)) for name, p in leaky.init(key, n).items()}
    check_cell(replace(leaky, init=drawn), 2, laws=("interface", "scan = loop"))


def test_members_that_are_not_as_the_contract_says():
    leaky = user_cell(Leaky(3).step)
    numbers = replace(leaky, init=lambda key, n: leaky.init(key, n) | {"rate": 0.1})
    refuses(numbers, "interface", "init returns leaves that are not arrays")
    shared = replace(
        leaky, initial_carry=lambda p, batch_shape=(), *, key=None: (jnp.zeros((*batch_shape, 3)),) * 2
    )
    refuses(shared, "interface", "initial_carry returns the same array twice")
    refuses(user_cell(lambda p, h, x: h), "interface", r"step must return \(carry, y\)")
    refuses(replace(leaky, out_features=4), "interface", r"out_features is 4, but y has shape \(3, 3\)")


def test_parameters_that_follow_neither_key_nor_width():
    leaky = user_cell(Leaky(3).step)
    same = replace(leaky, init=lambda key, n: leaky.init(jax.random.key(0), n))
    refuses(same, "interface", "init ignores its key: two keys give the same parameters")
    two = replace(leaky, init=lambda key, n: leaky.init(key, 2))
    refuses(two, "interface", "init ignores in_features: its parameters do not fit width 3")


def test_an_init_that_gives_float32_whatever_is_enabled():
    leaky = user_cell(Leaky(3).step)
    single = lambda key, n: jax.tree.map(lambda leaf: leaf.astype("float32"), leaky.init(key, n))
    refuses(replace(leaky, init=single), "dtypes are kept", r"init returns .*'w': 'float32\(2, 3\)'")


def test_rows_that_leak_into_each_other():
    def step(p, h, x):
        return (h + p["rate"] * jnp.tanh(x @ p["w"] - jnp.mean(h, axis=0)),) * 2

    refuses(user_cell(step), "rows are independent", "(outputs|state) of row 0")
    refuses(user_cell(step), "ragged = alone", "of a row alone")


def test_a_dtype_that_changes():
    def to_float32(p, h, x):
        return (Leaky(3).step(p, h, x)[0].astype(jnp.float32),) * 2

    refuses(user_cell(to_float32), "dtypes are kept", "in bfloat16 the step changes the carry bfloat16")

    def upcast_output(p, h, x):
        h, y = Leaky(3).step(p, h, x)
        return h, y.astype(jnp.float32)

    refuses(user_cell(upcast_output), "dtypes are kept", "in bfloat16 the outputs are float32")
    plain_zeros = user_cell(Leaky(3).step, start=lambda shape, dtype: jnp.zeros(shape))
    refuses(plain_zeros, "dtypes are kept", "bfloat16")


def test_a_parameter_that_is_never_used():
    def step(p, h, x):
        return (h + 0.1 * (jnp.tanh(x @ p["w"]) - h),) * 2

    refuses(user_cell(step), "gradients", "the gradient of rate is zero: the parameter is never used")
    check_cell(user_cell(step), 2, laws=("gradients",), exempt=("rate",))


def test_a_fixed_parameter_that_is_learned():
    fixed = jrnn.from_functions(
        init=lambda key, n: {"fixed": jnp.ones((n, 3))},
        initial_carry=lambda p, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, 3), p["fixed"].dtype),
        step=lambda p, h, x: (jnp.tanh(x @ p["fixed"] + h),) * 2,
        out_features=3,
    )
    refuses(fixed, "gradients", "the gradient of fixed, which is fixed, is not zero")
    stopped = replace(fixed, step=lambda p, h, x: fixed.step(jax.lax.stop_gradient(p), h, x))
    check_cell(stopped, 2, laws=("gradients",))


def test_a_gradient_that_is_wrong():
    @jax.custom_jvp
    def squash(x):
        return jnp.tanh(x)

    squash.defjvp(lambda x, v: (jnp.tanh(x[0]), v[0] * (1 - jnp.tanh(x[0]))))  # the square is missing

    def step(p, h, x):
        return (h + p["rate"] * (squash(x @ p["w"]) - h),) * 2

    refuses(
        user_cell(step), "gradients", r"against finite differences \(of params\['w'\], xs\): values differ"
    )


def test_hidden_python_state():
    calls = []

    def step(p, h, x):
        calls.append(None)
        return (h + p["rate"] * (jnp.tanh(x @ p["w"]) - h) / len(calls),) * 2

    refuses(user_cell(step), "scan = loop", "unroll against a Python loop: values differ")
    refuses(user_cell(step), "value", "hidden Python state")


def test_a_step_that_counts_in_its_program():
    calls = []

    def step(p, h, x):
        calls.append(None)
        for _ in calls:
            h = 0.9 * h
        return (h + p["rate"] * (jnp.tanh(x @ p["w"]) - h),) * 2

    refuses(user_cell(step), "value", "the step keeps hidden Python state")


class NoValue(Leaky):
    """Equal to nothing but itself."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


@dataclass(frozen=True)
class HoldsFunction(Leaky):
    activation: Any = None


def test_a_cell_that_is_no_value():
    refuses(NoValue(3), "value", "a pickled copy must be equal")
    refuses(HoldsFunction(3, lambda x: x), "value", "pickle")


def test_a_step_that_reads_its_neighbors_input():
    def step(p, h, x):
        y = h + p["rate"] * jnp.tanh(x @ p["w"])
        return y, y + jnp.roll(x @ p["w"], 1, axis=0)

    refuses(user_cell(step), "rows are independent", "outputs of row 0")


def test_a_start_that_depends_on_the_batch():
    def start(shape, dtype):
        return jnp.cumsum(jnp.ones(shape, dtype), axis=0)  # every row starts at its own number

    refuses(user_cell(Leaky(3).step, start), "batched step = vmap(step)", "initial_carry of a batch")


def test_a_step_that_takes_its_rows_for_features():
    def step(p, h, x):
        return (h + p["rate"] * jnp.tanh(x @ p["w"]) / h.shape[0],) * 2

    refuses(
        user_cell(step), "batched step = vmap(step)", "vmap.step. against the batched step: values differ"
    )


def test_noise_that_the_step_lets_fall():
    inner = jrnn.Zoneout(jrnn.GRU(3))
    forgets = jrnn.from_functions(
        inner.init,
        inner.initial_carry,
        lambda p, c, x: (inner.step(p, c, x)[0]._replace(key=None), x),
        out_features=2,
    )
    refuses(forgets, "reset = fresh start", "must return a carry like the given one")


def test_an_output_that_is_not_finite_in_half_precision():
    def step(p, h, x):
        return (h + p["rate"] * jnp.tanh(x @ p["w"]) * jnp.exp(x[..., :1] * 0 + 12.0),) * 2  # over 65504

    refuses(user_cell(step), "dtypes are kept", "in float16 an output is not finite")


def test_padding_that_a_step_turns_into_nan():
    """A step that divides by the norm of x - 1: a row without a valid step is filled with ones."""

    def step(p, h, x):
        d = x - 1
        return (h + p["rate"] * jnp.tanh((d / jnp.linalg.norm(d, axis=-1, keepdims=True)) @ p["w"]),) * 2

    refuses(user_cell(step), "padding", "in padding")


@dataclass(frozen=True)
class Claims:
    """An Elman network, which says that it is linear."""

    hidden: int = 3
    linear = True

    def __getattr__(self, name):
        return getattr(jrnn.Elman(3, activation="identity"), name)


def test_a_wrong_claim_of_linearity():
    refuses(Claims(), "linear = scan", "Associative against Scan")


def test_mistakes_in_the_call():
    with pytest.raises(TypeError, match="check_cell: cell must be a cell, got the class Leaky: call it"):
        check_cell(Leaky, 2)
    with pytest.raises(ValueError, match=r"laws must be among \['interface'.*, got \['speed'\]"):
        check_cell(Leaky(3), 2, laws=("speed",))
    broken = user_cell(lambda p, h, x: (h, x @ p["no such name"]))
    for law in LAWS.keys() - {"linear = scan"}:
        refuses(broken, law, "no such name")
