"""Softmax rows whose classes lie side by side: what the kernels for them share.

A row is seen as whole chunks of 16 bytes, dealt out to the lanes in turn, with at most a chunk's
numbers at its ends, one for a lane. A lane takes the chunks of one ``visit`` at a time, several
loads under way; where they wait between the reduction and the gradient, waits.py says.
"""

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

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
from fusedce.kernels.cuda.reduce import block_total, size_bits
from fusedce.kernels.link import softmax_rest
from fusedce.kernels.scalar import INLINED, scalar


class Vectorized(NamedTuple):
    """Type tag: gradients are stored in the chunks that the logits came in."""


class Misaligned(NamedTuple):
    """Type tag: gradients lie otherwise in their chunks than logits."""


class Span(NamedTuple):
    """How a lane finds its part of a row; offsets in bytes from the first class."""

    first: Any  # of its first chunk
    step: Any  # from one of its chunks to the next
    chunks: Any  # how many it has
    edge: Any  # of its number at an end of the row
    edges: Any  # 1 if it has one
    head: Any  # classes ahead of the first whole chunk of the row
    body: Any  # classes in whole chunks
    ends: Any  # classes of the row in no whole chunk


@scalar
def row_of(args, row):
    """(outer, inner) of a row by number."""
    if args.inner == 1:
        return row, np.int64(0)
    return row // args.inner, row % args.inner


