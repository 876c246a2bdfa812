"""softmax, log_softmax, sigmoid, log_sigmoid, prior_bias: small relative errors everywhere."""

from __future__ import annotations

import itertools

import ml_dtypes
import mpmath
import numpy as np
import pytest

import fusedce
from tests.core.test_losses import alike

DTYPES = {"float64": np.float64, "float32": np.float32, "float16": np.float16,
          "bfloat16": ml_dtypes.bfloat16}  # fmt: skip
dtypes = pytest.mark.parametrize("dtype", DTYPES)
FUNCTIONS = ("softmax", "log_softmax", "sigmoid", "log_sigmoid")
each = pytest.mark.parametrize("name", FUNCTIONS)
ROWS = [
    [0.0], [1e4], [0.0, 0.0], [1000.0, 1000.0, -np.inf], [0.0, -1000.0], [3.0, -2.0, 0.5, 0.125],
    [20.0, 0.0, -5.0], [0.0, 700.0, -700.0, 50.0], [-np.inf, 0.5, 2.0, -np.inf], [1e4, -1e4, 0.0],
    [88.75, 0.0], [-88.75, 0.0], [104.0, 0.0], [0.0, -745.0], [1e-8, 0.0], [16.625, 0.0, 0.0],
]  # fmt: skip
NUMBERS = [0.0, 1e-30, 1e-7, 0.3, 1.0, 5.0, 9.375, 16.625, 17.0, 20.0, 80.0, 87.5, 88.75, 103.0,
           104.0, 350.0, 709.0, 745.0, 1000.0, 1e4]  # fmt: skip


def exact(name, row):
    """The function computed by mpmath, with 60 digits more than the subtraction 1 - p loses."""
    with mpmath.workdps(60 + int(0.9 * max(abs(v) for v in row if np.isfinite(v)))):
        if name.endswith("sigmoid"):
            p = [1 / (1 + mpmath.exp(-mpmath.mpf(v))) for v in row]
        else:
            e = [mpmath.exp(v) for v in row]
            p = [v / sum(e) for v in e]
        values = [(mpmath.log(v) if v else -mpmath.inf) if name.startswith("log") else v for v in p]
        return np.array([float(v) for v in values])


def close(got, want, dtype, bar=1.0):
    """Equal to a few units in the last place of the arithmetic and one rounding to the dtype."""
    relative = {"float64": 4e-15, "float32": 1e-6}.get(dtype, 1e-6 + 2.0**-8)
    relative = 1e-6 + 2.0**-11 if dtype == "float16" else relative
    small = {"float64": 2.3e-308, "float16": 2.0**-24}.get(dtype, 1.2e-38)
    got, want = np.asarray(got).astype(np.float64), np.asarray(want)
    with np.errstate(invalid="ignore"):
        fine = (got == want) | (abs(got - want) <= bar * relative * abs(want) + small)
    top = float(ml_dtypes.finfo(DTYPES[dtype]).max)
    fine |= (abs(want) > top) & np.isinf(got)
    assert np.all(fine | (np.isnan(got) & np.isnan(want))), (got, want)


@dtypes
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_rows_against_many_digits(name, dtype):
    for row in ROWS:
        z = np.array([row, row[::-1]], DTYPES[dtype])
        got = getattr(fusedce, name)(z)
        assert got.dtype == z.dtype
        want = np.stack([exact(name, r) for r in z.astype(float)])
        # where p is large, z - max is 0, and log1p of the other terms has a small relative error
        close(got, want, dtype, 4.0)


@dtypes
@pytest.mark.parametrize("name", ["sigmoid", "log_sigmoid"])
def test_elements_against_many_digits(name, dtype):
    z = np.array([s * v for v in NUMBERS for s in (1, -1)], DTYPES[dtype])
    got = getattr(fusedce, name)(z)
    assert got.dtype == z.dtype
    close(got, np.concatenate([exact(name, [v]) for v in z.astype(float)]), dtype, 2.0)
    if name == "sigmoid":  # small results do not underflow: sigmoid(-20) is 2e-9, not 0
        assert got[z.astype(float) == -9.375][0] > 0
    else:
        assert np.all(got[abs(z.astype(float)) < 9] < 0)


@dtypes
def test_infinite_and_nan(dtype):
    T = DTYPES[dtype]
    z = np.array([[np.inf, -np.inf, np.nan, 0.0]], T)
    np.testing.assert_array_equal(fusedce.sigmoid(z).astype(float), [[1, 0, np.nan, 0.5]])
    close(fusedce.log_sigmoid(z), [[0, -np.inf, np.nan, -np.log(2)]], dtype)
    rows = np.zeros((6, 3), T)
    rows[1, 0], rows[2, 1], rows[3], rows[4, 1], rows[5, 1] = np.nan, 1, -np.inf, np.inf, -np.inf
    for name in ("softmax", "log_softmax"):
        got = getattr(fusedce, name)(rows).astype(float)
        assert np.isnan(got[[1, 3, 4]]).all()  # and the other rows are right:
        for k in (0, 2, 5):
            close(got[k].astype(T), exact(name, rows[k].astype(float)), dtype, 2.0)
    for n, at in itertools.product((5, 64, 1000), (0, 3, -1)):
        z = np.zeros((2, n), T)
        z[0, at] = np.nan
        for name in ("softmax", "log_softmax"):
            got = getattr(fusedce, name)(z).astype(float)
            assert np.isnan(got[0]).all()
            assert np.isfinite(got[1]).all()


