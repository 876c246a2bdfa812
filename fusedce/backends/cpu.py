"""A call on the CPU: arrays are NumPy's, and their numbers may be looked at."""

import math
from typing import Any

import numpy as np

from fusedce import arrays, checks
from fusedce.backends import cpu_replay
from fusedce.kernels.problem import Problem
from fusedce.options import IGNORE_INDEX, Call

HIGHEST = 2**63 - 1


def _read(name: str, x: Any) -> np.ndarray:
    """The NumPy array of an argument."""
    if type(x) is np.ndarray:
        return x
    if arrays.is_masked(x):
        raise checks.masked_array(name, x)
    if getattr(x, "requires_grad", False) is True:
        raise checks.part_of_a_graph(x)
    try:
        array = np.asarray(x)
    except (RuntimeError, TypeError, ValueError) as error:
        raise checks.no_numbers(name, x, str(error)) from error
    if array.dtype == object and not isinstance(x, np.ndarray):
        raise checks.no_numbers(name, x, "numpy.asarray makes an array of objects of it")
    if name == "targets" and isinstance(x, list) and not array.size:
        return array.astype(np.int64)  # no labels at all, which NumPy takes for float64
    return array


class Host:
    """What a call asks of the place where its arrays are; ``gpu.Gpu`` answers the same."""

    vector = staticmethod(checks.class_vector)
    probabilities = staticmethod(checks.probabilities)
    output = staticmethod(checks.output)

    def ndim(self, x: Any) -> int:
        """The number of axes; -1 of what is no array of numbers, which ``read`` tells."""
        try:
            return np.ndim(x)
        except (TypeError, ValueError, RuntimeError):
            return -1

    def read(self, **named: Any) -> list[Any]:
        """The arguments as NumPy arrays; None stays None."""
        return [None if x is None else _read(name, x) for name, x in named.items()]

    def native(self, name: str, array: np.ndarray) -> np.ndarray:
        """The array as kernels can read it."""
        return arrays.native(array)

    def denominator(self, value: Any) -> float | None:
        """What the mean divides by."""
        return checks.positive("denominator", value)

    def empty(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """A new array for a result."""
        return np.empty(shape, dtype)

    def like(self, name: str, array: np.ndarray) -> np.ndarray:
        """A new array that lies as another one does."""
        return np.empty_like(array, subok=False)

    def view3(self, name: str, array: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """An input as three axes."""
        return arrays.view3(array, shape)

    def out3(self, name: str, array: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """An output as three axes."""
        return arrays.out3(array, shape)

    def factors(self, call: Call, alpha: float | None, compute: Any) -> dict[str, Any]:
        """The fields of a problem that say how much a class weighs."""
        names = ("weight", "pos_factor", "neg_factor")
        made = cpu_replay.factors(call.weight, call.pos_weight, alpha, compute)
        return dict(zip(names, made, strict=True))

    def single(self, logits: Any, targets: Any) -> tuple[np.ndarray, np.ndarray]:
        """A logit and its label as arrays of one."""
        z, t = self.read(logits=logits, targets=targets)
        return z.reshape(1), t.reshape(1)

    def number(self, result: Any) -> Any:
        """An array of one as a number."""
        return np.reshape(result, ())[()]

    def activate(
        self, name: str, source: np.ndarray, result: np.ndarray, shape: tuple[int, int, int],
        out: Any, key: Any,
    ) -> None:  # fmt: skip
        """result <- softmax, ... of source."""
        from fusedce.kernels.cpu import dispatch

        target = arrays.out3(result, shape)
        compute = arrays.compute_type(source.dtype)
        dispatch.activate(name, arrays.view3(source, shape), target, compute)
        arrays.written(result, target)

    def activated(self, result: np.ndarray) -> Any:
        """What the caller gets."""
        return result[()]

    def finish(
        self, traits: Any, call: Call, problem: Problem, outputs: dict[str, Any],
        given: dict[str, Any], key: Any, validate: bool,
    ) -> Any:  # fmt: skip
        """Compute a call whose arguments are in order; labels are always looked at."""
        _check_unsigned(call)
        ahead = _numbers_ahead(call, given)
        prepared, labels = _prepared(call, problem, traits.alpha, ahead)
        views = (problem.loss, problem.grad, problem.hess)
        weights = (problem.sample_weight, problem.weight, problem.pos_factor, problem.neg_factor)
        used = (problem.logits, problem.targets, *weights, *views)
        total, bad = prepared.run(labels, used, call.denominator)
        if bad >= 0:
            raise _bad_number(call, problem.compute) if call.real_targets else _bad_label(call, bad)
        for array, view in zip(outputs.values(), views, strict=True):
            if array is not None and view is not None:
                arrays.written(array, view)
        if key is not None and _is_plain(call, problem, labels, outputs):
            prepared.brings = cpu_replay.brings(key, call.activation)
            cpu_replay.keep(key, prepared)
        return prepared.results(total, given["loss_out"], *outputs.values())


def _numbers_ahead(call: Call, given: dict[str, Any]) -> bool:
    """Whether targets that are numbers are read ahead of the logits.

    That costs a pass over them. Otherwise losses and gradients are computed as if every number were
    allowed and none ignored; where one is not allowed they are no results, and where some are
    ignored all is computed again. So it is done where the gradient replaces the logits, where it
    can be expected that some are ignored, and where rows without any label do not count.
    """
    if not call.targets.size:
        return False
    if call.normalize and call.reduction == "mean" and call.denominator is None:
        return True
    grad_out = given["grad_out"]
    in_place = grad_out is not None and np.may_share_memory(grad_out, call.inputs["logits"])
    return call.real_targets and (in_place or call.ignore_index != IGNORE_INDEX)


def _prepared(
    call: Call, problem: Problem, alpha: float | None, ahead: bool
) -> tuple[cpu_replay.Prepared, np.ndarray]:
    """What the call launches, and the targets that are read beforehand."""
    from fusedce.kernels.cpu import dispatch, runtime

    survey, elements, labels, read = None, 1.0, -1, problem.targets
    count = float(math.prod(call.loss_shape))
    if ahead:
        survey, read = _survey_of_numbers(call, problem)
    elif call.integer_targets:
        if call.sparse_targets:
            elements = -1.0 if call.by_row else float(call.classes)
        if call.targets.size:
            survey, read = dispatch.survey(problem)
            labels = call.targets.size
        else:
            count = 0.0
    losses = dispatch.losses(problem) if call.logits.size else None
    weighted = call.weight is not None or call.pos_weight is not None
    factors = None if weighted else (None, problem.pos_factor, problem.neg_factor)
    prepared = cpu_replay.Prepared(
        program=runtime.Plan(survey, losses, count, elements, labels),
        factors=factors,
        alpha=alpha,
        compute=problem.compute,
        activation=call.activation,
        classes=call.classes,
        reduction=call.reduction,
        shape=call.loss_shape,
        dtype=arrays.loss_dtype(call.logits.dtype),
        grad=problem.grad is not None,
        hess=problem.hess is not None,
    )
    return prepared, read


def _check_unsigned(call: Call) -> None:
    """Labels of 2**63 or more, which would be some other label as int64."""
    unsigned = call.targets.dtype == np.uint64 and call.targets.size > 0
    if unsigned and call.integer_targets and call.targets.max() > HIGHEST:
        raise _bad_label(call, int(call.targets.argmax()))


def _survey_of_numbers(call: Call, problem: Problem) -> tuple[Any, np.ndarray]:
    from fusedce.kernels.cpu import dispatch

    if call.by_row:
        return dispatch.rows_kept(problem), problem.targets
    return dispatch.survey(problem)


def _bad_number(call: Call, compute: Any) -> ValueError:
    """The first number that is none a target may be; kernels only say that there is one."""
    with np.errstate(over="ignore"):
        y = call.targets.astype(compute, copy=False)
    ignored = y == call.ignore_index
    if call.by_row:
        mixed = ignored.any(call.axis) & ~ignored.all(call.axis)
        return checks.mixed_row(_first(mixed), call.ignore_index)
    fine = abs(y) == 1 if call.neg_label == -1 else (y >= 0) & (y <= 1)
    place = _first(~ignored & ~fine)
    return checks.bad_number(call.targets[place], place, call.allowed, call.ignore_index)


def _first(condition: np.ndarray) -> tuple[int, ...]:
    return arrays.place(int(condition.argmax()), condition.shape)


def _bad_label(call: Call, position: int) -> IndexError:
    place = arrays.place(position, call.targets.shape)
    return checks.bad_label(call.targets[place], place, call.allowed, call.ignore_index)


def _is_plain(call: Call, problem: Problem, labels: np.ndarray, outputs: dict[str, Any]) -> bool:
    """Whether the kernels work on the caller's very arrays, with nothing copied."""
    logits, targets, sample_weight = (
        call.inputs[name] for name in ("logits", "targets", "sample_weight")
    )
    views = (problem.logits, problem.targets, labels, problem.sample_weight,
             problem.loss, problem.grad, problem.hess)  # fmt: skip
    given = (logits, targets, targets, sample_weight, *outputs.values())
    return (
        call.logits.size > 0
        and targets.dtype != np.uint64  # labels above HIGHEST are looked for here
        and all(
            np.may_share_memory(view, array)
            for view, array in zip(views, given, strict=True)
            if view is not None
        )
    )


HOST = Host()
