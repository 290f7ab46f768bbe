"""Readers and writers of model files, by file extension."""

import contextlib
import importlib
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import jrnn
from jrnn._cli.sampling import load_run, one_line
from jrnn._cli.verifying import BATCH, STEPS, Run, in_keras, in_onnxruntime, in_torch, sample
from jrnn.checkpoint.files import require_file


class Options(NamedTuple):
    """Options of reading, for what a file does not contain."""

    prefix: str = ""  # of names in a state dict
    nonlinearity: str = "tanh"  # of PyTorch's nn.RNN
    config: str | None = None  # the JSON file of the Keras model that weights belong to
    unused: bool = False  # ignore weights that have no place


class Loaded(NamedTuple):
    """A model read from a file."""

    model: Any
    params: Any
    what: str  # kind of file, in words
    library: str = ""  # package that runs it; none where that is jrnn
    run: Run | None = None
    sizes: tuple[tuple[int, int], ...] = ((STEPS, BATCH),)  # (steps, batch) that it takes


class Format(NamedTuple):
    """Reading of files with an extension, and writing, which reads the result back."""

    read: Callable[[Path, Options], Loaded]
    write: Callable[[Path, Any, Any], Loaded]


def format_of(path: Path) -> Format:
    """The format of a file, by its name."""
    for ending, found in FORMATS.items():
        if path.name.endswith(ending):
            return found
    raise ValueError(f"{path} must be the directory of a run, or a file that ends in {', '.join(FORMATS)}")


def read(path: Path, options: Options) -> Loaded:
    """Read a model from a file or a run; any error becomes a ValueError that names it."""
    if path.is_dir() and not path.name.endswith(tuple(FORMATS)):
        snapshot = load_run(path, best=True)
        return Loaded(snapshot.cell, snapshot.params, "run of jrnn train")
    found = format_of(path)
    require_file(path).open("rb").close()  # a file that is not there
    with naming(path):
        return found.read(path, options)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn any error about the content of a file into a ValueError that names the file."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ValueError(f"{path}: needs {error.name}, which is not installed") from error
    except Exception as error:  # of libraries, which have many for a damaged file
        text = one_line(error)
        raise ValueError(text if str(path) in text else f"{path}: {text}") from error


def _read_safetensors(path: Path, options: Options) -> Loaded:
    safetensors = importlib.import_module("safetensors")
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata() or {}
    if "jrnn" in metadata:
        return Loaded(*jrnn.load_params(path), "parameters of jrnn")
    try:
        state = importlib.import_module("safetensors.torch").load_file(path)  # which has bfloat16
    except ModuleNotFoundError:
        state = importlib.import_module("safetensors.numpy").load_file(path)
    return _of_torch(state, options)


def _write_safetensors(path: Path, model: Any, params: Any) -> Loaded:
    jrnn.save_params(path, model, params)
    return Loaded(*jrnn.load_params(path), "parameters of jrnn")


def _read_torch(path: Path, options: Options) -> Loaded:
    torch = importlib.import_module("torch")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(hasattr(value, "detach") for value in state.values()):
        raise ValueError("it holds no state dict, as torch.save(module.state_dict(), path) writes one")
    return _of_torch(state, options)


def _of_torch(state: dict[str, Any], options: Options) -> Loaded:
    model, params = jrnn.interop.from_torch(
        state, prefix=options.prefix, nonlinearity=options.nonlinearity, unused=options.unused
    )
    start = options.prefix and options.prefix.removesuffix(".") + "."
    taken = {name: value for name, value in state.items() if name.startswith(start)}
    return Loaded(model, params, "state dict of PyTorch", "torch", in_torch(taken, options.nonlinearity))


def _write_torch(path: Path, model: Any, params: Any) -> Loaded:
    torch = importlib.import_module("torch")

    def tensor(array: Any) -> Any:
        if array.dtype == jnp.bfloat16:  # which NumPy does not have
            return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    state = jrnn.interop.to_torch(model, params)
    torch.save({name: tensor(array) for name, array in state.items()}, path)
    state = torch.load(path, weights_only=True)
    relu = re.search(r"Elman\(hidden=\d+, activation='relu'", str(model))
    run = in_torch(state, "relu" if relu else "tanh")
    return Loaded(model, params, "state dict of PyTorch", "torch", run)


def _keras() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "jax")  # the one that is there
    return importlib.import_module("keras")


def _read_keras(path: Path, options: Options) -> Loaded:
    if not zipfile.is_zipfile(path):  # Keras says that there is no such file
        raise ValueError("it is no complete archive, as Keras writes them")
    return _of_keras(_keras().saving.load_model(path, compile=False))


def _read_keras_weights(path: Path, options: Options) -> Loaded:
    if options.config is None:
        raise ValueError(
            "it does not say which layers it is of: give what model.to_json() says as --config FILE"
        )
    model = _keras().models.model_from_json(require_file(Path(options.config)).read_text("utf-8"))
    model.load_weights(path)
    return _of_keras(model)


def _of_keras(theirs: Any) -> Loaded:
    model, params = jrnn.interop.from_keras(theirs)
    return Loaded(model, params, "model of Keras", "keras", in_keras(theirs))


def _write_keras(path: Path, model: Any, params: Any) -> Loaded:
    _filled(model, params).save(path)
    theirs = _keras().saving.load_model(path, compile=False)
    return Loaded(model, params, "model of Keras", "keras", in_keras(theirs))


def _write_keras_weights(path: Path, model: Any, params: Any) -> Loaded:
    theirs = _filled(model, params)
    theirs.save_weights(path)
    theirs.set_weights([np.zeros_like(array) for array in theirs.get_weights()])
    theirs.load_weights(path)
    return Loaded(model, params, "weights of Keras", "keras", in_keras(theirs))


def _filled(model: Any, params: Any) -> Any:
    """A `keras.Sequential` with the weights of a model."""
    config, weights = jrnn.interop.to_keras(model, params)
    theirs = _keras().Sequential.from_config(config)
    if not theirs.built:  # a field of any size
        theirs.build((None, None, *sample(model, params).shape[2:]))
    theirs.set_weights(weights)
    return theirs


def _read_onnx(path: Path, options: Options) -> Loaded:
    proto = importlib.import_module("onnx").load(path)
    model, params = jrnn.interop.from_onnx(proto)
    return Loaded(model, params, "graph of ONNX", "onnxruntime", *in_onnxruntime(proto))


def _write_onnx(path: Path, model: Any, params: Any) -> Loaded:
    onnx = importlib.import_module("onnx")
    onnx.save(jrnn.interop.to_onnx(model, params), path)
    return Loaded(model, params, "graph of ONNX", "onnxruntime", *in_onnxruntime(onnx.load(path)))


FORMATS = {
    ".safetensors": Format(_read_safetensors, _write_safetensors),
    ".pt": Format(_read_torch, _write_torch),
    ".pth": Format(_read_torch, _write_torch),
    ".keras": Format(_read_keras, _write_keras),
    ".weights.h5": Format(_read_keras_weights, _write_keras_weights),
    ".onnx": Format(_read_onnx, _write_onnx),
}
