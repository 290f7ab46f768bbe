"""What the suite can find: run it against small faults, one at a time.

    python tests/mutants.py                     all of mutants.txt, two at a time
    python tests/mutants.py masking lstm.py     those of a subject, or whose line holds a word
    python tests/mutants.py --tree ../old       the same faults, by the tests of another checkout

A line of mutants.txt is `path :: old => new`, `old` standing once in that file. Each fault is made in a copy
of the tree, where the tests named below for its part of the library run until one fails. A change to the
suite must find what the suite before it found.
"""

import argparse
import ast
import collections
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
UNROLLING = (
    "unrolling contract slots linear_recurrences memory associative primitives engine laws meshes modes"
)
TESTS = {  # the first that a path starts with
    "jrnn/cells/convolutional": "special_cells modes",
    "jrnn/cells/solvers": "solvers cells",
    "jrnn/cells/wirings": "irregular",
    "jrnn/cells/regression": "special_cells cells",
    "jrnn/cells": "cells irregular equivalences special_cells initializers linear_recurrences combinators "
    "contract",
    "jrnn/initializers": "initializers cells special_cells",
    "jrnn/combinators/narx": "cells combinators",
    "jrnn/combinators/integrating": "integrating",
    "jrnn/combinators/pacing": "pacing irregular",
    "jrnn/combinators/clipping": "reports clipping",
    "jrnn/combinators/reparametrizing": "reports reparametrizing",
    "jrnn/combinators": "combinators pacing initializers clipping reparametrizing slots taps history seq2seq "
    "irregular",
    "jrnn/unrolling/associative": "associative linear_recurrences sharding laws packing",
    "jrnn/unrolling/_recurrences": "associative linear_recurrences sharding laws packing",
    "jrnn/unrolling/driver": f"sharding {UNROLLING}",
    "jrnn/unrolling/_blocks": "memory unrolling",
    "jrnn/unrolling/cudnn": "cudnn",
    "jrnn/unrolling/chunked": "chunked",
    "jrnn/unrolling/newton": "newton newton_wrong",
    "jrnn/unrolling/_systems": "newton newton_wrong",
    "jrnn/unrolling/_groups": "groups newton_wrong newton online",
    "jrnn/unrolling/_advising": "newton",
    "jrnn/unrolling/_chunks": "chunked",
    "jrnn/unrolling/_forms": "chunked",
    "jrnn/unrolling/_matrices": "chunked",
    "jrnn/unrolling/_phases": "chunked",
    "jrnn/unrolling/_vectors": "chunked",
    "jrnn/unrolling/_other_loops": "hoisting",
    "jrnn/unrolling/_graphs": "graphs",
    "jrnn/unrolling/_forward": "forward",
    "jrnn/unrolling/_loops": f"forward {UNROLLING}",
    "jrnn/unrolling/_staging": f"forward {UNROLLING}",
    "jrnn/unrolling/_linearizing": f"caching {UNROLLING}",
    "jrnn/unrolling/_inputs": "inputs errors construction rounding",
    "jrnn/unrolling/_eager": "rounding",
    "jrnn/unrolling/_rounding": "rounding",
    "jrnn/unrolling": UNROLLING,
    "jrnn/_jaxprs": f"taps gates gradient_flow combinators attention_combined reparametrizing {UNROLLING}",
    "jrnn/_alignment": f"errors construction contract special_cells {UNROLLING} combinators",
    "jrnn/_caching": "caching engine",
    "jrnn/_checks": "options errors construction",
    "jrnn/_timing": "irregular",
    "jrnn/_traits": "streams modules",
    "jrnn/_states": "jacobians seq2seq clipping every_analysis",
    "jrnn/_fields": "options errors construction",
    "jrnn/cell": f"slots combinators contract reparametrizing training modules decoding {UNROLLING}",
    "jrnn/online": "online online_wrong",
    "jrnn/layers": "layers paradigms modules streams irregular",
    "jrnn/modules": "modules streams",
    "jrnn/paradigms": "paradigms every_paradigm",
    "jrnn/interop/onnx": "interop_onnx interop_onnx_reading interop_onnx_torch interop_onnx_keras "
    "interop_faults",
    "jrnn/interop": "interop_torch interop_keras interop_flax interop_haiku interop_equinox interop_faults",
    "jrnn/export": "export_onnx export_stablehlo export_command",
    "jrnn/checkpoint/parameters": "safetensors",
    "jrnn/checkpoint": "saving runs checkpoint checkpoint_structure hostile_checkpoints training cli",
    "jrnn/decoding/ctc": "reports ctc modes",
    "jrnn/decoding/beams": "beams rounding modes",
    "jrnn/decoding/continuing": "paradigms every_paradigm rounding",
    "jrnn/decoding": "decoding paradigms beams rounding modes",
    "jrnn/crf": "reports crf spans modes",
    "jrnn/linen": "modules streams",
    "jrnn/_cli/exporting": "export_command",
    "jrnn/_cli": "words inspect_command commands convert",
    "jrnn/attention": "attention attention_combined seq2seq beams",
    "jrnn/seq2seq": "seq2seq attention_combined streams",
    "jrnn/analysis/_products": "products",
    "jrnn/analysis/jacobians": "jacobians every_analysis lyapunov",
    "jrnn/analysis/exponents": "lyapunov modes",
    "jrnn/analysis/fixed_points": "fixed_points flip_flop",
    "jrnn/analysis/gates": "gates inspecting",
    "jrnn/analysis/gradients": "gradient_flow inspecting",
    "jrnn/analysis/_probing": "gradient_flow penalties",
    "jrnn/analysis/memory": "remembering",
    "jrnn/analysis/penalties": "reports penalties",
    "jrnn/analysis": "inspecting fixed_points gradient_flow inspect_command jacobians penalties",
    "jrnn/training/_members": "populations",
    "jrnn/training/_population": "populations",
    "jrnn/training/_settings": "populations",
    "jrnn/training/populations": "populations",
    "jrnn/_processes": "distributed",
    "jrnn/training": "runs fit_mistakes training losses devices penalties cli populations",
    "jrnn/losses": "losses training",
    "jrnn/metrics": "metrics spans training",
    "jrnn/data/gaps": "irregular",
    "jrnn/data/text": "vocabulary language",
    "jrnn/data/language": "language",
    "jrnn/data/packing": "packing",
    "jrnn/data/synthetic": "synthetic",
    "jrnn/data": "reports data pairing vocabulary language training",
    "docs": "docs",
    "benchmarks/accelerator": "accelerator",
}


