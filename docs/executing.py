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

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NEEDS = re.compile(r"^<!-- needs: (\w+) -->$", re.M)


def execute_notebooks(out: Path, jobs: int = 2) -> None:
    """Execute every notebook into `out`; one that has not changed, nor the library, is not run again."""
    out.mkdir(parents=True, exist_ok=True)
    library = hashlib.sha256(b"".join(p.read_bytes() for p in sorted((ROOT / "jrnn").rglob("*.py"))))
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda path: _execute(path, out, library.copy()), NOTEBOOKS))


def _execute(path: Path, out: Path, digest: "hashlib._Hash") -> None:
    digest.update(path.read_bytes())
    done, mark = out / path.name, out / f"{path.stem}.sha256"
    if done.exists() and mark.exists() and mark.read_text() == digest.hexdigest():
        return
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "notebook", "--execute", "--log-level=ERROR"]
    command += ["--ExecutePreprocessor.timeout=900", f"--output={done.resolve()}", str(path)]
    ran = subprocess.run(command, cwd=path.parent, env=_environment(), text=True, capture_output=True, check=False)
    if ran.returncode:
        sys.exit(f"{path.name} failed:\n{ran.stderr[-4000:]}")
    mark.write_text(digest.hexdigest())
    print(f"executed {path.name}", flush=True)


def _environment() -> dict[str, str]:
    return os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}


def test_page(path: Path) -> None:
    """Run the doctests of a page; one whose framework is not installed is left, but for CI."""
    text = path.read_text()
    missing = [name for name in NEEDS.findall(text) if importlib.util.find_spec(name) is None]
    if missing and not os.environ.get("CI"):
        print(f"not run, without {', '.join(missing)}: {path.name}")
        return
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, count = doctest.testfile(str(path), module_relative=False, optionflags=flags, encoding="utf-8")
    if failed:
        sys.exit(f"{failed} of {count} examples failed: {path}")


def test_pages(pages: list[Path], jobs: int = 2) -> None:
    """Run the doctests of pages, each in a process of its own."""
    def run(path: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
        command = [sys.executable, "-m", "docs.executing", str(path)]
        return path, subprocess.run(command, cwd=ROOT, env=_environment(), text=True, capture_output=True, check=False)

    with ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(run, pages))
    for _, ran in results:
        print(ran.stdout, end="")
    broken = [(path, ran) for path, ran in results if ran.returncode]
    if broken:
        sys.exit("\n".join(f"{path.name}: {ran.stderr[-3000:]}" for path, ran in broken))


if __name__ == "__main__":
    test_page(Path(sys.argv[1]))
