"""Fill the plan of a problem and run its kernel: the CPU's answer to ``Problem``."""

from typing import Any

import ml_dtypes
import numpy as np

from fusedce.kernels import launch
from fusedce.kernels.cpu import (
    activations,
    columns,
    distribution,
    distribution_columns,
    driver,
    elements,
    labels,
    movers,
    probabilities,
    rows,
)
from fusedce.kernels.cpu.compile import kernel, mover
from fusedce.kernels.cpu.plan import PLAN
from fusedce.kernels.link import Curvature, Identity, Sigmoid, Slope
from fusedce.kernels.problem import Problem

_FORMS: dict[Any, tuple[type, type]] = {
    np.dtype(np.float16): (movers.Half, np.int16),
    np.dtype(ml_dtypes.bfloat16): (movers.Bfloat, np.uint16),
    np.dtype(bool): (movers.Plain, np.uint8),
}


def _form(dtype: np.dtype[Any]) -> tuple[type, type]:
    """(how a dtype is stored, the NumPy type of its bits)."""
    return _FORMS.get(dtype) or (movers.Plain, dtype.type)


def _load(array: np.ndarray, number: type) -> int:
    return mover(movers.load, *_form(array.dtype), number)


def _store(array: np.ndarray, number: type) -> int:
    return mover(movers.store, *_form(array.dtype), number)


def _view(array: np.ndarray) -> tuple[int, int, int, int]:
    """(address, strides) of an array of three axes; an axis of length 1 stands still."""
    steps = (s if n > 1 else 0 for s, n in zip(array.strides, array.shape, strict=True))
    return (array.ctypes.data, *steps)  # type: ignore[return-value]


class Plan:
    """A plan record, the blocks it is cut into, and what must outlive the run."""

    def __init__(self) -> None:
        self.array = np.zeros(1, PLAN)
        self.record = self.array[0]
        self.keep: list[Any] = []

    def set(self, **fields: Any) -> None:
        """Fill in fields by name."""
        for name, value in fields.items():
            self.record[name] = value

    def array_field(self, name: str, array: np.ndarray | None) -> None:
        """Point a field at an array."""
        if array is not None:
            self.keep.append(array)
            self.record[name] = array.ctypes.data

    def run(self, made: Any, blocks: int, size: int) -> np.ndarray:
        """Run a kernel over the blocks; the partial sums."""
        partial = np.empty(blocks, np.float64)
        self.record["partial"] = partial.ctypes.data
        driver.run(made, self.array.ctypes.data, blocks, parallel=size >= launch.SERIAL_BELOW)
        return partial


