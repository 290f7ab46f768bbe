"""Attention: every score and decoder against the equations, and the memory as a slot of the carry."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn._checks import brief
from jrnn.attention import Additive, Dot, General, Local, Location
from tests import attending
from tests.references import derivative
from tests.test_slots import carried, scans
from tests.values import random, weigh

IN, HIDDEN, QUERY, FEATURES, STEPS, SPAN, BATCH = 2, 4, 3, 5, 4, 6, 4
LENGTHS = np.array([SPAN, 3, 1, 0], np.int32)  # valid positions of each row
VALID = np.arange(SPAN) < LENGTHS[:, None]
CELL = jrnn.Project(jrnn.Elman(HIDDEN), QUERY)
Bahdanau, Luong = jrnn.BahdanauAttention, jrnn.LuongAttention
CASES = {
    "additive": Bahdanau(CELL, Additive(2), FEATURES),
    "general": Luong(CELL, General(), FEATURES, 7),
    "general, not fed": Luong(CELL, General(), FEATURES, 7, input_feeding=False),
    "dot": Bahdanau(CELL, Dot(), QUERY),
    "scaled dot": Luong(CELL, Dot(scaled=True), QUERY, 7),
    "location": Luong(CELL, Location(9), FEATURES, 7),
    "local": Luong(CELL, Local(General(), 1.5), FEATURES, 7),
    "local, additive": Bahdanau(CELL, Local(Additive(2), 1), FEATURES),
    "two memories": Bahdanau(CELL, (Additive(2), Local(Dot(), 2.5)), (FEATURES, QUERY)),
    "two memories, Luong": Luong(CELL, (General(), Location(8)), (FEATURES, 8), 7),
}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def shapes(cell, batch=(BATCH,), in_features=IN):
    """Of params and of the carry."""
    params = jax.eval_shape(lambda key: cell.init(key, in_features), jax.random.key(0))
    return params, jax.eval_shape(lambda p: cell.initial_carry(p, batch), params)


def widths(cell):
    return cell.memory_features if isinstance(cell.memory_features, tuple) else (cell.memory_features,)


def draw(cell, seed=0):
    """Random params (biases too), carry, xs and memories, in float64."""
    rng = np.random.default_rng(seed)
    params, carry = (random(rng, tree) for tree in shapes(cell))
    memories = tuple(rng.normal(size=(SPAN, BATCH, n)) for n in widths(cell))
    return params, carry, rng.normal(size=(STEPS, BATCH, IN)), memories


def ours(cell, params, carry, xs, memories, **options):
    """(outputs, last (state, query)), and the weights of each memory, (T, B, S)."""
    given = memories if len(memories) > 1 else memories[0]
    start = jrnn.attach(cell, params, carry, given, lengths=LENGTHS)
    end, (ys, inside) = jrnn.unroll(jrnn.Tap(cell, ("attention",)), params, xs, start, **options)
    shares = inside["attention"]
    return (ys, (end.cell, end.last)), shares if isinstance(shares, tuple) else (shares,)


def equations(cell, params, carry, xs, memories):
    """The same, one row after the other, without what is not valid."""
    rows = []
    for row, n in enumerate(LENGTHS):
        valid = [memory[:n, row] for memory in memories]
        ys, shares, last = attending.decode(
            cell, params, (carry.cell[row], carry.last[row]), xs[:, row], valid
        )
        rows.append((ys, last, [np.array(a) for a in zip(*shares, strict=True)]))
    ys, lasts, shares = zip(*rows, strict=True)
    ends = tuple(np.stack(entry) for entry in zip(*lasts, strict=True))
    return (np.stack(ys, 1), ends), shares


@pytest.mark.parametrize("name", CASES)
def test_values_weights_and_gradients_are_those_of_the_equations(name, x64):
    cell, arguments = CASES[name], draw(CASES[name])
    needed, shares = equations(cell, *arguments)
    rng = np.random.default_rng(1)
    loss = weigh(rng, needed)

    def ours_of(given):
        results, shares = ours(cell, *given)
        return loss(results), (results, shares)

    (_, (results, given)), gradient = jax.jit(jax.value_and_grad(ours_of, has_aux=True))(arguments)
    for a, b in zip(jax.tree.leaves(results), jax.tree.leaves(needed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
    local = "local" in name or name == "two memories"
    for index, a in enumerate(given):
        for row, n in enumerate(LENGTHS):
            np.testing.assert_allclose(a[:, row, :n], shares[row][index], rtol=1e-11, atol=1e-14)
        assert a.shape == (STEPS, BATCH, SPAN) and not np.any(np.where(VALID, 0, a))
        total = a.sum(-1)
        assert np.all(total <= 1 + 1e-12) and not np.any(total[:, 3])
        if not (local and index == len(given) - 1):
            np.testing.assert_allclose(total[:, :3], 1, rtol=1e-12)
    leaves, structure = jax.tree.flatten(arguments)
    for i, a in enumerate(jax.tree.leaves(gradient)):

        def with_leaf(moved, i=i):
            given = jax.tree.unflatten(structure, [*leaves[:i], moved, *leaves[i + 1 :]])
            return loss(equations(cell, *given)[0])

        along = rng.normal(size=a.shape)
        b = derivative(with_leaf, leaves[i], along)
        np.testing.assert_allclose(np.vdot(a, along), b, rtol=1e-10, atol=1e-12)
        assert b or (name == "general, not fed" and a.shape == arguments[1].last.shape)


def test_known_answers():
    """A center in the middle, and at both ends; what lies on the edge of the window is inside."""
    params = Local(General(), 1).init(jax.random.key(0), 1, 1)
    edge, zero = np.exp(-2) / 3, jnp.zeros((4, 1))
    weigh_at = lambda p, valid: Local(General(), 1).weights(p, jnp.ones(1), zero, jnp.array(valid))
    middle = params._replace(v=jnp.zeros(1))
    np.testing.assert_allclose(weigh_at(middle, [True] * 4), [0, edge, 1 / 3, edge], rtol=1e-6)
    np.testing.assert_allclose(
        weigh_at(middle, [True, True, False, False]), [np.exp(-2) / 2, 0.5, 0, 0], rtol=1e-6
    )
    for sign, needed in ((1e4, [0, 0, 0, np.exp(-2)]), (-1e4, [0.5, np.exp(-2) / 2, 0, 0])):
        ends = params._replace(w=jnp.ones((1, 1)), v=jnp.full(1, sign))
        np.testing.assert_allclose(weigh_at(ends, [True] * 4), needed, rtol=1e-6)
    half = jax.tree.map(
        lambda a: a.astype(jnp.bfloat16), middle
    )  # positions that bfloat16 does not tell apart
    many = Local(General(), 1).weights(
        half, *(jnp.ones(s, jnp.bfloat16) for s in (1, (602, 1))), jnp.ones(602, bool)
    )
    assert np.flatnonzero(many).tolist() == [300, 301, 302] and many.dtype == jnp.bfloat16
    huge = jnp.array([1e38, -1e38, 1e38])
    np.testing.assert_array_equal(jrnn.attention.scores.align(huge, jnp.ones(3, bool)), [0.5, 0, 0.5])


def test_a_memory_of_one_position_is_what_is_found():
    cell = Bahdanau(jrnn.GRU(3), Additive(2), FEATURES)
    params, memory = cell.init(jax.random.key(0), IN), jax.random.normal(jax.random.key(1), (1, 2, FEATURES))
    start = jrnn.attach(cell, params, cell.initial_carry(params, (2,)), memory)
    ys = jax.jit(lambda start: jrnn.unroll(cell, params, jnp.ones((STEPS, 2, IN)), start)[1])(start)
    np.testing.assert_array_equal(ys[..., 3:], jnp.broadcast_to(memory, (STEPS, 2, FEATURES)))


# one cell with every score, in float32

ALL = Luong(CELL, (Additive(2), Local(General(), 1.5), Dot(scaled=True), Location(9)), (5, 4, QUERY, 6), 7)


def holes():
    """A mask with padding within and before, and a row without any position."""
    return jnp.array([[1, 1, 0, 1, 0, 1], [0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 1, 0], [0] * 6], bool).T


@partial(jax.jit, static_argnums=0)
def with_gradient(cell, params, xs, memories, mask):
    def loss(params, xs, memories):
        start = jrnn.attach(cell, params, cell.initial_carry(params, (BATCH,)), memories, mask=mask)
        end, ys = jrnn.unroll(cell, params, xs, start)
        return jnp.sum(jnp.cos(ys) * jnp.arange(ys.size).reshape(ys.shape)), (end._replace(memory=None), ys)

    return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(params, xs, memories)


@pytest.mark.parametrize("mask", [VALID.T, holes()], ids=["behind", "within"])
def test_what_stands_in_padding_reaches_nothing(mask):
    arguments = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), draw(ALL))
    params, _, xs, memories = arguments
    valid = mask[..., None]
    clean = with_gradient(ALL, params, xs, memories, mask)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(clean))
    for gradient in clean[1][2]:
        assert np.any(gradient[valid[..., 0]]) and not np.any(jnp.where(valid, 0, gradient))
    for poison in (np.nan, np.inf, -1e38):
        poisoned = jax.tree.map(lambda m, p=poison: jnp.where(valid, m, p), memories)
        for a, b in zip(
            jax.tree.leaves(with_gradient(ALL, params, xs, poisoned, mask)),
            jax.tree.leaves(clean),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)


def test_lengths_and_masks_of_several_memories():
    cell = CASES["two memories"]
    params, carry, _, memories = draw(cell)
    attach = partial(jrnn.attach, cell, params, carry, memories)
    other = np.array([1, 3, 5, 6])
    counts = lambda carry: [m.valid.sum(-1).tolist() for m in carry.memory]
    assert counts(attach()) == [[SPAN] * 4] * 2
    assert counts(attach(lengths=LENGTHS)) == [LENGTHS.tolist()] * 2  # of both
    assert counts(attach(lengths=(LENGTHS, other))) == [LENGTHS.tolist(), other.tolist()]
    assert counts(attach(lengths=(None, other))) == [[SPAN] * 4, other.tolist()]
    assert counts(attach(mask=(holes(), None))) == [[4, 3, 1, 0], [SPAN] * 4]
    assert counts(attach(lengths=(LENGTHS, other), mask=holes())) == [[4, 1, 0, 0], [1, 1, 1, 0]]
    pair = jax.tree.map(lambda a: a[:, :2], memories)  # as many rows as memories
    start = jax.tree.map(lambda a: a[:2], carry)
    both = jrnn.attach(cell, params, start, pair, lengths=jnp.array([4, 2]))
    assert counts(both) == [[4, 2]] * 2


# the memory is a slot


def program(cell, options, key=None):
    """The jaxpr of a run, from memory and inputs on."""
    params, carry = shapes(cell)
    memories = [jax.ShapeDtypeStruct((SPAN, BATCH, n), jnp.float32) for n in widths(cell)]
    xs = jax.ShapeDtypeStruct((STEPS, BATCH, IN), jnp.float32)

    def run(params, carry, xs, memories):
        start = jrnn.attach(cell, params, carry, memories[0], lengths=LENGTHS)
        return jrnn.unroll(cell, params, xs, start, key=key, **options)

    return jax.make_jaxpr(run)(params, carry, xs, memories).jaxpr


def made(jaxpr):
    """Shapes of all that a jaxpr computes, by the name of the primitive."""
    for eqn in jaxpr.eqns:
        yield from ((eqn.primitive.name, var.aval.shape) for var in eqn.outvars)
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from made(inner)


RAGGED = {"lengths": np.array([4, 0, 2, 1]), "resets": np.zeros((STEPS, BATCH), bool)}


@pytest.mark.parametrize("options", [{}, RAGGED], ids=["all", "ragged"])
def test_the_memory_is_a_constant_of_the_loop_and_its_keys_are_made_once(options):
    for cell in (CASES["additive"], CASES["general"]):
        jaxpr = program(cell, options)
        (scan,) = scans(jaxpr)
        assert carried(scan) == 2  # the state of the cell and the query
        inside = list(made(scan.params["jaxpr"].jaxpr))
        products = {shape for name, shape in inside if name == "dot_general"}
        keys = (BATCH, SPAN, 2 if cell is CASES["additive"] else QUERY)
        assert (BATCH, SPAN) in products or (BATCH, SPAN, 1) in products  # scores
        assert keys not in products and (SPAN, BATCH, keys[-1]) not in products
        assert any(name == "dot_general" and shape == keys for name, shape in made(jaxpr))  # once


def test_writing_does_not_make_the_keys_anew():
    """The loop of `generate` is the step as it is: what is made once is made by `attach`."""
    cell = jrnn.Stack((jrnn.Embed(IN), CASES["additive"], jrnn.Dense(8)))
    params, carry = shapes(cell, in_features=8)
    prompt, memory = (
        np.zeros((1, BATCH), np.int32),
        jax.ShapeDtypeStruct((SPAN, BATCH, FEATURES), jnp.float32),
    )

    def run(params, carry, memory):
        start = jrnn.attach(cell, params, carry, memory, lengths=LENGTHS)
        return jrnn.generate(cell, params, prompt, STEPS, temperature=0, carry=start)

    loops = scans(jax.make_jaxpr(run)(params, carry, memory).jaxpr)
    (scan,) = (loop for loop in loops if loop.params["length"] == STEPS)  # that of the prompt has no step
    products = {shape for name, shape in made(scan.params["jaxpr"].jaxpr) if name == "dot_general"}
    assert (BATCH, SPAN, 2) not in products and (BATCH, FEATURES) in products


@pytest.mark.parametrize("options", [{}, RAGGED], ids=["all", "ragged"])
def test_without_input_feeding_no_loop_sees_the_memory(options):
    loops = list(scans(program(CASES["general, not fed"], options)))
    assert loops and not any(SPAN in shape for s in loops for _, shape in made(s.params["jaxpr"].jaxpr))


def test_scaled_dot_is_that_of_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    q, m = rng.normal(size=(BATCH, 5)).astype("f4"), rng.normal(size=(BATCH, SPAN, 5)).astype("f4")
    score, valid = Dot(scaled=True), VALID[:3]
    a = score.weights((), jnp.asarray(q[:3]), score.keys((), jnp.asarray(m[:3])), jnp.asarray(valid))
    given = jnp.einsum("bs,bsn->bn", a, m[:3])
    q, m, mask = (torch.from_numpy(v) for v in (q[:3, None], m[:3], valid[:, None]))
    needed = torch.nn.functional.scaled_dot_product_attention(q, m, m, attn_mask=mask)
    np.testing.assert_allclose(given, needed[:, 0], rtol=1e-5, atol=1e-6)


# errors

PLAIN = Bahdanau(jrnn.GRU(3), Additive(2), FEATURES)
NORMED = jrnn.Reparametrize(PLAIN, "w_memory", jrnn.WeightNorm())
XS = jax.random.normal(jax.random.key(1), (STEPS, BATCH, IN))
MEMORY = jax.random.normal(jax.random.key(2), (SPAN, BATCH, FEATURES))


def moved(cell):
    """Random parameters, biases too."""
    rng = np.random.default_rng(1)
    spec = jax.eval_shape(lambda: cell.init(jax.random.key(0), IN))
    return jax.tree.map(lambda a: jnp.asarray(0.5 * rng.normal(size=a.shape), a.dtype), spec)


NOT_FED = "BahdanauAttention(cell=GRU(hidden=3), score=Additive(features=2), "
ERRORS = [
    (lambda: Bahdanau(jrnn.GRU, Dot(), 3), TypeError,
     "BahdanauAttention: cell must be a cell, got the class GRU: call it, as in LSTM(8)"),
    (lambda: Luong(jrnn.GRU(3), Dot, 3, 4), TypeError,
     "LuongAttention: score must be a score, got the class Dot: call it, as in General()"),
    (lambda: Luong(jrnn.GRU(3), "dot", 3, 4), TypeError,
     "LuongAttention: score must be a score such as Additive(128) or General(), got 'dot'"),
    (lambda: Bahdanau(jrnn.GRU(3), (Dot(), Dot()), 3), ValueError,
     "BahdanauAttention: got 2 scores for memory_features=3"),
    (lambda: Bahdanau(jrnn.GRU(3), Dot(), 4).init(jax.random.key(0), 2), ValueError,
     "Dot() needs a query as wide as the memory, got 3 and 4: use General(), or a Dense after "
     "the encoder"),
    (lambda: Local(General(), 0.5), ValueError, "window must be at least 1, got 0.5"),
    (lambda: Local(jrnn.GRU(3), 2), TypeError,
     "Local: score must be a score such as Additive(128) or General(), got GRU(hidden=3)"),
    (lambda: Location(3).keys(None, jnp.ones((4, 5, 2))), ValueError,
     "Location(length=3) has 3 positions, the memory has 5"),
    (lambda: attach(jnp.ones((SPAN, 2, 4))), ValueError,
     "memory has shape (6, 2, 4), needs (positions, batch..., 5)"),
    (lambda: attach((MEMORY, MEMORY)), ValueError, "memory has 2 arrays, BahdanauAttention needs 1"),
    (lambda: attach(MEMORY[:, :2]), ValueError,
     "memory and carry must have the same batch shape, got [(2,), (4,)]"),
    (lambda: attach(MEMORY, lengths=np.array([1, 2])), ValueError,
     "lengths has shape (2,), needs the batch shape (4,) of xs: one length per sequence"),
    (lambda: attach((MEMORY,), lengths=(LENGTHS, LENGTHS)), ValueError,
     "lengths has 2 entries, needs 1: one for each memory"),
    (lambda: jrnn.attach(PLAIN, moved(PLAIN), jnp.zeros((BATCH, 3)), MEMORY), ValueError,
     f"carry has 0 attentions, {brief(PLAIN)} has 1"),
    (lambda: jrnn.attach(PLAIN, moved(jrnn.GRU(3)), None, MEMORY), ValueError,
     f"params has 0 attentions, {brief(PLAIN)} has 1"),
    (lambda: jrnn.attach(jrnn.GRU(3), None, None, MEMORY), ValueError,
     "GRU(hidden=3) has no attention to attach a memory to"),
    (lambda: jrnn.attach(NORMED, moved(NORMED), NORMED.initial_carry(moved(NORMED), (BATCH,)), MEMORY),
     TypeError, f"attach projects the memory by a weight of {brief(PLAIN.score)} before the first step, but "
     "Reparametrize computes that weight within the step: reparametrize another weight"),
    (lambda: jrnn.unroll(PLAIN, moved(PLAIN), XS), ValueError,
     NOT_FED + "memory_features=5) cannot take its step on xs of float32(4, 4, 2): no memory is attached: "
     "before the first step, carry = jrnn.attach(cell, params, cell.initial_carry(params, batch_shape), "
     "memory)"),
]  # fmt: skip


def attach(memory, **flags):
    params = moved(PLAIN)
    return jrnn.attach(PLAIN, params, PLAIN.initial_carry(params, (BATCH,)), memory, **flags)


@pytest.mark.parametrize(("call", "error", "message"), ERRORS, ids=[m[:40] for _, _, m in ERRORS])
def test_errors(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
