"""French to English, with attention and with one fixed vector: BLEU of beam search, by source length.

python benchmarks/tasks/translation.py fra-eng.zip [--seed 0] [--epochs 3] [--plot translation.png]

The file, 142,787 pairs of sentences of Tatoeba:

    curl -LO https://github.com/genimind/seq2seq/raw/HEAD/fra-eng.zip

Pairs of at most 12 tokens a side, in lower case. About 2,000 are held out to test on and 1,000 to validate
on, whole English sentences with all that they translate; pairs whose French is held out leave training as
well. Words that training has less than five times are unknown, and are never written. Both models are one
bidirectional GRU and one GRU with attention, of the same number of weights; of the fixed vector the memory
is a single position (`summary=True`), what both ends of the encoder have read. The epoch is the one with
the lower loss on the pairs to validate on. BLEU is sacrebleu's, in lower case, against the sentences as
they stand in the file.
"""

import argparse
import time
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sacrebleu

import jrnn
from jrnn.data import Vocabulary, pair_batches, tokenize
from jrnn.plots import curves

LONGEST, TESTED, VALIDATED = 12, 2000, 1000
RATE, BATCH, WIDTH = 2e-3, 64, 5
LOSS = jrnn.PerStep(jrnn.losses.cross_entropy)
SPECIALS = ("<pad>", "<unk>", "<s>", "</s>")
BUCKETS = (1, 4), (5, 6), (7, 8), (9, 10), (11, 12)


def read(path):
    """Parts of (French tokens, English tokens, English): to train on, to validate on, to test on."""
    with zipfile.ZipFile(path) as archive:
        lines = archive.read("fra.txt").decode().strip().split("\n")
    texts = (line.split("\t")[:2] for line in lines)
    pairs = [(tokenize(fr.lower()), tokenize(en.lower()), en) for en, fr in texts]
    pairs = [pair for pair in pairs if max(len(pair[0]), len(pair[1])) <= LONGEST]
    order = np.random.default_rng(0).permutation(sorted({" ".join(en) for _, en, _ in pairs}))
    groups = {}
    for pair in pairs:
        groups.setdefault(" ".join(pair[1]), []).append(pair)
    parts = [], []
    for english in order:
        part = next((p for p, size in zip(parts, (TESTED, VALIDATED), strict=True) if len(p) < size), None)
        if part is None:
            break
        part.extend(groups.pop(english))
    held = {" ".join(fr) for part in parts for fr, _, _ in part}
    train = [pair for group in groups.values() for pair in group if " ".join(pair[0]) not in held]
    return train, parts[1], parts[0]


def make(words, summary):
    attention = jrnn.LuongAttention(
        jrnn.GRU(256), jrnn.attention.General(), memory_features=256, features=256
    )
    decoder = jrnn.Stack((jrnn.Embed(128), attention, jrnn.Dense(words)))
    encoder = jrnn.Sequential((jrnn.Embed(128), jrnn.Bidirectional(jrnn.GRU(128))))
    return jrnn.EncoderDecoder(encoder, decoder, summary=summary)


def translate(model, params, batches, english, width):
    """Translations in the order of the pairs; with width 1, greedily."""

    def known(logits, tokens, t):
        return logits.at[..., jnp.array([english.pad, english.unknown, english.start])].set(-jnp.inf)

    written = {}
    for batch, rows in zip(batches, batches.rows, strict=True):
        carry = model.encode(params, batch.xs.source, mask=batch.xs.source_mask)
        prompt = jnp.full((1, batch.lengths.size), english.start)
        options = {"stop": english.stop, "carry": carry, "adjust": known}
        if width == 1:
            tokens = jrnn.generate(model.decoder, params.decoder, prompt, 20, temperature=0, **options).tokens
        else:
            tokens = jrnn.beam_search(
                model.decoder, params.decoder, prompt, 20, width=width, length_penalty=1.0, **options
            ).tokens[..., 0]
        for row, column in zip(rows, np.asarray(tokens).T, strict=False):
            ended = column[: np.argmax(column == english.stop)] if english.stop in column else column
            written[row] = " ".join(english.decode(ended))
    return [written[row] for row in range(len(written))]


