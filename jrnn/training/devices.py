"""Where the arrays of a run lie: on one device, or every batch split over several."""

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
ROWS_PER_CORE = 16  # with 8 on each of two there was nothing to gain, with fewer much to lose


def use_cores(count: int | None = None) -> int:
    """Make every core of this machine a JAX device, so that `fit` splits its batches over them.

    To be called before jax starts, which it does at its first array: at the top of a notebook or script.
    `jrnn train` calls it by itself. Where there is an accelerator, `fit` uses that and not the cores.

    A sum over devices blocks a thread of XLA's for each of them, and never ends where none is left for
    the work that it waits for. So this also asks for twice as many threads as devices, in the environment
    variable NPROC.

    Args:
      count: how many devices to make; left out: JAX_NUM_CPU_DEVICES if that is set, else one for each
        core that this process may use.

    Returns:
      Their number.

    Raises:
      RuntimeError: jax has started, with other devices or with too few threads.
      ValueError: `count` is below 1.

    >>> import jrnn
    >>> jrnn.use_cores()  # doctest: +SKIP
    8
    """
    count = _wanted() if count is None else count
    if count < 1:
        raise ValueError(f"use_cores: count must be at least 1, got {count}")
    try:
        for number in (count + 1, count):  # once it has started, jax refuses what is new to it, as one is
            CONFIG.update("jax_num_cpu_devices", number)
    except RuntimeError as error:
        made = len(jax.local_devices(backend="cpu"))
        if made == count and _has_threads(made):
            return count
        what = f"{made} of its devices are on the CPU, and XLA has {_threads()} threads"
        hint = "call it before anything else uses jax (in a notebook: restart the kernel, run it first)"
        raise RuntimeError(f"use_cores: jax has started, {what}: {hint}") from error
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
    """Threads in each of XLA's pools."""
    given = os.environ.get("NPROC", "")
    return int(given) if given.isdecimal() else _cores()


def _has_threads(devices: int) -> bool:
    """Whether a sum over so many CPU devices leaves threads for the work that it waits for."""
    return devices == 1 or _threads() >= 2 * devices


def is_placed(*trees: Any) -> bool:
    """Whether the caller chose devices: by a mesh, a default device, or where an array of `trees` lies."""
    if not jax.sharding.get_abstract_mesh().empty or CONFIG.jax_default_device is not None:
        return True
    usual = {jax.local_devices()[0]}
    return any(isinstance(leaf, Array) and leaf.devices() != usual for leaf in jax.tree.leaves(trees))


@dataclass(frozen=True)
class Split:
    """The batches of a model split over the devices of a mesh; of all else a copy on each of them."""

    mesh: Mesh
    model: Any

    def batch(self, batch: Batch) -> Batch:
        """Send each device its rows; all rows, where they do not divide."""
        return self._send(batch, rows_of(self.model, batch), axes=(1, 0))

    def state(self, state: TrainState, rows: int) -> TrainState:
        """Send each device a copy, but of the carry its rows."""
        carry = self._send(state.carry, rows, axes=(0,))
        return jax.device_put(state._replace(carry=None), self._sharding())._replace(carry=carry)

    def jit(self, step: Callable[..., Any], state: TrainState) -> Callable[..., Any]:
        """Compile a training step that leaves the state where it lies."""
        return jax.jit(step, out_shardings=(jax.tree.map(lambda a: a.sharding, state), self._sharding()))

    def _send(self, tree: Any, rows: int, axes: tuple[int, ...]) -> Any:
        def sharding(leaf: Any) -> NamedSharding:
            found = [axis for axis in axes if np.shape(leaf)[axis : axis + 1] == (rows,)]
            whole = not found or rows % self.mesh.size
            return self._sharding() if whole else self._sharding(*[None] * found[0], ROWS)

        return jax.device_put(tree, jax.tree.map(sharding, tree))

    def _sharding(self, *axes: str | None) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*axes))


def rows_of(model: Any, batch: Batch) -> int:
    """Length of the first batch axis, 0 where there is none."""
    features = in_ndim(model) if is_layer(model) or isinstance(model, Cell) else 0
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(batch.xs)[:1]]
    return next((shape[1] for shape in shapes if len(shape) > 1 + features), 0)


def split_over(model: Any, rows: int) -> Split | None:
    """How to split batches of so many rows over as many devices as divide them; None: they stay on one."""
    devices = jax.local_devices()
    cores = devices[0].platform == "cpu"
    most = min(len(devices), rows // ROWS_PER_CORE if cores else rows)
    count = max((n for n in range(1, most + 1) if rows % n == 0), default=1)
    if count == 1:
        return None
    if cores and not _has_threads(count):
        warnings.warn(
            f"fit uses one CPU device, not {count}: XLA has {_threads()} threads, and a sum over devices can "
            f"hang with fewer than {2 * count}; make the devices with jrnn.use_cores()",
            stacklevel=2,
        )
        return None
    return Split(Mesh(np.array(devices[:count]), (ROWS,)), model)


def gather(tree: Any) -> Any:
    """Bring arrays from several devices to the default one, free to go to any other."""

    def bring(leaf: Array) -> Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = on_device(jax.device_get(jax.random.key_data(leaf)))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        return on_device(jax.device_get(leaf))

    return jax.tree.map(bring, tree)
