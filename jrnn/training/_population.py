"""The state of a population: position, blocks of members, and the record of each."""

import csv
import io
import itertools
import math
import sys
import threading
from collections.abc import Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from jrnn._alignment import on_device
from jrnn.checkpoint._optimizers import check_optimizer, optimizer_to_json
from jrnn.checkpoint._trees import load_tree, read_position, save_tree
from jrnn.checkpoint.files import CheckpointError, write_file
from jrnn.data import Batch
from jrnn.training._members import Block, Group
from jrnn.training._plans import Batches, Plan
from jrnn.training._settings import RESERVED
from jrnn.training._storing import from_json, to_json
from jrnn.training.progress import bar
from jrnn.training.steps import average, counted, losses_of, require_batch, rows_of_stream


@dataclass
class Record:
    """The record of a member."""

    seed: int
    setting: dict[str, Any]
    plan: Plan
    group: int
    history: list[dict[str, Any]] = field(default_factory=list)
    nats: float = 0.0  # sum of the losses of the epoch so far
    targets: float = 0.0  # of the epoch so far
    score: float = math.inf
    best: int | None = None  # the last step of the best epoch
    diverged: int | None = None

    def out_of_patience(self) -> bool:
        """True if the last `patience` epochs brought no improvement."""
        return self.plan.out_of_patience(self.history, self.best)

    def score_of(self, entry: dict[str, Any]) -> float:
        """The number that the best epoch minimizes."""
        score = self.plan.score(entry)
        return math.inf if score is None else score

    def to_json(self) -> dict[str, Any]:
        """The entry of a checkpoint for a member, besides its arrays."""
        numbers = {"nats": self.nats, "targets": self.targets, "score": self.score}
        found = {"member": repr((self.seed, self.setting)), "best": self.best, "diverged": self.diverged}
        return {**found, "numbers": to_json(numbers), "history": [to_json(entry) for entry in self.history]}

    def restore(self, stored: dict[str, Any]) -> None:
        """Take over what a checkpoint holds."""
        if stored["member"] != repr((self.seed, self.setting)):
            given = f"seed {self.seed} with {self.setting}"
            raise CheckpointError(f"the checkpoint is of other members: {stored['member']}, not of {given}")
        self.best, self.diverged = stored["best"], stored["diverged"]
        self.nats, self.targets, self.score = from_json(stored["numbers"]).values()
        self.history = [from_json(entry) for entry in stored["history"]]


