"""Kernels that read labels ahead of the logits: valid range, number not ignored, sum of weights.

An invalid label is then found before anything is written, also where the gradient overwrites the
logits, and the denominator of the mean is known when the first gradient is written.
"""

import numpy as np

from fusedce.kernels.cpu.blocks import address_of, array_at, block_rows, row_address
from fusedce.kernels.cpu.kernel_args import args_at
from fusedce.kernels.cpu.load_store import masked_load
from fusedce.kernels.cpu.vector_loops import loop
from fusedce.kernels.intrinsics import call7, peek, poke
from fusedce.kernels.scalar import scalar
from fusedce.kernels.vector import count_true, lane_bytes, lanes, width


@loop
def check_labels(args, labels):
    """(labels that are not ignored, position of the first invalid one or -1) of an int64 array.

    Valid: lowest <= label < highest and label != forbidden_label.
    """
    kept, bad = 0, 0
    for i in range(labels.size):
        label = labels[i]
        keep = label != args.ignore_index
        kept += keep
        invalid = (label < args.lowest) | (label >= args.highest)
        bad += keep & (invalid | (label == args.forbidden_label))
    if bad > 0:
        for i in range(labels.size):
            label = labels[i]
            invalid = (label < args.lowest) | (label >= args.highest)
            invalid |= label == args.forbidden_label
            if invalid and label != args.ignore_index:
                return kept, i
    return kept, -1


@loop
def all_zero_or_one(args, address, n):
    """Whether n integer labels are all 0 or 1 and all count, tested eight bytes at a time.

    They are if none of their bits but the lowest is set. False also where this test does not apply.
    """
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
def sum_weights(args, labels, T):
    """The sum of weight[label] over the labels that are not ignored."""
    total = np.float64(0)
    for label in labels:
        if label != args.ignore_index:
            total += np.float64(peek(args.weight + label * lane_bytes(T), T))
    return total


@scalar
def is_not_binary(label, lowest):
    """Whether a label is neither 1 nor ``lowest``, which is 0 or -1."""
    return label * (label - (type(lowest)(1) + lowest)) + lowest != type(lowest)(0)


@loop
def count_numbers(T, y, n, lowest, ignore_value):
    """(numbers that are neither 1 nor ``lowest``, ignored numbers, invalid numbers) of n labels.

    y: address of (n,) T. Valid labels are those in [0, 1] if ``lowest`` is 0, and -1 and 1 if it is
    -1. A label equal to ``ignore_value`` is ignored and counts as neither of the others.
    """
    if ignore_value != T(1) and ignore_value != lowest and count_not_binary(T, y, n, lowest) == 0:
        return 0, 0, 0  # the usual case, decided in half the time
    N = lanes(T)
    not_binary, ignored, n_invalid = 0, 0, 0
    fine = lowest if ignore_value == T(1) else T(1)  # for the lanes behind the last label
    least = T(0) if lowest == T(0) else T(2)  # of labels in [least, 1]: none if lowest is -1
    for j in range(0, n, width(N)):
        label = masked_load(y + j * lane_bytes(N), n - j, N(fine))
        kept = label != N(ignore_value)
        other = kept & is_not_binary(label, lowest)
        inside = (label >= least) & (label <= T(1))
        not_binary += count_true(other)
        ignored += count_true(~kept)
        n_invalid += count_true(other & ~inside)
    return not_binary, ignored, n_invalid


@loop
def count_not_binary(T, y, n, lowest):
    """How many of n labels, none of them ignored, are neither 1 nor ``lowest``."""
    N = lanes(T)
    found = 0
    for j in range(0, n, width(N)):
        found += count_true(is_not_binary(masked_load(y + j * lane_bytes(N), n - j, N(1)), lowest))
    return found


@loop
def count_ignored(T, y, n, ignore_value):
    """How many of n numbers, y: (n,) T, equal the one that marks an ignored target."""
    N = lanes(T)
    found = 0
    for j in range(0, n, width(N)):
        found += count_true(masked_load(y + j * lane_bytes(N), n - j, N(np.nan)) == N(ignore_value))
    return found


@loop
def store_counts(args, block, count, n_invalid):
    """count[block] <- count; bad[block] <- 0 if any number of the block is invalid, else -1."""
    poke(args.count + 8 * block, np.int64(count))
    poke(args.bad + 8 * block, np.int64(0 if n_invalid > 0 else -1))


