"""Emulated kernels: which results are requested, dtypes of labels and weights, outputs.

Losses, options, dtypes and targets are those of the CPU suite, emulated by test_gpu_suite.py.
"""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("numba_cuda")

import fusedce
from fusedce.kernels.cuda.elementwise_flat import MostlyHardLabels
from tests.core import test_losses as suite
from tests.core.test_losses import DTYPES, check, make, near
from tests.emulator import machine
from tests.emulator.device import Emulated
from tests.emulator.extent import part, rest


@pytest.fixture
def device(monkeypatch):
    """Fixture: an emulated device, which the borrowed tests call instead of fusedce."""
    found = Emulated()
    monkeypatch.setattr(suite, "fusedce", found)
    return found


@pytest.mark.parametrize("name", part(["cross_entropy", "focal 0.5"], "cross_entropy"))
@pytest.mark.parametrize("form", part(["index", "soft"], "soft"))
@pytest.mark.parametrize("activation", part(["softmax", "sigmoid", None], "softmax"))
@pytest.mark.parametrize("dtype", part(DTYPES, "float32"))
def test_results_that_are_asked_for(dtype, activation, form, name, device):
    """Calls without the gradient, the Hessian or both give the same numbers as with both."""
    z, t = make(activation, form, dtype, (6, 19), np.random.default_rng(1))
    own, public = suite.RULES[name], getattr(device, name.split()[0])
    for reduction in ("mean", "none"):
        call = {"activation": activation, "reduction": reduction, **own}
        loss, grad, hess = check(name, z, t, dtype, activation=activation, reduction=reduction)
        tolerance = {"rtol": 2e-2 if dtype == "bfloat16" else 2e-3 if dtype == "float16" else 3e-6}
        tolerance["atol"] = 1e-7
        plain, slope = public(z, t, **call)
        np.testing.assert_allclose(plain, loss, rtol=3e-6)
        np.testing.assert_allclose(slope.astype(float), grad.astype(float), **tolerance)
        np.testing.assert_allclose(public(z, t, return_grad=False, **call), loss, rtol=3e-6)
        found = public(z, t, return_grad=False, return_hessian=True, **call)
        np.testing.assert_array_equal(found[1], hess)


TARGETS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


FLOATS = ["float16", "bfloat16", "float32", "float64"]


@pytest.mark.parametrize("activation", part(["sigmoid", "softmax"], "sigmoid"))
@pytest.mark.parametrize("kind", part([*TARGETS, "bool", *FLOATS], "uint64"))
def test_every_kind_of_label(kind, activation, device):
    """Every dtype as labels of elements; integers as class indices too."""
    rng = np.random.default_rng(3)
    z = rng.normal(size=(5, 9)).astype(np.float32)
    dense = rng.integers(0, 2, z.shape).astype(DTYPES.get(kind, kind))
    if (activation, kind) != ("softmax", "bool"):
        check("focal", z, dense, "float32", activation=activation)
        check("focal", z, dense, "float32", activation=activation, weight=np.arange(1.0, 10))
    if kind in TARGETS:
        check("focal", z, rng.integers(0, 9, 5).astype(kind), "float32", activation=activation)


ODD = (-0.0, "least", "below", 0.5)
WRONG = ("above", -1.0, np.nan, 255.0)


@pytest.mark.parametrize("dtype", part(DTYPES, "bfloat16"))
@pytest.mark.parametrize("kind", part(FLOATS, "bfloat16", "float32"))
def test_hard_labels_of_elements(kind, dtype, device):
    """Without a Hessian, threads whose labels are all 0 or 1 take a shorter path than others."""
    rng, T = np.random.default_rng(4), np.dtype(DTYPES[kind])
    z = (rng.normal(size=3000) * 4).astype(DTYPES[dtype])
    hard = rng.integers(0, 2, z.shape).astype(T)
    info = ml_dtypes.finfo(T)
    known = {"least": info.smallest_subnormal, "below": 1 - info.epsneg, "above": 1 + info.eps}
    odd = hard.copy()
    for k, value in enumerate(ODD):
        odd[450 * k + k] = known.get(value, value)
    for labels in (hard, odd):
        for reduction in ("mean", "none"):
            call = {"activation": "sigmoid", "reduction": reduction}
            got, want = device.focal(z, labels, **call), fusedce.focal(z, labels, **call)
            for a, b in zip(got, want, strict=True):
                near(dtype, a, b, 1e-3)
        types = [t for one in device.launched for t in one.kernel.types]
        assert MostlyHardLabels in types


