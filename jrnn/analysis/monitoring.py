"""Monitors of a training run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jrnn._checks import check_width


@dataclass(frozen=True)
class Watch:
    """Monitor for `fit` that measures the parameters every n steps.

    The numbers are shown in the progress bar and added to the records of their steps, and so to
    `metrics.jsonl`, in addition to the gradient norm of every step; `jrnn.plots.training_curves` draws them.

    Args:
      numbers: mapping of names to functions of the parameters that return a number.
      every: steps from one measurement to the next, starting with the first step.

    Raises:
      ValueError: `every` below 1.

    >>> import jax, jax.numpy as jnp, jrnn, optax
    >>> from jrnn.analysis import Watch, spectrum
    >>> watch = Watch({"radius": lambda params: spectrum(params.w_hh).spectral_radius}, every=2)
    >>> cell, batch = jrnn.Elman(2), jrnn.Batch(jnp.ones((5, 3, 1)), jnp.ones((5, 3, 2)))
    >>> loss, options = jrnn.PerStep(jrnn.losses.mean_squared_error), {"progress": jrnn.Progress(bar=False)}
    >>> fitted = jrnn.fit(cell, [batch], loss, optimizer=optax.sgd(0.1), key=jax.random.key(0), in_features=1,
    ...                   monitors=(watch,), **options)
    """

    numbers: Mapping[str, Callable[[Any], Any]]
    every: int = 100

    def __post_init__(self) -> None:
        check_width("every", self.every)

    def __call__(self, record: dict[str, Any], state: Any) -> dict[str, float]:
        """The numbers after a measured step; empty after other steps and epochs."""
        if "loss" not in record or (record["step"] - 1) % self.every:
            return {}
        return {name: float(number(state.params)) for name, number in self.numbers.items()}
