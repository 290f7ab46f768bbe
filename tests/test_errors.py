"""Mistakes that a new user makes: each gives one line that names the argument, what came, what is needed."""

import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest

import jrnn

KEY = jax.random.key(0)
XS = jnp.ones((5, 2, 3))  # 5 steps, 2 rows, 3 features
LSTM, GRU, EMBED, JORDAN = jrnn.LSTM(4), jrnn.GRU(4), jrnn.Embed(4), jrnn.Jordan(3)
PARAMS, GRU_PARAMS, JORDAN_PARAMS = (cell.init(KEY, 3) for cell in (LSTM, GRU, JORDAN))
EMBED_PARAMS = EMBED.init(KEY, 7)
BOTH = jrnn.Bidirectional(LSTM)
DEEP = jrnn.Stack((LSTM, jrnn.Dense(6)))


@dataclass
class NotFrozen:
    out_features: int

    def init(self, key, in_features):
        return ()

    def initial_carry(self, params, batch_shape=(), *, key=None):
        return ()

    def step(self, params, carry, x):
        return carry, x


@dataclass(frozen=True)
class ListField:
    sizes: list
    out_features: int = 3

    init, initial_carry, step = NotFrozen.init, NotFrozen.initial_carry, NotFrozen.step


def stepping(step):
    """A user's cell with a state of width 3 and the given step."""
    return jrnn.from_functions(
        init=lambda key, in_features: jnp.ones((in_features, 3)),
        initial_carry=lambda params, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, 3)),
        step=step,
        out_features=3,
    )


def run_step(step, xs=XS, **options):
    return jrnn.unroll(stepping(step), jnp.ones((3, 3)), xs, **options)


def run(xs=XS, carry=None, *, cell=LSTM, params=PARAMS, **options):
    return jrnn.unroll(cell, params, xs, carry, **options)


def fed(given, use, cell=JORDAN):
    return jrnn.unroll(jrnn.Feedback(cell), cell.init(KEY, 3), (given, use))


FLAGS = jnp.ones((5, 2), bool)

