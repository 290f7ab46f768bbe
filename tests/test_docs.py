"""The documentation: complete, consistent, and its converters. The build itself is `python -m docs`."""

import doctest
import json
import re

import pytest

import jrnn
from docs import equations, reference
from docs.catalog import ROOMS, cells, example
from docs.cell_pages import FAMILIES, cell_page, family_of, field_comments
from docs.diagrams import step_graph
from docs.equations import block_to_tex, to_tex
from docs.executing import NOTEBOOKS, ROOT
from docs.reference import documented, value_of
from jrnn._cli.tables import recurrent_cells

pytestmark = pytest.mark.engine

PAGES = sorted((ROOT / "docs/pages").rglob("*.md"))
TEXTS = {str(page.relative_to(ROOT / "docs/pages").with_suffix("")): page.read_text() for page in PAGES}
GENERATED = {f"cells/{name}" for name in cells()} | {f"reference/{room}" for room in ROOMS}
GENERATED |= {f"notebooks/{path.stem}" for path in NOTEBOOKS} | {"cells/index", "reference/index"}


def toctrees(name):
    """The pages that a page names in its navigation."""
    folder = name.rpartition("/")[0]
    for block in re.findall(r"```\{toctree\}\n(.*?)```", TEXTS[name], re.S):
        for line in block.splitlines():
            if line and not line.startswith(":"):
                yield f"{folder}/{line}" if folder else line


def test_every_recurrent_cell_has_a_page_and_a_family():
    assert set(recurrent_cells()) <= set(cells())
    assert {family_of(kind) for kind in cells().values()} == set(FAMILIES)


def test_every_public_name_stands_on_one_page():
    names = [name for room in documented().values() for name in room]
    assert len(names) == len({id(value_of(name)) for name in names})
    named = [name.removeprefix("jrnn.") for name in names]
    values = {name: getattr(jrnn, name) for name in dir(jrnn) if not name.startswith("_")}
    public = {n for n, v in values.items() if re.match(r"jrnn\.[a-z]", getattr(v, "__module__", ""))}
    assert public == {name for name in named if "." not in name} | set(cells())


def test_the_guide_mentions_every_combinator_and_every_method():
    for room, page in {"combinators": "combinators", "layers": "combinators", "unrolling": "methods"}.items():
        kinds = {name: value_of(name) for name in documented()[room]}
        models = {n for n, k in kinds.items() if isinstance(k, type) and not hasattr(k, "_fields")}
        written = set(re.findall(r"\w+", TEXTS[page]))
        assert {name.rpartition(".")[2] for name in models} - {"Layer"} <= written


def test_every_notebook_is_listed():
    assert {f"notebooks/{path.stem}" for path in NOTEBOOKS} == set(toctrees("notebooks"))
    for path in NOTEBOOKS:
        assert f"(notebooks/{path.name})" in TEXTS["notebooks"]
        assert json.loads(path.read_text())["cells"][0]["source"][0].startswith("# ")


def test_every_page_is_in_the_navigation_and_exists():
    named = {page for name in TEXTS for page in toctrees(name)}
    assert named <= set(TEXTS) | GENERATED
    assert set(TEXTS) - named == {"index"}


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_to_pages(name):
    folder = (ROOT / "docs/pages" / name).parent
    for target in re.findall(r"\]\(([^)#:]+?)(?:\.md|\.ipynb)[)#]", TEXTS[name]):
        page = (folder / target).resolve().relative_to(ROOT / "docs/pages")
        assert str(page) in set(TEXTS) | GENERATED, f"{name} links to {target}"


@pytest.mark.parametrize("name", TEXTS)
def test_python_on_pages_is_an_example_that_the_build_runs(name):
    for block in re.findall(r"```python\n(.*?)```", TEXTS[name], re.S):
        lines = [line for line in block.splitlines() if line]
        assert lines[0].startswith(">>> ")
        assert block.endswith("\n\n"), "doctest would take ``` for a result"
        assert max(map(len, lines)) <= 100, "wider than the page"


