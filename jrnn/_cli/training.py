"""`jrnn train`: train a language model of characters or words, or resume its training."""

import argparse
import contextlib
import dataclasses
import difflib
import errno
import hashlib
import importlib.util
import json
import math
import os
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jrnn
from jrnn._checks import brief
from jrnn._cli.options import TrainConfig
from jrnn._cli.sampling import META, config_fault, load_run, one_line, program, tokenizer_of, write_on
from jrnn._cli.tables import count_parameters, has_heads, recurrent_cells
from jrnn._cli.texts import Tokenizer, described
from jrnn._processes import RESTART, LostProcess, from_first, is_first, leave, several

SETTINGS = "run.json"  # settings that a run was started with
METHOD = jrnn.Associative(otherwise=jrnn.Chunked(otherwise=jrnn.Scan()))  # whichever the cells allow


@dataclass(frozen=True)
class Job:
    """A run of `jrnn train`, new or resumed."""

    out: Path
    config: TrainConfig
    files: tuple[str, ...]  # empty for the Python language reference
    texts: tuple[str, str]  # to train on, and held out
    tokenizer: Tokenizer
    parts: tuple[Any, Any]  # their tokens
    resume: bool

    @property
    def meta(self) -> dict[str, Any]:
        """Metadata stored with the parameters."""
        config, files = dataclasses.asdict(self.config), [os.path.abspath(f) for f in self.files]
        values = (config, self.tokenizer.fields(), files, _sha256("".join(self.texts)))
        return dict(zip(META, values, strict=True))


def train(arguments: argparse.Namespace) -> int:
    """Run `jrnn train`: fit a language model to text, then print a sample."""
    if arguments.distributed:
        return _train_together(arguments)
    with contextlib.suppress(RuntimeError):  # jax is already initialized: use its devices
        jrnn.use_fused_loops()
        jrnn.use_cores()
    return _train(arguments)


def _train_together(arguments: argparse.Namespace) -> int:
    """Train in one of several processes, started by SLURM, MPI, Kubernetes, or with environment variables."""
    numbers = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
    given: dict[str, Any] = {
        name: int(os.environ[variable]) for name, variable in numbers.items() if variable in os.environ
    }
    devices = int(os.environ.get("JAX_NUM_CPU_DEVICES", 1))
    with contextlib.suppress(RuntimeError):
        jrnn.use_fused_loops()
        jrnn.use_cores(devices)  # rather than all cores, which the processes of a machine share
    try:
        jax.distributed.initialize(**given)
    except (ValueError, RuntimeError) as error:
        hint = "start it by srun or mpirun, or set JAX_COORDINATOR_ADDRESS=HOST:PORT and "
        raise ValueError(
            f"--distributed: {one_line(error)}; {hint}{' and '.join(numbers.values())}"
        ) from error
    try:
        return _train(arguments)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        if not several():
            raise
        print(f"jrnn: {one_line(error)}", file=sys.stderr)
        leave(RESTART if isinstance(error, LostProcess) else 2)


def _train(arguments: argparse.Namespace) -> int:
    begun = time.perf_counter()
    given = {f.name: getattr(arguments, f.name) for f in dataclasses.fields(TrainConfig)}
    given = {name: value for name, value in given.items() if value is not None}
    if arguments.resume is None:
        job = _new_job(given, tuple(arguments.files), arguments.out)
    elif given or arguments.out is not None:
        option = next(iter(given), "out").replace("_", "-")
        raise ValueError(
            f"--{option} cannot be combined with --resume: a run keeps its settings and directory"
        )
    else:
        job = _resumed_job(Path(arguments.resume), tuple(arguments.files))
    try:
        result = _fit(job)
    except OSError as error:
        if error.errno != errno.ENOSPC or not jrnn.checkpoint.checkpoints(job.out):
            raise
        raise ValueError(f"{one_line(error)}; free some space, then {_resume(job.out)}") from error
    if result.diverged is not None:
        kept = f"the checkpoints in {job.out} are from before"
        hint = "start a new run with a smaller --lr"
        raise ValueError(
            f"training diverged: loss or gradient not finite at step {result.diverged}; {kept}; {hint}"
        )
    if result.interrupted:
        say(f"\nstopped and saved after step {int(result.state.step)}; to continue:\n  {_resume(job.out)}")
        return RESTART if several() else 130
    if is_first():
        _report(job, result, time.perf_counter() - begun)
    return 0


