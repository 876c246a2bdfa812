"""Labels as users pass them: for one output unit, missing, masks of 0 and 255, masked arrays.

Each of these once gave a wrong number without an error.
"""

from __future__ import annotations

import re

import numpy as np
import pytest

import fusedce
from tests.core.test_losses import check

RNG = np.random.default_rng
SIGMOID = ["binary_cross_entropy", "focal", "asymmetric"]
LABELS = "a label is a number in [0, 1], or ignore_index=-100"


def refuses(error, text, function, *arrays, **options):
    """The call raises an error that contains this text, and changes none of its arrays."""
    before = [np.copy(a) for a in (*arrays, *options.values())]
    with pytest.raises(error, match=re.escape(text)):
        function(*arrays, **options)
    for a, b in zip((*arrays, *options.values()), before, strict=True):
        np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------------------- heads of one unit


@pytest.mark.parametrize("name", SIGMOID)
@pytest.mark.parametrize("kind", [np.int64, np.uint8, bool, np.float32])
def test_one_unit(name, kind):
    """Labels (N,) with logits (N, 1) are an error: read as class indices they would be inverted."""
    function = getattr(fusedce, name)
    z, y = np.array([[3.0], [3.0], [-3.0]], np.float32), np.array([1, 1, 0]).astype(kind)
    text = (
        "targets of shape (3,) would be class indices for logits of shape (3, 1), which have one "
        "class: for labels 0 and 1 pass targets[:, None] with these logits, or logits[:, 0] with "
        "these targets"
    )
    refuses(ValueError, text, function, z, y)
    a, b = function(z, y[:, None]), function(z[:, 0], y)
    assert a[0] == b[0]
    np.testing.assert_array_equal(a[1][:, 0], b[1])
    if name == "binary_cross_entropy":
        assert abs(a[0] - np.log1p(np.exp(-3))) < 1e-6
        assert (np.sign(a[1][:, 0]) == [-1, -1, 1]).all()


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_one_unit_anywhere(axis):
    """The error suggests two corrections for the class axis of the call, and both are right."""
    z = RNG(0).normal(size=(2, 3, 4))
    z = np.take(z, [0], axis)
    y = (np.take(z, 0, axis) > 0).astype(int)
    with pytest.raises(ValueError, match="which have one class") as told:
        fusedce.binary_cross_entropy(z, y, axis=axis)
    targets, logits = re.search(
        r"pass (.*) with these logits, or (.*) with", str(told.value)
    ).groups()
    a = fusedce.binary_cross_entropy(z, eval(targets, {"targets": y}), axis=axis)
    b = fusedce.binary_cross_entropy(eval(logits, {"logits": z}), y)
    assert a[0] == b[0]
    p = np.take(z * 0 + 0.25, [0], axis)
    with pytest.raises(ValueError, match="which have one class"):
        fusedce.cross_entropy(p, 0 * y, activation=None, axis=axis)


def test_one_label_for_all():
    """One target for logits (N,) is an error with sigmoid: it might be a label or a class index."""
    z = RNG(0).normal(size=5)
    text = (
        "targets of shape () would be a class index for logits of shape (5,): for one label of all "
        "elements pass numpy.full_like(logits, targets), for a class index logits[None] and "
        "targets[None]"
    )
    for name in SIGMOID:
        refuses(ValueError, text, getattr(fusedce, name), z, np.array(1))
    assert fusedce.cross_entropy(z, 1)[0] == fusedce.cross_entropy(z[None], np.array([1]))[0]


# ------------------------------------------------------------------------------- missing labels


def numbers(shape, kind, share, ignored, soft=False):
    """(labels, mask): random labels, a share of which equals ``ignored``, and where these are."""
    y = RNG(1).random(shape) if soft else RNG(1).integers(0, 2, shape)
    missing = RNG(2).random(shape) < share
    return np.where(missing, ignored, y).astype(kind), missing


