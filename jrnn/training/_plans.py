"""The options of a run, checked."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jrnn._caching import cached
from jrnn._checks import brief, check_width
from jrnn.cell import trainable
from jrnn.data import Batch
from jrnn.layers.sequential import check_stateful
from jrnn.training._storing import NONFINITE
from jrnn.training.objectives import Loss, check_loss
from jrnn.training.progress import Progress
from jrnn.training.steps import (
    Evaluation,
    Penalty,
    TrainState,
    model_function,
    require_batches,
    require_optimizer,
    train_step,
    update_of,
)
from jrnn.unrolling.methods import Method

Batches = Iterable[Batch]
Monitor = Callable[[dict[str, Any], TrainState], Any]


@dataclass(frozen=True)
class Plan:
    """The options of a run."""

    model: Any
    loss: Loss
    optimizer: optax.GradientTransformation
    stateful: bool
    patience: int | None
    criterion: Callable[[dict[str, Any]], float] | None
    eval_params: Callable[[Any, Any], Any] | None
    penalties: tuple[Penalty, ...]
    monitors: tuple[Monitor, ...]
    save_every: int
    progress: Progress
    method: Method

    def __post_init__(self) -> None:
        model_function(self.model)
        check_loss(self.loss)
        require_optimizer(self.optimizer)
        check_stateful(self.stateful, self.model)
        if not isinstance(self.progress, Progress):
            hint = "progress=jrnn.Progress(bar=False) shows none"
            raise TypeError(f"progress must be a Progress, got {brief(self.progress)}: {hint}")
        for name, functions in (("penalties", self.penalties), ("monitors", self.monitors)):
            if not isinstance(functions, tuple | list) or not all(map(callable, functions)):
                raise TypeError(f"{name} must be a tuple of functions, got {brief(functions)}")
        for name, function in (("criterion", self.criterion), ("eval_params", self.eval_params)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function, got {brief(function)}")
        check_width("save_every", self.save_every)
        if self.patience is not None:
            check_width("patience", self.patience)

    @property
    def per_sequence(self) -> bool:
        """True if targets and their mask are (batch, ...), rather than (time, batch, ...)."""
        return bool(getattr(self.loss, "per_sequence", False))

    @property
    def evaluation(self) -> Evaluation:
        """The evaluation between epochs."""
        return Evaluation(self.model, self.loss, self.stateful, self.method)

    def score(self, entry: dict[str, Any]) -> float | None:
        """The number that the best epoch minimizes; None without a criterion and validation."""
        if self.criterion is None:
            return entry.get("validation")
        return _number("criterion must return a number", self.criterion(entry))

    def out_of_patience(self, history: list[dict[str, Any]], best: int | None) -> bool:
        """True if the last `patience` epochs brought no improvement on that which ended with step `best`.

        If there is no best, no epoch had a finite score, or a resumed run has lost the best of those that had
        one, and waits for a new one since the last of them.
        """
        if self.patience is None:
            return False
        scores = {entry["step"]: self.score(entry) for entry in history} if best is None else {best: 0.0}
        scored = [step for step, score in scores.items() if score is not None and math.isfinite(score)]
        epochs = [entry["epoch"] for entry in history if entry["step"] in scored]
        return len(history) - max(epochs, default=0) >= self.patience

    def watch(self, record: dict[str, Any], state: TrainState) -> dict[str, float]:
        """Call the monitors, and add the numbers they return to the record."""
        numbers: dict[str, float] = {}
        for monitor in self.monitors:
            found = monitor(record, state)
            if isinstance(found, Mapping):  # a lambda may return anything
                for name, value in found.items():
                    if not isinstance(name, str):
                        raise TypeError(f"monitors must return numbers by name, got {brief(name)} as a name")
                    numbers[name] = _number(f"monitors: {name!r} must be a number", value)
        if taken := numbers.keys() & (record.keys() | {NONFINITE}):
            raise ValueError(f"monitors return {sorted(taken)}, which the record already has: rename them")
        record |= numbers
        return numbers

    def optimizer_of(self, params: Any) -> optax.GradientTransformation:
        """The optimizer, restricted to trainable parameters."""
        return self.optimizer if all(jax.tree.leaves(trainable(params))) else _trainable_only(self.optimizer)

    def train_step(self, optimizer: optax.GradientTransformation) -> Callable[..., Any]:
        """The training step; the same function for equal arguments, so that several runs compile it once."""
        arguments = self.model, self.loss, optimizer, tuple(self.penalties), self.method
        try:
            hash(arguments)
        except TypeError:  # a penalty that does not hash
            return _new_step(*arguments)
        return _kept_step(*arguments)

    def evaluated(self, state: TrainState) -> Any:
        """The parameters to evaluate, keep and return: those of the state, or the result of `eval_params`."""
        if self.eval_params is None:
            return state.params
        free = trainable(state.params)
        if all(jax.tree.leaves(free)):
            return self.eval_params(state.opt_state, state.params)
        params = self.eval_params(state.opt_state, _masked(free, state.params))
        return _merged(free, params, state.params)


def check_surroundings(
    plan: Plan,
    in_features: Any,
    params: Any,
    validation: Any,
    out: Any,
    *,
    resume: bool,
    meta: Any = None,
    stores_width: bool = True,
) -> None:
    """Raise if options of `fit` or `sweep` contradict each other."""
    if in_features is None and params is None:
        raise ValueError("in_features is needed, to initialize params, or else params")
    if not hasattr(plan.model, "init") and (plan.stateful or out is not None or params is None):
        raise ValueError("model is a function, so it needs params, and stateful and out are not available")
    if plan.patience is not None and validation is None and plan.criterion is None:
        raise ValueError("patience needs validation batches or a criterion")
    if resume and out is None:
        raise ValueError("resume needs out, the directory of the checkpoints")
    if not isinstance(meta, dict | None):
        raise TypeError(f"meta must be a dict, got {brief(meta)}")
    if out is not None and in_features is None and stores_width:
        raise ValueError("out needs in_features, which the checkpoints store")


def of_epoch(name: str, batches: Any, epochs: int) -> Callable[[int], Batches]:
    """Batches as a function of the epoch number."""
    if callable(batches):
        return lambda epoch: require_batches(f"{name}({epoch})", batches(epoch))
    require_batches(name, batches)
    if isinstance(batches, Iterator) and epochs > 1:
        raise ValueError(
            f"{name} is a {type(batches).__name__}, which is exhausted after one of {epochs} epochs: pass "
            "a list, or a function of the epoch number that returns the batches"
        )
    return lambda epoch: batches


def _new_step(model: Any, loss: Any, optimizer: Any, penalties: Any, method: Any) -> Callable[..., Any]:
    return train_step(model, loss, optimizer, penalties=penalties, method=method)


_kept_step = cached(_new_step, maxsize=8)


@cached
def _trainable_only(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The optimizer on trainable parameters, also in `grad` and `value_fn`; the others get no updates."""
    inner = update_of(optimizer)

    def init(params: Any) -> Any:
        return optimizer.init(_masked(trainable(params), params))

    def update(
        grads: Any, state: Any, params: Any = None, *, grad: Any, value_fn: Any, **extra: Any
    ) -> tuple[Any, Any]:
        free = trainable(params)
        extra["grad"] = _masked(free, grad)
        extra["value_fn"] = lambda some: value_fn(_merged(free, some, params))
        updates, state = inner(_masked(free, grads), state, _masked(free, params), **extra)
        return _merged(free, updates, jax.tree.map(jnp.zeros_like, grads)), state

    return optax.GradientTransformationExtraArgs(init, update)


def _masked(free: Any, tree: Any) -> Any:
    """The trainable leaves; the others are left out, as by `optax.masked`."""
    return jax.tree.map(lambda f, leaf: leaf if f else optax.MaskedNode(), free, tree)


def _merged(free: Any, some: Any, rest: Any) -> Any:
    """The trainable leaves of one tree, and the fixed ones of another."""
    return jax.tree.map(lambda f, new, old: new if f else old, free, some, rest)


def _number(needed: str, given: Any) -> float:
    """A real number of Python, NumPy or JAX as a float; it need not be finite."""
    found = jax.device_get(given)
    if not isinstance(found, str | bytes) and np.ndim(found) == 0 and np.isrealobj(found):
        with contextlib.suppress(TypeError, ValueError):
            return float(found)
    raise TypeError(f"{needed}, got {brief(given)}")
