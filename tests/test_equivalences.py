"""Statements that two cells are one on parameters that correspond, or that they are not.

In float64, from a random state, with random biases; outputs and last states are compared.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.cells import ablations
from jrnn.cells._gating import GateParams
from jrnn.cells.lstm import LSTMParams
from jrnn.cells.lstm_variant import LSTMVariantParams
from jrnn.cells.maps import DenseParams
from jrnn.cells.minimal import InputParams
from tests.cells import VALUES
from tests.references import run as run_reference
from tests.values import assert_close, draw

STEPS, BATCH, IN, HIDDEN, OUT = 7, 2, 3, 4, 5
OPEN = 50.0  # σ of it is 1


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def params_of(cell, width=IN, seed=1):
    """Random parameters, biases too."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: cell.init(key, width), jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes)


def run(cell, params, xs, leaves):
    """Outputs and last state of a run from a state that starts with `leaves`; as many leaves return."""
    start, structure = jax.tree.flatten(cell.initial_carry(params, (BATCH,)))
    start = jax.tree.unflatten(structure, [*leaves, *start[len(leaves) :]])
    carry, ys = jrnn.unroll(cell, params, xs, start)
    return ys, jax.tree.leaves(carry)[: len(leaves)]


def both(cell, params, simple, simple_params, width=IN, xs=None, simple_xs=None):
    """Runs of two cells from one random state, which is that of the second."""
    xs = normal(STEPS, BATCH, width) if xs is None else xs
    simple_xs = xs if simple_xs is None else simple_xs
    shapes = jax.tree.leaves(simple.initial_carry(simple_params, (BATCH,)))
    state = [normal(*leaf.shape, seed=i + 2) for i, leaf in enumerate(shapes)]
    return run(cell, params, xs, state), run(simple, simple_params, simple_xs, state)


def same(*arguments, **options):
    first, second = both(*arguments, **options)
    assert_close(first, second)


def different(*arguments, **options):
    (first, _), (second, _) = both(*arguments, **options)
    assert np.abs(first - second).max() > 0.01


def columns(packed, count):
    """Blocks of a packed array, one per gate."""
    return jnp.split(packed, count, axis=-1)


def side(*blocks):
    return jnp.concatenate(blocks, axis=-1)


def plain(params):
    """Of an `LSTMVariant`, what an `LSTM` has."""
    return LSTMParams(params.w_ih, params.w_hh, params.b)


def always_open(params, index):
    """The gate at `index` is 1, whatever x and h are."""
    gate = slice(index * HIDDEN, (index + 1) * HIDDEN)
    w_ih, w_hh = (w.at[:, gate].set(0) for w in params[:2])
    return params._replace(w_ih=w_ih, w_hh=w_hh, b=params.b.at[gate].set(OPEN))


# LSTMs

LSTM, DIAGONAL = jrnn.LSTM(HIDDEN), jrnn.LSTMVariant(HIDDEN, peepholes="diagonal")


def test_lstm_variant_without_options_is_an_lstm():
    cell = jrnn.LSTMVariant(HIDDEN)
    same(cell, params_of(cell), LSTM, plain(params_of(cell)))


def test_no_peepholes_of_the_ablation_is_an_lstm():
    cell = ablations.greff(HIDDEN)["NP"]
    same(cell, params_of(cell), LSTM, plain(params_of(cell)))


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_peepholes_of_zero_are_an_lstm(kind):
    cell = jrnn.LSTMVariant(HIDDEN, peepholes=kind)
    params = params_of(cell)
    same(cell, params._replace(p=0 * params.p), LSTM, plain(params))
    different(cell, params, LSTM, plain(params))


def test_full_peepholes_with_diagonal_blocks_are_diagonal_ones():
    cell, params = jrnn.LSTMVariant(HIDDEN, peepholes="full"), params_of(DIAGONAL)
    full = side(*(jnp.diag(p) for p in columns(params.p, 3)))
    same(cell, params._replace(p=full), DIAGONAL, params)


