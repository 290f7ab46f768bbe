"""Memory tasks: outputs that depend on inputs many steps earlier."""

import numpy as np
from numpy.typing import NDArray

from jrnn._checks import check_lag, check_rate, check_width
from jrnn.data.synthetic._drawing import seeded

Floats = NDArray[np.float32]
Integers = NDArray[np.int32]

ORDER_SYMBOLS = "abcdXYEB"


def adding_problem(count: int, steps: int, seed: int) -> tuple[list[Floats], Floats]:
    """Adding problem: add the two marked numbers of a series.

        target = Σₜ x[t, 0] · x[t, 1],   x[t, 0] ~ U[0, 1),   x[t, 1] = 1 at two steps, else 0

    This is the variant with one marker in each half: the first at t < ⌊steps/2⌋, the second at
    t ≥ ⌊steps/2⌋. The constant answer 1 has a mean squared error of 1/6 = 0.1667.

    Args:
      count: number of series.
      steps: T, at least 2.
      seed: random seed.

    Returns:
      `(xs, targets)`: a list of (T, 2) arrays, and (count, 1).

    Raises:
      ValueError: fewer than two steps.

    Reference: Hochreiter, Schmidhuber, Long short-term memory, 1997, doi:10.1162/neco.1997.9.8.1735.

    >>> from jrnn.data.synthetic import adding_problem
    >>> xs, targets = adding_problem(count=4, steps=10, seed=0)
    >>> len(xs), xs[0].shape, targets.shape, float(xs[0][:, 1].sum())
    (4, (10, 2), (4, 1), 2.0)
    """
    check_width("count", count)
    check_width("steps", steps)
    if steps < 2:
        raise ValueError(f"steps must be at least 2, one for each marker, got {steps}")
    random = seeded(seed)
    rows, half = np.arange(count), steps // 2
    xs = np.zeros((count, steps, 2), np.float32)
    xs[:, :, 0] = random.random((count, steps), np.float32)
    xs[rows, random.integers(0, half, count), 1] = 1
    xs[rows, random.integers(half, steps, count), 1] = 1
    return list(xs), (xs[:, :, 0] * xs[:, :, 1]).sum(axis=1, keepdims=True)


def copy_memory(count: int, steps: int, seed: int) -> tuple[list[Integers], list[Integers]]:
    """Copy memory task: repeat ten symbols after a delay.

        xs      = s₁ … s₁₀, then steps − 1 zeros, then 11 times 9,   sᵢ ~ U{1, …, 8}
        targets = steps + 10 zeros, then s₁ … s₁₀

    A model without memory has a cross-entropy of at least 10 ln 8 / (steps + 20) nats per step.

    Args:
      count: number of sequences.
      steps: T, the delay, at least 1; the sequences have T + 20 steps.
      seed: random seed.

    Returns:
      `(xs, targets)`, two lists of (T + 20,) arrays of integers in [0, 10).

    Reference: Arjovsky, Shah, Bengio, Unitary evolution recurrent neural networks, 2016, arXiv:1511.06464.

    >>> from jrnn.data.synthetic import copy_memory
    >>> xs, targets = copy_memory(count=4, steps=5, seed=0)
    >>> xs[0][10:].tolist(), (xs[0][:10] == targets[0][-10:]).all().item()
    ([0, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9], True)
    """
    check_width("count", count)
    check_width("steps", steps)
    symbols = seeded(seed).integers(1, 9, (count, 10), np.int32)
    xs = np.zeros((count, steps + 20), np.int32)
    xs[:, :10], xs[:, -11:] = symbols, 9
    targets = np.zeros_like(xs)
    targets[:, -10:] = symbols
    return list(xs), list(targets)


def delayed_echo(count: int, steps: int, delay: int, seed: int) -> tuple[list[Integers], list[Integers]]:
    """Delayed echo: repeat every bit some steps later.

        targets[t] = xs[t − delay],   0 where t < delay,   xs[t] ~ U{0, 1}

    A model without memory gets half of the bits from t = delay on right.

    Args:
      count: number of sequences.
      steps: T.
      delay: in [0, T).
      seed: random seed.

    Returns:
      `(xs, targets)`, two lists of (T,) arrays of integers in {0, 1}.

    Raises:
      ValueError: a delay as long as the sequence.

    >>> from jrnn.data.synthetic import delayed_echo
    >>> xs, targets = delayed_echo(count=1, steps=8, delay=3, seed=0)
    >>> xs[0].tolist(), targets[0].tolist()
    ([1, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0, 0])
    """
    check_width("count", count)
    check_width("steps", steps)
    check_lag("delay", delay)
    if delay >= steps:
        raise ValueError(f"delay must be less than steps={steps}, got {delay}: nothing would be echoed")
    xs = seeded(seed).integers(0, 2, (count, steps), np.int32)
    targets = np.zeros_like(xs)
    targets[:, delay:] = xs[:, : steps - delay]
    return list(xs), list(targets)


