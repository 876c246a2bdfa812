"""Softmax with a distribution for a target and a row for each thread.

columns.py and distribution.py explain the arguments.
"""

from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels.cuda.columns import (
    ThreadRow,
    class_loop_end,
    online_softmax_row,
    present_classes,
    reload_classes,
    row_of_thread,
    stage_logits,
    store_class_results,
    store_thread_loss,
)
from fusedce.kernels.cuda.compensated_sum import (
    SEGMENT_CLASSES,
    CompensatedSplitSum,
    merge_split_sum,
    neumaier_add,
    split_sum_value,
    sum_value,
    zero_sum,
)
from fusedce.kernels.cuda.distribution import (
    GradientFactors,
    OneHot,
    RowSums,
    SplitSum,
    Target,
    Unweighted,
    class_terms,
    count_nonzero,
    distribution_derivatives,
    first_label_ignored,
    masked_mass,
    split_sum_add,
    split_sum_add_hess,
    z_loss_terms,
)
from fusedce.kernels.cuda.load_store import first_lanes
from fusedce.kernels.cuda.load_store_masked import lane_equals, read_lanes
from fusedce.kernels.cuda.load_store_scalar import float_of, params_of
from fusedce.kernels.cuda.logit_transform import transform_logits
from fusedce.kernels.cuda.row_cache import Registers
from fusedce.kernels.cuda.rows import class_index_or_zero, sample_weight_of, scale_of
from fusedce.kernels.cuda.tags import (
    DistributionColumnTags,
    DistributionColumnTypes,
    tag_class,
    tags_of,
)
from fusedce.kernels.scalar import generated, scalar, where
from fusedce.kernels.vector import lanes_as, sum_of_lanes, vector_of, width


class ReducedThreadRow(NamedTuple):
    """A row after the first pass."""

    row: ThreadRow
    target: Target
    maximum: Any
    sum_exp_minus_1: Any
    kept: Any  # logits of the last iteration


@generated
def column_labels(tags, N, args, row, label, j, count):
    """The labels of ``count`` classes from j on; ``label``: the class index, with OneHot."""
    if tag_class(tags, "target_layout") is OneHot:
        return lambda tags, N, args, row, label, j, count: where(
            lane_equals(N, j, label), N(1), N(0)
        )

    def dense(tags, N, args, row, label, j, count):
        T = lanes_as(N(0))
        at = args.targets + row.outer * args.targets_outer + row.inner * args.targets_inner
        address = at + j * args.targets_cls
        return read_lanes(N, tags.target_dtype, address, args.targets_cls, count, T(0))

    return dense


@generated
def column_weights(tags, N, args, j, count):
    """The weights of ``count`` classes from j on."""
    if tag_class(tags, "weight_dtype") is Unweighted:
        return lambda tags, N, args, j, count: N(1)

    def weighted(tags, N, args, j, count):
        T = lanes_as(N(0))
        address = args.weight + j * args.weight_step
        return read_lanes(N, tags.weight_dtype, address, args.weight_step, count, T(0))

    return weighted


@scalar
def column_masses(tags, N, args, row, target, j, count):
    """The masses weight_j (factor label_j + label_shift) of ``count`` classes from j on."""
    T = lanes_as(N(0))
    y = column_labels(tags, N, args, row, target.label, j, count)
    mass = y * target.factor + float_of(T, args.label_shift)
    mass = mass * column_weights(tags, N, args, j, count)
    return where(first_lanes(N, count), masked_mass(args, y, mass, target.ignored), N(0))


@scalar
def count_labels(tags, N, args, row, label):
    """The number of labels of a row that are not zero."""
    T = lanes_as(N(0))
    n, j = T(0), np.int64(0)
    while j < row.classes:
        count, present = present_classes(N, row.classes, j)
        n += count_nonzero(column_labels(tags, N, args, row, label, j, count))
        j += width(N)
    return n


@scalar
def terms_of_classes(tags, N, args, params, reduced, j, end, first, second):
    """(loss, first, second) of classes j to ``end``: the loss, and SplitSums of mass f', mass f''.

    ``reduced``: ReducedThreadRow; ``first``, ``second``: the SplitSums to start from.
    """
    T, row = lanes_as(N(0)), reduced.row
    loss = T(0)
    while j < end:
        count, present = present_classes(N, row.classes, j)
        z = reload_classes(tags, N, args, row, j, count, reduced.kept)
        x = transform_logits(tags.features, args, z, present)
        mass = column_masses(tags, N, args, row, reduced.target, j, count)
        f, a, b, p, q = class_terms(
            tags.evaluation, params, x, reduced.maximum, reduced.sum_exp_minus_1, mass
        )
        loss += sum_of_lanes(f)
        first, second = split_sum_add(first, a), split_sum_add_hess(tags.features, second, b)
        j += width(N)
    return loss, first, second


