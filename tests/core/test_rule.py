"""A user's own loss, defined by one function of log p: every activation, gradient and Hessian."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numba import njit

import fusedce
from fusedce.kernels.rule import RULES
from fusedce.kernels.scalar import where
from fusedce.losses.focal import MixedFocal
from tests.reference import reference


class Tempered(NamedTuple):
    """f = (1 - p^t) / t, which is generalized cross-entropy with another parameter name."""

    t: float = 0.5


@fusedce.rule(Tempered)
def tempered(logp, logq, p, q, params):
    power = p**params.t
    return (1.0 - power) / params.t, -power, -params.t * power


class SmoothL1(NamedTuple):
    """Quadratic up to l = -knee, linear beyond."""

    knee: float


@fusedce.rule(SmoothL1)
def smooth_l1(logp, logq, p, q, params):
    near = -logp < params.knee
    f = 0.5 * logp * logp / params.knee if near else -logp - 0.5 * params.knee
    return f, logp / params.knee if near else -1.0, 1.0 / params.knee if near else 0.0


class Lopsided(NamedTuple):
    """Cross-entropy for label 1, and for label 0 the squared probability of label 1."""

    slope: float = 2.0
    power: float = 1.0


def no(logp, logq, p, q, params):
    """f = slope q^2 as a function of l = log p: f' = -2 slope p q, f'' = 2 slope p (p - q)."""
    return params.slope * q * q, -2.0 * params.slope * p * q, 2.0 * params.slope * p * (p - q)


@fusedce.rule(Lopsided, negative=no)
def yes(logp, logq, p, q, params):
    return -params.power * logp, -params.power, 0.0


class Bare(NamedTuple):
    """A rule without parameters."""


@fusedce.rule(Bare)
def bare(logp, logq, p, q, params):
    return -2.0 * logp, -2, 0


ACTIVATIONS = ("softmax", "sigmoid", None)


def plain(rule, p, positive=True):
    """The loss of an outcome of probability p, written with NumPy."""
    if isinstance(rule, Tempered):
        return (1 - p**rule.t) / rule.t
    if isinstance(rule, Bare):
        return -2 * np.log(p)
    if isinstance(rule, Lopsided):
        return -rule.power * np.log(p) if positive else rule.slope * (1 - p) ** 2
    a = -np.log(p)
    return np.where(a < rule.knee, 0.5 * a * a / rule.knee, a - 0.5 * rule.knee)


def by_hand(rule, z, t, activation):
    """The sum of the losses, computed with NumPy."""
    if activation == "softmax":
        e = np.exp(z - z.max(axis=1, keepdims=True))
        p = e / e.sum(axis=1, keepdims=True)
    else:
        p = 1 / (1 + np.exp(-z)) if activation else z
    if t.ndim == 1:
        t = (t[:, None] == np.arange(z.shape[1])).astype(float)
    only = activation == "softmax"
    return (t * plain(rule, p)).sum() + (0 if only else ((1 - t) * plain(rule, 1 - p, False)).sum())


def inputs(activation, form, shape=(5, 4)):
    rng = np.random.default_rng(3)
    z = rng.normal(size=shape) * 2
    z = z if activation else 0.2 + 0.6 / (1 + np.exp(-z))
    return z, rng.integers(0, shape[1], shape[0]) if form == "index" else rng.random(shape)


def central(f, z, h=2.0**-11):
    slope, curve = np.empty_like(z), np.empty_like(z)
    for at in np.ndindex(z.shape):
        e = np.zeros_like(z)
        e[at] = h
        v = [f(z + k * e) for k in (-2, -1, 0, 1, 2)]
        slope[at] = (v[0] - 8 * v[1] + 8 * v[3] - v[4]) / (12 * h)
        curve[at] = (-v[0] + 16 * v[1] - 30 * v[2] + 16 * v[3] - v[4]) / (12 * h * h)
    return slope, curve


