"""What all tests share: programs that compile quickly, and that are let go before they fill the process."""

import os

# Before jax is imported, and for the processes that tests start: the suite's time goes into compilation.
# The notebooks run what users run; so do the tests with JAX_DISABLE_MOST_OPTIMIZATIONS=0 in the environment.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import pytest

PROGRAMS = 3000  # kept at most: each takes six to twelve memory maps, and Linux grants a process 65,530

compiled = 0


def count(event, seconds, **_):
    global compiled
    compiled += event == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(count)


@pytest.fixture(autouse=True)
def forget_programs():
    global compiled
    yield
    if compiled > PROGRAMS:
        compiled = 0
        jax.clear_caches()
