"""`fit`: the loop around the training step."""

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, NamedTuple

import jax
import optax
from jax import Array

from jrnn._checks import check_flag, check_lag, check_path, require_key
from jrnn._processes import from_first, is_first, local, several, together
from jrnn.cell import Cell, P
from jrnn.checkpoint.files import locked
from jrnn.data import Batch
from jrnn.layers import Layer
from jrnn.training._plans import Batches, Monitor, Plan, check_surroundings, of_epoch
from jrnn.training._runs import Run
from jrnn.training._storing import Store
from jrnn.training.objectives import Loss
from jrnn.training.progress import Progress
from jrnn.training.steps import Penalty, TrainState
from jrnn.unrolling import Scan
from jrnn.unrolling.methods import Method


class FitResult(NamedTuple, Generic[P]):
    """The result of `fit`.

    Attributes:
      params: parameters of the best epoch, the one with the smallest finite validation loss or `criterion`;
        of the last step if there is neither. The same as `jrnn.load(out, best=True).params`.
      state: the final state, last parameters included; the same as `jrnn.load(out)`.
      history: one record per epoch: epoch, step, train and validation loss in nats, seconds, and the numbers
        that monitors returned; `jrnn.plots.loss_curve` draws it.
      interrupted: True if Ctrl-C or SIGTERM ended the run.
      diverged: the step after which the parameters were not finite, which ended training; otherwise None.
    """

    params: P
    state: TrainState
    history: list[dict[str, Any]]
    interrupted: bool = False
    diverged: int | None = None

    def __repr__(self) -> str:
        count, step = sum(leaf.size for leaf in jax.tree.leaves(self.params)), int(self.state.step)
        ended = f"interrupted={self.interrupted}, diverged={self.diverged}"
        return f"FitResult({count} parameters, {step} steps, {len(self.history)} epochs, {ended})"


def fit(
    model: Cell[P, Any] | Layer[P, Any] | Callable[[P, Batch, Any, Any], tuple[Any, Any]],
    batches: Batches | Callable[[int], Batches],
    loss: Loss,
    *,
    optimizer: optax.GradientTransformation,
    key: Array,
    in_features: int | None = None,
    params: P | None = None,
    epochs: int = 1,
    validation: Batches | Callable[[int], Batches] | None = None,
    stateful: bool = False,
    patience: int | None = None,
    criterion: Callable[[dict[str, Any]], float] | None = None,
    eval_params: Callable[[Any, Any], Any] | None = None,
    penalties: tuple[Penalty, ...] = (),
    monitors: tuple[Monitor, ...] = (),
    out: str | Path | None = None,
    resume: bool = False,
    save_every: int = 500,
    meta: dict[str, Any] | None = None,
    progress: Progress = Progress(),
    method: Method = Scan(),
    stall_timeout: float = 600.0,
) -> FitResult[P]:
    """Train a model for some epochs, with evaluation, checkpoints and progress reports.

    Runs are deterministic: the same arguments on the same machine give bitwise equal results, and a run that
    was stopped and resumed ends with exactly the parameters of an uninterrupted one. Ctrl-C finishes the
    current step and returns; with `out`, so does SIGTERM, and both save a checkpoint. When parameters are no
    longer finite, training ends with a warning, and no checkpoint of them is written. A loss that is not
    finite beside finite parameters, or a validation loss that is finite in no epoch, is warned of at the end.

    Batches are sharded over as many devices as divide the batch size: all accelerators, or the CPU devices
    that `use_cores` makes, with at least 16 rows each. The result, noise included, is that of a single device
    up to rounding, and is moved back to one device. If you choose devices yourself, by a mesh, a default
    device or the placement of `params`, `fit` keeps your choice.

    After `jax.distributed.initialize(...)`, the same call in every process trains one model on the devices of
    all, with the numbers of one process. Each process passes the same batches, and `fit` takes its rows; or
    they have a method `share(index, count)`, like those of `jrnn.data`, that returns its part of each batch,
    with the same shapes in every process. Process 0 alone reads and writes `out`, reports, and calls the
    monitors, with the state without its carry; its initial values are those of all. SIGTERM to one process
    stops all after the same step.

    Args:
      model: a cell, a layer, or a function `(params, batch, carry, key) -> (carry, ys)`.
      batches: an iterable of the batches of an epoch, or a function of the epoch number that returns one
        (`padded_batches(...).epoch` shuffles); a resumed run needs the same batches again.
      loss: `PerStep(...)`, `AtLast(...)` or any `Loss`.
      optimizer: any optax transformation (clipping and schedules included), applied to all parameters but
        those under `fixed`. It also receives the loss, so `lbfgs`, `polyak_sgd`, `reduce_on_plateau` work.
      key: source of all randomness of the run.
      in_features: width of the inputs (for tokens, the vocabulary size); required unless `params` is given.
      params: initial parameters.
      epochs: number of passes over the batches.
      validation: batches to evaluate on after every epoch, or a function of the epoch number.
      stateful: pass the carry on from batch to batch within an epoch (truncated BPTT on a stream).
      patience: stop after this many epochs without improvement.
      criterion: function of an epoch's record that the best epoch minimizes, such as
        `lambda entry: -entry["accuracy"]` for a number that a monitor returned; defaults to the validation
        loss. Epochs where it is not finite never count as the best.
      eval_params: function `(opt_state, params)` that returns the parameters to evaluate, keep and return,
        for optimizers that train different ones, such as `optax.contrib.schedule_free_eval_params`.
      penalties: functions `(params, batch)` whose values are added to the training loss.
      monitors: functions `(record, state)`, called after every step with its step, epoch, loss and
        grad_norm, and after every epoch with its entry of the history. Numbers that one returns, in a
        mapping, are added to the record and so to the history, the metrics file and the progress bar.
      out: directory for checkpoints, the parameters of the best epoch and `metrics.jsonl` (losses in nats,
        null if not finite); one run at a time writes there. `jrnn.load(out)` reads the newest checkpoint,
        `jrnn.load(out, best=True)` the best epoch. None writes nothing.
      resume: continue from the newest checkpoint in `out`, or start if there is none.
      save_every: steps between checkpoints; one more is saved after every epoch.
      meta: JSON to store with the checkpoints (a vocabulary, arguments).
      progress: options of the progress report.
      method: how the recurrence is run.
      stall_timeout: with several processes, seconds without a finished step, evaluated batch or checkpoint
        after which this one ends with status 75, since another one is stuck. Monitors in process 0 hold the
        others up: a step and its monitors must take less.

    Returns:
      A `FitResult`.

    Raises:
      ValueError: options that contradict each other, no batches, tokens or labels out of range, a
        directory in use or of another run, an optimizer that needs more than it gets; the message names the
        argument.
      TypeError: an argument of the wrong kind, or a loss, penalty or monitor that returns no number.
      RuntimeError: another process has died.
    """
    epochs = check_lag("epochs", epochs)
    require_key(key, needed=True)
    plan = Plan(
        model=model, loss=loss, optimizer=optimizer, stateful=stateful, patience=patience,
        criterion=criterion, eval_params=eval_params, penalties=penalties, monitors=monitors,
        save_every=save_every, progress=_shown(progress), method=method,
    )  # fmt: skip
    out = None if out is None else check_path("out", out)
    resume = check_flag("resume", resume)
    check_surroundings(plan, in_features, params, validation, out, resume=resume, meta=meta)
    given = of_epoch("batches", batches, epochs)
    held_out = None if validation is None else of_epoch("validation", validation, epochs)
    store = None if out is None else Store(out, model, in_features or 0, meta or {})
    with (
        together(stall_timeout),
        holding(out),
        stopping_on_signals(ends=store is not None) as stop,
    ):
        with jax.transfer_guard_host_to_device("allow"):  # initial values come from the host
            params, key = _initial(plan, params, key, in_features)
            run = Run(plan, params, key, store)
            _begin(run, resume=resume)
        del params  # so that the initial parameters are not kept alive
        while run.epoch < epochs and not run.out_of_patience() and not stop.is_set():
            if run.train(given(run.epoch), epochs, stop):
                run.finish_epoch(None if held_out is None else held_out(run.epoch))
            if run.diverged is not None:
                break
        if stop.is_set() and run.diverged is None:
            run.save()
    best, state = run.result()
    return FitResult(best, state, run.history, stop.is_set(), run.diverged)


