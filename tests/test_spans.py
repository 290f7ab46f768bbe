"""Tags that stand for spans: what is well-formed."""

import itertools

import jax
import numpy as np
import pytest

from jrnn.crf import bio_constraint, viterbi
from tests.test_crf import NAMES, T, close, draw, row_of, score


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def test_bio_constraint_allows_exactly_the_well_formed():
    allowed = bio_constraint(NAMES)
    for path in itertools.product(range(5), repeat=3):
        names = ["O", *(NAMES[tag] for tag in path)]
        well_formed = all(
            not name.startswith("I") or before[1:] == name[1:] for before, name in itertools.pairwise(names)
        )
        steps = all(allowed.transitions[a, b] for a, b in itertools.pairwise(path))
        assert (allowed.start[path[0]] and steps and allowed.end[path[-1]]) == well_formed


def test_constrained_viterbi_returns_well_formed_tags():
    potentials = draw(50, tags=5, seed=7)
    tags, scores = viterbi(potentials, allowed=bio_constraint(NAMES))
    free, bound = viterbi(potentials)
    allowed, changed = bio_constraint(NAMES), 0
    for row, (path, other) in enumerate(zip(np.asarray(tags).T, np.asarray(free).T, strict=True)):
        assert allowed.start[path[0]] and allowed.transitions[path[:-1], path[1:]].all()
        close(scores[row], score(row_of(potentials, row, T), path))
        changed += (path != other).any()
    assert changed > 10 and (scores <= bound).all()
