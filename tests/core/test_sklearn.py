"""Parity with scikit-learn's (private) half losses: loss, gradient and Hessian per sample.

On moderate values: HalfBinomialLoss.gradient_hessian is NaN below a raw prediction of -709.
"""

from __future__ import annotations

import numpy as np
import pytest

import fusedce

losses = pytest.importorskip("sklearn._loss.loss", reason="scikit-learn's private loss module")

N = 301
DTYPES = [np.float32, np.float64]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
weights = pytest.mark.parametrize("weighted", [False, True])


def bars(dtype):
    """Relative tolerance, and absolute tolerance for what scikit-learn computes as 1 - p."""
    return {"rtol": 2e-5, "atol": 1e-6} if dtype == np.float32 else {"rtol": 1e-12, "atol": 2e-15}


def sample_weights(rng, dtype, weighted):
    return rng.uniform(0, 3, N).astype(dtype) if weighted else None


def check(loss, raw, y, sample_weight, call, dtype):
    """Compare scikit-learn's loss, gradient and Hessian with one call of fusedce."""
    got = call(sample_weight=sample_weight, reduction="none", return_hessian=True)
    want_loss, want_grad = loss.loss_gradient(y, raw, sample_weight)
    again, want_hess = loss.gradient_hessian(y, raw, sample_weight)
    for ours, theirs in zip((*got, got[1]), (want_loss, want_grad, want_hess, again), strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours, theirs, **bars(dtype))
    summed = call(sample_weight=sample_weight, reduction="sum")
    np.testing.assert_allclose(summed[0], want_loss.sum(dtype=np.float64), rtol=1e-5)
    # scikit-learn's mean divides by the sum of the sample weights; ours and torch's do not
    denominator = N if sample_weight is None else sample_weight.sum(dtype=np.float64)
    mean = call(sample_weight=sample_weight, denominator=denominator)
    np.testing.assert_allclose(mean[0], loss(y, raw, sample_weight), rtol=1e-5)
    np.testing.assert_allclose(mean[1], want_grad / denominator, **bars(dtype))


@dtypes
@weights
@pytest.mark.parametrize("soft", [False, True])
def test_half_binomial(soft, weighted, dtype):
    rng = np.random.default_rng(1)
    raw = (rng.normal(size=N) * 5).astype(dtype)
    raw[:6] = [-30, -17, 0, 1e-6, 17, 30]
    y = rng.random(N).astype(dtype)
    y = y if soft else y.round()

    def call(**options):
        return fusedce.binary_cross_entropy(raw, y, **options)

    check(losses.HalfBinomialLoss(), raw, y, sample_weights(rng, dtype, weighted), call, dtype)


@dtypes
@weights
@pytest.mark.parametrize("C", [3, 10])
@pytest.mark.parametrize("order", ["C", "F"])
def test_half_multinomial(order, C, weighted, dtype):
    rng = np.random.default_rng(2)
    raw = np.asarray(rng.normal(size=(N, C)) * 3, dtype=dtype, order=order)
    raw[0, 1] = 25
    y = rng.integers(0, C, N)

    def call(**options):
        return fusedce.cross_entropy(raw, y, **options)

    check(losses.HalfMultinomialLoss(n_classes=C), raw, y.astype(dtype),
          sample_weights(rng, dtype, weighted), call, dtype)  # fmt: skip
