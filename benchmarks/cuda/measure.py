"""Timing on a GPU: results are compared with the oracle first, then all are sampled in turns.

A sample is one call after the L2 cache was flushed, between two events; compilation and the first
calls come before. What a rival does on the host while the device is idle is part of its time.
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
from benchmarks.cuda.device import nothing
from benchmarks.cuda.rivals import Entry, ours
from benchmarks.data import Problem
from benchmarks.measure import OURS, Contender, Effort, left_out
from benchmarks.results import Record
from benchmarks.rivals import Call, Rival
from benchmarks.screen import Tell

Entries = Callable[[Question], Entry]
PATIENCE = 1.0  # seconds for one call of a rival
LOGITS_ARRAYS = 4.0  # arrays of the size of the logits that a case needs


@dataclass
class Timed(Contender):
    """A call that is timed by events on the device."""

    device: Any = None
    before: Call = nothing
    memory: int | None = None
    host: list[float] = field(default_factory=list)

    def begin(self) -> tuple[float, Any]:
        """Seconds of the first call on the host's clock, and what it returned."""
        self.before()
        found: tuple[float, Any] = self.device.first(self.call)
        return found

    def seconds(self) -> float:
        """Seconds of a later call."""
        return float(self.device.seconds(self.call, self.before)[0])

    def plan(self, effort: Effort) -> None:
        """Fix the rounds; a sample is one call."""
        super().plan(effort)
        self.repeats = 1

    def sample(self) -> None:
        """Time one call."""
        seconds, host = self.device.seconds(self.call, self.before)
        self.times.append(seconds)
        self.host.append(host)

    def summary(self) -> Record:
        """As on the CPU, and the microseconds for which the call occupies the host."""
        record = super().summary() | {"host_us": round(1e6 * float(np.median(self.host)), 1)}
        return record if self.memory is None else record | {"memory_mb": round(self.memory / 1e6)}


@dataclass(frozen=True)
class Setting:
    """The arrays of some questions on a device, and the right answer to them."""

    problem: Problem
    expected: oracle.Answer
    device: Any

    def enter(self, name: str, entry: Entry, case: Question) -> Timed:
        """Call an entry and compare the result with the oracle's; Disagreement if it is wrong."""
        problem, device = replace(self.problem, case=case), self.device
        expected = answer_for(self.expected, case)
        if case.loss.grad:
            device.poison(problem.logits.nbytes)
        found = Timed(name, entry.call, device=device, before=entry.before)
        found.enter(lambda got: oracle.check(expected, problem, *entry.read(got), device.double))
        entry.before()
        found.memory = device.memory(entry.call)
        return found


def make(case: Question, device: Any) -> Setting:
    """The arrays of a case, and the oracle's answer to loss and gradient, on the device."""
    problem = data.make(replace(case, loss=case.problem[1], upstream=1.0), device)
    expected = oracle.answer(problem)
    return Setting(problem, replace(expected, grad=device.put(expected.grad)), device)


def prepared(
    rivals: list[Rival], setting: Setting, late: Callable[[], bool]
) -> tuple[dict[str, Entries], dict[str, str]]:
    """The rivals that are timed on these arrays, and why the others are not."""
    found: dict[str, Entries] = {}
    skipped: dict[str, str] = {}
    case, room = setting.problem.case, setting.device.free()
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
            found[rival.name] = rival.prepare(setting.problem, setting.device)
        except Exception as error:  # whatever a rival raises is recorded, and the run goes on
            skipped[rival.name] = measure.why(error)
    return found, skipped


def answer_for(expected: oracle.Answer, case: Question) -> oracle.Answer:
    """The gradient of a question is multiplied by its upstream gradient."""
    return replace(expected, grad=expected.grad * case.upstream)


def measured(
    questions: list[Question], rivals: list[Rival], effort: Effort, device: Any,
    late: Callable[[], bool] = lambda: False, tell: Tell = lambda what: None,
) -> Iterator[Record]:  # fmt: skip
    """The rows of the table about one set of arrays; Disagreement if fusedce itself is wrong."""
    questions = [divided(case, effort.shrink) for case in questions]
    needed = LOGITS_ARRAYS * questions[0].arrays.logits_bytes
    if needed > device.free():
        yield from (left_out(case, f"needs some {needed / 1e9:.0f} GB") for case in questions)
        return
    tell("arrays and oracle")
    setting = make(questions[0], device)
    entries, refused = prepared(rivals, setting, late)
    mine = ours(setting.problem, device)
    for case in questions:
        start = time.perf_counter()
        tell("fusedce")
        fused = setting.enter(OURS, mine(case), case)
        copies = device.copies(setting.problem.logits, setting.problem.grad)
        ways = {way: Timed("copy", call, device=device) for way, call in copies.items()}
        way, copy = measure.fastest(ways)

        def enter(rival: Rival, case: Question = case) -> Timed:
            return setting.enter(rival.name, entries[rival.name](case), case)

        others = [rival for rival in rivals if rival.name in entries]
        found, skipped = measure.admit(others, enter, tell, PATIENCE)
        contenders = [fused, copy, *found]
        measure.take_turns(contenders, effort)
        record = summarize(case, contenders, {r.name for r in rivals})
        seconds = round(time.perf_counter() - start, 1)
        skipped = refused | skipped
        yield record | {"floor_ways": {"copy": way}, "skipped": skipped, "seconds": seconds}
        del fused, contenders, copies, ways, copy, found
    gc.collect()
    device.release()


def summarize(case: Question, contenders: list[Contender], rivals: set[str]) -> Record:
    """Figures as on the CPU, the shares of the copy's bandwidth, and the bars."""
    record = measure.summarize(case, contenders, rivals)
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
