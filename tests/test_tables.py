"""The tables of the lectures: what is run, what is run again, and how it is counted."""

import argparse
import itertools
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.stats import t as student

import jrnn
from benchmarks.tables import greff, jozefowicz, memory, words
from benchmarks.tables.running import (
    SEARCH_HEADER,
    Budget,
    Runs,
    finals,
    search,
    setting_of,
    settled,
    share,
    spread,
    trials,
    welch,
    width_of,
)
from jrnn._cli.tables import count_parameters
from tests.test_cli import write_corpus


def test_what_is_in_the_file_is_read_again(tmp_path):
    runs = Runs(tmp_path / "new" / "runs.csv", ("name", "score"))
    runs.add(name="LSTM", score=1 / 3)
    runs.add(name="GRU", score=float("nan"))
    again = Runs(runs.path, ("name", "score"))
    assert again.rows == runs.rows == [{"name": "LSTM", "score": "0.333333"}, {"name": "GRU", "score": "nan"}]
    assert again.find(name="GRU") == [again.rows[1]] and again.find(name="GRU", score=1) == []
    with pytest.raises(ValueError, match=r"has the columns name, score, needs name$"):
        Runs(runs.path, ("name",))


def test_a_budget_ends_by_the_clock_or_by_the_processor():
    assert Budget(minutes=0).spent() and Budget(cpu_minutes=0).spent() and not Budget(1, 1).spent()


def test_shares_are_disjoint_and_whole():
    names = "a", "b", "c", "d", "e"
    assert [names[share(f"{n}/3")] for n in (1, 2, 3)] == [("a", "d"), ("b", "e"), ("c",)]
    for text in ("0/2", "3/2", "half", "1/2/3"):
        with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is no share, such as 1/2"):
            share(text)


def test_welch_is_the_test_of_unequal_variances():
    one, other = np.array([1.0, 2.0, 4.0]), np.array([3.0, 3.5, 4.0, 9.0, 7.0])
    a, b = one.var(ddof=1) / 3, other.var(ddof=1) / 5
    freedom = (a + b) ** 2 / (a**2 / 2 + b**2 / 4)
    p = 2 * student.sf(abs(one.mean() - other.mean()) / np.sqrt(a + b), freedom)
    assert welch(one, other) == pytest.approx(p) and np.isnan(welch(one, other[:1]))
    assert spread([1.0, 2.0, 4.0], 1) == "2.3 (1.0–4.0, n=3)" and spread([]) == "–"


def test_the_width_is_the_greatest_with_no_more_parameters():
    width = width_of(lambda n: jrnn.GRU(n), 5, 2000, multiple=2)
    assert width % 2 == 0
    assert count_parameters(jrnn.GRU(width), 5) <= 2000 < count_parameters(jrnn.GRU(width + 2), 5)


class Stopping:
    """A budget for a number of calls."""

    def __init__(self, calls):
        self.calls = calls

    def spent(self):
        self.calls -= 1
        return self.calls < 0


def test_a_search_goes_on_where_it_was_stopped(tmp_path):
    called = []

    def trainer(task, name, numbers, seeds, tests):
        called.append((task, name, tuple(numbers), tuple(seeds), tests))
        for number in numbers:
            for seed in seeds:
                valid = {"A": 1.0, "B": 2.0}[name] + (number != 3) + 0.01 * seed
                tested = 10 * valid if tests else ""
                drawn = setting_of(number, (1e-3, 1), (1, 2))
                found = {"parameters": 7, "valid": valid, "test": tested, "cpu_seconds": 0}
                yield {"setting": number, "seed": seed, **drawn, **found}

    plan = [(turn, "task", ("A", "B")) for turn in range(2)]
    whole = Runs(tmp_path / "whole.csv", SEARCH_HEADER)
    search(whole, Stopping(99), trainer, plan, 2)
    expected, called = called, []
    assert expected == [
        *(("task", name, (0, 1), (0,), False) for name in "AB"),
        *(("task", name, (0,), (1, 2), True) for name in "AB"),
        *(("task", name, (2, 3), (0,), False) for name in "AB"),
        *(("task", name, (3,), (1, 2), True) for name in "AB"),
    ]
    for _ in range(8):  # one at a time, each from the file alone
        search(Runs(tmp_path / "parts.csv", SEARCH_HEADER), Stopping(1), trainer, plan, 2)
    assert called == expected
    assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert finals(whole, "task", "B") == pytest.approx([20.1, 20.2])


