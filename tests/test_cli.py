"""The command line, end to end on a tiny corpus."""

import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrnn
from jrnn._cli import TrainConfig, main
from jrnn._cli.tables import recurrent_cells
from jrnn._cli.training import METHOD
from jrnn.checkpoint import checkpoints
from jrnn.training.devices import FUSED_LOOPS

WORDS = ["gate", "carry", "state", "input", "output", "cell", "forget", "learn", "the", "past", "let", "go"]
TINY = ["--hidden", "8", "--embed", "4", "--batch", "2", "--steps", "16", "--epochs", "3"]


def write_corpus(path, seed=0, size=3000):
    text = " ".join(np.random.default_rng(seed).choice(WORDS, size)).replace("past ", "past.\n")[:size]
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "a text.txt")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, corpus):
    """A finished run; nobody writes to it."""
    run = tmp_path_factory.mktemp("runs") / "first run"
    assert main(["train", corpus, *TINY, "--out", str(run)]) == 0
    return run


@pytest.fixture
def run(tmp_path, finished):
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def without_times(run):
    return [{k: v for k, v in record.items() if "seconds" not in k} for record in records(run)]


def assert_same_bits(left, right):
    left, right = (jax.tree.map(np.asarray, (s.params, s.opt_state, s.carry)) for s in (left, right))
    jax.tree.map(np.testing.assert_array_equal, left, right)


def refusal(capsys, *argv):
    """What is said of a mistake: one line on stderr, exit status 2, and nothing else."""
    capsys.readouterr()
    assert main(list(argv)) == 2
    said = capsys.readouterr().err
    assert said.startswith("jrnn: ") and said.endswith("\n") and said.count("\n") == 1
    return said[len("jrnn: ") : -1]


def test_train_writes_a_run_and_reports_it(tmp_path, corpus, finished, capsys):
    assert main(["train", corpus, *TINY, "--out", str(tmp_path)]) == 0  # an empty directory is not taken
    out, stored = capsys.readouterr().out, jrnn.load(tmp_path)
    losses = [record["loss"] for record in records(tmp_path) if "loss" in record]
    held_out = [record["validation"] for record in records(tmp_path) if "train" in record]
    assert len(losses) == 3 * 84 and len(held_out) == 3
    assert held_out[0] > held_out[1] > held_out[2] and np.mean(losses[:20]) > np.mean(losses[-20:]) + 0.2
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert f"held out: {held_out[2] / math.log(2):.3f} bits per character after epoch 3" in out
    assert f"{sum(leaf.size for leaf in jax.tree.leaves(stored.params)):,} parameters" in out
    assert f"run    {tmp_path}" in out and "2,700 characters to train on, 300 held out" in out
    assert without_times(tmp_path) == without_times(finished)  # the same seed, the same bits
    assert_same_bits(stored, jrnn.load(finished))
    text = out.split("loss.png\n\n")[1].split("\n\nmore of this:\n")
    assert len(text[0]) == 300
    command = shlex.split(text[1])
    assert main(command[1:]) == 0
    assert capsys.readouterr().out.startswith(command[-1])


def test_a_cell_in_blocks_learns_to_write(tmp_path, corpus, capsys):
    run, options = tmp_path / "run", ["--cell", "GatedDeltaNet", "--heads", "2", "--epochs", "2"]
    assert main(["train", corpus, *TINY, *options, "--out", str(run)]) == 0
    assert "Embed(4) → Dense(8) → Block(GatedDeltaNet(8)) → Norm(8) → Dense(" in capsys.readouterr().out
    held_out = [record["validation"] for record in records(run) if "train" in record]
    assert held_out[0] > held_out[1] and held_out[1] < math.log(jrnn.load(run).in_features)
    assert main(["sample", str(run), "--length", "20"]) == 0
    assert len(capsys.readouterr().out) == 21


