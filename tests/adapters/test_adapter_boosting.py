"""Objectives for XGBoost, LightGBM and CatBoost: accuracy, call forms, models like the built-in."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import re
import sys
from types import SimpleNamespace
from typing import NamedTuple

import mpmath
import numpy as np
import pytest

import fusedce
from fusedce.adapters import boosting, boosting_objective
from fusedce.adapters.boosting import (
    BinaryCrossEntropy,
    CrossEntropy,
    Objective,
    SigmoidFocal,
    SoftmaxFocal,
)
from fusedce.adapters.rules import bend, derived
from fusedce.kernels.rule import RULES
from tests.cuda.gpu import missing
from tests.exact import exact_logit, exact_softmax
from tests.reference import by_log_probability

GAMMAS = [0.0, 0.5, 1.0, 2.0, 3.7, 5.0]
LOGITS = [-100.0, -40.0, -13.8, -6.0, -3.0, -1.0, 0.0, 1e-4, 0.5, 2.0, 6.0, 13.8, 40.0, 100.0]
DTYPES = [np.float32, np.float64]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
gammas = pytest.mark.parametrize("gamma", GAMMAS)


class Brier(NamedTuple):
    """f = scale * q^2; f'' = 2 scale p (p - q) is negative for p < 1/2."""

    scale: float = 1.0


@fusedce.rule(Brier)
def brier(logp, logq, p, q, params):
    a = params.scale * type(p)(2)
    return params.scale * q * q, -a * p * q, a * p * (p - q)


OBJECTIVES = [
    BinaryCrossEntropy(pos_weight=2.0),
    CrossEntropy(n_classes=3, hessian_factor=1.0),
    SigmoidFocal(1.5, alpha=0.25, hessian="exact"),
    SoftmaxFocal(0.5, 4),
    Objective(Brier(2.0), "softmax", n_classes=3),
]
each_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: repr(o)[:14])


def focal_rule(gamma):
    return ("focal", {"gamma": gamma}) if gamma else ("cross_entropy", {})


def close(got, want, dtype, *, scale=None):
    """The error is within the tolerance, relative to each number or to ``scale``.

    ``scale``: the size of the terms that a number is the sum of. Subnormal errors are allowed.
    """
    bar = 2e-5 if dtype == np.float32 else 1e-12
    want = np.asarray(want, dtype=np.float64)
    size = np.abs(want) if scale is None else np.asarray(scale, dtype=np.float64)
    error = np.abs(np.asarray(got, dtype=np.float64) - want)
    assert got.dtype == dtype
    assert (error <= bar * size + 10 * np.finfo(dtype).tiny).all(), (got, want)


def exact_sigmoid(gamma, z, y):
    """Gradient, Hessian, and the part of the Hessian without f'', all to 50 digits."""
    with mpmath.workdps(50):
        _, grad, hess = exact_logit(focal_rule(gamma), z, y, 1 - y)
        p = 1 / (1 + mpmath.exp(-z if y else z))
        return grad, hess, abs(grad) * p


# --------------------------------------------------------------------- numbers


@dtypes
@gammas
@pytest.mark.parametrize("hessian", ["psd", "exact"])
def test_sigmoid(hessian, gamma, dtype):
    z = np.array(LOGITS * 2, dtype=dtype)
    y = np.repeat([0, 1], len(LOGITS))
    grad, hess = SigmoidFocal(gamma, hessian=hessian)(y.astype(np.float32), z)
    want = [exact_sigmoid(gamma, float(v), int(t)) for v, t in zip(z, y, strict=True)]
    close(grad, [w[0] for w in want], dtype)
    wanted = [max(w[1], w[2]) if hessian == "psd" else w[1] for w in want]
    close(hess, wanted, dtype, scale=[abs(w[1]) + 2 * w[2] for w in want])
    if hessian == "psd":
        assert (hess >= 0).all()
    elif gamma:
        assert (hess < 0).any()


@dtypes
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("order", ["C", "F", "strided"])
@pytest.mark.parametrize("hessian", ["psd", "exact"])
def test_softmax(hessian, order, gamma, dtype):
    rng = np.random.default_rng(5)
    z = (rng.normal(size=(12, 4)) * 4).astype(dtype)
    z[0], z[1, 2], z[2] = [14.5, 0, -1, 0.5], -np.inf, [30, -30, 0, 29]
    y = rng.integers(0, 4, 12)
    y[0], y[1], y[2] = 0, 1, 1
    raw = np.asarray(z, order="C" if order == "strided" else order)
    if order == "strided":
        raw = np.repeat(z, 2, axis=1)[:, ::2]
    before = raw.copy()
    grad, hess = SoftmaxFocal(gamma, hessian=hessian, hessian_factor=1.0)(y, raw)
    assert np.array_equal(raw, before)
    assert order != "F" or (grad.flags.f_contiguous and hess.flags.f_contiguous)
    for i in range(12):
        if i == 1:  # a masked class (logit -inf) has gradient and Hessian 0
            assert grad[1, 2] == hess[1, 2] == 0
            continue
        _, first, second = exact_softmax(focal_rule(gamma), z[i], {int(y[i]): 1.0}, range(4))
        with mpmath.workdps(50):
            e = [mpmath.exp(mpmath.mpf(float(v))) for v in z[i]]
            p = [v / mpmath.fsum(e) for v in e]
            slope = first[y[i]] / (1 - p[y[i]])
            plain = [-slope * v * (1 - v) for v in p]
        wanted = list(map(max, second, plain)) if hessian == "psd" else second
        close(grad[i], first, dtype)
        close(
            hess[i],
            wanted,
            dtype,
            scale=[abs(s) + 2 * b for s, b in zip(second, plain, strict=True)],
        )


@dtypes
@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 1000])
def test_psd_is_an_upper_bound(n, dtype):
    rng = np.random.default_rng(n)
    y = rng.integers(0, 2, n)
    z = (rng.normal(size=n) * 5).astype(dtype)
    rows = (rng.normal(size=(n, 5)) * 5).astype(dtype)
    for make, raw in ((SigmoidFocal, z), (SoftmaxFocal, rows)):
        grad, psd = make(2.0)(y, raw)
        same, exact = make(2.0, hessian="exact")(y, raw)
        assert grad.shape == psd.shape == raw.shape
        assert np.array_equal(grad, same)
        assert (psd >= np.maximum(exact, 0)).all()
        bent = psd != exact
        assert n < 1000 or 0.05 < bent.mean() < 0.9


def test_weights():
    """sample_weight, pos_weight and alpha all multiply both the gradient and the Hessian."""
    rng = np.random.default_rng(2)
    z, y, w = rng.normal(size=64), rng.integers(0, 2, 64), rng.uniform(0, 3, 64)
    plain = np.array(SigmoidFocal(2.0)(y, z))
    for kwargs, up, down in (
        ({}, 1, 1), ({"alpha": 0.25}, 0.25, 0.75), ({"pos_weight": 4.0}, 4, 1),
        ({"pos_weight": 4.0, "alpha": 0.0}, 0, 1), ({"alpha": 1.0}, 1, 0),
    ):  # fmt: skip
        got = np.array(SigmoidFocal(2.0, **kwargs)(y, z, w.astype(np.float32)))
        np.testing.assert_allclose(got, plain * w.astype(np.float32) * np.where(y, up, down), 1e-13)
    rows = rng.normal(size=(64, 3))
    weighted, plain = SoftmaxFocal()(y, rows, sample_weight=list(w)), SoftmaxFocal()(y, rows)
    for got, want in zip(weighted, plain, strict=True):
        np.testing.assert_allclose(got, want * w[:, None], 1e-13)


def test_no_gamma_is_cross_entropy():
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 99).astype(np.float32)
    for raw, focal, entropy in (
        (rng.normal(size=99), SigmoidFocal(0), BinaryCrossEntropy()),
        (rng.normal(size=(99, 3)), SoftmaxFocal(0), CrossEntropy()),
    ):
        for got, want in zip(focal(y, raw), entropy(y, raw), strict=True):
            assert np.array_equal(got, want)


def test_a_rule_of_the_users():
    """For q^2 and a positive label, the gradient by z is -2 p q^2.

    The second derivative is -2 p q^2 (1 - 3 p).
    """
    z = np.linspace(-6, 6, 33)
    p = 1 / (1 + np.exp(-z))
    q = 1 / (1 + np.exp(z))
    for hessian in ("psd", "exact"):
        grad, hess = Objective(Brier(3.0), "sigmoid", hessian=hessian)(np.ones(33), z)
        np.testing.assert_allclose(grad, 3 * -2 * p * q * q, rtol=1e-12)
        bend = 2 * p * (p - q)
        bend = np.maximum(bend, 0) if hessian == "psd" else bend
        np.testing.assert_allclose(hess, 3 * (bend * q * q + 2 * p * q * p * q), rtol=1e-11)


def test_derived_rules_have_names_to_be_kept_by():
    """A derived rule's class can be pickled by name, because kernels on disk are stored by it."""
    for rule in (
        SigmoidFocal(2.0)._curved(),
        derived(Brier(), bend),
    ):
        assert type(rule) in RULES
        assert pickle.loads(pickle.dumps(type(rule))) is type(rule)
        assert pickle.loads(pickle.dumps(rule)) == rule


