"""Sizes at which loops change: vector widths, tiles, patches, blocks and the choice of kernel."""

from __future__ import annotations

import numpy as np
import pytest

import fusedce
from fusedce.backends import cpu_replay
from fusedce.kernels import tuning
from tests.core.test_losses import DTYPES, agree, alike, bar, check, make
from tests.reference import reference

dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
forms = pytest.mark.parametrize("form", ["index", "soft"])


@dtypes
@forms
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_rows(activation, form, dtype):
    """Numbers of rows next to multiples of 16 and 32; 1 to 3 classes, and 95 to 98."""
    rng = np.random.default_rng(1)
    for N in (1, 15, 16, 17, 31, 32, 33, 63, 64, 65):
        for C in (1, 2, 3):
            if C == 1 and form == "index" and activation != "softmax":
                continue  # no class index: see test_targets.py
            z, t = make(activation, form, dtype, (N, C), rng)
            check("focal", z, t, dtype, activation=activation, reduction="none")
    for C in (95, 96, 97, 98):
        z, t = make(activation, form, dtype, (33 if form == "index" else 5, C), rng)
        for options in ({}, {"weight": np.arange(1, C + 1) / C, "label_smoothing": 0.1}):
            check("poly1", z, t, dtype, activation=activation, **options)


@dtypes
@forms
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_tiles(activation, form, dtype):
    """More rows than a tile holds; a class axis in front of an axis of 1, 15, 16, 17 or 300."""
    rng = np.random.default_rng(2)
    for N in (255, 256, 257, 1000):
        z, t = make(activation, form, dtype, (N, 3), rng)
        s = rng.integers(-3, 9, N) / 4
        check("focal", z, t, dtype, activation=activation, sample_weight=s)
    for inner in (1, 15, 16, 17, 300):
        for C in (3, 100) if inner < 300 else (3,):
            z, t = make(activation, form, dtype, (2, C, inner), rng, 1)
            s = rng.integers(-3, 9, (2, inner)) / 4
            check("focal", z, t, dtype, activation=activation, axis=1, sample_weight=s)


def test_many_tiles():
    """15,000 rows side by side in lanes give the results of the same rows in C order."""
    rng = np.random.default_rng(3)
    z, t = make("softmax", "index", "float32", (3, 5, 5000), rng, 1)
    t[:, ::7] = -100
    a = fusedce.focal(z, t, activation="softmax", axis=1, reduction="none")
    rows = np.ascontiguousarray(np.moveaxis(z, 1, 2)).reshape(-1, 5)
    b = fusedce.focal(rows, t.ravel(), activation="softmax", reduction="none")
    np.testing.assert_allclose(a[0].ravel(), b[0], rtol=1e-6)
    np.testing.assert_allclose(np.moveaxis(a[1], 1, 2).reshape(-1, 5), b[1], rtol=1e-5, atol=1e-37)
    some = rng.integers(0, len(rows), 300)
    check("focal", rows[some], t.ravel()[some], "float32", activation="softmax")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(2047,), (2048,), (2049,), (4100,), (683, 3), (26, 80),
                                   (2, 2049), (1, 2048, 2), (3, 3, 700), (2, 80, 30)])  # fmt: skip
@pytest.mark.parametrize("form", ["index", "soft", "int", "bool"])
def test_patches(form, shape, dtype):
    """Sizes around a patch of 2048 elements, with class and sample weights that must line up."""
    if form == "index" and len(shape) == 1:
        return  # one class index for a row of logits: see test_targets.py
    axis, rng = 1 if len(shape) > 1 else 0, np.random.default_rng(4)
    z, t = make("sigmoid", form, dtype, shape, rng, axis)
    C, rows = shape[axis], tuple(np.delete(shape, axis))
    w, pw = rng.integers(1, 9, C) / 4, rng.integers(1, 9, C) / 2
    s = rng.integers(-4, 9, rows) / 4
    if form == "index":
        t.reshape(-1)[-1:] = C
        t.reshape(-1)[:: max(7, 2)] = 0
    if form in ("index", "int") and t.size > 2:
        t.reshape(-1)[1::5] = -100
    for options in ({"weight": w, "pos_weight": pw, "sample_weight": s},
                    {"weight": w, "softcap": 6.0, "label_smoothing": 0.1, "reduction": "none"},
                    {"sample_weight": rng.integers(-4, 9, shape) / 4, "alpha": 0.25}):  # fmt: skip
        check("focal", z, t, dtype, activation="sigmoid", axis=axis, **options)


