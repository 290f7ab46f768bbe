"""Music: four-part progressions of chords."""

import functools
import itertools

import numpy as np
from numpy.typing import NDArray

from jrnn._checks import check_width
from jrnn.data.synthetic._drawing import pick, seeded

Floats = NDArray[np.float32]
Voicing = tuple[int, ...]  # soprano, alto, tenor, bass

SCALE = (0, 2, 4, 5, 7, 9, 11)
DURATIONS = (1, 2, 2, 4)
RANGES = ((60, 79), (55, 72), (48, 67), (40, 59))  # soprano, alto, tenor, bass: MIDI notes
FOLLOWING = {0: (1, 3, 3, 4, 4, 5), 1: (4,), 2: (5, 3), 3: (0, 1, 4, 4), 4: (0, 0, 0, 5), 5: (1, 3, 2)}
LOWEST, KEYS = 21, 88  # of a piano


def chorales(count: int, seed: int) -> list[Floats]:
    """Progressions of chords in four parts, in all major keys: 88 keys, down or not, at each step.

    Each chord is a triad of the scale, which follows the one before as is common, near to it in all four
    parts, and held for 1, 2 or 4 steps; the last ones are a cadence.

    Args:
      count: number of pieces.
      seed: random seed.

    Returns:
      A list of (Tᵢ, 88) arrays of 0 and 1; key 0 is MIDI note 21, the lowest of a piano.

    >>> from jrnn.data.synthetic import chorales
    >>> (piece,) = chorales(count=1, seed=0)
    >>> piece.shape, [int(key) + 21 for key in piece[0].nonzero()[0]]
    ((31, 88), [46, 50, 70, 77])
    """
    check_width("count", count)
    random = seeded(seed)
    return [_piece(random) for _ in range(count)]


def _piece(random: np.random.Generator) -> Floats:
    tonic, degrees = int(random.integers(12)), [0]
    for _ in range(int(random.integers(5, 14))):
        degrees.append(pick(random, FOLLOWING[degrees[-1]]))
    degrees += [0, 4, 0] if degrees[-1] == 4 else [3, 4, 0]
    voices = [pick(random, _voicings(tonic, 0))]
    for degree in degrees[1:]:
        nearest = sorted(_voicings(tonic, degree), key=functools.partial(_distance, voices[-1]))
        voices.append(pick(random, nearest[:3]))
    chords = np.zeros((len(voices), KEYS), np.float32)
    chords[np.arange(len(voices))[:, None], np.array(voices) - LOWEST] = 1
    return np.repeat(chords, [pick(random, DURATIONS) for _ in voices], axis=0)


def _distance(before: Voicing, after: Voicing) -> int:
    """The semitones that all parts move together."""
    return int(np.abs(np.subtract(before, after)).sum())


@functools.cache
def _voicings(tonic: int, degree: int) -> list[Voicing]:
    """The triad on a degree of the scale: soprano > alto > tenor > bass, its root in the bass."""
    triad = [(tonic + SCALE[(degree + third) % 7]) % 12 for third in (0, 2, 4)]
    parts = [[note for note in range(low, high + 1) if note % 12 in triad] for low, high in RANGES]
    falling = (v for v in itertools.product(*parts) if v[0] > v[1] > v[2] > v[3])
    return [v for v in falling if v[3] % 12 == triad[0] and {note % 12 for note in v} == set(triad)]
