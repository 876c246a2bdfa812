"""Plain NumPy, written for speed: stable, in one thread, in blocks whose temporaries stay in L2.

Each function fills ``grad`` and returns the mean loss.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.cases import Loss
from benchmarks.data import Array, Problem

BLOCK = 1 << 16  # logits computed at a time: 256 KB of float32


def blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of the rows, each of about BLOCK logits."""
    step = max(1, BLOCK // int(np.prod(shape[1:])))
    return (slice(i, i + step) for i in range(0, shape[0], step))


def patches(problem: Problem, axis: int) -> Iterator[tuple[Array, Array, Array]]:
    """(logits, targets, grad) of about BLOCK logits, class axis last or, for ``axis`` 0, first."""
    logits, targets, grad = problem.logits, problem.targets, problem.grad
    if axis:
        for part in blocks(logits.shape):
            yield logits[part], targets[part][:, None], grad[part]
        return
    classes = logits.shape[problem.axis]
    outer = int(np.prod(logits.shape[: problem.axis]))
    z, g = (a.reshape(outer, classes, -1) for a in (logits, grad))
    for k, y in enumerate(targets.reshape(outer, 1, -1)):
        for part in blocks((z.shape[2], classes)):
            yield z[k, :, part], y[:, part], g[k, :, part]


def cross_entropy(problem: Problem) -> float:
    """Softmax cross-entropy with class indices, computed within the gradient's memory."""
    loss, targets, weight, total = problem.case.loss, problem.targets, problem.weight, 0.0
    axis = -1 if problem.axis == -1 else 0
    real = problem.logits.dtype.type
    even = real(loss.smoothing / problem.logits.shape[problem.axis])
    count = float(weight[targets].sum(dtype=np.float64)) if loss.weighted else targets.size
    for z, y, g in patches(problem, axis):
        np.subtract(z, z.max(axis=axis, keepdims=True), out=g)
        w = (weight[y] if loss.weighted else 1) * real(1 / count)
        hit = np.take_along_axis(g, y, axis)
        if loss.smoothing:
            hit = (1 - loss.smoothing) * hit + even * g.sum(axis=axis, keepdims=True)
        np.exp(g, out=g)
        sums = g.sum(axis=axis, keepdims=True)
        total += float(np.sum(w * (np.log(sums) - hit), dtype=np.float64))
        g *= w / sums
        if loss.smoothing:
            g -= w * even
        taken = np.take_along_axis(g, y, axis) - w * real(1 - loss.smoothing)
        np.put_along_axis(g, y, taken, axis)
    return total


def loss_alone(problem: Problem) -> float:
    """Softmax cross-entropy with class indices, no gradient."""
    total = 0.0
    for z, y, _ in patches(problem, -1):
        top = z.max(axis=1, keepdims=True)
        logs = np.log(np.exp(z - top).sum(axis=1, keepdims=True))
        total += float(np.sum(logs + top - np.take_along_axis(z, y, 1), dtype=np.float64))
    return total / len(problem.targets)


def distribution(problem: Problem) -> float:
    """Softmax cross-entropy with a distribution for each row."""
    logits, targets, grad, total = problem.logits, problem.targets, problem.grad, 0.0
    scale = logits.dtype.type(1 / len(logits))
    for part in blocks(logits.shape):
        z, t, g = logits[part], targets[part], grad[part]
        shifted = z - z.max(axis=-1, keepdims=True)
        np.exp(shifted, out=g)
        sums, mass = g.sum(axis=-1, keepdims=True), t.sum(axis=-1, keepdims=True)
        total += float(np.sum(mass * np.log(sums), dtype=np.float64))
        total -= float(np.einsum("ij,ij->i", t, shifted).sum(dtype=np.float64))
        g *= mass / sums
        g -= t
        g *= scale
    return total / len(logits)


def softmax_focal(problem: Problem) -> float:
    """(1 - p)^gamma -log p of the target's p; the gradient is a multiple of p_j - [j = y]."""
    logits, targets, grad, total = problem.logits, problem.targets, problem.grad, 0.0
    gamma, scale = problem.case.loss.gamma, logits.dtype.type(1 / targets.size)
    for part in blocks(logits.shape):
        z, y, g = logits[part], targets[part][:, None], grad[part]
        np.subtract(z, z.max(axis=1, keepdims=True), out=g)
        logp = np.take_along_axis(g, y, 1)
        np.exp(g, out=g)
        sums = g.sum(axis=1, keepdims=True)
        logp -= np.log(sums)
        p, q = np.exp(logp), -np.expm1(logp)
        power = q ** (gamma - 1)
        slope = power * (q - gamma * p * logp)
        total -= float(np.sum(power * q * logp, dtype=np.float64))
        g *= slope * scale / sums
        np.put_along_axis(g, y, np.take_along_axis(g, y, 1) - slope * scale, 1)
    return total / targets.size


def sigmoid(problem: Problem) -> float:
    """Cross-entropy or focal loss of every element; class indices become rows of 0 and 1.

    With q = 1 - p: loss = -t q^g log p - (1 - t) p^g log q, by z:
    t q^g (g p log p - q) - (1 - t) p^g (g q log q - p).
    """
    logits, targets, grad = problem.logits, problem.targets, problem.grad
    loss, total, scale = problem.case.loss, 0.0, logits.dtype.type(1 / logits.size)
    index = problem.case.arrays.targets == "index"
    g = loss.gamma
    yes, no = (1.0, 1.0) if loss.alpha is None else (loss.alpha, 1 - loss.alpha)
    for part in blocks(logits.shape):
        z, t = logits[part], targets[part]
        t = t[:, None] == np.arange(z.shape[1]) if index else t
        t = t.astype(z.dtype, copy=False)
        e = np.exp(-np.abs(z))
        d, ed, log1pe = 1 / (1 + e), e / (1 + e), np.log1p(e)
        p, q = np.where(z >= 0, d, ed), np.where(z >= 0, ed, d)
        log_p, log_q = np.minimum(z, 0) - log1pe, np.minimum(-z, 0) - log1pe
        pos, neg = yes * t * power(q, g), no * (1 - t) * power(p, g)
        total -= float(np.sum(pos * log_p + neg * log_q, dtype=np.float64))
        if g:
            q, p = q - g * p * log_p, p - g * q * log_q
        grad[part] = (neg * p - pos * q) * scale
    return total / logits.size


def power(x: Array, exponent: float) -> Any:
    """x^exponent, by multiplication where that is enough."""
    if exponent in (0.0, 2.0):
        return x * x if exponent else 1
    return x**exponent


def mean_loss(problem: Problem) -> float:
    """Call the function above that computes the problem's loss."""
    loss: Loss = problem.case.loss
    if not loss.grad:
        return loss_alone(problem)
    if loss.activation == "sigmoid":
        return sigmoid(problem)
    if problem.case.arrays.targets == "distribution":
        return distribution(problem)
    return softmax_focal(problem) if loss.gamma else cross_entropy(problem)
