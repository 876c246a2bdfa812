"""The pages of the repository, and how their examples are run; no tests."""

from __future__ import annotations

import ast
import doctest
import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = "fusedce", "kernels", "tests", "benchmarks", ".github"
FOUND = [*ROOT.glob("*.md"), *(page for name in FOLDERS for page in (ROOT / name).rglob("*.md"))]
PAGES = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in FOUND
         if "kernels" not in page.relative_to(ROOT).parts[1:]}  # fmt: skip
PARSER = doctest.DocTestParser()


def sections(page):
    """The part above the first heading of level 2, and the sections below it by their headings.

    Blocks with the whole file of a loss are left out.
    """
    text = re.sub(r"^```python\n# fusedce/.*?^```", "", PAGES[page], flags=re.M | re.S)
    top, *parts = re.split(r"^(?=##+ )", text, flags=re.MULTILINE)
    found = {}
    for part in parts:
        heading = part.splitlines()[0].lstrip("# ")
        found[heading] = found.get(heading, "") + part  # CHANGELOG.md repeats its headings
    return top, found


def examples():
    """The pages and headings of all sections with Python examples."""
    for page in PAGES:
        top, parts = sections(page)
        found = [heading for heading, part in parts.items() if ">>> " in part]
        yield from ((page, heading) for heading in found)
        if not found and ">>> " in top:
            yield page, None


def texts(page, heading):
    """What is run for a section: the part at the top of its page, and the section."""
    top, parts = sections(page)
    return [top, *([] if heading is None else [parts[heading]])]


def packages(page, heading):
    """The packages that the examples of a section import."""
    sources = [e.source for text in texts(page, heading) for e in PARSER.get_examples(text)]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    named = [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]
    named += [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)]
    return {name.partition(".")[0] for name in named}


def lacking(page, heading):
    """The packages among these that are not installed."""
    return sorted(n for n in packages(page, heading) if importlib.util.find_spec(n) is None)


def on_a_gpu(page, heading):
    """Whether the examples of a section need a GPU: they import CuPy, or name the device "cuda"."""
    sources = [e.source for text in texts(page, heading) for e in PARSER.get_examples(text)]
    named = any('"cuda"' in source for source in sources)
    return named or "cupy" in packages(page, heading)


def run(page, heading):
    """Run the examples of a section after those at the top of its page; what went wrong, or ""."""
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    told, names = [], {}
    for text in texts(page, heading):
        test = PARSER.get_doctest(text, names, f"{page}: {heading}", page, 0)
        runner.run(test, out=told.append, clear_globs=False)
        names = test.globs
    return "".join(told)
