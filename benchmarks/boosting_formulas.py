"""Focal loss for boosting in plain NumPy and in 50 digits: what fusedce is compared with.

With q = 1 - p, p the probability of the label, l = log p: f = -q**g l, and by the raw score of a
positive label

    f' q                      = q**g (g p l - q)
    f'' q**2                  = g p q**g ((1 - g p) l + 2 q)
    -f' p q                   = p q**g (q - g p l)
    the Hessian, sum of both  = p q**g ((2 g + 1) q + g (1 - (g + 1) p) l)

A negative label is a positive one of -z, with the sign of the gradient turned.
"""

from collections.abc import Callable, Iterator
from typing import Any

import mpmath  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Derivatives = tuple[Any, Any]  # gradient, Hessian by the raw score
BLOCK = 1 << 15  # numbers worked on at a time: 256 KB of float64
DIGITS = 50


def terms(z: Array, y: Array, gamma: float) -> tuple[Array, Array, Array]:
    """The gradient, f'' q**2, and -f' p q; q and log p without cancellation."""
    s = np.where(y > 0.5, z, -z)
    e = np.exp(-np.abs(s))
    large, small = 1 / (1 + e), e / (1 + e)
    p, q = np.where(s >= 0, large, small), np.where(s >= 0, small, large)
    logp = np.minimum(s, 0) - np.log1p(e)
    power = q**gamma
    pl = gamma * p * logp
    slope = power * (q - pl)
    bend = power * ((gamma * logp - gamma * pl + 2 * gamma * q) * p)
    return np.where(y > 0.5, -slope, slope), bend, slope * p


def stable(z: Array, y: Array, gamma: float) -> Derivatives:
    """Gradient and exact Hessian, as above."""
    grad, bend, flat = terms(z, y, gamma)
    return grad, bend + flat


def bound(z: Array, y: Array, gamma: float) -> Derivatives:
    """Gradient and what fusedce's ``hessian="psd"`` is."""
    grad, bend, flat = terms(z, y, gamma)
    return grad, np.maximum(bend, 0) + flat


def posterior(z: Array, gamma: float) -> Array:
    """The share of positives for which z is the best constant: where the gradients cancel.

    The probability that a model trained with focal loss means by its raw score.
    """
    up, down = (np.abs(terms(z, np.full_like(z, y), gamma)[0]) for y in (1.0, 0.0))
    return np.asarray(down / (up + down))


# What public recipes do, in float64.


def by_differences(z: Array, y: Array, gamma: float) -> Derivatives:
    """Central differences of the loss with a step of 1e-6."""
    step = 1e-6

    def loss(at: Array) -> Array:
        p = 1 / (1 + np.exp(-at))
        p = np.where(y > 0.5, p, 1 - p)
        return np.asarray(-((1 - p) ** gamma) * np.log(p))

    low, middle, high = loss(z - step), loss(z), loss(z + step)
    return (high - low) / (2 * step), (high - 2 * middle + low) / step**2


def by_shifted_logarithm(z: Array, y: Array, gamma: float) -> Derivatives:
    """The closed form with 1 - p by subtraction and log(p + 1e-9) against the infinity."""
    p = 1 / (1 + np.exp(-z))
    p = np.where(y > 0.5, p, 1 - p)
    q, logp = 1 - p, np.log(p + 1e-9)
    slope = q**gamma * (q - gamma * p * logp)
    hess = p * q**gamma * ((2 * gamma + 1) * q + gamma * (1 - (gamma + 1) * p) * logp)
    return np.where(y > 0.5, -slope, slope), hess


def exact(z: float, y: int, gamma: float) -> tuple[Any, Any, Any]:
    """Gradient, f'' q**2 and -f' p q in 50 digits."""
    with mpmath.workdps(DIGITS):
        s, g = mpmath.mpf(z if y else -z), mpmath.mpf(gamma)
        p, q = 1 / (1 + mpmath.exp(-s)), 1 / (1 + mpmath.exp(s))
        logp = -mpmath.log1p(mpmath.exp(-s))
        first = q**g * (g * p * logp - q)
        bend = g * p * q**g * ((1 - g * p) * logp + 2 * q)
        return (first if y else -first), bend, -first * p


# What fusedce's speed is measured against: all rows at once, or in blocks whose temporaries stay in
# the cache.


def blocks(rows: int, size: int | None) -> Iterator[slice]:
    """Slices of so many rows; all in one for None."""
    step = max(1, size or rows)
    return (slice(i, i + step) for i in range(0, rows, step))


def whole_power(x: Array, gamma: float) -> Array:
    """x**gamma, by multiplication where that does."""
    return x * x if gamma == 2.0 else x**gamma


def sigmoid_objective(z: Array, y: Array, gamma: float, block: int | None) -> Derivatives:
    """``bound`` of many rows, one exponential and one logarithm each."""
    grad, hess = np.empty_like(z), np.empty_like(z)
    sign = (2 * y - 1).astype(z.dtype)
    for part in blocks(len(z), block):
        s = sign[part] * z[part]
        e = np.exp(-np.abs(s))
        d = 1 / (1 + e)
        ed, up = e * d, s >= 0
        p, q = np.where(up, d, ed), np.where(up, ed, d)
        logp = np.minimum(s, 0) - np.log1p(e)
        power, pl = whole_power(q, gamma), gamma * p * logp
        slope = power * (q - pl)
        bend = power * p * (gamma * logp + gamma * (2 * q - pl))
        np.multiply(sign[part], -slope, out=grad[part])
        np.add(np.maximum(bend, 0), slope * p, out=hess[part])
    return grad, hess


def softmax_objective(
    z: Array, y: Array, gamma: float, factor: float, block: int | None
) -> Derivatives:
    """The same of C classes, in the order of z."""
    grad, hess = np.empty_like(z), np.empty_like(z)
    labels = y.astype(np.int64)
    for part in blocks(len(z), block and block // z.shape[1]):
        rows, t = z[part].T, labels[part][None]  # (C, rows): classes apart, rows side by side
        shifted = rows - rows.max(axis=0)
        e = np.exp(shifted)
        total = e.sum(axis=0)
        p = e / total
        logp = np.take_along_axis(shifted, t, 0) - np.log(total)
        own = np.take_along_axis(p, t, 0)
        q = np.where(own > 0.5, -np.expm1(logp), 1 - own)
        power, pl = whole_power(q, gamma), gamma * own * logp
        slope = power * (q - pl) / q  # -f'
        bend = power * own * (gamma * logp + gamma * (2 * q - pl)) / (q * q)  # f''
        bend = np.maximum(bend, 0)
        first = slope * p
        np.put_along_axis(first, t, -slope * q, 0)
        second = bend * p * p + slope * p * (1 - p)
        np.put_along_axis(second, t, bend * q * q + slope * own * q, 0)
        second *= factor
        grad[part], hess[part] = first.T, second.T
    return grad, hess


Formula = Callable[[Array, Array, float], Derivatives]
