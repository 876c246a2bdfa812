"""The columns of ``benchmarks.frameworks``, for a terminal and for benchmarks/README.md."""

from dataclasses import replace
from functools import partial

from benchmarks.results import Record
from benchmarks.tables import (
    CASE,
    Cell,
    Column,
    Grid,
    explain,
    judged,
    number,
    of_cases,
    of_copy,
    spread,
    times_as_long,
)

OURS, OURS_COMPILED, OURS_JAX = "fusedce.torch", "fusedce.torch, compiled", "fusedce.jax"
COPY = "new copy"
COMPARED = (  # ours, theirs, the heading
    (OURS, COPY, "of a\nnew copy"),
    (OURS, "torch", "torch\ntakes"),
    (OURS, "torch.compile", "torch.compile\ntakes"),
    (OURS_COMPILED, "torch.compile", "torch.compile\ntakes,\nboth compiled"),
    (OURS_JAX, "optax", "optax\ntakes"),
)
WEIGHED = OURS, "torch"  # whose memory is measured
SLACK = 0.02  # of the logits: memory that the kernel counts with a delay
TITLES = {
    "torch": "Forward and backward pass in PyTorch",
    "jax": "Forward and backward pass in JAX",
}
EXPLAINED = {
    "of a new copy": "the time of a copy of the logits into new memory, in percent of that of "
    "fusedce.",
    "takes": "N times as long as fusedce.",
    "both compiled": "torch.compile of torch's loss takes N times as long as that of fusedce's.",
    "memory": "the most that fusedce holds above its inputs, in multiples of the logits; the bar "
    "is what torch holds.",
}


def ratio_cell(ours: str, theirs: str, record: Record) -> Cell:
    """The ratio of their time to ours with its bar, and whether that is met."""
    for line in record["ratios"]:
        if (line["ours"], line["theirs"]) == (ours, theirs):
            write = of_copy if theirs == COPY else times_as_long
            return write(line["value"], line["bar"], line["met"])
    return "-", None


def memory_cell(record: Record) -> Cell:
    """Our peak memory, and torch's, which is the bar."""
    held = record.get("memory") or {}
    if set(held) != set(WEIGHED):
        return "-", None
    mine, theirs = (held[name] for name in WEIGHED)
    return judged(f"{mine:.2f}", f"≤ {theirs:.2f}", bool(mine <= theirs + SLACK))


def ms_cell(name: str, wide: bool, record: Record) -> str:
    """The median, and the middle 60% of the rounds or half the width of that."""
    ms = record["ms"].get(name)
    if ms is None:
        return "-"
    median, low, high = (number(ms[k]) for k in ("p50", "p20", "p80"))
    return f"{median} ({low}–{high})" if wide else f"{median} ±{spread(ms)}"


def columns(page: bool) -> dict[str, list[Column]]:
    """The columns of each table; the page's have the rounds, a terminal's their spread."""
    *torch, optax = (
        Column(head, partial(ratio_cell, ours, theirs), int(theirs == COPY), right=False)
        for ours, theirs, head in COMPARED
    )
    head = "ms (middle 60%)" if page else "ms ±"
    mine = {name: Column(head, partial(ms_cell, name, page)) for name in (OURS, OURS_JAX)}
    memory = Column("memory", memory_cell, rank=1, right=False)
    return {"torch": [CASE, mine[OURS], *torch, memory], "jax": [CASE, mine[OURS_JAX], optax]}


def grids(records: list[Record], page: bool, shrink: int) -> list[Grid]:
    """A table for each framework."""
    shown = columns(page)
    return [of_cases(TITLES[name], shown[name], records, shrink) for name in shown]


def tables(records: list[Record], shrink: int) -> list[Grid]:
    """The tables for a terminal."""
    found = grids(records, page=False, shrink=shrink)
    explain(found, EXPLAINED)
    return found


def page_tables(result: Record) -> list[Grid]:
    """The tables for benchmarks/README.md, which explains the columns."""
    found = grids(result["cases"], page=True, shrink=result["settings"]["shrink"])
    return [replace(grid, title=f"{grid.title}:") for grid in found]
