"""Plots of the losses of a run."""

import contextlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from jrnn._checks import brief
from jrnn.plots._figures import new_figure
from jrnn.plots.lines import curves

Records = Iterable[dict[str, Any]]


def loss_curve(
    path_or_records: str | os.PathLike[str] | Records, ax: Axes | None = None, bits: bool = False
) -> Axes:
    """Draw the losses of a run: training losses at every step and smoothed, held-out losses per epoch.

        smoothedₛ = mean of the losses of the w steps around s,   w = max(1, steps // 50)

    The window is cut off at both ends.

    Args:
      path_or_records: the directory of a run, its `metrics.jsonl`, or the records themselves, in nats:
        `{"step", "loss"}` for a step, `{"step", "validation"}` for an epoch; if there are no steps, as in
        `fit(...).history`, the mean of each epoch, `{"step", "train"}`, is drawn.
      ax: matplotlib axes to draw into; defaults to those of a new figure, without pyplot.
      bits: show losses in bits (nats / ln 2) rather than nats.

    Returns:
      The axes; `.figure.savefig("loss.png")` writes them.

    Raises:
      ValueError: there is no step to draw, or the file is not a metrics file.
      OSError: the file is missing or cannot be read.

    >>> from jrnn.plots import loss_curve
    >>> ax = loss_curve([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 2, "validation": 1.5}])
    >>> [line.get_ydata().tolist() for line in ax.lines]
    [[2.0, 1.0], [2.0, 1.0], [1.5]]
    """
    records = _records(path_or_records)
    unit = "bits" if bits else "nats"
    steps, losses = _series(records, "loss", bits)
    epochs, held_out = _series(records, "validation", bits)
    label = "train, every step"
    if not len(steps):
        (steps, losses), label = _series(records, "train", bits), "train, every epoch"
    if not len(steps):
        raise ValueError("loss_curve: no record has a step and its loss, needs at least one")
    ax = new_figure().subplots() if ax is None else ax
    window = max(1, len(steps) // 50)
    ax.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.8, label=label)
    smooth = f"train, mean of {window} steps" if window > 1 else "train"
    ax.plot(steps, _running_mean(losses, window), color="tab:blue", linewidth=1.6, label=smooth)
    if len(epochs):
        last = f"held out, {held_out[-1]:.3f} {unit} at the end"
        ax.plot(epochs, held_out, color="tab:orange", marker="o", markersize=4.0, label=last)
    ax.set(title="Loss while training", xlabel="training step", ylabel=f"mean loss per target ({unit})")
    ax.grid(alpha=0.3)
    ax.legend()
    return ax


def training_curves(
    path_or_records: str | os.PathLike[str] | Records,
    names: tuple[str, ...] = ("grad_norm",),
    ax: Axes | None = None,
    *,
    log: bool = True,
) -> Axes:
    """Draw numbers of a run over its steps: gradient norms, and measurements of monitors.

    Args:
      path_or_records: the directory of a run, its `metrics.jsonl`, or the records themselves.
      names: the numbers to draw: "grad_norm", "penalty", those of a `jrnn.analysis.Watch`.
      ax: matplotlib axes to draw into; defaults to those of a new figure, without pyplot.
      log: logarithmic y axis, on which values of 0 and below leave a gap.

    Returns:
      The axes; `.figure.savefig("training.png")` writes them.

    Raises:
      ValueError: a number that no record has.
      OSError: the file is missing or cannot be read.

    >>> from jrnn.plots import training_curves
    >>> ax = training_curves([{"step": 1, "radius": 1.0}, {"step": 3, "radius": 1.5}], ("radius",))
    >>> ax.lines[0].get_xdata().tolist()
    [1.0, 3.0]
    """
    records = _records(path_or_records)
    series = {name: _series(records, name, bits=False) for name in names}
    for name, (steps, _) in series.items():
        if not len(steps):
            known = sorted({key for record in records for key in record} - {"step", "epoch"})
            raise ValueError(f"no record has {name!r}, they have {known}")
    return curves(series, ax, xlabel="training step", ylabel="value", log=log)


