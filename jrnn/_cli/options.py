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
TEMPERATURE = number(float, lambda x: 0 <= x < math.inf, "a number of at least 0")


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
    embed: int = option(64, SIZE, "width of the character embedding")
    epochs: int = option(6, SIZE, "number of passes over the text")
    lr: float = option(8e-3, POSITIVE, "initial learning rate, which decays to zero")
    dropout: float = option(0.0, RATE, "rate between the layers, embedding and read-out included")
    batch: int = option(32, SIZE, "rows of text read in parallel")
    steps: int = option(64, SIZE, "characters between two updates")
    seed: int = option(0, SEED, "seed of all randomness")

    @property
    def recurrent(self) -> Any:
        """The cell itself."""
        kind = recurrent_cells()[self.cell]
        return kind(self.hidden, heads=self.heads) if has_heads(kind) else kind(self.hidden)

    def model(self, vocabulary: int) -> Any:
        """The language model, from tokens to logits.

        Cells that papers put into blocks, those with heads or linear in their state, are put into `Block`,
        between a projection of the embedding to the width of the blocks and a norm before the read-out.
        """
        cell = self.recurrent
        embed: Any = jrnn.Embed(self.embed)
        readout: Any = jrnn.Dense(vocabulary)
        if has_heads(cell) or is_linear(cell):
            width = cell.out_features
            cell, embed = jrnn.Block(cell), jrnn.Stack((embed, jrnn.Dense(width)))
            readout = jrnn.Stack((jrnn.Norm(width), readout))
        return jrnn.Stack((embed, *[cell] * self.layers, readout), dropout=self.dropout)

    def optimizer(self, total_steps: int) -> Any:
        """AdamW with clipped gradients and a learning rate that decays to zero."""
        import optax

        schedule = optax.cosine_decay_schedule(self.lr, total_steps)
        return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))
