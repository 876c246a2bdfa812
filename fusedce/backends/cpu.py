"""Calls on NumPy arrays, computed on the CPU. The host reads the values of arrays too."""

import math
from typing import Any

import numpy as np

from fusedce import arrays, checks, errors
from fusedce.backends import cpu_replay
from fusedce.kernels.problem import Problem
from fusedce.options import IGNORE_INDEX, Call

HIGHEST = 2**63 - 1


def _read(name: str, x: Any) -> np.ndarray:
    """An argument as a NumPy array."""
    if type(x) is np.ndarray:
        return x
    if arrays.is_masked(x):
        raise errors.masked_array(name, x)
    if getattr(x, "requires_grad", False) is True:
        raise errors.requires_grad(x)
    try:
        array = np.asarray(x)
    except (RuntimeError, TypeError, ValueError) as error:
        raise errors.no_numbers(name, x, str(error)) from error
    if array.dtype == object and not isinstance(x, np.ndarray):
        raise errors.no_numbers(name, x, "numpy.asarray makes an array of objects of it")
    if name == "targets" and isinstance(x, list) and not array.size:
        return array.astype(np.int64)  # of an empty list NumPy makes float64
    return array


class CpuBackend:
    """What ``fusedce.call`` needs of a backend; ``cuda.CudaBackend`` has the same methods."""

    vector = staticmethod(checks.class_vector)
    probabilities = staticmethod(checks.probabilities)
    output = staticmethod(checks.output)

    def ndim(self, x: Any) -> int:
        """The number of axes; -1 for what is no array of numbers, for which ``read`` raises."""
        try:
            return np.ndim(x)
        except (TypeError, ValueError, RuntimeError):
            return -1

    def read(self, **named: Any) -> list[Any]:
        """The arguments as NumPy arrays; None stays None."""
        return [None if x is None else _read(name, x) for name, x in named.items()]

    def native(self, name: str, array: np.ndarray) -> np.ndarray:
        """The array, or a copy, in native byte order, aligned and of at most 64 bits a number."""
        return arrays.native(array)

    def denominator(self, value: Any) -> float | None:
        """What the mean divides by."""
        return checks.positive("denominator", value)

    def empty(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """A new array for a result."""
        return np.empty(shape, dtype)

    def like(self, name: str, array: np.ndarray) -> np.ndarray:
        """A new array with the shape, dtype and memory order of another one."""
        return np.empty_like(array, subok=False)

    def view3(self, name: str, array: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """An input as a view (outer, class, inner), or a copy where there is none."""
        return arrays.view3(array, shape)

    def out3(self, name: str, array: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """An output as a view (outer, class, inner), or scratch where there is none."""
        return arrays.out3(array, shape)

    def factors(self, call: Call, alpha: float | None, compute: Any) -> dict[str, Any]:
        """The weight fields of ``Problem``."""
        names = ("weight", "pos_factor", "neg_factor")
        made = cpu_replay.factors(call.weight, call.pos_weight, alpha, compute)
        return dict(zip(names, made, strict=True))

    def single(self, logits: Any, targets: Any) -> tuple[np.ndarray, np.ndarray]:
        """A single logit and its label as arrays of shape (1,)."""
        z, t = self.read(logits=logits, targets=targets)
        return z.reshape(1), t.reshape(1)

    def number(self, result: Any) -> Any:
        """An array of one element as a NumPy scalar."""
        return np.reshape(result, ())[()]

    def activate(
        self, name: str, source: np.ndarray, result: np.ndarray, shape: tuple[int, int, int],
        out: Any, key: Any,
    ) -> None:  # fmt: skip
        """Write an activation of ``source`` into ``result``; both are split as ``shape``."""
        from fusedce.kernels.cpu import dispatch

        target = arrays.out3(result, shape)
        compute = arrays.compute_type(source.dtype)
        dispatch.activate(name, arrays.view3(source, shape), target, compute)
        arrays.copy_back(result, target)

    def activated(self, result: np.ndarray) -> Any:
        """What the public function returns for an array it made."""
        return result[()]

    def execute(
        self, traits: Any, call: Call, problem: Problem, outputs: dict[str, Any], key: Any
    ) -> Any:
        """Compute a call whose arguments are checked. Labels are always checked too.

        ``outputs``: the arrays to fill, the caller's and new ones. ``key``: the signature under
        which the call is stored to be replayed, or None.
        """
        _check_unsigned(call)
        prepared, labels = _prepared(call, problem, traits.alpha, _reads_targets_first(call))
        views = (problem.loss, problem.grad, problem.hess)
        weights = (problem.sample_weight, problem.weight, problem.pos_factor, problem.neg_factor)
        used = (problem.logits, problem.targets, *weights, *views)
        total, bad = prepared.launch(labels, used, call.denominator)
        if bad >= 0:
            raise _bad_number(call, problem.compute) if call.real_targets else _bad_label(call, bad)
        for array, view in zip(outputs.values(), views, strict=True):
            if array is not None and view is not None:
                arrays.copy_back(array, view)
        if key is not None and _without_copies(call, problem, labels, outputs):
            prepared.checks_options = cpu_replay.checks_options(key, call.options.activation)
            cpu_replay.store(key, prepared)
        return prepared.results(total, call.options.loss_out, *outputs.values())


def _reads_targets_first(call: Call) -> bool:
    """Whether float targets are read in a pass of their own, before the losses are computed.

    Without that pass losses and gradients are computed as if every target were valid and none
    ignored. If one is found to be invalid the results are discarded, if some are found to be
    ignored everything is computed a second time. So the pass is made if the gradient replaces the
    logits, if ignored targets are likely, and if the mean does not count rows without any label.
    """
    if not call.targets.size:
        return False
    given = call.options
    if given.normalize_targets and given.reduction == "mean" and call.denominator is None:
        return True
    buffer = given.grad_out
    in_place = buffer is not None and np.may_share_memory(buffer, call.inputs["logits"])
    return call.real_targets and (in_place or given.ignore_index != IGNORE_INDEX)


def _prepared(
    call: Call, problem: Problem, alpha: float | None, targets_first: bool
) -> tuple[cpu_replay.Prepared, np.ndarray]:
    """What the call launches, and the targets as its first pass reads them."""
    from fusedce.kernels.cpu import dispatch, runtime

    label_pass, elements, labels, read = None, 1.0, -1, problem.targets
    count = float(math.prod(call.loss_shape))
    if targets_first:
        label_pass, read = _label_pass_of_floats(call, problem)
    elif call.integer_targets:
        if call.sparse_targets:
            elements = -1.0 if call.by_row else float(call.classes)
        if call.targets.size:
            label_pass, read = dispatch.label_launch(problem)
            labels = call.targets.size
        else:
            count = 0.0
    losses = dispatch.losses(problem) if call.logits.size else None
    weighted = call.weight is not None or call.pos_weight is not None
    factors = None if weighted else (None, problem.pos_factor, problem.neg_factor)
    prepared = cpu_replay.Prepared(
        plan=runtime.Plan(label_pass, losses, count, elements, labels),
        factors=factors,
        alpha=alpha,
        compute=problem.compute,
        activation=call.options.activation,
        classes=call.classes,
        reduction=call.options.reduction,
        shape=call.loss_shape,
        dtype=arrays.loss_dtype(call.logits.dtype),
        grad=problem.grad is not None,
        hess=problem.hess is not None,
    )
    return prepared, read


def _check_unsigned(call: Call) -> None:
    """Raise for uint64 labels of 2**63 or more: kernels read int64, where they are negative."""
    unsigned = call.targets.dtype == np.uint64 and call.targets.size > 0
    if unsigned and call.integer_targets and call.targets.max() > HIGHEST:
        raise _bad_label(call, int(call.targets.argmax()))


def _label_pass_of_floats(call: Call, problem: Problem) -> tuple[Any, np.ndarray]:
    from fusedce.kernels.cpu import dispatch

    if call.by_row:
        return dispatch.distribution_label_launch(problem), problem.targets
    return dispatch.label_launch(problem)


def _bad_number(call: Call, compute: Any) -> ValueError:
    """The error for the first invalid float target; kernels only report that there is one."""
    with np.errstate(over="ignore"):
        y = call.targets.astype(compute, copy=False)
    given = call.options
    ignored = y == given.ignore_index
    if call.by_row:
        mixed = ignored.any(call.axis) & ~ignored.all(call.axis)
        return errors.mixed_row(_first(mixed), given.ignore_index)
    valid = abs(y) == 1 if given.neg_label == -1 else (y >= 0) & (y <= 1)
    index = _first(~ignored & ~valid)
    return errors.bad_number(call.targets[index], index, call.allowed, given.ignore_index)


def _first(condition: np.ndarray) -> tuple[int, ...]:
    """The index of the first element that is True."""
    return arrays.unravel(int(condition.argmax()), condition.shape)


def _bad_label(call: Call, position: int) -> IndexError:
    index = arrays.unravel(position, call.targets.shape)
    return errors.bad_label(call.targets[index], index, call.allowed, call.options.ignore_index)


def _without_copies(
    call: Call, problem: Problem, labels: np.ndarray, outputs: dict[str, Any]
) -> bool:
    """Whether kernels read and write the memory of the caller's arrays, not of copies."""
    logits, targets, sample_weight = (
        call.inputs[name] for name in ("logits", "targets", "sample_weight")
    )
    views = (problem.logits, problem.targets, labels, problem.sample_weight,
             problem.loss, problem.grad, problem.hess)  # fmt: skip
    originals = (logits, targets, targets, sample_weight, *outputs.values())
    return (
        call.logits.size > 0
        and targets.dtype != np.uint64  # ``_check_unsigned`` reads the labels of each call
        and all(
            np.may_share_memory(view, array)
            for view, array in zip(views, originals, strict=True)
            if view is not None
        )
    )


CPU = CpuBackend()