@scalar
def span_of(group, args, dtype, address, lane, inside):
    """The part of a row at an address that is a lane's."""
    item, per = np.int32(itemsize(dtype)), np.int32(per_chunk(dtype))
    classes, bits = np.int32(args.classes), size_bits(group, args)
    head = min(np.int32(np.int32((-address) & 15) // item), classes)
    whole = np.int32(np.int64(np.int32(classes - head)) * item >> 4)  # item * per is 16
    body = np.int32(whole * per)
    ends = np.int32(classes - body)  # both of them
    chunks = np.int32(np.int32(np.int32(whole - 1 - lane) >> bits) + 1)
    edge = lane if lane < head else np.int32(lane + body)
    edges = np.int32(1) if lane < ends else np.int32(0)
    if not inside:
        chunks, edges = np.int32(0), np.int32(0)
    first = np.int64(head * item + lane * np.int32(16))
    return Span(first, np.int32(np.int32(16) << bits), chunks, np.int64(edge) * item, edges,
                head, body, ends)  # fmt: skip


@scalar
def unread(span, live):
    """The same, but nothing of it is read where the row does not count."""
    none = np.int32(0)
    return Span(
        span.first, span.step, span.chunks if live else none, span.edge,
        span.edges if live else none, span.head, span.body, span.ends,
    )  # fmt: skip


@scalar
def owner_of(group, args, dtype, span, label):
    """The lane that stores the gradient of a class."""
    place = np.int32(np.int32(label) - span.head)
    if place < 0:
        return np.int32(label)
    if place < span.body:
        chunk = np.int32(place // np.int32(per_chunk(dtype)))
        return np.int32(chunk & np.int32((np.int32(1) << size_bits(group, args)) - 1))
    return np.int32(span.head + place - span.body)


@scalar
def scale_of(args, T):
    """1 / denominator; 0 where there is nothing to divide by."""
    if args.label_stats != 0:
        return peek(args.label_stats + STATS_SCALE, T)
    return float_of(T, args.scale)


@scalar
def z_loss_of(args, T):
    """The factor of the squared logsumexp, whose mean is over rows, not over class weights."""
    factor = float_of(T, args.z_loss)
    if factor != T(0) and args.label_stats != 0:
        factor *= peek(args.label_stats + STATS_PER_ROW, T)
    return factor


@scalar
def sample_of(args, T, outer, inner):
    """The sample weight of a row."""
    if args.sample_weight == 0:
        return T(1)
    here = args.sample_weight + outer * args.sample_outer + inner * args.sample_inner
    return any_number(T, args.sample_dtype, here)


@scalar
def label_at(args, labels, outer, inner):
    """The class index of a row, stored in a form that is known."""
    here = args.targets + outer * args.targets_outer + inner * args.targets_inner
    return integer_at(labels, here)


@scalar
def label_of(args, outer, inner):
    """The class index of a row."""
    here = args.targets + outer * args.targets_outer + inner * args.targets_inner
    return any_integer(args.targets_dtype, here)


@scalar
def weight_of(args, T, label):
    """The weight of a class."""
    if args.weight == 0:
        return T(1)
    return any_number(T, args.weight_dtype, args.weight + label * args.weight_step)


@scalar
def finish(group, args, outer, inner, lane, inside, loss):
    """The loss of a row where it is wanted, and the sum of a block's."""
    if inside and args.loss != 0 and lane == 0:
        here = args.loss + outer * args.loss_outer + inner * args.loss_inner
        any_put(args.loss_dtype, here, loss)
    if args.partial != 0:
        first = inside and lane == 0
        total, mine = block_total(group, np.int32(3), loss, first)
        if mine:
            poke(args.partial + (np.int64(block()) >> args.cluster) * 8, total)


def store(alignment, dtype, address, span, k, x):
    """Gradients of the chunks from the k-th on, which lies at an address."""
    raise NotImplementedError("compiled code only")


@overload(store, jit_options=INLINED)
def _store(alignment, dtype, address, span, k, x):
    if alignment.instance_class is Vectorized:
        return lambda alignment, dtype, address, span, k, x: write_words(
            address, span.step, span.chunks - k, encode(dtype, x)
        )  # fmt: skip
    return lambda alignment, dtype, address, span, k, x: write_grid(
        dtype, address, span.step, itemsize(dtype), span.chunks - k, x
    )  # fmt: skip


@scalar
def edge_of(T, dtype, address, span):
    """A lane's number at an end of the row, or -inf."""
    return read_lanes(T, dtype, address + span.edge, np.int64(0), span.edges, T(-np.inf))


@scalar
def put_edge(dtype, address, span, x):
    """Its gradient."""
    write_lanes(dtype, address + span.edge, np.int64(0), span.edges, x)


def put_chunks(extra, alignment, args, dtype, grad, hess, span, k, first, second):
    """Gradients, and curvatures if they are wanted, of the chunks from the k-th on.

    ``grad`` and ``hess`` are the addresses of that chunk.
    """
    raise NotImplementedError("compiled code only")


@overload(put_chunks, jit_options=INLINED)
def _put_chunks(extra, alignment, args, dtype, grad, hess, span, k, first, second):
    if extra.instance_class is not Full:
        return lambda extra, alignment, args, dtype, grad, hess, span, k, first, second: store(
            alignment, dtype, grad, span, k, first
        )

    def full(extra, alignment, args, dtype, grad, hess, span, k, first, second):
        if args.grad != 0:
            store(alignment, dtype, grad, span, k, first)
        if args.hess != 0:
            store(alignment, dtype, hess, span, k, second)

    return full


def put_ends(extra, args, dtype, grad, hess, span, first, second):
    """The same of numbers at the ends of the row."""
    raise NotImplementedError("compiled code only")


@overload(put_ends, jit_options=INLINED)
def _put_ends(extra, args, dtype, grad, hess, span, first, second):
    if extra.instance_class is not Full:
        return lambda extra, args, dtype, grad, hess, span, first, second: put_edge(
            dtype, grad, span, first
        )

    def full(extra, args, dtype, grad, hess, span, first, second):
        if args.grad != 0:
            put_edge(dtype, grad, span, first)
        if args.hess != 0:
            put_edge(dtype, hess, span, second)

    return full


@scalar
def curvature(e, others, square, product):
    """square p**2 + product p (1 - p) from exponentials."""
    T = type(others)
    whole = T(1) + others
    p, q = e / whole, softmax_rest(e, others, whole) / whole
    return square * p * p + product * p * q
