"""The commands that train nothing: cells, doctor, help."""

import importlib.metadata
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest

import jrnn
from jrnn._cli import TrainConfig, cell_table, main
from jrnn._cli.diagnosis import gpu_advice
from jrnn._cli.parsing import parser
from jrnn._cli.tables import recurrent_cells
from tests.test_cli import start


def test_cells_lists_what_there_is(capsys):
    assert main(["cells", "--hidden", "6", "--in-features", "3"]) == 0
    shown = capsys.readouterr().out
    assert shown == cell_table(6, 3) + "\n"
    listed = dict(re.findall(r"^(\w+) +([\d,]+|-)  ", shown, re.MULTILINE))
    assert listed.keys() == recurrent_cells().keys() >= {"Elman", "Jordan", "LSTM", "GRU"}
    lines = shown.splitlines()[1:]  # two for each cell: the first with a number, the second with a paper
    for first, paper, (name, number) in zip(lines[::2], lines[1::2], listed.items(), strict=True):
        if number == "-":
            with pytest.raises(ValueError, match=r"must be a multiple|needs in_features"):
                getattr(jrnn, name)(6).init(jax.random.key(0), 3)
        else:
            params = getattr(jrnn, name)(6).init(jax.random.key(0), 3)
            trained = jax.tree.map(lambda leaf, trains: leaf.size * trains, params, jrnn.trainable(params))
            assert int(number.replace(",", "")) == sum(jax.tree.leaves(trained))
        kind, line = re.match(rf"{name} +{number}  (linear|diagonal|)  +(\S.*)", first).groups()
        assert line and re.search(r"\b(19|20)\d\d\b", paper)
        assert kind == {"MinGRU": "linear", "IndRNN": "diagonal", "GRU": ""}.get(name, kind)
    ends = [re.search(r"^\w+ +([\d,]+|-)(?=  )", line).end() for line in shown.splitlines()[1::2]]
    assert len(set(ends)) == 1  # numbers end in one column


def test_help_states_the_defaults_and_has_examples_that_parse(capsys):
    shown = {}
    for command in ("train", "sample", "evaluate", "cells", "doctor"):
        with pytest.raises(SystemExit, match=r"^0$"):
            main([command, "--help"])
        shown[command] = capsys.readouterr().out
        examples = re.findall(r"^  (jrnn .*)$", shown[command], re.MULTILINE)
        assert examples and all(shlex.split(line)[1] == command for line in examples)
        assert all(callable(parser().parse_args(shlex.split(line)[1:]).run) for line in examples)
    text = " ".join(shown["train"].split())
    for field, default in vars(TrainConfig()).items():
        name = field.replace("_", "-")
        assert re.search(rf"--{name} [A-Z]+ [^()]*\(default: {re.escape(str(default))}\)", text), name


FUSED = """
import os
from jrnn._cli import main
from jrnn.training.devices import fused_loops
for command in ("sample none", "evaluate none --text none", "train --resume none"):
    os.environ.pop("XLA_FLAGS", None)
    print(main(command.split()), fused_loops())
"""


def test_commands_that_run_models_fuse_small_loops():
    run = subprocess.run([sys.executable, "-c", FUSED], text=True, capture_output=True, check=True)
    assert run.stdout.splitlines() == ["2 1000000"] * 3, run.stderr


def test_doctor(capsys):
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for name in ("jrnn", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"):
        assert re.search(rf"^{name} +{re.escape(importlib.metadata.version(name))}$", shown, re.MULTILINE)
    assert all(str(device) in shown for device in jax.devices())
    assert "of a jitted GRU: finite, as it should be" in shown
    if jax.default_backend() == "cpu":  # in a process of its own it says the former
        assert re.search(
            r"^small loops +(one function each, below|a call per operation and step)", shown, re.M
        )


def test_gpu_advice(monkeypatch):
    cpu, gpu = SimpleNamespace(platform="cpu"), SimpleNamespace(platform="gpu")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert gpu_advice(False, [cpu]) == "" == gpu_advice(True, [gpu, cpu])
    assert gpu_advice(True, [cpu]).startswith("This machine has an NVIDIA GPU, but jax does not find it: ")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert "JAX_PLATFORMS=cpu excludes it: unset it" in gpu_advice(True, [cpu])


def test_the_real_command_is_quick_to_help_and_shows_no_traceback(tmp_path):
    heavy = "{'flax', 'optax', 'orbax', 'matplotlib', 'tqdm'} & {m.partition('.')[0] for m in sys.modules}"
    code = f"import sys, jrnn._cli as c\ntry: c.main(['--help'])\nfinally: print('loaded', sorted({heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("loaded []\n") and "doctor" in done.stdout
    process = start("sample", str(tmp_path / "nothing"))
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (2, "")
    assert err == f"jrnn: {tmp_path}/nothing: not the directory of a run: it does not exist\n"
