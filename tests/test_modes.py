"""JAX's strict modes: the tour of the library passes each, and returns what it returns without."""

import contextlib
import functools
import gc
import os
import pickle
import subprocess
import sys
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding

import jrnn
from jrnn._alignment import joined, select
from jrnn.cell import batch_shape_of
from jrnn.testing.subject import cast, default_inputs, is_float
from tests import tour
from tests.cases import CASES, one_in, turn
from tests.entries import Case

pytestmark = pytest.mark.engine

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
# an exported program is of one device
OFF_MESH = ("export",)
EXEMPT = {"infinity": ("CTC",)}  # log-probabilities of prefixes that do not exist are −∞


def walk(modes, data=tour.on_device, exempt=()):
    """What every stop of the tour returns under some modes, all together; all that fail are named at once."""
    found, failed = {}, {}
    jax.clear_caches()  # what was traced or compiled in another mode would not be looked at
    gc.collect()
    gc.freeze()  # the search for leaks goes through all objects after every trace: not those of other tests
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
    if failed:  # no assert: one of the processes runs without
        raise AssertionError("\n".join(f"{name}: {reason}" for name, reason in failed.items()))
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


@pytest.mark.slow
def test_the_tour_in_float64_without_promotion_agrees():
    found = walk(["x64", "dtype promotion", "rank promotion"], tour.in_float64)
    compare(found, strictly(), random=False)


REST = ["checks"], ["infinity", "partitionable", "precision"], ["leaks", "not partitionable"]
REST += ["without jit"], ["rbg"], ["x64", "dtype promotion"]


@pytest.mark.slow
@pytest.mark.parametrize("modes", REST, ids=" and ".join)
def test_the_tour_agrees_in_the_other_modes(modes):
    """In x64 it is that of float32, which nothing may promote."""
    found = walk(modes, exempt=EXEMPT.get(modes[0], ()))
    compare(found, usual(), random=not set(modes).intersection(OTHER_DRAWS))


def test_no_mode_is_left_out():
    assert {"none", *STRICT, *(mode for modes in REST for mode in modes)} == set(MODES)


@functools.cache
def usual():
    return walk(["none"])


def on_a_mesh(path):
    """In a process of its own: the tour with its batch split over the explicit axis of a mesh."""
    with jax.set_mesh(jax.make_mesh((2,), ("data",))):
        found = walk(["none"], tour.sharded, exempt=OFF_MESH)
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
    assert done.stdout == f"{len(tour.STOPS) - len(OFF_MESH)} 1\n", done.stderr[-5000:]


MESH = jax.sharding.AbstractMesh((2,), ("data",), axis_types=(AxisType.Explicit,))
AUTO = jax.sharding.AbstractMesh((2,), ("data",), axis_types=(AxisType.Auto,))


def drawn(case):
    """Inputs of (time, 4, 2) sequences, which of them are valid and start anew, and a key, in NumPy."""
    inputs = case.inputs or default_inputs(case.cell, case.in_features)
    xs = jax.tree.map(np.asarray, inputs(np.random.default_rng(0), (3, 4, 2)))
    xs = jax.tree.map(lambda a: a.astype(jax.dtypes.canonicalize_dtype(a.dtype)), xs)
    return xs, np.zeros(4, np.int32), np.zeros((3, 4), bool)


def gradient(case, xs, lengths, resets):
    """Of the parameters and the inputs, with noise."""
    key = jax.random.key(0)

    def loss(floats):
        params, xs = floats
        ys = jrnn.unroll(case.cell, params, xs, lengths=lengths, resets=resets, key=key)[1]
        return sum(jnp.sum(jnp.abs(y)) for y in jax.tree.leaves(ys))

    params = case.cell.init(key, case.in_features)
    return jax.grad(loss, allow_int=True)((params, xs))


def in_strict_mode(case):
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        xs = drawn(case)[0]

        def step(key, xs):  # as it is called, so that the line which promotes is named
            params, x = case.cell.init(key, case.in_features), jax.tree.map(lambda a: a[0], xs)
            start = case.cell.initial_carry(params, batch_shape_of(case.cell, x), key=key)
            return case.cell.step(params, start, x)

        jax.eval_shape(step, jax.random.key(0), xs)
        on_an_explicit_mesh(case)


def on_an_explicit_mesh(case):
    def split(a, *spec):
        return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=NamedSharding(MESH, jax.P(*spec)))

    with jax.sharding.use_abstract_mesh(MESH):
        xs, lengths, resets = drawn(case)
        xs = jax.tree.map(lambda a: split(a, None, "data"), xs)
        flags = split(lengths, "data"), split(resets, None, "data")
        jax.eval_shape(functools.partial(gradient, case), xs, *flags)


def in_strict_mode_with_x64_on_an_explicit_mesh(case):
    with jax.enable_x64(True):
        in_strict_mode(case)


