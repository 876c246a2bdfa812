"""A run from its options to its result, for programs that time cases; a Suite says what differs.

benchmarks.boosting, which has three parts instead of cases, shares only ``renew``.
"""

import importlib
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numba
from rich.console import Console, Group

from benchmarks import results, rivals, screen
from benchmarks.cases import ALL, QUICK, USUAL, chosen, picked
from benchmarks.measure import OURS, Effort
from benchmarks.results import Record
from benchmarks.rivals import Rival
from benchmarks.screen import Tell, say
from benchmarks.tables import MISSED, Grid, of_copy, replace_section

WRONG = "fusedce is wrong"
LEVELS = {QUICK: "quick", USUAL: "usual", ALL: "all"}
STYLES = {True: "green", False: "red", None: "yellow"}


class Suite:
    """The cases of a program, what is timed in them, and how the figures are shown."""

    name = ""  # of the result NAME.json, and of the markers in the pages
    pictures: Sequence[tuple[str, str]] = ()  # files beside the result, and their descriptions
    plots = ""  # the module that draws them
    all_cases: Sequence[Any] = ()
    efforts: Sequence[Effort] = ()  # by level
    saves_each_record = False  # so that a run that is cut off leaves its figures
    own_cases: Callable[..., list[Any]] = staticmethod(lambda shapes, dtypes, losses: [])
    line: Callable[[Record], str | None] = staticmethod(lambda record: None)  # for a log
    tables: Callable[[list[Record], int], list[Grid]]  # for a terminal: records, shrink
    page_tables: Callable[[Record], list[Grid]]  # for benchmarks/README.md
    summary: Callable[[Record], list[str]] | None = None  # the paragraphs of README.md, if any
    verdicts: Callable[[list[Record]], list[tuple[str, bool | None]]] = staticmethod(lambda r: [])
    caption: Callable[[Record], str] = staticmethod(results.caption)

    def __init__(self, options: Namespace, all_rivals: Sequence[Rival] = ()) -> None:
        self.options, self.all_rivals = options, all_rivals
        self.file = f"{self.name}.json"
        self.facts: Record = {}  # parts that replace those of the result

    @property
    def level(self) -> int:
        """The selection that the options ask for."""
        return QUICK if self.options.quick else ALL if self.options.all else USUAL

    def cases(self) -> list[Any]:
        """Shapes of the command line, cases by name, or those of a level."""
        options = self.options
        own = self.own_cases(options.shape, options.dtype, options.loss)
        if own and not options.case:
            return own
        return own + chosen(self.level, options.case, self.all_cases)

    def effort(self) -> Effort:
        """How long to measure; shapes of the command line keep their rows."""
        found, options = self.efforts[self.level], self.options
        given = options.shape and not options.case
        return replace(found, shrink=1 if given else options.shrink or found.shrink)

    def prepare(self, console: Console) -> None:
        """Called before the first case is measured."""

    def measure(
        self, wanted: list[Any], others: list[Rival], effort: Effort, tell: Tell
    ) -> Iterator[Record]:
        """A record for each case."""
        raise NotImplementedError

    def page(self, result: Record) -> list[str]:
        """The paragraphs of benchmarks/README.md: pictures, tables, and where they are from."""
        shown = [f"![{text}](results/{name})" for name, text in self.pictures
                 if results.FOLDER.joinpath(name).exists()]  # fmt: skip
        grids = self.page_tables(result)
        parts = [part for grid in grids for part in (grid.title, grid.markdown()) if part]
        return [*shown, *parts, f"{self.caption(result)}."]

    def draw(self, result: Record, folder: Path) -> list[str]:
        """Draw the pictures; returns the names of the files."""
        found: Any = importlib.import_module(self.plots) if self.plots else None
        return found.draw(result, folder) if found else []

    def shown_as(self, path: Path) -> str:
        """The name under which the result of the pages is kept."""
        return self.file

    def saved(self, console: Console, result: Record, path: Path) -> None:
        """Called after the result was written."""
        say(console, f"result: {screen.place(path)}, {result['settings']['seconds']} s")


def render(suite: Suite, result: Record) -> dict[str, str]:
    """The pages that show a result, by their names, with its pictures and tables."""
    pages = {"benchmarks/README.md": suite.page(result)}
    if suite.summary is not None:
        pages["README.md"] = suite.summary(result)
    texts = {page: results.ROOT.joinpath(page).read_text(encoding="utf-8") for page in pages}
    return {
        page: replace_section(texts[page], page, suite.name, paragraphs)
        for page, paragraphs in pages.items()
    }


