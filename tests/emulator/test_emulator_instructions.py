"""Each PTX instruction of the emulator gives the same bits as NumPy."""

from __future__ import annotations

import warnings
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("numba_cuda")

from tests.emulator import machine, programs
from tests.emulator.written import run

if why := programs.missing():
    pytest.skip(why, allow_module_level=True)

BFLOAT16 = ml_dtypes.bfloat16
# PTX's type -> (registers, bits, NumPy's type)
KINDS = {
    "u16": ("%h", 16, np.uint16),
    "s16": ("%h", 16, np.int16),
    "f16": ("%h", 16, np.float16),
    "bf16": ("%h", 16, BFLOAT16),
    "b16": ("%h", 16, np.uint16),
    "u32": ("%r", 32, np.uint32),
    "s32": ("%r", 32, np.int32),
    "b32": ("%r", 32, np.uint32),
    "f32": ("%f", 32, np.float32),
    "f64": ("%d", 64, np.float64),
    "u64": ("%rd", 64, np.uint64),
    "s64": ("%rd", 64, np.int64),
    "b64": ("%rd", 64, np.uint64),
    "s8": ("%h", 8, np.int8),
    "u8": ("%h", 8, np.uint8),
}


def wrapping(f, bits):
    """``f`` on integers of unlimited size, with results truncated to ``bits`` bits."""
    return lambda *x: [int(v) % 2**bits for v in np.vectorize(f, otypes=[object])(*_whole(x))]


def _whole(arrays):
    return [np.array([int(v) for v in a], object) for a in arrays]