# A rule from outside the package is compiled anew in each process: so these cases are few.
CASES = [
    *[(Tempered(0.5), activation, "soft") for activation in ACTIVATIONS],
    (Tempered(0.25), "softmax", "index"),
    (SmoothL1(0.75), "softmax", "index"),
    (SmoothL1(0.75), "sigmoid", "soft"),
    (Lopsided(), "sigmoid", "index"),
    (Lopsided(0.5, 3.0), "sigmoid", "soft"),
    (Lopsided(), None, "soft"),
    (Bare(), "softmax", "index"),
    (Bare(), "sigmoid", "soft"),
]


@pytest.mark.slow(reason="kernels of rules that are not the package's are kept nowhere")
@pytest.mark.parametrize(("rule", "activation", "form"), CASES, ids=str)
def test_own_loss(rule, activation, form):
    """The loss agrees with NumPy, derivatives with central differences, float32 with float64."""
    z, t = inputs(activation, form)
    options = {"activation": activation, "reduction": "sum", "return_hessian": True}
    loss, grad, hess = fusedce.apply(rule, z, t, **options)
    assert loss == pytest.approx(by_hand(rule, z, t, activation), rel=1e-12)
    slope, curve = central(lambda x: by_hand(rule, x, t, activation), z)
    if isinstance(rule, SmoothL1):  # no second derivative at the knee: differences cross it
        ours = central(lambda x: fusedce.apply(rule, x, t, **options)[0], z)
        np.testing.assert_allclose(ours[0], slope, rtol=1e-6, atol=1e-8)
        fine = abs(curve - hess) < 1e-4 * (1 + abs(hess))
        assert fine.mean() > 0.9
    else:
        np.testing.assert_allclose(hess, curve, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grad, slope, rtol=1e-5, atol=1e-5)
    if not isinstance(rule, Tempered | Lopsided):
        return
    half = fusedce.apply(rule, z.astype(np.float32), t, **options)
    for a, b in zip(half, (loss, grad, hess), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6 * abs(np.asarray(b)).max())


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("form", ["index", "soft"])
def test_own_loss_against_the_oracle(form, activation, dtype):
    """Options that every loss has, with few classes (rows side by side in lanes) and with many."""
    same = ("generalized_cross_entropy", {"q": 0.5})  # Tempered by its other name
    for shape in ((9, 5), (3, 130)) if dtype == np.float64 else ((9, 5),):
        z, t = inputs(activation, form, shape)
        z = z.astype(dtype)
        options = {"activation": activation, "weight": np.arange(1, shape[1] + 1) / 4,
                   "sample_weight": np.arange(shape[0]) - 1.0, "label_smoothing": 0.1}  # fmt: skip
        got = fusedce.apply(Tempered(0.5), z, t, return_hessian=True, **options)
        want, scales = reference(same, z, t, scales=True, **options)
        bar = 1e-12 if dtype == np.float64 else 1e-5
        for a, b, scale in zip(got, want, scales, strict=True):
            assert np.all(abs(a - b) <= bar * scale)


def test_own_loss_is_the_built_in_one():
    """A user's rule for cross-entropy gives the results of `cross_entropy`, to 1e-14."""

    class Mine(NamedTuple):
        weight: float = 1.0

    @fusedce.rule(Mine)
    def mine(logp, logq, p, q, params):
        return -params.weight * logp, -params.weight, 0.0

    assert mine(-1.0, 0.0, 0.0, 0.0, Mine()) == (1.0, -1.0, 0.0)  # the decorator returns it
    z, t = inputs("softmax", "index", (6, 9))
    for a, b in zip(fusedce.apply(Mine(), z, t), fusedce.cross_entropy(z, t), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14)
    for a, b in zip(fusedce.apply(Mine(3.0), z, t), fusedce.cross_entropy(z, t), strict=True):
        np.testing.assert_allclose(a, 3 * b, rtol=1e-14)
    loss, grad = fusedce.apply(Mine(), z.astype(np.float16), t, activation="sigmoid")
    assert (loss.dtype, grad.dtype) == (np.float32, np.float16)
    with pytest.raises(IndexError, match="target 9 at position 0 is out of range"):
        fusedce.apply(Mine(), z, np.full(6, 9))


