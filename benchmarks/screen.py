"""What the programs have in common on a terminal: command lines, single lines, progress."""

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.results import Record
from fusedce.tools import command_line

Tell = Callable[[str], None]  # called with what happens next
FILE_WIDTH = 160  # columns of an output that is no terminal, where COLUMNS is not set


class Parser(command_line.Parser):
    """The command line of a benchmark."""

    def add_output(self, pictures: str = "", result: str = "") -> None:
        """The options of every program that writes a result and a part of the pages."""
        name = result or f"{self.prog.rpartition('.')[2]}.json"
        self.add_argument(
            "--out", type=Path, metavar="FILE", help="write the result into this JSON file "
            f"(default: benchmarks/runs/{name}; a run of a part writes none)",
        )  # fmt: skip
        self.add_argument(
            "--readme", action="store_true", help="measure nothing; write the tables of the "
            f"pages{pictures} from the last result, or from that of --out",
        )  # fmt: skip


def whole(given: str) -> int:
    """Parse a whole number that is at least 1."""
    if not given.isdecimal() or not int(given):
        raise argparse.ArgumentTypeError(f"a whole number from 1 is needed, got {given!r}")
    return int(given)


def console() -> Console:
    """The standard output, as wide as the terminal or COLUMNS says, else FILE_WIDTH."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # the encoding may lack a character
    found = Console(highlight=False)
    if found.is_terminal or os.environ.get("COLUMNS", "").isdigit():
        return found
    return Console(highlight=False, width=FILE_WIDTH)


def say(on: Console, line: str, style: str | None = None) -> None:
    """Print a line unchanged: a terminal wraps it where it must, a file does not."""
    on.print(line, style=style, soft_wrap=True, markup=False)


def place(path: Path) -> str:
    """A path relative to the current folder if it is below that, else unchanged."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def counter(on: Console) -> Progress:
    """A progress bar on a terminal; elsewhere nothing, because each step prints a line."""
    columns = BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn()
    what = TextColumn("{task.description}")
    return Progress(*columns, what, console=on, disable=not on.is_terminal)


def stepper(on: Console, bar: Progress, name: str, count: int) -> Tell:
    """A function that advances the bar by one of ``count`` steps, or prints a line without one."""
    task, steps = bar.add_task(name, total=count), itertools.count(1)

    def tell(what: str) -> None:
        bar.update(task, description=what, advance=1)
        if not on.is_terminal:
            say(on, f"{next(steps)}/{count} {name}: {what}")

    return tell


def one_by_one(
    on: Console,
    titles: Sequence[str],
    measure: Callable[[Tell], Iterator[Record]],
    table: Callable[[list[Record]], RenderableType],
    done: Callable[[list[Record]], None] = lambda records: None,
) -> list[Record]:
    """The records that ``measure`` yields, one for each title; ``done`` is called after each.

    A terminal shows the table so far above a progress bar. Elsewhere each case begins with a line.
    """
    records: list[Record] = []
    if not on.is_terminal:
        found = measure(lambda what: None)
        try:
            for k, title in enumerate(titles, 1):
                say(on, f"{k}/{len(titles)} {title}")
                records += [next(found)]
                done(records)
        finally:  # also after Ctrl-C
            if records or not titles:
                on.print(table(records))
        return records
    bar = counter(on)
    task = bar.add_task("", total=len(titles))

    def tell(what: str) -> None:
        bar.update(task, description=f"{titles[len(records)]}: {what}")

    with Live(bar, console=on, refresh_per_second=4) as live:
        for record in measure(tell):
            records.append(record)
            done(records)
            bar.advance(task)
            live.update(Group(table(records), bar))
        live.update(table(records))
    return records


def skipped(missing: dict[str, str], records: Iterable[Record]) -> list[str]:
    """Which rivals are not in the table and why: each reason once, with some of the cases."""
    found: dict[str, list[str]] = {f"{name}, {why}": [] for name, why in missing.items()}
    for record in records:
        for name, why in record.get("skipped", {}).items():
            found.setdefault(f"{name}, {why}", []).append(record["case"])
    return [
        line + (f" ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})" if names else "")
        for line, names in found.items()
    ]
