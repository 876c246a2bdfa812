"""``python -m benchmarks --device cuda``: loss and gradient on a GPU, by fusedce and by others."""

import argparse
import importlib.util
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import oracle, results
from benchmarks.cases import QUICK, USUAL
from benchmarks.cuda import cases, device, measure, report, rivals
from benchmarks.cuda.cases import MODES, Question
from benchmarks.cuda.rivals import Rival
from benchmarks.measure import Effort

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
    if options.quick:
        return Effort(rounds=9, budget=0.05, least=5, shrink=options.shrink or 1)
    return Effort(rounds=21, budget=0.1, least=7, shrink=options.shrink or 1)


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
        console.print(f"{record['title']}: {record['left_out']}", style="red", highlight=False)
    return 1 if wrong else 0


def tell(console: Console, record: Record, place: str) -> None:
    """One line of a log, where a run may be cut off."""
    if "ms" not in record:
        console.print(f"{place} {record['title']}: {record['left_out']}", highlight=False)
        return
    figure = f"{record['ms']['fusedce']['p50']:.4g} ms, {report.share(record)} of copy"
    best = record.get("best_rival")
    others = f", {best['times']}× {best['name']}" if best else ""
    console.print(f"{place} {record['title']} {record['group']}: {figure}{others}", highlight=False)


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
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, why in result["missing_rivals"].items():
        reasons[name, why] = []
    for record in records:
        for name, why in record.get("skipped", {}).items():
            reasons.setdefault((name, why), []).append(record["case"])
    for (name, why), names in reasons.items():
        where = f" ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})" if names else ""
        console.print(f"skipped: {name}, {why}{where}", highlight=False)
    styles = {True: "green", False: "red", None: "yellow"}
    for line, met in report.verdicts(records):
        console.print(line, style=styles[met], highlight=False)
    console.print(report.caption(result), style="dim", highlight=False)


def renew(console: Console, options: argparse.Namespace) -> None:
    """Plots beside a result, then the README from both."""
    from benchmarks.cuda import plots

    path = options.out or results.FOLDER / RESULT
    result = results.read(path)
    drawn = plots.draw(result, path.parent)
    readme = results.ROOT / "README.md"
    text = report.render(readme.read_text(encoding="utf-8"), result, drawn)
    readme.write_text(text, encoding="utf-8")
    console.print(f"README.md and {', '.join(drawn)} renewed from {path.name}")


def place(options: argparse.Namespace) -> Path | None:
    """Where the result goes; what is no full run leaves one only where asked."""
    narrow = options.quick or options.case or options.rival or options.shrink
    return options.out or (None if narrow else results.FOLDER / RESULT)


def draw(console: Console, result: Record, path: Path) -> None:
    """The pictures beside a result, where they can be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        console.print(f"result: {path.name}; --readme draws the pictures where matplotlib is")
        return
    from benchmarks.cuda import plots

    drawn = plots.draw(result, path.parent)
    console.print(f"result: {', '.join([path.name, *drawn])}", highlight=False)


def tell_names(console: Console) -> None:
    """Every case with the smallest selection it is in, and every rival."""
    words = {QUICK: "quick", USUAL: "usual"}
    for case in cases.CASES:
        console.print(f"{case.name:36}{words[case.level]:8}{case.title}", highlight=False)
    for rival in rivals.RIVALS:
        console.print(f"{rival.name:36}{'rival':8}{rival.missing() or ''}", highlight=False)


def main(options: argparse.Namespace, console: Console) -> int:
    """Measure and report; the exit status."""
    if options.list or options.readme:
        tell_names(console) if options.list else renew(console, options)
        return 0
    wanted = cases.chosen(QUICK if options.quick else USUAL, options.case)
    if not wanted:
        raise SystemExit(f"no case is called {', '.join(options.case)}; --list names them")
    old = results.read(options.against) if options.against else None
    gpu = device.find()
    seconds = BUDGET if options.seconds is None else options.seconds
    if options.sweep:
        from benchmarks.cuda import sweep

        return sweep.main(console, gpu, options.shrink or 1, seconds)
    asked = rivals.chosen(options.rival)
    missing = {r.name: why for r in asked if (why := r.missing())}
    if options.quick and not options.rival:
        missing |= {r.name: f"{rivals.SELDOM}; not in --quick" for r in asked if r.compiles}
    others = [r for r in asked if r.name not in missing]
    copy = device.bandwidth(gpu)
    console.print(f"copy: {copy['gb_per_s']} GB/s ({copy['way']})", highlight=False)
    start, how, path = time.perf_counter(), effort(options), place(options)
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
    from benchmarks.__main__ import tell_regressions

    return tell_regressions(console, old, result) or status