def test_errors_of_apply():
    class Unknown(NamedTuple):
        t: float = 0.5

    z, t = inputs("softmax", "index")
    for rule in (Unknown(), tempered, Tempered, "focal", None, 2.0, (0.5,)):
        with pytest.raises(TypeError) as error:
            fusedce.apply(rule, z, t)
        assert str(error.value) == (
            f"rule must be an instance of a class registered with fusedce.rule, got {rule!r}"
        )
    for value, kind in (
        (np.nan, ValueError),
        (np.inf, ValueError),
        ("1", TypeError),
        (None, TypeError),
    ):
        with pytest.raises(kind) as error:
            fusedce.apply(Tempered(value), z, t)
        assert str(error.value) == f"Tempered.t must be a finite number, got {value!r}"
    with pytest.raises(TypeError, match=r"^apply\(\) got an unexpected keyword argument 'gamma'$"):
        fusedce.apply(Tempered(), z, t, gamma=2.0)
    with pytest.raises(ValueError, match=r"^apply has no meaning with activation='softmax'"):
        fusedce.apply(Lopsided(), z, t, activation="softmax")
    with pytest.raises(
        ValueError, match=r"^apply has no meaning with class indices and activation=N"
    ):
        fusedce.apply(Lopsided(), abs(z) / 9, t, activation=None)
    softened = r"^apply of a rule registered with soft= has no meaning with activation=None$"
    with pytest.raises(ValueError, match=softened):
        fusedce.apply(
            MixedFocal(2.0, 1.0), np.full((2, 2), 0.5), np.full((2, 2), 0.5), activation=None
        )
    p = np.array([[0.25, 0.75]])  # class indices are not between 0 and 1
    loss = fusedce.apply(MixedFocal(2.0, 1.0), p, np.array([1]), activation=None, return_grad=False)
    np.testing.assert_allclose(loss, -(0.25**2) * np.log(0.75))


def test_errors_of_rule():
    def fn(logp, logq, p, q, params):
        return -logp, -1.0, 0.0

    wide = NamedTuple("Wide", [(f"a{k}", float) for k in range(9)])
    for params in (dict, 2.0, Tempered(), tuple, "Tempered"):
        with pytest.raises(TypeError) as error:
            fusedce.rule(params)(fn)
        assert str(error.value) == f"rule() takes a NamedTuple class, got {params!r}"
    with pytest.raises(TypeError) as error:
        fusedce.rule(wide)(fn)
    assert str(error.value) == "Wide has 9 fields, at most 8"


class Branching(NamedTuple):
    """Huber's loss of -log p with a Python ``if``, which does not compile for a vector."""

    knee: float


class Choosing(NamedTuple):
    """The same loss with ``where``, which does."""

    knee: float


@fusedce.rule(Branching)
def branching(logp, logq, p, q, params):
    T = type(p)
    if -logp < params.knee:
        return T(0.5) * logp * logp, logp, T(1)
    while q > T(2):  # never true; a loop does not compile for a vector either
        q = q - T(1)
    return params.knee * (-logp - T(0.5) * params.knee), -params.knee, T(0) * q


@fusedce.rule(Choosing)
def choosing(logp, logq, p, q, params):
    T = type(p)
    near = -logp < params.knee
    far = params.knee * (-logp - T(0.5) * params.knee)
    return (
        where(near, T(0.5) * logp * logp, far),
        where(near, logp, -params.knee),
        where(near, T(1), T(0)),
    )


@pytest.mark.slow(reason="kernels of rules that are not the package's are kept nowhere")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("form", ["index", "soft"])
def test_a_rule_that_decides(form, activation, dtype):
    """A rule with ``if`` (scalar loops) agrees with one with ``where``, in all kinds of loops."""
    rng = np.random.default_rng(12)
    for shape in ((35, 3), (5, 70), (2, 2100)):
        z = (rng.normal(size=shape) * 3).astype(dtype)
        t = rng.integers(1, shape[1], shape[0]) if form == "index" else rng.random(shape)
        t[..., -1] = -100 if form == "index" else 0.0
        if form == "soft":
            t[:, 0] = 0.0
        for first, weight in ((-np.inf, None), (2.0, np.arange(1, shape[1] + 1) / 4)):
            z[0, 0] = first
            call = {"activation": activation, "weight": weight, "return_hessian": True,
                    "reduction": "none"}  # fmt: skip
            a = fusedce.apply(Branching(1.0), z, t, **call)
            b = fusedce.apply(Choosing(1.0), z.astype(np.float64), t, **call)
            for x, y in zip(a, b, strict=True):
                assert np.isfinite(y).all()
                assert np.any(y != 0)
                step = 64 * np.finfo(dtype).eps
                np.testing.assert_allclose(x, y, rtol=step, atol=step * max(1.0, abs(y).max()))


