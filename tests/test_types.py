"""What type checkers see of jrnn: nothing to complain of in an experiment, and every slip in one."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXPERIMENT = ROOT / "tests" / "typed" / "experiment.py"
SLIPS = [  # what stands in the experiment, and the slip in its place
    ("jrnn.LSTM(8, forget_bias=1.0)", "jrnn.Lstm(8, forget_bias=1.0)"),
    ("jrnn.LSTM(8, forget_bias=1.0)", "jrnn.LSTM(8, forgot_bias=1.0)"),
    ("jrnn.LSTM(8, forget_bias=1.0)", "jrnn.LSTM(3, 8)"),
    ("params: LSTMParams = cell", "params: GRUParams = cell"),
    ("h: Array = carry.h", "h: Array = carry.hidden"),
    ("unroll(cell, params, xs, start, reverse", "unroll(cell, params, xs, h, reverse"),
    ("unroll(cell, params, xs, lengths=", "unroll(cell, params, xs, length="),
    ("inner: GRUParams = residual", "inner: LSTMParams = residual"),
    ("jrnn.unroll(residual, inner, xs)", "jrnn.unroll(residual, params, xs)"),
    ("memory: Array = end.cell.c", "memory: Array = end.c"),
    ("        return carry, carry\n", "        return carry\n"),
    ("trained: LSTMParams = result.params", "trained: LSTMParams = result.param"),
    ("optimizer=optax.adam(1e-3)", "optimiser=optax.adam(1e-3)"),
    ("own: jrnn.Cell[DecayParams, Array] = Decay()", "own: jrnn.Cell[GRUParams, Array] = Decay()"),
    ("memory=\"sqrt\"", "memory=\"sqrt\", unroll=4"),
]  # fmt: skip


def mypy(folder, files):
    options = ["--strict", "--follow-imports=silent", "--disable-error-code=import-untyped", "--config-file="]
    return complaints([sys.executable, "-m", "mypy", *options, *files], folder)


def basedpyright(folder, files):
    options = {"typeCheckingMode": "standard", "extraPaths": [str(ROOT)]}
    (folder / "pyrightconfig.json").write_text(json.dumps(options))
    return complaints([sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, *files], folder)


def complaints(command, folder):
    """Of each file, the lines that a checker complains of."""
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    found = {}
    for name, line in re.findall(r"(\w+\.py):(\d+)(?::\d+)?(?: -|:) error", done.stdout):
        found.setdefault(name, set()).add(int(line))
    assert found, done.stdout + done.stderr
    return found


CHECKERS = {"mypy": mypy, "basedpyright": basedpyright}


@pytest.mark.parametrize("name", CHECKERS)
def test_an_experiment_is_typed_and_every_slip_in_it_is_found(name, tmp_path):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    text, lines = EXPERIMENT.read_text(), {}
    (tmp_path / "right.py").write_text(text)
    for number, (right, slip) in enumerate(SLIPS):
        assert text.count(right) == 1, right
        (tmp_path / f"slip{number}.py").write_text(text.replace(right, slip))
        lines[f"slip{number}.py"] = text[: text.index(right)].count("\n") + 1
    found = CHECKERS[name](tmp_path, ["right.py", *lines])
    assert "right.py" not in found, found
    missed = [SLIPS[int(file[4:-3])][1] for file, line in lines.items() if not found.get(file)]
    assert not missed
