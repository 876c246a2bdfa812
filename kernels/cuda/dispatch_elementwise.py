"""The launches of element-wise losses."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fusedce.kernels import tuning
from fusedce.kernels.cuda import tiling
from fusedce.kernels.cuda.dtypes import dtype_tag
from fusedce.kernels.cuda.element_losses import HalfSigmoid, Soft, Sure, Yes
from fusedce.kernels.cuda.elementwise import elements
from fusedce.kernels.cuda.elementwise_flat import Given, Mixed, Reduced, Whole, flat_elements
from fusedce.kernels.cuda.elementwise_rows import Indexed, row_elements
from fusedce.kernels.cuda.elementwise_weights import Absent
from fusedce.kernels.cuda.kernel_args import Facts, Kernel, Launch, common, factors, is_full, launch
from fusedce.kernels.cuda.labels import Numbers
from fusedce.kernels.cuda.logit_transform import Full, Plain
from fusedce.kernels.cuda.reduce import REDUCTION_SLOT
from fusedce.kernels.link import Identity, Sigmoid
from fusedce.kernels.problem import Problem
from fusedce.kernels.rule import RULES
from fusedce.kernels.strides import coalesce, steps_of
from fusedce.kernels.vector import Wide

_YES_OR_NO = ((1.0, 0.0), (0.5, 0.5))  # of labels {0, 1} and {-1, 1}


def _alike(stored: type, *arrays: np.ndarray | None) -> bool:
    """Whether arrays of one shape lie alike from end to end, in chunks."""
    given = [a for a in arrays if a is not None]
    axes, steps = coalesce(given[0].shape, [steps_of(a) for a in given])
    if len(axes) > 1:
        return False
    per = tiling.per_chunk(stored)
    gapless = all(not s or s[0] == a.itemsize for a, s in zip(given, steps, strict=True))
    return gapless and all(_in_chunks(per, a) for a in given)


def _in_chunks(per: int, array: np.ndarray) -> bool:
    """Whether what belongs to a chunk of so many numbers can be read in words."""
    piece = per * array.itemsize
    return piece >= 4 and tiling.address(array) % min(16, piece) == 0


def _flat(problem: Problem, stored: type) -> bool:
    """Whether arrays lie alike and factors are the same everywhere."""
    weights = problem.weight, problem.pos_weight, problem.sample_weight
    if problem.sparse_targets or any(w is not None for w in weights):
        return False
    outputs = problem.loss, problem.grad, problem.hess
    return _alike(stored, problem.logits, problem.targets, *outputs)


def _rows(problem: Problem, stored: type) -> bool:
    """Whether rows of whole chunks lie alike, and so do weights of classes."""
    outer, classes, inner = problem.logits.shape
    per, sample = tiling.per_chunk(stored), problem.sample_weight
    if problem.activation is None or inner > 1 or classes % per or not problem.logits.size:
        return False
    if not tiling.side_by_side(problem.logits):
        return False
    few = outer * classes // per < (1 << 31) - (1 << 16)  # chunks, and as many as a block takes
    if not few or (sample is not None and sample.strides[1]):
        return False
    for weight in (problem.weight, problem.pos_weight):
        if weight is not None and not (
            weight.size == classes
            and weight.strides[0] == weight.itemsize
            and _in_chunks(per, weight)
        ):
            return False
    beside = None if problem.sparse_targets else problem.targets
    return _alike(stored, problem.logits, beside, problem.loss, problem.grad, problem.hess)


def element_losses(problem: Problem, facts: Facts) -> Launch:
    """Losses of single elements."""
    fields, bound = common(problem)
    stored = dtype_tag(problem.logits.dtype, facts.capability)
    T, rule = problem.compute, type(problem.params)
    link: type = Sigmoid if problem.activation == "sigmoid" else Identity
    hard = problem.sparse_targets or problem.targets.dtype.kind in "biu"
    yes_or_no = (problem.label_factor, problem.label_shift) in _YES_OR_NO
    labels: type = Yes if hard and yes_or_no else Soft
    full = is_full(problem)
    heavy = labels is Soft or RULES[rule].negative is not None  # two functions an element
    extra, registers = Full if full else Plain, tiling.resource_limits(T, full, heavy).registers
    threads = tuning.GPU_THREADS
    flat = _flat(problem, stored)
    if not flat and not _rows(problem, stored):
        fields |= tiling.patches(*problem.logits.shape)
        kernel = Kernel(elements, (rule, T, stored, link, labels, extra), 128)
        blocks = -(-problem.logits.size // tuning.GPU_SPAN)
        return launch(kernel, blocks, threads, fields, bound, shared=REDUCTION_SLOT)
    check: type = Indexed if problem.sparse_targets else Whole if problem.may_ignore else Given
    check = Numbers if problem.real_targets else check
    weights = problem.weight, problem.pos_weight, problem.sample_weight
    even = all(w is None for w in weights)
    up, down = factors(problem)
    if even and not full and min(up, down) > 0.0:
        plain = (problem.label_factor, problem.label_shift) == (1.0, 0.0)
        usual = check is Whole or (not hard and problem.ignore_value not in (0, 1))
        labels = Mixed if plain and usual else Sure if hard and yes_or_no else Soft
    per = tiling.per_chunk(stored)
    # Twice the numbers, where two ways of labels or two functions an element leave registers for
    # it: rules without parameters need few.
    two_ways = labels is Mixed or check is Indexed
    light = labels in (Sure, Mixed) and not (two_ways and problem.params)
    twice = light and RULES[rule].negative is None and T is not np.float64
    words = tuning.GPU_FLAT_WORDS * (2 if twice else 1)
    registers = max(registers, 128) if twice else registers
    many = max(per, words * 4 // np.dtype(T).itemsize)
    lanes = tiling.enough(many)
    chunks = max(1, many // per)
    fields |= {"span": chunks * threads, "group": tiling.power_above(threads)}
    if link is Sigmoid and problem.logits.itemsize == 2 and not full:
        link = HalfSigmoid
    out = Reduced if problem.loss is None else dtype_tag(problem.loss.dtype)
    targets = dtype_tag(problem.targets.dtype, facts.capability)
    types: tuple[type, ...] = (
        rule, T, stored, targets, out, link, lanes, labels, check, extra,
    )  # fmt: skip
    factory: Callable[..., Any] = flat_elements
    if flat:
        fields |= {"outer": 1, "classes": problem.logits.size, "inner": 1}
    else:
        factory = row_elements
        types += tuple(Absent if w is None else dtype_tag(w.dtype) for w in weights)
        factor, shift = tiling.magic(problem.logits.shape[1] // per)
        fields |= {"magic_classes": factor, "shift_classes": shift}
    kernel = Kernel(factory, (*types, Wide), registers)
    blocks = max(1, -(-(problem.logits.size // per) // (chunks * threads)))
    return launch(kernel, blocks, threads, fields, bound, shared=REDUCTION_SLOT)
