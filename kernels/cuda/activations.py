"""Kernels of softmax, log_softmax, sigmoid and log_sigmoid as functions of their own."""

from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels.cuda.columns import (
    class_loop_end,
    online_softmax_row,
    present_classes,
    reload_classes,
    row_of_thread,
    stage_logits,
    store_class_results,
)
from fusedce.kernels.cuda.device import block, thread, threads
from fusedce.kernels.cuda.elementwise import divmod_by_magic
from fusedce.kernels.cuda.load_store import chunks_of, decode, no_words
from fusedce.kernels.cuda.load_store_scalar import number_at, put_number
from fusedce.kernels.cuda.logit_transform import Plain
from fusedce.kernels.cuda.online_softmax import (
    SoftmaxState,
    empty_state,
    online_softmax_iteration,
    online_softmax_reduce,
    online_softmax_update,
)
from fusedce.kernels.cuda.reduce import cluster_arrive, cluster_wait
from fusedce.kernels.cuda.row_cache import (
    chunk_loop_end,
    load_chunks,
    prefetch_row,
    reload_chunks,
)
from fusedce.kernels.cuda.rows import (
    lane_part,
    load_remainder,
    row_of_group,
    store_remainder,
    store_row_chunks,
)
from fusedce.kernels.cuda.tags import ColumnTags, RowTags
from fusedce.kernels.link import sigmoid_outcomes
from fusedce.kernels.scalar import exp_down, generated, log1p_up
from fusedce.kernels.vector import vector_of, width


class Probability(NamedTuple):
    """Type tag: the function's value is a probability."""


class LogProbability(NamedTuple):
    """Type tag: its value is the logarithm of a probability."""


@generated
def softmax_value(output, z, maximum, sum_exp_minus_1):
    """exp(z - maximum) / (1 + sum_exp_minus_1), or its logarithm."""
    if output.instance_class is LogProbability:
        return lambda output, z, maximum, sum_exp_minus_1: (z - maximum) - log1p_up(sum_exp_minus_1)
    return lambda output, z, maximum, sum_exp_minus_1: (
        exp_down(z - maximum) / (type(maximum)(1) + sum_exp_minus_1)
    )


@generated
def sigmoid_value(output, z):
    """sigmoid(z), or its logarithm."""
    if output.instance_class is LogProbability:
        return lambda output, z: sigmoid_outcomes(z)[0]
    return lambda output, z: sigmoid_outcomes(z)[2]


def softmax_rows(T: Any, Dtype: type, Residency: type, Group: type, Lanes: type, Alignment: type,
                 Output: type) -> Any:  # fmt: skip
    """The kernel of softmax for rows with contiguous classes, a group of threads a row.

    Reads logits and writes grad (the result), both (outer, classes, inner) of Dtype; all
    arithmetic is of T.
    """

    def softmax_rows(args):
        tags, output = RowTags(Dtype(), Residency(), Group(), Alignment(), Plain()), Output()
        dtype, group = tags.dtype, tags.group
        N = vector_of(T, Lanes())
        # 1. Which row, and which part of it.
        this = row_of_group(group, args)
        outer, inner = this.outer, this.inner
        source = args.logits + outer * args.logits_outer + inner * args.logits_inner
        result = args.grad + outer * args.grad_outer + inner * args.grad_inner
        part = lane_part(tags, args, source, this.rank, this.in_range)
        # 2. The remainder (scalar head and tail of the row): at most one class a thread.
        z = load_remainder(T, dtype, source, part)
        # Scalars, not a record: a record in a loop would change the machine code.
        thread_max, sum_below_max, n_at_max = online_softmax_update(dtype, empty_state(T), z)
        # 3. First pass over the body: online softmax of the thread's chunks.
        words = no_words(N, dtype)
        prefetch_row(tags, args, N, source, part, part.chunks)
        k, per = np.int32(0), chunks_of(N, dtype)
        end = chunk_loop_end(tags, part.chunks, per)
        while k < end:
            words = load_chunks(tags, args, N, source, part, k)
            v = decode(N, dtype, words)
            (thread_max, sum_below_max, n_at_max), _ = online_softmax_iteration(
                tags.residency, dtype, SoftmaxState(thread_max, sum_below_max, n_at_max), v
            )
            k = np.int32(k + per)
        # 4. Combine the threads' states to the row's maximum and sum.
        state = SoftmaxState(thread_max, sum_below_max, n_at_max)
        maximum, sum_exp_minus_1 = online_softmax_reduce(group, args, dtype, 0, state)
        cluster_arrive(group)
        # 5. Second pass: the results, from logits in the row cache.
        k, at = np.int32(0), result + part.first
        while k < end:
            v = decode(N, dtype, reload_chunks(tags, args, N, source, part, k, words))
            store_row_chunks(tags, at, part, k, softmax_value(output, v, maximum, sum_exp_minus_1))
            k, at = np.int32(k + per), at + per * part.step
        store_remainder(dtype, result, part, softmax_value(output, z, maximum, sum_exp_minus_1))
        cluster_wait(group)

    return softmax_rows


def softmax_columns(
    T: Any, Dtype: type, Layout: type, Residency: type, Lanes: type, Output: type
) -> Any:
    """The kernel of softmax with a row for each thread.

    Reads logits and writes grad (the result), both (outer, classes, inner) of Dtype; all
    arithmetic is of T.
    """

    def softmax_columns(args):
        tags, output = ColumnTags(Dtype(), Layout(), Residency(), Plain()), Output()
        N = vector_of(T, Lanes())
        # 1. Which row; SmemStaged: the block's rows are copied to shared memory.
        row = row_of_thread(args)
        stage_logits(tags, N, args)
        # 2. First pass: online softmax of the row.
        maximum, sum_exp_minus_1, kept = online_softmax_row(tags, N, args, row)
        # 3. Second pass: the results.
        j, end = np.int64(0), class_loop_end(tags, N, row.classes)
        while j < end:
            count, present = present_classes(N, row.classes, j)
            z = reload_classes(tags, N, args, row, j, count, kept)
            p = softmax_value(output, z, maximum, sum_exp_minus_1)
            store_class_results(tags, N, args, row, j, count, p, p)
            j += width(N)

    return softmax_columns


def sigmoids(T: Any, Dtype: type, Output: type) -> Any:
    """The kernel of sigmoid for arrays of any strides: a block takes ``args.span`` neighbours.

    Reads logits and writes grad (the result), both (outer, classes, inner) of Dtype; all
    arithmetic is of T.
    """

    def sigmoids(args):
        dtype, output = Dtype(), Output()
        # 1. The block's first element, with 64-bit divisions once.
        start = np.int64(block()) * args.span
        n = min(args.span, args.outer * args.classes * args.inner - start)
        row, inner = start // args.inner, start % args.inner
        outer, cls = row // args.classes, row % args.classes
        i = np.int64(thread())
        while i < n:
            # 2. The indices of element i from there, by multiplication and shift.
            rows, h = divmod_by_magic(inner + i, args.inner, args.magic_inner)
            over, c = divmod_by_magic(cls + rows, args.classes, args.magic_classes)
            o = outer + over
            # 3. Load, compute, store.
            z = number_at(
                T, dtype,
                args.logits + o * args.logits_outer + c * args.logits_cls + h * args.logits_inner,
            )  # fmt: skip
            address = args.grad + o * args.grad_outer + c * args.grad_cls + h * args.grad_inner
            put_number(dtype, address, sigmoid_value(output, z))
            i += threads()

    return sigmoids
