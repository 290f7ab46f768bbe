"""Build the site: `python -m docs` writes docs/_build/html; any warning fails."""

import argparse
import os
import re
import shutil
import sys
import time
from pathlib import Path

from docs.executing import NOTEBOOKS, ROOT, check_pages, execute_notebooks

DOCS = ROOT / "docs"
BUILD = DOCS / "_build"
STRAY = re.compile(r"`__|``|:py:\w+:|\{py:\w+\}")  # what a reader must not see


def assemble(source: Path) -> None:
    """Gather pages written by hand, pages generated from the library, and executed notebooks."""
    from docs.catalog import ROOMS, cells
    from docs.cell_pages import cell_page, overview
    from docs.reference import reference_index, reference_page

    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(DOCS / "pages", source)
    for page in source.glob("*.md"):
        text = re.sub(r"\]\(\.\./(static|\.\./benchmarks/tables)/(?=\w+\.png)", "](static/", page.read_text())
        # links to files of the repository, one level further up from the copy
        page.write_text(text.replace("](../../", "](../../../"))
    shutil.copytree(DOCS / "static", source / "static")
    for picture in (ROOT / "benchmarks/tables").glob("*.png"):
        shutil.copy(picture, source / "static")
    shutil.copy(DOCS / "conf.py", source)
    shutil.copytree(
        BUILD / "notebooks",
        source / "notebooks",
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("*.sha256"),
    )
    pages = {"cells/index": overview(), "reference/index": reference_index()}
    pages |= {f"cells/{name}": cell_page(name) for name in cells()}
    pages |= {f"reference/{room}": reference_page(room) for room in ROOMS}
    for name, text in pages.items():
        path = source / f"{name}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def main() -> int:
    """Execute, assemble, render."""
    parser = argparse.ArgumentParser(prog="python -m docs", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="do not execute notebooks and pages; show the former without outputs",
    )
    parser.add_argument("--jobs", type=int, default=2, help="notebooks executed at a time")
    arguments = parser.parse_args()
    os.environ["JRNN_ROOT"] = str(ROOT)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    begun = time.monotonic()

    def tell(done: str) -> None:
        print(f"{time.monotonic() - begun:5.0f} s  {done}", flush=True)

    if arguments.quick:
        (BUILD / "notebooks").mkdir(parents=True, exist_ok=True)
        for path in NOTEBOOKS:
            if not (BUILD / "notebooks" / path.name).exists():
                shutil.copy(path, BUILD / "notebooks")
    else:
        check_pages(sorted((DOCS / "pages").rglob("*.md")), arguments.jobs)
        tell("pages: every example holds")
        execute_notebooks(BUILD / "notebooks", arguments.jobs)
        tell("notebooks executed")
    assemble(BUILD / "source")
    tell("pages generated")
    from sphinx.cmd.build import main as sphinx

    html = BUILD / "html"
    shutil.rmtree(html, ignore_errors=True)
    # -E: pages that are read again, since a warning of a page that is kept would not come back
    options = ["-q", "-E", "-n", "-W", "--keep-going", "-b", "html", "-d", str(BUILD / "doctrees")]
    failed = sphinx([*options, str(BUILD / "source"), str(html)])
    pages = list(html.rglob("*.html"))
    strays = [page.name for page in pages if STRAY.search(page.read_text())]
    if strays:
        print(f"markup that was not understood: {', '.join(strays)}")
    tell("failed" if failed or strays else f"{len(pages)} pages in {html.relative_to(ROOT)}")
    return failed or bool(strays)


if __name__ == "__main__":
    sys.exit(main())
