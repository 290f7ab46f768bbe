"""Configuration of Sphinx; `python -m docs` runs it over docs/_build/source."""

import functools
import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from docutils import nodes
from latex2mathml.converter import convert
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

ROOT = Path(os.environ["JRNN_ROOT"])
sys.path.insert(0, str(ROOT))

import jrnn
from docs.catalog import cells
from docs.cell_pages import field_comments
from docs.equations import block_to_tex
from docs.reference import documented, plain_signature

project = "jrnn"
author = "The jrnn authors"
copyright = "The jrnn authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns: list[str] = []
nitpicky = True
nitpick_ignore_regex = [
    ("py:class", ".*"),
    ("py:exc", ".*"),
]  # types in signatures; links in prose are strict
suppress_warnings: list[str] = []

html_theme = "furo"
html_title = "jrnn"
html_static_path = ["static"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # executed before, by docs/executing.py
nb_ipywidgets_js: dict[str, Any] = {}  # nothing from a network
nb_merge_streams = True
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
autodoc_use_type_comments = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 76
add_module_names = False
toc_object_entries = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Members", "params_style")]

PUBLIC = {name for names in documented().values() for name in names} | {f"jrnn.{name}" for name in cells()}


# mathematics: MathML, so that nothing has to be loaded


def to_mathml(tex: str, display: str) -> str:
    """TeX as MathML that Chromium, Firefox and Safari draw without a script."""
    return convert(tex, display=display).replace(r"\_", "_")


def inline_math(self: Any, node: nodes.math) -> None:
    """Write a formula within a line."""
    self.body.append(to_mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def display_math(self: Any, node: nodes.math_block) -> None:
    """Write a formula of its own; a wide one scrolls."""
    self.body.append(f'<div class="math scrolls">{to_mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode


# docstrings


def restructured(app: Sphinx, kind: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Turn a docstring of jrnn into reStructuredText: equations, code in backticks, fields of a record."""
    paragraphs = "\n".join(lines).split("\n\n")
    text = "\n\n".join(map(_paragraph, paragraphs))
    if inspect.isclass(value) and hasattr(value, "_fields"):
        text += "\n\n" + "\n".join(f":``{n}``: {_paragraph(c)}" for n, c in field_comments(value).items())
    lines[:] = text.split("\n")


PAPERS = {
    r"\barXiv:(\d{4}\.\d{4,5})(v\d+)?": r"https://arxiv.org/abs/\1",
    r"\bdoi:(10\.[^\s,;]*[^\s,;.)])": r"https://doi.org/\1",
}


PAPERS = {
    r"\barXiv:(\d{4}\.\d{4,5}(?:v\d+)?)": "https://arxiv.org/abs/",
    r"\bdoi:(10\.\S+?)(?=[.,;:)]*(?:\s|$))": "https://doi.org/",
}


def _link(address: str, found: re.Match[str]) -> str:
    label = found[0].replace("<", r"\<")
    return f"`{label} <{address}{quote(found[1], safe='/().:-_')}>`__"


def _paragraph(text: str) -> str:
    if text.lstrip().startswith(">>>"):
        return text
    if re.fullmatch(r"(?: {4}[^\n]*\n?)+", text):
        tex = block_to_tex(text).replace("\n", "\n   ")
        return f".. math::\n   :no-wrap:\n\n   {tex}"
    parts = re.split(r"(?<![`:\\])`([^`]+?)`", text)  # prose and code, in turns
    prose = [re.sub(r"(?<!\*)\*(?!\*)|\|", r"\\\g<0>", part) for part in parts[::2]]
    for pattern, address in PAPERS.items():
        prose = [re.sub(pattern, functools.partial(_link, address), part) for part in prose]
    prose = [re.sub(r"^(?=\w)", r"\\ ", part) if i else part for i, part in enumerate(prose)]
    prose = [
        re.sub(r"(?<=\w)$", r"\\ ", part) if i < len(prose) - 1 else part for i, part in enumerate(prose)
    ]
    prose = [re.sub(r"(?m)((?:^\s*|: )(?:[A-Za-z]|\d+))\.(?=\s|$)", r"\1\\.", part) for part in prose]
    code = [f"``{' '.join(part.split())}``" for part in parts[1::2]] + [""]
    return "".join(p + c for p, c in zip(prose, code, strict=True))


def types_alone(
    app: Sphinx, kind: str, name: str, value: Any, options: Any, signature: str, returns: str
) -> Any:
    """Show the types of a signature, and not how they are checked."""
    return signature and plain_signature(signature), returns and plain_signature(returns)


def without_fields(app: Sphinx, kind: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the accessors of NamedTuples, of which the fields are listed already."""
    return (
        True
        if type(value).__name__ in ("_tuplegetter", "member_descriptor") or name in ("count", "index")
        else None
    )


class CodeLinks(SphinxTransform):
    """Link inline code that is a public name, or a call of one; end blocks where their last line ends."""

    default_priority = 5

    def apply(self, **_: Any) -> None:
        """Change the document."""
        for block in list(self.document.findall(nodes.literal_block)):
            text = block.astext().rstrip()
            block.rawsource, block.children = text, []
            block += nodes.Text(text)
        for literal in list(self.document.findall(nodes.literal)):
            head = re.match(r"(?:jrnn\.)?([A-Za-z_][\w.]*)", literal.astext())
            name = f"jrnn.{head[1]}" if head else ""
            if name not in PUBLIC or isinstance(literal.parent, addnodes.pending_xref | nodes.reference):
                continue
            link = addnodes.pending_xref(
                "",
                refdomain="py",
                reftype="obj",
                reftarget=name,
                refexplicit=True,
                refwarn=True,
                refdoc=self.env.docname,
            )
            literal.replace_self(link)
            link += literal


def setup(app: Sphinx) -> None:
    """Register what stands above."""
    app.add_html_math_renderer(
        "mathml", inline_renderers=(inline_math, None), block_renderers=(display_math, None)
    )
    app.config.html_math_renderer = "mathml"
    app.connect("autodoc-process-docstring", restructured, priority=100)
    app.connect("autodoc-process-signature", types_alone)
    app.connect("autodoc-skip-member", without_fields)
    app.add_transform(CodeLinks)


assert jrnn.__doc__, "jrnn is imported from the checkout"
