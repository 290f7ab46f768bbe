"""The plot of a report on a trained model."""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jrnn.analysis import Report, Spectrum
from jrnn.analysis.memory import steps_of_rate
from jrnn.plots._figures import new_figure
from jrnn.plots.dynamics import eigenvalues, gate_saturation, gradient_norms, lyapunov_spectrum, sensitivities
from jrnn.plots.lines import curves

WIDTH = 165  # characters of a line of verdicts


def report(found: Report) -> Figure:
    """Draw a report: gradients, sensitivity, spectra, gates, and the verdicts in words.

    For a cell without a matrix w_hh, such as `MinGRU`, it shows singular values of the step instead of those
    eigenvalues, and for one without named gates (`checkpoint_name`) time scales of the state.

    Args:
      found: the result of `jrnn.analysis.inspect`.

    Returns:
      The figure, made without pyplot; `.savefig("report.png")` writes it.

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
        _draw_stretching(axes[4], found.jacobians)
    if found.gates:
        gate_saturation(found.gates, axes[5])
    else:
        _draw_time_scales(axes[5], found.jacobians)
    for ax in axes[: 5 if found.gates else 6]:
        _put_legend_below(ax)
    parts[1].text(0.02, 0.98, "\n".join(lines), va="top", fontsize=9.5, family="monospace", parse_math=False)
    return figure


def _draw_eigenvalues(ax: Axes, spectra: Mapping[str, Spectrum], of: str) -> None:
    eigenvalues({name: one.eigenvalues for name, one in spectra.items()}, ax)
    ax.set_title(f"Eigenvalues of {of}")


def _draw_stretching(ax: Axes, jacobians: Spectrum) -> None:
    """Draw singular values of the Jacobian at a few steps, largest first."""
    values = np.asarray(jacobians.singular_values, np.float64)
    ranks = np.arange(1, values.shape[1] + 1)
    series = {
        "largest at any step": (ranks, values.max(0)),
        "median step": (ranks, np.median(values, 0)),
        "smallest at any step": (ranks, values.min(0)),
    }
    curves(series, ax, xlabel="direction, most stretched first", ylabel="singular value (1: unchanged)")
    ax.axhline(1, color="black", linewidth=0.8, linestyle=":")
    ax.set_title("Stretching by a step, ∂h$_t$/∂h$_{t-1}$")


def _draw_time_scales(ax: Axes, jacobians: Spectrum) -> None:
    """Draw time scales from the eigenvalues at a few steps, slowest first."""
    sizes = -np.sort(-np.abs(np.asarray(jacobians.eigenvalues, np.complex128)), 1)
    with np.errstate(divide="ignore"):
        scales = np.asarray(steps_of_rate(np.log(sizes).mean(0)), np.float64)
    shown = np.where((scales > 0) & np.isfinite(scales), scales, np.nan)
    if np.isnan(shown).all():
        _leave_empty(
            ax, "no part of the state decays" if scales.any() else "a step keeps nothing of the state"
        )
        return
    ranks = np.arange(1, len(shown) + 1)
    curves({"τ": (ranks, shown)}, ax, xlabel="direction, slowest first", ylabel="τ (steps)", log=True)
    ax.set_title("Time scales of a step, −1 / mean ln |λ|")


def _put_legend_below(ax: Axes) -> None:
    """Move a legend below narrow axes, and drop it if it has a single name."""
    if (legend := ax.get_legend()) is not None:
        legend.remove()
    handles, names = ax.get_legend_handles_labels()
    if len(handles) > 1:
        ax.legend(handles, names, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False, fontsize=8)


def _leave_empty(ax: Axes, reason: str) -> None:
    ax.text(0.5, 0.5, reason, ha="center", va="center", transform=ax.transAxes)
    ax.set_axis_off()
