"""The files of a run: checkpoints, the best parameters, and the log.

Of several processes, process 0 alone reads and writes them.
"""

import json
import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jrnn.checkpoint import CheckpointError, Snapshot, checkpoints, load, save
from jrnn.training._processes import from_first, read_first
from jrnn.training.steps import TrainState

_NAMES = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@dataclass(frozen=True)
class Store:
    """The directory of a run."""

    path: Path
    cell: Any
    in_features: int
    meta: dict[str, Any]

    @property
    def log(self) -> Path:
        """The metrics file: one JSON object per step and per epoch."""
        return self.path / "metrics.jsonl"

    @property
    def best(self) -> Path:
        """The folder of the best epoch; it also keeps the one before, which a checkpoint may still name."""
        return self.path / "best"

    def has_checkpoints(self) -> bool:
        """True if there is a run to continue."""
        return from_first(lambda: bool(checkpoints(self.path)))

    def save(self, state: TrainState, optimizer: Any, position: dict[str, Any]) -> None:
        """Write a checkpoint; it is complete on disk when this returns."""
        fields = {"cell": self.cell, "in_features": self.in_features, "meta": self.meta}
        rest = {"opt_state": state.opt_state, "carry": state.carry, "key": state.key, "optimizer": optimizer}
        step = int(jax.device_get(state.step))
        self._save(
            self.path, Snapshot(**fields, **rest, params=state.params, step=step, position=position), 3
        )

    def save_best(self, params: Any, step: int) -> None:
        """Write the parameters of the best epoch so far to `best`."""
        snapshot = Snapshot(self.cell, self.in_features, params, step=step, meta=self.meta)
        self._save(self.best, snapshot, 2)

    def _save(self, path: Path, snapshot: Snapshot, keep: int) -> None:
        from_first(lambda: str(save(path, snapshot, keep=keep)))

    def restore(self, optimizer: Any) -> tuple[dict[str, Any], tuple[TrainState, Any]]:
        """Position, and state and best parameters, of the newest checkpoint; cuts the log after it."""
        stored = load(self.path, cell=self.cell, optimizer=optimizer)
        step = jnp.asarray(stored.step, jnp.int32)
        state = TrainState(stored.params, stored.opt_state, stored.carry, stored.key, step)
        position = stored.position | {"step": stored.step, "carry": stored.carry is not None}
        best = None if position["best"] is None else self.load_best(position["best"])
        if best is None:
            position["best"] = None
        self.cut(stored.step, len(position["history"]))
        return position, (state, best)

    def newest_params(self, like: Any) -> Any:
        """The parameters of the newest checkpoint."""
        return read_first(lambda: (None, load(self.path, cell=self.cell).params), lambda _: like)[1]

    def load_best(self, step: int) -> Any:
        """Parameters of the best epoch, which ended with `step`; None and a warning if they are missing."""
        if not any(path.name.startswith(f"step_{step:08d}") for path in checkpoints(self.best)):
            warnings.warn(
                f"{self.best} has no parameters of the best epoch, which ended with step {step}: the best of "
                "the remaining epochs replaces it",
                RuntimeWarning,
                stacklevel=2,
            )
            return None
        try:
            return load(self.best, cell=self.cell, step=step).params
        except CheckpointError as error:
            hint = "delete that folder to continue the run and keep the best of the remaining epochs"
            raise CheckpointError(f"{error}; {hint}") from error

    def write(self, records: list[dict[str, Any]]) -> None:
        """Append records to the log; they are on disk when this returns."""
        from_first(lambda: self._append(records))

    def _append(self, records: list[dict[str, Any]]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(to_json(record), allow_nan=False) + "\n" for record in records)
            file.flush()
            os.fsync(file.fileno())

    def cut(self, step: int, epochs: int) -> None:
        """Drop log lines of steps and epochs after the checkpoint that a run resumes from.

        Malformed lines are dropped too, so that a damaged log does not stop a run.
        """
        if self.log.exists():
            text = self.log.read_text(encoding="utf-8", errors="replace")
            kept = [line for line in text.splitlines() if _is_before(line, step, epochs)]
            fresh = self.log.with_suffix(".tmp")
            fresh.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
            os.replace(fresh, self.log)


def _is_before(line: str, step: int, epochs: int) -> bool:
    """True for a log line of a step up to `step`, or of one of the first epochs."""
    try:
        record = json.loads(line)
        return bool(record["step"] <= step and ("loss" in record or record["epoch"] <= epochs))
    except (ValueError, RecursionError, TypeError, KeyError):
        return False


def to_json(record: dict[str, Any]) -> dict[str, Any]:
    """Replace non-finite numbers, which JSON lacks, by null, and list them under "nonfinite"."""
    bad = {name: str(v) for name, v in record.items() if isinstance(v, float) and not math.isfinite(v)}
    clean = {name: None if name in bad else value for name, value in record.items()}
    return clean | {"nonfinite": bad} if bad else clean


def from_json(record: dict[str, Any]) -> dict[str, Any]:
    """Invert `to_json`."""
    bad = record.get("nonfinite", {})
    clean = {name: value for name, value in record.items() if name != "nonfinite"}
    return clean | {name: _NAMES[value] for name, value in bad.items()}
