"""One row for each thread: where a thread loads the classes of its row, and stores its results.

Either neighbouring rows are contiguous (``Strided``), so that the threads of a warp load
neighbouring elements; or the rows of a block are one contiguous piece of memory (``SmemStaged``),
which is copied through shared memory, so that global loads are of neighbouring elements too.

Arguments that the functions of the column kernels share:
``args``: KernelArgs; ``tags``: ColumnTags or DistributionColumnTags; ``T``: float32 or float64, the
type of all arithmetic; ``N``: the vector type of T with as many lanes as an iteration has classes;
``row``: ThreadRow; ``j``: the first class of an iteration; ``count``: how many classes of the row
there are from j on, at most the lanes of N; ``kept``: the logits of the last iteration of the first
pass: with ``Registers`` all of the row.
"""

from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels.cuda.compensated_sum import (
    SEGMENT_CLASSES,
    CompensatedSoftmax,
    merge_softmax,
    sum_value,
    zero_sum,
)
from fusedce.kernels.cuda.device import barrier, block, thread, threads
from fusedce.kernels.cuda.load_store import first_lanes
from fusedce.kernels.cuda.load_store_masked import (
    get_lanes,
    put_lanes,
    read_lanes,
    write_lanes,
)
from fusedce.kernels.cuda.load_store_scalar import itemsize
from fusedce.kernels.cuda.logit_transform import Full, transform_logits
from fusedce.kernels.cuda.online_softmax import SoftmaxState, online_softmax_update
from fusedce.kernels.cuda.reduce import WARPS
from fusedce.kernels.cuda.row_cache import Registers
from fusedce.kernels.cuda.rows import GroupRow, store_loss, unravel_row
from fusedce.kernels.cuda.tags import tag_class
from fusedce.kernels.scalar import generated, scalar, where
from fusedce.kernels.vector import lane_bytes, lanes_as, width

SingleThread = WARPS[0]  # a group of one thread


class Strided(NamedTuple):
    """Type tag: each thread loads its own row from global memory."""


class SmemStaged(NamedTuple):
    """Type tag: the rows of a block are contiguous and go through shared memory."""


class ThreadRow(NamedTuple):
    """The row of a thread."""

    logits: Any  # address of its first logit, and of its first results
    grad: Any
    hess: Any
    outer: Any
    inner: Any
    in_range: Any  # False for threads of the last block that have no row
    classes: Any  # 0 if there is no row


@scalar
def row_of_thread(args):
    """The row of this thread; row 0, without classes, where there are more threads than rows."""
    number = np.int64(block()) * threads() + thread()
    in_range = number < args.outer * args.inner
    outer, inner = unravel_row(args, number if in_range else np.int64(0))
    return ThreadRow(
        args.logits + outer * args.logits_outer + inner * args.logits_inner,
        args.grad + outer * args.grad_outer + inner * args.grad_inner,
        args.hess + outer * args.hess_outer + inner * args.hess_inner,
        outer, inner, in_range, args.classes if in_range else np.int64(0),
    )  # fmt: skip


@scalar
def store_thread_loss(args, row, loss):
    """Store the loss of a row if losses are wanted, and a block's sum if a reduction is."""
    this = GroupRow(row.outer, row.inner, np.int32(0), row.in_range)
    store_loss(SingleThread(), args, this, loss)


# ----------------------------------------------------------- SmemStaged: copies by a whole block


@scalar
def elements_of_block(args):
    """(index of the first logit of a block's rows, number of their logits)."""
    first = np.int64(block()) * threads()
    rows = min(np.int64(threads()), args.outer * args.inner - first)
    return first * args.classes, rows * args.classes