# --------------------------------------------------------------------- forms


def test_hessian_factors():
    """Scores of XGBoost (float32) give the factor 2, those of LightGBM (float64) C / (C - 1)."""
    y, z = np.array([0, 2]), np.array([[0.0, 1, 2, 3], [3, 2, 1, 0]])
    one = CrossEntropy(hessian_factor=1.0)(y, z)[1]
    np.testing.assert_allclose(CrossEntropy()(y, z)[1], one * 4 / 3, 1e-14)
    np.testing.assert_allclose(CrossEntropy()(y, z.astype(np.float32))[1], one * 2, 1e-6)
    np.testing.assert_allclose(SoftmaxFocal(0, hessian_factor=0.5)(y, z)[1], one / 2, 1e-14)
    half = BinaryCrossEntropy(hessian_factor=0.5)(np.array([1]), np.zeros(1))[1]
    assert half == 0.125
    half = BinaryCrossEntropy(hessian_factor=0.5).calc_ders_range(np.zeros(1), [1], None)
    assert half.tolist() == [[0.5, -0.125]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int8, np.uint8, bool, list])
def test_dtypes_of_labels(dtype):
    y, z = np.array([0, 1, 1, 0]), np.array([-1.0, 0, 1, 2])
    labels = y.tolist() if dtype is list else y.astype(dtype)
    for got, want in zip(SigmoidFocal()(labels, z), SigmoidFocal()(y, z), strict=True):
        assert np.array_equal(got, want)


class Data:
    """Stub with the two methods that DMatrix and Dataset have in common."""

    def __init__(self, y, weight=None):
        self.get_label, self.get_weight = lambda: y, lambda: weight


def test_native_form():
    """The form (raw scores, data) works; weights that are None or empty mean no weights."""
    rng = np.random.default_rng(4)
    y, z, w = rng.integers(0, 2, 9).astype(np.float32), rng.normal(size=9), rng.random(9)
    objective = SigmoidFocal()
    for weight, want in (
        (None, objective(y, z)), (np.empty(0, np.float32), objective(y, z)),
        (w, objective(y, z, w)),
    ):  # fmt: skip
        for got, wanted in zip(objective(z, Data(y, weight)), want, strict=True):
            assert np.array_equal(got, wanted)