def test_answers_are_what_follows_the_sign_of_equality():
    text = "3e+1h2=15.-4-2=-6.7"
    marked = "".join("x" if flag else "." for flag in jozefowicz.answers(text))
    assert marked == "......." + "xxx" + "....." + "xxx" + "."
    (batch,) = jozefowicz.batches(np.arange(1001) % 7, np.ones(1001, np.int32), most=1)
    assert batch.target_mask.all() and batch.xs.shape == (50, 20)


def test_guesses_know_the_last_symbols(monkeypatch):
    xs = np.array([[0, 1, 2, 0, 1, 2]]).T
    batch = jrnn.Batch(xs, np.array([[1, 2, 0, 1, 2, 1]]).T, target_mask=np.arange(6)[:, None] > 0)
    monkeypatch.setattr(jozefowicz, "parts", lambda task, ptb: (3, ([batch], [], [batch])))
    # five targets 2 0 1 2 1; after 2 comes 0 or 1, after 0 a 1, after 1 a 2
    assert jozefowicz.guesses("task") == pytest.approx([2 / 5, 4 / 5, 4 / 5])


def test_the_architectures_have_equal_parameters_and_their_published_figures():
    for name in jozefowicz.NAMES:
        count = count_parameters(jozefowicz.model_of(name, 41, "tags"), 41)
        assert 0.97 * 60_000 < count <= 60_000, name
    assert all(len(figures) == len(jozefowicz.NAMES) for figures in jozefowicz.PUBLISHED.values())
    assert len(greff.VARIANTS) == 9


def test_a_factor_gives_more_updates_and_the_same_tests(monkeypatch):
    monkeypatch.setattr(jozefowicz, "UPDATES", 4)
    monkeypatch.setattr(jozefowicz, "HELD_OUT", 2)
    jozefowicz.parts.cache_clear()
    once, thrice = jozefowicz.parts("tags")[1], jozefowicz.parts("tags*3")[1]
    jozefowicz.parts.cache_clear()
    assert [len(part) for part in once] == [4, 2, 2] and [len(part) for part in thrice] == [12, 2, 2]
    jax.tree.map(np.testing.assert_array_equal, once[1:], thrice[1:])
    assert jozefowicz.divided("tags*3") == ("tags", 3) and jozefowicz.divided("tags") == ("tags", 1)
    assert jozefowicz.unit_of("tags*3")[0] == "accuracy"


@pytest.mark.parametrize("kind", ["tags", "sums3", "sums8"])
def test_generated_texts_are_long_enough(kind):
    needed = 30 * jozefowicz.ROWS * jozefowicz.STEPS
    assert needed < len(jozefowicz.texts_of(kind, 30, None)[0]) < 2 * needed


def test_the_treebank_is_read_whole(tmp_path, monkeypatch, capsys):
    lines = " the <unk> of N sat \n" * 400
    for part, text in {"train": lines, "valid": lines, "test": 60 * lines}.items():
        (tmp_path / f"ptb.{part}.txt").write_text(text)
    vocabulary, (train, _, test) = jozefowicz.parts("ptb*2", tmp_path)
    assert vocabulary == 6 and len(train) == 2  # <eos> is the sixth; 2,400 words
    assert len(test) == 60 * 2400 // 1000 - 1  # all of it, where other tasks have 40
    (tmp_path / "ptb.test.txt").unlink()
    call = ["table", str(tmp_path / "table.csv"), "--tasks", "ptb", "--ptb", str(tmp_path)]
    monkeypatch.setattr("sys.argv", call)
    with pytest.raises(SystemExit):
        jozefowicz.main()
    assert "needs --ptb with ptb.train.txt, ptb.valid.txt, ptb.test.txt" in capsys.readouterr().err


