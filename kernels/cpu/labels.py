"""Labels are read once ahead of the logits: range, number not ignored, sum of their weights.

So an error is found before anything is written, also when the gradient replaces the logits, and
the mean's denominator is known when the first gradient is.
"""

import numpy as np

from fusedce.kernels.cpu.blocks import address_of, array_at, at, rows_of
from fusedce.kernels.cpu.kernel_args import args_at
from fusedce.kernels.cpu.load_store import masked_load
from fusedce.kernels.cpu.vector_loops import loop
from fusedce.kernels.intrinsics import call7, peek, poke
from fusedce.kernels.scalar import scalar
from fusedce.kernels.vector import count_true, itemsize, lanes, width


@loop
def survey(args, labels):
    """(labels not ignored, position of the first bad one or -1) of a block."""
    kept, bad = 0, 0
    for i in range(labels.size):
        label = labels[i]
        keep = label != args.ignore_index
        kept += keep
        wrong = (label < args.lowest) | (label >= args.highest)
        bad += keep & (wrong | (label == args.forbidden_label))
    if bad > 0:
        for i in range(labels.size):
            label = labels[i]
            wrong = (label < args.lowest) | (label >= args.highest)
            wrong |= label == args.forbidden_label
            if wrong and label != args.ignore_index:
                return kept, i
    return kept, -1