# equations


@pytest.mark.parametrize(
    ("unicode", "tex"),
    [
        ("hₜ₋₁", "h_{t-1}"),
        ("xₜ w_ih + b", r"x_{t}\,w_{ih} + b"),
        ("(rₜ · hₜ₋₁) u_n", r"(r_{t} \cdot  h_{t-1})\,u_{n}"),
        ("w_hhᵀ", "w_{hh}^{T}"),
        ("uˡ_n", "u_{n}^{l}"),
        ("h⁽ⁱ⁾ₜ₋₁", "h_{t-1}^{(i)}"),
        ("y_T₋₁", "y_{T-1}"),
        ("x̃ₜ + ĥ", r"\tilde{x}_{t} + \hat{h}"),
        ("x′ₜ", r"x_{t}^{\prime}"),
        ("Σ_y′ y′", r"Σ_{y'}\,y^{\prime}"),
        ("√(1 − aₜ²)", r"\sqrt{1 - a_{t}^{2}}"),
        ("(I + S)⁻¹", "(I + S)^{-1}"),
        ("‖λₜ‖₂", r"\|λ_{t}\|_{2}"),
        ("max_norm", r"\text{max\_norm}"),
        ("tanh(cₜ)", r"\tanh (c_{t})"),
        ("softplus(Λ)", r"\operatorname{softplus}(Λ)"),
        ("step at zero state", r"\text{step at zero state}"),
        ("1e-6", "10^{-6}"),
        ("z1ₜ", "{z1}_{t}"),
    ],
)
def test_unicode_becomes_tex(unicode, tex):
    assert to_tex(unicode) == tex


def test_a_condition_is_a_column_of_its_own():
    block = "hₜ = zₜ · nₜ      z_keeps=False\nyₜ = hₜ,   cₜ = 1"
    assert block_to_tex(block).splitlines()[1:3] == [
        r"h_{t} &= z_{t} \cdot  n_{t} &&\text{z\_keeps=False} \\",
        r"y_{t} &= h_{t}, \quad c_{t} = 1",
    ]


# cells


def graph_of(name):
    small = example(name)
    nodes, edges = step_graph(small.cell, small.params, small.carry, small.x)
    labels = [node.label for node in nodes]
    return {node.label: node for node in nodes}, {(labels[a], labels[b]): w for (a, b), w in edges.items()}


def test_the_graph_of_a_step_is_that_of_its_equations():
    nodes, edges = graph_of("LSTM")
    assert {node.label: node.function for node in nodes.values() if node.kind == "gate"} == {
        "i": "σ", "f": "σ", "g": "tanh", "o": "σ",
    }  # fmt: skip
    through_weights = {(source, gate) for source in ("xₜ", "hₜ₋₁") for gate in "ifgo"}
    elementwise = {(source, "cₜ") for source in ("cₜ₋₁", "i", "f", "g")}
    elementwise |= {(source, "hₜ = yₜ") for source in ("o", "cₜ")}
    assert edges == dict.fromkeys(through_weights, True) | dict.fromkeys(elementwise, False)


def test_a_reset_before_the_product_is_seen_in_the_graph():
    assert graph_of("GRU")[1]["r", "n"] is False  # after the product, elementwise
    assert graph_of("MGU")[1]["f", "n"] is True  # before it


@pytest.mark.parametrize("name", cells())
def test_a_page_of_a_cell_has_its_docstring_its_weights_and_its_carry(name):
    page = cell_page(name)
    assert f".. autoclass:: jrnn.{name}\n" in page and "## Weights" in page
    assert "<svg" in page or name == "Embed"


def test_comments_behind_fields_are_read():
    from jrnn.cells.lstm import LSTMParams

    assert field_comments(LSTMParams)["w_ih"] == "(in, 4·hidden)"


def test_the_examples_of_the_converters_hold():
    assert doctest.testmod(equations).failed == doctest.testmod(reference).failed == 0
