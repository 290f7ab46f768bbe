"""What plots of dynamics show is what was measured, in units, and readable in black and white."""

import matplotlib.figure
import matplotlib.pyplot
import numpy as np
import pytest

from jrnn.analysis import (
    FixedPoints,
    GateStatistics,
    GradientFlow,
    Lyapunov,
    Projection,
    Sensitivity,
    principal_components,
)
from jrnn.plots import (
    eigenvalues,
    gate_saturation,
    gradient_norms,
    lyapunov_spectrum,
    phase_portrait,
    sensitivities,
    training_curves,
)

RANDOM = np.random.default_rng(0)
PATHS = [RANDOM.normal(size=(n, 5)) * [1, 3, 2, 0.1, 0.1] for n in (7, 4)]
PLANE = principal_components(np.concatenate(PATHS), 2)


@pytest.fixture(autouse=True)
def no_pyplot():
    yield
    assert matplotlib.pyplot.get_fignums() == []


def drawn(ax):
    """The axes, with everything at its place."""
    ax.figure.canvas.draw()
    return ax


def labels(ax):
    return ax.get_title(), ax.get_xlabel(), ax.get_ylabel()


def names(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def points(kinds, width=5):
    states = RANDOM.normal(size=(len(kinds), width))
    values = np.zeros((len(kinds), width), complex)
    return FixedPoints(states, np.zeros(len(kinds)), values, np.array(kinds, str), np.ones(len(kinds)), 0)


def gate(low, high):
    low, high = np.asarray(low), np.asarray(high)
    return GateStatistics((1 + high - low) / 2, low, high, -np.ones_like(low), -np.ones_like(low))


def flow():
    lags, pair = np.arange(30.0)[:, None], np.sqrt(2) * np.array([0.6, 0.8])  # of mean square 1
    return GradientFlow(1.0, norms={}, by_lag={
        "cells[0].h": 3 * 0.5**lags * pair,
        "cells[0].c": 5 * 1.25**lags * pair,
        "cells[1]": np.where(lags < [[30, 20]], 2 * np.ones(2), np.nan),  # of 30 and of 20 steps
        "unused": np.zeros((30, 2)),
    })  # fmt: skip


def sensed(logs):
    return Sensitivity(np.array(logs), None)


def exponents(*pairs):
    return Lyapunov(*np.array(pairs).T, None)


RECORDS = [
    {"step": 5, "epoch": 1, "loss": 3.0, "grad_norm": 2.0},
    {"step": 9, "epoch": 1, "loss": 2.0, "grad_norm": 0.5, "radius": 1.0},
    {"step": 9, "epoch": 1, "train": 2.5, "validation": 2.0, "radius": 1.5},
]


# gradients


def test_gradient_norms_are_those_of_all_sequences():
    ax = drawn(gradient_norms(flow()))
    lags = np.arange(30)
    expected = [3 * 0.5**lags, 5 * 1.25**lags, np.full(30, 2.0), np.zeros(30)]
    assert len(ax.lines) == 4 and ax.get_yscale() == "log"
    for line, norms in zip(ax.lines, expected, strict=True):
        np.testing.assert_allclose(line.get_data(), [lags, norms], rtol=1e-12)
    assert names(ax) == [
        "cells[0].h (vanishing, ×0.5 per step)",
        "cells[0].c (exploding, ×1.25 per step)",
        "cells[1] (steady, ×1 per step)",
        "unused (none)",
    ]
    assert labels(ax) == (
        "Gradient of the last step's loss for each state",
        "lag T − t (steps)",
        "‖∂L$_T$/∂h$_t$‖ (loss per unit of state)",
    )  # fmt: skip


# sensitivities


def test_sensitivities_and_bounds_are_drawn_by_lag():
    found = {"Elman": sensed(np.log([0.1, 0.4, 1.0])), "LSTM": sensed(np.log([0.9, 2.0]))}
    ax = drawn(sensitivities(found, bounds={"bound": np.log([0.25, 0.5, 1.0])}))
    expected = {"Elman": [1.0, 0.4, 0.1], "LSTM": [2.0, 0.9], "bound": [1.0, 0.5, 0.25]}
    assert names(ax) == [line.get_label() for line in ax.lines] == list(expected)
    for line, norms in zip(ax.lines, expected.values(), strict=True):
        np.testing.assert_allclose(line.get_data(), [np.arange(len(norms)), norms], rtol=1e-12)
    assert ax.get_yscale() == "log"
    assert labels(ax) == (
        "Sensitivity of the last state to earlier states", "lag T − t (steps)", "‖∂h$_T$/∂h$_t$‖"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("logs", "beyond"), [([-np.inf, -np.inf, -2.0, 0.0], 0), ([900.0, 800, 2, 0], np.inf)]
)
def test_what_no_float_can_hold_leaves_a_gap(logs, beyond):
    for ax in (
        sensitivities({"a": sensed(logs)}),
        sensitivities({"b": sensed([0.0, 0.0])}, bounds={"a": logs}),
    ):
        drawn(ax)
        line = ax.lines[-1]
        np.testing.assert_allclose(line.get_ydata(), [1, np.exp(logs[2]), beyond, beyond])
        shown = ax.transData.transform(line.get_xydata())
        assert np.isfinite(shown[:2]).all() and not np.isfinite(shown[2:, 1]).any()
        assert 0 < ax.get_ylim()[0] < 1 <= ax.get_ylim()[1] < 100


# eigenvalues


def test_eigenvalues_are_points_of_the_plane_beside_the_unit_circle():
    matrix, jacobians = [0.5 + 1j, 0.5 - 1j, -2], np.array([[1j, 0.25], [0, -0.5j]])
    ax = drawn(eigenvalues({"w_hh": matrix, "Jacobians": jacobians, "one": 3.0}))
    (circle,) = ax.lines
    np.testing.assert_allclose(np.hypot(*circle.get_data()), 1)
    np.testing.assert_allclose(circle.get_xydata()[[0, -1]], [[1, 0], [1, 0]], atol=1e-12)  # closed
    assert [c.get_offsets().tolist() for c in ax.collections] == [
        [[0.5, 1], [0.5, -1], [-2, 0]], [[0, 1], [0.25, 0], [0, 0], [0, -0.5]], [[3, 0]]
    ]  # fmt: skip
    assert circle.get_zorder() > max(c.get_zorder() for c in ax.collections)  # many points do not hide it
    a, b, c = ax.transData.transform([[0, 0], [1, 0], [0, 1]])
    np.testing.assert_allclose([b[0] - a[0], 0], [c[1] - a[1], b[1] - a[1]])  # it is a circle
    assert labels(ax) == ("Eigenvalues", "Re λ", "Im λ")
    assert names(ax) == ["|λ| = 1", "w_hh", "Jacobians", "one"]


# Lyapunov


def test_exponents_have_bars_of_two_standard_errors():
    found = {"GRU": exponents((0.2, 0.05), (-0.1, 0.01)), "LSTM": exponents((-0.5, 0.1))}
    ax = drawn(lyapunov_spectrum(found))
    assert [bars.get_label() for bars in ax.containers] == names(ax) == ["GRU", "LSTM"]
    lines, bars = zip(*((line, bars[0]) for line, _, bars in ax.containers), strict=True)
    assert [line.get_xydata().tolist() for line in lines] == [[[1, 0.2], [2, -0.1]], [[1, -0.5]]]
    np.testing.assert_allclose(bars[0].get_segments(), [[[1, 0.1], [1, 0.3]], [[2, -0.12], [2, -0.08]]])
    np.testing.assert_allclose(bars[1].get_segments(), [[[1, -0.7], [1, -0.3]]])
    assert repr(lines[0]._dash_pattern) != repr(lines[1]._dash_pattern)
    assert [line.get_ydata() for line in ax.lines if line not in lines] == [[0, 0]]
    assert labels(ax) == ("Lyapunov spectrum", "exponent, largest first", "λ (nats per step)")
    assert all(tick == round(tick) for tick in ax.get_xticks())


def test_exponents_of_dead_directions_and_unknown_errors():
    ax = drawn(lyapunov_spectrum({"relu": exponents((0.5, np.nan), (-0.25, 0.1), (-np.inf, np.nan))}))
    line, _, (bars,) = ax.containers[0]
    np.testing.assert_array_equal(line.get_xydata(), [[1, 0.5], [2, -0.25], [3, np.nan]])
    heights = [np.ptp(segment[:, 1]) for segment in bars.get_segments() if segment.ndim == 2]
    np.testing.assert_allclose(heights, [0, 0.4])
    assert np.isfinite(ax.get_ylim()).all() and -1 < ax.get_ylim()[0] < -0.45


# gates


def test_gates_are_points_a_unit():
    gates = {"f": gate([0.0, 0.25, 1.0], [1.0, 0.5, 0.0]), "i[0]": gate([[0.125, 0.0]], [[0.5, 0.0]])}
    ax = drawn(gate_saturation(gates))
    assert [c.get_offsets().tolist() for c in ax.collections] == [
        [[0, 1], [0.25, 0.5], [1, 0]], [[0.125, 0.5], [0, 0]]
    ]  # fmt: skip
    assert not any(c.get_clip_on() for c in ax.collections)  # points on the border are whole
    assert ax.lines[0].get_xydata().tolist() == [[0, 1], [1, 0]]
    assert ax.get_xlim() == ax.get_ylim() == (0, 1) and names(ax) == ["f", "i[0]"]
    assert labels(ax) == (
        "Saturation of gates, one point per unit",
        "fraction of steps with the gate closed",
        "fraction with the gate open",
    )


# phase portraits


def in_plane(states):
    return (np.asarray(states) - np.asarray(PLANE.mean)) @ np.asarray(PLANE.axes)[:2].T


def test_portrait_shows_paths_and_points_in_one_plane():
    found = points(["stable", "stable", "saddle", "unstable", "slow"])
    ax = drawn(phase_portrait(PLANE, PATHS, found))
    assert len(ax.lines) == 4
    for path, line, begin in zip(PATHS, ax.lines[::2], ax.lines[1::2], strict=True):
        np.testing.assert_allclose(line.get_xydata(), in_plane(path), atol=1e-5)
        np.testing.assert_allclose(begin.get_xydata(), in_plane(path[:1]), atol=1e-5)
        assert line.get_marker() == "None" and begin.get_marker() == "o"
        assert begin.get_zorder() > line.get_zorder()
    rows = [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 5)]
    for row, dots in zip(rows, ax.collections, strict=True):
        np.testing.assert_allclose(dots.get_offsets(), in_plane(found.states[row]), atol=1e-5)
        assert dots.get_zorder() > max(line.get_zorder() for line in ax.lines)
    assert names(ax) == ["stable (2)", "saddle (1)", "unstable (1)", "slow (1)"]
    assert labels(ax) == ("Phase portrait", *(
        f"component {i + 1}, {100 * PLANE.explained[i]:.0f} % of the variance" for i in (0, 1)
    ))  # fmt: skip


