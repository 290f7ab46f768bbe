"""Losses of a model on a batch: per step, at the last step, or per sequence."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn._checks import brief
from jrnn.data import Batch
from jrnn.losses import cross_entropy
from jrnn.paradigms import last
from jrnn.unrolling._masking import on_host, valid_steps


class Loss(Protocol):
    """The mean loss of a model's outputs on a batch, and the number of targets it is taken over.

    The number need not be whole: for a weighted mean it is the sum of the weights. A loss whose targets and
    `target_mask` are (batch, ...) has an attribute `per_sequence`, True, by which several processes share
    out a batch.
    """

    def mean(self, ys: Any, batch: Batch) -> Array: ...

    def count(self, batch: Batch) -> Any: ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class PerStep:
    """Loss on every valid step: `loss(ys, targets, mask)`.

    The mask is `target_mask` of the batch. Without one it is True before `lengths`, which are those of the
    inputs: targets that end elsewhere need a `target_mask`.

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
        _shape(batch)
        _require_leading("PerStep", ys, batch.targets, 2)
        return _mean("PerStep", self.loss, ys, batch.targets, self._mask(batch))

    def count(self, batch: Batch) -> Any:
        """Number of steps that count."""
        return _selected(self._mask(batch), _shape(batch), 2)

    def _mask(self, batch: Batch) -> Any:
        if batch.target_mask is not None and np.ndim(batch.target_mask) < 2:
            raise ValueError(
                f"target_mask has shape {np.shape(batch.target_mask)}, PerStep needs (time, batch)"
            )
        if batch.target_mask is not None or batch.lengths is None:
            return batch.target_mask
        host = on_host(batch.lengths)
        lengths = batch.lengths if host is None else host
        return valid_steps(lengths, _shape(batch)[0], jnp.shape(lengths))


@dataclass(frozen=True)
class AtLast:
    """Loss on the last valid output of every sequence (many-to-one): `PerSequence` applied to `last`.

    A cell that runs backwards (`Reversed`, the backward cell of a `Bidirectional`) has seen only one input at
    that step. `ManyToOne` reads each direction at its own end; use `PerSequence` for its loss.

    Args:
      loss: `(predictions, targets, mask) -> mean`, such as `jrnn.losses.cross_entropy`.

    >>> import jax.numpy as jnp, jrnn
    >>> batch = jrnn.Batch(xs=None, targets=jnp.zeros((1, 1)), lengths=jnp.array([1]))
    >>> ys = jnp.array([[[3.0]], [[5.0]]])
    >>> float(jrnn.AtLast(jrnn.losses.mean_squared_error).mean(ys, batch))
    9.0
    """

    loss: Callable[..., Array]
    per_sequence: ClassVar[bool] = True

    def mean(self, ys: Any, batch: Batch) -> Array:
        """The mean over the sequences that count."""
        if hasattr(ys, "shape") and hasattr(batch.xs, "shape"):
            _require_leading("AtLast", ys, batch.xs, 2)
        return _mean("AtLast", self.loss, last(ys, batch.lengths), batch.targets, _nonempty(batch))

    def count(self, batch: Batch) -> Any:
        """Number of sequences that count."""
        return PerSequence(self.loss).count(batch)


@dataclass(frozen=True)
class PerSequence:
    """Loss on one output per sequence, such as that of `ManyToOne`.

    Args:
      loss: `(predictions, targets, mask) -> mean`, such as `jrnn.losses.cross_entropy`.

    >>> import jax.numpy as jnp, jrnn
    >>> batch = jrnn.Batch(xs=None, targets=jnp.zeros((2, 1)), lengths=jnp.array([4, 0]))
    >>> float(jrnn.PerSequence(jrnn.losses.mean_squared_error).mean(jnp.array([[3.0], [5.0]]), batch))
    9.0
    """

    loss: Callable[..., Array]
    per_sequence: ClassVar[bool] = True

    def mean(self, ys: Any, batch: Batch) -> Array:
        """The mean over the sequences that count."""
        _require_leading("PerSequence", ys, batch.targets, 1)
        return _mean("PerSequence", self.loss, ys, batch.targets, _nonempty(batch))

    def count(self, batch: Batch) -> Any:
        """Number of sequences that count."""
        return _selected(_nonempty(batch), _shape(batch), 1)


def _selected(mask: Any, shape: tuple[int, ...], axes: int) -> Any:
    """The number of targets that a mask selects, broadcast to them; all of the first axes without one."""
    if mask is None:
        return np.prod(shape[:axes])
    if (host := on_host(mask)) is not None:  # JAX would compile a program for each shape
        return np.sum(np.broadcast_to(host, shape[: mask.ndim]))
    return jnp.sum(jnp.broadcast_to(mask, shape[: mask.ndim]))


