"""Time the questions about one set of arrays: everyone must agree first, then all take turns.

A run is one call behind a flushed L2, between two events; compilation and the first calls are over
before. What a rival does on the host while the device waits is part of its time.
"""

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from benchmarks import measure, oracle
from benchmarks.cuda import data
from benchmarks.cuda.cases import Question, bars, divided
from benchmarks.cuda.device import Call, nothing
from benchmarks.cuda.rivals import Entry, Rival, ours
from benchmarks.data import Problem
from benchmarks.measure import OURS, Contender, Effort

Record = dict[str, Any]
Entries = Callable[[Question], Entry]
PATIENCE = 1.0  # seconds for one call of a rival
ROOM = 4.0  # units of the logits without which there is nothing to measure


@dataclass
class Timed(Contender):
    """Someone whose time is taken by the device."""

    device: Any = None
    before: Call = nothing
    memory: int | None = None
    host: list[float] = field(default_factory=list)

    def plan(self, effort: Effort) -> None:
        """Fix the rounds; a run is one call."""
        super().plan(effort)
        self.repeats = 1

    def sample(self) -> None:
        """One run."""
        seconds, host = self.device.seconds(self.call, self.before)
        self.times.append(seconds)
        self.host.append(host)

    def summary(self) -> Record:
        """As on the CPU, and what the host needed to start it, in microseconds."""
        record = super().summary() | {"host_us": round(1e6 * float(np.median(self.host)), 1)}
        return record if self.memory is None else record | {"memory_mb": round(self.memory / 1e6)}


def enter(
    name: str, entry: Entry, case: Question, problem: Problem, right: oracle.Answer, device: Any
) -> Timed:
    """Call it and let the oracle look at what comes back; Disagreement if it is wrong."""
    if case.loss.grad:
        device.poison(problem.logits.nbytes)
    entry.before()
    first, got = device.first(entry.call)
    loss, grad = entry.read(got)
    oracle.check(right, replace(problem, case=case), loss, grad, device.double)
    del got, grad
    entry.before()
    memory = device.memory(entry.call)
    second = device.seconds(entry.call, entry.before)[0]
    return Timed(name, entry.call, first, second, device=device, before=entry.before, memory=memory)


def enter_rival(
    rival: Rival, entries: Entries, case: Question, problem: Problem, right: oracle.Answer,
    device: Any,
) -> Timed | str:  # fmt: skip
    """A rival that agrees, or why it is not timed."""
    try:
        found = enter(rival.name, entries(case), case, problem, right, device)
    except oracle.Disagreement as wrong:
        return f"does not agree: {wrong}"
    except Exception as error:  # theirs, whatever it is: named, and the run goes on
        return f"{type(error).__name__}: {(str(error).strip() or '?').splitlines()[0]}"
    if found.second > PATIENCE:
        return f"takes {found.second:.1f} s a call"
    found.rival = True
    return found


def prepared(
    rivals: list[Rival], problem: Problem, device: Any, late: Callable[[], bool]
) -> tuple[dict[str, Entries], dict[str, str]]:
    """Who takes part in these arrays, and why others do not."""
    found: dict[str, Entries] = {}
    skipped: dict[str, str] = {}
    case, room = problem.case, device.free()
    for rival in () if case.alone else rivals:
        needed = rival.memory(case) * case.arrays.logits_bytes
        why = rival.refuses(case)
        if why is None and needed > room:
            why = f"needs some {needed / 1e9:.0f} GB"
        if why is None and rival.compiles and late():
            why = "no time left to compile it"
        if why is not None:
            skipped[rival.name] = why
            continue
        room -= needed
        try:
            found[rival.name] = rival.prepare(problem, device)
        except Exception as error:  # theirs
            skipped[rival.name] = f"{type(error).__name__}: {(str(error) or '?').splitlines()[0]}"
    return found, skipped


def copying(problem: Problem, device: Any) -> tuple[str, Timed]:
    """The faster way to copy the logits."""
    tried = {}
    for way, call in device.copies(problem.logits, problem.grad).items():
        first = device.first(call)[0]
        second = min(device.seconds(call, nothing)[0] for _ in range(5))
        tried[way] = Timed("copy", call, first, second, device=device)
    best = min(tried, key=lambda way: tried[way].second)
    return best, tried[best]


def answer(problem: Problem, device: Any) -> oracle.Answer:
    """What is right, where it is compared."""
    right = oracle.answer(problem)
    return replace(right, grad=device.put(right.grad))


def answer_for(right: oracle.Answer, case: Question) -> oracle.Answer:
    """The gradient is asked for times the upstream gradient."""
    return replace(right, grad=right.grad * case.upstream)


def measured(
    questions: list[Question], rivals: list[Rival], effort: Effort, device: Any,
    late: Callable[[], bool] = lambda: False, tell: Callable[[str], None] = lambda _: None,
) -> Iterator[Record]:  # fmt: skip
    """The rows of the table about one set of arrays; Disagreement if fusedce itself is wrong."""
    questions = [divided(case, effort.shrink) for case in questions]
    size = questions[0].arrays.logits_bytes
    if ROOM * size > device.free():
        for case in questions:
            why = f"needs some {ROOM * size / 1e9:.0f} GB"
            yield {"case": case.name, "title": case.title, "group": case.group, "left_out": why}
        return
    tell("arrays and oracle")
    whole = replace(questions[0], loss=questions[0].problem[1])
    problem = data.make(whole, device)
    right = answer(problem, device)
    entries, skipped = prepared(rivals, problem, device, late)
    mine = ours(problem, device)
    for case in questions:
        start = time.perf_counter()
        wanted, refused = answer_for(right, case), dict(skipped)
        tell("fusedce")
        contenders = [enter(OURS, mine(case), case, problem, wanted, device)]
        way, copy = copying(problem, device)
        contenders.append(copy)
        for rival in (r for r in rivals if r.name in entries):
            tell(f"{rival.name}: first call")
            found = enter_rival(rival, entries[rival.name], case, problem, wanted, device)
            if isinstance(found, str):
                refused[rival.name] = found
            else:
                contenders.append(found)
        tell("taking turns")
        measure.take_turns(list(contenders), effort)
        record = summarize(case, contenders, {r.name for r in rivals})
        seconds = round(time.perf_counter() - start, 1)
        yield record | {"floor_ways": {"copy": way}, "skipped": refused, "seconds": seconds}
        del contenders
    gc.collect()
    device.release()


def summarize(case: Question, contenders: list[Timed], rivals: set[str]) -> Record:
    """Figures as on the CPU, the shares of the copy's bandwidth, and the bars."""
    record = measure.summarize(case, list(contenders), rivals)
    del record["times_faster_new_output"]
    moved = sum(record["bytes"].values())
    copied = 2 * case.arrays.logits_bytes / record["ms"]["copy"]["p50"]
    shares = {name: moved / ms["p50"] / copied for name, ms in record["ms"].items()}
    record["of_copy"] = {name: round(share, 3) for name, share in shares.items() if name != "copy"}
    values = {"copy": record["of_copy"][OURS]} | record["times_faster"]
    record["bars"] = {}
    for of, bar in bars(case).items():
        value = values.get(of)
        met = None if value is None else value >= bar
        record["bars"][of] = {"bar": bar, "value": value, "met": met}
    return record