def test_portrait_of_less():
    ax = drawn(phase_portrait(PLANE, iter(PATHS)))
    assert len(ax.lines) == 4 and not ax.collections and ax.get_legend() is None
    assert drawn(phase_portrait(PLANE, points=points([]))).get_legend() is None
    saddles = drawn(phase_portrait(PLANE, points=points(["saddle"])))
    assert names(saddles) == ["saddle (1)"] and not saddles.lines
    kinds = drawn(phase_portrait(PLANE, points=points(["stable", "saddle"])))
    same = [dots.get_paths()[0].vertices.tolist() for dots in (saddles.collections[0], kinds.collections[1])]
    assert same[0] == same[1]  # a kind looks the same whatever else there is
    wide = Projection(np.zeros(5), np.eye(5)[[4, 0, 2]], np.array([0.5, 0.3, 0.2]))  # two of three
    np.testing.assert_allclose(
        phase_portrait(wide, PATHS).lines[0].get_xydata(), PATHS[0][:, [4, 0]], rtol=1e-6
    )


# training


def test_training_curves_are_the_records(tmp_path):
    ax = drawn(training_curves(RECORDS, ("grad_norm", "radius")))
    assert [line.get_xydata().tolist() for line in ax.lines] == [[[5, 2.0], [9, 0.5]], [[9, 1.0], [9, 1.5]]]
    assert names(ax) == ["grad_norm", "radius"] and ax.get_yscale() == "log"
    assert ax.get_xlabel() == "training step" and ax.get_ylabel()
    linear = training_curves(RECORDS, log=False)
    assert linear.get_yscale() == "linear" and len(linear.lines) == 1
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "grad_norm": 4.0}\n')
    for path in (tmp_path, str(tmp_path / "metrics.jsonl")):
        assert training_curves(path).lines[0].get_xydata().tolist() == [[2, 4.0]]