def test_patches_under_a_transposed_view():
    """Arrays of more than one patch whose memory orders differ from each other."""
    rng = np.random.default_rng(5)
    z, t = make("sigmoid", "soft", "float32", (130, 90), rng)
    w, s = rng.integers(1, 9, 90) / 4, rng.integers(-4, 9, 130) / 4
    for a in (z, np.asfortranarray(z), z[::-1, ::-1]):
        for b in (t, np.asfortranarray(t), t.astype(np.float32)[:, ::-1]):
            out = np.full((90, 130), np.nan, np.float32).T
            options = {"weight": w, "pos_weight": w[::-1], "sample_weight": s}
            got = check("focal", a, b, "float32", activation="sigmoid", **options)
            fusedce.focal(a, b, grad_out=out, **options)
            np.testing.assert_allclose(out, got[1], rtol=1e-6)


OWN = {"cross_entropy": {}, "focal": {"gamma": 2.0}}
STRIP = tuning.STRIP
CLASSES = (
    *range(2, 11), 15, 16, 17, 31, 32, 33, 63, 64, 65, 66, 127, 128, 129, 511, 512, 513,
    STRIP - 1, STRIP, STRIP + 1, 2 * STRIP, 2 * STRIP + 1,
)  # fmt: skip
ASKED = [
    {},
    {"weight": True, "sample_weight": True},
    {"softcap": 6.0, "logit_scale": 1.5},
    {"z_loss": 0.01, "weight": True},
    {"label_smoothing": 0.1, "weight": True},
]


@pytest.fixture
def sizes(monkeypatch):
    """Fixture: set sizes of tuning.py, and drop prepared calls, which have read them already."""

    def patch(**values):
        for name, value in values.items():
            monkeypatch.setattr(tuning, name, value)
        cpu_replay._PREPARED.clear()

    yield patch
    cpu_replay._PREPARED.clear()


