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

The usual cases and --all write a result into benchmarks/runs, others only with --out.
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
    size.add_argument("--quick", action="store_true", help="a few cases, fewer rows, fewer rounds")
    size.add_argument("--all", action="store_true", help="every case, more rounds")
    some: Any = {"action": "append", "default": []}
    add = parser.add_argument
    add("--list", action="store_true", help="print the names of cases and rivals, and exit")
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
    parser.add_output(" and its pictures")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where the arrays are")
    add("--sweep", action="store_true", help="with --device cuda: time the launch sizes instead")
    add("--seconds", type=float, metavar="S",
        help="with --device cuda: no case begins after so many seconds (default: 450)")  # fmt: skip
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