def in_a_shard_map(case):
    specs = jax.P(None, "data"), jax.P("data"), jax.P(None, "data")
    run = functools.partial(gradient, case)
    mapped = jax.shard_map(run, mesh=AUTO, in_specs=specs, out_specs=(jax.P(), jax.P(None, "data")))
    with jax.sharding.use_abstract_mesh(AUTO):
        jax.eval_shape(mapped, *drawn(case))


def on_inputs_of_another_dtype(case):
    """Of one of the pairs, by the name of the cell: what meets in a step is aligned ahead of it."""
    xs, lengths, resets = drawn(case)
    mine, theirs = DTYPES[turn(case, len(DTYPES))]

    def run(key, xs, dtype):
        params = jax.tree.map(lambda a: cast(a, dtype), case.cell.init(key, case.in_features))
        floats = [leaf for leaf in jax.tree.leaves((params, xs)) if is_float(leaf)]
        ys = jrnn.unroll(case.cell, params, xs, lengths=lengths, resets=resets)[1]
        return jax.tree.leaves(ys)[0], jnp.zeros((), jnp.result_type(*floats))

    given = jax.tree.map(functools.partial(cast, dtype=theirs), xs)
    y, needed = jax.eval_shape(functools.partial(run, dtype=mine), jax.random.key(0), given)
    assert y.dtype == needed.dtype or "dtypes are kept" in case.exempt


DTYPES = ("float32", "bfloat16"), ("bfloat16", "float32"), ("bfloat16", "float16")


def register(length):
    """A user's cell whose state is a queue: what comes in travels on by one place a step."""
    return jrnn.from_functions(
        lambda key, in_features: jax.random.normal(key, (in_features, 3)),
        lambda params, batch_shape=(), *, key=None: (jnp.zeros((*batch_shape, 3), params.dtype),) * length,
        lambda params, carry, x: ((x @ params, *carry[:-1]), carry[-1]),
        out_features=3,
    )


LONG = [Case(jrnn.QRNN(4, window=12), 2), Case(jrnn.Window(12, 2), 2), Case(register(12), 2)]


EVERY = [*CASES, *LONG]
PLACES = {
    in_strict_mode_with_x64_on_an_explicit_mesh: EVERY,
    in_a_shard_map: [
        *one_in(2, CASES),
        *LONG,
    ],  # the cell is traced as on the mesh: what differs is the start
    on_inputs_of_another_dtype: EVERY,
    in_strict_mode: one_in(8, EVERY, 6),
}
TRACED = [
    pytest.param(
        place,
        case,
        id=f"{place.__name__}-{str(case.cell)[:60]}",
        marks=[pytest.mark.slow] if place is in_strict_mode else [],
    )
    for place, cases in PLACES.items()
    for case in cases
]


@pytest.mark.parametrize("place, case", TRACED)
def test_every_cell_can_be_traced(place, case):
    place(case)


@pytest.mark.parametrize("whole", (0, 1))
def test_what_meets_is_sharded_as_what_is_sharded(whole):
    with jax.sharding.use_abstract_mesh(MESH):
        split = jax.ShapeDtypeStruct((4, 3), jnp.float32, sharding=NamedSharding(MESH, jax.P("data")))

        def meet(given):
            pair = [given, given]
            pair[whole] = jnp.zeros(given.shape, jnp.bfloat16)
            return select(jnp.ones(4, bool), *pair), joined(*pair)

        for found in jax.eval_shape(meet, split):
            assert found.sharding.spec[0] == "data" and found.dtype == jnp.float32


def test_gradients_pass_with_the_checkpoints_that_jax_tries_out():
    cell, xs = jrnn.LSTM(2), jnp.ones((4, 1, 1))
    params = cell.init(jax.random.key(0), 1)
    gradient = lambda method: jax.grad(lambda p: jnp.sum(jrnn.unroll(cell, p, xs, method=method)[1]))(params)
    needed = gradient(jrnn.Scan())
    jax.config.update("jax_remat3", True)
    try:
        found = [gradient(method) for method in (jrnn.Scan(), jrnn.Scan("sqrt"))]
    finally:
        jax.config.update("jax_remat3", False)
    for tree in found:
        for a, b in zip(tree, needed, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_loops_of_no_steps_pass_without_jit():
    """`lax.scan` refuses them there: nothing to read before the last token, or beside the steps looked at."""
    cell, xs = jrnn.Elman(2), jnp.ones((2, 1))
    params = cell.init(jax.random.key(0), 1)
    with jax.disable_jit():
        carry, ys = jrnn.unroll(cell, params, xs[:0], jnp.ones(2))
        assert carry.tolist() == [1, 1] and ys.shape == (0, 2)
        assert len(jrnn.analysis.lyapunov(cell, params, xs).exponents) == 1
        assert jrnn.analysis.spectra(cell, params, xs).eigenvalues.shape == (2, 2)
