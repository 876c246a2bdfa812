"""Properties that hold for random inputs: derivatives, symmetries, bit-for-bit equalities."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fusedce
from tests.core.test_losses import alike
from tests.listed import RULES, competing
from tests.reference import reference

COMPETING = competing(RULES)
BOTH = [(n, a) for n in RULES for a in ("softmax", "sigmoid") if a == "sigmoid" or n in COMPETING]
each = pytest.mark.parametrize(("name", "activation"), BOTH)
dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])
seeds = st.integers(0, 2**32 - 1)


def few(examples):
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None)


def call(name, z, t, **options):
    """Loss, gradient and Hessian of one call."""
    own = RULES[name] | {"return_hessian": True}
    return getattr(fusedce, name.split()[0])(z, t, **(own | options))


def case(seed, hard, shape=None, spread=3.0):
    """Random logits, hard or soft targets, and some options, from a seed."""
    rng = np.random.default_rng(seed)
    N, C = shape or (rng.integers(1, 9), rng.integers(2, 10))
    z = rng.normal(size=(N, C)) * rng.choice([0.1, 1.0, spread], (N, 1))
    t = rng.integers(0, C, N) if hard else rng.random((N, C))
    options = {
        "weight": rng.integers(1, 9, C) / 4,
        "sample_weight": rng.integers(-4, 9, N) / 4,
        "label_smoothing": float(rng.choice([0.0, 0.2])),
        "reduction": str(rng.choice(["mean", "sum"])),
    }
    return z, t, options


def same_bits(a, b):
    for x, y in zip(a, b, strict=True):
        assert (x.dtype, x.tobytes()) == (y.dtype, y.tobytes())


def derivatives(f, z, h):
    """First and second derivative by each logit, by fourth-order central differences."""
    slope, curve = np.empty_like(z), np.empty_like(z)
    for at in np.ndindex(z.shape):
        e = np.zeros_like(z)
        e[at] = h
        v = [f(z + k * e) for k in (-2, -1, 0, 1, 2)]
        slope[at] = (v[0] - 8 * v[1] + 8 * v[3] - v[4]) / (12 * h)
        curve[at] = (-v[0] + 16 * v[1] - 30 * v[2] + 16 * v[3] - v[4]) / (12 * h * h)
    return slope, curve


@pytest.mark.parametrize(("name", "activation"), [*BOTH, *[(n, None) for n in COMPETING]])
@pytest.mark.parametrize("hard", [True, False])
@few(6)
@given(seeds)
def test_gradient_and_hessian_are_derivatives(name, activation, hard, seed):
    """They are the derivatives of the returned loss, with weights, smoothing and other options."""
    z, t, options = case(seed, hard)
    if activation is None:
        z = 1 / (1 + np.exp(-z / 3))
        z = z * 0.9 + 0.05
    else:
        options |= [{}, {"softcap": 4.0, "logit_scale": 0.75}][seed % 2]
    if activation == "softmax":
        options |= [{}, {"z_loss": 0.05}][seed // 2 % 2]
    if options["reduction"] == "mean":
        options |= [{}, {"denominator": 2.5}][seed // 4 % 2]
    if RULES[name].get("clip") and np.any(abs(1 / (1 + np.exp(-z)) - 0.05) < 1e-2):
        z = abs(z) - 2.5  # away from the kink, where the loss has no second derivative
    options["activation"] = activation
    _, grad, hess = call(name, z, t, **options)
    slope, curve = derivatives(lambda x: call(name, x, t, **options)[0], z, 2.0**-11)
    big = 1 + abs(hess).max()
    np.testing.assert_allclose(grad, slope, rtol=1e-8, atol=2e-10 * big)
    np.testing.assert_allclose(hess, curve, rtol=1e-5, atol=2e-6 * big)


@each
@few(8)
@given(seeds, st.booleans())
def test_no_reduction_is_the_same_derivative(name, activation, seed, hard):
    """Unreduced losses add up to that of reduction="sum", and the gradients are equal."""
    z, t, options = case(seed, hard)
    a = call(name, z, t, **options | {"reduction": "none", "activation": activation})
    b = call(name, z, t, **options | {"reduction": "sum", "activation": activation})
    assert a[0].sum() == pytest.approx(b[0], rel=1e-12, abs=1e-13)
    alike(fusedce, a[1:], b[1:])
    d = call(
        name, z, t, **options | {"denominator": 4.0, "reduction": "mean"}, activation=activation
    )
    assert d[0] * 4 == pytest.approx(b[0], rel=1e-14)
    np.testing.assert_allclose(d[1] * 4, b[1], rtol=1e-14)


@pytest.mark.parametrize("name", COMPETING)
@few(10)
@given(seeds, st.booleans(), st.floats(-50, 50))
def test_softmax_rows_sum_to_nothing_and_know_no_shift(name, seed, hard, shift):
    z, t, options = case(seed, hard, spread=8.0)
    loss, grad, hess = call(name, z, t, activation="softmax", **options)
    size = abs(grad).sum(axis=1)
    assert np.all(abs(grad.sum(axis=1)) <= 4e-15 * z.shape[1] * size + 1e-300)
    z = np.round(z * 64) / 64  # so that the shift does not round
    shift = round(shift * 64) / 64
    a = call(name, z, t, activation="softmax", **options)
    b = call(name, z + shift, t, activation="softmax", **options)
    same_bits(a, b)
    f = call(name, (z + shift).astype(np.float32), t, activation="softmax", **options)
    np.testing.assert_allclose(f[1], a[1], rtol=3e-5, atol=1e-6 * abs(a[1]).max())


@each
@few(10)
@given(seeds, st.booleans())
def test_order_of_rows_and_classes(name, activation, seed, hard):
    z, t, options = case(seed, hard)
    rng, (N, C) = np.random.default_rng(seed), z.shape
    a = call(name, z, t, activation=activation, **options)
    i, j = rng.permutation(N), rng.permutation(C)
    o = options | {"sample_weight": options["sample_weight"][i]}
    b = call(name, z[i], t[i], activation=activation, **o)
    assert b[0] == pytest.approx(a[0], rel=1e-13, abs=1e-14)
    np.testing.assert_allclose(b[1], a[1][i], rtol=1e-13, atol=1e-300)
    o = options | {"weight": options["weight"][j]}
    u = np.argsort(j)[t] if hard else t[:, j]
    c = call(name, z[:, j], u, activation=activation, **o)
    assert c[0] == pytest.approx(a[0], rel=1e-12, abs=1e-13)
    for x, y in zip(c[1:], a[1:], strict=True):
        np.testing.assert_allclose(x, y[:, j], rtol=1e-11, atol=1e-14 * abs(y).max())


@each
@few(8)
@given(seeds, st.booleans(), st.sampled_from([-2.0, 0.0, 0.5, 4.0]))
def test_weights_scale(name, activation, seed, hard, factor):
    """Weights times 0 or a power of two scale results exactly; weights of one change nothing."""
    z, t, options = case(seed, hard)
    options |= {"activation": activation, "reduction": "none"}
    a = call(name, z, t, **options)
    s = options["sample_weight"]
    b = call(name, z, t, **options | {"sample_weight": s * factor})
    c = call(name, z, t, **options | {"weight": options["weight"] * 2.0})
    for x, y, w in zip(a, b, c, strict=True):
        np.testing.assert_array_equal(y, x * factor)
        np.testing.assert_array_equal(w, x * 2.0)
    plain = options | {"weight": None, "sample_weight": None}
    ones = {"weight": np.ones(z.shape[1], np.int8), "sample_weight": np.ones(len(z), np.float16)}
    alike(fusedce, call(name, z, t, **plain), call(name, z, t, **options | ones))


@pytest.mark.parametrize("name", COMPETING)
@few(15)
@given(seeds, st.sampled_from([1.0, 10.0, 300.0]))
def test_sigmoid_is_softmax_of_two(name, seed, spread):
    rng = np.random.default_rng(seed)
    z, y = rng.normal(size=12) * spread, rng.integers(0, 2, 12)
    a = call(name, z, y, activation="sigmoid", reduction="none")
    rule, options = (name.split()[0], RULES[name]), {"activation": "sigmoid", "reduction": "none"}
    scales = reference(rule, z, y, scales=True, **options)[1]
    two = np.stack([np.zeros(12), z], axis=1)
    b = call(name, two, y, activation="softmax", reduction="none")
    for k, x in enumerate(a):
        size = scales[k]
        assert np.all(abs(x - (b[k] if k == 0 else b[k][:, 1])) <= 4e-13 * size + 1e-300)


@dtypes
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
@few(6)
@given(seeds, st.booleans(), st.sampled_from([(3, 4), (5, 40), (3, 200), (40, 3)]))
def test_gamma_of_nought_is_cross_entropy(dtype, activation, seed, hard, shape):
    z, t, options = case(seed, hard, shape, spread=30.0)
    z = (z if activation else 1 / (1 + np.exp(-z))).astype(dtype)
    options["activation"] = activation
    same_bits(call("focal", z, t, **options | {"gamma": 0}), call("cross_entropy", z, t, **options))
    if activation == "sigmoid":
        o = options | {"gamma": 0.0, "soft_labels": "torchvision"}
        got, want = (call(n, z, t, **k)[1] for n, k in (("focal", o), ("cross_entropy", options)))
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@each
@dtypes
@few(8)
@given(seeds, st.sampled_from([(3, 4), (5, 40), (3, 200), (40, 3)]))
def test_one_hot_is_index(name, activation, dtype, seed, shape):
    """Class indices agree with one-hot targets; index C (sigmoid) with a target row of zeros."""
    z, t, options = case(seed, True, shape, spread=10.0)
    z = z.astype(dtype)
    options |= {"activation": activation, "reduction": "none"}
    if activation == "sigmoid":
        t[0] = z.shape[1]
    one_hot = t[:, None] == np.arange(z.shape[1])
    a = call(name, z, t, **options)
    bar = 1e-5 if dtype == np.float32 else 1e-12
    for y in (one_hot, one_hot.astype(np.int8), one_hot.astype(dtype)):
        b = call(name, z, y, **options)
        for u, v in zip(a, b, strict=True):
            np.testing.assert_allclose(v, u, rtol=bar, atol=bar * 1e-3 * (1 + abs(u).max()))
        if activation == "sigmoid":
            alike(fusedce, a, b)


@pytest.mark.parametrize("name", COMPETING)
@dtypes
@few(8)
@given(seeds, st.booleans(), st.sampled_from([(3, 5), (4, 70), (3, 300)]))
def test_masked_class_is_no_class(name, dtype, seed, hard, shape):
    """Classes with logits of -inf get no gradient; other results are as without these classes."""
    z, t, options = case(seed, hard, shape)
    options |= {"label_smoothing": 0.0}
    keep = np.random.default_rng(seed).random(z.shape[1]) < 0.6
    keep[: 1 + seed % 2] = True
    z = np.where(keep, z, -np.inf).astype(dtype)
    t = np.flatnonzero(keep)[t % keep.sum()] if hard else np.where(keep, t, 0)
    a = call(name, z, t, activation="softmax", **options)
    o = options | {"weight": options["weight"][keep]}
    b = call(name, z[:, keep], (np.cumsum(keep) - 1)[t] if hard else t[:, keep],
             activation="softmax", **o)  # fmt: skip
    bar = 1e-12 if dtype == np.float64 else 1e-5
    assert a[0] == pytest.approx(b[0], rel=bar, abs=bar)
    for x, y in zip(a[1:], b[1:], strict=True):
        np.testing.assert_allclose(x[:, keep], y, rtol=bar, atol=bar * abs(y).max())
        assert not x[:, ~keep].any()


@pytest.mark.parametrize("name", RULES)
@dtypes
@few(10)
@given(seeds, st.integers(1, 3000))
def test_hard_labels_beside_soft_ones(name, dtype, seed, n):
    """A label of 0 or 1 gives the same results with and without a soft label in its block.

    Equal to 4 ulp: the loops for hard and soft labels use fused multiply-add in different places.
    """
    rng = np.random.default_rng(seed)
    z = (rng.normal(size=n) * 4).astype(dtype)
    y = rng.integers(0, 2, n).astype(dtype)
    soft = rng.random(n) < 2 / n
    mixed = np.where(soft, dtype(0.3), y)
    a = call(name, z, y, activation="sigmoid", reduction="none")
    b = call(name, z, mixed, activation="sigmoid", reduction="none")
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_max_ulp(x[~soft], y[~soft], maxulp=4)


BIG = [("softmax", (3000, 40)), ("softmax", (200, 1000)), ("softmax", (2, 150_000)),
       ("sigmoid", (3000, 40)), (None, (300, 400))]  # fmt: skip


@pytest.mark.parametrize(("activation", "shape"), BIG)
@dtypes
@pytest.mark.parametrize("hard", [True, False])
def test_threads_and_runs(activation, shape, dtype, hard):
    """One thread, many threads, a repeated call and a call in place give the same bits."""
    z, t, options = case(7, hard, shape)
    z = (z if activation else 1 / (1 + np.exp(-z))).astype(dtype)
    t = t if hard else t.astype(dtype)
    options |= {"activation": activation, "reduction": "mean"}
    for name in ("cross_entropy", "focal"):
        a = call(name, z, t, **options)
        same_bits(a, call(name, z, t, **options))
        before = numba.get_num_threads()
        try:
            numba.set_num_threads(1)
            same_bits(a, call(name, z, t, **options))
        finally:
            numba.set_num_threads(before)
        for order in "CF":
            there = np.array(z, order=order)
            place = np.array(z, order=order)
            b = call(name, there, t, **options)
            c = call(name, place, t, grad_out=place, **options)
            assert c[1] is place
            same_bits(b, c)
            assert call(name, there, t, **options | {"return_hessian": False})[0] == b[0]
            alone = call(
                name, there, t, **options | {"return_grad": False, "return_hessian": False}
            )
            assert alone == b[0]