class Mutant(NamedTuple):
    """A fault: in `path`, `old` becomes `new`."""

    subject: str
    path: str
    old: str
    new: str

    def __str__(self):
        return f"{self.path} :: {self.old} => {self.new}"


def mutants():
    """All of the list."""
    subject = ""
    for line in (ROOT / "tests/mutants.txt").read_text().splitlines():
        if line.startswith("# "):
            subject = line[2:]
        elif line:
            path, change = line.split(" :: ")
            yield Mutant(subject, path, *change.split(" => "))


def commands(mutant, tree):
    """Arguments of pytest: first what names the classes of the file, then all tests of that part."""
    names = next(names for part, names in TESTS.items() if mutant.path.startswith(part))
    files = [f"tests/test_{name}.py" for name in names.split() if (tree / f"tests/test_{name}.py").exists()]
    parsed = ast.parse((tree / mutant.path).read_text())
    classes = [node.name for node in parsed.body if isinstance(node, ast.ClassDef)]
    classes = [name for name in classes if not name.endswith(("Params", "Carry"))]
    if classes and mutant.path.startswith(("jrnn/cells", "jrnn/combinators")):
        yield [*files, "tests/test_laws.py", "-k", " or ".join(classes)]
    yield [*files, mutant.path]


def is_found(mutant, copy):
    """Whether a test fails once the fault is made in a copy of the tree; the copy is mended again."""
    path = copy / mutant.path
    source = path.read_text()
    assert source.count(mutant.old) == 1, f"{mutant.path} has {source.count(mutant.old)} times: {mutant.old}"
    path.write_text(source.replace(mutant.old, mutant.new))
    try:
        for arguments in commands(mutant, copy):
            pytest = [sys.executable, "-m", "pytest", "-qx", *arguments]
            ran = subprocess.run(pytest, cwd=copy, capture_output=True, text=True)
            if ran.returncode not in (0, 5):  # 5: the names select no test
                return True
        return False
    finally:
        path.write_text(source)


def main():
    """Print every fault and whether it is found, then a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("only", nargs="*", help="subjects, or parts of lines; all if left out")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout whose tests are run")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    chosen = [
        m for m in mutants() if not options.only or any(o == m.subject or o in str(m) for o in options.only)
    ]
    copies = threading.local()
    table = collections.defaultdict(lambda: [0, 0])
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{folder}/programs")

        def run(mutant):
            if not hasattr(copies, "tree"):
                copies.tree = Path(tempfile.mkdtemp(dir=folder))
                unwanted = shutil.ignore_patterns(".*", "__pycache__", "runs", "_build")
                shutil.copytree(options.tree, copies.tree, ignore=unwanted, dirs_exist_ok=True)
            return mutant, is_found(mutant, copies.tree)

        with ThreadPoolExecutor(options.jobs) as pool:
            for done in as_completed([pool.submit(run, mutant) for mutant in chosen]):
                mutant, found = done.result()
                table[mutant.subject][0] += found
                table[mutant.subject][1] += 1
                print("found " if found else "PASSES", mutant, flush=True)
    for subject, (found, count) in table.items():
        print(f"{subject:12} {found:4} of {count:4}")


if __name__ == "__main__":
    main()