def _nonempty(batch: Batch) -> Any:
    """The sequences that count: unmasked and not empty."""
    if batch.lengths is None:
        return batch.target_mask
    nonempty = jnp.asarray(batch.lengths) > 0
    return nonempty if batch.target_mask is None else nonempty & batch.target_mask


_NEEDS = {
    "PerStep": "(time, batch, ...): for one target per sequence use AtLast or PerSequence",
    "AtLast": "(time, batch, ...), of which it reads the last: for a model such as ManyToOne use PerSequence",
    "PerSequence": "(batch, ...), one per sequence: to read the last of outputs at every step use AtLast",
}


def _require_leading(who: str, ys: Any, like: Any, axes: int) -> None:
    """Raise if the leading axes of outputs differ from those of targets or inputs and would broadcast."""
    if not hasattr(ys, "shape") or not hasattr(like, "shape") or ys.shape[:axes] == like.shape[:axes]:
        return
    name = "xs" if who == "AtLast" else "targets"
    swapped = axes == 2 and ys.shape[:2] == like.shape[1::-1]
    needed = "time first: swap the first two axes" if swapped else _NEEDS[who]
    raise ValueError(f"{who} got outputs of shape {ys.shape} and {name} of {like.shape}, needs {needed}")


def check_loss(loss: Any) -> None:
    """Raise unless `loss` is a `Loss`."""
    if isinstance(loss, type) or not hasattr(loss, "mean") or not hasattr(loss, "count"):
        raise TypeError(f"loss must be a Loss such as PerStep(...), got {brief(loss)}: wrap it in one")


def check_targets(loss: Any, model: Any, batch: Batch, name: str) -> None:
    """Raise if a label that counts is not one of the classes, the outputs of the model.

    Only for `cross_entropy`, whose value would be NaN, and only if the batch is on the host, in NumPy or on
    the CPU: reading it from another device would wait for that.
    """
    classes, targets = getattr(model, "out_features", None), on_host(batch.targets)
    if getattr(loss, "loss", None) is not cross_entropy or not isinstance(classes, int) or targets is None:
        return
    if not np.issubdtype(targets.dtype, np.integer):
        return
    outside = (targets < 0) | (targets >= classes)
    if not outside.any():
        return
    with jax.transfer_guard_host_to_device("allow"):
        mask = loss._mask(batch) if isinstance(loss, PerStep) else _nonempty(batch)
    if mask is not None:
        counts = np.asarray(jax.device_get(mask))  # over the leading axes of the targets
        if counts.dtype != bool or counts.ndim > outside.ndim:
            return  # the loss names the mask
        if any(n not in (1, size) for n, size in zip(counts.shape, outside.shape, strict=False)):
            return  # the loss names the mask
        outside &= counts.reshape(counts.shape + (1,) * (outside.ndim - counts.ndim))
    if outside.any():
        place = tuple(int(index) for index in np.argwhere(outside)[0])
        raise ValueError(
            f"{name}: targets{list(place)} is {targets[place]}, cross_entropy needs 0 to {classes - 1}, "
            f"since the outputs of {brief(model)} are {classes} classes; exclude it by target_mask or lengths"
        )


def one_number(value: Any) -> bool:
    """True for a real floating-point scalar, an array or a Python number."""
    known = isinstance(value, (float, np.generic, np.ndarray, Array)) and jnp.shape(value) == ()
    return known and jnp.issubdtype(jnp.result_type(value), jnp.floating)


def _shape(batch: Batch) -> tuple[int, ...]:
    """The shape of the targets, which must be one array."""
    if not hasattr(batch.targets, "shape"):
        raise TypeError(f"targets of a batch must be an array, got {brief(batch.targets)}: use np.asarray")
    shape: tuple[int, ...] = batch.targets.shape
    return shape


def _mean(who: str, loss: Callable[..., Any], ys: Any, targets: Any, mask: Any) -> Array:
    """Call `loss(ys, targets, mask)`, which must return one number."""
    shapes = ", ".join(
        f"{name} {None if value is None else getattr(value, 'shape', brief(value))}"
        for name, value in {"predictions": ys, "targets": targets, "mask": mask}.items()
    )
    hint = "wrap another loss f: lambda ys, targets, mask: jnp.mean(f(ys, targets), where=mask)"
    called = f"{who}: {brief(loss)} is called as loss(predictions, targets, mask) -> mean, like jrnn.losses"
    try:
        value = loss(ys, targets, mask)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{called}; it fails for {shapes}: {error} ({hint})") from error
    if not one_number(value):
        found = jax.typeof(value) if isinstance(value, Array) else brief(value)
        raise TypeError(f"{called}; it returns {found}, needs one real number, for {shapes}: {hint}")
    return jnp.asarray(value)
