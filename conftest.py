"""README.md as a test: sections whose framework is not installed are left out, and named."""

from __future__ import annotations

import ast
import doctest
import importlib.util
import re
from pathlib import Path

README = Path(__file__).parent / "README.md"


def modules(source: str) -> set[str]:
    """The packages that an example imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def section(lines: list[str], number: int) -> str:
    """The heading that the line of this number, from 0, is under."""
    headings = (line for line in reversed(lines[:number]) if re.match("##+ ", line))
    return next(headings, "# ").lstrip("# ")


def left_out(text: str, examples: list[doctest.Example]) -> dict[str, list[str]]:
    """Sections with the packages that they lack."""
    found: dict[str, list[str]] = {}
    for example in examples:
        lacks = [n for n in sorted(modules(example.source)) if not importlib.util.find_spec(n)]
        if lacks:
            found.setdefault(section(text.splitlines(), example.lineno), []).extend(lacks)
    return found


def pytest_report_header() -> list[str]:
    """Name what is left out."""
    text = README.read_text(encoding="utf-8")
    found = left_out(text, doctest.DocTestParser().get_examples(text))
    return [
        f"README.md: {name} is left out, not installed: {', '.join(lacks)}"
        for name, lacks in found.items()
    ]


def pytest_collection_modifyitems(items: list) -> None:
    """Skip the examples of those sections."""
    for item in items:
        if item.path != README:
            continue
        lines = README.read_text(encoding="utf-8").splitlines()
        lacking = left_out("\n".join(lines), item.dtest.examples)
        for example in item.dtest.examples:
            if section(lines, example.lineno) in lacking:
                example.options[doctest.SKIP] = True