def fake_cupy(monkeypatch):
    """Install a module "cupy" whose arrays are a subclass of NumPy's; return the module."""

    class ndarray(np.ndarray):
        def get(self):
            return np.array(self.view(np.ndarray))

    ndarray.__module__ = "cupy"
    module = SimpleNamespace(ndarray=ndarray, asarray=lambda x: np.array(x).view(ndarray))
    module.empty = lambda *shape: np.empty(*shape).view(ndarray)
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


class OnGpu:
    """Stub of a CuPy array: get() returns its data, NumPy's implicit conversion raises."""

    __module__ = "cupy"

    def __init__(self, memory):
        self.get, self.size = lambda: memory, memory.size

    def __array__(self, *_args, **_options):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")


def test_labels_on_a_gpu_and_scores_not():
    """Labels on a GPU, as from XGBoost 3.2 on, are copied to where the scores are."""
    rng = np.random.default_rng(6)
    y, z, w = rng.integers(0, 2, 9).astype(np.float32), rng.normal(size=9), rng.random(9)
    want = SigmoidFocal()(y, z, w)
    got = SigmoidFocal()(z, Data(OnGpu(y), OnGpu(w)))
    for one, other in zip(got, want, strict=True):
        assert type(one) is np.ndarray
        assert np.array_equal(one, other)
    assert SigmoidFocal().init_score(OnGpu(y), OnGpu(w)) == SigmoidFocal().init_score(y, w)


def test_scores_on_a_gpu(monkeypatch):
    """With scores on a GPU, labels and weights from the CPU or the GPU are used on the GPU."""
    rng = np.random.default_rng(7)
    y, z, w = rng.integers(0, 3, 9).astype(np.float32), rng.normal(size=(9, 3)), rng.random(9)
    want = SoftmaxFocal()(y, z, w)
    cupy = fake_cupy(monkeypatch)
    engine = boosting_objective.run

    def run(rule, traits, raw, labels, sample_weight, **options):
        there = raw, labels, sample_weight
        assert [type(x) for x in there] == [cupy.ndarray] * 3
        raw, labels, sample_weight = (x.get() for x in there)
        monkeypatch.delitem(sys.modules, "cupy")
        results = engine(rule, traits, raw, labels, sample_weight=sample_weight, **options)
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        return [np.asarray(x).view(cupy.ndarray) for x in results]

    monkeypatch.setattr(boosting_objective, "run", run)
    for labels, weights in ((y, w), (cupy.asarray(y), cupy.asarray(w))):
        got = SoftmaxFocal()(labels, cupy.asarray(z), weights)
        for one, other in zip(got, want, strict=True):
            assert type(one) is cupy.ndarray
            assert np.array_equal(one, other)


def test_catboost_range():
    """calc_ders_range returns the derivatives of minus the loss, in two columns."""
    rng = np.random.default_rng(8)
    z, y, w = rng.normal(size=33), rng.integers(0, 2, 33), rng.random(33).astype(np.float32)
    for objective in (SigmoidFocal(2.0), SigmoidFocal(2.0, 0.25, pos_weight=3.0, hessian="exact")):
        for weight in (None, w):
            got = objective.calc_ders_range(z, y.astype(np.float32), weight)
            want = -np.stack(objective(y, z, weight), axis=1)
            np.testing.assert_allclose(got, want, rtol=1e-14)
            assert got.shape == (33, 2)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 3.7])
@pytest.mark.parametrize("hessian", ["psd", "exact"])
def test_catboost_multi(hessian, gamma):
    """calc_ders_multi agrees with the formula in extended precision.

    Hessian: f'' u u^T - f' (diag(p) - p p^T), u = onehot - p; with "psd", max(f'', 0).
    """
    rng = np.random.default_rng(9)
    objective = SoftmaxFocal(gamma, hessian=hessian)
    for k in range(40):
        z, t = rng.normal(size=4) * (1 + k % 7), k % 4
        x = z.astype(np.longdouble)
        p = np.exp(x - x.max())
        p /= p.sum()
        rest = p[np.arange(4) != t].sum()
        (_, f1, bend), _ = by_log_probability(focal_rule(gamma), np.log(p[t]), p[t], rest)
        f2 = bend / rest**2
        u = (np.arange(4) == t) - p
        u[t] = rest
        first, second = objective.calc_ders_multi(z, float(t), 0.5)
        np.testing.assert_allclose(first, (-0.5 * f1 * u).astype(float), rtol=1e-11)
        f2 = max(f2, 0) if hessian == "psd" else f2
        want = -0.5 * (f2 * np.outer(u, u) - f1 * (np.diag(p) - np.outer(p, p)))
        scale = abs(f2) * np.outer(abs(u), abs(u)) - f1 * (np.diag(p) + np.outer(p, p))
        assert (abs(second - want) <= 1e-12 * scale).all()
        if hessian == "psd":
            assert np.linalg.eigvalsh(second).max() <= 1e-15
        grad, diagonal = objective(np.array([t]), z[None], np.array([0.5]))
        np.testing.assert_allclose(np.diag(second), -diagonal[0] * 3 / 4, rtol=1e-13)
        np.testing.assert_allclose(first, -grad[0], rtol=1e-13)


TWO, ROWS = np.zeros(2), np.zeros((2, 3))
WHOLE = "y_true must hold whole numbers from 0 to"


