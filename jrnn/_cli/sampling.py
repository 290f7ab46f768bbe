"""`jrnn sample`: a trained model writes on."""

import argparse
import contextlib
import dataclasses
import shlex
import shutil
import sys
import unicodedata
from pathlib import Path
from typing import Any

import jax

import jrnn
from jrnn._checks import brief
from jrnn._cli.options import TrainConfig
from jrnn._cli.tables import recurrent_cells
from jrnn._cli.texts import Tokenizer

META = ("config", "vocabulary", "files", "sha256")  # stored by `jrnn train` with the parameters


def sample(arguments: argparse.Namespace) -> int:
    """Run `jrnn sample`: generate text with the best model of a run."""
    with contextlib.suppress(RuntimeError):  # jax is already initialized
        jrnn.use_fused_loops()
    snapshot = load_run(Path(arguments.run_directory), best=True)
    tokenizer = tokenizer_of(snapshot.meta)
    if unknown := tokenizer.unknown(arguments.prompt):
        listed = ", ".join(map(repr, unknown))
        print(f"jrnn: not in the vocabulary, read as unknown {tokenizer.units}: {listed}", file=sys.stderr)
    choice = {name: getattr(arguments, name) for name in ("temperature", "top_k", "top_p")}
    model, key = (snapshot.cell, snapshot.params, tokenizer), jax.random.key(arguments.seed)
    written = write_on(*model, arguments.prompt, arguments.length, key=key, **choice)
    print(printable(arguments.prompt) + written)
    return 0


def write_on(model: Any, params: Any, tokenizer: Tokenizer, prompt: str, length: int, **choice: Any) -> str:
    """Generate text after a prompt, for a terminal; an empty prompt becomes a newline or the first symbol."""
    written = jrnn.generate(model, params, tokenizer.encode(prompt or tokenizer.start), length, **choice)
    return printable(tokenizer.decode(written.tokens, after=prompt))


def tokenizer_of(meta: dict[str, Any]) -> Tokenizer:
    """The vocabulary of a run; a ValueError or TypeError if it is wrong."""
    return Tokenizer.restored(meta["config"].get("level", TrainConfig.level), meta["vocabulary"])


def printable(text: str) -> str:
    """Escape characters that control a terminal or change the writing direction."""
    return "".join(c.encode("unicode_escape").decode() if _commands(c) else c for c in text)


def _commands(c: str) -> bool:
    control = unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"
    return control or "\u202a" <= c <= "\u202e" or "\u2066" <= c <= "\u2069"


def load_run(run: Path, best: bool = False) -> Any:
    """The newest, or the best, snapshot of a run of `jrnn train`."""
    found = jrnn.checkpoint.checkpoints(run)
    if not found:
        what = "it has no complete checkpoint" if run.exists() else "it does not exist"
        raise ValueError(f"{run}: not the directory of a run: {what}")
    try:
        snapshot = jrnn.load(run / "best" if best and jrnn.checkpoint.checkpoints(run / "best") else run)
    except jrnn.CheckpointError as error:
        older = found[1:] and not best
        hint = f"; delete {found[0]} to continue the run from {found[1].name}" if older else ""
        raise ValueError(f"{one_line(error)}{hint}") from error
    if not isinstance(snapshot.meta, dict) or set(META) - snapshot.meta.keys():
        raise ValueError(f"{run}: not a run of jrnn train: its checkpoint has no vocabulary and settings")
    if fault := _fault(snapshot.meta, snapshot.in_features):
        raise ValueError(f"{run}: its checkpoint is not one that jrnn train wrote: {fault}")
    return snapshot


def _fault(meta: dict[str, Any], in_features: int) -> str:
    """Describe what is wrong with the entries that `jrnn train` stores; empty if nothing is."""
    for name, kind in zip(META, (dict, dict, list, str), strict=True):
        if type(meta[name]) is not kind:
            return f"{name} is {brief(meta[name])}, not a {kind.__name__}"
    if wrong := [file for file in meta["files"] if type(file) is not str]:
        return f"files has {brief(wrong[0])}, not a file name"
    if fault := config_fault(meta["config"]):
        return fault
    try:
        size = len(tokenizer_of(meta))
    except (TypeError, ValueError) as error:
        return f"vocabulary is {brief(meta['vocabulary'])}: {brief(str(error))}"
    return "" if size == in_features else f"vocabulary has {size} entries, the model takes {in_features}"


def config_fault(config: dict[str, Any]) -> str:
    """Describe what is wrong with stored options of `jrnn train`; empty if nothing is."""
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    for name, value in config.items():
        if name not in fields or not _fits(fields[name], value):
            return f"config has {brief(name)}: {brief(value)}"
    cell = config.get("cell", TrainConfig.cell)
    return "" if cell in recurrent_cells() else f"config has an unknown cell, {brief(cell)}"


def _fits(field: dataclasses.Field[Any], value: Any) -> bool:
    """True for a value that an option of `jrnn train` can have."""
    kinds = (int, float) if isinstance(field.default, float) else (type(field.default),)
    if type(value) not in kinds:
        return False
    try:
        field.metadata["type"](str(value))
    except (argparse.ArgumentTypeError, ValueError):
        return False
    return True


def program() -> str:
    """The command to call: `jrnn` if that is on the path, otherwise the path that was typed."""
    if shutil.which("jrnn") or Path(sys.argv[0]).name != "jrnn":
        return "jrnn"
    return shlex.quote(sys.argv[0])


def one_line(error: BaseException) -> str:
    """Format an error as one line."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return printable(" ".join(text.split()))
