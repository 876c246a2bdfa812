"""Loss and gradient on the CPU: what is timed in a case, and the figures of that case."""

import gc
import os
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numba
import numpy as np

from benchmarks import cases, data, floor, measure, oracle, report, rivals
from benchmarks.cases import OWN, Case
from benchmarks.data import Problem
from benchmarks.measure import NUMPY, OURS, Contender, Effort, enter, fastest, left_out
from benchmarks.program import WRONG, Suite
from benchmarks.report import FRESH
from benchmarks.results import Record
from benchmarks.rivals import Call, Read, Rival
from benchmarks.screen import Tell

MEMORY = 5e9  # bytes that a rival may hold beside the arrays of the case
PATIENCE = 5.0  # seconds for one call of a rival
LOGITS_ARRAYS = 3  # arrays of the size of the logits: they, a gradient to write into, a new one


def with_threads(threads: int, call: Call) -> Call:
    """The call with Numba set to this number of threads."""

    def limited() -> Any:
        usual = numba.get_num_threads()
        numba.set_num_threads(threads)
        try:
            return call()
        finally:
            numba.set_num_threads(usual)

    return limited


def read_fused(problem: Problem) -> Read:
    """The result of fusedce as loss and gradient."""
    return lambda got: got if problem.case.loss.grad else (got, problem.grad)


def ours(problem: Problem, expected: oracle.Answer) -> Iterator[Contender]:
    """Calls of fusedce: into a given gradient, into new memory, and the other call of the bar."""
    case, read = problem.case, read_fused(problem)
    by_threads = case.bar is not None and case.bar.of == "1 thread"
    reuse: Call = partial(problem.fused, problem.grad if case.loss.grad else None)
    yield enter(OURS, with_threads(2, reuse) if by_threads else reuse, read, problem, expected)
    if case.loss.grad and not by_threads and not case.curve:
        yield enter(FRESH, partial(problem.fused, None), read, problem, expected)
    other = data.other(problem)
    if case.bar is not None and other is not None:
        call: Call = partial(other.fused, other.grad)
        if by_threads:
            yield enter(case.bar.of, with_threads(1, call), read, problem, expected)
        else:
            yield enter(case.bar.of, call, read_fused(other), other, oracle.answer(other))


def floors(problem: Problem) -> tuple[dict[str, str], list[Contender]]:
    """Loops that copy the logits or move the bytes of the case, and the fastest way of each."""
    case = problem.case
    if case.group == "small" or case.arrays.layout.startswith("every other"):
        return {}, []
    loops = {"copy": floor.copies(problem)}
    if (case.reads, case.writes) != (1, 1):
        loops["floor"] = floor.moves(problem)
    ways, found = {}, []
    for name, calls in loops.items():
        way, contender = fastest({way: Contender(name, call) for way, call in calls.items()})
        ways[name] = way
        found.append(contender)
    return ways, found


def enter_rival(rival: Rival, problem: Problem, expected: oracle.Answer) -> Contender | str:
    """A rival that agrees with the oracle, or why it cannot compute the case."""
    case = problem.case
    refused = rival.refuses(case)
    if refused:
        return refused
    held, limit = rival.memory(case) * case.arrays.logits_bytes, MEMORY
    if case.group == OWN:
        limit = max(limit, (memory() or 0) - LOGITS_ARRAYS * case.arrays.logits_bytes)
    if held > limit:
        return f"needs some {held / 1e9:.0f} GB"
    call, read = rival.prepare(problem, numba.get_num_threads())
    return enter(rival.name, call, read, problem, expected)


def impossible(case: Case) -> str | None:
    """Why a case cannot be measured here."""
    if case.bar is not None and case.bar.of == "1 thread" and numba.get_num_threads() < 2:
        return "there is one thread"
    arrays = case.arrays
    needed = LOGITS_ARRAYS * arrays.logits_bytes + arrays.targets_bytes
    there = memory()
    if there is not None and needed > there:
        return f"needs some {needed / 1e9:.0f} GB, of {there / 1e9:.0f}"
    return None


def memory() -> int | None:
    """The bytes of this machine's memory, where the system reports them."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def taking_part(case: Case, others: list[Rival]) -> list[Rival]:
    """The rivals; and NumPy for small cases, because two runs compare their ratios to it."""
    if case.alone or case.group != "small" or any(rival.name == NUMPY for rival in others):
        return [] if case.alone else others
    return [*others, *(rival for rival in rivals.RIVALS if rival.name == NUMPY)]


def measured(
    case: Case, others: list[Rival], effort: Effort, tell: Tell = lambda what: None
) -> Record:
    """One row of the table; raises Disagreement if fusedce itself is wrong."""
    case, start = case.divided(effort.shrink), time.perf_counter()
    if why := impossible(case):
        return left_out(case, why)
    tell("arrays and oracle")
    problem = data.make(case)
    expected = oracle.answer(problem)
    tell("fusedce")
    contenders = list(ours(problem, expected))
    ways, copies = floors(problem)
    more, skipped = measure.admit(
        taking_part(case, others), lambda rival: enter_rival(rival, problem, expected), tell,
        PATIENCE * (10 if case.group == OWN else 1),
    )  # fmt: skip
    contenders += [*copies, *more]
    measure.take_turns(contenders, effort.on_curve() if case.curve else effort)
    record = summarize(case, contenders, {r.name for r in others})
    gc.collect()
    seconds = round(time.perf_counter() - start, 1)
    return record | {"floor_ways": ways, "skipped": skipped, "seconds": seconds}


def summarize(case: Case, contenders: list[Contender], others: set[str]) -> Record:
    """The figures, and how many times faster fusedce is when it allocates its output."""
    record = measure.summarize(case, contenders, others)
    medians = {c.name: np.median(c.times) for c in contenders}
    fresh = medians.get(FRESH, medians[OURS])
    faster = {name: float(f"{medians[name] / fresh:.3g}") for name in record["times_faster"]}
    return record | {"times_faster_new_output": faster}


class Throughput(Suite):
    """``python -m benchmarks``."""

    name = "throughput"
    pictures = report.PICTURES
    plots = "benchmarks.plots"
    all_cases = cases.CASES
    own_cases = staticmethod(cases.own)
    efforts = Effort(7, 0.1, 2, shrink=4), Effort(), Effort(31, 4.0, 5)
    tables = staticmethod(report.tables)
    page_tables = staticmethod(report.page_tables)
    summary = staticmethod(report.summary)

    def measure(
        self, wanted: list[Case], others: list[Rival], effort: Effort, tell: Tell
    ) -> Iterator[Record]:
        """A record for each case; a wrong result of fusedce ends the run."""
        asked = self.options.all or self.options.rival
        on_curves = others if asked else list(map(rivals.only_if_asked, others))
        for case in wanted:
            try:
                yield measured(case, on_curves if case.curve else others, effort, tell)
            except oracle.Disagreement as wrong:
                raise SystemExit(f"{WRONG}, {case.name}: {wrong}") from wrong
