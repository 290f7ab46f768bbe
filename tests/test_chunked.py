"""`Chunked` against `Scan`: values and gradients of every kind of matrix state, in every mode."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jrnn
from jrnn import Chunked
from jrnn.unrolling._chunks import decay_products
from tests.cells import ENTRIES
from tests.values import assert_close

METHODS = jrnn.Scan(), Chunked(4)
KEY = jax.random.key(0)
STEPS, BATCH, HEADS, KEYS, VALUES = 11, 2, 2, 3, 4
RESETS = np.zeros((STEPS, BATCH), bool)
RESETS[3, 0] = RESETS[4, 0] = RESETS[7, 1] = RESETS[2, 1] = True
RAGGED = {"resets": RESETS, "lengths": np.array([STEPS, 6]), "reverse": True}
SIZES = {"k": KEYS, "q": KEYS, "a": KEYS, "l": KEYS, "v": VALUES, "d": VALUES, "z": VALUES, "g": 1, "b": 1}


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def outer(k, v):
    return k[..., :, None] * v[..., None, :]


def read(s, q):
    return jnp.einsum("...r,...rc->...c", q, s)


def unit(k):
    return k / jnp.linalg.norm(k, axis=-1, keepdims=True)


def delta(s, k, b, v):
    return s + outer(b * k, v - read(s, k))


def bonus(s, z):  # what is read is neither the state before the step nor that after it
    return z.a[..., None] * s + outer(z.k, z.v), read(s + outer(z.l * z.k, z.v), z.q)


def transposed(s, z):  # values by keys, as a product of matrices
    s = z.g[..., None] * s + z.d[..., :, None] @ z.a[..., None, :]
    return s, (s @ z.a[..., :, None])[..., 0]


def gated_delta(s, z):
    return delta(z.g[..., None] * s, z.k, z.b, z.v)


def householders(s, z):
    return delta(gated_delta(s, z), z.l, 2 * z.b, z.d)


def three_householders(s, z):  # and a decay for each key, between them
    return delta(z.a[..., None] * householders(s, z), unit(z.q), 1.5 * z.g, z.v)


def two_heads_axes(s, z):  # (..., heads, 2, keys, values), a second axis of heads of which keys know nothing
    v = jnp.stack([z.v, jnp.sin(z.d)], -2)
    k, beta = z.k[..., None, :], jnp.stack([z.b, z.g], -2)
    s = jnp.stack([z.g, z.b], -2)[..., None] * s
    s = s + outer(k, beta * (v - read(s, k)))
    return s, read(s, z.q[..., None, :]).sum(-2)


KINDS = {
    "nothing decays": lambda s, z: s + outer(z.k, z.v),
    "a number decays": lambda s, z: z.g[..., None] * s - outer(z.k, z.v) / 2,
    "a negative number decays": lambda s, z: jnp.sin(3 * z.g[..., None]) * s + outer(z.k, z.v),
    "decays are zero": lambda s, z: jnp.where(z.g > 0.5, z.g, 0)[..., None] * s + outer(z.k, z.v),
    "rows decay": lambda s, z: z.a[..., None] * s + outer(z.k, z.v),
    "columns decay": lambda s, z: jax.nn.sigmoid(z.d)[..., None, :] * s + outer(z.k, z.v),
    "delta rule": lambda s, z: delta(s, z.k, z.b, z.v),
    "gated delta rule": gated_delta,
    "delta rule, rows decay": lambda s, z: delta(z.a[..., None] * s, z.k, z.b, z.v),
    "two Householders": householders,
    "three Householders": three_householders,
    "two axes of heads": two_heads_axes,
    "dense": lambda s, z: s - z.k[..., :, None] @ (z.k[..., None, :] @ s) + outer(z.l, z.v),
    "bonus": bonus,
    "transposed": transposed,
}


class Inputs:
    """The vectors of a step by their letters."""

    def __init__(self, params, x):
        for name, w in params.items():
            setattr(self, name, jnp.einsum("...i,ihd->...hd", x, w))
        self.k, self.l = unit(self.k), unit(self.l)
        self.g, self.b, self.a = map(jax.nn.sigmoid, (self.g, self.b, self.a))


@functools.cache
def cell_of(kind):
    """A cell of a kind; its state starts from what is no zero."""
    shape = (HEADS, VALUES, KEYS) if kind == "transposed" else (HEADS, KEYS, VALUES)
    shape = (HEADS, 2, KEYS, VALUES) if kind == "two axes of heads" else shape

    def init(key, in_features):
        shapes = {name: (in_features, HEADS, size) for name, size in SIZES.items()}
        return {name: jax.random.normal(key, s) + len(name) for name, s in shapes.items()}

    def initial_carry(params, batch_shape=(), *, key=None):
        return jnp.zeros((*batch_shape, *shape)) + jnp.arange(shape[-1])

    def step(params, s, x):
        z = Inputs(params, x)
        found = KINDS[kind](s, z)
        s, y = found if isinstance(found, tuple) else (found, read(found, z.q))
        y = jnp.tanh(y / (1 + jnp.abs(jnp.sum(z.k * z.q, -1, keepdims=True))))  # after it, anything goes
        return s, y.reshape(*y.shape[:-2], -1)

    return jrnn.from_functions(init, initial_carry, step, HEADS * VALUES)


def drawn(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.standard_normal(a.shape), a.dtype), tree)


def weighted(out):
    return sum(jnp.vdot(w, a) for w, a in zip(*map(jax.tree.leaves, (drawn(out, 5), out)), strict=True))


def both(cell, in_features=3, steps=STEPS, methods=METHODS, **options):
    """Outputs and all gradients by each method."""
    params = drawn(jax.eval_shape(lambda: cell.init(KEY, in_features)))
    start = drawn(cell.initial_carry(params, (BATCH,)), 2)
    xs = np.random.default_rng(3).standard_normal((steps, BATCH, in_features))

    def results(params, start, xs, method):
        out = jax.tree.leaves(jrnn.unroll(cell, params, xs, start, method=method, **options))
        out = [leaf for leaf in out if jnp.issubdtype(leaf.dtype, jnp.floating)]  # without keys of noise
        return weighted(out), out

    @jax.jit
    def run(*arguments):
        grad = jax.grad(results, argnums=(0, 1, 2), has_aux=True)
        return [grad(*arguments, method) for method in methods]

    return run(params, start, jnp.asarray(xs))


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_are_a_scan(kind):
    scanned, chunked = both(cell_of(kind), **RAGGED)
    assert_close(chunked, scanned, rtol=1e-11)


MATRICES = ["MLSTM", "LinearAttention", "RetNet", "GLA", "HGRN2", "Mamba2", "DeltaNet", "GatedDeltaNet"]
MATRICES += ["DeltaProduct", "KDA", "GDN2", "Comba", "RWKV6", "RWKV7", "MesaNet"]
OPTIONS = {"RWKV7": {}, "MLSTM": {}, "SHM": {"rows": 5}, "S6": {"state": 3}}  # of others: two heads


@pytest.mark.parametrize("name", [*MATRICES, "SHM", "S6"])
def test_cells_of_matrices_run_in_chunks(name):
    scanned, chunked = both(getattr(jrnn, name)(4, **OPTIONS.get(name, {"heads": 2})), **RAGGED)
    assert_close(chunked, scanned, rtol=1e-11)


def test_every_cell_of_this_form_is_in_the_list():
    """Of the cells whose carry has a matrix, all others are refused."""
    found = set()
    for case in (case for entry in ENTRIES.values() for case in entry.laws):
        params = jax.eval_shape(functools.partial(case.cell.init, in_features=case.in_features), KEY)
        carry = jax.eval_shape(case.cell.initial_carry, params)
        if case.inputs is None and any(leaf.ndim >= 2 for leaf in jax.tree.leaves(carry)):
            xs = jax.ShapeDtypeStruct((2, case.in_features), "float64")
            run = functools.partial(jrnn.unroll, case.cell, method=Chunked())
            try:
                jax.eval_shape(run, params, xs)
            except ValueError as error:
                assert "method=Chunked() needs" in str(error)
            else:
                found.add(type(case.cell).__name__)
    assert found == {*MATRICES, "SHM", "S6"}


DEEP = jrnn.Stack((jrnn.Block(jrnn.GatedDeltaNet(3)), jrnn.GRU(3), jrnn.MLSTM(2, heads=2)))
BESIDE = {
    "layers": DEEP,
    "tapped gates": jrnn.Tap(jrnn.GatedDeltaNet(4, heads=2), ("alpha", "beta")),
    "noise": jrnn.Dropout(jrnn.DeltaNet(4), input=0.5, output=0.5),
}


@pytest.mark.parametrize("beside", BESIDE)
def test_what_stands_beside_a_matrix_runs(beside):
    options = RAGGED | ({"key": jax.random.key(1)} if beside == "noise" else {})
    scanned, chunked = both(BESIDE[beside], **options)
    assert_close(chunked, scanned, rtol=1e-11)


def test_a_program_for_every_number_of_steps():
    cell = jrnn.GatedDeltaNet(4, heads=2)
    params = jax.tree.map(lambda a: a.astype("float64"), cell.init(KEY, 3))
    xs = np.random.default_rng(3).standard_normal((11, BATCH, 3))
    run = jax.jit(lambda xs: jrnn.unroll(cell, params, xs, reverse=True, method=Chunked(4)))
    exported = export.export(run)(jax.ShapeDtypeStruct((*export.symbolic_shape("t"), BATCH, 3), xs.dtype))
    for steps in (3, 11):
        assert_close(
            exported.call(xs[:steps]), jrnn.unroll(cell, params, xs[:steps], reverse=True), rtol=1e-11
        )


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_every_length_runs(steps):
    scanned, *chunked = both(
        cell_of("gated delta rule"), steps=steps, methods=(jrnn.Scan(), Chunked(4), Chunked())
    )
    for each in chunked:
        assert_close(each, scanned, rtol=1e-11)


def test_a_gradient_keeps_the_states_between_chunks_alone():
    """Its temporaries: 16 states, and the vectors of one chunk; a scan keeps 256 states."""
    cell = jrnn.GatedDeltaNet(32, heads=2)
    params = cell.init(KEY, 4)

    def temporaries(method):
        loss = lambda p: jnp.sum(jrnn.unroll(cell, p, jnp.ones((256, 4, 4), "float32"), method=method)[1])
        return jax.jit(jax.grad(loss)).lower(params).compile().memory_analysis().temp_size_in_bytes

    assert 4 * temporaries(Chunked(16)) < temporaries(jrnn.Scan())


def test_derivatives_of_every_mode():
    cell = cell_of("gated delta rule")
    params = cell.init(KEY, 3)
    xs = jnp.asarray(np.random.default_rng(3).standard_normal((5, BATCH, 3)))

    def loss(xs, method):
        return jnp.sum(jrnn.unroll(cell, params, xs, method=method)[1] ** 2)

    def along(f, xs):
        return jax.jvp(f, (xs,), (jnp.cos(xs),))[1]

    @jax.jit
    def run(xs):
        found = []
        for method in (jrnn.Scan(), Chunked(2)):
            f = functools.partial(loss, method=method)
            each = jax.vmap(lambda x, f=f: f(x[:, None]), 1)
            found.append((along(f, xs), along(jax.grad(f), xs), along(lambda x, e=each: e(x), xs)))
        return found

    scanned, chunked = run(xs)
    assert_close(chunked, scanned, rtol=1e-11)


FIELDS = {"gates", "dt", "beta", "decay"}  # of params, that are weights of gates alone
LETTERS = {
    "GLA": (-1, "qkva"),
    "HGRN2": (-1, "qav"),
    "RWKV6": (0, "rwkv"),
    "RWKV7": (0, "rwkva"),
}  # a and w are gates


def saturated(name, params, size):
    """Parameters whose gates are closed or open, but for rounding: their arguments are ± thousands."""

    def visit(path, leaf):
        if path[-1].name != "w_ih":
            return leaf
        if path[0].name in FIELDS:
            return size * leaf
        if path[0].name != "w_ih" or name not in LETTERS:
            return leaf
        axis, letters = LETTERS[name]
        parts = zip(letters, jnp.split(leaf, len(letters), axis), strict=True)
        return jnp.concatenate([size * part if z in "aw" else part for z, part in parts], axis)

    return jax.tree_util.tree_map_with_path(visit, params)


def coarse(tree):
    """Numbers of a few bits, whose products are exact in any dtype."""
    return jax.tree.map(lambda a: jnp.round(4 * a) / 4, tree)


@pytest.mark.parametrize("name", MATRICES)
def test_no_gate_overflows(name):
    """In chunks, in float32 as a scan in float64; outputs and gradients are finite in bfloat16 too."""
    cell = getattr(jrnn, name)(4, **OPTIONS.get(name, {"heads": 2}))
    params = coarse(drawn(jax.eval_shape(lambda: cell.init(KEY, 3))))
    xs = coarse(jnp.asarray(np.random.default_rng(3).standard_normal((8, BATCH, 3))))
    cast = lambda dtype, tree: jax.tree.map(lambda a: a.astype(dtype), tree)

    @jax.jit
    def chunked(params, xs):
        def loss(params):
            ys = jrnn.unroll(cell, params, xs, method=Chunked(4))[1]
            return jnp.sum(ys.astype("float32")), ys

        return jax.grad(loss, has_aux=True)(params)

    scanned = jax.jit(lambda params: jrnn.unroll(cell, params, xs)[1])
    for size in (1e4, -1e4):
        given = saturated(name, params, size)
        for dtype in ("float32", "bfloat16"):
            gradients, ys = chunked(cast(dtype, given), cast(dtype, xs))
            assert all(bool(jnp.isfinite(a).all()) for a in jax.tree.leaves((gradients, ys)))
            if dtype == "float32":
                right = scanned(given)
                np.testing.assert_allclose(ys, right, rtol=1e-5, atol=1e-5 * jnp.abs(right).max())


@pytest.mark.parametrize("kind", ["rows decay", "delta rule"])
def test_nothing_of_the_old_state_passes_a_reset(kind):
    cell = cell_of(kind)
    params = cell.init(KEY, 3)
    xs = jnp.asarray(np.random.default_rng(3).standard_normal((STEPS, 3)))
    resets = np.arange(STEPS) == 4
    start = cell.initial_carry(params) * 1e300
    after, ys = jrnn.unroll(cell, params, xs, start, resets=resets, method=Chunked(8))
    fresh, rest = jrnn.unroll(cell, params, xs[4:], method=Chunked(8))
    assert_close((after, ys[4:]), (fresh, rest), rtol=1e-12)


def test_decays_keep_their_digits_behind_a_small_one():
    decays = np.ones(5, "float32") * 0.7
    decays[1] = 1e-30
    found = decay_products(jnp.asarray(decays))
    right = [[np.prod(decays[b:a], dtype="float64") if a >= b else 0 for b in range(6)] for a in range(6)]
    np.testing.assert_allclose(found, right, rtol=1e-6)


def refusal(cell, in_features=3):
    params = cell.init(KEY, in_features)
    with pytest.raises(ValueError, match=r"^method=Chunked\(\) needs a state that is a matrix") as error:
        jrnn.unroll(cell, params, jnp.ones((4, in_features)), method=Chunked())
    return str(error.value)


def of_step(step):
    """A cell of one head with parameters a, (in, d), and b, (in, d)."""
    return jrnn.from_functions(
        lambda key, n: (jnp.ones((n, KEYS)), jnp.ones((n, KEYS))),
        lambda params, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, KEYS, KEYS)),
        lambda params, s, x: step(s, x @ params[0], x @ params[1]),
        KEYS,
    )


REFUSED = {
    "its next value takes it through tanh": lambda s, k, v: (jnp.tanh(s) + outer(k, v), read(s, k)),
    "it is handed out as it is": lambda s, k, v: (s + outer(k, v), s),
    "exp takes it": lambda s, k, v: (s + outer(k, v), read(jnp.exp(s), k)),
    "it is multiplied with a matrix": lambda s, k, v: (jnp.cos(outer(k, v)) @ s + outer(k, v), read(s, k)),
    "it is multiplied with no vector": lambda s, k, v: (s + outer(k, v), k),
    "different axes": lambda s, k, v: (s + outer(k, v), read(s, k) + read(jnp.swapaxes(s, -1, -2), v)),
    "its axes change places": lambda s, k, v: (jnp.swapaxes(s, -1, -2) + outer(k, v), read(s, k)),
    "no product of two vectors": lambda s, k, v: (s + jnp.cos(outer(k, v)), read(s, k)),
    "it is summed over more than one axis": lambda s, k, v: (s + outer(k, v), jnp.sum(s * outer(k, v)) * v),
    "its next value takes it through dot_general": lambda s, k, v: (s @ s + outer(k, v), read(s, k)),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_no_such_state_is_refused_by_name(why):
    told = refusal(of_step(REFUSED[why]))
    assert why in told and "of carry, " in told
    line = REFUSED[why].__code__.co_firstlineno
    assert "takes it" not in why or f"({__file__}:{line})" in told


def test_other_cells_are_refused_or_run_otherwise():
    assert "of carry.c, tanh takes it (" in refusal(jrnn.LSTM(4))
    assert "of carry.cells" in refusal(jrnn.Block(jrnn.S5(3)))  # beside it, complex constants
    cell = jrnn.GRU(4)
    params, xs = cell.init(KEY, 3), jnp.ones((5, 3))
    method = Chunked(otherwise=jrnn.Scan())
    assert_close(jrnn.unroll(cell, params, xs, method=method), jrnn.unroll(cell, params, xs))
    for size in (0, True, 2.5):
        with pytest.raises(ValueError, match="size must be a number of steps"):
            Chunked(size)
