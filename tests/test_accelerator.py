"""The check of an accelerator, on a CPU: its lines and its page. That it runs on one is not tested here."""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jrnn
from benchmarks import accelerator
from jrnn.unrolling._engine import trace_loop
from jrnn.unrolling.driver import make_loop
from tests.cases import CASES

ROOT = Path(accelerator.__file__).parent.parent


def test_a_difference_is_relative_to_large_numbers_and_nan_if_one_is():
    arrays = [np.array([1.0, -8.0]), np.zeros(0), np.array([0.5])]
    assert accelerator.difference([arrays[0] + 2, *arrays[1:]], arrays) == 2 / 8
    assert accelerator.difference([*arrays[:2], arrays[2] + 0.25], arrays) == 0.25
    for place in (0, 2):
        given = [a * np.nan if i == place else a for i, a in enumerate(arrays)]
        assert np.isnan(accelerator.difference(given, arrays))
        assert np.isnan(accelerator.difference(arrays, given))


def test_what_fails_and_what_dies_are_lines_and_the_rest_goes_on(tmp_path):
    results = accelerator.Results(tmp_path / "new", 500)
    jobs = [
        ("row", "raises", functools.partial(divmod, 1, 0)),
        ("row", "dies", functools.partial(os._exit, 3)),
        ("row", "first", functools.partial(dict, ms=2.0)),
        ("row", "second", functools.partial(dict, ms=4.0)),
    ]
    accelerator.measure_all(results, "speed", jobs, 1.0, 1)
    text = (tmp_path / "new" / "results.txt").read_text()
    assert "speed: 2 of 4, 2 failed" in text and "  row: first: ms 2; second: ms 4" in text
    assert "  failed: row raises: ZeroDivisionError: " in text and "  failed: row dies: A process" in text
    found = json.loads((tmp_path / "new" / "results.json").read_text())
    assert found["planned"] == {"speed": 4} and found["records"] == results.records
    assert [r["who"] for r in results.records] == ["raises", "dies", "first", "second"]


def test_no_job_outlasts_the_time_of_its_part(tmp_path):
    results = accelerator.Results(tmp_path, 1)
    accelerator.measure_all(results, "speed", [("row", "slow", functools.partial(input, "?"))], 0.0, 1)
    assert results.records == [] and "speed: 0 of 1, 0 failed" in results.write("at the end")


def test_the_page_says_how_much_was_measured_and_what_failed():
    add = lambda part, row, who, **values: {"part": part, "row": row, "who": who, "after_s": 1.0} | values
    records = [
        add("correct", "tree", "LRU(4)", difference=1e-7),
        add("correct", "tree", "S5(4)", difference=3e-6),
        add("correct", "Scan", "GRU(4)", failed="ValueError: differs by nan"),
        add("speed", "LSTM TF32", "jrnn", train=1.5, forward=0.25),
        add("speed", "PyTorch", "", failed="ModuleNotFoundError: No module named 'torch'"),
    ]
    text = accelerator.page(records, {"correct": 9, "speed": 2, "memory": 7}, "so far")
    head, correct, speed, memory = text.split("\n\n")
    assert "cores: " in head and "devices: " in head and "jax" in head and head.endswith("state: so far")
    assert correct.splitlines() == [
        "correct: 2 of 9, 1 failed",
        "  tree: 2 cases as on a CPU, the largest difference 3.0e-06",
        "  failed: Scan GRU(4): ValueError: differs by nan",
    ]
    assert speed.splitlines() == [
        "speed: 1 of 2, 1 failed",
        "  LSTM TF32: jrnn: train 1.5, forward 0.25",
        "  failed: PyTorch : ModuleNotFoundError: No module named 'torch'",
    ]
    assert memory == "memory: 0 of 7, 0 failed\n"


@pytest.mark.parametrize(
    ("cell", "methods"),
    {
        jrnn.GRU(4): ["Newton", "RTRL", "sqrt", "Scan"],
        jrnn.GRU(4, reset_after=False): ["sqrt", "Scan"],
        jrnn.MinGRU(4): ["tree", "loop", "Scan"],
        jrnn.GLA(4, heads=2): ["Chunked", "Scan"],
    }.items(),
    ids=str,
)
def test_a_case_by_each_of_its_methods(cell, methods):
    (place,) = [place for place, case in enumerate(CASES) if case.cell == cell]
    assert list(accelerator.methods_of(CASES[place])) == methods
    for name in methods[:2]:
        assert accelerator.check(place, name)["difference"] < 1e-5


