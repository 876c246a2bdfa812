"""Choose the kernel of a ``Problem`` and fill in its arguments.

The choice depends on dtypes, shapes, strides and scalars alone, never on the values or the address
of an array: a launch is used again for later calls.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from fusedce.kernels import tuning
from fusedce.kernels.cpu import (
    activations,
    distribution_columns,
    distribution_rows,
    elementwise,
    index_columns,
    index_rows,
    labels,
    packing,
    probabilities,
    row_gradients,
)
from fusedce.kernels.cpu.compile import kernel, packer, rule_kernel
from fusedce.kernels.cpu.dtypes import storage
from fusedce.kernels.cpu.kernel_args import PRESENT, packed
from fusedce.kernels.cpu.packing import pack_function, unpack_function, view
from fusedce.kernels.cpu.runtime import Launch, Plan
from fusedce.kernels.link import Curvature, Identity, Sigmoid, Slope
from fusedce.kernels.problem import Problem
from fusedce.kernels.strides import coalesce, steps_of


class ArgsBuilder:
    """The fields of a kernel's arguments but the addresses, which ``runtime.Plan`` fills in."""

    def __init__(self) -> None:
        self.record: dict[str, Any] = {}

    def set(self, **fields: Any) -> None:
        """Fill in fields by name."""
        self.record.update(fields)

    def launch(self, made: Any, blocks: int, size: int) -> Launch:
        """The launch of a kernel with these arguments over a number of blocks."""
        parallel = blocks > 1 and size >= tuning.SERIAL_BELOW
        return Launch(made, packed(self.record), blocks, parallel)


def _interleaved(array: np.ndarray | None) -> bool:
    """Whether an array is contiguous rows of very few classes."""
    if array is None:
        return False
    classes, item = array.shape[1], array.itemsize
    along = array.shape[2] == 1 and array.shape[0] > 1
    return (
        along
        and 2 <= classes <= tuning.INTERLEAVED
        and array.strides[:2] == (classes * item, item)
        and array.dtype.kind != "b"
    )