@pytest.mark.parametrize(
    ("objective", "y", "z", "text"),
    [
        (SigmoidFocal(), [0, 1], np.zeros((2, 2)), "got (2, 2); several classes need SoftmaxFocal"),
        (BinaryCrossEntropy(), [0, 1], ROWS, "got (2, 3); several classes need CrossEntropy"),
        (Objective(Brier()), [0, 1], ROWS, "several classes need activation='softmax'"),
        (
            SigmoidFocal(),
            [0, 1],
            np.zeros((2, 1)),
            "y_pred must have shape (n,), got (2, 1); one column is y_pred[:, 0]",
        ),
        (
            SoftmaxFocal(),
            [0, 1],
            np.zeros(6),
            "y_pred must have shape (n, C) with C >= 2, got (6,)",
        ),
        (SoftmaxFocal(), [0, 1], TWO, "got (2,); labels 0 and 1 need SigmoidFocal, and of more"),
        (CrossEntropy(), [0, 1], TWO, "labels 0 and 1 need BinaryCrossEntropy"),
        (Objective(Brier(), "softmax"), [0, 1], TWO, "0 and 1 need activation='sigmoid'"),
        (SoftmaxFocal(), [0, 1], np.zeros((2, 1)), "got (2, 1); labels 0 and 1 need SigmoidFocal"),
        (SoftmaxFocal(n_classes=4), [0, 1], ROWS, "with C = n_classes = 4, got (2, 3)"),
        (SigmoidFocal(), [[0], [1]], TWO, "got (2, 1); one column is y_true[:, 0]"),
        (SigmoidFocal(), [[0], [1]], np.zeros((2, 1)), "y_true must have shape (2,), got (2, 1)"),
        (SigmoidFocal(), np.eye(2, 3), ROWS, "got (2, 3); several labels a row need a model each"),
        (SigmoidFocal(), np.eye(2, 3), ROWS, "as by sklearn.multioutput.MultiOutputClassifier"),
        (SoftmaxFocal(), np.eye(2, 3), ROWS, "rows with a single 1 are y_true.argmax(axis=1)"),
        (SigmoidFocal(), [0, 2], TWO, f"{WHOLE} 1, got 2 at position 1; several classes need Soft"),
        (SigmoidFocal(), [0, 1, 1], TWO, "y_true must have shape (2,), got (3,)"),
        (SigmoidFocal(), [0, 0.5], TWO, f"{WHOLE} 1, got 0.5 at position 1"),
        (SigmoidFocal(), [1, -1], TWO, f"{WHOLE} 1, got -1 at position 1"),
        (SigmoidFocal(), [np.nan, 1], TWO, f"{WHOLE} 1, got nan at position 0"),
        (SigmoidFocal(), [np.inf, 1], TWO, f"{WHOLE} 1, got inf at position 0"),
        (SoftmaxFocal(), [0, 3], ROWS, f"{WHOLE} 2, got 3 at position 1"),
        (SoftmaxFocal(), [0, 2**32], ROWS, f"{WHOLE} 2, got 4294967296 at position 1"),
        (SoftmaxFocal(), [0, 1e30], ROWS, f"{WHOLE} 2, got 1e+30 at position 1"),
    ],
)
def test_errors_of_a_call(objective, y, z, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        objective(np.array(y), z)
    with pytest.raises(ValueError, match=re.escape(text)):
        objective.lightgbm_metric(np.array(y), z)


def test_types_of_a_call():
    with pytest.raises(TypeError, match="y_true must hold numbers, got <U1"):
        SoftmaxFocal()(np.array(["a", "b"]), ROWS)
    with pytest.raises(TypeError, match="must be float64, float32"):
        SoftmaxFocal()([0, 1], ROWS.astype(int))
    with pytest.raises(ValueError, match="sample_weight must have shape"):
        SoftmaxFocal()([0, 1], ROWS, [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: SigmoidFocal(-1), ValueError, "gamma must be a finite number >= 0, got -1"),
        (lambda: SoftmaxFocal(np.nan), ValueError, "gamma must be a finite number >= 0, got nan"),
        (lambda: SigmoidFocal(alpha=2), ValueError, "alpha must be None or in [0, 1], got 2"),
        (lambda: SigmoidFocal(pos_weight=0), ValueError, "pos_weight must be a finite number > 0"),
        (
            lambda: SigmoidFocal(hessian="abs"),
            ValueError,
            "hessian must be one of 'psd', 'exact', got 'abs'",
        ),
        (lambda: SoftmaxFocal(hessian_factor=-1), ValueError, "hessian_factor must be a finite"),
        (lambda: SoftmaxFocal(n_classes=1), ValueError, "n_classes must be None or >= 2, got 1"),
        (lambda: CrossEntropy(n_classes=2.5), TypeError, "n_classes must be an int, got 2.5"),
        (lambda: Objective((1.0,)), TypeError, "registered with fusedce.rule, got (1.0,)"),
        (
            lambda: Objective(Brier(), None),
            ValueError,
            "activation must be one of 'sigmoid', 'softmax', got None",
        ),
        (
            lambda: Objective(Brier(), "softmax", pos_weight=2.0),
            ValueError,
            "pos_weight=2.0 has no meaning with activation='softmax'",
        ),
        (
            lambda: Objective(Brier(), n_classes=2),
            ValueError,
            "n_classes=2 has no meaning with activation='sigmoid'",
        ),
    ],
)
def test_errors_of_parameters(make, error, text):
    with pytest.raises(error, match=re.escape(text)):
        make()


# --------------------------------------------------------------------- Python and scikit-learn


