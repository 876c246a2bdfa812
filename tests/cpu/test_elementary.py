"""exp, expm1, log, log1p and tanh of the CPU against mpmath, over all of float32 and float64.

The error is counted in ulps of the true value: the spacing of floats in its binade, or that of the
subnormals below the smallest normal. A true value beyond the largest number gives infinity; within
the tolerance of that limit, the largest number and infinity are both right. The sign of a zero is
not specified (the kernels compile with nsz).
"""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from numba import njit

from fusedce.kernels import scalar
from fusedce.kernels.cpu import compile as registered  # noqa: F401  the CPU bodies
from fusedce.kernels.cpu.load_store import masked_load, masked_store
from fusedce.kernels.scalar import FASTMATH
from fusedce.kernels.vector import lane_bytes, lanes, width

DTYPES = {"float32": np.float32, "float64": np.float64}
BITS = {"float32": np.uint32, "float64": np.uint64}
NAMES = ("exp", "exp_down", "expm1", "log", "log1p", "log1p_unit", "log1p_up", "tanh")
BAR = dict.fromkeys(NAMES, 2.0)
EXACT = {
    "exp": mpmath.exp,
    "exp_down": mpmath.exp,
    "expm1": mpmath.expm1,
    "log": lambda x: mpmath.log(x) if x > 0 else (-mpmath.inf if x == 0 else mpmath.nan),
    "log1p": lambda x: mpmath.log1p(x) if x > -1 else (-mpmath.inf if x == -1 else mpmath.nan),
    "log1p_unit": mpmath.log1p,
    "log1p_up": mpmath.log1p,
    "tanh": mpmath.tanh,
}
WIDE = {
    "exp": np.exp, "exp_down": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p,
    "log1p_unit": np.log1p, "log1p_up": np.log1p, "tanh": np.tanh,
}  # fmt: skip

on_each = pytest.mark.parametrize(("name", "dtype"), [(n, d) for n in NAMES for d in DTYPES])


@pytest.fixture(scope="module")
def worst(request):
    """Fixture: the largest error by function and dtype, printed at the end of the module."""
    found: dict[tuple[str, str, str], tuple[float, float]] = {}
    yield found
    manager = request.config.pluginmanager.getplugin("capturemanager")
    with manager.global_and_fixture_disabled():
        print("\nworst error in ulp (at)")
        for (name, dtype, how), (ulps, x) in sorted(found.items()):
            print(f"  {name:10} {dtype} {how:9} {ulps:6.3f}  ({x!r})")


def compiled(name):
    """The function compiled for an array, as in the kernels, and for one number."""
    fn = getattr(scalar, name)

    @njit(error_model="numpy", fastmath=FASTMATH)
    def over(x, out):
        N = lanes(x.dtype.type)
        here, there = np.int64(x.ctypes.data), np.int64(out.ctypes.data)
        for j in range(0, x.size, width(N)):
            y = fn(masked_load(here + j * lane_bytes(N), x.size - j, N(0)))
            masked_store(there + j * lane_bytes(N), x.size - j, y)

    @njit(error_model="numpy", fastmath=FASTMATH)
    def once(x):
        return fn(x)

    return over, once


FUNCTIONS = {name: compiled(name) for name in NAMES}


def run(name, x):
    """The function applied to an array by the vector loop."""
    out = np.empty_like(x)
    FUNCTIONS[name][0](x, out)
    return out