def quotient(a, b, bits):
    """The quotient rounded towards zero; all ones for division by zero."""
    return -1 if b == 0 else (abs(a) // abs(b)) * (1 if (a < 0) == (b < 0) else -1)


def flush(x):
    return np.where(abs(x) < np.float32(2**-126), np.copysign(np.float32(0), x), x)


def least(a, b):
    return np.where(np.isnan(a), b, np.where(np.isnan(b), a, np.minimum(a, b)))


def greatest(a, b):
    return np.where(np.isnan(a), b, np.where(np.isnan(b), a, np.maximum(a, b)))


def fused(T):
    """a * b + c in float64 for float32, in longdouble for float64, then rounded to ``T``."""
    wide = np.float64 if T is np.float32 else np.longdouble
    return lambda a, b, c: (a.astype(wide) * b.astype(wide) + c.astype(wide)).astype(T)


def saturating(T, source):
    """Clamped to ``T``; NaN gives 0, or the sign bit if ``T`` or the source type has 64 bits."""
    info = np.iinfo(T)
    nan = np.array(1 << (info.bits - 1), np.uint64).astype(f"u{info.bits // 8}").view(T)
    nan = nan if source == "f64" or info.bits == 64 else T(0)

    def convert(x):
        x = np.trunc(x.astype(np.float64))
        low, high = np.float64(info.min), np.float64(info.max)
        inside = np.where((x > low) & (x < high), x, 0).astype(T)
        found = np.where(x >= high, info.max, np.where(x <= low, info.min, inside))
        return np.where(np.isnan(x), nan, found)

    return convert


def permuted(a, b, s):
    both = int(b) << 32 | int(a)
    found = 0
    for k in range(4):
        pick = int(s) >> 4 * k & 15
        byte = both >> 8 * (pick & 7) & 255
        found |= (
            (255 if byte >> 7 else 0 if pick & 8 else byte) << 8 * k if pick & 8 else byte << 8 * k
        )
    return found


def inserted(a, b, at, n):
    mask = ((1 << n) - 1) << at
    return (b & ~mask) | (a << at & mask)


def packed(T):
    """Two 16-bit floats packed in 32 bits; NaN is 0x7fff."""

    def half(x):
        return np.where(np.isnan(x), 0x7FFF, x.astype(T).view(np.uint16)).astype(np.uint32)

    return lambda a, b: half(a) << 16 | half(b)


INTEGERS = [
    *(
        (f"add.{t}", (t, t), t, wrapping(lambda a, b: a + b, n))
        for t, n in (("s32", 32), ("u64", 64), ("s16", 16))
    ),
    *(
        (f"sub.{t}", (t, t), t, wrapping(lambda a, b: a - b, n))
        for t, n in (("u32", 32), ("s64", 64))
    ),
    *(
        (f"mul.lo.{t}", (t, t), t, wrapping(lambda a, b: a * b, n))
        for t, n in (("s32", 32), ("s64", 64), ("u16", 16))
    ),
    ("mul.wide.s32", ("s32", "s32"), "s64", wrapping(lambda a, b: a * b, 64)),
    ("mul.wide.u32", ("u32", "u32"), "u64", wrapping(lambda a, b: a * b, 64)),
    ("mul.hi.s32", ("s32", "s32"), "s32", wrapping(lambda a, b: a * b >> 32, 32)),
    ("mul.hi.u64", ("u64", "u64"), "u64", wrapping(lambda a, b: a * b >> 64, 64)),
    ("mul.hi.s64", ("s64", "s64"), "s64", wrapping(lambda a, b: a * b >> 64, 64)),
    ("mad.lo.s32", ("s32", "s32", "s32"), "s32", wrapping(lambda a, b, c: a * b + c, 32)),
    ("mad.wide.s32", ("s32", "s32", "s64"), "s64", wrapping(lambda a, b, c: a * b + c, 64)),
    *(
        (f"div.{t}", (t, t), t, wrapping(lambda a, b, n=n: quotient(a, b, n), n))
        for t, n in (("u32", 32), ("s64", 64), ("s32", 32), ("u64", 64))
    ),
    *(
        (f"rem.{t}", (t, t), t, wrapping(lambda a, b, n=n: a - b * quotient(a, b, n), n))
        for t, n in (("u32", 32), ("s64", 64))
    ),
    *(
        (f"{op}.{t}", (t, t), t, f)
        for t in ("s32", "u32", "s64", "u64")
        for op, f in (("min", np.minimum), ("max", np.maximum))
    ),
    *((f"neg.{t}", (t,), t, wrapping(lambda a: -a, n)) for t, n in (("s32", 32), ("s64", 64))),
    ("abs.s32", ("s32",), "s32", wrapping(abs, 32)),
    *(
        (f"{op}.{t}", (t, t), t, f)
        for t in ("b16", "b32", "b64")
        for op, f in (("and", np.bitwise_and), ("or", np.bitwise_or), ("xor", np.bitwise_xor))
    ),
    ("not.b32", ("b32",), "b32", np.invert),
    *(
        (f"shl.b{n}", (f"b{n}", "u32"), f"b{n}", wrapping(lambda a, k: a << min(k, 64), n))
        for n in (32, 64)
    ),
    *(
        (f"shr.{t}", (t, "u32"), t, wrapping(lambda a, k: a >> min(k, 64), n))
        for t, n in (("u32", 32), ("s32", 32), ("s64", 64), ("u64", 64))
    ),
    ("popc.b32", ("b32",), "u32", wrapping(lambda a: a.bit_count(), 32)),
    ("clz.b32", ("b32",), "u32", wrapping(lambda a: 32 - a.bit_length(), 32)),
    ("prmt.b32", ("b32", "b32", "b32"), "b32", wrapping(permuted, 32)),
    (
        "lop3.b32",
        ("b32", "b32", "b32", "0xE8"),
        "b32",
        wrapping(lambda a, b, c: (a & b) | (a & c) | (b & c), 32),
    ),
    (
        "shf.l.wrap.b32",
        ("b32", "b32", "u32"),
        "b32",
        wrapping(lambda a, b, c: ((b << 32 | a) << (c & 31)) >> 32, 32),
    ),
    (
        "shf.r.wrap.b32",
        ("b32", "b32", "u32"),
        "b32",
        wrapping(lambda a, b, c: (b << 32 | a) >> (c & 31), 32),
    ),
    ("bfi.b32", ("b32", "b32", "7", "9"), "b32", wrapping(lambda a, b: inserted(a, b, 7, 9), 32)),
    (
        "bfi.b64",
        ("b64", "b64", "32", "16"),
        "b64",
        wrapping(lambda a, b: inserted(a, b, 32, 16), 64),
    ),
    ("bfe.u32", ("u32", "7", "9"), "u32", wrapping(lambda a: a >> 7 & 511, 32)),
    ("bfe.s32", ("s32", "7", "9"), "s32", wrapping(lambda a: ((a >> 7 & 511) ^ 256) - 256, 32)),
]
F = np.float32
FLOATS = [
    *(
        (f"{op}.{m}{t}", (t, t), t, f)
        for t in ("f32", "f64")
        for m in ("", "rn.")
        for op, f in (("add", np.add), ("sub", np.subtract), ("mul", np.multiply))
    ),
    ("add.ftz.f32", ("f32", "f32"), "f32", lambda a, b: flush(flush(a) + flush(b))),
    ("mul.ftz.f32", ("f32", "f32"), "f32", lambda a, b: flush(flush(a) * flush(b))),
    (
        "add.sat.f32",
        ("f32", "f32"),
        "f32",
        lambda a, b: np.where(np.isnan(a + b), F(0), np.clip(a + b, F(0), F(1))),
    ),
    *(
        (f"{op}.{t}", (t, t), t, f)
        for t in ("f32", "f64")
        for op, f in (("min", least), ("max", greatest))
    ),
    *(
        (
            f"{op}.NaN.f32",
            ("f32", "f32"),
            "f32",
            lambda a, b, f=f: np.where(np.isnan(a) | np.isnan(b), F(np.nan), f(a, b)),
        )
        for op, f in (("min", least), ("max", greatest))
    ),
    ("fma.rn.f32", ("f32", "f32", "f32"), "f32", fused(F)),
    *(
        (f"{op}.{t}", (t,), t, f)
        for t in ("f32", "f64")
        for op, f in (("neg", np.negative), ("abs", np.abs))
    ),
    *((f"div.rn.{t}", (t, t), t, np.divide) for t in ("f32", "f64")),
    *((f"rcp.rn.{t}", (t,), t, np.reciprocal) for t in ("f32", "f64")),
    *((f"sqrt.rn.{t}", (t,), t, np.sqrt) for t in ("f32", "f64")),
    ("div.full.f32", ("f32", "f32"), "f32", lambda a, b: (a.astype(float) / b).astype(F)),
    ("rcp.approx.f32", ("f32",), "f32", lambda a: (1 / a.astype(float)).astype(F)),
    (
        "rcp.approx.ftz.f32",
        ("f32",),
        "f32",
        lambda a: flush((1 / flush(a).astype(float)).astype(F)),
    ),
    ("ex2.approx.f32", ("f32",), "f32", lambda a: np.exp2(a.astype(float)).astype(F)),
    (
        "ex2.approx.ftz.f32",
        ("f32",),
        "f32",
        lambda a: flush(np.exp2(flush(a).astype(float)).astype(F)),
    ),
    ("lg2.approx.f32", ("f32",), "f32", lambda a: np.log2(a.astype(float)).astype(F)),
]
CONVERSIONS = [
    *(
        (f"cvt.{t}.{s}", (s,), t, wrapping(lambda a: a, KINDS[t][1]))
        for t, s in (
            ("u32", "u64"),
            ("u64", "u32"),
            ("s64", "s32"),
            ("s32", "s64"),
            ("u16", "u32"),
            ("u32", "u16"),
            ("s32", "s16"),
        )
    ),
    *(
        (f"cvt.rn.{t}.{s}", (s,), t, lambda a, t=t: a.astype(KINDS[t][2]))
        for t, s in (
            ("f32", "s32"),
            ("f32", "u32"),
            ("f32", "s64"),
            ("f32", "u64"),
            ("f64", "s64"),
            ("f64", "u64"),
            ("f32", "u16"),
            ("f32", "f64"),
            ("f16", "f32"),
            ("bf16", "f32"),
        )
    ),
    ("cvt.f64.f32", ("f32",), "f64", lambda a: a.astype(float)),
    ("cvt.f32.f16", ("f16",), "f32", lambda a: a.astype(F)),
    ("cvt.f32.bf16", ("bf16",), "f32", lambda a: a.astype(F)),
    ("cvt.rn.f16x2.f32", ("f32", "f32"), "b32", packed(np.float16)),
    ("cvt.rn.bf16x2.f32", ("f32", "f32"), "b32", packed(BFLOAT16)),
    *(
        (f"cvt.{m}.{t}.{t}", (t,), t, f)
        for t in ("f32", "f64")
        for m, f in (("rni", np.rint), ("rzi", np.trunc), ("rmi", np.floor), ("rpi", np.ceil))
    ),
    *(
        (f"cvt.rzi.{t}.{s}", (s,), t, saturating(KINDS[t][2], s))
        for t in ("s32", "u32", "s64", "u64", "u16", "s16")
        for s in ("f32", "f64")
    ),
    ("cvt.rni.s32.f32", ("f32",), "s32", lambda a: saturating(np.int32, "f32")(np.rint(a))),
]


def by_halves(f):
    """``f`` on each of the two float32 in 64 bits."""
    return lambda *x: f(*(a.view(np.float32) for a in x)).view(np.uint64)


PAIRS = [
    ("add.rn.f32x2", ("b64", "b64"), "b64", by_halves(np.add)),
    ("mul.rn.f32x2", ("b64", "b64"), "b64", by_halves(np.multiply)),
    ("fma.rn.f32x2", ("b64", "b64", "b64"), "b64", by_halves(fused(F))),
    (
        "fma.rn.ftz.f32x2",
        ("b64", "b64", "b64"),
        "b64",
        by_halves(lambda a, b, c: flush(fused(F)(flush(a), flush(b), flush(c)))),
    ),
]


def of_halves(kind, f):
    """``f`` on each of the two 16-bit floats in 32 bits; NaN is 0x7fff."""

    def both(*x):
        found = f(*(np.ascontiguousarray(a).view(kind) for a in x))
        return np.where(found != found, 0x7FFF, found.view(np.uint16)).astype(np.uint16).view("u4")

    return both


def fused_halves(kind):
    """a * b + c rounded once: first to float32 by rounding to odd, then to ``kind``."""

    def one(a, b, c):
        a, b, c = (float(x) for x in (a, b, c))
        found = np.float32(a * b + c)
        if np.isfinite([a, b, c]).all() and found and not found.view(np.uint32) & 1:
            exact = Fraction(a) * Fraction(b) + Fraction(c)
            near = Fraction(float(found)) if np.isfinite(found) else exact + np.sign(found)
            if near != exact:
                found = np.nextafter(found, np.float32(np.inf if exact > near else -np.inf))
        return kind(found)

    return np.vectorize(one, otypes=[kind])


HALVES = [
    *(
        (f"neg.{t}x2", ("b32",), "b32", of_halves(np.uint16, lambda a: a ^ np.uint16(0x8000)))
        for t in ("f16", "bf16")
    ),
    *(
        (f"fma.rn.{t}x2", ("b32",) * 3, "b32", of_halves(k, fused_halves(k)))
        for t, k in (("f16", np.float16), ("bf16", BFLOAT16))
    ),
]
COMPARISONS = {
    "eq": np.equal,
    "ne": lambda a, b: (a < b) | (a > b),
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "equ": lambda a, b: ~((a < b) | (a > b)),
    "neu": lambda a, b: ~(a == b),
    "ltu": lambda a, b: ~(a >= b),
    "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b),
    "geu": lambda a, b: ~(a < b),
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
    "nan": lambda a, b: np.isnan(a) | np.isnan(b),
}
CHOICES = [
    *(
        (f"setp.{how}.{t}", (t, t), "pred", f)
        for t in ("f32", "f64")
        for how, f in COMPARISONS.items()
    ),
    *(
        (f"setp.{how}.{t}", (t, t), "pred", COMPARISONS[how])
        for t in ("s32", "u32", "s64", "u64", "s16")
        for how in ("eq", "lt", "le", "gt", "ge")
    ),
    *((f"setp.ne.{t}", (t, t), "pred", np.not_equal) for t in ("s32", "u64", "b16")),
    ("setp.lo.u32", ("u32", "u32"), "pred", np.less),
]
SPECIAL = {
    32: [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        1.5,
        2.5,
        np.inf,
        -np.inf,
        np.nan,
        1e-40,
        -1e-45,
        3e38,
        -3e38,
        1.1754944e-38,
        88.0,
        -103.5,
        2.0**126.5,
        65504,
        65520,
        1e10,
        -1e10,
        1e19,
        -1e19,
    ],
    64: [0.0, -0.0, 1.0, -1.5, 2.5, np.inf, -np.inf, np.nan, 5e-324, 1e308, 1e19, -1e19, 3e9, -3e9],
}
WHOLE = [
    0,
    1,
    2,
    3,
    7,
    31,
    32,
    33,
    63,
    64,
    127,
    128,
    255,
    2**31 - 1,
    2**31,
    2**63 - 1,
    2**63,
    2**64 - 1,
]


def numbers(kind, seed):
    """200 operands in random order: all special values, and random ones."""
    rng, (_, bits, T) = np.random.default_rng(seed), KINDS[kind]
    if np.issubdtype(T, np.integer):
        found = [
            *WHOLE,
            *map(int, rng.integers(0, 70, 50)),
            *map(int, rng.integers(0, 2**64, 132, np.uint64)),
        ]
        return rng.permutation(np.array([n % 2**bits for n in found], f"u{bits // 8}")).view(T)
    special = np.array(SPECIAL.get(bits, SPECIAL[32]))
    found = np.concatenate(
        [
            special,
            rng.normal(size=200 - len(special)) * 10 ** rng.uniform(-8, 8, 200 - len(special)),
        ]
    )
    with np.errstate(over="ignore"):
        return rng.permutation(found).astype(T)


def program_of(cases):
    """PTX of all cases: thread i reads element i of each operand; elements are 8 bytes apart."""
    lines = ["mul.wide.u32 %offset, %i, 4; add.s64 %a, %a, %offset; add.s64 %b, %b, %offset;"]
    place = 0
    for k, (op, sources, to, _) in enumerate(cases):
        given = []
        for j, kind in enumerate(sources):
            if kind not in KINDS:
                given.append(kind)
                continue
            register, bits, _ = KINDS[kind]
            given.append(f"{register}{j + 1}")
            size = f"f{bits}" if register in ("%f", "%d") else f"b{bits}" if bits > 8 else kind
            lines.append(f"ld.global.{size} {given[-1]}, [%a+{1600 * place}];")
            place += 1
        target = "%p1" if to == "pred" else f"{KINDS[to][0]}0"
        lines.append(f"{op} {target}, {', '.join(given)};")
        if to == "pred":
            lines.append("selp.u32 %r0, 1, 0, %p1;")
            target, to = "%r0", "u32"
        size = f"f{KINDS[to][1]}" if target[1] in "fd" else f"b{KINDS[to][1]}"
        lines.append(f"st.global.{size} [%b+{1600 * k}], {target};")
    return "\n".join(lines)


def stored(row, kind):
    """The results that the threads stored, 8 bytes apart, as numbers of a PTX type."""
    T = np.uint32 if kind == "pred" else KINDS[kind][2]
    item = np.dtype(T).itemsize
    return np.ascontiguousarray(row.view(np.uint8).reshape(200, 8)[:, :item]).view(T)[:, 0]


def alike(a, b):
    """Where two arrays are equal, including the sign of zero; any NaN equals any NaN."""
    if a.dtype.kind in "ui":
        return a == b
    a, b = a.astype(float), b.astype(float)
    return ((a == b) & (np.signbit(a) == np.signbit(b))) | (np.isnan(a) & np.isnan(b))


def expected(reference, operands, like):
    """NumPy's results for the operands, as numbers of the type that is compared."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = reference(*operands)
        if isinstance(found, list):  # integers, truncated to their bits
            return np.array(found, np.uint64).astype(f"u{like.itemsize}").view(like.dtype)
        return np.asarray(found).astype(like.dtype)


GROUPS = {
    "integers": INTEGERS, "floats": FLOATS, "halves": HALVES, "conversions": CONVERSIONS,
    "choices": CHOICES,
}  # fmt: skip


@pytest.mark.parametrize("group", [*GROUPS, "pairs"])
def test_instructions(group):
    """Each instruction on 200 values per operand, special values included."""
    cases, target = GROUPS.get(group, PAIRS), 100 if group == "pairs" else 90
    operands = [
        [numbers(kind, 10 * k + j) for j, kind in enumerate(sources) if kind in KINDS]
        for k, (_, sources, _, _) in enumerate(cases)
    ]
    flat = [x for given in operands for x in given]
    a, b = np.zeros((len(flat), 200), np.uint64), np.zeros((len(cases), 200), np.uint64)
    for row, x in zip(a, flat, strict=True):
        row.view(np.uint8).reshape(200, 8)[:, : x.itemsize] = x.view(np.uint8).reshape(200, -1)
    run(program_of(cases), a, b, threads=200, complete=False, target=target)
    for row, given, (op, _, to, reference) in zip(b, operands, cases, strict=True):
        got = stored(row, to)
        want = expected(reference, given, got)
        same = alike(got, want)
        if group == "pairs":
            same = alike(got.view(np.float32), want.view(np.float32)).reshape(200, 2).all(axis=1)
        wrong = np.flatnonzero(~same)
        assert not wrong.size, (op, [x[wrong[0]] for x in given], got[wrong[0]], want[wrong[0]])


@pytest.mark.parametrize(
    ("kind", "factor", "least"),
    [("f16", 1 + 2.0**-5, 2.0**-24), ("bf16", 1 + 2.0**-4, 2.0**-100)],
)
def test_half_products_with_one_rounding(kind, factor, least):
    """If a product is halfway between two numbers, a tiny addend decides how it is rounded."""
    T = KINDS[kind][2]
    other = T(1 + 2.0**-6 if kind == "f16" else factor)
    a, b = np.zeros((3, 200), np.uint64), np.zeros((1, 200), np.uint64)
    operands = [(T(factor), T(factor)), (other, other), (T(-least), T(least))]
    for row, halves in zip(a, operands, strict=True):
        row[:] = np.array(halves, T).view(np.uint32)[0]
    body = program_of([(f"fma.rn.{kind}x2", ("b32",) * 3, "b32", None)])
    run(body, a, b, threads=200, complete=False)
    low, high = np.uint32(b[0, 0]).reshape(1).view(T)
    assert low < Fraction(float(T(factor))) * Fraction(float(other)) < high
    assert np.nextafter(low.astype(T), T(np.inf)) == high


def test_products_with_one_rounding():
    """A float64 fma adds to the exact product, not to the rounded one."""
    a, b = np.zeros((3, 200)), np.zeros((1, 200))
    a[:2], a[2] = 1 + 2.0**-30, -((1 + 2.0**-30) ** 2)
    run(program_of([("fma.rn.f64", ("f64", "f64", "f64"), "f64", None)]), a, b, threads=200)
    np.testing.assert_array_equal(b, 2.0**-60)


@pytest.mark.parametrize(
    ("op", "exact", "bound"),
    [
        ("ex2.approx.f32", np.exp2, 2.0**-22),
        ("ex2.approx.ftz.f32", np.exp2, 2.0**-22),
        ("lg2.approx.f32", np.log2, 2.0**-22),
        ("rcp.approx.f32", lambda x: 1 / x, 2.0**-23),
        ("sqrt.approx.f32", np.sqrt, 2.0**-23),
        ("rsqrt.approx.f32", lambda x: x**-0.5, 2.0**-22.9),
        ("tanh.approx.f32", np.tanh, 2.0**-11),
    ],
)
def test_units_are_off_by_what_is_documented(op, exact, bound):
    """The error stays below the documented bound, and a seed always gives the same results."""
    a, b = np.zeros((1, 200), np.uint64), np.zeros((1, 200), np.uint64)
    x = np.linspace(2.5, 60, 200, dtype=np.float32)
    a.view(np.float32)[0, ::2] = x
    want, found = exact(x.astype(float)), []
    for seed in (0, 1, 1, 2):
        with machine.units(seed):
            run(program_of([(op, ("f32",), "f32", None)]), a, b, threads=200, complete=False)
        found.append(b.view(np.float32)[0, ::2].copy())
        error = abs(found[-1] - want) / want
        assert error.max() < bound + 2.0**-24
        assert (error.max() > bound / 2) == (seed > 0)
    assert found[1].tobytes() == found[2].tobytes() != found[3].tobytes()


def test_division_of_units():
    a, b = np.zeros((2, 200), np.uint64), np.zeros((1, 200), np.uint64)
    x, y = (row.view(np.float32)[::2] for row in a)
    x[:], y[:] = np.arange(1, 201), 3
    y[:4] = 2.0**127, np.inf, 0, np.nan
    for op in ("div.approx.f32", "div.full.f32"):
        with machine.units(7):
            run(program_of([(op, ("f32", "f32"), "f32", None)]), a, b, threads=200, complete=False)
        off = b.view(np.float32)[0, ::2] / (x.astype(float) / 3) - 1
        assert 2.0**-24 < abs(off[4:]).max() < 2.0**-22 + 2.0**-24
        large = [0 if "approx" in op else 2.0**-127, 0, np.inf, np.nan]
        np.testing.assert_allclose(b.view(np.float32)[0, :8:2], large, 1e-6)


def test_predicates():
    """The constant -1 is true, and a predicate has one bit: not (true xor true) is true."""
    body = """mov.pred %p1, -1; setp.eq.u32 %p2, %i, %i; xor.pred %p3, %p1, %p2; not.pred %p4, %p3;
    selp.u32 %r0, 1, 0, %p4; setp.lt.and.u32 %p1|%p2, %i, 1000, %p1; @%p2 add.u32 %r0, %r0, 10;
    st.global.u32 [%b], %r0;"""
    b = np.zeros(32, np.uint32)
    run(body, None, b)
    np.testing.assert_array_equal(b, 1)