def _new_job(given: dict[str, Any], files: tuple[str, ...], out: str | None) -> Job:
    config = TrainConfig(**given)
    names = {name.lower(): name for name in recurrent_cells()}
    if config.cell not in names.values():
        nearest = difflib.get_close_matches(config.cell.lower(), names, n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown cell {config.cell!r}, did you mean {names[nearest]}? jrnn cells lists all")
    if "heads" in given and not has_heads(recurrent_cells()[config.cell]):
        raise ValueError(f"--heads: {config.cell} has none; MLSTM and GatedDeltaNet, for instance, have")
    if config.valid:
        config = dataclasses.replace(config, valid=os.path.abspath(config.valid))
    if config.readout == "tied" and config.embed != config.recurrent.out_features:
        hint = f"try --embed {config.recurrent.out_features}"
        raise ValueError(
            f"--readout tied needs an embedding as wide as the cells, got {config.embed}; {hint}"
        )
    texts = _texts(files, config)
    tokenizer = Tokenizer.learned(texts[0], config.level, config.least)
    parts = tokenizer.encode(texts[0]), tokenizer.encode(texts[1])
    _check_length(len(parts[0]), len(parts[1]), tokenizer.units, config)
    _check_model(config)
    directory = Path(from_first(lambda: str(_new_directory(out, config, files))))
    return Job(directory, config, files, texts, tokenizer, parts, resume=False)


def _texts(files: Sequence[str], config: TrainConfig) -> tuple[str, str]:
    """The text to train on, and the text that is held out: a file, or the last tenth."""
    text = read(files)
    if config.valid:
        return text, read([config.valid])
    return jrnn.data.split(text) if round(len(text) / 10) else (text, "")


def _check_length(training: int, held_out: int, units: str, config: TrainConfig) -> None:
    """Raise unless both parts of the text, so many units long, fill a batch."""
    needed = config.batch * config.steps + 1
    if min(training, held_out) >= needed:
        return
    rows = (min(training, held_out) - 1) // config.steps
    hint = f"try --batch {rows}" if rows > 0 else "try a smaller --batch and --steps"
    asked = f"--batch {config.batch} --steps {config.steps}"
    if config.valid:
        raise ValueError(
            f"a text is too short: {training:,} and {held_out:,} {units} to train and to validate on, and "
            f"{asked} need {needed:,} of each; {hint}"
        )
    raise ValueError(
        f"the text is too short: it has {training + held_out:,} {units}, and {asked} need {10 * needed:,}, "
        f"so that the held-out tenth fills a batch; {hint}"
    )


def _check_model(config: TrainConfig) -> None:
    """Raise unless the cell works between an embedding and a read-out."""

    def step(key: jax.Array) -> Any:
        model = config.model(vocabulary=2)
        return jrnn.unroll(model, model.init(key, 2), jnp.zeros((1, 1), jnp.int32))

    try:
        jax.eval_shape(step, jax.random.key(0))
    except (TypeError, ValueError) as error:
        raise ValueError(f"--cell {config.cell} does not work in this model: {one_line(error)}") from error


def _resumed_job(run: Path, files: tuple[str, ...]) -> Job:
    meta = from_first(lambda: _settings(run))
    config, files = TrainConfig(**meta["config"]), files or tuple(meta["files"])
    texts = _texts(files, config)
    if "vocabulary" not in meta:  # nothing is saved yet
        tokenizer = Tokenizer.learned(texts[0], config.level, config.least)
    elif _sha256("".join(texts)) == meta["sha256"]:
        tokenizer = tokenizer_of(meta)
    else:
        hint = "" if files else " (Python's language reference differs between versions)"
        raise ValueError(f"{run}: the text has changed since the run was started{hint}: start a new run")
    parts = tokenizer.encode(texts[0]), tokenizer.encode(texts[1])
    return Job(run, config, files, texts, tokenizer, parts, resume=True)


def _settings(run: Path) -> dict[str, Any]:
    """The settings of a run: those it was started with, or what its checkpoints say."""
    if (run / SETTINGS).is_file() and not jrnn.checkpoint.checkpoints(run):
        return _started_with(run / SETTINGS)
    return dict(load_run(run).meta)


def say(text: str) -> None:
    """Print, in the first of several processes."""
    if is_first():
        print(text, flush=True)


def _started_with(path: Path) -> dict[str, Any]:
    """The options and files that a run was started with."""
    try:
        start = json.loads(path.read_text(encoding="utf-8"))
        config, files = dict(start["config"]), [str(file) for file in list(start["files"])]
        if fault := config_fault(config) or ("" if files == start["files"] else "files is no list of names"):
            raise ValueError(fault)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        reason = f"{path}: not the settings that jrnn train wrote, start a new run: {brief(str(error))}"
        raise ValueError(reason) from error
    return {"config": config, "files": files}


def read(files: Sequence[str]) -> str:
    """The text of files, or of the Python language reference if there are none."""
    return str(jrnn.data.read_text(files) if files else jrnn.data.python_reference())


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _resume(run: Path) -> str:
    return f"{program()} train --resume {shlex.quote(str(run))}"


def _new_directory(out: str | None, config: TrainConfig, files: tuple[str, ...]) -> Path:
    """Make the directory of a run: the given one, or the next number under `runs`."""
    if out is not None:
        return _made(Path(out), config, files)
    while True:  # another run may take the number meanwhile
        numbers = [int(path.name) for path in Path("runs").glob("*") if path.name.isdecimal()]
        with contextlib.suppress(FileExistsError):
            return _made(Path("runs") / str(1 + max(numbers, default=0)), config, files)


def _made(path: Path, config: TrainConfig, files: tuple[str, ...]) -> Path:
    """Make a directory that has the settings of its run from the start, so that it can be resumed."""
    if not path.name:
        raise ValueError(f"--out must name a directory of its own, got {str(path)!r}")
    if path.is_dir() and any(path.iterdir()):
        hint = f"continue with {_resume(path)}, or " if jrnn.checkpoint.checkpoints(path) else ""
        raise FileExistsError(f"{path}: the directory is not empty: {hint}choose another --out")
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path}: not a directory: choose another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fresh.mkdir()
    settings = {"config": dataclasses.asdict(config), "files": [os.path.abspath(file) for file in files]}
    (fresh / SETTINGS).write_text(json.dumps(settings, indent=1), encoding="utf-8")
    try:
        fresh.replace(path)  # replaces an empty directory
    except OSError as error:
        shutil.rmtree(fresh)
        raise FileExistsError(f"{path}: another run uses this directory: choose another --out") from error
    return path


