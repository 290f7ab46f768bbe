"""Command line parsing: the commands of `jrnn` and their options."""

import argparse
import dataclasses
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from jrnn._cli.converting import convert
from jrnn._cli.diagnosis import doctor
from jrnn._cli.evaluating import evaluate
from jrnn._cli.exporting import export
from jrnn._cli.inspecting import inspect
from jrnn._cli.options import SEED, SHARE, SIZE, TEMPERATURE, TrainConfig
from jrnn._cli.sampling import one_line, sample
from jrnn._cli.tables import cells
from jrnn._cli.training import train

METAVARS = {str: "NAME", int: "N", float: "X"}  # of options, by the type of their value


class Parser(argparse.ArgumentParser):
    """Parser with one-line errors, like all other errors of the command."""

    def error(self, message: str) -> NoReturn:
        """Raise an error for `main` to print."""
        raise ValueError(f"{message} (see {self.prog} --help)")


def parser() -> Parser:
    """Make the parser of the command line; the help of every command ends with examples."""
    top = Parser("jrnn", description="Recurrent networks in JAX.", allow_abbrev=False)
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], line: str, *examples: str) -> Parser:
        added = commands.add_parser(name, help=line, description=line, allow_abbrev=False)
        added.formatter_class = argparse.RawDescriptionHelpFormatter
        added.epilog = "\n  ".join(("examples:", *examples))
        added.set_defaults(run=run)
        return added

    line = "train a language model on text, by characters or words"
    example = "jrnn train book.txt --cell GRU --hidden 128"
    _add_train(command("train", train, line, "jrnn train", example, "jrnn train --resume runs/1"))
    example = "jrnn sample runs/1 --prompt 'The ' --temperature 0.5 --length 1000"
    _add_sample(command("sample", sample, "let a trained model write", "jrnn sample runs/1", example))
    line = "measure the loss of a trained model on a text"
    example = "jrnn evaluate runs/1 --text book.txt"
    _add_evaluate(command("evaluate", evaluate, line, example))
    line = "look inside a trained model: gradients, dynamics, gates, memory"
    example = "jrnn inspect runs/1 --text book.txt --steps 200"
    _add_inspect(command("inspect", inspect, line, "jrnn inspect runs/1 --text book.txt", example))
    line = "convert a model to the file of another library, and verify it"
    example = "jrnn convert model.pt model.safetensors --prefix encoder.rnn"
    _add_convert(command("convert", convert, line, "jrnn convert runs/1 model.onnx", example))
    line = "write a trained model as ONNX, for where JAX is not"
    _add_export(command("export", export, line, "jrnn export runs/1 model.onnx"))
    line = "list the recurrent cells, their sizes and papers"
    _add_cells(command("cells", cells, line, "jrnn cells", "jrnn cells --hidden 256 --in-features 64"))
    command("doctor", doctor, "show versions, devices and settings, and check a gradient", "jrnn doctor")
    return top


def _add_train(added: Parser) -> None:
    what = "UTF-8 text; defaults to the Python language reference that comes with Python"
    added.add_argument("files", nargs="*", metavar="FILE", help=what)
    for f in dataclasses.fields(TrainConfig):
        line, metavar = f"{f.metadata['help']} (default: {f.default})", METAVARS[type(f.default)]
        name = f.name.replace("_", "-")
        added.add_argument(f"--{name}", type=f.metadata["type"], metavar=metavar, help=line)
    added.add_argument("--out", metavar="DIR", help="directory of the run (default: runs/1, runs/2, ...)")
    line = "continue a stopped run, with its original settings and files"
    added.add_argument("--resume", metavar="RUN", help=line)
    line = "train in several processes, each started with this command by srun or mpirun"
    added.add_argument("--distributed", action="store_true", help=line)


def _add_sample(added: Parser) -> None:
    added.add_argument("run_directory", metavar="RUN", help="directory of the run")
    added.add_argument("--prompt", metavar="TEXT", default="", help="text to continue")
    line = "below 1: safer, above: bolder, 0: always the most likely (default: 0.8)"
    added.add_argument("--temperature", type=TEMPERATURE, metavar="X", default=0.8, help=line)
    added.add_argument(
        "--length", type=SIZE, metavar="N", default=500, help="characters or words (default: 500)"
    )
    added.add_argument("--seed", type=SEED, metavar="N", default=0, help="random seed (default: 0)")
    added.add_argument("--top-k", type=SIZE, metavar="N", help="sample from the N most likely ones")
    line = "sample from the most likely ones that make up this probability"
    added.add_argument("--top-p", type=SHARE, metavar="X", help=line)


def _add_evaluate(added: Parser) -> None:
    added.add_argument("run_directory", metavar="RUN", help="directory of the run")
    added.add_argument("--text", nargs="+", metavar="FILE", required=True, help="UTF-8 text to read")


def _add_inspect(added: Parser) -> None:
    added.add_argument("run_directory", metavar="RUN", help="directory of the run; the page is written there")
    line = "UTF-8 text to inspect with; of the training text, the held-out part is used"
    added.add_argument("--text", nargs="+", metavar="FILE", default=(), help=line)
    line = "characters or words per sequence (default: 500)"
    added.add_argument("--steps", type=SIZE, metavar="N", default=500, help=line)


def _add_convert(added: Parser) -> None:
    files = ".safetensors, .pt, .pth, .keras, .weights.h5 or .onnx"
    added.add_argument("source", metavar="SOURCE", help=f"directory of a run, or a file {files}")
    added.add_argument("target", metavar="TARGET", help="file to write, of one of these endings")
    line = "of a state dict of PyTorch, take what stands under this name alone"
    added.add_argument("--prefix", metavar="NAME", default="", help=line)
    line = "of an nn.RNN of PyTorch (default: tanh)"
    added.add_argument("--nonlinearity", choices=("tanh", "relu"), default="tanh", help=line)
    line = "what model.to_json() of Keras says, for a .weights.h5"
    added.add_argument("--config", metavar="FILE", help=line)
    line = "leave out weights of PyTorch that have no place in the model"
    added.add_argument("--unused", action="store_true", help=line)


def _add_export(added: Parser) -> None:
    added.add_argument("run_directory", metavar="RUN", help="directory of the run")
    added.add_argument("target", metavar="FILE", help="file to write, ending in .onnx")


def _add_cells(added: Parser) -> None:
    for flag, what in {"--hidden": "cells", "--in-features": "inputs"}.items():
        added.add_argument(
            flag, type=SIZE, metavar="N", default=128, help=f"width of the {what} (default: 128)"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `jrnn`.

    Args:
      argv: the arguments after `jrnn`; defaults to those of the process.

    Returns:
      Exit status: 0; 1 if `doctor` finds a problem; 2 for an error, which is printed in one line on stderr;
      130 if it was stopped; 75 if all processes of a distributed run should be started again to resume it.
    """
    for stream in (sys.stdout, sys.stderr):  # show a question mark for characters that a console lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace" if stream is sys.stderr else "replace")
    try:
        arguments = parser().parse_args(argv)
        status = int(arguments.run(arguments))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # of `jrnn cells | head`
        _give_up_stdout()
        return 0
    except KeyboardInterrupt:
        print("jrnn: stopped", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        print(f"jrnn: {one_line(error)}", file=sys.stderr)
        _give_up_stdout()
        return 2


def _give_up_stdout() -> None:
    """Redirect a broken stdout, so that Python does not try to flush it at exit and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
