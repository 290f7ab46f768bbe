"""What all tests share: programs that compile quickly, are kept for the next run, and can be counted."""

import contextlib
import ctypes
import gc
import os
import subprocess
import sys

import jax
import pytest

# Most of the suite's time is compilation, which these flags make five times cheaper. XLA_FLAGS in the
# environment come first: with `XLA_FLAGS= pytest` tests compile what users run, as the slow ones do in CI.
QUICK = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1"
)
PROGRAMS = 3000  # kept at most: each takes a megabyte, and twelve of the 65,530 memory maps of a process


def pytest_addoption(parser):
    parser.addoption("--compilations", action="store_true", help="print which tests compile most programs")


def pytest_configure(config):
    """Before anything is compiled; worker processes and those that tests start inherit the environment."""
    config.pluginmanager.register(Programs(), "programs")
    if "XLA_FLAGS" not in os.environ and known(QUICK):
        os.environ["XLA_FLAGS"] = QUICK
    # Programs are kept between runs, by a key of what is compiled, jaxlib's version, the processor and all
    # flags: a stale one is never found, so it turns no test green. A fresh clone starts with none.
    kept = {
        "jax_compilation_cache_dir": str(config.rootpath / ".pytest_cache/programs"),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in kept.items():
        given = os.environ.setdefault(name.upper(), str(value))
        jax.config.update(name, type(value)(given))


def pytest_collection_finish(session):
    gc.freeze()  # tracing makes many small objects: full collections of all that was imported took an eighth
    gc.set_threshold(50_000, 20, 20)


def known(flags):
    """Whether this XLA knows the flags: it ends a process that has others, so a child tries them."""
    child = [sys.executable, "-c", "import jax; jax.devices()"]
    return subprocess.run(child, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True).returncode == 0


@pytest.fixture(scope="session")
def programs(request):
    """How many programs were compiled until now."""
    counted = request.config.pluginmanager.get_plugin("programs")
    return lambda: counted.count


class Programs:
    """Counts the programs that this process compiles, and lets them go before they fill it."""

    def __init__(self):
        self.count = self.before = self.kept = 0
        jax.monitoring.register_event_duration_secs_listener(self.listen)

    def listen(self, event, seconds, **_):
        self.count += event == "/jax/core/compile/backend_compile_duration"

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item):
        self.before = self.count

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, item):
        item.user_properties.append(("compilations", self.count - self.before))
        if self.count - self.kept > PROGRAMS:
            self.kept = self.count
            jax.clear_caches()
            gc.collect()
            with contextlib.suppress(OSError, AttributeError):  # where the C library is glibc, which keeps
                ctypes.CDLL("libc.so.6").malloc_trim(0)  # what XLA's compiler gives back

    def pytest_terminal_summary(self, terminalreporter, config):
        if not config.getoption("--compilations"):
            return
        ended = [r for r in terminalreporter.stats.get("", []) if r.when == "teardown"]
        counts = sorted(((dict(r.user_properties)["compilations"], r.nodeid) for r in ended), reverse=True)
        terminalreporter.section(f"{sum(n for n, _ in counts)} compilations")
        for n, name in counts[:30]:
            terminalreporter.write_line(f"{n:6} {name}")
