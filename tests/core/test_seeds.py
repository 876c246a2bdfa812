"""The two articles this package began with: their formulas, worked numbers and code.

Their PyCaffe layers are copied here as functions, including the loops, with `bottom[0].data` as
`scores` and `bottom[1].data` as `labels`. The backward pass of the softmax layer is wrong for
labels other than 0 and 1: see `test_softmax_layer_with_real_labels`.
"""

from __future__ import annotations

import numpy as np
import pytest

import fusedce

# ------------------------------------------------------------------ article on the focal loss


def article_focal(p, y, gamma, a=None):
    """-a(y) (1-p)^gamma log p if y = +1, -a(y) p^gamma log(1-p) if y = -1."""
    a = (lambda y: 1.0) if a is None else a
    if y == 1:
        return -a(y) * (1 - p) ** gamma * np.log(p)
    return -a(y) * p**gamma * np.log(1 - p)


@pytest.mark.parametrize(("p", "ce", "fl"), [(0.9, 0.0457, 0.00045), (0.99, 0.00436, 0.000000436)])
def test_worked_numbers_are_common_logarithms(p, ce, fl):
    """The article's numbers are truncated decimal logarithms; our losses use natural logarithms."""
    ours_ce = fusedce.cross_entropy(np.array([p]), np.array([1.0]), activation=None)[0]
    ours_fl = fusedce.focal(np.array([p]), np.array([1.0]), activation=None, gamma=2.0)[0]
    for ours, printed in ((ours_ce, ce), (ours_fl, fl)):
        last_digit = 10.0 ** (np.floor(np.log10(printed)) - (1 if printed == 0.00045 else 2))
        assert printed <= ours / np.log(10) < printed + last_digit
        assert not printed <= ours < printed + last_digit  # as natural logarithms they are not
    assert ours_fl == pytest.approx((1 - p) ** 2 * ours_ce, rel=1e-13)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("alpha", [None, 0.25, 0.0, 1.0])
@pytest.mark.parametrize("label_type", [np.int8, np.int64, np.float32])
@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_labels_of_plus_and_minus_one(activation, label_type, alpha, gamma):
    """With neg_label=-1 labels are -1 and +1; alpha is the article's a(+1), 1 - alpha its a(-1)."""
    p = np.array([0.9, 0.99, 0.5, 0.1, 0.01, 0.75])
    a = None if alpha is None else {1: alpha, -1: 1 - alpha}.__getitem__
    for sign in (1, -1):
        y = np.array([1, 1, -1, 1, -1, -1]) * sign
        x = p if activation is None else np.log(p / (1 - p))
        loss, _ = fusedce.focal(
            x, y.astype(label_type), activation=activation, neg_label=-1, gamma=gamma,
            alpha=alpha, reduction="none")  # fmt: skip
        want = [article_focal(*pair, gamma, a) for pair in zip(p, y, strict=True)]
        np.testing.assert_allclose(loss, want, rtol=1e-12, atol=1e-300)


def test_easy_examples_count_for_little():
    """With gamma = 2, focal loss is cross-entropy times 0.25 at p = 0.5, and 1e-4 at p = 0.99."""
    p = np.array([0.5, 0.9, 0.99])
    ce, fl = (f(p, np.ones(3), activation=None, reduction="none")[0]
              for f in (fusedce.cross_entropy, fusedce.focal))  # fmt: skip
    np.testing.assert_allclose(fl / ce, [0.25, 1e-2, 1e-4], rtol=1e-12)


def test_prior_of_the_last_layer():
    """RetinaNet's bias of the last layer: its sigmoid is the prior probability pi."""
    assert fusedce.prior_bias(0.01) == pytest.approx(-np.log(99), rel=1e-15)


# ------------------------------------------------------------------ article on the names of losses


