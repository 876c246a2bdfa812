"""Make a few small calls on a GPU, for compute-sanitizer.

The results are compared with the CPU's. Run it once without the sanitizer
before, so that every kernel comes from the cache folder. Arrays are allocated
one by one, without a memory pool, so that a byte past the end belongs to no
array.

Writes: compiled kernels into the cache folder.
Takes:  not measured on a GPU yet; --host seconds, and the first compilation.

For example:
  compute-sanitizer --tool memcheck python -m tests.cuda.sanitized
"""

from __future__ import annotations

import itertools
import sys

import numpy as np

import fusedce
from fusedce.tools.command_line import Parser
from tests.core.test_losses import DTYPES, make
from tests.cuda.gpu import OnGpu, missing

# Rows for a warp, for a block, in shared memory, read twice or by a cluster; both ends unaligned.
SHAPES = [((5, 7), 1), ((33, 100), 1), ((3, 1023), 1), ((2, 9001), 1), ((2, 70_001), 1),
          ((2, 130_003), 1), ((2, 5, 133), 1), ((2, 300, 3), 1)]  # fmt: skip
FORMS = [("softmax", "index"), ("softmax", "soft"), ("sigmoid", "index"), ("sigmoid", "soft")]
BAR = {"float32": 1e-4, "bfloat16": 1e-2}


def cases():
    """(logits, an unaligned copy of them, targets, dtype, options) of every call."""
    for (shape, axis), dtype, (activation, form) in itertools.product(SHAPES, BAR, FORMS):
        z, t = make(activation, form, dtype, shape, np.random.default_rng(0), axis)
        some = np.ones(1 + z.size, DTYPES[dtype])[1:].reshape(shape)
        some[...] = z
        for more in ({}, {"reduction": "none", "weight": np.arange(1.0, 1 + shape[axis])}):
            yield z, some, t, dtype, {"activation": activation, "axis": axis} | more


def on_the_gpu():
    if why := missing():
        sys.exit(why)
    import cupy

    cupy.cuda.set_allocator(None)
    gpu, calls = OnGpu(cupy), 0
    for z, some, t, dtype, options in cases():
        got, want = gpu.focal(some, t, **options), fusedce.focal(z, t, **options)
        for a, b in zip(got, want, strict=True):
            a, b = np.asarray(a, float), np.asarray(b, float)
            np.testing.assert_allclose(a, b, BAR[dtype], BAR[dtype] * abs(b).max())
        calls += 1
    print(f"{calls} calls are right")


def on_the_host():
    for z, _, t, _, options in cases():
        fusedce.focal(z, t, **options)


def parser():
    found = Parser("python -m tests.cuda.sanitized", __doc__)
    text = "compute the CPU's results only, which compiles the CPU kernels (default: on the GPU)"
    found.add_argument("--host", action="store_true", help=text)
    return found


if __name__ == "__main__":
    on_the_host() if parser().parse_args().host else on_the_gpu()
