"""The report about a model, and its verdicts on known dynamics."""

import inspect as inspecting
import json
import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.image
import matplotlib.pyplot
import numpy as np
import pytest

import jrnn
from jrnn import analysis
from jrnn.analysis import (
    gate_statistics,
    gradient_flow,
    inspect,
    lyapunov,
    predictability,
    sensitivity,
    spectra,
)

STEPS = 40
CROSS_ENTROPY = jrnn.PerStep(jrnn.losses.cross_entropy)
SQUARES = jrnn.PerStep(jrnn.losses.mean_squared_error)


@pytest.fixture(autouse=True)
def no_pyplot():
    yield
    assert matplotlib.pyplot.get_fignums() == []


@pytest.fixture(scope="module")
def language():
    """A character model, its parameters, a batch, and the report about them."""
    model = jrnn.Stack((jrnn.Embed(3), jrnn.LSTM(4), jrnn.Dense(5)))
    tokens = np.random.default_rng(0).integers(5, size=(STEPS + 1, 3))
    batch = jrnn.Batch(jnp.asarray(tokens[:-1]), jnp.asarray(tokens[1:]))
    params = model.init(jax.random.key(0), 5)
    return model, params, batch, inspect(model, params, batch, CROSS_ENTROPY)


@pytest.fixture(scope="module")
def nameless():
    """A model without gates and without w_hh, and the report about it."""
    model = jrnn.Stack((jrnn.LRU(3), jrnn.Dense(2)))
    xs = jax.random.normal(jax.random.key(1), (STEPS, 2, 2))
    params = model.init(jax.random.key(0), 2)
    return model, params, inspect(model, params, jrnn.Batch(xs, xs), SQUARES)


def assert_same(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), left, right)


# what a report holds


def test_a_report_holds_what_each_function_finds(language):
    model, params, batch, found = language
    first = batch.xs[:, 0]
    assert (found.model, found.steps) == (model, STEPS)
    assert_same(found.flow, gradient_flow(model, params, batch, CROSS_ENTROPY))
    assert {name: norms.shape for name, norms in found.flow.norms.items()} == {
        "cells[1].h": (STEPS, 3), "cells[1].c": (STEPS, 3)
    }  # fmt: skip
    assert_same(found.sensitivity, sensitivity(model, params, first))
    assert_same(found.lyapunov, lyapunov(model, params, first, exponents=8, discard=8))
    assert_same(found.predictability, predictability(found.lyapunov.exponents[0], STEPS))
    assert_same(found.jacobians, spectra(model, params, first, every=8))
    assert found.jacobians.eigenvalues.shape == (5, 8)
    assert_same(found.gates, gate_statistics(model, params, batch.xs))
    assert list(found.gates) == ["i", "f", "g", "o"]
    assert list(found.matrices) == ["[1].w_hh"]
    blocks = np.split(np.asarray(params[1].w_hh), 4, axis=1)
    radii = [np.abs(np.linalg.eigvals(block)).max() for block in blocks]
    np.testing.assert_allclose(found.matrices["[1].w_hh"].spectral_radius, radii, rtol=1e-5)


def test_a_carry_and_fewer_exponents(language):
    model, params, batch, found = language
    carry = jax.tree.map(lambda leaf: leaf + 0.9, model.initial_carry(params))
    other = inspect(model, params, batch, CROSS_ENTROPY, carry, exponents=2)
    first = batch.xs[:, 0]
    assert_same(other.lyapunov, lyapunov(model, params, first, carry, exponents=2, discard=8))
    assert_same(other.sensitivity, sensitivity(model, params, first, carry))
    assert_same(other.jacobians, spectra(model, params, first, carry, every=8))
    assert np.abs(other.jacobians.eigenvalues - found.jacobians.eigenvalues)[0].max() > 0.01
    assert_same(other.flow, found.flow)  # of all sequences, which start anew


def test_a_large_state_is_probed(language, monkeypatch):
    monkeypatch.setattr("jrnn.analysis.reporting.EXACT", 7)  # the state has 8 entries
    model, params, batch, exact = language
    found = inspect(model, params, batch, CROSS_ENTROPY).sensitivity.log_state
    assert_same(found, sensitivity(model, params, batch.xs[:, 0], probes=32).log_state)
    assert 1e-3 < np.abs(found - exact.sensitivity.log_state).max() < 1


