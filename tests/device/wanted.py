"""The kernels that the checks on a GPU will launch, found on a machine without one.

``python -m tests.device.wanted FILE [JOBS]`` writes one line of JSON per kernel, the most important
first: those of the first calls, the smoke test, the small run under the sanitizer, the benchmark,
the tests (those launched most often first), the sweep, and ``fusedce warmup``. The same calls are
made with arrays that have a layout and no memory, and their launches are recorded.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np

import fusedce
from fusedce.backends import array_libraries, cpu_replay
from fusedce.kernels.cache import ours
from fusedce.kernels.cuda.kernel_args import Facts
from tests.core.test_losses import DTYPES
from tests.device import names
from tests.device.recorder import LIBRARY, Recorded

TESTS = [f"tests/cuda/test_gpu{name}.py" for name in ("", "_suite", "_numbers", "_torch")]


def launched(calls):
    """(kernel, threads of a block) of every launch, once each."""
    found = {}

    def launch(_, launches, *__):
        found.update(dict.fromkeys((each.kernel, each.threads) for each in launches))

    instead = {"LIBRARIES": (LIBRARY,), "launch": launch, "facts": lambda device: Facts()}
    with mock.patch.multiple(array_libraries, **instead):
        for call in calls():
            call()
    cpu_replay._PREPARED.clear()  # useless for calls with real arrays
    return list(found)


def array(shape, dtype):
    """An array without memory, C-contiguous and aligned."""
    return LIBRARY.empty(tuple(shape), dtype)


def without(shape, axis):
    """The shape of the class indices for logits of this shape."""
    axis %= len(shape)
    return shape[:axis] + shape[axis + 1 :]


def facts():
    from tests.device.facts import CLUSTER, FIRST

    for shape, dtype in (FIRST, CLUSTER):
        z, t = array(shape, DTYPES[dtype]), array(shape[:1], np.int64)
        yield lambda z=z, t=t: fusedce.cross_entropy(z, t)


def smoke():
    from tests.device.smoke_cases import FAMILIES, cases

    for case in (case for name in FAMILIES for case in cases(name)):
        family, shape = case.family, case.shape
        z = array(shape, DTYPES[case.dtype])
        index = family.targets == "index"
        t = array(without(shape, family.axis) if index else shape,
                  np.float64 if family.targets == "soft" else np.int64)  # fmt: skip
        weight = array(shape[family.axis : family.axis + 1], np.float64)
        yield lambda case=case, z=z, t=t, weight=weight: case.call(z, t, weight)


def sanitized():
    from tests.cuda import sanitized as script

    gpu = Recorded(None)
    for _, logits, targets, _, options in script.cases():
        yield lambda z=logits, t=targets, more=options: gpu.focal(z, t, **more)


def benchmark():
    from benchmarks.cuda import cases

    for case in cases.CASES:
        yield asked(case)


def sweep():
    from benchmarks.cuda import cases
    from benchmarks.cuda.sweep import SIZES, sized

    for size in SIZES:
        for case in filter(size.concerns, cases.CASES):
            for value in size.values:
                with sized(size.name, value):
                    yield asked(case)


def asked(case):
    """One call of the benchmark."""
    a, more = case.arrays, {}
    z = array(a.shape, DTYPES[a.dtype])
    index = a.targets == "index"
    t = array(without(a.shape, a.axis) if index else a.shape,
              np.int64 if index else DTYPES[a.targets])  # fmt: skip
    if case.upstream != 1:
        more["denominator"] = array((), np.float32)
    return lambda: case.loss(z, t, None, a.axis, **more)


def warmup():
    from fusedce.tools import warmup, warmup_cuda

    for step in warmup.steps():
        for LIBRARY.columns, shapes in ((False, warmup_cuda.ROWS), (True, warmup_cuda.COLUMNS)):
            yield lambda step=step, shapes=shapes: step.run(LIBRARY.full, shapes)


def written(kernels):
    """The kernels as JSON can hold them, except those of users' rules, which are never cached."""
    return [names.written(kernel, threads) for kernel, threads in kernels
            if ours(kernel.factory, *kernel.types)]  # fmt: skip


def tests(jobs):
    """The kernels of the GPU tests, most frequent first; nothing is computed or compared."""
    command = [sys.executable, "-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider",
               "-p", "tests.device.recorder", "--assert=plain", "--tb=line", *TESTS]  # fmt: skip
    with contextlib.suppress(ImportError):
        import xdist  # noqa: F401

        command += ["-n", str(jobs)]
    counts = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"PYTHONOPTIMIZE": "1", "RECORD": folder}
        done = subprocess.run(command, env=env, check=False, text=True, capture_output=True)
        print("tests with nothing computed:", done.stdout.strip().rsplit("\n", 1)[-1])
        for path in Path(folder).iterdir():
            for line in path.read_text().splitlines():
                *kernel, number = json.loads(line)
                counts[json.dumps(kernel)] += number
    if not counts:
        raise SystemExit(f"no launch of a test was noted: {(done.stdout + done.stderr)[-3000:]}")
    return [json.loads(kernel) for kernel, _ in counts.most_common()]


def main():
    path, jobs = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    found, number = {}, {}
    for name in ("facts", "smoke", "sanitized", "benchmark", "tests", "sweep", "warmup"):
        before = len(found)
        kernels = tests(jobs) if name == "tests" else written(launched(globals()[name]))
        found |= dict.fromkeys(map(json.dumps, kernels))
        number[name] = len(found) - before
    path.write_text("".join(f"{line}\n" for line in found))
    print(f"{len(found)} kernels:", ", ".join(f"{k} {n}" for k, n in number.items()))


if __name__ == "__main__":
    main()