class Smallest(NamedTuple):
    """Cross-entropy that takes the minimum of three numbers."""

    factor: float = 1.0


class Truth(NamedTuple):
    """Cross-entropy that uses a number as a condition."""

    factor: float = 1.0


@fusedce.rule(Smallest)
def smallest(logp, logq, p, q, params):
    return -params.factor * min(logp, 0.0, 1.0), -params.factor, 0.0


@fusedce.rule(Truth)
def truth(logp, logq, p, q, params):
    return (-params.factor * logp if p else 0.0 * logp), -params.factor, 0.0


@pytest.mark.parametrize("rule", [Smallest(), Truth()], ids=str)
def test_what_vectors_cannot_do(rule):
    """A rule that compiles for numbers but not for vectors works: it runs one number at a time."""
    z, t = inputs("softmax", "index")
    for a, b in zip(fusedce.apply(rule, z, t), fusedce.cross_entropy(z, t), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14)


ROOT = Path(__file__).parents[2]
CALL = """
import pickle, sys
calls = [pickle.load(sys.stdin.buffer) for _ in range(2)]
import fusedce
results = [fusedce.apply(*args, **options) for args, options in calls]
pickle.dump((results, len({type(args[0]) for args, _ in calls})), sys.stdout.buffer)
"""


def local_rule(slope):
    """A rule that no other process can import: its class, functions and helper are all local."""
    two = 2.0

    @njit
    def spread(p, q):
        return two * p * q

    class Local(NamedTuple):
        slope: float = 1.0

        def steeper(self):
            return self._replace(slope=2 * self.slope)

    def otherwise(logp, logq, p, q, params):
        return params.slope * q * q, -params.slope * spread(p, q), params.slope * two * p * (p - q)

    @fusedce.rule(Local, negative=otherwise)
    def outcome(logp, logq, p, q, params):
        return -logp, -1.0, 0.0

    return Local(slope).steeper()


def sent(data, code=CALL):
    """The results of pickled calls in another process."""
    done = subprocess.run([sys.executable, "-c", code], input=data, cwd=ROOT, capture_output=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return pickle.loads(done.stdout)


def test_a_rule_sent_by_value():
    """A local rule pickled by value, as joblib and dask do, registers itself where it is loaded."""
    cloudpickle = pytest.importorskip("cloudpickle")
    rule = local_rule(1.5)
    z, t = inputs("sigmoid", "soft")
    options = {"activation": "sigmoid", "return_hessian": True}
    results, types = sent(cloudpickle.dumps(((rule, z, t), options)) * 2)
    assert types == 1  # what arrives twice is compiled once
    for result in results:
        for got, want in zip(result, fusedce.apply(rule, z, t, **options), strict=True):
            np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(results[0][0], lopsided(z, t, 3.0), rtol=1e-12)


def lopsided(z, t, slope):
    """The mean of the loss `Lopsided`, computed with NumPy."""
    p = 1 / (1 + np.exp(-z))
    return (-t * np.log(p) + (1 - t) * slope * p * p).mean()


def test_a_rule_that_comes_back_is_the_same():
    """A rule unpickled in the process that defined it is not registered or compiled again."""
    cloudpickle = pytest.importorskip("cloudpickle")
    rule = local_rule(2.0)
    before = RULES[type(rule)]
    back = cloudpickle.loads(cloudpickle.dumps(rule))
    assert type(back) is type(rule)
    assert RULES[type(rule)] is before
    assert pickle.loads(pickle.dumps(Tempered(0.25))) == Tempered(0.25)
