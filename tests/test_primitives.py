"""Whatever a step is made of: `unroll` gives the numbers and derivatives that plain `lax.scan` gives.

Each step has weights, state and inputs in every role that its primitive allows; where plain `lax.scan` has a
derivative, so has the engine.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import checkify, io_callback
from jax.experimental.sparse import BCOO

import jrnn
from jrnn.testing.subject import Subject, default_inputs
from tests.plain import Plain

pytestmark = pytest.mark.engine

H, T, B = 3, 5, 2


def mix(w, h, x):
    return jnp.tanh(x @ w["i"] + h @ w["h"] + w["b"])


@jax.custom_jvp
def squash(w, h):
    return jnp.tanh(h @ w)


@squash.defjvp
def _squash_jvp(primals, tangents):
    y, t = jax.jvp(lambda w, h: jnp.tanh(h @ w), primals, tangents)
    return y, 0.5 * t


@jax.custom_vjp
def straight_through(w, h):
    return jnp.round(4 * (h @ w)) / 4


straight_through.defvjp(
    lambda w, h: (straight_through(w, h), (w, h)),
    lambda kept, d: (kept[1].T @ d, d @ kept[0].T) if d.ndim == 2 else (jnp.outer(kept[1], d), kept[0] @ d),
)


@jax.custom_vjp
def scaled(h):
    return 2 * h


scaled.defvjp(lambda h: (2 * h, None), lambda _, d: (3 * d,))


def called_back(function, a):
    """A function of NumPy, which `vmap` refuses."""
    return jax.pure_callback(function, jax.ShapeDtypeStruct(a.shape, a.dtype), a)


def calling_back(w, h, x):
    h = mix(w, h, x)
    return h + called_back(np.sin, lax.stop_gradient(x)), called_back(np.sin, lax.stop_gradient(h))


@jax.custom_vjp
def backwards_in_numpy(z):
    return jnp.sin(z)


backwards_in_numpy.defvjp(lambda z: (jnp.sin(z), z), lambda z, d: (d * called_back(np.cos, z),))


@jax.custom_jvp
def forwards_in_numpy(h, w):
    return jnp.sin(h @ w)


@forwards_in_numpy.defjvp
def _forwards_in_numpy_jvp(primals, tangents):
    z, t = jax.jvp(jnp.matmul, primals, tangents)
    return jnp.sin(z), t * called_back(np.cos, z)


@jax.custom_batching.custom_vmap
def mapped_by_rule(h):
    return jnp.sin(h)


@mapped_by_rule.def_vmap
def _mapped_by_rule_vmap(axis_size, in_batched, h):
    return jnp.sin(h), in_batched[0]


def in_shards(function, *args):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.shard_map(function, mesh=mesh, in_specs=jax.P(), out_specs=jax.P())(*args)


def solved(w, h):
    matrix = 2 * jnp.eye(H) + 0.1 * w
    solve = lambda f, b: jnp.linalg.solve(matrix, b.T).T
    return lax.custom_linear_solve(lambda v: v @ matrix.T, h, solve, lambda f, b: b @ jnp.linalg.inv(matrix))


def root(w, h):
    """Solve y = tanh(y W) / 2 + h by iteration."""
    f = lambda y: y - 0.5 * jnp.tanh(y @ w) - h
    solve = lambda f, y: lax.fori_loop(0, 60, lambda _, y: y - f(y), y)
    linear = lambda g, b: jnp.linalg.solve(jax.jacobian(g)(b).reshape(b.size, b.size), b.ravel()).reshape(
        b.shape
    )
    return lax.custom_root(f, h, solve, linear)


def inner_scan(w, h):
    return lax.scan(lambda c, _: (jnp.tanh(c @ w), None), h, None, length=3)[0]


def first_row(x):
    return x.ravel()[0]


INNER = jrnn.Elman(H)

STEPS = {
    "cond, weight in a branch": lambda w, h, x: lax.cond(first_row(x) > 0, lambda: mix(w, h, x), lambda: h),
    "cond, weights as operands": lambda w, h, x: (
        lax.cond(first_row(x) > 0, lambda w, h: h @ w, lambda w, h: h @ w.T, w["h"], h) + x @ w["i"]
    ),
    "cond on the state": lambda w, h, x: lax.cond(
        jnp.sum(h) > 0, lambda: mix(w, h, x), lambda: mix(w, -h, x)
    ),
    "cond on a weight": lambda w, h, x: lax.cond(w["b"][0] > 9, lambda: h, lambda: mix(w, h, x)),
    "cond, only state": lambda w, h, x: lax.cond(first_row(x) > 0, jnp.sin, jnp.cos, mix(w, h, x)),
    "switch": lambda w, h, x: lax.switch(
        jnp.int32(3 * jnp.abs(first_row(x))), [lambda: mix(w, h, x), lambda: h @ w["h"], lambda: x @ w["i"]]
    ),
    "while": lambda w, h, x: lax.while_loop(
        lambda c: jnp.sum(jnp.abs(c)) > 1, lambda c: 0.5 * c, mix(w, h, x)
    ),
    "fori": lambda w, h, x: lax.fori_loop(0, 3, lambda i, c: jnp.tanh(c @ w["h"] + x @ w["i"]), h),
    "scan": lambda w, h, x: inner_scan(w["h"], h) + x @ w["i"],
    "associative scan": lambda w, h, x: lax.associative_scan(jnp.multiply, mix(w, h, x), axis=-1),
    "map": lambda w, h, x: lax.map(lambda row: row @ w["h"], h) + x @ w["i"],
    "custom_jvp": lambda w, h, x: squash(w["h"], h) + x @ w["i"],
    "custom_vjp of weight and state": lambda w, h, x: straight_through(w["h"], h) + x @ w["i"],
    "custom_vjp of the input": lambda w, h, x: mix(w, h, x) + straight_through(w["i"], x),
    "custom_vjp of the state": lambda w, h, x: mix(w, scaled(h), x),
    "custom_vjp of a weight": lambda w, h, x: jnp.tanh(h @ scaled(w["h"]) + x @ w["i"]),
    "custom_vjp behind the loop": lambda w, h, x: (mix(w, h, x), scaled(h @ w["h"])),
    "custom_linear_solve": lambda w, h, x: jnp.tanh(solved(w["h"], h)) + x @ w["i"],
    "custom_root": lambda w, h, x: 0.5 * root(0.3 * w["h"], h) + x @ w["i"],
    "checkpoint": lambda w, h, x: jax.checkpoint(mix)(w, h, x),
    "jit": lambda w, h, x: jax.jit(mix)(w, h, x),
    "pure_callback": lambda w, h, x: (
        mix(w, h, x)
        + jax.pure_callback(
            np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), lax.stop_gradient(x), vmap_method="expand_dims"
        )[..., :1]
    ),
    "callbacks without a batching rule": calling_back,
    "a rule of custom_vjp without a batching rule": lambda w, h, x: (
        h @ w["h"] + backwards_in_numpy(x @ w["i"])
    ),
    "a rule of custom_jvp without a batching rule": lambda w, h, x: forwards_in_numpy(h, w["h"]) + x @ w["i"],
    "io_callback": lambda w, h, x: (
        mix(w, h, x) + io_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), lax.stop_gradient(x))
    ),
    "custom_vmap": lambda w, h, x: mapped_by_rule(h) @ w["h"] + mapped_by_rule(x @ w["i"]),
    "sparse": lambda w, h, x: jnp.tanh(
        h @ w["h"] + (BCOO.fromdense(w["i"], nse=H * H) @ x.reshape(-1, H).T).T.reshape(x.shape)
    ),
    "shard_map": lambda w, h, x: in_shards(jnp.sin, h @ w["h"]) + x @ w["i"],
    "random, by state and input": lambda w, h, x: (
        mix(w, h, x)
        * jax.random.normal(
            jax.random.fold_in(jax.random.key(1), (1e3 * (first_row(x) + first_row(h))).astype(jnp.int32)),
            h.shape,
        )
    ),
    "random": lambda w, h, x: mix(w, h, x) * jax.random.bernoulli(jax.random.key(1), 0.5, h.shape),
    "fft": lambda w, h, x: jnp.fft.irfft(jnp.fft.rfft(mix(w, h, x)) * (1 + 1j * w["b"][0]), n=H) + h @ w["h"],
    "solve": lambda w, h, x: jnp.linalg.solve(2 * jnp.eye(H) + 0.1 * w["h"], mix(w, h, x).T).T,
    "cholesky and qr": lambda w, h, x: (
        mix(w, h, x)
        @ jnp.linalg.cholesky(jnp.eye(H) + w["h"] @ w["h"].T)
        @ jnp.linalg.qr(w["h"] + 2 * jnp.eye(H))[0]
    ),
    "eigh": lambda w, h, x: 0.1 * jnp.linalg.eigh(w["h"] + w["h"].T)[0] + mix(w, h, x),
    "svd": lambda w, h, x: (
        mix(w, h, x) * jnp.linalg.svd(w["h"] + jnp.diag(x.ravel()[:H]), compute_uv=False) / 3
    ),
    "gather": lambda w, h, x: mix(w, h, x) + w["h"][jnp.argmax(h, axis=-1)],
    "scatter": lambda w, h, x: mix(w, h, x).at[..., jnp.array([0, 2])].add(0.5 * h[..., :2]),
    "dynamic slice": lambda w, h, x: (
        mix(w, h, x) + lax.dynamic_slice(w["h"], (jnp.int32(first_row(x) > 0), jnp.int32(0)), (1, H))
    ),
    "sort": lambda w, h, x: jnp.sort(mix(w, h, x), axis=-1) + 0.1 * h,
    "top_k": lambda w, h, x: mix(w, h, x) * lax.top_k(h @ w["h"], 1)[0],
    "cumulative": lambda w, h, x: jnp.cumsum(mix(w, h, x), -1) + jnp.cumprod(1 + 0.1 * h, -1),
    "max and argmax": lambda w, h, x: mix(w, h, x) * jnp.max(h @ w["h"], -1, keepdims=True),
    "convolution": lambda w, h, x: jnp.tanh(
        lax.conv_general_dilated(h[:, None], w["h"][None, :1], (1,), "SAME")[:, 0] + x @ w["i"]
    ),
    "a state that meets a weight and is added": lambda w, h, x: jnp.tanh(h @ w["h"] + h + x),
    "a weight as the next state": lambda w, h, x: (jnp.broadcast_to(w["b"], h.shape), h @ w["h"] + x),
    "an outer product of weights": lambda w, h, x: jnp.tanh(h @ (w["b"][:, None] * w["b"]) + x @ w["i"]),
    "weights spread out": lambda w, h, x: jnp.tanh(h * jnp.broadcast_to(w["b"], h.shape) + x @ w["i"]),
    "einsum": lambda w, h, x: jnp.tanh(jnp.einsum("bi,ij,bj->bj", h, w["h"], h) + x @ w["i"]),
    "logsumexp and softmax": lambda w, h, x: jax.nn.softmax(mix(w, h, x)) + jax.nn.logsumexp(h @ w["h"]),
    "stop_gradient": lambda w, h, x: mix(w, lax.stop_gradient(h), x) + 0.1 * h @ lax.stop_gradient(w["h"]),
    "complex numbers": lambda w, h, x: jnp.real((h + 1j * (x @ w["i"])) @ (w["h"] + 0.5j * w["h"].T)),
    "integers and booleans": lambda w, h, x: jnp.where(h > 0, mix(w, h, x), jnp.floor(2 * h) * w["b"]),
    "nested vmap": lambda w, h, x: jax.vmap(lambda h, x: mix(w, h, x))(h, x),
    "nested grad": lambda w, h, x: jax.grad(lambda h: jnp.sum(mix(w, h, x) ** 2))(h),
    "nested jvp": lambda w, h, x: jax.jvp(lambda h: mix(w, h, x), (h,), (jnp.cos(h),))[1],
    "nested unroll": lambda w, h, x: jrnn.unroll(
        INNER, INNER_PARAMS(w), jnp.stack([h, h]), x[..., :H] @ w["i"]
    )[0],
    "remat_opt barrier": lambda w, h, x: lax.optimization_barrier(mix(w, h, x)),
    "reduce_precision": lambda w, h, x: lax.reduce_precision(mix(w, h, x), 11, 52),
}


FORWARD = "while", "custom_vmap"  # have no gradient


def INNER_PARAMS(w):
    return type(INNER.init(jax.random.key(0), H))(w["h"], w["h"].T, w["b"])


def cell_of(step):
    def both(w, h, x):
        made = step(w, h, x)
        return made if isinstance(made, tuple) else (made, made * 1.5)

    return jrnn.from_functions(
        init=lambda key, n: {"i": jnp.ones((n, H)), "h": jnp.ones((H, H)), "b": jnp.ones(H)},
        initial_carry=lambda p, batch_shape=(), *, key=None: jnp.zeros((*batch_shape, H), p["b"].dtype),
        step=both,
        out_features=H,
    )


def arguments():
    rng = np.random.default_rng(0)
    w = {"i": 0.7 * rng.normal(size=(H, H)), "h": 0.7 * rng.normal(size=(H, H)), "b": rng.normal(size=H)}
    return w, 0.5 * rng.normal(size=(B, H)), rng.normal(size=(T, B, H))


def loss(cell, method, options, *given):
    w, h, xs = given
    end, ys = jrnn.unroll(cell, w, xs, h, method=method, **options)
    return jnp.sum(jnp.sin(ys)) + jnp.sum(end * jnp.arange(1, H + 1))


def derivatives(f):
    grad = jax.grad(f, (0, 1, 2))
    along = lambda given: jax.tree.map(jnp.cos, given)
    return {
        "value": f,
        "grad": grad,
        "jvp": lambda *given: jax.jvp(f, given, along(given))[1],
        "vmap of grad": lambda *given: jax.vmap(grad)(
            *jax.tree.map(lambda a: jnp.stack([a, 0.9 * a]), given)
        ),
        "jvp of grad": lambda *given: jax.jvp(grad, given, along(given))[1],
        "grad of grad": lambda *given: jax.grad(
            lambda *given: sum(
                jnp.vdot(a, b)
                for a, b in zip(*map(jax.tree.leaves, (grad(*given), along(arguments()))), strict=True)
            ),
            (0, 1, 2),
        )(*given),
    }


SHAPES = [False, pytest.param(True, marks=pytest.mark.slow)]
IN_BLOCKS = "value", "grad", "jvp of grad"  # the others differ in what they transform, not in how it is run


@pytest.mark.parametrize("ragged", SHAPES, ids=["bare", "ragged, in blocks"])
@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_any_primitive_is_differentiated_as_by_scan(name, ragged):
    blocks = ragged and name != "io_callback"  # JAX checkpoints nothing that has effects
    cell, method = cell_of(STEPS[name]), jrnn.Scan("sqrt" if blocks else None)
    options = {"lengths": np.array([5, 3]), "reverse": True} if ragged else {}
    subject = Subject(cell, H, default_inputs(cell, H), ())
    with jax.enable_x64(True):
        given = arguments()
        ours, plain = (derivatives(functools.partial(loss, cell, m, options)) for m in (method, Plain()))
        plain = {mode: jax.jit(f) for mode, f in plain.items() if not ragged or mode in IN_BLOCKS}
        have = [mode for mode, function in plain.items() if has(mode, function, given)]
        assert have[:2] == ["value", "grad"] or name in FORWARD
        expected, found = (
            subject.run(lambda *g, fs=fs: {m: fs[m](*g) for m in have}, *given) for fs in (plain, ours)
        )
    for mode in have:
        for a, b in zip(jax.tree.leaves(found[mode]), jax.tree.leaves(expected[mode]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10, err_msg=mode)


def has(mode, function, given):
    """Whether plain `lax.scan` has this derivative."""
    try:
        traced = function.trace(*given)  # kept for the program of all of them
        if "jvp" in mode:  # of a custom_vjp, only lowering says that there is none
            traced.lower()
    except (NotImplementedError, TypeError, ValueError):
        return False
    return True


def test_checks_of_a_step_are_thrown_as_by_scan():
    def step(w, h, x):
        checkify.check(jnp.all(x < 2), "{} is too large", jnp.max(x))
        return mix(w, h, x)

    w, h, xs = arguments()
    xs = jnp.clip(xs, -1, 1).at[3, 1, 2].set(5.0)
    run = jax.jit(checkify.checkify(lambda xs: jrnn.unroll(cell_of(step), w, xs, h)[1]))
    assert run(xs[:3])[0].get() is None
    assert run(xs)[0].get().startswith("5.0 is too large")