def test_only_rounds_that_all_have_are_compared(tmp_path):
    runs = Runs(tmp_path / "runs.csv", SEARCH_HEADER)
    drawn = setting_of(0, (1e-3, 1), (1, 2)) | {"parameters": 7, "cpu_seconds": 0}

    def add(name, part, setting, valid, seed=0):
        score = {"valid": valid, "test": 10 * valid if part == "best" else ""}
        runs.add(task="task", name=name, part=part, setting=setting, seed=seed, **score, **drawn)

    for name in "AB":
        add(name, "search", 0, 2.0)
        add(name, "search", 1, np.nan)
    add("A", "best", 0, 2.0, seed=1)
    assert settled(runs, "task", "AB", 2) == np.inf  # B has no tests: no round is complete
    add("B", "best", 0, 2.0, seed=1)
    assert settled(runs, "task", "AB", 2) == 2
    add("A", "search", 2, 1.0)
    add("A", "search", 3, 3.0)
    add("A", "best", 2, 1.0, seed=1)
    assert settled(runs, "task", "AB", 2) == 2  # B has no second round
    assert trials(runs, "task", "A", 2) == {0: 2.0} and trials(runs, "task", "A") == {0: 2.0, 2: 1.0, 3: 3.0}
    assert finals(runs, "task", "A", 2) == pytest.approx([20]) and finals(runs, "task", "A") == pytest.approx(
        [10]
    )


def test_what_orders_the_settings_is_found(tmp_path):
    runs = Runs(tmp_path / "greff.csv", SEARCH_HEADER)
    for number, name in itertools.product(range(16), greff.VARIANTS):
        setting = setting_of(number, greff.RATES, greff.CLIPS)
        valid = np.log(setting["rate"] / 0.01) ** 2 + len(name)  # best in the middle
        runs.add(task="Bach", name=name, part="search", setting=number, seed=0, **setting,
                 parameters=1, valid=valid, test="", cpu_seconds=1)  # fmt: skip
    found = greff.explained(runs, "Bach")
    assert found["rate"] > 0.8 > 0.5 > max(found["scale"], found["clip"])
    assert greff.explained(Runs(tmp_path / "none.csv", SEARCH_HEADER), "Bach") == {}


@pytest.mark.parametrize(
    ("module", "option"), [(jozefowicz, "--tasks"), (memory, "--cells"), (words, "--recipes")]
)
def test_unknown_names_are_refused(module, option, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["table", str(tmp_path / "table.csv"), option, "Nothing"])
    with pytest.raises(SystemExit):
        module.main()
    assert f"{option} has 'Nothing', needs" in capsys.readouterr().err


