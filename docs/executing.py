"""Execute what the documentation shows: the notebooks, and the doctests of its pages."""

import doctest
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# nearly all the time of an example is compilation, five times faster with these flags; a notebook is trained
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NEEDS = re.compile(r"^<!-- needs: (\w+) -->$", re.M)


def execute_notebooks(out: Path, jobs: int) -> None:
    """Execute every notebook into `out`; one that has not changed, nor the library, is not run again."""
    out.mkdir(parents=True, exist_ok=True)
    library = hashlib.sha256(b"".join(p.read_bytes() for p in sorted((ROOT / "jrnn").rglob("*.py"))))
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda path: _execute(path, out, library.copy()), NOTEBOOKS))


def _execute(path: Path, out: Path, digest: Any) -> None:
    digest.update(path.read_bytes())
    done, mark = out / path.name, out / f"{path.stem}.sha256"
    if done.exists() and mark.exists() and mark.read_text() == digest.hexdigest():
        return
    ran = _run_apart(path, done)
    if ran.returncode:
        sys.exit(f"{path.name} failed:\n{ran.stderr[-4000:]}")
    mark.write_text(digest.hexdigest())
    print(f"executed {path.name}", flush=True)


def execute_notebook(path: Path, done: Path) -> None:
    """Execute one notebook in the folder where it lies; a cell that fails is an error."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.setdefault("id", hashlib.sha256(cell.source.encode()).hexdigest()[:8])
    NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    nbformat.write(notebook, done)


def _run_apart(*paths: Path, flags: str = "") -> subprocess.CompletedProcess[str]:
    """Execute a notebook, or test pages, in a process of their own."""
    command = [sys.executable, "-m", "docs.executing", *(str(path.resolve()) for path in paths)]
    flags = os.environ.get("XLA_FLAGS", flags)
    environment = os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)


def check_page(path: Path) -> bool:
    """Run the doctests of a page; one whose framework is not installed is left, but for CI."""
    text = path.read_text()
    missing = [name for name in NEEDS.findall(text) if importlib.util.find_spec(name) is None]
    if missing and not os.environ.get("CI"):
        print(f"not run, without {', '.join(missing)}: {path.name}")
        return True
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, count = doctest.testfile(str(path), module_relative=False, optionflags=flags, encoding="utf-8")
    if failed:
        print(f"{failed} of {count} examples failed: {path}")
    return not failed


def check_pages(pages: list[Path], jobs: int) -> None:
    """Run the doctests of pages, in a few processes: jax takes seconds to start."""
    shares = [share for share in (pages[first::jobs] for first in range(jobs)) if share]
    with ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(lambda share: _run_apart(*share, flags=QUICK), shares))
    for ran in results:
        print(ran.stdout, end="")
    if any(ran.returncode for ran in results):
        sys.exit("\n".join(ran.stderr[-3000:] for ran in results if ran.returncode))


if __name__ == "__main__":
    paths = [Path(argument) for argument in sys.argv[1:]]
    if paths[0].suffix == ".ipynb":
        execute_notebook(*paths)
    else:
        failed = [path for path in paths if not check_page(path)]
        sys.exit(bool(failed))
