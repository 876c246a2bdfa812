"""Focal loss for boosting in plain NumPy and in 50 digits, with which fusedce is compared.

With p the probability of the label, q = 1 - p and l = log p, the loss is f(l) = -q**g l. Its
derivatives by the raw score of a positive label are

    gradient f' q                 = q**g (g p l - q)
    convex term f'' q**2          = g p q**g ((1 - g p) l + 2 q)
    slope term -f' p q            = p q**g (q - g p l)
    Hessian, the sum of the terms = p q**g ((2 g + 1) q + g (1 - (g + 1) p) l)

A negative label at z is a positive one at -z with the opposite sign of the gradient.
"""

from collections.abc import Callable, Iterator
from typing import Any

import mpmath  # type: ignore[import-untyped]
import numpy as np

from benchmarks.data import Array
from benchmarks.plain import power as power_of

Derivatives = tuple[Any, Any]  # gradient, Hessian by the raw score
BLOCK = 1 << 15  # numbers computed at a time: 256 KB of float64
DIGITS = 50


def of_positive(s: Array, gamma: float) -> tuple[Array, Array, Array]:
    """The gradient, convex term and slope term of a positive label with raw score s."""
    e = np.exp(-np.abs(s))
    d, right = 1 / (1 + e), s >= 0
    ed = e * d
    p, q = np.where(right, d, ed), np.where(right, ed, d)
    logp = np.minimum(s, 0) - np.log1p(e)
    power, pl = power_of(q, gamma), gamma * p * logp
    first = power * (pl - q)
    return first, power * p * (gamma * logp + gamma * (2 * q - pl)), first * -p


def terms(z: Array, y: Array, gamma: float) -> tuple[Array, Array, Array]:
    """The gradient, convex term and slope term of labels 0 and 1."""
    sign = (2 * y - 1).astype(z.dtype)
    first, convex, slope = of_positive(sign * z, gamma)
    first *= sign
    return first, convex, slope


def stable(z: Array, y: Array, gamma: float) -> Derivatives:
    """Gradient and exact Hessian."""
    grad, convex, slope = terms(z, y, gamma)
    return grad, convex + slope


def posterior(z: Array, gamma: float) -> Array:
    """The probability that corresponds to a raw score of a model trained with focal loss.

    It is the share of positives for which z is the best constant: the gradients cancel there.
    """
    pos, neg = (np.abs(terms(z, np.full_like(z, y), gamma)[0]) for y in (1.0, 0.0))
    return np.asarray(neg / (pos + neg))


# Formulas of public recipes, in float64.


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
    """The closed form, with 1 - p by subtraction and log(p + 1e-9) to avoid log(0)."""
    p = 1 / (1 + np.exp(-z))
    p = np.where(y > 0.5, p, 1 - p)
    q, logp = 1 - p, np.log(p + 1e-9)
    slope = q**gamma * (q - gamma * p * logp)
    hess = p * q**gamma * ((2 * gamma + 1) * q + gamma * (1 - (gamma + 1) * p) * logp)
    return np.where(y > 0.5, -slope, slope), hess


def exact(z: float, y: int, gamma: float) -> tuple[Any, Any, Any]:
    """Gradient, convex term and slope term in 50 digits."""
    with mpmath.workdps(DIGITS):
        s, g = mpmath.mpf(z if y else -z), mpmath.mpf(gamma)
        p, q = 1 / (1 + mpmath.exp(-s)), 1 / (1 + mpmath.exp(s))
        logp = -mpmath.log1p(mpmath.exp(-s))
        first = q**g * (g * p * logp - q)
        convex = g * p * q**g * ((1 - g * p) * logp + 2 * q)
        return (first if y else -first), convex, -first * p


# The speed of fusedce is compared with these functions: all rows at once, or in blocks whose
# temporaries stay in the cache.


def blocks(rows: int, size: int | None) -> Iterator[slice]:
    """Slices of ``size`` rows; a single slice of all rows for None."""
    step = max(1, size or rows)
    return (slice(i, i + step) for i in range(0, rows, step))


def sigmoid_objective(z: Array, y: Array, gamma: float, block: int | None) -> Derivatives:
    """Gradient and Hessian with the convex term bounded by 0, fusedce's ``hessian="psd"``.

    One exponential and one logarithm for each row.
    """
    grad, hess = np.empty_like(z), np.empty_like(z)
    for part in blocks(len(z), block):
        grad[part], convex, slope = terms(z[part], y[part], gamma)
        np.add(np.maximum(convex, 0), slope, out=hess[part])
    return grad, hess


def softmax_objective(
    z: Array, y: Array, gamma: float, factor: float, block: int | None
) -> Derivatives:
    """The same for softmax focal loss of C classes; the results have the memory layout of z."""
    grad, hess = np.empty_like(z), np.empty_like(z)
    labels = y.astype(np.int64)
    for part in blocks(len(z), block and block // z.shape[1]):
        rows, t = z[part].T, labels[part][None]  # (C, rows), (1, rows)
        shifted = rows - rows.max(axis=0)
        e = np.exp(shifted)
        total = e.sum(axis=0)
        p = e / total
        logp = np.take_along_axis(shifted, t, 0) - np.log(total)
        own = np.take_along_axis(p, t, 0)
        q = np.where(own > 0.5, -np.expm1(logp), 1 - own)
        power, pl = power_of(q, gamma), gamma * own * logp
        slope = power * (q - pl) / q  # -f'
        convex = power * own * (gamma * logp + gamma * (2 * q - pl)) / (q * q)  # f''
        convex = np.maximum(convex, 0)
        first = slope * p
        np.put_along_axis(first, t, -slope * q, 0)
        second = convex * p * p + slope * p * (1 - p)
        np.put_along_axis(second, t, convex * q * q + slope * own * q, 0)
        second *= factor
        grad[part], hess[part] = first.T, second.T
    return grad, hess


Formula = Callable[[Array, Array, float], Derivatives]
