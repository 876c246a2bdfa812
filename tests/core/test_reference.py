"""Tests of the oracle: NumPy against mpmath, finite differences, known values and torch."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest

from tests.listed import ALL_RULES, LOSSES, competing
from tests.reference import REAL, exact_element, exact_row, reference
from tests.taylor import Terms

EVERY = {name: (name.split()[0], own) for name, own in ALL_RULES.items()}
RULES = [EVERY[name] for name in competing(ALL_RULES)]
LOGITS = (-746.0, -90.0, -20.0, -2.9, -0.3, 0.0, 1e-5, 0.7, 2.9, 3.0, 14.0, 40.0, 750.0)


def agree(got, want, scale):
    """Errors are at most 4e-15 times the sum of the absolute values of the terms, or subnormal."""
    for g, w, s in zip(got, want, scale, strict=True):
        w = np.array([float(v) for v in np.atleast_1d(w)])
        assert np.all(abs(np.ravel(g) - w) <= 4e-15 * np.ravel(s) + 3e-308), (got, want)


@pytest.mark.parametrize("rule", EVERY.values(), ids=str)
@pytest.mark.parametrize("y", [0.0, 1.0, 0.3])
def test_sigmoid_elements(rule, y):
    for z in LOGITS + (-1e4, 1e4) * (rule == EVERY["focal 3.7"]):
        for cap in ({}, {"softcap": 30.0, "logit_scale": 0.5}):
            got = reference(
                rule,
                [z],
                [y],
                activation="sigmoid",
                weight=[1.5],
                pos_weight=[2.0],
                alpha=0.25,
                reduction="sum",
                scales=True,
                **cap,
            )
            want = exact_element(rule, z, 1.5 * 2 * 0.25 * y, 1.5 * 0.75 * (1 - y), **cap)
            agree(got[0], want, got[1])


@pytest.mark.parametrize("rule", EVERY.values(), ids=str)
@pytest.mark.parametrize("y", [0.0, 1.0, 0.3])
def test_probability_elements(rule, y):
    for p in (1e-100, 1e-9, 0.02, 0.3, 0.5, 0.949, 0.98, 1 - 1e-9):
        got = reference(rule, [p], [y], activation=None, reduction="sum", scales=True)
        agree(got[0], exact_element(rule, p, y, 1 - y, activation=None), got[1])


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.7])
def test_torchvision_soft_labels(gamma):
    rule = ("focal", {"gamma": gamma})
    for z, y in itertools.product(LOGITS[1:-1], (0.0, 1.0, 0.3, 0.5)):
        got = reference(
            rule,
            [z],
            [y],
            activation="sigmoid",
            alpha=0.25,
            reduction="sum",
            soft_labels="torchvision",
            scales=True,
        )
        want = exact_element(rule, z, 0.25 * y, 0.75 * (1 - y), torchvision_y=y)
        agree(got[0], want, got[1])


ROWS = [
    [0.3],
    [1.0, 1.0],
    [3.0, -2.0, 0.5, 0.1],
    [30.0, 0.0, -5.0],
    [0.0, 900.0, -900.0, 50.0],
    [-np.inf, 0.5, 2.0, -np.inf, 1.0],
]


@pytest.mark.parametrize(
    ("rule", "z"),
    [*itertools.product(RULES, ROWS), (("focal", {"gamma": 2.0}), [0.0, 1e4, -1e4])],
    ids=str,
)
def test_softmax_rows(rule, z):
    C, open_ = len(z), np.isfinite(z)
    soft = np.where(open_, np.linspace(0.1, 2.0, C), 0)
    weight = np.linspace(0.5, 3.0, C)
    for cap in ({}, {"softcap": 30.0, "logit_scale": 0.5}):
        z_loss = 0.01 if open_.all() else 0.0
        options = {
            "activation": "softmax",
            "weight": weight,
            "z_loss": z_loss,
            "reduction": "sum",
            "scales": True,
            "sample_weight": -1.5,
            **cap,
        }
        for y in np.flatnonzero(open_):
            got = reference(rule, [z], [y], **options)
            mass = weight * (np.arange(C) == y)
            agree(got[0], exact_row(rule, z, mass, z_loss=z_loss, scale=-1.5, **cap), got[1])
        got = reference(rule, [z], [soft], **options)
        agree(got[0], exact_row(rule, z, weight * soft, z_loss=z_loss, scale=-1.5, **cap), got[1])


OPTIONS = [
    {"activation": "softmax", "label_smoothing": 0.1, "ignore_index": 2, "weight": True},
    {"activation": "softmax", "dense": True, "normalize_targets": True, "weight": True},
    {"activation": "softmax", "dense": True, "label_smoothing": 0.2, "z_loss": 0.1},
    {"activation": "softmax", "softcap": 3.0, "logit_scale": 2.0, "denominator": 7.0},
    {"activation": "sigmoid", "dense": True, "weight": True, "pos_weight": 3.0, "alpha": 0.3},
    {"activation": "sigmoid", "label_smoothing": 0.1, "softcap": 3.0, "ignore_index": 2},
    {"activation": None, "dense": True, "label_smoothing": 0.1, "weight": True, "alpha": 0.3},
    {"activation": None, "label_smoothing": 0.1, "weight": True, "ignore_index": 1},
]


CALLS = [
    (EVERY[name], options)
    for name, options in itertools.product(LOSSES, OPTIONS)
    if LOSSES[name].any_activation or (options["activation"] != "softmax" and options.get("dense"))
]


@pytest.mark.parametrize(("rule", "options"), CALLS, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_derivatives_are_those_of_the_loss(rule, options, reduction):
    """Gradient and Hessian agree with central differences of the sum of the returned losses."""
    options, rng = dict(options), np.random.default_rng(7)
    N, C, h = 4, 3, 2.0**-12
    z = rng.normal(size=(N, C)) * 1.3
    if options["activation"] is None:
        z = 1 / (1 + np.exp(-z)) * 0.9  # below the kink of asymmetric
    t = rng.random((N, C)).round(1) if options.pop("dense", False) else np.array([0, 2, 1, 2])
    options |= {"weight": [0.5, 2.0, 1.25]} if options.pop("weight", False) else {}
    options |= {"reduction": reduction, "sample_weight": [1.0, -2.0, 0.0, 0.5]}
    if reduction != "mean":
        options.pop("denominator", None)

    def loss(shift):
        return np.sum(reference(rule, z + shift, t, **options)[0])

    _, grad, hess = reference(rule, z, t, **options)
    for i, j in itertools.product(range(N), range(C)):
        e = np.zeros((N, C))
        e[i, j] = h
        f = [loss(k * e) for k in (-2, -1, 0, 1, 2)]
        slope = (f[0] - 8 * f[1] + 8 * f[3] - f[4]) / (12 * h)
        curve = (-f[0] + 16 * f[1] - 30 * f[2] + 16 * f[3] - f[4]) / (12 * h * h)
        assert grad[i, j] == pytest.approx(slope, rel=1e-9, abs=1e-11)
        assert hess[i, j] == pytest.approx(curve, rel=1e-5, abs=1e-7)


def test_hand_values():
    ce, log2 = ("cross_entropy", {}), np.log(2)
    loss, grad, hess = reference(ce, [[0.0, 0.0]], [1], activation="softmax")
    assert loss == pytest.approx(log2, rel=1e-15)
    assert grad.tolist() == [[0.5, -0.5]]
    assert hess.tolist() == [[0.25, 0.25]]
    loss, grad, hess = reference(("focal", {"gamma": 2.0}), [0.0], [1], activation="sigmoid")
    assert [loss, grad[0], hess[0]] == pytest.approx(
        [log2 / 4, -log2 / 4 - 1 / 8, 1 / 16 + 1 / 4 + log2 * 0.125], rel=1e-15
    )
    assert reference(("poly1", {"epsilon": 1.0}), [0.0], [0], activation="sigmoid")[0] == (
        pytest.approx(log2 + 0.5, rel=1e-15)
    )
    gce = ("generalized_cross_entropy", {"q": 1.0})  # q = 1: the mean absolute error
    assert reference(gce, [[0.0, 0.0]], [0], activation="softmax")[0] == 0.5
    asl = ("asymmetric", {"gamma_pos": 0.0, "gamma_neg": 4.0, "clip": 0.05})
    loss, grad, _ = reference(asl, [0.0, -5.0], [0, 0], activation="sigmoid", reduction="none")
    assert loss == pytest.approx([-(0.45**4) * np.log(0.55), 0.0], rel=1e-14)
    assert grad[1] == 0.0


def test_masked_and_infinite():
    ce = ("cross_entropy", {})
    loss, grad, hess = reference(ce, [[-np.inf, 0.0, 0.0]], [1], activation="softmax")
    assert loss == pytest.approx(np.log(2), rel=1e-15)
    assert grad.tolist() == [[0.0, -0.5, 0.5]]
    assert hess.tolist() == [[0.0, 0.25, 0.25]]
    loss, grad, _ = reference(ce, [[-np.inf, 0.0]], [0], activation="softmax")
    assert loss == np.inf
    assert grad.tolist() == [[-1.0, 1.0]]
    for row in ([-np.inf] * 2, [0.0, np.inf], [np.nan, 0.0]):
        none = reference(ce, [row, [0.0, 0.0]], [0, 0], activation="softmax", reduction="none")
        assert [np.isnan(v[0]).all() for v in none] == [True] * 3
        assert none[0][1] == pytest.approx(np.log(2), rel=1e-15)
    loss, grad, hess = reference(ce, [-np.inf, np.inf], [0, 1], activation="sigmoid")
    assert [loss, *grad, *hess] == [0.0] * 5
    got = reference(ce, [0.0, 0.0, 1.0], [0, 1, 1], activation=None, reduction="none")
    np.testing.assert_array_equal(got, [[0, np.inf, 0], [1, -np.inf, -1], [1, np.inf, 1]])


def test_the_same_thing_said_in_two_ways():
    rng, rule = np.random.default_rng(5), ("focal", {"gamma": 2.0})
    z, k = rng.normal(size=(4, 3)), np.array([2, 0, 3, -100])  # 3: background; the last: ignored
    onehot = (np.arange(3) == k[:, None]).astype(int)
    onehot[3] = -100
    signed = np.where(onehot == -100, -100, 2 * onehot - 1)
    options = {"activation": "sigmoid", "alpha": 0.3, "weight": [1.0, 2.0, 0.5]}
    first = reference(rule, z, k, **options)
    said = [(z, onehot, {}), (z, signed, {"neg_label": -1}), (z, k, {"denominator": 9})]
    for z2, t2, more in [*said, (z[:3], 1.0 * onehot[:3], {}), (z.T, k, {"axis": 0})]:
        other = reference(rule, z2, t2, **options, **more)
        assert first[0] == pytest.approx(other[0], rel=1e-15)
        for a, b in zip(first[1:], other[1:], strict=True):
            b = b.T if b.shape == (3, 4) else b
            np.testing.assert_allclose(a[: len(b)], b, rtol=1e-15)
    assert not first[1][3].any()
    s = np.array([2.0, 0.0, -1.0, 5.0])
    mean = reference(rule, z, k, sample_weight=s, **options)
    none = reference(rule, z, k, reduction="none", sample_weight=s[:, None], **options)
    assert mean[0] == pytest.approx(none[0].sum() / 9, rel=1e-15)
    smooth = reference(rule, z, [[1, 0, 1]] * 4, label_smoothing=0.2, **options)
    soft = reference(rule, z, [[0.9, 0.1, 0.9]] * 4, **options)
    np.testing.assert_allclose(smooth[1], soft[1], rtol=1e-14)


def test_what_counts():
    rng, rule = np.random.default_rng(6), ("focal", {"gamma": 2.0})
    z = rng.normal(size=(2, 3, 4))
    t = np.array([[1, 0, 2, 0], [0, 0, 0, 0], [3, 1, 0, 1]] * 2).reshape(2, 3, 4)
    by_hand = t / np.maximum((t != 0).sum(axis=1, keepdims=True), 1)
    options = {"activation": "softmax", "axis": 1}
    got = reference(rule, z, t, normalize_targets=True, **options)
    for a, b in zip(got, reference(rule, z, by_hand, **options), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-15)
    pair = z[0, 0, :3], z[0, 1, :3]  # a row without labels is not counted in the mean
    empty = reference(
        rule, pair, [[2, 0, 0], [0] * 3], activation="softmax", normalize_targets=True
    )
    assert empty[0] == reference(rule, pair[:1], [[2, 0, 0]], activation="softmax")[0]
    assert not empty[1][1].any()
    t = rng.integers(0, 2, z.shape)
    t[0, 1, 2] = t[1, 0, 0] = -1  # ignored elements are not counted in the mean
    s = rng.normal(size=(2, 4))  # one weight per row; the class axis is in the middle
    options = {"activation": "sigmoid", "axis": 1, "ignore_index": -1}
    loss, grad, _ = reference(rule, z, t, sample_weight=s, **options)
    terms = s[:, None] * reference(rule, z, np.abs(t), activation="sigmoid", reduction="none")[0]
    assert loss == pytest.approx(terms[t >= 0].sum() / 22, rel=1e-14)
    assert not grad[t < 0].any()


def test_empty_denominators():
    z, t = np.full((2, 3), 0.3), [-100, -100]
    for activation in ("softmax", "sigmoid", None):
        loss, *both = reference(("cross_entropy", {}), z, t, activation=activation)
        assert np.isnan(loss)
        assert not np.any(both)
    empty = reference(("cross_entropy", {}), np.zeros((0, 3)), [], activation="softmax")
    assert np.isnan(empty[0])
    assert empty[1].shape == (0, 3)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_against_torch(reduction, smoothing, weighted, dense):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    z = rng.normal(size=(3, 4, 2, 5)) * 3
    t = rng.random(z.shape) if dense else rng.integers(0, 4, (3, 2, 5))
    w = np.array([0.5, 2.0, 1.0, 3.0]) if weighted else None
    tz = torch.tensor(z, requires_grad=True)
    want = torch.nn.functional.cross_entropy(
        tz,
        torch.tensor(t),
        None if w is None else torch.tensor(w),
        reduction=reduction,
        label_smoothing=smoothing,
        **({} if dense else {"ignore_index": 2}),
    )
    s = rng.normal(size=(3, 2, 5)) if reduction == "none" else np.ones(())
    want.backward(torch.tensor(s))
    loss, grad, _ = reference(
        ("cross_entropy", {}),
        z,
        t,
        activation="softmax",
        weight=w,
        label_smoothing=smoothing,
        ignore_index=2,
        reduction=reduction,
        axis=1,
        sample_weight=s,
    )
    np.testing.assert_allclose(loss, s * want.detach().numpy(), rtol=1e-13)
    np.testing.assert_allclose(grad, tz.grad.numpy(), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("form", ["soft", "smooth"])
def test_memory_of_many_classes(form):
    """The memory needed grows with the number of logits, not with the square of the classes."""
    rng, classes = np.random.default_rng(0), 32_000
    z = rng.normal(size=(2, classes)) * 3
    t = rng.random((2, classes)) / classes if form == "soft" else rng.integers(0, classes, 2)
    smoothing = 0.1 if form == "smooth" else 0.0
    tracemalloc.start()
    try:
        found = reference(("focal", {"gamma": 2.0}), z, t, activation="softmax", reduction="none",
                          label_smoothing=smoothing)  # fmt: skip
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [a.shape for a in found] == [(2,), z.shape, z.shape]
    assert most < 64 * z.size * np.dtype(REAL).itemsize


def test_many_classes_are_added_up():
    """Results for soft targets are the sums of the results for each target class alone."""
    rng = np.random.default_rng(1)
    z, t = rng.normal(size=(1, 40)) * 5, rng.random((1, 40))
    for rule in RULES:
        loss, grad, hess = reference(rule, z, t, activation="softmax", reduction="sum")
        parts = [
            reference(rule, z, np.where(np.arange(40) == k, t, 0), activation="softmax",
                      reduction="sum") for k in range(40)
        ]  # fmt: skip
        for ours, each in zip((loss, grad, hess), zip(*parts, strict=True), strict=True):
            np.testing.assert_allclose(ours, sum(each), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("n", [-1, 0.5, 1.5, 2, 2.0, 3])
def test_powers(n):
    """Value and derivatives of v**n along v, also at 0; no warning is raised."""
    v = np.array([0.25, 1.0, 3.0, 0.0] if n > 0 else [0.25, 1.0, 3.0], REAL)
    found = (Terms([v, np.ones_like(v), np.zeros_like(v)]) ** n).values
    with np.errstate(divide="ignore"):
        want = [v**n, n * v ** (n - 1), n * (n - 1) * v ** (n - 2)]
    for ours, true in zip(found, want, strict=True):
        np.testing.assert_allclose(ours, true, rtol=1e-15)
