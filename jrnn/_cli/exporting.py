"""`jrnn export`: a trained model as a file that runs without JAX."""

import argparse
import importlib.util
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp

import jrnn
from jrnn._cli.sampling import load_run


def export(arguments: argparse.Namespace) -> int:
    """Run `jrnn export`: write the best model of a run as ONNX, its vocabulary in the metadata."""
    target = Path(arguments.target)
    if target.suffix != ".onnx":
        raise ValueError(f"{target}: the file to write must end in .onnx")
    if importlib.util.find_spec("onnx") is None:
        raise ValueError("jrnn export needs the package onnx, which is not installed: pip install onnx")
    snapshot = load_run(Path(arguments.run_directory), best=True)
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    metadata = {"vocabulary": json.dumps(snapshot.meta["vocabulary"])}
    proto = jrnn.export.onnx(snapshot.cell, snapshot.params, tokens, carry=True, metadata=metadata)
    fresh = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        fresh.write_bytes(proto.SerializeToString())
        fresh.replace(target)  # so that the file is never incomplete
    finally:
        fresh.unlink(missing_ok=True)
    print(f"{target}: {target.stat().st_size:,} bytes")
    for title, values in (("takes", proto.graph.input), ("returns", proto.graph.output)):
        print(f"{title:8} {', '.join(value.name for value in values)}")
    return 0
