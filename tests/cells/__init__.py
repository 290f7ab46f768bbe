"""Every cell as the tests know it: `jrnn/cells/FILE.py` is tested by `tests/cells/FILE.py`.

An entry has the name of its cell. Beside it stand the equations of the cell, written once more from the
paper in NumPy: `step(p, carry, x, **options) -> (carry, y)`, gate by gate, each with its own matrices, on
column vectors, W x + U h + b, with `p` a dict whose keys are the letters of the equation. A step uses nothing
of jrnn.
"""

import importlib
import pkgutil

from tests.entries import Entry

MODULES = [importlib.import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)]
ENTRIES = {
    name: value for module in MODULES for name, value in vars(module).items() if isinstance(value, Entry)
}
VALUES = {name: comparison for entry in ENTRIES.values() for name, comparison in entry.values.items()}
