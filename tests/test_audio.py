"""Sound: samples come out as they were put in, and bands hold the power that they should."""

import gzip
import io
import tarfile
import wave
from pathlib import Path

import numpy as np
import pytest

from jrnn.data.audio import FLOOR, log_mel, read_wav, read_wavs

DATA = Path(__file__).parents[2] / "shared/data"
real = pytest.mark.skipif(not DATA.exists(), reason=f"no data sets at {DATA}")


def wav(integers, width=2, rate=8000):
    """Bytes of a WAV file of (n, channels) integers."""
    integers = np.asarray(integers).reshape(len(integers), -1)
    with wave.open(file := io.BytesIO(), "wb") as writer:
        writer.setparams((integers.shape[1], width, rate, 0, "NONE", ""))
        if width == 1:
            integers = integers + 128
        writer.writeframes(
            b"".join(int(i).to_bytes(width, "little", signed=width > 1) for i in integers.flat)
        )
    return file.getvalue()


def fails(message, call, *args, error=ValueError, **options):
    with pytest.raises(error) as caught:
        call(*args, **options)
    assert str(caught.value) == message


# ---------------------------------------------------------------- WAV


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_samples_of_every_width(tmp_path, width):
    scale = 2 ** (8 * width - 1)
    integers = [0, 1, -1, scale // 2, 100, -100, scale - 1, -scale]
    (tmp_path / "a.wav").write_bytes(wav(integers, width, 11025))
    samples, rate = read_wav(tmp_path / "a.wav")
    np.testing.assert_array_equal(samples, np.divide(integers, scale).astype(np.float32), strict=True)
    assert rate == 11025


def test_channels_are_averaged():
    stereo = np.array([[100, 300], [-32768, 32767], [32767, 32767]])
    samples, _ = read_wav(io.BytesIO(wav(stereo)))
    np.testing.assert_array_equal(samples, np.float32([200 / 32768, -0.5 / 32768, 32767 / 32768]))


def test_files_that_are_no_wav_or_truncated(tmp_path):
    path, whole = tmp_path / "a.wav", wav(range(100))
    for data, reason in [
        (b"", "the file is empty"),
        (whole[:-50], "truncated, it has 75 of the 100 samples in its header"),
        (whole[:-1], "truncated, it has 99 of the 100 samples in its header"),
        (whole[:20], "truncated within its header, at byte 20"),
        (b"MThd" + bytes(40), "no WAV file of PCM samples: file does not start with RIFF id"),
        (whole[:20] + b"\3\0" + whole[22:], "no WAV file of PCM samples: unknown format: 3"),
    ]:
        path.write_bytes(data)
        fails(f"{path}: {reason}", read_wav, path)
    fails(f"{tmp_path}: is a directory, needs a WAV file", read_wav, tmp_path, error=IsADirectoryError)
    fails("no.wav: no such file", read_wav, "no.wav", error=FileNotFoundError)
    fails("file: truncated, it has 99 of the 100 samples in its header", read_wav, io.BytesIO(whole[:-2]))
    path.write_bytes(whole[:-2])
    with path.open("rb") as file:
        fails(f"{path}: truncated, it has 99 of the 100 samples in its header", read_wav, file)


def archive(**files):
    """Bytes of a tar archive, in the order given."""
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name.replace("_wav", ".wav").replace("__", "/"))
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def test_recordings_of_folders_and_archives_are_the_same(tmp_path):
    one, two = wav([1, 2]), wav([3], rate=16000)
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "in/sub/7_ann_3.wav").write_bytes(one)
    (tmp_path / "in/8_bob_0.wav").write_bytes(two)
    (tmp_path / "in/README").write_bytes(b"no sound")
    packed = archive(sub__7_ann_3_wav=one, README=b"no sound", **{"8_bob_0_wav": two})
    (tmp_path / "a.tar").write_bytes(packed)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(packed))
    for path in ("in", "a.tar", "a.tar.gz"):
        found = [
            (name, (samples * 32768).tolist(), rate) for name, samples, rate in read_wavs(tmp_path / path)
        ]
        assert found == [("8_bob_0.wav", [3], 16000), ("sub/7_ann_3.wav", [1, 2], 8000)]


