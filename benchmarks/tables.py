"""Tables of figures: rich writes them to a terminal, the same columns as markdown to the pages."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from benchmarks.results import Record

Cell = tuple[str, bool | None]  # the text, and whether its bar is met; None: there is no bar
NAME_WIDTH = 18  # columns to which the names of the rows may be wrapped
MISSED = "✗"


def number(value: float | None) -> str:
    """Three digits; below 0.001 it is written as 0."""
    if value is None:
        return "-"
    if value < 0.001:
        return "0"
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def spread(ms: Record) -> str:
    """Half of the width from p20 to p80, in percent of the median."""
    return f"{50 * (ms['p80'] - ms['p20']) / ms['p50']:.0f}%"


def judged(text: str, bar: str, met: bool | None) -> Cell:
    """A figure and its bar (such as ``≤ 1.25``); a missed bar is also marked by signs."""
    words = [text, bar]
    if met is not None and not met:
        words = [text, bar.replace("≤", ">").replace("≥", "<"), MISSED]
    return " ".join(filter(None, words)), met


def coloured(cell: Cell) -> Text:
    """Green where a bar is met, red where it is missed."""
    text, met = cell
    return Text(text, style={True: "green", False: "red", None: ""}[met])


@dataclass(frozen=True)
class Column:
    """A heading, and what a record has below it.

    On a narrow screen the columns of the highest rank are left out first, those of rank 0 never.
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
    """A table. A terminal shows the columns that fit, or a list where too few columns fit."""

    title: str
    columns: Sequence[Column]  # the first one: the names of the rows
    records: Sequence[Any]  # one for each row
    notes: Sequence[str] = ()
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
        for rank in sorted({column.rank for column in self.columns}, reverse=True):
            table = self._table(rows, rank)
            width = Measurement.get(console, endless, table).maximum
            if width - max(0, longest - NAME_WIDTH) <= options.max_width:
                yield table
                break
        else:
            rank = max(column.rank for column in self.columns)
            yield from self._list(rows)
        hidden = ", ".join(column.line for column in self.columns if column.rank > rank)
        if hidden:
            yield Text(f"Not shown, for lack of width: {hidden}.", style="dim")
        for note in self.notes:
            yield Text(note, style="dim")

    def _table(self, rows: list[list[Cell]], rank: int) -> Table:
        """A table of the columns of this rank and below."""
        table = Table(
            title=self.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
            padding=(0, 1, 0, 0),
        )  # fmt: skip
        shown = [k for k, column in enumerate(self.columns) if column.rank <= rank]
        for k in shown:
            side: Any = "right" if k and self.columns[k].right else "left"
            table.add_column(self.columns[k].head, justify=side, no_wrap=k > 0)
        for k, row in enumerate(rows):
            table.add_row(*(coloured(row[i]) for i in shown), end_section=k in self.sections)
        return table

    def _list(self, rows: list[list[Cell]]) -> Iterator[Text]:
        """Each row as several lines."""
        yield Text(self.title, style="italic")
        for row in rows:
            yield Text(row[0][0], style="bold")
            for column, cell in zip(self.columns[1:], row[1:], strict=True):
                yield Text.assemble(f"  {column.line}: ", coloured(cell))


def of_cases(
    title: str, columns: Sequence[Column], records: list[Record], shrink: int = 1, note: str = ""
) -> Grid:
    """The table of the cases that were measured; notes name those that were left out."""
    if shrink != 1:
        colon = ":" if title.endswith(":") else ""
        title = f"{title.removesuffix(':')}; rows of large cases divided by {shrink}{colon}"
    done = [record for record in records if "left_out" not in record]
    groups = [record.get("group") for record in done]
    sections = [k for k in range(len(done) - 1) if groups[k] != groups[k + 1]]
    left_out = [f"Left out: {r['title']}, {r['left_out']}." for r in records if "left_out" in r]
    return Grid(title, columns, done, (*left_out, note), sections)


def replace_section(text: str, page: str, name: str, paragraphs: Sequence[str]) -> str:
    """The text of a page with new paragraphs between the two markers of this name."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if start not in text or end not in text:
        raise SystemExit(f"{page} has no place for the tables: {start} and {end} are missing")
    section = "\n\n".join([f"{start}\n{paragraphs[0]}", *paragraphs[1:]]) + f"\n{end}"
    marked = re.compile(f"{re.escape(start)}.*{re.escape(end)}", re.DOTALL)
    return marked.sub(lambda _: section, text)
