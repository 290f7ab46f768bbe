"""Streams of `(values, dt)`, and what cells promise beyond their equations that read them."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.cells.state_spaces import _hippo
from tests.attending import Attending
from tests.cases import COMBINATORS

KEY = jax.random.key(0)
XS = jax.random.normal(jax.random.key(1), (7, 2, 3))


def named(cell):
    return type(cell).__name__


def stepped(cell, *inputs):
    """Carries and outputs after one step on each of the inputs, and the carry before: 0.3 everywhere."""
    params = cell.init(KEY, 3)
    carry = jax.tree.map(lambda a: a + 0.3, cell.initial_carry(params, (2,)))
    return jax.jit(lambda p, c: [cell.step(p, c, x) for x in inputs])(params, carry), carry


@pytest.mark.parametrize(
    "cell",
    [jrnn.CfC(4), jrnn.CfC(8, wiring=jrnn.NCP(3)), jrnn.PhasedLSTM(4, leak=0.5), jrnn.ODERNN(4)],
    ids=repr,
)
def test_values_alone_are_one_unit_of_time_apart(cell):
    """Of other cells, the equations in NumPy are compared with both kinds of input."""
    x = XS[0]
    ((_, y), (_, timed), (_, other)), _ = stepped(cell, x, (x, jnp.ones(2)), (x, jnp.full(2, 0.5)))
    np.testing.assert_allclose(timed, y, rtol=1e-5, atol=1e-6)
    assert np.abs(other - y).max() > 1e-3


FLOWING = jrnn.LTC(8, wiring=jrnn.NCP(3)), jrnn.GRUODE(4), jrnn.S5(4), jrnn.CoRNN(4), jrnn.LEM(4)


@pytest.mark.parametrize("cell", FLOWING, ids=named)
def test_no_time_no_change(cell):
    """These follow a differential equation and nothing else: without time the state stays."""
    ((still, _),), carry = stepped(cell, (XS[0], jnp.zeros(2)))
    for new, old in zip(jax.tree.leaves(still), jax.tree.leaves(carry), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-6)


@pytest.mark.parametrize("cell", [jrnn.S5(4), jrnn.LTC(4, unfolds=200), jrnn.GRUODE(4, unfolds=8)], ids=named)
def test_two_halves_of_an_interval_are_the_whole(cell):
    params = cell.init(KEY, 3)
    (whole, _), (halves, _) = (
        jrnn.unroll(cell, params, (jnp.repeat(XS[:3], n, 0), jnp.full((3 * n, 2), 1.2 / n))) for n in (1, 2)
    )
    bound = 1e-5 if isinstance(cell, jrnn.S5) else 1e-2
    np.testing.assert_allclose(halves, whole, atol=bound)


def test_a_stack_hands_the_time_to_the_cells_that_take_it():
    cells = jrnn.Dense(4), jrnn.LTC(4, unfolds=1), jrnn.Elman(4), jrnn.LEM(3)
    model = jrnn.Residual(jrnn.Stack(cells))
    params, dt = model.init(KEY, 3), jax.random.uniform(KEY, (7, 2))
    ys = XS
    for cell, p in zip(cells, params, strict=True):
        timed = isinstance(cell, (jrnn.LTC, jrnn.LEM))
        ys = jrnn.unroll(cell, p, (ys, dt) if timed else ys)[1]
    np.testing.assert_allclose(jrnn.unroll(model, params, (XS, dt))[1], XS + ys, rtol=1e-5, atol=1e-6)


DT = 0.4, 1.7  # of the two sequences, at every step


@dataclass(frozen=True)
class Aware:
    """A cell that takes values alone, and knows the times of the two sequences beforehand."""

    cell: Any
    out_features: int

    def init(self, key, in_features):
        return self.cell.init(key, in_features)

    def initial_carry(self, params, batch_shape=(), *, key=None):
        return self.cell.initial_carry(params, batch_shape, key=key)

    def step(self, params, carry, x):
        return self.cell.step(params, carry, (x, jnp.asarray(DT)))


AROUND = [  # every combinator and layer, around a cell of width 4
    lambda c: jrnn.Stack((c, jrnn.Dense(3), c)),
    lambda c: jrnn.SkipStack((c, c)),
    lambda c: jrnn.Residual(c),
    lambda c: jrnn.Skip(c, 4),
    lambda c: jrnn.Project(c, 3),
    lambda c: jrnn.Gated(c),
    lambda c: jrnn.Block(c, k=1),
    lambda c: jrnn.FastSlow((c, c, c), c),
    lambda c: jrnn.Multiplicative(c),
    lambda c: jrnn.MixedMemory(c),
    lambda c: jrnn.Dropout(c, input=0.5, state=0.5, output=0.5),
    lambda c: jrnn.Zoneout(c),
    lambda c: jrnn.Reparametrize(c, "w_hh", jrnn.DropConnect(0.5)),
    lambda c: jrnn.Tie(jrnn.Stack((c, c)), "0", "1"),
    lambda c: jrnn.LearnedCarry(c),
    lambda c: jrnn.Cast(c, compute="float32"),
    lambda c: jrnn.ClipGradient(c, max_norm=1.0),
    lambda c: jrnn.Tap(c),
    lambda c: Attending(jrnn.BahdanauAttention(c, jrnn.attention.Dot(), 4), 4),
    lambda c: Attending(jrnn.LuongAttention(c, jrnn.attention.Dot(), 4, 4), 4),
    lambda c: jrnn.Sequential((c, jrnn.Dense(3), c)),
    lambda c: jrnn.Bidirectional(c, jrnn.GRU(4)),
    lambda c: jrnn.Bidirectional(jrnn.GRU(4), c),
    lambda c: jrnn.Reversed(c),
    lambda c: jrnn.ManyToOne(jrnn.Sequential((c, jrnn.Bidirectional(jrnn.GRU(4), c), jrnn.Dense(2)))),
]
REFUSING = [lambda c: jrnn.Dilated(c, 2), jrnn.SkipRNN]


def kind(model):
    return type(model.cell if isinstance(model, Attending) else model)


@pytest.mark.parametrize("around", AROUND, ids=lambda around: kind(around(jrnn.GRU(4))).__name__)
def test_the_time_reaches_a_cell_inside(around):
    """As the second layer, after one that takes dt: against a cell that knows dt beforehand."""
    cell, xs = jrnn.CfC(4), jax.random.normal(KEY, (3, 2, 4))
    given, known = (around(c) for c in (cell, Aware(cell, 4)))
    chain = jrnn.Sequential if jrnn.cell.is_layer(given) else jrnn.Stack
    models = chain((cell, given)), chain((Aware(cell, 4), known))
    params, dt = models[0].init(KEY, 4), jnp.broadcast_to(jnp.asarray(DT), (3, 2))
    runs = zip(models, ((xs, dt), xs), strict=True)
    leaves = [jax.tree.leaves(jrnn.apply(model, params, x, key=KEY)) for model, x in runs]
    for a, b in zip(*leaves, strict=True):
        if jnp.issubdtype(a.dtype, jnp.floating):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_every_combinator_hands_on_or_refuses_the_time():
    known = {kind(around(jrnn.CfC(4))) for around in AROUND + REFUSING}
    assert {kind(case.cell) for case in COMBINATORS} - known == {
        jrnn.Feedback,  # its x is another tuple
        jrnn.MultiplicativeIntegration,  # hands on to cells whose sums times don't hide: test_integrating.py
    }


@pytest.mark.parametrize("around", REFUSING)
def test_the_time_since_the_last_step_is_refused_where_a_cell_continues_from_another(around):
    model = jrnn.Stack((jrnn.CfC(4), around(jrnn.CfC(4))))
    with pytest.raises(ValueError, match="values without dt"):
        jrnn.unroll(model, model.init(KEY, 3), (XS, jnp.ones((7, 2))))
    grud = around(jrnn.GRUD(4))  # x is a tuple, but has no dt
    jrnn.unroll(grud, grud.init(KEY, 3), (XS, XS > 0, jnp.ones_like(XS)))


def test_a_gru_is_one_step_of_eulers_method():
    ode, gru = jrnn.GRUODE(4, solver="euler"), jrnn.GRU(4, reset_after=False)
    p = gru.init(KEY, 3)
    given = ode.init(KEY, 3)._replace(w_ih=p.w_ih, w_hh=p.w_hh, b=p.b + 0.3)
    want = jrnn.unroll(gru, p._replace(b=p.b + 0.3), XS)[1]
    np.testing.assert_allclose(jrnn.unroll(ode, given, XS)[1], want, rtol=1e-5, atol=1e-6)


def test_the_phase_is_that_of_the_absolute_time():
    """After any times, k is the triangle of t; and where it is closed and does not leak, nothing changes."""
    cell = jrnn.PhasedLSTM(4, leak=0.0)
    params = cell.init(KEY, 3)
    params = params._replace(ratio=jnp.full(4, -0.4), period=jnp.log(jnp.array([2.0, 3.0, 5.0, 7.0])))
    dt = jnp.array([[0.3], [4.1], [2.2], [9.7], [0.1], [1.3], [3.9]]) * jnp.ones((1, 2))
    _, (ys, inside) = jrnn.unroll(jrnn.Tap(cell, ("k",)), params, (XS, dt))
    time, period, r = np.cumsum(dt, 0)[..., None], np.exp(params.period), 1 / (1 + np.exp(0.4))
    phase = (time - np.asarray(params.shift) * period) % period / period
    want = np.where(phase < r / 2, 2 * phase / r, np.where(phase < r, 2 - 2 * phase / r, 0))
    np.testing.assert_allclose(inside["k"], want, atol=1e-4)
    closed = want[1:] == 0
    assert 0.3 < closed.mean() < 0.9
    np.testing.assert_array_equal(ys[1:][closed], ys[:-1][closed])


def test_a_wiring_leaves_no_unit_out_and_connects_only_its_layers():
    for seed, density in ((0, 0.5), (1, 0.05), (2, 1.0)):
        wiring = jrnn.NCP(4, density=density)
        inter, command, motor = wiring.layers(20)
        masks = wiring.masks(jax.random.key(seed), 3, 20)
        assert [m.shape for m in masks] == [(3, inter), (inter, command), (command,) * 2, (command, motor)]
        for mask in (masks.inter, masks.command, masks.motor):
            assert mask.any(0).all() and mask.any(1).all()
        assert masks.recurrent.any() and masks.motor.mean() >= density - 1 / command
    units = np.asarray(jrnn.LTC(20, wiring=wiring).init(KEY, 3).fixed.units)
    assert units[-4:].sum() == 0 and units[:inter, -4:].sum() == 0  # motor units feed none, inter no motor
    np.testing.assert_array_equal(units[:inter, inter : inter + command], 1)  # density 1


def test_unwired_weights_have_no_gradient():
    cell = jrnn.CfC(10, wiring=jrnn.NCP(2, density=0.3))
    params = cell.init(KEY, 3)
    grads = jax.grad(lambda p: jrnn.unroll(cell, p, XS)[1].sum())(params)
    mask = np.asarray(params.fixed[0])
    heads = np.split(np.asarray(grads.layers[0].w_ih), 4, -1)
    assert not any(head[mask == 0].any() for head in heads[:2]) and heads[0][mask == 1].all()


def test_the_state_space_starts_at_the_eigenvalues_of_hippo():
    """The normal part of HiPPO-LegS is A + P Pᵀ with A[n, k] = −√(2n+1) √(2k+1), −(n+1) on the diagonal."""
    n = np.arange(10)
    root = np.sqrt(2 * n + 1)
    matrix = -np.tril(np.outer(root, root), -1) - np.diag(n + 1.0) + np.outer(root, root) / 2
    lam, basis = _hippo(5)
    np.testing.assert_allclose(matrix @ basis, basis * lam, atol=1e-12)
    params = jrnn.S5(10, blocks=2).init(KEY, 3)
    np.testing.assert_allclose(params.frequency, np.tile(lam.imag, 2), rtol=1e-6)
    np.testing.assert_allclose(-np.exp(params.rate), -0.5, rtol=1e-6)


def test_calibrations_of_the_hadamard_memory_are_random_with_a_key_only():
    cell = jrnn.SHM(4)
    params = cell.init(KEY, 3)
    runs = [jrnn.unroll(cell, params, XS, key=key)[1] for key in (None, None, KEY, jax.random.key(1))]
    assert np.array_equal(runs[0], runs[1])
    assert all(np.abs(a - b).max() > 1e-4 for a, b in ((runs[0], runs[2]), (runs[2], runs[3])))


def test_mass_is_conserved():
    cell = jrnn.MassConservingLSTM(5, masses=2)
    xs = jnp.abs(jax.random.normal(KEY, (50, 3, 4)))
    c, ys = jrnn.unroll(cell, cell.init(KEY, 4), xs)
    np.testing.assert_allclose(c.sum(-1) + ys.sum((0, -1)), xs[..., :2].sum((0, -1)), rtol=1e-5)
    assert (c >= 0).all() and (ys >= 0).all()


@pytest.mark.parametrize("cell", [jrnn.UnitaryRNN(6), jrnn.FullUnitaryRNN(6)], ids=named)
def test_a_unitary_state_keeps_its_norm(cell):
    """Without input and with a bias of 0 for a hundred steps."""
    params = cell.init(KEY, 3)
    start = jax.lax.complex(*jax.random.normal(KEY, (2, 4, 6)))
    end, _ = jrnn.unroll(cell, params, jnp.zeros((100, 4, 3)), start)
    np.testing.assert_allclose(jnp.linalg.norm(end, axis=-1), jnp.linalg.norm(start, axis=-1), rtol=1e-4)
    assert jnp.abs(end - start).max() > 0.1


def test_gaps_are_the_times_since_each_input_was_measured():
    """Che et al. 2018, eq. 2, with the times of the measurements at hand."""
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.1, 2, (30, 2)), 0)
    values = np.where(rng.random((30, 2, 3)) < 0.5, np.nan, rng.normal(size=(30, 2, 3)))
    given, mask, delta = jrnn.data.gaps(values, np.diff(times, axis=0, prepend=times[:1]))
    for t, row, i in np.ndindex(delta.shape):
        before = [s for s in range(t) if mask[s, row, i]] or [0]
        np.testing.assert_allclose(delta[t, row, i], times[t, row] - times[before[-1], row], atol=1e-12)
    assert not np.isnan(given).any() and mask.mean() < 0.7


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: jrnn.unroll(c := jrnn.LTC(4), c.init(KEY, 3), (XS, XS)), "a dt for every vector"),
        (lambda: jrnn.unroll(c := jrnn.S5(4), c.init(KEY, 3), (XS,) * 3), "a dt for every vector"),
        (lambda: jrnn.LTC(5, wiring=jrnn.NCP(4)).init(KEY, 3), "at least 6 units"),
        (lambda: jrnn.CfC(8, wiring=jrnn.NCP(4), backbone=(3,)), "excludes a backbone"),
        (lambda: jrnn.S5(4, dt_min=0.2), "dt_min must be below"),
        (lambda: jrnn.data.gaps(XS, XS), "one for a vector of values"),
        (lambda: jrnn.HGRN(4, lower_bound=1.0), r"in \(0, 1\)"),
        (lambda: jrnn.MassConservingLSTM(4, masses=3).init(KEY, 2), "at least 3"),
        (lambda: jrnn.ONLSTM(5, chunk=2), "chunk"),
    ],
)
def test_what_does_not_fit_is_refused(made, said):
    with pytest.raises(ValueError, match=said):
        made()
