"""`jrnn convert`: files of one library become those of another, verified, or nothing is written."""

import itertools
import json
import os
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrnn
from jrnn._cli import TrainConfig, main
from tests.converting import VOCABULARY, drawn_model, same_bits

os.environ.setdefault("KERAS_BACKEND", "jax")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras
MODEL = jrnn.Stack((jrnn.Embed(3), jrnn.GRU(5), jrnn.Dense(VOCABULARY)))


def parameters(model, width=VOCABULARY, dtype=np.float32):
    return jax.tree.map(lambda leaf: leaf.astype(dtype), drawn_model(model, width)[1])


def stored(path):
    """Parameters that a file of jrnn holds, as NumPy arrays."""
    with jax.enable_x64(True):
        model, params = jrnn.load_params(path)
        return model, jax.tree.map(np.asarray, params)


def save_torch(path, model, params, prefix=""):
    torch = pytest.importorskip("torch")
    state = jrnn.interop.to_torch(model, params, prefix=prefix)
    torch.save({name: torch.from_numpy(array) for name, array in state.items()}, path)
    return path


def convert(capsys, source, target, *options):
    """What is said by a conversion that succeeds."""
    status = main(["convert", str(source), str(target), *options])
    said = capsys.readouterr()
    assert status == 0, said.err
    return said.out


def verified(said):
    """Libraries that agree with jrnn, and the largest difference to each."""
    return re.findall(r"^  verified in (\w+) \S+: outputs of random inputs differ by (\S+)", said, re.M)


def refused(capsys, source, target, *options):
    """What is said by one that does not, and leaves the target as it was."""
    before = target.read_bytes() if target.is_file() else None
    files = sorted(target.parent.iterdir()) if target.parent.is_dir() else None
    assert main(["convert", str(source), str(target), *options]) == 2
    assert (target.read_bytes() if target.is_file() else None) == before
    assert (sorted(target.parent.iterdir()) if target.parent.is_dir() else None) == files
    return capsys.readouterr().err


def test_a_model_goes_round_all_libraries_and_keeps_its_bits(tmp_path, capsys):
    for name in ("torch", "keras", "onnx", "onnxruntime", "safetensors"):
        pytest.importorskip(name)
    files = [tmp_path / f"m{ending}" for ending in (".safetensors", ".pt", ".onnx", ".keras", ".weights.h5")]
    params = parameters(MODEL)
    jrnn.save_params(files[0], MODEL, params)
    for source, target in itertools.pairwise(files):
        said = convert(capsys, source, target)
        agreed = verified(said)
        ran = {".pt": "torch", ".onnx": "onnxruntime", ".keras": "keras", ".h5": "keras"}
        assert [name for name, _ in agreed] == [ran[f.suffix] for f in (source, target) if f.suffix in ran]
        assert all(float(number) < 1e-5 for _, number in agreed)
    import keras

    config = tmp_path / "config.json"
    config.write_text(keras.saving.load_model(files[3]).to_json(), encoding="utf-8")
    last = tmp_path / "last.safetensors"
    said = convert(capsys, files[-1], last, "--config", str(config))
    assert "verified: the same bits" in said
    model, found = stored(last)
    assert model == MODEL
    same_bits(found, params)


def test_every_layer_is_printed(tmp_path, capsys):
    pytest.importorskip("torch")
    model = jrnn.Sequential((jrnn.Bidirectional(jrnn.LSTM(2)), jrnn.Bidirectional(jrnn.LSTM(2))))
    params = parameters(model, 3, np.float64)
    source = save_torch(tmp_path / "m.pt", model, params, prefix="encoder.rnn")
    target = tmp_path / "m.safetensors"
    said = convert(capsys, source, target, "--prefix", "encoder.rnn").splitlines()
    assert said[0] == f"{source}: state dict of PyTorch"
    assert said[1:3] == [
        "  0.forward   LSTM(hidden=2)  w_ih (3, 8), w_hh (2, 8), b (8,), float64",
        "  0.backward  LSTM(hidden=2)  w_ih (3, 8), w_hh (2, 8), b (8,), float64",
    ]
    assert said[3].startswith("  1.forward   LSTM(hidden=2)  w_ih (4, 8)")
    assert said[5].startswith("  verified in torch")
    same_bits(stored(target)[1], params)  # float64 stays what it is