def test_verdicts_in_words(language):
    found, words = language[3], language[3].verdicts
    assert list(words) == [
        "gradient of the last step's loss with respect to cells[1].h",
        "gradient of the last step's loss with respect to cells[1].c",
        "gradient of the last state",
        "memory",
        "dynamics",
        "recurrent matrix [1].w_hh",
        "Jacobian of a step",
        *(f"gate {name}" for name in "ifgo"),
    ]
    assert words["gradient of the last step's loss with respect to cells[1].c"] == str(
        found.flow.verdicts["cells[1].c"]
    )
    assert words["gradient of the last state"] == str(found.sensitivity.verdict)
    assert words["recurrent matrix [1].w_hh"] == (
        "spectral radius 1, 1, 1, 1; largest singular value 1, 1, 1, 1"  # orthogonal at the start
    )
    radii = np.abs(found.jacobians.eigenvalues).max(1)
    assert words["Jacobian of a step"] == (
        f"spectral radius {radii.min():.3g} to {radii.max():.3g}, "
        f"stretches by {found.jacobians.singular_values.max():.3g} at most"
    )
    gate = found.gates["f"]
    shares = (f"{100 * np.mean(share):.0f} %" for share in (gate.low, gate.high))
    scale = np.asarray(gate.time_scale)
    expected = "mean {:.2f}, below a tenth at {} of the steps and above nine tenths at {}".format(
        np.mean(gate.mean), *shares
    )
    kept = f"; keeps for {np.median(scale):.3g} steps (the median unit), at most {scale.max():.3g}"
    assert words["gate f"] == expected + kept
    assert "keeps" not in words["gate i"] + words["gate g"] + words["gate o"]


def test_a_cell_that_names_nothing(nameless):
    _, params, found = nameless
    assert found.matrices == found.gates == {}
    assert found.verdicts["gates"] == "none: the step names no values with jax.ad_checkpoint.checkpoint_name"
    assert not any(name.startswith(("gate ", "recurrent")) for name in found.verdicts)
    lambdas = np.exp(-np.exp(np.asarray(params[0].nu)))  # moduli
    np.testing.assert_allclose(np.unique(found.jacobians.spectral_radius.round(5)), lambdas.max(), atol=2e-5)
    assert len(found.lyapunov.exponents) == 6  # as many as 3 complex numbers have
    assert found.as_json()["gates"] == found.as_json()["recurrent_matrices"] == {}


# known dynamics


def linear(matrix, steps=60):
    """A report about hₜ = A hₜ₋₁ + xₜ, of two sequences."""
    cell = jrnn.Elman(len(matrix), activation="identity")
    params = cell.init(jax.random.key(0), 1)
    params = params._replace(w_hh=jnp.asarray(matrix, jnp.float32).T, w_ih=jnp.ones_like(params.w_ih))
    xs = jax.random.normal(jax.random.key(1), (steps, 2, 1))
    return inspect(cell, params, jrnn.Batch(xs, jnp.zeros((steps, 2, len(matrix)))), SQUARES)


TURN = np.array([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]])


def test_a_contraction():
    found = linear(0.5 * TURN, 400)
    np.testing.assert_allclose(found.lyapunov.exponents, -math.log(2), rtol=1e-5)
    lags = np.arange(399, -1, -1)
    np.testing.assert_allclose(found.sensitivity.log_state, np.log(2) * (0.5 - lags), rtol=1e-4)
    words = found.verdicts
    assert words["gradient of the last state"] == (
        "vanishing: a factor of 0.5 per step backwards, a tenth every 3.32 steps"
    )
    assert (
        words["memory"] == "the last state depends on the state 7 steps before by less than 1 %"
    )  # 2⁻⁷ < 0.01
    assert re.fullmatch(
        r"contracting: largest Lyapunov exponent -0\.693 ± \S+ nats per step; the initial state is "
        r"forgotten, all steps could run in parallel",
        words["dynamics"],
    )
    assert words["recurrent matrix w_hh"] == "spectral radius 0.5; largest singular value 0.5"


def test_a_rotation_keeps_distances():
    """In float32 its exponent is 1e-8, and several times its error."""
    words = linear(TURN, 400).verdicts
    assert words["dynamics"].startswith("neutral: largest Lyapunov exponent ")
    assert words["dynamics"].endswith("nats per step; neighboring states neither diverge nor converge")
    assert words["gradient of the last state"] == "steady: a factor of 1 per step backwards"
    assert words["memory"] == "the last state still depends on the state 399 steps before by more than 1 %"


def test_an_explosion_is_chaos_at_most():
    found = linear(1.5 * TURN)
    np.testing.assert_allclose(found.lyapunov.exponents, math.log(1.5), rtol=1e-5)
    steps = round(math.log(1 / np.finfo(np.float32).eps) / math.log(1.5))
    assert re.fullmatch(
        r"chaotic, if states stay bounded: largest Lyapunov exponent 0\.405 ± \S+ nats per step; "
        rf"a rounding error grows to the size of the state after {steps} steps",
        found.verdicts["dynamics"],
    )
    assert found.verdicts["gradient of the last state"] == (
        "exploding: a factor of 1.5 per step backwards, tenfold every 5.68 steps"
    )


