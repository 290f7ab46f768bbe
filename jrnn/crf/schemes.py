"""Tags that stand for spans: B-X begins an entity of type X, I-X goes on with it, O is outside."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jrnn.crf.inference import Constraint


class EntityScores(NamedTuple):
    """What `entity_f1` returns."""

    precision: float  # share of the predicted entities that are right
    recall: float  # share of the entities that were found
    f1: float  # harmonic mean of both


def bio_constraint(names: Sequence[str]) -> Constraint:
    """What well-formed tag sequences may do: I-X comes after B-X or I-X only.

    Args:
      names: name of each tag: O, B-X or I-X.

    Returns:
      A `Constraint` for `viterbi`.

    Raises:
      ValueError: a name of another form.

    >>> from jrnn.crf import bio_constraint
    >>> bio_constraint(("O", "B-PER", "I-PER")).transitions.tolist()  # from, to
    [[True, True, False], [True, True, True], [True, True, True]]
    """
    tags = [_parsed(name) for name in names]
    start = np.array([prefix != "I" for prefix, _ in tags], bool)
    same_entity = [[a == b and a != "" for _, b in tags] for _, a in tags]
    transitions = start | np.array(same_entity, bool).reshape(len(tags), len(tags))
    return Constraint(transitions, start, np.ones(len(tags), bool))


def entities(names: Sequence[str]) -> list[tuple[int, int, str]]:
    """Entities of one sequence of tags.

    An I-X that goes on with nothing, after O or another type, begins one, as in conlleval.

    Args:
      names: name of the tag at each step: O, B-X or I-X.

    Returns:
      (first step, step behind the last, type) of each, in order.

    Raises:
      ValueError: a name of another form.

    >>> from jrnn.crf import entities
    >>> entities(["B-PER", "I-PER", "O", "I-LOC", "B-LOC"])
    [(0, 2, 'PER'), (3, 4, 'LOC'), (4, 5, 'LOC')]
    """
    found, first, open_kind = [], 0, ""
    for step, (prefix, kind) in enumerate([*map(_parsed, names), ("O", "")]):
        if open_kind and (prefix, kind) != ("I", open_kind):
            found.append((first, step, open_kind))
            open_kind = ""
        if kind and not open_kind:
            first, open_kind = step, kind
    return found


def entity_f1(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> EntityScores:
    """Precision, recall and F1 of whole entities, as conlleval counts them over all sequences.

        precision = right / predicted,   recall = right / gold,   F1 = 2 · right / (predicted + gold)

    An entity is right if its first step, its last and its type are. What has nothing to divide by is 0.

    Args:
      predicted: tag names of each sequence: O, B-X or I-X.
      gold: the same, as they should be.

    Returns:
      `EntityScores(precision, recall, f1)`.

    Raises:
      ValueError: sequences that do not belong together, or a name of another form.

    Reference: Tjong Kim Sang, De Meulder, Introduction to the CoNLL-2003 shared task: language-independent
    named entity recognition, 2003, arXiv:cs/0306050.

    >>> from jrnn.crf import entity_f1
    >>> entity_f1([["B-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "B-LOC"]])
    EntityScores(precision=0.5, recall=0.5, f1=0.5)
    """
    if len(predicted) != len(gold):
        raise ValueError(f"predicted has {len(predicted)} sequences, gold has {len(gold)}")
    right = wrong = missed = 0
    for row, (given, needed) in enumerate(zip(predicted, gold, strict=True)):
        if isinstance(given, str) or isinstance(needed, str):
            raise ValueError(
                f"sequence {row} is a str, needs a list of tag names: put one sequence in a list"
            )
        if len(given) != len(needed):
            raise ValueError(f"predicted[{row}] has {len(given)} tags, gold[{row}] has {len(needed)}")
        found, true = set(entities(given)), set(entities(needed))
        right += len(found & true)
        wrong += len(found - true)
        missed += len(true - found)
    return EntityScores(
        right / max(right + wrong, 1),
        right / max(right + missed, 1),
        2 * right / max(2 * right + wrong + missed, 1),
    )


def _parsed(name: str) -> tuple[str, str]:
    """Prefix and type of a tag; ("O", "") outside."""
    prefix, _, kind = name.partition("-")
    if name != "O" and (prefix not in ("B", "I") or not kind):
        raise ValueError(f"{name!r} is no tag of the BIO scheme, needs O, B-X or I-X with a type X")
    return prefix, kind
