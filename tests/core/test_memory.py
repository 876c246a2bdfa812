"""Calls need little temporary memory: their peak is below 5% of the logits, without the outputs.

The peak is VmHWM of a subprocess, reset before each case. Each case first runs on a few rows, so
that compilation is not measured; outputs that the call allocates are subtracted.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 0.05

CHILD = """
import json, sys
import numpy as np
import fusedce

SIZE = 200e6  # bytes of logits
rng = np.random.default_rng(0)


def status(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) * 1024


def logits(C, dtype=np.float32, order="C", step=1):
    rows = int(SIZE) // (C * np.dtype(dtype).itemsize)
    full = np.empty((rows * step, C), dtype, order=order)
    full[...] = rng.normal(size=C).astype(dtype)
    return full[::step]


def index(z, dtype=np.int64):
    return (np.arange(len(z)) % z.shape[1]).astype(dtype)


def labels(z, dtype):
    y = np.zeros(z.shape, dtype)
    y[::3] = 1
    return y


def like(z, value=0):
    return np.full_like(z, value)


def per_row(z):
    return np.linspace(0.5, 2.0, len(z)).astype(np.float32)


def softmax_rows():
    z = logits(1000)
    return fusedce.cross_entropy, z, index(z), dict(grad_out=like(z))

def softmax_fresh_gradient():
    z = logits(1000)
    return fusedce.cross_entropy, z, index(z), {}

def softmax_loss_alone():
    z = logits(1000)
    return fusedce.cross_entropy, z, index(z), dict(return_grad=False)

def softmax_unreduced():
    z = logits(1000)
    return fusedce.cross_entropy, z, index(z), dict(grad_out=like(z), reduction="none")

def in_place():
    z = logits(1000)
    return fusedce.cross_entropy, z, index(z), dict(grad_out=z)

def hessian():
    z = logits(1000)
    return fusedce.cross_entropy, z, index(z), dict(grad_out=like(z), hess_out=like(z),
                                                    return_hessian=True)

def few_classes():
    z = logits(10)
    return fusedce.cross_entropy, z, index(z), dict(grad_out=like(z))

def few_classes_weighted():
    z = logits(10)
    return fusedce.focal, z, index(z), dict(
        activation="softmax", grad_out=like(z), weight=np.linspace(1, 2, 10), label_smoothing=0.1,
        sample_weight=per_row(z))