def test_a_run_is_a_source(tmp_path, capsys):
    pytest.importorskip("torch")
    vocabulary, config = jrnn.CharVocabulary("\n Theno"), TrainConfig(cell="GRU", hidden=5, embed=3, layers=2)
    model = config.model(len(vocabulary))
    params = parameters(model, len(vocabulary))
    meta = {"config": vars(config), "vocabulary": vars(vocabulary), "files": [], "sha256": ""}
    jrnn.save(tmp_path / "run", jrnn.Snapshot(model, len(vocabulary), params, meta=meta))
    assert "run of jrnn train" in convert(capsys, tmp_path / "run", tmp_path / "m.pt")
    convert(capsys, tmp_path / "m.pt", tmp_path / "m.safetensors")
    same_bits(jax.tree.leaves(stored(tmp_path / "m.safetensors")[1]), jax.tree.leaves(params))


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_what_a_state_dict_does_not_say_is_an_option(tmp_path, capsys, activation):
    model = jrnn.Elman(4, activation=activation)
    source = save_torch(tmp_path / "m.pt", model, parameters(model, 3))
    target = tmp_path / "m.safetensors"
    convert(capsys, source, target, "--nonlinearity", activation)
    assert stored(target)[0] == model
    assert [name for name, _ in verified(convert(capsys, target, source))] == ["torch"]


