"""Placement of a run: on one device, or with batches sharded over several."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jrnn._alignment import on_device
from jrnn._checks import warn
from jrnn._processes import local, several
from jrnn.cell import Cell, in_ndim, is_layer
from jrnn.checkpoint._arrays import host, is_key
from jrnn.data import Batch
from jrnn.training.steps import TrainState

CONFIG: Any = jax.config  # which does not declare its values
ROWS = "rows"  # the axis of a mesh over which the batch is split
ROWS_PER_CORE = 16  # with 8 rows on each of two cores nothing is gained, with fewer a lot is lost
EARLIER = "call it before anything else uses jax (in a notebook: restart the kernel, run it first)"
FUSED_LOOPS = "xla_cpu_small_while_loop_byte_threshold"  # an option of XLA, which ignores those unknown to it


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
        _set_devices(count)
    except RuntimeError as error:
        made = len(jax.local_devices(backend="cpu"))
        if made == count and _has_threads(made):
            return count
        what = f"with {made} CPU devices and {_threads()} XLA threads"
        raise RuntimeError(f"use_cores: jax is already initialized {what}: {EARLIER}") from error
    if not _has_threads(count):
        os.environ["NPROC"] = str(2 * count)
    return count


def use_fused_loops(limit: int = 1_000_000) -> int:
    """Make XLA compile small loops on CPUs into one function each, without a call per operation and step.

    That is faster at batch 1, where a loop's matmuls are products with a vector: LSTM(32) trains 2.2 times
    as fast, and `generate` writes 1.7 times as fast. Loops with library calls, which are most with more
    rows, stay as they are; results are equal up to rounding. Call it before JAX initializes its backends, as
    `use_cores`. `jrnn train`, `sample` and `evaluate` call it for you.

    It adds to the environment variable XLA_FLAGS; a limit that stands there already is kept.

    Args:
      limit: bytes read and written by a step, weights included, from which on a loop is not small.

    Returns:
      The limit in force.

    Raises:
      RuntimeError: JAX is already initialized without it.
      ValueError: `limit` is below 1.

    >>> import jrnn
    >>> jrnn.use_fused_loops()  # doctest: +SKIP
    1000000
    """
    if limit < 1:
        raise ValueError(f"use_fused_loops: limit must be at least 1, got {limit}")
    if given := fused_loops():
        return given
    try:
        _set_devices(int(CONFIG.jax_num_cpu_devices))
    except RuntimeError as error:
        raise RuntimeError(f"use_fused_loops: jax is already initialized: {EARLIER}") from error
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_extra_options={FUSED_LOOPS}={limit}".strip()
    return limit


def fused_loops() -> int:
    """The limit of `use_fused_loops` in XLA_FLAGS; 0 if there is none."""
    found = re.findall(rf"\b{FUSED_LOOPS}=(\d+)", os.environ.get("XLA_FLAGS", ""))
    return int(found[-1]) if found else 0


def _set_devices(count: int) -> None:
    """Set the number of CPU devices; a RuntimeError if JAX is already initialized."""
    for number in (count + 1, count):  # an initialized jax refuses a changed value only
        CONFIG.update("jax_num_cpu_devices", number)


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
    if several():
        if jax.sharding.get_abstract_mesh().empty:
            return False
        raise ValueError("fit uses the devices of all processes: call it outside of jax.set_mesh")
    if not jax.sharding.get_abstract_mesh().empty or CONFIG.jax_default_device is not None:
        return True
    usual = {jax.local_devices()[0]}
    return any(isinstance(leaf, Array) and leaf.devices() != usual for leaf in jax.tree.leaves(trees))


@dataclass(frozen=True)
class Split:
    """Data parallelism: batches are sharded over the devices of a mesh, everything else is replicated."""

    mesh: Mesh
    model: Any
    per_sequence: bool = False  # targets are (batch, ...) rather than (time, batch, ...)

    def batch(self, batch: Batch) -> Batch:
        """Shard a batch over the devices; replicate it if they do not divide its rows.

        One of several processes gives its own rows, which its devices must divide.
        """
        rows = rows_of(self.model, batch)
        if several() and (rows == 0 or rows * jax.process_count() % self.mesh.size):
            _require_shares(rows * jax.process_count())

        def place(leaf: Any, axis: int | None) -> Any:
            sharding = self._sharding(axis, rows)
            if not several():
                return jax.device_put(leaf, sharding)
            shape = list(np.shape(leaf))
            if axis is not None:
                shape[axis] *= jax.process_count()
            return jax.make_array_from_process_local_data(sharding, np.asarray(leaf), tuple(shape))

        return map_rows(place, batch, rows, self.per_sequence)

    def state(self, state: TrainState, rows: int) -> TrainState:
        """Replicate the state, and shard its carry."""
        carry = jax.tree.map(lambda leaf: self._sharding(rows_axis(leaf, rows, (0,)), rows), state.carry)
        rest = jax.tree.map(lambda leaf: self._sharding(None, rows), state._replace(carry=None))
        return (_from_every_process if several() else jax.device_put)(state, rest._replace(carry=carry))

    def whole(self, state: TrainState) -> TrainState:
        """Arrays of this process alone, which collects the rows of the carry from the others."""
        if state.carry is not None:
            gathered = jax.jit(_same, out_shardings=self._sharding(None, 0))(state.carry)
            state = state._replace(carry=gathered)
        return local(state)

    def jit(self, step: Callable[..., Any], state: TrainState) -> Callable[..., Any]:
        """Compile a training step that keeps the sharding of the state."""
        return jax.jit(
            step, out_shardings=(jax.tree.map(lambda a: a.sharding, state), self._sharding(None, 0))
        )

    def _sharding(self, axis: int | None, rows: int) -> NamedSharding:
        """Over this axis, if there is one and the devices divide the rows."""
        split = axis is not None and (several() or rows % self.mesh.size == 0)
        return NamedSharding(
            self.mesh, PartitionSpec(*[None] * (axis or 0), ROWS) if split else PartitionSpec()
        )


def _same(tree: Any) -> Any:
    return tree


def _from_every_process(tree: Any, shardings: Any) -> Any:
    """Global arrays from a tree that every process has whole."""
    leaves, structure = jax.tree.flatten(tree)
    impls = [jax.random.key_impl(leaf) if is_key(leaf) else None for leaf in leaves]

    def make(values: list[Any]) -> list[Any]:
        keyed = zip(values, impls, strict=True)
        return [
            value if impl is None else jax.random.wrap_key_data(value, impl=impl) for value, impl in keyed
        ]

    values = [host(leaf).item() if jax.typeof(leaf).weak_type else host(leaf) for leaf in leaves]
    with jax.transfer_guard_host_to_device("allow"):
        made = jax.jit(make, out_shardings=jax.tree.leaves(shardings))(values)
    return jax.tree.unflatten(structure, made)


def rows_axis(leaf: Any, rows: int, axes: tuple[int, ...]) -> int | None:
    """The first of these axes with this length."""
    return next((axis for axis in axes if np.shape(leaf)[axis : axis + 1] == (rows,)), None)


def map_rows(
    function: Callable[[Any, int | None], Any], batch: Batch, rows: int, per_sequence: bool
) -> Batch:
    """Apply `function(leaf, axis)` to every leaf of a batch, where `axis` is that of its rows or None."""

    def visit(name: str, tree: Any) -> Any:
        axes = (0, 1) if per_sequence and name in ("targets", "target_mask") else (1, 0)
        return jax.tree.map(lambda leaf: function(leaf, rows_axis(leaf, rows, axes)), tree)

    return Batch(**{name: visit(name, tree) for name, tree in batch._asdict().items()})


def share_of(model: Any, batch: Batch, per_sequence: bool) -> Batch:
    """The rows of a batch that are those of this process."""
    rows, index, count = rows_of(model, batch), jax.process_index(), jax.process_count()
    _require_shares(rows)
    mine = slice(index * rows // count, (index + 1) * rows // count)

    def cut(leaf: Any, axis: int | None) -> Any:
        return leaf if axis is None else leaf[(slice(None),) * axis + (mine,)]

    return map_rows(cut, batch, rows, per_sequence)


def rows_of(model: Any, batch: Batch) -> int:
    """Length of the first batch axis, 0 if there is none."""
    features = in_ndim(model) if is_layer(model) or isinstance(model, Cell) else 0
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(batch.xs)[:1]]
    return next((shape[1] for shape in shapes if len(shape) > 1 + features), 0)


def split_over(model: Any, rows: int, per_sequence: bool = False) -> Split | None:
    """The sharding of batches over as many devices as divide their rows; None for a single device.

    Several processes use all their devices, each of the same number of rows.
    """
    if several():
        mesh, count = Mesh(np.array(_require_shares(rows)), (ROWS,)), jax.local_device_count()
        if mesh.devices.flat[0].platform == "cpu" and not _has_threads(count):
            needed = f"set NPROC to {2 * count}, or create the devices with jrnn.use_cores({count})"
            warn(f"fit: an all-reduce can hang with {_threads()} XLA threads: {needed}")
        return Split(mesh, model, per_sequence)
    devices = jax.local_devices()
    cores = devices[0].platform == "cpu"
    most = min(len(devices), rows // ROWS_PER_CORE if cores else rows)
    count = max((n for n in range(1, most + 1) if rows % n == 0), default=1)
    if count == 1:
        return None
    if cores and not _has_threads(count):
        warn(
            f"fit uses one CPU device, not {count}: XLA has {_threads()} threads, and an all-reduce can hang "
            f"with fewer than {2 * count}; create the devices with jrnn.use_cores()"
        )
        return None
    return Split(Mesh(np.array(devices[:count]), (ROWS,)), model, per_sequence)


def _require_shares(rows: int) -> list[jax.Device]:
    """The devices of all processes, those of one after those of another; raise if they do not divide rows."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    processes = jax.process_count()
    if len(devices) != jax.local_device_count() * processes:
        raise ValueError(f"every process needs the same number of devices: {processes} have {len(devices)}")
    if rows == 0 or rows % len(devices):
        raise ValueError(
            f"batches have {rows} rows, which the {len(devices)} devices of {processes} processes cannot "
            f"share equally: choose a batch size that is a multiple of {len(devices)}"
        )
    return devices


def gather(tree: Any) -> Any:
    """Move arrays from several devices to the default one, uncommitted."""

    def bring(leaf: Array) -> Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = on_device(jax.device_get(jax.random.key_data(leaf)))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        return on_device(jax.device_get(leaf))

    return jax.tree.map(bring, tree)
