"""Machine code as nvdisasm lists it: instructions, their targets, and paths through a kernel."""

from __future__ import annotations

import functools
import heapq
import importlib.metadata
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

_LINE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?([A-Z]\w*[\w.]*)(.*)")


class Instruction(NamedTuple):
    """``guarded``: it has a predicate; it is issued even if the predicate is false."""

    op: str
    operands: str
    guarded: bool
    target: str | None = None  # of a jump, a label


@functools.cache
def nvdisasm() -> str | None:
    """The path of the disassembler, or None."""
    try:
        files = importlib.metadata.files("nvidia-cuda-nvdisasm") or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((str(f.locate()) for f in files if f.stem == "nvdisasm" and "bin" in f.parts), None)


def listing(cubin: bytes) -> str:
    """nvdisasm's listing of a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        # -ndf: no analysis of the data flow, a quarter of the time; nothing here reads it.
        command = [str(nvdisasm()), "-c", "-ndf", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def instructions(text: str) -> list[tuple[str, str]]:
    """(operation, operands) of every function, in order."""
    return [(m[2], m[3]) for m in _LINE.finditer(text)]


def entry(text: str, name: str) -> tuple[list[Instruction], dict[str, int]]:
    """(instructions, index of the instruction at each label) of one function of a listing."""
    body = text.split(f".section\t.text.{name}", 1)[1].split("\t.section\t", 1)[0]
    found: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in body.splitlines():
        if label := re.match(r"(\.L_\w+):", line):
            labels[label[1]] = len(found)
        elif m := _LINE.search(line):
            target = re.search(r"`\((\.L_\w+)\)", m[3]) if m[2].startswith("BRA") else None
            jump = target[1] if target else None
            found.append(Instruction(m[2], m[3].strip(" ;"), m[1] is not None, jump))
    return found, labels


def _next(code: list[Instruction], labels: dict[str, int], at: int) -> Iterator[int]:
    """The instructions that may follow one. Warps are assumed not to diverge: BRA.DIV falls
    through, and a call returns."""
    this = code[at]
    conditional = this.guarded or re.search(r"U?!?U?P\d", this.operands.split("`")[0])
    if this.op == "BRA" or this.op.startswith("BRA.U"):
        if this.target:
            yield labels[this.target]
        if conditional:
            yield at + 1
    elif not (this.op.startswith(("EXIT", "RET")) and not this.guarded):
        yield at + 1


def shortest(
    code: list[Instruction],
    labels: dict[str, int],
    counted: Callable[[Instruction], int | None],
    least: tuple[int, ...],
    exact: tuple[bool, ...],
) -> list[Instruction]:
    """The shortest path from the entry to the end that does the work of a thread.

    ``counted`` gives the kind of work that an instruction does, ``least`` how many times each kind
    must be done, ``exact`` whether it must not be done more often.
    """
    start = 0, (0,) * len(least)
    before: dict[tuple[int, tuple[int, ...]], tuple[int, tuple[int, ...]]] = {}
    queue, settled = [(0, *start, start)], set()
    while queue:
        cost, at, done, came_from = heapq.heappop(queue)
        if (at, done) in settled:
            continue
        settled.add((at, done))
        before[at, done] = came_from
        this = code[at]
        kind = counted(this)
        if kind is not None:
            more = done[kind] + 1
            if more > least[kind]:
                if exact[kind]:
                    continue
                more = least[kind]
            done2 = (*done[:kind], more, *done[kind + 1 :])
        else:
            done2 = done
        if this.op.startswith("EXIT") and done2 == least:
            return _way(code, before, (at, done))
        for after in _next(code, labels, at):
            if after < len(code) and (after, done2) not in settled:
                heapq.heappush(queue, (cost + 1, after, done2, (at, done)))
    raise ValueError("no way through the kernel does this work")


def _way(code, before, state):  # type: ignore[no-untyped-def]
    found = [code[state[0]]]
    while before[state] != state:
        state = before[state]
        found.append(code[state[0]])
    return found[::-1]