def test_a_step_that_forgets_all():
    found = linear(0 * TURN)
    assert found.verdicts["dynamics"].startswith("contracting: largest Lyapunov exponent -inf ± ")
    assert found.verdicts["memory"] == "the last state depends on the state 1 steps before by less than 1 %"
    assert found.as_json()["lyapunov"]["exponents"] == [None, None]
    assert found.as_json()["sensitivity"]["log_state"] == [None] * 59 + [pytest.approx(math.log(2) / 2)]


def test_chaos_whose_gradient_no_float_holds():
    """The tent map of slope 1.9: λ = ln 1.9. 1.9²⁰⁰ is above the largest float32."""
    cell = jrnn.from_functions(
        init=lambda key, in_features: (),
        initial_carry=lambda params, batch_shape=(), *, key=None: jnp.full((*batch_shape, 1), 0.3),
        step=lambda params, h, x: (after := 1.9 * jnp.minimum(h, 1 - h), after),
        out_features=1,
    )
    found = inspect(cell, (), jrnn.Batch(*2 * (jnp.zeros((200, 1, 1)),)), SQUARES)
    steps = round(math.log(1 / np.finfo(np.float32).eps) / math.log(1.9))
    words = found.verdicts
    assert words["dynamics"].startswith("chaotic, if states stay bounded: largest Lyapunov exponent 0.642 ± ")
    assert words["dynamics"].endswith(f"to the size of the state after {steps} steps")
    lost = int(np.flatnonzero(~np.isfinite(found.flow.lasting["h"]))[0])
    said = words["gradient of the last step's loss with respect to h"]
    assert said.startswith("exploding: a factor of 1.9") and said.endswith(
        f"; it overflows from {lost} steps back"
    )
    norms = strict(found)["gradient_by_lag"]["h"]
    assert norms[lost:] == [None] * (200 - lost) and None not in norms[:lost] and 20 < lost < 190
    line = jrnn.plots.report(found).axes[0].get_lines()[0]
    assert line.get_label().startswith("h (exploding, ×1.9")
    np.testing.assert_allclose(line.get_ydata()[:lost], norms[:lost])


# JSON


def strict(found):
    return json.loads(json.dumps(found.as_json(), allow_nan=False))


def test_json_is_the_arrays(language):
    found, written = language[3], strict(language[3])
    assert written["model"] == str(found.model) and written["steps"] == STEPS
    assert written["verdicts"] == found.verdicts
    assert written["loss"] == float(found.flow.loss)
    assert_same(written["gradient_norms"], {n: v.tolist() for n, v in found.flow.totals.items()})
    assert written["sensitivity"] == {"log_state": found.sensitivity.log_state.tolist(), "log_inputs": None}
    exponents, error, _ = found.lyapunov
    assert written["lyapunov"] == {"exponents": exponents.tolist(), "standard_error": error.tolist()}
    one = found.matrices["[1].w_hh"]
    for name, values in {"jacobians": found.jacobians, "recurrent_matrices": one}.items():
        parts = written[name] if name == "jacobians" else written[name]["[1].w_hh"]
        assert parts == {
            "real": values.eigenvalues.real.tolist(),
            "imag": values.eigenvalues.imag.tolist(),
            "singular_values": values.singular_values.tolist(),
        }
    assert list(written["gates"]) == ["i", "f", "g", "o"]
    for name, gate in found.gates.items():
        assert written["gates"][name] == {
            key: np.asarray(getattr(gate, key), np.float64).tolist()
            for key in ("mean", "low", "high", "time_scale")
        }
    assert_same(written["gradient_by_lag"], {n: v.tolist() for n, v in found.flow.lasting.items()})
    assert len(written) == 11


def test_json_of_inputs_and_of_nothing(nameless):
    written, found = strict(nameless[2]), nameless[2].sensitivity
    assert written["sensitivity"]["log_inputs"] == found.log_inputs.tolist()
    assert written["gates"] == written["recurrent_matrices"] == {}


# the page