def spiked(form, dtype, rows, C, rng):
    """Rows with maximum, target and a block of -inf at the start, in the middle or at the end."""
    z = rng.normal(size=(rows, C))
    places = (0, C // 2, C - 1)
    t = np.array([places[(r // 3) % 3] for r in range(rows)])
    z[np.arange(rows), [places[r % 3] for r in range(rows)]] = 12.0
    if C > 4:
        z[1::5, : C // 3], z[2::5, C // 3 : C // 2], z[3::5, -(C // 3) :] = [-np.inf] * 3
    z[np.arange(rows), t] = np.where(np.isinf(z[np.arange(rows), t]), 0.5, z[np.arange(rows), t])
    if form == "index":
        return z.astype(DTYPES[dtype]), np.where(np.arange(rows) % 4 == 3, -100, t)
    y = rng.integers(0, 257, (rows, C)) / 256 * (rng.random((rows, C)) < 0.8) * np.isfinite(z)
    return z.astype(DTYPES[dtype]), y


def compare(name, dtype, z, t, options, some, got):
    """Compare some rows of (loss, grad) or (loss, grad, hess) with the oracle."""
    some = np.array(some)
    got = [a[some] for a in got]
    if t.ndim == 1:
        assert not any(np.any(a[t[some] == -100]) for a in got)
    if "sample_weight" in options:
        options = options | {"sample_weight": options["sample_weight"][some]}
    call = options | {"activation": "softmax", "reduction": "none", "scales": True}
    want, scales = reference((name, OWN[name]), z[some], t[some], **call)
    rtol = bar(dtype, "softmax", OWN[name])
    for what, a, b, scale in zip(("loss", "grad", "hess"), got, want, scales, strict=False):
        agree(what, a, b, scale, dtype, rtol, f"{name} {z.shape} {options}")


def asked(options, rows, C):
    """A choice of ``ASKED``, with arrays in place of True."""
    options = dict(options)
    if "weight" in options:
        options["weight"] = 1 + np.arange(C) % 5 / 4
    if "sample_weight" in options:
        options["sample_weight"] = np.arange(rows) % 5 / 4 - 0.5
    return options


@np.errstate(all="ignore")
def compare_calls(name, form, dtype, rows, C, choices=ASKED):
    """For each choice of options: with and without a Hessian, the reduced loss, and in place."""
    z, t = spiked(form, dtype, rows, C, np.random.default_rng(C))
    block = tuning.rows_per_block(C)
    some = sorted({0, 1, 2, 3, block - 1, block, rows - 2, rows - 1} & set(range(rows)))
    for choice in choices:
        options = asked(choice, rows, C)
        if "label_smoothing" in options:
            z = np.where(np.isinf(z), z.dtype.type(-3), z)
        call = {"activation": "softmax", "reduction": "none"} | OWN[name] | options
        loss, grad = getattr(fusedce, name)(z, t, **call)
        full = getattr(fusedce, name)(z, t, return_hessian=True, **call)
        compare(name, dtype, z, t, options, some, full)
        compare(name, dtype, z, t, options, some, (loss, grad))
        mean = getattr(fusedce, name)(z, t, **call | {"reduction": "sum"})[0]
        size = abs(loss).sum(dtype=float)  # with weights of both signs the sum may be small
        np.testing.assert_allclose(mean, loss.sum(dtype=float), rtol=1e-7, atol=1e-7 * size)
        over = z.copy()
        again = getattr(fusedce, name)(over, t, grad_out=over, **call)
        alike(fusedce, again, (loss, grad))


@pytest.mark.parametrize(("form", "dtype"), [("index", "float32"), ("index", "float64"),
                                             ("index", "float16"), ("soft", "float32"),
                                             ("soft", "float64")])  # fmt: skip
def test_classes(form, dtype):
    """Numbers of classes at which a loop or kernel changes; one row more than a block, and few."""
    for C in CLASSES:
        rows = tuning.rows_per_block(C) + 1 if C >= tuning.FEW_CLASSES else 17
        compare_calls("cross_entropy", form, dtype, max(5, rows), C, ASKED[: 2 if C > 9 else 5])
    for C in (7, 66, STRIP, STRIP + 1, 2 * STRIP + 1):
        compare_calls("cross_entropy", form, dtype, 7, C)
        for rows in (1, 2, 3):
            compare_calls("cross_entropy", form, dtype, rows, C, ASKED[:1])


@forms
def test_classes_of_another_rule(form):
    """Numbers of classes for focal loss, whose derivatives are not constants."""
    for C in (9, 17, 65, 129, STRIP, STRIP + 1, 2 * STRIP + 1):
        compare_calls("focal", form, "float32", 6, C)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_long_rows_do_not_mix(dtype):
    """Rows longer than a strip: larger logits in other rows do not change the results of a row."""
    rng = np.random.default_rng(8)
    for C in (STRIP + 1, 3000, 4 * STRIP, 8 * STRIP):
        z = rng.normal(size=(6, C)) + 40.0 * np.arange(6)[:, None]
        z[3, STRIP:] -= 50.0  # the maximum is in the first strip
        z[4, :STRIP] -= 50.0
        z, t = z.astype(dtype), np.array([0, STRIP, C - 1, STRIP - 1, 5, -100])
        options = {"reduction": "none"}
        loss, grad = fusedce.cross_entropy(z, t, **options)
        compare("cross_entropy", dtype, z, t, options, range(6), (loss, grad))
        for i in range(6):
            one = fusedce.cross_entropy(z[i : i + 1], t[i : i + 1], **options)
            alike(fusedce, (one[0][0], one[1][0]), (loss[i], grad[i]))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@forms
def test_rows_read_twice(form, dtype, sizes):
    """Rows a little wider than the scratch buffer, here made small, which are read twice."""
    sizes(WIDTH=2 * STRIP)
    for C in (2 * STRIP - 1, 2 * STRIP, 2 * STRIP + 1, 3 * STRIP, 3 * STRIP + 5):
        compare_calls("cross_entropy", form, dtype, 5, C)


@dtypes
@forms
def test_blocks(form, dtype, sizes):
    """Blocks of at most 3 rows and tiles of one vector: full, with one row less and one more."""
    sizes(TILE=1, ROWS_MAX=3)
    for C in (2, 3, 10, 63, 64, 70):
        for rows in (1, 2, 3, 4, 6, 7, 15, 16, 17, 33):
            compare_calls("cross_entropy", form, dtype, rows, C, ASKED[:2])


@dtypes
def test_every_row_ignored(dtype):
    """Every row ignored, or all but the first or last: their results are zeros, even for NaN."""
    for C in (3, 17, 100, STRIP + 1):
        for kept in (None, 0, 4):
            z = np.random.default_rng(9).normal(size=(5, C)).astype(dtype)
            t, out = np.full(5, -100), np.full((5, C), np.nan, dtype)
            z[np.arange(5) != kept] = np.nan
            if kept is not None:
                t[kept] = 1
            loss, grad = fusedce.cross_entropy(z, t, grad_out=out, reduction="none")
            compare("cross_entropy", dtype, z, t, {}, range(5), (loss, grad))
            outs = {"grad_out": np.full_like(out, np.nan), "hess_out": np.full_like(out, np.nan)}
            full = fusedce.cross_entropy(z, t, reduction="none", return_hessian=True, **outs)
            compare("cross_entropy", dtype, z, t, {}, range(5), full)


@dtypes
def test_small_patches(dtype, sizes):
    """Patches of 32 elements: whole vectors, partial vectors, rows that span two patches."""
    sizes(ELEMENTS=32)
    rng = np.random.default_rng(10)
    for shape in ((31,), (32,), (33,), (65,), (4, 8), (5, 7), (3, 33), (2, 64)):
        axis = 1 if len(shape) > 1 else 0
        for form in ("soft", "int", "bool"):
            z, t = make("sigmoid", form, dtype, shape, rng, axis)
            for options in ({}, {"weight": np.arange(1, shape[axis] + 1) / 4}):
                check("cross_entropy", z, t, dtype, activation="sigmoid", axis=axis, **options)
        z, t = make("sigmoid", "int", dtype, shape, rng, axis)
        t.reshape(-1)[::5] = -100
        check("cross_entropy", z, t, dtype, activation="sigmoid", axis=axis)
        odd = t * (t > 0) + 0.0
        odd.reshape(-1)[-1] = 0.25  # all other labels are 0 or 1
        check("cross_entropy", z, odd, dtype, activation="sigmoid", axis=axis)


WIDE = [
    {}, {"softcap": 6.0, "logit_scale": 1.5}, {"label_smoothing": 0.1}, {"z_loss": 0.01},
    {"label_smoothing": 0.2, "softcap": 8.0, "weight": True},
]  # fmt: skip


@pytest.mark.slow(reason="the oracle's long doubles, 300,000 a row")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
@pytest.mark.parametrize("options", WIDE, ids=str)
def test_rows_wider_than_the_scratch(options, name, dtype):
    """More than 131072 classes, where the row is read twice; targets on both sides of 131072."""
    for C in (131_072, 131_073, 300_001) if dtype == "float32" else (131_073,):  # a slow oracle
        rng = np.random.default_rng(C)
        z = rng.normal(size=(4, C)).astype(DTYPES[dtype])
        z[0, 5] = z[1, C - 1] = 9.0
        z[2, : min(C - 1, 131_072)] = -np.inf  # all of the first block masked
        t = np.array([5, 131_071, C - 1, C // 2])
        if "label_smoothing" in options:
            z[2] = 0.5
        k = asked(options, 4, C)
        call = OWN[name] | k | {"activation": "softmax", "reduction": "none"}
        got = getattr(fusedce, name)(z, t, return_hessian=True, **call)
        compare(name, dtype, z, t, k, range(0, 4, 1 + (C > 140_000)), got)


@forms
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_wide_distributions_and_elements(form, dtype):
    """Soft targets, sigmoid and probabilities in a row wider than the scratch buffer."""
    C = 140_000
    rng = np.random.default_rng(6)
    z = rng.normal(size=(2, C)).astype(DTYPES[dtype])
    q = np.zeros((2, C), np.float32)
    q[:, [0, 131_071, 131_072, C - 1]] = [0.5, 0.25, 1.0, 2.0]
    t = np.array([131_072, C - 1]) if form == "index" else q
    if form == "soft":
        for name in OWN:
            for normalize in (False, True):
                call = {"normalize_targets": normalize}
                got = getattr(fusedce, name)(z, q, activation="softmax", reduction="none",
                    return_hessian=True, **OWN[name], **call)  # fmt: skip
                compare(name, dtype, z, q, call, range(2), got)
    else:
        p = (1 / (1 + np.exp(-z.astype(float)))).astype(z.dtype)
        check("focal", p, t, dtype, activation=None, reduction="none")
    t = t if form == "index" else t / 2  # labels of elements are in [0, 1]
    check("focal", z, t, dtype, activation="sigmoid", weight=1 + np.arange(C) % 7 / 8)
