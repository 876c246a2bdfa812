"""Losses of softmax rows with class indices for targets.

A block is a few rows, and the rule is evaluated for all of them in the lanes of one vector. A row
of more than STRIP classes is a block of its own.
"""

import numpy as np

from fusedce.kernels.cpu.blocks import (
    RowRange,
    align_line,
    block_rows,
    load_class_indices,
    padded,
    row_address,
    store_partial_sum,
    store_row_losses,
)
from fusedce.kernels.cpu.kernel_args import args_at, params_at
from fusedce.kernels.cpu.load_store import load, masked_load, store
from fusedce.kernels.cpu.row_gradients import STATS, BlockScratch, RowStats, write
from fusedce.kernels.cpu.rows import (
    StripScratch,
    load_rows,
    online_softmax,
    strip_logits,
    strips_per_row,
    sum_minus_1,
)
from fusedce.kernels.cpu.vector_loops import (
    array_max,
    copy,
    exp_and_sum,
    fill,
    loop,
    set_at,
)
from fusedce.kernels.intrinsics import call7, peek
from fusedce.kernels.link import softmax_row
from fusedce.kernels.scalar import exp_down
from fusedce.kernels.tuning import STRIP
from fusedce.kernels.vector import BYTES, lane_bytes, numbers, sum_of_lanes, to_float64, width


@loop
def load_sample_weights(T, args, rows, target):
    """target[:n] <- the sample weight of each row of a block, 1 if there are none."""
    if args.sample_weight.address != 0:
        here = row_address(args.sample_weight, rows.outer, rows.start)
        step = args.sample_weight.inner
        call7(args.load_sample_weight, here, 0, step, 1, rows.n, target, 0)
    else:
        fill(T, target, rows.n, T(1))


@loop
def logit_of_class(T, args, source, label, logits):
    """The transformed logit of one class of a row."""
    return peek(strip_logits(T, args, source, label, 1, logits), T)


@loop
def reduce_rows(T, args, rows, labels, logits, exps, stats):
    """Maximum and sum of exponentials of each row of a block; exps <- exp(z - max).

    The maxima of all rows come first, so that one row's do not wait for another's exponentials.
    """
    address, stride = stats
    row = args.classes * lane_bytes(T)
    for r in range(rows.n):
        if labels[r] != args.ignore_index:
            source = row_address(args.logits, rows.outer, rows.start + r)
            block = strip_logits(T, args, source, 0, args.classes, logits + r * row)
            set_at(T, address + STATS.max * stride, r, array_max(T, block, args.classes))
    ahead = args.block * args.logits.inner if args.direct_logits else 0
    for r in range(rows.n):
        if labels[r] != args.ignore_index:
            source = row_address(args.logits, rows.outer, rows.start + r)
            block = strip_logits(T, args, source, 0, args.classes, logits + r * row)
            row_max = peek(address + STATS.max * stride + r * lane_bytes(T), T)
            below, count = exp_and_sum(T, block, args.classes, row_max, exps + r * row, ahead)
            set_at(T, address + STATS.sum_exp_minus_1 * stride, r, sum_minus_1(T, below, count))


@loop
def load_targets(T, args, rows, labels, logits, stats):
    """The target's logit and the weights of each row; values without effect for ignored rows."""
    address, stride = stats
    row = args.classes * lane_bytes(T)
    load_sample_weights(T, args, rows, address + STATS.sample_weight * stride)
    copy(T, address + STATS.sample_weight * stride, rows.n, address + STATS.weight * stride)
    for r in range(rows.n):
        label = labels[r]
        if label == args.ignore_index:
            set_at(T, address + STATS.sample_weight * stride, r, T(0))
            set_at(T, address + STATS.weight * stride, r, T(0))
            set_at(T, address + STATS.max * stride, r, T(0))
            set_at(T, address + STATS.sum_exp_minus_1 * stride, r, T(1))
            set_at(T, address + STATS.target * stride, r, T(0))
        else:
            source = row_address(args.logits, rows.outer, rows.start + r)
            z = logit_of_class(T, args, source, label, logits + r * row)
            row_max = peek(address + STATS.max * stride + r * lane_bytes(T), T)
            set_at(T, address + STATS.target * stride, r, z - row_max)
            if args.weight != 0:
                weight = peek(args.weight + label * lane_bytes(T), T)
                sample = peek(address + STATS.sample_weight * stride + r * lane_bytes(T), T)
                set_at(T, address + STATS.weight * stride, r, sample * weight)


