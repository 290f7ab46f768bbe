"""Pictures that stand in the repository: `python -m docs.figures` draws them again."""

from pathlib import Path

import jax
import numpy as np

import jrnn
from jrnn.plots import curves
from jrnn.plots._figures import new_figure

STATIC = Path(__file__).parent / "static"
CELLS = {
    "Elman": jrnn.Elman(64),
    "GRU": jrnn.GRU(64),
    "LSTM": jrnn.LSTM(64),
    "LSTM, max_lag=200": jrnn.LSTM(64, max_lag=200),
    "CoRNN": jrnn.CoRNN(64),
    "LRU": jrnn.LRU(64),
}


def gradients() -> None:
    """Draw how much of the gradient of the last state is left at the steps before it, before any training."""
    xs = 0.3 * jax.random.normal(jax.random.key(0), (200, 8))
    found = {}
    for name, cell in CELLS.items():
        params = cell.init(jax.random.key(1), in_features=8)
        left = np.exp(jrnn.analysis.sensitivity(cell, params, xs).log_state)[::-1]
        found[name] = (np.arange(len(left)), left / left[0])
    figure = new_figure(8.0, 3.4)
    axes = curves(found, figure.subplots(), xlabel="steps before the last", ylabel="gradient left", log=True)
    axes.set_ylim(1e-6, 10)
    axes.set_title("What reaches the past, before any training")
    figure.savefig(STATIC / "gradients.png", dpi=110)


if __name__ == "__main__":
    gradients()
