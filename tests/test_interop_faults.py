"""Faulty weights in every format: an error that names the weight, and nothing half-converted."""

import re

import jax
import ml_dtypes
import numpy as np
import pytest

import jrnn
from jrnn import interop
from jrnn.interop.onnx._operators import import_onnx

IN, HIDDEN = 3, 4
GRU = {"class_name": "GRU", "config": {"units": HIDDEN, "name": "gru", "return_sequences": True}}


def flat(tree):
    """Arrays by path."""
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in found}


def nested(arrays):
    tree = {}
    for path, array in arrays.items():
        *outer, name = path.split("/")
        inner = tree
        for key in outer:
            inner = inner.setdefault(key, {})
        inner[name] = array
    return tree


def onnx_arrays(model, params):
    proto = interop.to_onnx(model, params)
    to_array = import_onnx().numpy_helper.to_array
    return {given.name: to_array(given) for given in proto.graph.initializer if given.name[-1] in "WRB"}


def from_arrays(arrays):
    """Read what `to_onnx` writes, with these arrays as the weights."""
    onnx = pytest.importorskip("onnx")
    proto = interop.to_onnx(*drawn())
    for given in [i for i in proto.graph.initializer if i.name[-1] in "WRB"]:
        proto.graph.initializer.remove(given)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in arrays.items())
    return interop.from_onnx(proto)


MODELS = {"haiku": jrnn.GRU(HIDDEN, reset_after=False, z_keeps=False)}  # the others have the usual one


def drawn(width=IN, name=""):
    model = MODELS.get(name, jrnn.GRU(HIDDEN))
    spec = jax.eval_shape(lambda: model.init(jax.random.key(0), width))
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), spec)


def without_b_hn(model, params):
    return model, params._replace(b_hn=0 * params.b_hn)


FORMATS = {  # how a GRU is written, as arrays by name, and read
    "torch": (lambda *given: flat(interop.to_torch(*given)), interop.from_torch),
    "keras": (
        lambda *given: {str(i): a for i, a in enumerate(interop.to_keras(*given)[1])},
        lambda arrays: interop.from_keras(GRU, list(arrays.values())),
    ),
    "linen": (lambda *given: flat(interop.to_linen(*given)), lambda a: interop.from_linen(nested(a))),
    "nnx": (
        lambda *given: flat(interop.to_nnx(*without_b_hn(*given))),
        lambda a: interop.from_nnx(nested(a)),
    ),
    "haiku": (lambda *given: flat(interop.to_haiku(*given)), lambda a: interop.from_haiku(nested(a))),
    "equinox": (lambda *given: flat(interop.to_equinox(*given)), interop.from_equinox),
    "onnx": (onnx_arrays, from_arrays),
}


def largest(arrays):
    """The name of a matrix that is not square."""
    return next(n for n, a in arrays.items() if a.ndim > 1 and len(set(a.shape[-2:])) == 2)


FAULTS = {
    "missing": lambda a: {n: v for n, v in a.items() if n != largest(a)},
    "transposed": lambda a: a | {largest(a): np.ascontiguousarray(a[largest(a)].swapaxes(-1, -2))},
    "integers": lambda a: a | {largest(a): a[largest(a)].astype(np.int8)},
    "another": lambda a: a | {f"{largest(a)}_other": np.ones((5, 5), np.float32)},
}

NAMED = {  # messages that are not about the weight itself: a list has no names
    ("keras", "missing"): "gru/recurrent_kernel must have shape",
    ("keras", "another"): "weights: 1 more than the layers have",
    ("nnx", "missing"): "the part under 'cell' is not a cell",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", FORMATS)
def test_faults_are_errors(name, fault):
    write, read = FORMATS[name]
    arrays = write(*drawn(name=name))
    read(arrays)
    if (name, fault) == ("onnx", "another"):
        return  # an array that no node reads is not part of a model
    with pytest.raises(ValueError) as raised:
        read(FAULTS[fault](arrays))
    weight = "gru/kernel" if name == "keras" else re.escape(largest(arrays))
    said = {"missing": f"'{weight}'", "another": f"'{weight}_other'"}.get(fault, f"(^|: ){weight} (must|has)")
    assert re.search(NAMED.get((name, fault), said), str(raised.value))
    if fault == "integers":
        assert "must hold floating point numbers, got int8" in str(raised.value)


@pytest.mark.parametrize("name", FORMATS)
def test_bfloat16_is_kept(name):
    write, read = FORMATS[name]
    arrays = {n: a.astype(ml_dtypes.bfloat16) for n, a in write(*drawn(name=name)).items()}
    model, params = read(arrays)
    assert model == drawn(name=name)[0]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"bfloat16"}


@pytest.mark.parametrize("name", FORMATS)
def test_square_matrices_are_not_confused(name):
    """The matrices of a GRU of as many inputs as units have the same shape; their names tell them apart."""
    write, read = FORMATS[name] if name != "onnx" else (interop.to_onnx, interop.from_onnx)
    model, params = drawn(HIDDEN, name)
    found, again = read(write(model, params))
    assert found == model
    np.testing.assert_allclose(again.w_ih, params.w_ih, rtol=1e-6)
    np.testing.assert_allclose(again.w_hh, params.w_hh, rtol=1e-6)
