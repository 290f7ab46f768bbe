"""Shares of labels and of sequences that are right, padding left out, in NumPy.

Precision, recall and F1 of `predictions[mask]` and `targets[mask]`: scikit-learn; of entities: seqeval.
"""

from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray


def accuracy(predictions: Any, targets: Any, mask: Any = None) -> float:
    """Share of the labels that are predicted right.

        accuracy = Σ mask · [prediction = target] / Σ mask

    Args:
      predictions: integer labels, any shape, such as (time, batch); from logits, their `argmax(-1)`.
      targets: the same shape.
      mask: boolean, the leading axes of `targets` (or size 1 there), False at what does not count.

    Returns:
      A number in [0, 1].

    Raises:
      ValueError: a shape or dtype that does not fit, or nothing that counts; the message names the argument.

    >>> from jrnn.metrics import accuracy
    >>> accuracy([2, 1, 0], [2, 1, 1], mask=[True, True, False])
    1.0
    """
    predictions, targets = _valid(*_pair(predictions, targets), mask)
    return float(np.mean(predictions == targets))


def exact_match(predictions: Any, targets: Any, lengths: Any) -> float:
    """Share of the sequences that are right in every token, up to and including their end.

        right_b = predictionsₜ_b = targetsₜ_b for all t < lengths_b,   exact match = mean of right

    What is predicted from `lengths` on does not count. So count the token that ends a sequence in: else a
    prediction that goes on where it should have stopped passes as right. Rows of length 0, which fill the
    last batch of an epoch, do not count.

    Args:
      predictions: (T', batch...), integers, such as the tokens of `generate`; where T' < `lengths`, wrong.
      targets: (T, batch...), integers.
      lengths: (batch...), tokens of each target, its end included: those of `pair_batches`.

    Returns:
      A number in [0, 1].

    Raises:
      ValueError: a shape or dtype that does not fit, lengths outside [0, T], or all 0; the message names
        the argument.

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
        raise ValueError("lengths is 0 everywhere, needs a sequence that counts")
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
    """Both as arrays, once they are integers of one shape."""
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
    """The labels that count, (n,), n ≥ 1."""
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
        raise ValueError(f"{'targets' if mask is None else 'mask'} leaves nothing that counts, needs a label")
    return predictions.ravel(), targets.ravel()
