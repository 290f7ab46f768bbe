"""Heat maps: attention weights, confusion matrices, piano rolls."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from jrnn.plots._figures import new_figure

# light gray to black; exact zeros are masked and so white
GRAYS = ListedColormap(matplotlib.colormaps["Greys"](np.linspace(0.15, 1, 256)), name="jrnn grays")
BLANKS = {" ": "␣", "\n": "↵", "\t": "⇥"}
MOST_LABELS = 90  # along one axis


def heat_map(
    weights: Any,
    rows: Sequence[Any],
    columns: Sequence[Any],
    ax: Axes | None = None,
    *,
    title: str = "Attention weights",
    row_label: str = "output token",
    column_label: str = "source token",
    unit: str = "weight",
) -> Axes:
    """Draw a matrix in shades of gray, such as the attention of output tokens to source tokens.

    Darker is larger. Exact zeros, as in padding, are white; all other values are at least light gray. If an
    axis has more than 90 labels, every second (third, …) is shown.

    Args:
      weights: (T, S), numbers; for one sequence of a batch, `weights[:T, b, :S]`.
      rows: T labels, such as output tokens, from top to bottom.
      columns: S labels, such as source tokens, from left to right.
      ax: matplotlib axes to draw into; defaults to those of a new figure, without pyplot.
      title: title of the plot.
      row_label: label of the rows.
      column_label: label of the columns.
      unit: label of the color bar.

    Returns:
      The axes; `.figure.savefig("attention.png")` writes them.

    Raises:
      ValueError: not a matrix, values that are not finite, or a wrong number of labels.

    Reference: Bahdanau, Cho, Bengio, Neural machine translation by jointly learning to align and translate,
    2015, arXiv:1409.0473, figure 3.

    >>> from jrnn.plots import heat_map
    >>> ax = heat_map([[0.9, 0.1, 0.0], [0.2, 0.0, 0.8]], rows=["un", "chat"], columns=["a", "cat", "."])
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['a', 'cat', '.']
    """
    weights = _matrix("weights", weights)
    labels = [_labels("rows", rows, weights, 0), _labels("columns", columns, weights, 1)]
    ax = _axes(labels, cell=0.28) if ax is None else ax
    image = _draw(ax, weights, labels)
    _add_bar(ax, image, unit)
    ax.set(title=title, xlabel=column_label, ylabel=row_label)
    return ax


def confusion_matrix(predictions: Any, targets: Any, classes: Sequence[Any], ax: Axes | None = None) -> Axes:
    """Draw a confusion matrix: counts, and fractions of the true class.

        fractionᵢⱼ = countᵢⱼ / Σₖ countᵢₖ,   countᵢⱼ = number of labels with target i and prediction j

    Shades of gray show fractions, so that the diagonal is the recall of each class.

    Args:
      predictions: integer labels, any shape; from logits, their `argmax(-1)`.
      targets: the same shape.
      classes: names of the labels 0, 1, ….
      ax: matplotlib axes to draw into; defaults to those of a new figure, without pyplot.

    Returns:
      The axes; `.figure.savefig("confusion.png")` writes them.

    Raises:
      ValueError: different shapes, or labels that are not integers or out of range.

    >>> from jrnn.plots import confusion_matrix
    >>> ax = confusion_matrix([0, 1, 1, 1], [0, 0, 1, 1], classes=["down", "up"])
    >>> [text.get_text() for text in ax.texts]
    ['1\\n50 %', '1\\n50 %', '0', '2\\n100 %']
    """
    counts = _counts(predictions, targets, len(classes))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    names = [str(name) for name in classes]
    ax = _axes([names, names], cell=0.6) if ax is None else ax
    image = _draw(ax, shares, [names, names])
    image.set_clim(0, 1)
    for (row, column), count in np.ndenumerate(counts):
        share = shares[row, column]
        text = f"{count}\n{share:.0%}".replace("%", " %") if count else "0"
        dark = "white" if share > 0.5 else "black"
        ax.text(column, row, text, color=dark, ha="center", va="center", fontsize=7.5)
    _add_bar(ax, image, "fraction of the true class")
    ax.set(title="Confusion", xlabel="predicted class", ylabel="true class")
    return ax


def piano_roll(roll: Any, ax: Axes | None = None, *, first_key: int = 21) -> Axes:
    """Draw the keys that are pressed at each step, with time from left to right and pitch upwards.

    The plot shows the octaves in use, and labels each C: C4 is middle C, MIDI note 60.

    Args:
      roll: (T, keys), 0 or 1, or probabilities, shown in gray.
      ax: matplotlib axes to draw into; defaults to those of a new figure, without pyplot.
      first_key: MIDI note of column 0; 21, A0, is the lowest of the 88 keys of a piano.

    Returns:
      The axes; `.figure.savefig("roll.png")` writes them.

    Raises:
      ValueError: not a matrix, or values outside [0, 1].

    >>> import numpy as np
    >>> from jrnn.plots import piano_roll
    >>> ax = piano_roll(np.eye(88)[[39, 43, 46]])
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['C4', 'C5']
    """
    roll = _matrix("roll", roll)
    if roll.min() < 0 or roll.max() > 1:
        raise ValueError(f"roll must lie in [0, 1], got {roll.min():g} to {roll.max():g}")
    steps, keys = roll.shape
    used = first_key + np.flatnonzero(roll.any(0))
    low, high = (used[0], used[-1]) if len(used) else (first_key, first_key + keys - 1)
    low = low // 12 * 12
    high = max(low + 12, -(-high // 12) * 12)  # from C to C
    ax = new_figure(min(12.0, 4.0 + 0.05 * steps), 1.8 + 0.03 * (high - low)).subplots() if ax is None else ax
    ax.imshow(
        np.ma.masked_equal(roll.T, 0),
        cmap=GRAYS,
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
        origin="lower",
        extent=(-0.5, steps - 0.5, first_key - 0.5, first_key + keys - 0.5),
        zorder=1,  # above the grid
    )
    octaves = range(low, high + 1, 12)
    ax.set_yticks(octaves, [f"C{note // 12 - 1}" for note in octaves])
    ax.set(title="Piano roll", xlabel="step", ylabel="key", ylim=(low - 0.5, high + 0.5))
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    ax.set_axisbelow(True)
    ax.grid(axis="y", alpha=0.4)
    return ax


def _counts(predictions: Any, targets: Any, classes: int) -> NDArray[np.int64]:
    """Count pairs of target and prediction, (K, K), with targets as rows."""
    predictions, targets = np.asarray(predictions), np.asarray(targets)
    if predictions.shape != targets.shape:
        raise ValueError(
            f"predictions has shape {predictions.shape}, targets {targets.shape}: needs the same"
        )
    for name, labels in (("predictions", predictions), ("targets", targets)):
        if not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"{name} must be integers, got {labels.dtype}: from logits, use argmax(-1)")
        if labels.size and not 0 <= labels.min() <= labels.max() < classes:
            given = f"{labels.min()} to {labels.max()}"
            raise ValueError(f"{name} must lie in [0, {classes}) for {classes} classes, got {given}")
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (targets, predictions), 1)
    return counts


def _matrix(name: str, given: Any) -> NDArray[np.float64]:
    matrix = np.asarray(given).astype(np.float64)
    if matrix.ndim != 2 or not matrix.size:
        hint = f": select one sequence of a batch by {name}[:, b]" if matrix.ndim == 3 else ""
        raise ValueError(f"{name} has shape {matrix.shape}, needs two axes{hint}")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name} has values that are not finite")
    return matrix


def _labels(name: str, given: Sequence[Any], matrix: NDArray[np.float64], axis: int) -> list[str]:
    if len(given) != matrix.shape[axis]:
        raise ValueError(
            f"{name} has {len(given)} labels, weights of shape {matrix.shape} needs {matrix.shape[axis]}"
        )
    return [BLANKS.get(str(label), str(label)) for label in given]


def _axes(labels: list[list[str]], cell: float) -> Axes:
    """Axes of a new figure with fields of about `cell` inches, within bounds."""
    (rows, columns), (left, below) = map(len, labels), (max(map(len, names)) * 0.08 for names in labels)
    width, height = (min(12.0, max(2.0, count * cell)) for count in (columns, rows))
    return new_figure(width + left + 1.6, height + below + 0.9).subplots()


def _draw(ax: Axes, matrix: NDArray[np.float64], labels: list[list[str]]) -> Any:
    """Draw fields and their labels, and return the image."""
    masked = np.ma.masked_equal(matrix, 0)
    image = ax.imshow(masked, cmap=GRAYS, vmin=min(0.0, matrix.min()), aspect="auto", interpolation="nearest")
    for axis, names in zip((ax.yaxis, ax.xaxis), labels, strict=True):
        shown = range(0, len(names), -(-len(names) // MOST_LABELS))
        axis.set_ticks(shown, [names[index] for index in shown], fontsize=9, parse_math=False)
    if max(map(len, labels[1])) > 2:
        ax.tick_params(axis="x", rotation=90)
    return image


def _add_bar(ax: Axes, image: Any, label: str) -> None:
    ax.figure.colorbar(image, ax=ax, label=label, fraction=0.05, pad=0.02, aspect=30)
