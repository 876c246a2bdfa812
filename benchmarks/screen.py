"""What the programs show: tables that lose no digit on a narrow screen, and how far a run is."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

Record = dict[str, Any]
Item = TypeVar("Item")
Cell = tuple[str, bool | None]  # what it says, and whether its bar is met; None: no bar
FILE = 160  # columns of what is no terminal and has no COLUMNS either
NAME = 18  # columns to which the names of the rows may be wrapped
MISSED = "✗"


class Parser(argparse.ArgumentParser):
    """A command line whose page of help stays as it is written, and whose errors are one line."""

    def __init__(self, prog: str, description: str | None) -> None:
        as_written = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, description=description, formatter_class=as_written)

    def error(self, message: str) -> NoReturn:
        """One line, no usage before it."""
        self.exit(2, f"{self.prog}: {message}; --help says more\n")


def whole(given: str) -> int:
    """A whole number from 1, as an argument."""
    if not given.isdecimal() or not int(given):
        raise argparse.ArgumentTypeError(f"a whole number from 1 is needed, got {given!r}")
    return int(given)


def console() -> Console:
    """The standard output, as wide as the terminal or COLUMNS say; a file has room."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # an encoding may lack a sign
    found = Console(highlight=False)
    if found.is_terminal or os.environ.get("COLUMNS", "").isdigit():
        return found
    return Console(highlight=False, width=FILE)


def say(on: Console, line: str, style: str | None = None) -> None:
    """Print a line as it is: a terminal breaks it where it must, a file does not."""
    on.print(line, style=style, soft_wrap=True, markup=False)


def place(path: Path) -> str:
    """A path from here on where it is below, else as it is."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def judged(text: str, bar: str, met: bool | None) -> Cell:
    """A figure and its bar (such as ``≤ 1.25``); where it is missed, signs say so too."""
    words = [text, bar]
    if met is not None and not met:
        words = [text, bar.replace("≤", ">").replace("≥", "<"), MISSED]
    return " ".join(filter(None, words)), met


def coloured(cell: Cell) -> Text:
    """Green where a bar is met, red where it is not."""
    text, met = cell
    return Text(text, style={True: "green", False: "red", None: ""}[met])


@dataclass(frozen=True)
class Column:
    """A heading; the columns of the highest rank are the first to be left out, those of 0 never."""

    head: str
    rank: int = 0
    right: bool = True


@dataclass
class Grid:
    """A table that is rendered with the columns that fit, or as a list where too few do."""

    title: str
    columns: Sequence[Column]  # the first: the names of the rows
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    sections: Sequence[int] = ()  # rows after which there is a gap

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        endless = options.update(max_width=1 << 14)
        longest = max((len(row[0][0]) for row in self.rows), default=0)
        for rank in sorted({column.rank for column in self.columns}, reverse=True):
            table = self._table(rank)
            width = Measurement.get(console, endless, table).maximum
            if width - max(0, longest - NAME) <= options.max_width:
                yield table
                break
        else:
            rank = max(column.rank for column in self.columns)
            yield from self._list()
        hidden = ", ".join(c.head.replace("\n", " ") for c in self.columns if c.rank > rank)
        if hidden:
            yield Text(f"Not shown, for lack of width: {hidden}.", style="dim")
        for note in self.notes:
            yield Text(note, style="dim")

    def _table(self, rank: int) -> Table:
        """The columns of this rank and below."""
        table = Table(
            title=self.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
            padding=(0, 1, 0, 0),
        )  # fmt: skip
        shown = [k for k, column in enumerate(self.columns) if column.rank <= rank]
        for k in shown:
            side: Any = "right" if k and self.columns[k].right else "left"
            table.add_column(self.columns[k].head, justify=side, no_wrap=k > 0)
        for k, row in enumerate(self.rows):
            table.add_row(*(coloured(row[i]) for i in shown), end_section=k in self.sections)
        return table

    def _list(self) -> Iterator[Text]:
        """Each row as some lines."""
        yield Text(self.title, style="italic")
        for row in self.rows:
            yield Text(row[0][0], style="bold")
            for column, cell in zip(self.columns[1:], row[1:], strict=True):
                head = column.head.replace("\n", " ")
                yield Text.assemble(f"  {head}: ", coloured(cell))


def counter(on: Console) -> Progress:
    """A bar for a terminal; elsewhere nothing, for there each step is a line."""
    columns = BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn()
    what = TextColumn("{task.description}")
    return Progress(*columns, what, console=on, disable=not on.is_terminal)


def one_by_one(
    on: Console,
    wanted: Sequence[Item],
    title: Callable[[Item], str],
    measure: Callable[[Item, Callable[[str], None]], Record],
    table: Callable[[list[Record]], RenderableType],
) -> list[Record]:
    """Measure everything: under a bar below the rows that are done, or with a line for each."""
    records: list[Record] = []
    if not on.is_terminal:
        try:
            for k, item in enumerate(wanted, 1):
                say(on, f"{k}/{len(wanted)} {title(item)}")
                records.append(measure(item, lambda what: None))
        finally:  # also after Ctrl-C
            if records or not wanted:
                on.print(table(records))
        return records
    bar = counter(on)
    task = bar.add_task("", total=len(wanted))
    with Live(bar, console=on, refresh_per_second=4) as live:
        for item in wanted:

            def tell(what: str, name: str = title(item)) -> None:
                bar.update(task, description=f"{name}: {what}")

            records.append(measure(item, tell))
            bar.advance(task)
            live.update(Group(table(records), bar))
        live.update(table(records))
    return records


def skipped(missing: dict[str, str], records: Iterable[Record]) -> list[str]:
    """Who is not in the table and why, each reason once, and in which cases."""
    found: dict[str, list[str]] = {f"{name}, {why}": [] for name, why in missing.items()}
    for record in records:
        for name, why in record.get("skipped", {}).items():
            found.setdefault(f"{name}, {why}", []).append(record["case"])
    return [
        line + (f" ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})" if names else "")
        for line, names in found.items()
    ]
