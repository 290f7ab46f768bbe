"""What the charts show is what they were given; labels and legends lie beside it, nothing over another."""

import jax.numpy as jnp
import matplotlib.figure
import matplotlib.pyplot
import numpy as np
import pytest

from jrnn.plots import confusion_matrix, curves, forecasts, heat_map, loss_curve, piano_roll, pictures

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def no_pyplot():
    yield
    assert matplotlib.pyplot.get_fignums() == []


def drawn(ax):
    """The axes, with everything at its place."""
    ax.figure.canvas.draw()
    return ax


def grays(ax):
    """Colors of the cells of a matrix, as the image has them, 0 black to 1 white."""
    image = ax.images[0]
    colors = image.cmap(image.norm(image.get_array()))
    assert np.ptp(colors[..., :3], axis=-1).max() < 1e-6  # without color
    return np.where(colors[..., 3] == 0, 1.0, colors[..., 0])  # nothing on white paper


def texts(labels):
    return [label.get_text() for label in labels]


def overlapping(artists):
    boxes = [artist.get_window_extent() for artist in artists if artist.get_text()]
    return [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


# heat maps


def test_heat_map_shows_each_weight_at_its_row_and_column():
    weights = jnp.array([[0.5, 0.25, 0.0], [1e-6, 0.0, 0.75]])
    ax = heat_map(weights, ["le", "chat"], ["a", "b", "c"])
    assert ax.images[0].get_extent() == [-0.5, 2.5, 1.5, -0.5]  # the first row above
    gray = grays(ax)
    assert (gray == 1).tolist() == (weights == 0).tolist()  # white is exactly 0
    np.testing.assert_array_equal(np.argsort(-gray, axis=None), [2, 4, 3, 1, 0, 5])  # the larger, the darker
    assert gray.max(where=gray < 1, initial=0) < 0.95 and gray.min() == 0
    assert ax.images[0].norm.vmin == 0 and ax.images[0].norm.vmax == 0.75
    assert texts(ax.get_yticklabels()) == ["le", "chat"] and ax.get_yticks().tolist() == [0, 1]
    assert texts(ax.get_xticklabels()) == ["a", "b", "c"] and ax.get_xticks().tolist() == [0, 1, 2]
    assert [ax.get_title(), ax.get_ylabel(), ax.get_xlabel()] == [
        "Attention weights", "output token", "source token"
    ]  # fmt: skip
    assert ax.images[0].colorbar.ax.get_ylabel() == "weight"


def test_heat_map_of_other_values_has_other_words():
    words = {"title": "Gate", "row_label": "unit", "column_label": "character", "unit": "activation"}
    ax = heat_map([[-1.0, 0.0, 1.0, 0.5]], [0], "a b\n", **words)
    gray = grays(ax)[0]
    assert gray[1] == 1 and gray[0] > gray[3] > gray[2] == 0
    assert ax.images[0].norm.vmin == -1
    assert texts(drawn(ax).get_xticklabels()) == ["a", "␣", "b", "↵"]
    assert [ax.get_title(), ax.get_ylabel(), ax.get_xlabel()] == ["Gate", "unit", "character"]
    assert ax.images[0].colorbar.ax.get_ylabel() == "activation"


def test_heat_map_of_nothing_but_zeros_is_white():
    assert grays(drawn(heat_map(np.zeros((2, 3)), "ab", "cde"))).tolist() == [[1] * 3] * 2


@pytest.mark.parametrize("count", [2, 15, 90])
def test_labels_of_a_heat_map_do_not_overlap(count):
    names = [f"{'word' * (1 + i % 3)}{i}" for i in range(count)]
    ax = drawn(heat_map(RANDOM.uniform(size=(count, count)), names, names))
    assert texts(ax.get_xticklabels()) == texts(ax.get_yticklabels()) == names
    assert {label.get_rotation() for label in ax.get_xticklabels()} == {90}
    assert overlapping([*ax.get_xticklabels(), *ax.get_yticklabels(), ax.xaxis.label, ax.yaxis.label]) == []
    box = ax.figure.bbox
    for label in [*ax.get_xticklabels(), *ax.get_yticklabels(), ax.xaxis.label, ax.title]:
        extent = label.get_window_extent()
        assert box.x0 <= extent.x0 and extent.x1 <= box.x1 and box.y0 <= extent.y0 and extent.y1 <= box.y1


def test_of_very_many_labels_some_are_shown():
    ax = heat_map(np.ones((2, 200)), "ab", range(200))
    assert texts(ax.get_xticklabels()) == [str(i) for i in range(0, 200, 3)]
    assert ax.get_xticks().tolist() == list(range(0, 200, 3))


def test_short_labels_stand_upright_and_dollars_are_no_formulas():
    ax = drawn(heat_map([[0.5, 0.5]], ["$\\x$"], ["$a", "$"]))
    assert {label.get_rotation() for label in ax.get_xticklabels()} == {0}


# confusion


def test_confusion_has_the_true_class_as_its_row():
    predictions, targets = np.array([[0, 0, 0], [1, 2, 1]], np.uint8), np.array([[0, 0, 0], [0, 1, 1]])
    ax = drawn(confusion_matrix(predictions, targets, ["no", "yes", "rare class"]))
    cells = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in ax.texts}
    assert cells == {
        (0, 0): "3\n75 %", (0, 1): "1\n25 %", (0, 2): "0",
        (1, 0): "0", (1, 1): "1\n50 %", (1, 2): "1\n50 %",
        (2, 0): "0", (2, 1): "0", (2, 2): "0",
    }  # fmt: skip
    shares = np.array([[0.75, 0.25, 0], [0, 0.5, 0.5], [0, 0, 0]])
    np.testing.assert_allclose(ax.images[0].get_array().filled(0), shares)
    assert ax.images[0].get_clim() == (0, 1)
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("true class", "predicted class")
    assert texts(ax.get_yticklabels()) == ["no", "yes", "rare class"] == texts(ax.get_xticklabels())
    assert overlapping(ax.texts) == []


