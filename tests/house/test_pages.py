"""Every page of the repository: its examples run, its commands exist, its links lead somewhere.

A section's examples run after those at the top of its page.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib

import pytest

import benchmarks.__main__ as throughput
from benchmarks import accuracy, boosting, digits, frameworks
from fusedce.__main__ import parse as fusedce_parse
from fusedce.options import DEFAULTS
from tests.cuda import gpu
from tests.house import pages, stubs
from tests.house.pages import PAGES, ROOT, sections

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TARGETS = set(re.findall(r"^([a-z-]+):(?!=)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
PARSERS = {
    "benchmarks": throughput.parse,
    "benchmarks.accuracy": accuracy.parse,
    "benchmarks.boosting": boosting.parse,
    "benchmarks.digits": digits.parse,
    "benchmarks.frameworks": frameworks.parse,
    "fusedce": fusedce_parse,
}


def blocks(page, *languages):
    """The fenced blocks of a page that name one of these languages."""
    fenced = re.findall(r"^ *```(\w*)\n(.*?)^ *```", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    return [text for language, text in fenced if language in languages]


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


# torch raises this warning itself when its transforms are first imported.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(("page", "heading"), list(pages.examples()))
def test_examples(page, heading, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some libraries write files into the current folder
    if absent := pages.lacking(page, heading):
        pytest.skip(f"{', '.join(absent)} is not installed")
    if pages.on_a_gpu(page, heading) and (why := gpu.missing()):
        pytest.skip(why)
    failures = pages.run(page, heading)
    assert not failures, failures


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python", "py")])
def test_python_blocks_are_examples(page):
    """A block of Python without a prompt is not run, unless it is a file: test_page_names.py."""
    for block in blocks(page, "python", "py"):
        assert block.lstrip().startswith((">>> ", "# fusedce/losses/")), block


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
    for path in (word for word in words if re.match(r"\S*results/[a-z]+\.json", word)):
        assert (ROOT / path).exists(), words
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
