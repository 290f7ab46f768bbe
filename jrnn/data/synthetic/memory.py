"""Memory tasks: outputs that depend on inputs many steps earlier."""

import itertools

import numpy as np
from numpy.typing import NDArray

from jrnn._checks import brief, check_lag, check_rate, check_width
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


def associative_recall(
    count: int, pairs: int, steps: int, seed: int, keys: int = 32
) -> tuple[list[Integers], list[Integers]]:
    """Associative recall of many queries (MQAR): look up the values of keys that were shown.

        xs      = k₁ v₁ k₂ v₂ … , then queries q ~ U{k₁, k₂, …}
        targets = 0 at the first 2 · pairs steps, then the value of each query
        k without repetition from {1, …, keys},   v ~ U{keys + 1, …, 2 · keys}

    Queries follow one another without gaps. A guess among the values shown is right with a probability of
    1 / pairs or a little more.

    Args:
      count: number of sequences.
      pairs: number of keys shown, at most `keys`.
      steps: T, more than 2 · pairs.
      seed: random seed.
      keys: number of keys, and of values.

    Returns:
      `(xs, targets)`, two lists of (T,) arrays of integers in [0, 2 · keys].

    Raises:
      ValueError: more pairs than keys, or no step left for a query.

    Reference: Arora et al., Zoology: measuring and improving recall in efficient language models, 2023,
    arXiv:2312.04927.

    >>> from jrnn.data.synthetic import associative_recall
    >>> xs, targets = associative_recall(count=1, pairs=2, steps=8, seed=0, keys=4)
    >>> xs[0].tolist(), targets[0].tolist()
    ([3, 6, 1, 5, 3, 3, 3, 1], [0, 0, 0, 0, 6, 6, 6, 5])
    """
    for argument, given in (("count", count), ("pairs", pairs), ("steps", steps), ("keys", keys)):
        check_width(argument, given)
    if pairs > keys:
        raise ValueError(f"pairs must be at most keys={keys}, each of which has one value, got {pairs}")
    if steps <= 2 * pairs:
        raise ValueError(
            f"steps must be more than 2 · pairs={2 * pairs}, so that some are queries, got {steps}"
        )
    random = seeded(seed)
    shown = random.permuted(np.tile(np.arange(1, keys + 1, dtype=np.int32), (count, 1)), axis=1)[:, :pairs]
    values = random.integers(keys + 1, 2 * keys + 1, (count, pairs), np.int32)
    asked = random.integers(0, pairs, (count, steps - 2 * pairs))
    xs, targets = np.zeros((2, count, steps), np.int32)
    xs[:, 0 : 2 * pairs : 2], xs[:, 1 : 2 * pairs : 2] = shown, values
    xs[:, 2 * pairs :] = np.take_along_axis(shown, asked, axis=1)
    targets[:, 2 * pairs :] = np.take_along_axis(values, asked, axis=1)
    return list(xs), list(targets)


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


def state_tracking(count: int, steps: int, group: str, seed: int) -> tuple[list[Integers], list[Integers]]:
    """State tracking: the running product of elements of a finite group.

        targets[t] = xs[0] · xs[1] ⋯ xs[t],   xs[t] ~ U(group)

    "Zn" has the numbers below n, added modulo n: "Z2" is parity. "Sn" has the permutations of n things in
    lexicographic order, the leftmost carried out first. 0 is the neutral element. A linear recurrence
    without negative or complex eigenvalues tracks none of them at every length. A random guess is right with
    a probability of 1 / |group|.

    Args:
      count: number of sequences.
      steps: T.
      group: "Z2", "Z3", …, or "S2" to "S5".
      seed: random seed.

    Returns:
      `(xs, targets)`, two lists of (T,) arrays of integers in [0, |group|).

    Raises:
      ValueError: another group.

    Reference: Merrill, Petty, Sabharwal, The illusion of state in state-space models, 2024, arXiv:2404.08819;
    Grazzi et al., Unlocking state-tracking in linear RNNs through negative eigenvalues, 2025,
    arXiv:2411.12537.

    >>> from jrnn.data.synthetic import state_tracking
    >>> xs, targets = state_tracking(count=1, steps=8, group="Z2", seed=0)
    >>> xs[0].tolist(), targets[0].tolist()
    ([1, 1, 1, 0, 0, 0, 0, 0], [1, 0, 1, 1, 1, 1, 1, 1])
    """
    check_width("count", count)
    check_width("steps", steps)
    table = _multiplication(group)
    xs = seeded(seed).integers(0, len(table), (count, steps), np.int32)
    targets = xs.copy()
    for t in range(1, steps):
        targets[:, t] = table[targets[:, t - 1], xs[:, t]]
    return list(xs), list(targets)


def _multiplication(group: str) -> Integers:
    """The table of a group: the number of the product of each two elements, the left one first."""
    kind, size = str(group)[:1], str(group)[1:]
    n = int(size) if size.isdecimal() else 0
    if kind == "Z" and n >= 2:
        return np.add.outer(np.arange(n), np.arange(n)).astype(np.int32) % n
    if kind == "S" and 2 <= n <= 5:
        elements = list(itertools.permutations(range(n)))
        number = {element: i for i, element in enumerate(elements)}
        rows = [[number[tuple(b[i] for i in a)] for b in elements] for a in elements]
        return np.array(rows, np.int32)
    raise ValueError(f'group must be "Z2", "Z3", … or "S2" to "S5", got {brief(group)}')


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