@scalar
def copy_to_smem(tags, N, args, address):
    """Copy a block's logits to shared memory, as numbers of T."""
    T = lanes_as(N(0))
    start, n = elements_of_block(args)
    size, item = lane_bytes(T), np.int64(itemsize(tags.dtype))
    step = np.int64(threads())
    e = np.int64(thread())
    while e < n:
        count = np.int32(min((n - e + step - 1) // step, np.int64(width(N))))
        source = address + (start + e) * item
        x = read_lanes(N, tags.dtype, source, step * item, count, T(0))
        put_lanes(np.int32(args.staged + e * size), np.int32(step * size), count, x)
        e += step * width(N)
    barrier()


@scalar
def copy_from_smem(tags, N, args, address):
    """Copy a block's results from shared memory to global memory."""
    T = lanes_as(N(0))
    barrier()
    start, n = elements_of_block(args)
    size, item = lane_bytes(T), np.int64(itemsize(tags.dtype))
    step = np.int64(threads())
    e = np.int64(thread())
    while e < n:
        count = np.int32(min((n - e + step - 1) // step, np.int64(width(N))))
        source = np.int32(args.staged + e * size)
        x = get_lanes(N, source, np.int32(step * size), count, T(0))
        write_lanes(tags.dtype, address + (start + e) * item, step * item, count, x)
        e += step * width(N)
    barrier()


@generated
def stage_logits(tags, N, args):
    """SmemStaged: copy a block's logits to shared memory."""
    if tag_class(tags, "layout") is SmemStaged:
        return lambda tags, N, args: copy_to_smem(tags, N, args, args.logits)
    return lambda tags, N, args: None


@generated
def write_staged(tags, N, args, address):
    """SmemStaged: copy a block's results from shared memory to an array at an address."""
    if tag_class(tags, "layout") is SmemStaged:
        return lambda tags, N, args, address: copy_from_smem(tags, N, args, address)
    return lambda tags, N, args, address: None


@scalar
def smem_class_address(args, size, j):
    """The shared memory address of class j of this thread's row."""
    return np.int32(args.staged + (np.int64(thread()) * args.classes + j) * size)


# ------------------------------------------------------------------ loads and stores of a thread


@scalar
def present_classes(N, classes, j):
    """(count, which lanes hold a class) of the iteration from class j on."""
    count = np.int32(max(min(classes - j, np.int64(width(N))), 0))
    return count, first_lanes(N, count)


@generated
def load_classes(tags, N, args, row, j, count):
    """The stored logits of ``count`` classes from j on; -inf in the other lanes."""
    if tag_class(tags, "layout") is SmemStaged:

        def from_smem(tags, N, args, row, j, count):
            T = lanes_as(N(0))
            size = lane_bytes(T)
            return get_lanes(
                N, smem_class_address(args, size, j), np.int32(size), count, T(-np.inf)
            )

        return from_smem

    def from_global(tags, N, args, row, j, count):
        T = lanes_as(N(0))
        address = row.logits + j * args.logits_cls
        return read_lanes(N, tags.dtype, address, args.logits_cls, count, T(-np.inf))

    return from_global


@generated
def reload_classes(tags, N, args, row, j, count, kept):
    """The same in a later pass."""
    if tag_class(tags, "residency") is Registers:
        return lambda tags, N, args, row, j, count, kept: kept
    return lambda tags, N, args, row, j, count, kept: load_classes(tags, N, args, row, j, count)


@generated
def store_classes(tags, args, address, step, j, count, x):
    """Store results of ``count`` classes from j on, in an array with these row address and step."""
    if tag_class(tags, "layout") is SmemStaged:

        def to_smem(tags, args, address, step, j, count, x):
            size = lane_bytes(lanes_as(x))
            put_lanes(smem_class_address(args, size, j), np.int32(size), count, x)

        return to_smem
    return lambda tags, args, address, step, j, count, x: write_lanes(
        tags.dtype, address + j * step, step, count, x
    )


@generated
def store_class_results(tags, N, args, row, j, count, first, second):
    """Store gradients, and second derivatives if wanted, of ``count`` classes from j on."""
    if tag_class(tags, "features") is not Full:

        def plain(tags, N, args, row, j, count, first, second):
            store_classes(tags, args, row.grad, args.grad_cls, j, count, first)
            write_staged(tags, N, args, args.grad)

        return plain

    def full(tags, N, args, row, j, count, first, second):
        if args.grad != 0:
            store_classes(tags, args, row.grad, args.grad_cls, j, count, first)
            write_staged(tags, N, args, args.grad)
        if args.hess != 0:
            store_classes(tags, args, row.hess, args.hess_cls, j, count, second)
            write_staged(tags, N, args, args.hess)

    return full


@generated
def class_loop_end(tags, N, classes):
    """Where a loop over classes ends: after one iteration if the row fits in registers."""
    if tag_class(tags, "residency") is Registers:
        return lambda tags, N, classes: np.int64(width(N))
    return lambda tags, N, classes: np.int64(classes)


# ----------------------------------------------------------------------------- the first pass


@scalar
def online_softmax_classes(tags, N, args, row, j, end, maximum):
    """(SoftmaxState of classes j to ``end``, logits of the last iteration).

    Starts from ``maximum``, that of the classes before j, with nothing at or below it.
    """
    T = lanes_as(N(0))
    sum_below_max, n_at_max, kept = T(0), T(0), N(0)
    while j < end:
        count, present = present_classes(N, row.classes, j)
        kept = load_classes(tags, N, args, row, j, count)
        x = transform_logits(tags.features, args, kept, present)
        state = online_softmax_update(tags.dtype, SoftmaxState(maximum, sum_below_max, n_at_max), x)
        maximum, sum_below_max, n_at_max = state
        j += width(N)
    return SoftmaxState(maximum, sum_below_max, n_at_max), kept


@scalar
def sum_exp_minus_1_of(sum_below_max, n_at_max):
    """The sum of exponentials - 1; NaN without a class at the maximum: all are -inf or NaN."""
    T = type(sum_below_max)
    return where(n_at_max > T(0), sum_below_max + (n_at_max - T(1)), T(np.nan))


@generated
def online_softmax_row(tags, N, args, row):
    """(maximum, sum of exponentials - 1, logits of the last iteration) of a row."""
    if tag_class(tags, "residency") is Registers:

        def single_iteration(tags, N, args, row):
            T = lanes_as(N(0))
            end, low = class_loop_end(tags, N, row.classes), T(-np.finfo(T).max)
            state, kept = online_softmax_classes(tags, N, args, row, np.int64(0), end, low)
            others = sum_exp_minus_1_of(state.sum_below_max, state.n_at_max)
            return state.maximum, others, kept

        return single_iteration

    def segments(tags, N, args, row):
        T = lanes_as(N(0))
        total, j = CompensatedSoftmax(T(-np.finfo(T).max), zero_sum(T), T(0)), np.int64(0)
        while j < row.classes:
            end = min(j + SEGMENT_CLASSES, row.classes)
            state, kept = online_softmax_classes(tags, N, args, row, j, end, total.maximum)
            total = merge_softmax(total, state)
            j = end
        others = sum_exp_minus_1_of(sum_value(total.sum_below_max), total.n_at_max)
        return total.maximum, others, N(0)

    return segments
