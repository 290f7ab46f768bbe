"""What a run keeps on disk."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jrnn.checkpoint import Snapshot, save
from jrnn.training.steps import TrainState


@dataclass(frozen=True)
class Store:
    """Where a run is kept: checkpoints, the best parameters, and a log of every step."""

    path: Path
    cell: Any
    in_features: int
    meta: dict[str, Any]

    @property
    def log(self) -> Path:
        """The metrics file: one JSON object per step and per epoch."""
        return self.path / "metrics.jsonl"

    def save(self, state: TrainState, position: dict[str, Any]) -> None:
        """Write a checkpoint; it is complete on disk when this returns."""
        fields = {"cell": self.cell, "in_features": self.in_features, "meta": self.meta}
        rest = {"opt_state": state.opt_state, "carry": state.carry, "key": state.key}
        save(
            self.path,
            Snapshot(**fields, **rest, params=state.params, step=_step(state), position=position),
        )

    def save_best(self, state: TrainState) -> None:
        """Write the parameters of the best epoch so far to `best`."""
        best = Snapshot(self.cell, self.in_features, state.params, step=_step(state), meta=self.meta)
        save(self.path / "best", best, keep=1)

    def write(self, records: list[dict[str, Any]]) -> None:
        """Append records to the log."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)

    def cut(self, step: int, epochs: int) -> None:
        """Drop what the log says of steps and epochs after the checkpoint that a run goes on from."""
        if self.log.exists():
            lines = self.log.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [(line, json.loads(line)) for line in lines if line.endswith("}\n")]
            kept = [line for line, r in whole if r["step"] <= step and ("loss" in r or r["epoch"] <= epochs)]
            fresh = self.log.with_suffix(".tmp")
            fresh.write_text("".join(kept), encoding="utf-8")
            os.replace(fresh, self.log)


def _step(state: TrainState) -> int:
    return int(jax.device_get(state.step))