@each
@dtypes
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((7,), 0), ((6, 5), 1), ((6, 5), 0), ((2, 3, 40), 1), ((2, 3, 4, 5), -4), ((3, 1), 1),
     ((40, 300), 1)],
)  # fmt: skip
def test_axes_layouts_and_outputs(name, dtype, shape, axis):
    """Any axis, stride and byte order; out is filled and returned; in place gives equal results."""
    z = (np.random.default_rng(1).normal(size=shape) * 4).astype(DTYPES[dtype])
    fn, wide = getattr(fusedce, name), z.astype(np.float64)
    options = {"axis": axis} if name.endswith("softmax") else {}
    if options:
        top = wide.max(axis=axis, keepdims=True)
        others = np.exp(wide - top)  # without the maximum, so that log1p keeps small sums
        np.put_along_axis(others, wide.argmax(axis=axis, keepdims=True), 0.0, axis=axis)
        want = wide - top - np.log1p(others.sum(axis=axis, keepdims=True))
    else:
        want = -np.logaddexp(0, -wide)
    want = want if name.startswith("log") else np.exp(want)
    plain = fn(z, **options)
    close(plain, want, dtype, 30.0 if dtype == "float64" else 4.0)
    before = z.tobytes()
    flipped, spaced = np.flip(np.flip(z, -1).copy(), -1), np.repeat(z, 2, axis=0)[::2]
    swapped = z.astype(z.dtype.newbyteorder()) if dtype != "bfloat16" else z
    for a in (np.asfortranarray(z), flipped, spaced, swapped, np.ascontiguousarray(z.T).T):
        got = fn(a, **options)
        assert got.dtype == z.dtype
        close(got, want, dtype, 30.0 if dtype == "float64" else 4.0)
    for out in (np.full_like(z, np.nan), np.full(z.shape[::-1], np.nan, z.dtype).T,
                np.full((*z.shape, 2), np.nan, z.dtype)[..., 1]):  # fmt: skip
        assert fn(z, out=out, **options) is out
        close(out, want, dtype, 30.0 if dtype == "float64" else 4.0)
    assert z.tobytes() == before
    place = z.copy()
    assert fn(place, out=place, **options) is place
    alike(fusedce, [place], [plain])


@dtypes
def test_wide_rows(dtype):
    """Rows of one to three blocks of 131072, the maximum in the first or last one; in place too."""
    for C in (131_072, 131_073, 300_000):
        z = np.full((3, C), -3.0, DTYPES[dtype])
        z[0, 0], z[1, C - 1], z[2, :131_072] = 12.0, 12.0, -np.inf
        z[2, C - 1] = 1.0
        wide = z.astype(np.float64)
        log = wide - wide.max(axis=1, keepdims=True)
        log -= np.log(np.exp(log).sum(axis=1, keepdims=True))
        for fn, want in ((fusedce.softmax, np.exp(log)), (fusedce.log_softmax, log)):
            got = fn(z)
            close(got, want, dtype, 1e3 if dtype == "float64" else 4.0)
            place = z.copy()
            fn(place, out=place)
            alike(fusedce, [place], [got])
            close(fn(np.asfortranarray(z)), want, dtype, 1e3 if dtype == "float64" else 4.0)


def test_small_things():
    """Inputs: numbers, lists, empty arrays, one class, the default axis."""
    assert type(fusedce.sigmoid(0.5)) is np.float64
    assert type(fusedce.log_sigmoid(np.float32(0.5))) is np.float32
    assert fusedce.sigmoid(np.float32(0)) == 0.5
    np.testing.assert_array_equal(
        fusedce.softmax([[1.0, 1.0], [0.0, -np.inf]]), [[0.5] * 2, [1, 0]]
    )
    for shape in ((0,), (0, 3), (3, 0)):
        for name in FUNCTIONS:
            got = getattr(fusedce, name)(np.zeros(shape, np.float32))
            assert (got.shape, got.dtype) == (shape, np.float32)
    np.testing.assert_array_equal(fusedce.softmax(np.full((4, 1), 1e4)), np.ones((4, 1)))
    np.testing.assert_array_equal(fusedce.log_softmax(np.full((4, 1), -1e4)), np.zeros((4, 1)))
    z = np.random.default_rng(2).normal(size=(3, 4, 5))
    np.testing.assert_array_equal(fusedce.softmax(z), fusedce.softmax(z, axis=2))
    np.testing.assert_allclose(fusedce.softmax(z).sum(axis=-1), 1, rtol=1e-15)
    buffer = np.full((), np.nan)
    assert fusedce.sigmoid(0.0, out=buffer) is buffer
    assert buffer == 0.5
    large = np.random.default_rng(3).normal(size=(3000, 40)).astype(np.float32)
    got = fusedce.softmax(large)
    assert got[17:18].tobytes() == fusedce.softmax(large[17:18]).tobytes()


def test_prior_bias():
    for pi in (1e-300, 1e-10, 0.01, 0.25, 0.5, 0.75, 1 - 2.0**-50):
        with mpmath.workdps(60):
            want = float(mpmath.log(mpmath.mpf(pi) / (1 - mpmath.mpf(pi))))
        assert fusedce.prior_bias(pi) == pytest.approx(want, rel=1e-14, abs=1e-300)
        assert type(fusedce.prior_bias(np.float32(0.25))) is float
        if pi > 1e-200:
            assert fusedce.sigmoid(fusedce.prior_bias(pi)) == pytest.approx(pi, rel=1e-12)
