"""`jrnn convert`: a model from one library's file to another's, verified on random inputs."""

import argparse
import importlib.metadata
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jrnn._cli.formats import Loaded, Options, format_of, read, write
from jrnn._cli.verifying import Unverified, verify
from jrnn.checkpoint.files import write_file
from jrnn.interop._models import parts_of


def convert(arguments: argparse.Namespace) -> int:
    """Run `jrnn convert`: nothing is written where the target is before it has been verified."""
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
        again = write(written, loaded.model, loaded.params)
        line = verified(loaded, again)
        write_file(target, written.read_bytes())
        print(f"{target}: {again.what}, {target.stat().st_size:,} bytes\n{line}")
    return 0


def described(model: Any, params: Any) -> str:
    """A line for each layer: what it is, and the shapes and dtype of its weights."""
    parts = parts_of(model, params) or [(model, params)]
    names = [str(part) for part, _ in parts]
    width = min(60, max(map(len, names)))
    lines = []
    for index, (name, (_, own)) in enumerate(zip(names, parts, strict=True)):
        leaves = jax.tree_util.tree_leaves_with_path(own)
        shapes = (
            f"{jax.tree_util.keystr(path, simple=True, separator='.')} {leaf.shape}" for path, leaf in leaves
        )
        kinds = ", ".join(sorted({str(leaf.dtype) for _, leaf in leaves}))
        lines.append(f"  {index}  {name:{width}}  {', '.join(shapes)}  {kinds}".rstrip())
    return "\n".join(lines)


def verified(loaded: Loaded, theirs: Loaded) -> str:
    """A line on whether a file holds a model: the same outputs, or bits where it is a file of jrnn."""
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
