"""Modules of memorax and recurrentgemma, in Flax Linen: the same weights, outputs and gradients.

What the two want beside JAX is too heavy for the extra `peers`, or too old: they are compared where they are
installed without it, memorax beside flashbax and gymnax. S5 and recurrentgemma compute in single precision.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from tests.packages import plain
from tests.test_peers import BATCH, STEPS, answer

WIDTH = 6


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def answers(cell, peer):
    """Outputs and gradients of both, from a start of zero."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: cell.init(key, WIDTH), jax.random.key(0))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)
    arguments = params, (), rng.normal(size=(STEPS, BATCH, WIDTH))
    ours = lambda params, _, xs: (None, jrnn.unroll(cell, params, xs)[1])
    return answer(ours, arguments), answer(lambda params, _, xs: (None, peer(params, xs)), arguments)


def assert_near(got, want, tolerance):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


def memorax(name):
    for needed in ("flashbax", "gymnax"):  # its types
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    plain("memorax.utils.typing")
    return plain(f"memorax.networks.sequence_models.{name}")


def at_once(cell, weights, xs):
    """All steps by memorax' associative scan."""
    layer = memorax("memoroid").Memoroid(cell)
    xs = jnp.swapaxes(xs, 0, 1)
    _, ys = layer.apply({"params": {"cell": weights}}, xs, jnp.zeros(xs.shape[:2]))
    return jnp.swapaxes(ys, 0, 1)


def dense(packed, names):
    """Affine maps side by side under the names of the peer."""
    kernels, biases = (jnp.split(part, len(names), -1) for part in packed)
    return {n: {"kernel": w, "bias": b} for n, w, b in zip(names, kernels, biases, strict=True)}


def ffm(p, xs):
    make = memorax("ffm").FFMCell
    cell = make(5, memory_size=4, context_size=3, max_period=8, param_dtype=jnp.float64)
    weights = dense(p.write, ("pre", "input_gate")) | dense(p.read, ("output_gate", "skip"))
    weights |= dense(p.mix, ("mix",)) | {"a": -jnp.exp(p.rate), "b": p.frequency}
    return at_once(cell, weights, xs)


def shm(p, xs):
    cell = memorax("shm").SHMCell(WIDTH, WIDTH, num_thetas=5)
    names, ends = ("value", "key", "query", "vc", "eta"), np.arange(1, 5) * WIDTH
    weights = {n: {"kernel": w} for n, w in zip(names, jnp.split(p.w_ih, ends, -1), strict=True)}
    weights |= {"ln": {"scale": p.gain, "bias": p.bias}, "theta_table": p.table} | dense(p.out, ("output",))
    carry, ys = jnp.zeros((BATCH, WIDTH, WIDTH)), []
    for x in xs:
        carry, y = cell.apply({"params": weights}, carry, x)
        ys.append(y)
    return jnp.stack(ys)


def lru(p, xs):
    cell = memorax("lru").LRUCell(WIDTH, 5)
    weights = {"nu_log": p.nu, "theta_log": p.theta, "gamma_log": p.gamma, "D": p.d}
    weights |= dict(zip(("B_real", "B_imag"), jnp.split(p.w_ih.T, 2), strict=True))
    weights |= dict(zip(("C_real", "C_imag"), jnp.split(p.w_ho.T, 2, -1), strict=True))
    return at_once(cell, weights, xs)


def s5(p, xs):
    """Its states are all there, where ours stand for conjugate pairs."""
    cell = memorax("s5").S5Cell(WIDTH, 5)
    weights = {"lambda_real": -jnp.exp(p.rate), "lambda_imag": p.frequency, "log_step": p.log_dt[:, None]}
    weights |= {"b": jnp.stack(jnp.split(p.w_ih.T, 2), -1), "d": p.d}
    weights |= {"c": 2 * jnp.stack(jnp.split(p.w_ho.T, 2, -1), -1)}
    return at_once(cell, weights, xs)


def rg_lru(p, xs, only_real=True):
    """Not at the start of a sequence, where recurrentgemma leaves √(1 − a²) out."""
    module = plain("recurrentgemma.jax.layers").RGLRU(WIDTH, 3, only_real=only_real)
    p, xs = jax.tree.map(lambda a: a.astype("float32"), (p, xs))
    weights = {"a_param": p.decay} | ({} if only_real else {"a_imag_param": p.phase})
    gates = zip(("a_gate", "input_gate"), jnp.split(p.w, 2, -1), jnp.split(p.b, 2), strict=True)
    weights |= {name: {"w": w, "b": b.reshape(3, -1)} for name, w, b in gates}
    ys, _ = module.apply({"params": weights}, jnp.swapaxes(xs, 0, 1), jnp.ones((BATCH, STEPS), int))
    return jnp.swapaxes(ys, 0, 1)


PEERS = {
    "FFM": (jrnn.FFM(5, memory=4, context=3), ffm, 1e-11),
    "SHM": (jrnn.SHM(WIDTH, rows=5), shm, 1e-11),
    "LRU": (jrnn.LRU(5, outputs=WIDTH), lru, 1e-11),
    "S5": (jrnn.S5(5, outputs=WIDTH), s5, 1e-5),
    "RGLRU": (jrnn.RGLRU(WIDTH, heads=3), rg_lru, 1e-5),
    "RGLRU-complex": (jrnn.RGLRU(WIDTH, heads=3, complex=True), partial(rg_lru, only_real=False), 1e-5),
}


@pytest.mark.parametrize("name", PEERS)
def test_modules(name):
    cell, peer, tolerance = PEERS[name]
    got, want = answers(cell, peer)
    assert_near(got, want, tolerance)
