"""Softmax rows with contiguous classes: what the kernels for them share.

A group of 2**k threads (see reduce.py) shares a row. The row is split into a scalar head up to the
first 16-byte boundary, a vectorized body of whole 16-byte chunks, and a scalar tail. Head and tail
together are the remainder, with fewer classes than threads in the group: a thread has at most one
class of it. The chunks of the body go to the threads round-robin. A thread goes through its chunks
in iterations of ``chunks_of(N, dtype)`` chunks, all loaded before the first is used.

Arguments that the functions of the row kernels share:
``args``: KernelArgs; ``tags``: RowTags or DistributionTags; ``T``: float32 or float64, the type of
all arithmetic; ``N``: the vector type of T with as many lanes as an iteration has logits;
``source``, ``grad``, ``hess``: addresses of a row's first class; ``part``: LanePart, what a thread
has of the row; ``k``: number of the first chunk of an iteration, counted within the thread's
chunks; ``z``: stored logits; ``x``: logits after logit scale and softcap; ``live``: whether the row
counts (in the grid, not ignored, denominator not 0).
"""

from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels.cuda.device import block
from fusedce.kernels.cuda.kernel_args import STATS_PER_ROW, STATS_SCALE
from fusedce.kernels.cuda.load_store import (
    encode,
    per_chunk,
    write_words,
)
from fusedce.kernels.cuda.load_store_masked import read_lanes, write_grid, write_lanes
from fusedce.kernels.cuda.load_store_scalar import (
    any_integer,
    any_number,
    any_put,
    float_of,
    integer_at,
    itemsize,
    peek,
    poke,
)
from fusedce.kernels.cuda.logit_transform import Full
from fusedce.kernels.cuda.reduce import (
    block_loss_sum,
    group_size_log2,
    row_and_rank,
    row_in_range,
)
from fusedce.kernels.cuda.tags import tag_class
from fusedce.kernels.link import softmax_rest
from fusedce.kernels.scalar import generated, scalar


class Vectorized(NamedTuple):
    """Type tag: gradient rows have the alignment of logits rows: store 16-byte chunks."""


class Misaligned(NamedTuple):
    """Type tag: gradient rows are aligned differently from logits rows: store single elements."""


class GroupRow(NamedTuple):
    """The row of this thread's group."""

    outer: Any
    inner: Any
    rank: Any  # of this thread in its group
    in_range: Any  # False for threads of the last block that have no row


class LanePart(NamedTuple):
    """The part of a row that a thread processes; offsets in bytes from the row's first class."""

    first: Any  # offset of its first chunk
    step: Any  # from one of its chunks to the next
    chunks: Any  # how many it has
    remainder_offset: Any  # of its class in the remainder
    has_remainder: Any  # 1 if it has one, else 0
    head: Any  # classes ahead of the first whole chunk of the row
    body: Any  # classes in whole chunks of the row
    remainder: Any  # classes of the row in head and tail


class Outputs(NamedTuple):
    """Where gradients and second derivatives go: addresses of a row, or of a chunk of it."""

    grad: Any
    hess: Any


@scalar
def unravel_row(args, row):
    """(outer, inner) of a row by number."""
    if args.inner == 1:
        return row, np.int64(0)
    return row // args.inner, row % args.inner


@scalar
def row_of_group(group, args):
    """The row of this thread's group; row 0 where the grid has more groups than rows."""
    row, rank = row_and_rank(group, args)
    in_range = row_in_range(group, args, row)
    outer, inner = unravel_row(args, row if in_range else np.int64(0))
    return GroupRow(outer, inner, rank, in_range)


