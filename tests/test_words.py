"""Language models of words: from text to numbers and back, and the recipes of the command line."""

import json
import math
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrnn
from jrnn._cli import TrainConfig, main
from jrnn._cli.optimizing import averaged, averaging, halving, uniform_params
from jrnn._cli.texts import Tokenizer, split_words
from tests.test_cli import assert_same_bits, refusal, write_corpus

TINY = ["--hidden", "6", "--embed", "6", "--batch", "2", "--steps", "8", "--epochs", "3", "--level", "word"]
RECIPE = [
    *("--readout", "tied", "--masks", "sequence", "--dropout", "0.1", "--weight-drop", "0.1"),
    *("--ar", "0.1", "--tar", "0.2", "--update", "sgd", "--lr", "2", "--clip", "5"),
    *("--halve", "1", "--average", "1", "--uniform", "0.1"),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "text.txt", size=4000)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, corpus):
    """A run with every option; nobody writes to it."""
    run = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", corpus, *TINY, *RECIPE, "--out", str(run)]) == 0
    return run


def test_lines_become_words_and_words_lines():
    text = "to be, or\n\n  not to be \nto"
    assert split_words(text, "word") == ["to", "be", ",", "or", "<eos>", "not", "to", "be", "<eos>", "to"]
    assert split_words("<unk> N's\n", "space") == ["<unk>", "N's", "<eos>"]
    tokenizer = Tokenizer.learned(text, "word", 2)  # of these, only "to" and "be" occur twice
    assert tokenizer.vocabulary == jrnn.Vocabulary(("to", "be"), ("<unk>", "<eos>"))
    assert tokenizer.encode("to see\nbe").tolist() == [2, 0, 1, 3] and tokenizer.unknown("to see\nsee") == [
        "see"
    ]
    assert tokenizer.decode([3, 0, 1, 2, 3], after="to") == " be <unk>\nto be"
    assert tokenizer.decode([3, 2], after="to ") == "be to" == tokenizer.decode([3, 2], after="")
    assert Tokenizer.restored("word", json.loads(json.dumps(tokenizer.fields()))) == tokenizer
    with pytest.raises(ValueError, match="specials lack"):
        Tokenizer.restored("word", {"words": ["to"], "specials": ["<unk>"]})


def test_the_model_of_the_options():
    config = TrainConfig(
        hidden=6, embed=6, layers=2, dropout=0.2, weight_drop=0.5, readout="tied", masks="sequence"
    )
    cell = jrnn.Reparametrize(jrnn.LSTM(6), "w_hh", jrnn.DropConnect(0.5))
    layers = jrnn.Dropout(cell, input=0.2), jrnn.Dropout(cell, input=0.2, output=0.2)
    stack = jrnn.Stack((jrnn.Embed(6), *layers, jrnn.Dense(9)))
    assert config.model(9) == jrnn.Tie(stack, "0.table", "3.w", transposed=True)
    blocks = TrainConfig(cell="MinGRU", hidden=6, embed=6, readout="tied").model(9)
    assert blocks.init(jax.random.key(0), 9)[2][1].w is None
    drawn = uniform_params(config.model(9), 9, seed=0, bound=0.25)
    assert all(0.1 < float(jnp.abs(leaf).max()) <= 0.25 for leaf in jax.tree.leaves(drawn))
    fixed = TrainConfig(cell="LMU", hidden=8).model(9)
    own, drawn = fixed.init(jax.random.key(3), 9), uniform_params(fixed, 9, seed=3, bound=0.25)
    kept = jax.tree.map(
        lambda trained, a, b: trained != np.array_equal(a, b), jrnn.trainable(own), own, drawn
    )
    assert all(jax.tree.leaves(kept)) and not all(jax.tree.leaves(jrnn.trainable(own)))


