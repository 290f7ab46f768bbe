"""Watching a run: numbers of the parameters while they are trained."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jrnn._checks import check_width


@dataclass(frozen=True)
class Watch:
    """Monitor for `fit` that measures the parameters every so many steps.

    Its numbers stand behind the progress bar and in the records of their steps, and so in `metrics.jsonl`,
    beside the norm of the gradient, which is in every record; `jrnn.plots.training_curves` draws them.

    Args:
      numbers: by name, functions of the parameters that give one number each.
      every: steps from one measurement to the next; the first step is measured.

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
        """The numbers after a step that is to be measured; none after others, or after an epoch."""
        if "loss" not in record or (record["step"] - 1) % self.every:
            return {}
        return {name: float(number(state.params)) for name, number in self.numbers.items()}
