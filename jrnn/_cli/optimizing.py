"""Parts of `jrnn train` that optax lacks: halved rates, averaged weights, penalties on activations."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

import jrnn


class AverageState(NamedTuple):
    """State of `averaging`."""

    updates: Array  # so far
    mean: Any  # of the weights after each update since the first that counts


def halving(rate: float, each: int, epochs: int) -> optax.Schedule:
    """A learning rate that is constant for some epochs of `each` steps, and halved before each one after."""

    def schedule(step: Any) -> Any:
        return rate * 0.5 ** jnp.maximum(step // each + 1 - epochs, 0)

    return schedule


def averaging(first: int) -> optax.GradientTransformation:
    """Keep the mean of the weights over the updates from number `first` on, and until then the weights."""

    def init(params: Any) -> AverageState:
        return AverageState(jnp.zeros((), jnp.int32), params)

    def update(updates: Any, state: AverageState, params: Any = None) -> tuple[Any, AverageState]:
        share = 1 / jnp.maximum(state.updates - first + 1, 1)
        new = optax.apply_updates(params, updates)
        mean = jax.tree.map(lambda old, now: old + share * (now - old), state.mean, new)
        return updates, AverageState(state.updates + 1, mean)

    return optax.GradientTransformation(init, update)


def averaged(opt_state: Any, params: Any) -> Any:
    """The mean that `averaging`, the last of a chain, keeps."""
    del params
    return opt_state[-1].mean


def uniform_params(model: Any, vocabulary: int, seed: int, bound: float) -> Any:
    """Initial parameters, each uniform between ± the bound; those that are not trained as they are."""
    key = jax.random.key(seed)
    params = model.init(key, vocabulary)
    keys = jax.tree.unflatten(jax.tree.structure(params), jax.random.split(key, len(jax.tree.leaves(params))))

    def drawn(trained: bool, key: Array, leaf: Array) -> Array:
        return jax.random.uniform(key, leaf.shape, leaf.dtype, -bound, bound) if trained else leaf

    return jax.tree.map(drawn, jrnn.trainable(params), keys, params)


def activation_penalty(model: Any, size: float, change: float) -> Any:
    """The penalty of a language model on what its read-out reads."""
    stack: Any = model.cell if isinstance(model, jrnn.Tie) else model
    penalty = jrnn.analysis.ActivationPenalty(jrnn.Stack(stack.cells[:-1]), size, change)
    return lambda params, batch: penalty(params[:-1], batch)
