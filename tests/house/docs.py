"""Build a web site of the public functions, from their docstrings.

Sphinx makes the pages; its settings and the pages that list the functions are
in tests/house/docs_source. A warning is an error.

Writes: build/docs, which git ignores; index.html is the first page.
Takes:  ten seconds on two cores.

For example:
  python -m tests.house.docs
      what `make docs` runs
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from fusedce.losses import LOSSES
from fusedce.tools.command_line import Parser

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ROOT / "build" / "docs"
SOURCE = Path(__file__).with_name("docs_source")


def build(out: Path, *options: str) -> int:
    """Write the pages to a folder; the exit status of Sphinx, which counts warnings as errors.

    The sources are copied, because the list of losses is written into the first page, and because
    autosummary writes a page for each function into the folder of the sources.
    """
    from sphinx.cmd.build import build_main

    with tempfile.TemporaryDirectory() as work:
        source = shutil.copytree(SOURCE, Path(work, "source"))
        index = source / "index.rst"
        index.write_text(index.read_text().replace("{losses}", "\n   ".join(LOSSES)))
        where = ["-d", str(Path(work, "doctrees")), str(source), str(out)]
        return build_main(["--fail-on-warning", "--keep-going", "--fresh-env", *options, *where])


def parser() -> Parser:
    """The command line."""
    found = Parser("python -m tests.house.docs", __doc__)
    found.add_argument(
        "--out", type=Path, default=DEFAULT, metavar="FOLDER",
        help="write the pages into this folder (default: build/docs)",
    )  # fmt: skip
    return found


if __name__ == "__main__":
    out = parser().parse_args().out
    if out == DEFAULT:
        shutil.rmtree(out, ignore_errors=True)
    elif out.exists() and any(out.iterdir()):
        raise SystemExit(f"{out} is not empty")
    status = build(out, "--quiet")
    if status == 0:
        print(f"The pages of the public functions: {out / 'index.html'}")
    raise SystemExit(status)