def flip_flop(
    count: int, steps: int, seed: int, bits: int = 3, rate: float = 0.1
) -> tuple[list[Floats], list[Floats]]:
    """Flip-flop task: hold the sign of the last pulse of every channel.

        xs[t, i]      = ±1 with probability rate, each sign half of the time, else 0;   ±1 at t = 0
        targets[t, i] = the last of xs[0, i], …, xs[t, i] that is not 0

    A network that solves it needs 2^bits stable states. The pulses at the first step make every target ±1; a
    random guess is right half of the time.

    Args:
      count: number of sequences.
      steps: T.
      seed: random seed.
      bits: number of channels.
      rate: probability of a pulse, in [0, 1).

    Returns:
      `(xs, targets)`, two lists of (T, bits) arrays with values −1, 0, 1 and −1, 1.

    Raises:
      ValueError: a width below 1, or a rate outside [0, 1).

    Reference: Sussillo, Barak, Opening the black box: low-dimensional dynamics in high-dimensional recurrent
    neural networks, 2013, doi:10.1162/NECO_a_00409.

    >>> from jrnn.data.synthetic import flip_flop
    >>> xs, targets = flip_flop(count=1, steps=8, seed=5, bits=1, rate=0.3)
    >>> xs[0][:, 0].astype(int).tolist(), targets[0][:, 0].astype(int).tolist()
    ([-1, 0, 0, 1, -1, 0, 0, -1], [-1, -1, -1, 1, -1, -1, -1, -1])
    """
    check_width("count", count)
    check_width("steps", steps)
    check_width("bits", bits)
    check_rate("rate", rate)
    random, shape = seeded(seed), (count, steps, bits)
    pulses = random.random(shape) < rate
    pulses[:, 0] = True
    xs = np.where(pulses, random.choice(np.array([-1, 1], np.float32), shape), np.float32(0))
    times = np.where(pulses, np.arange(steps)[:, None], 0)
    last = np.maximum.accumulate(times, axis=1)  # (count, steps, bits), when the last pulse was
    return list(xs), list(np.take_along_axis(xs, last, axis=1))


def temporal_order(count: int, steps: int, seed: int) -> tuple[list[Integers], Integers]:
    """Temporal order task: classify the order of two rare symbols.

        xs = E … s₁ … s₂ … B,   s₁, s₂ ~ U{X, Y},   the rest ~ U{a, b, c, d}
        class = 2 [s₁ = Y] + [s₂ = Y]
        T ~ U[n, 1.1 n],   s₁ at t ~ U[0.1 n, 0.2 n],   s₂ at t ~ U[0.5 n, 0.6 n],   n = steps

    Positions count from 0 and are rounded down; steps = 100 is experiment 6a of the paper. A random guess is
    right with probability 1/4; a model that counts X and Y but ignores their order, with 3/4.

    Args:
      count: number of sequences.
      steps: n, the minimal length, at least 10.
      seed: random seed.

    Returns:
      `(xs, classes)`: a list of (Tᵢ,) arrays of positions in "abcdXYEB", and (count,).

    Raises:
      ValueError: fewer than ten steps.

    Reference: Hochreiter, Schmidhuber, Long short-term memory, 1997, doi:10.1162/neco.1997.9.8.1735.

    >>> from jrnn.data.synthetic import temporal_order
    >>> xs, classes = temporal_order(count=3, steps=12, seed=0)
    >>> ["".join("abcdXYEB"[token] for token in sequence) for sequence in xs], classes.tolist()
    (['EaYaadcYccdB', 'EYdcabdXadcdB', 'EaYbbbXaaacB'], [3, 2, 2])
    """
    check_width("count", count)
    check_width("steps", steps)
    if steps < 10:
        raise ValueError(f"steps must be at least 10, so that the two symbols fit, got {steps}")
    random = seeded(seed)
    classes = random.integers(0, 4, count, np.int32)
    xs = []
    for label in classes:
        x = random.integers(0, 4, random.integers(steps, steps + steps // 10 + 1), np.int32)
        x[0], x[-1] = ORDER_SYMBOLS.index("E"), ORDER_SYMBOLS.index("B")
        x[random.integers(steps // 10, steps // 5 + 1)] = ORDER_SYMBOLS.index("X") + label // 2
        x[random.integers(steps // 2, 3 * steps // 5 + 1)] = ORDER_SYMBOLS.index("X") + label % 2
        xs.append(x)
    return xs, classes
