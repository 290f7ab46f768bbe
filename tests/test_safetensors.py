"""Models in one safetensors file: written whole, read bit for bit, refused when anything is amiss."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import jrnn
from jrnn.checkpoint.files import CheckpointError
from tests.cases import CASES

MODEL = jrnn.Sequential((jrnn.Embed(3), jrnn.Bidirectional(jrnn.LSTM(4)), jrnn.Dense(2)))


def drawn(cell, width, dtype="float32"):
    spec = jax.eval_shape(lambda: cell.init(jax.random.key(0), width))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(jnp.dtype(dtype)), spec)


def assert_equal(params, others):
    assert jax.tree.structure(params) == jax.tree.structure(others)
    for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(others), strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case.cell))
def test_every_cell_comes_back_bit_for_bit(case, tmp_path):
    params = drawn(case.cell, case.in_features)
    path = jrnn.save_params(tmp_path / "x.safetensors", case.cell, params)
    cell, loaded = jrnn.load_params(path, cell=case.cell if "Attending" in repr(case.cell) else None)
    assert cell == case.cell
    assert_equal(params, loaded)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_every_bit_of_other_dtypes_is_kept(dtype, tmp_path):
    with jax.enable_x64(True):
        params = drawn(MODEL, 7, dtype)
        path = jrnn.save_params(tmp_path / "x.safetensors", MODEL, params)
        assert_equal(params, jrnn.load_params(path)[1])
    if dtype == "float64":
        with pytest.raises(CheckpointError, match=r"0.table is float64.*turn on jax_enable_x64"):
            jrnn.load_params(path)


def saved(tmp_path, cell=MODEL, width=7):
    return jrnn.save_params(tmp_path / "x.safetensors", cell, drawn(cell, width))


def parts(path):
    """The arrays and the metadata of a file, by safetensors alone."""
    with safetensors.safe_open(path, framework="np") as file:
        return safetensors.numpy.load_file(path), file.metadata()


def rewritten(path, arrays, metadata, *, seal=True):
    """The same file with other content, and a checksum that fits."""
    if seal:
        from jrnn.checkpoint.parameters import _digest

        metadata["sha256"] = _digest(metadata, arrays)
    path.write_bytes(safetensors.numpy.save(arrays, metadata=metadata))
    return path


def test_loading_compiles_nothing(tmp_path, programs):
    path = saved(tmp_path, jrnn.GRU(11), 13)  # shapes that no other test loads
    before = programs()
    jrnn.load_params(path)
    assert programs() == before


def test_names_and_metadata_explain_themselves(tmp_path):
    arrays, metadata = parts(saved(tmp_path))
    assert {name: array.shape for name, array in arrays.items()} == {
        "0.table": (7, 3),
        "1.forward.w_ih": (3, 16),
        "1.forward.w_hh": (4, 16),
        "1.forward.b": (16,),
        "1.backward.w_ih": (3, 16),
        "1.backward.w_hh": (4, 16),
        "1.backward.b": (16,),
        "2.w": (8, 2),
        "2.b": (2,),
    }
    assert json.loads(metadata["cell"])["class"] == "Sequential" and metadata["in_features"] == "7"


def test_transposed_arrays_are_written_as_they_are(tmp_path):
    params = drawn(jrnn.Dense(4), 3)
    params = params._replace(w=np.asfortranarray(params.w))
    path = jrnn.save_params(tmp_path / "x.safetensors", jrnn.Dense(4), params)
    np.testing.assert_array_equal(jrnn.load_params(path)[1].w, params.w)


def test_bytes_in_another_order_are_turned(tmp_path):
    params = drawn(jrnn.Dense(4), 3)
    other = jax.tree.map(lambda a: np.asarray(a).astype(np.asarray(a).dtype.newbyteorder()), params)
    path = jrnn.save_params(tmp_path / "x.safetensors", jrnn.Dense(4), other)
    np.testing.assert_array_equal(jrnn.load_params(path)[1].w, params.w)


def test_pytorch_reads_the_file(tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from safetensors.torch import load_file

    arrays = load_file(saved(tmp_path))
    assert arrays["1.backward.w_hh"].shape == (4, 16)


def test_a_state_dict_goes_through_a_file(tmp_path):
    cell = jrnn.Stack((jrnn.GRU(4), jrnn.GRU(4)))
    params, path = drawn(cell, 3), tmp_path / "torch.safetensors"
    safetensors.numpy.save_file(jrnn.interop.to_torch(cell, params, prefix="rnn"), path)
    again, loaded = jrnn.interop.from_torch(safetensors.numpy.load_file(path))
    assert again == cell
    assert_equal(params, loaded)


def test_the_file_is_replaced_as_a_whole(tmp_path, monkeypatch):
    path = saved(tmp_path)
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, "fsync", full)
        jrnn.save_params(path, jrnn.GRU(2), drawn(jrnn.GRU(2), 3))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
    jrnn.save_params(path, jrnn.GRU(2), drawn(jrnn.GRU(2), 3))
    assert jrnn.load_params(path)[0] == jrnn.GRU(2)


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_truncated_file_is_refused(length, tmp_path):
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"x\.safetensors: truncated, or no safetensors file"):
        jrnn.load_params(path)


def test_every_flipped_byte_is_noticed(tmp_path):
    path = saved(tmp_path, jrnn.GRU(2), 1)
    data = path.read_bytes()
    for place in range(8, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(CheckpointError):
            jrnn.load_params(path)


def test_content_that_does_not_belong_together_is_named(tmp_path):
    path = saved(tmp_path)
    arrays, metadata = parts(path)
    cases = {
        "corrupted: it does not match its own checksum": (arrays | {"2.b": arrays["2.b"] + 1}, {}, False),
        "'2.b' is missing: Sequential": ({k: v for k, v in arrays.items() if k != "2.b"}, {}, True),
        "'2.c' is unexpected": (arrays | {"2.c": arrays["2.b"]}, {}, True),
        r"2.w has shape \(2, 8\), .*needs \(8, 2\)": (
            arrays | {"2.w": np.ascontiguousarray(arrays["2.w"].T)},
            {},
            True,
        ),
        "'Elephant' is not ": (
            arrays,
            {"cell": '{"class": "Elephant"}'},
            True,
        ),
        "format '9' is unknown": (arrays, {"jrnn": "9"}, True),
        "in_features=0": (arrays, {"in_features": "0"}, True),
        "invalid literal": (arrays, {"in_features": "x"}, True),
        "Expecting value": (arrays, {"cell": ""}, True),
        "'2.b' is I8": (arrays | {"2.b": arrays["2.b"].astype(np.int8)}, {}, False),
    }
    for message, (content, change, seal) in cases.items():
        rewritten(path, content, metadata | change, seal=seal)
        with pytest.raises(CheckpointError, match=message):
            jrnn.load_params(path)


def test_files_of_others_are_refused_with_a_hint(tmp_path):
    safetensors.numpy.save_file({"weight": np.ones(3)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"metadata name no cell.*jrnn\.interop\.from_torch"):
        jrnn.load_params(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="No such file"):
        jrnn.load_params(tmp_path / "y.safetensors")


def test_cells_of_a_user_are_given_again(tmp_path):
    def init(key, in_features):
        return {"w": jnp.ones((in_features, 2))}

    cell = jrnn.from_functions(init, lambda p, s, key=None: (), lambda p, c, x: (c, x @ p["w"]), 2)
    path = jrnn.save_params(tmp_path / "x.safetensors", cell, init(None, 3))
    with pytest.raises(CheckpointError, match="'FunctionCell' is not a cell of jrnn"):
        jrnn.load_params(path)
    assert_equal(jrnn.load_params(path, cell=cell)[1], init(None, 3))
    with pytest.raises(CheckpointError, match="in the given cell"):
        jrnn.load_params(path, cell=jrnn.GRU(2))


def test_params_of_another_cell_are_not_written(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match=r"params are not those of LSTM\(hidden=3\) for any in_features"):
        jrnn.save_params(path, jrnn.LSTM(3), drawn(jrnn.LSTM(4), 2))
    with pytest.raises(ValueError, match="with in_features=5, they are"):
        jrnn.save_params(path, jrnn.LSTM(4), drawn(jrnn.LSTM(4), 2), in_features=5)
    complex_params = jax.tree.map(lambda leaf: leaf.astype(complex), drawn(jrnn.GRU(2), 2))
    with pytest.raises(TypeError, match="w_ih is complex128, needs one of float64"):
        jrnn.save_params(path, jrnn.GRU(2), complex_params)
    assert not path.exists()
