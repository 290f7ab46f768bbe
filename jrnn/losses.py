"""Losses over sequences: means over exactly the valid steps."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jrnn._alignment import expand, promoted, select
from jrnn.unrolling._masking import valid_steps

# optax is imported where it is used, since it would double the cost of `import jrnn`


def cross_entropy(logits: Any, labels: Any, mask: Any = None) -> Array:
    """Cross-entropy of integer labels, averaged over the valid steps, in nats.

        loss = Σₜ maskₜ · (log Σᵥ exp logitsₜᵥ − logitsₜ[labelsₜ]) / Σₜ maskₜ

    Divide by log 2 for bits. Summed in float32 or wider. Masked steps, even with NaN or labels outside the
    vocabulary, affect neither the value nor the gradient; without any valid step the loss is 0.

    Args:
      logits: (..., classes), floats; `...` is (time, batch...), or (batch...) for one label per sequence.
      labels: (...), integers in [0, classes). Other values at a valid step give NaN; `fit` and `evaluate`
        raise instead, for batches on the host.
      mask: boolean, over the leading axes of `labels` (broadcast from size 1); False excludes a label.

    Returns:
      A scalar.

    Raises:
      ValueError: a wrong shape or dtype; the message names the argument.

    >>> import jax.numpy as jnp
    >>> from jrnn.losses import cross_entropy
    >>> logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
    >>> print(f"{cross_entropy(logits, jnp.array([0, 9]), mask=jnp.array([True, False])):.4f}")
    1.3863
    """
    import optax

    logits, labels = _floats("logits", logits), jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, got {labels.dtype}: from one-hot rows, use argmax(-1)")
    if logits.ndim == 0 or labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"labels has shape {labels.shape}, logits of shape {logits.shape} need {logits.shape[:-1]}"
        )
    mask = _checked_mask(mask, labels.shape, "labels")
    labels = labels if labels.dtype.itemsize == 8 else labels.astype(jnp.int32)
    inside = (labels >= 0) & (labels < logits.shape[-1])
    labels = jnp.where(inside, labels.astype(jnp.int32), logits.shape[-1])  # -1 is not the last class
    logits, labels = _blank(mask, logits), _blank(mask, labels)
    return _mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels), mask)


def mean_squared_error(predictions: Any, targets: Any, mask: Any = None) -> Array:
    """Squared error, averaged over the valid elements.

        loss = Σ mask · (predictions − targets)² / Σ mask

    Every feature of a valid step is an element. Summed in float32 or wider. Masked elements, even NaN or
    inf, affect neither the value nor the gradient; without any valid element the loss is 0.

    Args:
      predictions: any shape, floats, such as (time, batch..., features).
      targets: the same shape.
      mask: boolean, over the leading axes of `predictions` (broadcast from size 1); False excludes elements.

    Returns:
      A scalar.

    Raises:
      ValueError: a wrong shape or dtype; the message names the argument.

    >>> import jax.numpy as jnp
    >>> from jrnn.losses import mean_squared_error
    >>> targets = jnp.zeros((2, 3)).at[1].set(jnp.nan)
    >>> float(mean_squared_error(jnp.ones((2, 3)), targets, mask=jnp.array([True, False])))
    1.0
    """
    predictions, targets = _pair("predictions", predictions, targets)
    mask = _checked_mask(mask, predictions.shape, "predictions")
    return _mean((_blank(mask, predictions) - _blank(mask, targets)) ** 2, mask)


def bernoulli(logits: Any, targets: Any, mask: Any = None) -> Array:
    """Cross-entropy of binary features, summed over features and averaged over the valid steps.

        loss = −Σₜ maskₜ Σₖ (targetsₜₖ log σ(logitsₜₖ) + (1 − targetsₜₖ) log σ(−logitsₜₖ)) / Σₜ maskₜ

    In nats per step, the usual measure for polyphonic music, with one feature for each of 88 keys. Summed in
    float32 or wider. Masked steps affect neither the value nor the gradient; without any valid step the loss
    is 0.

    Args:
      logits: (..., features), floats.
      targets: the same shape, 0 or 1, or probabilities.
      mask: boolean, over the leading axes of `logits` without the last (broadcast from size 1); False
        excludes a step.

    Returns:
      A scalar.

    Raises:
      ValueError: a wrong shape or dtype; the message names the argument.

    Reference: Boulanger-Lewandowski, Bengio, Vincent, Modeling temporal dependencies in
    high-dimensional sequences, 2012, arXiv:1206.6392.

    >>> import jax.numpy as jnp
    >>> from jrnn.losses import bernoulli
    >>> print(f"{bernoulli(jnp.zeros((5, 88)), jnp.ones((5, 88))) / jnp.log(2):.1f}")
    88.0
    """
    import optax

    logits, targets = _pair("logits", logits, targets)
    if logits.ndim == 0:
        raise ValueError("logits is a scalar, needs (..., features)")
    mask = _checked_mask(mask, logits.shape[:-1], "the steps")
    losses = optax.sigmoid_binary_cross_entropy(_blank(mask, logits), _blank(mask, targets))
    return _mean(losses.sum(-1), mask)


def activation_regularization(ys: Any, mask: Any = None) -> Array:
    """Activation regularization (AR): the mean square of the outputs over the valid elements.

        penalty = Σ maskₜ · yₜ² / Σ maskₜ

    Summed in float32 or wider. Masked steps affect neither the value nor the gradient.

    Args:
      ys: (time, ..., features), outputs of a recurrent layer (after its dropout, in the paper).
      mask: boolean, over the leading axes of `ys` (broadcast from size 1); False excludes an element.

    Returns:
      A scalar, to be added to a loss with a weight of 1 to 3.

    Raises:
      ValueError: a wrong shape or dtype; the message names the argument.

    Reference: Merity, McCann, Socher, Revisiting activation regularization for language RNNs, 2017,
    arXiv:1708.01009.

    >>> import jax.numpy as jnp
    >>> from jrnn.losses import activation_regularization
    >>> float(activation_regularization(jnp.array([[1.0, 3.0], [9.0, 9.0]]), jnp.array([True, False])))
    5.0
    """
    ys = _floats("ys", ys)
    mask = _checked_mask(mask, ys.shape, "ys")
    return _mean(_blank(mask, ys) ** 2, mask)


def temporal_activation_regularization(ys: Any, mask: Any = None) -> Array:
    """Temporal activation regularization (TAR): the mean squared difference of consecutive outputs.

        penalty = Σ maskₜ maskₜ₋₁ · (yₜ − yₜ₋₁)² / Σ maskₜ maskₜ₋₁

    Summed in float32 or wider. Masked steps affect neither the value nor the gradient.

    Args:
      ys: (time, ..., features), outputs of a recurrent layer (before its dropout, in the paper).
      mask: boolean, over the leading axes of `ys` (broadcast from size 1); False excludes an element.

    Returns:
      A scalar, to be added to a loss with a weight of 1 to 3.

    Raises:
      ValueError: a wrong shape or dtype; the message names the argument.

    Reference: Merity, McCann, Socher, Revisiting activation regularization for language RNNs, 2017,
    arXiv:1708.01009.

    >>> import jax.numpy as jnp
    >>> from jrnn.losses import temporal_activation_regularization
    >>> float(temporal_activation_regularization(jnp.array([[1.0], [3.0], [4.0]])))
    2.5
    """
    ys = _floats("ys", ys)
    mask = _checked_mask(mask, ys.shape, "ys")
    clean = _blank(mask, ys)
    pairs = None if mask is None else mask[1:] & mask[:-1]
    return _mean((clean[1:] - clean[:-1]) ** 2, pairs)


def length_mask(lengths: Any, steps: int) -> Array:
    """Mask of the valid steps.

        maskₜ = t < lengths

    Args:
      lengths: (batch...), integers in [0, steps]; other values raise if they are concrete, and are clipped
        under jit.
      steps: T.

    Returns:
      (T, batch...), boolean.

    Raises:
      ValueError: lengths out of range, or not integers.

    >>> import jax.numpy as jnp
    >>> from jrnn.losses import length_mask
    >>> length_mask(jnp.array([1, 0, 2]), 2).tolist()
    [[True, False, True], [False, False, True]]
    """
    return jnp.asarray(valid_steps(lengths, steps, jnp.shape(lengths)))


def _floats(name: str, given: Any) -> Array:
    """Convert to an array of float32 or wider."""
    array = jnp.asarray(given)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} must be floats, got {array.dtype}")
    return array.astype(promoted(array.dtype, jnp.float32))


def _pair(name: str, given: Any, targets: Any) -> tuple[Array, Array]:
    """Convert both to the dtype of the first; shapes must be equal, since (n,) and (n, 1) would broadcast."""
    array, targets = _floats(name, given), jnp.asarray(targets)
    if array.shape != targets.shape:
        raise ValueError(f"targets has shape {targets.shape}, needs that of {name}, {array.shape}")
    return array, targets.astype(array.dtype)


def _checked_mask(mask: Any, shape: tuple[int, ...], of: str) -> Array | None:
    """Broadcast `mask` to `shape`, along its leading axes."""
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    if mask.dtype != jnp.bool_:
        raise ValueError(f"mask must be boolean, got {mask.dtype}: use mask != 0")
    if mask.ndim > len(shape) or any(m not in (1, n) for m, n in zip(mask.shape, shape, strict=False)):
        raise ValueError(f"mask has shape {mask.shape}, needs the leading axes of {of}, {shape}")
    return jnp.broadcast_to(expand(mask, len(shape)), shape)


def _blank(mask: Array | None, array: Array) -> Array:
    """Zero masked entries before computing, since NaN times 0 would be NaN in the gradient."""
    return array if mask is None else select(mask, array, jnp.zeros_like(array))


def _mean(losses: Array, mask: Array | None) -> Array:
    """Mean over the unmasked entries, 0 if there are none."""
    count = losses.size if mask is None else mask.sum()
    return _blank(mask, losses).sum() / jnp.maximum(count, 1).astype(losses.dtype)
