"""Which launch sizes are the fastest on this GPU: ``python -m benchmarks --device cuda --sweep``.

Each size of kernels/tuning.py is set to every candidate while the others stay. The candidates are
timed in one order and then in the reverse order, so that a drift of the clock affects all equally.
A candidate is timed after its result was compared with the oracle's.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.cuda import cases, device
from benchmarks.cuda.cases import Question
from benchmarks.cuda.measure import Setting, make
from benchmarks.cuda.rivals import ours
from benchmarks.measure import OURS
from benchmarks.screen import say
from fusedce.backends import cpu_replay
from fusedce.kernels import tuning

RUNS = 7  # of each candidate in each of the two orders
Times = dict[Any, float]  # candidate -> seconds


@dataclass(frozen=True)
class Size:
    """A name in kernels/tuning.py, its candidates, and the cases that depend on it."""

    name: str
    values: tuple[Any, ...]
    patterns: tuple[str, ...]

    def concerns(self, case: Question) -> bool:
        """Whether the case depends on it."""
        return any(fnmatch(case.name, pattern) for pattern in self.patterns)

    @property
    def now(self) -> Any:
        """The value in kernels/tuning.py."""
        return getattr(tuning, self.name)


def _size(name: str, values: tuple[int, ...], *shapes: str) -> Size:
    """A size, timed on loss and gradient; one without a dtype means bfloat16 and float32."""
    patterns = [s if "-" in s else f"{s}-{d}" for s in shapes for d in ("bfloat16", "float32")]
    return Size(name, values, tuple(f"{pattern}-gradient" for pattern in patterns))


NARROW = "65536x1000", "1000000x80"
WIDE = "8192x128256", "16384x32000-float32"
SIZES = (
    _size("GPU_THREADS", (128, 256, 512), *NARROW, "focal", "bce"),
    _size("GPU_LANES_THREADS", (64, 128, 256, 512), "images"),
    _size("GPU_REGISTERS_LANES", (8, 16, 32), *NARROW, "4096x4096", "16384x32000-bfloat16"),
    _size("GPU_REGISTERS_THREADS", (128, 256, 512, 1024), "4096x4096", "16384x32000"),
    _size("GPU_SHARED_THREADS", (256, 512, 1024), *WIDE),
    _size("GPU_SHARED_BYTES", (32 << 10, 64 << 10, 128 << 10), *WIDE),
    _size("GPU_CLUSTER_MAX", (1, 2, 4, 8), "8192x128256"),
    _size("GPU_LANE_CLASSES", (16, 32, 64), "images"),
    _size("GPU_FLAT_WORDS", (4, 8, 16), "focal", "bce"),
    _size("GPU_LABELS", (1 << 14, 1 << 16, 1 << 18), *NARROW, "images"),
)


@contextmanager
def sized(name: str, value: Any) -> Iterator[None]:
    """Run with another size; prepared calls are dropped before and after."""
    before = getattr(tuning, name)
    setattr(tuning, name, value)
    cpu_replay._PREPARED.clear()
    try:
        yield
    finally:
        setattr(tuning, name, before)
        cpu_replay._PREPARED.clear()


def timed(size: Size, case: Question, setting: Setting) -> tuple[Times, dict[Any, str]]:
    """Median seconds of each candidate, and why some have none."""
    samples: dict[Any, list[float]] = {}
    failed: dict[Any, str] = {}
    for value in (*size.values, *reversed(size.values)):
        if value in failed:
            continue
        with sized(size.name, value):
            try:
                entry = ours(setting.problem, setting.device)(case)
                contender = setting.enter(OURS, entry, case)
                for _ in range(RUNS):
                    contender.sample()
            except Exception as error:  # too many registers, too much shared memory, wrong numbers
                failed[value] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                continue
        samples.setdefault(value, []).extend(contender.times)
    medians = {v: float(np.median(t)) for v, t in samples.items() if v not in failed}
    return medians, failed


def tell(
    console: Console, size: Size, case: Question, times: Times, failed: dict[Any, str]
) -> None:
    """One line: every candidate in milliseconds, the fastest marked."""
    best = min(times, key=lambda value: times[value], default=None)
    words = [f"{v}: {1e3 * t:.4g}{' *' if v == best else ''}" for v, t in times.items()]
    words += [f"{value}: {why}" for value, why in failed.items()]
    say(console, f"{size.name:24} {case.title:28} {', '.join(words)}")


def losses(found: list[Times]) -> dict[Any, float]:
    """How much slower than the best of each case a candidate is, as a geometric mean."""
    common = set.intersection(*(set(times) for times in found))
    logs = {v: [np.log(times[v] / min(times.values())) for times in found] for v in common}
    return {v: float(np.expm1(np.mean(logs[v]))) for v in logs}


def conclude(console: Console, found: dict[Size, list[Times]]) -> None:
    """Print for each size the best candidate over all cases, and how slow the present one is."""
    for size, rows in found.items():
        means = losses(rows)
        if not means:
            say(console, f"{size.name}: no candidate ran in every case")
            continue
        best = min(means, key=lambda value: means[value])
        now = f"{100 * means[size.now]:.1f}%" if size.now in means else "unknown"
        say(
            console,
            f"{size.name} = {best}: {100 * means[best]:.1f}% above the best of each case, over "
            f"{len(rows)} cases; at present {size.now}: {now}",
        )  # fmt: skip


def main(console: Console, shrink: int, seconds: float) -> int:
    """Time all sizes until the seconds are over; the exit status."""
    gpu = device.find()
    found: dict[Size, list[Times]] = {}
    end = time.perf_counter() + seconds
    questions = [c for c in cases.CASES if any(size.concerns(c) for size in SIZES)]
    for group in cases.by_problem(questions):
        if time.perf_counter() > end:
            say(console, f"no time left: {', '.join(c.title for c in group)}")
            continue
        setting = make(cases.divided(group[0], shrink), gpu)
        for case in group:
            for size in (s for s in SIZES if s.concerns(case)):
                times, failed = timed(size, case, setting)
                tell(console, size, case, times, failed)
                if times:
                    found.setdefault(size, []).append(times)
        del setting
        gpu.release()
    conclude(console, found)
    return 0
