"""Spoken digits: a bidirectional GRU on log-mel features, for known speakers and for one who was left out.

python benchmarks/tasks/digits.py PATH [--seed 0] [--runs 3]

PATH is the folder `recordings` of the Free Spoken Digit Dataset:

    git clone --depth 1 https://github.com/Jakobovski/free-spoken-digit-dataset

Takes 0 to 14 of six speakers: takes 0 to 4 are the test set, 5 to 14 are trained on. A speaker left out is
tested with all takes, after training on all takes of the other five. Known speakers keep their timbre, only
the loudness is taken off; of unknown ones the mean over time of every band is. The features were chosen on
takes 5 and 6 held out of the training set, and for the left-out speaker on one of them, jackson; epochs are
fixed.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.io import wavfile
from scipy.signal import get_window

import jrnn

EPOCHS, RATE, BATCH, BANDS, TAKES = 20, 4e-3, 16, 40, 15


def share_right(logits, labels, mask):
    """Accuracy, in the place of a loss."""
    return jnp.sum((logits.argmax(-1) == labels) & mask) / jnp.sum(mask)


def log_mel(samples, rate):
    """Logarithms of the power in bands of equal width in mel, (frames, BANDS): 40 ms, one every 20 ms."""
    window, hop = rate // 25, rate // 50
    size = 1 << (window - 1).bit_length()
    frames = np.lib.stride_tricks.sliding_window_view(samples / 2**15, window)[::hop]
    power = np.abs(np.fft.rfft(frames * get_window("hann", window), size)) ** 2
    mels = np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), BANDS + 2)
    low, peak, high = (700 * (10 ** (mels[i : i + BANDS, None] / 2595) - 1) for i in range(3))
    frequencies = np.fft.rfftfreq(size, 1 / rate)
    filters = np.minimum((frequencies - low) / (peak - low), (high - frequencies) / (high - peak)).clip(0)
    return np.log(1e-6 + power @ filters.T).astype(np.float32)


def read(path):
    """Features, digits, speakers and takes of the recordings, files such as `7_jackson_32.wav`."""
    files = [file for file in sorted(Path(path).rglob("*.wav")) if int(file.stem.split("_")[2]) < TAKES]
    sounds = [log_mel(samples, rate) for rate, samples in map(wavfile.read, files)]
    digits, speakers, takes = (
        np.array(column) for column in zip(*(file.stem.split("_") for file in files), strict=True)
    )
    return sounds, digits.astype(int), speakers, takes.astype(int)


def run(name, sounds, digits, tested, seed):
    """Train one classifier on all recordings but those to test on, and print what it reaches."""
    sequences = {
        part: [s for s, t in zip(sounds, tested, strict=True) if t == part] for part in (False, True)
    }
    batches = jrnn.padded_batches(sequences[False], digits[~tested], BATCH, key_seed=seed, bucket=32)
    cell = jrnn.Dropout(jrnn.GRU(64), input=0.2, output=0.2)
    model = jrnn.ManyToOne(jrnn.Sequential((jrnn.Bidirectional(cell), jrnn.Dense(10))), read="mean")
    rate = optax.cosine_decay_schedule(RATE, EPOCHS * len(batches))
    begun = time.perf_counter(), time.process_time()
    result = jrnn.fit(
        model,
        batches.epoch,
        jrnn.PerSequence(jrnn.losses.cross_entropy),
        optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
        key=jax.random.key(seed),
        in_features=BANDS,
        epochs=EPOCHS,
        progress=jrnn.Progress(bar=False),
    )
    wall, cpu = time.perf_counter() - begun[0], time.process_time() - begun[1]
    held_out = jrnn.padded_batches(sequences[True], digits[tested], 64, bucket=32)
    found = jrnn.evaluate(model, result.params, held_out, jrnn.PerSequence(share_right))
    size = sum(leaf.size for leaf in jax.tree.leaves(result.params))
    print(
        f"{name}, seed {seed}: test {found:.2%} of {tested.sum()}, {size:,} parameters, "
        f"{wall:.0f} s ({cpu:.0f} s of CPU)",
        flush=True,
    )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path")
    parser.add_argument("--seed", type=int, default=0, help="of the first run (default: 0)")
    parser.add_argument("--runs", type=int, default=3, help="how many seeds with known speakers (default: 3)")
    arguments = parser.parse_args()
    jrnn.use_cores()
    sounds, digits, speakers, takes = read(arguments.path)
    even = [(sound - sound.mean()) / 3 for sound in sounds]  # by about their deviation
    seeds = range(arguments.seed, arguments.seed + arguments.runs)
    scores = [run("known speakers", even, digits, takes < 5, seed) for seed in seeds]
    spread = f"{min(scores):.2%} to {max(scores):.2%}"
    print(f"known speakers: test mean {np.mean(scores):.2%} over {len(scores)} seeds ({spread})")
    even = [(sound - sound.mean(0)) / 3 for sound in sounds]
    names = sorted(set(speakers.tolist()))
    scores = [run(f"{name} left out", even, digits, speakers == name, arguments.seed) for name in names]
    print(f"left-out speaker: mean {np.mean(scores):.2%} ({min(scores):.2%} to {max(scores):.2%})")


if __name__ == "__main__":
    main()