class Population:
    """The blocks of a population, and the loop over the batches of one epoch."""

    def __init__(
        self, groups: list[Group], records: list[Record], out: Path | None, memory: int | None
    ) -> None:
        self.groups, self.records, self.out, self.memory = groups, records, out, memory
        self.plan = records[0].plan  # for what all members share
        self.epoch, self.batches_done, self.steps_done = 0, 0, 0
        self.sizes: list[int] = []  # members of a block, for each group
        self.shape: tuple[int, ...] | None = None  # batch shape of the first batch
        self.blocks: list[Block] = []

    @property
    def running(self) -> bool:
        """True while members are active, or have not begun."""
        return not self.blocks or any(block.active.any() for block in self.blocks)

    def arrange(self, sizes: list[int]) -> None:
        """Distribute the members over blocks and devices, and draw their initial states."""
        self.sizes = sizes
        seeds = [record.seed for record in self.records]
        settings = [record.setting for record in self.records]
        for index, (group, size) in enumerate(zip(self.groups, sizes, strict=True)):
            members = [i for i, record in enumerate(self.records) if record.group == index]
            for start in range(0, len(members), size):
                block = Block(group, members[start : start + size], size)
                block.begin(seeds, settings)
                self.blocks.append(block)

    def begin(self, batch: Batch) -> None:
        """Choose the sizes of the blocks by the first batch."""
        sizes = []
        for index, group in enumerate(self.groups):
            members = -(-sum(record.group == index for record in self.records) // group.devices)
            blocks = -(-members // group.size(batch, self.memory))  # of equal sizes
            sizes.append(-(-members // blocks) * group.devices)
        self.arrange(sizes)

    def train(self, batches: Batches, epochs: int, stop: threading.Event) -> bool:
        """Train on the remaining batches of one epoch; False if it was cut short."""
        total = len(batches) if isinstance(batches, Sized) else None
        title = f"{len(self.records)} members, epoch {self.epoch + 1}/{epochs}"
        with bar(self.plan.progress, title, total, self.batches_done) as shown:
            for batch in itertools.islice(batches, self.batches_done, None):
                self.advance(batch)
                shown.update()
                if self.steps_done % self.plan.save_every == 0:
                    self.save()
                if stop.is_set():
                    return False
        if self.batches_done == 0:
            raise ValueError(f"batches of epoch {self.epoch + 1} are empty, need at least one")
        return True

    def advance(self, batch: Any) -> None:
        """Take one step of all members; returns before it is computed."""
        first = self.groups[0]
        batch = require_batch(batch, first.model, first.spec.params, loss=first.loss)
        if not self.blocks:
            self.begin(batch)
        if self.plan.stateful:
            self.prepare_carries(batch)
        counts = self.counts(batch)
        placed, fresh = self.groups[0].place((batch, on_device(self.batches_done == 0)))
        for block in self.blocks:
            if block.active.any():
                block.advance(placed, fresh, float(counts[block.group]))
        jax.block_until_ready([block.losses[-2:-1] for block in self.blocks])  # so that few batches wait
        self.batches_done += 1
        self.steps_done += 1
        read = self.groups[0].read.union(*(group.programs.read for group in self.groups))
        unread = self.records[0].setting.keys() - read
        if unread and self.steps_done == 1:  # all functions have been called
            raise ValueError(
                f"settings: no function reads {sorted(unread)}, so members would be equal: pass "
                "optimizer=lambda s: ..., or another function of the setting, that does"
            )

    def counts(self, batch: Batch) -> dict[Group, Any]:
        """Number of targets in a batch, which the loss of each group counts."""
        losses = {id(group.loss): group.loss for group in self.groups}  # mostly a single one
        counts = {at: jax.device_get(counted(loss, batch)) for at, loss in losses.items()}
        return {group: counts[id(group.loss)] for group in self.groups}

    def prepare_carries(self, batch: Batch) -> None:
        """Initialize the carries of a stream, or check that they fit the next batch."""
        shape = rows_of_stream(self.plan.model, batch, self.shape, (self.epoch, self.batches_done))
        if self.shape is None:
            for block in self.blocks:
                block.begin_carry(shape)
        self.shape = shape

    def finish_epoch(self, validation: Batches | None) -> None:
        """Evaluate, record, keep the best parameters of every member, stop members, save, and move on."""
        self.settle()
        running = [block for block in self.blocks if block.active.any()]
        examined = [block.examine() for block in running]
        held_out = None if validation is None else self.validate(validation, running, examined)
        for at, (block, (params, finite)) in enumerate(zip(running, examined, strict=True)):
            better = np.zeros(len(block.active), bool)
            for row in np.flatnonzero(block.active):
                score = self.enter(block, int(row), None if held_out is None else float(held_out[at][row]))
                record = self.records[block.members[row]]
                if finite[row] and math.isfinite(score) and score < record.score:
                    better[row], record.best, record.score = True, self.steps_done, score
            block.keep(better, params)
            block.stop([self.records[i].out_of_patience() for i in block.members])
        self.epoch, self.batches_done = self.epoch + 1, 0
        if self.plan.progress.bar:
            tqdm.write(self.line(), file=sys.stderr)
        for record in self.records:
            record.nats, record.targets = 0.0, 0.0
        self.save()

    def enter(self, block: Block, row: int, validation: float | None) -> float:
        """Add the epoch to the history of a member, and return its score."""
        record = self.records[block.members[row]]
        train = record.nats / record.targets if record.targets else 0.0
        entry: dict[str, Any] = {"step": self.steps_done, "epoch": self.epoch + 1, "train": train}
        if validation is not None:
            entry["validation"] = validation
        if record.plan.monitors:
            numbers = record.plan.watch(entry, block.of_members(block.stacked.state)[row])
            if taken := numbers.keys() & (record.setting.keys() | RESERVED):
                raise ValueError(f"monitors return {sorted(taken)}, which the table already has: rename them")
        record.history.append(entry)
        return record.score_of(entry)

    def validate(self, batches: Batches, running: list[Block], examined: Any) -> list[NDArray[Any]]:
        """Mean losses over all targets of the batches, for each block."""

        def run(batch: Batch, carries: Any) -> tuple[list[Any], list[Any]]:
            placed, found = self.groups[0].place(batch), []
            for block, (params, _), carry in zip(running, examined, carries or none, strict=True):
                found.append(block.group.programs.evaluate(params, placed, carry, block.floats))
            return [carry for carry, _ in found], [means for _, means in found]

        none, means, counts = [None] * len(running), [], []
        how, params = self.plan.evaluation, self.groups[0].spec.params
        for batch, found in losses_of(how, params, batches, run, "validation"):
            means.append(found)
            counts.append(self.counts(batch))
        return [
            average([m[at] for m in means], [count[block.group] for count in counts], "validation")
            for at, block in enumerate(running)
        ]

    def settle(self) -> None:
        """Add the losses of the steps taken to those of the epoch, and find the members that diverged."""
        for block in self.blocks:
            for count, losses in jax.device_get(block.losses):
                for member, loss in zip(block.members, losses, strict=False):  # without the padding
                    self.records[member].nats += count * float(loss)
                    self.records[member].targets += count
            block.losses, before = [], block.active
            block.look()
            for row in np.flatnonzero(before & ~block.active):
                step = int(jax.device_get(block.stacked.state.step)[row])
                self.records[block.members[row]].diverged = step + 1

    def save(self) -> None:
        """Write a checkpoint of all members, and the table."""
        if self.out is None or not self.blocks:
            return
        self.settle()
        position = {
            "epoch": self.epoch,
            "batch": self.batches_done,
            "steps": self.steps_done,
            "sizes": self.sizes,
            "rows": [len(block.active) for block in self.blocks],
            "shape": self.shape,
            "stateful": self.plan.stateful,
            "optimizer": optimizer_to_json(self.plan.optimizer),
            "members": [record.to_json() for record in self.records],
        }
        save_tree(self.out, [block.stacked for block in self.blocks], self.steps_done, position)
        write_file(self.out / "table.csv", as_csv(table(self.records)).encode())

    def restore(self, out: Path) -> None:
        """Load the newest checkpoint."""
        position = read_position(out)
        stored, needed = position["members"], position["stateful"]
        if len(stored) != len(self.records):
            raise CheckpointError(f"{out}: holds {len(stored)} members, got {len(self.records)}")
        if needed != self.plan.stateful:
            raise ValueError(f"stateful must be {needed} to resume this sweep, as when it was started")
        check_optimizer(position["optimizer"], self.plan.optimizer)
        for record, found in zip(self.records, stored, strict=True):
            record.restore(found)
        self.epoch, self.batches_done = position["epoch"], position["batch"]
        self.steps_done = position["steps"]
        self.arrange(position["sizes"])
        if position["shape"] is not None:
            self.shape = tuple(position["shape"])
            for block in self.blocks:
                block.begin_carry(self.shape)
        rows = position["rows"]
        trees = load_tree(out, [block.like(n) for block, n in zip(self.blocks, rows, strict=True)])
        for block, tree in zip(self.blocks, trees, strict=True):
            block.restore(tree)

    def line(self) -> str:
        """The epoch as one line: medians and ranges over the members."""
        last = [r.history[-1] for r in self.records if r.history and r.history[-1]["epoch"] == self.epoch]
        parts = [f"epoch {self.epoch}", f"{len(last)} of {len(self.records)} members"]
        for name, shown in (("train", "train"), ("validation", "held out")):
            values = [entry[name] for entry in last if name in entry]
            if values:
                middle, low, high = np.median(values), min(values), max(values)
                parts.append(f"{shown} {self.plan.progress.describe(middle)} ({low:.4g} to {high:.4g})")
        return ", ".join(parts)


def table(records: list[Record]) -> list[dict[str, Any]]:
    """One row for each member and epoch."""
    return [
        {"member": member, "seed": record.seed, **record.setting, **entry}
        for member, record in enumerate(records)
        for entry in record.history
    ]


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Rows as text with commas, under a header."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
