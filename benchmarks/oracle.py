"""Loss and gradient in float64 from their definitions; a result that differs is not timed.

No code is shared with fusedce or a rival. The loss of one outcome of log-probability l is
f(l) = -(1 - p)^gamma l with p = exp(l), or what a listed loss states as its reference.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.cases import Loss
from benchmarks.data import Array, Problem, last
from fusedce.losses import LOSSES

# (relative to the component, relative to the largest): half precision rounds, and 1 - p by
# subtraction, as rivals do it, loses digits.
TOLERANCE = {
    "float64": (1e-6, 1e-9), "float32": (1e-3, 1e-6), "float16": (1e-2, 1e-3),
    "bfloat16": (5e-2, 1e-2),
}  # fmt: skip
TINIEST = {"float16": 6.0e-8}  # its smallest number; gradients of means over many rows underflow
Fetch = Callable[[Any], Array]  # converts an array of any library to one like the answer's
PLACES = 6  # blocks of a gradient that are compared


class Disagreement(Exception):
    """A contender computes a wrong loss or gradient."""


@dataclass(frozen=True)
class Answer:
    """The mean loss of the whole problem; its gradient in the first block times upstream."""

    loss: float
    grad: Array


STEP = 1e-20  # along the imaginary axis, of log p


def stated(loss: Loss, logp: Array, negative: bool) -> tuple[Array, Array]:
    """f and f' of log p from the reference of a listed loss, by a complex step."""
    declared, own = LOSSES[str(loss.function)], dict(loss.own)
    function: Any = (declared.negative if negative else None) or declared.reference
    named = inspect.signature(function).parameters
    p = np.exp(logp + 1j * STEP)
    f = function(p, np, **{k: v for k, v in own.items() if k in named})
    return f.real, f.imag / STEP


def outcome(loss: Loss, logp: Array, q: Array, negative: bool = False) -> tuple[Array, Array]:
    """f and f' of log p, q = 1 - p; ``negative``: of the outcome 0 of a label."""
    if loss.function is not None:
        return stated(loss, logp, negative)
    if not loss.gamma:
        return -logp, -np.ones_like(logp)
    power = q**loss.gamma
    slope = loss.gamma * q ** (loss.gamma - 1) * (1 - q) * logp
    return -power * logp, slope - power


def softmax_rows(loss: Loss, z: Array, mass: Array) -> tuple[Array, Array]:
    """Loss sum_k m_k f(l_k); gradient by z_j m_j f'(l_j) - p_j sum_k m_k f'(l_k)."""
    logp = z - z.max(axis=-1, keepdims=True)
    logp -= np.log(np.exp(logp).sum(axis=-1, keepdims=True))
    p = np.exp(logp)
    f, slope = outcome(loss, logp, -np.expm1(logp))
    slope *= mass
    return (mass * f).sum(axis=-1), slope - p * slope.sum(axis=-1, keepdims=True)


def sigmoid_elements(loss: Loss, z: Array, labels: Array) -> tuple[Array, Array]:
    """Loss y a f(log p) + (1 - y) (1 - a) f(log q), a from ``alpha``; and its gradient."""
    yes, no = (1.0, 1.0) if loss.alpha is None else (loss.alpha, 1 - loss.alpha)
    logp, logq = -np.logaddexp(0, -z), -np.logaddexp(0, z)
    p, q = np.exp(logp), np.exp(logq)
    f1, slope1 = outcome(loss, logp, q)
    f0, slope0 = outcome(loss, logq, p, negative=True)
    pos, neg = yes * labels, no * (1 - labels)
    return pos * f1 + neg * f0, pos * slope1 * q - neg * slope0 * p


def answer(problem: Problem) -> Answer:
    """The right answer, from one block and how often each of its rows occurs."""
    loss, (logits, targets) = problem.case.loss, problem.block
    z, classes = logits.astype(np.float64), logits.shape[-1]
    indices = problem.case.arrays.targets == "index"
    labels = (targets[..., None] == np.arange(classes)) if indices else targets
    labels = labels.astype(np.float64)
    whole, rest = divmod(problem.rows, len(z))
    times = whole + (np.arange(len(z)) < rest)
    if loss.activation == "sigmoid":
        values, grad = sigmoid_elements(loss, z, labels)
        values, count = values.reshape(len(z), -1).sum(axis=1), float(problem.logits.size)
    else:
        mass = labels * (1 - loss.smoothing) + loss.smoothing / classes
        weights = np.ones(targets.shape if indices else z.shape[:-1])
        if loss.weighted:
            mass, weights = mass * problem.weight, problem.weight[targets].astype(np.float64)
        values, grad = softmax_rows(loss, z, mass)
        values = values.reshape(len(z), -1).sum(axis=1)
        count = float(times @ weights.reshape(len(z), -1).sum(axis=1))
    return Answer(float(times @ values) / count, grad / count * problem.case.upstream)


def check(
    expected: Answer, problem: Problem, loss: Any, grad: Any, fetch: Fetch = np.asarray
) -> None:
    """Raise Disagreement unless the loss and some blocks of the gradient are right."""
    dtype = problem.case.arrays.dtype
    relative, absolute = TOLERANCE[dtype]
    error = abs(float(loss) - expected.loss)
    if not error <= relative * abs(expected.loss):
        raise Disagreement(f"loss {float(loss):.6g} instead of {expected.loss:.6g}")
    if not problem.case.loss.grad:
        return
    if grad.shape != problem.logits.shape:
        raise Disagreement(f"gradient of shape {grad.shape} instead of {problem.logits.shape}")
    rows, length = last(grad, problem.axis), len(expected.grad)
    size = np.abs(expected.grad)
    allowed = relative * size + absolute * float(size.max()) + TINIEST.get(dtype, 0.0)
    starts = range(0, problem.rows, length)
    for start in {starts[k * (len(starts) - 1) // (PLACES - 1)] for k in range(PLACES)}:
        part = fetch(rows[start : start + length]).astype(np.float64)
        wrong = ~(np.abs(part - expected.grad[: len(part)]) <= allowed[: len(part)])  # NaN is wrong
        if wrong.any():
            where = tuple(int(i[0]) for i in np.nonzero(wrong))
            wanted, row = float(expected.grad[where]), (start + where[0], *where[1:])
            raise Disagreement(
                f"gradient {float(part[where]):.6g} instead of {wanted:.6g} at {row}"
            )
