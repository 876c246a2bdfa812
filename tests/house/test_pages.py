"""Every page of the repository: its examples run, its commands exist, its links lead somewhere.

A section's examples run after those at the top of its page.
"""

from __future__ import annotations

import ast
import doctest
import importlib.util
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

import benchmarks.__main__ as throughput
from benchmarks import boosting, digits, frameworks
from fusedce.__main__ import parse as fusedce_parse
from fusedce.options import DEFAULTS
from tests.house import stubs

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = "fusedce", "kernels", "tests", "benchmarks", ".github"
FOUND = [*ROOT.glob("*.md"), *(page for name in FOLDERS for page in (ROOT / name).rglob("*.md"))]
PAGES = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in FOUND
         if "kernels" not in page.relative_to(ROOT).parts[1:]}  # fmt: skip
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TARGETS = set(re.findall(r"^([a-z-]+):(?!=)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
PARSERS = {
    "benchmarks": throughput.parse,
    "benchmarks.boosting": boosting.parse,
    "benchmarks.digits": digits.parse,
    "benchmarks.frameworks": frameworks.parse,
    "fusedce": fusedce_parse,
}


def sections(page):
    """The part above the first heading of level 2, and the sections below it by their headings."""
    top, *parts = re.split(r"^(?=##+ )", PAGES[page], flags=re.MULTILINE)
    return top, {part.splitlines()[0].lstrip("# "): part for part in parts}


def examples():
    """The pages and headings of all sections with Python examples."""
    for page in PAGES:
        top, parts = sections(page)
        found = [heading for heading, part in parts.items() if ">>> " in part]
        yield from ((page, heading) for heading in found)
        if not found and ">>> " in top:
            yield page, None


def blocks(page, *languages):
    """The fenced blocks of a page that name one of these languages."""
    fenced = re.findall(r"^ *```(\w*)\n(.*?)^ *```", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    return [text for language, text in fenced if language in languages]


def packages(found):
    """The packages that examples import."""
    nodes = [n for example in found for n in ast.walk(ast.parse(example.source))]
    named = [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]
    named += [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)]
    return {name.partition(".")[0] for name in named}


def test_every_page_is_read():
    """No page of the repository is in a folder that this file does not know."""
    kept = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if kept.returncode:
        pytest.skip("not a git checkout")
    assert set(kept.stdout.split()) <= set(PAGES)


def test_table_of_losses():
    page = PAGES["fusedce/README.md"]
    assert page == stubs.with_table(page), (
        "the table of losses does not fit the list of losses: python -m tests.house.stubs writes it"
    )


@pytest.mark.parametrize("option", DEFAULTS)
def test_table_of_options(option):
    part = sections("fusedce/README.md")[1]["Options"]
    rows = [line for line in part.splitlines() if line.startswith("| `")]
    assert any(re.search(rf"`{option}\b", row.split(" | ")[0]) for row in rows), (
        f"the table of options of fusedce/README.md has no row for {option}"
    )


@pytest.mark.parametrize(("page", "heading"), list(examples()))
def test_examples(page, heading):
    parser, found = doctest.DocTestParser(), {}
    top, parts = sections(page)
    texts = [top, *([] if heading is None else [parts[heading]])]
    lacking = packages([e for text in texts for e in parser.get_examples(text)])
    lacking = sorted(name for name in lacking if importlib.util.find_spec(name) is None)
    if lacking:
        pytest.skip(f"{', '.join(lacking)} is not installed")
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    told = []
    for text in texts:
        test = parser.get_doctest(text, found, f"{page}: {heading}", page, 0)
        runner.run(test, out=told.append, clear_globs=False)
        found = test.globs
    assert not runner.failures, "".join(told)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python", "py")])
def test_python_blocks_are_examples(page):
    """A block of Python that has no prompt would not be run."""
    for block in blocks(page, "python", "py"):
        assert block.lstrip().startswith(">>> "), block


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sh")])
def test_commands(page):
    """Targets of make, options of programs and extras of pip in a page's commands exist."""
    for line in "".join(blocks(page, "sh")).splitlines():
        for command in line.partition(" #")[0].split("&&"):
            check_command(shlex.split(command.strip()))


def check_command(words):
    """Fail if make, pip or a program of the repository would refuse this command."""
    if words[:1] == ["make"]:
        targets = [word for word in words[1:] if "=" not in word]
        assert set(targets) <= TARGETS, words
    if "pip" in words:
        extras = re.findall(r"\.\[([\w,]+)\]", " ".join(words))
        assert {name for found in extras for name in found.split(",")} <= set(EXTRAS), words
    if "-m" in words and (name := words[words.index("-m") + 1]) in PARSERS:
        PARSERS[name](words[words.index("-m") + 2 :])


def anchors(text):
    """The names that GitHub gives to the headings of a page."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES)
def test_links(page):
    """Links to files and headings of the repository lead to one that is there."""
    text = re.sub(r"^ *```.*?^ *```", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(
        r'(?:src|srcset|href)="(.*?)"', text
    )
    for target in targets:
        path, _, anchor = target.partition("#")
        if path.startswith(("http:", "https:")):
            continue
        there = (ROOT / page).parent / path if path else ROOT / page
        assert there.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in anchors(there.read_text(encoding="utf-8")), f"{page}: {target}"


def test_readme_is_short():
    """README.md is an overview; what is longer belongs to the page beside the code."""
    assert len(PAGES["README.md"].splitlines()) <= 200
    assert len(PAGES["README.md"].encode()) <= 12 * 1024
