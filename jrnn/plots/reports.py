"""A page about a trained model."""

import textwrap
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jrnn.analysis import Report, Spectrum
from jrnn.plots.dynamics import eigenvalues, gate_saturation, gradient_norms, lyapunov_spectrum, sensitivities
from jrnn.plots.figures import new_figure

WIDTH = 165  # characters of a line of verdicts


def report(found: Report) -> Figure:
    """Draw a report: gradients, what the last state keeps, spectra, gates, and the verdicts in words.

    Args:
      found: what `jrnn.analysis.inspect` returns.

    Returns:
      The figure, which pyplot does not know; `.savefig("report.png")` writes it.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.GRU(3)
    >>> batch = jrnn.Batch(jnp.ones((20, 2, 2)), jnp.zeros((20, 2, 3)))
    >>> loss = jrnn.PerStep(jrnn.losses.mean_squared_error)
    >>> found = jrnn.analysis.inspect(cell, cell.init(jax.random.key(0), 2), batch, loss)
    >>> len(jrnn.plots.report(found).axes)
    6
    """
    lines = [
        line
        for name, verdict in found.verdicts.items()
        for line in textwrap.wrap(f"{name}: {verdict}", WIDTH, subsequent_indent="    ")
    ]
    words = 0.5 + 0.19 * len(lines)
    figure = new_figure(15.0, 8.6 + words)
    figure.suptitle(textwrap.shorten(str(found.model), 150))
    parts: Any = figure.subfigures(2, 1, height_ratios=(8.6, words))
    axes = parts[0].subplots(2, 3).ravel()
    gradient_norms(found.flow, axes[0])
    sensitivities({"this model": found.sensitivity}, axes[1])
    lyapunov_spectrum({"this model": found.lyapunov}, axes[2])
    _draw_eigenvalues(axes[3], {"at a few steps": found.jacobians}, "∂h$_t$/∂h$_{t-1}$")
    if found.matrices:
        _draw_eigenvalues(axes[4], found.matrices, "recurrent matrices")
    else:
        _leave_empty(axes[4], "no recurrent matrix is named w_hh")
    if found.gates:
        gate_saturation(found.gates, axes[5])
    else:
        _leave_empty(axes[5], "the cells name no gates")
    for ax in axes[:5]:
        _put_legend_below(ax)
    parts[1].text(0.02, 0.98, "\n".join(lines), va="top", fontsize=9.5, family="monospace", parse_math=False)
    return figure


def _draw_eigenvalues(ax: Axes, spectra: Mapping[str, Spectrum], of: str) -> None:
    eigenvalues({name: one.eigenvalues for name, one in spectra.items()}, ax)
    ax.set_title(f"Eigenvalues of {of}")


def _put_legend_below(ax: Axes) -> None:
    """Where columns are narrow there is room below; a single name says nothing new on a page of one model."""
    if (legend := ax.get_legend()) is not None:
        legend.remove()
    handles, names = ax.get_legend_handles_labels()
    if len(handles) > 1:
        ax.legend(handles, names, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False, fontsize=8)


def _leave_empty(ax: Axes, reason: str) -> None:
    ax.text(0.5, 0.5, reason, ha="center", va="center", transform=ax.transAxes)
    ax.set_axis_off()
