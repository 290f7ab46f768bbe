"""Tags that stand for spans: what is well-formed, which spans they are, how many were found."""

import itertools

import jax
import numpy as np
import pytest

from jrnn.crf import bio_constraint, entities, entity_f1, viterbi
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


def chunks(names):
    """Chunks as conlleval.pl finds them: by the rules for where one starts and where one ends."""
    found, start = [], 0
    previous, previous_type = "O", ""
    for step, name in enumerate([*names, "O"]):
        tag, _, kind = name.partition("-")
        ends = (previous, tag) in {("B", "B"), ("B", "O"), ("I", "B"), ("I", "O")}
        ends |= previous != "O" and previous_type != kind
        starts = tag == "B" or (previous, tag) == ("O", "I")
        starts |= tag != "O" and previous_type != kind
        if ends:
            found.append((start, step, previous_type))
        if starts:
            start = step
        previous, previous_type = tag, kind
    return found


def test_entities_are_the_chunks_of_conlleval():
    for path in itertools.product(NAMES, repeat=4):
        assert entities(path) == chunks(path)


def test_entity_f1_on_known_counts():
    gold = [["B-A", "I-A", "O", "B-B"], ["O", "B-B"], []]
    predicted = [["B-A", "I-A", "O", "B-A"], ["B-B", "B-B"], []]
    found = entity_f1(predicted, gold)  # 2 right of 4 predicted and of 3 there are
    assert found == (0.5, 2 / 3, 4 / 7)
    assert entity_f1(gold, gold) == (1, 1, 1)
    assert entity_f1([["O"]], [["O"]]) == (0, 0, 0) == entity_f1([], [])
    assert entity_f1([["B-A"]], [["I-A"]]) == (1, 1, 1)