@pytest.mark.parametrize("task", memory.TASKS)
def test_every_task_asks_what_its_inputs_answer(task):
    batch = memory.TASKS[task](6, 32, 5)
    assert batch.xs.shape == (32, 6, 12) and batch.targets.shape == (32, 6, 11)
    assert (batch.targets.any(-1) <= batch.target_mask).all() and batch.target_mask.any(0).all()
    tokens = np.where(batch.xs[..., :10].any(-1), batch.xs[..., :10].argmax(-1), -1)
    for row in range(6):
        (asked,) = np.nonzero(batch.target_mask[:, row])
        answers, seen = batch.targets[asked, row, :10].argmax(-1), tokens[:, row]
        if task == "adding":
            total = (batch.xs[:, row, 10] * batch.xs[:, row, 11]).sum()
            assert asked.tolist() == [31] and batch.targets[31, row, 10] == pytest.approx(total)
        elif task == "copying":
            assert asked.tolist() == list(range(22, 32)) and (answers == seen[:10]).all()
        elif task == "order":
            shown = [{4: 0, 5: 1}[s] for s in seen if s in (4, 5)]
            assert seen[asked[0]] == 7 and answers.tolist() == [2 * shown[0] + shown[1]]
        elif task == "counting":
            n = int((seen == 1).sum())
            assert 8 < n <= 16 and asked.tolist() == list(range(n, 2 * n)) and answers[-1] == 0
            assert (answers[:-1] == 2).all()
        elif task == "parity":
            assert len(asked) == 32 and (answers == np.cumsum(seen) % 2).all()
        else:
            assert len(asked) == 32 and (memory.TASKS[task](1, 32, 0).target_mask.sum(0) == 16).all()


def test_seeds_have_a_mean_and_half_their_range(tmp_path):
    runs = Runs(tmp_path / "memory.csv", memory.HEADER)
    for seed, score in enumerate((1.0, 0.85, 0.7)):
        runs.add(cell="GRU", task="order", length=32, trained=32, seed=seed, hidden=8, parameters=9,
                 score=score, loss=0.0, cpu_seconds=1)  # fmt: skip
    values = memory.scores(runs)["GRU", "order", 32]
    assert memory.percent(values) == "80 ±20"  # a guess is right in a quarter
    assert memory.percent(values[:1]) == "**100**" and memory.percent(None) == "–"
    assert memory.percent(np.array([0.999, 1.0])) == "**100**"


def test_the_longer_length_is_tried_where_the_shorter_comes_close(tmp_path):
    runs = Runs(tmp_path / "memory.csv", memory.HEADER)
    given = argparse.Namespace(lengths=(32, 128), seeds=(0,), cells=("GRU", "LSTM"), share=slice(None))
    for name, task, score in (("GRU", "order", 0.9), ("GRU", "copying", 0.5), ("LSTM", "parity", 1.0)):
        runs.add(cell=name, task=task, length=32, trained=32, seed=0, hidden=8, parameters=9,
                 score=score, loss=0.0, cpu_seconds=1)  # fmt: skip
    plan = list(memory.plan(given, runs))
    assert plan[:12] == [(0, 32, name, task) for name in given.cells for task in memory.TASKS]
    assert plan[12:] == [(0, 128, "GRU", "order")]


def test_scores_count_right_answers():
    targets = np.zeros((2, 3, 11), np.float32)
    targets[0, :, 4] = targets[1, :2, 5] = 1  # symbols, and one number, 0.5
    targets[1, 2, 10] = 0.5
    ys = np.zeros((2, 3, 11))
    ys[0, :, 4] = ys[1, 0, 5] = ys[1, 1, 4] = 1
    ys[1, 2, 10] = 0.53
    batch = jrnn.Batch(None, targets, target_mask=np.ones((2, 3), bool))
    assert memory.score_of("order", ys, batch) == pytest.approx(5 / 6)
    assert memory.score_of("counting", ys, batch) == pytest.approx(2 / 3)
    ys[1, 2, 10] = 0.55
    assert memory.score_of("order", ys, batch) == pytest.approx(4 / 6)
    logits = np.log(np.full((2, 3, 11), 0.1))
    logits[1, 2, 10] = 1.5
    expected = (5 * np.log(10) + 1.0) / 6
    assert float(memory.nats(logits, targets, batch.target_mask)) == pytest.approx(expected, rel=1e-5)


