"""Calls of every kernel family compared with a float64 oracle: ``python3 -m tests.device.smoke``.

Each family runs in its own process, because after a sticky CUDA error every later call in a process
fails: the calls after it are made in a new process. No CPU kernel is compiled; the oracle computes
one block of rows, and a large array repeats that block. Each call is made twice: the second one is
replayed by fusedce/backends/cuda_replay.py and must give the same bits.

SMOKE_LOG: a file that gets one line per call. STAGE_SECONDS: the time limit. SMOKE_JOBS: the number
of parallel processes.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tests.core.test_losses import make
from tests.cuda.gpu import OnGpu
from tests.device.smoke_cases import FAMILIES, Case, cases
from tests.reference import reference

BAR = {"float64": 1e-11, "float32": 2e-5, "float16": 2.0**-10, "bfloat16": 2.0**-7}  # relative
SMALLEST = {"float64": 1e-300, "float32": 1e-37, "float16": 2.0**-23, "bfloat16": 1e-37}
LEAVE = 5  # seconds before the stage ends
DEATHS = 3  # the number of crashed processes after which the other calls of a family are left out


# --------------------------------------------------------------------- the oracle


def wide_float(a):
    """The stored numbers, as longdouble."""
    return a.astype(np.float64).astype(np.longdouble)


def activated(name, z, axis):
    """softmax, sigmoid or their logarithms, in longdouble."""
    z = wide_float(z)
    log = -np.logaddexp(0, -z) if name.endswith("sigmoid") else log_softmax(z, axis)
    return log if name.startswith("log") else np.exp(log)


def log_softmax(z, axis):
    moved = z - z.max(axis=axis, keepdims=True)
    return moved - np.log(np.exp(moved).sum(axis=axis, keepdims=True))


def cross_entropy(z, t, axis):
    """(sum of losses, gradient) for class indices or soft labels, in time linear in the classes."""
    if t.ndim < z.ndim:
        classes = np.arange(z.shape[axis]).reshape(-1, *(1,) * (z.ndim - axis - 1))
        t = np.expand_dims(t, axis) == classes
    log, t = log_softmax(wide_float(z), axis), wide_float(t)
    return -(t * log).sum(), np.exp(log) * t.sum(axis=axis, keepdims=True) - t


def right_results(case: Case, z, t, weight):
    """(loss of all blocks, gradient of one block); most are computed by tests/reference.py."""
    family, times = case.family, case.size.times
    if (family.function, family.activation, family.options) == ("cross_entropy", "softmax", {}):
        loss, grad = cross_entropy(z, t, family.axis)
    else:
        options = case.options(weight)
        numbers = {k: options.pop(k) for k in family.numbers if k != "alpha"}
        loss, grad, *_ = reference((family.function, numbers), z, t, **options)
    return (loss * times, grad) if case.reduction == "sum" else (loss, grad / times)


# --------------------------------------------------------------------- one call


def repeated(a, times):
    """The array repeated ``times`` times along its first axis."""
    return np.tile(a, (times, *(1,) * (a.ndim - 1)))


def distance(ours, right, dtype):
    """The largest error divided by its tolerance; infinite for NaN."""
    ours, right = np.asarray(ours, np.float64), np.asarray(right, np.float64)
    room = BAR[dtype] * (abs(right) + 1e-3 * abs(right).max()) + SMALLEST[dtype]
    far = abs(ours - right) / room
    return float(np.where(np.isnan(far), np.inf, far).max())


def same_bits(a, b):
    return all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(a, b, strict=True)
    )


def check(gpu, case: Case):
    """(largest error divided by its tolerance, seconds of two calls)."""
    family, (block, times) = case.family, case.size
    rng = np.random.default_rng(block[-1])
    form = family.targets or "index"
    activation = family.activation if family.targets else "softmax"
    z, t = make(activation, form, case.dtype, block, rng, family.axis)
    weight = rng.integers(1, 9, block[family.axis]) / 4 if "weight" in family.options else None
    logits, targets = repeated(z, times), repeated(t, times)
    start = time.perf_counter()
    first, second = (case.call(logits, targets, weight, gpu) for _ in range(2))
    seconds = time.perf_counter() - start
    if not family.targets:
        first, second = (first,), (second,)
    assert same_bits(first, second), "two runs differ"
    grad = first[-1]
    blocks = np.ascontiguousarray(grad).reshape(times, -1).view(np.uint8)
    assert (blocks == blocks[:1]).all(), "equal rows have different results"
    if not family.targets:
        right = activated(family.function, z, family.axis)
        return distance(grad[: len(z)], right, case.dtype), seconds
    loss, slope = right_results(case, z, t, weight)
    kind = "float64" if case.dtype == "float64" else "float32"
    errors = distance(first[0], loss, kind), distance(grad[: len(z)], slope, case.dtype)
    return max(errors), seconds


# --------------------------------------------------------------------- processes


def in_this_process(name, first):
    """Make the calls of a family from number ``first`` on, a line each, until a CUDA error."""
    gpu = OnGpu(importlib.import_module("cupy"))
    for k, case in enumerate(cases(name)[first:], first):
        try:
            error, seconds = check(gpu, case)
            verdict = "ok " if error <= 1 else "BAD"
            said = f"{verdict} {error:.2g} of the bar, {1e3 * seconds:.0f} ms"
        except BaseException as error:
            said = f"ERR {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        print(f"{k}\t{case}: {said}", flush=True)
        if said.startswith("ERR") and "cuda" in said.lower():
            return


def run_family(name, end):
    """The lines of all calls; after a call that crashes its process, a new one makes the rest."""
    lines, first, number, deaths = [], 0, len(cases(name)), 0
    while first < number:
        left = end - time.perf_counter()
        if left < 1 or deaths == DEATHS:
            why = "no time left" if left < 1 else f"{DEATHS} processes died"
            return [*lines, f"{name}: ERR {number - first} calls left out, {why}"]
        command = [sys.executable, "-m", "tests.device.smoke", name, str(first)]
        try:
            done = subprocess.run(
                command, text=True, capture_output=True, timeout=left, check=False
            )
            output, said, code = done.stdout, done.stderr, done.returncode
        except subprocess.TimeoutExpired as error:
            output, said, code = (error.stdout or b"").decode(), "", 0
        found = [line.split("\t", 1) for line in output.splitlines() if "\t" in line]
        lines += [text for _, text in found]
        done_before, first = first, int(found[-1][0]) + 1 if found else first
        if code or first == done_before:
            deaths += 1
            if code:
                last = (said.strip().splitlines() or ["no word"])[-1]
                lines.append(f"{name}, call {first}: ERR the process died ({code}): {last[-200:]}")
                first += 1
    return lines


def main():
    """Run all families, or those named on the command line; returns the exit status."""
    end = time.perf_counter() + float(os.environ.get("STAGE_SECONDS", "60")) - LEAVE
    jobs = int(os.environ.get("SMOKE_JOBS", min(14, os.cpu_count() or 1)))
    names = sys.argv[1:] or list(FAMILIES)
    right = 0
    with ThreadPoolExecutor(jobs) as pool:
        tasks = {name: pool.submit(run_family, name, end) for name in names}
        for name, task in tasks.items():
            lines = task.result()
            wrong = [line for line in lines if ": ok " not in line]
            right += len(lines) - len(wrong)
            print(f"{name}: {len(lines) - len(wrong)} of {len(cases(name))} ok", flush=True)
            for line in wrong:
                print(f"    {line}", flush=True)
            if path := os.environ.get("SMOKE_LOG"):
                with open(path, "a") as file:
                    file.writelines(f"{line}\n" for line in lines)
    total = sum(len(cases(name)) for name in names)
    print(f"smoke: {right} of {total} ok")
    return right != total


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[2].isdigit():
        in_this_process(sys.argv[1], int(sys.argv[2]))
    else:
        sys.exit(main())
