"""Several processes that run one program, each with its own devices: `jax.distributed`.

All of them take the same steps and the same decisions. Files, output and monitors are the business of process
0, and the others get its outcome, errors included, so that none waits for one that has failed.
"""

import contextlib
import functools
import itertools
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from numpy.typing import NDArray

from jrnn.checkpoint._arrays import host, leaf_from, leaf_to_json
from jrnn.checkpoint.files import show

T = TypeVar("T")
CONFIG: Any = jax.config  # which does not declare its values
RESTART = 75  # exit status for "start all processes again", EX_TEMPFAIL of sysexits.h
_SYNC_POINTS = itertools.count(1)  # over all runs: JAX compares them, so they must never fall
_LAST_BEAT = [0.0]


class LostProcess(RuntimeError):
    """Raised where another process of the run has died."""


def several() -> bool:
    """True if this is one of several processes."""
    return jax.process_count() > 1


def is_first() -> bool:
    """True in process 0, and where there is only one."""
    return jax.process_index() == 0


def from_first(work: Callable[[], T]) -> T:
    """Call `work` in process 0, and return its JSON value in every process; an error is raised in all."""
    return read_first(lambda: (work(), ()), lambda _: ())[0]


def read_first(work: Callable[[], tuple[T, Any]], like: Callable[[T], Any]) -> tuple[T, Any]:
    """Call `work` in process 0, and return its JSON value and its tree of arrays in every process.

    Args:
      work: a function that returns both; if it raises, all processes raise.
      like: function of the value that returns a tree of the same structure, for the other processes.
    """
    if not several():
        return work()
    found: Any = None
    error: Exception | None = None
    arrays: list[Any] = []
    if is_first():
        try:
            found = work()
            leaves = jax.tree.leaves(found[1])
            arrays = [host(leaf) for leaf in leaves]
            kinds = [(array.shape, array.dtype.name) for array in arrays]
            message = {"value": found[0], "arrays": kinds, "leaves": [leaf_to_json(leaf) for leaf in leaves]}
            text = json.dumps(message)
        except Exception as raised:  # of any kind: the others wait for an answer
            error, text = raised, json.dumps({"error": f"{type(raised).__name__}: {show(raised)}"})
    message = json.loads(_send(text.encode() if is_first() else b""))
    if error is not None:
        raise error
    if "error" in message:
        raise RuntimeError(f"process 0 failed: {message['error']}")
    data = _send(b"".join(array.tobytes() for array in arrays)) if message["arrays"] else b""
    if is_first():
        return found[0], found[1]
    return message["value"], _received(data, message, like(message["value"]))


