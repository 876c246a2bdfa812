"""Train a small network on scikit-learn's digits, with losses by fusedce only.

Two experiments on 1797 scans of handwriting, each with five seeds:
(a) ten classes with softmax cross-entropy; the accuracy on the held-out half
    must exceed 0.95;
(b) a detector of one digit that is 1% of its training rows, with sigmoid
    cross-entropy and with focal loss, compared by average precision.
The time of the loss in a training step is measured with NumPy's formulas and
with fusedce. The network has two layers and is plain NumPy.

Writes: benchmarks/runs/digits.json, and the picture digits.png beside it.
Takes:  twenty seconds on two cores.

For example:
  python -m benchmarks.digits
      train, measure, print the results, draw the picture
  python -m benchmarks.digits --readme
      train nothing; draw and write the page from the last result
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from threadpoolctl import threadpool_limits

from benchmarks import digits_tables as tables
from benchmarks import digits_training as training
from benchmarks import program, results, screen
from benchmarks.data import Array
from benchmarks.digits_steps import STEPS, measure_steps
from benchmarks.digits_training import DETECTORS
from benchmarks.results import Record
from benchmarks.screen import say

DISTRIBUTIONS = "fusedce", "numba", "numpy", "scikit-learn", "scipy"
SEEDS = range(5)
ACCURACY = 0.95  # which every seed must exceed


class Digits(program.Suite):
    """``python -m benchmarks.digits``: experiments instead of cases."""

    name = "digits"
    pictures = (("digits.png", "Training on scanned digits"),)
    plots = "benchmarks.digits_plots"
    page_tables = staticmethod(tables.page_tables)
    caption = staticmethod(tables.caption)


def run_all(console: Console) -> Record:
    """The experiments and the times: under one progress bar, or with a line for each seed."""
    with screen.counter(console) as bar:

        def trained(name: str, one: Callable[[int], Array]) -> Array:
            tell, curves = screen.stepper(console, bar, name, len(SEEDS)), []
            for seed in SEEDS:
                curves.append(one(seed))
                tell(f"{np.ravel(curves[-1])[-1]:.3f}")
            return np.round(curves, 4)

        ten = trained("ten digits, accuracy", training.ten_classes)
        one = {
            name: trained(f"detector, {name}, average precision", partial(training.detector, loss))
            for name, loss in DETECTORS.items()
        }
        steps = measure_steps(screen.stepper(console, bar, "training steps, loss", len(STEPS)))
    return {
        "accuracy": {"training": ten[..., 0].tolist(), "held out": ten[..., 1].tolist()},
        "average_precision": {name: curves[:, -1].tolist() for name, curves in one.items()},
        "steps": steps,
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = screen.Parser("python -m benchmarks.digits", __doc__)
    parser.add_output(" and its picture")
    return parser.parse_args(argv)


def measure(console: Console) -> Record:
    """Train, and the result with where it is from."""
    start = time.perf_counter()
    # For products this small, starting BLAS threads takes longer than they save: 20 s against 6 s.
    with threadpool_limits(1, user_api="blas"):
        found = run_all(console)
    settings = {"seeds": list(SEEDS), "digit": training.DIGIT, "prevalence": training.PREVALENCE,
                "seconds": round(time.perf_counter() - start)}  # fmt: skip
    return results.origin(DISTRIBUTIONS) | {"settings": settings} | found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    options, console = parse(argv), screen.console()
    suite = Digits(options)
    if options.readme:
        return program.renew(suite, console)
    path: Path = options.out or results.RUNS / suite.file
    result = measure(console)
    for grid in tables.terminal_tables(result):
        console.print(grid)
    say(console, f"Average precision: {tables.difference(result)}")
    results.write(result, path)
    picture = screen.place(path.parent / suite.draw(result, path.parent)[0])
    say(console, f"result: {screen.place(path)}, {picture}, {result['settings']['seconds']} s")
    worst = tables.accuracy(result).min()
    if worst <= ACCURACY:
        raise SystemExit(f"test accuracy {worst:.3f} of the worst seed is not above {ACCURACY}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