@generated
def terms_of_row(tags, N, args, params, reduced):
    """(loss, first, second) of a row; many classes are added up in segments."""
    if tag_class(tags, "residency") is Registers:

        def single_iteration(tags, N, args, params, reduced):
            T = lanes_as(N(0))
            none = SplitSum(T(0), T(0), T(0), T(0))
            end = class_loop_end(tags, N, reduced.row.classes)
            return terms_of_classes(tags, N, args, params, reduced, np.int64(0), end, none, none)

        return single_iteration

    def segments(tags, N, args, params, reduced):
        T = lanes_as(N(0))
        none = CompensatedSplitSum(T(0), zero_sum(T), zero_sum(T), T(0))
        loss, first, second, j = zero_sum(T), none, none, np.int64(0)
        while j < reduced.row.classes:
            end = min(j + SEGMENT_CLASSES, reduced.row.classes)
            f, one, two = terms_of_classes(
                tags, N, args, params, reduced, j, end,
                SplitSum(first.max_abs, T(0), T(0), T(0)),
                SplitSum(second.max_abs, T(0), T(0), T(0)),
            )  # fmt: skip
            loss = neumaier_add(loss, f)
            first, second = merge_split_sum(first, one), merge_split_sum(second, two)
            j = end
        return sum_value(loss), split_sum_value(first), split_sum_value(second)

    return segments


@scalar
def distribution_gradients(tags, N, args, params, reduced, sums, factors):
    """Store the derivatives of a row; zeros if it does not count."""
    row, live = reduced.row, factors.live
    j, end = np.int64(0), class_loop_end(tags, N, row.classes)
    while j < end:
        count, present = present_classes(N, row.classes, j)
        z = reload_classes(tags, N, args, row, j, count, reduced.kept)
        x = transform_logits(tags.features, args, z, present)
        mass = column_masses(tags, N, args, row, reduced.target, j, count)
        g, h = distribution_derivatives(tags, args, params, z, x, mass, sums, factors)
        g, h = where(live, g, N(0)), where(live, h, N(0))
        store_class_results(tags, N, args, row, j, count, g, h)
        j += width(N)


def distribution_columns(*types: Any) -> Any:
    """The kernel of distributions, a row for each thread; ``types``: DistributionColumnTypes.

    The arrays that it reads and writes, their shapes and dtypes are those of ``distribution_rows``
    in distribution_rows.py.
    """
    t = DistributionColumnTypes(*types)
    Params, T, Lanes, tags = t.params, t.compute, t.lanes, tags_of(DistributionColumnTags, t)

    def distribution_columns(args):
        N, params = vector_of(T, Lanes()), params_of(args, Params, T)
        # 1. Which row, and whether it counts.
        row = row_of_thread(args)
        scale = scale_of(args, T)
        label = class_index_or_zero(args, row.outer, row.inner)
        live = row.in_range and scale != T(0)
        live = live and (args.sparse_targets == 0 or label != args.ignore_index)
        valid = label >= 0 and label < args.classes
        # 2. Its target; with normalize_targets labels are divided by how many are not zero.
        factor = float_of(T, args.label_factor)
        at = args.targets + row.outer * args.targets_outer + row.inner * args.targets_inner
        ignored = live and first_label_ignored(args, T, tags.target_dtype, at)
        if args.normalize != 0:
            n = count_labels(tags, N, args, row, label)
            live = live and n > T(0)
            factor = factor / where(n > T(0), n, T(1))
        target = Target(at, label, factor, ignored)
        # 3. SmemStaged: the block's rows are copied to shared memory.
        stage_logits(tags, N, args)
        # 4. First pass: online softmax of the row.
        maximum, sum_exp_minus_1, kept = online_softmax_row(tags, N, args, row)
        # 5. Second pass: the loss, and the sums that gradients are computed from.
        reduced = ReducedThreadRow(row, target, maximum, sum_exp_minus_1, kept)
        loss, first, second = terms_of_row(tags, N, args, params, reduced)
        live = live and (not ignored or loss != loss)  # NaN if ignored in part
        # 6. Sample weight and z-loss; NaN for an invalid label.
        sample = sample_weight_of(args, T, row.outer, row.inner) * (T(1) if valid else T(np.nan))
        lse, zeta, zeta_lse = z_loss_terms(args, T, sample, maximum, sum_exp_minus_1)
        loss = sample * loss + where(zeta == T(0), T(0), zeta_lse * lse)
        loss = where(live, loss, T(0))
        # 7. Third pass: the derivatives.
        if args.grad != 0 or args.hess != 0:
            factors = GradientFactors(sample * scale, zeta * scale, T(2) * zeta_lse * scale, live)
            sums = RowSums(maximum, sum_exp_minus_1, first, second)
            distribution_gradients(tags, N, args, params, reduced, sums, factors)
        # 8. Store the loss, or add it to the block's sum.
        store_thread_loss(args, row, loss)

    return distribution_columns
