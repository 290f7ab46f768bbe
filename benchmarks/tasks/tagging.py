"""Parts of speech of English: a bidirectional LSTM, with a softmax at every step and with a CRF.

python benchmarks/tasks/tagging.py FOLDER [--seed 0] [--runs 1]

FOLDER holds en_ewt-ud-{train,dev,test}.conllu, the English Web Treebank:

    git clone --depth 1 https://github.com/UniversalDependencies/UD_English-EWT

The 17 universal tags of every word, from what is written alone. A word is the sum of learned vectors: of
itself in lower case, of its first one to three characters, its last one to four, and its shape, so that
words that were never seen have most of theirs. A feature that the training set has once is unknown. The
epoch is the one with the lowest loss on dev; test is read once, at the end.
"""

import argparse
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jrnn
from jrnn.crf import CRF, crf_loss, viterbi
from jrnn.data import Vocabulary

EPOCHS, RATE, BATCH = 4, 5e-3, 32


@dataclass(frozen=True)
class Features:
    """A layer: the vectors of all features of a word, added up.

    yₜ = Σₖ table[xₜ,ₖ] / √K
    """

    width: int

    @property
    def out_features(self):
        return self.width

    def init(self, key, in_features):
        return jrnn.Embed(self.width).init(key, in_features)

    def initial_carry(self, params, batch_shape=(), *, key=None):
        return ()

    def apply(self, params, xs, carry=None, **options):
        return (), params.table[xs].sum(-2) / xs.shape[-1] ** 0.5


def features(word):
    """Lower case, prefixes, suffixes, and shape: U.S.-based → X.X.-x."""
    kinds = "".join("X" if c.isupper() else "x" if c.isalpha() else "0" if c.isdigit() else c for c in word)
    shape = "".join(kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] != kind)
    low = word.lower()
    return [low, *(f"{low[:n]}…" for n in (1, 2, 3)), *(f"…{low[-n:]}" for n in (1, 2, 3, 4)), f"#{shape}"]


def read(folder, part):
    """Sentences as pairs of words and universal tags: columns 2 and 4 of lines that a whole number begins."""
    text = (Path(folder) / f"en_ewt-ud-{part}.conllu").read_text(encoding="utf-8")
    rows = ([line.split("\t") for line in block.split("\n")] for block in text.strip().split("\n\n"))
    words = ([(row[1], row[3]) for row in block if row[0].isdecimal()] for block in rows)
    return [tuple(zip(*sentence, strict=True)) for sentence in words]


def most_frequent(train, test):
    """Accuracy of the tag that each word has most often; of unknown words, that of all."""
    tags = {}
    for sentence in train:
        for word, tag in zip(*sentence, strict=True):
            tags.setdefault(word, Counter())[tag] += 1
    usual = {word: counts.most_common(1)[0][0] for word, counts in tags.items()}
    default = sum(tags.values(), Counter()).most_common(1)[0][0]
    words = [pair for sentence in test for pair in zip(*sentence, strict=True)]
    unknown = np.mean([word not in usual for word, _ in words])
    return np.mean([usual.get(word, default) == tag for word, tag in words]), unknown


def batches(sentences, vocabulary, tags, seed=None):
    xs = [np.stack([vocabulary.encode(features(word)) for word in words]) for words, _ in sentences]
    ys = [np.array([tags.index(tag) for tag in upos]) for _, upos in sentences]
    return jrnn.padded_batches(xs, ys, BATCH, key_seed=seed, bucket=32)


def right_by_step(logits, tags, mask):
    return jnp.sum((logits.argmax(-1) == tags) & mask) / jnp.sum(mask)


def right_by_path(potentials, tags, mask):
    return jnp.sum((viterbi(potentials, mask=mask)[0] == tags) & mask) / jnp.sum(mask)


def run(name, parts, size, count, seed):
    """Train one tagger and print what it reaches."""
    train, dev, test = parts
    cell = jrnn.Dropout(jrnn.LSTM(100), input=0.3, output=0.3)
    layers = Features(64), jrnn.Bidirectional(cell), jrnn.Dense(count)
    model = jrnn.Sequential((*layers, CRF(count)) if name == "CRF" else layers)
    loss, right = (crf_loss, right_by_path) if name == "CRF" else (jrnn.losses.cross_entropy, right_by_step)
    rate = optax.cosine_decay_schedule(RATE, EPOCHS * len(train))
    begun = time.perf_counter(), time.process_time()
    result = jrnn.fit(
        model,
        train.epoch,
        jrnn.PerStep(loss),
        optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
        key=jax.random.key(seed),
        in_features=size,
        epochs=EPOCHS,
        validation=dev,
        progress=jrnn.Progress(bar=False),
    )
    wall, cpu = time.perf_counter() - begun[0], time.process_time() - begun[1]
    found = [jrnn.evaluate(model, result.params, part, jrnn.PerStep(right)) for part in (dev, test)]
    number = sum(leaf.size for leaf in jax.tree.leaves(result.params))
    print(
        f"{name}, seed {seed}: dev {found[0]:.2%}, test {found[1]:.2%}, {number:,} parameters, "
        f"{wall:.0f} s ({cpu:.0f} s of CPU)",
        flush=True,
    )
    return found[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--seed", type=int, default=0, help="of the first run (default: 0)")
    parser.add_argument("--runs", type=int, default=1, help="how many seeds (default: 1)")
    arguments = parser.parse_args()
    jrnn.use_cores()
    train, dev, test = (read(arguments.folder, part) for part in ("train", "dev", "test"))
    share, unknown = most_frequent(train, test)
    print(f"most frequent tag of each word: test {share:.2%}; {unknown:.1%} of its words are unknown")
    written = ([feature for word in words for feature in features(word)] for words, _ in train)
    vocabulary = Vocabulary.from_tokens(written, min_count=2)
    tags = sorted({tag for _, upos in train for tag in upos})
    found = {"softmax": [], "CRF": []}
    for seed in range(arguments.seed, arguments.seed + arguments.runs):
        seeds = seed, None, None  # dev and test are not shuffled
        parts = [batches(p, vocabulary, tags, s) for p, s in zip((train, dev, test), seeds, strict=True)]
        for name, scores in found.items():
            scores.append(run(name, parts, len(vocabulary), len(tags), seed))
    for name, scores in found.items():
        spread = f"{min(scores):.2%} to {max(scores):.2%}"
        print(f"{name}: test mean {np.mean(scores):.2%} over {len(scores)} seeds ({spread})")


if __name__ == "__main__":
    main()
