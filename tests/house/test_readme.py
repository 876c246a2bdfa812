"""Run README.md's examples: each section's after those at the top of the page."""

from __future__ import annotations

import ast
import doctest
import importlib.util
import re
from pathlib import Path

import pytest

from fusedce.options import DEFAULTS
from tests.house import stubs

README = Path(__file__).resolve().parents[2] / "README.md"
TOP, *SECTIONS = re.split(r"^(?=##+ )", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
EXAMPLES = {part.splitlines()[0].lstrip("# "): part for part in SECTIONS if ">>> " in part}


def packages(examples):
    """The packages that examples import."""
    nodes = [n for example in examples for n in ast.walk(ast.parse(example.source))]
    named = [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]
    named += [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)]
    return {name.partition(".")[0] for name in named}


def test_table_of_losses():
    readme = README.read_text(encoding="utf-8")
    assert readme == stubs.with_table(readme), (
        "README's table does not fit the list of losses: python -m tests.house.stubs writes it"
    )


@pytest.mark.parametrize("option", DEFAULTS)
def test_table_of_options(option):
    (part,) = (part for part in SECTIONS if part.startswith("## Options\n"))
    rows = [line for line in part.splitlines() if line.startswith("| `")]
    assert any(re.search(rf"`{option}\b", row.split(" | ")[0]) for row in rows), (
        f"README's table of options has no row for {option}"
    )


@pytest.mark.parametrize("heading", EXAMPLES)
def test_examples(heading):
    parser, found = doctest.DocTestParser(), {}
    lacking = packages(parser.get_examples(EXAMPLES[heading]))
    lacking = sorted(name for name in lacking if importlib.util.find_spec(name) is None)
    if lacking:
        pytest.skip(f"{', '.join(lacking)} is not installed")
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    told = []
    for part in (TOP, EXAMPLES[heading]):
        test = parser.get_doctest(part, found, heading, str(README), 0)
        runner.run(test, out=told.append, clear_globs=False)
        found = test.globs
    assert not runner.failures, "".join(told)