def test_gate_recurrence_of_zero_is_none():
    cell = jrnn.LSTMVariant(HIDDEN, peepholes="diagonal", gate_recurrence=True)
    params = params_of(cell)
    same(cell, params._replace(w_gh=0 * params.w_gh), DIAGONAL, params._replace(w_gh=None))
    different(cell, params, DIAGONAL, params._replace(w_gh=None))


def test_memory_connections_of_zero_are_an_lstm():
    cell = jrnn.WMCLSTM(HIDDEN)
    params = params_of(cell)
    same(cell, params._replace(w_ch=0 * params.w_ch), LSTM, LSTMParams(*params.lstm))
    different(cell, params, LSTM, LSTMParams(*params.lstm))


def test_residual_lstm_without_its_shortcut_has_peepholes_and_no_more():
    cell = jrnn.ResidualLSTM(HIDDEN)
    params = params_of(cell)
    closed = params._replace(w_ho=jnp.eye(HIDDEN), w_ix=0 * params.w_ix)
    same(cell, closed, DIAGONAL, params_of(DIAGONAL)._replace(**params.lstm._asdict(), p=params.p))


def test_projection_by_the_identity_is_none():
    cell = jrnn.LSTMVariant(HIDDEN, projection=HIDDEN)
    params = params_of(cell)._replace(w_hr=jnp.eye(HIDDEN))
    same(cell, params, LSTM, plain(params))


def test_lstm_1997_is_an_lstm_that_never_forgets():
    cell, params = jrnn.LSTM1997(HIDDEN, squash="tanh"), always_open(params_of(LSTM), 1)
    keeps = GateParams(*(side(*(columns(leaf, 4)[k] for k in (0, 2, 3))) for leaf in params))
    same(cell, keeps, LSTM, params)
    same(jrnn.LSTMVariant(HIDDEN, gates="io"), LSTMVariantParams(*keeps, None, None, None), LSTM, params)


def test_a_memory_block_is_cells_with_equal_gates():
    cell, single = jrnn.LSTM1997(HIDDEN, block=2), jrnn.LSTM1997(HIDDEN)
    params = params_of(cell)
    cuts = HIDDEN // 2, HIDDEN // 2 + HIDDEN
    parts = (jnp.split(leaf, cuts, axis=-1) for leaf in params)
    copied = GateParams(*(side(jnp.repeat(i, 2, -1), g, jnp.repeat(o, 2, -1)) for i, g, o in parts))
    same(cell, params, single, copied)


@pytest.mark.parametrize("kind", [None, "diagonal"])
def test_coupled_gates_are_negated_parameters(kind):
    coupled = jrnn.LSTMVariant(HIDDEN, peepholes=kind, coupled=True)
    params = params_of(coupled)

    def negated(packed, gates):
        i, *rest = columns(packed, gates)
        return side(i, -i, *rest)

    free = params._replace(**{name: negated(getattr(params, name), 3) for name in ("w_ih", "w_hh", "b")})
    if kind is not None:
        free = free._replace(p=negated(params.p, 2))
    same(coupled, params, jrnn.LSTMVariant(HIDDEN, peepholes=kind), free)


def test_mogrifier_without_rounds_is_an_lstm():
    cell = jrnn.MogrifierLSTM(HIDDEN, rounds=0)
    params = params_of(cell)
    same(cell, params, LSTM, plain(params.lstm))


def test_convolution_of_one_place_is_an_lstm_at_every_place():
    cell, params = jrnn.ConvLSTM(HIDDEN, kernel=1, spatial=1), params_of(LSTM)
    xs = normal(STEPS, BATCH, 6, IN)
    kernels = GateParams(params.w_ih[None], params.w_hh[None], params.b)
    first, second = (jrnn.unroll(c, p, xs) for c, p in ((cell, kernels), (LSTM, params)))
    assert_close(first, second)


# GRUs and their kin

UGRNN = jrnn.UGRNN(HIDDEN)


def test_minion_unit_is_a_gru_of_a_constant_update():
    cell, gru = jrnn.MiRU(HIDDEN, keep=0.3), jrnn.GRU(HIDDEN, reset_after=False)
    params = params_of(cell)
    constant = np.full(HIDDEN, np.log(0.3 / 0.7))
    packed = (columns(leaf, 2) for leaf in params)
    whole = [side(r, 0 * r, n) for r, n in packed]
    whole[2] = whole[2].at[HIDDEN : 2 * HIDDEN].set(constant)
    same(cell, params, gru, params_of(gru)._replace(**dict(zip(("w_ih", "w_hh", "b"), whole, strict=True))))


