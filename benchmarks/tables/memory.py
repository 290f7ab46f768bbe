"""Six memory tasks by all cells, at default settings and equal parameters: what is solved at which length.

python -m benchmarks.tables.memory benchmarks/tables/memory.csv [--minutes 60] [--lengths 32] [--share 1/2]

All data are generated. Every cell, in a block if it has heads or is linear, and a read-out, with the greatest
width, a multiple of 4, that has at most 10,000 parameters. Adding, copying and order are trained and tested
at each length, the longer one by cells that come close at the shorter; counting (aⁿbⁿ), brackets (Dyck, two
kinds) and parity are trained at the shortest and tested at all. A thousand updates of 32 sequences, Adam, for
all the same. A line is appended for each cell, task and length tested; what is in the file already is not run
again. All cells come first at the shortest length, seed by seed. Two processes, `--share 1/2` and
`--share 2/2`, run cells side by side.
"""

import functools
import itertools
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jrnn
from benchmarks.tables.running import Budget, Runs, in_block, markdown, options, width_of
from jrnn._cli.tables import count_parameters, recurrent_cells
from jrnn._cli.training import METHOD
from jrnn.data.synthetic import (
    adding_problem,
    brackets,
    copy_memory,
    equal_counts,
    state_tracking,
    temporal_order,
)
from jrnn.plots import heat_map

PARAMETERS, BATCH, UPDATES, RATE, TESTED = 10_000, 32, 1000, 1e-2, 512
LENGTHS, LONGER = (32, 128), (32, 128, 512)  # of tasks trained at each, and at the first only
SOLVED, CLOSE = 0.95, 0.8  # scores, from a guess, 0, to all right, 1
SYMBOLS, INPUTS = 10, 12  # one-hot and two numbers: one code for all tasks, so that a cell compiles once
HEADER = "cell", "task", "length", "trained", "seed", "hidden", "parameters", "score", "loss", "cpu_seconds"
KNOWN = (
    "Elman",
    "LSTM",
    "GRU",
    "MinGRU",
    "LRU",
    "IndRNN",
    "MLSTM",
    "SLSTM",
    "Mamba2",
    "DeltaNet",
    "CoRNN",
    "LMU",
)


def coded(steps, sequences, targets, asked):
    """A batch, time first: symbols or pairs of numbers in one code, targets, and the steps that count."""
    xs = np.zeros((steps, len(sequences), INPUTS), np.float32)
    goals = np.zeros((steps, len(sequences), SYMBOLS + 1), np.float32)
    mask = np.zeros((steps, len(sequences)), bool)
    for row, (x, target, steps_asked) in enumerate(zip(sequences, targets, asked, strict=True)):
        times = np.arange(len(x))
        if x.ndim == 2:
            xs[times, row, SYMBOLS:] = x
        else:
            xs[times, row, x] = 1
        mask[steps_asked, row] = True
        if target.dtype == np.float32:
            goals[steps_asked, row, SYMBOLS] = target
        else:
            goals[steps_asked, row, target] = 1
    return jrnn.Batch(xs, goals, target_mask=mask)


def adding(count, steps, seed):
    xs, targets = adding_problem(count, steps, seed)
    return coded(steps, xs, targets, [[steps - 1]] * count)


def copying(count, steps, seed):
    xs, targets = copy_memory(count, steps - 20, seed)
    return coded(steps, xs, [target[-10:] for target in targets], [np.arange(steps - 10, steps)] * count)


