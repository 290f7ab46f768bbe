"""The house: what is public, who imports whom, how things are named, documented and sized."""

import ast
import dataclasses
import importlib
import importlib.metadata
import inspect
import itertools
import pydoc
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Generic

import jedi
import pytest

import jrnn
from jrnn._exports import listed
from tests.mutants import mutants

# what stands left of what: a module imports only from its own rank and those before it
ORDER = [
    {"_exports", "_checks"},
    {"_caching"},
    {"data", "metrics"},
    {"cell", "_fields", "_traits", "_timing", "_states", "_jaxprs", "_alignment"},
    {"initializers"},
    {"cells"},
    {"combinators"},
    {"unrolling"},
    {"layers"},
    {"paradigms"},
    {"attention"},
    {"seq2seq", "crf"},
    {"testing"},
    {"modules", "linen"},
    {"losses", "online"},
    {"checkpoint"},
    {"_processes", "training"},
    {"decoding"},
    {"analysis", "plots"},
    {"interop", "export"},
    {"_cli"},
    {"__main__"},
]
WHOLE = {"checkpoint", "_cli", "__main__"}  # may import jrnn itself: they look cells up among its exports
NOBODY_IMPORTS = {"testing", "modules", "linen", "_cli"}  # besides themselves, and what comes after them
FILE_LINES, FUNCTION_LINES, POSITIONAL = 400, 40, 6

ROOT = Path(jrnn.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}
MODULES = {path: path.relative_to(ROOT).parts[0].removesuffix(".py") for path in FILES}
EXPORTS = listed(ROOT / "__init__.pyi")
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}


def name_of(path):
    return str(path.relative_to(ROOT))


