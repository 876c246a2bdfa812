"""Parity with torch: the options and denominators of its losses, and their gradients.

sample_weight can hold an upstream gradient that is not uniform: with reduction "none" the gradient
is compared with torch's backward(upstream). torch runs in float64 on the same values.
"""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

import fusedce

torch = pytest.importorskip("torch")
F = torch.nn.functional

C = 6
WEIGHT = np.array([0.5, 2.0, 1.0, 0.25, 3.0, 1.5])
LAYOUTS = {"2d": ((9, C), 1, -1), "nchw": ((2, C, 3, 4), 1, 1), "1d": ((C,), 0, -1)}
DTYPES = {"float32": np.float32, "float64": np.float64, "bfloat16": ml_dtypes.bfloat16}
# Relative tolerances of the loss and of the gradient.
BARS = {"float64": (2e-13, 2e-13), "float32": (4e-6, 1e-5), "bfloat16": (4e-6, 2.0**-8 * 1.01)}
dtypes = pytest.mark.parametrize("dtype", DTYPES)
reductions = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
shapes = pytest.mark.parametrize("layout", LAYOUTS)


def logits_like(shape, dtype, rng, axis=-1):
    """Ordinary rows, and rows in which all but one class have a probability of 1e-6 or 1e-11."""
    z = np.moveaxis(rng.normal(size=shape) * 3, axis, -1)
    if z.ndim > 1:
        flat = z.reshape(-1, z.shape[-1])
        flat[::4, 2] = 25.0
        flat[1::4, 2] = 14.0
        z = flat.reshape(z.shape)
    return np.moveaxis(z, -1, axis).astype(DTYPES[dtype])


def with_torch(loss_of, z, upstream, none):
    """Loss and gradient by torch in float64; an unreduced loss is multiplied by ``upstream``."""
    tz = torch.tensor(z.astype(np.float64), requires_grad=True)
    loss = loss_of(tz)
    loss.backward(torch.tensor(upstream) if none else torch.tensor(1.0, dtype=torch.float64))
    loss = loss.detach().numpy()
    return (loss * upstream if none else loss), tz.grad.numpy()


def as_torch(a):
    return None if a is None else torch.tensor(np.asarray(a))


def compare(got, want, dtype):
    loss, grad = got
    loss_bar, grad_bar = BARS[dtype]
    half = 2.0**-24 if dtype == "bfloat16" else 0.0
    assert loss.dtype == (np.float64 if dtype == "float64" else np.float32)
    assert grad.dtype == DTYPES[dtype]
    np.testing.assert_allclose(loss, want[0], rtol=loss_bar, atol=1e-14)
    top = abs(want[1]).max()
    small = 1e-12 if dtype == "float64" else 1e-7  # torch's own p - 1, and sums that cancel
    np.testing.assert_allclose(
        grad.astype(np.float64), want[1], rtol=grad_bar, atol=(small + half) * top
    )