def renew(suite: Suite, console: Console) -> int:
    """Keep a result as the one of the pages, draw its pictures, and write the pages."""
    path = suite.options.out or results.latest(suite.file)
    result = results.shown(path, suite.shown_as(path))
    pictures = suite.draw(result, results.FOLDER)
    pages = render(suite, result)
    for page, text in pages.items():
        results.ROOT.joinpath(page).write_text(text, encoding="utf-8")
    say(console, f"{', '.join([*pages, *pictures])} written from {screen.place(path)}")
    return 0


def list_names(suite: Suite, console: Console) -> int:
    """Every case with the smallest selection it is in, and every rival."""
    rows = [(case.name, LEVELS[case.level], case.title) for case in suite.all_cases]
    rows += [(rival.name, "rival", rival.missing() or "") for rival in suite.all_rivals]
    width = 2 + max(len(name) for name, *_ in rows)
    for name, kind, text in rows:
        say(console, f"{name:{width}}{kind:8}{text}".rstrip())
    return 0


def asked_rivals(suite: Suite) -> tuple[list[Rival], dict[str, str]]:
    """The rivals that --rival names and that can be timed, and why the others cannot."""
    options = suite.options
    none = options.rival == ["none"]
    asked = [] if none else picked(suite.all_rivals, options.rival, "rival")
    missing = {rival.name: why for rival in asked if (why := rival.missing())}
    if options.quick and not options.rival:
        missing |= {r.name: f"{rivals.SELDOM}; not in --quick" for r in asked if r.compiles}
    return [rival for rival in asked if rival.name not in missing], missing


def destination(options: Namespace, name: str) -> Path | None:
    """Where the result is written; that of a part of the cases or rows only where --out says."""
    parts = options.quick, options.case, options.rival, options.shrink, options.shape
    return results.destination(options.out, any(parts), name)


def run(suite: Suite, console: Console) -> int:
    """Measure, show and write; returns the exit status."""
    options = suite.options
    wanted, (others, missing) = suite.cases(), asked_rivals(suite)
    old = results.read(options.against) if options.against else None
    effort, path = suite.effort(), destination(options, suite.file)
    suite.prepare(console)
    start = time.perf_counter()

    def document(records: list[Record]) -> Record:
        seconds = round(time.perf_counter() - start)
        settings = {"threads": numba.get_num_threads(), "seconds": seconds} | asdict(effort)
        return results.document(records, missing, settings) | suite.facts

    def done(records: list[Record]) -> None:
        line = suite.line(records[-1])
        if line is not None and not console.is_terminal:
            say(console, line)
        if path is not None and suite.saves_each_record:
            results.write(document(records), path)

    records = screen.one_by_one(
        console,
        [case.title for case in wanted],
        lambda tell: suite.measure(wanted, others, effort, tell),
        lambda records: Group(*suite.tables(records, effort.shrink)),
        done,
    )
    result = document(records)
    for line in screen.skipped(missing, records):
        say(console, f"skipped: {line}")
    wrong = [r for r in records if r.get("left_out", "").startswith(WRONG)]
    verdicts = [(f"{MISSED} {r['title']}: {r['left_out']}", False) for r in wrong]
    for line, met in [*verdicts, *suite.verdicts(records)]:
        say(console, line, STYLES[met])
    say(console, suite.caption(result), "dim")
    if path is not None:
        results.write(result, path)
        suite.saved(console, result, path)
    status = 1 if wrong else 0
    return status if old is None else tell_regressions(console, old, result) or status


def main(suite: Suite, console: Console) -> int:
    """List, write the pages, or measure, as the options say; returns the exit status."""
    if suite.options.list:
        return list_names(suite, console)
    return renew(suite, console) if suite.options.readme else run(suite, console)


def relative(record: Record) -> str:
    """How fast a case was, relative to a copy or to another call of the same run."""
    ratio = record["ratio"]
    if ratio["of"] != "copy":
        return f"{ratio['value']:.2f} × {ratio['of']}"
    share = record["of_copy"][OURS] if "of_copy" in record else 1 / ratio["value"]
    return f"{of_copy(share)[0]} of copy"


def tell_regressions(console: Console, old: Record, new: Record) -> int:
    """Print what became slower; returns the exit status."""
    pairs, others = results.comparable(old, new)
    for title, why in others:
        say(console, f"not compared: {title}, {why}")
    if not pairs:
        say(console, "nothing to compare")
        return 2
    if old["machine"] != new["machine"]:
        say(console, "the other result is from another machine, or other threads", "yellow")
    found = results.regressions(old, new)
    records = [{record["case"]: record for record in result["cases"]} for result in (old, new)]
    for line in found:
        before, now = (relative(by_name[line["case"]]) for by_name in records)
        say(console, f"{MISSED} slower: {line['title']}, {before} before, {now} now", "red")
    say(
        console,
        f"{len(found)} of {len(pairs)} cases slower than before by more than "
        "the rounds of both runs scatter",
    )
    return 1 if found else 0