def test_minion_unit_of_two_constants_is_a_leaky_unit():
    cell = jrnn.MiRU(HIDDEN, keep=0.3, reset=0.6)
    params = params_of(cell)
    leaky = jrnn.EchoState(HIDDEN, leak=0.7)
    same(cell, params, leaky, params_of(leaky)._replace(fixed=params._replace(w_hh=0.6 * params.w_hh)))


def test_janet_with_beta_0_is_a_ugrnn():
    cell = jrnn.JANET(HIDDEN, beta=0.0)
    same(cell, params_of(cell), UGRNN, params_of(cell))
    different(jrnn.JANET(HIDDEN), params_of(cell), UGRNN, params_of(cell))


@pytest.mark.parametrize("reset_after", [True, False])
def test_gru_that_never_resets_is_a_ugrnn(reset_after):
    cell = jrnn.GRU(HIDDEN, reset_after=reset_after)
    params = always_open(params_of(cell), 0)
    two = GateParams(*(side(*columns(leaf, 3)[1:]) for leaf in params[:3]))
    recurrent = params.b_hn if reset_after else 0  # a bias as any other
    same(cell, params, UGRNN, two._replace(b=two.b.at[HIDDEN:].add(recurrent)))


def test_delayed_feedback_that_is_shut_off_is_a_ugrnn():
    cell = jrnn.TauGRU(HIDDEN, delay=3)
    params = params_of(cell)
    a = slice(HIDDEN, 2 * HIDDEN)
    w_ih, w_hh = (w.at[:, a].set(0) for w in (params.w_ih, params.w_hh))
    shut = params._replace(w_ih=w_ih, w_hh=w_hh, b=params.b.at[a].set(-OPEN))
    turned = (columns(params.w_ih, 4), columns(params.w_hh, 3), columns(params.b, 4))
    same(cell, shut, UGRNN, GateParams(*(side(-leaf[0], leaf[2]) for leaf in turned)))
    different(cell, params, UGRNN, GateParams(*(side(-leaf[0], leaf[2]) for leaf in turned)))


def test_delayed_feedback_comes_after_its_delay():
    cell, xs = jrnn.TauGRU(HIDDEN, delay=3), normal(STEPS, BATCH, IN)
    params = params_of(cell)
    _, ys = jrnn.unroll(cell, params, xs)
    _, without = jrnn.unroll(cell, params._replace(w_lh=0 * params.w_lh), xs)
    changed = np.abs(ys - without).max(axis=(1, 2)) > 1e-3
    assert changed.tolist() == [step > 3 for step in range(STEPS)]  # the first state, 3 steps behind the last


def test_highway_of_one_coupled_layer_is_a_ugrnn():
    cell = jrnn.RHN(HIDDEN, depth=1)
    params = params_of(cell)
    turned = (columns(leaf, 2) for leaf in (params.w_ih, *params.w_hh, *params.b))
    same(cell, params, UGRNN, GateParams(*(side(-t, n) for n, t in turned)))


def test_mgu_is_a_gru_with_one_gate_for_both():
    cell = jrnn.MGU(HIDDEN)
    params = params_of(cell)
    tied = (side(columns(leaf, 2)[0], leaf) for leaf in params)
    gru = jrnn.GRU(HIDDEN, reset_after=False, z_keeps=False)
    same(cell, params, gru, params_of(gru)._replace(**dict(zip(("w_ih", "w_hh", "b"), tied, strict=True))))


@pytest.mark.parametrize("reset_after", [True, False])
def test_z_that_keeps_is_z_that_takes_negated(reset_after):
    keeps, takes = (jrnn.GRU(HIDDEN, reset_after=reset_after, z_keeps=keeps) for keeps in (True, False))
    params = params_of(keeps)
    signs = jnp.repeat(jnp.array([1.0, -1.0, 1.0]), HIDDEN)
    negated = params._replace(w_ih=signs * params.w_ih, w_hh=signs * params.w_hh, b=signs * params.b)
    same(keeps, params, takes, negated)
    different(keeps, params, takes, params)


