"""The columns of the CPU's throughput, for a terminal and for benchmarks/README.md."""

from benchmarks import results
from benchmarks.results import Record
from benchmarks.tables import CASE, Cell, Column, Grid, judged, number, of_cases, spread

TITLE = "Mean loss and gradient, float32 unless said"
PICTURES = (
    ("classes.png", "Throughput against the number of classes"),
    ("rivals.png", "How many times longer the others take"),
)
CURVES = "classes", "rows"
NOTE = (
    "÷ copy: divided by the time of a loop that moves the same bytes, or by that of the call that "
    "the cell names. ±: half the width of the range with three fifths of the rounds. ✗ (red): the "
    "bar is missed."
)


def measured(result: Record) -> list[Record]:
    """The rows of the tables: cases that were not left out and are no points of a curve."""
    return [r for r in result["cases"] if "ms" in r and r["group"] not in CURVES]


def ms(record: Record, name: str = "fusedce") -> str:
    """The median in milliseconds."""
    return number(record["ms"].get(name, {}).get("p50"))


def gb_per_s(record: Record) -> str:
    """The bytes of the case over the time of fusedce."""
    return number(record["gb_per_s"])


def percentiles(record: Record) -> str:
    """The range with three fifths of the rounds, in milliseconds."""
    return "–".join(number(record["ms"]["fusedce"][key]) for key in ("p20", "p80"))


def ratio(record: Record) -> Cell:
    """The ratio of times with its bar, and whether that is met."""
    found = record["ratio"]
    if found is None:
        return "-", None
    of = "" if found["of"] == "copy" else f" {found['of']}"
    bar = "" if found["bar"] is None else f"≤ {found['bar']:.2f}"
    return judged(f"{found['value']:.2f}{'' if bar else of}", bar and bar + of, found["met"])


def best_rival(record: Record) -> Cell:
    """The ratio of the fastest rival's time to ours with its bar, and whether that is met."""
    best = record.get("best_rival")
    if best is None:
        return "-", None
    times = f"{best['times']:.2f}" if best["times"] < 10 else f"{best['times']:.0f}"
    bar, met = best["bar"], best["met"]
    asked = "" if bar is None else f"≥ {bar:.0f}"
    return judged(f"{times}× {best['name']}", asked, None if bar is None else met)


JUDGED = (
    Column("time ÷ copy\nand its bar", ratio, right=False),
    Column("the fastest other takes\nN × as long", best_rival, right=False),
)
COLUMNS = (
    CASE, Column("ms", ms), Column("±", lambda r: spread(r["ms"]["fusedce"]), rank=2),
    Column("GB/s", gb_per_s, rank=1), *JUDGED,
)  # fmt: skip
PAGE_COLUMNS = (
    CASE, Column("ms", ms), Column("p20–p80", percentiles),
    Column("new output", lambda r: ms(r, "fusedce, new output")), Column("GB/s", gb_per_s), *JUDGED,
)  # fmt: skip
SUMMARY = (
    "softmax-4096x32000", "softmax-65536x1000", "softmax-2000000x10", "segmentation",
    "sigmoid-focal", "small-32x10",
)  # fmt: skip
SUMMARY_COLUMNS = CASE, Column("ms", ms), Column("GB/s", gb_per_s), *JUDGED


def tables(records: list[Record], shrink: int = 1) -> list[Grid]:
    """The table for a terminal."""
    return [of_cases(TITLE, COLUMNS, records, shrink, NOTE)]


def page_tables(result: Record) -> list[Grid]:
    """The table for benchmarks/README.md."""
    title = f"{TITLE}:"
    return [of_cases(title, PAGE_COLUMNS, measured(result), result["settings"]["shrink"])]


def summary(result: Record) -> list[str]:
    """The paragraphs of README.md: a few of the cases, and where they are from."""
    by_name = {record["case"]: record for record in measured(result)}
    records = [by_name[name] for name in SUMMARY if name in by_name]
    return [Grid("", SUMMARY_COLUMNS, records).markdown(), f"{results.caption(result)}."]