def softmax_layer_forward(scores, labels):
    """The multi-label softmax loss layer: (loss, probabilities)."""
    scores = scores - np.max(scores, axis=1, keepdims=True)  # the layer subtracts in place
    exp_scores = np.exp(scores)
    probs = exp_scores / np.sum(exp_scores, axis=1, keepdims=True)
    logprobs = np.zeros([len(scores), 1])
    for r in range(len(scores)):
        scale_factor = 1 / float(np.count_nonzero(labels[r, :]))
        for c in range(len(labels[r, :])):
            if labels[r, c] != 0:
                logprobs[r] += -np.log(probs[r, c]) * labels[r, c] * scale_factor
    return np.sum(logprobs) / len(scores), probs


def softmax_layer_backward(probs, labels):
    delta = probs.copy()
    for r in range(len(probs)):
        scale_factor = 1 / float(np.count_nonzero(labels[r, :]))
        for c in range(len(labels[r, :])):
            if labels[r, c] != 0:
                delta[r, c] = scale_factor * (delta[r, c] - 1) + (1 - scale_factor) * delta[r, c]
    return delta / len(probs)


def slopes(f, z, h=2.0**-10):
    """Gradient by fourth-order central differences."""
    grad = np.empty_like(z)
    for at in np.ndindex(z.shape):
        e = np.zeros_like(z)
        e[at] = h
        grad[at] = (f(z - 2 * e) - 8 * f(z - e) + 8 * f(z + e) - f(z + 2 * e)) / (12 * h)
    return grad


@pytest.fixture
def scores():
    return np.random.default_rng(11).normal(size=(5, 7)) * 2


@pytest.fixture
def labels(scores):
    t = (np.random.default_rng(12).random(scores.shape) < 0.4).astype(float)
    t[:, 3] = 1  # the layer divides by zero on a row without a label
    return t


@pytest.mark.parametrize("label_type", [np.float64, np.int64, np.bool_])
def test_softmax_layer_with_binary_labels(scores, labels, label_type):
    """M labels per sample, each of weight 1/M: the layer and normalize_targets=True agree."""
    want, probs = softmax_layer_forward(scores, labels)
    loss, grad = fusedce.cross_entropy(scores, labels.astype(label_type), normalize_targets=True)
    assert loss == pytest.approx(want, rel=1e-13)
    np.testing.assert_allclose(grad, softmax_layer_backward(probs, labels), rtol=1e-12, atol=1e-16)
    np.testing.assert_allclose(fusedce.softmax(scores), probs, rtol=1e-13)


def test_softmax_layer_with_real_labels(scores, labels):
    """Our gradient is the derivative of the layer's loss; the layer's own backward pass is not.

    The forward pass multiplies by the label, and the backward pass does not. (The article says that
    labels may be real numbers, to balance classes.)
    """
    labels = labels * np.linspace(0.25, 3.0, labels.shape[1])
    want, probs = softmax_layer_forward(scores, labels)
    loss, grad = fusedce.cross_entropy(scores, labels, normalize_targets=True)
    assert loss == pytest.approx(want, rel=1e-13)
    true = slopes(lambda z: softmax_layer_forward(z, labels)[0], scores)
    np.testing.assert_allclose(grad, true, rtol=1e-8, atol=1e-11)
    theirs = softmax_layer_backward(probs, labels)
    assert abs(theirs - true).max() > 0.3 * abs(true).max()


def test_softmax_layer_on_a_row_without_a_label(scores, labels):
    """The layer divides by zero for a row without a label; here such a row is ignored."""
    bare = labels.copy()
    bare[2] = 0
    with pytest.raises(ZeroDivisionError):
        softmax_layer_forward(scores, bare)
    loss, grad = fusedce.cross_entropy(scores, bare, normalize_targets=True)
    rest = np.arange(5) != 2
    assert loss == pytest.approx(softmax_layer_forward(scores[rest], labels[rest])[0], rel=1e-13)
    assert not grad[2].any()


