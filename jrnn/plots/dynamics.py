"""Plots of results of `jrnn.analysis`: gradients through time, spectra, gates, phase portraits."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from jrnn.analysis import (
    FixedPoints,
    GateStatistics,
    GradientFlow,
    Lyapunov,
    Projection,
    Sensitivity,
)
from jrnn.plots._figures import DASHES, MARKERS, add_legend, new_figure, point_style
from jrnn.plots.lines import curves

KINDS = {  # marker, True if filled
    "stable": ("o", True),
    "saddle": ("X", True),
    "unstable": ("s", False),
    "slow": ("D", False),
}


def gradient_norms(flow: GradientFlow, ax: Axes | None = None) -> Axes:
    """Draw gradients of the last step's loss with respect to each state, by lag, on a logarithmic scale.

        normₖ = √ of the mean over sequences of ‖∂L_T/∂h_T₋ₖ‖²

    Only the loss of the last step is used, since a loss at every step contributes to the gradient at every
    step and hides the transport through time. Norms that over- or underflow leave a gap.

    Args:
      flow: the result of `gradient_flow`.
      ax: matplotlib axes to draw into; defaults to those of a new figure, without pyplot.

    Returns:
      The axes; `.figure.savefig("flow.png")` writes them.

    >>> import numpy as np
    >>> from jrnn.analysis import GradientFlow
    >>> from jrnn.plots import gradient_norms
    >>> halved = 0.5 ** np.arange(9.0)[:, None]
    >>> ax = gradient_norms(GradientFlow(0.0, norms={"h": halved[::-1]}, by_lag={"h": halved}))
    >>> [line.get_label() for line in ax.lines]
    ['h (vanishing, ×0.5 per step)']
    """
    series = {}
    for name, (kind, rate) in flow.verdicts.items():
        label = f"{name} ({kind})" if kind == "none" else f"{name} ({kind}, ×{rate:.3g} per step)"
        series[label] = flow.lasting[name]
    ylabel = "‖∂L$_T$/∂h$_t$‖ (loss per unit of state)"
    ax = curves(series, ax, xlabel="lag T − t (steps)", ylabel=ylabel, log=True)
    ax.set_title("Gradient of the last step's loss for each state")
    return ax


def sensitivities(
    found: Mapping[str, Sensitivity],
    ax: Axes | None = None,
    *,
    bounds: Mapping[str, Any] | None = None,
) -> Axes:
    """Draw how much the last state depends on earlier states, by lag, on a logarithmic scale.

    Args:
      found: results of `sensitivity` by name.
      ax: matplotlib axes to draw into; defaults to those of a new figure, without pyplot.
      bounds: logarithms of bounds by name, as from `log_bound`; names must differ from those in `found`.

    Returns:
      The axes; `.figure.savefig("sensitivity.png")` writes them.

    Raises:
      ValueError: nothing to draw, or a bound with a name in `found`.

    >>> import numpy as np
    >>> from jrnn.analysis import Sensitivity
    >>> from jrnn.plots import sensitivities
    >>> ax = sensitivities({"Elman": Sensitivity(np.log([0.25, 0.5, 1.0]), None)})
    >>> ax.lines[0].get_ydata().round(2).tolist()
    [1.0, 0.5, 0.25]
    """
    if twice := found.keys() & (bounds or {}).keys():
        raise ValueError(f"bounds has {sorted(twice)}, which found has too: use different names")
    logs = {name: one.log_state for name, one in found.items()} | dict(bounds or {})
    with np.errstate(over="ignore"):  # an overflow leaves a gap
        series = {name: np.exp(np.asarray(values, np.float64))[::-1] for name, values in logs.items()}
    ax = curves(series, ax, xlabel="lag T − t (steps)", ylabel="‖∂h$_T$/∂h$_t$‖", log=True)
    ax.set_title("Sensitivity of the last state to earlier states")
    return ax


def eigenvalues(spectra: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Draw eigenvalues in the complex plane, with the unit circle.

    Args:
      spectra: complex numbers of any shape by name, such as the eigenvalues of a matrix or of Jacobians.
      ax: matplotlib axes to draw into; defaults to those of a new figure, without pyplot.

    Returns:
      The axes; `.figure.savefig("eigenvalues.png")` writes them.

    Raises:
      ValueError: nothing to draw.

    >>> from jrnn.plots import eigenvalues
    >>> ax = eigenvalues({"rotation": [1j, 1 - 1j]})
    >>> ax.collections[0].get_offsets().tolist()
    [[0.0, 1.0], [1.0, -1.0]]
    """
    if not spectra:
        raise ValueError("spectra is empty, needs at least one set of eigenvalues")
    ax = new_figure(5.6, 4.2).subplots() if ax is None else ax
    turn = np.exp(2j * np.pi * np.linspace(0, 1, 200))
    circle: dict[str, Any] = {"color": "black", "linewidth": 0.8, "linestyle": ":", "zorder": 3}
    ax.plot(turn.real, turn.imag, label="|λ| = 1", **circle)
    for index, (name, values) in enumerate(spectra.items()):
        points = np.asarray(values, np.complex128).ravel()
        ax.scatter(points.real, points.imag, s=18, label=name, **point_style(index))
    ax.set(title="Eigenvalues", xlabel="Re λ", ylabel="Im λ")
    ax.set_aspect("equal", adjustable="datalim")  # keeps the size of the axes and the place of the legend
    ax.grid(alpha=0.3)
    add_legend(ax)
    return ax


