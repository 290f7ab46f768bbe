"""Weights that come in and go out: the largest difference of outputs, for every case of the tests.

    python -m benchmarks.interop            in the root of the repository, with all libraries installed
    python -m benchmarks.interop torch

Each `tests/test_interop_NAME.py` has `PARITY`: the title of a format -> the name of a case -> a function of
"float32" or "float64" that gives the largest difference of weights that came in, and of those that went out;
None where there is no such way.
"""

import importlib
import itertools
import sys

import jax

FORMATS = ("torch", "keras", "flax", "haiku", "equinox", "onnx", "onnx_torch", "onnx_keras")
HEAD = """| format | layer | options | float32, in | out | float64, in | out |
| --- | --- | --- | ---: | ---: | ---: | ---: |"""


def rows(name):
    """The lines of the table for one module of tests."""
    tests = importlib.import_module(f"tests.test_interop_{name}")
    for title, cases in tests.PARITY.items():
        for case, differences in cases.items():
            found = []
            for dtype in ("float32", "float64"):
                with jax.enable_x64(dtype == "float64"):
                    found += differences(dtype)
            layer, _, options = (case, "", "") if "export" in title else case.partition(" ")
            numbers = " | ".join("–" if n is None else f"{n:.1e}" if n else "0" for n in found)
            yield f"| {title} | {layer} | {options or '–'} | {numbers} |"


def main():
    print(HEAD)
    for row in itertools.chain.from_iterable(map(rows, sys.argv[1:] or FORMATS)):
        print(row, flush=True)


if __name__ == "__main__":
    main()