def test_text_in_a_confusion_stands_out_from_its_field():
    targets = np.repeat([0, 1], 100)
    for right in range(0, 101, 10):
        predictions = np.where(np.arange(200) % 100 < right, targets, 1 - targets)
        ax = confusion_matrix(predictions, targets, "ab")
        ink = [{"white": 1.0, "black": 0.0}[text.get_color()] for text in ax.texts]
        assert np.abs(grays(ax).ravel() - ink).min() > 0.4


# piano rolls


def test_piano_roll_shows_keys_at_their_pitch():
    roll = np.zeros((5, 88))
    roll[0, 39], roll[1:3, 43], roll[4, 27] = 1, 0.5, 1  # C4, E4, C3
    ax = drawn(piano_roll(roll))
    image = ax.images[0]
    assert image.get_extent() == [-0.5, 4.5, 20.5, 108.5] and image.origin == "lower"
    np.testing.assert_array_equal(image.get_array().filled(0), roll.T)
    assert grays(ax)[39, 0] == 0 and grays(ax)[39, 1] == 1 and 0 < grays(ax)[43, 1] < 0.9
    assert dict(zip(ax.get_yticks(), texts(ax.get_yticklabels()), strict=True)) == {
        48: "C3", 60: "C4", 72: "C5"
    }  # fmt: skip
    assert ax.get_ylim() == (47.5, 72.5) and (ax.get_xlabel(), ax.get_ylabel()) == ("step", "key")
    assert all(tick == round(tick) for tick in ax.get_xticks())


@pytest.mark.parametrize(
    ("keys", "first", "shown"),
    [
        ([0], 21, ["C0", "C1"]),  # A0, the lowest
        ([87], 21, ["C8", "C9"]),  # C8, the highest
        ([0], 60, ["C4", "C5"]),
        ([], 60, ["C4", "C5", "C6", "C7", "C8", "C9", "C10", "C11", "C12"]),  # 60 to 147
    ],
)
def test_octaves_in_use_are_shown(keys, first, shown):
    roll = np.zeros((3, 88), bool)
    roll[1, keys] = True
    assert texts(drawn(piano_roll(roll, first_key=first)).get_yticklabels()) == shown


# pictures