@pytest.mark.parametrize("activation", ["sigmoid", None])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("shape", [(5, 7), (20, 333), (3,)])
@pytest.mark.parametrize("ignored", [-100, -1, 255, 1, 0])
def test_missing_numbers(activation, dtype, shape, ignored):
    """Float labels equal to ignore_index add nothing and are not counted, like integer labels."""
    z = RNG(0).normal(size=shape).astype(dtype)
    if activation is None:
        z = (1 / (1 + np.exp(-z))).astype(dtype)
    for share, soft in ((0.2, False), (0.2, True), (0.0, False), (1.0, False)):
        y, missing = numbers(shape, "float32", share, ignored, soft)
        missing |= y == ignored
        options = {"activation": activation, "ignore_index": ignored}
        loss, grad, hess = check("focal", z, y, dtype, **options)
        assert np.isnan(loss) == missing.all()
        assert not grad[missing].any()
        assert not hess[missing].any()
        if not soft:
            integers = fusedce.focal(z, y.astype(np.int64), return_hessian=True, **options)
            np.testing.assert_allclose(loss, integers[0], rtol=1e-5)
            np.testing.assert_allclose(grad, integers[1], rtol=2e-3 if dtype == "float16" else 1e-5)
        check("focal", z, y, dtype, weight=RNG(3).random(shape[-1]), **options)
        check("focal", z, y, dtype, reduction="none", **options)
        check("focal", z, y, dtype, denominator=3.0, **options)


@pytest.mark.parametrize("form", ["elements", "rows"])
def test_missing_numbers_in_place_after_a_call_with_a_buffer(form):
    """In place, all labels are checked before a write, also after such a call with a buffer."""
    z, t = RNG(0).normal(size=(6, 4)), RNG(1).random((6, 4))
    missing, wrong = t.copy(), t.copy()
    missing[2] = -100
    wrong[3, 1] = 7 if form == "elements" else -100
    options = {"activation": "sigmoid" if form == "elements" else "softmax", "return_hessian": True}
    want = fusedce.focal(z, missing, **options)
    fusedce.focal(z, t, grad_out=np.empty_like(z), **options)
    for _ in range(2):
        over = np.frombuffer(bytearray(z.nbytes + 1), z.dtype, z.size, 1).reshape(z.shape)
        over[...] = z  # unaligned: kernels read a copy
        with pytest.raises(ValueError, match="position"):
            fusedce.focal(over, wrong, grad_out=over, **options)
        np.testing.assert_array_equal(over, z)
        over = z.copy()
        got = fusedce.focal(over, missing, grad_out=over, **options)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)
        over = z.copy()
        with pytest.raises(ValueError, match="position"):
            fusedce.focal(over, wrong, grad_out=over, **options)
        np.testing.assert_array_equal(over, z)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_ignored_logits_of_nan_through_a_softcap(activation):
    z = RNG(0).normal(size=(4, 3))
    z[1] = np.nan
    dense, index = RNG(1).random((4, 3)), np.array([0, -100, 2, 1])
    dense[1] = -100
    for t in (dense, index):
        for more in ({"softcap": 5.0}, {"logit_scale": 2.0}):
            _, grad, hess = check("focal", z, t, activation=activation, **more)
            assert not grad[1].any()
            assert not hess[1].any()


@pytest.mark.parametrize("ignored", [-100, -1])
def test_missing_numbers_of_signed_labels(ignored):
    z, y = RNG(0).normal(size=(9, 5)), np.sign(RNG(1).normal(size=(9, 5)))
    y[2, 3] = y[5] = ignored
    check("cross_entropy", z, y, activation="sigmoid", neg_label=-1, ignore_index=ignored)


@pytest.mark.parametrize("name", ["binary_cross_entropy", "focal"])
def test_missing_numbers_into_buffers(name):
    """With ignored float labels, output buffers and calls in place give the same bits."""
    function = getattr(fusedce, name)
    z, (y, _) = RNG(0).normal(size=(40, 50)).astype("f4"), numbers((40, 50), "f4", 0.2, -100)
    for soft_labels in (y, np.where(y == 1, 0.75, y).astype("f4")):
        for _ in range(2):
            loss, grad, hess = function(z, soft_labels, return_hessian=True)
            g, h, over = np.empty_like(z), np.empty_like(z), z.copy()
            again = function(z, soft_labels, return_hessian=True, grad_out=g, hess_out=h)
            assert again[0] == loss
            np.testing.assert_array_equal(g, grad)
            np.testing.assert_array_equal(h, hess)
            function(over, soft_labels, grad_out=over)
            np.testing.assert_array_equal(over, function(z, soft_labels)[1])


