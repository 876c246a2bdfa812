"""A call like one before: nothing is decided twice.

What a call launches follows from its options and from the dtypes, shapes and strides of its
arrays, not from the numbers in them. So what a call has worked out is kept under all of that, and
a later call of the same signature only looks at what may differ: labels, denominators, overlaps.
No array of a caller is kept. Whatever is wrong is left to the ordinary way, which says it.
"""

import math
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusedce import checks

# Calls kept, of 4 KB each; a shape that never comes back pays 9 us for it, of 60.
KEPT = 512
_OUTPUTS = ("loss_out", "grad_out", "hess_out")
_WEIGHTS = ("weight", "pos_weight", "sample_weight")
_BROUGHT = frozenset({*_OUTPUTS, *_WEIGHTS, "denominator"})
# Values of these very types are equal only if they mean the same; of floats see below.
PLAIN = frozenset({int, bool, str, type(None)})
_LARGEST = 3.4e38


def signature(
    params: Any, traits: Any, logits: Any, targets: Any, options: dict[str, Any]
) -> tuple[Any, ...] | None:
    """Everything that decides what a call launches; None if something else may."""
    if type(logits) is not np.ndarray or type(targets) is not np.ndarray:
        return None
    key = [
        type(params), traits, bits(params, traits),
        logits.shape, logits.strides, logits.dtype, logits.flags.num,
        targets.shape, targets.strides, targets.dtype, targets.flags.num,
    ]  # fmt: skip
    for name, value in options.items():
        kind = type(value)
        if name == "denominator" and (kind in PLAIN or issubclass(kind, float | np.number)):
            key += (name, kind)
        elif kind in PLAIN and (value is None or name != "sample_weight"):
            key += (name, kind, value)
        elif kind is np.ndarray and (name in _OUTPUTS or (name in _WEIGHTS and value.size > 1)):
            in_place = value is logits  # then labels are read ahead, see ``host._numbers_ahead``
            key += (name, value.shape, value.strides, value.dtype, value.flags.num, in_place)
        elif kind is float and name != "sample_weight":
            key += (name, value.hex())  # 0.0 == -0.0
        else:
            return None
    return tuple(key)


def bits(params: Any, traits: Any) -> bytes:
    """The numbers of a rule: 0.0 == -0.0, but not here."""
    floats = params if traits.alpha is None else (*params, traits.alpha)
    return array("d", floats).tobytes()


def scalar(total: float, kind: Any) -> Any:
    """A total as a NumPy scalar; beyond float32 it is infinite, without a warning."""
    if abs(total) < _LARGEST:
        return kind(total)
    with np.errstate(over="ignore"):
        return kind(total)


def apart(outputs: list[Any], logits: np.ndarray, *inputs: Any) -> bool:
    """Whether outputs certainly share no memory, but for a gradient that replaces the logits."""
    given = [out for out in outputs if out is not None]
    for k, out in enumerate(given):
        for other in (logits, *inputs, *given[k + 1 :]):
            in_place = out is logits and other is logits and out is outputs[1]
            if other is not None and not in_place and np.may_share_memory(out, other):
                return False
    return True


def factors(
    weight: np.ndarray | None, pos_weight: np.ndarray | None, alpha: float | None, compute: Any
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """(weight, factor of positive outcomes, of negative ones) of each class."""
    both = np.ones(1) if weight is None else weight
    up, down = both if pos_weight is None else both * pos_weight, both
    if alpha is not None:
        up, down = up * alpha, both * (1.0 - alpha)
    own = None if weight is None else weight.astype(compute)
    return own, up.astype(compute), down.astype(compute)


@dataclass(slots=True)
class Prepared:
    """What a call has worked out, without its arrays."""

    program: Any  # of the backend
    factors: Any  # as below, unless each call brings weights
    alpha: float | None
    compute: Any  # type of all arithmetic
    activation: str | None
    classes: int
    reduction: str
    shape: tuple[int, ...]  # of the unreduced loss
    dtype: np.dtype[Any]  # of the loss
    grad: bool
    hess: bool
    brings: bool = True  # whether options have values or arrays that are looked at each time

    def run(
        self, labels: Any, used: tuple[Any, ...], denominator: float | None
    ) -> tuple[float, int]:
        """Fill the outputs: (reduced loss, -1), or the position of a bad label and no output."""
        if self.reduction != "mean":
            denominator = 1.0
        total, divisor, bad = self.program.run(labels, used, denominator or 0.0)
        if divisor == 0.0 and bad < 0:
            total = math.nan
            for out in used[-3:]:
                if out is not None:
                    out[...] = 0
        return total, bad

    def results(self, total: float, loss_out: Any, loss: Any, grad: Any, hess: Any) -> Any:
        """What the caller gets."""
        if self.reduction == "none":
            result = loss if loss_out is not None or loss.ndim else loss[()]
        else:
            result = scalar(total, self.dtype.type)
            if loss_out is not None:
                loss_out[()] = result
                result = loss_out
        if self.grad:
            return (result, grad, hess) if self.hess else (result, grad)
        return (result, hess) if self.hess else result

    def weigh(self, weight: Any, pos_weight: Any) -> Any:
        """The factors of these weights, whose numbers are looked at."""
        if weight is not None:
            weight = checks.class_vector("weight", weight, self.classes)
        if pos_weight is not None:
            pos_weight = np.asarray(pos_weight)
            pos_weight = checks.class_vector("pos_weight", pos_weight, self.classes, scalar=True)
        return factors(weight, pos_weight, self.alpha, self.compute)

    def again(self, logits: np.ndarray, targets: np.ndarray, options: dict[str, Any]) -> Any:
        """The results for other arrays; None where the ordinary way has to look."""
        loss_out = grad = hess = given = loss = sample_weight = None
        parts = self.factors
        if self.brings:
            get = options.get
            weight, pos_weight = get("weight"), get("pos_weight")
            sample_weight = get("sample_weight")
            if parts is None:
                parts = self.weigh(weight, pos_weight)
            given = checks.positive("denominator", get("denominator"))
            if self.activation is None:
                checks.probabilities(logits)
            loss_out, grad, hess = get("loss_out"), get("grad_out"), get("hess_out")
            inputs = (targets, weight, pos_weight, sample_weight)
            if not apart([loss_out, grad, hess], logits, *inputs):
                return None
        if self.reduction == "none":
            loss = np.empty(self.shape, self.dtype) if loss_out is None else loss_out
        if self.grad and grad is None:
            grad = np.empty_like(logits)
        if self.hess and hess is None:
            hess = np.empty_like(logits)
        used = (logits, targets, sample_weight, *parts, loss, grad, hess)
        total, bad = self.run(targets, used, given)
        return None if bad >= 0 else self.results(total, loss_out, loss, grad, hess)


_KEPT: dict[tuple[Any, ...], Any] = {}
recall = _KEPT.get


def keep(key: tuple[Any, ...], prepared: Any) -> None:
    """Keep a finished call; at most KEPT of them, whatever the shapes."""
    if len(_KEPT) >= KEPT:
        _KEPT.clear()
    _KEPT[key] = prepared


def brings(key: tuple[Any, ...], activation: str | None) -> bool:
    """Whether calls of a signature have values or arrays that are looked at each time."""
    return activation is None or not _BROUGHT.isdisjoint(key)
