"""Copies, reversals and dates: exact match by length, with attention and from one fixed vector.

python benchmarks/tasks/sequences.py sequences.png [--seed 0]

All data are generated; the figure is written to the path given. Encoder and decoder are the same in both,
the attention aside. Tested are sequences drawn anew, of the lengths that were trained on, written greedily
until the stop; one is right if every token is, the stop included. Epochs are fixed.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jrnn
from jrnn.data import Vocabulary, tokenize
from jrnn.data.synthetic import copies, dates, reversals
from jrnn.data.text import START, STOP
from jrnn.metrics import exact_match
from jrnn.plots import curves

EPOCHS, RATE, BATCH, HIDDEN = 16, 5e-3, 64, 64
TRAINED, TESTED, LONGEST, SYMBOLS = 10_000, 2_000, 20, 10


def symbols(generator, seed):
    """Training pairs and test pairs of tokens, the size of the vocabulary, start and stop."""
    sources, targets = generator(TRAINED + TESTED, SYMBOLS, 1, LONGEST, seed)
    return [s + 2 for s in sources], [t + 2 for t in targets], SYMBOLS + 2, (0, 1)


def characters(seed):
    """The same of dates, character by character."""
    pairs = dates(TRAINED + TESTED, seed)
    texts = [tokenize(text, "character") for pair in pairs for text in pair]
    vocabulary = Vocabulary.from_tokens(texts, specials=(START, STOP))
    sources, targets = ([vocabulary.encode(text) for text in texts[side::2]] for side in (0, 1))
    return sources, targets, len(vocabulary), (vocabulary.start, vocabulary.stop)


def make_model(attends, vocabulary):
    cell = jrnn.GRU(HIDDEN)
    encoder = jrnn.Sequential((jrnn.Embed(32), jrnn.Bidirectional(jrnn.GRU(HIDDEN))))
    if attends:
        cell = jrnn.LuongAttention(
            cell, jrnn.attention.General(), memory_features=2 * HIDDEN, features=HIDDEN
        )
    return jrnn.EncoderDecoder(encoder, jrnn.Stack((jrnn.Embed(32), cell, jrnn.Dense(vocabulary))))


def train(model, batches, vocabulary, seed):
    rate = optax.cosine_decay_schedule(RATE, EPOCHS * len(batches))
    return jrnn.fit(
        model,
        batches.epoch,
        jrnn.PerStep(jrnn.losses.cross_entropy),
        optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
        key=jax.random.key(seed),
        in_features=vocabulary,
        epochs=EPOCHS,
        progress=jrnn.Progress(bar=False),
    ).params


def by_length(model, params, batch, start, stop):
    """Lengths of the sources, and exact match of all of that length; then that of all."""
    source, mask, lengths = batch.xs.source, batch.xs.source_mask, batch.lengths
    carry = model.encode(params, source, lengths=mask.sum(0))
    begin = jnp.full((1, len(lengths)), start)
    steps = len(batch.targets)
    written = jrnn.generate(
        model.decoder, params.decoder, begin, steps, temperature=0, stop=stop, carry=carry
    ).tokens
    written, read = np.asarray(written), mask.sum(0)
    counts = np.bincount(read)
    found = [n for n in np.unique(read) if counts[n] >= 20]  # a mean of fewer says little
    rates = [
        exact_match(written[:, read == n], batch.targets[:, read == n], lengths[read == n]) for n in found
    ]
    return found, rates, exact_match(written, batch.targets, lengths)


def run(task, data, attends, seed):
    """Train one model, print what it reaches, and give its curve."""
    sources, targets, vocabulary, (start, stop) = data
    ends = {"start": start, "stop": stop}
    batches = jrnn.pair_batches(sources[:TRAINED], targets[:TRAINED], BATCH, key_seed=seed, bucket=16, **ends)
    test = jrnn.pair_batches(sources[TRAINED:], targets[TRAINED:], TESTED, bucket=64, **ends)[0]
    model = make_model(attends, vocabulary)
    begun = time.perf_counter(), time.process_time()
    params = train(model, batches, vocabulary, seed)
    wall, cpu = time.perf_counter() - begun[0], time.process_time() - begun[1]
    lengths, rates, total = by_length(model, params, test, start, stop)
    name = f"{task}, {'with' if attends else 'without'} attention"
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    some = list(zip(lengths, rates, strict=True))[:: -(len(lengths) // 5)][::-1]  # the longest among them
    print(
        f"{name}, seed {seed}: exact match {total:.2%}; by length "
        + ", ".join(f"{length}: {rate:.1%}" for length, rate in some)
        + f"; {size:,} parameters, {wall:.0f} s ({cpu:.0f} s of CPU)",
        flush=True,
    )
    return name, (lengths, rates)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("png")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    jrnn.use_cores()
    seed = arguments.seed
    tasks = {"copy": symbols(copies, seed), "reverse": symbols(reversals, seed), "dates": characters(seed)}
    shown = [run(task, data, attends, seed) for task, data in tasks.items() for attends in (True, False)]
    ax = curves(
        dict(shown), xlabel="length of the source (tokens)", ylabel="exact match (share of sequences)"
    )
    ax.figure.savefig(arguments.png)


if __name__ == "__main__":
    main()
