"""What fusedce is measured against: plain NumPy, and a copy of the same bytes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Array = NDArray[Any]

BLOCK = 1 << 16  # elements NumPy works on at a time, so that its temporaries stay in L2


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices of the rows, each of about BLOCK elements."""
    step = max(1, BLOCK // width)
    return (slice(i, i + step) for i in range(0, rows, step))


def softmax_numpy(logits: Floats, targets: Array, grad: Floats) -> float:
    """Mean softmax cross-entropy, computed within the gradient's memory."""
    total, scale = 0.0, np.float32(1 / len(targets))
    for rows in blocks(*logits.shape):
        z, y, g = logits[rows], targets[rows], grad[rows]
        i = np.arange(len(y))
        np.subtract(z, z.max(axis=1, keepdims=True), out=g)
        shifted = g[i, y]
        np.exp(g, out=g)
        sums = g.sum(axis=1)
        g *= (scale / sums)[:, None]
        g[i, y] -= scale
        total += float(np.sum(np.log(sums) - shifted, dtype=np.float64))
    return total / len(targets)


def focal_numpy(logits: Floats, targets: Floats, grad: Floats) -> float:
    """Mean sigmoid focal loss, gamma = 2, for any target t in [0, 1].

    With q = 1 - p: loss = -t q^2 log p - (1 - t) p^2 log q,
    gradient = t q^2 (2 p log p - q) - (1 - t) p^2 (2 q log q - p).
    """
    total, scale = 0.0, np.float32(1 / logits.size)
    for part in blocks(logits.size, 1):
        z, t = logits[part], targets[part]
        e = np.exp(-np.abs(z))
        d, ed, log1pe = 1 / (1 + e), e / (1 + e), np.log1p(e)
        p, q = np.where(z >= 0, d, ed), np.where(z >= 0, ed, d)
        log_p, log_q = np.minimum(z, 0) - log1pe, np.minimum(-z, 0) - log1pe
        pos, neg = t * q * q, (1 - t) * p * p
        total -= float(np.sum(pos * log_p + neg * log_q, dtype=np.float64))
        grad[part] = (pos * (2 * p * log_p - q) - neg * (2 * q * log_q - p)) * scale
    return total / logits.size


@njit(parallel=True)
def copy_dense(logits, targets, grad):  # type: ignore[no-untyped-def]
    """Two reads and one write an element."""
    for i in prange(logits.size):
        grad[i] = logits[i] + targets[i]


@njit(parallel=True)
def copy_rows(logits, targets, grad):  # type: ignore[no-untyped-def]
    """One read and one write an element, one read a row."""
    for i in prange(logits.size):
        grad[i] = logits[i]
    total = 0
    for i in prange(targets.size):
        total += targets[i]
    return total