def _shown(progress: Progress) -> Progress:
    """The options of the progress report, which of several processes the first alone shows."""
    return progress if is_first() else dataclasses.replace(progress, bar=False)


@contextlib.contextmanager
def holding(out: Path | None) -> Iterator[None]:
    """The lock on a run's directory, since two runs would overwrite each other's files."""
    with contextlib.ExitStack() as held:
        if out is not None:
            from_first(lambda: held.enter_context(locked(out / ".lock", f"out: {out}")))
        yield


def check_begun(path: Path, begun: bool, *, resume: bool) -> bool:
    """True if a directory holds a run, or a sweep, to continue; raise if it may not be continued."""
    if begun and not resume:
        raise ValueError(
            f"out: {path} already holds a run: pass resume=True to continue it, or another directory"
        )
    return begun


def _initial(plan: Plan, params: Any, key: Array, in_features: int | None) -> tuple[Any, Array]:
    """Initial parameters, and the key of the rest of the run."""
    if params is not None:
        return local(params), key
    key, draw = jax.random.split(key)
    return plan.model.init(draw, in_features), key


def _begin(run: Run, *, resume: bool) -> None:
    """Continue from the newest checkpoint, or begin anew, and save at once so that failures come early."""
    store = run.store
    begun = store is not None and check_begun(store.path, store.has_checkpoints(), resume=resume)
    if store is not None and not begun:
        from_first(store.begin)
    run.begin(resume=begun)
    if store is not None and not begun:
        run.save()


@contextlib.contextmanager
def stopping_on_signals(ends: bool) -> Iterator[threading.Event]:
    """An event that is set by Ctrl-C, and by SIGTERM if it `ends` a run; a second one ends the process.

    Of several processes, one turns Ctrl-C into SIGTERM, which JAX tells to all of them: `told_to_stop`.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    signals = (signal.SIGINT, signal.SIGTERM) if ends and not several() else (signal.SIGINT,)
    earlier = {number: signal.getsignal(number) for number in signals}

    def handle(number: int, frame: Any) -> None:
        if several():
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            stop.set()
        signal.signal(number, earlier[signal.Signals(number)])

    for number in earlier:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
