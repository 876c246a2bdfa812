"""The launches of losses over rows of classes: which kernel, with which types."""

from typing import Any

import numpy as np

from fusedce.kernels import tuning
from fusedce.kernels.cuda import tiling
from fusedce.kernels.cuda.columns import SmemStaged, Strided
from fusedce.kernels.cuda.distribution import OneHot, Unweighted
from fusedce.kernels.cuda.distribution_columns import distribution_columns
from fusedce.kernels.cuda.distribution_masses import OwnLayout, SameLayout
from fusedce.kernels.cuda.distribution_rows import distribution_rows
from fusedce.kernels.cuda.dtypes import dtype_tag
from fusedce.kernels.cuda.index_columns import index_columns
from fusedce.kernels.cuda.index_rows import index_rows
from fusedce.kernels.cuda.kernel_args import Facts, Kernel, Launch, common, is_full, launch
from fusedce.kernels.cuda.logit_transform import Full, Plain
from fusedce.kernels.cuda.probabilities import probability_rows
from fusedce.kernels.cuda.reduce import REDUCTION_BYTES
from fusedce.kernels.cuda.row_cache import RegisterExps, Registers, Reload
from fusedce.kernels.cuda.tags import DistributionColumnTypes, DistributionTypes
from fusedce.kernels.problem import Problem
from fusedce.kernels.vector import Wide


def softmax_launch(problem: Problem, facts: Facts) -> Launch:
    """The launch of a loss over softmax rows: a row for each thread, or for a group of threads."""
    dtype = dtype_tag(problem.logits.dtype, facts.capability)
    arrays = problem.logits, problem.grad, problem.hess
    limits = tiling.resource_limits(problem.compute, is_full(problem), _has_dense_mass(problem))
    if tiling.rows_can_be_staged(dtype, limits.classes, *arrays) or not tiling.classes_contiguous(
        *arrays
    ):
        return _column_launch(problem, dtype, limits)
    return _row_launch(problem, dtype, facts, limits)


def _has_dense_mass(problem: Problem) -> bool:
    """Whether classes other than the target have mass."""
    return not problem.sparse_targets or problem.label_shift != 0.0


def _distribution_types(problem: Problem, dtype: type) -> tuple[type, type, type]:
    """(target dtype, target layout, weight dtype) of a distribution: type tags."""
    weights: type = Unweighted if problem.weight is None else dtype_tag(problem.weight.dtype)
    if problem.sparse_targets:
        return dtype, OneHot, weights
    targets = problem.targets
    size = min(16, tiling.elements_per_chunk(dtype) * targets.itemsize)
    whole = (
        tiling.rows_are_whole_chunks(dtype, problem.logits)
        and size >= 4
        and tiling.rows_aligned(targets, size)
    )
    same = tiling.same_chunk_offsets(problem.logits, targets) or whole
    layout = SameLayout if same and tiling.classes_contiguous(targets) else OwnLayout
    return dtype_tag(targets.dtype), layout, weights


def _row_launch(
    problem: Problem, dtype: type, facts: Facts, limits: tiling.ResourceLimits
) -> Launch:
    """The launch of a kernel in which a group of threads shares a row."""
    fields, bound = common(problem)
    full, spread = is_full(problem), _has_dense_mass(problem)
    kept = Registers if full or spread else RegisterExps
    tiled = tiling.tile_rows(dtype, problem.logits, facts, limits, kept)
    fields |= tiled.fields()
    alignment = tiling.output_alignment(problem.logits, problem.grad, problem.hess)
    types: tuple[Any, ...] = type(problem.params), problem.compute, dtype
    shared = tiled.residency, tiled.group, tiled.lanes, alignment, Full if full else Plain
    if spread:
        made = DistributionTypes._make(
            (*types, *_distribution_types(problem, dtype), *shared, Wide)
        )
        kernel = Kernel(distribution_rows, made)
    else:
        kernel = Kernel(index_rows, (*types, dtype_tag(problem.targets.dtype), *shared))
    return tiled.launch(kernel._replace(registers=tiled.registers(limits)), fields, bound)


def column_types(
    dtype: type,
    compute: type,
    limits: tiling.ResourceLimits,
    logits: np.ndarray,
    *outputs: np.ndarray | None,
) -> tuple[tuple[type, type, type], int]:
    """((layout, residency, lanes), bytes of shared memory) for a row for each thread."""
    classes = logits.shape[1]
    if classes > limits.classes:
        per_iteration = tuning.GPU_LANE_VISIT * 4 // np.dtype(compute).itemsize
        return (Strided, Reload, tiling.lanes_tag(per_iteration)), REDUCTION_BYTES
    lanes = tiling.lanes_at_least(classes)
    if tiling.rows_can_be_staged(dtype, limits.classes, logits, *outputs):
        staged = tuning.GPU_LANES_THREADS * classes * np.dtype(compute).itemsize
        return (SmemStaged, Registers, lanes), REDUCTION_BYTES + staged
    return (Strided, Registers, lanes), REDUCTION_BYTES


def _column_launch(problem: Problem, dtype: type, limits: tiling.ResourceLimits) -> Launch:
    """The launch of a kernel with a row for each thread."""
    fields, bound = common(problem)
    full, spread = is_full(problem), _has_dense_mass(problem)
    arrays = problem.logits, problem.grad, problem.hess
    lanes, shared = column_types(dtype, problem.compute, limits, *arrays)
    fields["staged"] = REDUCTION_BYTES
    types: tuple[Any, ...] = type(problem.params), problem.compute, dtype
    features = Full if full else Plain
    if spread:
        targets, layout, weights = _distribution_types(problem, dtype)
        layout = OneHot if layout is OneHot else OwnLayout
        made = DistributionColumnTypes._make(
            (*types, targets, layout, weights, *lanes, features, Wide)
        )
        kernel = Kernel(distribution_columns, made, 255)
    else:
        registers = tiling.column_registers(lanes[1], problem.compute, full)
        kernel = Kernel(index_columns, (*types, *lanes, features), registers)
    threads = tuning.GPU_LANES_THREADS
    outer, _, inner = problem.logits.shape
    return launch(kernel, -(-outer * inner // threads), threads, fields, bound, shared=shared)


def probability_launch(problem: Problem, facts: Facts) -> Launch:
    """The launch of a loss over rows of probabilities with class indices."""
    fields, bound = common(problem)
    threads = tuning.GPU_LANES_THREADS
    outer, _, inner = problem.logits.shape
    dtype = dtype_tag(problem.logits.dtype, facts.capability)
    kernel = Kernel(probability_rows, (type(problem.params), problem.compute, dtype), 128)
    blocks = -(-outer * inner // (threads // 32))
    return launch(kernel, blocks, threads, fields, bound, shared=REDUCTION_BYTES)
