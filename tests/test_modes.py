"""JAX's strict modes: the tour of the library passes each, and returns what it returns without."""

import contextlib
import functools
import os
import pickle
import subprocess
import sys
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn.testing.subject import default_inputs
from tests import tour
from tests.cases import CASES

STRICT = {  # what raises, and changes no value
    "rank promotion": lambda: jax.numpy_rank_promotion("raise"),
    "dtype promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "transfers": lambda: jax.transfer_guard("disallow"),
    "key reuse": lambda: jax.debug_key_reuse(True),
    "NaN": lambda: jax.debug_nans(True),
    "no legacy keys": lambda: jax.legacy_prng_key("error"),
}
MODES = STRICT | {
    "checks": lambda: jax.enable_checks(True),  # beside it, key reuse is seen where there is none
    "none": contextlib.nullcontext,
    "infinity": lambda: jax.debug_infs(True),
    "leaks": jax.checking_leaks,
    "x64": lambda: jax.enable_x64(True),
    "without jit": jax.disable_jit,
    "rbg": lambda: jax.default_prng_impl("rbg"),
    "partitionable": lambda: jax.threefry_partitionable(True),
    "not partitionable": lambda: jax.threefry_partitionable(False),
    "precision": lambda: jax.default_matmul_precision("highest"),
}
OTHER_DRAWS = ("rbg", "not partitionable", "x64")
EXEMPT = {"infinity": ("CTC",)}  # log-probabilities of prefixes that do not exist are −∞


def walk(modes, data=tour.on_device, exempt=()):
    """What every stop of the tour returns under some modes, all together; all that fail are named at once."""
    found, failed = {}, {}
    jax.clear_caches()  # what was traced or compiled in another mode would not be looked at
    with contextlib.ExitStack() as stack:
        for mode in modes:
            stack.enter_context(MODES[mode]())
        given = data(tour.draw())
        for name in tour.STOPS:
            if name not in exempt:
                try:
                    found[name] = tour.visit(name, given)
                except Exception as error:
                    failed[name] = f"{place(error)}: {type(error).__name__}: {str(error)[:300]}"
    assert not failed, "\n".join(f"{name}: {reason}" for name, reason in failed.items())
    return found


def place(error):
    """The innermost line of the library in a traceback."""
    root = os.path.dirname(jrnn.__file__)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(root)]
    return f"{frames[-1].filename[len(root) + 1 :]}:{frames[-1].lineno}: {frames[-1].line}" if frames else "?"


def compare(found, needed, random):
    for name, stop in tour.STOPS.items():
        if name in found and (random or not stop.random):
            for a, b in zip(found[name], needed[name], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5, err_msg=name)


@functools.cache
def strictly():
    return walk(STRICT)


def test_the_tour_passes_all_that_raises():
    strictly()


def test_the_tour_in_float64_without_promotion_agrees():
    found = walk(["x64", "dtype promotion", "rank promotion"], tour.in_float64)
    compare(found, strictly(), random=False)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [m for m in MODES if m != "none"])
def test_the_tour_agrees_in_every_mode(mode):
    found = walk([mode], exempt=EXEMPT.get(mode, ()))
    compare(found, usual(), random=mode not in OTHER_DRAWS)


@functools.cache
def usual():
    return walk(["none"])


@pytest.mark.slow
def test_the_tour_passes_float32_in_x64_without_promotion():
    compare(walk(["x64", "dtype promotion"]), usual(), random=False)


def on_a_mesh(path):
    """In a process of its own: the tour with its batch split over the explicit axis of a mesh."""
    with jax.set_mesh(jax.make_mesh((2,), ("data",))):
        found = walk(["none"], tour.sharded)
    with open(path, "rb") as file:
        compare(found, pickle.load(file), random=True)
    print(len(found), sys.flags.optimize)


def test_the_tour_agrees_on_an_explicit_mesh_and_without_asserts(tmp_path):
    (tmp_path / "needed").write_bytes(pickle.dumps(strictly()))
    code = f"from tests.test_modes import on_a_mesh; on_a_mesh({str(tmp_path / 'needed')!r})"
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run(
        [sys.executable, "-O", "-W", "error", "-c", code],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "2"},
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{len(tour.STOPS)} 1\n", done.stderr[-5000:]


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.cell))
def test_every_cell_keeps_to_its_ranks_and_dtypes(case):
    """Drawn, stepped, run and differentiated, abstractly, in float32 and under x64."""
    inputs = case.inputs or default_inputs(case.cell, case.in_features)

    def run(key, xs):
        params = case.cell.init(key, case.in_features)
        start = case.cell.initial_carry(params, jnp.shape(jax.tree.leaves(xs)[0])[1:3], key=key)
        case.cell.step(params, start, jax.tree.map(lambda x: x[0], xs))  # names the line, as it is called

        def loss(params):
            options = {"lengths": jnp.zeros(3, jnp.int32), "resets": jnp.zeros((4, 3), bool), "key": key}
            ys = jrnn.unroll(case.cell, params, xs, **options)[1]
            return sum(jnp.sum(jnp.abs(y)) for y in jax.tree.leaves(ys))

        return jax.grad(loss)(params)

    for wide in (False, True):
        with jax.enable_x64(wide), jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
            drawn = jax.tree.map(np.asarray, inputs(np.random.default_rng(0), (4, 3, 2)))
            xs = jax.tree.map(lambda a: a.astype(jax.dtypes.canonicalize_dtype(a.dtype)), drawn)
            jax.eval_shape(run, jax.random.key(0), xs)