@loop
def evaluate_rows(N, T, args, params, n, stats):
    """The rule on n rows, a vector of rows at a time; returns the sum of their losses."""
    address, stride = stats
    z_loss, scale = T(args.z_loss), T(args.scale)
    losses = to_float64(N(0))
    for r in range(0, n, width(N)):
        here, left = address + r * lane_bytes(T), n - r
        d = masked_load(here + STATS.target * stride, left, N(0))
        loss, grad_factor, rest, target_grad, square, product, target_hess = softmax_row(
            params,
            d,
            exp_down(d),
            load(N, here + STATS.max * stride),
            masked_load(here + STATS.sum_exp_minus_1 * stride, left, N(1)),
            masked_load(here + STATS.weight * stride, left, N(0)),
            masked_load(here + STATS.sample_weight * stride, left, N(0)),
            z_loss,
            scale,
        )
        losses = losses + to_float64(loss)
        store(here + STATS.loss * stride, loss)
        store(here + STATS.grad_factor * stride, grad_factor)
        store(here + STATS.rest * stride, rest)
        store(here + STATS.target_grad * stride, target_grad)
        store(here + STATS.square * stride, square)
        store(here + STATS.product * stride, product)
        store(here + STATS.target_hess * stride, target_hess)
    return sum_of_lanes(losses)


@loop
def index_block(N, T, outputs, args, params, rows, labels, scratch):
    """Store the losses, gradients and Hessians of a block of rows; returns the sum of its losses.

    labels: int64 array of the class indices of the rows; scratch: ``BlockScratch``.
    """
    logits, exps, stats, strip, strip_maxima = scratch
    address, stride = stats
    # 1. Pack and transform the logits, unless they are read in place.
    load_rows(T, args, rows.outer, rows.start, rows.n, logits)
    # 2. Maximum and sum of exponentials of each row.
    if args.classes <= STRIP:
        reduce_rows(T, args, rows, labels, logits, exps, stats)
    elif labels[0] != args.ignore_index:
        source = row_address(args.logits, rows.outer, rows.start)
        found = online_softmax(T, args, source, logits, exps, strip_maxima)
        set_at(T, address + STATS.max * stride, 0, found.max)
        set_at(T, address + STATS.sum_exp_minus_1 * stride, 0, found.sum_exp_minus_1)
    # 3. The target's logit and the weights of each row.
    load_targets(T, args, rows, labels, logits, stats)
    # 4. The rule: losses, and what the derivatives of each row are made of.
    loss = evaluate_rows(N, T, args, params, rows.n, stats)
    # 5. Gradients and Hessians.
    write(outputs, T, args, rows, labels, scratch)
    # 6. Losses of the rows, if they are not reduced.
    store_row_losses(args, rows, address + STATS.loss * stride)
    return loss


def index_rows(Params, T, Lanes, Outputs):
    """The kernel for class indices: blocks of rows, the rule evaluated once for each row.

    Reads logits (outer, classes, inner) of any float dtype, targets (outer, inner) of any integer
    dtype, and if given sample_weight (outer, inner) of any dtype and weight (classes,) of T.
    Writes ``partial`` (blocks,), the blocks' sums of losses in float64, and if wanted loss (outer,
    inner), and grad and hess (outer, classes, inner), of any float dtype. All arithmetic is of T.

    Params: the rule's NamedTuple; T: the compute dtype; Lanes: ``Wide`` or ``Single``; Outputs:
    ``ContiguousGrad`` or ``AnyOutputs``.
    """
    item = np.dtype(T).itemsize

    def index_rows(address, first, last):
        args = args_at(address)
        params = params_at(address, Params, T)
        N, outputs = numbers(Lanes, T), Outputs()
        # 1. Allocate the scratch memory, used for one block after the other.
        block = padded(args.block * args.width) * item
        strip, row = padded(STRIP) * item, padded(args.block) * item
        memory = np.empty(
            2 * block + 3 * strip + len(STATS) * row + padded(strips_per_row(args)) * item + BYTES,
            np.uint8,
        )
        logits = align_line(memory)
        grad = logits + 2 * block
        stats = grad + 3 * strip
        labels = np.empty(args.block, np.int64)
        for b in range(first, last):
            # 2. Load the labels of the block.
            outer, start, stop = block_rows(args, b)
            rows = RowRange(outer, start, stop - start)
            load_class_indices(args, rows, labels)
            # 3. Compute and store everything but the sum of losses.
            scratch = BlockScratch(
                logits, logits + block, RowStats(stats, row),
                StripScratch(grad, grad + strip, grad + 2 * strip), stats + len(STATS) * row,
            )  # fmt: skip
            losses = index_block(N, T, outputs, args, params, rows, labels, scratch)
            # 4. The block's part of the reduced loss.
            store_partial_sum(args, b, losses)
        memory[0] = 0  # the last use of memory: addresses alone do not keep it allocated

    return index_rows
