"""Error limits for loss, gradient and Hessian, against results of 60 digits and more.

The error is relative to the true value where that is a normal number of the dtype; for smaller true
values the absolute error is at most the smallest normal number. Where the true value is a sum of
terms that may cancel, the error is relative to the sum of their magnitudes (`tests.reference`,
scales):

* the Hessian, f'' (dl/dz)**2 + f' d2l/dz2, which passes through zero,
* the gradient of a soft target, p * sum(m f') - m f', which is zero at p = target,
* results in which terms of the loss's own definition cancel: p - clip of the asymmetric loss, and
  with epsilon = -1 the loss -log p - (1 - p) of poly1.

`tests.reference` computes those sums from the definition of each loss; the true values come from
`tests.exact`. In these cases too an error of at most the smallest normal number passes:
probabilities underflow gradually, and so does -gamma p log p.
"""

from __future__ import annotations

import functools

import mpmath
import numpy as np
import pytest

import fusedce
from tests.exact import exact_logit, exact_softmax
from tests.listed import ALL_RULES as RULES
from tests.listed import competing, inexact_power
from tests.reference import exact_element, exact_row, reference

DTYPES = {"float32": np.float32, "float64": np.float64}
COMPETING = competing(RULES)
WHAT = ("loss", "grad", "hess")


def bar(name, activation, dtype):
    if dtype == "float64":
        return 2e-13
    if inexact_power(RULES[name]):
        return 2e-5
    return 1e-5 if activation == "softmax" else 4e-6


@pytest.fixture(scope="module")
def worst(request):
    """Fixture: the largest error by loss, target form, dtype and result, printed at the end."""
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    yield found
    manager = request.config.pluginmanager.getplugin("capturemanager")
    with manager.global_and_fixture_disabled():
        print(f"\n{'worst relative error':49}    loss    grad    hess     bar")
        for (name, form, dtype), row in sorted(found.items()):
            limit = bar(name, form.split()[0], dtype)
            print(f"  {name:25} {form:13} {dtype}", *(f"{row[w]:.1e}" for w in WHAT), limit)


def judge(worst, key, what, got, true, scale, z, T):
    """Record the largest error of these numbers, and check that none exceeds the tolerance."""
    name, form, dtype = key
    smallest = float(np.finfo(T).tiny)
    limit = bar(name, form.split()[0], dtype)
    for g, t, s, where in zip(got, true, scale, z, strict=True):
        s = max(mpmath.mpf(float(s)), abs(t))
        differs = s > abs(t) * (1 + 1e-9)
        error = abs(mpmath.mpf(float(g)) - t) if np.isfinite(g) else mpmath.inf
        if error <= smallest and (differs or s < smallest):
            continue
        row = worst.setdefault(key, dict.fromkeys(WHAT, 0.0))
        row[what] = max(row[what], float(error / s))
        assert error <= limit * s, (
            f"{what} {g!r}, not {mpmath.nstr(t, 12)}: {mpmath.nstr(error / s, 3)} > {limit}", where
        )  # fmt: skip


def call(name, z, targets, **options):
    fn = getattr(fusedce, name.split()[0])
    return fn(z, targets, reduction="none", return_hessian=True, **RULES[name], **options)


def scales_of(name, z, targets, **options):
    public = name.split()[0], RULES[name]
    return reference(public, z, targets, reduction="none", scales=True, **options)[1]


# ------------------------------------------------------------------------------------ sigmoid


def element_logits(T):
    """Logits: zero, small, confident, in both tails until p underflows and up to |z| = 1e4."""
    rng = np.random.default_rng(0)
    confident = [np.log(p / (1 - p)) for p in (0.999999, 1 - 1e-9)]
    tail = 87.0 if T is np.float32 else 708.0
    z = [0.0, 1e-30, 1e-8, 0.5, 1.0, 3.0, *confident, 16.6, 17.4, 36.7, 50.0, tail, 1.02 * tail]
    z += [1.19 * tail, 1000.0, 9999.9, 1e4, np.nextafter(T(0.69314718), T(1))]
    z = np.array(z).astype(T)
    return np.concatenate(
        [z, -z, rng.uniform(-20, 20, 80).astype(T), rng.normal(size=40).astype(T)]
    )


