"""The vector type: lanes compute as numbers do; partial vectors and blocks write nothing else."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from numba import njit

from fusedce.kernels import elementary, vector  # noqa: F401
from fusedce.kernels.cpu import dtypes, load_store, transpose
from fusedce.kernels.cpu.dtypes import Bfloat16, Float16, Native
from fusedce.kernels.cpu.transpose import Lines
from fusedce.kernels.scalar import where

floats = pytest.mark.parametrize("T", [np.float32, np.float64])
GUARD = 7.0
# Bits in memory, as dtypes.py names them: (tag, the integer that stands for it).
FORMS = {
    "float32": (Native, np.float32),
    "float64": (Native, np.float64),
    "float16": (Float16, np.int16),
    "bfloat16": (Bfloat16, np.uint16),
}


def compiled(fn):
    return njit(error_model="numpy")(fn)


def width(T):
    return 64 // np.dtype(T).itemsize


def address(array):
    return array.ctypes.data


def special(T):
    """Two arrays of one vector each, with signed zeros, infinities, NaN and equal elements."""
    n, rng = width(T), np.random.default_rng(1)
    x = (rng.integers(-8, 9, n) / 4).astype(T)
    y = (rng.integers(-8, 9, n) / 4).astype(T)
    x[:8] = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.5, np.nan, -2.0]
    y[:8] = [-0.0, 0.0, -np.inf, -np.inf, 1.0, np.nan, np.nan, -2.0]
    return x, y


def arithmetic(T):
    @compiled
    def run(a, b, out):
        N = vector.lanes(T)
        step = vector.width(N) * vector.lane_bytes(N)
        x, y = load_store.load(N, a), load_store.load(N, b)
        s = x
        s += y
        results = (
            x + y, x - y, x * y, x / y, -x, +x, abs(x), min(x, y), max(x, y), s,
            x + T(2), T(2) - x, 3 * x, x / 4, True * x, N(5), T(1) / x, max(x, T(0)),
        )  # fmt: skip
        for k in range(len(results)):
            load_store.store(out + k * step, results[k])

    return run


@floats
def test_arithmetic(T):
    """Arithmetic of vectors and of numbers with vectors is NumPy's; min and max are Python's."""
    x, y = special(T)
    out = np.zeros((18, width(T)), T)
    arithmetic(T)(address(x), address(y), address(out))
    with np.errstate(all="ignore"):
        lower, higher = np.where(y < x, y, x), np.where(y > x, y, x)
        want = [
            x + y, x - y, x * y, x / y, -x, x, abs(x), lower, higher, x + y,
            x + 2, 2 - x, 3 * x, x / 4, x, np.full_like(x, 5), 1 / x, np.where(x < 0, 0, x),
        ]  # fmt: skip
    for k, (a, b) in enumerate(zip(out, want, strict=True)):
        np.testing.assert_array_equal(a, b.astype(T), err_msg=str(k))
        known = ~np.isnan(b)
        np.testing.assert_array_equal(np.signbit(a[known]), np.signbit(b[known]), err_msg=str(k))


def comparisons(T):
    @compiled
    def run(a, b, out, counts):
        N = vector.lanes(T)
        step = vector.width(N) * vector.lane_bytes(N)
        x, y = load_store.load(N, a), load_store.load(N, b)
        one, none = N(1), N(0)
        masks = (
            x < y, x <= y, x > y, x >= y, x == y, x != y, (x < y) & (y > T(0)),
            (x < y) | (x > y), (x < T(1)) ^ (y < T(1)), ~(x == y), (x < y) != (x < T(0)),
            (x < y) & True, (x < y) | True, x >= 0,
        )  # fmt: skip
        for k in range(len(masks)):
            load_store.store(out + k * step, where(masks[k], one, none))
            counts[k] = vector.count_true(masks[k])
        load_store.store(out + len(masks) * step, where(x < y, x, T(9)))
        load_store.store(out + (len(masks) + 1) * step, where(True, x, y))

    return run


@floats
def test_comparisons_and_masks(T):
    """Comparisons and masks agree with NumPy's, also for NaN; `where` selects by lane."""
    x, y = special(T)
    out, counts = np.zeros((16, width(T)), T), np.zeros(14, np.int64)
    comparisons(T)(address(x), address(y), address(out), counts)
    want = [
        x < y, x <= y, x > y, x >= y, x == y, x != y, (x < y) & (y > 0), (x < y) | (x > y),
        (x < 1) ^ (y < 1), ~(x == y), (x < y) != (x < 0), x < y, np.full(x.shape, True), x >= 0,
    ]  # fmt: skip
    for k, mask in enumerate(want):
        np.testing.assert_array_equal(out[k], mask, err_msg=str(k))
        assert counts[k] == mask.sum()
    np.testing.assert_array_equal(out[-2], np.where(x < y, x, 9))
    np.testing.assert_array_equal(out[-1], x)


