"""Checkpoints: everything needed to resume a run, verified before use.

A checkpoint is a folder `step_00001200` in the folder of a run:

    arrays/          parameters, optimizer state, carry and key: one orbax checkpoint, {name: array}
    checkpoint.json  the cell as names and fields, shape and dtype of every leaf, position, meta
    manifest.json    size and sha256 of every file, and the sha256 of that list

It is written under a hidden name, synced and renamed, so a folder of that name is complete even if the
process was killed. Nothing is unpickled, and class names are looked up among jrnn's own exports only.
"""

from jrnn.checkpoint.cells import cell_from_json as cell_from_json
from jrnn.checkpoint.cells import cell_to_json as cell_to_json
from jrnn.checkpoint.files import CheckpointError as CheckpointError
from jrnn.checkpoint.files import checkpoints as checkpoints
from jrnn.checkpoint.parameters import load_params as load_params
from jrnn.checkpoint.parameters import save_params as save_params
from jrnn.checkpoint.snapshots import Snapshot as Snapshot
from jrnn.checkpoint.snapshots import load as load
from jrnn.checkpoint.snapshots import save as save

__all__ = [
    "CheckpointError",
    "Snapshot",
    "cell_from_json",
    "cell_to_json",
    "checkpoints",
    "load",
    "load_params",
    "save",
    "save_params",
]
