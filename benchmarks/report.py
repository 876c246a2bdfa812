"""The figures of a run as text: a table for the terminal, one for the README."""

import re
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import results
from benchmarks.results import caption
from benchmarks.screen import Cell, Column, Grid, judged, say

Record = dict[str, Any]

FRESH = "fusedce, new output"
START, END = "<!-- throughput -->", "<!-- /throughput -->"
TITLE = "Mean loss and gradient, float32 unless said"
PICTURES = {
    "classes.png": "Throughput against the number of classes",
    "rivals.png": "How many times longer the others take",
}
SWEEPS = "classes", "rows"


def measured(result: Record) -> list[Record]:
    """The rows of the tables: what is no point of a curve and was not left out."""
    return [r for r in result["cases"] if "ms" in r and r["group"] not in SWEEPS]


def number(value: float | None) -> str:
    """Three digits; a very small number is nothing to speak of."""
    if value is None:
        return "-"
    if value < 0.001:
        return "0"
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def spread(record: Record) -> str:
    """Half of the width from p20 to p80, in percent of the median."""
    ms = record["ms"]["fusedce"]
    return f"{50 * (ms['p80'] - ms['p20']) / ms['p50']:.0f}%"


def ratio(record: Record) -> Cell:
    """The ratio with its bar, and whether that is met."""
    found = record["ratio"]
    if found is None:
        return "-", None
    of = "" if found["of"] == "copy" else f" {found['of']}"
    bar = "" if found["bar"] is None else f"≤ {found['bar']:.2f}"
    return judged(f"{found['value']:.2f}{'' if bar else of}", bar and bar + of, found["met"])


def best_rival(record: Record) -> Cell:
    """How many times as long as fusedce the fastest other takes, and whether that is enough."""
    best = record.get("best_rival")
    if best is None:
        return "-", None
    times = f"{best['times']:.2f}" if best["times"] < 10 else f"{best['times']:.0f}"
    bar, met = best["bar"], best["met"]
    asked = "" if bar is None else f"≥ {bar:.0f}"
    return judged(f"{times}× {best['name']}", asked, None if bar is None else met)


def title(shrink: int) -> str:
    """What the table shows."""
    return TITLE if shrink == 1 else f"{TITLE}; rows of large cases divided by {shrink}"


COLUMNS = (
    Column("case"), Column("ms"), Column("±", rank=2), Column("GB/s", rank=1),
    Column("time ÷ copy\nand its bar", right=False),
    Column("the fastest other takes\nN × as long", right=False),
)  # fmt: skip
NOTES = (
    "÷ copy: divided by the time of a loop that moves the same bytes, or by that of whoever the "
    "cell names. ±: half the width of the range with three fifths of the rounds. ✗ (red): the bar "
    "is missed.",
)


def table(records: list[Record], shrink: int = 1) -> Grid:
    """The table for a terminal."""
    rows, sections = [], []
    done = [record for record in records if "left_out" not in record]
    for k, record in enumerate(done):
        if k and record.get("group") != done[k - 1].get("group"):
            sections.append(k - 1)
        ms = number(record["ms"]["fusedce"]["p50"])
        cells = record["title"], ms, spread(record), number(record["gb_per_s"])
        rows.append([*((text, None) for text in cells), ratio(record), best_rival(record)])
    left_out = [f"Left out: {r['title']}, {r['left_out']}." for r in records if "left_out" in r]
    return Grid(title(shrink), COLUMNS, rows, (*left_out, *NOTES), sections)


def markdown(result: Record) -> str:
    """The README's table."""
    heads = (
        "case",
        "ms",
        "p20–p80",
        "new output",
        "GB/s",
        *(c.head.replace("\n", " ") for c in COLUMNS[4:]),
    )
    lines = [list(heads), ["---"] + ["---:"] * 4 + ["---"] * 2]
    for record in measured(result):
        ms = record["ms"]["fusedce"]
        fresh = record["ms"].get(FRESH)
        cells = [record["title"], number(ms["p50"]), f"{number(ms['p20'])}–{number(ms['p80'])}"]
        cells += [number(fresh and fresh["p50"]), number(record["gb_per_s"])]
        lines.append([*cells, ratio(record)[0], best_rival(record)[0]])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def render(readme: str, result: Record, pictures: Path) -> str:
    """The README with table and pictures of a result between its two markers."""
    if START not in readme or END not in readme:
        raise SystemExit(f"README.md has no place for the table: {START} and {END}")
    shown = [f"![{text}](benchmarks/results/{name})" for name, text in PICTURES.items()
             if pictures.joinpath(name).exists()]  # fmt: skip
    parts = [
        START,
        *shown,
        title(result["settings"]["shrink"]) + ":",
        markdown(result),
        caption(result) + ".",
        END,
    ]
    text = (
        "\n\n".join(parts).replace(f"{START}\n\n", f"{START}\n").replace(f"\n\n{END}", f"\n{END}")
    )
    marked = re.compile(f"{re.escape(START)}.*{re.escape(END)}", re.DOTALL)
    return marked.sub(lambda _: text, readme)


def tell_regressions(console: Console, old: Record, new: Record) -> int:
    """Print what became slower; the exit status."""
    pairs, others = results.comparable(old, new)
    for title, why in others:
        say(console, f"not compared: {title}, {why}")
    if not pairs:
        say(console, "nothing to compare")
        return 2
    if old["machine"] != new["machine"]:
        say(console, "the other result is from another machine, or other threads", "yellow")
    found = results.regressions(old, new)
    for line in found:
        change = f"{line['before']:.2f} -> {line['now']:.2f} times {line['of']}"
        say(console, f"slower: {line['title']}, {change}", "red")
    say(console, f"{len(found)} of {len(pairs)} cases slower than before, beyond the noise")
    return 1 if found else 0
