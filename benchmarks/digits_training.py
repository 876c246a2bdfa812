"""Training on scikit-learn's digits: the data, a network in plain NumPy, and two experiments."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score

import fusedce
from benchmarks.data import Array

Floats = NDArray[np.float32]
Loss = Callable[..., Any]  # loss(logits, targets, grad_out=) -> (mean loss, its gradient by logits)

DIGIT = 8  # the digit of the detector; the one that is confused most often
PREVALENCE = 0.01
EPOCHS_TEN, EPOCHS_ONE = 40, 60
HIDDEN = 64
BATCH = 32
DETECTORS: dict[str, Loss] = {
    "cross-entropy": fusedce.binary_cross_entropy,
    "focal, γ = 2": fusedce.focal,
}


class Split(NamedTuple):
    """Scans scaled to [0, 1] and their digits; no scan is in both halves."""

    x: Floats  # (N, 64)
    y: Array  # (N,)
    x_test: Floats
    y_test: Array


def split_digits(rng: np.random.Generator) -> Split:
    """Half of the scans for training, half held out, by a random permutation."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    order = rng.permutation(len(y))
    train, test = order[: len(y) // 2], order[len(y) // 2 :]
    return Split(x[train], y[train], x[test], y[test])


def thin(split: Split, rng: np.random.Generator) -> Split:
    """Labels become "is it DIGIT?"; positives are removed until they are PREVALENCE of training."""
    positive = np.flatnonzero(split.y == DIGIT)
    negative = np.flatnonzero(split.y != DIGIT)
    kept = round(PREVALENCE / (1 - PREVALENCE) * len(negative))
    rows = np.concatenate([negative, rng.choice(positive, kept, replace=False)])
    y, y_test = (split.y[rows] == DIGIT).astype(np.int64), (split.y_test == DIGIT).astype(np.int64)
    return Split(split.x[rows], y[:, None], split.x_test, y_test[:, None])


class Network:
    """logits = relu(x W1 + b1) W2 + b2, trained by Adam (Kingma & Ba 2015)."""

    def __init__(self, rng: np.random.Generator, outputs: int, bias: float = 0.0) -> None:
        w1 = rng.normal(0, np.sqrt(2 / 64), (64, HIDDEN))
        w2 = rng.normal(0, 0.01, (HIDDEN, outputs))
        start = [w1, np.zeros(HIDDEN), w2, np.full(outputs, bias)]
        self.weights = [w.astype(np.float32) for w in start]
        self.moments = [(np.zeros_like(w), np.zeros_like(w)) for w in self.weights]
        self.steps = 0

    def forward(self, x: Floats) -> tuple[Floats, Floats]:
        """Compute the hidden layer and the logits."""
        w1, b1, w2, b2 = self.weights
        hidden = np.maximum(x @ w1 + b1, 0)
        return hidden, hidden @ w2 + b2

    def backward(self, x: Floats, hidden: Floats, grad: Floats) -> list[Floats]:
        """Compute the gradient of every weight from the gradient of the logits."""
        back = (grad @ self.weights[2].T) * (hidden > 0)
        return [x.T @ back, back.sum(axis=0), hidden.T @ grad, grad.sum(axis=0)]

    def update(self, grads: list[Floats], rate: float = 0.002) -> None:
        """One step of Adam with its usual decay rates 0.9 and 0.999."""
        self.steps += 1
        rate *= np.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
        for w, g, (m, v) in zip(self.weights, grads, self.moments, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            w -= rate * m / (np.sqrt(v) + 1e-8)


def train(
    net: Network, x: Floats, y: Array, loss: Loss, epochs: int, rng: np.random.Generator
) -> Iterator[float]:
    """Train, and after each epoch yield the mean training loss of that epoch."""
    for _ in range(epochs):
        total = 0.0
        order = rng.permutation(len(y))
        for rows in np.split(order, range(BATCH, len(y), BATCH)):
            hidden, logits = net.forward(x[rows])
            # The logits are not needed again, so the gradient is written over them.
            value, grad = loss(logits, y[rows], grad_out=logits)
            net.update(net.backward(x[rows], hidden, grad))
            total += float(value) * len(rows)
        yield total / len(y)


def ten_classes(seed: int) -> Array:
    """Train on all ten digits; accuracy after each epoch: of the training and the held-out half."""
    rng = np.random.default_rng(seed)
    data = split_digits(rng)
    net = Network(rng, outputs=10)
    curve = []
    for _ in train(net, data.x, data.y, fusedce.cross_entropy, EPOCHS_TEN, rng):
        found = [net.forward(x)[1].argmax(axis=1) for x in (data.x, data.x_test)]
        curve.append([np.mean(found[0] == data.y), np.mean(found[1] == data.y_test)])
    return np.array(curve)


def detector(loss: Loss, seed: int) -> Array:
    """Average precision, held out, after each epoch; a seed means the same data for every loss."""
    rng = np.random.default_rng(seed)
    data = thin(split_digits(rng), rng)
    net = Network(rng, outputs=1, bias=float(fusedce.prior_bias(PREVALENCE)))
    curve = []
    for _ in train(net, data.x, data.y, loss, EPOCHS_ONE, rng):
        scores = net.forward(data.x_test)[1]
        curve.append(average_precision_score(data.y_test.ravel(), scores.ravel()))
    return np.array(curve)
