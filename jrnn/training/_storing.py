"""The files of a run: checkpoints, the best parameters, and the log.

Of several processes, process 0 alone reads and writes them.
"""

import collections
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jrnn._checks import brief, warn
from jrnn._processes import from_first, read_first
from jrnn.checkpoint import CheckpointError, Snapshot, checkpoints, load, save
from jrnn.checkpoint.files import remove, step_of
from jrnn.training.progress import Sums
from jrnn.training.steps import TrainState

NONFINITE = "nonfinite"  # name of the entry that lists the numbers of a record that JSON lacks
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

    def restore(self, optimizer: Any, *, stateful: bool) -> tuple[dict[str, Any], tuple[TrainState, Any]]:
        """Position, and state and best parameters, of the newest checkpoint; cuts the log after it."""
        stored = load(self.path, cell=self.cell, optimizer=optimizer)
        check_position(self.path, stored.position)
        if stored.position["stateful"] != stateful:
            raise ValueError(f"stateful must be {not stateful} to resume this run, as when it was started")
        self.forget_best(stored.step)
        step = jnp.asarray(stored.step, jnp.int32)
        state = TrainState(stored.params, stored.opt_state, stored.carry, stored.key, step)
        position = stored.position | {"step": stored.step, "carry": stored.carry is not None}
        best = None if position["best"] is None else self.load_best(position["best"])
        if best is None:
            position["best"] = None
        self.cut(stored.step, len(position["history"]))
        return position, (state, best)

    def newest(self, state: TrainState, optimizer: Any) -> TrainState:
        """A state with the parameters of the newest checkpoint and their state of the optimizer."""

        def found() -> tuple[None, Any]:
            stored = load(self.path, cell=self.cell, optimizer=optimizer)
            return None, (stored.params, stored.opt_state)

        params, opt_state = read_first(found, lambda _: (state.params, state.opt_state))[1]
        return state._replace(params=params, opt_state=opt_state)

    def begin(self) -> None:
        """Start a run in a directory without checkpoints: its log starts anew."""
        if checkpoints(self.best):
            raise ValueError(
                f"out: {self.path} holds the best epoch of an earlier run, but no checkpoint: "
                "remove it, or choose another directory"
            )
        self.cut(-1, 0)

    def forget_best(self, after: int) -> None:
        """Remove the parameters of best epochs after a step, to which a resumed run has yet to come."""
        for path in checkpoints(self.best):
            if step_of(path) > after:
                remove(path)

    def load_best(self, step: int) -> Any:
        """Parameters of the best epoch, which ended with `step`; None and a warning if they are missing."""
        if not any(path.name.startswith(f"step_{step:08d}") for path in checkpoints(self.best)):
            warn(
                f"{self.best} has no parameters of the best epoch, which ended with step {step}: the best of "
                "the remaining epochs replaces it",
                RuntimeWarning,
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


def check_position(path: Path, position: dict[str, Any]) -> None:
    """Raise unless a position in the data is one that `fit` could store."""
    given = collections.defaultdict[str, Any](lambda: None, position)
    history: list[Any] = given["history"] if isinstance(given["history"], list) else [None]
    fits = {
        "epoch": _is_count(given["epoch"]),
        "batch": _is_count(given["batch"]),
        "rows": given["rows"] is None or _is_count(given["rows"]),
        "stateful": isinstance(given["stateful"], bool),
        "sums": _is_record(given["sums"]) and given["sums"].keys() - {NONFINITE} == {*Sums._fields},
        "history": all(_is_record(entry, "step", "epoch") for entry in history),
    }
    steps = [entry["step"] for entry in history] if fits["history"] else []
    fits["best"] = given["best"] in [None, *steps]
    for name in sorted(fits.keys() | position.keys()):
        if name not in position or not fits.get(name):
            found = brief(position[name]) if name in position else "missing"
            raise CheckpointError(f"{path}: not a run of fit: position of its checkpoint has {name}: {found}")


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_record(value: Any, *counts: str) -> bool:
    """True for numbers by name, as `to_json` returns them, with these whole ones among them."""
    if not isinstance(value, dict) or not all(_is_count(value.get(name)) for name in counts):
        return False
    bad = value.get(NONFINITE, {})
    if not isinstance(bad, dict) or not all(name in value and text in _NAMES for name, text in bad.items()):
        return False
    rest = value.keys() - bad.keys() - {NONFINITE}
    return all(type(value[name]) in (int, float) for name in rest)


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
    return clean | {NONFINITE: bad} if bad else clean


def from_json(record: dict[str, Any]) -> dict[str, Any]:
    """Invert `to_json`."""
    bad = record.get(NONFINITE, {})
    clean = {name: value for name, value in record.items() if name != NONFINITE}
    return clean | {name: _NAMES[value] for name, value in bad.items()}
