"""The columns of the CPU's throughput, for a terminal and for benchmarks/README.md."""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from benchmarks import results
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

TITLE = "Mean loss and gradient, float32 unless said"
OTHER_TITLE = "Mean loss and gradient, compared with another call instead of a copy"
PICTURES = (
    ("classes.png", "Throughput against the number of classes"),
    ("rivals.png", "Time of the fastest other and of torch, relative to fusedce's"),
)
CURVES = "classes", "rows"
FRESH = "fusedce, new output"
TAKES = "the fastest other\ntakes N × as long"
EXPLAINED = {
    "of copy": "the speed, in percent of that of a loop that moves the same bytes.",
    "time / other call": "the time of fusedce divided by that of the call that the cell names.",
}


def measured(result: Record) -> list[Record]:
    """The rows of the tables: cases that were not left out and are no points of a curve."""
    return [r for r in result["cases"] if "ms" in r and r["group"] not in CURVES]


def ms(record: Record, name: str = "fusedce") -> str:
    """The median in milliseconds."""
    return number(record["ms"].get(name, {}).get("p50"))


def gb_per_s(record: Record) -> str:
    """The bytes of the case over the time of fusedce."""
    return number(record["gb_per_s"])


def middle(record: Record) -> str:
    """The middle 60% of the rounds, in milliseconds."""
    return "–".join(number(record["ms"]["fusedce"][key]) for key in ("p20", "p80"))


def to_a_copy(record: Record) -> bool:
    """Whether the time is compared with that of a copy, or with nothing."""
    ratio = record.get("ratio")
    return ratio is None or ratio["of"] == "copy"


def share(record: Record) -> Cell:
    """The speed in percent of that of a copy, and its bar; results hold the ratio of the times."""
    found = record["ratio"]
    if found is None or not to_a_copy(record):
        return "-", None
    bar = None if found["bar"] is None else 1 / found["bar"]
    return of_copy(1 / found["value"], bar, found["met"])


def to_other(record: Record) -> Cell:
    """The time divided by that of another call, and its bar."""
    found = record["ratio"]
    if to_a_copy(record):
        return "-", None
    bar = "" if found["bar"] is None else f"≤ {found['bar']:.2f}"
    return judged(f"{found['value']:.2f} × {found['of']}", bar, found["met"])


def best_rival(record: Record) -> Cell:
    """How many times as long the fastest rival takes, and its bar."""
    best = record.get("best_rival")
    if best is None:
        return "-", None
    met = None if best["bar"] is None else best["met"]
    return times_as_long(best["times"], best["bar"], met, best["name"])


def without_bar(column: Column, record: Record) -> Cell:
    """A cell without the bar; a sign still says that it is missed."""
    text, met = column.of(record)
    return re.sub(r" [≤≥<>] \S+", "", text), met


def beside_new_output(record: Record) -> str:
    """How many times as long the fastest rival takes as fusedce with a new gradient array."""
    times = record.get("times_faster_new_output")
    return times_as_long(min(times.values()))[0] if times and FRESH in record["ms"] else "-"


def torch_takes(record: Record) -> str:
    """How many times as long torch takes."""
    times = record["times_faster"].get("torch")
    return "-" if times is None else times_as_long(times)[0]


OF_COPY = Column("of copy", share, right=False)
OTHER_CALL = Column("time / other call", to_other, right=False)
BEST = Column(TAKES, best_rival, right=False)
BESIDE_NEW = Column("N × as long as\nwith new output", beside_new_output)
FIGURES = (
    CASE, Column("ms", ms), Column("±", lambda r: spread(r["ms"]["fusedce"]), rank=2),
    Column("GB/s", gb_per_s, rank=1),
)  # fmt: skip
PAGE_FIGURES = (
    CASE, Column("ms", ms), Column("middle 60%", middle),
    Column("new output", lambda r: ms(r, FRESH)), Column("GB/s", gb_per_s),
)  # fmt: skip
SUMMARY = (
    "softmax-4096x32000", "softmax-65536x1000", "softmax-2000000x10", "segmentation",
    "sigmoid-focal", "small-32x10",
)  # fmt: skip
SUMMARY_COLUMNS = (
    CASE, Column("ms", ms),
    *(replace(column, cell=partial(without_bar, column)) for column in (OF_COPY, BEST)),
    BESIDE_NEW, Column("torch takes\nN × as long", torch_takes),
)  # fmt: skip
SUMMARY_NOTE = (
    "Loss and gradient of NumPy arrays in float32. fusedce, NumPy and scikit-learn write the "
    "gradient into a given array; torch, torch.compile and jax.jit make a new one, as fusedce does "
    "in the column **with new output**. **of copy**: the speed, in percent of that of a loop that "
    "moves the same bytes; **-**: not measured. **✗**: a bar of "
    "[benchmarks/README.md](benchmarks/README.md) is missed."
)


def both(
    records: list[Record], figures: Sequence[Column], shrink: int, more: Sequence[Column] = ()
) -> list[Grid]:
    """The cases that are compared with a copy, then those compared with another call."""
    kinds = (TITLE, OF_COPY, True), (OTHER_TITLE, OTHER_CALL, False)
    found = []
    for title, column, copied in kinds:
        some = [record for record in records if to_a_copy(record) == copied]
        if some or (copied and not records):
            found.append(of_cases(title, [*figures, column, BEST, *more], some, shrink))
    return found


def tables(records: list[Record], shrink: int = 1) -> list[Grid]:
    """The tables for a terminal."""
    grids = both(records, FIGURES, shrink)
    explain(grids, EXPLAINED)
    return grids


def page_tables(result: Record) -> list[Grid]:
    """The tables for benchmarks/README.md, which explains the columns."""
    grids = both(measured(result), PAGE_FIGURES, result["settings"]["shrink"], (BESIDE_NEW,))
    return [replace(grid, title=f"{grid.title}:") for grid in grids]


def summary(result: Record) -> list[str]:
    """The paragraphs of README.md: a few of the cases, and where they are from."""
    by_name = {record["case"]: record for record in measured(result)}
    records = [by_name[name] for name in SUMMARY if name in by_name]
    table = Grid("", SUMMARY_COLUMNS, records).markdown()
    return [table, SUMMARY_NOTE, f"{results.caption(result)}."]