def _slices(outer: int, inner: int, block: int) -> int:
    """Blocks of rows, each within one outer slice."""
    return outer * -(-inner // block)


def _blocked(array: np.ndarray, swap: bool) -> np.ndarray:
    """(outer, class, 1) as (1, class, outer), so that rows lie along the inner axis."""
    return array.transpose(2, 1, 0) if swap else array


def _options(args: ArgsBuilder, problem: Problem) -> None:
    """The fields that every kernel reads in the same sense."""
    args.set(
        sparse_targets=problem.sparse_targets,
        ignore_index=problem.ignore_index,
        may_ignore=problem.may_ignore,
        real_targets=problem.real_targets,
        ignore_value=problem.ignore_value,
        lowest=problem.lowest,
        highest=problem.highest,
        forbidden_label=problem.forbidden_label,
        label_factor=problem.label_factor,
        label_shift=problem.label_shift,
        normalize=problem.normalize,
        **problem.scalars,
        params=tuple(problem.params),
    )


def _outputs(args: ArgsBuilder, problem: Problem, swap: bool, direct_grad: bool) -> None:
    """Views of losses, gradient and Hessian, and the packing functions that are needed."""
    for name in ("loss", "grad", "hess"):
        array = getattr(problem, name)
        if array is not None:
            args.record[name] = view(_blocked(array, swap))
            if name != "grad" or not direct_grad:
                args.record["store_" + name] = unpack_function(array, problem.compute)


def _inputs(
    args: ArgsBuilder, problem: Problem, swap: bool, number: type, direct_logits: bool
) -> None:
    """Views of logits, targets and weights, and their packing functions."""
    args.record["logits"] = view(_blocked(problem.logits, swap))
    if not direct_logits:
        args.record["load_logits"] = pack_function(problem.logits, problem.compute)
    args.record["targets"] = view(_blocked(problem.targets, swap))
    args.record["load_targets"] = pack_function(problem.targets, number)
    if problem.sample_weight is not None:
        args.record["sample_weight"] = view(_blocked(problem.sample_weight, swap))
        args.record["load_sample_weight"] = pack_function(problem.sample_weight, problem.compute)
    if problem.weight is not None:
        args.set(weight=PRESENT)


def _row_args(
    problem: Problem, number: type, *, direct_logits: bool = False, direct_grad: bool = False
) -> tuple[ArgsBuilder, tuple[int, int, int], bool]:
    """The arguments for rows of classes, and the shape (outer, classes, inner)."""
    outer, classes, inner = problem.logits.shape
    swap = inner == 1
    if swap:
        outer, inner = inner, outer
    args = ArgsBuilder()
    args.set(outer=outer, classes=classes, inner=inner, width=min(classes, tuning.WIDTH))
    _options(args, problem)
    _inputs(args, problem, swap, number, direct_logits)
    _outputs(args, problem, swap, direct_grad)
    args.set(direct_logits=direct_logits, direct_grad=direct_grad)
    return args, (outer, classes, inner), swap


def _plain(array: np.ndarray | None, problem: Problem, axis: int) -> bool:
    """Whether an array is of the compute dtype and contiguous along an axis."""
    if array is None or array.dtype != problem.compute:
        return False
    return bool(array.shape[axis] == 1 or array.strides[axis] == array.itemsize)


def softmax_losses(problem: Problem) -> Launch:
    """Losses over softmax rows."""
    T = problem.compute
    spread = not problem.sparse_targets or problem.label_shift != 0.0
    few = tuning.few_classes(problem.logits)
    number = np.int64 if problem.sparse_targets and not few else T
    options = problem.transforms_logits
    by_row = problem.logits.shape[2] == 1
    # With one row a lane, a class of all rows is stored at a time: rows lie along axis 2.
    direct_grad = _plain(problem.grad, problem, 2 if few else 1) and not (few and by_row)
    args, (outer, classes, inner), _ = _row_args(
        problem, number, direct_grad=direct_grad and not few,
        direct_logits=not (few or options) and _plain(problem.logits, problem, 1),
    )  # fmt: skip
    tight = by_row and problem.hess is None and _tight(problem.grad)
    large = problem.grad is not None and problem.grad.nbytes > tuning.STREAM_ABOVE
    args.set(
        direct_grad=direct_grad,
        direct_targets=not problem.sparse_targets and _plain(problem.targets, problem, 1),
        stream=large and (direct_grad or (not few and _half(problem.grad))),
    )
    factory: Callable[..., Any]
    extra: tuple[type, ...] = ()
    if few:
        block = min(tuning.lanes_per_block(classes), -(-inner // 16) * 16)  # whole vectors
        factory = (
            distribution_columns.distribution_columns if spread else index_columns.index_columns
        )
        args.set(adjacent=tight and _plain(problem.grad, problem, 1) and large)
        if _interleaved(problem.logits):
            _interleave(args, problem)
    elif spread:
        block = tuning.rows_per_block(classes)
        factory = distribution_rows.distribution_rows
    else:
        block = min(inner, tuning.rows_per_block(classes, args.record["direct_logits"]))
        factory = index_rows.index_rows
        whole = tight and problem.scalars["z_loss"] == 0.0 and classes <= tuning.WIDTH
        whole = whole and (direct_grad or _half(problem.grad))
        nothing = problem.grad is None and problem.hess is None
        plain = not options and (whole or nothing)
        extra = (row_gradients.ContiguousGrad if plain else row_gradients.AnyOutputs,)
    args.set(block=block)
    made = rule_kernel(factory, type(problem.params), T, *extra)
    return args.launch(made, _slices(outer, inner, block), problem.logits.size)


def _half(array: np.ndarray | None) -> bool:
    """Whether the class axis is contiguous 16-bit numbers."""
    return array is not None and (array.itemsize, array.strides[1]) == (2, 2)


def _tight(array: np.ndarray | None) -> bool:
    """Whether the rows of (outer, class, 1) are contiguous in memory."""
    if array is None:
        return False
    rows, classes, _ = array.shape
    return rows == 1 or bool(array.strides[0] == classes * array.itemsize)


def _interleave(args: ArgsBuilder, problem: Problem) -> None:
    """The packing functions for contiguous rows of very few classes."""
    marks, grad = (0,) * problem.logits.shape[1], problem.grad
    packer_types = (*storage(problem.logits.dtype), problem.compute, marks)
    args.record["load_logits"] = packer(packing.load_few, *packer_types)
    if grad is not None and _interleaved(grad):
        args.record["store_grad"] = packer(packing.store_few, *packer_types)


def probability_losses(problem: Problem) -> Launch:
    """Losses over rows of probabilities with class indices."""
    args, (outer, classes, inner), _ = _row_args(problem, np.int64)
    block = min(tuning.rows_per_block(classes), inner)
    args.set(block=block)
    made = kernel(probabilities.probability_rows, type(problem.params), problem.compute)
    return args.launch(made, _slices(outer, inner, block), problem.logits.size)


class _Patches:
    """The axes of an element-wise problem, merged where the strides of all arrays allow it."""

    def __init__(self, problem: Problem, up: np.ndarray, down: np.ndarray) -> None:
        arrays = {
            "logits": problem.logits, "targets": problem.targets,
            "pos_factor": up, "neg_factor": down,
            "sample_weight": problem.sample_weight, "loss": problem.loss, "grad": problem.grad,
            "hess": problem.hess,
        }  # fmt: skip
        self.arrays = {name: a for name, a in arrays.items() if a is not None}
        strides = [steps_of(a) for a in self.arrays.values()]
        # The class axis is not merged where class indices are compared with it.
        strides.append((0, int(problem.sparse_targets), 0))
        sizes, steps = coalesce(problem.logits.shape, strides)
        lead = 3 - len(sizes)
        self.outer, self.inner, self.along = [1] * lead + sizes
        self.cls = [0] * lead + steps.pop()
        self.views = {
            name: (PRESENT, 0 if lead else s[0], s[-2] if lead < 2 else 0, s[-1] if s else 0)
            for (name, a), s in zip(self.arrays.items(), steps, strict=True)
        }
        self.lines = max(1, tuning.ELEMENTS // self.along)  # of a patch
        self.columns = min(tuning.ELEMENTS, self.along)
        self.blocks = self.outer * -(-self.inner // self.lines) * -(-self.along // self.columns)

    def direct(self, name: str, number: type) -> bool:
        """Whether every patch of an array is contiguous, in the compute dtype."""
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


def elementwise_losses(problem: Problem) -> Launch:
    """Losses of single elements."""
    T = problem.compute
    up, down = problem.pos_factor.reshape(1, -1, 1), problem.neg_factor.reshape(1, -1, 1)
    patches = _Patches(problem, up, down)
    args = ArgsBuilder()
    _options(args, problem)
    for name, (address, outer, line, along) in patches.views.items():
        args.record[name] = (address, outer, along, line)  # in the order of VIEW
    for name in ("loss", "grad", "hess"):
        if name in patches.arrays and not (name == "grad" and patches.direct("grad", T)):
            args.record["store_" + name] = unpack_function(patches.arrays[name], T)
    if problem.sample_weight is not None:
        args.set(load_sample_weight=pack_function(problem.sample_weight, T))
    whole_labels = problem.sparse_targets or problem.targets.dtype.kind in "iu"
    untouched = not problem.transforms_logits
    direct_logits = untouched and patches.direct("logits", T)
    direct_targets = not problem.sparse_targets and patches.direct("targets", T)
    yes_or_no = (problem.label_factor, problem.label_shift) in _YES_OR_NO
    uniform = up.size == down.size == 1 and problem.sample_weight is None and bool(up * down != 0)
    # The fastest loop is used only if no ignored label could look like a valid one to it.
    counted = not problem.may_ignore and problem.ignore_value not in (problem.lowest, 1)
    args.set(
        outer=patches.outer, classes=patches.along, inner=patches.inner, block=tuning.ELEMENTS,
        class_outer=patches.cls[0], class_line=patches.cls[1], class_column=patches.cls[2],
        direct_logits=direct_logits, direct_targets=direct_targets,
        direct_grad=patches.direct("grad", T),
        uniform=yes_or_no and uniform and counted, uniform_if_none_ignored=yes_or_no and uniform,
        binary=whole_labels or problem.targets.dtype == bool, unsmoothed=yes_or_no,
        constant_factors=problem.sample_weight is None
        and patches.steady("pos_factor") and patches.steady("neg_factor"),
        stream=problem.grad is not None and problem.grad.nbytes > tuning.STREAM_ABOVE,
    )  # fmt: skip
    if not direct_logits:
        args.set(load_logits=pack_function(problem.logits, T))
    if up.size * down.size > 1:
        args.set(load_factor=pack_function(up, T))
    if not direct_targets:
        kept = pack_function(problem.targets, np.int64 if problem.sparse_targets else T)
        args.set(load_targets=kept, load_targets_if_none_ignored=kept)
    if problem.may_ignore and not problem.sparse_targets:
        args.set(load_targets=packer(packing.load_binary_labels, problem.targets.dtype.type, T))
    link = Sigmoid if problem.activation == "sigmoid" else Identity
    order = Slope if problem.hess is None else Curvature
    made = rule_kernel(elementwise.elementwise, type(problem.params), T, link, order)
    return args.launch(made, patches.blocks, problem.logits.size)


def label_launch(problem: Problem) -> tuple[Launch, np.ndarray]:
    """The launch that reads labels ahead of the logits, and the labels it reads.

    It finds (sum of their weights, how many are kept, the first bad one), or of numbers
    (0, how many are kept, 0 if any is bad). Positions count in C order over the targets.
    """
    targets = problem.targets
    if targets.shape[1] != 1 and not targets.flags.c_contiguous:
        targets = np.ascontiguousarray(targets)
    rows = targets.reshape(1, 1, -1) if targets.flags.c_contiguous else _rows_view(targets)
    outer, _, inner = rows.shape
    args = ArgsBuilder()
    block = min(inner, tuning.ROWS)
    _options(args, problem)
    args.set(outer=outer, inner=inner, block=block, targets=view(rows))
    number = problem.compute if problem.real_targets else np.int64
    args.set(load_targets=pack_function(rows, number), direct_targets=_plain(rows, problem, 2))
    if rows.strides[2] == rows.itemsize and rows.dtype != np.uint64:
        args.set(bytes=rows.itemsize)
    if problem.weight is not None and problem.sparse_targets:
        args.set(weight=PRESENT)
    made = kernel(labels.number_labels if problem.real_targets else labels.labels, problem.compute)
    return args.launch(made, _slices(outer, inner, block), rows.size // 16), rows


def _rows_view(targets: np.ndarray) -> np.ndarray:
    """(outer, 1, inner) targets with their rows along the inner axis."""
    return targets.transpose(2, 1, 0) if targets.shape[2] == 1 else targets


def distribution_label_launch(problem: Problem) -> Launch:
    """The launch that counts the distributions that are not ignored."""
    args, (outer, classes, inner), _ = _row_args(problem, problem.compute)
    block = min(tuning.rows_per_block(classes), inner)
    args.set(block=block)
    made = kernel(labels.distribution_labels, problem.compute)
    return args.launch(made, _slices(outer, inner, block), problem.targets.size)


def losses(problem: Problem) -> Launch:
    """The launch that writes losses, gradients and Hessians, and sums the losses."""
    if problem.activation == "softmax":
        return softmax_losses(problem)
    if problem.activation is None and problem.sparse_targets:
        return probability_losses(problem)
    return elementwise_losses(problem)


def activate(name: str, source: np.ndarray, target: np.ndarray, compute: type) -> None:
    """target <- softmax, log_softmax, sigmoid or log_sigmoid of source, both (outer, C, inner)."""
    outer, classes, inner = source.shape
    args = ArgsBuilder()
    rowwise = name.endswith("softmax")
    if rowwise:
        swap = inner == 1
        views = [view(_blocked(a, swap)) for a in (source, target)]
        if swap:
            outer, inner = inner, outer
    else:  # rows are the longest contiguous axis
        sizes, steps = coalesce(source.shape, [steps_of(source), steps_of(target)])
        outer, inner, classes = [1] * (3 - len(sizes)) + sizes
        pad = [[0] * (3 - len(s)) + s for s in steps]
        views = [(PRESENT, s[0], s[2], s[1]) for s in pad]
    block = min(tuning.rows_per_block(classes), inner)
    args.set(
        outer=outer, classes=classes, inner=inner, block=block, logit_scale=1.0,
        width=min(classes, tuning.WIDTH if rowwise else tuning.ELEMENTS),
        logits=views[0], grad=views[1],
        load_logits=pack_function(source, compute), store_grad=unpack_function(target, compute),
    )  # fmt: skip
    made = kernel(getattr(activations, name), compute)
    only = args.launch(made, _slices(outer, inner, block), source.size)
    Plan(None, only, 1.0).run(None, (source, *[None] * 6, target, None), 0.0)