# all

SEVEN = [f"a rather long name {i}" for i in range(7)]
DRAW = {
    "gradient_norms": lambda ax=None: gradient_norms(flow(), ax),
    "sensitivities": lambda ax=None: sensitivities({n: sensed([-1.0, 0]) for n in SEVEN}, ax),
    "eigenvalues": lambda ax=None: eigenvalues({n: [0.5, 1j] for n in SEVEN}, ax),
    "lyapunov_spectrum": lambda ax=None: lyapunov_spectrum({n: exponents((1.0, 0.1)) for n in SEVEN}, ax),
    "gate_saturation": lambda ax=None: gate_saturation({n: gate([0.5], [0.5]) for n in SEVEN}, ax),
    "phase_portrait": lambda ax=None: phase_portrait(
        PLANE, PATHS, points(["stable", "saddle", "unstable", "slow"]), ax
    ),
    "training_curves": lambda ax=None: training_curves(RECORDS, ("grad_norm", "radius"), ax),
}


@pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW)
def test_draws_into_the_axes_given(draw, tmp_path):
    figure = matplotlib.figure.Figure(layout="constrained")
    left, right = figure.subplots(1, 2)
    assert draw(left) is left and left.has_data() and not right.has_data()
    own = draw()
    assert own.figure is not figure and own.has_data()
    own.figure.savefig(tmp_path / "own.png")
    figure.savefig(tmp_path / "given.png")


@pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW)
def test_the_legend_covers_nothing_and_is_not_cut_off(draw):
    ax = drawn(draw())
    page = ax.figure.bbox
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1
    for text in ax.get_legend().get_texts():
        extent = text.get_window_extent()
        assert extent.x1 <= page.x1 and page.y0 <= extent.y0 and extent.y1 <= page.y1


def look(artist):
    """What is seen of a line or of points, but for the color."""
    if hasattr(artist, "_dash_pattern"):
        return repr(artist._dash_pattern), artist.get_marker()
    return repr(artist.get_paths()[0].vertices.round(6).tolist()), len(artist.get_facecolor()) > 0


@pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW)
def test_all_is_told_apart_without_color(draw):
    shown = draw().get_legend_handles_labels()[0]
    looks = [look(one[0] if isinstance(one, tuple) else one) for one in shown]
    assert len(set(looks)) == len(looks) > 1


def test_names_with_dollars_are_no_formulas():
    name = "$\\x$"  # which matplotlib cannot read
    for ax in (
        sensitivities({name: sensed([0.0, 0.0])}),
        eigenvalues({name: [1]}),
        lyapunov_spectrum({name: exponents((1.0, 1.0))}),
        gate_saturation({name: gate([0], [1])}),
    ):
        assert names(drawn(ax))[-1] == name


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: gradient_norms(GradientFlow(1.0, {}, {})), "series is empty, needs at least one curve"),
        (lambda: sensitivities({}), "series is empty, needs at least one curve"),
        (
            lambda: sensitivities({"a": sensed([0.0])}, bounds={"a": [0.0], "b": [0.0]}),
            "bounds has ['a'], which found has too: use different names",
        ),
        (lambda: eigenvalues({}), "spectra is empty, needs at least one set of eigenvalues"),
        (lambda: lyapunov_spectrum({}), "found is empty, needs at least one spectrum"),
        (lambda: gate_saturation({}), "gates is empty, needs at least one gate"),
        (
            lambda: phase_portrait(principal_components(PATHS[0], 1)),
            "projection has 1 components, needs at least 2",
        ),
        (
            lambda: phase_portrait(PLANE, PATHS[0]),
            "trajectories[0] has shape (5,), needs (T, 5) with at least one state",
        ),
        (
            lambda: phase_portrait(PLANE, [PATHS[0], PATHS[0][:, :1]]),
            "trajectories[1] has shape (7, 1), needs (T, 5) with at least one state",
        ),
        (
            lambda: phase_portrait(PLANE, [PATHS[0][:0]]),
            "trajectories[0] has shape (0, 5), needs (T, 5) with at least one state",
        ),
        (
            lambda: phase_portrait(PLANE, points=points(["slow"], width=1)),
            "points.states has shape (1, 1), needs (T, 5) with at least one state",
        ),
        (
            lambda: training_curves(RECORDS, ("grad_norm", "penalty")),
            "no record has 'penalty', they have ['grad_norm', 'loss', 'radius', 'train', 'validation']",
        ),
        (lambda: training_curves(RECORDS, ()), "series is empty, needs at least one curve"),
    ],
)
def test_errors_name_the_argument(draw, message):
    with pytest.raises(ValueError) as caught:
        draw()
    assert str(caught.value) == message
