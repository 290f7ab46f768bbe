"""`fit`: the loop around the training step."""

import functools
import itertools
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from tqdm import tqdm

from jrnn.cell import trainable
from jrnn.checkpoint import checkpoints, load
from jrnn.checks import brief
from jrnn.data import Batch
from jrnn.sequential import looks_ahead
from jrnn.training.devices import Split, gather, is_placed, rows_of, split_over
from jrnn.training.progress import Meter, Progress, bar, line
from jrnn.training.steps import (
    Loss,
    Penalty,
    TrainState,
    batch_shape,
    init_state,
    mean_loss,
    model_function,
    train_step,
)
from jrnn.training.storing import Store
from jrnn.unrolling import Scan
from jrnn.unrolling.methods import Method

Batches = Iterable[Batch]
Monitor = Callable[[dict[str, Any], TrainState], Any]


class FitResult(NamedTuple):
    """What `fit` returns."""

    params: Any  # those of the best epoch by validation loss, where there is validation, else the last
    state: TrainState  # at the end
    history: list[dict[str, Any]]  # a record per epoch: epoch, step, train and validation in nats, seconds
    interrupted: bool  # stopped by Ctrl-C or SIGTERM, and saved


def fit(
    model: Any,
    batches: Batches | Callable[[int], Batches],
    loss: Loss,
    *,
    optimizer: optax.GradientTransformation,
    key: Array,
    in_features: int | None = None,
    params: Any = None,
    epochs: int = 1,
    validation: Batches | None = None,
    stateful: bool = False,
    patience: int | None = None,
    penalties: tuple[Penalty, ...] = (),
    monitors: tuple[Monitor, ...] = (),
    out: str | Path | None = None,
    resume: bool = False,
    save_every: int = 500,
    meta: dict[str, Any] | None = None,
    progress: Progress = Progress(),
    method: Method = Scan(),
) -> FitResult:
    """Train a model over epochs of batches; evaluate, save and report.

    The same arguments on the same machine give the same bits, and a run that was stopped and resumed
    ends with the very parameters of an uninterrupted one. With `out`, Ctrl-C or SIGTERM finishes the
    step, saves and returns.

    Every batch is split over as many devices as divide its rows: all accelerators, or the CPU devices that
    `use_cores` makes, where each gets 16 rows or more. The result is that of one device up to rounding,
    noise included, and lies on one device again. Where the caller chose devices, by a mesh, by a default
    device or by where the given `params` lie, it is left at that.

    Args:
      model: a cell, a layer, or a function `(params, batch, carry, key) -> (carry, ys)`.
      batches: an iterable to go through once an epoch, or a function of the epoch's number that gives
        one (shuffled: `padded_batches(...).epoch`); to resume it must give the same batches again.
      loss: `PerStep(...)`, `AtLast(...)` or any `Loss`.
      optimizer: any optax transformation (clipping and schedules included); it does not see what stands
        under `fixed`.
      key: the randomness of the run.
      in_features: width of the inputs (tokens: size of the vocabulary); needed unless `params` is given.
      params: parameters to start from.
      epochs: how often to go through the batches.
      validation: batches to evaluate on after every epoch.
      stateful: hand the carry on from batch to batch of an epoch (truncated BPTT on a stream).
      patience: stop after so many epochs without a better validation loss.
      penalties: functions `(params, batch)` of which the values are added to the loss while training.
      monitors: functions `(record, state)`, called after every step with its step, epoch, loss and
        grad_norm, and after every epoch with its entry of the history. A mapping of names to numbers that
        one returns after a step is shown by the bar and joins the record, and so the metrics file.
      out: directory for checkpoints, the parameters of the best epoch (`best`) and `metrics.jsonl` (losses
        in nats); None: nothing is written.
      resume: go on from the newest checkpoint in `out`.
      save_every: steps between checkpoints; every epoch ends with one.
      meta: JSON to keep with the checkpoints (a vocabulary, arguments).
      progress: what to show.
      method: how the recurrence is run.

    Returns:
      A `FitResult`.

    Raises:
      ValueError: options that contradict each other, or no batches; the message names them.
    """
    plan = Plan(model, loss, optimizer, stateful, patience, penalties, monitors, save_every, progress, method)
    plan.check(in_features, params, validation, out, resume)
    if params is None:
        key, draw = jax.random.split(key)
        params = model.init(draw, in_features)
    store = None if out is None else Store(Path(out), model, in_features or 0, meta or {})
    run = Run(plan, params, key, store)
    if store is not None:
        run.restore(store) if resume else run.save()  # what cannot be saved fails before any work is done
    given = batches if callable(batches) else lambda epoch: batches
    with stopping_on_signals(active=store is not None) as stop:
        while run.epoch < epochs and not run.out_of_patience() and not stop.is_set():
            if run.train(given(run.epoch), epochs, stop):
                run.finish_epoch(validation)
        if stop.is_set():
            run.save()
    best = run.state.params if run.best is None else run.best
    params, state = gather((best, run.state)) if run.split else (best, run.state)
    return FitResult(params, state, run.history, stop.is_set())