def bleu(written, references):
    return sacrebleu.corpus_bleu(written, [references], lowercase=True, force=True).score


def run(name, model, parts, languages, test, arguments):
    """Train one model, print what it reaches, and return BLEU for each bucket of lengths."""
    train, valid, asked = parts
    french, english = languages
    schedule = optax.cosine_decay_schedule(RATE, arguments.epochs * len(train), alpha=0.05)
    begun = time.perf_counter(), time.process_time()
    result = jrnn.fit(
        model,
        train.epoch,
        LOSS,
        optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule)),
        key=jax.random.key(arguments.seed),
        in_features=len(french),
        epochs=arguments.epochs,
        validation=valid,
        progress=jrnn.Progress(unit="word"),
    )
    wall, cpu = time.perf_counter() - begun[0], time.process_time() - begun[1]
    losses = ", ".join(f"{entry['validation']:.3f}" for entry in result.history)
    number = sum(leaf.size for leaf in jax.tree.leaves(result.params))
    print(
        f"{name}, seed {arguments.seed}: valid {losses} nats per word, {number:,} parameters, "
        f"{result.state.step:,} steps, {wall:.0f} s ({cpu:.0f} s of CPU)",
        flush=True,
    )
    references = [reference for _, _, reference in test]
    greedy = translate(model, result.params, asked, english, 1)
    begun = time.perf_counter()
    beam = translate(model, result.params, asked, english, WIDTH)
    speed = len(beam) / (time.perf_counter() - begun)
    print(
        f"{name}: BLEU greedy {bleu(greedy, references):.1f}, beam of {WIDTH} {bleu(beam, references):.1f}, "
        f"{speed:.0f} sentences per second with compilation",
        flush=True,
    )
    for row in range(0, len(test), len(test) // 5):
        print(f"    {' '.join(test[row][0])} → {beam[row]} ({test[row][2]})")
    scores = []
    for low, high in BUCKETS:
        rows = [row for row, (fr, _, _) in enumerate(test) if low <= len(fr) <= high]
        scores.append(bleu([beam[row] for row in rows], [references[row] for row in rows]))
        print(f"{name}: source of {low} to {high} tokens: BLEU {scores[-1]:.1f} of {len(rows)}", flush=True)
    return scores


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=3, help="for each of the two models (default: 3)")
    parser.add_argument("--plot", default="translation.png", help="BLEU by length (default: translation.png)")
    arguments = parser.parse_args()
    jrnn.use_cores()
    train, valid, test = read(arguments.path)
    languages = french, english = tuple(
        Vocabulary.from_tokens((pair[side] for pair in train), min_count=5, specials=SPECIALS)
        for side in (0, 1)
    )
    print(
        f"{len(train):,} pairs to train on, {len(valid):,} and {len(test):,} held out; "
        f"{len(french):,} French and {len(english):,} English words",
        flush=True,
    )
    parts = [
        pair_batches(
            [french.encode(fr) for fr, _, _ in part],
            [english.encode(en) for _, en, _ in part],
            BATCH,
            start=english.start,
            stop=english.stop,
            key_seed=arguments.seed,
            bucket=4,
        )
        for part in (train, valid, test)
    ]
    models = {"attention": make(len(english), False), "fixed vector": make(len(english), True)}
    middles = [(low + high) / 2 for low, high in BUCKETS]
    found = {name: (middles, run(name, m, parts, languages, test, arguments)) for name, m in models.items()}
    ax = curves(found, xlabel="length of the source (tokens)", ylabel=f"BLEU, beam of {WIDTH}")
    ax.set_ylim(bottom=0)
    ax.figure.savefig(arguments.plot)


if __name__ == "__main__":
    main()
