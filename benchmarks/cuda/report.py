"""The columns of the throughput on a GPU, the verdicts on the bars, and the caption."""

from functools import partial

from benchmarks import results
from benchmarks.cuda.cases import GRADIENT, MODES
from benchmarks.measure import OURS
from benchmarks.report import gb_per_s, ms
from benchmarks.results import Record
from benchmarks.tables import CASE, Cell, Column, Grid, judged, of_cases, spread

OTHERS = "torch", "torch.compile", "Liger-Kernel", "CuPy", "quack"
NAMES = ("python", "cupy-cuda13x", "cupy-cuda12x", "numba-cuda", "torch", "triton", "liger-kernel",
         "quack-kernels")  # fmt: skip
PICTURES = (
    ("cuda-copy.png", "Bandwidth on a GPU, in parts of a copy's"),
    ("cuda-rivals.png", "How many times longer the others take on a GPU"),
)
NOTE = (
    "of copy: GB/s, in parts of those of a copy; ×: the ratio of the other's time to fusedce's. "
    "✗ (red): the bar is missed."
)


def measured(records: list[Record], mode: str) -> list[Record]:
    """The rows of one table that have figures."""
    return [r for r in records if r["group"] == mode and "ms" in r]


def share(record: Record, name: str = OURS) -> str:
    """The throughput in percent of that of the copy."""
    return f"{100 * record['of_copy'][name]:.0f}%" if name in record["of_copy"] else "-"


def faster(record: Record, name: str) -> str:
    """The ratio of a rival's time to ours."""
    times = record["times_faster"].get(name)
    return "-" if times is None else f"{times:.2f}×"


def judge(of: str, record: Record) -> Cell:
    """The share of the copy, or the ratio of a rival's time to ours; and whether it is enough."""
    text = share(record) if of == "copy" else faster(record, of)
    return judged(text, "", record["bars"].get(of, {}).get("met"))


HEADS = ("torch", 0), ("compile", 0), ("Liger", 0), ("CuPy", 2), ("quack", 1)
COLUMNS = (
    CASE, Column("ms", ms), Column("±", lambda r: spread(r["ms"][OURS]), rank=4),
    Column("GB/s", gb_per_s, rank=3), Column("of copy", partial(judge, "copy")),
    *(Column(head, partial(judge, name), rank)
      for name, (head, rank) in zip(OTHERS, HEADS, strict=True)),
)  # fmt: skip
PAGE_COLUMNS = (
    CASE, Column("ms", ms), Column("GB/s", gb_per_s), Column("of copy", share),
    *(Column(f"÷ {name}", partial(faster, name=name)) for name in OTHERS),
)  # fmt: skip


def tables(records: list[Record], shrink: int = 1) -> list[Grid]:
    """A table for each question, for a terminal."""
    found = {mode: [r for r in records if r["group"] == mode] for mode in MODES}
    return [
        of_cases(MODES[mode], COLUMNS, rows, shrink, NOTE) for mode, rows in found.items() if rows
    ]


def page_tables(result: Record) -> list[Grid]:
    """The table for benchmarks/README.md: loss and gradient."""
    return [Grid(f"{MODES[GRADIENT]}:", PAGE_COLUMNS, measured(result["cases"], GRADIENT))]


def words(of: str, bar: float) -> str:
    """The demand of a bar in words."""
    if of == "copy":
        return f"at least {100 * bar:.0f}% of the bandwidth of a copy"
    return f"never slower than {of}" if bar == 1 else f"{bar} times as fast as {of}"


def value(of: str, figure: float) -> str:
    """A figure in the unit of its bar."""
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


def line(record: Record) -> str:
    """The figures of a record in one line of a log."""
    if "ms" not in record:
        return f"{record['title']}: {record['left_out']}"
    best = record.get("best_rival")
    others = f"; {best['name']}, the fastest other, takes {best['times']}× as long" if best else ""
    figure = f"{ms(record)} ms, {share(record)} of copy"
    return f"{record['title']} {record['group']}: {figure}{others}"


def caption(result: Record) -> str:
    """Where the figures come from, in one line."""
    where = result["machine"]
    place = f"{where['gpu']}, {where['memory_gb']} GB, driver {where['driver'] or 'unknown'}"
    place += f", copy of {result['copy']['bytes'] / 1e9:.1f} GB: {result['copy']['gb_per_s']} GB/s"
    return results.caption(result, place, NAMES)
