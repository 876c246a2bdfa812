"""Errors known from other packages that no other file tests; the list is in README.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import fusedce
from tests.core.test_losses import DTYPES, alike, check

TESTS = Path(__file__).resolve().parents[1]
RNG = np.random.default_rng
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def test_table_names_tests_that_exist():
    """README.md has a row for each trap, and each row names existing tests or gives a reason."""
    there = {
        f"{path.stem}::{node.name}"
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    cpu, gpu, reports = re.split("## From (?:GPU|reports)", (TESTS / "README.md").read_text())
    for part, count in ((cpu, 47), (gpu, 33), (reports, 24)):
        rows = dict(re.findall(r"^\| (\d+) \|(.*)$", part, re.MULTILINE))
        assert list(rows) == [str(k) for k in range(1, count + 1)]
        for number, row in rows.items():
            named = re.findall(r"`(test_\w+::test_\w+)`", row)
            assert named or "not on the CPU: " in row or "`mutation.py`" in row, number
            assert set(named) <= there, (number, set(named) - there)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_no_weight_at_all(activation):
    """Weight 0 for every class that occurs: a mean of 0 / 0 = NaN, as in torch, and gradient 0."""
    z, t = RNG(1).normal(size=(5, 3)), np.array([0, 0, 2, 0, 2])
    for w in ([0, 1, 0], [0, 0, 0]):
        loss, grad, _ = check("cross_entropy", z, t, activation=activation, weight=w)
        if activation == "softmax":
            assert np.isnan(loss)
            assert not grad.any()
        else:  # with sigmoid, weights are not in the denominator
            assert np.isfinite(loss)


def test_ignored_rows_do_not_read_the_weights():
    """A negative ignore_index must not be used as an index into the class weights."""
    z, t = RNG(2).normal(size=(4, 3)), np.array([-1, 0, -1, 2])
    for w in ([1.0, 2.0, 1e30], [1.0, 2.0, 4.0]):
        loss, grad = fusedce.cross_entropy(z, t, weight=w, ignore_index=-1)
        some = fusedce.cross_entropy(z[[1, 3]], t[[1, 3]], weight=w)
        alike(fusedce, (loss, grad[[1, 3]]), some)
        assert not grad[[0, 2]].any()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_label_smoothing_of_one(activation):
    """A label smoothing of 1 is legal and makes targets uniform, also soft ones."""
    z = RNG(3).normal(size=(4, 3)) if activation else RNG(3).uniform(0.1, 0.9, (4, 3))
    for t in (np.array([0, 2, -100, 1]), RNG(4).random((4, 3))):
        check("focal", z, t, activation=activation, label_smoothing=1.0)
        check("focal", z, t, activation=activation, label_smoothing=1)


def test_smoothing_of_two_classes():
    """With sigmoid, smoothing gives y (1 - eps) + eps / 2, as for softmax with two classes."""
    z, y = RNG(5).normal(size=9) * 5, RNG(6).integers(0, 2, 9)
    a = fusedce.binary_cross_entropy(z, y, label_smoothing=0.3)
    b = fusedce.cross_entropy(np.stack([0 * z, z], 1), y, label_smoothing=0.3)
    assert a[0] == pytest.approx(b[0], rel=1e-14)
    np.testing.assert_allclose(a[1], b[1][:, 1], rtol=1e-12, atol=1e-16)


@dtypes
def test_smoothing_with_large_gaps(dtype):
    """log p is z - lse, finite where p underflows; a logit of -inf needs a class weight of 0."""
    big = 1e4 if dtype == "float16" else 1e8
    z = np.array([[0, -110, 3], [big, -big, 0], [0, 0, big / 2], [0, 5, -20]], DTYPES[dtype])
    for k in range(3):
        loss, _, _ = check("cross_entropy", z, np.full(4, k), dtype, activation="softmax",
                           label_smoothing=0.1, reduction="none", weight=[1, 2, 0.5])  # fmt: skip
        assert np.isfinite(loss).all()
    z[0, 1] = -np.inf
    options = {"activation": "softmax", "label_smoothing": 0.1, "reduction": "none"}
    loss, grad = fusedce.cross_entropy(z, np.array([0, 1, 2, -100]), **options)
    assert loss[0] == np.inf  # eps / C of the mass is on a class of probability 0
    assert np.isfinite(loss[1:]).all()
    assert not grad[3].any()
    loss, grad, _ = check("cross_entropy", z, np.array([0, 1, 2, -100]), dtype, weight=[2, 0, 1],
                          **options)  # fmt: skip
    assert np.isfinite(loss).all()  # class 1 has weight 0, and so no mass
    assert grad[0, 1] == 0


def test_shapes_of_sample_weight():
    """All shapes of sample_weight, with zeros, negative numbers and other dtypes."""
    z, t = RNG(7).normal(size=(4, 3, 5)), RNG(8).integers(0, 3, (4, 5))
    s = np.array([0.0, -1.5, 2.0, 0.25])
    full = np.broadcast_to(s[:, None], (4, 5))
    for one in (s, s[:, None], full, s.astype(np.float32), s.astype(np.float16)):
        got = check("cross_entropy", z, t, activation="softmax", axis=1, sample_weight=one)
        alike(fusedce, got[1:2], fusedce.cross_entropy(z, t, axis=1, sample_weight=full)[1:])
    for one in (2.0, np.float32(2), np.array(2), [2] * 4, np.full((1, 1), 2), full[:1] + 1):
        check("focal", z, t, activation="softmax", axis=1, sample_weight=one)
    for one in (s, s[:, None], full, s[:, None, None], np.broadcast_to(s[:, None, None], z.shape)):
        check("focal", z, t, activation="sigmoid", axis=1, sample_weight=one)
    check("focal", z, t, activation="sigmoid", axis=1, sample_weight=RNG(9).normal(size=z.shape))


def test_square_shapes():
    """Where C == N or C == d, arrays are matched with axes by position, not by length."""
    z, s, w = RNG(10).normal(size=(4, 4)), np.array([1.0, 2, 0, -1]), np.array([1.0, 2, 3, 4])
    for activation in ("softmax", "sigmoid"):
        for t in (np.array([3, 0, 1, 1]), RNG(11).random((4, 4))):
            loss, _, _ = check("cross_entropy", z, t, activation=activation, weight=w,
                               sample_weight=s, reduction="none")  # fmt: skip
            assert loss.shape == ((4,) if activation == "softmax" else (4, 4))
    z, t = RNG(12).normal(size=(4, 4, 4)), RNG(13).integers(0, 4, (4, 4))
    for axis in (0, 1, 2):
        check("focal", z, t, activation="softmax", axis=axis, sample_weight=s, reduction="none")
    z = RNG(14).normal(size=4)  # one row, or four labels of one element each
    assert fusedce.cross_entropy(z, np.array(2), reduction="none")[0].shape == ()
    assert fusedce.cross_entropy(z, np.array([0, 1, 0, 1.0]), reduction="none")[0].shape == ()
    assert fusedce.binary_cross_entropy(z, np.array([0, 1, 0, 1]), reduction="none")[0].shape == (
        4,
    )


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
@pytest.mark.parametrize("shape", [(20, 5), (20, 130)])
def test_nan_stays_in_its_place(activation, shape):
    """A NaN in logits, a distribution or a sample weight makes its own row or element NaN alone."""
    rng = RNG(15)
    z = rng.uniform(0.1, 0.9, shape).astype(np.float32)
    t = rng.random(shape).astype(np.float32)
    s = np.ones(20, np.float32)
    options = {"activation": activation, "reduction": "none", "return_hessian": True}
    want = fusedce.focal(z, t, **options)
    for which in range(3):
        if which == 1 and activation != "softmax":
            continue  # no label of an element is NaN: see test_targets.py
        arrays = [z.copy(), t.copy(), s.copy()]
        at = (7, 3) if which < 2 else (7,)
        arrays[which][at] = np.nan
        got = fusedce.focal(*arrays[:2], sample_weight=arrays[2], **options)
        for a, b in zip(got, want, strict=True):
            rows = np.arange(20) != 7
            alike(fusedce, [a[rows]], [b[rows]])
            assert np.isnan(a[7]).any()
        if activation == "softmax":
            assert np.isnan(got[0][7])
            assert np.isnan(got[1][7]).all()
        elif which < 2:
            assert np.isnan(got[1][7]).sum() == 1
        assert np.isnan(
            fusedce.focal(*arrays[:2], sample_weight=arrays[2], activation=activation)[0]
        )


@dtypes
def test_one_class(dtype):
    """With one class, its probability is 1: loss and gradient are 0 whatever the logit."""
    z = np.array([[3.0], [-1e4], [0], [500]], DTYPES[dtype])
    for t in (np.zeros(4, int), np.ones((4, 1))):
        for fn in (fusedce.cross_entropy, fusedce.poly1, fusedce.generalized_cross_entropy,
                   fusedce.focal):  # fmt: skip
            got = fn(z, t, activation="softmax", return_hessian=True, reduction="none")
            assert not any(a.astype(float).any() for a in got)


def test_labels_beside_nought_and_one():
    """A label -0.0 is 0; a distribution's targets outside [0, 1] are used without change."""
    z = RNG(16).normal(size=6).astype(np.float32) * 4
    a = fusedce.focal(z, np.array([0, 1, 0, 1, 0, 1], np.float32), reduction="none")
    b = fusedce.focal(z, np.array([-0.0, 1, -0.0, 1, -0.0, 1], np.float32), reduction="none")
    assert [x.tobytes() for x in a] == [x.tobytes() for x in b]
    for y in (1 + 2.0**-23, -(2.0**-24), 1.25, -0.25):
        check("cross_entropy", z[None], np.full((1, 6), y), "float32", activation="softmax")
    z = np.array([[-np.inf, 1.0, 2.0]])
    loss, grad = fusedce.cross_entropy(z, np.array([[-0.0, 0.5, 0.5]]))
    assert np.isfinite(loss)
    assert grad[0, 0] == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_huge_logits(dtype):
    """Logits of 1e30 and of the largest finite number: no NaN by inf - inf."""
    top = float(np.finfo(dtype).max)
    for size in (1e30, top / 4, top):
        z = np.array([[size, 0, -size], [-size, -size, -size], [size, size, -size]], dtype)
        with np.errstate(over="ignore"):
            loss, grad = fusedce.cross_entropy(z, np.array([0, 1, 1]), reduction="none")
        np.testing.assert_allclose(loss, [0, np.log(3), np.log(2)], rtol=1e-6)
        np.testing.assert_allclose(
            grad, [[0, 0, 0], [1 / 3, -2 / 3, 1 / 3], [0.5, -0.5, 0]], rtol=1e-6)  # fmt: skip
        loss, grad = fusedce.focal(np.array([size, -size], dtype), np.array([1, 0]))
        assert loss == 0
        assert not grad.any()


@pytest.mark.parametrize("C", [1, 2, 3, 33, 97, 130, 131_073])
@dtypes
def test_padding_is_no_class(dtype, C):
    """The most negative finite number is an ordinary logit, also in a row with -inf."""
    z = np.full((3, C), ml_dtypes.finfo(DTYPES[dtype]).min, DTYPES[dtype])
    z[1, : C // 2] = -np.inf
    n = np.array([C, C - C // 2, C])
    loss, grad = fusedce.cross_entropy(z, np.full(3, C - 1), reduction="none")
    np.testing.assert_allclose(loss, np.log(n), rtol=1e-6)
    last = grad[:, -1].astype(float)
    np.testing.assert_allclose(last, 1 / n - 1, rtol=2.0**-8, atol=1e-6)
    assert np.isfinite(grad.astype(float)).all()
