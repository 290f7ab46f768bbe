"""Ragged series of several channels, to be classified."""

from itertools import permutations
from math import factorial

import numpy as np
from numpy.typing import NDArray

from jrnn.checks import check_width
from jrnn.data.synthetic.drawing import seeded


def tones(
    count: int, classes: int, channels: int, seed: int
) -> tuple[list[NDArray[np.float32]], NDArray[np.int32], tuple[str, ...]]:
    """Series of tones one after the other; the class is the order in which they come.

        xs[t, c] = a_c sin(2π f_j t + θ_jc) + 0.1 ε,   j = the tone at step t,   ε ~ N(0, 1)
        a ~ U[0.5, 1.5],   θ ~ U[0, 2π),   T ~ U{10, …, 40}

    Every series has the same n tones, n the least with n! ≥ classes, at least 2, of frequencies equally
    spaced from 0.05 to 0.35 cycles a step and of about T / n steps each; class k has them in the k-th
    permutation. What a channel does over all its steps says nothing: a guess is right in 1/classes, and
    so is logistic regression on the means, variances and spectra of the channels (27 % for 4 classes).

    Args:
      count: series.
      classes: 2 or more, up to 24.
      channels: C.
      seed: of the draws.

    Returns:
      `(sequences, labels, classes)`: a list of (Tᵢ, C) arrays, (count,) integers, and the orders, such as
      "021": lowest, highest, middle.

    Raises:
      ValueError: a number of classes outside 2 to 24.

    >>> from jrnn.data.synthetic import tones
    >>> sequences, labels, names = tones(count=3, classes=4, channels=2, seed=0)
    >>> [x.shape for x in sequences], labels.tolist(), names
    ([(18, 2), (11, 2), (12, 2)], [3, 2, 2], ('012', '021', '102', '120'))
    """
    check_width("count", count)
    check_width("channels", channels)
    if classes not in range(2, 25):
        raise ValueError(f"classes must be 2 to 24, the orders of up to four tones, got {classes}")
    tones_each = next(n for n in (2, 3, 4) if factorial(n) >= classes)
    orders = np.array(list(permutations(range(tones_each))))[:classes]
    frequencies = np.linspace(0.05, 0.35, tones_each)
    random = seeded(seed)
    labels = random.integers(0, classes, count, np.int32)
    sequences = []
    for order in orders[labels]:
        steps = int(random.integers(10, 41))
        t = np.arange(steps)
        ends = (np.arange(1, tones_each) + random.uniform(-0.2, 0.2, tones_each - 1)) * steps / tones_each
        tone = order[np.searchsorted(ends, t + 0.5)]
        # every tone has phases of its own: a joint without a jump would tell what comes next to what
        start = random.uniform(0, 2 * np.pi, (tones_each, channels))[tone]
        wave = np.sin(2 * np.pi * (frequencies[tone] * t)[:, None] + start)
        noise = 0.1 * random.standard_normal((steps, channels))
        sequences.append((random.uniform(0.5, 1.5, channels) * wave + noise).astype(np.float32))
    names = tuple("".join(map(str, order)) for order in orders.tolist())
    return sequences, labels, names