@dtypes
@shapes
@reductions
@pytest.mark.parametrize("form", ["index", "distribution"])
def test_cross_entropy(form, layout, reduction, dtype):
    """All eight combinations of weight, label_smoothing and ignore_index (pytorch #69339)."""
    shape, torch_axis, axis = LAYOUTS[layout]
    rows = tuple(np.delete(shape, torch_axis))
    none = reduction == "none"
    for weighted, smoothing, ignoring in itertools.product((0, 1), (0.0, 0.3), (0, 1)):
        rng = np.random.default_rng([weighted, int(smoothing * 10), ignoring, len(layout)])
        z = logits_like(shape, dtype, rng, axis)
        if form == "index":
            t = np.asarray(rng.integers(1 if layout == "1d" else 0, C, rows))
            t.reshape(-1)[: t.size // 2] = 2  # the confident class among them
            ignore = 0 if ignoring else -100  # a valid class may be the ignored one (#63004)
        else:
            t = rng.random(shape) * (rng.random(shape) < 0.6)
            ignore = -7 if ignoring else -100
        w = WEIGHT if weighted else None
        upstream = rng.normal(size=rows) if none else None
        kept = t.astype(np.float32) if dtype == "bfloat16" and form != "index" else t
        options = {"label_smoothing": smoothing, "ignore_index": ignore, "reduction": reduction}
        target = torch.tensor(kept.astype(np.float64) if form != "index" else kept)
        want = with_torch(
            lambda x, t=target, w=w, o=options: F.cross_entropy(x, t, as_torch(w), **o),
            z, upstream, none)  # fmt: skip
        got = fusedce.cross_entropy(z, kept, weight=w, axis=axis, sample_weight=upstream, **options)
        compare(got, want, dtype)


@dtypes
@reductions
@pytest.mark.parametrize("pos_weight", [None, 3.0, "per class"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("layout", ["2d", "nchw"])
def test_binary_cross_entropy_with_logits(layout, weighted, pos_weight, reduction, dtype):
    shape, _, axis = LAYOUTS[layout]
    none = reduction == "none"
    rng = np.random.default_rng(5)
    z = logits_like(shape, dtype, rng, axis)
    t = rng.random(shape).astype(np.float32).astype(np.float64)
    t[: len(t) // 2] = t[: len(t) // 2].round()
    pw = WEIGHT[::-1].copy() if pos_weight == "per class" else pos_weight
    column = (C, 1, 1) if layout == "nchw" else (C,)
    w = WEIGHT if weighted else None
    upstream = rng.normal(size=shape) if none else None
    want = with_torch(
        lambda x: F.binary_cross_entropy_with_logits(
            x, torch.tensor(t), as_torch(w if w is None else w.reshape(column)),
            reduction=reduction,
            pos_weight=as_torch(pw.reshape(column) if isinstance(pw, np.ndarray) else pw)),
        z, upstream, none)  # fmt: skip
    got = fusedce.binary_cross_entropy(
        z, t, weight=w, pos_weight=pw, reduction=reduction, axis=axis, sample_weight=upstream
    )
    compare(got, want, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@reductions
def test_binary_cross_entropy_of_probabilities(reduction, dtype):
    """Probabilities from 0.01 to 0.99: torch clamps log p at -100, and this package does not."""
    rng = np.random.default_rng(6)
    p = rng.uniform(0.01, 0.99, (7, C)).astype(dtype)
    t = rng.random(p.shape)
    t[:3] = t[:3].round()
    none = reduction == "none"
    upstream = rng.normal(size=p.shape) if none else None
    want = with_torch(
        lambda x: F.binary_cross_entropy(
            x, torch.tensor(t), weight=torch.tensor(WEIGHT), reduction=reduction),
        p, upstream, none)  # fmt: skip
    got = fusedce.cross_entropy(
        p, t, activation=None, weight=WEIGHT, reduction=reduction, sample_weight=upstream
    )
    compare(got, want, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@reductions
@pytest.mark.parametrize("layout", ["2d", "nchw", "1d"])
@pytest.mark.parametrize("weighted", [False, True])
def test_nll_of_log_probabilities(weighted, layout, reduction, dtype):
    shape, torch_axis, axis = LAYOUTS[layout]
    rows = tuple(np.delete(shape, torch_axis))
    rng = np.random.default_rng(8)
    p = rng.dirichlet(np.ones(C), rows)
    p = np.ascontiguousarray(np.moveaxis(p, -1, axis)).astype(dtype)
    t = np.asarray(rng.integers(1, C, rows))
    none, w = reduction == "none", WEIGHT if weighted else None
    upstream = rng.normal(size=rows) if none else None
    options = {"reduction": reduction, "ignore_index": 3 if t.ndim else -100}
    want = with_torch(
        lambda x: F.nll_loss(torch.log(x), torch.tensor(t), as_torch(w), **options),
        p, upstream, none)  # fmt: skip
    got = fusedce.cross_entropy(
        p, t, activation=None, weight=w, axis=axis, sample_weight=upstream, **options
    )
    compare(got, want, dtype)


def torchvision_focal(inputs, targets, alpha, gamma, reduction):
    """torchvision.ops.sigmoid_focal_loss, as it is defined there."""
    p = torch.sigmoid(inputs)
    ce = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    loss = ce * ((1 - p_t) ** gamma)
    if alpha >= 0:
        loss = (alpha * targets + (1 - alpha) * (1 - targets)) * loss
    return {"none": loss, "mean": loss.mean(), "sum": loss.sum()}[reduction]


@dtypes
@reductions
@pytest.mark.parametrize("alpha", [-1, 0, 0.25])
@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_sigmoid_focal_loss(labels, gamma, alpha, reduction, dtype):
    """torchvision's alpha = -1 is None here; alpha = 0 removes the positive elements in both."""
    rng = np.random.default_rng(9)
    z = (rng.normal(size=(11, C)) * 3).astype(DTYPES[dtype])  # past 17, torchvision's 1 - p_t is 0
    t = rng.random(z.shape).astype(np.float32).astype(np.float64)
    t = t.round() if labels == "hard" else t
    none = reduction == "none"
    upstream = rng.normal(size=z.shape) if none else None
    want = with_torch(
        lambda x: torchvision_focal(x, torch.tensor(t), alpha, gamma, reduction), z, upstream, none
    )
    forms = ["torchvision"] if labels == "soft" else ["torchvision", "split"]
    for form in forms:
        got = fusedce.focal(
            z, t, gamma=gamma, alpha=None if alpha < 0 else alpha, soft_labels=form,
            reduction=reduction, sample_weight=upstream)  # fmt: skip
        compare(got, want, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_every_target_ignored(weight, dtype):
    """The mean is NaN and the gradient exactly zero (pytorch #70348); with denominator= it is 0."""
    z = logits_like((4, C), dtype, np.random.default_rng(1))
    t = np.full(4, -100)
    tz = torch.tensor(z, requires_grad=True)
    want = F.cross_entropy(
        tz, torch.tensor(t), as_torch(weight if weight is None else weight.astype(dtype))
    )
    want.backward()
    loss, grad = fusedce.cross_entropy(z, t, weight=weight)
    assert np.isnan(loss)
    assert np.isnan(want.item())
    assert not grad.any()
    assert not tz.grad.numpy().any()
    loss, grad = fusedce.cross_entropy(z, t, weight=weight, denominator=4)
    assert loss == 0
    assert not grad.any()


def test_empty_batch():
    z, t = np.zeros((0, C), np.float32), np.zeros(0, np.int64)
    for reduction in ("mean", "sum", "none"):
        want = F.cross_entropy(torch.tensor(z), torch.tensor(t), reduction=reduction).numpy()
        loss, grad = fusedce.cross_entropy(z, t, reduction=reduction)
        np.testing.assert_array_equal(loss, want)
        assert grad.shape == (0, C)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("everywhere", [False, True])
def test_values_that_are_not_finite(bad, everywhere):
    """+inf, NaN and a row of -inf make their own row NaN, as in torch; one -inf does not."""
    z = np.random.default_rng(2).normal(size=(3, C)).astype(np.float32)
    z[1, slice(None) if everywhere else 4] = bad
    t = np.array([0, 1, 2])
    tz = torch.tensor(z, requires_grad=True)
    want = F.cross_entropy(tz, torch.tensor(t), reduction="none")
    want.backward(torch.ones(3))
    loss, grad = fusedce.cross_entropy(z, t, reduction="none")
    np.testing.assert_allclose(loss, want.detach().numpy(), rtol=2e-6)
    np.testing.assert_allclose(grad, tz.grad.numpy(), rtol=1e-5, atol=1e-7)