@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "int64", "int8"])
@pytest.mark.parametrize("shape", [(6, 4), (5, 300), (3, 5000)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_missing_distributions(kind, shape, dtype):
    """Rows filled with ignore_index add nothing, whatever their logits, and are not counted."""
    z, t = RNG(0).normal(size=shape).astype(dtype), (3 * RNG(1).random(shape)).astype(kind)
    t[1::3] = -100
    z[1, 2] = np.nan
    for options in (
        {}, {"weight": RNG(2).random(shape[1])}, {"label_smoothing": 0.1}, {"z_loss": 0.2},
        {"normalize_targets": True}, {"sample_weight": RNG(3).random(shape[0])},
    ):  # fmt: skip
        for reduction in ("mean", "none"):
            call = {"activation": "softmax", "reduction": reduction, **options}
            _, grad, hess = check("focal", z, t, dtype, **call)
            assert not grad[1::3].any()
            assert not hess[1::3].any()
    marks = t > 1  # bool cannot hold ignore_index, but a row without a label is not counted
    marks[::2] = False
    check("focal", z, marks, dtype, activation="softmax", normalize_targets=True)
    t[...] = -100
    loss, grad = fusedce.cross_entropy(z, t)
    assert np.isnan(loss)
    assert not grad.any()
    image, places = np.moveaxis(z[None], -1, 1), np.moveaxis(t[None], -1, 1)
    places[0, :, 2] = 0
    check("focal", np.ascontiguousarray(image), places, dtype, activation="softmax", axis=1)


def test_distributions_ignored_in_part():
    z, t = RNG(0).normal(size=(6, 4)), RNG(1).random((6, 4))
    t[2, 1] = -100
    text = "the targets of the row at position 2 hold ignore_index=-100 beside other numbers"
    for options in (
        {}, {"normalize_targets": True}, {"reduction": "none"}, {"weight": np.ones(4)},
        {"grad_out": z},
    ):  # fmt: skip
        refuses(ValueError, text, fusedce.cross_entropy, z, t, **options)
        refuses(ValueError, text, fusedce.cross_entropy, z, t, **options)  # a repeated call
    text = text.replace("2 hold", "(0, 2) hold")
    refuses(ValueError, text, fusedce.cross_entropy, z.T[None], t.T[None], axis=1)


def test_where_ignore_index_cannot_act():
    """An ignore_index that the targets cannot hold is refused, but the default is accepted."""
    z = RNG(0).normal(size=(6, 4))
    cases = [
        (z > 0, "bool", -1),
        ((z > 0).astype("u1"), "uint8", -1),
        (np.zeros(6, "i1"), "int8", 999),
    ]
    for t, kind, ignored in cases:
        text = f"ignore_index={ignored} has no meaning with targets of dtype {kind}, which cannot"
        for activation in ("sigmoid", "softmax"):
            options = {"activation": activation, "ignore_index": ignored}
            refuses(ValueError, text, fusedce.cross_entropy, z, t, **options)
            fusedce.cross_entropy(z, t, activation=activation)
    text = "ignore_index=0 has no meaning with a distribution, most of whose targets may be 0"
    refuses(ValueError, text, fusedce.cross_entropy, z, np.eye(6, 4), ignore_index=0)


# ----------------------------------------------------------------------------- numbers and masks


@pytest.mark.parametrize("bad", [255.0, 1.5, -0.5, -1.0, np.nan, np.inf, 1 + 2**-20])
@pytest.mark.parametrize("shape", [(6, 4), (70, 333)])
def test_numbers_that_are_no_labels(bad, shape):
    """A float label outside [0, 1] is an error with value and position; logits do not change."""
    z = RNG(0).normal(size=shape).astype("f4")
    p = 1 / (1 + np.exp(-z))
    for soft in (False, True):
        y = (RNG(1).random(shape) if soft else RNG(1).integers(0, 2, shape)).astype("f4")
        y[3, 2] = bad
        text = f"target {y[3, 2]} at position (3, 2) is out of range: {LABELS}"
        for options in (
            {}, {"grad_out": z}, {"weight": np.ones(shape[1])}, {"label_smoothing": 0.1}
        ):  # fmt: skip
            for _ in range(2):  # the second call repeats the first
                refuses(ValueError, text, fusedce.focal, z, y, **options)
        refuses(ValueError, text, fusedce.focal, z, y, soft_labels="torchvision")
        refuses(ValueError, text, fusedce.cross_entropy, p, y, activation=None)
        refuses(
            ValueError, text, fusedce.focal, z[:, ::-1], y[:, ::-1].copy()[:, ::-1].astype("f8")
        )


def test_signed_numbers():
    """Float labels may be -1 only with neg_label=-1, and then only -1 and 1 are allowed."""
    z, y = RNG(0).normal(size=(6, 4)), np.sign(RNG(1).normal(size=(6, 4)))
    a = fusedce.binary_cross_entropy(z, y, neg_label=-1)
    assert a[0] == fusedce.binary_cross_entropy(z, y > 0)[0]
    y[0, 1] = -1
    refuses(ValueError, "target -1.0 at position", fusedce.binary_cross_entropy, z, y)
    y[0, 1] = 0.0
    text = "target 0.0 at position (0, 1) is out of range: a label is -1 or 1, or ignore_index=-100"
    refuses(ValueError, text, fusedce.binary_cross_entropy, z, y, neg_label=-1)


def test_masked_arrays():
    """Masked arrays of numpy.ma are refused, since their masks would not be used."""
    z, t = RNG(0).normal(size=(3, 4)), np.array([0, 1, 0])
    mask = [0, 0, 1]
    text = "is an array of numpy.ma, whose mask is not read: pass "
    masked = {
        "targets": np.ma.array(t, mask=mask), "logits": np.ma.array(z),
        "sample_weight": np.ma.array(np.ones(3), mask=mask), "weight": np.ma.array(np.ones(4)),
    }  # fmt: skip
    for name, value in masked.items():
        call = {"logits": z, "targets": t, name: value}
        with pytest.raises(TypeError, match=re.escape(f"{name} {text}")):
            fusedce.cross_entropy(call.pop("logits"), call.pop("targets"), **call)
    with pytest.raises(TypeError, match=r"targets\.filled\(ignore_index\)"):
        fusedce.cross_entropy(z, masked["targets"])
    filled = fusedce.cross_entropy(z, masked["targets"].filled(-100))
    assert filled[0] == fusedce.cross_entropy(z[:2], t[:2])[0]
    marks = np.ma.array([[True, False, False, True]], mask=[[0, 0, 1, 0]])
    for kind in (bool, np.uint8):  # these cannot hold ignore_index
        with pytest.raises(TypeError, match=r"targets\.astype\(numpy\.int64\)\.filled\(ignore"):
            fusedce.binary_cross_entropy(z[:1], marks.astype(kind))
    with pytest.raises(TypeError, match="targets is an array"):
        fusedce.binary_cross_entropy(z[:1], [marks[0]])
    for name in ("grad_out", "loss_out"):
        with pytest.raises(TypeError, match=rf"{name} is an array .* pass {name}\.data"):
            fusedce.cross_entropy(z, t, **{name: np.ma.array(np.empty_like(z))})
    with pytest.raises(TypeError, match=r"logits is an array of numpy\.ma"):
        fusedce.softmax(masked["logits"])
    with pytest.raises(TypeError, match=r"logits is an array of numpy\.ma"):
        fusedce.binary_cross_entropy(np.ma.array(1.0), 1)


def test_the_mean_of_the_z_loss():
    """The mean of the z-loss is over rows, without class weights, as in Liger and PaLM."""
    z, y, w = np.array([[2.0, 0, -1], [0, 1, 3]]), np.array([0, 1]), np.array([1.0, 3, 1])
    lse = np.log(np.exp(z).sum(1))
    loss = (w[y] * (lse - z[[0, 1], y])).sum() / w[y].sum()
    got = fusedce.cross_entropy(z, y, weight=w, z_loss=0.1)[0]
    np.testing.assert_allclose(got, loss + 0.1 * (lse**2).mean(), rtol=1e-12)
    np.testing.assert_allclose(got, 2.407654, rtol=1e-6)
    got = fusedce.cross_entropy(z, y, weight=w, z_loss=0.1, denominator=5.0)[0]
    np.testing.assert_allclose(got, (loss * w[y].sum() + 0.1 * (lse**2).sum()) / 5, rtol=1e-12)
    rng = RNG(0)
    for shape in ((70, 333), (400, 5)):
        z, y = rng.normal(size=shape), rng.integers(0, shape[1], shape[0])
        y[::7] = -100
        for more in ({}, {"label_smoothing": 0.1}, {"sample_weight": rng.random(shape[0])}):
            check(
                "focal", z, y, activation="softmax", weight=rng.random(shape[1]), z_loss=0.3, **more
            )


# ------------------------------------------------------------------------------ what is no array


def test_what_is_no_array():
    z = np.zeros((2, 3), np.float32)
    refuses(TypeError, "targets must be an array, got None", fusedce.cross_entropy, z, None)
    refuses(TypeError, "logits must be an array, got None", fusedce.cross_entropy, None, z)
    refuses(
        TypeError, "targets must be an array", fusedce.binary_cross_entropy, np.array(1.0), None
    )
    refuses(TypeError, "did you mean 'gamma'?", fusedce.focal, z, z > 0, gama=2)
    with np.errstate(all="raise"):
        text = "ignore_index=1000000 has no meaning with targets of dtype float16"
        halves = np.zeros((2, 3), np.float16)
        refuses(ValueError, text, fusedce.binary_cross_entropy, z, halves, ignore_index=10**6)
    assert np.isnan(fusedce.binary_cross_entropy([], [])[0])
    text = "logits must have a class axis, got a single number, of shape ()"
    refuses(ValueError, text, fusedce.cross_entropy, np.array(3.0), np.array(0))
    refuses(ValueError, text, fusedce.binary_cross_entropy, np.array(3.0), np.zeros(2))
    loss, grad = fusedce.cross_entropy(np.zeros((0, 3)), [])
    assert np.isnan(loss)
    assert grad.shape == (0, 3)
    with pytest.raises(TypeError, match=r"logits must be an array of numbers, got builtins\.list"):
        fusedce.cross_entropy([[1.0, 2.0], [1.0]], np.array([0, 1]))


def test_frames_with_missing_numbers():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, None], "b": [2.0, 3.0]}, dtype="Float32")
    whole = frame.fillna(0.0)
    assert fusedce.softmax(whole.to_numpy("f4")).shape == (2, 2)
    with pytest.raises(
        TypeError, match=r"logits must be an array of numbers, got pandas.*to_numpy"
    ):
        fusedce.cross_entropy(frame, np.array([0, 1]))


def test_tensors_of_the_cpu():
    torch = pytest.importorskip("torch")
    y = np.array([0, 1])
    with pytest.raises(TypeError, match=r"logits must be an array.*fusedce\.adapters\.torch"):
        fusedce.cross_entropy(torch.zeros(2, 3, dtype=torch.bfloat16), y)
    for leaf in (torch.zeros(2, 3, requires_grad=True), torch.nn.Parameter(torch.zeros(2, 3))):
        with pytest.raises(TypeError, match=r"requires grad is not accepted.* x\.detach\(\)"):
            fusedce.cross_entropy(leaf, y)
    assert fusedce.cross_entropy(torch.zeros(2, 3), y)[0] == np.float32(np.log(3))
