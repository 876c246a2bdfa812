"""The element-wise kernel for contiguous rows, with class indices or with weights.

Logits are (N, C), C a multiple of the numbers in a chunk of 16 bytes. Rows are contiguous, so
chunks are numbered through all rows, as in ``elementwise_flat``, and each belongs to one row.
A thread computes once a chunk which row that is, and looks up its label and its weights.
"""

from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels.cuda.device import block, thread
from fusedce.kernels.cuda.dtypes import CHUNK, LANES, SIZE
from fusedce.kernels.cuda.element_losses import (
    SOFT,
    ElementTags,
    LossArgs,
    SoftLabels,
    evaluate_elements,
    label_value,
)
from fusedce.kernels.cuda.elementwise_flat import (
    ElementTypes,
    NoWeight,
    chunk_address,
    losses_by_labels,
    store_chunks,
    thread_chunks,
)
from fusedce.kernels.cuda.elementwise_weights import (
    RowChunks,
    Weights,
    chunk_row,
    constant_factors,
    insert_lanes,
    weighted_factors,
    with_chunk,
)
from fusedce.kernels.cuda.lane_reduce import sum_of_chunks
from fusedce.kernels.cuda.load_store import (
    chunk_lanes,
    decode,
    first_lanes,
    per_chunk,
    read_like,
)
from fusedce.kernels.cuda.load_store_scalar import constant, float_of, integer_at, params_of, poke
from fusedce.kernels.cuda.reduce import block_sum
from fusedce.kernels.cuda.rows import scale_of
from fusedce.kernels.cuda.tags import tags_of
from fusedce.kernels.cuda.toolchain import intrinsic, types
from fusedce.kernels.cuda.unroll import unrolled
from fusedce.kernels.scalar import scalar, where
from fusedce.kernels.vector import vector_of


class ClassIndices(NamedTuple):
    """Type tag: a row has one label, the index of its class, or C for no class."""


@intrinsic
def with_class(typingctx, dtype, mask, k, cls):
    """The mask with lanes of its k-th chunk replaced: True for lane ``cls`` of it, else False.

    All are False where ``cls`` is not a lane of the chunk.
    """
    per = chunk_lanes(dtype.instance_class)

    def codegen(context, builder, sig, args):
        _, vector, k, cls = args
        equals = [builder.icmp_signed("==", cls, constant(i)) for i in range(per)]
        return insert_lanes(builder, vector, k, equals)

    return mask(dtype, mask, types.int32, types.int32), codegen


class LabelMasks(NamedTuple):
    """What class indices say of each lane."""

    positive: Any  # whether it is the class of its row
    ignored: Any
    bad: Any
    any_masked: Any  # whether any lane is ignored or bad


@scalar
def with_chunk_labels(k, found, chunks, dtype, targets):
    """The masks with the lanes of the k-th chunk set."""
    args = chunks.args
    row, first = chunk_row(chunks, dtype, k)
    label = integer_at(targets, args.targets + row * args.targets_outer)
    ignored = label == args.ignore_index
    bad = np.uint64(label) > np.uint64(args.classes)
    return LabelMasks(
        with_class(dtype, found.positive, k, np.int32(np.int32(label) - first)),
        with_chunk(dtype, found.ignored, k, ignored),
        with_chunk(dtype, found.bad, k, bad),
        found.any_masked or ignored or bad,
    )


def losses_by_label_array(Labels: type, Check: type) -> Any:
    """The function of losses by labels that are stored at the positions of the logits."""
    losses = losses_by_labels(Labels, Check, None)

    @scalar
    def by_label_array(N, tags, shared, rows, chunks, z):
        address, step = chunk_address(tags.targets, tags.dtype, shared.args.targets, chunks.first)
        words = read_like(N, tags.targets, tags.dtype, address, np.int64(step), chunks.number)
        return losses(tags, shared, chunks.number, z, decode(N, tags.targets, words), words)

    return by_label_array


@scalar
def hard_outcome(args, N, positive):
    """Outcomes as booleans."""
    return positive


@scalar
def soft_outcome(args, N, positive):
    """Outcomes as numbers in [0, 1], after label smoothing."""
    return label_value(SOFT, args, where(positive, N(1), N(0)))


