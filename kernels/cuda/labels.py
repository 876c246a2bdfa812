"""The label pass: kernels that read the labels before the losses are computed.

They count the labels that are not ignored, sum their class weights and find the first invalid one.
The results are the label statistics (``label_stats`` in KernelArgs). The mean's denominator is then
in device memory when the first gradient is written; the host does not wait for it. Sums here, and
sums of the losses of blocks, are float64: a number a label or a block.
"""

from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels.cuda.device import barrier, block, blocks, get, put, thread, threads
from fusedce.kernels.cuda.kernel_args import (
    STATS_BAD_LABEL,
    STATS_DIVISOR,
    STATS_PER_ROW,
    STATS_SCALE,
)
from fusedce.kernels.cuda.load_store_scalar import (
    any_number,
    any_put,
    float_of,
    integer_at,
    number_at,
    peek,
    poke,
)
from fusedce.kernels.cuda.reduce import REDUCTION_SLOT, block_sum, warp_sum
from fusedce.kernels.scalar import scalar

NO_BAD_LABEL = 2**63 - 1  # no label is bad


@scalar
def label_address(args, i, end):
    """The address of label i in C order; past the end, of the last label."""
    i = min(i, end - 1)
    if args.outer == 1 and args.classes == 1:
        return args.targets + i * args.targets_inner
    row, inner = i // args.inner, i % args.inner
    outer, cls = row // args.classes, row % args.classes
    address = args.targets + outer * args.targets_outer + inner * args.targets_inner
    return address + cls * args.targets_cls


@scalar
def is_valid_label(args, label):
    """Whether a number is a valid label of an element: in [0, 1], or -1 or 1 if lowest is -1."""
    T = type(label)
    if args.lowest != 0:
        return abs(label) == T(1)
    return (label >= T(0)) & (label <= T(1))


@scalar
def block_min(x, offset):
    """The smallest int64 of a block, in thread 0; ``offset``: shared memory, 8 bytes a thread."""
    put(np.int32(offset + thread() * np.int32(8)), x)
    barrier()
    if thread() == np.int32(0):
        k = np.int32(1)
        while k < threads():
            x = min(x, get(np.int32(offset + k * np.int32(8)), np.int64))
            k = np.int32(k + 1)
    return x


@scalar
def write_label_stats(args, T, weights, kept, bad):
    """Write the label statistics, which later launches read; called by one thread."""
    divisor = weights if args.elements == 0 else np.float64(kept * args.elements)
    rows = np.float64(kept) if args.elements == 0 else divisor
    if args.user_denominator != 0:
        divisor = any_number(np.float64, args.user_denominator_dtype, args.user_denominator)
        rows = divisor
    poke(args.label_stats + STATS_DIVISOR, divisor)
    poke(args.label_stats + STATS_BAD_LABEL, np.int64(-1) if bad == NO_BAD_LABEL else bad)
    poke(args.label_stats + STATS_SCALE, T(1.0 / divisor) if divisor != 0.0 else T(0))
    poke(args.label_stats + STATS_PER_ROW, T(divisor / rows) if rows != 0.0 else T(1))


@scalar
def reduce_label_stats(args, T, weights, kept, bad):
    """Reduce the counts of a block. A single block writes the statistics, others partial counts."""
    weights = block_sum(weights, np.int32(0))
    kept = block_sum(kept, np.int32(REDUCTION_SLOT))
    bad = block_min(bad, np.int32(2 * REDUCTION_SLOT))
    if thread() == np.int32(0):
        if blocks() == np.int32(1):
            write_label_stats(args, T, weights, kept, bad)
        else:
            offset = np.int64(block()) * 8
            poke(args.partial + offset, weights)
            poke(args.counts + offset, kept)
            poke(args.bad + offset, bad)


@scalar
def count_integer_label(args, T, label, i, end, found):
    """(sum of weights, labels not ignored, first invalid label) with label i added.

    The labels are class indices, or integers that are labels of single elements.
    """
    weights, kept, bad = found
    if i < end and label != args.ignore_index:
        kept += 1
        if label < args.lowest or label >= args.highest or label == args.forbidden_label:
            bad = min(bad, i)
        elif args.weight != 0:
            address = args.weight + label * args.weight_step
            weights += any_number(np.float64, args.weight_dtype, address)
        else:
            weights += 1.0
    return weights, kept, bad


@scalar
def count_float_label(args, T, label, i, end, found):
    """The same for a label that is a float."""
    weights, kept, bad = found
    if i < end and label != float_of(T, args.ignore_value):
        kept += 1
        if not is_valid_label(args, label):
            bad = min(bad, i)
    return weights, kept, bad


@scalar
def count_distribution(args, T, label, i, end, found):
    """The same for a distribution, by its first target, which may be any number."""
    weights, kept, bad = found
    return weights, kept + np.int64(i < end and label != float_of(T, args.ignore_value)), bad


@scalar
def read_integer(T, labels, address):
    """Load a label that is an integer."""
    return integer_at(labels, address)


class IntegerLabels(NamedTuple):
    """Type tag: class indices, or integers that are labels of single elements."""


class FloatLabels(NamedTuple):
    """Type tag: labels are floats, of which some may be ignored or invalid."""


class FirstTargets(NamedTuple):
    """Type tag: the first target of each distribution, which shows whether the row is ignored."""


LABEL_KINDS: dict[type, Any] = {
    IntegerLabels: (read_integer, count_integer_label), FloatLabels: (number_at, count_float_label),
    FirstTargets: (number_at, count_distribution),
}  # fmt: skip