def population_curves(
    rows: Records,
    by: str | None = None,
    name: str = "validation",
    ax: Axes | None = None,
    *,
    log: bool = False,
) -> Axes:
    """Draw a number of the members of a population over their epochs: the median, and the range of the rest.

    Members that have stopped or diverged count until their last epoch.

    Args:
      rows: the table of a `sweep`, a row for each member and epoch.
      by: the setting whose values have a curve each, over all seeds and other settings; None: one curve.
      name: the number to draw: "validation", "train", or one of a monitor.
      ax: matplotlib axes to draw into; defaults to those of a new figure, without pyplot.
      log: logarithmic y axis.

    Returns:
      The axes; `.figure.savefig("population.png")` writes them.

    Raises:
      ValueError: a number or a setting that no row has; rows that lack it, as of a monitor, are left out.

    >>> from jrnn.plots import population_curves
    >>> rows = [{"epoch": 1, "rate": r, "train": r * s} for r in (0.1, 0.2) for s in (1, 2, 6)]
    >>> [line.get_ydata().tolist() for line in population_curves(rows, by="rate", name="train").lines]
    [[0.2], [0.4]]
    """
    rows = list(rows)
    for needed in (name, "epoch", *([] if by is None else [by])):
        if not any(needed in row for row in rows):
            known = sorted({key for row in rows for key in row})
            raise ValueError(f"no row has {needed!r}, they have {known}")
    groups: dict[Any, dict[int, list[float]]] = {}
    for row in [row for row in rows if name in row and (by is None or by in row)]:
        label = "all members" if by is None else f"{by} = {row[by]}"
        groups.setdefault(label, {}).setdefault(row["epoch"], []).append(float(row[name]))
    middle = {label: (sorted(of), [np.median(of[e]) for e in sorted(of)]) for label, of in groups.items()}
    ax = curves(middle, ax, xlabel="epoch", ylabel=f"{name}: median and range", log=log)
    for line, of in zip(ax.lines[-len(groups) :], groups.values(), strict=True):
        low, high = ([bound(of[e]) for e in sorted(of)] for bound in (min, max))
        ax.fill_between(sorted(of), low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    return ax


@dataclass(frozen=True)
class LossCurve:
    """Monitor for `fit` that draws the loss curve after every epoch.

    It reads `out/metrics.jsonl`, which `fit(out=...)` writes, and writes `out/loss.png`.

    Args:
      out: directory of the run, as given to `fit`.
      bits: show losses in bits rather than nats.

    Raises:
      OSError: when called, there is no metrics file, or no space left for the image.

    >>> from jrnn.plots import LossCurve
    >>> LossCurve("runs/1", bits=True)
    LossCurve(out='runs/1', bits=True)
    """

    out: str | os.PathLike[str]
    bits: bool = False

    def __call__(self, record: dict[str, Any], state: Any) -> None:
        """Draw after an epoch; its record is passed on, since the file does not have it yet."""
        del state
        if "train" in record:
            figure = new_figure()
            loss_curve([*_records(self.out), record], figure.subplots(), self.bits)
            figure.savefig(Path(self.out) / "loss.png")


def _records(given: str | os.PathLike[str] | Records) -> list[dict[str, Any]]:
    """All records, read from the metrics file if a path is given, without damaged lines."""
    if not isinstance(given, str | os.PathLike):
        records = list(given) if isinstance(given, Iterable) else [given]
        if odd := [record for record in records if not isinstance(record, Mapping)]:
            hint = "pass result.history" if hasattr(given, "history") else "or the directory of a run"
            raise TypeError(f"records must be a list of dicts, got {brief(odd[0])} among them: {hint}")
        return records
    path = Path(given)
    path = path / "metrics.jsonl" if path.is_dir() else path
    if path.exists() and not path.is_file():  # reading a pipe would block, a device might never end
        raise ValueError(f"{path}: not a regular file, needs the metrics of a run")
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                records.append(record)
    if not records and path.stat().st_size:
        raise ValueError(f"{path}: not a metrics file, it has no records")
    return records


def _series(records: list[dict[str, Any]], name: str, bits: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """Steps and losses of the records that have `name`."""
    found = [(r["step"], math.nan if r[name] is None else float(r[name])) for r in records if name in r]
    steps, losses = np.array(found, np.float64).reshape(-1, 2).T
    return steps, losses / math.log(2) if bits else losses


def _running_mean(values: NDArray[Any], window: int) -> NDArray[Any]:
    """Mean over `window` entries around each, fewer at both ends."""
    kernel = np.ones(window)
    sums = np.convolve(values, kernel, mode="same")
    return np.asarray(sums / np.convolve(np.ones_like(values), kernel, mode="same"))
