"""`gate_statistics`: against the gates that `Tap` emits, reduced in NumPy, and against known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn._jaxprs.naming import named_types
from jrnn.analysis.gates import GateStatistics, gate_statistics
from jrnn.cell import batch_shape_of
from tests.cases import CASES, one_in, subject_of

KEY = jax.random.key(0)
STEPS, BATCH, IN = 9, 5, 2
XS = 3 * jax.random.normal(KEY, (STEPS, BATCH, IN))
LENGTHS = np.array([9, 0, 4, 1, 7])


def params_of(cell, width=IN, spread=1.5):
    """Parameters that spread the gates out."""
    params = cell.init(jax.random.key(1), width)
    return jax.tree.map(lambda p: p + spread * jax.random.normal(jax.random.key(2), p.shape, p.dtype), params)


def reduced(values, valid, low=0.1, high=0.9, floor=0.0):
    """The statistics of values, (time, batch, units), over the valid steps, in float64."""
    v = np.asarray(values, np.float64)[np.asarray(valid)]
    with np.errstate(divide="ignore"):
        logs = (np.log(np.maximum(np.abs(a), floor)) for a in (v, 1 - v))
        parts = v, np.abs(v) < low, np.abs(v) > high, *logs
    return GateStatistics(*(np.mean(part, 0) for part in parts))


def close(found, needed, tolerance=2e-5):
    for a, b in zip(found, needed, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_statistics_are_those_of_the_gates_of_all_steps_and_sequences():
    cell = jrnn.LSTM(4)
    params = params_of(cell)
    _, (_, inside) = jrnn.unroll(jrnn.Tap(cell, tuple("ifgo")), params, XS)
    found = gate_statistics(cell, params, XS)
    assert list(found) == list("ifgo")
    for name, statistics in found.items():
        close(statistics, reduced(inside[name], np.ones((STEPS, BATCH), bool)))
    assert 0.05 < found["f"].high.mean() < 0.95 and 0.05 < found["f"].low.mean() < 0.95
    assert found["g"].low.max() < 0.7 and found["g"].mean.min() < 0 < found["g"].high.min()


def test_lengths_reverse_carry_and_bounds():
    cell = jrnn.GRU(4)
    params, start = params_of(cell), jax.random.normal(KEY, (BATCH, 4))
    options = {"lengths": LENGTHS, "reverse": True}
    _, (_, inside) = jrnn.unroll(jrnn.Tap(cell, ("z",)), params, XS, start, **options)
    found = gate_statistics(cell, params, XS, start, names=("z",), low=0.3, high=0.6, **options)
    assert list(found) == ["z"]
    valid = np.arange(STEPS)[:, None] < LENGTHS
    close(found["z"], reduced(inside["z"], valid, 0.3, 0.6))


def test_padding_reaches_no_statistic():
    cell = jrnn.MGU(4)
    valid = np.arange(STEPS)[:, None] < LENGTHS
    dirty = jnp.where(valid[..., None], XS, jnp.nan)
    found = gate_statistics(cell, params_of(cell), dirty, lengths=LENGTHS)
    close(found["f"], gate_statistics(cell, params_of(cell), XS, lengths=LENGTHS)["f"], 0)
    nothing = gate_statistics(cell, params_of(cell), XS, lengths=np.zeros(BATCH, int))
    assert np.isnan(nothing["f"].mean).all() and nothing["f"].mean.shape == (4,)


def test_cells_of_a_stack_are_told_apart_by_number_and_keep_their_widths():
    cell = jrnn.Stack((jrnn.LSTM(4), jrnn.GRU(3), jrnn.LSTM(6)))
    params = params_of(cell, spread=0.5)
    found = gate_statistics(cell, params, XS)
    assert list(found) == ["i[0]", "f[0]", "g[0]", "o[0]", "r", "z", "n", "i[1]", "f[1]", "g[1]", "o[1]"]
    assert [found[name].mean.shape for name in ("f[0]", "r", "f[1]")] == [(4,), (3,), (6,)]
    names = ("f", "z")
    _, (_, inside) = jrnn.unroll(jrnn.Tap(cell, names), params, XS)
    chosen = gate_statistics(cell, params, XS, names=names)
    assert list(chosen) == ["f[0]", "z", "f[1]"]
    for name, values in zip(chosen, (inside["f"][0], inside["z"], inside["f"][1]), strict=True):
        close(found[name], reduced(values, np.ones((STEPS, BATCH), bool)))
        close(chosen[name], found[name], 1e-6)


def test_the_time_scale_is_that_of_the_product_of_the_gates():
    """Not that of the mean gate: one step in three shuts it."""
    f = jnp.array([0.9, 0.99, 0.1] * 4)
    cell = jrnn.Elman(1, activation="identity")
    params = cell.init(KEY, 1)._replace(w_ih=jnp.eye(1), w_hh=jnp.zeros((1, 1)))
    found = gate_statistics(cell, params, f[:, None])["h"]
    kept = float(jnp.prod(f))
    np.testing.assert_allclose(found.time_scale, -len(f) / np.log(kept), rtol=1e-5)
    np.testing.assert_allclose(
        found.time_scale_of_rest, -len(f) / np.log(np.prod(1 - np.float64(f))), rtol=1e-5
    )
    assert -1 / np.log(found.mean) > 1.9 * found.time_scale
    fixed = gate_statistics(cell, params, jnp.array([[1.0], [1.0]]))["h"]
    assert fixed.time_scale == jnp.inf and fixed.time_scale_of_rest == 0
    shut = gate_statistics(cell, params, jnp.array([[1.0], [0.0]]))["h"]
    assert shut.time_scale == 0 and shut.mean == 0.5


def test_a_forget_bias_of_5_keeps_for_149_steps():
    cell = jrnn.LSTM(3, forget_bias=5.0)
    f = gate_statistics(cell, cell.init(KEY, IN), jnp.zeros((4, IN)))["f"]
    np.testing.assert_allclose(f.time_scale, 1 / np.log1p(np.exp(-5.0)), rtol=1e-4)


def test_it_runs_inside_jit_and_without_batch_and_with_noise():
    cell = jrnn.Dropout(jrnn.LSTM(4), input=0.5)
    params = params_of(cell)
    found = jax.jit(lambda p, xs: gate_statistics(cell, p, xs, names=("f",), key=KEY))(params, XS)
    close(found["f"], gate_statistics(cell, params, XS, key=KEY)["f"])
    assert np.abs(found["f"].mean - gate_statistics(cell, params, XS)["f"].mean).max() > 0.01
    row = gate_statistics(jrnn.LSTM(4), params, XS[:, 0])["f"]
    close(row, gate_statistics(jrnn.LSTM(4), params, XS[:, :1])["f"])


def test_places_of_a_convolution_count_as_sequences():
    cell, xs = jrnn.ConvLSTM(3, spatial=1), jax.random.normal(KEY, (4, 2, 5, IN))
    params = cell.init(KEY, IN)
    _, (_, inside) = jrnn.unroll(jrnn.Tap(cell, ("f",)), params, xs)
    found = gate_statistics(cell, params, xs, names=("f",))["f"]
    close(found, reduced(inside["f"], np.ones((4, 2, 5), bool)))


def test_half_precision_is_summed_in_single():
    cell = jrnn.LSTM(2)
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), cell.init(KEY, IN))
    f = gate_statistics(cell, params, jnp.zeros((1000, IN), jnp.bfloat16))["f"]
    assert f.mean.dtype == jnp.float32
    np.testing.assert_allclose(f.mean, 0.731, atol=5e-3)  # in bfloat16 a sum of 0.73 ends at 256
    np.testing.assert_allclose(f.mean_log, np.log(f.mean), rtol=1e-5)  # a logarithm in bfloat16 has 3 digits


def test_nothing_of_the_steps_is_kept():
    cell, xs = jrnn.LSTM(64), jax.ShapeDtypeStruct((5000, 4, IN), jnp.float32)
    params = jax.eval_shape(lambda: cell.init(KEY, IN))
    compiled = jax.jit(lambda p, xs: gate_statistics(cell, p, xs)).lower(params, xs).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 5000 * 4 * 64  # a byte for each h


# every cell


@pytest.mark.slow
@pytest.mark.parametrize("case", one_in(6, CASES, 2), ids=lambda case: str(case.cell))
def test_every_cell_that_names_something_has_statistics_and_the_others_say_so(case):
    cell, subject = case.cell, subject_of(case)
    params, xs = subject.params(), subject.xs(2, 3)
    if isinstance(cell, NAMELESS):
        with pytest.raises(ValueError, match="has no gates to measure: its step names nothing"):
            gate_statistics(cell, params, xs)
        return
    names = names_of(cell, params, xs)
    tapped = jrnn.Tap(cell, names)

    def both(params, xs):
        return gate_statistics(cell, params, xs), jrnn.unroll(tapped, params, xs)[1][1]

    found, inside = subject.run(both, params, xs)
    labels = []
    for name in names:
        values = inside[name] if isinstance(inside[name], tuple) else (inside[name],)
        for i, value in enumerate(values):
            labels.append(f"{name}[{i}]" if len(values) > 1 else name)
            batch = value.ndim - found[labels[-1]].mean.ndim
            valid = np.ones(value.shape[:batch], bool)
            needed, bound = (reduced(value, valid, floor=floor) for floor in (0.0, 1e-6))
            for statistic, exact, most in zip(found[labels[-1]], needed, bound, strict=True):
                # a gate that is 1 here may be a rounding error below it there: ln 0 is −∞, or very low
                open_ = np.isinf(exact)
                np.testing.assert_allclose(statistic[~open_], exact[~open_], 1e-4, 1e-4)
                assert np.all(statistic[open_] <= most[open_])
    assert sorted(found) == sorted(labels)


NAMELESS = jrnn.Window, jrnn.NARX, jrnn.LRU, jrnn.S5, jrnn.Dense, jrnn.Embed, jrnn.Map
NAMELESS += jrnn.LinearAttention, jrnn.RetNet, jrnn.FastWeights, jrnn.Norm, jrnn.ShortConv


def names_of(cell, params, xs):
    x = jax.tree.map(lambda leaf: leaf[0], xs)
    carry = cell.initial_carry(params, batch_shape_of(cell, x))
    return tuple(dict.fromkeys(name for name, _ in named_types(cell.step, params, carry, x)))


# what does not fit


@pytest.mark.parametrize(
    "cell, options, error, message",
    [
        (jrnn.LSTM(4), {"names": ("f", "z")}, ValueError, r"names no 'z'; it names ['i', 'f', 'g', 'o']"),
        (
            jrnn.Dense(4),
            {},
            ValueError,
            "Dense(features=4) has no gates to measure: its step names nothing",
        ),
        (jrnn.LSTM(4), {"low": 0.9, "high": 0.1}, ValueError, "low and high must be in order"),
        (jrnn.LSTM(4), {"low": -0.1}, ValueError, "0 ≤ low ≤ high, got -0.1 and 0.9"),
        (jrnn.LSTM(4), {"lengths": np.arange(3)}, ValueError, "lengths has shape (3,)"),
        (jrnn.LSTM(4), {"names": "f"}, TypeError, "names must be a tuple of names, got the string 'f'"),
        (jrnn.Bidirectional(jrnn.LSTM(4)), {}, TypeError, "gate_statistics takes cells, and Bidirectional("),
        (jrnn.LSTM, {}, TypeError, "must be a cell, got the class LSTM"),
    ],
)
def test_what_does_not_fit_is_named(cell, options, error, message):
    params = () if isinstance(cell, type) else cell.init(KEY, IN)
    with pytest.raises(error) as raised:
        gate_statistics(cell, params, XS, **options)
    assert message in str(raised.value)


def test_params_that_do_not_fit_are_named_as_those_of_the_cell():
    with pytest.raises(ValueError, match=r"^LSTM\(hidden=4.*w_ih is \(2, 16\), width 3 needs \(3, 16\)"):
        gate_statistics(jrnn.LSTM(4), params_of(jrnn.LSTM(4)), jnp.ones((5, 2, 3)))