def resets(hidden, diagonal):
    """A GRU that resets after the product with its parameters, and one that resets before."""
    after, before = (jrnn.GRU(hidden, reset_after=kind) for kind in (True, False))
    params = params_of(after)._replace(b_hn=jnp.zeros(hidden))
    r, z, n = columns(params.w_hh, 3)
    params = params._replace(w_hh=side(r, z, jnp.diag(jnp.diag(n)) if diagonal else n))
    return after, params, before, params._replace(b_hn=None)


@pytest.mark.parametrize("hidden", [1, HIDDEN])
def test_reset_before_is_reset_after_where_units_do_not_mix(hidden):
    same(*resets(hidden, diagonal=True))


def test_reset_before_is_not_reset_after():
    different(*resets(HIDDEN, diagonal=False))
    after, params, before, without = resets(HIDDEN, diagonal=True)
    different(after, params._replace(b_hn=normal(HIDDEN)), before, without)


def test_bistable_cell_is_a_neuromodulated_one_with_diagonal_matrices():
    cell, wide = jrnn.BRC(HIDDEN), jrnn.NBRC(HIDDEN)
    params = params_of(cell)
    matrices = side(*(jnp.diag(u) for u in columns(params.w_hh, 2)))
    same(wide, GateParams(params.w_ih, matrices, params.b), cell, params)


def test_low_rank_is_a_product():
    cell, whole = jrnn.FastGRNN(HIDDEN, input_rank=2, recurrent_rank=3), jrnn.FastGRNN(HIDDEN)
    params = params_of(cell)
    w_ih, w_hh = params.w_ih @ params.w_ih_up, params.w_hh @ params.w_hh_up
    same(cell, params, whole, params._replace(w_ih=w_ih, w_ih_up=None, w_hh=w_hh, w_hh_up=None))


# Elman networks

ELMAN, RELU = jrnn.Elman(HIDDEN), jrnn.Elman(HIDDEN, activation="relu")


def test_indrnn_is_an_elman_network_with_a_diagonal_matrix():
    cell, params = jrnn.IndRNN(HIDDEN), params_of(jrnn.IndRNN(HIDDEN))
    elman = params_of(RELU)._replace(w_ih=params.w_ih, w_hh=jnp.diag(params.w_hh), b=params.b)
    same(cell, params, RELU, elman)


def test_clockwork_with_one_period_of_1_is_an_elman_network():
    cell, params = jrnn.ClockworkRNN(HIDDEN, periods=(1,)), params_of(ELMAN)
    clockwork = params_of(cell)._replace(w_ih=params.w_ih, w_hh=(params.w_hh,), b=params.b)
    same(cell, clockwork, ELMAN, params)


def test_lipschitz_network_without_its_linear_part_is_an_antisymmetric_one():
    antisymmetric = jrnn.AntisymmetricRNN(HIDDEN, gamma=0.0, epsilon=0.4)
    cell = jrnn.LipschitzRNN(HIDDEN, beta=1.0, gamma=0.0, epsilon=0.4)
    params = params_of(cell)
    plain = params_of(antisymmetric)._replace(w_ih=params.w_ih, w_hh=params.w_hh, b=params.b)
    same(cell, params._replace(w_a=0 * params.w_a), antisymmetric, plain)
    different(cell, params, antisymmetric, plain)


def test_oscillators_of_one_kind_are_a_cornn_that_sees_no_velocity():
    cell, cornn = (
        jrnn.HeterogeneousCoRNN(HIDDEN, dt=0.5, gamma=(1.3, 1.3), epsilon=(0.2, 0.2)),
        jrnn.CoRNN(HIDDEN, dt=0.5, gamma=1.3, epsilon=0.2),
    )
    params = params_of(cell)._replace(fixed=cell.init(jax.random.key(0), IN).fixed)
    whole = GateParams(params.w_ih, jnp.concatenate([params.w_hh, 0 * params.w_hh]), params.b)
    same(cell, params, cornn, whole)