@dataclass(frozen=True)
class Plan:
    """What a run was asked to do."""

    model: Any
    loss: Loss
    optimizer: optax.GradientTransformation
    stateful: bool
    patience: int | None
    penalties: tuple[Penalty, ...]
    monitors: tuple[Monitor, ...]
    save_every: int
    progress: Progress
    method: Method

    def check(self, in_features: Any, params: Any, validation: Any, out: Any, resume: bool) -> None:
        """Refuse options that contradict each other."""
        model_function(self.model)
        if not hasattr(self.loss, "mean") or isinstance(self.loss, type):
            raise TypeError(
                f"loss must be PerStep(...) or AtLast(...), got {brief(self.loss)}: wrap it in one"
            )
        for name, functions in (("penalties", self.penalties), ("monitors", self.monitors)):
            if not isinstance(functions, tuple | list) or not all(map(callable, functions)):
                raise TypeError(f"{name} must be a tuple of functions, got {brief(functions)}")
        if not hasattr(self.optimizer, "update"):
            raise TypeError(f"optimizer must be as optax.adam(1e-3), got {brief(self.optimizer)}: call it")
        if in_features is None and params is None:
            raise ValueError("fit needs in_features, to draw params from, or params")
        if not hasattr(self.model, "init") and (self.stateful or out is not None or params is None):
            raise ValueError("model is a function: it needs params, and cannot be stateful or stored in out")
        if self.save_every < 1 or (self.patience is not None and self.patience < 1):
            raise ValueError(
                f"save_every and patience must be at least 1, got {self.save_every}, {self.patience}"
            )
        if self.stateful and looks_ahead(self.model):
            raise ValueError(
                f"stateful training hands a carry on, {self.model} looks ahead and has none to hand on"
            )
        if self.patience is not None and validation is None:
            raise ValueError("patience needs validation, batches to measure it on")
        if resume and out is None:
            raise ValueError("resume needs out, the directory with the checkpoints")
        if out is not None and in_features is None:
            raise ValueError("out needs in_features, which is stored with the checkpoints")
        if out is not None and not resume and checkpoints(out):
            raise ValueError(f"out: {out} holds a run: resume=True goes on with it, or give another one")


