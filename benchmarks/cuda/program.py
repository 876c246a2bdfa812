"""``python -m benchmarks --device cuda``: loss and gradient on a GPU, by fusedce and by others."""

import argparse
import importlib.util
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import oracle, results, screen
from benchmarks.cases import QUICK, USUAL
from benchmarks.cuda import cases, device, measure, report, rivals
from benchmarks.cuda.cases import MODES, Question
from benchmarks.cuda.rivals import Rival
from benchmarks.measure import Effort
from benchmarks.report import tell_regressions
from benchmarks.screen import say

Record = dict[str, Any]
BUDGET = 450.0  # seconds; what comes later is left out by name
DISTRIBUTIONS = (
    "fusedce", "numba", "numba-cuda", "cuda-core", "cupy-cuda12x", "cupy-cuda13x", "numpy",
    "ml_dtypes", "torch", "triton", "liger-kernel", "quack-kernels",
)  # fmt: skip
RESULT = "cuda.json"
WRONG = "fusedce is wrong"


def effort(options: argparse.Namespace) -> Effort:
    """How long to measure."""
    given = options.shape and not options.case  # shapes are measured as they are given
    shrink = 1 if given else options.shrink or 1
    if options.quick:
        return Effort(rounds=9, budget=0.05, least=5, shrink=shrink)
    return Effort(rounds=21, budget=0.1, least=7, shrink=shrink)


def run(
    console: Console, gpu: Any, wanted: list[Question], others: list[Rival], how: Effort,
    seconds: float = BUDGET,
) -> Iterator[list[Record]]:  # fmt: skip
    """Measure every case, those that share their arrays together; a line for each."""
    done, start = 0, time.perf_counter()

    def late(part: float = 0.6) -> bool:
        return time.perf_counter() - start > part * seconds

    for questions in cases.by_problem(wanted):
        records: list[Record] = []
        if late(1.0):
            records += [left_out(case, "no time left") for case in questions]
        else:
            try:
                records += measure.measured(questions, others, how, gpu, late)
            except oracle.Disagreement as wrong:  # the other cases are measured all the same
                why = f"{WRONG}: {wrong}"
                records += [left_out(case, why) for case in questions[len(records) :]]
        for record in records:
            done += 1
            tell(console, record, f"{done}/{len(wanted)}")
        yield records


def left_out(case: Question, why: str) -> Record:
    """The row of a case without figures."""
    return {"case": case.name, "title": case.title, "group": case.group, "left_out": why}


def tell_wrong(console: Console, records: list[Record]) -> int:
    """Name the cases in which fusedce itself is wrong; the exit status."""
    wrong = [r for r in records if r.get("left_out", "").startswith(WRONG)]
    for record in wrong:
        say(console, f"{record['title']}: {record['left_out']}", "red")
    return 1 if wrong else 0


def tell(console: Console, record: Record, place: str) -> None:
    """One line of a log, where a run may be cut off."""
    if "ms" not in record:
        say(console, f"{place} {record['title']}: {record['left_out']}")
        return
    figure = f"{record['ms']['fusedce']['p50']:.4g} ms, {report.share(record)} of copy"
    best = record.get("best_rival")
    others = f"; {best['name']}, the fastest other, takes {best['times']}× as long" if best else ""
    say(console, f"{place} {record['title']} {record['group']}: {figure}{others}")


def document(
    gpu: Any, records: list[Record], missing: dict[str, str], settings: Record, copy: Record
) -> Record:
    """Everything that a run leaves behind."""
    found = results.document(records, missing, settings)
    machine = found["machine"] | gpu.facts()
    versions = results.versions(DISTRIBUTIONS)
    return found | {"machine": machine, "versions": versions, "copy": copy}


def conclude(console: Console, result: Record) -> None:
    """Tables, what is missing, the bars, and where it was measured."""
    records, shrink = result["cases"], result["settings"]["shrink"]
    for mode in MODES:
        if any(r["group"] == mode for r in records):
            console.print(report.table(records, mode, shrink))
    for line in screen.skipped(result["missing_rivals"], records):
        say(console, f"skipped: {line}")
    styles = {True: "green", False: "red", None: "yellow"}
    for line, met in report.verdicts(records):
        say(console, line, styles[met])
    say(console, report.caption(result), "dim")


def renew(console: Console, options: argparse.Namespace) -> None:
    """Plots beside a result, then the README from both."""
    from benchmarks.cuda import plots

    path = options.out or results.latest(RESULT)
    result = results.shown(path, path.name)
    drawn = plots.draw(result, results.FOLDER)
    readme = results.ROOT / "README.md"
    text = report.render(readme.read_text(encoding="utf-8"), result, drawn)
    readme.write_text(text, encoding="utf-8")
    say(console, f"README.md and {', '.join(drawn)} renewed from {screen.place(path)}")


def draw(console: Console, result: Record, path: Path) -> None:
    """The pictures beside a result, where they can be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        where = screen.place(path)
        say(console, f"result: {where}; --readme draws the pictures where matplotlib is")
        return
    from benchmarks.cuda import plots

    drawn = plots.draw(result, path.parent)
    say(console, f"result: {', '.join([screen.place(path), *drawn])}")


def tell_names(console: Console) -> None:
    """Every case with the smallest selection it is in, and every rival."""
    words = {QUICK: "quick", USUAL: "usual"}
    for case in cases.CASES:
        say(console, f"{case.name:36}{words[case.level]:8}{case.title}")
    for rival in rivals.RIVALS:
        say(console, f"{rival.name:36}{'rival':8}{rival.missing() or ''}".rstrip())


def wanted_cases(options: argparse.Namespace) -> list[Question]:
    """What is to be measured: shapes of one's own, cases by name, or those of a level."""
    own = cases.own(options.shape, options.dtype, options.loss)
    if own and not options.case:
        return own
    return own + cases.chosen(QUICK if options.quick else USUAL, options.case)


def main(options: argparse.Namespace, console: Console) -> int:
    """Measure and report; the exit status."""
    if options.list or options.readme:
        tell_names(console) if options.list else renew(console, options)
        return 0
    wanted, asked = wanted_cases(options), rivals.chosen(options.rival)
    old = results.read(options.against) if options.against else None
    gpu = device.find()
    seconds = BUDGET if options.seconds is None else options.seconds
    if options.sweep:
        from benchmarks.cuda import sweep

        return sweep.main(console, gpu, options.shrink or 1, seconds)
    missing = {r.name: why for r in asked if (why := r.missing())}
    if options.quick and not options.rival:
        missing |= {r.name: f"{rivals.SELDOM}; not in --quick" for r in asked if r.compiles}
    others = [r for r in asked if r.name not in missing]
    copy = device.bandwidth(gpu)
    say(console, f"copy: {copy['gb_per_s']} GB/s ({copy['way']})")
    start, how = time.perf_counter(), effort(options)
    path = results.destination(options, RESULT)
    result: Record = {}
    records: list[Record] = []
    for some in run(console, gpu, wanted, others, how, seconds):
        records += some
        settings = {"seconds": round(time.perf_counter() - start)} | asdict(how)
        result = document(gpu, records, missing, settings, copy)
        if path is not None:  # as far as it is, for a run may be cut off
            results.write(result, path)
    conclude(console, result)
    if path is not None:
        draw(console, result, path)
    status = tell_wrong(console, records)
    if old is None:
        return status
    return tell_regressions(console, old, result) or status