def lyapunov_spectrum(found: Mapping[str, Lyapunov], ax: Axes | None = None) -> Axes:
    """Draw Lyapunov exponents in decreasing order, with error bars of two standard errors.

    Args:
      found: results of `lyapunov` by name.
      ax: matplotlib axes to draw into; defaults to those of a new figure, without pyplot.

    Returns:
      The axes; `.figure.savefig("lyapunov.png")` writes them.

    Raises:
      ValueError: nothing to draw.

    >>> import numpy as np
    >>> from jrnn.analysis import Lyapunov
    >>> from jrnn.plots import lyapunov_spectrum
    >>> ax = lyapunov_spectrum({"GRU": Lyapunov(np.array([0.1, -0.2]), np.array([0.01, 0.02]), None)})
    >>> ax.get_legend_handles_labels()[1]
    ['GRU']
    """
    if not found:
        raise ValueError("found is empty, needs at least one spectrum")
    ax = new_figure().subplots() if ax is None else ax
    ax.axhline(0, color="black", linewidth=0.8, linestyle=":")
    for index, (name, one) in enumerate(found.items()):
        values, errors = (np.asarray(given, np.float64) for given in one[:2])
        values = np.where(np.isfinite(values), values, np.nan)
        style: dict[str, Any] = {"color": f"C{index % 10}", "linestyle": DASHES[index % len(DASHES)]}
        style |= {"marker": MARKERS[index % len(MARKERS)], "markersize": 4.0, "linewidth": 1.2}
        ax.errorbar(np.arange(1, len(values) + 1), values, 2 * np.nan_to_num(errors), label=name, **style)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    ax.set(title="Lyapunov spectrum", xlabel="exponent, largest first", ylabel="λ (nats per step)")
    ax.grid(alpha=0.3)
    add_legend(ax)
    return ax