def order(count, steps, seed):
    xs, classes = temporal_order(count, 10 * steps // 11, seed)
    return coded(steps, xs, classes[:, None], [[len(x) - 1] for x in xs])


def counting(count, steps, seed):
    """From the first b on; n is above a quarter of the steps, and at most a half."""
    xs, targets = equal_counts(4 * count, steps // 2, seed)
    pairs = [(x, t) for x, t in zip(xs, targets, strict=True) if len(x) > steps // 2][:count]
    asked = [np.arange(len(x) // 2, len(x)) for x, _ in pairs]
    return coded(steps, [x for x, _ in pairs], [t[len(t) // 2 :] for _, t in pairs], asked)


def at_every_step(steps, xs, targets, seed):
    """Every step counts; when tested, those of the later half do."""
    asked = np.arange(steps // 2 if seed == 0 else 0, steps)
    return coded(steps, xs, [target[asked] for target in targets], [asked] * len(xs))


def nesting(count, steps, seed):
    return at_every_step(steps, *brackets(count, steps, seed), seed)


def parity(count, steps, seed):
    return at_every_step(steps, *state_tracking(count, steps, "Z2", seed), seed)


MEMORY = {"adding": adding, "copying": copying, "order": order}
FORMAL = {"counting": counting, "brackets": nesting, "parity": parity}
TASKS = MEMORY | FORMAL
GUESS = {"adding": 0.078, "copying": 0.125, "order": 0.25, "counting": 0.0, "brackets": 0.45, "parity": 0.5}


def nats(ys, targets, mask):
    """Cross-entropy of symbols, squared error of numbers."""
    symbols = targets[..., :SYMBOLS]
    entropy = -(symbols * jax.nn.log_softmax(ys[..., :SYMBOLS])).sum(-1)
    error = (1 - symbols.sum(-1)) * jnp.square(ys[..., SYMBOLS] - targets[..., SYMBOLS])
    return jnp.where(mask, entropy + error, 0).sum() / jnp.maximum(mask.sum(), 1)


def right(ys, batch):
    """Where an answer is right: the symbol, or the number to 0.04."""
    symbols = batch.targets[..., :SYMBOLS]
    close = np.abs(ys[..., SYMBOLS] - batch.targets[..., SYMBOLS]) < 0.04
    return np.where(symbols.any(-1), ys[..., :SYMBOLS].argmax(-1) == symbols.argmax(-1), close)


def score_of(task, ys, batch):
    """The share of right answers; of counting, of strings without a wrong one."""
    good = right(ys, batch)
    if task == "counting":
        return float((good | ~batch.target_mask).all(axis=0).mean())
    return float(good[batch.target_mask].mean())


OPTIMIZER = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(RATE, UPDATES))
)
LOSS = jrnn.PerStep(nats)


@functools.lru_cache(maxsize=6)
def training(task, length, seed):
    return [TASKS[task](BATCH, length, 10_000 * (seed + 1) + i) for i in range(UPDATES)]


@functools.lru_cache(maxsize=15)
def testing(task, length):
    return TASKS[task](TESTED, length, 0)


@functools.partial(jax.jit, static_argnums=0)
def outputs(model, params, xs):
    return jrnn.unroll(model, params, xs, method=METHOD)[1]


def model_of(name, width):
    """The model of a cell; what adds its input to its output reads a projection, as wide as that."""
    cell = in_block(recurrent_cells()[name](width))
    adds = isinstance(cell, jrnn.Block | jrnn.IntersectionRNN)
    below = (jrnn.Dense(cell.out_features),) if adds else ()
    return jrnn.Stack((*below, cell, jrnn.Dense(SYMBOLS + 1)))


def train(model, task, length, seed):
    """Parameters, and the mean loss of the last updates."""
    losses = []
    result = jrnn.fit(
        model,
        training(task, length, seed),
        LOSS,
        optimizer=OPTIMIZER,
        key=jax.random.key(seed),
        in_features=INPUTS,
        method=METHOD,
        monitors=(lambda record, state: losses.append(record["loss"]) if "loss" in record else None,),
        progress=jrnn.Progress(bar=False),
    )
    return result.params, float(np.mean(losses[-50:]))


@functools.cache
def sized(name):
    """The width of a cell, and its model; None if it does not take sequences of vectors."""
    try:
        width = width_of(functools.partial(model_of, name), INPUTS, PARAMETERS)
        model = model_of(name, width)
        params = jax.eval_shape(lambda: model.init(jax.random.key(0), INPUTS))
        jax.eval_shape(functools.partial(jrnn.unroll, model), params, jnp.ones((2, 1, INPUTS)))
    except (ValueError, TypeError) as error:
        print(f"left out: {name}, {str(error).splitlines()[0]}", flush=True)
        return None
    return width, model


def close(found, name, task):
    """True if the longer length is worth a trial: the score at the shortest."""
    score = found.get((name, task, LENGTHS[0]))
    return score is not None and score.mean() >= CLOSE


def plan(given, runs):
    """What to run, in order: every cell at the shortest length, then with other seeds, then at the next."""
    for length, seed in itertools.product(given.lengths, given.seeds):
        found = scores(runs)
        for name in given.cells[given.share]:
            for task in TASKS if length == LENGTHS[0] else MEMORY:
                if length == LENGTHS[0] or close(found, name, task):
                    yield seed, length, name, task


def run(runs, budget, given):
    for seed, length, name, task in plan(given, runs):
        if runs.find(cell=name, task=task, trained=length, seed=seed) or sized(name) is None:
            continue
        if budget.spent():
            return
        width, model = sized(name)
        begun = time.process_time()
        params, loss = train(model, task, length, seed)
        lengths = LONGER if task in FORMAL else (length,)
        batches = [testing(task, tested) for tested in lengths]
        found = [score_of(task, np.asarray(outputs(model, params, batch.xs)), batch) for batch in batches]
        for tested, score in zip(lengths, found, strict=True):
            runs.add(
                cell=name, task=task, length=tested, trained=length, seed=seed, hidden=width,
                parameters=count_parameters(model, INPUTS), score=score, loss=loss,
                cpu_seconds=round(time.process_time() - begun, 1),
            )  # fmt: skip


def scores(runs):
    """The scores of the seeds of each (cell, task, length), from a guess, 0, to all right, 1."""
    found = {}
    for row in runs.rows:
        found.setdefault((row["cell"], row["task"], int(row["length"])), []).append(float(row["score"]))
    return {
        key: np.clip((np.array(values) - GUESS[key[1]]) / (1 - GUESS[key[1]]), 0, 1)
        for key, values in found.items()
    }


def ranked(found):
    """The cells that have all of the shortest length, by what they solve there, then by their mean."""
    columns = [(task, LENGTHS[0]) for task in TASKS]
    whole = [
        name for name in {key[0] for key in found} if all((name, *column) in found for column in columns)
    ]

    def rank(name):
        values = [found[name, *column].mean() for column in columns]
        return -sum(value >= SOLVED for value in values), -np.mean(values), name

    return sorted(whole, key=rank)


def columns_of():
    return [(task, length) for task in TASKS for length in (LONGER if task in FORMAL else LENGTHS)]


def percent(values):
    """The mean over seeds, bold if it is solved, and half the range, if seeds differ."""
    if values is None:
        return "–"
    mean, half = f"{100 * values.mean():.0f}", f"{50 * np.ptp(values):.0f}"
    return (f"**{mean}**" if values.mean() >= SOLVED else mean) + (f" ±{half}" if half != "0" else "")


def report(runs):
    """Cells by what they solve: right answers from a guess, 0, to all right, 100."""
    found = scores(runs)
    rows, columns = [], columns_of()
    for name in ranked(found):
        texts = [percent(found.get((name, *column))) for column in columns]
        (row, *_) = runs.find(cell=name)
        rows.append((f"`{name}`", row["hidden"], row["parameters"], *texts))
    return markdown(("cell", "width", "parameters", *(f"{task} {n}" for task, n in columns)), rows)


def draw(runs, path):
    """A heat map: cell by task and length; a dash where nothing was run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = scores(runs)
    names = ranked(found)
    columns = [column for column in columns_of() if any((name, *column) in found for name in names)]
    labels = [f"{task} {length}" for task, length in columns]
    half = -(-len(names) // 2)
    figure = Figure(figsize=(11, 1.8 + 0.22 * half), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for ax, part in zip(figure.subplots(1, 2), (names[:half], names[half:]), strict=True):
        values = np.array([[np.mean(found.get((name, *column), 0)) for column in columns] for name in part])
        heat_map(values, part, labels, ax, title="", row_label="", column_label="", unit="right answers")
        for (y, name), (x, column) in itertools.product(enumerate(part), enumerate(columns)):
            if (name, *column) not in found:
                ax.text(x, y, "–", color="gray", ha="center", va="center", fontsize=7)
    figure.suptitle(
        "Right answers at this length, from a guess (white, 0) to all right (black, 1), mean of the seeds"
    )
    figure.savefig(path)


def main():
    known = (*KNOWN, *(name for name in recurrent_cells() if name not in KNOWN))
    parser = options(__doc__, cells=known, lengths=LENGTHS, seeds=(0, 1, 2))
    given = parser.parse_args()
    for name in set(given.cells) - set(known):
        parser.error(f"--cells has {name!r}, needs names of cells, such as {', '.join(KNOWN[:3])}")
    warnings.filterwarnings("ignore", "fit: ", RuntimeWarning)  # a run that diverges has its row
    runs = Runs(given.file, HEADER)
    run(runs, Budget(given.minutes, given.cpu_minutes), given)
    runs = Runs(given.file, HEADER)  # with what other shares have added
    if len(ranked(scores(runs))) > 1:
        print(f"\n{report(runs)}")
        draw(runs, given.file.with_suffix(".png"))


if __name__ == "__main__":
    main()
