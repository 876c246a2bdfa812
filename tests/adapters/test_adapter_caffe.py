"""The two PyCaffe layers, on stub blobs: the article's losses with their true gradients."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from fusedce.adapters.caffe import FocalLossLayer, MultiLabelSoftmaxLossLayer
from tests.core import test_seeds as article

ROOT = Path(__file__).resolve().parents[2]
LAYERS = [MultiLabelSoftmaxLossLayer, FocalLossLayer]
each_layer = pytest.mark.parametrize("kind", LAYERS)


class Blob:
    """Stub with the attributes of a blob that a Python layer uses; unwritten memory is NaN."""

    def __init__(self, data, diff=np.nan):
        self.reshape(*np.shape(data), dtype=np.asarray(data).dtype)
        self._data[...] = data
        self._diff[...] = diff

    def reshape(self, *shape, dtype=None):
        if dtype is None and shape == self._data.shape:
            return  # Caffe keeps the memory, which includes the loss weight in a top's diff
        dtype = dtype or self._data.dtype
        self._data, self._diff = np.full(shape, np.nan, dtype), np.full(shape, np.nan, dtype)

    @property
    def data(self):
        return self._data

    @property
    def diff(self):
        return self._diff

    @property
    def num(self):
        return self._data.shape[0]


def train(kind, scores, labels, upstream=1.0, param_str="", **old):
    """Loss and gradient of one training step, with the calls in Caffe's order."""
    bottom, top = [Blob(scores), Blob(labels)], [Blob(np.zeros(1, scores.dtype), upstream)]
    before = [blob.data.tobytes() for blob in bottom]
    layer = kind()
    layer.param_str = param_str
    layer.setup(bottom, top)
    layer.reshape(bottom, top)
    layer.forward(bottom, top)
    assert np.isnan(bottom[0].diff).all()  # only backward may write the gradient
    layer.backward(top, [True, False], bottom)
    assert [blob.data.tobytes() for blob in bottom] == before
    assert np.isnan(bottom[1].diff).all()
    assert top[0].data.shape == (1,)
    return float(top[0].data[0]), bottom[0].diff


def softmax_gradient(scores, labels):
    """(p_j sum_k y_k - y_j) / (M N), 0 for a sample without a label.

    Computed as p_j times the sum of the other labels, minus y_j times the sum of the other p: this
    loses no digits where p_j is nearly 1.
    """
    grad, others = np.zeros(scores.shape), 1 - np.eye(scores.shape[1])
    for n, (z, y) in enumerate(zip(scores, labels, strict=True)):
        if y.any():
            p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
            grad[n] = (p * (others @ y) - y * (others @ p)) / np.count_nonzero(y)
    return grad / len(scores)


def balances(classes):
    return {str(j + 1): 0.25 + 0.5 * j for j in range(classes)}


@pytest.fixture(params=[(5, 7), (1, 2), (33, 31), (2, 33)], ids=str)
def scores(request):
    z = np.random.default_rng(3).normal(size=request.param) * 3
    z[0, 0] += 13  # p = 0.999999 and more
    return z


@pytest.fixture
def labels(scores):
    y = (np.random.default_rng(4).random(scores.shape) < 0.3).astype(np.float64)
    y[:, 0] = 1
    return y


bars = pytest.mark.parametrize(("dtype", "bar"), [(np.float64, 1e-12), (np.float32, 1e-5)])


@bars
def test_softmax_with_binary_labels(scores, labels, dtype, bar):
    """With labels 0 and 1, loss and gradient are those of the article's code."""
    z = scores.astype(dtype)
    loss, grad = train(MultiLabelSoftmaxLossLayer, z, labels.astype(dtype))
    want, probs = article.softmax_layer_forward(z.astype(np.float64), labels)
    assert loss == pytest.approx(want, rel=bar)
    want = article.softmax_layer_backward(probs, labels)
    np.testing.assert_allclose(grad, want, rtol=bar, atol=1e-15 + bar * abs(want).max() / 10)
    assert grad.dtype == dtype


