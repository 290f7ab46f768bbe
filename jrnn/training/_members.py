"""Blocks of members of a population that run in one program."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jrnn._alignment import on_device
from jrnn._caching import cached
from jrnn._checks import brief
from jrnn.cell import Cell
from jrnn.data import Batch
from jrnn.training._plans import Plan
from jrnn.training._settings import Setting, typed
from jrnn.training.objectives import Loss
from jrnn.training.progress import Progress
from jrnn.training.steps import TrainState, batch_shape, init_state, is_finite, model_function, train_step
from jrnn.unrolling import Scan, gradient_memory

Floats = dict[str, Any]
MEMBERS = "members"  # the axis of a mesh over which a block is split
ELEMENTS = 5000  # of the carries of a block, beyond which larger blocks gain nothing on a CPU


@dataclass(frozen=True)
class Recipe:
    """The arguments of `sweep` that may be functions of the setting, and the options that members share."""

    loss: Any
    optimizer: Any
    penalties: Any
    options: tuple[tuple[str, Any], ...]  # of a `Plan`

    def plan(self, model: Any, setting: Setting) -> Plan:
        """The options of a member."""
        loss = self.loss if hasattr(self.loss, "mean") else call("loss", self.loss, setting)
        given = self.optimizer
        optimizer = given if hasattr(given, "update") else call("optimizer", given, setting)
        given = self.penalties
        penalties: Any = given if isinstance(given, tuple | list) else call("penalties", given, setting)
        return Plan(model=model, loss=loss, optimizer=optimizer, penalties=penalties, **dict(self.options))

    def compiled(self) -> "Recipe":
        """The part that the programs depend on: two recipes that differ in the rest run the same ones."""
        rest = {"monitors": (), "criterion": None, "patience": None, "save_every": 1, "progress": Progress()}
        return replace(self, options=tuple((dict(self.options) | rest).items()))


def call(name: str, function: Any, setting: Setting) -> Any:
    """An argument of `sweep` that is a function of the setting."""
    if not callable(function):
        raise TypeError(f"{name} must be what fit takes, or a function of the setting, got {brief(function)}")
    return function(setting)


@dataclass(frozen=True, eq=False)
class Programs:
    """The compiled functions of a group; equal ones are compiled once, in later sweeps too."""

    recipe: Recipe
    model: Any
    fixed: tuple[tuple[str, Any], ...]
    types: Any  # of the values of `fixed`
    mesh: Mesh | None
    read: set[str] = field(default_factory=set)  # names of the settings that were read while tracing

    def plan(self, floats: Floats) -> Plan:
        """The options of a member."""
        return self.recipe.plan(self.model, Setting(dict(self.fixed) | floats, self.read))

    def mapped(self, function: Callable[..., Any], axes: tuple[int | None, ...]) -> Callable[..., Any]:
        """A function of a member, compiled for a block; each device has members of its own."""
        several = jax.vmap(function, in_axes=axes)
        if self.mesh is None:
            return jax.jit(several)
        specs = tuple(PartitionSpec() if axis is None else PartitionSpec(MEMBERS) for axis in axes)
        options: dict[str, Any] = {"in_specs": specs, "out_specs": PartitionSpec(MEMBERS), "check_vma": False}
        return jax.jit(jax.shard_map(several, mesh=self.mesh, **options))

    @functools.cached_property
    def step(self) -> Callable[..., Any]:
        """The training step; members that have stopped, or whose step is not finite, stay."""
        return self.mapped(self._step, (0, None, None, 0, 0))

    @functools.cached_property
    def evaluate(self) -> Callable[..., Any]:
        """The evaluation of a batch: `(params, batch, carry, floats) -> (carry, mean)`."""
        return self.mapped(self._evaluate, (0, None, 0, 0))

    @functools.cached_property
    def examine(self) -> Callable[..., Any]:
        """`(state, floats) -> (result of eval_params, True where it is finite)`."""
        return self.mapped(self._examine, (0, 0))

    @functools.cached_property
    def carries(self) -> Callable[..., Any]:
        """The initial carries of a stream: `(params, batch shape) -> carry`."""
        return jax.jit(jax.vmap(self.model.initial_carry, in_axes=(0, None)), static_argnums=1)

    def _step(self, state: TrainState, batch: Batch, fresh: Any, active: Any, floats: Floats) -> Any:
        plan = self.plan(floats)
        options: dict[str, Any] = {"penalties": tuple(plan.penalties), "method": plan.method}
        one = train_step(plan.model, plan.loss, plan.optimizer_of(state.params), **options)
        new, metrics = one(state, batch, fresh)
        active = active & is_finite(new.params)
        return _where(active, new, state), active, metrics["loss"]

    def _evaluate(self, params: Any, batch: Batch, carry: Any, floats: Floats) -> tuple[Any, Array]:
        plan = self.plan(floats)
        carry, ys = model_function(plan.model, plan.method)(params, batch, carry, None)
        return (carry if plan.stateful else None), plan.loss.mean(ys, batch)

    def _examine(self, state: TrainState, floats: Floats) -> tuple[Any, Array]:
        params = self.plan(floats).evaluated(state)
        return params, is_finite(params)


def programs_of(*arguments: Any) -> Programs:
    """The programs for these arguments, from a cache unless one does not hash."""
    try:
        hash(arguments)
    except TypeError:
        return Programs(*arguments)
    return _kept(*arguments)


@functools.partial(cached, maxsize=8)
def _kept(*arguments: Any) -> Programs:
    return Programs(*arguments)


@dataclass(frozen=True, eq=False)
class Group:
    """Members with equal models, and equal settings but for floats: one program, compiled once.

    Floats are arguments of the program, so functions of the setting see tracers in their place.
    """

    recipe: Recipe
    begin: Callable[[Any, Setting, Array], tuple[Any, Array]]  # (model, setting, key) -> (params, key)
    model: Any
    fixed: dict[str, Any]  # the settings that are not floats
    example: Floats  # those of one member
    read: set[str]  # names of the settings that functions have read
    mesh: Mesh | None  # the devices that every block is spread over

    @property
    def devices(self) -> int:
        """Number of devices."""
        return 1 if self.mesh is None else self.mesh.size

    def place(self, tree: Any, *axes: str) -> Any:
        """Move arrays to the devices: split over MEMBERS, or the same on each."""
        if self.mesh is None:
            return jax.device_put(tree)
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec(*axes)))

    def setting(self, floats: Floats) -> Setting:
        """The whole setting of a member."""
        return Setting(self.fixed | floats, self.read)

    def start(self, seed: int, floats: Floats) -> TrainState:
        """The initial state of a member, drawn as `fit` draws it."""
        setting = self.setting(floats)
        params, key = self.begin(self.model, setting, jax.random.key(seed))
        return init_state(self.model, params, self.recipe.plan(self.model, setting).optimizer_of(params), key)

    @functools.cached_property
    def plan(self) -> Plan:
        """The options of one member."""
        return self.recipe.plan(self.model, self.setting(self.example))

    @property
    def loss(self) -> Loss:
        """The loss of one member, which counts the targets for all: their number depends on no float."""
        return self.plan.loss

    @functools.cached_property
    def programs(self) -> Programs:
        """The compiled functions."""
        fixed = tuple(self.fixed.items())
        return programs_of(self.recipe.compiled(), self.model, fixed, typed(fixed), self.mesh)

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
        state: TrainState = jax.eval_shape(lambda: self.start(0, self.example))
        return state

    def bytes(self, batch: Batch) -> int:
        """Temporaries of the gradient of one member: predicted for a cell, else those that XLA reports."""
        plan = self.plan
        options = {"lengths": batch.lengths, "resets": batch.resets, "key": jax.random.key(0)}
        if isinstance(self.model, Cell) and isinstance(plan.method, Scan):
            return gradient_memory(self.model, self.spec.params, batch.xs, method=plan.method, **options)
        count, step = self.devices, cast(Any, self.programs.step)
        one = jax.tree.map(lambda a: jax.ShapeDtypeStruct((count, *a.shape), a.dtype), self.spec)
        fresh, active = on_device(True), on_device([True] * count)
        floats = {name: on_device([value] * count) for name, value in self.example.items()}
        analysis = step.lower(one, batch, fresh, active, floats).compile().memory_analysis()
        return int(analysis.temp_size_in_bytes)


class Stacked(NamedTuple):
    """The arrays of a block, members first."""

    state: TrainState
    active: Array  # False once a member has stopped or diverged
    best: Any  # parameters of the best epoch


class Block:
    """Members of a group that run together."""

    def __init__(self, group: Group, members: list[int], size: int) -> None:
        self.group, self.members = group, members
        # copies of the last, so that all blocks run the same program, of equal parts on all devices
        self.padding = -(-size // group.devices) * group.devices - len(members)
        self.losses: list[tuple[float, Array]] = []  # of steps, with the number of targets

    def begin(self, seeds: list[int], floats: list[Floats]) -> None:
        """Draw the initial states, given the seeds and the settings of all members of the population."""
        chosen = [*self.members, *self.members[-1:] * self.padding]
        names = self.group.example
        self.floats = {name: on_device([floats[i][name] for i in chosen], float) for name in names}
        states = [self.group.start(seeds[i], {name: floats[i][name] for name in names}) for i in self.members]
        state = jax.tree.map(_stack, *states, *states[-1:] * self.padding)
        active = on_device(np.arange(len(chosen)) < len(self.members))
        self.place(Stacked(state, active, state.params))

    def place(self, stacked: Stacked) -> None:
        """Take over arrays."""
        self.stacked, self.floats = self.group.place((stacked, self.floats), MEMBERS)
        self.look()

    def like(self, rows: int) -> Any:
        """Shapes and dtypes of the arrays of a block that has this many rows."""
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype), self.stacked)

    def restore(self, stacked: Stacked) -> None:
        """Take over the arrays of this block, saved on perhaps another number of devices."""
        rows, count = np.arange(len(self.members) + self.padding), len(self.members)
        if len(stacked.active) != len(rows):
            stacked = jax.tree.map(lambda leaf: leaf[np.minimum(rows, count - 1)], stacked)
        self.place(stacked._replace(active=stacked.active & on_device(rows < count)))

    def look(self) -> None:
        """Wait for the steps taken, and see which members are active."""
        self.active = np.asarray(jax.device_get(self.stacked.active))

    def stop(self, stopped: list[bool]) -> None:
        """Stop some members."""
        stays = self.active & ~np.array([*stopped, *[True] * self.padding])
        if (stays != self.active).any():
            self.place(self.stacked._replace(active=on_device(stays)))

    def begin_carry(self, shape: tuple[int, ...]) -> None:
        """Fill the carries that a stream passes on."""
        state = self.stacked.state
        carry = self.group.place(self.group.programs.carries(state.params, shape), MEMBERS)
        self.stacked = self.stacked._replace(state=state._replace(carry=carry))

    def advance(self, batch: Batch, fresh: Array, count: float) -> None:
        """Take one step on a batch with `count` targets; returns before it is computed."""
        state, active, best = self.stacked
        state, active, loss = self.group.programs.step(state, batch, fresh, active, self.floats)
        self.stacked = Stacked(state, active, best)
        self.losses.append((count, loss))

    def examine(self) -> tuple[Any, Any]:
        """The parameters to evaluate, and flags that say of which member they are finite."""
        if self.group.plan.eval_params is None:
            return self.stacked.state.params, jax.device_get(self.stacked.active)
        params, finite = self.group.programs.examine(self.stacked.state, self.floats)
        return params, jax.device_get(finite)

    def keep(self, better: Any, params: Any) -> None:
        """Keep parameters of the members that have become better."""
        if not better.any():
            return
        flags = self.group.place(better, MEMBERS)
        self.stacked = self.stacked._replace(best=_choose(flags, params, self.stacked.best))

    def of_members(self, tree: Any) -> list[Any]:
        """A tree of arrays, members first, as a list with a tree on one device for each member."""
        leaves, structure = jax.tree.flatten(tree)
        columns = [_unstack(leaf)[: len(self.members)] for leaf in leaves]
        return [jax.tree.unflatten(structure, column) for column in zip(*columns, strict=True)]


def _stack(*leaves: Array) -> Array:
    """Stack arrays or keys on the host, where nothing is compiled."""
    if jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
        data = _stack(*[jax.random.key_data(leaf) for leaf in leaves])
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaves[0]))
    return on_device(np.stack(jax.device_get(leaves)))


def _unstack(leaf: Array) -> list[Array]:
    """Invert `_stack`."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        parts, impl = _unstack(jax.random.key_data(leaf)), jax.random.key_impl(leaf)
        return [jax.random.wrap_key_data(part, impl=impl) for part in parts]
    return [on_device(part) for part in jax.device_get(leaf)]


def _where(flag: Any, new: Any, old: Any) -> Any:
    """The new tree where the flag is True, else the old one, in its dtypes."""
    same = jax.tree.map(lambda a, b: a if a.dtype == b.dtype else a.astype(b.dtype), new, old)
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), same, old)


_choose = jax.jit(jax.vmap(_where))
