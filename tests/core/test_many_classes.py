"""Sums over many classes: their error does not grow with the number of classes.

The class axis is the first axis, or the array is in Fortran order, so that each lane sums one row.
"""

from __future__ import annotations

import numpy as np
import pytest

import fusedce
from tests.core.test_activations import close
from tests.core.test_losses import DTYPES, agree, bar
from tests.reference import reference

CLASSES = 65_537
dtypes = pytest.mark.parametrize("dtype", ["float32", "float16"])


def logits(dtype, classes=CLASSES):
    """Logits (C, rows): the first or last class largest and the others equal; rising; random."""
    z = np.full((classes, 5), -3.0)
    z[0, 0] = z[-1, 1] = 12.0
    z[:, 2], z[:, 3] = np.linspace(0, 1, classes), np.linspace(-20, 20, classes)
    z[:, 4] = np.random.default_rng(0).normal(size=classes) * 3
    return z.astype(DTYPES[dtype])


def laid(z, order):
    """(array, class axis): classes first, or the transpose, which is in Fortran order."""
    return (z, 0) if order == "axis" else (z.T, 1)


@dtypes
@pytest.mark.parametrize("order", ["axis", "Fortran"])
@pytest.mark.parametrize("form", ["index", "smooth", "uniform", "soft"])
def test_losses(form, order, dtype):
    z, axis = laid(logits(dtype), order)
    options = {"activation": "softmax", "axis": axis, "reduction": "none"}
    t = np.array([0, CLASSES - 1, CLASSES // 2, CLASSES - 1, 7])
    if form == "smooth":
        options["label_smoothing"] = 0.125
    elif form != "index":
        rng = np.random.default_rng(1)
        y = rng.random(logits(dtype).shape) if form == "soft" else np.full((CLASSES, 5), 0.7)
        t = laid((y / CLASSES).astype(np.float32), order)[0]
    rule = ("cross_entropy", {})
    want, scales = reference(rule, z, t, **options, scales=True)
    for hessian in (False, True):
        got = fusedce.cross_entropy(z, t, **options, return_hessian=hessian)
        for what, ours, true, scale in zip(
            ("loss", "grad", "hess"), got, want, scales, strict=False
        ):
            agree(what, ours, true, scale, dtype, bar(dtype, "softmax", {}), f"hess {hessian}")


@dtypes
@pytest.mark.parametrize("order", ["axis", "Fortran"])
def test_activations(order, dtype):
    z, axis = laid(logits(dtype), order)
    wide = z.astype(np.float64)
    top = wide.max(axis, keepdims=True)
    others = np.exp(wide - top)
    np.put_along_axis(others, wide.argmax(axis, keepdims=True), 0.0, axis)
    log = wide - top - np.log1p(others.sum(axis, keepdims=True))
    close(fusedce.softmax(z, axis=axis), np.exp(log), dtype, 4.0)
    close(fusedce.log_softmax(z, axis=axis), log, dtype, 4.0)


@pytest.mark.parametrize("form", ["index", "soft"])
def test_masked_and_spoilt_groups(form):
    """Long runs of -inf logits, infinite losses, and NaN in one row, with the class axis first."""
    z = logits("float32", 1000)
    z[:700, 0] = -np.inf
    z[600:, 1] = -np.inf
    z[300:900, 2] = -np.inf
    z[17, 3] = np.nan
    z[:, 4] = -np.inf
    t = np.array([1, 0, 5, 2, 3])
    if form == "soft":
        t = np.full(z.shape, 1e-3, np.float32)
    options = {"activation": "softmax", "axis": 0, "reduction": "none"}
    want = reference(("cross_entropy", {}), z, t, **options)
    for a, b in zip(fusedce.cross_entropy(z, t, **options), want, strict=False):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-12)


@pytest.mark.parametrize("form", ["smooth", "uniform"])
def test_a_row_of_two_millions(form):
    """Each lane of a block on a GPU sums thousands of classes; every class has a mass."""
    classes = 2_000_003
    z = np.full((1, classes), -3.0, np.float32)
    z[0, -1] = 8.0
    wide = z[0].astype(np.float64)
    others = (classes - 1) * np.exp(-11.0)
    log = wide - 8.0 - np.log1p(others)
    mass = np.full(classes, 0.125 / classes)
    if form == "smooth":
        mass[-1] += 0.875
        got = fusedce.cross_entropy(z, np.array([classes - 1]), label_smoothing=0.125)
    else:
        q = np.full(z.shape, 0.7, np.float32)
        mass[:] = q[0, 0]
        got = fusedce.cross_entropy(z, q)
    assert got[0] == pytest.approx(-(mass * log).sum(), rel=1e-6)
    p, size = np.exp(log), mass.sum()
    away = abs(got[1][0] - (p * size - mass))
    assert np.all(away <= 1e-6 * (p * size + mass))