# what was done: (how, type of error, what the message must say)
MISTAKES = {
    # xs
    "wrong width": (
        lambda: run(jnp.ones((5, 2, 4))),
        ValueError,
        "w_ih is (3, 16), width 4 needs (4, 16) (params were made for in_features=3)",
    ),
    "another hidden": (
        lambda: run(cell=jrnn.LSTM(5)),
        ValueError,
        "w_ih is (3, 16), width 3 needs (3, 20) (params were made by another cell than LSTM(hidden=5))",
    ),
    "params and xs exchanged": (
        lambda: jrnn.unroll(LSTM, XS, PARAMS),
        ValueError,
        "leaves of xs differ in their number of steps: [3, 4, 16]; the arguments are (cell, params, xs)",
    ),
    "features and time swapped": (
        lambda: run(jnp.ones((3, 2, 5))),
        ValueError,
        "w_ih is (3, 16), width 5 needs (5, 16) (axis 0 of xs has size 3: xs is (time, ..., features)",
    ),
    "no feature axis": (
        lambda: run(jnp.ones(5), cell=GRU, params=GRU.init(KEY, 1)),
        ValueError,
        "xs has shape (5,), GRU(hidden=4) needs (time, ..., features): add a feature axis",
    ),
    "no feature axis, batched": (
        lambda: run(XS[..., 0]),
        ValueError,
        "w_ih is (3, 16), width 2 needs (2, 16)",
    ),
    "lists for an array": (
        lambda: run([[1.0, 2.0, 3.0]] * 5),
        TypeError,
        "xs must hold arrays, got 1.0 inside",
    ),
    "a number for an array": (lambda: run(1.0), TypeError, "xs must hold arrays, got 1.0"),
    "a scalar array": (
        lambda: run(jnp.ones(())),
        ValueError,
        "xs must have a leading time axis, got a scalar",
    ),
    "no inputs": (lambda: run(None), ValueError, "xs is empty"),
    "integers for floats": (lambda: run(jnp.ones((5, 2, 3), int)), TypeError, "xs is int32, LSTM(hidden=4"),
    "floats for tokens": (
        lambda: run(jnp.ones((5, 2)), cell=EMBED, params=EMBED_PARAMS),
        ValueError,
        "on xs of float32(5, 2): Embed takes integer tokens, got float32",
    ),
    "one-hot for tokens, in a stack": (
        lambda: run(
            jnp.ones((5, 2, 7)), cell=jrnn.Stack((EMBED, LSTM)), params=(EMBED_PARAMS, LSTM.init(KEY, 4))
        ),
        ValueError,
        "Embed takes integer tokens, got float32",
    ),
    "numbers of steps that differ": (
        lambda: run_step(lambda p, h, x: (h, h), (XS, jnp.ones((4, 2)))),
        ValueError,
        "leaves of xs differ in their number of steps: [5, 4]",
    ),
    # cell
    "class for a cell": (
        lambda: run(cell=jrnn.LSTM),
        TypeError,
        "got the class LSTM: call it, as in LSTM(8)",
    ),
    "class for a layer": (
        lambda: jrnn.apply(jrnn.Bidirectional, PARAMS, XS),
        TypeError,
        "got the class Bidirectional: call it",
    ),
    "nothing for a cell": (
        lambda: run(cell=None),
        TypeError,
        "cell must be a cell, got None, which has no init",
    ),
    "name for a cell": (lambda: jrnn.apply("lstm", PARAMS, XS), TypeError, "cell must be a cell, got 'lstm'"),
    "params before cell": (
        lambda: jrnn.unroll(PARAMS, LSTM, XS),
        TypeError,
        "cell must be a cell, got LSTMParams(",
    ),
    "layer for a cell": (lambda: run(cell=BOTH), TypeError, "is a layer: call jrnn.apply(layer, params, xs"),
    "not frozen": (
        lambda: run(cell=NotFrozen(3), params=()),
        TypeError,
        "cell NotFrozen is not hashable (unhashable type: 'NotFrozen'): make it a frozen dataclass",
    ),
    "list in a field": (
        lambda: run(cell=ListField([1, 2]), params=()),
        TypeError,
        "cell ListField is not hashable (unhashable type: 'list'): make it a frozen dataclass whose fields",
    ),
    # params
    "params of another cell": (
        lambda: run(params=GRU_PARAMS),
        ValueError,
        "params are a GRUParams, needs a LSTMParams: use init of the same cell",
    ),
    "params of another hidden": (
        lambda: run(params=jrnn.LSTM(5).init(KEY, 3)),
        ValueError,
        "w_ih is (3, 20), width 3 needs (3, 16)",
    ),
    "params of another width": (
        lambda: run(params=LSTM.init(KEY, 2)),
        ValueError,
        "on xs of float32(5, 2, 3): w_ih is (2, 16), width 3 needs (3, 16)",
    ),
    "no params": (lambda: run(params=None), ValueError, "params are a NoneType, needs a LSTMParams"),
    "params of one cell of a stack": (
        lambda: run(cell=DEEP, params=(PARAMS,)),
        ValueError,
        "params are (LSTMParams(w_ih=float32(3, 16)",
    ),
    "params of a stack with another inner width": (
        lambda: run(cell=DEEP, params=(PARAMS, jrnn.Dense(6).init(KEY, 3))),
        ValueError,
        "[1].w is (3, 6), width 3 needs (4, 6)",
    ),
    "params of one direction": (
        lambda: jrnn.apply(BOTH, PARAMS, XS),
        ValueError,
        "must be (forward, backward), got a LSTMParams",
    ),
    "params of one of two layers": (
        lambda: jrnn.apply(jrnn.Sequential((BOTH, jrnn.Dense(2))), (PARAMS,), XS),
        ValueError,
        "must be a tuple of 2, got (LSTMParams(",
    ),
    # carry
    "carry of another cell": (
        lambda: run(carry=jnp.zeros((2, 4))),
        ValueError,
        "got float32(2, 4), needs LSTMCarry(h=float32(2, 4), c=float32(2, 4))",
    ),
    "carry as a plain tuple": (
        lambda: run(carry=(jnp.zeros((2, 4)), jnp.zeros((2, 4)))),
        ValueError,
        "carry does not belong to LSTM(",
    ),
    "LSTM carry for a GRU": (
        lambda: run(carry=LSTM.initial_carry(PARAMS, (2,)), cell=GRU, params=GRU_PARAMS),
        ValueError,
        "got LSTMCarry(h=float32(2, 4), c=float32(2, 4)), needs float32(2, 4)",
    ),
    "carry of another batch": (
        lambda: run(carry=LSTM.initial_carry(PARAMS, (3,))),
        ValueError,
        "batch of xs: got LSTMCarry(h=float32(3, 4), c=float32(3, 4)), needs LSTMCarry(h=float32(2, 4)",
    ),
    "carry of a batch of one": (  # a bare step broadcasts it, unroll does not
        lambda: run(carry=LSTM.initial_carry(PARAMS, (1,))),
        ValueError,
        "batch of xs: got LSTMCarry(h=float32(1, 4), c=float32(1, 4)), needs LSTMCarry(h=float32(2, 4)",
    ),
    "carry of one direction": (
        lambda: jrnn.apply(BOTH, (PARAMS, PARAMS), XS, (jnp.zeros((2, 4)),)),
        ValueError,
        "carry of Bidirectional(",
    ),
    # lengths, mask, resets
    "batch first, with lengths": (
        lambda: run(jnp.swapaxes(XS, 0, 1), lengths=jnp.array([5, 3])),
        ValueError,
        "lengths has shape (2,), needs the batch shape (5,) of xs: one length per sequence; xs has 2 along "
        "its first axis, and time comes first: swap axes 0 and 1 of xs",
    ),
    "lengths of another batch": (
        lambda: run(lengths=jnp.array([1, 2, 3])),
        ValueError,
        "lengths has shape (3,), needs the batch shape (2,) of xs",
    ),
    "float lengths": (lambda: run(lengths=jnp.ones(2)), ValueError, "lengths must be integers, got float32"),
    "boolean lengths": (lambda: run(lengths=FLAGS[0]), ValueError, "lengths must be integers, got bool"),
    "negative lengths": (
        lambda: run(lengths=jnp.array([1, -2])),
        ValueError,
        "lengths must lie between 0 and the 5 steps of xs, got -2 to 1",
    ),
    "lengths too long": (lambda: run(lengths=jnp.array([6, 1])), ValueError, "5 steps of xs, got 1 to 6"),
    "ragged lengths": (
        lambda: run(lengths=[[1], [2, 3]]),
        TypeError,
        "lengths must be an array, got [[1], [2, 3]]",
    ),
    "batch first mask": (
        lambda: run(mask=FLAGS.T),
        ValueError,
        "mask has shape (2, 5), needs (5, 2) or its leading axes: time comes first, swap the axes of mask",
    ),
    "mask of floats": (lambda: run(mask=jnp.ones((5, 2))), ValueError, "mask must be boolean, got float32"),
    "mask with a feature axis": (
        lambda: run(mask=XS != 0),
        ValueError,
        "mask has shape (5, 2, 3), needs (5, 2)",
    ),
    "resets of rows": (lambda: run(resets=FLAGS[0]), ValueError, "resets has shape (2,), needs (5, 2)"),
    "resets of integers": (
        lambda: run(resets=jnp.zeros((5, 2), int)),
        ValueError,
        "resets must be boolean, got int32: use resets != 0",
    ),
    # other options
    "seed for a key": (
        lambda: run(key=0),
        TypeError,
        "key must be a random key, as in jax.random.key(0), got 0",
    ),
    "seed for a key of a layer": (
        lambda: jrnn.apply(BOTH, (PARAMS, PARAMS), XS, key=0),
        TypeError,
        "key must be a random key",
    ),
    "seed for a key of init": (
        lambda: LSTM.init(0, 3),
        TypeError,
        "key must be a random key, as in jax.random.key(0), got 0",
    ),
    "no key for init of a combinator": (
        lambda: jrnn.Stack((LSTM, jrnn.Dense(2))).init(None, 3),
        TypeError,
        "key must be a random key, as in jax.random.key(0), got None",
    ),
    "seed for a key of init of a layer": (
        lambda: BOTH.init(key=0, in_features=3),
        TypeError,
        "key must be a random key, as in jax.random.key(0), got 0",
    ),
    "name for a method": (
        lambda: run(method="sqrt"),
        TypeError,
        "method must be a method such as Scan(memory='sqrt')",
    ),
    "class for a method": (lambda: run(method=jrnn.Scan), TypeError, "method must be a method such as Scan("),
    "unknown memory": (lambda: jrnn.Scan(memory="log"), ValueError, "bytes, 'sqrt' or None, got 'log'"),
    "no memory at all": (lambda: jrnn.Scan(memory=0), ValueError, "memory must be a number of bytes"),
    "too few bytes": (
        lambda: run(method=jrnn.Scan(memory=10)),
        ValueError,
        "memory=10 bytes is too little for",
    ),
    # a user's own step
    "step changes the shape": (
        lambda: run_step(lambda p, h, x: (h[..., :2], h)),
        ValueError,
        "must return a carry like the given one: given float32(2, 3), returned float32(2, 2)",
    ),
    "step changes the structure": (
        lambda: run_step(lambda p, h, x: ((h, h), h)),
        ValueError,
        "given float32(2, 3), returned (float32(2, 3), float32(2, 3))",
    ),
    "step changes the dtype": (
        lambda: run_step(lambda p, h, x: (h.astype(jnp.bfloat16), h)),
        ValueError,
        "changes the dtype of the carry at every call: given float32(2, 3), returned bfloat16(2, 3)",
    ),
    "masked step changes the structure": (
        lambda: run_step(lambda p, h, x: ((h, h), h), mask=FLAGS),
        ValueError,
        "given float32(2, 3), returned (float32(2, 3), float32(2, 3))",
    ),
    "step returns nothing": (
        lambda: run_step(lambda p, h, x: None),
        ValueError,
        "must return (carry, y), it returned None",
    ),
    "step returns y only": (
        lambda: run_step(lambda p, h, x: h),
        ValueError,
        "must return (carry, y), it returned float32(2, 3)",
    ),
    "start without a key argument": (
        lambda: run(
            cell=jrnn.from_functions(
                lambda key, n: jnp.ones(3), lambda params, batch_shape=(): (), lambda p, c, x: (c, x), 3
            ),
            params=jnp.ones(3),
        ),
        ValueError,
        "cannot take its initial_carry: ",
    ),
}


def check(act, kind, message):
    with pytest.raises(kind, match=re.escape(message)) as caught:
        act()
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_in_one_line(mistake):
    check(*MISTAKES[mistake])


def test_static_mistakes_are_named_under_jit_too():
    with pytest.raises(ValueError, match=re.escape("mask has shape (2, 5), needs (5, 2)")):
        jax.jit(lambda xs, mask: run(xs, mask=mask))(XS, FLAGS.T)
    with pytest.raises(ValueError, match="width 4 needs"):
        jax.jit(run)(jnp.ones((5, 2, 4)))
