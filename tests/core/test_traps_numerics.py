"""Numeric errors known from other packages, listed in README.md: rounding, sums, sizes, float16."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import fusedce
from tests.core.test_losses import DTYPES, alike, check
from tests.reference import reference

RNG = np.random.default_rng
GAMMAS = [0, 0.0, 0.5, 1, 2, 3.7, 5, 7, 8]
HALVES = {k: v for k, v in DTYPES.items() if k in ("float16", "bfloat16")}


def test_gradient_of_a_near_certainty():
    """At a logit of 20 the gradient p - 1 is -2.06e-9, although 1 - p is 0 in float32."""
    for dtype in (np.float32, np.float64):
        grad = fusedce.binary_cross_entropy(np.array([20, -20], dtype), np.array([1, 0]),
                                            reduction="sum")[1]  # fmt: skip
        np.testing.assert_allclose(grad, [-2.0611536e-9, 2.0611536e-9], rtol=1e-6)
        z = np.array([[20.0, 0, 0], [0, 20, 0]], dtype)
        grad = fusedce.cross_entropy(z, np.array([0, 1]), reduction="sum")[1]
        np.testing.assert_allclose(grad[0], [-4.122307e-9, 2.0611536e-9, 2.0611536e-9], rtol=1e-6)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_focal_gammas_at_certainty(dtype, gamma):
    """No NaN where 1 - p is 0 and the exponent gamma is below 1, or gamma - 2 is negative."""
    z = np.array([0, 1, 9.3906, 17, 20, 80, 100, 1000, 3e4], DTYPES[dtype])
    z = np.concatenate([z, -z])
    for y in (np.ones(18), np.zeros(18), np.full(18, 0.5)):
        for form in ("split", "torchvision"):
            got = fusedce.focal(z, y, gamma=gamma, soft_labels=form, return_hessian=True,
                                reduction="none")  # fmt: skip
            assert all(np.isfinite(a.astype(float)).all() for a in got), form
    rows = np.stack([z, -z, 0 * z], axis=1)
    for k in range(3):
        got = fusedce.focal(rows, np.full(18, k), gamma=gamma, activation="softmax",
                            return_hessian=True, reduction="none")  # fmt: skip
        assert all(np.isfinite(a.astype(float)).all() for a in got)
    if dtype in ("float32", "float64"):
        for p in (np.nextafter(DTYPES[dtype](1), 0), np.nextafter(DTYPES[dtype](0), 1)):
            y = np.array([float(p > 0.5)])
            got = fusedce.focal(np.array([p]), y, gamma=gamma, activation=None, return_hessian=True)
            assert np.isfinite(got[0])


def test_alpha_of_nought_and_one():
    """alpha 0 removes the positive elements and 1 the negative ones; None means no alpha."""
    z, y = RNG(1).normal(size=8), np.array([0, 1] * 4)
    plain = fusedce.focal(z, y, reduction="none")
    for alpha, kept in ((0, y == 0), (1, y == 1), (0.0, y == 0)):
        got = fusedce.focal(z, y, alpha=alpha, reduction="none")
        for a, b in zip(got, plain, strict=True):
            alike(fusedce, [a], [np.where(kept, b, 0)])
            assert not a[~kept].any()
    for a, b in zip(fusedce.focal(z, y, alpha=None, reduction="none"), plain, strict=True):
        alike(fusedce, [a], [b])


def test_hessian_of_focal_changes_sign():
    """The exact Hessian is negative for a very wrong logit, and positive at z = 0 (gamma 2)."""
    z = np.array([-6.0, -3.0, -2.0, 0.0, 3.0])
    _, _, hess = fusedce.focal(z, np.ones(5), gamma=2.0, reduction="sum", return_hessian=True)
    assert np.sign(hess).tolist() == [-1, -1, 1, 1, 1]
    for loss in ("cross_entropy", "focal"):
        check(loss, z, np.ones(5), activation="sigmoid")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["cross_entropy", "focal", "poly1", "generalized_cross_entropy"])
def test_loss_is_never_negative(name, dtype):
    """No loss is negative by rounding, since a power of it could be NaN."""
    z = (RNG(2).normal(size=(500, 7)) * 20).astype(DTYPES[dtype])
    t = z.astype(float).argmax(axis=1)
    for activation, y in (("softmax", t), ("sigmoid", z.astype(float) > 0)):
        loss, _ = getattr(fusedce, name)(z, y, activation=activation, reduction="none")
        assert loss.min() >= 0
    loss, _ = fusedce.asymmetric(z, z.astype(float) > 0, reduction="none")
    assert loss.min() >= 0


@pytest.mark.parametrize("dtype", HALVES)
def test_half_sums(dtype):
    """Half logits give a float32 loss: a sum of 1e5 rows may exceed 65504; means are accurate."""
    z = (RNG(3).normal(size=(100_000, 4)) * 3).astype(HALVES[dtype])
    t = RNG(4).integers(0, 4, 100_000)
    wide = z.astype(np.float64)
    want = fusedce.cross_entropy(wide, t, reduction="sum")
    for dense in (False, True):
        y = np.eye(4)[t] if dense else t
        loss, grad = fusedce.cross_entropy(z, y, reduction="sum")
        assert loss.dtype == np.float32
        assert loss > 65504
        assert loss == pytest.approx(want[0], rel=3e-7)
        assert abs(grad.astype(float) - want[1]).max() <= 2.0 ** (
            -8 if dtype == "bfloat16" else -11
        )
    single = fusedce.cross_entropy(z.astype(np.float32), t)
    half = fusedce.cross_entropy(z, t)
    alike(fusedce, half[:1], single[:1])  # the same numbers, the same arithmetic
    big = fusedce.cross_entropy(z, t, reduction="sum", sample_weight=3.0)[0]
    assert big == pytest.approx(3 * want[0], rel=3e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_weights_are_applied_before_rounding(activation, dtype):
    """A half-precision gradient is the float32 gradient, weights included, rounded once."""
    if dtype in ("float32", "float64"):
        return
    z = (RNG(5).normal(size=(40, 6)) * 3).astype(HALVES[dtype])
    t, s, w = RNG(6).integers(0, 6, 40), RNG(7).normal(size=40), RNG(8).random(6)
    for reduction in ("mean", "sum", "none"):
        options = {"activation": activation, "sample_weight": s, "weight": w,
                   "reduction": reduction, "return_hessian": True}  # fmt: skip
        a = fusedce.focal(z, t, **options)
        b = fusedce.focal(z.astype(np.float32), t, **options)
        alike(fusedce, a, [b[0], *(y.astype(z.dtype) for y in b[1:])])


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_upstream_gradient(activation):
    """Upstream gradients in sample_weight: first 0, all 1, broadcast, strided, all 1 but one."""
    z, t = RNG(9).normal(size=(6, 5)).astype(np.float32), RNG(10).integers(0, 5, 6)
    own = fusedce.focal(z, t, activation=activation, reduction="none")[1]
    ups = [np.array([0, 1, 2, -3, 0.5, 0]), np.ones(6), np.full(6, 3.0), np.zeros(6),
           np.broadcast_to(2.0, 6), np.arange(12.0)[::2], np.array([1.0] * 5 + [2])]  # fmt: skip
    for up in ups:
        before = up.tobytes()
        grad = fusedce.focal(z, t, activation=activation, reduction="none", sample_weight=up)[1]
        np.testing.assert_allclose(grad, own * up[:, None], rtol=3e-7)
        assert up.tobytes() == before


def test_z_loss_is_not_weighted():
    """z_loss * lse^2 has sample weights but no class weights, and is 0 for ignored rows."""
    z, t = RNG(11).normal(size=(4, 3)), np.array([0, 2, -100, 1])
    s, w = np.array([1.0, -2, 3, 0.5]), np.array([0.25, 4, 9])
    lse = np.log(np.exp(z).sum(axis=1))
    options = {"reduction": "none", "weight": w, "sample_weight": s}
    a = fusedce.cross_entropy(z, t, z_loss=0.5, **options)[0]
    b = fusedce.cross_entropy(z, t, **options)[0]
    np.testing.assert_allclose(a - b, s * 0.5 * lse**2 * (t >= 0), rtol=1e-12)


def test_mean_of_ten_million():
    """float32 losses are summed in float64: the mean of ten million has no larger error."""
    z = np.broadcast_to(np.float32(0.1), 10_000_000)
    loss = fusedce.binary_cross_entropy(z, np.broadcast_to(True, z.shape), return_grad=False)
    assert loss == pytest.approx(np.log1p(np.exp(-np.float64(np.float32(0.1)))), rel=2e-7)


def test_more_than_two_to_the_31():
    """More than 2**31 elements: counts and offsets do not fit in 32 bits."""
    n = 2**31 + 17
    z, y = np.broadcast_to(np.float16(0), n), np.broadcast_to(True, n)
    loss = fusedce.binary_cross_entropy(z, y, return_grad=False, reduction="sum")
    assert loss == pytest.approx(n * np.log(2), rel=1e-6)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_rows_far_apart(activation):
    """Inputs and outputs whose rows are 2**31 elements, more than 2**32 bytes, apart."""
    try:  # untouched pages take no physical memory
        far = [np.empty((3, 2**30 + 64), np.float16) for _ in range(2)]
    except MemoryError:
        pytest.skip("6 GB of address space each")
    z = (RNG(12).normal(size=(3, 5)) * 3).astype(np.float16)
    t = np.array([4, 0, 2])
    want = fusedce.focal(z, t, activation=activation)
    for view in (lambda a: a[:, -5:], lambda a: a[::-2, :: 2**28][:, :5]):
        there, out = view(far[0]), view(far[1])
        there[...] = z[: len(there)]
        some = fusedce.focal(z[: len(there)], t[: len(there)], activation=activation)
        got = fusedce.focal(there, t[: len(there)], activation=activation, grad_out=out)
        assert got[1] is out
        assert got[0] == some[0]
        assert out.tobytes() == some[1].tobytes()
    assert np.isfinite(want[0])


def test_no_classes():
    """With sigmoid, logits (3, 0) are no elements: the mean is NaN, the sum 0."""
    z = np.zeros((3, 0), np.float32)
    for t in (np.zeros((3, 0)), np.zeros(3, int)):
        loss, grad = fusedce.binary_cross_entropy(z, t)
        assert np.isnan(loss)
        assert grad.shape == (3, 0)
        assert fusedce.binary_cross_entropy(z, t, reduction="sum")[0] == 0
        assert fusedce.binary_cross_entropy(z, t, reduction="none")[0].shape == (3, 0)


def test_torch_tensors_that_numpy_refuses():
    """A torch tensor that requires grad, or of bfloat16, is an error."""
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="requires grad"):
        fusedce.cross_entropy(torch.zeros(2, 3, requires_grad=True), np.array([0, 1]))
    with pytest.raises(TypeError, match="BFloat16"):
        fusedce.cross_entropy(torch.zeros(2, 3, dtype=torch.bfloat16), np.array([0, 1]))


def test_scalars_do_not_promote():
    """float64 options do not change the dtype of results, which is that of the logits."""
    t = np.array([0, 1])
    for dtype in DTYPES.values():
        z = np.array([[1, 2, 3], [3, 2, 1]]).astype(dtype)
        options = {
            "activation": "softmax", "softcap": np.float64(30), "z_loss": np.float64(0.1),
            "logit_scale": np.array(0.5), "denominator": np.float64(3),
            "label_smoothing": np.float64(0.1),
        }  # fmt: skip
        got = fusedce.focal(z, t, gamma=np.float64(2), return_hessian=True, **options)
        assert [a.dtype for a in got[1:]] == [dtype, dtype]
        want = reference(("focal", {"gamma": 2.0}), z, t, **options)
        eps = float(ml_dtypes.finfo(dtype).eps)
        bar = max(4 * eps, 2e-13)
        np.testing.assert_allclose(got[1].astype(float), want[1], rtol=bar, atol=eps / 8)
