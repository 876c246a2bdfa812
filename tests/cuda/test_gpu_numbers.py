"""The results of a GPU compared with the CPU's: sizes, layouts, repeated runs.

test_gpu_suite.py runs the cases of the CPU suite, against the float64 reference, on the GPU.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import fusedce
from tests.core.test_losses import DTYPES, make, near
from tests.cuda.gpu import case, imported_cupy, missing, on_the_gpu, same_bits

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(missing()), reason=missing() or "")]
FIXTURES = imported_cupy, on_the_gpu
FORMS = [("softmax", "index"), ("softmax", "soft"), ("sigmoid", "index"), ("sigmoid", "soft"),
         ("sigmoid", "int")]  # fmt: skip
SHAPES = [(1, 1), (1, 2), (3, 1000), (33, 7), (1000, 80), (257, 1023), (64, 4096), (20, 32_001),
          (5, 58_113), (300, 130_000)]  # fmt: skip
RNG = np.random.default_rng
# A Hessian, or a gradient with soft labels, crosses zero: its terms cancel there and leave rounding
# errors of 1e-7 of their size, on the CPU as well.
CANCELS = 3e-3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("activation", "form"), FORMS)
def test_as_the_cpu(gpu, activation, form, shape, dtype):
    if shape[0] * shape[1] > 1 << 24 and form != "index":
        pytest.skip("the soft targets of one form are enough at a gigabyte each")
    z, t = make(activation, form, dtype, shape, RNG(shape[1]))
    for name in ("cross_entropy", "focal"):
        options = {"activation": activation, "return_hessian": shape[1] < 5000}
        got = getattr(gpu, name)(z, t, **options)
        want = getattr(fusedce, name)(z, t, **options)
        for k, (a, b) in enumerate(zip(got, want, strict=True)):
            assert a.dtype == b.dtype
            near(dtype, a, b, CANCELS if k == 2 or form == "soft" else 1e-3)
        near(dtype, getattr(gpu, name)(z, t, activation=activation, return_grad=False), want[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize("layout", ["rows", "columns", "every other", "wider", "backwards"])
def test_layouts(gpu, layout, offset, dtype):
    """Strides, orders of axes, and rows at any offset from a multiple of 16 bytes."""
    for C in (5, 100, 1000, 40_003):
        z, t = case((17, C), dtype)
        big = np.zeros(3 * z.size + 64, z.dtype)
        wide = big[offset : offset + 17 * (C + 3)].reshape(17, C + 3)
        a = {
            "rows": big[offset : offset + z.size].reshape(z.shape),
            "columns": big[offset : offset + z.size].reshape(z.shape[::-1]).T,
            "every other": big[offset : offset + 2 * z.size : 2].reshape(z.shape),
            "wider": wide[:, :C],
            "backwards": big[offset : offset + z.size].reshape(z.shape)[::-1, ::-1],
        }[layout]
        a[...] = z
        want = fusedce.cross_entropy(z, t, reduction="none")
        got = gpu.cross_entropy(a, t, reduction="none")
        for x, y in zip(got, want, strict=True):
            near(dtype, x, y)
        out = a.copy() if layout == "columns" else a
        place = gpu.cross_entropy(a, t, reduction="none", grad_out=out)
        assert place[1] is out
        near(dtype, out, got[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_images(gpu, dtype):
    """The class axis before the last axis: accesses are coalesced along the last axis."""
    for C, inner in ((3, 1), (21, 1024), (21, 1025), (100, 33), (2000, 40)):
        z, t = make("softmax", "index", dtype, (3, C, inner), RNG(C), axis=1)
        for name in ("cross_entropy", "focal"):
            options = {"activation": "softmax", "axis": 1, "return_hessian": True}
            got, want = (getattr(on, name)(z, t, **options) for on in (gpu, fusedce))
            for k, (a, b) in enumerate(zip(got, want, strict=True)):
                near(dtype, a, b, CANCELS if k == 2 else 1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_five_runs(gpu, dtype):
    """Five runs give the same bits, in new memory and in memory used before."""
    for shape, axis in (((2000, 80), 1), ((300, 32_001), 1), ((20, 130_000), 1), ((4, 21, 999), 1)):
        for activation, form in FORMS:
            z, t = make(activation, form, dtype, shape, RNG(1), axis)
            z, t = gpu.put(z), gpu.put(t)
            runs = [fusedce.focal(z, t, activation=activation, axis=axis) for _ in range(5)]
            for run in runs[1:]:
                same_bits(gpu, run, runs[0])


def test_denominator_on_the_device(gpu, cupy):
    """A denominator in device memory, of any dtype, gives the same bits as one on the host."""
    z, t = map(gpu.put, case())
    want = fusedce.cross_entropy(z, t, denominator=7.0)
    for dtype in (np.float32, np.float64, np.int64, np.float16):
        for _ in range(2):
            given = cupy.full((), 7, dtype)
            same_bits(gpu, fusedce.cross_entropy(z, t, denominator=given), want)


def test_bfloat16_is_what_it_says(gpu):
    """bfloat16 logits are read as bfloat16, not as float16, which has the same width."""
    z = np.array([[1.0, 2.0, -3.0]], ml_dtypes.bfloat16)
    loss, _ = gpu.cross_entropy(z, np.array([1]))
    assert loss == pytest.approx(np.log(1 + np.exp(-1.0) + np.exp(-5.0)), rel=1e-6)
