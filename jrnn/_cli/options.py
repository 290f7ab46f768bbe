"""Options of the command line: their types, and those of `jrnn train`."""

import argparse
import contextlib
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jrnn
from jrnn._cli.tables import has_heads, recurrent_cells
from jrnn.cell import is_linear
from jrnn.data.language import UNITS


def number(kind: type, holds: Callable[[Any], bool], wanted: str) -> Callable[[str], Any]:
    """Make an argparse type: numbers that satisfy a condition."""

    def parse(text: str) -> Any:
        with contextlib.suppress(ValueError):
            if holds(kind(text)):
                return kind(text)
        raise argparse.ArgumentTypeError(f"needs {wanted}, got {text!r}")

    return parse


SIZE = number(int, lambda n: n >= 1, "a whole number of at least 1")
SEED = number(int, lambda n: 0 <= n < 2**32, "a whole number of at least 0 and below 2**32")
RATE = number(float, lambda x: 0 <= x < 1, "a rate of at least 0 and below 1")
SHARE = number(float, lambda x: 0 < x <= 1, "a probability above 0 and at most 1")
POSITIVE = number(float, lambda x: 0 < x < math.inf, "a number above 0")
COUNT = number(int, lambda n: n >= 0, "a whole number of at least 0")
TEMPERATURE = number(float, lambda x: 0 <= x < math.inf, "a number of at least 0")


def choice(*names: str) -> Callable[[str], Any]:
    """Make an argparse type: one of some names."""
    return number(str, names.__contains__, f"one of {', '.join(names)}")


def option(default: Any, kind: Callable[[str], Any], line: str) -> Any:
    """A field of `TrainConfig`, with the type and the help of its option."""
    return dataclasses.field(default=default, metadata={"type": kind, "help": line})


@dataclass(frozen=True)
class TrainConfig:
    """Options of `jrnn train`, with their defaults."""

    cell: str = option("LSTM", str, "recurrent cell; jrnn cells lists them")
    hidden: int = option(256, SIZE, "width of the cells")
    layers: int = option(1, SIZE, "number of stacked cells, or of blocks")
    heads: int = option(4, SIZE, "number of memories that share the width, of cells that have heads")
    embed: int = option(64, SIZE, "width of the embedding")
    epochs: int = option(6, SIZE, "number of passes over the text")
    lr: float = option(8e-3, POSITIVE, "initial learning rate, which decays to zero, or see --halve")
    dropout: float = option(0.0, RATE, "rate between the layers, embedding and read-out included")
    batch: int = option(32, SIZE, "rows of text read in parallel")
    steps: int = option(64, SIZE, "characters or words between two updates")
    seed: int = option(0, SEED, "seed of all randomness")
    level: str = option(
        "character", choice(*UNITS), "units of the text: character, word, or space: words between spaces"
    )
    min_count: int = option(
        0, COUNT, "units that occur less often are unknown; 0: once for characters, twice for words"
    )
    valid: str = option("", str, "UTF-8 text to validate on, in place of the last tenth of the text")
    readout: str = option(
        "own", choice("own", "tied"), "own weights of the read-out, or those of the embedding, tied"
    )
    masks: str = option(
        "step", choice("step", "sequence"), "what a dropout mask is drawn for: every step, or sequence"
    )
    weight_drop: float = option(0.0, RATE, "rate of dropped recurrent weights, for each sequence")
    ar: float = option(0.0, TEMPERATURE, "weight of the mean square of the activations below the read-out")
    tar: float = option(0.0, TEMPERATURE, "weight of the mean square of their change from step to step")
    update: str = option("adamw", choice("adamw", "sgd"), "rule of the updates: adamw or sgd")
    clip: float = option(1.0, POSITIVE, "bound on the norm of the gradient")
    halve: int = option(0, COUNT, "epochs after which each halves the learning rate; 0: it decays to zero")
    average: int = option(0, COUNT, "epochs after which the weights are averaged over all updates; 0: never")
    uniform: float = option(
        0.0, TEMPERATURE, "initial weights between this and its negative; 0: those of each cell"
    )

    @property
    def least(self) -> int:
        """The least number of times that an entry of the vocabulary occurs."""
        return self.min_count or (1 if self.level == "character" else 2)

    @property
    def recurrent(self) -> Any:
        """The cell itself, of which weights may be dropped."""
        kind = recurrent_cells()[self.cell]
        cell = kind(self.hidden, heads=self.heads) if has_heads(kind) else kind(self.hidden)
        return (
            jrnn.Reparametrize(cell, "w_hh", jrnn.DropConnect(self.weight_drop)) if self.weight_drop else cell
        )

    def model(self, vocabulary: int) -> Any:
        """The language model, from tokens to logits.

        Cells that papers put into blocks, those with heads or linear in their state, are put into `Block`,
        between a projection of the embedding to the width of the blocks and a norm before the read-out.
        """
        cell = self.recurrent
        embed: Any = jrnn.Embed(self.embed)
        readout: Any = jrnn.Dense(vocabulary)
        table, weights = "0.table", f"{self.layers + 1}.w"
        if has_heads(recurrent_cells()[self.cell]) or is_linear(cell):
            width = cell.out_features
            cell, embed = jrnn.Block(cell), jrnn.Stack((embed, jrnn.Dense(width)))
            readout = jrnn.Stack((jrnn.Norm(width), readout))
            table, weights = "0.0.table", f"{self.layers + 1}.1.w"
        cells = [cell] * self.layers
        rate = self.dropout
        if rate and self.masks == "sequence":
            cells = [jrnn.Dropout(cell, input=rate) for _ in cells[1:]]
            cells, rate = [*cells, jrnn.Dropout(cell, input=rate, output=rate)], 0.0
        model = jrnn.Stack((embed, *cells, readout), dropout=rate)
        return jrnn.Tie(model, table, weights, transposed=True) if self.readout == "tied" else model

    def optimizer(self, total_steps: int) -> Any:
        """The update rule with clipped gradients, its learning rate over time, and an average."""
        import optax

        from jrnn._cli.optimizing import averaging, halving

        each = total_steps // self.epochs
        schedule = optax.cosine_decay_schedule(self.lr, total_steps)
        if self.halve:
            schedule = halving(self.lr, each, self.halve)
        rule = optax.sgd(schedule) if self.update == "sgd" else optax.adamw(schedule)
        chain = [optax.clip_by_global_norm(self.clip), rule]
        return optax.chain(*chain, averaging(self.average * each)) if self.average else optax.chain(*chain)
