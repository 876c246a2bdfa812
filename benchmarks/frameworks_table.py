"""The columns of ``benchmarks.frameworks``, for a terminal and for benchmarks/README.md."""

from functools import partial

from benchmarks.results import Record
from benchmarks.tables import CASE, Cell, Column, Grid, judged, number, of_cases, spread

OURS, OURS_COMPILED, OURS_JAX = "fusedce.torch", "fusedce.torch, compiled", "fusedce.jax"
COPY = "new copy"
COMPARED = (  # ours, theirs, the heading
    (OURS, COPY, "new copy"),
    (OURS, "torch", "eager"),
    (OURS, "torch.compile", "compile"),
    (OURS_COMPILED, "torch.compile", "both compiled"),
    (OURS_JAX, "optax", "optax"),
)
WEIGHED = OURS, "torch"  # whose memory is measured
SLACK = 0.02  # of the logits: memory that the kernel counts with a delay
TITLE = "Forward and backward pass: our time, and how many times as long others take"
NOTE = (
    "ms: the time of ours, ± half the width of the range with three fifths of the rounds. "
    "×: the other's time divided by ours; both compiled: with ours under torch.compile too. "
    "memory: of ours, in multiples of the logits, and of torch. ✗ (red): the bar is missed."
)


def times_cell(ours: str, theirs: str, record: Record) -> Cell:
    """The ratio of their time to ours with its bar, and whether that is met."""
    for line in record["ratios"]:
        if (line["ours"], line["theirs"]) == (ours, theirs):
            bar = "" if line["bar"] is None else f"≥{line['bar']:g}"
            return judged(f"{line['value']:.2f}×", bar, line["met"])
    return "-", None


def memory_cell(record: Record) -> Cell:
    """Our peak memory, and torch's, which is the bar."""
    held = record.get("memory") or {}
    if set(held) != set(WEIGHED):
        return "-", None
    mine, theirs = (held[name] for name in WEIGHED)
    return judged(f"{mine:.2f}", f"≤{theirs:.2f}", bool(mine <= theirs + SLACK))


def ms_cell(name: str, wide: bool, record: Record) -> str:
    """The median, and the range with three fifths of the rounds, or half the width of that."""
    ms = record["ms"].get(name)
    if ms is None:
        return "-"
    median, low, high = (number(ms[k]) for k in ("p50", "p20", "p80"))
    return f"{median} ({low}–{high})" if wide else f"{median} ±{spread(ms)}"


def columns(page: bool) -> list[Column]:
    """The columns of the page, or those of a terminal, whose headings have more lines."""
    *torch, optax = (
        Column(head, partial(times_cell, ours, theirs), int(head == COPY))
        for ours, theirs, head in COMPARED
    )
    found = [
        CASE, Column("torch, ms", partial(ms_cell, OURS, page)), *torch,
        Column("JAX, ms", partial(ms_cell, OURS_JAX, page)), optax, Column("memory", memory_cell),
    ]  # fmt: skip
    if page:
        return found
    return [Column(c.head.replace(" ", "\n"), c.cell, c.rank, right=False) for c in found]


def tables(records: list[Record], shrink: int) -> list[Grid]:
    """The table for a terminal."""
    return [of_cases(TITLE, columns(page=False), records, shrink, NOTE)]


def page_tables(result: Record) -> list[Grid]:
    """The table for benchmarks/README.md, without a title."""
    return [Grid("", columns(page=True), result["cases"])]
