"""Shared parts of all plots: figures without pyplot, line styles, and legends."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DASHES = ("-", "--", "-.", ":", (0, (7, 2, 1, 2, 1, 2)))
MARKERS = ("o", "s", "^", "D", "v", "X", "P")  # 5 and 7 have no common factor: 35 styles


def new_figure(width: float = 7.0, height: float = 4.2) -> Figure:
    """Make a figure that can be saved, without pyplot; sizes in inches."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def line_style(index: int, points: int) -> dict[str, Any]:
    """Dashes, markers and color of line number `index`, distinct even without color; about 20 markers."""
    return {
        "color": f"C{index % 10}",
        "linestyle": DASHES[index % len(DASHES)],
        "linewidth": 1.6,
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 4.5,
        "markevery": max(1, points // 20),
    }


def point_style(index: int) -> dict[str, Any]:
    """Marker and color of point set number `index`: hollow, distinct even without color."""
    return {
        "marker": MARKERS[index % len(MARKERS)],
        "edgecolor": f"C{index % 10}",
        "facecolor": "none",
        "linewidth": 0.9,
    }


def add_legend(ax: Axes) -> None:
    """Add a legend to the right of the axes, where it covers no data."""
    legend = ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, handlelength=3.2)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name may contain a $