def gate_saturation(gates: Mapping[str, GateStatistics], ax: Axes | None = None) -> Axes:
    """Draw how often the gate of each unit is closed and open, one point per unit.

    A gate on the diagonal from (0, 1) to (1, 0) is nearly binary; at (0, 0) it never saturates.

    Args:
      gates: the result of `gate_statistics`, or a part of it.
      ax: matplotlib axes to draw into; defaults to those of a new figure, without pyplot.

    Returns:
      The axes; `.figure.savefig("gates.png")` writes them.

    Raises:
      ValueError: nothing to draw.

    Reference: Karpathy, Johnson, Fei-Fei, Visualizing and understanding recurrent networks, 2015,
    arXiv:1506.02078, figure 3.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.GRU(3)
    >>> found = jrnn.analysis.gate_statistics(cell, cell.init(jax.random.key(0), 2), jnp.ones((5, 2)))
    >>> jrnn.plots.gate_saturation(found).get_xlabel()
    'fraction of steps with the gate closed'
    """
    if not gates:
        raise ValueError("gates is empty, needs at least one gate")
    ax = new_figure(5.6, 4.2).subplots() if ax is None else ax
    ax.plot([0, 1], [1, 0], color="black", linewidth=0.8, linestyle=":")
    for index, (name, found) in enumerate(gates.items()):
        low, high = (np.asarray(share, np.float64).ravel() for share in (found.low, found.high))
        ax.scatter(low, high, s=22, label=name, clip_on=False, **point_style(index))
    ax.set(xlabel="fraction of steps with the gate closed", ylabel="fraction with the gate open")
    ax.set(title="Saturation of gates, one point per unit", xlim=(0, 1), ylim=(0, 1))
    ax.grid(alpha=0.3)
    add_legend(ax)
    return ax


def phase_portrait(
    projection: Projection,
    trajectories: Iterable[Any] = (),
    points: FixedPoints | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw trajectories and fixed points in the plane of the first two principal components.

    Args:
      projection: the result of `principal_components`, with at least two components.
      trajectories: states as vectors, (T, D) each; a circle marks the start.
      points: the result of `find_fixed_points`.
      ax: matplotlib axes to draw into; defaults to those of a new figure, without pyplot.

    Returns:
      The axes; `.figure.savefig("portrait.png")` writes them.

    Raises:
      ValueError: a projection with fewer than two components, states of another width, or no states.

    >>> import numpy as np
    >>> from jrnn.analysis import principal_components
    >>> from jrnn.plots import phase_portrait
    >>> path = np.stack([np.cos(np.arange(9.0)), np.sin(np.arange(9.0)), np.zeros(9)], 1)
    >>> phase_portrait(principal_components(path), [path]).get_xlabel().split(",")[0]
    'component 1'
    """
    if len(projection.axes) < 2:
        raise ValueError(f"projection has {len(projection.axes)} components, needs at least 2")
    ax = new_figure(6.4, 4.8).subplots() if ax is None else ax
    for number, path in enumerate(trajectories):
        x, y = _plane(projection, path, f"trajectories[{number}]")
        ax.plot(x, y, color="0.6", linewidth=0.7, zorder=1)
        ax.plot(x[0], y[0], color="0.2", marker="o", markersize=4, markerfacecolor="none", zorder=2)
    for index, (kind, (marker, filled)) in enumerate(KINDS.items()):
        if points is None or not (chosen := points.kinds == kind).any():
            continue
        x, y = _plane(projection, points.states[chosen], "points.states")
        face = f"C{index}" if filled else "white"
        style: dict[str, Any] = point_style(index) | {"marker": marker, "facecolor": face, "linewidth": 1.1}
        ax.scatter(x, y, s=46, zorder=3, label=f"{kind} ({chosen.sum()})", **style)
    share = np.asarray(projection.explained)
    names = [f"component {i + 1}, {100 * share[i]:.0f} % of the variance" for i in (0, 1)]
    ax.set(title="Phase portrait", xlabel=names[0], ylabel=names[1])
    ax.grid(alpha=0.3)
    if points is not None and len(points.kinds):
        add_legend(ax)
    return ax


def _plane(projection: Projection, states: Any, name: str) -> NDArray[np.float64]:
    """The first two components of states, (2, n)."""
    shape, width = np.shape(states), len(projection.mean)
    if len(shape) != 2 or not shape[0] or shape[1] != width:
        raise ValueError(f"{name} has shape {shape}, needs (T, {width}) with at least one state")
    return np.asarray(projection.project(states), np.float64)[:, :2].T