def test_the_model_and_its_description(corpus, finished):
    config = TrainConfig(cell="GRU", hidden=6, layers=2, embed=3, dropout=0.25)
    cells = (jrnn.Embed(3), jrnn.GRU(6), jrnn.GRU(6), jrnn.Dense(5))
    assert config.model(5) == jrnn.Stack(cells, dropout=0.25)
    config = TrainConfig(cell="MLSTM", hidden=6, heads=3, layers=2, embed=4, dropout=0.25)
    ends = jrnn.Stack((jrnn.Embed(4), jrnn.Dense(6))), jrnn.Stack((jrnn.Norm(6), jrnn.Dense(5)))
    block = jrnn.Block(jrnn.MLSTM(6, heads=3))
    assert config.model(5) == jrnn.Stack((ends[0], block, block, ends[1]), dropout=0.25)
    assert TrainConfig(cell="MinGRU", hidden=6).model(5).cells[1] == jrnn.Block(jrnn.MinGRU(6))
    stored, text = jrnn.load(finished), Path(corpus).read_text(encoding="utf-8")
    vocabulary = jrnn.CharVocabulary.from_text(text[:2700])
    assert jrnn.CharVocabulary(**stored.meta["vocabulary"]) == vocabulary
    assert stored.cell == TrainConfig(hidden=8, embed=4).model(len(vocabulary))
    assert TrainConfig(**stored.meta["config"]) == TrainConfig(hidden=8, embed=4, batch=2, steps=16, epochs=3)
    assert stored.meta["files"] == [corpus]


NO_TEXT = {  # what else they read, or how wide
    "ConvRNN": r"a convolution needs \(..., 2 spatial axes, channels\)",
    "ConvLSTM": r"a convolution needs \(..., 2 spatial axes, channels\)",
    "ConvGRU": r"a convolution needs \(..., 2 spatial axes, channels\)",
    "GRUD": r"xs must be \(values, mask, delta\)",
    "TreeLSTM": r"xs must be \(values, n\)",
    "NARX": r"xs must be \(given, use_given, external\)",
}


@pytest.mark.parametrize("name", NO_TEXT)
def test_cells_that_read_no_text_are_refused(name, corpus, capsys, tmp_path):
    out = tmp_path / "run"
    said = refusal(capsys, "train", corpus, *TINY, "--cell", name, "--out", str(out))
    assert (
        re.search(f"--cell {name} does not work in this model: .*{NO_TEXT[name]}", said) and not out.exists()
    )


@pytest.mark.parametrize("name", sorted(recurrent_cells().keys() - NO_TEXT))
def test_every_other_cell_makes_a_language_model(name):
    config = TrainConfig(cell=name, hidden=8, layers=2, embed=8)
    model, tokens = config.model(5), jnp.zeros((7, 3), jnp.int32)

    def run(key):
        return jrnn.unroll(model, model.init(key, 5), tokens, method=METHOD)[1]

    assert jax.eval_shape(run, jax.random.key(0)).shape == (7, 3, 5)


def test_runs_are_numbered_and_seeds_matter(tmp_path, corpus, monkeypatch, finished):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "7").mkdir(parents=True)
    other = ["--epochs", "1", "--seed", "1", "--cell", "Elman"]
    for seed in ("1", "2"):
        assert main(["train", corpus, *TINY, *other, "--seed", seed]) == 0
    first, second = (jrnn.load(tmp_path / "runs" / name) for name in ("8", "9"))
    assert first.cell == second.cell == TrainConfig(cell="Elman", hidden=8, embed=4).model(first.in_features)
    assert not np.array_equal(first.params[1].w_hh, second.params[1].w_hh)


def test_sample_repeats_for_a_seed(finished, capsys):
    def sampled(*options):
        assert main(["sample", str(finished), "--length", "40", *options]) == 0
        return capsys.readouterr().out[:-1]

    first = sampled()
    assert len(first) == 40 and sampled() == first == sampled("--seed", "0")
    assert sampled("--seed", "1") != first
    greedy = sampled("--temperature", "0", "--prompt", "the ")
    assert greedy.startswith("the ") and len(greedy) == 44
    for choice in (["--top-k", "1"], ["--top-p", "1e-9"]):
        assert sampled(*choice, "--prompt", "the ", "--seed", "5") == greedy
    stored = jrnn.load(finished / "best")
    vocabulary = jrnn.CharVocabulary(**stored.meta["vocabulary"])
    prompt = vocabulary.encode("the ")
    by_hand = jrnn.generate(
        stored.cell, stored.params, prompt, 40, key=jax.random.key(3), temperature=0.8
    ).tokens
    assert sampled("--prompt", "the ", "--seed", "3") == "the " + vocabulary.decode(by_hand)


