"""The launches over rows of classes."""

from typing import Any

import numpy as np

from fusedce.kernels import tuning
from fusedce.kernels.cuda import tiling
from fusedce.kernels.cuda.columns import SmemStaged, Strided
from fusedce.kernels.cuda.distribution_columns import distribution_columns
from fusedce.kernels.cuda.distribution_rows import (
    OneHot,
    OwnLayout,
    SameLayout,
    Unweighted,
    distribution_rows,
)
from fusedce.kernels.cuda.dtypes import dtype_tag
from fusedce.kernels.cuda.index_columns import index_columns
from fusedce.kernels.cuda.index_rows import index_rows
from fusedce.kernels.cuda.kernel_args import Facts, Kernel, Launch, common, is_full, launch
from fusedce.kernels.cuda.logit_transform import Full, Plain
from fusedce.kernels.cuda.probabilities import probability_rows
from fusedce.kernels.cuda.reduce import REDUCTION_SLOTS
from fusedce.kernels.cuda.row_cache import RegisterExps, Registers, Reload
from fusedce.kernels.problem import Problem
from fusedce.kernels.vector import Wide


def softmax(problem: Problem, facts: Facts) -> Launch:
    """Losses over softmax rows."""
    stored = dtype_tag(problem.logits.dtype, facts.capability)
    arrays = problem.logits, problem.grad, problem.hess
    limits = tiling.resource_limits(problem.compute, is_full(problem), _spread(problem))
    if tiling.along(stored, limits.classes, *arrays) or not tiling.side_by_side(*arrays):
        return _columns(problem, stored, limits)
    return _rows(problem, stored, facts, limits)


def _spread(problem: Problem) -> bool:
    """Whether classes other than the target have mass."""
    return not problem.sparse_targets or problem.label_shift != 0.0


def _masses(problem: Problem, stored: type) -> tuple[type, type, type]:
    """(form of the labels, where they are, form of the weights) of a distribution."""
    weights: type = Unweighted if problem.weight is None else dtype_tag(problem.weight.dtype)
    if problem.sparse_targets:
        return stored, OneHot, weights
    targets = problem.targets
    piece = min(16, tiling.per_chunk(stored) * targets.itemsize)
    whole = tiling.whole(stored, problem.logits) and piece >= 4 and tiling.aligned(targets, piece)
    beside = tiling.alike(problem.logits, targets) or whole
    place = SameLayout if beside and tiling.side_by_side(targets) else OwnLayout
    return dtype_tag(targets.dtype), place, weights


def _rows(problem: Problem, stored: type, facts: Facts, limits: tiling.ResourceLimits) -> Launch:
    """A team a row."""
    fields, bound = common(problem)
    full, spread = is_full(problem), _spread(problem)
    kept = Registers if full or spread else RegisterExps
    d = tiling.rows(stored, problem.logits, facts, limits, kept)
    fields |= d.fields()
    alignment = tiling.alignment(problem.logits, problem.grad, problem.hess)
    types: tuple[Any, ...] = type(problem.params), problem.compute, stored
    outs = alignment, Full if full else Plain
    if spread:
        types += (*_masses(problem, stored), d.residency, d.group, d.lanes, *outs, Wide)
        kernel = Kernel(distribution_rows, types)
    else:
        kernel = Kernel(
            index_rows,
            (*types, dtype_tag(problem.targets.dtype), d.residency, d.group, d.lanes, *outs),
        )
    return d.launch(kernel._replace(registers=d.registers(limits)), fields, bound)


def lanes_of(
    stored: type,
    compute: type,
    limits: tiling.ResourceLimits,
    logits: np.ndarray,
    *outputs: np.ndarray | None,
) -> tuple[tuple[type, type, type], int]:
    """((layout, way, lanes), shared memory) of rows in lanes."""
    classes = logits.shape[1]
    if classes > limits.classes:
        visit = tuning.GPU_LANE_VISIT * 4 // np.dtype(compute).itemsize
        return (Strided, Reload, tiling.lanes(visit)), REDUCTION_SLOTS
    lanes = tiling.enough(classes)
    if tiling.along(stored, limits.classes, logits, *outputs):
        resource_limits = tuning.GPU_LANES_THREADS * classes * np.dtype(compute).itemsize
        return (SmemStaged, Registers, lanes), REDUCTION_SLOTS + resource_limits
    return (Strided, Registers, lanes), REDUCTION_SLOTS


def _columns(problem: Problem, stored: type, limits: tiling.ResourceLimits) -> Launch:
    """A lane a row."""
    fields, bound = common(problem)
    full, spread = is_full(problem), _spread(problem)
    arrays = problem.logits, problem.grad, problem.hess
    lanes, shared = lanes_of(stored, problem.compute, limits, *arrays)
    fields["staged"] = REDUCTION_SLOTS
    types: tuple[Any, ...] = type(problem.params), problem.compute, stored
    extra = Full if full else Plain
    if spread:
        targets, place, weights = _masses(problem, stored)
        place = OneHot if place is OneHot else OwnLayout
        types += (targets, place, weights, *lanes, extra, Wide)
        kernel = Kernel(distribution_columns, types, 255)
    else:
        registers = tiling.lane_registers(lanes[1], problem.compute, full)
        kernel = Kernel(index_columns, (*types, *lanes, extra), registers)
    threads = tuning.GPU_LANES_THREADS
    outer, _, inner = problem.logits.shape
    return launch(kernel, -(-outer * inner // threads), threads, fields, bound, shared=shared)


def probability_index(problem: Problem, facts: Facts) -> Launch:
    """Losses over rows of probabilities with class indices."""
    fields, bound = common(problem)
    threads = tuning.GPU_LANES_THREADS
    outer, _, inner = problem.logits.shape
    stored = dtype_tag(problem.logits.dtype, facts.capability)
    kernel = Kernel(probability_rows, (type(problem.params), problem.compute, stored), 128)
    blocks = -(-outer * inner // (threads // 32))
    return launch(kernel, blocks, threads, fields, bound, shared=REDUCTION_SLOTS)
