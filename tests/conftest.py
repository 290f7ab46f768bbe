"""What all tests share: programs that compile quickly, are kept for the next run, and can be counted."""

import gc
import os
import subprocess
import sys

import jax
import pytest

# Most of the suite's time is compilation, which these flags make five times cheaper. XLA_FLAGS in the
# environment come first: with `XLA_FLAGS= pytest` tests compile what users run, as the slow ones do in CI.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
PROGRAMS = 3000  # kept at most: each takes six to twelve memory maps, and Linux grants a process 65,530

compiled = 0  # by this process, since it last let its programs go


def pytest_addoption(parser):
    parser.addoption("--compilations", action="store_true", help="print which tests compile most programs")


def pytest_configure(config):
    """Before anything is compiled; worker processes and those that tests start inherit the environment."""
    if "XLA_FLAGS" not in os.environ and known(QUICK):
        os.environ["XLA_FLAGS"] = QUICK


def pytest_collection_finish(session):
    gc.freeze()  # tracing makes many small objects: full collections of all that was imported took an eighth
    gc.set_threshold(50_000, 20, 20)


def known(flags):
    """Whether this XLA knows the flags: it ends a process that has others, so a child tries them."""
    child = [sys.executable, "-c", "import jax; jax.devices()"]
    return subprocess.run(child, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True).returncode == 0


def count(event, seconds, **_):
    global compiled
    compiled += event == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(count)


@pytest.fixture(autouse=True)
def count_and_forget_programs(request):
    global compiled
    before = compiled
    yield
    if request.config.getoption("--compilations"):
        request.node.user_properties.append(("compilations", compiled - before))
    if compiled > PROGRAMS:
        compiled = 0
        jax.clear_caches()
        gc.collect()


def pytest_terminal_summary(terminalreporter, config):
    if not config.getoption("--compilations"):
        return
    ended = [r for r in terminalreporter.stats.get("", []) if r.when == "teardown"]
    counts = sorted(((dict(r.user_properties)["compilations"], r.nodeid) for r in ended), reverse=True)
    terminalreporter.section(f"{sum(n for n, _ in counts)} compilations")
    for n, name in counts[:30]:
        terminalreporter.write_line(f"{n:6} {name}")