def test_links_in_archives_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in (
            ("../../out.wav", tarfile.REGTYPE),
            ("link.wav", tarfile.SYMTYPE),
            ("d.wav", tarfile.DIRTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/hostname"
            data = wav([5]) if kind == tarfile.REGTYPE else b""
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    assert [name for name, *_ in read_wavs(tmp_path / "a.tar")] == ["../../out.wav"]
    assert [path.name for path in tmp_path.rglob("*")] == ["a.tar"]


def test_archive_errors(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(archive(a=b""))
    fails(f"{path}: has no file that ends in .wav", read_wavs, path)
    (tmp_path / "b").mkdir()
    fails(f"{tmp_path}/b: has no file that ends in .wav", read_wavs, tmp_path / "b")
    path.write_bytes(b"no archive " * 100)
    fails(f"{path}: no tar archive, or a damaged one: invalid header", read_wavs, path)
    path.write_bytes(archive(a_wav=wav(range(3000)))[:2000])
    fails(f"{path}: no tar archive, or a damaged one: unexpected end of data", read_wavs, path)
    path.write_bytes(archive(a_wav=wav([1]), b_wav=wav([1, 2])[:-2]))
    recordings = read_wavs(path)
    assert next(recordings).name == "a.wav"
    fails(f"{path}/b.wav: truncated, it has 1 of the 2 samples in its header", next, recordings)


# ---------------------------------------------------------------- log-mel


def direct(samples, rate, window_ms, hop_ms, bands):
    """The features by loops over frames and bands, sums over samples in place of a fast transform."""
    window, hop = round(rate * window_ms / 1000), round(rate * hop_ms / 1000)
    size = 1
    while size < window:
        size *= 2
    mel = [2595 * np.log10(1 + rate / 2 / 700) * i / (bands + 1) for i in range(bands + 2)]
    edges = [700 * (10 ** (m / 2595) - 1) for m in mel]
    ys = []
    for start in range(0, len(samples) - window + 1, hop):
        power = []
        for j in range(size // 2 + 1):
            terms = [
                samples[start + k] * np.sin(np.pi * k / window) ** 2 * np.exp(-2j * np.pi * j * k / size)
                for k in range(window)
            ]
            power.append(abs(sum(terms)) ** 2)
        row = []
        for b in range(bands):
            total = 0.0
            for j, p in enumerate(power):
                total += p * max(0, np.interp(j * rate / size, edges[b : b + 3], [0, 1, 0]))
            row.append(np.log(1e-6 + total))
        ys.append(row)
    return np.array(ys)


@pytest.mark.parametrize(("rate", "window_ms", "hop_ms", "bands"), [(1000, 50, 20, 6), (1600, 20, 30, 4)])
def test_log_mel_equals_a_direct_computation(rate, window_ms, hop_ms, bands):
    samples = np.random.default_rng(0).uniform(-1, 1, 170)
    found = log_mel(samples, rate, window_ms=window_ms, hop_ms=hop_ms, bands=bands)
    expected = direct(samples, rate, window_ms, hop_ms, bands)
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_power_is_that_of_the_windowed_samples():
    """Parseval: one band holds all power, once noise has none at the edges of the spectrum."""
    rate, window = 8000, 256
    k = np.arange(window)
    samples = np.cos(2 * np.pi * 50.25 * k / window + 1)
    bands = np.exp(log_mel(samples, rate, window_ms=32, bands=30)[0].astype(float)).sum()
    energy = np.sum((samples * np.sin(np.pi * k / window) ** 2) ** 2)
    # neighbouring triangles add up to 1 between the first and the last peak; this is half of the spectrum
    np.testing.assert_allclose(2 * bands / window, energy, rtol=1e-3)


@pytest.mark.parametrize("frequency", [300, 1000, 2000, 3300])
def test_a_tone_lands_in_its_band(frequency):
    tone = np.sin(2 * np.pi * frequency * np.arange(4000) / 8000)
    features = log_mel(tone, 8000)
    assert features.shape == (48, 40)
    mel = 2595 * np.log10(1 + frequency / 700)
    band = mel / (2595 * np.log10(1 + 4000 / 700)) * 41 - 1
    assert (abs(features.argmax(1) - band) < 1).all()


def test_silence_is_the_floor_and_loudness_a_shift():
    assert FLOOR == 1e-6
    np.testing.assert_array_equal(log_mel(np.zeros(400), 8000), np.full((3, 40), np.log(1e-6), np.float32))
    noise = 100 * np.random.default_rng(0).normal(size=800)
    shift = log_mel(2 * noise, 8000) - log_mel(noise, 8000)
    np.testing.assert_allclose(shift, 2 * np.log(2), rtol=1e-4)


def test_log_mel_errors():
    samples = np.zeros(400)
    fails("samples has shape (199,), needs one axis of 200, a window, or more", log_mel, samples[:199], 8000)
    fails(
        "samples has shape (400, 2), needs one axis of 200, a window, or more",
        log_mel,
        np.zeros((400, 2)),
        8000,
    )
    fails("samples has nan in it, needs finite numbers", log_mel, np.append(samples, np.nan), 8000)
    reason = "bands=128 is too many: band 0 lies between two of the frequencies of a window, 31.25 Hz apart"
    fails(f"{reason}: use fewer bands or a longer window", log_mel, samples, 8000, bands=128)
    fails("rate must be a number above 0, got 0", log_mel, samples, 0)
    fails("hop_ms must be a number above 0, got -1", log_mel, samples, 8000, hop_ms=-1)
    assert log_mel(samples[:200], 8000).shape == (1, 40)


@real
def test_spoken_digits():
    found = list(read_wavs(DATA / "fsdd/fsdd_0_14.tar.gz"))
    assert len(found) == 900 and {recording.rate for recording in found} == {8000}
    labels = [int(recording.name.split("_")[0]) for recording in found]
    assert np.bincount(labels).tolist() == [90] * 10
    features = [log_mel(samples, rate) for _, samples, rate in found[:30]]
    assert all(np.isfinite(feature).all() and len(feature) >= 12 for feature in features)
