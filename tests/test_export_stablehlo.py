"""Cells and layers as StableHLO: what a process without jrnn computes of the stored programs."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jrnn
from tests.cases import CASES, one_in, subject_of
from tests.test_export_onnx import translator

READER = """
import sys
sys.modules["jrnn"] = None  # importing it fails
import jax, numpy as np
from jax import export
folder = sys.argv[1]
xs, lengths = (np.load(f"{folder}/{name}.npy") for name in ("xs", "lengths"))
whole, free, step, layer = (
    export.deserialize(open(f"{folder}/{name}", "rb").read()) for name in ("whole", "free", "step", "layer")
)
assert set(whole.platforms) == {"cpu", "cuda", "tpu"}
found = {"all": whole.call(xs, lengths)[1], "layer": layer.call(xs, lengths)[1]}
carry, _ = whole.call(xs[:2], np.minimum(lengths, 2))
with np.load(f"{folder}/params.npz") as stored:
    params = dict(stored)
found["rest"] = free.call(params, xs[2:], np.maximum(lengths - 2, 0), carry)[1]
for x in xs[2:]:
    carry, found["last"] = step.call(carry, x)
found["h"] = carry["h"]
found["slope"] = jax.grad(lambda xs: whole.call(xs, lengths)[1].sum())(xs)
np.savez(f"{folder}/found.npz", **found)
"""


def drawn(kind, cell):
    return jax.jit(lambda: cell.init(jax.random.key(kind), 3))()


def test_programs_run_where_jrnn_is_not(tmp_path):
    cell, layer = jrnn.LSTM(4), jrnn.Bidirectional(jrnn.GRU(4), jrnn.MGU(5))
    params, own = drawn(0, cell), drawn(1, layer)
    xs = np.random.default_rng(0).standard_normal((5, 3, 3)).astype(np.float32)
    lengths = np.array([5, 0, 3], np.int32)
    make = jrnn.export.stablehlo
    files = {
        "whole": make(cell, params, xs[:1, :1], lengths=True).serialize(vjp_order=1),
        "free": make(cell, params, xs, lengths=True, carry=True, baked=False).serialize(),
        "step": make(cell, params, xs, step=True).serialize(),
        "layer": make(layer, own, xs, lengths=True).serialize(),
    }
    for name, stored in files.items():
        (tmp_path / name).write_bytes(stored)
    np.save(tmp_path / "xs.npy", xs)
    np.save(tmp_path / "lengths.npy", lengths)
    others = jax.tree.map(lambda a: a / 2, params)  # than those that the program was made with
    np.savez(tmp_path / "params.npz", **others._asdict())
    subprocess.run([sys.executable, "-c", READER, str(tmp_path)], check=True, timeout=300)
    with np.load(tmp_path / "found.npz") as stored:
        found = dict(stored)
    ys = jrnn.unroll(cell, params, xs, lengths=lengths)[1]
    start = jrnn.unroll(cell, params, xs[:2], lengths=np.minimum(lengths, 2))[0]
    end, free = jrnn.unroll(cell, params, xs[2:], start)
    needed = {
        "all": ys,
        "rest": jrnn.unroll(cell, others, xs[2:], start, lengths=np.maximum(lengths - 2, 0))[1],
        "last": free[-1],
        "h": end.h,
        "layer": jrnn.apply(layer, own, xs, lengths=lengths)[1],
        "slope": jax.grad(lambda xs: jnp.sum(jrnn.unroll(cell, params, xs, lengths=lengths)[1]))(xs),
    }
    for name, value in needed.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_mistakes_are_named():
    layer = jrnn.Reversed(jrnn.GRU(4))
    params, xs = drawn(0, layer), jnp.ones((1, 1, 3))
    with pytest.raises(
        ValueError, match=r"step=True needs a cell, Reversed\(cell=GRU\(hidden=4\)\) is a layer"
    ):
        jrnn.export.stablehlo(layer, params, xs, step=True)
    with pytest.raises(ValueError, match="step=True takes no lengths, and always a carry"):
        jrnn.export.stablehlo(layer.cell, params, xs, step=True, carry=True)


def test_an_encoder_and_a_decoder_have_a_time_each():
    model, params, pair = translator()
    stored = jrnn.export.stablehlo(model, params, jax.tree.map(lambda a: a[:1, :1], pair)).serialize()
    _, ys = export.deserialize(stored).call(pair._asdict())
    np.testing.assert_allclose(ys, jrnn.apply(model, params, pair)[1], rtol=1e-5, atol=1e-6)


SOME = one_in(10, CASES, 2)  # each takes four seconds; all of them passed when the exporter was written


@pytest.mark.slow
@pytest.mark.parametrize("case", SOME, ids=[repr(case.cell)[:70] for case in SOME])
def test_every_cell(case):
    """At two shapes: a cell is causal, so a shorter run of fewer rows is the beginning of the longer one."""
    subject = subject_of(case)
    model, params = case.cell, subject.params()
    stored = jrnn.export.stablehlo(model, params, subject.xs(1, 1), lengths=True).serialize()
    program = export.deserialize(stored)
    assert jrnn.export.stablehlo(model, params, subject.xs(1, 1), step=True).serialize()
    xs, lengths = subject.xs(5, 3), np.array([5, 0, 2], np.int32)
    needed = jax.jit(lambda xs, n: jrnn.apply(model, params, xs, lengths=n)[1])(xs, lengths)
    for steps, rows in ((5, 3), (2, 2)):
        leaves = [leaf[:steps, :rows] for leaf in jax.tree.leaves(xs)]
        given = leaves[0] if isinstance(xs, np.ndarray) else {str(i): leaf for i, leaf in enumerate(leaves)}
        _, ys = program.call(given, np.minimum(lengths[:rows], steps))
        for a, b in zip(jax.tree.leaves(ys), jax.tree.leaves(needed), strict=True):
            np.testing.assert_allclose(a, b[:steps, :rows], rtol=1e-5, atol=1e-5)
