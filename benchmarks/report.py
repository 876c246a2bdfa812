"""The figures of a run as text: a table for the terminal, one for the README."""

import re
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from benchmarks.results import caption

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


def percent(record: Record) -> str:
    """Throughput as a part of the copy's."""
    return f"{record['percent_of_copy']}%" if "percent_of_copy" in record else "-"


def spread(record: Record) -> str:
    """Half of the width from p20 to p80, in percent of the median."""
    ms = record["ms"]["fusedce"]
    return f"{50 * (ms['p80'] - ms['p20']) / ms['p50']:.0f}%"


def ratio(record: Record) -> tuple[str, bool | None]:
    """The ratio with its bar, and whether that is met."""
    found = record["ratio"]
    if found is None:
        return "-", None
    text = f"{found['value']:.2f}"
    if found["bar"] is not None:
        text += f" ≤ {found['bar']:.2f}"
    return text + ("" if found["of"] == "copy" else f" {found['of']}"), found["met"]


def best_rival(record: Record) -> tuple[str, bool | None]:
    """The fastest rival, how many times fusedce is faster, and whether that is enough."""
    best = record.get("best_rival")
    if best is None:
        return "-", None
    times = f"{best['times']:.2f}" if best["times"] < 10 else f"{best['times']:.0f}"
    text = f"{times}× {best['name']}"
    if best["bar"] is None:
        return text, None
    return f"{text} ≥{best['bar']:.0f}", best["met"]


def coloured(text: str, met: bool | None) -> Text:
    """Green where a bar is met, red where it is not."""
    return Text(text, style={True: "green", False: "red", None: ""}[met])


def title(shrink: int) -> str:
    """What the table shows."""
    return TITLE if shrink == 1 else f"{TITLE}; rows of large cases divided by {shrink}"


def table(records: list[Record], shrink: int = 1) -> Table:
    """The table for a terminal of 100 columns."""
    found = Table(title=title(shrink), box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    found.add_column("case", no_wrap=True)
    for heading in ("ms", "±", "GB/s", "of copy"):
        found.add_column(heading, justify="right", no_wrap=True)
    found.add_column("÷ copy ≤ bar", no_wrap=True)
    found.add_column("times the fastest rival", no_wrap=True)
    group = None
    for record in records:
        if group is not None and record.get("group") != group:
            found.add_section()
        group = record.get("group")
        if "left_out" in record:
            found.add_row(record["title"], "", "", "", "", record["left_out"], "")
            continue
        found.add_row(
            record["title"],
            number(record["ms"]["fusedce"]["p50"]),
            spread(record),
            number(record["gb_per_s"]),
            percent(record),
            coloured(*ratio(record)),
            coloured(*best_rival(record)),
        )
    return found


def markdown(result: Record) -> str:
    """The README's table."""
    heads = (
        "case",
        "ms",
        "p20–p80",
        "new output",
        "GB/s",
        "of copy",
        "÷ copy ≤ bar",
        "fastest rival",
    )
    lines = [list(heads), ["---"] + ["---:"] * 5 + ["---"] * 2]
    for record in measured(result):
        ms = record["ms"]["fusedce"]
        fresh = record["ms"].get(FRESH)
        cells = [record["title"], number(ms["p50"]), f"{number(ms['p20'])}–{number(ms['p80'])}"]
        cells += [number(fresh and fresh["p50"]), number(record["gb_per_s"])]
        cells += [percent(record), ratio(record)[0]]
        lines.append([*cells, best_rival(record)[0]])
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
