"""The CRF layer of a tagger, and its outputs."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jax import Array

from jrnn._alignment import select
from jrnn._checks import check_in_features
from jrnn._fields import Width, checked
from jrnn.cell import Shape
from jrnn.initializers import default_float
from jrnn.unrolling import Scan
from jrnn.unrolling._masking import schedule
from jrnn.unrolling.methods import Method


class CRFParams(NamedTuple):
    """Parameters of `CRF`."""

    transitions: Array  # (tags, tags), from a tag to the next
    start: Array  # (tags,)
    end: Array  # (tags,)


class Potentials(NamedTuple):
    """Outputs of `CRF`: the terms of the score of a tag sequence."""

    unaries: Any  # (time, batch..., tags)
    transitions: Any  # (tags, tags), from a tag to the next
    start: Any  # (tags,)
    end: Any  # (tags,)


@checked
@dataclass(frozen=True)
class CRF:
    """Linear-chain conditional random field, the last layer of a tagger; its inputs score each tag per step.

        score(y) = start[y₀] + Σₜ xsₜ[yₜ] + Σₜ transitions[yₜ₋₁, yₜ] + end[y_T₋₁]
        p(y) = exp score(y) / Σ_y′ exp score(y′)

    Its outputs are `Potentials`, for training with `crf_loss` and decoding with `viterbi`. Parameters are
    initialized to zero, where it is a softmax at every step. It looks ahead: scores are for whole sequences.

    Args:
      tags: number of tags, the width of the inputs.

    Raises:
      ValueError: inputs of another width, or resets.

    Reference: Lafferty, McCallum, Pereira, Conditional random fields: probabilistic models for segmenting
    and labeling sequence data, 2001; Sutton, McCallum, An introduction to conditional random fields, 2012,
    arXiv:1011.4088.

    >>> import jax, jax.numpy as jnp, jrnn
    >>> from jrnn.crf import CRF, viterbi
    >>> tagger = jrnn.Sequential((jrnn.Embed(8), jrnn.Bidirectional(jrnn.LSTM(6)), jrnn.Dense(3), CRF(3)))
    >>> params = tagger.init(jax.random.key(0), in_features=10)
    >>> _, potentials = jrnn.apply(tagger, params, jnp.zeros((5, 2), int))
    >>> tags, score = viterbi(potentials)
    >>> tags.shape, score.shape
    ((5, 2), (2,))
    """

    tags: Width
    out_axes: ClassVar[Potentials] = Potentials(0, None, None, None)

    @property
    def out_features(self) -> int:
        return self.tags

    def init(self, key: Array, in_features: int) -> CRFParams:
        del key
        check_in_features(in_features)
        self._check_inputs(in_features)
        zeros = jnp.zeros(self.tags, default_float())
        return CRFParams(jnp.zeros((self.tags, self.tags), zeros.dtype), zeros, zeros)

    def initial_carry(
        self, params: CRFParams, batch_shape: Shape = (), *, key: Array | None = None
    ) -> tuple[()]:
        del params, batch_shape, key
        return ()

    def apply(
        self,
        params: CRFParams,
        xs: Any,
        carry: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
        key: Array | None = None,
        method: Method = Scan(),
    ) -> tuple[tuple[()], Potentials]:
        """Combine step scores, zero at invalid steps, with the transition scores; see `jrnn.apply`."""
        del carry, key, method
        if resets is not None:
            raise ValueError(f"{self} takes no resets: put each sequence in its own row")
        self._check_inputs(xs.shape[-1])
        valid = schedule(xs.shape[0], xs.shape[1:-1], lengths, mask, None, reverse=False).valid
        unaries = xs if valid is None else select(valid, xs, jnp.zeros_like(xs))
        return (), Potentials(unaries, *params)

    def _check_inputs(self, width: int) -> None:
        if width != self.tags:
            raise ValueError(
                f"{self} needs inputs of width {self.tags}, one score per tag, got {width}: "
                f"put Dense({self.tags}) before it"
            )
