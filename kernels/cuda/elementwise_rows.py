"""Elements in rows of whole chunks: class indices, and weights of classes and of samples.

Rows follow each other without a gap, so that the chunks of 16 bytes are numbered from end to end,
as in flat_elements.py; each lies in one row. A thread asks once a chunk which row that is, and what
its label and its weights are.
"""

from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels.cuda.device import block, thread
from fusedce.kernels.cuda.dtypes import BYTES, CHUNK, LANES
from fusedce.kernels.cuda.element_losses import Soft, evaluated, outcome
from fusedce.kernels.cuda.elementwise_flat import (
    SOFT,
    Evaluation,
    Tags,
    chunks_among,
    losses_of,
    place_of,
    put_all,
)
from fusedce.kernels.cuda.elementwise_weights import (
    Absent,
    Seats,
    Weights,
    chunk_replaced,
    seat_of,
    unweighed,
    weighed,
    with_chunk,
)
from fusedce.kernels.cuda.lane_reduce import chunks_total
from fusedce.kernels.cuda.load_store import (
    decoded,
    first_lanes,
    lanes_of,
    per_chunk,
    read_beside,
)
from fusedce.kernels.cuda.load_store_scalar import constant, float_of, integer_at, params_of, poke
from fusedce.kernels.cuda.reduce import block_sum
from fusedce.kernels.cuda.rows import scale_of
from fusedce.kernels.cuda.toolchain import intrinsic, types
from fusedce.kernels.cuda.unroll import unrolled
from fusedce.kernels.scalar import scalar, where
from fusedce.kernels.vector import vector_of


class Indexed(NamedTuple):
    """Type tag: a row has one label, the index of its class; C stands for none of them."""


@intrinsic
def with_hit(typingctx, dtype, mask, k, place):
    """The mask, in the k-th chunk yes at a place: of no lane where that is outside."""
    per = lanes_of(dtype.instance_class)

    def codegen(context, builder, sig, args):
        _, found, k, place = args
        hits = [builder.icmp_signed("==", place, constant(i)) for i in range(per)]
        return chunk_replaced(builder, found, k, hits)

    return mask(dtype, mask, types.int32, types.int32), codegen


class Marked(NamedTuple):
    """What class indices say of each lane."""

    yes: Any
    ignored: Any
    bad: Any
    odd: Any  # whether any lane is ignored or bad


@scalar
def marked(k, found, seats, dtype, targets):
    """With those of the k-th chunk."""
    args = seats.args
    row, first = seat_of(seats, dtype, k)
    label = integer_at(targets, args.targets + row * args.targets_outer)
    ignored = label == args.ignore_index
    bad = np.uint64(label) > np.uint64(args.classes)
    return Marked(
        with_hit(dtype, found.yes, k, np.int32(np.int32(label) - first)),
        with_chunk(dtype, found.ignored, k, ignored),
        with_chunk(dtype, found.bad, k, bad),
        found.odd or ignored or bad,
    )


def given(Labels: type, Check: type) -> Any:
    """The function of losses by labels that are stored beside the logits."""
    found = losses_of(Labels, Check, None)

    @scalar
    def losses(N, tags, shared, seats, chunks, z):
        here, step = place_of(tags.targets, tags.dtype, shared.args.targets, chunks.first)
        words = read_beside(N, tags.targets, tags.dtype, here, np.int64(step), chunks.number)
        return found(tags, shared, z, decoded(N, tags.targets, words), words)

    return losses


@scalar
def yes_or_no(args, N, yes):
    """Labels that say yes or no."""
    return yes


@scalar
def smoothed(args, N, yes):
    """Labels as numbers in [0, 1]."""
    return outcome(SOFT, args, where(yes, N(1), N(0)))


def indexed(Labels: type, chunks_of_lanes: int) -> Any:
    """The function of losses by class indices."""
    each, said = unrolled(marked, chunks_of_lanes), smoothed if Labels is Soft else yes_or_no

    @scalar
    def losses(N, tags, shared, seats, chunks, z):
        args, params, up, down, scale, count = shared
        none = first_lanes(N, np.int32(0))
        found = each(Marked(none, none, none, False), seats, tags.dtype, tags.targets)
        y = said(args, N, found.yes)
        loss, grad, hess = evaluated(
            tags.numbers, tags.labels, tags.extra, tags.link, args, params, z, y, up, down, scale
        )
        if found.odd:
            bad = where(found.bad, N(np.nan), N(1))
            loss = where(found.ignored, N(0), loss * bad)
            grad = where(found.ignored, N(0), grad * bad)
            hess = where(found.ignored, N(0), hess * bad)
        return loss, grad, hess

    return losses


def row_elements(Params: type, T: Any, Dtype: type, Targets: type, Loss: type, Link: type,
                 Lanes: Any, Labels: type, Check: type, Extra: type, Weight: type,
                 Positive: type, Samples: type, Tag: type) -> Any:  # fmt: skip
    """The kernel.

    logits, losses, gradients, curvatures: (N, C); targets: (N,) class indices, or (N, C) labels;
    weight, pos_weight: (C,); sample_weight: (N,).
    """
    number = Lanes.lanes * BYTES[Dtype] // CHUNK
    Piece = LANES[CHUNK // BYTES[Dtype]]
    losses = indexed(Labels, number) if Check is Indexed else given(Labels, Check)
    even = (Weight, Positive, Samples) == (Absent,) * 3
    factors = unweighed if even else unrolled(weighed(Weight, Positive, Samples), number)

    def row_elements(args):
        dtype, out = Dtype(), Loss()
        tags = Tags(dtype, Targets(), Link(), Labels(), Extra(), Tag())
        weights = Weights(Weight(), Positive(), Samples())
        N, P = vector_of(T, Lanes()), vector_of(T, Piece())
        params = params_of(args, Params, T)
        scale = scale_of(args, T)
        up, down = float_of(T, args.pos_factor), float_of(T, args.neg_factor)
        # 1. The chunks of this thread.
        whole = args.outer * args.classes // np.int64(per_chunk(dtype))
        chunks = chunks_among(whole, args)
        seats = Seats(args, np.int32(chunks.first), np.int32(whole - 1))
        if scale == T(0):  # nothing is averaged
            put_all(args, dtype, out, tags.extra, chunks, N(0), N(0), N(0))
            if args.partial != 0 and thread() == np.int32(0):
                poke(args.partial + np.int64(block()) * 8, T(0))
            return
        # 2. Logits, read all at once.
        here, step = place_of(dtype, dtype, args.logits, chunks.first)
        z = decoded(N, dtype, read_beside(N, dtype, dtype, here, np.int64(step), chunks.number))
        # 3. What positive and negative outcomes weigh.
        ups, downs = factors((N(up), N(down)), seats, dtype, T, P, weights, up, down)
        # 4. Losses and derivatives.
        shared = Evaluation(args, params, ups, downs, scale, chunks.number)
        loss, grad, hess = losses(N, tags, shared, seats, chunks, z)
        put_all(args, dtype, out, tags.extra, chunks, loss, grad, hess)
        # 5. The sum of the losses of the block.
        if args.partial != 0:
            total = block_sum(chunks_total(dtype, chunks.number, loss), np.int32(0))
            if thread() == np.int32(0):
                poke(args.partial + np.int64(block()) * 8, total)

    return row_elements
