"""`jrnn doctor`: versions, devices and settings, for when something does not work."""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jrnn


def doctor(arguments: argparse.Namespace) -> int:
    """Run `jrnn doctor`: print versions, devices and settings, and check a gradient."""
    del arguments
    with contextlib.suppress(RuntimeError):  # jax is already initialized
        jrnn.use_fused_loops()
        jrnn.use_cores()
    rows = [("python", f"{platform.python_version()} on {platform.platform()}")]
    packages = ("jrnn", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    rows += [(name, importlib.metadata.version(name)) for name in packages]
    rows += [
        (name, os.environ.get(name, "not set"))
        for name in ("XLA_FLAGS", "JAX_PLATFORMS", "NPROC", "JAX_COORDINATOR_ADDRESS")
    ]
    rows += [("x64", "on" if jax.dtypes.canonicalize_dtype("float64") == "float64" else "off")]
    for name, value in rows:
        print(f"{name:16}  {value}")
    try:
        devices = jax.devices()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"jax finds no device: {error or 'is JAX_PLATFORMS right?'}") from error
    print(f"{'devices':16}  {', '.join(f'{d.device_kind} ({d})' for d in devices)}")
    if devices[0].platform == "cpu":
        print(f"{'small loops':16}  {loops()}")
    advice = gpu_advice(shutil.which("nvidia-smi") is not None or Path("/dev/nvidiactl").exists(), devices)
    if advice:
        print(advice)
    cell, xs = jrnn.GRU(8), jnp.linspace(-1.0, 1.0, 60).reshape(5, 4, 3)
    gradient = jax.jit(jax.grad(lambda params: jrnn.unroll(cell, params, xs)[1].sum()))
    grads = jax.tree.leaves(gradient(cell.init(jax.random.key(0), 3)))
    sound = all(bool(jnp.isfinite(leaf).all() and (leaf != 0).any()) for leaf in grads)
    print(f"{'gradient':16}  of a jitted GRU: {'finite, as it should be' if sound else 'NOT finite'}")
    return 0 if sound else 1


def loops() -> str:
    """Describe how XLA compiles small loops on CPUs: `use_fused_loops` may be without effect."""
    from jrnn.training.devices import fused_loops  # which loads optax

    scan = jax.jit(lambda x: jax.lax.scan(lambda h, _: (jnp.sin(h), h), x, length=9))
    if "xla_cpu_small_call" in (scan.lower(jnp.ones(1000)).compile().as_text() or ""):
        return f"one function each, below {fused_loops():,} bytes a step"
    return "a call per operation and step: jrnn.use_fused_loops() came too late, or this jaxlib ignores it"


def gpu_advice(present: bool, devices: Sequence[Any]) -> str:
    """Advice for a GPU that jax does not find; empty otherwise."""
    if not present or any(device.platform != "cpu" for device in devices):
        return ""
    wanted = os.environ.get("JAX_PLATFORMS", "")
    if wanted and "cuda" not in wanted and "gpu" not in wanted:
        reason = f"JAX_PLATFORMS={wanted} excludes it: unset it"
    elif not any(importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13)):
        reason = "it is installed for the CPU only: pip install 'jrnn[cuda12]', or 'jrnn[cuda13]'"
    else:
        reason = "its CUDA plugin is installed, so check that nvidia-smi works and the driver is recent"
    return f"This machine has an NVIDIA GPU, but jax does not find it: {reason}."