def _received(data: bytes, message: dict[str, Any], like: Any) -> Any:
    """Arrange arrays from process 0 like a tree."""
    leaves, start = [], 0
    for (shape, dtype), described in zip(message["arrays"], message["leaves"], strict=True):
        array = np.frombuffer(data, jax.numpy.dtype(dtype), int(np.prod(shape)), start).reshape(shape)
        leaves.append(leaf_from("an array of process 0", array, described))
        start += array.nbytes
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _send(data: bytes) -> bytes:
    """Send bytes from process 0 to all."""
    sizes = np.array(divmod(len(data), 2**31), np.uint32)
    high, low = multihost_utils.broadcast_one_to_all(sizes).tolist()
    size = high * 2**31 + low
    padded = np.zeros(_rounded(size), np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    sent: bytes = multihost_utils.broadcast_one_to_all(padded)[:size].tobytes()
    beat()  # process 0 has saved, loaded, or called the monitors of an epoch
    return sent


def total(counts: NDArray[Any]) -> NDArray[Any]:
    """The sum over the processes of (n,) float64."""
    if not several():
        return counts
    padded = np.zeros(_rounded(len(counts)))
    padded[: len(counts)] = counts
    sent = multihost_utils.process_allgather(padded.view(np.uint32))  # as JAX would round float64
    summed: NDArray[Any] = np.ascontiguousarray(sent).view(np.float64).sum(0)[: len(counts)]
    return summed


def _rounded(size: int) -> int:
    """The next power of two, so that few programs are compiled."""
    return 1 << max(size - 1, 0).bit_length()


def local(tree: Any) -> Any:
    """Replace arrays that are replicated over the processes by the copies of this one."""

    def copy(leaf: Any) -> Any:
        if not isinstance(leaf, Array) or leaf.is_fully_addressable:
            return leaf
        if not leaf.sharding.is_fully_replicated:
            raise ValueError("params must not be sharded over processes: fit replicates them")
        return leaf.addressable_data(0)

    return jax.tree.map(copy, tree)


def told_to_stop() -> bool:
    """True in every process after the same step, soon after SIGTERM has reached one of them.

    JAX catches SIGTERM, and agrees on a step that none has taken yet. Every process calls this at every step.
    """
    if not several() or not CONFIG.jax_enable_preemption_service:
        return False
    return bool(multihost_utils.reached_preemption_sync_point(next(_SYNC_POINTS)))


@contextlib.contextmanager
def together(patience: float) -> Iterator[None]:
    """End this process if others are lost while the context lasts.

    After an error within, one that nobody catches, this or a later one, ends the process at once: JAX would
    wait for the others to end too, while they wait for this one to take a step. So it is until the next run.

    Args:
      patience: seconds without a `beat` after which the process ends with status 75.

    Raises:
      LostProcess: an exchange with another process failed.
      ValueError: patience that is not above 0.
    """
    if not patience > 0:
        raise ValueError(f"stall_timeout must be a number of seconds above 0, got {patience!r}")
    if not several():
        yield
        return
    if isinstance(hook := sys.excepthook, functools.partial) and hook.func is _end:  # of an earlier run
        sys.excepthook = hook.args[0]
    try:
        with _watchdog(patience):
            yield
    except BaseException as error:
        sys.excepthook = functools.partial(_end, sys.excepthook)
        if not _says_lost(error):
            raise
        raise LostProcess(
            f"{_name()} lost another process, which has died or lost its connection. Start all of them "
            f"again with resume=True: the run continues from its newest checkpoint. ({show(error)[:300]})"
        ) from error


def _says_lost(error: BaseException) -> bool:
    """True for an error by which an exchange with another process has failed."""
    words = {  # a computation that cannot begin is a ValueError, one that fails later is JAX's
        ValueError: r"gloo|nccl|rccl",
        jax.errors.JaxRuntimeError: r"gloo|nccl|rccl|\bpeer|connection|heartbeat|coordination|barrier",
    }
    return any(isinstance(error, k) and re.search(w, str(error), re.IGNORECASE) for k, w in words.items())


def _name() -> str:
    return f"fit: process {jax.process_index()} of {jax.process_count()}"


def _end(hook: Callable[..., Any], kind: type[BaseException], *rest: Any) -> None:
    """Report an error that nobody caught, and end the process."""
    hook(kind, *rest)
    leave(RESTART if issubclass(kind, LostProcess) else 1)


def leave(status: int) -> NoReturn:
    """End the process at once, without the barrier at which JAX waits for the others."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def beat() -> None:
    """Tell the watchdog that this process is alive: it calls this again and again, or ends."""
    _LAST_BEAT[0] = time.monotonic()


@contextlib.contextmanager
def _watchdog(patience: float) -> Iterator[None]:
    """End the process when there has been no `beat` for long."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(max(_LAST_BEAT[0] + patience - time.monotonic(), 0.01)):
            if time.monotonic() - _LAST_BEAT[0] >= patience:
                print(
                    f"{_name()} has finished no step for {patience:g} s, so another one is stuck. It ends "
                    f"with status {RESTART}: end the others, and start all of them again with resume=True.",
                    file=sys.stderr,
                )
                leave(RESTART)

    beat()
    threading.Thread(target=watch, daemon=True, name="jrnn watchdog").start()
    try:
        yield
    finally:
        over.set()
