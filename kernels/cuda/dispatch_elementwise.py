"""Plans the launch of the losses of single elements: which of the three kernels, and its types."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fusedce.kernels import tuning
from fusedce.kernels.cuda import tiling
from fusedce.kernels.cuda.dtypes import dtype_tag
from fusedce.kernels.cuda.element_losses import (
    HalfSigmoid,
    HardLabels,
    HardLabelsNoHess,
    SoftLabels,
)
from fusedce.kernels.cuda.elementwise import elementwise_strided
from fusedce.kernels.cuda.elementwise_flat import (
    ElementTypes,
    MostlyHardLabels,
    NoWeight,
    SumOnly,
    UncheckedLabels,
    elementwise_flat,
)
from fusedce.kernels.cuda.elementwise_rows import ClassIndices, elementwise_rows
from fusedce.kernels.cuda.kernel_args import (
    Facts,
    Kernel,
    Launch,
    common,
    is_full,
    launch,
    outcome_factors,
)
from fusedce.kernels.cuda.labels import FloatLabels, IntegerLabels
from fusedce.kernels.cuda.logit_transform import Full, Plain
from fusedce.kernels.cuda.reduce import REDUCTION_SLOT
from fusedce.kernels.link import Identity, Sigmoid
from fusedce.kernels.problem import Problem
from fusedce.kernels.rule import RULES
from fusedce.kernels.strides import coalesce, steps_of
from fusedce.kernels.vector import Wide

# (label_factor, label_shift) of labels {0, 1} and {-1, 1} without label smoothing.
_HARD_LABELS = ((1.0, 0.0), (0.5, 0.5))


def _contiguous(dtype: type, *arrays: np.ndarray | None) -> bool:
    """Whether arrays of one shape are contiguous, with the axes in the same order, in chunks."""
    present = [a for a in arrays if a is not None]
    axes, steps = coalesce(present[0].shape, [steps_of(a) for a in present])
    if len(axes) > 1:
        return False
    per = tiling.per_chunk(dtype)
    gapless = all(not s or s[0] == a.itemsize for a, s in zip(present, steps, strict=True))
    return gapless and all(_chunks_aligned(per, a) for a in present)


def _chunks_aligned(per: int, array: np.ndarray) -> bool:
    """Whether the elements of a chunk of ``per`` logits can be read in words of 32 bits."""
    size = per * array.itemsize
    return size >= 4 and tiling.address(array) % min(16, size) == 0


def _flat_possible(problem: Problem, dtype: type) -> bool:
    """Whether ``elementwise_flat`` can be used: contiguous arrays, no weights."""
    weights = problem.weight, problem.pos_weight, problem.sample_weight
    if problem.sparse_targets or any(w is not None for w in weights):
        return False
    outputs = problem.loss, problem.grad, problem.hess
    return _contiguous(dtype, problem.logits, problem.targets, *outputs)


def _rows_possible(problem: Problem, dtype: type) -> bool:
    """Whether ``elementwise_rows`` can be used: contiguous rows of whole chunks, and weights."""
    outer, classes, inner = problem.logits.shape
    per, sample = tiling.per_chunk(dtype), problem.sample_weight
    if problem.activation is None or inner > 1 or classes % per or not problem.logits.size:
        return False
    if not tiling.side_by_side(problem.logits):
        return False
    few = outer * classes // per < (1 << 31) - (1 << 16)  # the number of a chunk fits an int32
    if not few or (sample is not None and sample.strides[1]):
        return False
    for weight in (problem.weight, problem.pos_weight):
        if weight is not None and not (
            weight.size == classes
            and weight.strides[0] == weight.itemsize
            and _chunks_aligned(per, weight)
        ):
            return False
    targets = None if problem.sparse_targets else problem.targets
    return _contiguous(dtype, problem.logits, targets, problem.loss, problem.grad, problem.hess)


def _label_tag(problem: Problem) -> type:
    """HardLabels if labels are integers and not smoothed, else SoftLabels."""
    hard = problem.sparse_targets or problem.targets.dtype.kind in "biu"
    unsmoothed = (problem.label_factor, problem.label_shift) in _HARD_LABELS
    return HardLabels if hard and unsmoothed else SoftLabels


def _contiguous_labels(problem: Problem, labels: type, positive: bool) -> tuple[type, type]:
    """The type tags (labels, check) of a kernel for contiguous elements.

    positive: factors are positive and no Hessian is written.
    """
    check: type = IntegerLabels if problem.may_ignore else UncheckedLabels
    check = ClassIndices if problem.sparse_targets else check
    check = FloatLabels if problem.real_targets else check
    if not positive:
        return labels, check
    unchanged = (problem.label_factor, problem.label_shift) == (1.0, 0.0)
    floats = not problem.sparse_targets and problem.targets.dtype.kind not in "biu"
    mostly_hard = check is IntegerLabels or (floats and problem.ignore_value not in (0, 1))
    if unchanged and mostly_hard:
        return MostlyHardLabels, check
    return HardLabelsNoHess if labels is HardLabels else SoftLabels, check


def elementwise_launch(problem: Problem, facts: Facts) -> Launch:
    """The launch of the losses of single elements."""
    dtype = dtype_tag(problem.logits.dtype, facts.capability)
    flat = _flat_possible(problem, dtype)
    if flat or _rows_possible(problem, dtype):
        return _contiguous_launch(problem, dtype, flat, facts)
    fields, bound = common(problem)
    fields |= tiling.patches(*problem.logits.shape)
    link = Sigmoid if problem.activation == "sigmoid" else Identity
    extra = Full if is_full(problem) else Plain
    types = type(problem.params), problem.compute, dtype, link, _label_tag(problem), extra
    kernel = Kernel(elementwise_strided, types, 128)
    blocks = -(-problem.logits.size // tuning.GPU_SPAN)
    return launch(kernel, blocks, tuning.GPU_THREADS, fields, bound, shared=REDUCTION_SLOT)


def _contiguous_launch(problem: Problem, dtype: type, flat: bool, facts: Facts) -> Launch:
    """The launch of ``elementwise_flat``, or else of ``elementwise_rows``."""
    fields, bound = common(problem)
    T, rule, full = problem.compute, RULES[type(problem.params)], is_full(problem)
    # 1. How labels are read.
    weights = problem.weight, problem.pos_weight, problem.sample_weight
    unweighted = all(w is None for w in weights)
    positive = unweighted and not full and min(outcome_factors(problem)) > 0.0
    known = _label_tag(problem)
    labels, check = _contiguous_labels(problem, known, positive)
    # 2. How many elements a thread takes: twice as many where registers are left. These are taken
    # by a second branch for labels together with parameters, or by a second function an element.
    heavy = known is SoftLabels or rule.negative is not None
    registers = tiling.resource_limits(T, full, heavy).registers
    two_branches = labels is MostlyHardLabels or check is ClassIndices
    light = labels in (HardLabelsNoHess, MostlyHardLabels)
    light = light and not (two_branches and problem.params)
    twice = light and rule.negative is None and T is not np.float64
    words = tuning.GPU_FLAT_WORDS * (2 if twice else 1)
    registers = max(registers, 128) if twice else registers
    per = tiling.per_chunk(dtype)
    many = max(per, words * 4 // np.dtype(T).itemsize)
    chunks, threads = max(1, many // per), tuning.GPU_THREADS
    fields |= {"span": chunks * threads, "group": tiling.power_above(threads)}
    # 3. The types of the kernel.
    link: type = Sigmoid if problem.activation == "sigmoid" else Identity
    if link is Sigmoid and problem.logits.itemsize == 2 and not full:
        link = HalfSigmoid
    weight_tags = [NoWeight if w is None else dtype_tag(w.dtype) for w in weights]
    types = ElementTypes(
        params=type(problem.params), compute=T, dtype=dtype,
        targets=dtype_tag(problem.targets.dtype, facts.capability),
        loss=SumOnly if problem.loss is None else dtype_tag(problem.loss.dtype),
        link=link, lanes=tiling.enough(many), labels=labels, check=check,
        extra=Full if full else Plain,
        weight=weight_tags[0], pos_weight=weight_tags[1], sample_weight=weight_tags[2],
        numbers=Wide,
    )  # fmt: skip
    # 4. What differs between the two kernels.
    factory: Callable[..., Any] = elementwise_flat
    if flat:
        fields |= {"outer": 1, "classes": problem.logits.size, "inner": 1}
    else:
        factory = elementwise_rows
        factor, shift = tiling.magic(problem.logits.shape[1] // per)
        fields |= {"magic_classes": factor, "shift_classes": shift}
    kernel = Kernel(factory, types, registers)
    blocks = max(1, -(-(problem.logits.size // per) // (chunks * threads)))
    return launch(kernel, blocks, threads, fields, bound, shared=REDUCTION_SLOT)
