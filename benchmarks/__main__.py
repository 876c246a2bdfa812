"""Time of a loss and its gradient: fusedce, other libraries, and a loop that moves the same bytes.

python -m benchmarks                     the usual cases, under three minutes
python -m benchmarks --quick             a few cases, a quarter of the rows: half a minute
python -m benchmarks --all               every case, some twenty minutes
python -m benchmarks --shape 8192x50257 --dtype bfloat16 --loss focal
                                         arrays of your own; each option may be repeated
python -m benchmarks --case focal --rival torch
                                         cases with "focal" in their name, beside torch alone
python -m benchmarks --against benchmarks/results/throughput.json
                                         status 1 if something is slower than in that result
python -m benchmarks --device cuda       the same on a GPU (CuPy arrays), under eight minutes
python -m benchmarks --device cuda --sweep
                                         which launch sizes are the fastest on this GPU

The usual cases and --all leave a result in benchmarks/runs, others only with --out.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numba
from rich.console import Console

from benchmarks import cases, oracle, report, results, rivals, screen
from benchmarks.cases import ALL, QUICK, USUAL, Case
from benchmarks.measure import Effort, measure
from benchmarks.rivals import Rival
from benchmarks.screen import say

Record = dict[str, Any]
FLOATS = "float32", "float64", "float16", "bfloat16"


def shape(given: str) -> tuple[int, ...]:
    """(8192, 50257) of "8192x50257"."""
    sizes = re.split("[x×,]", given)
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise argparse.ArgumentTypeError(f"a shape is written like 8192x50257, got {given!r}")
    return tuple(map(int, sizes))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = screen.Parser("python -m benchmarks", __doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a few cases, fewer rows, fewer rounds")
    size.add_argument("--all", action="store_true", help="every case, more rounds")
    some: Any = {"action": "append", "default": []}
    add = parser.add_argument
    add("--list", action="store_true", help="name cases and rivals, and end")
    add("--case", metavar="NAME", **some, help="only these of --list: a name, part of it, or glob")
    add("--rival", metavar="NAME", **some, help='only these, named in the same way; or "none"')
    add("--shape", type=shape, metavar="ROWSxCLASSES", **some,
        help="logits of this shape instead of the cases; of more than two axes the second has the "
        "classes")  # fmt: skip
    add("--dtype", choices=FLOATS, **some, help="of --shape's logits (default: float32)")
    add("--loss", choices=cases.LOSSES, **some,
        help="of --shape (default: cross_entropy); focal: of each element, gamma 2")  # fmt: skip
    add("--shrink", type=screen.whole, metavar="N", help="divide the rows of every large case by N")
    add("--against", type=Path, metavar="RESULT",
        help="an earlier result: status 1 if this run is slower, beyond the noise")  # fmt: skip
    add("--out", type=Path, metavar="FILE", help="where the result goes (JSON)")
    add(
        "--readme",
        action="store_true",
        help="measure nothing: README.md and its pictures from the last result, or that of --out",
    )
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where the arrays are")
    add("--sweep", action="store_true", help="with --device cuda: time the launch sizes instead")
    add("--seconds", type=float, metavar="S",
        help="with --device cuda: no case begins after so many (default: 450)")  # fmt: skip
    options = parser.parse_args(argv)
    if options.device == "cpu" and (options.sweep or options.seconds is not None):
        parser.error(f"{'--sweep' if options.sweep else '--seconds'} needs --device cuda")
    if not options.shape and (options.dtype or options.loss):
        parser.error(f"{'--dtype' if options.dtype else '--loss'} needs a --shape")
    options.dtype, options.loss = options.dtype or ["float32"], options.loss or ["cross_entropy"]
    return options


def effort(options: argparse.Namespace) -> Effort:
    """How long to measure."""
    shrink = options.shrink or (4 if options.quick else 1)
    if options.shape and not options.case:  # which are measured as they are given
        shrink = 1
    if options.quick:
        return Effort(rounds=7, budget=0.1, least=2, shrink=shrink)
    if options.all:
        return Effort(rounds=31, budget=4.0, least=5, shrink=shrink)
    return Effort(shrink=shrink)


def run(
    console: Console, wanted: list[Case], others: list[Rival], how: Effort
) -> tuple[list[Record], float]:
    """Measure every case; and the seconds."""
    start = time.perf_counter()

    def one(case: Case, tell: Callable[[str], None]) -> Record:
        try:
            return measure(case, others, how, tell)
        except oracle.Disagreement as wrong:
            raise SystemExit(f"fusedce is wrong, {case.name}: {wrong}") from wrong

    records = screen.one_by_one(
        console, wanted, lambda case: case.title, one, lambda done: report.table(done, how.shrink)
    )
    return records, time.perf_counter() - start


def renew(console: Console, path: Path) -> None:
    """The result of the README with its plots, then the README from both."""
    from benchmarks import plots

    result = results.shown(path, results.RESULT)
    drawn = plots.draw(result, results.FOLDER)
    readme = results.ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(report.render(text, result, results.FOLDER), encoding="utf-8")
    say(console, f"README.md and {', '.join(drawn)} renewed from {screen.place(path)}")


def tell_names(console: Console) -> None:
    """Every case with the smallest selection it is in, and every rival."""
    words = {QUICK: "quick", USUAL: "usual", ALL: "all"}
    for case in cases.CASES:
        say(console, f"{case.name:24}{words[case.level]:8}{case.title}")
    for rival in rivals.RIVALS:
        say(console, f"{rival.name:24}{'rival':8}{rival.missing() or ''}".rstrip())


def wanted_cases(options: argparse.Namespace) -> list[Case]:
    """What is to be measured: shapes of one's own, cases by name, or those of a level."""
    own = cases.own(options.shape, options.dtype, options.loss)
    if own and not options.case:
        return own
    level = QUICK if options.quick else ALL if options.all else USUAL
    return own + cases.chosen(level, options.case)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; the exit status."""
    options, console = parse(argv), screen.console()
    if options.device == "cuda":
        from benchmarks.cuda import program

        return program.main(options, console)
    if options.list or options.readme:
        path = options.out or results.latest(results.RESULT)
        tell_names(console) if options.list else renew(console, path)
        return 0
    wanted, asked = wanted_cases(options), rivals.chosen(options.rival)
    old = results.read(options.against) if options.against else None
    missing = {r.name: why for r in asked if (why := r.missing())}
    if options.quick and not options.rival:
        missing |= {r.name: f"{rivals.SELDOM}; not in --quick" for r in asked if r.compiles}
    how = effort(options)
    others = [r for r in asked if r.name not in missing]
    records, seconds = run(console, wanted, others, how)
    settings = {"threads": numba.get_num_threads(), "seconds": round(seconds)} | asdict(how)
    result = results.document(records, missing, settings)
    for line in screen.skipped(missing, records):
        say(console, f"skipped: {line}")
    say(console, results.caption(result), "dim")
    path = results.destination(options, results.RESULT)
    if path:
        results.write(result, path)
        say(console, f"result: {screen.place(path)}, {seconds:.0f} s")
    return report.tell_regressions(console, old, result) if old else 0


if __name__ == "__main__":
    sys.exit(main())
