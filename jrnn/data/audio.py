"""Sound: WAV files, and the log-mel features of speech."""

import io
import tarfile
import wave
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jrnn.checks import check_positive, check_width
from jrnn.data.files import PathName, read_bytes

FLOOR = 1e-6  # added to a power before its logarithm: about the noise of rounding to 16 bits


class Recording(NamedTuple):
    """A recording with its name."""

    name: str  # below the folder or in the archive
    samples: NDArray[np.float32]  # (n,), in [−1, 1]
    rate: int  # samples a second


def read_wav(file: PathName | BinaryIO) -> tuple[NDArray[np.float32], int]:
    """Read a WAV file of 8, 16, 24 or 32 bits a sample (PCM); channels are averaged.

        sample = (byte − 128) / 2⁷ for 8 bits,   integer / 2^(bits − 1) for more

    Args:
      file: its path, or the file, opened to read bytes.

    Returns:
      `(samples, rate)`: (n,), float32, in [−1, 1], and samples a second.

    Raises:
      FileNotFoundError: nothing is there.
      IsADirectoryError: it is a directory.
      ValueError: no WAV file, one whose samples are no PCM, or one that is truncated.

    >>> import io, wave
    >>> from jrnn.data import read_wav
    >>> with wave.open(file := io.BytesIO(), "wb") as writer:
    ...     writer.setparams((1, 2, 8000, 3, "NONE", ""))
    ...     writer.writeframes(b"\\x00\\x40" * 3)
    >>> read_wav(io.BytesIO(file.getvalue()))
    (array([0.5, 0.5, 0.5], dtype=float32), 8000)
    """
    if isinstance(file, (str, PathLike)):
        return _decode_wav(str(file), read_bytes(file, "WAV file"))
    return _decode_wav(str(getattr(file, "name", "file")), file.read())


def _decode_wav(name: str, data: bytes) -> tuple[NDArray[np.float32], int]:
    try:
        with wave.open(io.BytesIO(data)) as reader:
            channels, width, rate, count, *_ = reader.getparams()
            content = reader.readframes(count)
    except wave.Error as error:
        raise ValueError(f"{name}: no WAV file of PCM samples: {error}") from error
    except EOFError as error:
        raise ValueError(f"{name}: truncated within its header, at byte {len(data)}") from error
    found = len(content) // (channels * width)
    if found < count:
        raise ValueError(f"{name}: truncated, it has {found} of the {count} samples in its header")
    if width == 1:
        integers = np.frombuffer(content, np.uint8).astype(np.int32) - 128
    else:  # to the high bytes of 32 bits, and back with the sign
        padded = np.zeros((count * channels, 4), np.uint8)
        padded[:, 4 - width :] = np.frombuffer(content, np.uint8).reshape(-1, width)
        integers = padded.view("<i4")[:, 0] >> (32 - 8 * width)
    samples = integers.reshape(-1, channels).mean(1) / 2 ** (8 * width - 1)
    return samples.astype(np.float32), rate


def read_wavs(path: PathName) -> Iterator[Recording]:
    """Read the WAV files of a folder, or of a tar archive without unpacking it, in the order of their names.

    Args:
      path: a folder, searched to any depth, or a tar archive, plain or gzip. What does not end in `.wav` is
        left out.

    Returns:
      An iterator of recordings, each read as it is asked for.

    Raises:
      FileNotFoundError: nothing is there.
      ValueError: no or a damaged archive, or no WAV file in it, at once; a damaged WAV file, when it is read.

    Data sets: Free Spoken Digit Dataset, 3,000 digits of six speakers:
    `git clone --depth 1 https://github.com/Jakobovski/free-spoken-digit-dataset`, then
    `read_wavs("free-spoken-digit-dataset/recordings")`. `7_jackson_32.wav` is a seven, spoken by Jackson,
    take 32; takes 0 to 4 are the test set: `digit, speaker, take = name.removesuffix(".wav").split("_")`.

    >>> from jrnn.data import read_wavs
    >>> read_wavs("recordings")
    Traceback (most recent call last):
    FileNotFoundError: recordings: no such file
    """
    path = Path(path)
    if path.is_dir():
        names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*.wav") if file.is_file())
        recordings = (Recording(name, *read_wav(path / name)) for name in names)
    else:
        contents = _untar(path)
        names = sorted(contents)
        recordings = (Recording(name, *_decode_wav(f"{path}/{name}", contents[name])) for name in names)
    if not names:
        raise ValueError(f"{path}: has no file that ends in .wav")
    return recordings


