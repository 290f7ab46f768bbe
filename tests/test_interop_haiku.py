"""Weights from and to Haiku and Equinox: the same outputs as theirs, and the same bits again.

Every weight is random, biases too. Both libraries are optional; what the tests need of their layouts beyond
that is written out here, so messages are tested without them.
"""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.interop import from_equinox, from_haiku, to_equinox, to_haiku
from tests.test_interop_flax import HIDDEN, IN, TOLERANCE, VOCABULARY, apart, cast, drawn, drawn_model
from tests.test_interop_flax import inputs, same_bits, x64  # noqa: F401