def test_gradient_of_the_article_for_several_labels(scores):
    """The gradient is (1/M) ((p - 1) + (M - 1) p) for a positive class, p for a negative one."""
    labels = np.zeros_like(scores)
    labels[:, [0, 2, 5]] = 1
    p = fusedce.softmax(scores)
    grad = fusedce.cross_entropy(scores, labels, normalize_targets=True, reduction="none")[1]
    want = np.where(labels == 1, ((p - 1) + (3 - 1) * p) / 3, p)
    np.testing.assert_allclose(grad, want, rtol=1e-12, atol=1e-15)


def focal_layer_forward(scores, labels, class_balances, focusing_parameter):
    scores = 1 / (1 + np.exp(-scores))
    logprobs = np.zeros([len(scores), 1])
    for r in range(len(scores)):
        for c in range(len(labels[r, :])):
            if labels[r, c] == 0:
                logprobs[r] += (class_balances[str(c + 1)] * -np.log(1 - scores[r, c])
                                * scores[r, c] ** focusing_parameter)  # fmt: skip
            else:
                logprobs[r] += (class_balances[str(c + 1)] * -np.log(scores[r, c])
                                * (1 - scores[r, c]) ** focusing_parameter)  # fmt: skip
    return np.sum(logprobs) / len(scores)


def focal_layer_backward(scores, labels, class_balances, focusing_parameter):
    delta = np.zeros_like(scores)  # the layer's delta is float32
    scores = 1 / (1 + np.exp(-scores))
    g = focusing_parameter
    for r in range(len(scores)):
        for c in range(len(labels[r, :])):
            p = scores[r, c]
            if labels[r, c] == 0:
                delta[r, c] = (class_balances[str(c + 1)] * -(p**g)
                               * ((g - p * g) * np.log(1 - p) - p))  # fmt: skip
            else:
                delta[r, c] = class_balances[str(c + 1)] * (
                    ((1 - p) ** g) * (g * p * np.log(p) + p - 1))  # fmt: skip
    return delta / len(scores)


@pytest.mark.parametrize("gamma", [0, 1, 2, 3.5])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_focal_layer(scores, labels, gamma, dtype):
    """class_balances is our weight=, and the division by bottom.num is denominator=N."""
    z = scores.astype(dtype)
    balances = np.linspace(0.25, 4.0, scores.shape[1])
    named = {str(c + 1): b for c, b in enumerate(balances)}
    exact = z.astype(np.float64)
    loss, grad = fusedce.focal(z, labels, gamma=gamma, weight=balances, denominator=len(z))
    bar = 1e-12 if dtype == np.float64 else 1e-5
    assert loss == pytest.approx(focal_layer_forward(exact, labels, named, gamma), rel=bar)
    want = focal_layer_backward(exact, labels, named, gamma)
    np.testing.assert_allclose(grad, want, rtol=bar, atol=bar * 1e-4)
    assert grad.dtype == dtype


def test_sigmoid_gradient_of_the_article(scores, labels):
    """The gradient is t (p - 1) + (1 - t) p; losses are summed over classes, averaged over rows."""
    p = 1 / (1 + np.exp(-scores))
    loss, grad = fusedce.binary_cross_entropy(scores, labels, denominator=len(scores))
    np.testing.assert_allclose(
        grad, (labels * (p - 1) + (1 - labels) * p) / len(scores), rtol=1e-12
    )
    want = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).sum(axis=1).mean()
    assert loss == pytest.approx(want, rel=1e-13)
    np.testing.assert_allclose(fusedce.sigmoid(scores), p, rtol=1e-13)


def test_caffe_multinomial_logistic_loss(scores):
    """From probabilities: the loss is mean(-log p_y), the gradient at the label -1 / (N p_y)."""
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    y = np.array([0, 6, 3, 3, 2])
    loss, grad = fusedce.cross_entropy(p, y, activation=None)
    at = np.arange(5), y
    want = np.zeros_like(p)
    want[at] = -1 / (5 * p[at])
    assert loss == pytest.approx(-np.log(p[at]).mean(), rel=1e-13)
    np.testing.assert_allclose(grad, want, rtol=1e-13)
