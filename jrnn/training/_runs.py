"""The state of a run: position, parameters, records, and the best epoch so far."""

import itertools
import math
import sys
import threading
from collections.abc import Callable, Sized
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from tqdm import tqdm

from jrnn._alignment import on_device
from jrnn._checks import warn
from jrnn._processes import beat, from_first, is_first, local, read_first, several, told_to_stop
from jrnn.checkpoint import checkpoints
from jrnn.data import Batch
from jrnn.training._plans import Batches, Plan
from jrnn.training._storing import Store, from_json, to_json
from jrnn.training.devices import Split, gather, is_placed, rows_of, share_of, split_over
from jrnn.training.progress import Meter, bar, line
from jrnn.training.steps import (
    TrainState,
    counted,
    init_state,
    is_finite,
    mean_loss,
    require_batch,
    rows_of_stream,
)

CAUSES = (
    "Check for NaN in the data, tokens or labels out of range, too high a learning rate, or a gradient that "
    "needs clipping."
)


class Best(NamedTuple):
    """The best epoch so far."""

    params: Any = None
    score: float = math.inf
    step: int | None = None  # its last step


class Run:
    """The state of a run, and the loop over the batches of one epoch."""

    def __init__(self, plan: Plan, params: Any, key: Array, store: Store | None) -> None:
        self.plan, self.store = plan, store
        self.epoch, self.batches_done, self.steps_done = 0, 0, 0  # batches of this epoch, steps of the run
        self.history: list[dict[str, Any]] = []
        self.records: list[dict[str, Any]] = []  # steps not yet in the log
        self.best = Best()
        self.diverged: int | None = None  # the step after which parameters were not finite
        self.unsound: str | None = None  # the first step of which the loss alone was not finite
        self.scored = False  # an epoch had a validation loss, or a criterion
        self.meter = Meter()
        self.optimizer = plan.optimizer_of(params)
        self.state = init_state(plan.model, params, self.optimizer, key)
        self.placed = is_placed(params)
        self.rows: int | None = None  # rows of the first batch, which determined the devices
        self.shape: tuple[int, ...] | None = None  # batch shape of the carry that is passed on
        self.split: Split | None = None
        self.train_step: Callable[..., Any] | None = None  # compiled once the number of rows is known

    def begin(self, *, resume: bool) -> None:
        """Load the newest checkpoint, or begin anew; every process begins as process 0 does."""

        def found() -> tuple[Any, Any]:
            if self.store is None or not resume:
                return None, (self.state, None)
            return self.store.restore(self.optimizer, stateful=self.plan.stateful)

        position, (self.state, best) = read_first(found, self._like)
        if position is None:
            return
        self.steps_done, self.epoch, self.batches_done = (position[k] for k in ("step", "epoch", "batch"))
        self.history = [from_json(entry) for entry in position["history"]]
        self.meter = Meter(**from_json(position["sums"]))
        if best is not None:
            score = next(
                self.plan.score(entry) for entry in self.history if entry["step"] == position["best"]
            )
            self.best = Best(best, math.inf if score is None else score, position["best"])
        if position["rows"] is not None:
            self.choose_devices(position["rows"])

    def _like(self, position: Any) -> tuple[TrainState, Any]:
        """The structure of what process 0 begins with."""
        if position is None:
            return self.state, None
        params, carry = self.state.params, None
        if position["carry"]:
            carry = jax.eval_shape(lambda params: self.plan.model.initial_carry(params, (1,)), params)
        return self.state._replace(carry=carry), None if position["best"] is None else params

    def choose_devices(self, rows: int) -> Callable[..., Any]:
        """Choose devices for batches with this many rows, move the state there, and compile the step."""
        self.rows, step = rows, self.plan.train_step(self.optimizer)
        self.split = None if self.placed else split_over(self.plan.model, rows, self.plan.per_sequence)
        if self.split is None:
            self.train_step = jax.jit(step)
        else:
            self.state = self.split.state(self.state, rows)
            self.train_step = self.split.jit(step, self.state)
        return self.train_step

    def shares(self, batches: Batches) -> Batches:
        """The part of each batch that this process has: its rows, or what a method `share` returns."""
        if not several():
            return batches
        if hasattr(batches, "share"):
            return batches.share(jax.process_index(), jax.process_count())
        model, params, per_sequence = self.plan.model, self.state.params, self.plan.per_sequence
        return (share_of(model, require_batch(batch, model, params), per_sequence) for batch in batches)

    def place(self, batch: Batch) -> Batch:
        """Move a batch, or what this process has of it, to its devices."""
        beat()
        return jax.device_put(batch) if self.split is None else self.split.batch(batch)

    def train(self, batches: Batches, epochs: int, stop: threading.Event) -> bool:
        """Train on the remaining batches of one epoch; False if it was cut short."""
        plan, meter = self.plan, self.meter
        watched: dict[str, float] = {}  # the last numbers of the monitors
        meter.begin()
        total = len(batches) if isinstance(batches, Sized) else None
        title = f"epoch {self.epoch + 1}/{epochs}"
        with bar(plan.progress, title, total, self.batches_done) as shown:
            for batch in itertools.islice(self.shares(batches), self.batches_done, None):
                record = self.advance(batch)
                meter.count(counted(plan.loss, batch), record)
                watched |= self.watch(record)
                shown.update()
                if meter.due():
                    shown.set_postfix_str(plan.progress.postfix(record, watched, meter))
                if told_to_stop():
                    stop.set()
                if self.steps_done % plan.save_every == 0:
                    self.save()
                elif not meter.finite and self.has_diverged():
                    self.write_log()
                if stop.is_set() or self.diverged is not None:
                    return False
        if self.batches_done == 0:
            hint = "; a generator is exhausted after one epoch, pass a list or a function"
            hint = hint if self.epoch else ""
            raise ValueError(f"batches of epoch {self.epoch + 1} are empty, need at least one{hint}")
        return True

    def advance(self, batch: Any) -> dict[str, Any]:
        """Take one training step; returns before its numbers are computed."""
        batch = require_batch(batch, self.plan.model, self.state.params, loss=self.plan.loss)
        if self.plan.stateful:
            self.prepare_carry(batch)
        step = self.train_step or self.choose_devices(jax.process_count() * rows_of(self.plan.model, batch))
        self.state, metrics = step(self.state, self.place(batch), on_device(self.batches_done == 0))
        self.batches_done += 1
        self.steps_done += 1
        record = {"step": self.steps_done, "epoch": self.epoch + 1, **metrics}
        self.records.append(record)
        return record

    def prepare_carry(self, batch: Batch) -> None:
        """Initialize the carry of a stream, or check that it fits the next batch."""
        at = self.epoch, self.batches_done
        self.shape = rows_of_stream(self.plan.model, batch, self.shape, at)
        if self.state.carry is None:
            with jax.transfer_guard_host_to_device("allow"):
                first = [n * jax.process_count() for n in self.shape[:1]]
                carry = self.plan.model.initial_carry(self.state.params, (*first, *self.shape[1:]))
            self.state = self.state._replace(carry=carry)

    def watch(self, record: dict[str, Any]) -> dict[str, float]:
        """Call the monitors; of several processes, in the first, without the carry that all of them share."""
        if not self.plan.monitors or not is_first():
            return {}
        state = local(self.state._replace(carry=None)) if several() else self.state
        numbers = self.plan.watch(record, state)
        beat()
        return numbers

    def finish_epoch(self, validation: Batches | None) -> None:
        """Evaluate, update the best epoch, log, save, and move to the next epoch."""
        plan = self.plan
        entry: dict[str, Any] = {"step": self.steps_done, "epoch": self.epoch + 1, **self.meter.summary()}
        if not math.isfinite(entry["train"]):
            if self.has_diverged():
                self.write_log()
                return
            if (index := self.meter.first_not_finite()) is not None and self.unsound is None:
                first = self.steps_done - len(self.meter.losses) + 1 + index
                self.unsound = f"step {first} (epoch {self.epoch + 1})"
        params = plan.evaluated(self.state)
        if validation is not None:
            mine = self.shares(validation)
            entry["validation"] = mean_loss(plan.evaluation, params, mine, self.place, "validation")
        self.write_log()
        entry, score = from_first(lambda: (entry, self.watch(entry), plan.score(entry))[::2])
        self.scored |= score is not None
        if score is not None and math.isfinite(score) and score < self.best.score and _sound(params):
            self.best = Best(params, score, self.steps_done)
            if self.store is not None:
                self.store.save_best(local(params), self.steps_done)
        self.history.append(entry)
        self.records.append(entry)
        self.epoch, self.batches_done, self.meter = self.epoch + 1, 0, Meter()
        self.save()
        if plan.progress.bar:
            tqdm.write(line(plan.progress, entry), file=sys.stderr)

    def save(self) -> None:
        """Write the log, and a checkpoint unless the run has diverged."""
        diverged = self.has_diverged()
        self.write_log()
        if self.store is not None and not diverged:
            position = {
                "epoch": self.epoch,
                "batch": self.batches_done,
                "rows": self.rows,
                "stateful": self.plan.stateful,
                "sums": to_json(self.meter.sums()._asdict()),
                "history": [to_json(entry) for entry in self.history],
                "best": self.best.step,
            }
            self.store.save(self.whole(), self.optimizer, position)

    def whole(self) -> TrainState:
        """The state, with the rows of its carry from all processes."""
        return self.split.whole(self.state) if self.split and several() else self.state

    def has_diverged(self) -> bool:
        """Check whether the parameters are still finite; if not, find the step that broke them."""
        if self.diverged is None and not _sound(self.state.params):
            steps = [record for record in self.records if "loss" in record]
            numbers = jax.device_get([(record["loss"], record["grad_norm"]) for record in steps])
            bad = [r for r, pair in zip(steps, numbers, strict=True) if not np.all(np.isfinite(pair))]
            first = (
                bad[0]
                if bad
                else {"step": self.steps_done, "epoch": max(1, self.epoch + (self.batches_done > 0))}
            )
            self.diverged, self.diverged_in = first["step"], first["epoch"]
        return self.diverged is not None

    def write_log(self) -> None:
        """Append new records to the log."""
        if self.store is not None:
            records = jax.device_get(self.records)
            numbers = [{k: v if isinstance(v, int) else float(v) for k, v in r.items()} for r in records]
            self.store.write(numbers)
        self.records = []

    def out_of_patience(self) -> bool:
        """True if the last `patience` epochs brought no improvement."""
        return self.plan.out_of_patience(self.history, self.best.step)

    def result(self) -> tuple[Any, TrainState]:
        """The parameters to return, and the state, on one device."""
        params = self.plan.evaluated(self.state)
        if self.best.step is not None:
            params = self.best.params
        elif self.diverged is not None and self.store is not None and self.store.has_checkpoints():
            state = self.state._replace(carry=None)
            params = self.plan.evaluated(self.store.newest(local(state), self.optimizer))
        if is_first() and (warning := self.warning()):
            warn(warning, RuntimeWarning)
        found: tuple[Any, TrainState] = local(params), self.whole()
        return gather(found) if self.split else found

    def warning(self) -> str | None:
        """The warning about numbers that are not finite, and about the parameters that are returned."""
        if self.diverged is not None:
            where = f"after step {self.diverged} (epoch {self.diverged_in}) the parameters are not finite"
            return f"fit: training diverged and has ended: {where}. It returns {self.kept()}. {CAUSES}"
        if self.scored and self.best.step is None:
            what = "validation loss" if self.plan.criterion is None else "criterion"
            return f"fit: the {what} was finite in no epoch, so it returns the last parameters"
        if self.unsound is not None:
            hint = "a label out of range, or CTC labels that need more steps"
            return f"fit: the loss was not finite at {self.unsound}, but all parameters are: check for {hint}"
        return None

    def kept(self) -> str:
        """The parameters that a run returns after it has diverged."""
        if self.best.step is not None:
            return f"the parameters of the best epoch, which ended with step {self.best.step}"
        if self.store is not None and checkpoints(self.store.path):
            return f"those of the newest checkpoint in {self.store.path}, where resume=True continues"
        return "the last parameters; with validation or out, finite ones are kept"


def _sound(params: Any) -> bool:
    """True if all parameters are finite, found on the host, where nothing is compiled."""
    return bool(is_finite(jax.device_get(params)))
