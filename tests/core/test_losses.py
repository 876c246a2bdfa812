"""The package against the oracle: every loss, activation, target form, option and dtype.

A result may differ from the oracle's by the tolerance of its dtype times the sum of the absolute
values of its terms (one term for index targets: there it is a relative error), plus one rounding to
the dtype of the result.
"""

from __future__ import annotations

import inspect
from types import ModuleType

import ml_dtypes
import numpy as np
import pytest

import fusedce
from tests.listed import LOSSES, RULES, competing, inexact_power, of
from tests.reference import REAL, definition, reference

DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}
ROUNDING = {"float64": 0.0, "float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}
SMALLEST = {"float64": 2.3e-308, "float32": 1.2e-38, "float16": 2.0**-25, "bfloat16": 1.2e-38}
FORMS = {
    "softmax": ["index", "soft"],
    "sigmoid": ["index", "soft", "int", "signed", "bool"],
    None: ["index", "soft", "int"],
}
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def bar(dtype, activation, own):
    """The relative tolerance: for float16 and bfloat16 that of float32, in which they compute."""
    if dtype == "float64":
        return 2e-13
    if inexact_power(own):
        return 2e-5
    return 1e-5 if activation == "softmax" else 4e-6


def agree(what, ours, true, scale, dtype, rtol, where=""):
    """Compare one result ("loss", "grad" or "hess") with the oracle's, also its dtype and shape."""
    half = what != "loss" and dtype in ("float16", "bfloat16")
    kept = (np.float64 if dtype == "float64" else np.float32) if what == "loss" else DTYPES[dtype]
    assert ours.dtype == kept
    assert ours.shape == true.shape
    kind = dtype if half or dtype == "float64" else "float32"
    ours = ours.astype(np.float64)
    with np.errstate(invalid="ignore"):
        room = rtol * scale + ROUNDING[kind] * abs(true) + SMALLEST[kind]
        fine = (ours == true) | (abs(ours - true) <= room) | (np.isnan(ours) & np.isnan(true))
    if not np.all(fine):
        at = tuple(np.argwhere(~np.atleast_1d(fine))[0])
        o, t, r = (np.atleast_1d(a)[at] for a in (ours, true, room))
        raise AssertionError(f"{what}{list(at)} {o!r}, not {t!r} +- {r:.2g}: {where}")


def alike(api, ours, theirs):
    """Compare the results of two calls that ask for one calculation with other options or layouts.

    On the CPU the same loops compute both, and the bits are equal. On a GPU two different kernels
    may compute them: there they are equal within the tolerance.
    """
    for a, b in zip(ours, theirs, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if isinstance(api, ModuleType):  # fusedce itself
            assert a.tobytes() == b.tobytes()
        else:
            near(a.dtype.name, a, b)


def near(dtype, ours, theirs, slack=1e-3):
    """Two results differ by at most the sum of two tolerances, and of two roundings to a half type.

    ``slack`` times that tolerance of the largest element is added, for elements that are sums of
    terms that cancel.
    """
    bar = 4e-13 if dtype == "float64" else 4e-5
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    room = (bar + 2 * ROUNDING[dtype]) * abs(theirs) + 2 * SMALLEST[dtype]
    largest = abs(theirs[np.isfinite(theirs)]).max(initial=0.0)
    room += bar * largest * slack
    with np.errstate(invalid="ignore"):
        fine = (ours == theirs) | (abs(ours - theirs) <= room)
    wrong = ~(fine | (np.isnan(ours) & np.isnan(theirs)))
    assert not wrong.any(), np.argwhere(wrong)[0]


def check(name, logits, targets, dtype="float64", *, activation, slack=1.0, **options):
    """Compare loss, gradient and Hessian of one call with the oracle's, and return them."""
    own, public = RULES[name], name.split()[0]
    got = getattr(fusedce, public)(
        logits, targets, activation=activation, return_hessian=True, **own, **options
    )
    want, scales = reference(
        (public, own), logits, targets, activation=activation, scales=True, **options
    )
    rtol = slack * bar(dtype, activation, own)
    for what, ours, true, scale in zip(("loss", "grad", "hess"), got, want, scales, strict=True):
        agree(what, ours, true, scale, dtype, rtol, f"{name} {options}")
    return got


def make(activation, form, dtype, shape, rng, axis=-1):
    """Logits (or probabilities) with confident rows, exact in dtype, and targets."""
    z = rng.normal(size=shape) * 3
    C, rows = shape[axis], tuple(np.delete(shape, axis))
    sure = np.moveaxis(z, axis, 0)
    sure[0].flat[::3] = 13.8 + np.log(C)  # p = 0.999999
    sure[-1].flat[1::3] = -13.8
    if activation is None:
        z = 1 / (1 + np.exp(-z / 2))
        z = np.clip(z, 0.01, 0.99 if dtype in ("float16", "bfloat16") else 0.999999)
    t = {
        "index": lambda: np.asarray(rng.integers(0, C, rows)),
        "soft": lambda: rng.integers(0, 257, shape) / 256 * (rng.random(shape) < 0.8),
        "int": lambda: rng.integers(0, 2, shape),
        "signed": lambda: rng.integers(0, 2, shape) * 2 - 1,
        "bool": lambda: rng.random(shape) < 0.5,
    }[form]()
    if form == "index":
        t.reshape(-1)[::3] = 0
    return z.astype(DTYPES[dtype]), t


def calls(name, activation, form, shape, rng):
    """The options of a few calls, which together use every option."""
    N, C = shape
    w = rng.integers(0, 9, C) / 4
    s = rng.integers(-4, 9, N) / 4  # zeros and negatives among them
    found = [
        {},
        {"weight": w, "reduction": "none", "sample_weight": s},
        {"label_smoothing": 0.1, "weight": w, "reduction": "sum"},
        {"denominator": 3.5, "sample_weight": s.astype(np.float32)},
    ]
    if form in ("index", "int", "signed"):
        found += [{"ignore_index": 1, "weight": w, "label_smoothing": 0.25}]
    if activation is not None:
        found += [{"softcap": 5.0, "logit_scale": 0.5, "weight": w}]
    if activation == "softmax":
        found += [{"z_loss": 0.125, "weight": w, "sample_weight": s, "label_smoothing": 0.1}]
        if form == "soft":
            found += [{"normalize_targets": True, "weight": w, "z_loss": 0.125}]
    elif activation == "sigmoid" or form != "index":
        each = rng.integers(-4, 9, shape) / 4
        found += [
            {"pos_weight": 3.0, "reduction": "none", "sample_weight": each},
            {"pos_weight": w[::-1], "weight": w, "sample_weight": s[:, None]},
        ]
        named = inspect.signature(of(name).function).parameters
        if "alpha" in named:
            found += [{"alpha": 0.25, "pos_weight": 2.0}, {"alpha": 0.0, "reduction": "sum"}]
        if "soft_labels" in named and activation == "sigmoid":
            found += [{"alpha": 0.75, "soft_labels": "torchvision", "label_smoothing": 0.1}]
    return [o | ({"neg_label": -1} if form == "signed" else {}) for o in found]


GRID = [
    (name, activation, form)
    for name in RULES
    for activation, forms in FORMS.items()
    for form in forms
    if of(name).any_activation
    or activation == "sigmoid"
    or (activation is None and form != "index")
]


@dtypes
@pytest.mark.parametrize(("name", "activation", "form"), GRID)
def test_every_option(name, activation, form, dtype):
    for shape in ((9, 7), (5, 33)):
        rng = np.random.default_rng(shape[1])
        z, t = make(activation, form, dtype, shape, rng)
        if activation == "sigmoid" and form == "index":
            t[1] = shape[1]  # background: label 0 for each class
        for options in calls(name, activation, form, shape, rng):
            check(name, z, t, dtype, activation=activation, **options)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("C", [1, 2, 3, 31, 32, 33, 64, 65, 1000])
@pytest.mark.parametrize("form", ["index", "soft"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_ragged_shapes(activation, form, C, dtype):
    if (activation, form, C) == ("sigmoid", "index", 1):
        return  # class indices are refused there: see test_targets.py
    for N in (1, 2, 5, 33):
        z, t = make(activation, form, dtype, (N, C), np.random.default_rng(N * C))
        for name in ("cross_entropy", "focal"):
            check(name, z, t, dtype, activation=activation)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((2, 5, 3, 4), 1), ((6, 40), 0), ((3, 17, 2), -2), ((35,), 0), ((2, 3, 4, 9), -1)],
)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
@pytest.mark.parametrize("form", ["index", "soft"])
def test_axes_and_strides(form, activation, shape, axis, dtype):
    rng = np.random.default_rng(len(shape))
    z, t = make(activation, form, dtype, shape, rng, axis)
    if activation == "sigmoid" and t.ndim == 0:
        return  # one class index for a row of logits: see test_targets.py
    w = rng.integers(1, 9, shape[axis]) / 4
    s = rng.integers(-4, 9, np.delete(shape, axis)) / 4
    spaced = np.repeat(z, 2, axis=-1)[..., ::2]
    views = [(a, t) for a in (z, np.asfortranarray(z), spaced, np.ascontiguousarray(z.T).T)]
    if z.ndim > 1:  # backwards along an axis that is not the class axis
        away = 0 if axis else -1
        views.append((np.flip(z, away), np.flip(t, away)))
    for a, b in views:
        for name in ("cross_entropy", "focal"):
            check(name, a, b, dtype, activation=activation, axis=axis, weight=w, sample_weight=s,
                  reduction="none")  # fmt: skip
            check(name, a, b, dtype, activation=activation, axis=axis, weight=w)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("name", competing(RULES))
@pytest.mark.parametrize("C", [3, 33, 1000])
def test_masked_classes(C, name, dtype):
    """Logits of -inf in various places have probability 0 and gradient 0."""
    blocks = [slice(0, 1), slice(C - 1, C), slice(1, 2), slice(0, C - 1), slice(1, C),
              slice(C // 2, None), slice(0, C, 2)]  # fmt: skip
    rng = np.random.default_rng(C)
    z, _ = make("softmax", "index", dtype, (len(blocks), C), rng)
    for i, block in enumerate(blocks):
        z[i, block] = -np.inf
    open_ = np.isfinite(z.astype(np.float64))
    last = C - 1 - open_[:, ::-1].argmax(axis=1)
    for y in (open_.argmax(axis=1), last, open_ / open_.sum(axis=1, keepdims=True)):
        if y.ndim > 1 and C > 33:
            continue
        for options in ({}, {"reduction": "none"}):
            _, grad, hess = check(name, z, y, dtype, activation="softmax", **options)
            assert np.all(grad[~open_] == 0)
            assert np.all(hess[~open_] == 0)
    loss, _, _ = check(name, z, 0 * last, dtype, activation="softmax", reduction="none")
    with np.errstate(divide="ignore"):
        assert np.isinf(loss[0]) == np.isinf(
            definition((name.split()[0], RULES[name]), REAL(0), np)
        )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("name", "activation"), sorted({g[:2] for g in GRID if g[1]}))
def test_large_logits(name, activation, dtype):
    """Logits up to |z| = 1e4, where exp overflows and underflows in float32 and float64."""
    values = [0, 1e-6, 5, 16, 17, 40, 88, 88.8, 103, 104, 350, 708, 746, 1e4]
    z = np.array([v * sign for v in values for sign in (1, -1)], DTYPES[dtype])
    if activation == "sigmoid":
        for y in (np.zeros(len(z)), np.ones(len(z)), np.full(len(z), 0.375)):
            check(name, z, y, dtype, activation="sigmoid", reduction="none")
        masked = np.array([3.0, -np.inf, 0.0], DTYPES[dtype])
        check(name, masked, np.array([1, 0, 0]), dtype, activation="sigmoid", reduction="none")
        return
    z = np.stack([z, -z, 0 * z, z / 2], axis=1)
    for y in range(4):
        check(name, z, np.full(len(z), y), dtype, activation="softmax", reduction="none")
    check(name, z, np.full(z.shape, 0.25), dtype, activation="softmax", reduction="none")


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "poly1"])
def test_certain_probabilities(name):
    """At p = 0 and p = 1 the loss is 0 or infinite: probabilities are not clamped."""
    p, y = np.array([0.0, 1.0, 0.0, 1.0, 0.5]), np.array([0, 1, 1, 0, 1])
    check(name, p, y, activation=None, reduction="none")
    check(name, p[None, :2], np.array([1]), activation=None, reduction="none")


@dtypes
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
@pytest.mark.parametrize("form", ["index", "soft"])
def test_gamma_zero_is_cross_entropy_bit_for_bit(form, activation, dtype):
    z, t = make(activation, form, dtype, (33, 17), np.random.default_rng(4))
    for options in ({}, {"label_smoothing": 0.1}, {"reduction": "none"}):
        call = {"activation": activation, "return_hessian": True, **options}
        for ours, want in zip(fusedce.focal(z, t, gamma=0.0, **call),
                              fusedce.cross_entropy(z, t, **call), strict=True):  # fmt: skip
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(want))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_ignored_and_spoilt_rows(name, activation):
    """Results of an ignored row are zeros whatever its logits; a NaN affects its own row only."""
    z = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    z[1], z[3, 2], z[4] = np.nan, np.nan, -np.inf
    t = np.array([0, -100, 1, 2, 3, 4])
    call = {"activation": activation, "reduction": "none"}
    out = {"grad_out": np.full_like(z, 7), "hess_out": np.full_like(z, 7)}
    results = getattr(fusedce, name)(z, t, return_hessian=True, **call, **out)
    loss, grad, hess = results
    for a in results:
        assert not a[1].any()
    spoilt = [loss[3:5], grad[3:5], hess[3:5]] if activation == "softmax" else [
        loss[3, 2], grad[3, 2], hess[3, 2]]  # fmt: skip
    for a in spoilt:
        assert np.all(np.isnan(a))
    clean = [0, 2, 5]
    for a, b in zip(results, check(name, z[clean], t[clean], "float32", **call), strict=True):
        alike(fusedce, [a[clean]], [b])


@pytest.mark.parametrize("name", LOSSES)
def test_default_activation(name):
    """The default activation of a loss is the first of the activations that it declares."""
    usual = LOSSES[name].activations[0]
    z, t = make(usual, "soft", "float64", (5, 4), np.random.default_rng(1))
    own = RULES[name]
    np.testing.assert_array_equal(
        getattr(fusedce, name)(z, t, **own)[1],
        getattr(fusedce, name)(z, t, activation=usual, **own)[1],
    )