@each_objective
def test_copies(objective):
    base = pytest.importorskip("sklearn.base")
    joblib = pytest.importorskip("joblib")
    stream = io.BytesIO()
    joblib.dump(objective, stream)
    stream.seek(0)
    metrics = (objective.xgboost_metric, objective.lightgbm_metric, objective.catboost_metric)
    for other in (
        base.clone(objective), copy.copy(objective),
        pickle.loads(pickle.dumps(objective)), joblib.load(stream),
        *(pickle.loads(pickle.dumps(metric)).objective for metric in metrics),
    ):  # fmt: skip
        assert other is not objective
        assert type(other) is type(objective)
        assert vars(other) == vars(objective)
        assert repr(other) == repr(objective)
    assert vars(copy.deepcopy(objective)) == vars(objective)
    assert eval(repr(objective), vars(boosting) | globals()).__dict__ == vars(objective)


def test_params():
    """Parameters are read and set by name; get_params of an estimator does not include them."""
    base = pytest.importorskip("sklearn.base")
    focal = SigmoidFocal(3.0, 0.25)
    params = {"gamma": 3.0, "alpha": 0.25, "pos_weight": None, "hessian": "psd",
              "hessian_factor": None}  # fmt: skip
    assert focal.get_params() == focal.get_params(deep=False) == params
    assert vars(SigmoidFocal(**params)) == vars(focal)
    assert Objective(Brier(), "softmax").get_params()["activation"] == "softmax"

    class Model(base.BaseEstimator):
        def __init__(self, objective=None):
            self.objective = objective

    assert Model(focal).get_params() == {"objective": focal}
    copied = base.clone(focal)
    assert focal.set_params(gamma=1.0, alpha=None) is focal
    assert (focal.gamma, focal.alpha, copied.gamma) == (1.0, None, 3.0)
    with pytest.raises(ValueError, match="hessian must be one of"):
        focal.set_params(gamma=5.0, hessian="abs")
    with pytest.raises(TypeError, match=r"SigmoidFocal\(\) got an unexpected .* 'beta'"):
        focal.set_params(gamma=5.0, beta=1.0)
    assert focal.gamma == 1.0


def test_signature():
    """LightGBM and XGBoost look at the signature: three parameters, the third sample_weight."""
    for what in (SigmoidFocal(), SigmoidFocal().lightgbm_metric, SigmoidFocal().xgboost_metric):
        names = list(inspect.signature(what).parameters)
        assert names[:2] == ["y_true", "y_pred"]
        assert len(names) == 3
    assert list(inspect.signature(SigmoidFocal()).parameters)[2] == "sample_weight"


# --------------------------------------------------------------------- before and after


