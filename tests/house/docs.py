"""``python -m tests.house.docs`` builds the pages of the public functions (`make docs`).

Sphinx makes them from the docstrings and the signatures; the settings and the pages that list the
functions are in tests/house/docs_source.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from sphinx.cmd.build import build_main

from fusedce.losses import LOSSES

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("docs_source")


def build(out: Path, *options: str) -> int:
    """Write the pages to a folder; the exit status of Sphinx, which counts warnings as errors.

    The sources are copied, because the list of losses is written into the first page, and because
    autosummary writes a page for each function into the folder of the sources.
    """
    with tempfile.TemporaryDirectory() as work:
        source = shutil.copytree(SOURCE, Path(work, "source"))
        index = source / "index.rst"
        index.write_text(index.read_text().replace("{losses}", "\n   ".join(LOSSES)))
        where = ["-d", str(Path(work, "doctrees")), str(source), str(out)]
        return build_main(["--fail-on-warning", "--keep-going", "--fresh-env", *options, *where])


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m tests.house.docs", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build" / "docs", help="default: %(default)s"
    )
    out = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    status = build(out, "--quiet")
    if status == 0:
        print(f"The pages of the public functions: {out / 'index.html'}")
    raise SystemExit(status)
