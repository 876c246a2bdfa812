"""The columns of the throughput on a GPU, the verdicts on the bars, and the caption."""

from functools import partial

from benchmarks import results
from benchmarks.cuda.cases import GRADIENT, MODES
from benchmarks.measure import OURS
from benchmarks.report import gb_per_s, ms
from benchmarks.results import Record
from benchmarks.tables import (
    CASE,
    MISSED,
    Cell,
    Column,
    Grid,
    explain,
    of_cases,
    of_copy,
    spread,
    times_as_long,
)

OTHERS = "torch", "torch.compile", "Liger-Kernel", "CuPy", "quack"
NAMES = ("python", "cupy-cuda13x", "cupy-cuda12x", "numba-cuda", "torch", "triton", "liger-kernel",
         "quack-kernels")  # fmt: skip
PICTURES = (
    ("cuda-copy.png", "Bandwidth on a GPU, in percent of that of a copy"),
    ("cuda-rivals.png", "Time of the fastest other and of torch on a GPU, relative to fusedce's"),
)
EXPLAINED = {
    "of copy": "the speed (GB/s), in percent of that of a copy of the logits.",
    "takes": "N times as long as fusedce.",
}


def measured(records: list[Record], mode: str) -> list[Record]:
    """The rows of one table that have figures."""
    return [r for r in records if r["group"] == mode and "ms" in r]


def share(record: Record) -> Cell:
    """The speed in percent of that of the copy, and its bar."""
    bar = record["bars"].get("copy", {})
    return of_copy(record["of_copy"][OURS], bar.get("bar"), bar.get("met"))


def takes(name: str, record: Record) -> Cell:
    """How many times as long a rival takes, and the bar."""
    times, bar = record["times_faster"].get(name), record["bars"].get(name, {})
    return ("-", None) if times is None else times_as_long(times, bar.get("bar"), bar.get("met"))


RANKS = {"CuPy": 2, "quack": 1}
JUDGED = (
    Column("of copy", share, right=False),
    *(Column(f"{name}\ntakes", partial(takes, name), RANKS.get(name, 0), right=False)
      for name in OTHERS),
)  # fmt: skip
COLUMNS = (
    CASE, Column("ms", ms), Column("±", lambda r: spread(r["ms"][OURS]), rank=4),
    Column("GB/s", gb_per_s, rank=3), *JUDGED,
)  # fmt: skip
PAGE_COLUMNS = CASE, Column("ms", ms), Column("GB/s", gb_per_s), *JUDGED


def tables(records: list[Record], shrink: int = 1) -> list[Grid]:
    """A table for each question, for a terminal."""
    by_mode = {mode: [r for r in records if r["group"] == mode] for mode in MODES}
    found = [of_cases(MODES[mode], COLUMNS, rows, shrink) for mode, rows in by_mode.items() if rows]
    explain(found[-1:], EXPLAINED)
    return found


def page_tables(result: Record) -> list[Grid]:
    """The table for benchmarks/README.md: loss and gradient."""
    return [Grid(f"{MODES[GRADIENT]}:", PAGE_COLUMNS, measured(result["cases"], GRADIENT))]


def summary(result: Record) -> list[str]:
    """The paragraph of README.md: the ranges over all cases of loss and gradient."""
    records = measured(result["cases"], GRADIENT)
    if not records:
        return ["The last result has no case of loss and gradient."]
    shares = [100 * record["of_copy"][OURS] for record in records]
    text = f"{result['machine']['gpu']}: loss and gradient at {min(shares):.0f}% to"
    text += f" {max(shares):.0f}% of the speed of a copy"
    fastest = [min(r["times_faster"].values()) for r in records if r["times_faster"]]
    if fastest:
        text += f"; the fastest other takes {min(fastest):.2f}× to {max(fastest):.2f}× as long"
    return [f"{text} ([all cases](benchmarks/README.md#on-a-gpu))."]


def demand(of: str, bar: float) -> str:
    """The demand of a bar in words."""
    if of == "copy":
        return f"at least {100 * bar:.0f}% of copy"
    return f"{of} takes at least {bar:g} × as long"


def value(of: str, figure: float, bar: float, met: bool) -> str:
    """A figure in the unit of its bar, without the bar."""
    text, _ = of_copy(figure, bar, met) if of == "copy" else times_as_long(figure, bar, met)
    return text.split()[0]


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
            found.append((f"not measured: {demand(of, bar)}", None))
            continue
        least = value(of, min(v for _, v, _ in seen), bar, not missed)
        text = f"{len(seen) - len(missed)} of {len(seen)} cases: {demand(of, bar)}; least {least}"
        places = [f"{r['title']} ({r['group']}) {value(of, v, bar, False)}" for r, v in missed]
        verdict = f"{MISSED} missed" if missed else "met"
        found.append((f"{verdict}, {'; '.join([text, *places])}", not missed))
    return found


def line(record: Record) -> str:
    """The figures of a record in one line of a log."""
    if "ms" not in record:
        return f"{record['title']}: {record['left_out']}"
    figures = [f"{ms(record)} ms", f"{share(record)[0]} of copy"]
    figures += [f"{name} takes {takes(name, record)[0]}" for name in record["times_faster"]]
    return f"{record['title']} {record['group']}: {', '.join(figures)}"


def caption(result: Record) -> str:
    """Where the figures come from, in one line."""
    where = result["machine"]
    place = f"{where['gpu']}, {where['memory_gb']} GB, driver {where['driver'] or 'unknown'}"
    place += f", copy of {result['copy']['bytes'] / 1e9:.1f} GB: {result['copy']['gb_per_s']} GB/s"
    return results.caption(result, place, NAMES)