def name_of_module(path):
    return ".".join(("jrnn", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def nodes(path, *kinds):
    return (node for node in ast.walk(TREES[path]) if isinstance(node, kinds))


# the public names


def test_every_name_of_the_stubs_is_there_and_no_other():
    assert jrnn.__all__ == dir(jrnn) == sorted(EXPORTS) and len(EXPORTS) > 150
    assert jrnn.cells.__all__ == sorted(listed(ROOT / "cells" / "__init__.pyi"))
    for name, module in EXPORTS.items():
        where = importlib.import_module(module)
        assert getattr(jrnn, name) is (
            getattr(where, name) if where is not jrnn else sys.modules[f"jrnn.{name}"]
        )
    for name in jrnn.cells.__all__:
        assert getattr(jrnn.cells, name) is getattr(jrnn, name)
    assert jrnn.__version__ == importlib.metadata.version("jrnn")


def public_modules():
    """Modules in which something public is written, and the packages that lead there."""
    packages = [importlib.import_module(name_of_module(path)) for path in FILES if path.name == "__init__.py"]
    for package in packages:
        for name in getattr(package, "__all__", []):
            value = getattr(package, name)
            where = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", "")
            yield from itertools.accumulate(where.split("."), "{}.{}".format)


def test_what_has_an_underscore_is_internal_and_nothing_else_is():
    public = {
        *public_modules(),
        "jrnn.data.synthetic",
        "jrnn.testing.laws",
    }  # a constant, LAWS, says no module
    for path in FILES:
        name = name_of_module(path)
        if name != "jrnn.__main__" and "._cli" not in name:
            assert (name in public) != any(part.startswith("_") for part in name.split(".")), name


def test_an_editor_completes_the_public_names():
    found = jedi.Script("import jrnn\njrnn.").complete(2, 5)
    assert {c.name for c in found if not c.name.startswith("_")} == set(EXPORTS)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'jrnn' has no attribute 'Lstm'"):
        _ = jrnn.Lstm


PACKAGES = [p for p in FILES if p.name == "__init__.py" and " as " in p.read_text() and p.parent != ROOT]


@pytest.mark.parametrize("path", PACKAGES, ids=name_of)
def test_help_lists_what_a_package_exports(path):
    package = importlib.import_module(".".join(("jrnn", *path.relative_to(ROOT).parent.parts)))
    names = [alias.asname for node in nodes(path, ast.ImportFrom) for alias in node.names if alias.asname]
    assert package.__all__ == sorted(names)
    listed = pydoc.plain(pydoc.render_doc(package))
    for name in names:
        if not inspect.ismodule(getattr(package, name)):
            assert re.search(rf"^    (class )?{name}\b", listed, re.MULTILINE), name


def test_a_name_whose_package_is_not_installed_is_as_if_absent(monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib" or n.startswith("jrnn.plots")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delattr(jrnn, "plots", raising=False)
    assert not hasattr(jrnn, "plots") and hasattr(jrnn, "RNN")
    with pytest.raises(AttributeError, match=r"^jrnn\.plots needs matplotlib, which is not installed$"):
        _ = jrnn.plots
    assert "class LSTM" in pydoc.plain(pydoc.render_doc(jrnn))


CLASSES = [v for v in map(jrnn.__getattr__, EXPORTS) if inspect.isclass(v)]
MODELS = [c for c in CLASSES if hasattr(c, "init") and hasattr(c, "initial_carry")]
MODELS = [c for c in MODELS if not getattr(c, "_is_protocol", False)]
CELLS = [c for c in MODELS if hasattr(c, "step")]
LAYERS = [c for c in MODELS if not hasattr(c, "step")]
FUNCTIONS = [getattr(jrnn, name) for name in EXPORTS if inspect.isfunction(getattr(jrnn, name))]


def test_the_lists_of_this_file_are_not_empty():
    layers = {jrnn.Bidirectional, jrnn.Reversed, jrnn.Sequential}
    layers |= {jrnn.ManyToOne, jrnn.EncoderDecoder, jrnn.CRF}
    assert {jrnn.LSTM, jrnn.Stack, jrnn.Embed} <= set(CELLS) and set(LAYERS) == layers
    assert {jrnn.unroll, jrnn.apply, jrnn.fit} <= set(FUNCTIONS) and len(CELLS) >= 15 and len(FILES) > 30


# imports


def imported(path):
    """The modules of jrnn that a file imports, "" for jrnn itself, wherever the import stands."""
    for node in nodes(path, ast.Import, ast.ImportFrom):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} has a relative import"
            found = (
                [f"{node.module}.{a.name}" for a in node.names] if node.module == "jrnn" else [node.module]
            )
        else:
            found = [alias.name for alias in node.names]
        for name in found:
            head, *rest = name.split(".")
            if head == "jrnn":
                yield rest[0] if rest else ""


@pytest.mark.parametrize("path", [p for p in FILES if p != ROOT / "__init__.py"], ids=name_of)
def test_a_module_imports_only_from_its_left(path):
    own = MODULES[path]
    for module in imported(path):
        if module == "":
            assert own in WHOLE, f"{own} imports jrnn itself"
        else:
            assert module in RANK, f"{own} imports {module}, which has no place in ORDER"
            assert module == own or RANK[module] <= RANK[own], (
                f"{own} imports {module}, which stands to its right"
            )


def test_a_walk_through_the_engine_goes_down_its_calls():
    page = (ROOT.parent / "docs/pages/engine.md").read_text()
    walk = [Path(name).stem for name in re.findall(r"^\| \d+ \| `([\w/.]+)`", page, re.MULTILINE)]
    assert len(walk) <= 10 and len(walk) == len(set(walk)) and {"driver", "programs", "_engine"} < set(walk)
    paths = {path.stem: path for path in FILES if MODULES[path] in ("unrolling", "_jaxprs")}
    definitions = {"methods", "programs", "_staging", "_sites"}  # of what the others pass around
    met = {walk[0]}
    for number, name in enumerate(walk):
        assert name in met, f"the page comes to {name} before anything calls it"
        used = {node.module.split(".")[-1] for node in nodes(paths[name], ast.ImportFrom) if node.module}
        assert not used.intersection(walk[:number]) - definitions, f"{name} calls back into files above it"
        met |= used


def test_the_page_on_the_engine_names_each_of_its_files():
    page = (ROOT.parent / "docs/pages/engine.md").read_text()
    named = {Path(name).name for name in re.findall(r"`([\w/]+\.py)`", page)}
    for package in ("unrolling", "_jaxprs"):
        found = {path.name for path in FILES if MODULES[path] == package} - {"__init__.py"}
        assert found <= named, f"the page does not say what these are for: {sorted(found - named)}"


@pytest.mark.parametrize("name", sorted(NOBODY_IMPORTS))
def test_nobody_imports_the_ends_of_branches(name):
    users = {MODULES[path] for path in FILES for module in imported(path) if module == name}
    assert users <= {name, "linen", "__main__"}


def names_used(path):
    """Every dotted name that the code of a file uses or imports, and every bare one."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node)
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def uses(path, pattern):
    return sorted({name for name in names_used(path) if re.search(pattern, name)})


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_forbidden_words(path):
    module = MODULES[path]
    assert uses(path, r"\b_src\b|(^|\.)pmap$|^(eval|exec|compile|__import__)$") == []
    if module != "testing":
        assert uses(path, r"^(pickle|cloudpickle|dill|marshal|shelve)\b|allow_pickle") == []
    if module != "_jaxprs":
        assert uses(path, r"\.(eqns|jaxpr)$|jax\.(extend|interpreters)\b") == []
    if module != "testing" and RANK.get(module, 0) < RANK["training"]:
        compiled = ["jax.jit"] if name_of(path) == "unrolling/_eager.py" else []  # calls outside of jit
        assert uses(path, r"(^|\.)jit$|\bjax\.config\b") == compiled
    if name_of(path) != "cell.py":  # where a step is exempt; elsewhere it is written out
        assert uses(path, r"\bnumpy_rank_promotion$") == []
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(TREES[path])), "assert is not for users"
    bare = [node.lineno for node in nodes(path, ast.ExceptHandler) if node.type is None]
    assert bare == [], "bare except"


MEASURE = """
import sys, time, jax, jax.numpy
begin = time.process_time()
import jrnn
seconds = time.process_time() - begin
dir(jrnn), jrnn.__all__
heavy = {"flax", "optax", "orbax", "matplotlib", "tqdm", "chex", "hypothesis", "pytest"}
print(seconds, *sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""


def test_importing_jrnn_is_cheap():
    runs = [subprocess.check_output([sys.executable, "-c", MEASURE], text=True).split() for _ in range(3)]
    assert [run[1:] for run in runs] == [[], [], []]
    assert min(float(run[0]) for run in runs) < 0.2  # 0.1 on a machine that does nothing else


# names


@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.__name__)
def test_every_cell_names_its_arguments_alike(cell):
    def arguments(method):
        return list(inspect.signature(getattr(cell, method)).parameters)

    assert arguments("init") == ["self", "key", "in_features"]
    assert arguments("initial_carry") == ["self", "params", "batch_shape", "key"]
    assert arguments("step") == ["self", "params", "carry", "x"]
    start = inspect.signature(cell.initial_carry).parameters
    assert start["key"].kind is inspect.Parameter.KEYWORD_ONLY
    assert (start["key"].default, start["batch_shape"].default) == (None, ())


@pytest.mark.parametrize("cell", MODELS, ids=lambda c: c.__name__)
def test_cells_and_layers_are_final_frozen_dataclasses(cell):
    assert cell.__bases__ in ((object,), (Generic,))  # of which none has methods
    assert cell.__dataclass_params__.frozen and cell.__dataclass_params__.eq
    assert cell.__subclasses__() == []


@pytest.mark.parametrize("layer", LAYERS, ids=lambda c: c.__name__)
def test_every_layer_applies_as_apply_does(layer):
    given, needed = (list(inspect.signature(f).parameters) for f in (layer.apply, jrnn.apply))
    assert given[1:] == needed[1:]


# documentation

EQUATION = re.compile(r"^ {4,}\S.*( = |↦)", re.MULTILINE)


@pytest.mark.parametrize("cell", MODELS, ids=lambda c: c.__name__)
def test_cells_and_layers_are_documented(cell):
    doc = inspect.getdoc(cell)
    for section in (r"^Reference: \S", r"^>>> "):
        assert re.search(section, doc, re.MULTILINE), f"{cell.__name__} has no {section}"
    assert EQUATION.search(doc.partition("Args:")[0]), f"{cell.__name__} has no equation"
    lines = [line for line in doc.splitlines() if line.startswith((">>> ", "... "))]
    assert 1 <= len(lines) <= 8
    shared = inspect.getdoc(jrnn.cells) if cell.__module__.startswith("jrnn.cells") else ""
    for field in dataclasses.fields(cell):
        assert re.search(rf"^  {field.name}: ", f"{doc}\n{shared}", re.MULTILINE), (
            f"{cell.__name__} does not describe {field.name}"
        )


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_public_functions_are_documented(function):
    doc = inspect.getdoc(function)
    assert ("Args:" in doc and "Returns:" in doc) or ">>> " in doc
    for name in inspect.signature(function).parameters if "Args:" in doc else ():
        assert re.search(rf"^  (\S+, )*\*{{0,2}}{name}(, \S+)*: ", doc, re.MULTILINE), (
            f"does not describe {name}"
        )


@pytest.mark.parametrize("name", EXPORTS)
def test_everything_public_says_what_it_is(name):
    value = getattr(jrnn, name)
    first = inspect.getdoc(value).splitlines()[0]
    assert first.endswith((".", "?")) or ":" in first, first
    assert not first.startswith(f"{name}("), "a NamedTuple or dataclass without a docstring of its own"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_modules_and_their_public_parts_have_docstrings(path):
    assert ast.get_docstring(TREES[path]), f"{name_of(path)} has no docstring"
    for node in TREES[path].body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
    for node in ast.walk(TREES[path]):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            opening = (ast.get_docstring(node) or "").partition(" ")[0]
            assert opening not in {"What", "Where", "How", "Whether", "Which"}, "a noun or a verb opens it"


# sizes


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= FILE_LINES


def lines_of_code(function):
    """From the first line of the body, its docstring left out, to the last."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_are_short_and_take_few_arguments(path):
    for function in nodes(path, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda):
        positional = [
            a.arg for a in (*function.args.posonlyargs, *function.args.args) if a.arg not in ("self", "cls")
        ]
        assert len(positional) <= POSITIONAL, f"{getattr(function, 'name', 'lambda')} takes {positional}"
        if isinstance(function, ast.FunctionDef):
            assert lines_of_code(function) <= FUNCTION_LINES, (
                f"{function.name} has {lines_of_code(function)} lines"
            )


def test_cells_and_their_steps_are_short():
    cells = [
        node
        for path in FILES
        if MODULES[path] == "cells"
        for node in nodes(path, ast.ClassDef)
        if any(getattr(part, "name", "") == "step" for part in node.body)
    ]
    assert len(cells) > 50 and all(cell.end_lineno - cell.lineno < 180 for cell in cells)
    steps = [part for cell in cells for part in cell.body if getattr(part, "name", "") == "step"]
    assert statistics.median(map(lines_of_code, steps)) <= 12


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_names_of_files(path):
    assert path.stem not in ("utils", "util", "common", "base", "helpers", "misc")
    module = name_of_module(path)
    if module != "jrnn.__main__":
        assert importlib.import_module(module).__name__ == module  # no function shadows a module


def test_every_mutant_stands_once_in_its_file():
    listed = list(mutants())
    assert len(listed) >= 150
    for mutant in listed:
        source = (ROOT.parent / mutant.path).read_text()
        assert source.count(mutant.old) == 1 and mutant.new != mutant.old, str(mutant)