def one_very_wide_row():
    z = logits(int(SIZE) // 4)
    return fusedce.cross_entropy, z, index(z), dict(grad_out=like(z))

def distribution():
    z = logits(1000)
    return fusedce.cross_entropy, z, like(z, 1e-3), dict(grad_out=like(z))

def distribution_normalized():
    z = logits(10)
    return fusedce.cross_entropy, z, labels(z, np.float32), dict(
        grad_out=like(z), normalize_targets=True)

def weights():
    z = logits(1000)
    return fusedce.cross_entropy, z, index(z), dict(
        grad_out=like(z), weight=np.linspace(1, 2, 1000), sample_weight=per_row(z))

def class_axis_first():
    z = np.ascontiguousarray(logits(100).T)
    return fusedce.cross_entropy, z, np.arange(z.shape[1]) % 100, dict(grad_out=like(z), axis=0)

def sigmoid_float():
    z = logits(80)
    return fusedce.focal, z, labels(z, np.float32), dict(grad_out=like(z))

def sigmoid_uint8():
    z = logits(80)
    return fusedce.focal, z, labels(z, np.uint8), dict(grad_out=like(z), alpha=0.25)

def sigmoid_index():
    z = logits(80)
    return fusedce.focal, z, index(z, np.int32), dict(grad_out=like(z))

def sigmoid_weights():
    z = logits(80)
    return fusedce.binary_cross_entropy, z, labels(z, np.int64), dict(
        grad_out=like(z), weight=np.linspace(1, 2, 80), pos_weight=np.linspace(1, 3, 80),
        sample_weight=per_row(z))

def half():
    z = logits(1000, np.float16)
    return fusedce.cross_entropy, z, index(z), dict(grad_out=like(z))

def half_sigmoid():
    z = logits(80, np.float16)
    return fusedce.focal, z, labels(z, bool), dict(grad_out=like(z))

def strided():
    z = logits(1000, step=2)
    return fusedce.cross_entropy, z, index(z), dict(grad_out=like(z))

def strided_sigmoid():
    z = logits(80, step=2)
    return fusedce.focal, z, labels(z, np.uint8), dict(grad_out=like(z))

def fortran():
    z = logits(100, order="F")
    return fusedce.cross_entropy, z, index(z), dict(grad_out=like(z))

def fortran_sigmoid():
    z = logits(80, order="F")
    return fusedce.focal, z, labels(z, np.uint8), dict(grad_out=like(z))

def reversed_classes():
    z = logits(1000)[:, ::-1]
    return fusedce.cross_entropy, z, index(z), dict(grad_out=like(z))

def probabilities():
    z = logits(80)
    z[...] = 0.25
    return fusedce.cross_entropy, z, labels(z, np.float32), dict(activation=None, grad_out=like(z))

def probability_rows():
    z = logits(1000)
    z[...] = 1e-3
    return fusedce.cross_entropy, z, index(z), dict(activation=None, grad_out=like(z))

def softmax_itself():
    z = logits(1000)
    return fusedce.softmax, z, None, dict(out=like(z))


def few(array, z):  # the same arrays, a few rows long
    rows = z.shape.index(max(z.shape)) if isinstance(array, np.ndarray) else 0
    if not isinstance(array, np.ndarray) or max(z.shape) not in array.shape or len(z) == 1:
        return array
    return array[tuple(slice(64) if n == max(z.shape) else slice(None) for n in array.shape)]


def measure(case):
    fn, z, y, options = case()
    targets = () if y is None else (y,)
    short = {k: few(v, z) for k, v in options.items()}
    fn(few(z, z), *(few(t, z) for t in targets), **short)
    if len(z) > 1:
        fn(*(a[tuple(slice(4096) for _ in a.shape)] for a in (z, *targets)),
           **{k: v[tuple(slice(4096) for _ in v.shape)] if isinstance(v, np.ndarray) else v
              for k, v in options.items()})
    before = status("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")
    result = fn(z, *targets, **options)
    peak = status("VmHWM")
    given = [v for v in options.values() if isinstance(v, np.ndarray)]
    made = [r for r in (result if isinstance(result, tuple) else (result,))
            if isinstance(r, np.ndarray) and not any(r is g for g in given)]
    return (peak - before - sum(r.nbytes for r in made)) / z.nbytes


print(json.dumps({name: measure(globals()[name]) for name in sys.argv[1:]}))
"""

CASES = [
    line[4:-3] for line in CHILD.splitlines() if line.startswith("def ") and line[-3:] == "():"
]
COPYING = """
def copying():
    z = logits(1000)
    return (lambda a, b: (a * np.float32(2)).sum()), z, index(z), {}
"""

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc"
)


@pytest.fixture(scope="module")
def above():
    """Fixture: {case: peak memory beyond inputs and outputs, as a fraction of the logits}."""
    code = CHILD.replace("\nprint(json", COPYING + "\nprint(json")
    done = subprocess.run(
        [sys.executable, "-c", code, *CASES, "copying"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow(reason="every call, on 200 MB of logits")
@needs_proc
@pytest.mark.parametrize("case", CASES)
def test_peak_memory(case, above):
    assert above[case] < LIMIT, f"{above[case]:.1%} of the logits"


@pytest.mark.slow(reason="the same measurement")
@needs_proc
def test_the_measure_sees_a_temporary(above):
    """The measurement shows one temporary for a function that makes one copy of its logits."""
    assert 0.9 < above["copying"] < 1.1
