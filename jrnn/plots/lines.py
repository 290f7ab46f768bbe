"""Curves, and forecasts beside the truth: told apart without colour, the legend beside the data."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from jrnn.plots._figures import add_legend, line_style, new_figure


def curves(
    series: Mapping[str, Any],
    ax: Axes | None = None,
    *,
    xlabel: str,
    ylabel: str,
    log: bool = False,
) -> Axes:
    """Draw curves over one x axis, such as accuracy by length, or the norm of a gradient by lag.

    Args:
      series: for each name, values, drawn over 0, 1, 2, …, or a tuple `(x, values)`. NaN leaves a gap.
      ax: matplotlib axes to draw into; if left out, those of a new figure without pyplot.
      xlabel: what x is, with its unit.
      ylabel: what the values are, with their unit.
      log: logarithmic y axis, on which values of 0 and below leave a gap.

    Returns:
      The axes; `.figure.savefig("curves.png")` writes them.

    Raises:
      ValueError: no curve, or one of which x and values are not alike.

    >>> from jrnn.plots import curves
    >>> series = {"with": ([5, 10], [1.0, 1.0]), "without": ([5, 10], [1.0, 0.4])}
    >>> ax = curves(series, xlabel="length (tokens)", ylabel="exact match")
    >>> [line.get_label() for line in ax.lines]
    ['with', 'without']
    """
    if not series:
        raise ValueError("series is empty, needs at least one curve")
    points = {name: _points(name, given) for name, given in series.items()}
    ax = new_figure().subplots() if ax is None else ax
    for index, (name, (x, values)) in enumerate(points.items()):
        ax.plot(x, values, label=name, **line_style(index, len(x)))
    if log and any((values > 0).any() for _, values in points.values()):  # else all is a gap
        ax.set_yscale("log", nonpositive="mask")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(alpha=0.3)
    add_legend(ax)
    return ax


def forecasts(
    past: Any,
    future: Any,
    predictions: Mapping[str, Any],
    ax: Axes | None = None,
    *,
    ylabel: str = "value",
) -> Axes:
    """Draw what was known, what came, and what was forecast, over the steps since the forecast was made.

        past at −P + 1 … 0,   future and predictions at 1 … H

    Args:
      past: (P,), what the forecast was made from.
      future: (H,), what came.
      predictions: for each name, (H,): a model, and the forecasts that it should beat.
      ax: matplotlib axes to draw into; if left out, those of a new figure without pyplot.
      ylabel: what the values are, with their unit.

    Returns:
      The axes; `.figure.savefig("forecasts.png")` writes them.

    Raises:
      ValueError: an argument that has more than one axis or no step, or a prediction of another length.

    >>> from jrnn.plots import forecasts
    >>> ax = forecasts([1, 2, 3], [4, 5], {"persistence": [3, 3]}, ylabel="passengers (thousands)")
    >>> [(line.get_label(), line.get_xdata().tolist()) for line in ax.lines[:3]]
    [('past', [-2, -1, 0]), ('truth', [1, 2]), ('persistence', [1, 2])]
    """
    past, future = _values("past", past), _values("future", future)
    found = {name: _values(f"predictions[{name!r}]", given) for name, given in predictions.items()}
    for name, values in found.items():
        if len(values) != len(future):
            raise ValueError(f"predictions[{name!r}] has {len(values)} steps, future has {len(future)}")
    ax = new_figure().subplots() if ax is None else ax
    ahead = np.arange(1, len(future) + 1)
    ax.plot(np.arange(1 - len(past), 1), past, ".-", color="0.45", linewidth=1.6, markersize=4, label="past")
    truth = line_style(0, len(future)) | {"color": "black", "linewidth": 2.2}
    ax.plot(ahead, future, label="truth", **truth)
    for index, (name, values) in enumerate(found.items(), 1):
        ax.plot(ahead, values, label=name, **line_style(index, len(future)))
    ax.axvline(0, color="black", linewidth=0.8, linestyle=":", label="forecast origin")
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    ax.set(xlabel="steps after the forecast origin", ylabel=ylabel)
    ax.grid(alpha=0.3)
    add_legend(ax)
    return ax


def _values(name: str, given: Any) -> NDArray[np.float64]:
    values = np.asarray(given).astype(np.float64)
    if values.ndim != 1 or not values.size:
        hint = ": of several features, one is [:, feature]" if values.ndim == 2 else ""
        raise ValueError(f"{name} has shape {values.shape}, needs one axis and a step at least{hint}")
    return values


def _points(name: str, given: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of a curve, behind their x."""
    where = f"series[{name!r}]"
    if not (isinstance(given, tuple) and len(given) == 2 and np.ndim(given[0])):
        values = _values(where, given)
        return np.arange(len(values), dtype=np.float64), values
    x, values = _values(f"x of {where}", given[0]), _values(where, given[1])
    if len(x) != len(values):
        raise ValueError(f"{where} has {len(values)} values, its x {len(x)}")
    return x, values
