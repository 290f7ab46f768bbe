"""Training and evaluation steps."""

import contextlib
import functools
import inspect
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jrnn._alignment import select
from jrnn._caching import cached
from jrnn._checks import brief, reject_modules, require_key
from jrnn._processes import total
from jrnn.cell import Cell, batch_shape_of, carry_spec, is_layer, map_state, quiet
from jrnn.data import Batch
from jrnn.layers import apply
from jrnn.layers.sequential import check_stateful
from jrnn.training.objectives import Loss, check_loss, check_targets, one_number
from jrnn.unrolling import Scan
from jrnn.unrolling._inputs import check_batch_inputs
from jrnn.unrolling.methods import Method

ModelFunction = Callable[..., tuple[Any, Any]]  # (params, batch, carry, key) -> (carry, ys)
Penalty = Callable[[Any, Batch], Array]  # (params, batch) -> a number added to the loss


def model_function(model: Any, method: Method = Scan()) -> ModelFunction:
    """Convert a cell or layer to `(params, batch, carry, key) -> (carry, ys)`; return a function as it is."""
    reject_modules("model", model)
    if not is_layer(model) and not isinstance(model, Cell):
        if not callable(model) or isinstance(model, type):
            raise TypeError(f"model must be a cell, a layer or a function, got {brief(model)}")
        return model

    def run(params: Any, batch: Batch, carry: Any, key: Any) -> tuple[Any, Any]:
        options: dict[str, Any] = {"lengths": batch.lengths, "resets": batch.resets, "method": method}
        return apply(model, params, batch.xs, carry, key=key, **options)

    return run


class TrainState(NamedTuple):
    """Everything that a training step reads and writes."""

    params: Any
    opt_state: Any
    carry: Any  # state passed on from batch to batch; None if every batch starts from the initial carry
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
    """Initial state of training.

    Args:
      model: a cell or a layer; or a model function, if no carry is passed on.
      params: its parameters.
      optimizer: any optax transformation.
      key: source of all randomness of the run.
      batch_shape: batch shape of the carry to pass on; with None, every batch starts from the initial carry.

    Returns:
      A `TrainState` at step 0.
    """
    require_key(key)
    require_optimizer(optimizer)
    carry = None if batch_shape is None else model.initial_carry(params, batch_shape)
    with naming_optimizer("init(params)"):
        opt_state = optimizer.init(params)
    return TrainState(params, opt_state, carry, key, jnp.zeros((), jnp.int32))