def label_pass(T: Any, Labels: type, LabelKind: type) -> Any:
    """The kernel that reads labels: class indices, labels of elements, or first targets.

    targets: (outer, C, inner) of ``Labels``; weight: (C,) of any dtype; a block reads ``args.span``
    labels. It writes label_stats, or for several blocks partial, counts and bad: (blocks,).
    """
    read, count = LABEL_KINDS[LabelKind]

    def label_pass(args):
        labels, step = Labels(), np.int64(threads())
        found = np.float64(0), np.int64(0), np.int64(NO_BAD_LABEL)
        # 1. The labels of this block.
        i = np.int64(block()) * args.span + thread()
        end = min(np.int64(block() + 1) * args.span, args.outer * args.classes * args.inner)
        while i < end:
            # 2. Load four labels; the loads are in flight together.
            a = read(T, labels, label_address(args, i, end))
            b = read(T, labels, label_address(args, i + step, end))
            c = read(T, labels, label_address(args, i + 2 * step, end))
            d = read(T, labels, label_address(args, i + 3 * step, end))
            # 3. Count them.
            found = count(args, T, a, i, end, found)
            found = count(args, T, b, i + step, end, found)
            found = count(args, T, c, i + 2 * step, end, found)
            found = count(args, T, d, i + 3 * step, end, found)
            i += 4 * step
        # 4. Reduce over the block.
        reduce_label_stats(args, T, found[0], found[1], found[2])

    return label_pass


def distribution_pass(T: Any) -> Any:
    """The kernel that reads distributions, one row a warp.

    It counts the rows that are not ignored and finds the first that is ignored in part. With
    normalize_targets a row that is 0 everywhere does not count. targets: (outer, C, inner) of any
    dtype; a block reads ``args.span`` rows. It writes what ``label_pass`` does.
    """

    def distribution_pass(args):
        kept, bad, lane = np.int64(0), np.int64(NO_BAD_LABEL), thread() & np.int32(31)
        # 1. The rows of this block.
        row = np.int64(block()) * args.span + (thread() >> np.int32(5))
        end = min(np.int64(block() + 1) * args.span, args.outer * args.inner)
        mark = float_of(T, args.ignore_value)
        while row < end:
            # 2. Each lane reads every 32nd target of the row of its warp.
            outer, inner = row // args.inner, row % args.inner
            address = args.targets + outer * args.targets_outer + inner * args.targets_inner
            found, ignored, j = np.int32(0), np.int32(0), np.int64(lane)
            while j < args.classes:
                y = any_number(T, args.targets_dtype, address + j * args.targets_cls)
                found |= np.int32(1) if y != T(0) else np.int32(0)
                ignored = np.int32(ignored + np.int32(y == mark))
                j += 32
            # 3. Lane 0 counts the row.
            nonzero, ignored = warp_sum(found) > 0, warp_sum(ignored)
            if lane == np.int32(0) and ignored == 0 and (nonzero or args.normalize == 0):
                kept += 1
            if lane == np.int32(0) and 0 < ignored < args.classes:
                bad = min(bad, row)
            row += threads() >> np.int32(5)
        # 4. Reduce over the block.
        reduce_label_stats(args, T, np.float64(0), kept, bad)

    return distribution_pass


def combine_label_stats(T: Any) -> Any:
    """The kernel of one block that combines the counts of the blocks of a label pass.

    partial: (span,) float64 sums of weights; counts, bad: (span,) int64. It writes label_stats.
    """

    def combine_label_stats(args):
        weights, kept, bad = np.float64(0), np.int64(0), np.int64(NO_BAD_LABEL)
        # 1. Each thread adds up the counts of every threads()-th block.
        i = np.int64(thread())
        while i < args.span:
            weights += peek(args.partial + i * 8, np.float64)
            kept += peek(args.counts + i * 8, np.int64)
            bad = min(bad, peek(args.bad + i * 8, np.int64))
            i += threads()
        # 2. Reduce over the block.
        reduce_label_stats(args, T, weights, kept, bad)

    return combine_label_stats


@scalar
def partial_loss(args, T, i):
    """The sum of the losses of block i; 0 past the last block."""
    found = peek(args.partial + min(i, args.span - 1) * 8, T)
    return found if i < args.span else T(0)


def reduce_losses(T: Any) -> Any:
    """The kernel of one block that adds up the losses of the blocks of a launch, and divides.

    partial: (span,) sums, of ``T``, 8 bytes apart; total: a number, float32 or float64. The
    divisor is in label_stats if there are any, else in p0, as the bits of a float64.
    """

    def reduce_losses(args):
        # 1. Each thread adds up four sums at a time; their loads are in flight together.
        total, step = np.float64(0), np.int64(threads())
        i = np.int64(thread())
        while i < args.span:
            a, b = partial_loss(args, T, i), partial_loss(args, T, i + step)
            c, d = partial_loss(args, T, i + 2 * step), partial_loss(args, T, i + 3 * step)
            total += (np.float64(a) + np.float64(b)) + (np.float64(c) + np.float64(d))
            i += 4 * step
        # 2. Reduce over the block.
        total = block_sum(total, np.int32(0))
        # 3. Thread 0 divides and stores the result.
        if thread() == np.int32(0):
            divisor = float_of(np.float64, args.p0)
            if args.label_stats != 0:
                divisor = peek(args.label_stats + STATS_DIVISOR, np.float64)
            mean = total / divisor if divisor != 0.0 else np.nan
            any_put(args.loss_dtype, args.total, mean)

    return reduce_losses
