"""Tables of figures: rich writes them to a terminal, the same columns as markdown to the pages."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from benchmarks.results import Record

Cell = tuple[str, bool | None]  # the text, and whether its bar is met; None: there is no bar
NAME_WIDTH = 18  # columns to which the names of the rows may be wrapped
MISSED = "✗"
NOTES = {  # what headings and signs mean, below the tables of a terminal
    "ms": "the median of the rounds.",
    "±": "half the width of the middle 60% of the rounds (20th to 80th percentile), in percent of "
    "the median.",
    MISSED: "the bar is missed.",
}


def number(value: float | None) -> str:
    """Three digits; below 0.001 it is written as 0."""
    if value is None:
        return "-"
    if value < 0.001:
        return "0"
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def spread(ms: Record) -> str:
    """Half of the width of the middle 60% of the rounds, in percent of the median."""
    return f"{50 * (ms['p80'] - ms['p20']) / ms['p50']:.0f}%"


def judged(text: str, bar: str, met: bool | None) -> Cell:
    """A figure and its bar (such as ``≥ 80%``); a missed bar is also marked by signs."""
    parts = [text, bar]
    if met is not None and not met:
        parts = [text, bar.replace("≤", ">").replace("≥", "<"), MISSED]
    return " ".join(filter(None, parts)), met


def of_copy(share: float, bar: float | None = None, met: bool | None = None) -> Cell:
    """The speed in percent of that of a copy; a missed bar is never rounded to the figure."""
    for digits in range(3):
        text = f"{100 * share:.{digits}f}"
        asked = "" if bar is None else f"{100 * bar:.{digits}f}"
        if not asked or met is not False or float(text) < float(asked):
            break
    return judged(f"{text}%", asked and f"≥ {asked}%", met)


def times_as_long(
    times: float, bar: float | None = None, met: bool | None = None, name: str = ""
) -> Cell:
    """How many times as long as fusedce another call takes, with its name and the bar."""
    text = number(times)
    if bar is not None and met is False and float(text) >= bar:
        text = f"{times:.4g}"
    return judged(f"{name} {text}×".strip(), "" if bar is None else f"≥ {bar:g}", met)


def coloured(cell: Cell) -> Text:
    """Green where a bar is met, red where it is missed."""
    text, met = cell
    return Text(text, style={True: "green", False: "red", None: ""}[met])


@dataclass(frozen=True)
class Column:
    """A heading, and what a record has below it.

    On a narrow screen the columns of the highest rank are the first to move to a second table.
    """

    head: str
    cell: Callable[[Any], Cell | str]
    rank: int = 0
    right: bool = True

    @property
    def line(self) -> str:
        """The heading in one line."""
        return self.head.replace("\n", " ")

    def of(self, record: Any) -> Cell:
        """The cell of a record."""
        found = self.cell(record)
        return (found, None) if isinstance(found, str) else found


def title_of(record: Record) -> str:
    """The name of a row."""
    return str(record["title"])


CASE = Column("case", title_of)


@dataclass
class Grid:
    """A table. A narrow terminal shows it as two tables, or as a list; nothing is left out."""

    title: str
    columns: Sequence[Column]  # the first one: the names of the rows
    records: Sequence[Any]  # one for each row
    notes: Sequence[str] = ()  # lines below it
    sections: Sequence[int] = ()  # rows after which there is a gap

    def rows(self) -> list[list[Cell]]:
        """The cells of every row."""
        return [[column.of(record) for column in self.columns] for record in self.records]

    def markdown(self) -> str:
        """The table for a page."""
        sides = ["---"] + ["---:" if c.right else "---" for c in self.columns[1:]]
        lines = [[c.line for c in self.columns], sides]
        lines += [[text for text, _ in row] for row in self.rows()]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        endless, rows = options.update(max_width=1 << 14), self.rows()
        longest = max((len(row[0][0]) for row in rows), default=0)

        def fits(table: Table) -> bool:
            width = Measurement.get(console, endless, table).maximum
            return width - max(0, longest - NAME_WIDTH) <= options.max_width

        for rank in sorted({column.rank for column in self.columns}, reverse=True):
            tables = self._tables(rows, rank)
            if all(map(fits, tables)):
                yield from tables
                break
        else:
            yield from self._list(rows)
        for note in self.notes:
            yield Text(note, style="dim")
        yield Text()

    def _tables(self, rows: list[list[Cell]], rank: int) -> list[Table]:
        """The columns of this rank and below, and the others in a second table."""
        first = [k for k, column in enumerate(self.columns) if column.rank <= rank]
        second = [0, *(k for k, column in enumerate(self.columns) if column.rank > rank)]
        found = [self._table(self.title, rows, first)]
        if len(second) > 1:
            found.append(self._table("More columns of the same table", rows, second))
        return found

    def _table(self, title: str, rows: list[list[Cell]], shown: list[int]) -> Table:
        """A table of some columns."""
        table = Table(
            title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
            padding=(0, 1, 0, 0), show_edge=False,
        )  # fmt: skip
        for k in shown:
            side: Any = "right" if k and self.columns[k].right else "left"
            table.add_column(self.columns[k].head, justify=side, no_wrap=k > 0)
        for k, row in enumerate(rows):
            table.add_row(*(coloured(row[i]) for i in shown), end_section=k in self.sections)
        return table

    def _list(self, rows: list[list[Cell]]) -> Iterator[RenderableType]:
        """Each row as several lines."""
        yield Text(self.title, style="italic")
        for row in rows:
            yield Text(row[0][0], style="bold")
            for column, cell in zip(self.columns[1:], row[1:], strict=True):
                yield Padding(Text.assemble(f"{column.line}: ", coloured(cell)), (0, 0, 0, 2))


def of_cases(title: str, columns: Sequence[Column], records: list[Record], shrink: int = 1) -> Grid:
    """The table of the cases that were measured; notes name those that were left out."""
    if shrink != 1:
        colon = ":" if title.endswith(":") else ""
        title = f"{title.removesuffix(':')}; rows of large cases divided by {shrink}{colon}"
    done = [record for record in records if "left_out" not in record]
    groups = [record.get("group") for record in done]
    sections = [k for k in range(len(done) - 1) if groups[k] != groups[k + 1]]
    left_out = [f"Left out: {r['title']}, {r['left_out']}." for r in records if "left_out" in r]
    return Grid(title, columns, done, left_out, sections)


def explain(grids: Sequence[Grid], notes: dict[str, str]) -> None:
    """Say below each table what its headings mean, and what is common below the last table."""
    seen = set[str]()
    for grid in grids:
        heads = " | ".join(column.line for column in grid.columns)
        seen |= {*heads.split()}
        grid.notes = (*grid.notes, *(f"{k}: {v}" for k, v in notes.items() if k in heads))
    if grids:
        common = (f"{k}: {v}" for k, v in NOTES.items() if k in seen or k == MISSED)
        grids[-1].notes = (*grids[-1].notes, *common)


def replace_section(text: str, page: str, name: str, paragraphs: Sequence[str]) -> str:
    """The text of a page with new paragraphs between the two markers of this name."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if start not in text or end not in text:
        raise SystemExit(f"{page} has no place for the tables: {start} and {end} are missing")
    section = "\n\n".join([f"{start}\n{paragraphs[0]}", *paragraphs[1:]]) + f"\n{end}"
    marked = re.compile(f"{re.escape(start)}.*{re.escape(end)}", re.DOTALL)
    return marked.sub(lambda _: section, text)
