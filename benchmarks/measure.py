"""Time a case: everyone must agree first, then all take turns.

A turn is one sample of each contender, after a pause in which the threads of the one before go to
sleep; the order rotates, so that nobody always follows the same neighbour.
"""

import gc
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numba
import numpy as np

from benchmarks import data, floor, oracle
from benchmarks.cases import OWN, Case
from benchmarks.data import Problem
from benchmarks.rivals import RIVALS, Read, Rival

Record = dict[str, Any]
Call = Callable[[], Any]
PAUSE = 0.01  # seconds; the threads of GNU OpenMP were seen to spin for 9 ms
SAMPLE = 0.002  # seconds: shorter calls are repeated within a sample
MEMORY = 5e9  # bytes that a rival may hold beside the arrays of the case
PATIENCE = 5.0  # seconds for one call of a rival
ROOM = 3  # arrays of the size of the logits: they, a gradient to write into, a new one
OURS, FRESH, NUMPY = "fusedce", "fusedce, new output", "NumPy"


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int = 9
    budget: float = 0.25  # seconds for the rounds of a rival, as far as the least number allows
    least: int = 3
    shrink: int = 1  # divides the rows

    def on_curve(self) -> "Effort":
        """A point of a curve has neighbours, and no bar."""
        return replace(self, rounds=max(1, self.rounds * 3 // 5), least=min(2, self.least))


@dataclass
class Contender:
    """Someone who is timed; ``first`` and ``second`` are the calls before that, in seconds."""

    name: str
    call: Call
    first: float
    second: float
    rival: bool = False
    times: list[float] = field(default_factory=list)
    rounds: int = 0
    repeats: int = 1

    def plan(self, effort: Effort) -> None:
        """Fix rounds and repeats; who is slow has fewer rounds, a rival sooner than others."""
        self.repeats = max(1, math.ceil(SAMPLE / max(self.second, 1e-7)))
        budget, least = effort.budget, effort.least
        if not self.rival:
            budget, least = 4 * budget, 2 * least
        affordable = int(budget / max(self.second, SAMPLE))
        self.rounds = min(effort.rounds, max(least, affordable))

    def sample(self) -> None:
        """Seconds of one call; of a short one the mean of some, after one that warms the caches."""
        time.sleep(PAUSE)
        if self.repeats > 1:
            self.call()
        start = time.perf_counter()
        for _ in range(self.repeats):
            self.call()
        self.times.append((time.perf_counter() - start) / self.repeats)

    def summary(self) -> Record:
        """Milliseconds: the first call, then percentiles of the samples."""
        low, middle, high = np.percentile(self.times, (20, 50, 80))
        figures = {"first": self.first, "p20": low, "p50": middle, "p80": high}
        record: Record = {k: float(f"{1e3 * v:.4g}") for k, v in figures.items()}
        return record | {"rounds": self.rounds, "calls_a_round": self.repeats}


def clock(call: Call) -> tuple[float, Any]:
    """Seconds of one call, and what it returned."""
    start = time.perf_counter()
    got = call()
    return time.perf_counter() - start, got


def with_threads(threads: int, call: Call) -> Call:
    """The call in so many of Numba's threads."""

    def limited() -> Any:
        usual = numba.get_num_threads()
        numba.set_num_threads(threads)
        try:
            return call()
        finally:
            numba.set_num_threads(usual)

    return limited


def enter(name: str, call: Call, read: Read, problem: Problem, right: oracle.Answer) -> Contender:
    """Call twice and let the oracle look at what comes back; Disagreement if it is wrong."""
    if problem.case.loss.grad:
        problem.grad[...] = np.nan  # what is not written does not pass
    first, got = clock(call)
    oracle.check(right, problem, *read(got))
    del got
    return Contender(name, call, first, clock(call)[0])


def read_fused(problem: Problem) -> Read:
    """What fusedce returned, as loss and gradient."""
    return lambda got: got if problem.case.loss.grad else (got, problem.grad)


def ours(problem: Problem, right: oracle.Answer) -> Iterator[Contender]:
    """Fusedce with a gradient to write into, into new memory, and as the bar's other call."""
    case, read = problem.case, read_fused(problem)
    by_threads = case.bar is not None and case.bar.of == "1 thread"
    reuse: Call = lambda: problem.fused(problem.grad if case.loss.grad else None)  # noqa: E731
    yield enter(OURS, with_threads(2, reuse) if by_threads else reuse, read, problem, right)
    if case.loss.grad and not by_threads and not case.curve:
        yield enter(FRESH, lambda: problem.fused(None), read, problem, right)
    other = data.other(problem)
    if case.bar is not None and other is not None:
        call: Call = lambda: other.fused(other.grad)  # noqa: E731
        if by_threads:
            yield enter(case.bar.of, with_threads(1, call), read, problem, right)
        else:
            yield enter(case.bar.of, call, read_fused(other), other, oracle.answer(other))


def fastest(name: str, ways: dict[str, Call]) -> tuple[str, Contender]:
    """The way to move bytes that is the fastest of some calls."""
    tried = {}
    for way, call in ways.items():
        first = clock(call)[0]
        tried[way] = Contender(name, call, first, min(clock(call)[0] for _ in range(4)))
    best = min(tried, key=lambda way: tried[way].second)
    return best, tried[best]


def floors(problem: Problem) -> tuple[dict[str, str], list[Contender]]:
    """Copies of the logits and of the bytes of the case, and which way each goes."""
    case = problem.case
    if case.group == "small" or case.arrays.layout.startswith("every other"):
        return {}, []
    ways, found = {}, []
    ways["copy"], contender = fastest("copy", floor.copies(problem))
    found.append(contender)
    if (case.reads, case.writes) != (1, 1):
        ways["floor"], contender = fastest("floor", floor.moves(problem))
        found.append(contender)
    return ways, found


def enter_rival(rival: Rival, problem: Problem, right: oracle.Answer) -> Contender | str:
    """A rival that agrees, or why it is not timed."""
    case = problem.case
    refused = rival.refuses(case)
    if refused:
        return refused
    own = case.group == OWN  # whoever gives a shape waits for it
    held = rival.memory(case) * case.arrays.logits_bytes
    if held > (max(MEMORY, (memory() or 0) - ROOM * case.arrays.logits_bytes) if own else MEMORY):
        return f"needs some {held / 1e9:.0f} GB"
    try:
        call, read = rival.prepare(problem, numba.get_num_threads())
        contender = enter(rival.name, call, read, problem, right)
    except oracle.Disagreement as wrong:
        return f"does not agree: {wrong}"
    except Exception as error:  # theirs, whatever it is: named, and the run goes on
        return f"{type(error).__name__}: {(str(error).strip() or '?').splitlines()[0]}"
    if contender.second > PATIENCE * (10 if own else 1):
        return f"takes {contender.second:.0f} s a call"
    contender.rival = True
    return contender


def take_turns(contenders: list[Contender], effort: Effort) -> None:
    """Sample everyone; who has fewer rounds than the others has them evenly among theirs."""
    for contender in contenders:
        contender.plan(effort)
    most = max(c.rounds for c in contenders)
    for turn in range(most):
        shift = turn % len(contenders)
        for c in contenders[shift:] + contenders[:shift]:
            if turn * c.rounds // most != (turn + 1) * c.rounds // most:
                c.sample()


def impossible(case: Case) -> str | None:
    """Why a case cannot be measured here."""
    if case.bar is not None and case.bar.of == "1 thread" and numba.get_num_threads() < 2:
        return "there is one thread"
    arrays = case.arrays
    needed = ROOM * arrays.logits_bytes + arrays.targets_bytes
    there = memory()
    if there is not None and needed > there:
        return f"needs some {needed / 1e9:.0f} GB, of {there / 1e9:.0f}"
    return None


def memory() -> int | None:
    """The bytes of this machine's memory, where the system tells them."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def taking_part(case: Case, rivals: list[Rival]) -> list[Rival]:
    """The rivals, and NumPy where the case is compared with nothing else from run to run."""
    there = any(rival.name == NUMPY for rival in rivals)
    return rivals if there or case.group != "small" else [*rivals, *(
        rival for rival in RIVALS if rival.name == NUMPY)]  # fmt: skip


def measure(
    case: Case, rivals: list[Rival], effort: Effort, tell: Callable[[str], None] = lambda _: None
) -> Record:
    """One row of the table; raises Disagreement if fusedce itself is wrong."""
    case, start = case.divided(effort.shrink), time.perf_counter()
    if why := impossible(case):
        return {"case": case.name, "title": case.title, "group": case.group, "left_out": why}
    tell("arrays and oracle")
    problem = data.make(case)
    right = oracle.answer(problem)
    tell("fusedce")
    contenders = list(ours(problem, right))
    ways, found = floors(problem)
    contenders += found
    skipped = {}
    for rival in () if case.alone else taking_part(case, rivals):
        tell(f"{rival.name}: first call")
        entered = enter_rival(rival, problem, right)
        if isinstance(entered, str):
            skipped[rival.name] = entered
        else:
            contenders.append(entered)
    tell("taking turns")
    take_turns(contenders, effort.on_curve() if case.curve else effort)
    record = summarize(case, contenders, {r.name for r in rivals})
    gc.collect()
    seconds = round(time.perf_counter() - start, 1)
    return record | {"floor_ways": ways, "skipped": skipped, "seconds": seconds}


def summarize(case: Case, contenders: list[Contender], rivals: set[str]) -> Record:
    """Figures and ratios of medians."""
    times = {c.name: c.times for c in contenders}
    medians = {name: float(np.median(t)) for name, t in times.items()}
    moved = case.bytes_read + case.bytes_written
    speed = moved / medians[OURS]
    record: Record = {
        "case": case.name, "title": case.title, "group": case.group,
        "shape": list(case.arrays.shape), "dtype": case.arrays.dtype,
        "bytes": {"read": case.bytes_read, "written": case.bytes_written},
        "ms": {c.name: c.summary() for c in contenders},
        "gb_per_s": float(f"{speed / 1e9:.3g}"),
    }  # fmt: skip
    if "copy" in medians:
        copied = 2 * case.arrays.logits_bytes / medians["copy"]
        record["percent_of_copy"] = round(100 * speed / copied)
    record["ratio"] = ratio(case, times)
    found = {name: medians[name] for name in medians if name in rivals}
    fresh = medians.get(FRESH, medians[OURS])
    record["times_faster"] = {n: float(f"{t / medians[OURS]:.3g}") for n, t in found.items()}
    record["times_faster_new_output"] = {n: float(f"{t / fresh:.3g}") for n, t in found.items()}
    if found:
        best = min(found, key=lambda name: found[name])
        value = record["times_faster"][best]
        record["best_rival"] = {"name": best, "times": value, "bar": case.faster}
        record["best_rival"]["met"] = case.faster is None or value >= case.faster
    return record


def ratio(case: Case, times: dict[str, list[float]]) -> Record | None:
    """Our time over that of the bar, or of the floor where there is none, and its spread.

    Small cases have no floor; theirs is over NumPy's, for what changes from run to run.
    """
    of = case.bar.of if case.bar is not None else "copy"
    key = "floor" if of == "copy" and "floor" in times else of
    if key not in times:
        of = key = NUMPY
    if key not in times:
        return None
    mine, theirs = times[OURS], times[key]
    same = len(mine) == len(theirs)
    by_round = np.divide(mine, theirs if same else np.median(theirs))
    low, high = map(float, np.percentile(by_round, (20, 80)))
    value = float(np.median(mine) / np.median(theirs))
    record: Record = {"of": of, "value": round(value, 3), "p20": round(low, 3)}
    record |= {"p80": round(high, 3), "bar": None, "met": None}
    if case.bar is not None and of == case.bar.of:
        record |= {"bar": round(case.bar.limit, 3), "met": bool(value <= case.bar.limit)}
    return record
