"""Progress reports of a run: a bar, a line per epoch, and the speed."""

import math
import sys
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from tqdm import tqdm

from jrnn._processes import total


@dataclass(frozen=True)
class Progress:
    """Options of the progress report of `fit`.

    Args:
      bar: show a progress bar and a line per epoch.
      bits: show losses in bits (nats / ln 2) rather than nats.
      unit: name of one target: "char", "step".

    >>> import jrnn
    >>> jrnn.Progress(bits=True, unit="char").describe(1.386)
    '2.000 bits/char'
    """

    bar: bool = True
    bits: bool = False
    unit: str = "step"

    def describe(self, nats: float) -> str:
        """Format a loss."""
        return f"{nats / math.log(2):.3f} bits/{self.unit}" if self.bits else f"loss {nats:.4g}"

    def postfix(self, record: dict[str, Any], watched: dict[str, float], meter: "Meter") -> str:
        """The text after the bar: loss and gradient norm of a step, numbers of monitors, and speed."""
        loss, norm = (float(jax.device_get(record[name])) for name in ("loss", "grad_norm"))
        parts = [self.describe(loss), f"gradient {norm:.3g}"]
        parts += [f"{name} {value:.3g}" for name, value in watched.items()]
        return ", ".join([*parts, meter.rate(self.unit)])


class Sums(NamedTuple):
    """Totals of an epoch."""

    targets: float
    nats: float
    seconds: float


class Meter:
    """Mean loss and speed of an epoch, continued from saved `sums`; the speed excludes the first step."""

    def __init__(self, targets: float = 0.0, nats: float = 0.0, seconds: float = 0.0) -> None:
        self.earlier = targets, nats, seconds
        self.begin()

    def begin(self) -> None:
        """Start the clock."""
        self.begun = self.shown = time.perf_counter()
        self.compiled = 0.0
        self.targets = 0.0
        self.finite = True  # of the last loss that was checked
        self.losses: list[tuple[float, Array]] = []

    def count(self, targets: Any, record: dict[str, Any]) -> None:
        """Record a step, with the targets of this process."""
        targets = float(jax.device_get(targets))
        if not self.losses:
            jax.block_until_ready(record["loss"])
            self.compiled = time.perf_counter() - self.begun
        else:
            self.targets += targets
            # the loss of the previous step, so that this one keeps running
            self.finite = math.isfinite(jax.device_get(self.losses[-1][1]))
        self.losses.append((targets, record["loss"]))

    def due(self) -> bool:
        """True if half a second has passed since this was last true."""
        now = time.perf_counter()
        if now - self.shown < 0.5:
            return False
        self.shown = now
        return True

    def rate(self, unit: str) -> str:
        """Targets per second since the first step, which compiles."""
        seconds = time.perf_counter() - self.begun - self.compiled
        speed = self.targets * jax.process_count() / max(seconds, 1e-9)
        return f"{speed:,.0f} {unit}s/s"

    def sums(self) -> Sums:
        """Number of targets of the epoch so far, the sum of their losses, and seconds."""
        targets, nats, seconds = self.earlier
        counts = total(np.array([count for count, _ in self.losses], float)).tolist()
        losses = jax.device_get([loss for _, loss in self.losses])
        for count, loss in zip(counts, losses, strict=True):
            targets, nats = targets + count, nats + count * float(loss)
        return Sums(targets, nats, seconds + time.perf_counter() - self.begun)

    def first_not_finite(self) -> int | None:
        """Index of the first loss that is not finite; None if it was before the run was resumed."""
        finite = np.isfinite(jax.device_get([loss for _, loss in self.losses]))
        return None if finite.all() else int(np.argmin(finite))

    def summary(self) -> dict[str, float]:
        """Mean loss over the epoch's targets, seconds, and those of the first step."""
        targets, nats, seconds = self.sums()
        mean = nats / targets if targets else 0.0
        return {"train": mean, "seconds": seconds, "first_step_seconds": self.compiled}


def bar(progress: Progress, title: str, total: int | None, initial: int) -> Any:
    """A progress bar over the batches of an epoch, hidden unless stderr is a terminal or notebook."""
    options = {"unit": "batch", "mininterval": 0.5, "leave": False, "file": sys.stderr}
    if not progress.bar:
        return tqdm(disable=True)
    from tqdm import auto  # in a notebook without widgets, importing this warns

    return auto.tqdm(total=total, initial=initial, desc=title, disable=None, **options)


def line(progress: Progress, entry: dict[str, Any]) -> str:
    """Format an epoch as one line."""
    parts = [f"epoch {entry['epoch']}", f"train {progress.describe(entry['train'])}"]
    if "validation" in entry:
        parts.append(f"held out {progress.describe(entry['validation'])}")
    parts.append(
        f"{entry['seconds']:.1f} s (first step, with compilation: {entry['first_step_seconds']:.1f} s)"
    )
    shown = {"epoch", "step", "train", "validation", "seconds", "first_step_seconds"}
    parts += [f"{name} {value:.4g}" for name, value in entry.items() if name not in shown]
    return ", ".join(parts)