@bars
@pytest.mark.parametrize("upstream", [1.0, 0.3, -2.0, 65536.0, 0.0])
def test_softmax_with_real_labels(scores, labels, dtype, bar, upstream):
    """With real labels, the loss is that of the article's code, and the gradient is correct.

    The backward pass of the article's code is wrong for such labels.
    """
    z, y = scores.astype(dtype), labels * np.linspace(0.25, 3, labels.shape[1])
    y = y.astype(dtype)
    loss, grad = train(MultiLabelSoftmaxLossLayer, z, y, upstream)
    exact = z.astype(np.float64), y.astype(np.float64)
    assert loss == pytest.approx(article.softmax_layer_forward(*exact)[0], rel=bar)
    want = softmax_gradient(*exact) * upstream
    np.testing.assert_allclose(grad, want, rtol=bar, atol=bar * abs(want).max() / 10)


def test_the_gradient_is_that_of_the_loss():
    """The gradients agree with finite differences of the article's losses.

    The article's own backward pass of the softmax loss differs by more than 30%.
    """
    rng = np.random.default_rng(5)
    z, y = rng.normal(size=(3, 5)), rng.random((3, 5)) * (rng.random((3, 5)) < 0.6)
    y[:, 1] = 2.5
    grad = train(MultiLabelSoftmaxLossLayer, z, y)[1]
    true = article.slopes(lambda x: article.softmax_layer_forward(x, y)[0], z)
    np.testing.assert_allclose(grad, true, rtol=1e-8, atol=1e-11)
    theirs = article.softmax_layer_backward(article.softmax_layer_forward(z, y)[1], y)
    assert abs(theirs - true).max() > 0.3 * abs(true).max()
    for gamma in (0, 2, 3.5):
        grad = train(FocalLossLayer, z, y, param_str=f'{{"focusing_parameter": {gamma}}}')[1]
        true = article.slopes(
            lambda x, g=gamma: article.focal_layer_forward(x, y, dict.fromkeys("12345", 1), g), z
        )
        np.testing.assert_allclose(grad, true, rtol=1e-8, atol=1e-11)


def test_a_sample_without_a_label():
    """A sample without a label has loss and gradient 0 and counts in the batch size N.

    The article's code divides by zero for it.
    """
    rng = np.random.default_rng(6)
    z, y = rng.normal(size=(4, 3)), np.eye(4, 3)
    with pytest.raises(ZeroDivisionError):
        article.softmax_layer_forward(z, y)
    loss, grad = train(MultiLabelSoftmaxLossLayer, z, y)
    rest = article.softmax_layer_forward(z[:3], y[:3])[0]
    assert loss == pytest.approx(rest * 3 / 4, rel=1e-13)
    np.testing.assert_allclose(grad, softmax_gradient(z, y), rtol=1e-12, atol=1e-16)
    assert not grad[3].any()
    loss, grad = train(MultiLabelSoftmaxLossLayer, z, 0 * y)
    assert loss == 0
    assert not grad.any()


@bars
@pytest.mark.parametrize("gamma", [0, 1, 2, 3.5])
@pytest.mark.parametrize("upstream", [1.0, 0.3, -2.0])
def test_focal(scores, labels, dtype, bar, gamma, upstream):
    """Focal loss and gradient are those of the article's code; any label but 0 is positive."""
    z, named = scores.astype(dtype), balances(scores.shape[1])
    y = (labels * np.linspace(-0.5, 3, labels.shape[1])).astype(dtype)
    text = str({"focusing_parameter": gamma, "class_balances": named})
    loss, grad = train(FocalLossLayer, z, y, upstream, text)
    exact = z.astype(np.float64)
    assert loss == pytest.approx(article.focal_layer_forward(exact, y, named, gamma), rel=bar)
    want = upstream * article.focal_layer_backward(exact, y, named, gamma)
    np.testing.assert_allclose(grad, want, rtol=bar, atol=1e-9 * abs(want).max())


