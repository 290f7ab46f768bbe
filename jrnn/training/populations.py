"""`sweep`: many runs of a small model in one program."""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

from jrnn._checks import brief, check_path, check_whole, check_width
from jrnn.checkpoint import checkpoints
from jrnn.checkpoint.files import write_file
from jrnn.training._members import MEMBERS, Group, Recipe, call
from jrnn.training._plans import Batches, Monitor, check_surroundings, of_epoch
from jrnn.training._population import Population, Record, as_csv, table
from jrnn.training._settings import Setting, is_float, listed_settings, typed
from jrnn.training._storing import to_json
from jrnn.training.devices import is_placed, use_cores
from jrnn.training.fitting import check_begun, holding, stopping_on_signals
from jrnn.training.objectives import Loss
from jrnn.training.progress import Progress
from jrnn.training.steps import Penalty, TrainState
from jrnn.unrolling import Scan
from jrnn.unrolling.methods import Method


class Member(NamedTuple):
    """A member of a population: what `fit` returns for its seed and setting.

    Attributes:
      seed: its seed.
      setting: its setting, by name.
      model: its model.
      params: parameters of its best epoch; of its last step without validation or a criterion.
      state: its final state, that of the last finite step.
      history: one record per epoch: step, epoch, train and validation loss, and the numbers of monitors.
      score: the smallest finite validation loss or criterion, infinite without one.
      diverged: the step after which its parameters were not finite, which it did not take; or None.
    """

    seed: int
    setting: dict[str, Any]
    model: Any
    params: Any
    state: TrainState
    history: list[dict[str, Any]]
    score: float
    diverged: int | None


