"""``python -m benchmarks --device cuda``: loss and gradient on a GPU."""

import importlib.util
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import oracle, results, screen
from benchmarks.cuda import cases, device, measure, report, rivals
from benchmarks.cuda.cases import Question
from benchmarks.measure import Effort, left_out
from benchmarks.program import WRONG, Suite
from benchmarks.results import Record
from benchmarks.rivals import Rival
from benchmarks.screen import Tell, say

BUDGET = 450.0  # seconds; cases that would begin later are left out and named
DISTRIBUTIONS = (
    "fusedce", "numba", "numba-cuda", "cuda-core", "cupy-cuda12x", "cupy-cuda13x", "numpy",
    "ml_dtypes", "torch", "triton", "liger-kernel", "quack-kernels",
)  # fmt: skip


class CudaThroughput(Suite):
    """The three questions about all arrays, answered by fusedce and by other libraries."""

    name = "cuda"
    pictures = report.PICTURES
    plots = "benchmarks.cuda.plots"
    all_cases = cases.CASES
    own_cases = staticmethod(cases.own)
    efforts = Effort(9, 0.05, 5), Effort(21, 0.1, 7), Effort(21, 0.1, 7)
    saves_each_record = True
    line = staticmethod(report.line)
    tables = staticmethod(report.tables)
    page_tables = staticmethod(report.page_tables)
    summary = staticmethod(report.summary)
    verdicts = staticmethod(report.verdicts)
    caption = staticmethod(report.caption)
    gpu: Any = None

    def __init__(self, options: Namespace) -> None:
        super().__init__(options, rivals.RIVALS)
        self.seconds = BUDGET if options.seconds is None else options.seconds

    def cases(self) -> list[Question]:
        """The cases in the order in which they are measured."""
        return [case for group in cases.by_problem(super().cases()) for case in group]

    def prepare(self, console: Console) -> None:
        """Find the GPU and measure the bandwidth of a copy."""
        self.gpu = device.find()
        copy = device.bandwidth(self.gpu)
        say(console, f"copy: {copy['gb_per_s']} GB/s ({copy['way']})")
        machine = results.machine() | self.gpu.facts()
        self.facts = {"machine": machine, "versions": results.versions(DISTRIBUTIONS), "copy": copy}

    def measure(
        self, wanted: list[Question], others: list[Rival], effort: Effort, tell: Tell
    ) -> Iterator[Record]:
        """Cases that share their arrays together; after a wrong result the others are measured."""
        start = time.perf_counter()

        def late(part: float = 0.6) -> bool:
            return time.perf_counter() - start > part * self.seconds

        for questions in cases.by_problem(wanted):
            if late(1.0):
                yield from (left_out(case, "no time left") for case in questions)
                continue
            done = 0
            try:
                for record in measure.measured(questions, others, effort, self.gpu, late, tell):
                    yield record
                    done += 1
            except oracle.Disagreement as wrong:
                yield from (left_out(case, f"{WRONG}: {wrong}") for case in questions[done:])

    def shown_as(self, path: Path) -> str:
        """Results of several GPUs can be kept, each under its own name."""
        return path.name

    def saved(self, console: Console, result: Record, path: Path) -> None:
        """Draw the pictures beside the result if matplotlib is installed."""
        where = screen.place(path)
        if importlib.util.find_spec("matplotlib") is None:
            say(console, f"result: {where}; --readme draws the pictures with matplotlib")
            return
        say(console, f"result: {', '.join([where, *self.draw(result, path.parent)])}")