def test_sample_takes_the_best_parameters(run, capsys):
    best = jrnn.load(run / "best")
    flat = jax.tree.map(jnp.zeros_like, best.params)  # all characters alike: the first one is chosen
    jrnn.save(run / "best", jrnn.Snapshot(best.cell, best.in_features, flat, step=9999, meta=best.meta))
    assert main(["sample", str(run), "--length", "5", "--temperature", "0"]) == 0
    assert capsys.readouterr().out == 5 * "\ufffd" + "\n"
    shutil.rmtree(run / "best")
    assert main(["sample", str(run), "--length", "5", "--temperature", "0"]) == 0
    assert "\ufffd" not in capsys.readouterr().out


def test_sample_reports_unknown_characters(finished, capsys):
    assert main(["sample", str(finished), "--length", "3", "--prompt", "the €€ ß"]) == 0
    said = capsys.readouterr()
    assert said.err == "jrnn: not in the vocabulary, read as unknown characters: '€', 'ß'\n"
    assert said.out.startswith("the €€ ß") and len(said.out) == 12


def start(*argv, stdout=subprocess.PIPE):
    command = [sys.executable, "-W", "error", "-m", "jrnn", *argv]
    # XLA's own limit, so that it compiles the loops of the command as those of this process
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_extra_options={FUSED_LOOPS}=1024"
    env = os.environ | {"XLA_FLAGS": flags}
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=env)


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path, corpus, capsys):
    options = [*TINY, "--batch", "1", "--steps", "8", "--epochs", "6", "--dropout", "0.2"]
    stopped, whole = tmp_path / "stopped run", tmp_path / "whole"
    process = start("train", corpus, *options, "--out", str(stopped))
    assert any(line.startswith("epoch 1, train") for line in process.stderr)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    step = int(re.search(r"stopped and saved after step (\d+); to continue:\n", out)[1])
    assert 337 <= step < 6 * 337 and jrnn.load(stopped).step == step
    command = shlex.split(out.splitlines()[-1])
    assert command == ["jrnn", "train", "--resume", str(stopped)]
    assert main(command[1:]) == 0
    resumed = capsys.readouterr().out
    assert main(["train", corpus, *options, "--out", str(whole)]) == 0
    uninterrupted = capsys.readouterr().out
    optimizer = TrainConfig().optimizer(6 * 337)
    assert_same_bits(*(jrnn.load(path, optimizer=optimizer) for path in (stopped, whole)))
    assert_same_bits(*(jrnn.load(path / "best") for path in (stopped, whole)))
    assert without_times(stopped) == without_times(whole)
    written = [out.split("loss.png\n\n")[1].split("\n\nmore")[0] for out in (resumed, uninterrupted)]
    assert len(written[0]) == 300 and written[0] == written[1]


def test_a_run_stopped_within_or_at_the_end_of_an_epoch_reports_all_of_it(tmp_path):
    tokens = np.random.default_rng(0).integers(5, size=33)
    model, stream = TrainConfig(hidden=3, embed=2).model(5), jrnn.Stream(tokens, batch_size=2, steps=4)

    def stop(record, state):
        if record["step"] == step and "loss" in record:
            os.kill(os.getpid(), signal.SIGTERM)

    def fit(name, **options):
        loss = jrnn.PerStep(jrnn.losses.cross_entropy)
        given = {"optimizer": optax.adam(0.1), "key": jax.random.key(0), "in_features": 5, "epochs": 2}
        given |= {"validation": stream, "stateful": True, "progress": jrnn.Progress(bar=False)}
        return jrnn.fit(model, stream, loss, **given, out=tmp_path / name, **options)

    whole = fit("whole")
    for step in (3, 4):  # an epoch has 4
        assert fit(f"{step}", monitors=(stop,)).interrupted
        resumed = fit(f"{step}", resume=True)
        assert not resumed.interrupted
        assert_same_bits(resumed.state, whole.state)
        assert without_times(tmp_path / f"{step}") == without_times(tmp_path / "whole")


