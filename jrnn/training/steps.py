"""One step of training, one of evaluation."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jrnn.alignment import select
from jrnn.cell import Cell, batch_shape_of, carry_spec, is_layer, map_state, quiet
from jrnn.data import Batch
from jrnn.layers import apply
from jrnn.losses import length_mask
from jrnn.paradigms import last
from jrnn.unrolling import Scan
from jrnn.unrolling.methods import Method

ModelFunction = Callable[..., tuple[Any, Any]]  # (params, batch, carry, key) -> (carry, ys)
Penalty = Callable[[Any, Batch], Array]  # (params, batch) -> what is added to the loss


class Loss(Protocol):
    """A mean loss of model outputs on a batch, and the number of targets that it is the mean of."""

    def mean(self, ys: Any, batch: Batch) -> Array: ...

    def count(self, batch: Batch) -> Any: ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class PerStep:
    """A loss on every valid step: `loss(ys, targets, mask)` with the mask of the batch.

    Args:
      loss: `(predictions, targets, mask) -> mean`, such as `jrnn.losses.cross_entropy`.

    >>> import jax.numpy as jnp, jrnn
    >>> batch = jrnn.Batch(xs=None, targets=jnp.zeros((2, 1, 1)), lengths=jnp.array([1]))
    >>> ys = jnp.array([[[3.0]], [[5.0]]])
    >>> float(jrnn.PerStep(jrnn.losses.mean_squared_error).mean(ys, batch))
    9.0
    """

    loss: Callable[..., Array]

    def mean(self, ys: Any, batch: Batch) -> Array:
        """The mean over the steps that count."""
        return self.loss(ys, batch.targets, self._mask(batch))

    def count(self, batch: Batch) -> Any:
        """How many steps count."""
        mask = self._mask(batch)
        if mask is None:
            return np.prod(batch.targets.shape[:2])
        return jnp.sum(jnp.broadcast_to(mask, batch.targets.shape[: mask.ndim]))

    def _mask(self, batch: Batch) -> Any:
        if batch.mask is not None and np.ndim(batch.mask) < 2:
            raise ValueError(f"mask has shape {np.shape(batch.mask)}, PerStep needs (time, batch)")
        if batch.mask is not None or batch.lengths is None:
            return batch.mask
        return length_mask(batch.lengths, batch.targets.shape[0])


@dataclass(frozen=True)
class AtLast:
    """A loss on the last valid output of every sequence (many-to-one): `PerSequence` behind `last`.

    Of a `Bidirectional` that is the backward cell's first step: it has seen one input there; `ManyToOne`
    reads both ends.

    Args:
      loss: `(predictions, targets, mask) -> mean`, such as `jrnn.losses.cross_entropy`.

    >>> import jax.numpy as jnp, jrnn
    >>> batch = jrnn.Batch(xs=None, targets=jnp.zeros((1, 1)), lengths=jnp.array([1]))
    >>> ys = jnp.array([[[3.0]], [[5.0]]])
    >>> float(jrnn.AtLast(jrnn.losses.mean_squared_error).mean(ys, batch))
    9.0
    """

    loss: Callable[..., Array]

    def mean(self, ys: Any, batch: Batch) -> Array:
        """The mean over the sequences that count."""
        return PerSequence(self.loss).mean(last(ys, batch.lengths), batch)

    def count(self, batch: Batch) -> Any:
        """How many sequences count."""
        return PerSequence(self.loss).count(batch)


@dataclass(frozen=True)
class PerSequence:
    """A loss on one output for every sequence, as `ManyToOne` gives it.

    Args:
      loss: `(predictions, targets, mask) -> mean`, such as `jrnn.losses.cross_entropy`.

    >>> import jax.numpy as jnp, jrnn
    >>> batch = jrnn.Batch(xs=None, targets=jnp.zeros((2, 1)), lengths=jnp.array([4, 0]))
    >>> float(jrnn.PerSequence(jrnn.losses.mean_squared_error).mean(jnp.array([[3.0], [5.0]]), batch))
    9.0
    """

    loss: Callable[..., Array]

    def mean(self, ys: Any, batch: Batch) -> Array:
        """The mean over the sequences that count."""
        return self.loss(ys, batch.targets, _nonempty(batch))

    def count(self, batch: Batch) -> Any:
        """How many sequences count."""
        mask = _nonempty(batch)
        return batch.targets.shape[0] if mask is None else jnp.sum(mask)


def _nonempty(batch: Batch) -> Any:
    """The sequences that count: not masked, and of one step at least."""
    if batch.lengths is None:
        return batch.mask
    nonempty = jnp.asarray(batch.lengths) > 0
    return nonempty if batch.mask is None else nonempty & batch.mask


def model_function(model: Any, method: Method = Scan()) -> ModelFunction:
    """`(params, batch, carry, key) -> (carry, ys)` of a cell or layer; a function is taken as it is."""
    if not is_layer(model) and not isinstance(model, Cell):
        if not callable(model) or isinstance(model, type):
            raise TypeError(f"model must be a cell, a layer or a function, got {model!r}")
        return model

    def run(params: Any, batch: Batch, carry: Any, key: Any) -> tuple[Any, Any]:
        options: dict[str, Any] = {"lengths": batch.lengths, "resets": batch.resets, "method": method}
        return apply(model, params, batch.xs, carry, key=key, **options)

    return run


class TrainState(NamedTuple):
    """All that a training step reads and writes."""

    params: Any
    opt_state: Any
    carry: Any  # state handed on from batch to batch; None where every batch starts anew
    key: Array
    step: Array  # (), int32


def init_state(
    model: Any,
    params: Any,
    optimizer: optax.GradientTransformation,
    key: Array,
    *,
    batch_shape: tuple[int, ...] | None = None,
) -> TrainState:
    """The state that training starts from.

    Args:
      model: a cell or a layer; a model function where no carry is handed on.
      params: its parameters.
      optimizer: any optax transformation.
      key: the randomness of the run.
      batch_shape: batch shape of a carry to hand on; None: every batch starts anew.

    Returns:
      A `TrainState` at step 0.
    """
    carry = None if batch_shape is None else model.initial_carry(params, batch_shape)
    return TrainState(params, optimizer.init(params), carry, key, jnp.zeros((), jnp.int32))


def train_step(
    model: Any,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    penalties: tuple[Penalty, ...] = (),
    method: Method = Scan(),
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """Make one training step, a pure function; the caller compiles it.

        L = loss(model(params, batch, carry, key), batch),   g = ∇_params (L + Σ penalty(params, batch))
        params ← params + optimizer(g)

    Where `state.carry` is not None it is handed on to the next batch with its gradient cut (truncated
    BPTT), and its noise drawn anew for every batch; with `fresh` it starts from `initial_carry` again.

    Args:
      model: a cell, a layer, or a function `(params, batch, carry, key) -> (carry, ys)`.
      loss: `PerStep(...)`, `AtLast(...)` or any `Loss`.
      optimizer: any optax transformation.
      penalties: functions `(params, batch)` of which the values are added to the loss, such as
        `jrnn.analysis.GradientFlossing`.
      method: how the recurrence is run.

    Returns:
      `step(state, batch, fresh=False) -> (state, {"loss": nats, "grad_norm": norm})`, with "penalty", the
      sum of the penalties, where there are any.

    >>> import jax, jax.numpy as jnp, jrnn, optax
    >>> cell, opt = jrnn.Elman(1), optax.sgd(0.1)
    >>> step = jax.jit(jrnn.train_step(cell, jrnn.PerStep(jrnn.losses.mean_squared_error), opt))
    >>> state = jrnn.init_state(cell, cell.init(jax.random.key(0), 1), opt, jax.random.key(1))
    >>> batch = jrnn.Batch(jnp.ones((5, 2, 1)), jnp.zeros((5, 2, 1)))
    >>> bool(step(step(state, batch)[0], batch)[1]["loss"] < step(state, batch)[1]["loss"])
    True
    """
    function = model_function(model, method)

    def step(state: TrainState, batch: Batch, fresh: Any = False) -> tuple[TrainState, dict[str, Array]]:
        key, noise = jax.random.split(state.key)

        def objective(params: Any) -> tuple[Array, tuple[Any, dict[str, Array]]]:
            carry = state.carry
            if carry is not None:
                carry = _restart(model, params, batch, carry, fresh)
            carry, ys = function(params, batch, carry, noise)
            value = loss.mean(ys, batch)
            if not penalties:
                return value, (carry, {"loss": value})
            penalty = sum((penalty(params, batch) for penalty in penalties), jnp.zeros(()))
            return value + penalty, (carry, {"loss": value, "penalty": penalty})

        (_, (carry, metrics)), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        kept = None if state.carry is None else quiet(model, params, carry)
        metrics["grad_norm"] = optax.tree.norm(grads)
        return TrainState(params, opt_state, kept, key, state.step + 1), metrics

    return step


def _restart(model: Any, params: Any, batch: Batch, carry: Any, fresh: Any) -> Any:
    """The carry, or where `fresh` the initial one, through which a learned start gets its gradient."""
    start = model.initial_carry(params, batch_shape(model, batch))
    spec = carry_spec(model, params)
    stay = ~jnp.asarray(fresh)
    return map_state(lambda c, s: select(stay, c, s), spec, carry, start)


def batch_shape(model: Any, batch: Batch) -> tuple[int, ...]:
    """Batch axes of `batch.xs`: all but time and the features."""
    return batch_shape_of(model, batch.xs)[1:]


def evaluate(
    model: Any, params: Any, batches: Iterable[Batch], loss: Loss, *, stateful: bool = False
) -> float:
    """Mean loss over all targets of all batches, without noise.

    Args:
      model: a cell, a layer or a model function.
      params: its parameters.
      batches: any iterable of batches.
      loss: `PerStep(...)`, `AtLast(...)` or any `Loss`.
      stateful: whether the carry is handed on from batch to batch.

    Returns:
      The mean in nats, every target of every batch counted once.

    Raises:
      ValueError: there is nothing to evaluate on.
    """
    return mean_loss(model, params, batches, loss, stateful, jax.device_put)


def counted(loss: Loss, batch: Batch) -> Any:
    """How many targets count, of a batch that may not have been moved to the device."""
    with jax.transfer_guard_host_to_device("allow"):
        return loss.count(batch)


def mean_loss(
    model: Any,
    params: Any,
    batches: Iterable[Batch],
    loss: Loss,
    stateful: bool,
    send: Callable[[Batch], Batch],
) -> float:
    """`evaluate`, of batches that are sent to their devices first."""
    run, carry, means, counts = _evaluation(model, loss), None, [], []
    for batch in batches:
        carry, mean = run(params, send(batch), carry if stateful else None)
        means.append(mean)
        counts.append(counted(loss, batch))
    weights = np.array(jax.device_get(counts), np.float64)
    if not weights.sum():
        raise ValueError("batches to evaluate on hold no target, need at least one")
    return float(np.average(np.array(jax.device_get(means), np.float64), weights=weights))


@functools.lru_cache(maxsize=64)
def _evaluation(model: Any, loss: Any) -> Callable[..., tuple[Any, Array]]:
    function = model_function(model)

    def step(params: Any, batch: Batch, carry: Any) -> tuple[Any, Array]:
        carry, ys = function(params, batch, carry, None)
        return carry, loss.mean(ys, batch)

    return jax.jit(step)