def parts(T):
    @compiled
    def run(source, count, fill, target):
        x = load_store.masked_load(source, count, vector.lanes(T)(fill))
        step = vector.width(vector.lanes(T)) * vector.lane_bytes(vector.lanes(T))
        load_store.store(target, x)
        load_store.masked_store(target + 2 * step, count, x)
        return (
            vector.sum_of_lanes(x),
            vector.max_of_lanes(x),
            vector.sum_of_lanes(vector.to_float64(x)),
        )

    return run


@floats
def test_parts_of_a_vector(T):
    """Masked loads fill the other lanes, masked stores leave other elements; sums and maxima."""
    n, run = width(T), parts(T)
    source = np.arange(1, 3 * n + 1, dtype=T) / 4
    for start in (0, 1, 5):
        for count in range(n + 3):  # more than a vector is a vector
            here, m = source[start:], min(count, n)
            target = np.full(5 * n, GUARD, T)
            found = run(address(here), count, -3.0, address(target[start:]))
            whole = np.append(here[:m], np.full(n - m, -3, T))
            np.testing.assert_array_equal(target[start : start + n], whole)
            stored = target[start + 2 * n :]
            np.testing.assert_array_equal(stored[:m], here[:m])
            assert np.all(stored[m:] == GUARD)
            assert np.all(target[start + n : start + 2 * n] == GUARD)
            assert found == (whole.sum(), whole.max(), whole.sum())


def test_half_of_float64_lanes():
    """float32 lanes convert to float64 exactly, and back with one rounding."""

    @compiled
    def run(a, out, back):
        N = vector.lanes(np.float32)
        x = vector.to_float64(load_store.load(N, a))
        load_store.store(out, x * x)
        load_store.store(back, vector.from_float64(N, x * x))

    x = (1 + np.random.default_rng(2).random(16)).astype(np.float32)
    out, back = np.zeros(16), np.zeros(16, np.float32)
    run(address(x), address(out), address(back))
    np.testing.assert_array_equal(out, x.astype(float) ** 2)
    np.testing.assert_array_equal(back, (x.astype(float) ** 2).astype(np.float32))


def numbers(dtype, shape):
    """Random numbers of a dtype, with infinities and signed zeros among them."""
    x = np.random.default_rng(3).normal(size=shape) * 3
    x.flat[:4] = [np.inf, -np.inf, 0.0, -0.0]
    return x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def squares(form, stored, T):
    @compiled
    def run(source, step, rows, columns, scratch, pitch, target, back):
        N = vector.lanes(T)
        lines = Lines(scratch, pitch)
        transpose.load_square(form(), stored, N, Lines(source, step), rows, columns, lines)
        transpose.store_square(form(), stored, N, lines, columns, rows, Lines(target, back))

    return run


