"""Four-part harmony as piano rolls."""

from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from jrnn.checks import check_width
from jrnn.data.synthetic.drawing import pick, seeded

KEYS, LOWEST = 88, 21  # key k of the piano is MIDI note 21 + k
SCALE = (0, 2, 4, 5, 7, 9, 11)
RANGES = ((60, 79), (55, 72), (48, 67), (40, 59))  # soprano, alto, tenor, bass, MIDI notes
FOLLOWING = {0: (1, 3, 3, 4, 4, 5), 1: (4,), 2: (5, 3), 3: (0, 1, 4, 4), 4: (0, 0, 0, 5), 5: (1, 3, 2)}
DURATIONS = (1, 2, 2, 4)

Voicing = tuple[int, int, int, int]


def chorales(count: int, seed: int) -> list[NDArray[np.float32]]:
    """Chord progressions for four voices, each in a major key, as piano rolls.

        chord₁ = I,   chordₙ₊₁ ~ what may follow chordₙ (ii → V, V → I or vi, …),   the end = V I
        voicing of a chord = one of the three nearest to the last: least Σ |move| of the four voices

    9 to 17 chords in one of 12 keys, held for 1, 2 or 4 steps. The bass has the root, all three notes of
    a chord sound, voices keep their ranges and never cross. In nats per step, predicting the next step:
    each key by its frequency costs 12.7, by its frequency after being down or up one step before 8.5.

    Args:
      count: progressions.
      seed: of the draws.

    Returns:
      A list of (Tᵢ, 88) arrays of 0 and 1, four keys down at every step; key 0 is A0, key 39 middle C.

    >>> from jrnn.data.synthetic import chorales
    >>> roll = chorales(count=1, seed=0)[0]
    >>> roll.shape, roll[-1].nonzero()[0].tolist()
    ((31, 88), [25, 41, 49, 56])
    """
    check_width("count", count)
    random = seeded(seed)
    return [_roll(_voices(random, tonic=int(random.integers(12))), random) for _ in range(count)]


def _voices(random: np.random.Generator, tonic: int) -> list[Voicing]:
    degrees = [0]
    for _ in range(int(random.integers(5, 14))):
        degrees.append(pick(random, FOLLOWING[degrees[-1]]))
    degrees += [0, 4, 0] if degrees[-1] == 4 else [3, 4, 0]
    voices = [pick(random, _voicings(tonic, 0))]
    for degree in degrees[1:]:
        last = voices[-1]
        nearest = sorted(_voicings(tonic, degree), key=lambda voicing: _distance(voicing, last))
        voices.append(pick(random, nearest[:3]))
    return voices


@cache
def _voicings(tonic: int, degree: int) -> list[Voicing]:
    """All voicings of the triad on a degree of a major scale: soprano > alto > tenor > bass, the root."""
    triad = [(tonic + SCALE[(degree + third) % 7]) % 12 for third in (0, 2, 4)]
    voices = [[note for note in range(low, high + 1) if note % 12 in triad] for low, high in RANGES]
    return [
        (soprano, alto, tenor, bass)
        for soprano, alto, tenor, bass in product(*voices)
        if soprano > alto > tenor > bass
        and bass % 12 == triad[0]
        and {note % 12 for note in (soprano, alto, tenor, bass)} == set(triad)
    ]


def _distance(voicing: Voicing, last: Voicing) -> int:
    return sum(abs(note - before) for note, before in zip(voicing, last, strict=True))


def _roll(voices: list[Voicing], random: np.random.Generator) -> NDArray[np.float32]:
    chords = np.zeros((len(voices), KEYS), np.float32)
    for chord, notes in zip(chords, voices, strict=True):
        chord[np.array(notes) - LOWEST] = 1
    return np.repeat(chords, [pick(random, DURATIONS) for _ in voices], axis=0)