def interesting(name, dtype, rng, count):
    """Arguments at the limits of range reductions and of results, and over the whole range."""
    T, info = DTYPES[dtype], np.finfo(DTYPES[dtype])
    log2 = math.log(2)
    edges = {
        "exp": (math.log(info.smallest_subnormal), math.log(info.tiny), math.log(float(info.max))),
        "exp_down": (math.log(info.smallest_subnormal), math.log(info.tiny)),
        "expm1": (-37.5, -17.4, math.log(float(info.max))),
        "log": (0.5**0.5, 1.0, 2.0**0.5, 2.0, float(info.tiny), float(info.max)),
        "log1p": (-1.0, 0.5**0.5 - 1, 2.0**0.5 - 1, 1.0, 2.0**25, 2.0**54, float(info.max)),
        "log1p_unit": (2.0**0.5 - 1,),
        "log1p_up": (2.0**0.5 - 1, 1.0, 3.0, 2.0**25, 2.0**54),
        "tanh": (0.55, 9.02, 19.07, 0.25, 0.275),
    }[name]
    parts = [
        rng.integers(0, np.iinfo(BITS[dtype]).max, count, BITS[dtype]).view(T),  # every exponent
        rng.uniform(-1.0, 1.0, count).astype(T),
        rng.uniform(-90, 90, count).astype(T) * T(1 if dtype == "float32" else 8),
        np.exp(rng.uniform(-3, 3, count)).astype(T),
        (rng.choice([-1, 1], count) * 2.0 ** rng.uniform(-40, 1, count)).astype(T),
        (rng.integers(-150, 150, count) + 0.5).astype(T) * T(log2)
        + (rng.normal(size=count) * 1e-3).astype(T),  # where exp's n changes
        rng.integers(1, 1 << 20, count // 4).astype(T) * info.smallest_subnormal,
        np.array([info.smallest_subnormal, info.tiny, info.max, 1.0, 1 - info.epsneg]).astype(T),
    ]
    for edge in edges:
        for side in (T(edge), -T(edge)):
            bits = np.array([side]).view(BITS[dtype])[0]
            near = bits + np.arange(-20, 20).astype(BITS[dtype])
            parts.append(near.view(T))
            with np.errstate(over="ignore"):
                parts.append((side * (1 + rng.normal(size=40) * 1e-3)).astype(T))
    x = np.concatenate(parts)
    return inside(name, x[np.isfinite(x)])


def inside(name, x):
    """The arguments that are in the function's domain."""
    if name == "exp_down":
        return x[x <= 0]
    if name == "log1p_up":
        return x[x >= 0]
    return x[(x >= 0) & (x <= 1)] if name == "log1p_unit" else x


def ulps_of(got, true, dtype):
    """|got - true| in ulps of true, which is an mpmath number."""
    info = np.finfo(DTYPES[dtype])
    got = float(got)
    if mpmath.isnan(true):
        return 0.0 if math.isnan(got) else math.inf
    if mpmath.isinf(true) or true == 0:
        return 0.0 if got == true else math.inf
    if math.isnan(got):
        return math.inf
    least = int(info.minexp)
    exponent = max(int(mpmath.floor(mpmath.log(abs(true), 2))), least)
    if math.isinf(got):  # inf stands for the largest number
        got = math.copysign(float(info.max), got) if exponent < info.maxexp else true
    elif exponent >= info.maxexp:
        exponent = info.maxexp - 1
    return float(abs(mpmath.mpf(got) - true) / mpmath.ldexp(1, exponent - int(info.nmant)))


def largest(name, dtype, x, got):
    """(ulps, x) of the worst of these results."""
    errors = []
    with mpmath.workdps(45):
        for a, b in zip(x.tolist(), got.tolist(), strict=True):
            if not name.startswith("log") and abs(a) > 2000:  # mpmath would need too many digits
                a = math.copysign(2000.0, a)
            errors.append(ulps_of(b, EXACT[name](mpmath.mpf(a)), dtype))
    at = int(np.argmax(errors))
    return errors[at], float(x[at])


@on_each
def test_vector_loop_is_within_the_bar(name, dtype, worst):
    x = interesting(name, dtype, np.random.default_rng(7), 1500)
    worst[name, dtype, "loop"] = found = largest(name, dtype, x, run(name, x))
    assert found[0] <= BAR[name], found


@on_each
def test_scalar_call_is_within_the_bar(name, dtype, worst):
    x = interesting(name, dtype, np.random.default_rng(8), 100)
    once = FUNCTIONS[name][1]
    got = np.array([once(a) for a in x], DTYPES[dtype])  # Numba returns a Python float
    worst[name, dtype, "scalar"] = found = largest(name, dtype, x, got)
    assert found[0] <= BAR[name], found


@pytest.mark.parametrize("name", NAMES)
def test_float32_by_the_million(name, worst):
    """Every 2048th float32 and more, against NumPy in float64, which has 29 more bits."""
    x = np.arange(1 << 21, dtype=np.uint32)
    x = (x * np.uint32(2048) + np.uint32(1021)).view(np.float32)
    dense = np.linspace(-0.75, 3.0, 1 << 21, dtype=np.float32)
    x = inside(name, np.concatenate([x[np.isfinite(x)], dense, -20 * dense]))
    with np.errstate(all="ignore"):
        true, got = WIDE[name](x.astype(np.float64)), run(name, x).astype(np.float64)
        assert np.array_equal(np.isnan(true), np.isnan(got))
        limit = 2.0**128 * (1 - 2.0**-23)
        assert np.all(np.isinf(got[abs(true) >= 2.0**128 * (1 + 2.0**-23)]))
        assert np.all(np.isfinite(got[(abs(true) <= limit) & np.isfinite(true)]))
        some = np.isfinite(true) & np.isfinite(got)
        x, true, got = x[some], true[some], got[some]
        exponent = np.maximum(np.frexp(true)[1] - 1, -126)
        ulps = abs(got - true) / np.ldexp(1.0, exponent - 23)
    at = int(np.argmax(ulps))
    worst[name, "float32", "6 million"] = float(ulps[at]), float(x[at])
    assert ulps[at] <= BAR[name], x[at]


INF, NAN = math.inf, math.nan
EDGES = {
    "exp": {0.0: 1, INF: INF, -INF: 0, 1e30: INF, -1e30: 0},
    "exp_down": {0.0: 1, -INF: 0, -1e30: 0, -800.0: 0},
    "expm1": {0.0: 0, INF: INF, -INF: -1, 1e30: INF, -1e30: -1},
    "log": {0.0: -INF, 1.0: 0, INF: INF, -INF: NAN, -1.0: NAN, -1e-30: NAN},
    "log1p": {0.0: 0, -1.0: -INF, INF: INF, -INF: NAN, -1.5: NAN, -1e30: NAN},
    "log1p_unit": {0.0: 0},
    "log1p_up": {0.0: 0, INF: INF},
    "tanh": {0.0: 0, INF: 1, -INF: -1, 1e30: 1, -1e30: -1},
}


@on_each
def test_special_values(name, dtype):
    """Infinities, NaN and zeros, alone and in a vector whose other lanes must not change."""
    T, (_, once) = DTYPES[dtype], FUNCTIONS[name]
    for x, y in [*EDGES[name].items(), (-0.0, EDGES[name][0.0]), (NAN, NAN)]:
        assert np.array_equal(once(T(x)), T(y), equal_nan=True), (x, once(T(x)))
        line = np.full(101, -0.5 if name == "exp_down" else 0.5, T)
        calm = run(name, line)[0]
        line[50] = x
        got = run(name, line)
        assert np.array_equal(got[50], T(y), equal_nan=True), (x, got[50])
        assert np.all(np.delete(got, 50) == calm)


@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormals_in_and_out(dtype):
    """Subnormals are not flushed to zero, neither as arguments nor as results."""
    T, least = DTYPES[dtype], np.finfo(DTYPES[dtype]).smallest_subnormal
    x = np.array([least, 3 * least, 1000 * least, -least, -7 * least], T)
    for name in ("expm1", "log1p", "tanh"):
        assert np.array_equal(run(name, x), x), name
    with mpmath.workdps(30):
        for k in (1, 5, 1 << 15):
            logarithm = float(mpmath.log(mpmath.mpf(float(least)) * k))
            for name in ("exp", "exp_down"):
                got = run(name, np.array([logarithm], T))[0]
                assert abs(got / least - k) <= max(1, k * 2e-5), name
            (got,) = run("log", np.array([k * least], T))
            assert abs(float(got) - logarithm) <= 2 * np.spacing(abs(T(logarithm)))