@scalar
def lane_part(tags, args, address, rank, in_range):
    """The part that the thread of this rank has of the row at an address."""
    item, per = np.int32(itemsize(tags.dtype)), np.int32(per_chunk(tags.dtype))
    classes, bits = np.int32(args.classes), group_size_log2(tags.group, args)
    head = min(np.int32(np.int32((-address) & 15) // item), classes)
    whole = np.int32(np.int64(np.int32(classes - head)) * item >> 4)  # item * per is 16
    body = np.int32(whole * per)
    remainder = np.int32(classes - body)
    chunks = np.int32(np.int32(np.int32(whole - 1 - rank) >> bits) + 1)
    edge = rank if rank < head else np.int32(rank + body)
    edges = np.int32(1) if rank < remainder else np.int32(0)
    if not in_range:
        chunks, edges = np.int32(0), np.int32(0)
    first = np.int64(head * item + rank * np.int32(16))
    return LanePart(first, np.int32(np.int32(16) << bits), chunks, np.int64(edge) * item, edges,
                    head, body, remainder)  # fmt: skip


@scalar
def without_loads(part, live):
    """The part to load from: without classes unless the row counts."""
    none = np.int32(0)
    return LanePart(
        part.first, part.step, part.chunks if live else none, part.remainder_offset,
        part.has_remainder if live else none, part.head, part.body, part.remainder,
    )  # fmt: skip


@scalar
def rank_of_class(tags, args, part, label):
    """The rank of the thread that stores the gradient of a class."""
    index = np.int32(np.int32(label) - part.head)  # within the body
    if index < 0:
        return np.int32(label)
    if index < part.body:
        chunk = np.int32(index // np.int32(per_chunk(tags.dtype)))
        return np.int32(chunk & np.int32((np.int32(1) << group_size_log2(tags.group, args)) - 1))
    return np.int32(part.head + index - part.body)


# ------------------------------------------------------------------------- numbers of one row


@scalar
def scale_of(args, T):
    """1 / denominator of the mean; 0 where the denominator is 0."""
    if args.label_stats != 0:
        return peek(args.label_stats + STATS_SCALE, T)
    return float_of(T, args.scale)


@scalar
def z_loss_of(args, T):
    """The factor of the squared logsumexp; its mean is over rows, without class weights."""
    factor = float_of(T, args.z_loss)
    if factor != T(0) and args.label_stats != 0:
        factor *= peek(args.label_stats + STATS_PER_ROW, T)
    return factor


@scalar
def sample_weight_of(args, T, outer, inner):
    """The sample weight of a row."""
    if args.sample_weight == 0:
        return T(1)
    address = args.sample_weight + outer * args.sample_outer + inner * args.sample_inner
    return any_number(T, args.sample_dtype, address)


@scalar
def load_class_index(args, index_dtype, outer, inner):
    """The class index of a row; ``index_dtype``: type tag of its dtype."""
    address = args.targets + outer * args.targets_outer + inner * args.targets_inner
    return integer_at(index_dtype, address)


@scalar
def load_any_class_index(args, outer, inner):
    """The class index of a row, whose dtype is looked up while the kernel runs."""
    address = args.targets + outer * args.targets_outer + inner * args.targets_inner
    return any_integer(args.targets_dtype, address)


@scalar
def class_index_or_zero(args, outer, inner):
    """``load_any_class_index``; 0 where targets are distributions."""
    label = np.int64(0)
    if args.sparse_targets != 0:
        label = load_any_class_index(args, outer, inner)
    return label


@scalar
def class_weight_of(args, T, label):
    """The weight of a class."""
    if args.weight == 0:
        return T(1)
    return any_number(T, args.weight_dtype, args.weight + label * args.weight_step)


@scalar
def store_loss(group, args, row, loss):
    """Store the loss of a row if losses are wanted, and a block's sum if a reduction is."""
    if row.in_range and args.loss != 0 and row.rank == 0:
        address = args.loss + row.outer * args.loss_outer + row.inner * args.loss_inner
        any_put(args.loss_dtype, address, loss)
    if args.partial != 0:
        first = row.in_range and row.rank == 0
        total, stores = block_loss_sum(group, np.int32(3), loss, first)
        if stores:
            poke(args.partial + (np.int64(block()) >> args.cluster) * 8, total)


@scalar
def softmax_curvature(e, sum_exp_minus_1, square, product):
    """square p**2 + product p (1 - p) with p = e / (1 + sum_exp_minus_1)."""
    T = type(sum_exp_minus_1)
    total = T(1) + sum_exp_minus_1
    p, q = e / total, softmax_rest(e, sum_exp_minus_1, total) / total
    return square * p * p + product * p * q


# --------------------------------------------------------------- loads and stores of a thread


@scalar
def load_remainder(T, dtype, address, part):
    """The logit of a thread's class in the remainder, or -inf."""
    return read_lanes(
        T, dtype, address + part.remainder_offset, np.int64(0), part.has_remainder, T(-np.inf)
    )


@scalar
def store_remainder(dtype, address, part, x):
    """Store a result of that class."""
    write_lanes(dtype, address + part.remainder_offset, np.int64(0), part.has_remainder, x)


@generated
def store_row_chunks(tags, address, part, k, x):
    """Store results of the chunks from the k-th on; ``address``: of chunk k."""
    if tag_class(tags, "alignment") is Vectorized:
        return lambda tags, address, part, k, x: write_words(
            address, part.step, part.chunks - k, encode(tags.dtype, x)
        )  # fmt: skip
    return lambda tags, address, part, k, x: write_grid(
        tags.dtype, address, part.step, itemsize(tags.dtype), part.chunks - k, x
    )  # fmt: skip


@generated
def store_chunk_results(tags, args, out, part, k, first, second):
    """Store gradients, and second derivatives if wanted, of the chunks from the k-th on.

    ``out``: Outputs, addresses of chunk k.
    """
    if tag_class(tags, "features") is not Full:
        return lambda tags, args, out, part, k, first, second: store_row_chunks(
            tags, out.grad, part, k, first
        )

    def full(tags, args, out, part, k, first, second):
        if args.grad != 0:
            store_row_chunks(tags, out.grad, part, k, first)
        if args.hess != 0:
            store_row_chunks(tags, out.hess, part, k, second)

    return full


@generated
def store_remainder_results(tags, args, out, part, first, second):
    """Store gradients, and second derivatives if wanted, of the remainder.

    ``out``: Outputs, addresses of the row.
    """
    if tag_class(tags, "features") is not Full:
        return lambda tags, args, out, part, first, second: store_remainder(
            tags.dtype, out.grad, part, first
        )

    def full(tags, args, out, part, first, second):
        if args.grad != 0:
            store_remainder(tags.dtype, out.grad, part, first)
        if args.hess != 0:
            store_remainder(tags.dtype, out.hess, part, second)

    return full