def losses_by_class_index(Labels: type, chunks_of_lanes: int) -> Any:
    """The function of losses by class indices, one for each row."""
    every_chunk = unrolled(with_chunk_labels, chunks_of_lanes)
    outcome = soft_outcome if Labels is SoftLabels else hard_outcome

    @scalar
    def by_class_index(N, tags, shared, rows, chunks, z):
        none = first_lanes(N, np.int32(0))
        masks = LabelMasks(none, none, none, False)
        masks = every_chunk(masks, rows, tags.dtype, tags.targets)
        y = outcome(shared.args, N, masks.positive)
        loss, grad, hess = evaluate_elements(tags, tags.labels, shared, z, y)
        if masks.any_masked:
            bad = where(masks.bad, N(np.nan), N(1))
            loss = where(masks.ignored, N(0), loss * bad)
            grad = where(masks.ignored, N(0), grad * bad)
            hess = where(masks.ignored, N(0), hess * bad)
        return loss, grad, hess

    return by_class_index


def elementwise_rows(*types: Any) -> Any:
    """The kernel for contiguous rows; ``types``: ElementTypes.

    logits, grad, hess: (N, C) of ``dtype``; targets: (N,) class indices, or (N, C) labels, of
    ``targets``; loss: (N, C) of ``loss``; weight, pos_weight: (C,), sample_weight: (N,), of
    ``weight``, ``pos_weight`` and ``sample_weight``; partial: (blocks,) sums of losses, of
    ``compute``, 8 bytes apart. N is ``args.outer``, C ``args.classes``.
    """
    t = ElementTypes(*types)
    Params, T, Loss, Lanes = t.params, t.compute, t.loss, t.lanes
    number = Lanes.lanes * SIZE[t.dtype] // CHUNK
    ChunkLanes = LANES[CHUNK // SIZE[t.dtype]]
    by_index = t.check is ClassIndices
    losses = (
        losses_by_class_index(t.labels, number)
        if by_index
        else losses_by_label_array(t.labels, t.check)
    )
    weight_types = t.weight, t.pos_weight, t.sample_weight
    weights = Weights(*(tag() for tag in weight_types))
    unweighted = weight_types == (NoWeight,) * 3
    factors = constant_factors if unweighted else unrolled(weighted_factors(*weight_types), number)
    tags = tags_of(ElementTags, t)
    dtype = tags.dtype

    def elementwise_rows(args):
        out, N, P = Loss(), vector_of(T, Lanes()), vector_of(T, ChunkLanes())
        params = params_of(args, Params, T)
        scale = scale_of(args, T)
        pos, neg = float_of(T, args.pos_factor), float_of(T, args.neg_factor)
        # 1. The chunks of this thread.
        total_chunks = args.outer * args.classes // np.int64(per_chunk(dtype))
        chunks = thread_chunks(total_chunks, args)
        rows = RowChunks(args, np.int32(chunks.first), np.int32(total_chunks - 1))
        # 2. If there is nothing to average, all outputs are 0.
        if scale == T(0):
            store_chunks(args, tags, out, chunks, N(0), N(0), N(0))
            if args.partial != 0 and thread() == np.int32(0):
                poke(args.partial + np.int64(block()) * 8, T(0))
            return
        # 3. Load logits; all loads are in flight together.
        address, step = chunk_address(dtype, dtype, args.logits, chunks.first)
        z = decode(N, dtype, read_like(N, dtype, dtype, address, np.int64(step), chunks.number))
        # 4. The factors of positive and negative outcomes, from the weights.
        all_pos, all_neg = factors((N(pos), N(neg)), rows, dtype, T, P, weights, pos, neg)
        # 5. Look up labels, compute losses and derivatives, and store them.
        shared = LossArgs(args, params, all_pos, all_neg, scale)
        loss, grad, hess = losses(N, tags, shared, rows, chunks, z)
        store_chunks(args, tags, out, chunks, loss, grad, hess)
        # 6. The sum of the losses of the block.
        if args.partial != 0:
            total = block_sum(sum_of_chunks(dtype, chunks.number, loss), np.int32(0))
            if thread() == np.int32(0):
                poke(args.partial + np.int64(block()) * 8, total)

    return elementwise_rows
