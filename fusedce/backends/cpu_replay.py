"""Cache of prepared calls on NumPy arrays, keyed by options, dtypes, shapes and strides.

These decide what a call launches; the values in its arrays do not. A later call of the same
signature checks only what may differ: labels, denominators, overlaps. No array of a caller is
stored. If such a check fails, the call is made again with all checks, which raise the error.
"""

import math
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusedce import checks

# Entries of the cache, 4 KB each. A signature that is never used again costs 9 us of 60.
MAX_PREPARED = 512
_OUTPUTS = ("loss_out", "grad_out", "hess_out")
_WEIGHTS = ("weight", "pos_weight", "sample_weight")
_CHECKED_OPTIONS = frozenset({*_OUTPUTS, *_WEIGHTS, "denominator"})
# Values of exactly these types are equal only if they mean the same; floats are not (0.0 == -0.0).
PLAIN = frozenset({int, bool, str, type(None)})
_LARGEST = 3.4e38


def signature(
    params: Any, traits: Any, logits: Any, targets: Any, options: dict[str, Any]
) -> tuple[Any, ...] | None:
    """The key of a call: all that decides what it launches. None: it cannot be replayed."""
    if type(logits) is not np.ndarray or type(targets) is not np.ndarray:
        return None
    key = [
        type(params), traits, parameter_bytes(params, traits),
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
            in_place = value is logits  # see ``cpu._reads_targets_first``
            key += (name, value.shape, value.strides, value.dtype, value.flags.num, in_place)
        elif kind is float and name != "sample_weight":
            key += (name, value.hex())  # 0.0 == -0.0
        else:
            return None
    return tuple(key)


def parameter_bytes(params: Any, traits: Any) -> bytes:
    """The parameters of a rule as bytes, in which 0.0 and -0.0 differ."""
    floats = params if traits.alpha is None else (*params, traits.alpha)
    return array("d", floats).tobytes()


def scalar(total: float, kind: Any) -> Any:
    """A total as a NumPy scalar; infinite beyond the range of float32, without a warning."""
    if abs(total) < _LARGEST:
        return kind(total)
    with np.errstate(over="ignore"):
        return kind(total)


def disjoint(outputs: list[Any], logits: np.ndarray, *inputs: Any) -> bool:
    """Whether outputs certainly share no memory; grad_out may be the logits themselves."""
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
    """(weight, factor of positive outcomes, factor of negative outcomes), of each class or one."""
    both = np.ones(1) if weight is None else weight
    pos, neg = both if pos_weight is None else both * pos_weight, both
    if alpha is not None:
        pos, neg = pos * alpha, both * (1.0 - alpha)
    own = None if weight is None else weight.astype(compute)
    return own, pos.astype(compute), neg.astype(compute)


@dataclass(slots=True)
class Prepared:
    """What a call launches and how its results are made, without its arrays."""

    plan: Any  # kernels.cpu.runtime.Plan
    factors: Any  # as ``factors`` returns them; None: computed from the weights of each call
    alpha: float | None
    compute: Any  # type of all arithmetic
    activation: str | None
    classes: int
    reduction: str
    shape: tuple[int, ...]  # of the unreduced loss
    dtype: np.dtype[Any]  # of the loss
    grad: bool
    hess: bool
    checks_options: bool = True  # see the function of this name

    def launch(
        self, labels: Any, used: tuple[Any, ...], denominator: float | None
    ) -> tuple[float, int]:
        """Fill the outputs; (reduced loss, position of the first invalid label or -1)."""
        if self.reduction != "mean":
            denominator = 1.0
        total, divisor, bad = self.plan.run(labels, used, denominator or 0.0)
        if divisor == 0.0 and bad < 0:
            total = math.nan
            for out in used[-3:]:
                if out is not None:
                    out[...] = 0
        return total, bad

    def results(self, total: float, loss_out: Any, loss: Any, grad: Any, hess: Any) -> Any:
        """What the public function returns."""
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

    def checked_factors(self, weight: Any, pos_weight: Any) -> Any:
        """The factors of these weights, after a check of their values."""
        if weight is not None:
            weight = checks.class_vector("weight", weight, self.classes)
        if pos_weight is not None:
            pos_weight = np.asarray(pos_weight)
            pos_weight = checks.class_vector("pos_weight", pos_weight, self.classes, scalar=True)
        return factors(weight, pos_weight, self.alpha, self.compute)

    def run(self, logits: np.ndarray, targets: np.ndarray, options: dict[str, Any]) -> Any:
        """The results for these arrays; None if the call has to be made with all checks."""
        loss_out = grad = hess = denominator = loss = sample_weight = None
        parts = self.factors
        if self.checks_options:
            get = options.get
            weight, pos_weight = get("weight"), get("pos_weight")
            sample_weight = get("sample_weight")
            if parts is None:
                parts = self.checked_factors(weight, pos_weight)
            denominator = checks.positive("denominator", get("denominator"))
            if self.activation is None:
                checks.probabilities(logits)
            loss_out, grad, hess = get("loss_out"), get("grad_out"), get("hess_out")
            inputs = (targets, weight, pos_weight, sample_weight)
            if not disjoint([loss_out, grad, hess], logits, *inputs):
                return None
        if self.reduction == "none":
            loss = np.empty(self.shape, self.dtype) if loss_out is None else loss_out
        if self.grad and grad is None:
            grad = np.empty_like(logits)
        if self.hess and hess is None:
            hess = np.empty_like(logits)
        used = (logits, targets, sample_weight, *parts, loss, grad, hess)
        total, bad = self.launch(targets, used, denominator)
        return None if bad >= 0 else self.results(total, loss_out, loss, grad, hess)


_PREPARED: dict[tuple[Any, ...], Any] = {}
lookup = _PREPARED.get


def store(key: tuple[Any, ...], prepared: Any) -> None:
    """Store a prepared call; a full cache is emptied first."""
    if len(_PREPARED) >= MAX_PREPARED:
        _PREPARED.clear()
    _PREPARED[key] = prepared


def checks_options(key: tuple[Any, ...], activation: str | None) -> bool:
    """Whether each call of a signature has option values or arrays that must be checked."""
    return activation is None or not _CHECKED_OPTIONS.isdisjoint(key)