def _slices(outer: int, inner: int, block: int) -> int:
    """Blocks of rows, each within one outer slice."""
    return outer * -(-inner // block)


def _blocked(array: np.ndarray, swap: bool) -> np.ndarray:
    """(outer, class, 1) seen as (1, class, outer): rows lie along the inner axis."""
    return array.transpose(2, 1, 0) if swap else array


def _options(plan: Plan, problem: Problem) -> None:
    """The fields every kernel reads alike."""
    plan.set(
        one_hot=problem.one_hot,
        ignore_index=problem.ignore_index,
        lowest=problem.lowest,
        highest=problem.highest,
        hole=problem.hole,
        label_factor=problem.label_factor,
        label_shift=problem.label_shift,
        normalize=problem.normalize,
        z_loss=problem.z_loss,
        softcap=problem.softcap,
        logit_scale=problem.logit_scale,
        scale=problem.scale,
    )
    for k, value in enumerate(problem.params):
        plan.record["params"][k] = value


def _outputs(plan: Plan, problem: Problem, swap: bool) -> None:
    """Where losses, gradient and Hessian go."""
    for name in ("loss", "grad", "hess"):
        array = getattr(problem, name)
        if array is not None:
            plan.record[name] = _view(_blocked(array, swap))
            plan.record["store_" + name] = _store(array, problem.compute)


def _inputs(plan: Plan, problem: Problem, swap: bool, number: type) -> None:
    """Where logits, targets and weights come from."""
    plan.record["logits"] = _view(_blocked(problem.logits, swap))
    plan.record["load_logits"] = _load(problem.logits, problem.compute)
    plan.record["targets"] = _view(_blocked(problem.targets, swap))
    plan.record["load_targets"] = _load(problem.targets, number)
    if problem.sample_weight is not None:
        plan.record["sample_weight"] = _view(_blocked(problem.sample_weight, swap))
        plan.record["load_sample_weight"] = _load(problem.sample_weight, problem.compute)
    if problem.weight is not None:
        plan.array_field("weight", problem.weight.astype(problem.compute))


def _row_plan(problem: Problem, number: type) -> tuple[Plan, tuple[int, int, int], bool]:
    """A plan for rows of classes, and its (outer, classes, inner)."""
    outer, classes, inner = problem.logits.shape
    swap = inner == 1
    if swap:
        outer, inner = inner, outer
    plan = Plan()
    plan.set(outer=outer, classes=classes, inner=inner, width=min(classes, launch.WIDTH))
    _options(plan, problem)
    _inputs(plan, problem, swap, number)
    _outputs(plan, problem, swap)
    return plan, (outer, classes, inner), swap


def _plain(array: np.ndarray | None, problem: Problem, axis: int) -> bool:
    """Whether an array is of the compute dtype and contiguous along an axis."""
    return (
        array is not None
        and array.dtype == problem.compute
        and (array.shape[axis] == 1 or array.strides[axis] == array.itemsize)
    )


def softmax(problem: Problem) -> np.ndarray:
    """Losses over softmax rows; their sums by block."""
    spread = not problem.one_hot or problem.label_shift != 0.0
    plan, (outer, classes, inner), swap = _row_plan(
        problem, np.int64 if problem.one_hot else problem.compute
    )
    few = launch.few_classes(classes, 1 if swap else inner)
    untouched = problem.softcap == 0.0 and problem.logit_scale == 1.0
    if few:
        block = launch.lanes_of_block(classes)
        factory = distribution_columns.distribution_columns if spread else columns.index_columns
    else:
        block = launch.rows_of_block(classes)
        factory = distribution.distribution_rows if spread else rows.index_rows
        plan.set(
            direct_logits=untouched and _plain(problem.logits, problem, 1),
            direct_grad=_plain(problem.grad, problem, 1),
        )
    block = min(block, inner)
    plan.set(block=block)
    made = kernel(factory, type(problem.params), problem.compute)
    return plan.run(made, _slices(outer, inner, block), problem.logits.size)


def probability_index(problem: Problem) -> np.ndarray:
    """Losses over rows of probabilities with class indices; their sums by block."""
    plan, (outer, classes, inner), _ = _row_plan(problem, np.int64)
    block = min(launch.rows_of_block(classes), inner)
    plan.set(block=block)
    made = kernel(probabilities.probability_rows, type(problem.params), problem.compute)
    return plan.run(made, _slices(outer, inner, block), problem.logits.size)


def coalesce(
    shape: tuple[int, ...], strides: list[tuple[int, ...]]
) -> tuple[list[int], list[list[int]]]:
    """Axes in falling order of the first array's strides, neighbours merged where all arrays can.

    Returns the new shape and, for each array, its strides along it.
    """
    axes = [k for k in range(len(shape)) if shape[k] > 1]
    axes.sort(key=lambda k: -abs(strides[0][k]))
    sizes: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for k in axes:
        if sizes and all(s[-1] == t[k] * shape[k] for s, t in zip(steps, strides, strict=True)):
            sizes[-1] *= shape[k]
            for s, t in zip(steps, strides, strict=True):
                s[-1] = t[k]
        else:
            sizes.append(shape[k])
            for s, t in zip(steps, strides, strict=True):
                s.append(t[k])
    return sizes, steps


def _steps(array: np.ndarray) -> tuple[int, ...]:
    """Strides of an array that stands still along axes of length 1."""
    return tuple(0 if n == 1 else s for s, n in zip(array.strides, array.shape, strict=True))


class _Patches:
    """The axes of an element-wise problem, merged as far as all its arrays allow."""

    def __init__(self, problem: Problem, up: np.ndarray, down: np.ndarray) -> None:
        arrays = {
            "logits": problem.logits, "targets": problem.targets, "up": up, "down": down,
            "sample_weight": problem.sample_weight, "loss": problem.loss, "grad": problem.grad,
            "hess": problem.hess,
        }  # fmt: skip
        self.arrays = {name: a for name, a in arrays.items() if a is not None}
        strides = [_steps(a) for a in self.arrays.values()]
        strides.append((0, int(problem.one_hot), 0))  # the class axis, where it must be known
        sizes, steps = coalesce(problem.logits.shape, strides)
        lead = 3 - len(sizes)
        self.outer, self.inner, self.along = [1] * lead + sizes
        self.cls = [0] * lead + steps.pop()
        self.views = {
            name: (a.ctypes.data, 0 if lead else s[0], s[-2] if lead < 2 else 0, s[-1] if s else 0)
            for (name, a), s in zip(self.arrays.items(), steps, strict=True)
        }
        self.lines = max(1, launch.ELEMENTS // self.along)  # of a patch
        self.columns = min(launch.ELEMENTS, self.along)
        self.blocks = self.outer * -(-self.inner // self.lines) * -(-self.along // self.columns)

    def direct(self, name: str, number: type) -> bool:
        """Whether every patch of an array lies contiguous, in the compute dtype."""
        array = self.arrays.get(name)
        if array is None or array.dtype != number:
            return False
        _, _, line, along = self.views[name]
        tight = along == array.itemsize or self.along == 1
        one_line = self.lines == 1 or self.inner == 1
        return tight and (one_line or line == array.itemsize * self.along)

    def steady(self, name: str) -> bool:
        """Whether an array is the same in every patch."""
        _, outer, line, along = self.views[name]
        return outer == 0 and line == 0 and (along == 0 or self.columns == self.along)


_YES_OR_NO = ((1.0, 0.0), (0.5, 0.5))  # of labels {0, 1} and {-1, 1}


def _label_mover(problem: Problem) -> int:
    """How targets become numbers; integer labels may be ignored."""
    if problem.one_hot:
        return _load(problem.targets, np.int64)
    if problem.targets.dtype.kind in "iu":
        return mover(movers.load_labels, problem.targets.dtype.type, problem.compute)
    return _load(problem.targets, problem.compute)


def element_losses(problem: Problem) -> np.ndarray:
    """Losses of single elements; their sums by block."""
    T = problem.compute
    up = problem.up.astype(T).reshape(1, -1, 1)
    down = problem.down.astype(T).reshape(1, -1, 1)
    patches = _Patches(problem, up, down)
    plan = Plan()
    plan.keep += [up, down]
    _options(plan, problem)
    for name, (address, outer, line, along) in patches.views.items():
        plan.record[name] = (address, outer, along, line)  # in the order of VIEW
    for name in ("loss", "grad", "hess"):
        if name in patches.arrays:
            plan.record["store_" + name] = _store(patches.arrays[name], T)
    if problem.sample_weight is not None:
        plan.set(load_sample_weight=_load(problem.sample_weight, T))
    whole_labels = problem.one_hot or problem.targets.dtype.kind in "iu"
    in_place = problem.grad is not None and np.may_share_memory(problem.grad, problem.logits)
    untouched = problem.softcap == 0.0 and problem.logit_scale == 1.0 and not in_place
    plan.set(
        outer=patches.outer, classes=patches.along, inner=patches.inner, block=launch.ELEMENTS,
        class_outer=patches.cls[0], class_line=patches.cls[1], class_along=patches.cls[2],
        load_logits=_load(problem.logits, T), load_targets=_label_mover(problem),
        load_factor=_load(up, T),
        direct_logits=untouched and patches.direct("logits", T),
        direct_targets=not problem.one_hot and patches.direct("targets", T),
        direct_grad=patches.direct("grad", T),
        ignoring=whole_labels,
        hard=(whole_labels or problem.targets.dtype == bool)
        and (problem.label_factor, problem.label_shift) in _YES_OR_NO,
        steady=problem.sample_weight is None
        and patches.steady("up") and patches.steady("down"),
    )  # fmt: skip
    link = Sigmoid if problem.activation == "sigmoid" else Identity
    order = Slope if problem.hess is None else Curvature
    made = kernel(elements.elements, type(problem.params), T, link, order)
    return plan.run(made, patches.blocks, problem.logits.size)


def check_labels(problem: Problem) -> tuple[float, int, int]:
    """(sum of the weights of labels, number of labels, first bad position or -1), ignored aside.

    The position counts in C order over the targets of the problem.
    """
    targets = problem.targets
    if targets.shape[1] != 1 and not targets.flags.c_contiguous:
        targets = np.ascontiguousarray(targets)
    rows = targets.reshape(1, 1, -1) if targets.flags.c_contiguous else _rows_view(targets)
    outer, _, inner = rows.shape
    plan = Plan()
    block = min(inner, launch.ROWS)
    blocks = _slices(outer, inner, block)
    bad, count = np.empty(blocks, np.int64), np.empty(blocks, np.int64)
    _options(plan, problem)
    plan.set(outer=outer, inner=inner, block=block, targets=_view(rows))
    plan.set(load_targets=_load(rows, np.int64), bad=bad.ctypes.data, count=count.ctypes.data)
    if problem.weight is not None and problem.one_hot:
        plan.array_field("weight", problem.weight.astype(problem.compute))
    weights = plan.run(kernel(labels.labels, problem.compute), blocks, rows.size // 16)
    wrong = bad[bad >= 0]
    return float(weights.sum()), int(count.sum()), int(wrong[0]) if wrong.size else -1


def _rows_view(targets: np.ndarray) -> np.ndarray:
    """(outer, 1, inner) targets with their rows along the inner axis."""
    return targets.transpose(2, 1, 0) if targets.shape[2] == 1 else targets


def occupied_rows(problem: Problem) -> int:
    """The number of rows with a target that is not zero."""
    plan, (outer, classes, inner), _ = _row_plan(problem, problem.compute)
    block = min(launch.rows_of_block(classes), inner)
    blocks = _slices(outer, inner, block)
    count = np.empty(blocks, np.int64)
    plan.set(block=block, count=count.ctypes.data)
    plan.run(kernel(labels.occupied, problem.compute), blocks, problem.targets.size)
    return int(count.sum())


def losses(problem: Problem) -> np.ndarray:
    """Run a problem: everything asked for is written; the sums of the losses by block."""
    if problem.activation == "softmax":
        return softmax(problem)
    if problem.activation is None and problem.one_hot:
        return probability_index(problem)
    return element_losses(problem)


def activate(name: str, source: np.ndarray, target: np.ndarray, compute: type) -> None:
    """target <- softmax, log_softmax, sigmoid or log_sigmoid of source, both (outer, C, inner)."""
    outer, classes, inner = source.shape
    plan = Plan()
    rowwise = name.endswith("softmax")
    if rowwise:
        swap = inner == 1
        views = [_view(_blocked(a, swap)) for a in (source, target)]
        if swap:
            outer, inner = inner, outer
    else:  # any one axis will do as rows: blocks of the longest contiguous one
        sizes, steps = coalesce(source.shape, [_steps(source), _steps(target)])
        outer, inner, classes = [1] * (3 - len(sizes)) + sizes
        pad = [[0] * (3 - len(s)) + s for s in steps]
        views = [
            (a.ctypes.data, s[0], s[2], s[1]) for a, s in zip((source, target), pad, strict=True)
        ]
    block = min(launch.rows_of_block(classes), inner)
    plan.set(
        outer=outer, classes=classes, inner=inner, block=block, logit_scale=1.0,
        width=min(classes, launch.WIDTH if rowwise else launch.ELEMENTS),
        logits=views[0], grad=views[1],
        load_logits=_load(source, compute), store_grad=_store(target, compute),
    )  # fmt: skip
    plan.run(kernel(getattr(activations, name), compute), _slices(outer, inner, block), source.size)
