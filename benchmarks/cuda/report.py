"""The figures of a GPU as text: tables, what the bars say, where they were taken."""

import re
from typing import Any

from benchmarks.cuda.cases import GRADIENT, MODES
from benchmarks.measure import OURS
from benchmarks.report import number, spread
from benchmarks.screen import Cell, Column, Grid, judged

Record = dict[str, Any]
START, END = "<!-- cuda -->", "<!-- /cuda -->"
OTHERS = "torch", "torch.compile", "Liger-Kernel", "CuPy", "quack"
NAMES = ("python", "cupy-cuda13x", "cupy-cuda12x", "numba-cuda", "torch", "triton", "liger-kernel",
         "quack-kernels")  # fmt: skip


def measured(records: list[Record], mode: str) -> list[Record]:
    """The rows of one table that have figures."""
    return [r for r in records if r["group"] == mode and "ms" in r]


def share(record: Record, name: str = OURS) -> str:
    """Throughput as a part of the copy's."""
    return f"{100 * record['of_copy'][name]:.0f}%" if name in record["of_copy"] else "-"


def faster(record: Record, name: str) -> str:
    """How many times as long someone takes."""
    times = record["times_faster"].get(name)
    return "-" if times is None else f"{times:.2f}×"


def met(record: Record, of: str) -> bool | None:
    """Whether a bar is met; None where there is none."""
    bar: Record = record["bars"].get(of, {})
    return bar.get("met")


COLUMNS = (
    Column("case"), Column("ms"), Column("±", rank=4), Column("GB/s", rank=3), Column("of copy"),
    Column("torch"), Column("compile"), Column("Liger"), Column("CuPy", rank=2),
    Column("quack", rank=1),
)  # fmt: skip
NOTE = (
    "of copy: GB/s, in parts of those of a copy; ×: as long the others take. ✗ (red): the bar is "
    "missed."
)


def table(records: list[Record], mode: str, shrink: int = 1) -> Grid:
    """One table for a terminal."""
    title = MODES[mode] if shrink == 1 else f"{MODES[mode]}; rows divided by {shrink}"
    mine = [r for r in records if r["group"] == mode]
    rows = []
    for record in (r for r in mine if "left_out" not in r):
        cells: list[Cell] = [(record["title"], None), (number(record["ms"][OURS]["p50"]), None)]
        cells += [(spread(record), None), (number(record["gb_per_s"]), None)]
        cells += [judged(share(record), "", met(record, "copy"))]
        cells += [judged(faster(record, name), "", met(record, name)) for name in OTHERS]
        rows.append(cells)
    left_out = [f"Left out: {r['title']}, {r['left_out']}." for r in mine if "left_out" in r]
    return Grid(title, COLUMNS, rows, (*left_out, NOTE))


def words(of: str, bar: float) -> str:
    """What a bar asks for."""
    if of == "copy":
        return f"at least {100 * bar:.0f}% of the bandwidth of a copy"
    return f"never slower than {of}" if bar == 1 else f"{bar} times as fast as {of}"


def value(of: str, figure: float) -> str:
    """A figure as its bar is put."""
    return f"{100 * figure:.0f}%" if of == "copy" else f"{figure:.2f}×"


def verdicts(records: list[Record]) -> list[tuple[str, bool | None]]:
    """Each bar in one sentence, with every case that misses it; None: nothing was measured."""
    asked: dict[tuple[str, float], list[tuple[Record, Record]]] = {}
    for record in records:
        for of, bar in record.get("bars", {}).items():
            asked.setdefault((of, bar["bar"]), []).append((record, bar))
    found: list[tuple[str, bool | None]] = []
    for (of, bar), rows in sorted(asked.items()):
        seen = [(r, b["value"], b["met"]) for r, b in rows if b["value"] is not None]
        missed = [(r, v) for r, v, fine in seen if not fine]
        if not seen:
            found.append((f"not measured: {words(of, bar)}", None))
            continue
        least = value(of, min(v for _, v, _ in seen))
        text = f"{len(seen) - len(missed)} of {len(seen)}: {words(of, bar)}, least {least}"
        places = [f"{r['title']} ({r['group']}) {value(of, v)}" for r, v in missed]
        verdict = "missed" if missed else "met"
        found.append((f"{verdict}, {'; '.join([text, *places])}", not missed))
    return found


def caption(result: Record) -> str:
    """Where the figures come from, in one line."""
    where = result["machine"]
    place = f"{where['gpu']}, {where['memory_gb']} GB, driver {where['driver'] or 'unknown'}"
    copy = f"copy of {result['copy']['bytes'] / 1e9:.1f} GB: {result['copy']['gb_per_s']} GB/s"
    used = ", ".join(f"{n} {result['versions'][n]}" for n in NAMES if n in result["versions"])
    return f"{place}, {copy}; {used}; {result['date']}, commit {result['commit'] or 'unknown'}"


def markdown(result: Record) -> str:
    """The README's table."""
    heads = ["case", "ms", "GB/s", "of copy", *(f"÷ {name}" for name in OTHERS)]
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for record in measured(result["cases"], GRADIENT):
        cells = [record["title"], number(record["ms"][OURS]["p50"]), number(record["gb_per_s"])]
        lines.append([*cells, share(record), *(faster(record, name) for name in OTHERS)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def render(readme: str, result: Record, pictures: list[str]) -> str:
    """The README with table and pictures of a result between its two markers."""
    if START not in readme or END not in readme:
        raise SystemExit(f"README.md has no place for the table: {START} and {END}")
    shown = [f"![{text}](benchmarks/results/{name})" for name, text in PICTURES.items()
             if name in pictures]  # fmt: skip
    parts = [*shown, f"{MODES[GRADIENT]}:", markdown(result), f"{caption(result)}."]
    text = "\n\n".join(parts)
    marked = re.compile(f"{re.escape(START)}.*{re.escape(END)}", re.DOTALL)
    return marked.sub(lambda _: f"{START}\n{text}\n{END}", readme)


PICTURES = {
    "cuda-copy.png": "Bandwidth on a GPU, in parts of a copy's",
    "cuda-rivals.png": "How many times longer the others take on a GPU",
}
