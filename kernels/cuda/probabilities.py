"""Rows of probabilities with class indices: most classes have no mass; a warp takes a row."""

from typing import Any

import numpy as np

from fusedce.kernels.cuda.device import block, thread, threads
from fusedce.kernels.cuda.load_store_scalar import float_of, number_at, params_of, put_number
from fusedce.kernels.cuda.reduce import WARPS, warp_sum
from fusedce.kernels.cuda.rows import (
    GroupRow,
    class_weight_of,
    load_any_class_index,
    sample_weight_of,
    scale_of,
    store_loss,
)
from fusedce.kernels.link import probability_cell
from fusedce.kernels.scalar import scalar

WholeWarp = WARPS[5]


@scalar
def probability_class(T, dtype, args, params, row, j, hit, sample, scale):
    """The loss of class j, without sample weight; its derivatives are stored if wanted.

    ``row``: GroupRow; ``hit``: whether j is the target; ``scale``: 1 / denominator.
    """
    y = T(1) if hit else T(0)
    mass = class_weight_of(args, T, j) * (
        y * float_of(T, args.label_factor) + float_of(T, args.label_shift)
    )
    f, f1, f2 = T(0), T(0), T(0)
    if mass != T(0):
        at = args.logits + row.outer * args.logits_outer + row.inner * args.logits_inner
        z = number_at(T, dtype, at + j * args.logits_cls)
        f, f1, f2 = probability_cell(z, mass, params)
    if args.grad != 0:
        at = args.grad + row.outer * args.grad_outer + row.inner * args.grad_inner
        put_number(dtype, at + j * args.grad_cls, f1 * (sample * scale))
    if args.hess != 0:
        at = args.hess + row.outer * args.hess_outer + row.inner * args.hess_inner
        put_number(dtype, at + j * args.hess_cls, f2 * (sample * scale))
    return f


@scalar
def store_zero_class(T, dtype, args, row, j):
    """Store zero derivatives of class j: rows that do not count are written too."""
    if args.grad != 0:
        at = args.grad + row.outer * args.grad_outer + row.inner * args.grad_inner
        put_number(dtype, at + j * args.grad_cls, T(0))
    if args.hess != 0:
        at = args.hess + row.outer * args.hess_outer + row.inner * args.hess_inner
        put_number(dtype, at + j * args.hess_cls, T(0))


def probability_rows(Params: type, T: Any, Dtype: type) -> Any:
    """The kernel of class indices into rows of probabilities of any strides.

    Reads logits (the probabilities; outer, classes, inner) of Dtype, targets (outer, inner) of any
    integer dtype, and if given sample_weight (outer, inner), weight (classes,) and label_stats
    (1 / denominator). Writes, if wanted, loss (outer, inner), the blocks' sums of it ``partial``
    (blocks,) of T, and grad and hess (outer, classes, inner) of Dtype. All arithmetic is of T.
    """

    def probability_rows(args):
        dtype, group = Dtype(), WholeWarp()
        params = params_of(args, Params, T)
        # 1. Which row: that of this warp.
        scale = scale_of(args, T)
        number = np.int64(block()) * (threads() >> np.int32(5)) + (thread() >> np.int32(5))
        lane = np.int32(thread() & np.int32(31))
        in_range = number < args.outer * args.inner
        index = number if in_range else np.int64(0)
        row = GroupRow(index // args.inner, index % args.inner, lane, in_range)
        # 2. Its label, whether it counts, and its sample weight; NaN for an invalid label.
        label = load_any_class_index(args, row.outer, row.inner)
        live = in_range and label != args.ignore_index and scale != T(0)
        sample = sample_weight_of(args, T, row.outer, row.inner)
        if label < 0 or label >= args.classes:
            sample, label = T(np.nan), np.int64(-1)
        # 3. Each lane takes every 32nd class: its loss, and its derivatives are stored.
        loss, j = T(0), np.int64(lane)
        while in_range and j < args.classes:
            if live:
                hit = j == label
                loss += probability_class(T, dtype, args, params, row, j, hit, sample, scale)
            else:
                store_zero_class(T, dtype, args, row, j)
            j += 32
        # 4. Add up the losses of the classes.
        loss = warp_sum(loss) * sample
        # 5. Store the loss, or add it to the block's sum.
        store_loss(group, args, row, loss if live else T(0))

    return probability_rows