def test_pictures_stand_in_rows_on_one_scale_of_gray():
    images = [np.full((4, 6), value) for value in (0, 60, 120, 255)] + [np.arange(24).reshape(4, 6)]
    captions = ["one", "two $ $", "a caption too long for a single line below", "written: 4\ntrue: 9", ""]
    axes = pictures(images, captions, columns=3)
    drawn(axes[0])
    assert all(ax.figure is axes[0].figure for ax in axes) and len(axes) == len(axes[0].figure.axes) == 5
    for ax, image in zip(axes, images, strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), image)
        assert ax.images[0].get_clim() == (0, 255) and ax.images[0].get_cmap().name == "gray"
    assert [ax.get_xlabel() for ax in axes] == [
        "one", "two $ $", "a caption too long for\na single line below", "written: 4\ntrue: 9", ""
    ]  # fmt: skip
    boxes = np.array([ax.get_position().bounds for ax in axes])
    left, below = boxes[:, 0].round(6), boxes[:, 1].round(6)
    assert below[0] == below[1] == below[2] > below[3] == below[4]
    assert left[0] == left[3] < left[1] == left[4] < left[2]


def test_captions_touch_neither_each_other_nor_pictures():
    axes = pictures(
        RANDOM.uniform(size=(7, 28, 28)),
        ["written: A HOOK and a stem, drawn from the right\ntrue: a MOWED dommm"] * 7,
        columns=4,
    )
    drawn(axes[0])
    captions = [ax.xaxis.label for ax in axes]
    assert min(ax.get_window_extent().width for ax in axes) > 1.5 * 120  # long captions do not shrink them
    assert overlapping(captions) == []
    for caption in captions:
        extent = caption.get_window_extent()
        assert not any(extent.overlaps(ax.get_window_extent()) for ax in axes)


# curves and forecasts


def test_curves_are_the_values_given():
    series = {"with": ([5, 10, 20], jnp.array([1, 1, 0.9])), "without": [0.5, 0.25], "pair": (0.5, 0.25)}
    ax = drawn(curves(series, xlabel="length (tokens)", ylabel="exact match"))
    lines = [line.get_xydata() for line in ax.lines]
    np.testing.assert_allclose(lines[0], [[5, 1], [10, 1], [20, 0.9]], rtol=1e-6)
    assert [line.tolist() for line in lines[1:]] == [[[0, 0.5], [1, 0.25]]] * 2
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("length (tokens)", "exact match")
    assert texts(ax.get_legend().get_texts()) == ["with", "without", "pair"] and ax.get_yscale() == "linear"


def test_a_logarithmic_axis_leaves_out_what_has_no_logarithm():
    series = {"RNN": [1.0, 1e-3, 0.0], "none": [0.0, 0.0, 0.0]}
    ax = drawn(curves(series, xlabel="lag", ylabel="norm", log=True))
    assert ax.get_yscale() == "log"
    shown = ax.transData.transform(ax.lines[0].get_xydata())
    assert np.isfinite(shown[:2]).all() and not np.isfinite(shown[2, 1])


def test_thirty_five_curves_are_told_apart_without_color():
    ax = curves({str(i): [i, i + 1] for i in range(35)}, xlabel="x", ylabel="y")
    assert len({(repr(line._dash_pattern), line.get_marker()) for line in ax.lines}) == 35


def test_long_curves_have_few_markers():
    ax = curves({"long": np.zeros(1000), "short": [0, 1]}, xlabel="x", ylabel="y")
    assert [line.get_markevery() for line in ax.lines] == [50, 1]


def test_forecasts_begin_behind_the_past():
    predictions = {"jrnn": jnp.array([4.5, 5.5]), "persistence": [3, 3], "$\\x$": [1, 2]}
    ax = drawn(forecasts([1, 2, 3], [4, 5], predictions, ylabel="passengers (thousands)"))
    past, truth, *rest, origin = ax.lines
    assert past.get_xydata().tolist() == [[-2, 1], [-1, 2], [0, 3]]
    assert truth.get_xydata().tolist() == [[1, 4], [2, 5]]
    assert [line.get_xydata().tolist() for line in rest] == [
        [[1, 4.5], [2, 5.5]], [[1, 3], [2, 3]], [[1, 1], [2, 2]]
    ]  # fmt: skip
    assert origin.get_xdata() == [0, 0]
    names = ["past", "truth", "jrnn", "persistence", "$\\x$", "forecast origin"]
    assert texts(ax.get_legend().get_texts()) == names
    assert len({(repr(line._dash_pattern), line.get_marker()) for line in ax.lines}) == len(names)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("steps after the forecast origin", "passengers (thousands)")
    assert all(tick == round(tick) for tick in ax.get_xticks())


