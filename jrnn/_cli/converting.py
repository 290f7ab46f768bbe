"""`jrnn convert`: a model from one library's file to another's, verified on random inputs."""

import argparse
import importlib.metadata
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jrnn._cli.formats import Loaded, Options, format_of, naming, read
from jrnn._cli.verifying import Unverified, verify
from jrnn.checkpoint.files import write_file
from jrnn.interop._models import parts_of
from jrnn.layers import Bidirectional


def convert(arguments: argparse.Namespace) -> int:
    """Run `jrnn convert`; the target is written only after verification."""
    source, target = Path(arguments.source), Path(arguments.target)
    options = Options(arguments.prefix, arguments.nonlinearity, arguments.config, arguments.unused)
    format_of(target)
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise ValueError(f"{target} must be a file in a directory that exists")
    with jax.enable_x64(True), tempfile.TemporaryDirectory() as scratch:  # float64 stays what it is
        loaded = read(source, options)
        print(f"{source}: {loaded.what}\n{described(loaded.model, loaded.params)}")
        print(verified(loaded, loaded))
        written = Path(scratch) / target.name
        with naming(target):
            again = format_of(target).write(written, loaded.model, loaded.params)
        line = verified(loaded, again)
        write_file(target, written.read_bytes())
        print(f"{target}: {again.what}, {target.stat().st_size:,} bytes\n{line}")
    return 0


def described(model: Any, params: Any) -> str:
    """One line per layer: its path, the cell, and the shapes and dtypes of its weights."""
    layers = list(_layers("", model, params))
    places = max(len(place) for place, _, _ in layers)
    names = max(len(str(layer)) for _, layer, _ in layers)
    lines = []
    for place, layer, own in layers:
        leaves = jax.tree_util.tree_leaves_with_path(own)
        shapes = (f"{jax.tree_util.keystr(path, simple=True, separator='.')} {a.shape}" for path, a in leaves)
        dtypes = sorted({str(leaf.dtype) for _, leaf in leaves})
        lines.append(f"  {place:{places}}  {layer!s:{names}}  {', '.join([*shapes, *dtypes])}".rstrip())
    return "\n".join(lines)


def _layers(place: str, model: Any, params: Any) -> Iterator[tuple[str, Any, Any]]:
    """The layers inside a model, each with its path and parameters."""
    inner = {str(i): part for i, part in enumerate(parts_of(model, params) or ())}
    if isinstance(model, Bidirectional):
        forward, backward = model.sides(params)
        inner = {"forward": (model.forward, forward), "backward": (model.backward, backward)}
    for name, part in inner.items():
        yield from _layers(f"{place}.{name}" if place else name, *part)
    if not inner:
        yield place, model, params


def verified(loaded: Loaded, theirs: Loaded) -> str:
    """Verify that a file holds a model, by equal outputs, or bits for a file of jrnn; return one line."""
    if theirs.run is None:
        if loaded.model != theirs.model or not _same_bits(loaded.params, theirs.params):
            raise ValueError(f"verification failed: {theirs.what} are not those that were written")
        return "  verified: its own checksum" if theirs is loaded else "  verified: the same bits"
    try:
        differs = verify(loaded.model, loaded.params, theirs.run, theirs.sizes)
    except Unverified as reason:
        return f"  not verified in {theirs.library}: {reason}"
    version = importlib.metadata.version(theirs.library)
    return (
        f"  verified in {theirs.library} {version}: outputs of random inputs differ by {differs:.0e} at most"
    )


def _same_bits(one: Any, other: Any) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() and a.dtype == b.dtype for a, b in pairs)
