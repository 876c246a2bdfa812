"""The figures of ``benchmarks.frameworks``: a table for the terminal, one for the README."""

import re
from typing import Any

from benchmarks import report, results
from benchmarks.screen import Cell, Column, Grid, judged, skipped

Record = dict[str, Any]
START, END = "<!-- frameworks -->", "<!-- /frameworks -->"
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
SLACK = 0.02  # of the logits: what the kernel counts late
HEADS = ("case", "torch, ms", *(h for *_, h in COMPARED[:4]), "JAX, ms", "optax", "memory")


def times_cell(record: Record, ours: str, theirs: str) -> Cell:
    """How many times as long, the bar, and whether it is met."""
    for line in record["ratios"]:
        if (line["ours"], line["theirs"]) == (ours, theirs):
            bar = "" if line["bar"] is None else f"≥{line['bar']:g}"
            return judged(f"{line['value']:.2f}×", bar, line["met"])
    return "-", None


def memory_cell(record: Record) -> Cell:
    """Ours, and torch's, which is the bar."""
    held = record.get("memory") or {}
    if set(held) != set(WEIGHED):
        return "-", None
    mine, theirs = (held[name] for name in WEIGHED)
    return judged(f"{mine:.2f}", f"≤{theirs:.2f}", bool(mine <= theirs + SLACK))


def ms_cell(record: Record, name: str, wide: bool) -> tuple[str, None]:
    """The median, and what three fifths of the rounds lie in, or half of the width of that."""
    ms = record["ms"].get(name)
    if ms is None:
        return "-", None
    median, low, high = (report.number(ms[k]) for k in ("p50", "p20", "p80"))
    half = 50 * (ms["p80"] - ms["p20"]) / ms["p50"]
    return f"{median} ({low}–{high})" if wide else f"{median} ±{half:.0f}%", None


def cells(record: Record, wide: bool) -> list[Cell]:
    """A row of either table."""
    compared = [times_cell(record, ours, theirs) for ours, theirs, _ in COMPARED]
    return [
        (record["title"], None),
        ms_cell(record, OURS, wide),
        *compared[:4],
        ms_cell(record, OURS_JAX, wide),
        compared[4],
        memory_cell(record),
    ]


NOTE = (
    "ms: the time of ours, ± half the width of the range with three fifths of the rounds. "
    "×: as long the other takes; both compiled: as torch.compile of ours. "
    "memory: of ours, in multiples of the logits, and of torch. ✗ (red): the bar is missed."
)


def table(records: list[Record], shrink: int) -> Grid:
    """The table for a terminal."""
    title = "Forward and backward pass: our time, and how many times as long others take"
    title += "" if shrink == 1 else f"; rows divided by {shrink}"
    columns = [Column(h.replace(" ", "\n"), int(h == COPY), right=False) for h in HEADS]
    return Grid(title, columns, [cells(record, False) for record in records], (NOTE,))


def markdown(result: Record) -> str:
    """The README's table."""
    lines = [list(HEADS), ["---"] + ["---:"] * (len(HEADS) - 1)]
    lines += [[text for text, _ in cells(record, True)] for record in result["cases"]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def render(readme: str, result: Record) -> str:
    """The README with the table of a result between its two markers."""
    if START not in readme or END not in readme:
        raise SystemExit(f"README.md has no place for the table: {START} and {END}")
    lines = skipped(result["missing_rivals"], result["cases"])
    notes = results.caption(result) + "."
    notes += f" Left out: {'; '.join(lines)}." if lines else ""
    text = f"{START}\n{markdown(result)}\n\n{notes}\n{END}"
    marked = re.compile(f"{re.escape(START)}.*{re.escape(END)}", re.DOTALL)
    return marked.sub(lambda _: text, readme)