@functools.cache
def true_elements(name, dtype, soft):
    z = element_logits(DTYPES[dtype])
    rng = np.random.default_rng(1)
    y = rng.uniform(0, 1, z.size).astype(np.float32) if soft else np.arange(z.size) // 2 % 2
    y[:2] = 0, 1
    public = name.split()[0], RULES[name]
    one = mpmath.mpf(1)
    return (
        z,
        y,
        [exact_logit(public, a, b, one - float(b), dtype) for a, b in zip(z, y, strict=True)],
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("name", RULES)
def test_sigmoid(name, soft, dtype, worst):
    z, y, true = true_elements(name, dtype, soft)
    form = "sigmoid soft" if soft else "sigmoid"
    for flip in (False, True):  # each logit is tested with both labels
        y = 1 - y if flip else y
        if flip:
            if soft:
                continue
            public = name.split()[0], RULES[name]
            true = [
                exact_logit(public, a, b, 1 - b, dtype) for a, b in zip(z, y.tolist(), strict=True)
            ]
        got = call(name, z, y, activation="sigmoid")
        scales = scales_of(name, z, y, activation="sigmoid")
        for k, what in enumerate(WHAT):
            exact, place = [t[k] for t in true], list(zip(z, y, strict=True))
            key = name, form, dtype
            judge(worst, key, what, got[k], exact, scales[k], place, DTYPES[dtype])


# ------------------------------------------------------------------------------------ softmax


def softmax_rows(C, T):
    """Logits (rows, C) and class indices: confident, tied, far apart, huge and ordinary rows."""
    rng = np.random.default_rng(C)
    far = 85.0 if T is np.float32 else 700.0
    spread = [rng.normal(size=C) * s for s in (1.0, 10.0)]
    spread += [rng.uniform(-1e4, 1e4, C), 1e4 - rng.uniform(0, 60, C), -1e4 + rng.normal(size=C)]
    confident = [rng.normal(size=C) * 0.1 for _ in range(3)]
    for row, p in zip(confident, (0.999999, 1 - 1e-9, 1 - 1e-12), strict=True):
        row[C // 2] = np.log(p / (1 - p) * max(C - 1, 1))
    tails = [np.full(C, -far), np.full(C, far), np.zeros(C), np.full(C, 9999.0)]
    tails[0][C // 2], tails[1][C // 2] = 0.0, 0.0
    tails[3][C // 2 :] -= 20.0  # the classes before C // 2 tie
    two = rng.normal(size=C)
    two[0] = two[-1] = 4.0
    z = np.array([*spread, *confident, *tails, two]).astype(T)
    n = len(z)
    y = [z.argmax(1), z.argmin(1), rng.integers(0, C, n)]
    if C > 10:  # one target for each row, not three
        return z, np.choose(np.arange(n) % 3, y)
    return np.concatenate([z, z, z]), np.concatenate(y)


def watched(z, y, rng):
    """The classes checked in a row: target, extremes, first, middle, last and a random one."""
    C = len(z)
    chosen = {int(y), int(z.argmax()), int(z.argmin()), 0, C // 2, C - 1}
    return sorted(chosen | {int(rng.integers(C))})


@functools.cache
def true_rows(name, dtype, C):
    z, y = softmax_rows(C, DTYPES[dtype])
    rng = np.random.default_rng(2)
    classes = [watched(a, b, rng) for a, b in zip(z, y, strict=True)]
    public = name.split()[0], RULES[name]
    true = [
        exact_softmax(public, a, {int(b): 1}, c, dtype)
        for a, b, c in zip(z, y, classes, strict=True)
    ]
    return z, y, classes, true


def judge_rows(worst, key, got, scales, classes, true, z, T):
    for i, (cs, t) in enumerate(zip(classes, true, strict=True)):
        place = [(i, c, z.shape) for c in cs]
        for k, what in enumerate(WHAT):
            ours = [got[0][i]] if k == 0 else got[k][i, cs]
            scale = [scales[0][i]] if k == 0 else scales[k][i, cs]
            exact = [t[0]] if k == 0 else t[k]
            judge(worst, key, what, ours, exact, scale[: len(ours)], place[: len(ours)], T)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", COMPETING)
def test_softmax_of_an_index(name, dtype, worst):
    for C in (1, 2, 3, 10, 100, 200):
        z, y, classes, true = true_rows(name, dtype, C)
        got = call(name, z, y, activation="softmax")
        scales = scales_of(name, z, y, activation="softmax")
        key = name, "softmax", dtype
        judge_rows(worst, key, got, scales, classes, true, z, DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["soft", "smooth"])
@pytest.mark.parametrize("name", [n for n in COMPETING if n not in ("focal 0", "focal 1")])
def test_softmax_of_a_distribution(name, form, dtype, worst):
    rng, T, public = np.random.default_rng(3), DTYPES[dtype], (name.split()[0], RULES[name])
    for C, few in ((2, 13), (10, 6), (100, 1)):
        z, y = softmax_rows(C, T)
        keep = rng.permutation(len(z))[:few]
        z, y, options = z[keep], y[keep], {}
        if form == "soft":
            y = rng.dirichlet(np.full(C, 0.5), len(z)).astype(np.float32).astype(T)
            y[0] = np.arange(C) == 1  # one-hot
            masses = [dict(enumerate(row.tolist())) for row in y]
        else:
            options = {"label_smoothing": 0.125}
            masses = [{k: 0.875 * (k == t) + 0.125 / C for k in range(C)} for t in y]
        classes = [watched(a, a.argmax(), rng)[-5:] for a in z]
        true = [
            exact_softmax(public, a, m, c, dtype)
            for a, m, c in zip(z, masses, classes, strict=True)
        ]
        got = call(name, z, y, activation="softmax", **options)
        scales = scales_of(name, z, y, activation="softmax", **options)
        key = name, "softmax " + form, dtype
        judge_rows(worst, key, got, scales, classes, true, z, T)


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_a_row_wider_than_the_scratch(name, worst):
    """More than 2**17 classes: the row is read twice, in blocks with a running maximum."""
    C, rng = (1 << 17) + 4099, np.random.default_rng(4)
    z = rng.normal(size=(2, C)).astype(np.float32)
    z[0, C - 7], z[1, 3] = 30.0, 25.0  # the maximum is in the last block, and in the first
    y = np.array([C - 7, C // 2])
    classes = [watched(a, b, rng) for a, b in zip(z, y, strict=True)]
    public = name.split()[0], RULES[name]
    true = [
        exact_softmax(public, a, {int(b): 1}, c, "float32")
        for a, b, c in zip(z, y, classes, strict=True)
    ]
    got = call(name, z, y, activation="softmax")
    scales = scales_of(name, z, y, activation="softmax")
    key = name, "softmax wide", "float32"
    judge_rows(worst, key, got, scales, classes, true, z, np.float32)


# ------------------------------------------------------------------------------------ identities


@pytest.mark.parametrize("dtype", DTYPES)
def test_gamma_zero_is_cross_entropy_bit_for_bit(dtype):
    rows = [(*softmax_rows(C, DTYPES[dtype]), "softmax") for C in (1, 3, 10, 200)]
    z = element_logits(DTYPES[dtype])
    rows += [(z, np.arange(z.size) % 2, "sigmoid"), (z, np.linspace(0, 1, z.size), "sigmoid")]
    for z, y, activation in rows:
        pair = (call(name, z, y, activation=activation) for name in ("focal 0", "cross_entropy"))
        for a, b in zip(*pair, strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("C", [10, 200, (1 << 17) + 70])
def test_a_nan_beside_the_target_spoils_its_row(C):
    """A NaN logit of any class makes its row NaN, though the rule evaluates the target alone.

    With class indices the other classes enter only through the sum of exponentials.
    """
    z = np.random.default_rng(5).normal(size=(4, C)).astype(np.float32)
    calm = call("cross_entropy", z, np.array([1, 1, 1, 1]), activation="softmax")
    z[1, C - 1], z[2] = np.nan, -np.inf
    got = call("cross_entropy", z, np.array([1, 1, 1, 1]), activation="softmax")
    for a, b in zip(got, calm, strict=True):
        assert np.isnan(a[1:3]).all()
        assert np.array_equal(a[::3], b[::3])


@pytest.mark.parametrize("name", RULES)
def test_the_two_oracles_agree(name):
    """`tests.exact` and `tests.reference` agree where the latter does not take too long."""
    public = name.split()[0], RULES[name]
    for x, pos, neg in ((0.3, 1, 0), (-40.0, 0.25, 0.75), (1.5, 0, 1), (90.0, 0, 1)):
        for a, b in zip(exact_logit(public, x, pos, neg), exact_element(public, x, pos, neg),
                        strict=True):  # fmt: skip
            assert abs(a - b) <= mpmath.mpf("1e-40") * abs(b)
    if name in COMPETING:
        z, mass = [1.0, -30.0, 60.0], [0.0, 0.75, 0.25]
        ours, theirs = (
            exact_softmax(public, z, dict(enumerate(mass)), [0, 1, 2]),
            exact_row(public, z, mass),
        )
        assert abs(ours[0] - theirs[0]) <= mpmath.mpf("1e-40") * abs(theirs[0])
        for a, b in zip(ours[1] + ours[2], theirs[1] + theirs[2], strict=True):
            assert abs(a - b) <= mpmath.mpf("1e-40") * abs(b)
