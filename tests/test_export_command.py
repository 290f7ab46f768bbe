"""`jrnn export`, and the stream of the page on exporting, which runs on its file without JAX."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jrnn
from jrnn._cli import TrainConfig, main

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

PAGE = Path(__file__).parent.parent / "docs" / "pages" / "export.md"
SYMBOLS = "\n Theno"


@pytest.fixture
def run(tmp_path):
    """A run as `jrnn train` leaves it."""
    vocabulary, config = jrnn.CharVocabulary(SYMBOLS), TrainConfig(hidden=5, embed=3)
    model = config.model(len(vocabulary))
    params = jax.jit(lambda: model.init(jax.random.key(0), len(vocabulary)))()
    settings = {"config": vars(config), "vocabulary": vars(vocabulary), "files": [], "sha256": ""}
    jrnn.save(tmp_path / "run", jrnn.Snapshot(model, len(vocabulary), params, meta=settings))
    return tmp_path / "run"


def test_the_stream_of_the_page(run, capsys):
    target = run.parent / "model.onnx"
    assert main(["export", str(run), str(target)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"model\.onnx: [\d,]+ bytes\ntakes +xs, carry", said)
    assert [path.name for path in run.parent.iterdir() if "tmp" in path.name] == []
    (example,) = re.findall(r"```py\n(import json\n.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(example.splitlines()) <= 20
    blocked = f"import sys\nsys.modules['jax'] = sys.modules['jrnn'] = None\n{example}"
    written = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", blocked],
        cwd=run.parent, capture_output=True, encoding="utf-8", check=True, timeout=300,
    )  # fmt: skip
    stored = jrnn.load(run)
    vocabulary = jrnn.CharVocabulary(**stored.meta["vocabulary"])
    tokens = vocabulary.encode("The " + written.stdout)
    _, logits = jrnn.unroll(stored.cell, stored.params, tokens[:, None])
    shares = np.exp(np.asarray(logits[3:-1, 0], float) / 0.8)
    rng = np.random.default_rng(0)  # draws once for each token, whatever the shares
    drawn = [rng.choice(len(p), p=p / p.sum()) for p in shares]
    assert len(written.stdout) == 200 and drawn == tokens[4:].tolist()


def test_mistakes_are_told_in_one_line(run, capsys, monkeypatch):
    assert main(["export", str(run), "model.pt"]) == 2
    assert "model.pt: the file to write must end in .onnx" in capsys.readouterr().err
    assert main(["export", str(run / "nothing"), "model.onnx"]) == 2
    assert "not the directory of a run" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["export", str(run), "model.onnx"]) == 2
    assert "needs the package onnx, which is not installed: pip install onnx" in capsys.readouterr().err


def test_the_vocabulary_travels(run):
    target = run.parent / "model.onnx"
    main(["export", str(run), str(target)])
    (entry,) = onnx.load(target).metadata_props
    assert (entry.key, json.loads(entry.value)["symbols"]) == ("vocabulary", SYMBOLS)