def test_piecewise_linear_units_that_keep_nothing_are_potentials():
    cell = jrnn.PLRNN(HIDDEN)
    params = params_of(cell)
    potentials = jrnn.LeakyRNN(HIDDEN, tau=5.0, dt=5.0, activation="relu", state="potential")
    others = params.w_hh - jnp.diag(jnp.diag(params.w_hh))
    xs = normal(STEPS, BATCH, IN)
    _, zs = jrnn.unroll(cell, params._replace(a=0 * params.a), xs)
    _, ys = jrnn.unroll(potentials, GateParams(params.w_ih, others, params.b), xs)
    assert_close(jax.nn.relu(zs), ys)


def test_irnn_is_an_elman_network_that_starts_at_the_identity():
    cell = jrnn.Elman(HIDDEN, activation="relu", recurrent_init="identity")
    same(cell, params_of(cell), RELU, params_of(cell))
    start = cell.init(jax.random.key(0), IN)
    np.testing.assert_array_equal(start.w_hh, np.eye(HIDDEN))
    np.testing.assert_array_equal(start.b, np.zeros(HIDDEN))


def test_leaky_units_of_one_time_constant_a_step_are_an_elman_network():
    cell, params = jrnn.LeakyRNN(HIDDEN, tau=5.0, dt=5.0, activation="tanh"), params_of(ELMAN)
    same(cell, GateParams(*params), ELMAN, params)
    echo = jrnn.EchoState(HIDDEN)
    same(echo, params_of(echo)._replace(fixed=GateParams(*params)), ELMAN, params)


def test_potentials_are_an_elman_network_before_its_activation():
    cell = jrnn.LeakyRNN(HIDDEN, tau=5.0, dt=5.0, activation="tanh", state="potential")
    params, xs = params_of(ELMAN), normal(STEPS, BATCH, IN)
    (v, _), ys = jrnn.unroll(cell, GateParams(*params), xs)
    assert_close((jnp.tanh(v), ys), jrnn.unroll(ELMAN, params, xs))


@pytest.mark.parametrize("kind", ["exponential", "cayley"])
def test_orthogonal_rnn_is_an_elman_network_with_an_orthogonal_matrix(kind):
    cell = jrnn.OrthogonalRNN(HIDDEN, map=kind)
    params = params_of(cell)
    q = jax.jit(cell.recurrence)(params)
    assert_close(q @ q.T, np.eye(HIDDEN))
    same(cell, params, ELMAN, params_of(ELMAN)._replace(w_ih=params.w_ih, w_hh=q, b=params.b))


def test_elman_network_of_one_step_is_a_perceptron():
    params = params_of(ELMAN)
    xs = normal(1, BATCH, IN)
    _, ys = jrnn.unroll(ELMAN, params, xs)
    assert_close(
        ys, jrnn.unroll(jrnn.Dense(HIDDEN, activation="tanh"), DenseParams(params.w_ih, params.b), xs)[1]
    )


# linear recurrences

TRNN = jrnn.TRNN(HIDDEN)


def test_qrnn_without_a_past_is_a_trnn_on_its_candidate():
    cell, xs = jrnn.QRNN(HIDDEN, window=1, pooling="f"), normal(STEPS, BATCH, IN)
    params = params_of(cell)
    (w_n, w_f), (b_n, b_f) = columns(params.w_ih[0], 2), columns(params.b, 2)
    zeros, ones = jnp.zeros((HIDDEN, HIDDEN)), jnp.eye(HIDDEN)
    reads = jnp.block([[ones, zeros], [0 * w_f, w_f]])  # z the candidate, f the input
    typed = InputParams(reads, side(0 * b_f, b_f))
    same(cell, params, TRNN, typed, xs=xs, simple_xs=side(jnp.tanh(xs @ w_n + b_n), xs))