@pytest.mark.parametrize("activation", ["sigmoid", None])
@pytest.mark.parametrize("layout", part(["flat", "rows", "anywhere"], "flat", "anywhere"))
@pytest.mark.parametrize("kind", part(FLOATS, "float32"))
def test_numbers_that_are_no_labels(kind, layout, activation, device):
    """A wrong label makes its element NaN, or raises with ``validate``; ignore_index is valid."""
    rng, T = np.random.default_rng(4), np.dtype(DTYPES[kind])
    z = rng.uniform(0.1, 0.9, (30, 16)).astype(np.float32)
    t = rng.integers(0, 2, z.shape).astype(T)
    options = {"activation": activation}
    if layout == "rows":
        options["weight"] = np.arange(1.0, 17)
    if layout == "anywhere":
        z, t = z[:, ::2], t[:, ::2]
    t[3, 2] = t[20, 5] = -100
    for labels in (t, np.where(t == -100, t, t * T.type(0.75)).astype(T)):
        got, want = device.focal(z, labels, **options), fusedce.focal(z, labels, **options)
        for a, b in zip(got, want, strict=True):
            near("float32", a, b, 1e-3)
        assert got[1][3, 2] == got[1][20, 5] == 0
        calm = device.focal(z, labels, reduction="none", return_hessian=True, **options)
        for value in WRONG:
            spoilt = labels.copy()
            spoilt[7, 4] = 1 + ml_dtypes.finfo(T).eps if value == "above" else value
            where = np.zeros(z.shape, bool)
            where[7, 4] = True
            found = device.focal(z, spoilt, reduction="none", return_hessian=True, **options)
            for a, b in zip(found, calm, strict=True):
                assert np.isnan(a[where]).all()
                np.testing.assert_array_equal(a[~where], b[~where])
            with pytest.raises(ValueError, match=r"at position \(7, 4\) is out of range"):
                device.focal(z, spoilt, validate=True, **options)


@pytest.mark.parametrize("layout", ["rows", "lanes", "images"])
@pytest.mark.parametrize("kind", part([*FLOATS, "int32"], "float32"))
def test_distributions_that_are_ignored(kind, layout, device):
    """Rows full of ignore_index are not counted; rows that mix it with other numbers are NaN."""
    rng, T = np.random.default_rng(4), np.dtype(DTYPES.get(kind, kind))
    shape = {"rows": (7, 80), "lanes": (70, 3), "images": (2, 5, 9)}[layout]
    options = {"activation": "softmax"} | ({"axis": 1} if layout == "images" else {})
    z = rng.normal(size=shape).astype(np.float32)
    t = (rng.random(shape) * 2).astype(T)
    rows = np.moveaxis(t, options.get("axis", -1), -1)
    rows[1] = -7
    z[1] = np.nan
    for more in ({}, {"label_smoothing": 0.1}, {"z_loss": 0.1, "return_hessian": True}):
        call = options | more | {"ignore_index": -7}
        got, want = device.focal(z, t, **call), fusedce.focal(z, t, **call)
        for a, b in zip(got, want, strict=True):
            near("float32", a, b, 1.0)  # terms cancel, so the tolerance is wide
        assert not got[1][1].any()
    call = options | {"ignore_index": -7, "reduction": "none"}
    calm = device.focal(z, t, **call)
    for place in ((0, 0, 0), (0, 0, 2), (1, 0, 2)):
        place = place[3 - rows.ndim :] if rows.ndim == 2 else place
        place = (place[0] + 1, 2) if rows.ndim == 2 and place[0] == 1 else place
        spoilt = t.copy()
        number = np.moveaxis(spoilt, options.get("axis", -1), -1)
        number[place] = 0 if number[place] == -7 else -7
        loss, grad = device.focal(z, spoilt, **call)
        grad = np.moveaxis(grad, options.get("axis", -1), -1)
        assert np.isnan(loss[place[:-1]])
        assert np.isnan(grad[place[:-1]]).all()
        assert np.isnan(loss).sum() == 1
        assert np.isnan(grad).sum() == grad.shape[-1]
        with pytest.raises(ValueError, match="beside other numbers"):
            device.focal(z, spoilt, validate=True, **call)
    assert np.isfinite(calm[0]).all()


def test_the_mean_of_the_z_loss(device):
    """The z-loss is averaged over rows, the loss over class weights; a denominator is for both."""
    rng = np.random.default_rng(4)
    for shape, options in (
        ((6, 80), ({}, {"denominator": 3.0}, {"label_smoothing": 0.1})), ((6, 5), ({},))
    ):  # fmt: skip
        z, t = make("softmax", "index", "float32", shape, rng)
        t[2] = -100
        for more in options:
            check("cross_entropy", z, t, "float32", activation="softmax", z_loss=0.5,
                  weight=rng.random(shape[1]), **more)  # fmt: skip


@pytest.mark.parametrize("kind", part([*FLOATS, "int32", "bool"], "float16"))
def test_every_kind_of_weight(kind, device):
    """Weights of every dtype, with float32 logits."""
    rng, kind = np.random.default_rng(3), DTYPES.get(kind, kind)
    z, t = make("sigmoid", "int", "float32", (5, 9), rng)
    w, s = rng.integers(0, 2, 9).astype(kind), rng.integers(0, 2, 5).astype(kind)
    for activation, target in (("sigmoid", t), ("softmax", t[:, 0]), ("softmax", t / 4)):
        options = {"weight": w, "sample_weight": s, "denominator": 2.5}
        if activation == "sigmoid":
            options["pos_weight"] = w[::-1]
        check("focal", z, target, "float32", activation=activation, **options)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_denominator_on_the_device(activation, device):
    """A denominator in device memory; with 0, the loss is NaN and the gradient zero."""
    z, t = make(activation, "index", "float32", (6, 5), np.random.default_rng(0))
    for kind in (np.float32, np.float64, np.int32):
        check("focal", z, t, "float32", activation=activation, denominator=np.array(7, kind))
    given = np.array(0.0, np.float32)
    loss, grad = device.cross_entropy(z, t, activation=activation, denominator=given)
    assert np.isnan(loss)
    assert not grad.any()


