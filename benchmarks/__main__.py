"""Measure the time of loss and gradient in fusedce and in other libraries.

The time is also compared with that of a loop that moves the same bytes and
does nothing else ("copy"). No library is timed before its results agree with
NumPy's in float64. Other libraries are used if they are installed.

Writes: benchmarks/runs/throughput.json; with --device cuda cuda.json and its
        pictures there. A run of a part (--quick, --case, --rival, --shape,
        --shrink) writes only where --out says. --readme writes the tables and
        pictures of README.md and benchmarks/README.md.
Takes:  three minutes on two cores, with --quick half a minute, with --all
        some twenty minutes; with --device cuda under eight minutes.

For example:
  python -m benchmarks --quick
      a few cases with a quarter of the rows
  python -m benchmarks --shape 8192x50257 --dtype bfloat16 --loss focal
      your own arrays; each option may be given several times
  python -m benchmarks --case focal --rival torch
      the cases with "focal" in their name, beside torch alone
  python -m benchmarks --against benchmarks/results/throughput.json
      exit status 1 if a case is slower than in that result
  python -m benchmarks --device cuda
      the same on a GPU, with CuPy arrays
  python -m benchmarks --device cuda --sweep
      which launch sizes are the fastest on this GPU
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import cases, program, rivals, screen
from benchmarks.throughput import Throughput

FLOATS = "float32", "float64", "float16", "bfloat16"


def shape(given: str) -> tuple[int, ...]:
    """Parse a shape: (8192, 50257) from "8192x50257"."""
    sizes = re.split("[x×,]", given)
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise argparse.ArgumentTypeError(f"a shape is written like 8192x50257, got {given!r}")
    return tuple(map(int, sizes))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = screen.Parser("python -m benchmarks", __doc__)
    size = parser.add_mutually_exclusive_group()
    some: Any = {"action": "append", "default": []}
    add = parser.add_argument
    text = "measure a few cases with a quarter of the rows (default: the usual cases)"
    size.add_argument("--quick", action="store_true", help=text)
    size.add_argument("--all", action="store_true", help="measure every case, in more rounds")
    add("--list", action="store_true", help="print the names of the cases and rivals, and exit")
    add("--case", metavar="NAME", **some,
        help="measure only the cases of this name: a whole name, a part of one, or a glob pattern; "
        "may be repeated (default: the usual cases)")  # fmt: skip
    add("--rival", metavar="NAME", **some,
        help='measure only the rivals of this name, matched in the same way, or "none"; may be '
        "repeated (default: all that are installed)")  # fmt: skip
    add("--shape", type=shape, metavar="ROWSxCLASSES", **some,
        help="measure logits of this shape instead of the cases; of three or more axes the second "
        "is that of the classes; may be repeated")  # fmt: skip
    add("--dtype", choices=FLOATS, metavar="DTYPE", **some,
        help=f"with --shape: the dtype of the logits, {', '.join(FLOATS)}; may be repeated "
        "(default: float32)")  # fmt: skip
    add("--loss", choices=cases.LOSSES, metavar="LOSS", **some,
        help=f"with --shape: the loss, {', '.join(cases.LOSSES)}; focal is that of each element "
        "with gamma 2; may be repeated (default: cross_entropy)")  # fmt: skip
    add("--shrink", type=screen.whole, metavar="N",
        help="divide the rows of every large case by N (default: 1, with --quick 4)")  # fmt: skip
    add("--against", type=Path, metavar="FILE",
        help="compare with this earlier result; the exit status is 1 if a case is slower by more "
        "than the rounds of both runs scatter")  # fmt: skip
    parser.add_output(" and their pictures", "throughput.json or cuda.json")
    add("--device", choices=("cpu", "cuda"), default="cpu", metavar="DEVICE",
        help="measure on cpu or cuda (default: cpu)")  # fmt: skip
    add("--sweep", action="store_true",
        help="with --device cuda: measure the launch sizes instead of the cases")  # fmt: skip
    add("--seconds", type=float, metavar="S",
        help="with --device cuda: begin no case after S seconds (default: 450)")  # fmt: skip
    options = parser.parse_args(argv)
    if options.device == "cpu" and (options.sweep or options.seconds is not None):
        parser.error(f"{'--sweep' if options.sweep else '--seconds'} needs --device cuda")
    if not options.shape and (options.dtype or options.loss):
        parser.error(f"{'--dtype' if options.dtype else '--loss'} needs a --shape")
    options.dtype, options.loss = options.dtype or ["float32"], options.loss or ["cross_entropy"]
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    options, console = parse(argv), screen.console()
    if options.device == "cpu":
        return program.main(Throughput(options, rivals.RIVALS), console)
    from benchmarks.cuda import sweep
    from benchmarks.cuda.program import CudaThroughput

    suite = CudaThroughput(options)
    if options.sweep and not (options.list or options.readme):
        return sweep.main(console, options.shrink or 1, suite.seconds)
    return program.main(suite, console)


if __name__ == "__main__":
    sys.exit(main())
