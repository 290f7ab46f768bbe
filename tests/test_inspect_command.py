"""`jrnn inspect`: what it prints, writes and refuses."""

import functools
import hashlib
import itertools
import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.image
import matplotlib.pyplot
import numpy as np
import pytest

import jrnn
from jrnn._cli import TrainConfig, main
from jrnn._cli.sampling import printable
from jrnn.analysis import inspect
from tests.test_checkpoint import forge
from tests.test_inspecting import CROSS_ENTROPY, strict

TEXT = "".join(np.random.default_rng(0).choice(list("abc \n"), 850))


@pytest.fixture(autouse=True)
def no_pyplot():
    yield
    assert matplotlib.pyplot.get_fignums() == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run as `jrnn train` leaves it; tests write the page into it, and nothing else."""
    run = tmp_path_factory.mktemp("runs") / "first run"
    (text := run.parent / "text.txt").write_text(TEXT, encoding="utf-8")
    vocabulary, config = jrnn.CharVocabulary.from_text(TEXT), TrainConfig(hidden=4, embed=3)
    model = config.model(len(vocabulary))
    params = model.init(jax.random.key(0), len(vocabulary))
    settings = {"config": vars(config), "vocabulary": vars(vocabulary), "files": [str(text)]}
    settings["sha256"] = hashlib.sha256(TEXT.encode()).hexdigest()
    jrnn.save(run, jrnn.Snapshot(model, len(vocabulary), params, meta=settings))
    return run


def refusal(capsys, *argv):
    assert main(["inspect", *argv]) == 2
    said = capsys.readouterr().err
    assert said.startswith("jrnn: ") and said.count("\n") == 1
    return said[len("jrnn: ") : -1]


def expected(run, text, steps):
    """The report about the text, by hand."""
    stored = jrnn.load(run)
    ids = jrnn.CharVocabulary(**stored.meta["vocabulary"]).encode(text)
    places = np.arange(steps)[:, None] + (len(text) - 1) // (8 * steps) * steps * np.arange(
        8
    )  # 8 stretches of the text
    batch = jrnn.Batch(jnp.asarray(ids[places]), jnp.asarray(ids[places + 1]))
    return inspect(stored.cell, stored.params, batch, CROSS_ENTROPY)


def test_inspect_prints_and_writes(trained, capsys):
    assert main(["inspect", str(trained), "--text", str(trained.parent / "text.txt")]) == 0
    out = capsys.readouterr().out
    found = expected(trained, TEXT[-85:], 10)  # of 85 characters held out, 8 rows of 10 and one more
    written = json.loads((trained / "inspect.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert written == strict(found)
    lines = [f"{name}: {verdict}" for name, verdict in found.verdicts.items()]
    ends = ["", f"numbers: {trained / 'inspect.json'}", f"page:    {trained / 'inspect.png'}"]
    assert out.splitlines() == lines + ends
    page = matplotlib.image.imread(trained / "inspect.png")
    assert page.shape[1] > 1500 and page[..., :3].min() < 0.1 and page[..., :3].max() == 1


def test_inspect_another_text_and_fewer_steps(trained, tmp_path, capsys):
    other = TEXT[300:500]
    (tmp_path / "other.txt").write_text(other, encoding="utf-8")
    assert main(["inspect", str(trained), "--text", str(tmp_path / "other.txt"), "--steps", "10"]) == 0
    found = expected(trained, other, 10)
    assert json.loads((trained / "inspect.json").read_text(encoding="utf-8")) == strict(found)
    assert f"memory: {found.verdicts['memory']}\n" in capsys.readouterr().out


def test_inspect_without_matplotlib(trained, monkeypatch, capsys):
    monkeypatch.setattr("jrnn._cli.inspecting.importlib.util.find_spec", lambda name: None)
    (trained / "inspect.png").unlink(missing_ok=True)
    assert main(["inspect", str(trained), "--text", str(trained.parent / "text.txt")]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == "no inspect.png: matplotlib is not installed, pip install 'jrnn[plots]'"
    assert not (trained / "inspect.png").exists()


def test_inspect_refuses(trained, tmp_path, capsys):
    run = str(trained)
    for name, content in {"short.txt": TEXT[:80], "enough.txt": TEXT[:81], "empty.txt": ""}.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    text = lambda name: ("--text", str(tmp_path / name))
    short = "the text is too short: it has 80 characters, needs 81"
    assert refusal(capsys, run, *text("short.txt")) == short
    assert refusal(capsys, run, *text("empty.txt")) == f"{tmp_path}/empty.txt: the file is empty"
    assert refusal(capsys, run, *text("no.txt")) == f"{tmp_path}/no.txt: no such file"
    assert refusal(capsys, run, "--steps", "9") == "--steps must be at least 10, got 9"
    assert refusal(capsys, str(tmp_path / "x")) == (
        f"{tmp_path}/x: not the directory of a run: it does not exist"
    )
    nothing = "not the directory of a run: it has no complete checkpoint"
    assert refusal(capsys, str(tmp_path)) == f"{tmp_path}: {nothing}"
    unknown = "unrecognized arguments: --layers 2 (see jrnn --help)"
    assert refusal(capsys, run, "--layers", "2") == unknown
    assert refusal(capsys, run, "--steps", "0").startswith(
        "argument --steps: needs a whole number of at least 1, got '0'"
    )
    assert not list(tmp_path.glob("inspect.*"))
    assert main(["inspect", run, *text("enough.txt")]) == 0
    assert json.loads((trained / "inspect.json").read_text(encoding="utf-8"))["steps"] == 10


def test_a_file_that_only_the_checkpoint_names_is_not_opened(trained, tmp_path, capsys):
    """Such as a pipe that nobody writes to, which would be waited for without end."""
    run, pipe = Path(shutil.copytree(trained, tmp_path / "run")), tmp_path / "a \x1b[31mpipe"
    os.mkfifo(pipe)
    (path,) = jrnn.checkpoint.checkpoints(run)
    forge(path, lambda description: description["meta"].update(files=[str(pipe), "other"]))
    said = refusal(capsys, str(run))
    asks = f"{run}: pass the text to inspect with; it was trained on --text "
    assert said == asks + f"'{tmp_path}/a \\x1b[31mpipe' other"
    python = Path(shutil.copytree(trained, tmp_path / "python"))  # trained on what comes with Python: no file
    (path,) = jrnn.checkpoint.checkpoints(python)
    forge(path, lambda description: description["meta"].update(files=[]))
    assert main(["inspect", str(python), "--steps", "10"]) == 0
    forge(path, lambda description: description["meta"]["config"].update(valid="held out.txt"))
    said = refusal(capsys, str(python), "--steps", "10")  # no tenth of what it was trained on is held out
    assert said == f"{python}: pass the text to inspect with; it was validated on --text 'held out.txt'"


def entries(value, place=()):
    """Every place in a tree of dicts and lists."""
    yield place
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from entries(value[key], (*place, key))


def put(tree, place, value):
    if not place:
        return value
    tree = dict(tree) if isinstance(tree, dict) else list(tree)
    tree[place[0]] = put(tree[place[0]], place[1:], value)
    return tree


WRONG = (None, True, -1, 3.5, 10**30, 1e999, "a\x1b[2J", "", [], [3], {}, {"symbols": 3}, {"more": 1})


def test_tampered_entries_end_in_one_line(trained, tmp_path, capsys):
    """Every entry of meta with values of every type in its place; those of its own type may be taken."""
    run, text = Path(shutil.copytree(trained, tmp_path / "run")), str(trained.parent / "text.txt")
    (path,) = jrnn.checkpoint.checkpoints(run)
    meta = json.loads((path / "checkpoint.json").read_text())["meta"]
    places = list(entries(meta))
    assert len(places) == 1 + 4 + len(vars(TrainConfig())) + 2 + 1
    refused = 0
    for place, value in itertools.product(places, WRONG):
        forge(path, lambda description, p=place, v=value: description.update(meta=put(meta, p, v)))
        own = type(functools.reduce(lambda tree, key: tree[key], place, meta)) in (type(value), float)
        commands = ["sample", str(run), "--length", "2"], ["inspect", str(run), "--text", text]
        for command in commands[: 2 if value is None else 1]:
            status, (_, err) = main(command), capsys.readouterr()
            assert status == 2 or own, (place, value)
            if status:
                assert err.startswith("jrnn: ") and err.count("\n") == 1 and "\x1b" not in err
            refused += status == 2
    assert refused > 150


def test_escape_codes_of_a_vocabulary_do_not_reach_the_terminal(trained, tmp_path, capsys):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (path,) = jrnn.checkpoint.checkpoints(run)
    codes = "\x1b\x07\u202e\ud800\x9b"
    forge(path, lambda description: description["meta"]["vocabulary"].update(symbols=codes))
    assert main(["sample", str(run), "--length", "200", "--prompt", "\x07"]) == 0
    out = capsys.readouterr().out
    assert out.isprintable() is False and set(out) <= set("\\x1b079u2edc8\n\ufffd") and "\\x1b" in out
    assert printable("a\tb\nc\r\x1b[31m é 日 \u200d") == "a\tb\nc\\r\\x1b[31m é 日 \u200d"
