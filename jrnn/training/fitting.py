"""`fit`: the loop around the training step."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, NamedTuple

import jax
import optax
from jax import Array

from jrnn._checks import check_lag, require_key
from jrnn.cell import Cell, P
from jrnn.checkpoint import checkpoints
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
    """The outcome of `fit`.

    Attributes:
      params: parameters of the best epoch, which has the smallest finite validation loss, or the smallest
        `criterion`; of the last step where there is neither. `jrnn.load(out, best=True).params` are the same.
      state: where training ended, the last parameters included: `jrnn.load(out)` is the same.
      history: a record per epoch: epoch, step, train and validation loss in nats, seconds, and the numbers
        that monitors returned; `jrnn.plots.loss_curve` draws it.
      interrupted: whether Ctrl-C or SIGTERM ended it.
      diverged: the step after which the parameters were not finite, which ends training; None: they are.
    """

    params: P
    state: TrainState
    history: list[dict[str, Any]]
    interrupted: bool = False
    diverged: int | None = None


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
) -> FitResult[P]:
    """Train a model over epochs of batches; evaluate, save and report.

    The same arguments on the same machine give the same bits, and a run that was stopped and resumed
    ends with the very parameters of an uninterrupted one. Ctrl-C finishes the step and returns what there
    is; with `out` so does SIGTERM, and both save. Training ends with a warning when the parameters are no
    longer finite: no checkpoint is written of them.

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
        under `fixed`. It is given the loss too: `lbfgs`, `polyak_sgd`, `reduce_on_plateau` work.
      key: the randomness of the run.
      in_features: width of the inputs (tokens: size of the vocabulary); needed unless `params` is given.
      params: parameters to start from.
      epochs: how often to go through the batches.
      validation: batches to evaluate on after every epoch, or a function of the epoch's number.
      stateful: hand the carry on from batch to batch of an epoch (truncated BPTT on a stream).
      patience: stop after so many epochs without a better one.
      criterion: function of an epoch's record, such as `lambda entry: -entry["accuracy"]` of a number that a
        monitor returned; the epoch where it is smallest is the best. None: the validation loss. What is not
        finite is never the best.
      eval_params: function `(opt_state, params)` to the parameters that are evaluated, kept as the best and
        returned, for optimizers that train others, such as `optax.contrib.schedule_free_eval_params`.
      penalties: functions `(params, batch)` of which the values are added to the loss while training.
      monitors: functions `(record, state)`, called after every step with its step, epoch, loss and
        grad_norm, and after every epoch with its entry of the history. A mapping of names to numbers that
        one returns joins the record, and so the history and the metrics file; the bar shows it.
      out: directory for checkpoints, the parameters of the best epoch and `metrics.jsonl` (losses in nats;
        one that is not finite is null); one run at a time writes there. `jrnn.load(out)` reads the last
        checkpoint, `jrnn.load(out, best=True)` the best epoch. None: nothing is written.
      resume: go on from the newest checkpoint in `out`; where there is none yet, begin.
      save_every: steps between checkpoints; every epoch ends with one.
      meta: JSON to keep with the checkpoints (a vocabulary, arguments).
      progress: what to show.
      method: how the recurrence is run.

    Returns:
      A `FitResult`.

    Raises:
      ValueError: options that contradict each other, or no batches; the message names them.
    """
    epochs = check_lag("epochs", epochs)
    _check_key(key)
    plan = Plan(
        model=model, loss=loss, optimizer=optimizer, stateful=stateful, patience=patience,
        criterion=criterion, eval_params=eval_params, penalties=penalties, monitors=monitors,
        save_every=save_every, progress=progress, method=method,
    )  # fmt: skip
    check_surroundings(plan, in_features, params, validation, out, resume=resume)
    given = of_epoch("batches", batches, epochs)
    held_out = None if validation is None else of_epoch("validation", validation, epochs)
    store = None if out is None else Store(Path(out), model, in_features or 0, meta or {})
    with _holding(out), stopping_on_signals(ends=store is not None) as stop:
        with jax.transfer_guard_host_to_device("allow"):  # of the numbers that a run starts from
            run = _begun(plan, params, key, in_features, store, resume=resume)
        del params  # the first ones are not kept
        while run.epoch < epochs and not run.out_of_patience() and not stop.is_set():
            if run.train(given(run.epoch), epochs, stop):
                run.finish_epoch(None if held_out is None else held_out(run.epoch))
            if run.diverged is not None:
                break
        if stop.is_set() and run.diverged is None:
            run.save()
    best, state = run.result()
    return FitResult(best, state, run.history, stop.is_set(), run.diverged)


def _check_key(key: Any) -> None:
    if key is None:
        raise TypeError("key must be a random key, as in jax.random.key(0), got None")
    require_key(key)


def _holding(out: str | Path | None) -> contextlib.AbstractContextManager[None]:
    """The lock on a run's directory: two runs in one would undo each other's work."""
    return contextlib.nullcontext() if out is None else locked(Path(out) / ".lock", f"out: {out}")


def _begun(
    plan: Plan, params: Any, key: Array, in_features: int | None, store: Store | None, *, resume: bool
) -> Run:
    """A run at its newest checkpoint, or at its first: what cannot be saved fails before any work is done."""
    begun = store is not None and bool(checkpoints(store.path))
    if store is not None and begun and not resume:
        raise ValueError(f"out: {store.path} holds a run: resume=True goes on with it, or give another one")
    if params is None:
        key, draw = jax.random.split(key)
        params = plan.model.init(draw, in_features)
    run = Run(plan, params, key, store)
    if store is not None:
        run.restore(store) if begun else run.save()
    return run


@contextlib.contextmanager
def stopping_on_signals(ends: bool) -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, and SIGTERM if it `ends` a run; a second one ends the process."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    signals = (signal.SIGINT, signal.SIGTERM) if ends else (signal.SIGINT,)
    earlier = {number: signal.getsignal(number) for number in signals}

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