def test_a_table_runs_only_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "UPDATES", 2)
    monkeypatch.setattr(memory, "TESTED", 8)
    for cached in (memory.training, memory.testing):
        cached.cache_clear()
    path = tmp_path / "memory.csv"
    calls = ["memory", str(path), "--cells", "Elman", "IndRNN"]
    monkeypatch.setattr(memory, "plan", lambda given, runs: [(0, 32, name, "parity") for name in given.cells])
    monkeypatch.setattr("sys.argv", [*calls, "--cpu-minutes", "0"])
    memory.main()
    assert len(path.read_text().splitlines()) == 1
    monkeypatch.setattr("sys.argv", calls[:-1])
    memory.main()
    first = path.read_text().splitlines()
    assert [line.split(",")[:4] for line in first[1:]] == [
        ["Elman", "parity", n, "32"] for n in ("32", "128", "512")
    ]
    monkeypatch.setattr("sys.argv", calls)
    memory.main()
    second = path.read_text().splitlines()
    assert second[:4] == first and len(second) == 7 and second[4].startswith("IndRNN,parity,32,32,0,")
    for cached in (memory.training, memory.testing):
        cached.cache_clear()


def test_models_of_words_are_chosen_by_validation_and_tested_once(tmp_path, monkeypatch, capsys):
    """With the commands of a user; a stopped run goes on, and one whose rows are there is not run again."""
    text = write_corpus(tmp_path / "text.txt", size=9000)
    monkeypatch.setattr(jrnn.data, "python_reference", lambda: Path(text).read_text())
    monkeypatch.setattr(words, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(words, "SHAPE", "--hidden 6 --embed 6 --layers 1 --batch 2 --steps 8")
    small = "--update sgd --lr 2 --epochs 3 --halve 1 --uniform 0.1"
    monkeypatch.setattr(words, "RECIPES", {"small": small, "awd": f"{small} --readout tied"})
    path = tmp_path / "words.csv"
    call = ["words", str(path), "--seeds", "0", "1", "--recipes", "small"]
    monkeypatch.setattr("sys.argv", [*call, "--cpu-minutes", "0"])
    words.main()
    assert words.Runs(path, words.HEADER).rows == []
    files = words.files_of("reference", None)
    first = words.arguments("reference", "small", 1, files, tmp_path / "runs" / "reference-small-1")
    assert words.jrnn_command(first) == 0  # but killed before its rows were written
    out = Path(first[-1])
    assert words.arguments("reference", "small", 1, files, out) == ["train", "--resume", str(out)]
    monkeypatch.setattr("sys.argv", call)
    for _ in range(2):
        words.main()
        rows = words.Runs(path, words.HEADER).rows
        assert [(row["seed"], row["epoch"]) for row in rows] == [(s, e) for s in "01" for e in "123"]
    for seed in "01":
        own = [row for row in rows if row["seed"] == seed]
        best = min(own, key=lambda row: float(row["valid"]))
        assert [bool(row["test"]) for row in own] == [row is best for row in own]
        run = str(tmp_path / "runs" / f"reference-small-{seed}")
        capsys.readouterr()
        assert words.jrnn_command(["evaluate", run, "--text", str(files[2])]) == 0
        assert f"{np.exp(float(best['test'])):.2f}"[:-1] in capsys.readouterr().out
    assert path.with_suffix(".png").exists()


@pytest.mark.slow
def test_the_other_tables_run(tmp_path, monkeypatch):
    tasks = "--tasks", "tags*2", "sums3"
    for module, size, more in (
        (jozefowicz, {"UPDATES": 10, "HELD_OUT": 2}, tasks),
        (greff, {"EPOCHS": 1}, ()),
    ):
        for name, value in size.items():
            monkeypatch.setattr(module, name, value)
        path = tmp_path / f"{module.__name__}.csv"
        monkeypatch.setattr("sys.argv", ["table", str(path), "--rounds", "1", "--cpu-minutes", "0.2", *more])
        module.main()
        rows = Runs(path, SEARCH_HEADER).rows
        assert rows and all(float(row["valid"]) > 0 for row in rows)
        assert list(tmp_path.glob(f"{module.__name__}*.png")) or module is jozefowicz
