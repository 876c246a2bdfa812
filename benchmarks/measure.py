"""Timing: results are compared with the oracle first, then all contenders are sampled in turns.

A turn is one sample of each contender, after a pause in which the threads of the previous one go
to sleep. The order rotates, so that no contender always follows the same other one.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Self

import numpy as np

from benchmarks import oracle
from benchmarks.cases import Case
from benchmarks.data import Array, Problem
from benchmarks.results import Record
from benchmarks.rivals import Call, Read, Rival

PAUSE = 0.01  # seconds; the threads of GNU OpenMP were seen to spin for 9 ms
SAMPLE = 0.002  # seconds: shorter calls are repeated within a sample
OURS, NUMPY = "fusedce", "NumPy"


@dataclass(frozen=True)
class Effort:
    """How long to measure: the rounds of each contender and their limits."""

    rounds: int = 9
    budget: float = 0.25  # seconds for all rounds of a rival, unless ``least`` rounds take longer
    least: int = 3
    shrink: int = 1  # the number of rows is divided by it

    def on_curve(self) -> "Effort":
        """For a point of a curve: it has neighbours and no bar, so fewer rounds are enough."""
        return replace(self, rounds=max(1, self.rounds * 3 // 5), least=min(2, self.least))


@dataclass
class Contender:
    """A call that is timed. ``first`` and ``second`` are the seconds of its first two calls."""

    name: str
    call: Call
    first: float = 0.0
    second: float = 0.0
    rival: bool = False
    times: list[float] = field(default_factory=list)
    rounds: int = 0
    repeats: int = 1

    def begin(self) -> tuple[float, Any]:
        """Seconds of the first call, and what it returned."""
        start = time.perf_counter()
        got = self.call()
        return time.perf_counter() - start, got

    def seconds(self) -> float:
        """Seconds of a later call."""
        return self.begin()[0]

    def enter(self, check: Callable[[Any], None] = lambda got: None) -> Self:
        """Call twice; ``check`` raises Disagreement if the first result is wrong."""
        self.first, got = self.begin()
        check(got)
        del got
        self.second = self.seconds()
        return self

    def plan(self, effort: Effort) -> None:
        """Fix rounds and repeats; slow calls have fewer rounds, those of rivals the fewest."""
        self.repeats = max(1, math.ceil(SAMPLE / max(self.second, 1e-7)))
        budget, least = effort.budget, effort.least
        if not self.rival:
            budget, least = 4 * budget, 2 * least
        affordable = int(budget / max(self.second, SAMPLE))
        self.rounds = min(effort.rounds, max(least, affordable))

    def sample(self) -> None:
        """Time a call; a short one is called once to warm the caches, then timed as a mean."""
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


def why(error: Exception) -> str:
    """An error of a rival in one line."""
    if isinstance(error, oracle.Disagreement):
        return f"does not agree: {error}"
    return f"{type(error).__name__}: {(str(error).strip() or '?').splitlines()[0]}"


def admit(
    rivals: Iterable[Rival], enter: Callable[[Rival], Contender | str],
    tell: Callable[[str], None], patience: float = inf,
) -> tuple[list[Contender], dict[str, str]]:  # fmt: skip
    """The rivals that agree with the oracle, and why each of the others is not timed."""
    contenders, skipped = [], {}
    for rival in rivals:
        tell(f"{rival.name}: first call")
        try:
            found = enter(rival)
        except Exception as error:  # whatever a rival raises is recorded, and the run goes on
            found = why(error)
        if isinstance(found, Contender) and found.second > patience:
            found = f"takes {found.second:.1f} s a call"
        if isinstance(found, str):
            skipped[rival.name] = found
        else:
            found.rival = not rival.ours
            contenders.append(found)
    tell("taking turns")
    return contenders, skipped


def enter(
    name: str, call: Call, read: Read, problem: Problem, expected: oracle.Answer
) -> Contender:
    """Call twice and compare the first result with the oracle's; Disagreement if it is wrong."""
    if problem.case.loss.grad:
        problem.grad[...] = np.nan  # an element that is not written is found to be wrong
    return Contender(name, call).enter(lambda got: oracle.check(expected, problem, *read(got)))


def fastest(ways: Mapping[str, Contender]) -> tuple[str, Contender]:
    """The fastest of several ways to do the same, by the best of four calls."""
    for contender in ways.values():
        contender.enter()
        contender.second = min(contender.second, *(contender.seconds() for _ in range(3)))
    best = min(ways, key=lambda way: ways[way].second)
    return best, ways[best]


def take_turns(contenders: list[Contender], effort: Effort) -> None:
    """Sample all contenders; those with fewer rounds are sampled in evenly spread turns."""
    for contender in contenders:
        contender.plan(effort)
    most = max(c.rounds for c in contenders)
    for turn in range(most):
        shift = turn % len(contenders)
        for c in contenders[shift:] + contenders[:shift]:
            if turn * c.rounds // most != (turn + 1) * c.rounds // most:
                c.sample()


def by_round(mine: list[float], theirs: list[float]) -> Array:
    """Our time over theirs in each round, or over their median if the numbers of rounds differ."""
    return np.divide(mine, theirs if len(mine) == len(theirs) else np.median(theirs))


def summarize(case: Case, contenders: list[Contender], rivals: set[str]) -> Record:
    """The record of a case: figures, and ratios of medians."""
    medians = {c.name: float(np.median(c.times)) for c in contenders}
    moved = case.bytes_read + case.bytes_written
    speed = moved / medians[OURS]
    record: Record = {
        "case": case.name, "title": case.title, "group": case.group,
        "shape": list(case.arrays.shape), "dtype": case.arrays.dtype,
        "bytes": {"read": case.bytes_read, "written": case.bytes_written},
        "ms": {c.name: c.summary() for c in contenders},
        "gb_per_s": float(f"{speed / 1e9:.3g}"),
    }  # fmt: skip
    record["ratio"] = ratio(case, {c.name: c.times for c in contenders})
    found = {name: median for name, median in medians.items() if name in rivals}
    record["times_faster"] = {n: float(f"{t / medians[OURS]:.3g}") for n, t in found.items()}
    if found:
        best = min(found, key=lambda name: found[name])
        value = record["times_faster"][best]
        record["best_rival"] = {"name": best, "times": value, "bar": case.faster}
        record["best_rival"]["met"] = case.faster is None or value >= case.faster
    return record


def ratio(case: Case, times: dict[str, list[float]]) -> Record | None:
    """The ratio of our time to that of the bar, or of the copying loop without a bar; its spread.

    Small cases have no copying loop: their ratio is to NumPy's time, to compare two runs.
    """
    of = case.bar.of if case.bar is not None else "copy"
    key = "floor" if of == "copy" and "floor" in times else of
    if key not in times:
        of = key = NUMPY
    if key not in times:
        return None
    mine, theirs = times[OURS], times[key]
    low, high = map(float, np.percentile(by_round(mine, theirs), (20, 80)))
    value = float(np.median(mine) / np.median(theirs))
    record: Record = {"of": of, "value": round(value, 3), "p20": round(low, 3)}
    record |= {"p80": round(high, 3), "bar": None, "met": None}
    if case.bar is not None and of == case.bar.of:
        record |= {"bar": round(case.bar.limit, 3), "met": bool(value <= case.bar.limit)}
    return record


def left_out(case: Case, why: str) -> Record:
    """The record of a case that was not measured."""
    return {"case": case.name, "title": case.title, "group": case.group, "left_out": why}
