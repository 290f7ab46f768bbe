"""Weights that come in and go out: the largest difference of outputs, for every case of the tests.

    python -m benchmarks.interop            in the root of the repository, with PyTorch and Keras installed
    python -m benchmarks.interop torch

A module `tests/test_interop_NAME.py` takes part if it has `CASES`, `named(case)` and
`differences(index, dtype)`, which returns the largest difference of weights that came in, and of those
that went out.
"""

import importlib
import sys

import jax

FORMATS = {"torch": ("PyTorch", ("float64", "float32")), "keras": ("Keras", ("float32",))}


def rows(name):
    """The lines of the table for one format."""
    title, dtypes = FORMATS[name]
    tests = importlib.import_module(f"tests.test_interop_{name}")
    for index, case in enumerate(tests.CASES):
        for dtype in dtypes:
            with jax.enable_x64(dtype == "float64"):
                into, out = tests.differences(index, dtype)
            layer, _, options = tests.named(case).partition(" ")
            yield f"| {title} | {layer} | {options or '-'} | {dtype} | {into:.1e} | {out:.1e} |"


def main():
    print("| format | layer | options | dtype | in | out |\n| --- | --- | --- | --- | ---: | ---: |")
    for name in sys.argv[1:] or FORMATS:
        for row in rows(name):
            print(row, flush=True)


if __name__ == "__main__":
    main()
