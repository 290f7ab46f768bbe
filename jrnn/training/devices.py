"""Placement of a run: on one device, or with batches sharded over several."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jrnn._alignment import on_device
from jrnn.cell import Cell, in_ndim, is_layer
from jrnn.data import Batch
from jrnn.training.steps import TrainState

CONFIG: Any = jax.config  # which does not declare its values
ROWS = "rows"  # the axis of a mesh over which the batch is split
ROWS_PER_CORE = 16  # with 8 rows on each of two cores nothing is gained, with fewer a lot is lost


def use_cores(count: int | None = None) -> int:
    """Make every CPU core a JAX device, so that `fit` shards its batches over them.

    Call it before JAX initializes its backends, which the first array does: at the top of a notebook or
    script. `jrnn train` calls it for you. If there is an accelerator, `fit` uses that instead.

    An all-reduce blocks one XLA thread per device, and deadlocks if no thread is left for the computation
    it waits for. So this also requests two threads per device, in the environment variable NPROC.

    Args:
      count: number of devices; defaults to JAX_NUM_CPU_DEVICES if that is set, otherwise to the number of
        cores that this process may use.

    Returns:
      The number of devices.

    Raises:
      RuntimeError: JAX is already initialized with other devices or too few threads.
      ValueError: `count` is below 1.

    >>> import jrnn
    >>> jrnn.use_cores()  # doctest: +SKIP
    8
    """
    count = _wanted() if count is None else count
    if count < 1:
        raise ValueError(f"use_cores: count must be at least 1, got {count}")
    try:
        for number in (count + 1, count):  # an initialized jax refuses a changed value only
            CONFIG.update("jax_num_cpu_devices", number)
    except RuntimeError as error:
        made = len(jax.local_devices(backend="cpu"))
        if made == count and _has_threads(made):
            return count
        what = f"with {made} CPU devices and {_threads()} XLA threads"
        hint = "call it before anything else uses jax (in a notebook: restart the kernel, run it first)"
        raise RuntimeError(f"use_cores: jax is already initialized {what}: {hint}") from error
    if not _has_threads(count):
        os.environ["NPROC"] = str(2 * count)
    return count


def _wanted() -> int:
    asked = int(CONFIG.jax_num_cpu_devices)
    return asked if asked > 0 else _cores()


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads() -> int:
    """Threads per XLA thread pool."""
    given = os.environ.get("NPROC", "")
    return int(given) if given.isdecimal() else _cores()


def _has_threads(devices: int) -> bool:
    """True if an all-reduce over this many CPU devices leaves threads for the computation it waits for."""
    return devices == 1 or _threads() >= 2 * devices


def is_placed(*trees: Any) -> bool:
    """True if the caller chose devices: by a mesh, a default device, or the placement of `trees`."""
    if not jax.sharding.get_abstract_mesh().empty or CONFIG.jax_default_device is not None:
        return True
    usual = {jax.local_devices()[0]}
    return any(isinstance(leaf, Array) and leaf.devices() != usual for leaf in jax.tree.leaves(trees))


@dataclass(frozen=True)
class Split:
    """Data parallelism: batches are sharded over the devices of a mesh, everything else is replicated."""

    mesh: Mesh
    model: Any

    def batch(self, batch: Batch) -> Batch:
        """Shard a batch over the devices; replicate it if they do not divide its rows."""
        return self._place(batch, rows_of(self.model, batch), axes=(1, 0))

    def state(self, state: TrainState, rows: int) -> TrainState:
        """Replicate the state, and shard its carry."""
        carry = self._place(state.carry, rows, axes=(0,))
        return jax.device_put(state._replace(carry=None), self._sharding())._replace(carry=carry)

    def jit(self, step: Callable[..., Any], state: TrainState) -> Callable[..., Any]:
        """Compile a training step that keeps the sharding of the state."""
        return jax.jit(step, out_shardings=(jax.tree.map(lambda a: a.sharding, state), self._sharding()))

    def _place(self, tree: Any, rows: int, axes: tuple[int, ...]) -> Any:
        def sharding(leaf: Any) -> NamedSharding:
            found = [axis for axis in axes if np.shape(leaf)[axis : axis + 1] == (rows,)]
            whole = not found or rows % self.mesh.size
            return self._sharding() if whole else self._sharding(*[None] * found[0], ROWS)

        return jax.device_put(tree, jax.tree.map(sharding, tree))

    def _sharding(self, *axes: str | None) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*axes))


def rows_of(model: Any, batch: Batch) -> int:
    """Length of the first batch axis, 0 if there is none."""
    features = in_ndim(model) if is_layer(model) or isinstance(model, Cell) else 0
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(batch.xs)[:1]]
    return next((shape[1] for shape in shapes if len(shape) > 1 + features), 0)


def split_over(model: Any, rows: int) -> Split | None:
    """The sharding of batches over as many devices as divide their rows; None for a single device."""
    devices = jax.local_devices()
    cores = devices[0].platform == "cpu"
    most = min(len(devices), rows // ROWS_PER_CORE if cores else rows)
    count = max((n for n in range(1, most + 1) if rows % n == 0), default=1)
    if count == 1:
        return None
    if cores and not _has_threads(count):
        warnings.warn(
            f"fit uses one CPU device, not {count}: XLA has {_threads()} threads, and an all-reduce can hang "
            f"with fewer than {2 * count}; create the devices with jrnn.use_cores()",
            stacklevel=2,
        )
        return None
    return Split(Mesh(np.array(devices[:count]), (ROWS,)), model)


def gather(tree: Any) -> Any:
    """Move arrays from several devices to the default one, uncommitted."""

    def bring(leaf: Array) -> Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = on_device(jax.device_get(jax.random.key_data(leaf)))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        return on_device(jax.device_get(leaf))

    return jax.tree.map(bring, tree)
