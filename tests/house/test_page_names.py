"""The pages about the code name only what exists; their example of a file works; versions agree."""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fusedce
from tests.house.mutation import copied
from tests.house.pages import PAGES, ROOT
from tests.house.test_pages import blocks, check_command

HALVES = ("kernels", "kernels/cpu", "kernels/cuda")
SUITES = ("tests", *(f"tests/{p.name}" for p in sorted((ROOT / "tests").iterdir()) if p.is_dir()))
# The folders that the names of files on a page are relative to.
HERE = {
    "kernels/README.md": ("", "fusedce", *HALVES),
    "tests/README.md": ("", *SUITES),
    "tests/device/README.md": ("", "tests/device", "tests/cuda", "kernels"),
    ".github/CONTRIBUTING.md": ("",),
}
FILE = re.compile(r"([\w./*-]+\.(?:py|pyi|c|h|sh|json|md|toml|cff))(?::([\w.]+))?")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
each_page = pytest.mark.parametrize("page", HERE)


def quoted(page):
    """What a page has in backticks, without its fenced blocks."""
    text = re.sub(r"^ *```.*?^ *```", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"`([^`]+)`", text))


def found(page, name):
    """The files that a name on a page, which may have a ``*``, can mean."""
    return {path for folder in HERE[page] for path in (ROOT / folder).glob(name)}


@functools.cache
def defined(path):
    """The names that a file defines at any level: functions, classes, variables and fields."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


@functools.cache
def words():
    """Every word of the sources."""
    folders = ("fusedce", "kernels", "tests", "benchmarks")
    paths = [p for f in folders for p in (ROOT / f).rglob("*.py") if p != Path(__file__)]
    sources = [*paths, ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "tests/device/check.sh"]
    sources += [ROOT / "tests/device/prepare.sh", ROOT / ".ci/run"]
    return set(re.findall(r"\w+", "\n".join(p.read_text(encoding="utf-8") for p in sources)))


@each_page
def test_files_and_functions_exist(page):
    """Every `path/file.py`, `file.py:function` and `folder/`."""
    for name in quoted(page):
        if match := FILE.fullmatch(name):
            files = found(page, match[1])
            assert files, f"{page}: there is no {name}"
            if match[2]:
                has = set().union(*(defined(path) for path in files))
                assert set(match[2].split(".")) <= has, f"{page}: there is no {name}"
        elif re.fullmatch(r"[\w.-]+(/[\w.-]+)*/", name):
            assert found(page, name.rstrip("/")), f"{page}: there is no folder {name}"


@each_page
def test_functions_of_modules_exist(page):
    """Every `module.function`, if there is a file module.py."""
    for name in quoted(page):
        match = re.fullmatch(r"(\w+)\.(\w+)", name)
        if match and not FILE.fullmatch(name):
            files = found(page, f"{match[1]}.py")
            has = set().union(*(defined(path) for path in files))
            assert not files or match[2] in has, f"{page}: there is no {name}"


@each_page
def test_identifiers_exist(page):
    """Every other name or expression in backticks is made of words that the sources have."""
    for name in quoted(page):
        if "::" in name or FILE.fullmatch(name) or not re.match(r"[\w@.]+$|\w+\(", name):
            continue
        lacking = {w for w in re.findall(r"\b[A-Za-z_]\w*", name) if w not in words()}
        assert not lacking, f"{page}: {name}"


@each_page
def test_commands_in_sentences(page):
    """Every `make target` and `python -m module` in a sentence or table."""
    for name in quoted(page):
        if not name.startswith(("make ", "python ", "python3 ")):
            continue
        command = shlex.split(name)
        check_command(command)
        if "-m" in command:
            module = command[command.index("-m") + 1]
            assert importlib.util.find_spec(module), name


@pytest.mark.parametrize(
    ("page", "folders"), [("kernels/README.md", HALVES), ("tests/README.md", SUITES)]
)
def test_every_file_is_described(page, folders):
    """A file that is added to one of these folders gets a row or a sentence on its page."""
    text = PAGES[page] + (PAGES["tests/device/README.md"] if page == "tests/README.md" else "")
    for folder in folders:
        for path in (ROOT / folder).glob("*.py"):
            assert path.name == "__init__.py" or re.search(rf"\b{path.name}\b", text), path


# ------------------------------------------------------------------- the example of a new loss

EXAMPLES = [
    (page, *block.split("\n", 1))
    for page in PAGES
    for block in blocks(page, "python", "py")
    if block.startswith("# fusedce/losses/")
]


def test_there_is_an_example_of_a_loss():
    assert [page for page, _, _ in EXAMPLES] == ["kernels/README.md"]


@pytest.mark.slow(reason="tests in a copy of the sources, and kernels of one more loss")
@pytest.mark.parametrize(("page", "head", "text"), EXAMPLES)
def test_example_of_a_loss(page, head, text, tmp_path):
    """The file of the page, listed as the page says, passes the tests of a listed loss."""
    tree, file = copied(tmp_path), head.removeprefix("# ")
    name = Path(file).stem
    (tree / file).write_text(text)
    (line,) = (b for b in blocks(page, "") if b.startswith(f"from fusedce.losses.{name} "))
    listed = tree / "fusedce/losses/__init__.py"
    listed.write_text(listed.read_text().replace("\n__all__", f"{line}\n__all__"))
    env = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(*command):
        command = [sys.executable, "-m", *command]
        done = subprocess.run(
            command, cwd=tree, env=env, capture_output=True, text=True, check=False, timeout=1800
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("tests.house.stubs")
    assert f"def {name}(" in (tree / "fusedce/__init__.pyi").read_text()
    chosen = (
        f"{name} and ((every_option and float64) or listed_loss or own_option or docstrings or "
        f"signatures or length or imported or losses.{name}) or typed_and_registered"
    )
    files = [file, *(f"tests/core/test_{f}.py" for f in ("listed", "losses"))]
    files += ["tests/house/test_house.py"]
    said = run("pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, *files)
    assert int(re.search(r"(\d+) passed", said)[1]) >= 15, said


# ------------------------------------------------------------------------ version and citation


def cited(key):
    """A line ``key: value`` of CITATION.cff, without quotation marks."""
    (value,) = re.findall(rf"^{key}: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    return value.strip("\"'")


def test_citation_agrees_with_the_package():
    assert cited("title").split(":")[0] == PROJECT["name"]
    assert cited("version") == PROJECT["version"] == fusedce.__version__
    assert cited("license") == PROJECT["license"]
    text = (ROOT / "CITATION.cff").read_text()
    (author,) = PROJECT["authors"]
    assert re.search(rf"^authors:\n  - name: \"?{author['name']}\"?$", text, re.MULTILINE)
    listed = re.search(r"^keywords:\n((?:  - .*\n)+)", text, re.MULTILINE)[1]
    assert re.findall(r"  - \"?(.*?)\"?\n", listed) == PROJECT["keywords"]
    assert "doi" not in text.lower()  # there is none yet


def test_changelog_has_this_version():
    page = PAGES["CHANGELOG.md"]
    heads = re.findall(r"^## \[(.*?)\]", page, re.MULTILINE)
    assert heads[:2] == ["Unreleased", PROJECT["version"]]
    kinds = set(re.findall(r"^### (.*)$", page.split("## [Unreleased]")[1], re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