def test_sru_that_sees_no_state_and_skips_nothing_is_a_trnn():
    cell = jrnn.SRU(HIDDEN)
    params = params_of(cell)
    (w_f, w_r, w_n), (b_f, _) = columns(params.w_ih, 3), columns(params.b, 2)
    through = side(w_f, 0 * w_r, w_n), 0 * params.v, side(b_f, jnp.full(HIDDEN, OPEN))
    params = params._replace(**dict(zip(("w_ih", "v", "b"), through, strict=True)))
    same(cell, params, TRNN, InputParams(side(w_n, w_f), side(0 * b_f, b_f)))
    same(cell, params, jrnn.SRU(HIDDEN, recurrent=False), params._replace(v=None))


def test_min_gru_is_a_trnn_with_the_complement_of_its_gate():
    cell = jrnn.MinGRU(HIDDEN)
    params = params_of(cell)
    turned = (columns(leaf, 2) for leaf in params)
    same(cell, params, TRNN, InputParams(*(side(n, -z) for z, n in turned)))


def test_a_trace_unit_without_an_activation_is_an_lru_read_out_as_it_is():
    cell, lru, xs = (
        jrnn.RTU(HIDDEN, activation="identity"),
        jrnn.LRU(HIDDEN, outputs=2 * HIDDEN),
        normal(9, IN),
    )
    params, zeros = params_of(cell), np.zeros((HIDDEN, HIDDEN))
    scale = 0.5 * jnp.log(1 - jnp.exp(-2 * jnp.exp(params.nu)))
    signs = jnp.block([[jnp.eye(HIDDEN), zeros], [zeros, -jnp.eye(HIDDEN)]])
    whole = params_of(lru)._replace(**params._asdict(), gamma=scale, w_ho=signs)
    (p, q), ys = jrnn.unroll(cell, params, xs)
    h, wanted = jrnn.unroll(lru, whole, xs)
    assert_close((p, q, ys), (h.real, h.imag, wanted))


@pytest.mark.parametrize("kind", [jrnn.SLSTM, jrnn.RGLRU])
def test_heads_are_a_block_diagonal_matrix(kind):
    heads, one = kind(HIDDEN, heads=2), kind(HIDDEN)
    params = params_of(heads, HIDDEN)
    gates, name = (4, "w_hh") if kind is jrnn.SLSTM else (2, "w")
    blocks = (columns(block, gates) for block in getattr(params, name))
    whole = side(*(jax.scipy.linalg.block_diag(*each) for each in zip(*blocks, strict=True)))
    same(heads, params, one, params._replace(**{name: whole[None]}), width=HIDDEN)


@pytest.mark.parametrize("name", [name for name in VALUES if name.startswith(("SLSTM", "MLSTM"))])
def test_stabilizer_changes_nothing(name):
    case = VALUES[name]
    params, carry, xs = draw(case, (BATCH,), steps=STEPS)
    start = jax.tree.map(np.zeros_like, case.theirs(carry))
    last, want = run_reference(case.step, case.unpack(params), start, xs)
    got_last, got = jrnn.unroll(case.cell, params, jnp.asarray(xs))
    assert_close((case.theirs(got_last), got), (last, want))
    assert np.isfinite(jrnn.unroll(case.cell, params, 1e4 * jnp.asarray(xs))[1]).all()


# past outputs


def test_narx_without_past_outputs_is_a_finite_response():
    cell = jrnn.NARX(HIDDEN, outputs=OUT, input_lags=2, output_lags=0)
    layers = jrnn.Dense(HIDDEN, activation="tanh"), jrnn.Dense(OUT)
    same(cell, params_of(cell), jrnn.Stack((jrnn.Window(2, IN), *layers)), params_of(cell))


def test_narx_of_its_last_output_alone_is_a_jordan_network():
    cell, jordan = (
        jrnn.NARX(HIDDEN, outputs=OUT, input_lags=0, output_lags=1),
        jrnn.Jordan(HIDDEN, outputs=OUT),
    )
    params, xs = params_of(jordan), normal(STEPS, BATCH, IN)
    hidden = DenseParams(jnp.concatenate([params.w_ih, params.w_yh]), params.b)
    closed = jnp.full((STEPS, BATCH, OUT), jnp.nan), jnp.zeros((STEPS, BATCH), bool), xs
    same(cell, ((), hidden, DenseParams(params.w_hy, params.c)), jordan, params, xs=closed, simple_xs=xs)