def labels(T):
    """The kernel over integer labels; T: the dtype of the class weights.

    Reads targets (outer, inner) of any integer dtype, and if given weight (classes,) of T. Writes
    for each block, (blocks,): partial <- sum of weight[label], count <- number of labels that are
    not ignored, bad <- position of the first invalid label or -1.
    """

    def labels(address, first, last):
        args = args_at(address)
        scratch = np.empty(args.block, np.int64)
        for b in range(first, last):
            outer, start, stop = block_rows(args, b)
            n, step = stop - start, args.targets.inner
            here = row_address(args.targets, outer, start)
            kept, bad, weights = n, -1, np.float64(n)
            # 1. The fast test, for labels of 0 and 1.
            if not all_zero_or_one(args, here, n):
                # 2. Load the labels of the block as int64, unless they are.
                found = array_at(here if args.bytes == 8 else address_of(scratch), n, np.int64)
                if args.bytes != 8:
                    call7(args.load_targets, here, 0, step, 1, n, address_of(scratch), 0)
                # 3. Check and count them, and sum their weights.
                kept, bad = check_labels(args, found)
                weights = np.float64(kept)
                if args.weight != 0 and bad < 0:
                    weights = sum_weights(args, found, T)
            # 4. The results of the block.
            poke(args.partial + 8 * b, weights)
            poke(args.count + 8 * b, np.int64(kept))
            poke(args.bad + 8 * b, np.int64(outer * args.inner + start + bad if bad >= 0 else -1))
        scratch[0] = 0  # the last use of scratch: addresses alone do not keep it allocated

    return labels


def number_labels(T):
    """The kernel over labels that are numbers; T: the compute dtype.

    Reads targets (outer, inner) of any real dtype. Writes for each block, (blocks,): count <-
    number of labels that are not ignored, bad <- 0 if any is invalid, else -1.
    """

    def number_labels(address, first, last):
        args = args_at(address)
        y = np.empty(args.block, T)
        for b in range(first, last):
            outer, start, stop = block_rows(args, b)
            n, step = stop - start, args.targets.inner
            lowest, ignore_value = T(args.lowest), T(args.ignore_value)
            here = row_address(args.targets, outer, start)
            # 1. Load the labels of the block, unless they are read in place.
            if not args.direct_targets:
                call7(args.load_targets, here, 0, step, 1, n, address_of(y), 0)
                here = address_of(y)
            # 2. Count them.
            not_binary, ignored, n_invalid = count_numbers(T, here, n, lowest, ignore_value)
            store_counts(args, b, n - ignored, n_invalid)
        y[0] = T(0)  # the last use of y: addresses alone do not keep it allocated

    return number_labels


@loop
def count_targets_of_row(T, args, row, y):
    """(nonzero targets, ignored targets) of the row at an address; y: scratch, (width,) T."""
    N = lanes(T)
    nonzero, ignored = 0, 0
    for j in range(0, args.classes, args.width):
        n, step = min(args.width, args.classes - j), args.targets.cls
        call7(args.load_targets, row + j * step, 0, step, 1, n, y, 0)
        for k in range(0, n, width(N)):
            nonzero += count_true(masked_load(y + k * lane_bytes(N), n - k, N(0)) != N(0))
        ignored += count_ignored(T, y, n, T(args.ignore_value))
    return nonzero, ignored


def distribution_labels(T):
    """The kernel over distributions; T: the compute dtype.

    Reads targets (outer, classes, inner) of any real dtype. Writes for each block, (blocks,): count
    <- number of rows that are not ignored, bad <- 0 if a row is ignored in part, else -1. With
    normalize_targets, a row without a nonzero target does not count either.
    """

    def distribution_labels(address, first, last):
        args = args_at(address)
        y = np.empty(args.width, T)
        for b in range(first, last):
            outer, start, stop = block_rows(args, b)
            kept, n_partly_ignored = 0, 0
            # 1. Count the targets of each row.
            for inner in range(start, stop):
                here = row_address(args.targets, outer, inner)
                nonzero, ignored = count_targets_of_row(T, args, here, address_of(y))
                n_partly_ignored += 0 < ignored < args.classes
                kept += ignored == 0 and (nonzero > 0 or not args.normalize)
            # 2. The results of the block.
            store_counts(args, b, kept, n_partly_ignored)
        y[0] = T(0)  # the last use of y: addresses alone do not keep it allocated

    return distribution_labels
