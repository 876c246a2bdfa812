"""The tables of ``benchmarks.accuracy``, for a terminal, README.md and benchmarks/README.md."""

from functools import partial

from benchmarks import results, screen
from benchmarks.accuracy_contenders import CONTENDERS, OURS
from benchmarks.results import Record
from benchmarks.tables import MISSED, NOTES, Cell, Column, Grid, judged

INPUTS = {
    "ordinary": "ordinary",
    "sure": "p ≈ 1 − 10⁻⁶",
    "surest": "p up to 1 − e⁻⁸⁰",
    "masked": "half of the classes at −∞",
    "large": "logits from −10⁴ to 10⁴",
}
SHOWN = "ordinary", "sure"  # in README.md, in DTYPE, without the losses of LEFT_OUT
DTYPE, LEFT_OUT = "float32", "γ = 1.5"


def power(value: float, digits: int = 1) -> str:
    """A number such as 3.1e-7, with so many decimals."""
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa}e{int(exponent)}" if value else "0"


def row_title(case: Record) -> str:
    """The loss and the inputs."""
    return f"{case['loss']}: {INPUTS[case['inputs']]}"


def text(found: Record | None) -> str:
    """The worst error, and how many components are not finite."""
    if found is None:
        return "-"
    parts = [] if found["worst"] is None else [power(found["worst"])]
    if found["not_finite"]:
        parts.append(f"{found['not_finite']} NaN or ∞")
    return ", ".join(parts) or "-"


def met(case: Record) -> bool:
    """Whether every component of fusedce's gradient is finite, and none misses the bar."""
    found = case["errors"][OURS]
    return not found["not_finite"] and (found["worst"] or 0.0) <= case["bar"]


def ours(case: Record) -> Cell:
    """fusedce's error with its bar."""
    digits = 1 if case["dtype"] == "bfloat16" else 0
    return judged(text(case["errors"][OURS]), f"≤ {power(case['bar'], digits)}", met(case))


def theirs(name: str, case: Record) -> str:
    """Another library's error."""
    return text(case["errors"].get(name))


COLUMNS = (
    Column("case", row_title),
    Column(f"{OURS} and its bar", ours),
    *(Column(each.name, partial(theirs, each.name)) for each in CONTENDERS if not each.ours),
)


def grid(cases: list[Record], title: str) -> Grid:
    """A table without the columns of contenders that have none of the cases."""
    known = {name for case in cases for name in case["errors"]}
    absent = {each.name for each in CONTENDERS} - known
    columns = [column for column in COLUMNS if column.head not in absent]
    losses = [case["loss"] for case in cases]
    sections = [k for k in range(len(cases) - 1) if losses[k] != losses[k + 1]]
    return Grid(title, columns, cases, (f"{MISSED}: {NOTES[MISSED]}",), sections)


def by_dtype(result: Record, title: str) -> list[Grid]:
    """A table for each dtype, whose name takes the place of the braces of the title."""
    cases = result["cases"]
    dtypes = dict.fromkeys(case["dtype"] for case in cases)
    return [grid([c for c in cases if c["dtype"] == one], title.format(one)) for one in dtypes]


def tables(result: Record) -> list[Grid]:
    """The tables for a terminal."""
    return by_dtype(result, "{}: worst relative error of a component of the gradient")


def page_tables(result: Record) -> list[Grid]:
    """The tables for benchmarks/README.md."""
    return by_dtype(result, "In {}:")


def summary(result: Record) -> list[str]:
    """The paragraphs of README.md: a table of a few cases, and where they are from."""
    cases = [c for c in result["cases"] if c["dtype"] == DTYPE and c["inputs"] in SHOWN]
    cases = [c for c in cases if not c["loss"].endswith(LEFT_OUT)]
    title = f"Worst relative error of a component of the gradient, in {DTYPE}:"
    return [title, grid(cases, "").markdown(), f"{caption(result)}."]


def caption(result: Record) -> str:
    """Where the figures come from and which libraries were left out, in one line."""
    processor = result["machine"]["processor"]
    found = results.caption(result, processor, result["versions"])
    lines = screen.skipped(result["missing_rivals"], result["cases"])
    return found + (f". Left out: {'; '.join(lines)}" if lines else "")
