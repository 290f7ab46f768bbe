"""Forecasts of ETTh1 and of airline passengers by a GRU, beside persistence and the season before.

python benchmarks/tasks/forecasting.py FOLDER [--seed 0] [--runs 1]

FOLDER holds both files:

    curl -LO https://github.com/zhouhaoyi/ETDataset/raw/HEAD/ETT-small/ETTh1.csv
    curl -LO https://github.com/jbrownlee/Datasets/raw/HEAD/airline-passengers.csv

ETTh1, the oil temperature OT alone: months of 30 days, 12 to train on, 4 to validate on, 4 to test on,
standardized by the first 12. From a week of hours the next 24, 48 or 168 at once; every sixth window is
trained on, MSE and MAE are over every window of the test months, in standard deviations. Passengers, 144
months: the first 67 % to train on (the last 12 of them choose the epoch), the rest to test on, one month
ahead; RMSE in thousands.

Each GRU is there twice: on the values as they are, and on changes: ETTh1 less the last value of the window,
passengers as log yₜ − log yₜ₋₁. The season before is 24 hours and 12 months; for passengers also as growth,
what the last value becomes if it changes as it did a year ago. The epoch is the one with the lowest loss on
what is held out to validate on; the test months are read once, at the end.
"""

import argparse
import time
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import optax

import jrnn

WEEK, DAY, MONTH = 168, 24, 30 * 24
HORIZONS = 24, 48, 168
LOSS = jrnn.PerSequence(jrnn.losses.mean_squared_error)


def train(model, data, validation, seed, **settings):
    """Fit a many-to-one model to (pasts, futures); give the forecaster and what it cost."""
    epochs, rate, batch, patience = (
        settings["epochs"],
        settings["rate"],
        settings["batch"],
        settings["patience"],
    )
    batches = jrnn.padded_batches(*data, batch, key_seed=seed)
    schedule = optax.cosine_decay_schedule(rate, epochs * len(batches))
    begun = time.perf_counter(), time.process_time()
    result = jrnn.fit(
        model,
        batches.epoch,
        LOSS,
        optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule)),
        key=jax.random.key(seed),
        in_features=1,
        epochs=epochs,
        validation=jrnn.padded_batches(*validation, batch),
        patience=patience,
        progress=jrnn.Progress(bar=False),
    )
    wall, cpu = time.perf_counter() - begun[0], time.process_time() - begun[1]
    number = sum(leaf.size for leaf in jax.tree.leaves(result.params))
    apply = jax.jit(lambda xs: model.apply(result.params, xs)[1])
    cost = f"{number:,} parameters, {len(result.history)} epochs, {wall:.0f} s ({cpu:.0f} s of CPU)"
    return lambda pasts: np.asarray(apply(np.moveaxis(pasts, 0, 1))), cost


def read(path, column):
    return np.loadtxt(path, delimiter=",", skiprows=1, usecols=column)


def parts(series, steps, past):
    """Parts one after the other, each but the first with the last `past` steps of the part before."""
    return [series[max(0, begin - past) : end] for begin, end in pairwise(np.cumsum([0, *steps]))]


def pairs(series, past, future, stride=1):
    """Windows in float32 and what follows each: (n, past, 1) and (n, future)."""
    both = np.lib.stride_tricks.sliding_window_view(series.astype(np.float32), past + future)[::stride]
    return both[:, :past, None], both[:, past:]


def season_before(pasts, steps, period):
    """The last season again and again, (n, steps); a season of one step is persistence."""
    return np.take(pasts[:, -period:, 0], np.arange(steps) % period, axis=1)


def less_last(pasts, futures):
    """Both less the last value known."""
    return pasts - pasts[:, -1:], futures - pasts[:, -1]