@floats
@pytest.mark.parametrize("dtype", FORMS)
def test_squares(dtype, T):
    """Blocks of every number of rows and columns are transposed to scratch and back."""
    n, (form, stored) = width(T), FORMS[dtype]
    run = squares(form, stored, T)
    source = numbers(dtype, (n, n + 3))
    item, unit = source.itemsize, np.dtype(T).itemsize
    for rows in range(1, n + 1):
        for columns in range(1, n + 1):
            scratch = np.full((n, n + 2), GUARD, T)
            home = np.full((n, n + 5), GUARD).astype(source.dtype)
            run(address(source), (n + 3) * item, rows, columns, address(scratch), (n + 2) * unit,
                address(home), (n + 5) * item)  # fmt: skip
            block = source[:rows, :columns]
            np.testing.assert_array_equal(scratch[:columns, :rows], block.T.astype(T))
            assert np.all(scratch[columns:] == GUARD)
            assert np.all(scratch[:, rows:] == GUARD)
            there = home.astype(T)
            np.testing.assert_array_equal(
                there[:rows, :columns], block.astype(T).astype(there.dtype)
            )
            assert np.all(there[rows:] == GUARD)
            assert np.all(there[:, columns:] == GUARD)


def dealt(form, stored, T, marks):
    @compiled
    def run(source, scratch, pitch, target):
        N = vector.lanes(T)
        transpose.load_interleaved(form(), stored, N, marks, source, scratch, pitch)
        transpose.store_interleaved(form(), stored, N, marks, scratch, pitch, target)

    return run


@pytest.mark.parametrize(("dtype", "T", "classes"), [
    ("float32", np.float32, 2), ("float32", np.float32, 3), ("float32", np.float32, 7),
    ("float64", np.float64, 3), ("float64", np.float64, 8), ("float16", np.float32, 5),
    ("bfloat16", np.float32, 6), ("float16", np.float64, 3),
])  # fmt: skip
def test_interleaved(dtype, T, classes):
    """Rows of a few classes are deinterleaved into one vector per class, and interleaved again."""
    n, (form, stored) = width(T), FORMS[dtype]
    source = numbers(dtype, (n, classes))
    scratch = np.full((classes + 1, n + 4), GUARD, T)
    home = np.full(n * classes + n, GUARD).astype(source.dtype)
    pitch = (n + 4) * np.dtype(T).itemsize
    run = dealt(form, stored, T, (0,) * classes)
    run(address(source), address(scratch), pitch, address(home))
    np.testing.assert_array_equal(scratch[:classes, :n], source.T.astype(T))
    assert np.all(scratch[classes] == GUARD)
    assert np.all(scratch[:, n:] == GUARD)
    np.testing.assert_array_equal(home[: n * classes].astype(T), source.ravel().astype(T))
    assert np.all(home[n * classes :].astype(T) == GUARD)


def conversions(form, stored, T):
    @compiled
    def run(numbers, count, target, back):
        N = vector.lanes(T)
        x = load_store.masked_load(numbers, count, N(0))
        dtypes.store_as(form(), stored, target, count, x)
        load_store.masked_store(back, count, dtypes.load_as(form(), stored, N, target, count))

    return run


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounding_to_a_half(dtype):
    """float32 is rounded to a half type as by NumPy: to nearest, ties to even."""
    form, stored = FORMS[dtype]
    run = conversions(form, stored, np.float32)
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16
    rng = np.random.default_rng(4)
    bits = rng.integers(0, 1 << 32, 4096, dtype=np.uint32)
    bits[:2048] = (bits[:2048] & 0xFFFF8000) | 0x8000 * (np.arange(2048) % 2)  # ties
    with np.errstate(all="ignore"):
        x = bits.view(np.float32)
        x[2048:] = (rng.normal(size=2048) * 2.0 ** rng.integers(-26, 17, 2048)).astype(np.float32)
        x[-3:] = [np.nan, np.inf, 65520.0]
        want = x.astype(kind)
    for start in range(0, 4096, 16):
        for count in (16, 16 - start // 16 % 16):
            here = np.full(16, GUARD).astype(kind)
            back = np.full(16, GUARD, np.float32)
            run(address(x[start:]), count, address(here), address(back))
            mine, true = here[:count], want[start : start + count]
            np.testing.assert_array_equal(mine.astype(float), true.astype(float))
            np.testing.assert_array_equal(back[:count], true.astype(np.float32))
            assert np.all(here[count:].astype(float) == GUARD)
            assert np.all(back[count:] == GUARD)
