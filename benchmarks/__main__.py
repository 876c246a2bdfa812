"""Loss and gradient by fusedce, by others, and the time to move the same bytes.

python -m benchmarks                     the usual cases, under three minutes
python -m benchmarks --quick             a quarter of the rows, half a minute, writes nothing
python -m benchmarks --all               every case, some twenty minutes
python -m benchmarks --case focal --rival torch
python -m benchmarks --against benchmarks/results/throughput.json
python -m benchmarks --readme            no measurement: plots and README from the last result
python -m benchmarks --device cuda       CuPy arrays on a GPU, under eight minutes; all of the above
python -m benchmarks --device cuda --sweep       which launch sizes are the fastest on this GPU
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numba
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import cases, oracle, report, results, rivals
from benchmarks.cases import ALL, QUICK, USUAL, Case
from benchmarks.measure import Effort, measure
from benchmarks.rivals import Rival

Record = dict[str, Any]
WIDTH = 100


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a few cases, fewer rows, fewer rounds")
    size.add_argument("--all", action="store_true", help="every case, more rounds")
    add = parser.add_argument
    add("--case", action="append", default=[], help="only these: name, part of it, or glob")
    add("--rival", action="append", default=[], help='only these, in the same way; or "none"')
    add("--against", type=Path, help="a result: status 1 if this run is slower beyond the noise")
    add("--out", type=Path, help="where the result goes; full runs have a place in results/")
    add("--shrink", type=int, help="divide the rows of every large case by this")
    add("--readme", action="store_true", help="renew plots and README from a result, and end")
    add("--list", action="store_true", help="name cases and rivals, and end")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where the arrays are")
    add("--sweep", action="store_true", help="on a GPU: time the launch sizes instead")
    add("--seconds", type=float, help="on a GPU: what would begin later is left out (default: 450)")
    options = parser.parse_args(argv)
    if options.sweep and options.device == "cpu":
        parser.error("--sweep needs --device cuda")
    if options.shrink is not None and options.shrink < 1:
        parser.error("--shrink divides by a whole number from 1")
    return options


def effort(options: argparse.Namespace) -> Effort:
    """How long to measure."""
    if options.quick:
        return Effort(rounds=7, budget=0.1, least=2, shrink=options.shrink or 4)
    if options.all:
        return Effort(rounds=31, budget=4.0, least=5, shrink=options.shrink or 1)
    return Effort(shrink=options.shrink or 1)


def run(
    console: Console, wanted: list[Case], others: list[Rival], how: Effort
) -> tuple[list[Record], float]:
    """Measure every case under a progress bar, below the rows that are done; and the seconds."""
    records: list[Record] = []
    columns = BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn()
    bar = Progress(*columns, TextColumn("{task.description}"), console=console)
    task = bar.add_task("", total=len(wanted))
    start = time.perf_counter()
    with Live(bar, console=console, refresh_per_second=4) as live:
        for case in wanted:

            def tell(what: str, title: str = case.title) -> None:
                bar.update(task, description=f"{title}: {what}")

            try:
                records.append(measure(case, others, how, tell))
            except oracle.Disagreement as wrong:
                raise SystemExit(f"fusedce is wrong, {case.name}: {wrong}") from wrong
            bar.advance(task)
            if not console.is_terminal:  # a log, where nothing is drawn twice
                console.print(f"{len(records)}/{len(wanted)} {case.title}", highlight=False)
            live.update(Group(report.table(records, how.shrink), bar))
        live.update(report.table(records, how.shrink))
    console.print()
    return records, time.perf_counter() - start


def tell_skipped(console: Console, missing: dict[str, str], records: list[Record]) -> None:
    """Name whom the table lacks, and why; each reason once."""
    reasons: dict[tuple[str, str], list[str]] = {(n, why): [] for n, why in missing.items()}
    for record in records:
        for name, why in record.get("skipped", {}).items():
            reasons.setdefault((name, why), []).append(record["case"])
    for (name, why), names in reasons.items():
        where = f" ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})" if names else ""
        console.print(f"skipped: {name}, {why}{where}", highlight=False)


def tell_regressions(console: Console, old: Record, new: Record) -> int:
    """Print what became slower; the exit status."""
    pairs = results.comparable(old, new)
    if not pairs:
        console.print("nothing to compare: no case of the same size in both results")
        return 2
    if old["machine"] != new["machine"]:
        console.print("the other result is from another machine, or other threads", style="yellow")
    found = results.regressions(old, new)
    for line in found:
        change = f"{line['before']:.2f} -> {line['now']:.2f} times {line['of']}"
        console.print(f"slower: {line['title']}, {change}", style="red", highlight=False)
    console.print(f"{len(found)} of {len(pairs)} cases slower than before, beyond the noise")
    return 1 if found else 0


def renew(console: Console, path: Path) -> None:
    """Plots beside a result, then the README from both."""
    from benchmarks import plots

    result = results.read(path)
    drawn = plots.draw(result, path.parent)
    readme = results.ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(report.render(text, result, results.FOLDER), encoding="utf-8")
    console.print(f"README.md and {', '.join(drawn)} renewed from {path.name}")


def tell_names(console: Console) -> None:
    """Every case with the smallest selection it is in, and every rival."""
    words = {QUICK: "quick", USUAL: "usual", ALL: "all"}
    for case in cases.CASES:
        console.print(f"{case.name:24}{words[case.level]:8}{case.title}", highlight=False)
    for rival in rivals.RIVALS:
        console.print(f"{rival.name:24}{'rival':8}{rival.missing() or ''}", highlight=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; the exit status."""
    options, console = parse(argv), Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    if options.device == "cuda":
        from benchmarks.cuda import program

        return program.main(options, console)
    if options.list or options.readme:
        tell_names(console) if options.list else renew(console, options.out or results.RESULT)
        return 0
    level = QUICK if options.quick else ALL if options.all else USUAL
    wanted, asked = cases.chosen(level, options.case), rivals.chosen(options.rival)
    if not wanted:
        raise SystemExit(f"no case is called {', '.join(options.case)}; --list names them")
    old = results.read(options.against) if options.against else None
    missing = {r.name: why for r in asked if (why := r.missing())}
    if options.quick and not options.rival:
        missing |= {r.name: f"{rivals.SELDOM}; not in --quick" for r in asked if r.compiles}
    how = effort(options)
    others = [r for r in asked if r.name not in missing]
    records, seconds = run(console, wanted, others, how)
    settings = {"threads": numba.get_num_threads(), "seconds": round(seconds)} | asdict(how)
    result = results.document(records, missing, settings)
    tell_skipped(console, missing, records)
    console.print(results.caption(result), style="dim", highlight=False)
    narrow = options.quick or options.case or options.rival or options.shrink
    path = options.out or (None if narrow else results.RESULT)
    if path:
        results.write(result, path)
        console.print(f"result: {path.name}, {seconds:.0f} s", highlight=False)
    return tell_regressions(console, old, result) if old else 0


if __name__ == "__main__":
    sys.exit(main())