@pytest.mark.parametrize(
    ("text", "gamma", "weighted"),
    [
        ("", 2, False),
        ("  {}  ", 2, False),
        ('{"focusing_parameter": 3.5}', 3.5, False),
        ("{'focusing_parameter': 0,}", 0, False),
        ('{"class_balances": {"1": 0.25, "2": 0.75, "3": 1.25}}', 2, True),
        ("\n  {'class_balances': {'3': 1.25, '1': .25, '2': .75, '4': 9}}", 2, True),
        ('{"class_balances": null}', 2, False),
    ],
)
def test_param_str(text, gamma, weighted):
    """param_str may be JSON or a Python dict; defaults are gamma = 2 and a balance of 1."""
    rng = np.random.default_rng(7)
    z, y = rng.normal(size=(4, 3)), rng.integers(0, 2, (4, 3)).astype(float)
    named = balances(3) if weighted else dict.fromkeys("123", 1.0)
    loss, grad = train(FocalLossLayer, z, y, param_str=text)
    assert loss == pytest.approx(article.focal_layer_forward(z, y, named, gamma), rel=1e-12)
    np.testing.assert_allclose(
        grad, article.focal_layer_backward(z, y, named, gamma), rtol=1e-11, atol=1e-16
    )


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("[2]", ValueError, r"param_str must be a dict .*, got '\[2\]'"),
        ("{'focusing_parameter'", ValueError, "param_str must be a dict"),
        ("{[]: 2}", ValueError, "param_str must be a dict"),
        ("__import__('os').abort()", ValueError, "param_str must be a dict"),
        ("{'gamma': 2}", ValueError, "may have focusing_parameter and class_balances, got 'gamma'"),
        ("{'focusing_parameter': -1}", ValueError, "focusing_parameter must be a finite number >="),
        ('{"focusing_parameter": NaN}', ValueError, "focusing_parameter must be a finite number"),
        ("{'focusing_parameter': '2'}", TypeError, "focusing_parameter must be a finite number"),
        ("{'class_balances': [1, 1]}", TypeError, r"class_balances must be a dict .*, got \[1, 1"),
        ("{'class_balances': {'1': 'x'}}", TypeError, r"class_balances\['1'\] must be a finite"),
        ("{'class_balances': {'0': 1, '1': 1}}", ValueError, "has no '2', of classes '1' to '3'"),
        ("{'class_balances': {1: 1, 2: 1, 3: 1}}", ValueError, "class_balances has no '1'"),
    ],
)
def test_param_str_that_is_wrong(text, error, message):
    with pytest.raises(error, match=message):
        train(FocalLossLayer, np.zeros((2, 3)), np.zeros((2, 3)), param_str=text)


@each_layer
def test_blobs_that_are_wrong(kind):
    good, other, top = Blob(np.zeros((2, 3))), Blob(np.zeros((2, 4))), Blob(np.zeros(1))
    layer = kind()
    for bottom, tops in (([good], [top]), ([good] * 3, [top]), ([good] * 2, [top] * 2)):
        with pytest.raises(ValueError, match=f"{kind.__name__} takes two bottoms.* one top, got"):
            layer.setup(bottom, tops)
    layer.setup([good, good], [top])
    for second in (other, Blob(np.zeros(2))):
        with pytest.raises(ValueError, match=r"one shape, .* got \(2, 3\) and \(2"):
            layer.reshape([good, second], [top])
    with pytest.raises(ValueError, match="must have one shape"):
        layer.reshape([Blob(np.zeros(2))] * 2, [top])
    layer.reshape([good, good], [top])
    with pytest.raises(ValueError, match="has no gradient by the labels"):
        layer.backward([top], [True, True], [good, good])
    assert np.isnan(good.diff).all()


@each_layer
def test_no_gradient_that_nobody_asked_for(kind):
    bottom, top = [Blob(np.zeros((2, 3))), Blob(np.ones((2, 3)))], [Blob(np.zeros(1), 1.0)]
    layer = kind()
    layer.setup(bottom, top)
    layer.reshape(bottom, top)
    layer.backward(top, [False, False], bottom)
    assert np.isnan(bottom[0].diff).all()


