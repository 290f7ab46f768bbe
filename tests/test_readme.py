"""README: short, and what it points at is there."""

import re
from pathlib import Path

import jrnn
from jrnn._cli.tables import recurrent_cells

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_readme_is_short_and_its_links_lead_somewhere():
    assert len(README.splitlines()) <= 150
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", README)
    assert len(links) > 15
    assert [link for link in links if not link.startswith("http") and not (ROOT / link).exists()] == []


def test_the_readme_counts_the_cells():
    maps = {"Dense", "Embed", "Map", "Norm"}  # which stand in a stack, and have no state
    cells = {name for name in jrnn.cells.__all__ if isinstance(getattr(jrnn.cells, name), type)} - maps
    assert set(recurrent_cells()) <= cells | {"NARX"}
    fifties = f"over {len(cells) // 50 * 50} cells"  # so that one cell more is no change of README
    assert f"It has {fifties}" in README and f"| {fifties} |" in README
