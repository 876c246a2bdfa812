"""A few small calls for compute-sanitizer: ``compute-sanitizer --tool memcheck python -m ...``.

Once without it, then every kernel comes from the disk. Arrays are allocated one by one, with no
pool around them, so that a byte past the end is somebody else's.
"""

from __future__ import annotations

import itertools
import sys

import numpy as np

import fusedce
from tests.gpu import OnGpu, missing
from tests.test_losses import DTYPES, make

# Rows of a warp, of a block, in shared memory, read twice or by a cluster; ragged at both ends.
SHAPES = [((5, 7), 1), ((33, 100), 1), ((3, 1023), 1), ((2, 9001), 1), ((2, 70_001), 1),
          ((2, 130_003), 1), ((2, 5, 133), 1), ((2, 300, 3), 1)]  # fmt: skip
FORMS = [("softmax", "index"), ("softmax", "soft"), ("sigmoid", "index"), ("sigmoid", "soft")]
BAR = {"float32": 1e-4, "bfloat16": 1e-2}


def main():
    if why := missing():
        sys.exit(why)
    import cupy

    cupy.cuda.set_allocator(None)
    gpu, calls = OnGpu(cupy), 0
    for (shape, axis), dtype, (activation, form) in itertools.product(SHAPES, BAR, FORMS):
        z, t = make(activation, form, dtype, shape, np.random.default_rng(0), axis)
        some = np.ones(1 + z.size, DTYPES[dtype])[1:].reshape(shape)  # not at 16 bytes
        some[...] = z
        for options in ({}, {"reduction": "none", "weight": np.arange(1.0, 1 + shape[axis])}):
            call = {"activation": activation, "axis": axis} | options
            got, want = gpu.focal(some, t, **call), fusedce.focal(z, t, **call)
            for a, b in zip(got, want, strict=True):
                a, b = np.asarray(a, float), np.asarray(b, float)
                np.testing.assert_allclose(a, b, BAR[dtype], BAR[dtype] * abs(b).max())
            calls += 1
    print(f"{calls} calls are right")


if __name__ == "__main__":
    main()
