"""The command `jrnn`: train a character language model, sample from it, list the cells, check the set-up.

Each command imports its dependencies when it runs: `jrnn --help` loads neither flax nor orbax nor matplotlib.
"""

from jrnn._cli.options import TrainConfig as TrainConfig
from jrnn._cli.parsing import main as main
from jrnn._cli.tables import cell_table as cell_table
from jrnn._exports import public_names

__all__ = public_names(globals())