def _untar(path: Path) -> dict[str, bytes]:
    """Contents of the WAV files of a tar archive, by name; nothing is written to disk."""
    contents = {}
    data = read_bytes(path, "folder or tar archive")
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None and member.name.endswith(".wav"):
                    contents[member.name] = stream.read()
    except tarfile.TarError as error:
        raise ValueError(f"{path}: no tar archive, or a damaged one: {error}") from error
    return contents


def log_mel(
    samples: Any, rate: int, *, window_ms: float = 25, hop_ms: float = 10, bands: int = 40
) -> NDArray[np.float32]:
    """Logarithms of the power of sound in bands that widen as those of hearing do, frame by frame.

        frames[t, k] = w[k] · samples[t·H + k],   w[k] = ½ − ½ cos(2πk / N),   k < N
        P[t, j]      = |Σₖ frames[t, k] · e^(−2πijk / F)|²,   j ≤ F / 2
        M[b, j]      = max(0, min((fⱼ − e_b) / (e_{b+1} − e_b), (e_{b+2} − fⱼ) / (e_{b+2} − e_{b+1})))
        ys[t, b]     = log(10⁻⁶ + Σⱼ P[t, j] · M[b, j])

    N and H are the samples of a window and of a hop, F the next power of two from N, fⱼ = j · rate / F. The
    edges e₀ … e_{bands+1} divide 0 … rate / 2 equally in mel(f) = 2595 log₁₀(1 + f / 700), the scale of HTK;
    the triangles are 1 at their peaks and linear in Hz. No pre-emphasis; samples at the end that fill no
    window are left out. Subtract the mean over time to be free of loudness and microphone.

    Args:
      samples: (n,), in [−1, 1].
      rate: samples a second.
      window_ms: length of a frame, in milliseconds.
      hop_ms: from the start of one frame to that of the next, in milliseconds.
      bands: number of features.

    Returns:
      (1 + ⌊(n − N) / H⌋, bands), float32.

    Raises:
      ValueError: samples with more than one axis, not finite, or fewer than a window; or so many bands that
        one holds no frequency.

    Reference: Davis, Mermelstein, Comparison of parametric representations for monosyllabic word recognition
    in continuously spoken sentences, 1980, doi:10.1109/TASSP.1980.1163420.

    >>> import numpy as np
    >>> from jrnn.data import log_mel
    >>> tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000)
    >>> log_mel(tone, 8000).shape, log_mel(tone, 8000).argmax(1)[:3].tolist()
    ((98, 40), [18, 18, 18])
    """
    check_width("bands", bands)
    for name, given in (("rate", rate), ("window_ms", window_ms), ("hop_ms", hop_ms)):
        check_positive(name, given)
    samples = np.asarray(samples, np.float64)
    window, hop = round(rate * window_ms / 1000), max(1, round(rate * hop_ms / 1000))
    if samples.ndim != 1 or len(samples) < max(2, window):
        raise ValueError(f"samples has shape {samples.shape}, needs one axis of {window}, a window, or more")
    if not np.isfinite(samples).all():
        raise ValueError(f"samples has {samples[~np.isfinite(samples)][0]} in it, needs finite numbers")
    size = 1 << (window - 1).bit_length()  # F
    filters = _mel_filters(rate, size, bands)
    frames = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    power = np.abs(np.fft.rfft(frames * hann, size)) ** 2
    return np.log(FLOOR + power @ filters.T).astype(np.float32)


def _mel_filters(rate: int, size: int, bands: int) -> NDArray[np.float64]:
    """Weights of the frequencies in each band, (bands, size / 2 + 1)."""
    mels = np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), bands + 2)
    low, peak, high = (700 * (10 ** (mels[i : i + bands, None] / 2595) - 1) for i in range(3))
    frequencies = np.arange(size // 2 + 1) * rate / size
    filters = np.minimum((frequencies - low) / (peak - low), (high - frequencies) / (high - peak)).clip(0)
    empty = np.flatnonzero(filters.max(1) == 0)
    if empty.size:
        raise ValueError(
            f"bands={bands} is too many: band {empty[0]} lies between two of the frequencies of a window, "
            f"{rate / size:g} Hz apart: use fewer bands or a longer window"
        )
    return filters