def train_step(
    model: Any,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    penalties: tuple[Penalty, ...] = (),
    method: Method = Scan(),
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """Make a training step: a pure function, for the caller to compile.

        L = loss(model(params, batch, carry, key), batch),   g = ∇_params (L + Σ penalty(params, batch))
        params ← params + optimizer(g)

    The optimizer also receives the value of L plus penalties, its gradient, and L as a function of the
    params (optax's `value`, `grad` and `value_fn`), which `lbfgs`, `polyak_sgd` and `reduce_on_plateau` need.

    If `state.carry` is not None, it is passed on to the next batch with its gradient stopped (truncated
    BPTT), and new noise is drawn for every batch; with `fresh`, it restarts from `initial_carry`.

    Args:
      model: a cell, a layer, or a function `(params, batch, carry, key) -> (carry, ys)`.
      loss: `PerStep(...)`, `AtLast(...)` or any `Loss`.
      optimizer: any optax transformation.
      penalties: functions `(params, batch)` whose values are added to the loss, such as
        `jrnn.analysis.GradientFlossing`.
      method: how the recurrence is run.

    Returns:
      `step(state, batch, fresh=False) -> (state, {"loss": nats, "grad_norm": norm})`; if there are penalties,
      their sum is returned as "penalty".

    >>> import jax, jax.numpy as jnp, jrnn, optax
    >>> cell, opt = jrnn.Elman(1), optax.sgd(0.1)
    >>> step = jax.jit(jrnn.train_step(cell, jrnn.PerStep(jrnn.losses.mean_squared_error), opt))
    >>> state = jrnn.init_state(cell, cell.init(jax.random.key(0), 1), opt, jax.random.key(1))
    >>> batch = jrnn.Batch(jnp.ones((5, 2, 1)), jnp.zeros((5, 2, 1)))
    >>> bool(step(step(state, batch)[0], batch)[1]["loss"] < step(state, batch)[1]["loss"])
    True
    """
    function, update = model_function(model, method), update_of(optimizer)
    check_loss(loss)

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
            penalty = sum((_penalty(penalty, params, batch) for penalty in penalties), jnp.zeros(()))
            return value + penalty, (carry, {"loss": value, "penalty": penalty})

        (value, (carry, metrics)), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        extra = {"value": value, "grad": grads, "value_fn": lambda params: objective(params)[0]}
        with naming_optimizer(f"update(gradients, state, params, {', '.join(extra)})"):
            updates, opt_state = update(grads, state.opt_state, state.params, **extra)
        params = optax.apply_updates(state.params, updates)
        kept = None if state.carry is None else quiet(model, params, carry)
        metrics["grad_norm"] = optax.tree.norm(grads)
        return TrainState(params, opt_state, kept, key, state.step + 1), metrics

    return step


def require_optimizer(optimizer: Any) -> None:
    """Raise unless `optimizer` is an optax transformation."""
    if not hasattr(optimizer, "init") or not hasattr(optimizer, "update"):
        raise TypeError(
            "optimizer must be an optax GradientTransformation such as optax.adam(1e-3), got "
            f"{brief(optimizer)}: did you forget to call it?"
        )


def update_of(optimizer: optax.GradientTransformation) -> Callable[..., tuple[Any, Any]]:
    """The update of an optimizer, with those of the extra arguments that it takes."""
    require_optimizer(optimizer)
    update: Callable[..., Any] = optax.with_extra_args_support(optimizer).update
    taken = inspect.signature(update).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        return update
    return lambda *given, **extra: update(*given, **{n: v for n, v in extra.items() if n in taken})


@contextlib.contextmanager
def naming_optimizer(call: str) -> Iterator[None]:
    """Name the optimizer in an error of one that needs what training does not pass."""
    try:
        yield
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise ValueError(f"optimizer cannot be used here, {call} raises {brief(error)}") from error


def _penalty(penalty: Penalty, params: Any, batch: Batch) -> Array:
    value = penalty(params, batch)
    if not one_number(value) and not isinstance(value, int):
        found = jax.typeof(value) if isinstance(value, Array) else brief(value)
        raise TypeError(f"penalties must return one real number each, {brief(penalty)} returns {found}")
    return jnp.asarray(value)


def _restart(model: Any, params: Any, batch: Batch, carry: Any, fresh: Any) -> Any:
    """The carry, or if `fresh` the initial one, through which a learned initial state gets its gradient."""
    start = model.initial_carry(params, batch_shape(model, batch))
    spec = carry_spec(model, params)
    stay = ~jnp.asarray(fresh)
    return map_state(lambda c, s: select(stay, c, s), spec, carry, start)


def batch_shape(model: Any, batch: Batch) -> tuple[int, ...]:
    """Batch axes of `batch.xs`: all but time and the features."""
    return batch_shape_of(model, batch.xs)[1:]


def evaluate(
    model: Any,
    params: Any,
    batches: Iterable[Batch],
    loss: Loss,
    *,
    stateful: bool = False,
    method: Method = Scan(),
) -> float:
    """Mean loss over all targets of all batches, without noise.

    Args:
      model: a cell, a layer or a model function.
      params: its parameters.
      batches: any iterable of batches; each new shape of a batch is compiled once.
      loss: `PerStep(...)`, `AtLast(...)` or any `Loss`.
      stateful: pass the carry on from batch to batch.
      method: how the recurrence is run.

    Returns:
      The mean in nats over all targets of all batches.

    Raises:
      ValueError: there is no target to evaluate on.
      TypeError: batches contain something other than `Batch`.
    """
    model_function(model)
    check_loss(loss)
    return mean_loss(Evaluation(model, loss, check_stateful(stateful, model), method), params, batches)


def predict(
    model: Any, params: Any, batches: Iterable[Batch], *, stateful: bool = False, method: Method = Scan()
) -> Iterator[Any]:
    """Outputs of a model, batch by batch, without noise.

    Args:
      model: a cell, a layer or a model function.
      params: its parameters.
      batches: any iterable of batches; each new shape of a batch is compiled once.
      stateful: pass the carry on from batch to batch.
      method: how the recurrence is run.

    Yields:
      The outputs for each batch as NumPy arrays: (time, batch, ...) for a cell, zero after `lengths`.

    Raises:
      TypeError: batches contain something other than `Batch`.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> cell = jrnn.GRU(3)
    >>> params = cell.init(jax.random.key(0), in_features=2)
    >>> batches = [jrnn.Batch(jnp.ones((5, 4, 2)), targets=None)]
    >>> [ys.shape for ys in jrnn.predict(cell, params, batches)]
    [(5, 4, 3)]
    """
    model_function(model)
    check_stateful(stateful, model)
    return _predicted(model, params, require_batches("batches", batches), stateful, method)


def _predicted(
    model: Any, params: Any, batches: Iterable[Batch], stateful: bool, method: Method
) -> Iterator[Any]:
    run, carry, before = _prediction(model, method), None, None
    for batch in batches:
        require_batch(batch, model, params)
        before = same_rows("batches: a batch", model, batch, before) if stateful else None
        carry, ys = run(params, jax.device_put(batch), carry if stateful else None)
        yield jax.device_get(ys)


class Evaluation(NamedTuple):
    """A model, its loss, and the options of an evaluation."""

    model: Any
    loss: Loss
    stateful: bool = False
    method: Method = Scan()


def mean_loss(
    how: Evaluation,
    params: Any,
    batches: Iterable[Batch],
    place: Callable[[Batch], Batch] = jax.device_put,
    name: str = "batches",
) -> float:
    """Implement `evaluate`; `place` moves a batch, or its rows here, `name` is for messages."""
    run = _evaluation(how.model, how.loss, how.method)

    def evaluated(batch: Batch, carry: Any) -> tuple[Any, Any]:
        return run(params, place(batch), carry)

    means, counts = [], []
    for batch, mean in losses_of(how, params, batches, evaluated, name):
        means.append(mean)
        counts.append(counted(how.loss, batch))
    return float(average(means, counts, name))


def losses_of(
    how: Evaluation, params: Any, batches: Iterable[Batch], run: Callable[..., tuple[Any, Any]], name: str
) -> Iterator[tuple[Batch, Any]]:
    """Every batch, checked, with the losses that `run(batch, carry) -> (carry, losses)` returns for it."""
    carry, before, last = None, None, None
    for batch in require_batches(name, batches):
        require_batch(batch, how.model, params, name, how.loss)
        before = same_rows(f"{name}: a batch", how.model, batch, before) if how.stateful else None
        carry, found = run(batch, carry if how.stateful else None)
        jax.block_until_ready(last)  # so that few batches wait in memory
        last = found
        yield batch, found


def average(means: list[Any], counts: list[Any], name: str) -> Any:
    """The mean over the targets of all batches, of the means over each and their numbers of targets."""
    values, weights = (
        np.array(jax.device_get(means), np.float64),
        total(np.array(jax.device_get(counts), float)),
    )
    if not weights.sum():
        raise ValueError(f"{name} to evaluate on contain no targets, needs at least one")
    counting = weights > 0  # a mean over nothing may be NaN
    return np.average(values[counting], axis=0, weights=weights[counting])


def counted(loss: Loss, batch: Batch) -> Any:
    """Number of targets that count, for a batch that may still be on the host."""
    with jax.transfer_guard_host_to_device("allow"):
        return loss.count(batch)


def require_batch(
    batch: Any, model: Any, params: Any, name: str = "batches", loss: Loss | None = None
) -> Batch:
    """Return a batch, or raise an error that names what was given instead, or a token out of range.

    With the loss, a label out of range is an error too.
    """
    if not isinstance(batch, Batch):
        raise TypeError(f"{name} must contain jrnn.Batch(xs, targets, ...), got {brief(batch)}")
    check_batch_inputs(model, params, batch.xs, batch.lengths)
    check_targets(loss, model, batch, name)
    return batch


def require_batches(name: str, batches: Any) -> Iterable[Batch]:
    """Return an iterable of batches, or raise a TypeError that names what was given instead."""
    if isinstance(batches, Batch) or not isinstance(batches, Iterable):
        hint = "put it in a list" if isinstance(batches, Batch) else "a list of jrnn.Batch, a Stream, ..."
        raise TypeError(f"{name} must be an iterable of batches, got {brief(batches)}: {hint}")
    return batches


def rows_of_stream(
    model: Any, batch: Batch, before: tuple[int, ...] | None, at: tuple[int, int]
) -> tuple[int, ...]:
    """`same_rows` for the batch `at` (epoch, number of batches before it) of a stream that is trained on."""
    return same_rows(f"batches: batch {at[1] + 1} of epoch {at[0] + 1}", model, batch, before)


def same_rows(where: str, model: Any, batch: Batch, before: tuple[int, ...] | None) -> tuple[int, ...]:
    """The batch shape, or a ValueError if it is not that of the carry of the batch before."""
    shape = batch_shape(model, batch)
    if before not in (None, shape):
        raise ValueError(
            f"{where} has batch shape {shape}, needs {before} like the carry that stateful=True passes on: "
            "drop an incomplete last batch"
        )
    return shape


def is_finite(params: Any) -> Any:
    """True if all parameters are finite: a bool of NumPy for its arrays, traced for others."""
    floats = [leaf for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    flags = [leaf.__array_namespace__().isfinite(leaf).all() for leaf in floats]
    return functools.reduce(operator.and_, flags, np.bool_(True))


@cached
def _evaluation(model: Any, loss: Any, method: Method) -> Callable[..., tuple[Any, Array]]:
    function = model_function(model, method)

    def step(params: Any, batch: Batch, carry: Any) -> tuple[Any, Array]:
        carry, ys = function(params, batch, carry, None)
        return carry, loss.mean(ys, batch)

    return jax.jit(step)


@cached
def _prediction(model: Any, method: Method) -> Callable[..., tuple[Any, Any]]:
    function = model_function(model, method)
    return jax.jit(lambda params, batch, carry: function(params, batch, carry, None))
