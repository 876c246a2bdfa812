"""Softmax with class indices and a row for each thread: few classes, or a class axis not the last.

columns.py explains the arguments.
"""

from typing import Any

import numpy as np

from fusedce.kernels.cuda.columns import (
    class_loop_end,
    online_softmax_row,
    present_classes,
    reload_classes,
    row_of_thread,
    stage_logits,
    store_class_results,
    store_thread_loss,
)
from fusedce.kernels.cuda.index_rows import IndexTarget, derivatives, evaluate_row
from fusedce.kernels.cuda.load_store_masked import lane_equals
from fusedce.kernels.cuda.load_store_scalar import number_at, params_of
from fusedce.kernels.cuda.logit_transform import Full, chain_transform, transform_logits
from fusedce.kernels.cuda.rows import (
    class_weight_of,
    load_any_class_index,
    sample_weight_of,
    scale_of,
)
from fusedce.kernels.cuda.tags import ColumnTags, tag_class
from fusedce.kernels.scalar import generated, scalar, where
from fusedce.kernels.vector import vector_of, width


@generated
def replace_target(tags, args, N, j, target, sums, live, first, second):
    """Derivatives of the classes from j on, with those of the target class in its lane.

    ``target``: IndexTarget, ``sums``: IndexRow.
    """
    if tag_class(tags, "features") is not Full:

        def plain(tags, args, N, j, target, sums, live, first, second):
            hit = lane_equals(N, j, target.label if live else np.int64(-1))
            g = where(hit, N(sums.first), first)
            return g, g

        return plain

    def full(tags, args, N, j, target, sums, live, first, second):
        hit = lane_equals(N, j, target.label if live else np.int64(-1))
        x = transform_logits(tags.features, args, target.logit, True)
        g, h = chain_transform(args, target.logit, x, sums.first, sums.second)
        return where(hit, N(g), first), where(hit, N(h), second)

    return full


@scalar
def index_gradients(tags, N, args, row, target, sums, live, kept):
    """Store the derivatives of a row; zeros if it does not count."""
    j, end = np.int64(0), class_loop_end(tags, N, row.classes)
    while j < end:
        count, present = present_classes(N, row.classes, j)
        z = reload_classes(tags, N, args, row, j, count, kept)
        x = transform_logits(tags.features, args, z, present)
        first, second = derivatives(tags, args, z, x, sums, live)
        first, second = where(live, first, N(0)), where(live, second, N(0))
        first, second = replace_target(tags, args, N, j, target, sums, live, first, second)
        store_class_results(tags, N, args, row, j, count, first, second)
        j += width(N)


def index_columns(Params: type, T: Any, Dtype: type, Layout: type, Residency: type, Lanes: type,
                  Features: type) -> Any:  # fmt: skip
    """The kernel of class indices with a row for each thread.

    Reads logits (outer, classes, inner) of Dtype, targets (outer, inner) of any integer dtype, and
    if given sample_weight (outer, inner), weight (classes,) and label_stats (1 / denominator).
    Writes, if wanted, loss (outer, inner), the blocks' sums of it ``partial`` (blocks,) of T, and
    grad and hess (outer, classes, inner) of Dtype. All arithmetic is of T.
    """

    def index_columns(args):
        tags = ColumnTags(Dtype(), Layout(), Residency(), Features())
        dtype = tags.dtype
        N = vector_of(T, Lanes())
        params = params_of(args, Params, T)
        # 1. Which row, its label, and the logit of the target class.
        row = row_of_thread(args)
        scale = scale_of(args, T)
        label = load_any_class_index(args, row.outer, row.inner)
        live = row.in_range and label != args.ignore_index and scale != T(0)
        valid = label >= 0 and label < args.classes
        label = label if live and valid else np.int64(0)
        logit = T(0)
        if live:
            logit = number_at(T, dtype, row.logits + label * args.logits_cls)
        # 2. Its weights.
        sample = sample_weight_of(args, T, row.outer, row.inner)
        target = IndexTarget(label, logit, class_weight_of(args, T, label), sample, scale)
        # 3. SmemStaged: the block's rows are copied to shared memory.
        stage_logits(tags, N, args)
        # 4. First pass: online softmax of the row.
        maximum, sum_exp_minus_1, kept = online_softmax_row(tags, N, args, row)
        # 5. Evaluate the rule once: the loss, and what every gradient is computed from.
        x = transform_logits(tags.features, args, logit, True)
        loss, sums = evaluate_row(
            args, dtype, params, target, x, maximum, sum_exp_minus_1, live, valid
        )
        # 6. Second pass: the derivatives.
        if args.grad != 0 or args.hess != 0:
            index_gradients(tags, N, args, row, target, sums, live, kept)
        # 7. Store the loss, or add it to the block's sum.
        store_thread_loss(args, row, loss)

    return index_columns
