"""What is drawn is what was recorded."""

import json
import math
import os

import matplotlib.figure
import matplotlib.image
import matplotlib.pyplot
import numpy as np
import pytest

from jrnn.plots import LossCurve, loss_curve
from jrnn.training import FitResult

STEPS, EPOCH = 230, 46


@pytest.fixture
def records():
    """Five epochs of steps, in nats, as `fit` logs them."""
    rng, found = np.random.default_rng(0), []
    for step in range(1, STEPS + 1):
        loss = 3 * math.exp(-step / 60) + rng.uniform(0.9, 1.1)
        found.append({"step": step, "epoch": 1 + (step - 1) // EPOCH, "loss": loss, "grad_norm": 1.0})
        if step % EPOCH == 0:
            found.append({"step": step, "epoch": step // EPOCH, "train": loss, "validation": loss + 0.25})
    return found


@pytest.fixture(autouse=True)
def no_pyplot():
    yield
    assert matplotlib.pyplot.get_fignums() == []


def write(directory, records):
    lines = (json.dumps(record) + "\n" for record in records)
    (directory / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")


@pytest.mark.parametrize(("bits", "unit", "scale"), [(False, "nats", 1.0), (True, "bits", math.log(2))])
def test_lines_are_the_records(records, bits, unit, scale):
    ax = loss_curve(records, bits=bits)
    raw, smooth, held_out = (line.get_data() for line in ax.lines)
    losses = np.array([r["loss"] for r in records if "loss" in r]) / scale
    epochs = [(r["step"], r["validation"] / scale) for r in records if "validation" in r]
    np.testing.assert_array_equal(raw, [np.arange(1, STEPS + 1), losses])
    np.testing.assert_array_equal(held_out, np.array(epochs).T)
    mean = [losses[max(0, i - 2) : i + 2].mean() for i in range(STEPS)]  # STEPS // 50 of them around i
    np.testing.assert_allclose(smooth, [np.arange(1, STEPS + 1), mean], rtol=1e-12)
    assert ax.get_xlabel() == "training step" and ax.get_ylabel() == f"mean loss per target ({unit})"
    shown = [text.get_text() for text in ax.get_legend().get_texts()]
    last = f"held out, {epochs[-1][1]:.3f} {unit} at the end"
    assert shown == ["train, every step", "train, mean of 4 steps", last]


def test_few_steps_and_no_validation():
    ax = loss_curve([{"step": 3, "epoch": 1, "loss": 2.0}])
    assert [line.get_xydata().tolist() for line in ax.lines] == [[[3.0, 2.0]], [[3.0, 2.0]]]
    assert len(ax.get_legend().get_texts()) == 2


def test_a_loss_that_is_not_finite_leaves_a_gap_and_no_more(records):
    records[100]["loss"] = math.nan
    smooth = np.asarray(loss_curve(records).lines[1].get_ydata())
    assert 1 <= np.isnan(smooth).sum() <= 4


def test_draws_into_given_axes_and_reads_runs_and_files(tmp_path, records):
    write(tmp_path, records)
    ax = matplotlib.figure.Figure().subplots()
    assert loss_curve(tmp_path, ax) is ax
    expected = [line.get_xydata().tolist() for line in loss_curve(records).lines]
    for given in (ax, loss_curve(tmp_path / "metrics.jsonl"), loss_curve(str(tmp_path))):
        assert [line.get_xydata().tolist() for line in given.lines] == expected


def test_errors_name_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.jsonl"):
        loss_curve(tmp_path)
    with pytest.raises(ValueError, match="no record has a step and its loss"):
        loss_curve([{"step": 3, "validation": 2.0}])
    result = FitResult(params=1, state=2, history=[])
    for given, hint in ((result, "pass result.history"), ([3], "or the directory of a run"), (3, "")):
        with pytest.raises(TypeError, match=rf"records must be a list of dicts, got \d among them: .*{hint}"):
            loss_curve(given)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "lo')
    with pytest.raises(ValueError, match=r"metrics.jsonl: not a metrics file"):
        loss_curve(tmp_path)


def test_monitor_draws_after_epochs_only(tmp_path, records):
    monitor, image = LossCurve(tmp_path, bits=True), tmp_path / "loss.png"
    assert monitor == LossCurve(tmp_path, bits=True) and hash(monitor) == hash(LossCurve(tmp_path, True))
    write(tmp_path, records[: EPOCH + 1])
    monitor(records[0], None)
    assert not image.exists()
    monitor(records[EPOCH], None)
    early = image.read_bytes()
    assert early.startswith(b"\x89PNG\r\n")
    write(tmp_path, records)
    monitor(records[-1], None)
    pixels = matplotlib.image.imread(image)
    assert image.read_bytes() != early
    assert pixels.shape[2] == 4 and pixels[..., :3].min() < 0.2 and pixels[..., :3].max() == 1.0


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    for given in (tmp_path, tmp_path / "metrics.jsonl"):
        with pytest.raises(
            ValueError, match=r"metrics\.jsonl: not a regular file, needs the metrics of a run"
        ):
            loss_curve(given)