def test_the_page_has_a_panel_for_each_and_all_verdicts(language, nameless):
    titles = ("Eigenvalues of recurrent matrices", "Saturation of gates, one point per unit")
    others = ("Stretching by a step, ∂h$_t$/∂h$_{t-1}$", "Time scales of a step, −1 / mean ln |λ|")
    for found, needed in ((language[3], titles), (nameless[2], others)):
        figure = jrnn.plots.report(found)
        figure.canvas.draw()
        assert len(figure.axes) == 6 and tuple(ax.get_title() for ax in figure.axes[4:]) == needed
        for ax in figure.axes:
            assert ax.has_data() and ax.axison and not ax.texts
            assert ax.get_title() and ax.get_xlabel() and ax.get_ylabel()
        (words,) = figure.subfigs[1].texts
        assert " ".join(words.get_text().split()) == " ".join(f"{n}: {v}" for n, v in found.verdicts.items())
        box = words.get_window_extent()
        assert box.y0 >= figure.bbox.y0 and box.x1 <= figure.bbox.x1
        for legend in (ax.get_legend() for ax in figure.axes if ax.get_legend()):
            assert not any(legend.get_window_extent().overlaps(ax.get_window_extent()) for ax in figure.axes)
            assert not legend.get_window_extent().overlaps(legend.axes.xaxis.label.get_window_extent())
    exponents = np.asarray(found.lyapunov.exponents, np.float64)
    np.testing.assert_array_equal(figure.axes[2].get_lines()[1].get_ydata(), exponents)
    _, params, _ = nameless  # a linear recurrence: what it keeps are the moduli, each of two real numbers
    moduli = np.repeat(np.sort(np.exp(-np.exp(np.asarray(params[0].nu))))[::-1], 2)
    for line in figure.axes[4].get_lines()[:3]:
        np.testing.assert_allclose(line.get_data(), [np.arange(1, 7), moduli], rtol=1e-5)
    np.testing.assert_allclose(figure.axes[5].get_lines()[0].get_ydata(), -1 / np.log(moduli), rtol=1e-4)


@pytest.mark.parametrize(
    ("factor", "reason"), [(1.5, "no part of the state decays"), (0.0, "a step keeps nothing of the state")]
)
def test_a_page_without_time_scales_says_why(factor, reason):
    cell = jrnn.from_functions(
        init=lambda key, n: jnp.asarray(factor * TURN, jnp.float32),
        initial_carry=lambda p, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, 2)),
        step=lambda p, h, x: (h @ p + x,) * 2,
        out_features=2,
    )
    batch = jrnn.Batch(*2 * (jnp.ones((20, 1, 2)),))
    figure = jrnn.plots.report(inspect(cell, cell.init(None, 2), batch, SQUARES))
    assert [text.get_text() for text in figure.axes[5].texts] == [reason]
    figure.canvas.draw()


def test_a_report_prints_as_a_page(language, nameless):
    for found in (language[3], nameless[2]):
        printed = repr(found)
        assert printed == str(found) and len(printed.splitlines()) < 25
        assert all(len(line) <= 110 for line in printed.splitlines())
        words = " ".join(printed.split())
        assert words.startswith(
            f"{found.model} {STEPS} steps, loss {float(found.flow.loss):.4g} gradient of the last"
        )
        assert all(f"{name}: {verdict}" in words for name, verdict in found.verdicts.items())


RESULTS = [
    *(analysis.Report, analysis.GradientFlow, analysis.Sensitivity, analysis.Verdict, analysis.Lyapunov),
    analysis.Parallelism,
    *(analysis.Predictability, analysis.Spectrum, analysis.FixedPoints, analysis.GateStatistics),
    *(analysis.MemoryCapacity, analysis.Projection),
    *(jrnn.Generated, jrnn.Beams, jrnn.Pair),
]


@pytest.mark.parametrize("kind", RESULTS, ids=lambda kind: kind.__name__)
def test_help_says_what_the_fields_of_a_result_are(kind):
    for name in kind._fields:
        assert re.search(rf"^  {name}: \S", inspecting.getdoc(kind), re.MULTILINE), name
    public = {v for v in map(partial(getattr, analysis), analysis.__all__) if hasattr(v, "_fields")}
    assert public <= set(RESULTS)


# errors


def test_errors(language):
    model, params, batch, _ = language
    forwards = jrnn.Bidirectional(jrnn.Elman(2), jrnn.Elman(2))
    xs, short = batch.xs, jrnn.Batch(batch.xs[:1], batch.targets[:1])
    for given, kind, message in (
        ((forwards, params, batch), TypeError, "inspect: cell must be a cell, got Bidirectional("),
        (("LSTM", params, batch), TypeError, "inspect: cell must be a cell, got 'LSTM', which has no init"),
        (
            (model, params, batch._replace(lengths=jnp.array([3, 4, 5]))),
            ValueError,
            "inspect: lengths must be None, pass sequences of one length",
        ),
        (
            (model, params, batch._replace(resets=jnp.zeros(batch.xs.shape[:2], bool))),
            ValueError,
            "inspect: resets must be None, pass sequences without one",
        ),
        (
            (model, params, jrnn.Batch(xs[:, 0], xs[:, 0])),
            ValueError,
            "inspect: xs has shape (40,), needs (time, batch, ...) with at least two steps",
        ),
        (
            (model, params, short),
            ValueError,
            "inspect: xs has shape (1, 3), needs (time, batch, ...) with at least two steps",
        ),
    ):
        with pytest.raises(kind, match="^" + re.escape(message)):
            inspect(*given, CROSS_ENTROPY)
    with pytest.raises(
        ValueError, match=r"^inspect: the gradient of h is NaN or inf: does the state diverge\?$"
    ):
        linear(5 * TURN, 70)