def test_names_of_pytorch_in_safetensors_in_bfloat16(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    files = pytest.importorskip("safetensors.torch")
    module = torch.nn.LSTM(3, 4).bfloat16()
    source, target = tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors"
    files.save_file(module.state_dict(), source)
    assert "w_ih (3, 16), w_hh (4, 16), b (16,), bfloat16" in convert(capsys, source, target)
    w_hh = stored(target)[1].w_hh
    assert w_hh.dtype == jnp.bfloat16
    assert (w_hh.astype(np.float32) == module.weight_hh_l0.T.detach().float().numpy()).all()
    convert(capsys, target, tmp_path / "m.pt")
    assert torch.load(tmp_path / "m.pt")["weight_hh_l0"].equal(module.weight_hh_l0)


def test_learned_starts_go_to_onnx_and_back(tmp_path, capsys):
    for name in ("onnx", "onnxruntime", "safetensors"):
        pytest.importorskip(name)
    model = jrnn.LearnedCarry(jrnn.GRU(5))
    source, target = tmp_path / "m.safetensors", tmp_path / "m.onnx"
    jrnn.save_params(source, model, parameters(model, 3))
    assert [name for name, _ in verified(convert(capsys, source, target))] == ["onnxruntime"]
    convert(capsys, target, tmp_path / "again.safetensors")
    same_bits(stored(tmp_path / "again.safetensors")[1], stored(source)[1])


@pytest.mark.parametrize("batch_first", [False, True])
def test_onnx_of_fixed_shape_with_time_or_the_batch_first(tmp_path, capsys, batch_first):
    onnx, _ = (pytest.importorskip(name) for name in ("onnx", "onnxruntime"))
    proto = jrnn.interop.to_onnx(jrnn.GRU(5), parameters(jrnn.GRU(5), 3))
    if batch_first:
        ends = {"xs": "xs_time", "ys": "ys_time"}
        for node in proto.graph.node:
            for names in (node.input, node.output):
                names[:] = [ends.get(name, name) for name in names]
        before = onnx.helper.make_node("Transpose", ["xs"], ["xs_time"], perm=[1, 0, 2])
        after = onnx.helper.make_node("Transpose", ["ys_time"], ["ys"], perm=[1, 0, 2])
        proto.graph.node.insert(0, before)
        proto.graph.node.append(after)
    for value in (proto.graph.input[0], proto.graph.output[0]):
        for dim, size in zip(value.type.tensor_type.shape.dim, (2, 4), strict=False):
            dim.dim_value = size
    del proto.graph.output[1:]
    onnx.save(proto, tmp_path / "m.onnx")
    said = convert(capsys, tmp_path / "m.onnx", tmp_path / "m.safetensors")
    assert [name for name, _ in verified(said)] == ["onnxruntime"]
    assert stored(tmp_path / "m.safetensors")[0] == jrnn.GRU(5)


def test_fields_of_keras(tmp_path, capsys):
    pytest.importorskip("keras")
    model = jrnn.ConvLSTM(2, kernel=(3, 1))
    jrnn.save_params(tmp_path / "m.safetensors", model, parameters(model, 3))
    said = convert(capsys, tmp_path / "m.safetensors", tmp_path / "m.keras")
    assert [name for name, _ in verified(said)] == ["keras"]


def test_a_library_that_is_absent_is_said(tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnx")
    source, target = tmp_path / "m.safetensors", tmp_path / "m.onnx"
    jrnn.save_params(source, MODEL, parameters(MODEL))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "not verified in onnxruntime: onnxruntime is not installed" in convert(capsys, source, target)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert f"{target}: needs onnx, which is not installed" in refused(capsys, target, source)


def test_what_differs_is_not_written(tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch")
    source, target = tmp_path / "m.safetensors", tmp_path / "m.pt"
    jrnn.save_params(source, MODEL, parameters(MODEL))
    target.write_bytes(b"what stood here")
    faithful = jrnn.interop.to_torch

    def faulty(model, params):
        state = faithful(model, params)
        return state | {"1.bias_hh_l0": state["1.bias_hh_l0"] * 0}

    monkeypatch.setattr(jrnn.interop, "to_torch", faulty)
    said = refused(capsys, source, target)
    assert re.search(
        r"verification failed: from outputs \(6, 3, 7\) of jrnn, outputs \(6, 3, 7\) differ by", said
    )


def test_what_a_library_lacks_is_said_by_name(tmp_path, capsys):
    pytest.importorskip("torch")
    source = tmp_path / "m.safetensors"
    for model, message in (
        (jrnn.GRU(4, reset_after=False), "PyTorch has no reset_after=False"),
        (jrnn.MinGRU(4), "PyTorch has no module for MinGRU"),
    ):
        jrnn.save_params(source, model, parameters(model, 3))
        assert message in refused(capsys, source, tmp_path / "m.pt")


def damaged(tmp_path):
    """Sources that are none, by what is said of them."""
    torch = pytest.importorskip("torch")
    whole = save_torch(tmp_path / "whole.pt", jrnn.GRU(4), parameters(jrnn.GRU(4), 3))
    state = torch.load(whole)
    torch.save(torch.nn.GRU(3, 4), tmp_path / "module.pt")
    torch.save([1.0], tmp_path / "list.pt")
    torch.save(state | {"norm.weight": torch.ones(4)}, tmp_path / "more.pt")
    torch.save({name: array.T for name, array in state.items() if "w" in name}, tmp_path / "turned.pt")
    for name, data in {
        "cut.pt": whole.read_bytes()[:-300],
        "cut.safetensors": b"\x10",
        "text.onnx": b"no model",
        "text.keras": b"no archive",
    }.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder").mkdir()
    return {
        "module.pt": "Weights only load failed",
        "list.pt": "list.pt: it holds no state dict",
        "more.pt": "no place for 'norm.weight'",
        "turned.pt": "is it transposed?",
        "cut.pt": "cut.pt: ",
        "cut.safetensors": "cut.safetensors: ",
        "text.onnx": "text.onnx: ",
        "text.keras": "text.keras: it is no complete archive",
        "absent.pt": "absent.pt: No such file or directory",
        "weights.h5": "must be the directory of a run, or a file that ends in .safetensors, .pt",
        "folder": "not the directory of a run",
    }


def test_bad_sources_are_told_in_one_line(tmp_path, capsys):
    target = tmp_path / "m.safetensors"
    for name, message in damaged(tmp_path).items():
        said = refused(capsys, tmp_path / name, target)
        assert message in said and said.startswith("jrnn: ") and said.count("\n") == 1, (name, said)
    said = convert(capsys, tmp_path / "more.pt", target, "--unused")
    assert "not verified in torch: what module 'norm' is, with weight, is not known" in said


def test_bad_targets_are_refused_before_anything_is_read(tmp_path, capsys):
    absent = tmp_path / "absent.pt"
    assert "must be the directory of a run, or a file" in refused(capsys, absent, tmp_path / "m.bin")
    assert "a directory that exists" in refused(capsys, absent, tmp_path / "none" / "m.pt")
    (tmp_path / "m.pt").mkdir()
    assert "a directory that exists" in refused(capsys, absent, tmp_path / "m.pt")


def test_keras_weights_need_the_layers(tmp_path, capsys):
    pytest.importorskip("keras")
    source = tmp_path / "m.weights.h5"
    source.write_bytes(b"")
    assert "give what model.to_json() says as --config" in refused(capsys, source, tmp_path / "m.pt")
    (tmp_path / "config.json").write_text(json.dumps({"class_name": "Nothing"}))
    said = refused(capsys, source, tmp_path / "m.pt", "--config", str(tmp_path / "config.json"))
    assert said.startswith(f"jrnn: {source}: ")
