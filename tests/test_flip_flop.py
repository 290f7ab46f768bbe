"""The flip-flop task: every target follows from its input, by a loop written here."""

import re

import numpy as np
import pytest

from jrnn.data import padded_batches
from jrnn.data.synthetic import flip_flop


@pytest.mark.parametrize(("bits", "rate"), [(1, 0.5), (3, 0.1), (2, 0.0)])
def test_the_target_is_the_last_pulse_of_its_channel(bits, rate):
    xs, targets = flip_flop(20, 15, 0, bits, rate)
    assert len(xs) == len(targets) == 20
    for x, target in zip(xs, targets, strict=True):
        assert x.shape == target.shape == (15, bits) and x.dtype == target.dtype == np.float32
        held = [None] * bits
        for t in range(15):
            held = [pulse if pulse != 0 else old for pulse, old in zip(x[t], held, strict=True)]
            assert target[t].tolist() == held


def test_every_channel_starts_with_a_pulse_and_has_the_rate_and_both_signs_after_it():
    xs, targets = flip_flop(400, 51, 1, rate=0.2)
    pulses = np.stack(xs)
    assert set(np.unique(pulses)) == {-1, 0, 1} and set(np.unique(targets)) == {-1, 1}
    assert (pulses[:, 0] != 0).all()
    rates, signs = (pulses[:, 1:] != 0).mean(axis=(0, 1)), pulses.mean(axis=(0, 1))
    # 20,000 draws a channel: standard errors of 0.0028 and 0.0033
    assert np.abs(rates - 0.2).max() < 0.012 and np.abs(signs).max() < 0.014
    channels = pulses[:, 1:].reshape(-1, 3)
    assert np.abs(np.corrcoef(np.abs(channels).T) - np.eye(3)).max() < 0.03


def test_the_seed_decides_everything():
    first, again, other = (np.array(flip_flop(3, 9, seed)) for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()


def test_it_makes_batches():
    batches = padded_batches(*flip_flop(5, 7, 0), batch_size=2, key_seed=0)
    assert batches[0].xs.shape[1:] == batches[0].targets.shape[1:] == (2, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"bits": 0}, "bits must be at least 1, got 0"),
        ({"rate": 1.0}, "rate must be a rate in [0, 1), got 1.0"),
        ({"seed": None}, "seed must be a whole number, 0 or more, got None"),
    ],
)
def test_errors(given, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        flip_flop(**{"count": 2, "steps": 3, "seed": 0} | given)