def test_the_rate_is_halved_and_the_weights_are_averaged():
    schedule = halving(4.0, each=10, epochs=2)
    assert [float(schedule(step)) for step in (0, 19, 20, 29, 30)] == [4, 4, 2, 2, 1]
    optimizer = optax.chain(optax.sgd(1.0), averaging(2))
    params, seen = jnp.array(0.0), []
    state = optimizer.init(params)
    for gradient in (-1.0, -2.0, -3.0, -4.0):
        updates, state = optimizer.update(jnp.array(gradient), state, params)
        params = optax.apply_updates(params, updates)
        seen.append(float(averaged(state, params)))
    assert seen == [1.0, 3.0, 6.0, 8.0]  # weights 1, 3, 6, 10: the mean of those from update 2 on


def test_a_run_of_words_reports_perplexity_and_goes_on(finished, corpus, tmp_path, capsys):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    newest, *older = jrnn.checkpoint.checkpoints(run)
    shutil.rmtree(newest)
    assert older and main(["train", "--resume", str(run)]) == 0
    out = capsys.readouterr().out
    config = TrainConfig(**jrnn.load(run).meta["config"])
    optimizer = config.optimizer(3 * 1)  # its transformations; rates may differ
    assert_same_bits(*(jrnn.load(path, optimizer=optimizer) for path in (run, finished)))
    records = map(json.loads, (finished / "metrics.jsonl").read_text().splitlines())
    entries = [record for record in records if "train" in record]
    assert [e["perplexity"] for e in entries] == pytest.approx([math.exp(e["validation"]) for e in entries])
    best = min(entries, key=lambda entry: entry["validation"])
    assert f"held out: perplexity {best['perplexity']:.2f} after epoch {best['epoch']}" in out
    assert "Embed(6) → Dropout(Reparametrize(LSTM(6))) → Dense(15), tied" in out
    assert entries[-1]["validation"] < entries[0]["validation"]


def test_sampling_and_evaluating_words(finished, corpus, capsys):
    assert main(["sample", str(finished), "--prompt", "the gat", "--length", "9"]) == 0
    said = capsys.readouterr()
    assert said.err == "jrnn: not in the vocabulary, read as unknown words: 'gat'\n"
    assert said.out.startswith(("the gat ", "the gat\n")) and len(split_words(said.out, "word")) >= 11
    assert main(["evaluate", str(finished), "--text", corpus]) == 0
    said = capsys.readouterr().out
    stored = jrnn.load(finished / "best")
    tokens = Tokenizer.restored("word", stored.meta["vocabulary"]).encode(Path(corpus).read_text())
    _, logits = jrnn.unroll(stored.cell, stored.params, tokens[:-1])
    nats = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), tokens[1:, None], 1).mean()
    assert said == f"perplexity {math.exp(nats):.2f}; {len(tokens) - 1:,} words, each after all before it\n"


def test_a_text_to_validate_on(corpus, tmp_path, capsys):
    held_out = tmp_path / "valid.txt"
    held_out.write_text("gate carry\nstate\n" * 20)
    options = [*TINY, "--epochs", "1", "--valid", str(held_out), "--out", str(tmp_path / "run")]
    assert main(["train", corpus, *options]) == 0
    words = len(split_words(Path(corpus).read_text(), "word"))
    assert f"{words:,} words to train on, 100 held out; 15 known" in capsys.readouterr().out
    assert TrainConfig(**jrnn.load(tmp_path / "run").meta["config"]).valid == str(held_out)


def test_what_is_refused(corpus, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    said = refusal(capsys, "train", corpus, *TINY, "--embed", "5", "--readout", "tied", *out)
    assert said == "--readout tied needs an embedding as wide as the cells, got 5; try --embed 6"
    said = refusal(capsys, "train", corpus, *TINY, "--level", "letter", *out)
    assert said.startswith("argument --level: needs one of word, space, character, got 'letter'")
    said = refusal(capsys, "train", corpus, *TINY, "--batch", "20", *out)
    assert said.startswith("the text is too short: it has 8") and said.endswith("try --batch 10")
    said = refusal(
        capsys, "train", corpus, *TINY, "--cell", "MLSTM", "--heads", "2", "--weight-drop", "0.5", *out
    )
    assert "has no parameter 'w_hh'" in said and not (tmp_path / "run").exists()
