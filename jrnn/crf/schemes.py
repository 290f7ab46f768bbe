"""Tagging schemes for spans: B-X begins an entity of type X, I-X continues it, O is outside."""

from collections.abc import Sequence

import numpy as np

from jrnn.crf.inference import Constraint


def bio_constraint(names: Sequence[str]) -> Constraint:
    """Constraint to well-formed BIO sequences: I-X follows B-X or I-X only.

    Args:
      names: name of each tag: O, B-X or I-X.

    Returns:
      A `Constraint` for `viterbi`.

    Raises:
      ValueError: a name of a different form.

    >>> from jrnn.crf import bio_constraint
    >>> bio_constraint(("O", "B-PER", "I-PER")).transitions.tolist()  # from, to
    [[True, True, False], [True, True, True], [True, True, True]]
    """
    tags = [_parsed(name) for name in names]
    start = np.array([prefix != "I" for prefix, _ in tags], bool)
    same_entity = [[a == b for _, b in tags] for _, a in tags]
    transitions = start | np.array(same_entity, bool).reshape(len(tags), len(tags))
    return Constraint(transitions, start, np.ones(len(tags), bool))


def _parsed(name: str) -> tuple[str, str]:
    """Prefix and type of a tag; ("O", "") for the outside tag."""
    prefix, _, kind = name.partition("-")
    if name != "O" and (prefix not in ("B", "I") or not kind):
        raise ValueError(f"names must be O, B-X or I-X with a type X, as in the BIO scheme, got {name!r}")
    return prefix, kind
