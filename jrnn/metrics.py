"""Accuracy of labels and of whole sequences without padding, in NumPy.

For precision, recall and F1 pass `predictions[mask]` and `targets[mask]` to scikit-learn; for entities use
seqeval.
"""

from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray


def accuracy(predictions: Any, targets: Any, mask: Any = None) -> float:
    """Fraction of correct labels.

        accuracy = Σ mask · [prediction = target] / Σ mask

    Args:
      predictions: integer labels, any shape, such as (time, batch); from logits, their `argmax(-1)`.
      targets: the same shape.
      mask: boolean, over the leading axes of `targets` (broadcast from size 1); False excludes a label.

    Returns:
      A number in [0, 1].

    Raises:
      ValueError: a wrong shape or dtype, or a mask that excludes everything; the message names the argument.

    >>> from jrnn.metrics import accuracy
    >>> accuracy([2, 1, 0], [2, 1, 1], mask=[True, True, False])
    1.0
    """
    predictions, targets = _valid(*_pair(predictions, targets), mask)
    return float(np.mean(predictions == targets))


def exact_match(predictions: Any, targets: Any, lengths: Any) -> float:
    """Fraction of sequences with every token correct.

        right_b = predictionsₜ_b = targetsₜ_b for all t < lengths_b,   exact match = mean of right

    Predictions after `lengths` are ignored. So include the stop token in the lengths: otherwise a prediction
    that continues after the end counts as correct. Rows of length 0, which fill up the last batch of an
    epoch, are ignored.

    Args:
      predictions: (T', batch...), integers, such as the tokens of `generate`; wrong where T' < `lengths`.
      targets: (T, batch...), integers.
      lengths: (batch...), tokens of each target, stop token included, as from `pair_batches`.

    Returns:
      A number in [0, 1].

    Raises:
      ValueError: a wrong shape or dtype, lengths outside [0, T], or all 0; the message names the argument.

    >>> from jrnn.metrics import exact_match
    >>> exact_match([[5, 6], [9, 9], [0, 9]], [[5, 6], [9, 7], [0, 9]], lengths=[2, 3])
    0.5
    """
    predictions, targets = _labels("predictions", predictions), _labels("targets", targets)
    lengths = _labels("lengths", lengths)
    if targets.ndim == 0 or predictions.shape[1:] != targets.shape[1:] or not predictions.ndim:
        raise ValueError(
            f"predictions has shape {predictions.shape}, targets {targets.shape}: "
            "they may differ in their first axis, time, only"
        )
    if lengths.shape != targets.shape[1:]:
        raise ValueError(
            f"lengths has shape {lengths.shape}, targets of shape {targets.shape} needs {targets.shape[1:]}"
        )
    if lengths.size and not 0 <= lengths.min() <= lengths.max() <= len(targets):
        raise ValueError(f"lengths must lie in [0, {len(targets)}], got {lengths.min()} to {lengths.max()}")
    if not lengths.any():
        raise ValueError("lengths are all 0, needs at least one nonempty sequence")
    steps = min(len(predictions), len(targets))
    right = np.zeros(targets.shape, bool)
    right[:steps] = predictions[:steps] == targets[:steps]
    behind = np.arange(len(targets)).reshape(-1, *[1] * lengths.ndim) >= lengths
    return float((right | behind).all(0)[lengths > 0].mean())


def _labels(name: str, given: Any) -> NDArray[Any]:
    labels = np.asarray(jax.device_get(given))
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{name} must be integers, got {labels.dtype}")
    return labels


def _pair(predictions: Any, targets: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Convert to arrays, and check that they are integers of one shape."""
    targets, predictions = _labels("targets", targets), np.asarray(jax.device_get(predictions))
    if predictions.ndim == targets.ndim + 1 and not np.issubdtype(predictions.dtype, np.integer):
        raise ValueError(
            f"predictions must be integers, got {predictions.dtype} of shape {predictions.shape}: "
            "from logits, use argmax(-1)"
        )
    predictions = _labels("predictions", predictions)
    if predictions.shape != targets.shape:
        raise ValueError(
            f"predictions has shape {predictions.shape}, targets {targets.shape}: needs the same"
        )
    return predictions, targets


def _valid(predictions: NDArray[Any], targets: NDArray[Any], mask: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """The unmasked labels, (n,), n ≥ 1."""
    if mask is not None:
        mask = np.asarray(jax.device_get(mask))
        if mask.dtype != bool:
            raise ValueError(f"mask must be boolean, got {mask.dtype}")
        axes = targets.shape[: mask.ndim]
        if mask.ndim > targets.ndim or any(m not in (1, n) for m, n in zip(mask.shape, axes, strict=True)):
            raise ValueError(f"mask has shape {mask.shape}, needs the leading axes of {targets.shape}")
        mask = mask.reshape(mask.shape + (1,) * (targets.ndim - mask.ndim))
        keep = np.broadcast_to(mask, targets.shape)
        predictions, targets = predictions[keep], targets[keep]
    if not targets.size:
        raise ValueError(f"{'targets is empty' if mask is None else 'mask excludes all'}, needs a label")
    return predictions.ravel(), targets.ravel()