@dataclass
class Run:
    """Where a run stands."""

    plan: Plan
    params: Any
    key: Array
    store: Store | None
    epoch: int = 0
    batch: int = 0
    rows: int | None = None  # of the first batch of all, by which devices were chosen
    history: list[dict[str, Any]] = field(default_factory=list)
    best: Any = None  # parameters of the best epoch
    records: list[dict[str, Any]] = field(default_factory=list)  # steps not yet in the log

    def __post_init__(self) -> None:
        plan, self.steps, self.meter = self.plan, 0, Meter()
        free = jax.tree.leaves(trainable(self.params))
        self.optimizer = plan.optimizer if all(free) else _trainable_only(plan.optimizer)
        self.state = init_state(plan.model, self.params, self.optimizer, self.key)
        self.split: Split | None = None
        self.step: Callable[..., Any] | None = None  # compiled once the rows are known

    def restore(self, store: Store) -> None:
        """Stand where the newest checkpoint was saved."""
        stored = load(store.path, cell=self.plan.model, optimizer=self.optimizer)
        step = jnp.asarray(stored.step, jnp.int32)
        self.state = TrainState(stored.params, stored.opt_state, stored.carry, stored.key, step)
        self.steps = stored.step
        self.epoch, self.batch = stored.position["epoch"], stored.position["batch"]
        self.history = stored.position["history"]
        self.meter = Meter(*stored.position["sums"])
        if stored.position["stateful"] != self.plan.stateful:
            raise ValueError(f"stateful must be {not self.plan.stateful}, as the run was started")
        if checkpoints(store.path / "best") and self.history:
            self.best = load(store.path / "best", cell=self.plan.model).params
        store.cut(stored.step, len(self.history))
        if (rows := stored.position.get("rows")) is not None:
            self.settle(rows)

    def settle(self, rows: int) -> Callable[..., Any]:
        """Choose devices for batches of so many rows, bring the state there, and compile the step."""
        plan, self.rows = self.plan, rows
        step = _step(plan.model, plan.loss, self.optimizer, tuple(plan.penalties), plan.method)
        self.split = None if is_placed(self.params) else split_over(plan.model, rows)
        if self.split is None:
            self.step = jax.jit(step)
        else:
            self.state = self.split.state(self.state, rows)
            self.step = self.split.jit(step, self.state)
        return self.step

    def send(self, batch: Batch) -> Batch:
        """Bring a batch to the devices that work on it."""
        return batch if self.split is None else self.split.batch(batch)

    def train(self, batches: Batches, epochs: int, stop: threading.Event) -> bool:
        """Go through the batches of one epoch, from where the run stands; False if `stop` cut it short."""
        plan, meter = self.plan, self.meter
        watched: dict[str, float] = {}  # the last numbers of the monitors
        meter.begin()
        total = len(batches) if isinstance(batches, Sized) else None
        title = f"epoch {self.epoch + 1}/{epochs}"
        with bar(plan.progress, title, total, self.batch) as shown:
            for batch in itertools.islice(batches, self.batch, None):
                record = self.advance(batch)
                meter.count(plan.loss.count(batch), record)
                watched |= self.watch(record)
                shown.update()
                if meter.due():
                    shown.set_postfix_str(plan.progress.postfix(record, watched, meter))
                if self.steps % plan.save_every == 0:
                    self.save()
                if stop.is_set():
                    return False
        if self.batch == 0:
            hint = "; a generator is used up after one epoch, give a list or a function" if self.epoch else ""
            raise ValueError(f"batches of epoch {self.epoch + 1} are empty, need at least one{hint}")
        return True

    def advance(self, batch: Batch) -> dict[str, Any]:
        """Take one training step; its numbers are still on their way when this returns."""
        if not isinstance(batch, Batch):
            raise TypeError(f"batches must hold jrnn.Batch(xs, targets, ...), got {brief(batch)}")
        if self.plan.stateful and self.state.carry is None:
            shape = batch_shape(self.plan.model, batch)
            carry = self.plan.model.initial_carry(self.state.params, shape)
            self.state = self.state._replace(carry=carry)
        step = self.step or self.settle(rows_of(self.plan.model, batch))
        self.state, metrics = step(self.state, self.send(batch), self.batch == 0)
        self.batch += 1
        self.steps += 1
        record = {"step": self.steps, "epoch": self.epoch + 1, **metrics}
        self.records.append(record)
        return record

    def watch(self, record: dict[str, Any]) -> dict[str, float]:
        """Call the monitors after a step, and add the numbers that they return to its record."""
        numbers: dict[str, float] = {}
        for monitor in self.plan.monitors:
            found = monitor(record, self.state)
            if isinstance(found, Mapping):  # a lambda may return anything
                numbers |= {name: float(value) for name, value in found.items()}
        if taken := numbers.keys() & record.keys():
            raise ValueError(f"monitors return {sorted(taken)}, which the record of a step has already")
        record |= numbers
        return numbers

    def finish_epoch(self, validation: Batches | None) -> None:
        """Evaluate, remember the best, log, save, and stand at the start of the next epoch."""
        plan, state = self.plan, self.state
        entry: dict[str, Any] = {"step": self.steps, "epoch": self.epoch + 1, **self.meter.summary()}
        if validation is not None:
            given = plan.model, state.params, validation, plan.loss, plan.stateful
            entry["validation"] = mean_loss(*given, send=self.send)
            if not self.history or entry["validation"] < min(self.losses()):
                self.best = state.params
                if self.store is not None:
                    self.store.save_best(state)
        self.history.append(entry)
        self.epoch, self.batch, self.meter = self.epoch + 1, 0, Meter()
        self.records.append(entry)
        self.save()
        for monitor in plan.monitors:
            monitor(entry, state)
        if plan.progress.bar:
            tqdm.write(line(plan.progress, entry), file=sys.stderr)

    def save(self) -> None:
        """Bring the log and the newest checkpoint up to where the run stands."""
        records = jax.device_get(self.records)
        if self.store is not None:
            self.store.write(
                [{k: v if isinstance(v, int) else float(v) for k, v in r.items()} for r in records]
            )
            position = {"epoch": self.epoch, "batch": self.batch, "history": self.history}
            position |= {"sums": self.meter.sums(), "stateful": self.plan.stateful, "rows": self.rows}
            self.store.save(self.state, position)
        self.records = []

    def losses(self) -> list[float]:
        """Validation losses of the epochs so far; one that is missing or NaN counts as infinite."""
        losses = (entry.get("validation", math.inf) for entry in self.history)
        return [math.inf if math.isnan(loss) else loss for loss in losses]

    def out_of_patience(self) -> bool:
        """Whether the last `patience` epochs brought no better validation loss."""
        if self.plan.patience is None or not self.history:
            return False
        losses = self.losses()
        return len(losses) - 1 - losses.index(min(losses)) >= self.plan.patience


def _step(*arguments: Any) -> Callable[..., Any]:
    """The training step, the same function for equal arguments: so jax compiles it once for many runs."""
    try:
        hash(arguments)
    except TypeError:  # a penalty that is no value
        return _new_step(*arguments)
    return _kept_step(*arguments)


def _new_step(model: Any, loss: Any, optimizer: Any, penalties: Any, method: Any) -> Callable[..., Any]:
    return train_step(model, loss, optimizer, penalties=penalties, method=method)


_kept_step = functools.lru_cache(maxsize=8)(_new_step)


@functools.lru_cache(maxsize=8)
def _trainable_only(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer on what is trainable; nothing moves the rest."""

    def fixed(params: Any) -> Any:
        return jax.tree.map(lambda free: not free, trainable(params))

    return optax.chain(optax.masked(optimizer, trainable), optax.masked(optax.set_to_zero(), fixed))


@contextmanager
def stopping_on_signals(active: bool) -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets, in place of ending the process; a second one ends it."""
    stop = threading.Event()
    if not active or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    earlier = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: Any) -> None:
        stop.set()
        signal.signal(number, earlier[signal.Signals(number)])

    for number in earlier:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