@pytest.mark.parametrize("form", part(["index", "int", "soft"], "index"))
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_nothing_to_average(activation, form, device):
    """If every row is ignored, the mean is NaN and the gradient zero, even with a NaN logit."""
    if (activation, form) == ("softmax", "int"):
        return
    z, t = make(activation, form, "float32", (6, 5), np.random.default_rng(0))
    z[3] = np.nan
    options = {"activation": activation}
    if form == "soft":
        if activation == "sigmoid":
            return
        t, options = np.zeros_like(t), options | {"normalize_targets": True}
    else:
        t[...] = -100
    loss, grad, hess = device.cross_entropy(z, t, return_hessian=True, **options)
    assert np.isnan(loss)
    assert not grad.any()
    assert not hess.any()
    loss, grad = device.cross_entropy(z, t, reduction="sum", **options)
    assert loss == 0
    assert not grad.any()


@pytest.mark.parametrize("form", ["index", "int", "signed"])
@pytest.mark.parametrize("activation", part(["softmax", "sigmoid", None], "softmax", "sigmoid"))
@pytest.mark.parametrize("bad", part([-1, 5, 6, -101, 2**31, -(2**62)], 6, -(2**62)))
def test_labels_that_name_no_class(activation, form, bad, device):
    """A wrong label makes only its row or element NaN; ``validate`` raises IndexError."""
    if (activation == "softmax" and form != "index") or (activation is None and form == "signed"):
        return
    if (form, bad) == ("signed", -1) or (activation, form, bad) == ("sigmoid", "index", 5):
        return
    z, t = make(activation, form, "float32", (4, 5), np.random.default_rng(0))
    options = {"activation": activation, "reduction": "none", "return_hessian": True}
    if form == "signed":
        options["neg_label"] = -1
    calm = device.cross_entropy(z, t, **options)
    spoilt = t.copy()
    spoilt.reshape(4, -1)[2, 0] = bad
    for a, b in zip(device.cross_entropy(z, spoilt, **options), calm, strict=True):
        where = np.zeros(a.shape, bool)
        if form == "index":
            where[2] = True
        else:
            where[2, 0] = True
        assert np.isnan(a[where]).all()
        np.testing.assert_array_equal(a[~where], b[~where])
    with pytest.raises(IndexError, match=str(bad)):
        device.cross_entropy(z, spoilt, validate=True, **options)
    for a, b in zip(device.cross_entropy(z, t, validate=True, **options), calm, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", part(["cross_entropy", "focal"], "focal"))
@pytest.mark.parametrize("activation", part(["softmax", "sigmoid", None], "softmax", "sigmoid"))
def test_outputs_of_the_caller(activation, name, device):
    """Outputs given by the caller, also in place: each element is read before it is written."""
    z, t = make(activation, "index", "float32", (5, 37), np.random.default_rng(1))
    public = getattr(device, name)
    for reduction in ("none", "mean"):
        call = {"activation": activation, "reduction": reduction, "return_hessian": True}
        want = public(z, t, **call)
        out = {"grad_out": np.full_like(z, 7), "hess_out": np.full_like(z, 7)[::-1]}
        loss = np.full(want[0].shape, 7, want[0].dtype)
        for got, expected in zip(public(z, t, loss_out=loss, **call, **out), want, strict=True):
            np.testing.assert_array_equal(got, expected)
        both = z.copy()
        got = public(both, t, grad_out=both, **call)
        assert got[1] is both
        np.testing.assert_array_equal(both, want[1])


@rest
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "sigmoid", "log_sigmoid"])
@pytest.mark.parametrize("dtype", part(DTYPES, "float64"))
def test_activations(name, dtype, device):
    """The same results as on the CPU, also in place."""
    turns = itertools.cycle(machine.ORDERS)
    for shape, axis in (((5, 33), -1), ((4, 3), -1), ((3, 6, 2), 1), ((2, 300), 1), ((7,), 0)):
        z = (np.random.default_rng(0).normal(size=shape) * 5).astype(DTYPES[dtype])
        z.flat[1] = -np.inf
        options = {"axis": axis} if "softmax" in name else {}
        want = getattr(fusedce, name)(z, **options)
        device.order = next(turns)
        got = getattr(device, name)(z, **options)
        assert got.dtype == z.dtype
        rtol = {"float64": 1e-13, "float32": 2e-6, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(got.astype(float), want.astype(float), rtol=rtol, atol=1e-9)
        np.testing.assert_array_equal(getattr(device, name)(z, out=z, **options), got)