@each_layer
def test_images(kind):
    """Blobs (N, C, H, W): the classes are axis 1, and the sum over all else is divided by N."""
    rng = np.random.default_rng(8)
    z, y = rng.normal(size=(3, 4, 2, 5)), (rng.random((3, 4, 2, 5)) < 0.5) * 1.0
    y[:, 1] = 1
    loss, grad = train(kind, z, y)
    flat = np.moveaxis(z, 1, -1).reshape(-1, 4), np.moveaxis(y, 1, -1).reshape(-1, 4)
    want, want_grad = train(kind, *flat)
    assert loss == pytest.approx(10 * want, rel=1e-13)
    rows = np.moveaxis(grad, 1, -1).reshape(-1, 4)
    np.testing.assert_allclose(rows, 10 * want_grad, rtol=1e-12, atol=1e-16)


@each_layer
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_the_loss_weight_is_in_before_the_rounding(kind, dtype):
    """The gradient is multiplied by the loss weight before it is rounded to half precision.

    It is bit for bit the float32 gradient, rounded once.
    """
    rng = np.random.default_rng(9)
    z = (rng.normal(size=(64, 40)) * 4).astype(dtype)
    y = (rng.random(z.shape) < 0.3).astype(np.float32)
    y[:, 3] = 1
    for upstream in (0.296875, 1024.0, -3.0):  # exact in bfloat16
        grad = train(kind, z, y, upstream)[1]
        want = train(kind, z.astype(np.float32), y, upstream)[1].astype(dtype)
        assert grad.tobytes() == want.tobytes()


@each_layer
def test_infinite_scores(kind):
    """A score of -inf has gradient 0 and the others stay finite; NaN affects only its sample."""
    z = np.array([[1.0, -np.inf, 0.5], [np.nan, 0, 0], [2, -1, 0]])
    y = np.array([[1.0, 0, 0], [1, 0, 0], [1, 0, 1]])
    grad = train(kind, z, y)[1]
    assert grad[0, 1] == 0
    assert np.isfinite(grad[[0, 2]]).all()
    assert np.isnan(grad[1]).any()
    np.testing.assert_array_equal(grad[2], train(kind, z[[2, 2, 2]], y[[2, 2, 2]])[1][0])


@each_layer
def test_no_sample(kind):
    """An empty batch has loss 0, as with Caffe's own layers."""
    loss, grad = train(kind, np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32))
    assert loss == 0
    assert grad.shape == (0, 3)


@each_layer
def test_a_batch_of_another_size(kind):
    """A layer can be reshaped to another batch size before each step, as Caffe does.

    The loss weight in the top's diff is kept.
    """
    rng = np.random.default_rng(10)
    layer, top = kind(), [Blob(np.zeros(1), 1.0)]
    for step, rows in enumerate((5, 2, 9)):
        z, y = rng.normal(size=(rows, 4)), np.ones((rows, 4))
        bottom = [Blob(z), Blob(y)]
        if not step:
            layer.setup(bottom, top)
        layer.reshape(bottom, top)
        layer.forward(bottom, top)
        layer.backward(top, [True, False], bottom)
        assert (top[0].data[0], bottom[0].diff.tobytes()) == (
            train(kind, z, y)[0],
            train(kind, z, y)[1].tobytes(),
        )


WITH_CAFFE = """
import sys, types
import numpy as np
sys.modules["caffe"] = caffe = types.ModuleType("caffe")
class Layer:
    def __init__(self, parameter):
        self.param_str = parameter
caffe.Layer = Layer
from fusedce.adapters import caffe as adapter
for kind in (adapter.FocalLossLayer, adapter.MultiLabelSoftmaxLossLayer):
    assert issubclass(kind, caffe.Layer)
    layer = kind("{'focusing_parameter': 5}")
    layer.setup([0, 0], [0])
    print(getattr(layer, "focusing_parameter", None))
"""


def test_with_caffe():
    """If Caffe can be imported, the layers derive from caffe.Layer and read its ``param_str``."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", WITH_CAFFE], cwd=ROOT, timeout=60,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["5.0", "None"]


def test_without_caffe():
    for kind in LAYERS:
        assert kind.__mro__[-1] is object
        assert kind().param_str == ""
