"""Plots of curves and forecasts, with lines that are distinct even without color."""

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
    """Draw curves over a common x axis, such as accuracy by length, or gradient norms by lag.

    Args:
      series: by name, values over 0, 1, 2, …, or a tuple `(x, values)`. NaN leaves a gap.
      ax: matplotlib axes to draw into; defaults to those of a new figure, without pyplot.
      xlabel: label of the x axis, with its unit.
      ylabel: label of the y axis, with its unit.
      log: logarithmic y axis, on which values of 0 and below leave a gap.

    Returns:
      The axes; `.figure.savefig("curves.png")` writes them.

    Raises:
      ValueError: no curve, or x and values of different lengths.

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
    if log and any((values > 0).any() for _, values in points.values()):  # otherwise there is nothing to draw
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
    """Draw the past, the true future and forecasts, over the steps from the forecast origin.

        past at −P + 1 … 0,   future and predictions at 1 … H

    Args:
      past: (P,), the known values.
      future: (H,), the true values.
      predictions: forecasts (H,) by name: those of a model, and those it should beat.
      ax: matplotlib axes to draw into; defaults to those of a new figure, without pyplot.
      ylabel: label of the y axis, with its unit.

    Returns:
      The axes; `.figure.savefig("forecasts.png")` writes them.

    Raises:
      ValueError: an argument with more than one axis or without steps, or a prediction of another length.

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
        hint = ": select a feature by [:, feature]" if values.ndim == 2 else ""
        raise ValueError(f"{name} has shape {values.shape}, needs one axis with at least one step{hint}")
    return values


def _points(name: str, given: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The x and values of a curve."""
    where = f"series[{name!r}]"
    if not (isinstance(given, tuple) and len(given) == 2 and np.ndim(given[0])):
        values = _values(where, given)
        return np.arange(len(values), dtype=np.float64), values
    x, values = _values(f"x of {where}", given[0]), _values(where, given[1])
    if len(x) != len(values):
        raise ValueError(f"{where} has {len(values)} values for {len(x)} x, needs as many")
    return x, values
