"""Checkpoints that are forged, torn or renamed: refused by name, and nothing of them is run."""

import ast
import json
import random
import shutil
from pathlib import Path

import pytest

import jrnn
import jrnn.checkpoint
from jrnn.checkpoint import (
    CheckpointError,
    cell_from_json,
    load,
    save,
)
from tests.test_checkpoint import (
    ADAM,
    IN,
    forge,
    seal,
    snapshot,
)

DEEP = {"class": "Residual", "cell": {"class": "LSTM", "hidden": 2}}
for _ in range(5000):
    DEEP = {"class": "Residual", "cell": DEEP}

HOSTILE_NAMES = (
    *("os.system", "__class__", "__builtins__", "__dict__", "__getattr__", "importlib", "Any", "", "a\nb"),
    *("unroll", "from_functions", "Cell", "Layer", "Scan", "LSTMParams", "cells", "cells.LSTM", "jrnn.LSTM"),
    *("Snapshot", "CheckpointError", "user:os.system", None, 3, [], {}, True, ["LSTM"]),
)
HOSTILE_CELLS = [
    *({"class": "LSTM", "hidden": width} for width in (0, -1, 2.5, "8", None, True, [8], {}, 1e999)),
    *(None, 3, "LSTM", [], {}, [{"class": "LSTM", "hidden": 3}], {"hidden": 3}),
    {"class": "LSTM"},
    {"class": "LSTM", "hidden": 3, "__class__": "x"},
    {"class": "LSTM", "hidden": 3, "self": 1},
    {"class": "LSTM", "hidden": 3, "step": {"class": "LSTM", "hidden": 3}},
    {"class": "Stack", "cells": []},
    {"class": "Stack", "cells": 3},
    {"class": "Stack", "cells": ["LSTM"]},
    {"class": "Stack", "cells": [{"class": "os.system", "hidden": 3}]},
    {"class": "Dropout", "cell": {"class": "LSTM", "hidden": 3}, "output": 1.5},
    {"class": "Elman", "hidden": 3, "activation": "__import__"},
    DEEP,
]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=range(len(HOSTILE_NAMES)))
def test_only_names_of_cells_are_looked_up(name):
    refusal = "is not the name of a cell of jrnn|is not a cell of jrnn|a cell must be a class and its fields"
    for fields in ({}, {"hidden": 3}):
        with pytest.raises(CheckpointError, match=refusal) as caught:
            cell_from_json({"class": name, **fields})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", HOSTILE_CELLS, ids=range(len(HOSTILE_CELLS)))
def test_hostile_cells_are_refused(spec):
    with pytest.raises(CheckpointError) as caught:
        cell_from_json(spec)
    assert "\n" not in str(caught.value)


def mutations(value):
    """The same JSON with one value replaced, removed or added, for every value in it."""
    yield from (None, -1, 2**70, 1e999, "x\ny", [], {}, [[[-3]]], True)
    if isinstance(value, dict):
        yield {**value, "more\n": 1}
        for key, inner in value.items():
            yield {k: v for k, v in value.items() if k != key}
            for changed in mutations(inner):
                yield {**value, key: changed}
    if isinstance(value, list):
        for i, inner in enumerate(value):
            for changed in mutations(inner):
                yield [*value[:i], changed, *value[i + 1 :]]


def test_fuzzed_descriptions_raise_nothing_else(tmp_path):
    path = save(tmp_path, snapshot(jrnn.Residual(jrnn.Elman(IN)), meta={}, position={}))
    intact = json.loads((path / "checkpoint.json").read_text())
    rng = random.Random(1)
    fuzzed = [changed for changed in mutations(intact) if changed != intact]
    refused = 0
    for changed in rng.sample(fuzzed, 200):
        (path / "checkpoint.json").write_text(json.dumps(changed))
        seal(path)
        try:
            load(path, optimizer=ADAM)
        except CheckpointError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 180


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{", "[" * 100_000, '{"a":' * 100_000, "\x00", "\udc80", "1" * 5000, '{"files": {}}'],
    ids=range(10),
)
def test_texts_that_are_no_checkpoint(tmp_path, text):
    path = save(tmp_path, snapshot())
    for name in ("checkpoint.json", "manifest.json"):
        (path / name).write_bytes(text.encode(errors="surrogatepass"))
        if name == "checkpoint.json":
            seal(path)
        with pytest.raises(CheckpointError, match=name):
            load(path)


def test_arrays_that_are_not_as_described_are_named(tmp_path):
    path = save(tmp_path, snapshot())
    for change, text in [
        ({"dtype": "bfloat16"}, "params/b.*bfloat16.*float32"),
        ({"shape": [4, 4]}, "params/b"),
        ({"dtype": "key<fry>"}, "params/b"),
        ({"dtype": "object"}, "params/b"),
        ({"dtype": "float64"}, "params/b"),
        ({"weak": True}, "params/b"),
        ({"shape": [0]}, "params/b"),
    ]:
        intact = (path / "checkpoint.json").read_text()
        forge(path, lambda description, change=change: description["leaves"]["params/b"].update(change))
        with pytest.raises(CheckpointError, match=text):
            load(path)
        (path / "checkpoint.json").write_text(intact)
    forge(path, lambda description: description["leaves"].pop("params/b") and None)
    with pytest.raises(CheckpointError, match="params/b is missing: LSTM"):
        load(path)
    shutil.rmtree(path / "arrays")
    seal(path)
    with pytest.raises(CheckpointError, match="params/"):
        load(path)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_another_format_is_refused(tmp_path, number):
    path = save(tmp_path, snapshot())
    forge(path, lambda description: description.update(format=number))
    with pytest.raises(CheckpointError, match=f"format must be 2, got {number}"):
        load(path)


def test_a_folder_renamed_to_another_step_is_refused(tmp_path):
    path = save(tmp_path, snapshot(step=5)).rename(tmp_path / "step_00000006")
    with pytest.raises(CheckpointError, match="step is 5"):
        load(path)


BANNED = {"eval", "exec", "compile", "__import__", "import_module", "allow_pickle", "system", "globals"}
BANNED |= {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "importlib", "subprocess"}


def test_nothing_that_can_run_code_is_called():
    for file in Path(jrnn.checkpoint.__file__).parent.glob("*.py"):
        tree = ast.parse(file.read_text())
        nodes = [node for node in ast.walk(tree) if not isinstance(node, ast.Constant)]
        fields = ("id", "attr", "arg", "name", "module")
        words = {getattr(node, field, None) for node in nodes for field in fields}
        assert not words & BANNED, file