def test_train_splits_the_batch_over_the_cores(tmp_path, corpus):
    options = [*TINY, "--batch", "32", "--steps", "8", "--epochs", "1", "--out"]
    with start("train", corpus, *options, str(tmp_path / "cores")) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    used = min(2, cores)  # 16 rows on each
    assert f"\non     {used} of {cores} devices (cpu), {32 // used} rows of a batch on each\n" in out
    assert main(["train", corpus, *options, str(tmp_path / "here")]) == 0
    here, there = (records(tmp_path / name)[-1]["validation"] for name in ("here", "cores"))
    assert here == pytest.approx(there, rel=1e-5)


def test_resume_asks_for_nothing_and_changes_nothing(tmp_path, run, finished, corpus, capsys):
    moved = shutil.copy(corpus, str(tmp_path / "moved.txt"))
    for argv in (["--resume", str(run)], [moved, "--resume", str(run)]):
        assert main(["train", *argv]) == 0  # it is finished, so it only reports
        assert "bits per character after epoch 3" in capsys.readouterr().out
    assert_same_bits(jrnn.load(run), jrnn.load(finished))
    said = refusal(capsys, "train", "--resume", str(run), "--hidden", "9")
    assert said == "--hidden cannot be combined with --resume: a run keeps its settings and directory"
    other = write_corpus(tmp_path / "other.txt", seed=1)
    said = refusal(capsys, "train", other, "--resume", str(run))
    assert said == f"{run}: the text has changed since the run was started: start a new run"


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_offered(run, finished, capsys):
    newest, older, *_ = checkpoints(run)
    content = (newest / "checkpoint.json").read_bytes()
    (newest / "checkpoint.json").write_bytes(content.replace(b'"step": 252', b'"step": 253'))
    said = refusal(capsys, "train", "--resume", str(run))
    assert f"{newest}: checkpoint.json is corrupted" in said
    assert said.endswith(f"delete {newest} to continue the run from {older.name}")
    shutil.rmtree(newest)
    assert main(["train", "--resume", str(run)]) == 0
    assert_same_bits(jrnn.load(run), jrnn.load(finished))
    best = checkpoints(run / "best")[0]
    (best / "manifest.json").write_text("{}")
    assert f"{best}: manifest.json is corrupted" in refusal(capsys, "sample", str(run))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_no_space_left(run, finished, capsys):
    shutil.rmtree(checkpoints(run)[0])
    (run / "loss.png").unlink()
    (run / "loss.png").symlink_to("/dev/full")
    capsys.readouterr()
    assert main(["train", "--resume", str(run)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"jrnn: No space left on device; free some space, then jrnn train --resume {run}"
    (run / "loss.png").unlink()
    assert main(["train", "--resume", str(run)]) == 0
    assert_same_bits(jrnn.load(run), jrnn.load(finished))
    with open("/dev/full", "w") as full:
        process = start("cells", stdout=full)
        assert process.communicate(timeout=300) == (None, "jrnn: No space left on device\n")
    assert process.returncode == 2


def test_bad_files_are_refused(tmp_path, corpus, capsys):
    files = {
        "empty.txt": b"",
        "latin.txt": "caf\u00e9 \u00e0 la carte".encode("latin-1"),
        "short.txt": b"abc" * 40,
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    said = {name: refusal(capsys, "train", str(tmp_path / name)) for name in (*files, "no.txt", ".")}
    assert said["no.txt"] == f"{tmp_path}/no.txt: no such file"
    assert said["."] == f"{tmp_path}: is a directory, needs a text file"
    assert said["empty.txt"] == f"{tmp_path}/empty.txt: the file is empty"
    assert said["latin.txt"].startswith(f"{tmp_path}/latin.txt: not UTF-8, byte 0xe9 at offset 3")
    assert said["short.txt"] == (
        "the text is too short: it has 120 characters, and --batch 32 --steps 64 need 20,490, so "
        "that the held-out tenth fills a batch; try a smaller --batch and --steps"
    )
    hint = refusal(capsys, "train", corpus, "--steps", "16").split("; ")[-1]
    assert hint == "try --batch 18"
    argv = ["train", corpus, *TINY, "--epochs", "1", "--batch", "18", "--out", str(tmp_path / "run")]
    assert main(argv) == 0  # the hint was right
    assert "try --batch 18" in refusal(capsys, "train", corpus, "--steps", "16", "--batch", "19")


ARGUMENTS = [
    ("train --cell lstmm", "unknown cell 'lstmm', did you mean LSTM? jrnn cells lists all"),
    ("train --cell Ellman", "unknown cell 'Ellman', did you mean Elman? jrnn cells lists all"),
    ("train --cell GRU --heads 2", "--heads: GRU has none; MLSTM and GatedDeltaNet, for instance, have"),
    ("train --cell MLSTM --hidden 6", "--cell MLSTM does not work in this model: hidden must be a multiple"),
    ("train --hidden 0", "argument --hidden: needs a whole number of at least 1, got '0'"),
    ("train --layers -2", "argument --layers: needs a whole number of at least 1, got '-2'"),
    ("train --embed 1.5", "argument --embed: needs a whole number of at least 1, got '1.5'"),
    ("train --epochs two", "argument --epochs: needs a whole number of at least 1, got 'two'"),
    ("train --lr 0", "argument --lr: needs a number above 0, got '0'"),
    ("train --lr nan", "argument --lr: needs a number above 0, got 'nan'"),
    ("train --dropout 1", "argument --dropout: needs a rate of at least 0 and below 1, got '1'"),
    ("train --seed -1", "argument --seed: needs a whole number of at least 0 and below 2**32, got '-1'"),
    ("train --hid 8", "unrecognized arguments: --hid"),
    ("sample", "the following arguments are required: RUN"),
    ("sample x --length 0", "argument --length: needs a whole number of at least 1, got '0'"),
    ("sample x --temperature -1", "argument --temperature: needs a number of at least 0, got '-1'"),
    ("sample x --top-k 0", "argument --top-k: needs a whole number of at least 1, got '0'"),
    ("sample x --top-p 2", "argument --top-p: needs a probability above 0 and at most 1, got '2'"),
    ("sample nowhere", "nowhere: not the directory of a run: it does not exist"),
    ("train --resume nowhere", "nowhere: not the directory of a run: it does not exist"),
    ("train --resume . --out x", "--out cannot be combined with --resume: a run keeps its settings"),
    ("train --distributed", "--distributed: "),
    ("train --out .", "--out must name a directory of its own, got '.'"),
    ("train --resume .", ".: not the directory of a run: it has no complete checkpoint"),
    ("cells --in-features 0", "argument --in-features: needs a whole number of at least 1, got '0'"),
    ("trian", "argument COMMAND: invalid choice: 'trian'"),
    ("", "the following arguments are required: COMMAND"),
]


@pytest.mark.parametrize(("line", "text"), ARGUMENTS)
def test_bad_arguments_are_refused(line, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert refusal(capsys, *line.split()).startswith(text)
    assert list(tmp_path.iterdir()) == []


def test_directories_that_are_taken_or_foreign_are_refused(tmp_path, corpus, finished, capsys):
    said = refusal(capsys, "train", corpus, *TINY, "--out", str(finished))
    hint = f"continue with jrnn train --resume '{finished}', or choose another --out"
    assert said == f"{finished}: the directory is not empty: {hint}"
    (tmp_path / "letter.txt").write_text("mine")
    said = refusal(capsys, "train", corpus, *TINY, "--out", str(tmp_path))
    assert said == f"{tmp_path}: the directory is not empty: choose another --out"
    said = refusal(capsys, "train", corpus, *TINY, "--out", str(tmp_path / "letter.txt"))
    assert said == f"{tmp_path}/letter.txt: not a directory: choose another --out"
    cell = jrnn.GRU(3)
    jrnn.save(tmp_path, jrnn.Snapshot(cell, 2, cell.init(jax.random.key(0), 2)))
    said = refusal(capsys, "sample", str(tmp_path))
    assert said == f"{tmp_path}: not a run of jrnn train: its checkpoint has no vocabulary and settings"