def transformers(path, seed):
    """ETTh1: yield (name of the row, cost, MSE, MAE)."""
    months = parts(read(path, -1), (12 * MONTH, 4 * MONTH, 4 * MONTH), WEEK)
    scaled = [(part - months[0].mean()) / months[0].std() for part in months]
    settings = {"epochs": 10, "rate": 3e-3, "batch": 64, "patience": 4}
    for horizon in HORIZONS:
        data, validation, (pasts, futures) = (
            pairs(part, WEEK, horizon, stride) for part, stride in zip(scaled, (6, 6, 1), strict=True)
        )
        last, cell = pasts[:, -1], jrnn.Dropout(jrnn.GRU(64), output=0.2)
        model = jrnn.ManyToOne(jrnn.Stack((cell, jrnn.Dense(horizon))))
        forecast, cost = train(model, data, validation, seed, **settings)
        relative, relative_cost = train(model, less_last(*data), less_last(*validation), seed, **settings)
        rows = {
            "persistence": (season_before(pasts, horizon, 1), ""),
            "a day ago": (season_before(pasts, horizon, DAY), ""),
            "GRU": (forecast(pasts), cost),
            "GRU on changes": (relative(pasts - pasts[:, -1:]) + last, relative_cost),
        }
        for name, (guess, spent) in rows.items():
            error = (guess - futures).astype(np.float64)
            yield f"ETTh1, {horizon} hours, {name}", spent, (np.mean(error**2), np.mean(np.abs(error)))


def passengers(path, seed):
    """Airline: yield (name of the row, cost, RMSE)."""
    series = read(path, 1)
    tested, year = len(series) - int(0.67 * len(series)), 12
    steps = len(series) - tested - year, year, tested
    settings = {"epochs": 400, "rate": 5e-3, "batch": 32, "patience": 100}
    model = jrnn.ManyToOne(jrnn.Stack((jrnn.GRU(32), jrnn.Dense(1))))
    values = parts(series, steps, year)
    growths = parts(np.diff(np.log(series)), (steps[0] - 1, *steps[1:]), year)
    (past, truth), (grown, _) = (pairs(part[2], year, 1) for part in (values, growths))
    last, truth = past[:, -1, 0], truth[:, 0]
    found = {}
    for name, given in (("GRU", values), ("GRU on changes", growths)):
        mean, deviation = given[0].mean(), given[0].std()
        data, validation, (pasts, _) = (pairs((part - mean) / deviation, year, 1) for part in given)
        forecast, cost = train(model, data, validation, seed, **settings)
        found[name] = forecast(pasts)[:, 0] * deviation + mean, cost
    rows = {
        "persistence": (last, ""),
        "a year ago": (past[:, 0, 0], ""),
        "growth of a year ago": (last * np.exp(grown[:, 0, 0]), ""),
        "GRU": found["GRU"],
        "GRU on changes": (last * np.exp(found["GRU on changes"][0]), found["GRU on changes"][1]),
    }
    for name, (guess, spent) in rows.items():
        yield f"airline, 1 month, {name}", spent, (np.mean((guess - truth) ** 2) ** 0.5,)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--seed", type=int, default=0, help="of the first run (default: 0)")
    parser.add_argument("--runs", type=int, default=1, help="how many seeds (default: 1)")
    arguments = parser.parse_args()
    jrnn.use_cores()
    found = {}
    for seed in range(arguments.seed, arguments.seed + arguments.runs):
        for file, rows in (("airline-passengers.csv", passengers), ("ETTh1.csv", transformers)):
            for name, cost, errors in rows(Path(arguments.folder) / file, seed):
                found.setdefault(name, []).append(errors)
                labels = ("RMSE",) if len(errors) == 1 else ("MSE", "MAE")
                measured = ", ".join(f"{k} {e:.4g}" for k, e in zip(labels, errors, strict=True))
                print(f"{name}: {measured}" + (f", seed {seed}, {cost}" if cost else ""), flush=True)
    for name, errors in found.items():
        if "GRU" in name:
            mean, low, high = (
                " ".join(f"{e:.4g}" for e in f(errors, axis=0)) for f in (np.mean, np.min, np.max)
            )
            print(f"{name}: mean {mean}, from {low} to {high}, {len(errors)} seeds")


if __name__ == "__main__":
    main()
