"""A parser for PTX as NVVM writes it: functions, and their statements with operands.

One file has one entry (the kernel) and perhaps device functions that it calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

NAME = r"[\w$]+"
LABEL = re.compile(rf"({NAME}):(?!:)")
FUNCTION = re.compile(
    rf"\.(?P<kind>entry|func)\s*(?:\((?P<returns>[^)]*)\)\s*)?(?P<name>{NAME})\s*"
    r"(?:\((?P<params>[^)]*)\))?[^{};]*(?P<end>[{;])"
)
STATEMENT = re.compile(
    r"(?:@(?P<negated>!?)\s*(?P<predicate>[%\w$]+)\s+)?(?P<op>[a-z][\w.:]*)\s*(?P<rest>.*)"
)


class Unknown(Exception):
    """PTX that the emulator does not know."""


class Function(NamedTuple):
    """An entry or a device function."""

    name: str
    entry: bool
    returns: tuple[tuple[str, int], ...]  # (parameter, bytes)
    params: tuple[tuple[str, int], ...]
    body: str


class Instruction(NamedTuple):
    """``@predicate op operands``; a vector operand in braces is one operand."""

    op: str
    operands: tuple[str, ...]
    predicate: str = ""
    negated: bool = False

    @property
    def parts(self) -> list[str]:
        """The name of the operation and its modifiers; the last one is mostly the type."""
        return self.op.split(".")


def functions(text: str) -> list[Function]:
    """All functions with a body, the entry last."""
    text = _without_comments(text)
    found = []
    for m in FUNCTION.finditer(text):
        if m["end"] == ";":  # a declaration
            continue
        start = m.end()
        body = text[start : _closing(text, start)]
        params = _parameters(m["params"] or ""), _parameters(m["returns"] or "")
        found.append(Function(m["name"], m["kind"] == "entry", params[1], params[0], body))
    return sorted(found, key=lambda f: f.entry)


def _without_comments(text: str) -> str:
    """The text without comments; the lines keep their numbers."""
    text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), text, flags=re.S)
    return re.sub(r"//[^\n]*", "", text)


def _closing(text: str, start: int) -> int:
    """The position of the brace that closes the one opened before ``start``."""
    depth = 1
    for m in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if m[0] == "{" else -1
        if depth == 0:
            return m.start()
    raise Unknown("a function without an end")


def _parameters(text: str) -> tuple[tuple[str, int], ...]:
    pattern = rf"\.param\s+(?:\.align\s+\d+\s+)?\.[a-z](\d+)\s+({NAME})(?:\[(\d+)\])?"
    return tuple(
        (name, int(bits) // 8 * int(n or 1)) for bits, name, n in re.findall(pattern, text)
    )


def statements(function: Function) -> Iterator[tuple[int, str]]:
    """(line within the body, text) of labels, braces, directives and instructions."""
    text, at = function.body, 0
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        if at >= len(text):
            return
        line = text.count("\n", 0, at)
        if text[at] in "{}":
            yield line, text[at]
            at += 1
        elif m := LABEL.match(text, at):
            yield line, m[0]
            at = m.end()
        else:
            end = text.index(";", at)
            yield line, " ".join(text[at:end].split())
            at = end + 1


def instruction(statement: str) -> Instruction:
    """Parse a statement that is not a directive."""
    m = STATEMENT.fullmatch(statement)
    if not m:
        raise Unknown(statement)
    return Instruction(
        m["op"], tuple(operands(m["rest"])), m["predicate"] or "", bool(m["negated"])
    )


def operands(text: str) -> list[str]:
    """Split at commas outside of braces, brackets and parentheses."""
    found, depth, word = [], 0, ""
    for c in text:
        if c == "," and not depth:
            found.append(word.strip())
            word = ""
            continue
        depth += (c in "{[(") - (c in "}])")
        word += c
    return [*found, word.strip()] if word.strip() else found