@loop
def all_yes_or_no(args, address, n):
    """Whether labels are 0 and 1 at a glance: none of their other bits is set."""
    if args.weight != 0 or args.bytes == 0 or address % 8 != 0 or n * args.bytes % 8 != 0:
        return False
    if args.lowest != 0 or args.highest != 2 or 0 <= args.ignore_index < 2:
        return False
    ones = np.int64(1)
    for k in range(8 * args.bytes, 64, 8 * args.bytes):
        ones |= np.int64(1) << k
    found = np.int64(0)
    words = array_at(address, n * args.bytes // 8, np.int64)
    for word in words:
        found |= word
    return found & ~ones == 0


@loop
def weigh(args, labels, T):
    """The sum of weight[label] over the labels that are not ignored."""
    total = np.float64(0)
    for label in labels:
        if label != args.ignore_index:
            total += np.float64(peek(args.weight + label * itemsize(T), T))
    return total


@scalar
def is_odd(label, low):
    """Whether a label is neither 1 nor ``low``, which is 0 or -1."""
    return label * (label - (type(low)(1) + low)) + low != type(low)(0)


@loop
def odd_numbers(T, y, n, low, mark):
    """(numbers that are neither 1 nor ``low``, those ignored, those that are no label) of labels.

    Labels lie in [0, 1] where ``low`` is 0, and are -1 or 1 where it is -1. What equals ``mark`` is
    ignored, and counts among neither of the others.
    """
    if mark != T(1) and mark != low and odd_labels(T, y, n, low) == 0:
        return 0, 0, 0  # the usual case, found out in half the time
    N = lanes(T)
    odd, ignored, wrong = 0, 0, 0
    fine = low if mark == T(1) else T(1)  # a label that is not counted, behind the last one
    least = T(0) if low == T(0) else T(2)  # of labels in [least, 1]: none where low is -1
    for j in range(0, n, width(N)):
        label = masked_load(y + j * itemsize(N), n - j, N(fine))
        kept = label != N(mark)
        other = kept & is_odd(label, low)
        inside = (label >= least) & (label <= T(1))
        odd += count_true(other)
        ignored += count_true(~kept)
        wrong += count_true(other & ~inside)
    return odd, ignored, wrong


@loop
def odd_labels(T, y, n, low):
    """The numbers that are neither 1 nor ``low``, all of them being labels."""
    N = lanes(T)
    odd = 0
    for j in range(0, n, width(N)):
        odd += count_true(is_odd(masked_load(y + j * itemsize(N), n - j, N(1)), low))
    return odd


@loop
def marked(T, y, n, mark):
    """How many numbers equal the one that stands for an ignored target."""
    N = lanes(T)
    found = 0
    for j in range(0, n, width(N)):
        found += count_true(masked_load(y + j * itemsize(N), n - j, N(np.nan)) == N(mark))
    return found


@loop
def put_odd(args, b, count, wrong):
    """What a block has found among numbers: a count (see the plan), and whether any is wrong."""
    poke(args.count + 8 * b, np.int64(count))
    poke(args.bad + 8 * b, np.int64(0 if wrong > 0 else -1))


def labels(T):
    """The kernel over integer labels; ``partial`` gets the sum of weight[label]."""

    def labels(address, first, last):
        args = args_at(address)
        scratch = np.empty(args.block, np.int64)
        for b in range(first, last):
            outer, start, stop = rows_of(args, b)
            n, step = stop - start, args.targets.inner
            here = at(args.targets, outer, start)
            kept, bad, weights = n, -1, np.float64(n)
            if not all_yes_or_no(args, here, n):
                found = array_at(here if args.bytes == 8 else address_of(scratch), n, np.int64)
                if args.bytes != 8:
                    call7(args.load_targets, here, 0, step, 1, n, address_of(scratch), 0)
                kept, bad = survey(args, found)
                weights = np.float64(kept)
                if args.weight != 0 and bad < 0:
                    weights = weigh(args, found, T)
            poke(args.partial + 8 * b, weights)
            poke(args.count + 8 * b, np.int64(kept))
            poke(args.bad + 8 * b, np.int64(outer * args.inner + start + bad if bad >= 0 else -1))
        scratch[0] = 0  # a last use: addresses do not keep it alive

    return labels


def numbers_kept(T):
    """The kernel over labels that are numbers: how many are not ignored, whether any is wrong."""

    def numbers_kept(address, first, last):
        args = args_at(address)
        y = np.empty(args.block, T)
        for b in range(first, last):
            outer, start, stop = rows_of(args, b)
            n, step = stop - start, args.targets.inner
            low, mark = T(args.lowest), T(args.ignore_value)
            here = at(args.targets, outer, start)
            if not args.direct_targets:
                call7(args.load_targets, here, 0, step, 1, n, address_of(y), 0)
                here = address_of(y)
            odd, ignored, wrong = odd_numbers(T, here, n, low, mark)
            put_odd(args, b, n - ignored, wrong)
        y[0] = T(0)  # a last use: addresses do not keep it alive

    return numbers_kept


@loop
def row_marks(T, args, here, y):
    """(targets of a row that are not 0, those that equal the mark)."""
    N = lanes(T)
    occupied, ignored = 0, 0
    for j in range(0, args.classes, args.width):
        n, step = min(args.width, args.classes - j), args.targets.cls
        call7(args.load_targets, here + j * step, 0, step, 1, n, y, 0)
        for k in range(0, n, width(N)):
            occupied += count_true(masked_load(y + k * itemsize(N), n - k, N(0)) != N(0))
        ignored += marked(T, y, n, T(args.ignore_value))
    return occupied, ignored


def rows_kept(T):
    """The kernel over distributions: how many rows count, whether any is ignored in part.

    With normalize_targets a row without a target that is not 0 does not count either.
    """

    def rows_kept(address, first, last):
        args = args_at(address)
        y = np.empty(args.width, T)
        for b in range(first, last):
            outer, start, stop = rows_of(args, b)
            rows, wrong = 0, 0
            for inner in range(start, stop):
                occupied, ignored = row_marks(
                    T, args, at(args.targets, outer, inner), address_of(y)
                )
                wrong += 0 < ignored < args.classes
                rows += ignored == 0 and (occupied > 0 or not args.normalize)
            put_odd(args, b, rows, wrong)
        y[0] = T(0)  # a last use: addresses do not keep it alive

    return rows_kept