def test_a_case_that_differs_says_by_how_much(monkeypatch):
    (place,) = [place for place, case in enumerate(CASES) if case.cell == jrnn.MinGRU(4)]
    monkeypatch.setattr(accelerator, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match=r"^differs by \d\.\de"):
        accelerator.check(place, "loop")


@pytest.mark.parametrize("size", accelerator.IN_LOOP, ids=str)
@pytest.mark.parametrize("kind", [jrnn.LSTM, jrnn.GRU])
def test_x_w_before_the_loop_and_in_it_are_two_programs(kind, size):
    cell = kind(size.hidden)
    params = jax.eval_shape(lambda key: cell.init(key, size.features), jax.random.key(0))
    xs = jax.ShapeDtypeStruct((size.steps, size.batch, size.features), "float32")
    loop = jax.eval_shape(functools.partial(make_loop, cell), params, xs)
    stages = [len(trace_loop(loop, precompute_all).staged.stages) for precompute_all in (True, False)]
    assert stages == [2, 1]


@pytest.mark.parametrize("label", ["float32", "bfloat16"])
@pytest.mark.parametrize("who", ["jrnn", "flax.nnx", "PyTorch"])
def test_a_contestant_takes_two_times(who, label):
    if not accelerator.present(who):
        pytest.skip(f"{who} is not installed")
    times = accelerator.race(who, "LSTM", accelerator.Size(2, 5, 3, 4), *accelerator.PRECISIONS[label])
    assert list(times) == ["train ms", "forward ms"] and min(times.values()) > 0


@pytest.mark.parametrize("who", ["jrnn", "flax.nnx"])
def test_a_contestant_in_bfloat16_multiplies_in_nothing_wider(who):
    model = accelerator.ON_JAX[who]("LSTM", accelerator.Size(2, 5, 3, 4), dtype="bfloat16")
    text = str(jax.make_jaxpr(model.apply)(model.params, *model.inputs))
    assert set(re.findall(r":(\w+)\[[\d,]+\] = dot_general", text)) == {"bf16"}


def test_a_gradient_takes_time_and_memory():
    cell, size = jrnn.LSTM(8), accelerator.Size(2, 60, 4, 8)
    for choice in (True, False, jrnn.Scan()):
        assert accelerator.time_of(choice, cell, size)["ms"] > 0
    whole, blocks = (accelerator.bytes_of(jrnn.Scan(memory), cell, size) for memory in (None, "sqrt"))
    for name in ("temporaries MiB", "predicted MiB"):
        assert 0 < 2 * blocks[name] < whole[name]


def test_every_part_has_jobs_that_other_processes_can_read():
    for _, jobs_of, *_ in accelerator.PARTS.values():
        jobs = jobs_of()
        rows = [(row, who) for row, who, _ in jobs]
        assert len(jobs) > 6 and jobs[0][2].func.__module__ == "benchmarks.accelerator"
        assert all(isinstance(name, str) for pair in rows for name in pair)


BARE = """
import sys
absent = "equinox flax haiku hypothesis keras matplotlib onnx optax orbax pytest safetensors torch tqdm"
sys.modules.update(dict.fromkeys(absent.split()))
from benchmarks import accelerator
jobs = {part: jobs_of() for part, (_, jobs_of, *_) in accelerator.PARTS.items()}
assert {who for _, who, _ in jobs["speed"][2:]} == {"jrnn"}
for _, _, measure in jobs["speed"][:2]:
    print(accelerator.attempt(measure))
print(next(job for job in jobs["correct"] if job[1].startswith("Elman("))[2]())
"""


def test_nothing_but_jax_numpy_and_scipy_is_needed():
    run = subprocess.run([sys.executable, "-c", BARE], cwd=ROOT, text=True, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr
    flax, torch, result = run.stdout.splitlines()
    assert "ModuleNotFoundError: import of flax" in flax and "ModuleNotFoundError: import of torch" in torch
    assert result.startswith("{'difference': ")


@pytest.mark.slow
def test_a_short_run_writes_a_page(tmp_path):
    command = [sys.executable, "-m", "benchmarks.accelerator", "--limit", "120", "--out", str(tmp_path)]
    subprocess.run([*command, "--only", "correct,speed,memory"], cwd=ROOT, check=True, timeout=240)
    parts = (tmp_path / "results.txt").read_text().split("\n\n")[1:]
    assert len(parts) == 3
    for part in parts:
        _, *lines = part.splitlines()
        failed = [line for line in lines if line.startswith("  failed: ")]
        assert len(failed) < len(lines) and all("No module named" in line for line in failed), part