class SweepResult(NamedTuple):
    """The result of `sweep`.

    Attributes:
      members: all members, for each setting those of all seeds.
      table: a row for each member and epoch: member, seed, the setting, and the entry of the history.
        `pandas.DataFrame(result.table)` and `csv.DictWriter` take it as it is.
      interrupted: True if Ctrl-C or SIGTERM ended the sweep.
    """

    members: list[Member]
    table: list[dict[str, Any]]
    interrupted: bool = False

    @property
    def best(self) -> Member:
        """The member with the smallest score; a ValueError if no member has a finite one."""
        best = min(self.members, key=lambda member: member.score)
        if math.isinf(best.score):
            hint = "pass validation or a criterion, or choose from the table"
            raise ValueError(f"best needs a finite score of some member, got none: {hint}")
        return best

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the table: JSON, one object per line, for a name that ends in .jsonl, else CSV."""
        lines = [json.dumps(to_json(row), allow_nan=False) + "\n" for row in self.table]
        text = "".join(lines) if Path(path).suffix == ".jsonl" else as_csv(self.table)
        write_file(Path(path), text.encode())


def sweep(
    model: Any,
    batches: Batches | Callable[[int], Batches],
    loss: Loss | Callable[[Mapping[str, Any]], Loss],
    *,
    optimizer: optax.GradientTransformation | Callable[[Mapping[str, Any]], optax.GradientTransformation],
    seeds: Sequence[int] = (0,),
    settings: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]] = ({},),
    in_features: int | None = None,
    params: Any = None,
    adjust: Callable[[Any, Mapping[str, Any]], Any] | None = None,
    epochs: int = 1,
    validation: Batches | Callable[[int], Batches] | None = None,
    stateful: bool = False,
    patience: int | None = None,
    criterion: Callable[[dict[str, Any]], float] | None = None,
    eval_params: Callable[[Any, Any], Any] | None = None,
    penalties: tuple[Penalty, ...] | Callable[[Mapping[str, Any]], tuple[Penalty, ...]] = (),
    monitors: tuple[Monitor, ...] = (),
    out: str | Path | None = None,
    resume: bool = False,
    save_every: int = 500,
    memory: int | None = None,
    progress: Progress = Progress(),
    method: Method = Scan(),
) -> SweepResult:
    """Train many small models on the same batches at once: seeds and settings.

    Every member ends, up to rounding, with the parameters and history of

        fit(model(s), batches, loss(s), optimizer=optimizer(s), penalties=penalties(s),
            key=jax.random.key(seed), ...),   s = its setting

    with the noise of that run. `model`, `loss`, `optimizer` and `penalties` may each be a function of the
    setting, a mapping by name. Members run under `vmap` in blocks, spread over all devices, which exchange
    nothing: accelerators, or the cores, which `sweep` makes devices by `use_cores` unless JAX is already
    initialized. Floats of a setting are arguments of one compiled program, so functions of the setting, other
    than `model`, see tracers in their place; members whose other values or models differ are compiled
    separately. A later call with the same model, loss, optimizer and penalties compiles nothing.

    A member that is out of patience stops, and so does one whose parameters would no longer be finite, at its
    last finite step; neither changes the others, and a block whose members have all stopped costs nothing.

    Args:
      model: a cell or a layer; or a function of the setting that returns one, or a model function.
      batches: as for `fit`; all members see the same ones.
      loss: any `Loss`, or a function of the setting, such as `lambda s: PerStep(smoothed(s["share"]))`; its
        `count` must not depend on floats of the setting.
      optimizer: any optax transformation, or a function of the setting, such as
        `lambda s: optax.adamw(s["rate"], weight_decay=s["decay"])`.
      seeds: seeds of the members.
      settings: a list of dicts, or a dict of lists, of which all combinations are taken; every setting is
        run with every seed. Values are numbers, names, tuples, booleans or None.
      in_features: width of the inputs; required unless `params` is given.
      params: initial parameters of all members.
      adjust: function `(params, setting)` that returns the initial parameters: a scale of the weights, a
        forget bias, a time constant, any leaf.
      epochs: number of passes over the batches.
      validation: batches to evaluate on after every epoch, or a function of the epoch number.
      stateful: pass the carry on from batch to batch within an epoch (truncated BPTT on a stream).
      patience: stop a member after this many epochs without improvement.
      criterion: as for `fit`, for each member.
      eval_params: as for `fit`.
      penalties: as for `fit`, or a function of the setting that returns them.
      monitors: functions `(entry, state)`, called for every member after every epoch; numbers that one
        returns are added to the entry. They are not called after steps.
      out: directory for checkpoints of all members and `table.csv`; one sweep at a time writes there.
      resume: continue from the newest checkpoint in `out`, or start if there is none. On as many devices, it
        ends with the bits of an uninterrupted sweep; on more or fewer, with its numbers up to rounding.
      save_every: steps between checkpoints; one more is saved after every epoch.
      memory: bytes for the temporaries of a block, which limit its size: `gradient_memory` of a member for a
        cell, XLA's own number for others. None: a block is as large as is fast on a CPU, and holds all
        members on an accelerator.
      progress: options of the progress report.
      method: how the recurrence is run.

    Returns:
      A `SweepResult`.

    Raises:
      ValueError: options that contradict each other, a setting that no function reads, or too little memory.
      CheckpointError: `out` holds other members.

    >>> import jax.numpy as jnp, jrnn, optax
    >>> batch, loss = jrnn.Batch(jnp.ones((5, 2, 1)), jnp.zeros((5, 2, 3))), jrnn.losses.mean_squared_error
    >>> options = {"in_features": 1, "validation": [batch], "progress": jrnn.Progress(bar=False)}
    >>> runs = jrnn.sweep(jrnn.GRU(3), [batch], jrnn.PerStep(loss), optimizer=lambda s: optax.sgd(s["rate"]),
    ...     seeds=range(2), settings={"rate": [0.0, 0.1]}, **options)
    >>> [(member.seed, member.setting) for member in runs.members][:3], len(runs.table)
    ([(0, {'rate': 0.0}), (1, {'rate': 0.0}), (0, {'rate': 0.1})], 4)
    """
    with contextlib.suppress(RuntimeError):  # JAX has begun, on the devices that the caller wants
        use_cores()
    epochs = check_width("epochs", epochs)
    if memory is not None:
        check_width("memory", memory)
    shared: dict[str, Any] = {
        "stateful": stateful, "patience": patience, "criterion": criterion, "eval_params": eval_params,
        "monitors": monitors, "save_every": save_every, "progress": progress, "method": method,
    }  # fmt: skip
    recipe = Recipe(loss, optimizer, penalties, tuple(shared.items()))
    design = Design(model, recipe, params, adjust, in_features)
    groups, records = design.members(seeds, listed_settings(settings))
    check_surroundings(
        records[0].plan, in_features, params, validation, out, resume=resume, stores_width=False
    )
    folder = None if out is None else check_path("out", out)
    population = Population(groups, records, folder, memory)
    given = of_epoch("batches", batches, epochs)
    held_out = None if validation is None else of_epoch("validation", validation, epochs)
    with holding(folder), stopping_on_signals(ends=out is not None) as stop:
        with jax.transfer_guard_host_to_device("allow"):  # initial values come from the host
            if folder is not None and check_begun(folder, bool(checkpoints(folder)), resume=resume):
                population.restore(folder)
        while population.epoch < epochs and population.running and not stop.is_set():
            if population.train(given(population.epoch), epochs, stop):
                population.finish_epoch(None if held_out is None else held_out(population.epoch))
        if stop.is_set():
            population.save()
    return SweepResult(_results(population), table(records), stop.is_set())


@dataclass(frozen=True, eq=False)
class Design:
    """The members of a sweep, and how they begin."""

    model: Any
    recipe: Recipe
    params: Any
    adjust: Any
    in_features: Any

    def begin(self, model: Any, setting: Setting, key: Array) -> tuple[Any, Array]:
        """Initial parameters of a member, and the key of its run, as in `fit`."""
        params = self.params
        if params is None:
            key, draw = jax.random.split(key)
            params = model.init(draw, self.in_features)
        return (params if self.adjust is None else self.adjust(params, setting)), key

    def members(
        self, seeds: Sequence[int], settings: list[dict[str, Any]]
    ) -> tuple[list[Group], list[Record]]:
        """Groups of members that share a program, and all members."""
        if not isinstance(seeds, Iterable):
            raise TypeError(f"seeds must be a sequence of ints, got {brief(seeds)}")
        seeds = [check_whole("seeds", seed) for seed in seeds]
        if not seeds:
            raise ValueError("seeds must hold at least one seed, got none")
        groups: dict[Any, Group] = {}
        records: list[Record] = []
        read: set[str] = set()
        mesh = _mesh(self.params)
        floats = [name for name in settings[0] if is_float(name, settings)]
        for setting in settings:
            is_model = hasattr(self.model, "init") or isinstance(self.model, type)
            model = self.model if is_model else call("model", self.model, Setting(setting, read))
            fixed = {name: value for name, value in setting.items() if name not in floats}
            shared = model, typed(tuple(fixed.items()))
            plan = self.recipe.plan(model, Setting(setting, read))
            if shared not in groups:
                example = {name: setting[name] for name in floats}
                groups[shared] = Group(
                    recipe=self.recipe, begin=self.begin, model=model, fixed=fixed, example=example,
                    read=read, mesh=mesh,
                )  # fmt: skip
            records += [Record(seed, setting, plan, list(groups).index(shared)) for seed in seeds]
        return list(groups.values()), records


def _mesh(params: Any) -> Mesh | None:
    """The devices that members are spread over; None if there is one, or the caller has chosen some."""
    if jax.process_count() > 1:  # whose devices a block could not be gathered from
        raise ValueError(f"sweep runs in one process, got {jax.process_count()}: give each its own seeds")
    devices = jax.local_devices()
    return None if len(devices) == 1 or is_placed(params) else Mesh(np.array(devices), (MEMBERS,))


def _results(population: Population) -> list[Member]:
    """The members, with their arrays on one device, in the order of settings and seeds."""
    found: dict[int, Member] = {}
    for block in population.blocks:
        last = block.of_members(block.examine()[0])
        rows = zip(block.members, block.of_members(block.stacked), last, strict=True)
        for index, (state, _, best), params in rows:
            record = population.records[index]
            kept = params if record.best is None else best
            model = population.groups[record.group].model
            found[index] = Member(
                record.seed, record.setting, model, kept, state, record.history, record.score, record.diverged
            )
    return [found[index] for index in range(len(population.records)) if index in found]
