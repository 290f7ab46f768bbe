"""`jrnn sample`: a trained model writes on."""

import argparse
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import jax

import jrnn

META = ("config", "vocabulary", "files", "sha256")  # what `jrnn train` stores beside the parameters


def sample(arguments: argparse.Namespace) -> int:
    """Run `jrnn sample`: let the best model of a run write on."""
    snapshot = load_run(Path(arguments.run_directory), best=True)
    vocabulary = jrnn.CharVocabulary(**snapshot.meta["vocabulary"])
    unknown = [c for c in dict.fromkeys(arguments.prompt) if c not in vocabulary.symbols]
    if unknown:
        listed = ", ".join(map(repr, unknown))
        print(f"jrnn: the model knows no {listed}, and takes it for an unknown character", file=sys.stderr)
    choice = {name: getattr(arguments, name) for name in ("temperature", "top_k", "top_p")}
    model, key = (snapshot.cell, snapshot.params, vocabulary), jax.random.key(arguments.seed)
    print(arguments.prompt + write_on(*model, arguments.prompt, arguments.length, key=key, **choice))
    return 0


def write_on(model: Any, params: Any, vocabulary: Any, prompt: str, length: int, **choice: Any) -> str:
    """Text after a prompt; after a line feed, or the first symbol, if the prompt is empty."""
    start = prompt or ("\n" if "\n" in vocabulary.symbols else vocabulary.symbols[:1])
    written = jrnn.generate(model, params, vocabulary.encode(start), length, **choice)
    return str(vocabulary.decode(written.tokens))


def load_run(run: Path, best: bool = False) -> Any:
    """The newest, or the best, snapshot of a run of `jrnn train`."""
    found = jrnn.checkpoint.checkpoints(run)
    if not found:
        what = "it holds no complete checkpoint" if run.exists() else "there is nothing of that name"
        raise ValueError(f"{run}: not the directory of a run: {what}")
    try:
        snapshot = jrnn.load(run / "best" if best and jrnn.checkpoint.checkpoints(run / "best") else run)
    except jrnn.CheckpointError as error:
        older = found[1:] and not best
        hint = f"; without {found[0]} the run goes on from {found[1].name}" if older else ""
        raise ValueError(f"{one_line(error)}{hint}") from error
    if set(META) - snapshot.meta.keys():
        raise ValueError(f"{run}: not a run of jrnn train: its checkpoint has no vocabulary and settings")
    return snapshot


def program() -> str:
    """How this command is called: by name where that finds it, else by the path that was typed."""
    if shutil.which("jrnn") or Path(sys.argv[0]).name != "jrnn":
        return "jrnn"
    return shlex.quote(sys.argv[0])


def one_line(error: BaseException) -> str:
    """An error as a user reads it."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(text.split())