def _fit(job: Job) -> Any:
    """Print a summary of the job, and train."""
    from jrnn._cli.optimizing import activation_penalty, averaged, uniform_params

    config, parts, size = job.config, job.parts, len(job.tokenizer)
    training, held_out = (jrnn.Stream(part, config.batch, config.steps) for part in parts)
    model = config.model(size)
    name, units = ", ".join(job.files) or "the Python language reference", job.tokenizer.units
    known = "" if config.level == "character" else f"; {size:,} known"
    say(f"text   {name}: {len(parts[0]):,} {units} to train on, {len(parts[1]):,} held out{known}")
    say(f"model  {_chain(model)}: {count_parameters(model, size):,} parameters")
    say(f"on     {_devices(model, config.batch)}")
    say(f"run    {job.out}: checkpoints, metrics.jsonl, loss.png; Ctrl-C stops and saves")
    warnings.filterwarnings("ignore", "fit: training diverged", RuntimeWarning)  # reported at the end
    return jrnn.fit(
        model,
        training,
        jrnn.PerStep(jrnn.losses.cross_entropy),
        optimizer=config.optimizer(len(training) * config.epochs),
        key=jax.random.key(config.seed),
        in_features=size,
        params=uniform_params(model, size, config.seed, config.uniform) if config.uniform else None,
        epochs=config.epochs,
        validation=held_out,
        stateful=True,
        eval_params=averaged if config.average else None,
        penalties=(activation_penalty(model, config.ar, config.tar),) if config.ar or config.tar else (),
        method=METHOD,
        monitors=_monitors(job) if is_first() else (),
        out=job.out,
        resume=job.resume,
        meta=job.meta,
        progress=jrnn.Progress(bits=config.level == "character", unit=units[:4]),
    )


def _chain(cell: Any) -> str:
    """The cells of a model and their widths, in words."""
    if isinstance(cell, jrnn.Stack):
        return " → ".join(map(_chain, cell.cells))
    if isinstance(cell, jrnn.Tie):
        return f"{_chain(cell.cell)}, tied"
    wraps = isinstance(cell, (jrnn.Block, jrnn.Dropout, jrnn.Reparametrize))
    return f"{type(cell).__name__}({_chain(cell.cell) if wraps else cell.out_features})"


def _devices(model: Any, rows: int) -> str:
    """The devices that `fit` uses for batches with this many rows, in words."""
    from jrnn.training.devices import split_over

    split, devices = split_over(model, rows), jax.devices()
    used = 1 if split is None else split.mesh.size
    where = f" of {jax.process_count()} processes" if several() else ""
    found = f"{used} of {len(devices)} devices{where} ({devices[0].device_kind})"
    return f"{found}, {rows // used} rows of a batch on each"


def _monitors(job: Job) -> tuple[Any, ...]:
    """The perplexity of words, and the loss curve, if matplotlib is installed."""
    characters = job.config.level == "character"
    found: tuple[Any, ...] = () if characters else (_perplexity,)
    if importlib.util.find_spec("matplotlib") is None:
        print("no loss.png: matplotlib is not installed, pip install 'jrnn[plots]'")
        return found
    from jrnn.plots import LossCurve

    return (*found, LossCurve(job.out, bits=characters))


def _perplexity(record: dict[str, Any], state: Any) -> dict[str, float]:
    """The perplexity of an epoch on what is held out."""
    del state
    return {"perplexity": math.exp(min(record["validation"], 700.0))} if "validation" in record else {}


def _report(job: Job, result: Any, seconds: float) -> None:
    """Print the loss of the best epoch, a text sample, and the command for more."""
    losses = [(entry["validation"], entry["epoch"]) for entry in result.history]
    nats, epoch = min(losses, key=lambda entry: (math.isnan(entry[0]), entry))
    model, key = job.config.model(len(job.tokenizer)), jax.random.key(job.config.seed)
    length = 300 if job.config.level == "character" else 60
    text = write_on(model, result.params, job.tokenizer, "", length, key=key, temperature=0.8)
    word = next(iter(job.texts[0].split()), "")[:20]
    print(f"\nheld out: {described(nats, job.config.level)} after epoch {epoch}; {seconds:.0f} s in all")
    print(f"loss curve: {job.out / 'loss.png'}\n\n{text}\n\nmore of this:")
    print(f"  {program()} sample {shlex.quote(str(job.out))} --prompt {shlex.quote(word)}")