@pytest.mark.parametrize(
    "ax",
    [
        curves({"a curve with a rather long name": [1, 2], "b": [0, 3]}, xlabel="x", ylabel="y"),
        forecasts([1, 2], [3], {"persistence": [2]}),
    ],
    ids=["curves", "forecasts"],
)
def test_the_legend_covers_nothing_and_is_not_cut_off(ax):
    drawn(ax)
    legend = ax.get_legend().get_window_extent()
    assert legend.x0 >= ax.get_window_extent().x1 and legend.x1 <= ax.figure.bbox.x1


# all


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: heat_map(np.ones((2, 2)), "ab", "cd", ax),
        lambda ax: confusion_matrix([0, 1], [1, 1], "ab", ax),
        lambda ax: piano_roll(np.eye(88), ax),
        lambda ax: curves({"a": [1, 2]}, ax, xlabel="x", ylabel="y"),
        lambda ax: forecasts([1], [2], {}, ax),
        lambda ax: loss_curve([{"step": 3, "loss": 2.0}], ax),
    ],
    ids=["heat_map", "confusion_matrix", "piano_roll", "curves", "forecasts", "loss_curve"],
)
def test_draws_into_the_axes_given(tmp_path, draw):
    figure = matplotlib.figure.Figure(layout="constrained")
    left, right = figure.subplots(1, 2)
    assert draw(left) is left and left.has_data() and not right.has_data()
    own = draw(None)
    assert own.figure is not figure and own.has_data()
    own.figure.savefig(tmp_path / "own.png")
    figure.savefig(tmp_path / "given.png")


ONES = np.ones((2, 3))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda: heat_map(np.ones((2, 5, 3)), "ab", "cde"),
            "weights has shape (2, 5, 3), needs two axes: select one sequence of a batch by weights[:, b]",
        ),
        (lambda: heat_map([1.0], "a", "b"), "weights has shape (1,), needs two axes"),
        (lambda: heat_map(ONES, "a", "cde"), "rows has 1 labels, weights of shape (2, 3) needs 2"),
        (lambda: heat_map(ONES, "ab", "cd"), "columns has 2 labels, weights of shape (2, 3) needs 3"),
        (lambda: heat_map([[np.nan]], "a", "b"), "weights has values that are not finite"),
        (
            lambda: confusion_matrix([0, 2], [0, 1], "ab"),
            "predictions must lie in [0, 2) for 2 classes, got 0 to 2",
        ),
        (
            lambda: confusion_matrix([0, 1], [0, -1], "ab"),
            "targets must lie in [0, 2) for 2 classes, got -1 to 0",
        ),
        (
            lambda: confusion_matrix([0, 1], [[0], [1]], "ab"),
            "predictions has shape (2,), targets (2, 1): needs the same",
        ),
        (
            lambda: confusion_matrix([0.0, 1.0], [0, 1], "ab"),
            "predictions must be integers, got float64: from logits, use argmax(-1)",
        ),
        (lambda: piano_roll(np.ones(88)), "roll has shape (88,), needs two axes"),
        (lambda: piano_roll(2 * ONES), "roll must lie in [0, 1], got 2 to 2"),
        (lambda: pictures([], []), "got 0 captions and 0 images, needs as many, at least one"),
        (lambda: pictures([ONES], ["a", "b"]), "got 2 captions and 1 images, needs as many, at least one"),
        (
            lambda: pictures([ONES, np.ones(3)], ["a", "b"]),
            "images[1] of shape (3,) must be (height, width), all finite",
        ),
        (lambda: pictures([ONES], ["a"], columns=0), "columns must be at least 1, got 0"),
        (lambda: curves({}, xlabel="x", ylabel="y"), "series is empty, needs at least one curve"),
        (
            lambda: curves({"a": ([1, 2], [1])}, xlabel="x", ylabel="y"),
            "series['a'] has 1 values for 2 x, needs as many",
        ),
        (
            lambda: curves({"a": ONES}, xlabel="x", ylabel="y"),
            "series['a'] has shape (2, 3), needs one axis with at least one step: "
            "select a feature by [:, feature]",
        ),
        (lambda: forecasts([], [1], {}), "past has shape (0,), needs one axis with at least one step"),
        (lambda: forecasts([1], [1, 2], {"a": [1]}), "predictions['a'] has 1 steps, future has 2"),
    ],
)
def test_errors_name_the_argument(draw, message):
    with pytest.raises(ValueError) as caught:
        draw()
    assert str(caught.value) == message