def test_init_score_of_cross_entropy():
    y = np.repeat([0, 1, 2], [60, 30, 10]).astype(np.float32)
    w = np.linspace(1, 2, 100)
    shares = np.bincount(y.astype(int), w) / w.sum()
    np.testing.assert_allclose(CrossEntropy().init_score(y, w), np.log(shares), rtol=1e-13)
    odds = np.log(w[y == 1].sum() / w[y == 0].sum())
    keep = y < 2
    got = BinaryCrossEntropy().init_score(y[keep], w[keep])
    np.testing.assert_allclose(got, odds, rtol=1e-11)
    got = BinaryCrossEntropy(pos_weight=5.0).init_score(y[keep], w[keep])
    np.testing.assert_allclose(got, odds + np.log(5), rtol=1e-11)
    four = CrossEntropy(n_classes=4).init_score(y)
    np.testing.assert_allclose(four, np.log([0.6, 0.3, 0.1, 1e-15]), rtol=1e-12)
    np.testing.assert_allclose(BinaryCrossEntropy().init_score([0, 0]), np.log(1e-15), rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("positives", [5, 300, 990])
def test_init_score_of_focal(positives, gamma):
    """At the initial score the weighted gradients of positive and negative rows cancel."""
    y = (np.arange(1000) < positives).astype(np.float32)
    w = np.linspace(0.5, 2, 1000)
    for objective in (SigmoidFocal(gamma), SigmoidFocal(gamma, 0.25, pos_weight=3.0)):
        score = objective.init_score(y, w)
        up = w[y == 1].sum() * (1.0 if objective.alpha is None else 0.25 * 3)
        down = w[y == 0].sum() * (1.0 if objective.alpha is None else 0.75)
        p, q = 1 / (1 + np.exp(-score)), 1 / (1 + np.exp(score))
        push = up * q**gamma * (q - gamma * p * np.log(p))
        pull = down * p**gamma * (p - gamma * q * np.log(q))
        np.testing.assert_allclose(push, pull, rtol=1e-9)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_init_score_of_softmax_focal(gamma):
    y = np.repeat([0, 1, 2, 3], [700, 200, 90, 10])
    objective = SoftmaxFocal(gamma)
    start = objective.init_score(y)
    np.testing.assert_allclose(np.exp(start).sum(), 1, rtol=1e-12)
    grad, hess = objective(y, np.tile(start, (1000, 1)))
    assert (abs(grad.sum(axis=0)) <= 1e-7 * hess.sum(axis=0)).all()
    assert objective.xgboost_metric(y, np.tile(start, (1000, 1))) <= min(
        objective.xgboost_metric(y, np.tile(start + d, (1000, 1))) for d in 1e-3 * np.eye(4)
    )


def test_init_score_of_others():
    """Other rules: the minimum, or a score near the limit of 34.6 where the minimum is infinite."""
    y = np.array([1, 1, 1, 0])
    assert abs(Objective(Brier()).init_score(y) - np.log(3)) < 1e-9
    from fusedce.losses.generalized_cross_entropy import GeneralizedCrossEntropy

    assert 30 < Objective(GeneralizedCrossEntropy(1.0)).init_score(y) < 34.6
    with pytest.raises(ValueError, match="y_true must hold whole numbers from 0 to 1, got 2"):
        SigmoidFocal().init_score([0, 2])
    with pytest.raises(ValueError, match="must add up to more than 0"):
        SigmoidFocal().init_score([0, 1], [0.0, 0.0])
    with pytest.raises(ValueError, match="must add up to more than 0"):
        SoftmaxFocal().init_score(np.array([]))


@dtypes
def test_predict_proba(dtype):
    raw = np.array([-100.0, -3, 0, 3, 40], dtype=dtype)
    got = SigmoidFocal().predict_proba(raw)
    wide = raw.astype(np.longdouble)
    want = np.stack([1 / (1 + np.exp(wide)), 1 / (1 + np.exp(-wide))], axis=1)
    assert got.shape == (5, 2)
    assert got.dtype == dtype
    np.testing.assert_allclose(
        got, want.astype(float), rtol=1e-6 if dtype == np.float32 else 1e-14, atol=1e-44
    )
    rows = np.asfortranarray(np.array([[0, 1, 2], [5, 5, 5]], dtype=dtype))
    np.testing.assert_allclose(SoftmaxFocal().predict_proba(rows), fusedce.softmax(rows), rtol=0)
    with pytest.raises(ValueError, match="y_pred must have shape"):
        SigmoidFocal().predict_proba(rows)


def test_metric():
    """Each library's metric is the weighted mean of the loss, in that library's form."""
    rng = np.random.default_rng(11)
    z, y, w = rng.normal(size=50), rng.integers(0, 2, 50), rng.random(50)
    p = 1 / (1 + np.exp(-np.where(y, z, -z)))
    loss = -((1 - p) ** 2) * np.log(p)
    objective = SigmoidFocal(2.0)
    for weight, mean in ((None, loss.mean()), (w, (w * loss).sum() / w.sum())):
        np.testing.assert_allclose(objective.xgboost_metric(y, z, weight), mean, rtol=1e-12)
        name, value = objective.xgboost_metric(z, Data(y, weight))
        assert (name, objective.xgboost_metric.__name__) == ("SigmoidFocal", "SigmoidFocal")
        np.testing.assert_allclose(value, mean, rtol=1e-12)
        for args in ((y, z, weight), (z, Data(y, weight))):
            name, value, bigger_is_better = objective.lightgbm_metric(*args)
            assert (name, bigger_is_better) == ("SigmoidFocal", False)
            np.testing.assert_allclose(value, mean, rtol=1e-12)
        metric = objective.catboost_metric
        pair = metric.evaluate((z,), y, weight)
        np.testing.assert_allclose(metric.get_final_error(*pair), mean, rtol=1e-12)
        assert not metric.is_max_optimal()
    rows = rng.normal(size=(50, 2))
    pair = CrossEntropy().catboost_metric.evaluate(tuple(rows.T), y, None)
    np.testing.assert_allclose(pair[0], fusedce.cross_entropy(rows, y, reduction="sum")[0], 1e-12)


# --------------------------------------------------------------------- the libraries themselves

N = 600


@pytest.fixture(name="rows", scope="module")
def training_rows():
    """Features, binary labels, labels of three classes, weights; no two splits are equally good."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 5))
    s = 2 * x[:, 0] + x[:, 1] * x[:, 2] + rng.normal(size=N)
    return x, (s > 1).astype(int), np.digitize(s, [-1, 1]), rng.uniform(0.5, 2, N)


XGB = {"nthread": 1, "max_depth": 4, "eta": 0.3, "base_score": 0.5, "seed": 0}
weightings = pytest.mark.parametrize(("weighted", "pos_weight"), [(False, None), (True, 3.0)])


@weightings
def test_xgboost_binary(rows, weighted, pos_weight):
    xgb = pytest.importorskip("xgboost")
    x, y, _, w = rows
    objective = SigmoidFocal(0, pos_weight=pos_weight)
    start = np.full(N, objective.init_score(y, w if weighted else None))
    margins = []
    for theirs in (True, False):
        data = xgb.DMatrix(x, y, weight=w if weighted else None, base_margin=start)
        params = XGB | ({"objective": "binary:logistic"} if theirs else {})
        params |= {"scale_pos_weight": pos_weight} if theirs and weighted else {}
        model = xgb.train(params, data, 50, obj=None if theirs else objective)
        margins.append(model.predict(data, output_margin=True))
    assert np.ptp(margins[0]) > 5
    np.testing.assert_allclose(*margins, rtol=0, atol=1e-5)


def test_xgboost_starts_from_base_score(rows):
    """base_score gives the same model as base_margin.

    It is a raw score for train and a probability for XGBClassifier.
    """
    xgb = pytest.importorskip("xgboost")
    x, y, _, _ = rows
    focal = SigmoidFocal(2.0)
    start = focal.init_score(y)
    data = xgb.DMatrix(x, y, base_margin=np.full(N, start))
    want = xgb.train(XGB, data, 5, obj=focal).predict(data, output_margin=True)
    plain = xgb.DMatrix(x, y)
    got = xgb.train(XGB | {"base_score": start}, plain, 5, obj=focal)
    np.testing.assert_allclose(got.predict(plain, output_margin=True), want, atol=1e-5)
    usual = {"n_estimators": 5, "max_depth": 4, "n_jobs": 1, "learning_rate": 0.3}
    model = xgb.XGBClassifier(objective=focal, base_score=1 / (1 + np.exp(-start)), **usual)
    got = model.fit(x, y).predict(x, output_margin=True)
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_xgboost_softmax(rows, weighted):
    xgb = pytest.importorskip("xgboost")
    x, _, y, w = rows
    start = np.tile(SoftmaxFocal(0).init_score(y), (N, 1))
    margins = []
    for obj in (None, SoftmaxFocal(0)):
        data = xgb.DMatrix(x, y, weight=w if weighted else None, base_margin=start)
        params = XGB | {"num_class": 3} | ({} if obj else {"objective": "multi:softprob"})
        margins.append(xgb.train(params, data, 50, obj=obj).predict(data, output_margin=True))
    assert margins[0].shape == (N, 3)
    np.testing.assert_allclose(*margins, rtol=0, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_xgboost_scikit_learn(rows, classes, capfd):
    """XGBClassifier gives the same probabilities and curve as its own objective.

    It prints no message about unused parameters.
    """
    xgb = pytest.importorskip("xgboost")
    x, two, three, w = rows
    y, focal = (two, SigmoidFocal(0)) if classes == 2 else (three, SoftmaxFocal(0))
    usual = {"n_estimators": 10, "max_depth": 4, "n_jobs": 1, "base_score": 0.5}
    found = []
    for mine in (True, False):
        more = {"objective": focal} if mine else {}
        metric = focal.xgboost_metric if mine else "logloss" if classes == 2 else "mlogloss"
        model = xgb.XGBClassifier(**usual, **more, eval_metric=metric)
        model.fit(
            x, y, sample_weight=w, eval_set=[(x, y)], sample_weight_eval_set=[w], verbose=False
        )
        curve = next(iter(model.evals_result()["validation_0"].values()))
        found.append((model.predict_proba(x), curve))
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-5)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-5)
    raw = model.predict(x, output_margin=True)
    np.testing.assert_allclose(focal.predict_proba(raw), found[1][0], atol=1e-6)
    said = capfd.readouterr()
    assert "not used" not in said.out + said.err


def test_xgboost_early_stopping(rows):
    xgb = pytest.importorskip("xgboost")
    x, y, _, w = rows
    data = xgb.DMatrix(x[: N // 2], y[: N // 2], weight=w[: N // 2])
    held = xgb.DMatrix(x[N // 2 :], y[N // 2 :])
    focal = SigmoidFocal(2.0)
    result = {}
    model = xgb.train(
        XGB, data, 100, obj=focal, custom_metric=focal.xgboost_metric, verbose_eval=False,
        evals=[(held, "held")], evals_result=result, early_stopping_rounds=5,
    )  # fmt: skip
    curve = result["held"]["SigmoidFocal"]
    assert model.best_iteration == int(np.argmin(curve)) < 99
    raw = model.predict(held, output_margin=True, iteration_range=(0, model.best_iteration + 1))
    np.testing.assert_allclose(focal.xgboost_metric(raw, held)[1], min(curve), rtol=1e-5)


LGB = {"num_threads": 1, "num_leaves": 15, "verbosity": -1, "seed": 0, "deterministic": True}


@weightings
def test_lightgbm_binary(rows, weighted, pos_weight):
    lgb = pytest.importorskip("lightgbm")
    x, y, _, w = rows
    objective = SigmoidFocal(0, pos_weight=pos_weight)
    start = objective.init_score(y, w if weighted else None)
    scores = []
    for theirs in (True, False):
        data = lgb.Dataset(x, y, weight=w if weighted else None, init_score=np.full(N, start))
        params = LGB | {"objective": "binary" if theirs else objective}
        params |= {"scale_pos_weight": pos_weight} if theirs and weighted else {}
        scores.append(lgb.train(params, data, 50).predict(x, raw_score=True))
    assert np.ptp(scores[0]) > 5
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-5)
    if not weighted:  # LightGBM's own initial score is equal to init_score
        model = lgb.train(LGB | {"objective": "binary"}, lgb.Dataset(x, y), 50)
        np.testing.assert_allclose(model.predict(x, raw_score=True), scores[1] + start, atol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_lightgbm_softmax(rows, weighted):
    lgb = pytest.importorskip("lightgbm")
    x, _, y, w = rows
    start = SoftmaxFocal(0).init_score(y, w if weighted else None)
    scores = []
    for objective in ("multiclass", SoftmaxFocal(0)):
        data = lgb.Dataset(x, y, weight=w if weighted else None, init_score=np.tile(start, (N, 1)))
        params = LGB | {"objective": objective, "num_class": 3}
        scores.append(lgb.train(params, data, 50).predict(x, raw_score=True))
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-5)
    params = LGB | {"objective": "multiclass", "num_class": 3}
    data = lgb.Dataset(x, y, weight=w if weighted else None)
    own = lgb.train(params, data, 50).predict(x, raw_score=True)
    np.testing.assert_allclose(own, scores[1] + start, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_lightgbm_scikit_learn(rows, classes, capfd):
    """LGBMClassifier gives the same raw scores and curve as its own objective.

    It prints no message about parameters of the objective.
    """
    lgb = pytest.importorskip("lightgbm")
    x, two, three, w = rows
    y, focal = (two, SigmoidFocal(0)) if classes == 2 else (three, SoftmaxFocal(0))
    usual = {"n_estimators": 10, "n_jobs": 1, "boost_from_average": False}
    found = []
    for mine in (True, False):
        more = {"objective": focal, "metric": "None"} if mine else {}
        metric = focal.lightgbm_metric if mine else "logloss" if classes == 2 else "multi_logloss"
        model = lgb.LGBMClassifier(**usual, **more)
        model.fit(x, y, w, eval_X=x, eval_y=y, eval_sample_weight=[w], eval_metric=metric)
        curves = next(iter(model.evals_result_.values()))
        curve = curves["SigmoidFocal" if classes == 2 else "SoftmaxFocal"] if mine else None
        curve = next(iter(curves.values())) if curve is None else curve
        found.append((model.predict(x, raw_score=True), curve, model))
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-5)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-7)
    np.testing.assert_allclose(
        focal.predict_proba(found[0][0]), found[1][2].predict_proba(x), rtol=1e-6
    )
    said = capfd.readouterr()
    assert "objective__" not in said.out + said.err


def test_lightgbm_buffers_stay_as_they_were(rows):
    lgb = pytest.importorskip("lightgbm")
    x, _, y, _ = rows
    seen = []

    class Watched(SoftmaxFocal):
        def __call__(self, y_true, y_pred, sample_weight=None):
            before = y_true.copy()
            grad, hess = super().__call__(y_true, y_pred, sample_weight)
            seen.append((np.array_equal(before, y_true), y_true.flags.f_contiguous, grad, hess))
            return grad, hess

    lgb.train(LGB | {"objective": Watched(), "num_class": 3}, lgb.Dataset(x, y), 3)
    assert len(seen) == 3
    for same, fortran, grad, hess in seen:
        assert same
        assert fortran
        assert grad.flags.f_contiguous
        assert hess.flags.f_contiguous


@pytest.mark.parametrize("library", ["xgboost.XGBClassifier", "lightgbm.LGBMClassifier",
                                     "catboost.CatBoostClassifier"])  # fmt: skip
def test_models_are_cloned(library):
    """clone keeps objective and metric, also with CatBoost, whose get_params copies both."""
    base = pytest.importorskip("sklearn.base")
    name, kind = library.split(".")
    module = pytest.importorskip(name)
    objective = SigmoidFocal(3.0)
    names = {"lightgbm": {"objective": objective}, "xgboost": {
        "objective": objective, "eval_metric": objective.xgboost_metric}, "catboost": {
        "loss_function": objective, "eval_metric": objective.catboost_metric}}[name]  # fmt: skip
    model = getattr(module, kind)(**names)
    params = base.clone(base.clone(model)).get_params()
    for key in names:
        assert repr(getattr(params[key], "objective", params[key])) == repr(objective)


CAT = {
    "iterations": 50, "depth": 4, "learning_rate": 0.1, "random_seed": 0, "thread_count": 1,
    "allow_writing_files": False, "verbose": False, "boost_from_average": False,
    "leaf_estimation_method": "Newton", "leaf_estimation_iterations": 1,
    "leaf_estimation_backtracking": "No", "bootstrap_type": "No", "random_strength": 0,
    "boosting_type": "Plain",
}  # fmt: skip


@pytest.mark.parametrize("weighted", [False, True])
def test_catboost_logloss(rows, weighted, tmp_path):
    cat = pytest.importorskip("catboost")
    x, y, _, w = rows
    start = np.full((N, 1), BinaryCrossEntropy().init_score(y))
    usual = CAT | {"train_dir": str(tmp_path)}
    scores, curves = [], []
    for mine in (True, False):
        focal = SigmoidFocal(0)
        loss, metric = (focal, focal.catboost_metric) if mine else ("Logloss", "Logloss")
        data = cat.Pool(x, y, weight=w if weighted else None, baseline=start)
        model = cat.CatBoostClassifier(loss_function=loss, eval_metric=metric, **usual).fit(data)
        scores.append(model.predict(x, prediction_type="RawFormulaVal"))
        curves.append(next(iter(model.get_evals_result()["learn"].values())))
    assert np.ptp(scores[0]) > 2
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(*curves, rtol=1e-3)  # CatBoost's exp is approximate


def test_catboost_softmax(rows, tmp_path):
    """CatBoost calls the objective for each row, so there are only 120 rows."""
    cat = pytest.importorskip("catboost")
    x, y, w = rows[0][:120], rows[2][:120], rows[3][:120]
    usual = CAT | {"train_dir": str(tmp_path), "iterations": 20, "classes_count": 3}
    focal = SoftmaxFocal(0)
    scores = []
    for loss, metric in ((focal, focal.catboost_metric), ("MultiClass", "MultiClass")):
        model = cat.CatBoostClassifier(loss_function=loss, eval_metric=metric, **usual)
        model.fit(x, y, sample_weight=w)
        scores.append(model.predict(x, prediction_type="RawFormulaVal"))
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-5)


# --------------------------------------------------------------------- a GPU


@pytest.mark.gpu
@pytest.mark.skipif(bool(missing()), reason=missing() or "")
@pytest.mark.parametrize("here", ["labels", "scores", "both"])
def test_cupy(here):
    """Labels or scores may be on a GPU, as from XGBoost; the results are where the scores are."""
    cupy = pytest.importorskip("cupy")
    rng = np.random.default_rng(12)
    z, rows = rng.normal(size=999) * 4, np.asfortranarray(rng.normal(size=(999, 7)) * 4)
    y, w = rng.integers(0, 2, 999).astype(np.float32), rng.random(999)
    for objective, raw in ((SigmoidFocal(2.0, 0.25), z), (SoftmaxFocal(1.5), rows)):
        want = objective(y, raw, w)
        there = cupy.asarray(raw, order="A") if here != "labels" else raw
        labels, weights = (cupy.asarray(a) if here != "scores" else a for a in (y, w))
        got = objective(there, Data(labels, weights))
        for one, other in zip(got, want, strict=True):
            assert type(one) is type(there)
            one = one if here == "labels" else one.get()
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-300)
        value = objective.lightgbm_metric(y, raw, w)[1]
        assert objective.lightgbm_metric(labels, there, weights)[1] == pytest.approx(value)
        probabilities = objective.predict_proba(there)
        assert type(probabilities) is type(there)
        shown = probabilities if here == "labels" else probabilities.get()
        np.testing.assert_allclose(shown, objective.predict_proba(raw), rtol=1e-13)
        with pytest.raises(ValueError, match=r"got 0\.5 at position 3"):
            objective(cupy.asarray([0, 1, 0, 0.5] + [1] * 995), there)
