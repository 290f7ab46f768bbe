"""Blocks of members of a population that run in one program."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jrnn._alignment import on_device
from jrnn.cell import Cell
from jrnn.data import Batch
from jrnn.training._plans import Plan
from jrnn.training._settings import Setting
from jrnn.training.devices import gather
from jrnn.training.steps import TrainState, batch_shape, init_state, model_function, train_step
from jrnn.unrolling import Scan, gradient_memory

Floats = dict[str, Any]
ELEMENTS = 8192  # of the carries of a block, beyond which larger blocks gain nothing on a CPU


@dataclass(frozen=True, eq=False)
class Group:
    """Members with equal models, and equal settings but for floats: one program, compiled once.

    Floats are arguments of the program, so functions of the setting see tracers in their place.
    """

    plan: Callable[[Setting], Plan]
    begin: Callable[[Any, Setting, Array], tuple[Any, Array]]  # (model, setting, key) -> (params, key)
    model: Any
    fixed: dict[str, Any]  # the settings that are not floats
    example: Floats  # those of one member
    read: set[str]  # names of the settings that functions have read

    def setting(self, floats: Floats) -> Setting:
        """The whole setting of a member."""
        return Setting(self.fixed | floats, self.read)

    @functools.cached_property
    def start(self) -> Callable[..., TrainState]:
        """The compiled initial states: `(keys, floats) -> state`."""

        def start(key: Array, floats: Floats) -> TrainState:
            params, key = self.begin(self.model, self.setting(floats), key)
            optimizer = self.plan(self.setting(floats)).optimizer_of(params)
            return init_state(self.model, params, optimizer, key)

        return jax.jit(jax.vmap(start))

    @functools.cached_property
    def step(self) -> Callable[..., Any]:
        """The compiled training step; members that have stopped, or whose step is not finite, stay."""

        def step(state: TrainState, batch: Batch, fresh: Any, active: Any, floats: Floats) -> Any:
            plan = self.plan(self.setting(floats))
            options: dict[str, Any] = {"penalties": tuple(plan.penalties), "method": plan.method}
            one = train_step(self.model, plan.loss, plan.optimizer_of(state.params), **options)
            new, metrics = one(state, batch, fresh)
            active = active & _is_finite(new.params)
            return _where(active, new, state), active, metrics["loss"]

        return jax.jit(jax.vmap(step, in_axes=(0, None, None, 0, 0)))

    @functools.cached_property
    def carries(self) -> Callable[..., Any]:
        """The initial carries of a stream: `(params, batch shape) -> carry`."""
        start = jax.vmap(self.model.initial_carry, in_axes=(0, None))
        return jax.jit(start, static_argnums=1)

    @functools.cached_property
    def evaluate(self) -> Callable[..., Any]:
        """The compiled evaluation of a batch: `(params, batch, carry, floats) -> (carry, mean)`."""

        def evaluate(params: Any, batch: Batch, carry: Any, floats: Floats) -> tuple[Any, Array]:
            plan = self.plan(self.setting(floats))
            carry, ys = model_function(self.model, plan.method)(params, batch, carry, None)
            return (carry if plan.stateful else None), plan.loss.mean(ys, batch)

        return jax.jit(jax.vmap(evaluate, in_axes=(0, None, 0, 0)))

    @functools.cached_property
    def examine(self) -> Callable[..., Any]:
        """The compiled `(state, floats) -> (parameters to evaluate, True where they are finite)`."""

        def examine(state: TrainState, floats: Floats) -> tuple[Any, Array]:
            params = self.plan(self.setting(floats)).evaluated(state)
            return params, _is_finite(params)

        return jax.jit(jax.vmap(examine))

    def size(self, batch: Batch, memory: int | None) -> int:
        """Number of members in a block: all that fit the memory, on a CPU no more than gain anything."""
        most = 2**30
        if memory is not None:
            needed = self.bytes(batch)
            if needed > memory:
                raise ValueError(f"memory is {memory} bytes, the gradient of one member needs {needed}")
            most = memory // max(needed, 1)
        if jax.default_backend() != "cpu":
            return most
        if not hasattr(self.model, "initial_carry"):
            return 1
        shape = batch_shape(self.model, batch)
        carry = jax.eval_shape(lambda params: self.model.initial_carry(params, shape), self.spec.params)
        elements = sum(leaf.size for leaf in jax.tree.leaves(carry))
        return max(1, min(most, ELEMENTS // max(elements, 1)))

    @functools.cached_property
    def spec(self) -> TrainState:
        """Shapes and dtypes of the state of one member."""
        several = jax.eval_shape(self.start, *_stacked_inputs([0], [self.example]))
        state: TrainState = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), several)
        return state

    def bytes(self, batch: Batch) -> int:
        """Temporaries of the gradient of one member: predicted for a cell, else those that XLA reports."""
        plan = self.plan(self.setting(self.example))
        options = {"lengths": batch.lengths, "resets": batch.resets, "key": jax.random.key(0)}
        if isinstance(self.model, Cell) and isinstance(plan.method, Scan):
            return gradient_memory(self.model, self.spec.params, batch.xs, method=plan.method, **options)
        one = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape), a.dtype), self.spec)
        fresh, active = on_device(True), on_device([True])
        floats = {name: on_device([value]) for name, value in self.example.items()}
        analysis = self.step.lower(one, batch, fresh, active, floats).compile().memory_analysis()
        return int(analysis.temp_size_in_bytes)


def _stacked_inputs(seeds: list[int], floats: list[Floats]) -> tuple[Array, Floats]:
    """Keys and settings of the members of a block, stacked."""
    with jax.transfer_guard_host_to_device("allow"):
        keys = jnp.stack([jax.random.key(seed) for seed in seeds])
        return keys, {name: jnp.array([f[name] for f in floats], float) for name in floats[0]}


class Stacked(NamedTuple):
    """The arrays of a block, members first."""

    state: TrainState
    active: Array  # False once a member has stopped or diverged
    best: Any  # parameters of the best epoch


class Block:
    """Members of a group that run together, on one device."""

    def __init__(self, group: Group, members: list[int], size: int, device: Any) -> None:
        self.group, self.members, self.device = group, members, device
        self.padding = size - len(members)  # copies of the last, so that all blocks run the same program
        self.losses: list[tuple[int, Array]] = []  # of steps, with the number of targets

    def begin(self, seeds: list[int], floats: list[Floats]) -> None:
        """Draw the initial states, given the seeds and the settings of all members of the population."""
        chosen = [*self.members, *self.members[-1:] * self.padding]
        keys, self.floats = _stacked_inputs([seeds[i] for i in chosen], [floats[i] for i in chosen])
        state = self.group.start(keys, self.floats)
        active = on_device(np.arange(len(chosen)) < len(self.members))
        self.place(Stacked(state, active, state.params))

    def place(self, stacked: Stacked) -> None:
        """Move the arrays to the device of the block."""
        self.stacked, self.floats = jax.device_put((stacked, self.floats), self.device)
        self.look()

    def look(self) -> None:
        """Wait for the steps taken, and see which members are active."""
        self.active = np.asarray(jax.device_get(self.stacked.active))

    def stop(self, stopped: list[bool]) -> None:
        """Stop some members."""
        stays = self.active & ~np.array([*stopped, *[True] * self.padding])
        self.place(self.stacked._replace(active=on_device(stays)))

    def begin_carry(self, shape: tuple[int, ...]) -> None:
        """Fill the carries that a stream passes on."""
        state = self.stacked.state
        carry = self.group.carries(state.params, shape)
        self.stacked = self.stacked._replace(state=state._replace(carry=carry))

    def advance(self, batch: Batch, fresh: Array, count: int) -> None:
        """Take one step on a batch with `count` targets; returns before it is computed."""
        state, active, best = self.stacked
        state, active, loss = self.group.step(state, batch, fresh, active, self.floats)
        self.stacked = Stacked(state, active, best)
        self.losses.append((count, loss))

    def examine(self) -> tuple[Any, Any]:
        """The parameters to evaluate, and flags that say of which member they are finite."""
        params, finite = self.group.examine(self.stacked.state, self.floats)
        return params, jax.device_get(finite)

    def keep(self, better: Any, params: Any) -> None:
        """Keep parameters of the members that have become better."""
        flags = jax.device_put(np.asarray(better), self.device)
        self.stacked = self.stacked._replace(best=_choose(flags, params, self.stacked.best))

    def of_members(self, tree: Any) -> list[Any]:
        """A tree of arrays, members first, as a list with a tree for each member."""
        whole = gather(tree)
        return [jax.tree.map(lambda a, at=at: a[at], whole) for at in range(len(self.members))]


def _is_finite(params: Any) -> Array:
    """True if all parameters are finite."""
    floats = [leaf for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in floats]))


def _where(flag: Any, new: Any, old: Any) -> Any:
    """The new tree where the flag is True, else the old one, in its dtypes."""
    same = jax.tree.map(lambda a, b: a if a.dtype == b.dtype else a.astype(b.dtype), new, old)
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), same, old)


_choose = jax.jit(jax.vmap(_where))
