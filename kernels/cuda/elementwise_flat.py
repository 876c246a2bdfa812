"""The element-wise kernel for contiguous arrays, with the same factors for every element.

All arrays are read and written in chunks of 16 bytes of the logits. A label takes fewer or more
bytes than a logit, but those of a chunk are adjacent ("_like" in the names of loads and stores).
"""

from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels.cuda.device import block, thread, threads
from fusedce.kernels.cuda.element_losses import (
    HARD_NO_HESS,
    SINGLE,
    SOFT,
    ElementTags,
    HardLabelsNoHess,
    LossArgs,
    SoftLabels,
    evaluate_elements,
    label_value,
)
from fusedce.kernels.cuda.label_bits import above_zero, bits_at, equal, zeros_or_ones
from fusedce.kernels.cuda.labels import FloatLabels, is_valid_label
from fusedce.kernels.cuda.lane_reduce import sum_of_chunks
from fusedce.kernels.cuda.load_store import (
    decode,
    optimization_barrier,
    per_chunk,
    read_like,
    write_like,
)
from fusedce.kernels.cuda.load_store_scalar import (
    FLOAT64,
    any_put,
    float_of,
    itemsize,
    number_at,
    params_of,
    poke,
    put_number,
)
from fusedce.kernels.cuda.logit_transform import Full
from fusedce.kernels.cuda.reduce import block_sum
from fusedce.kernels.cuda.rows import scale_of
from fusedce.kernels.cuda.tags import tags_of
from fusedce.kernels.scalar import generated, scalar, where
from fusedce.kernels.vector import lanes_as, vector_of


class UncheckedLabels(NamedTuple):
    """Type tag: labels are used as they are; none is ignored or invalid."""


class MostlyHardLabels(NamedTuple):
    """Type tag: most threads have only labels 0 and 1; other labels take the slow path.

    As with ``HardLabelsNoHess``, factors are positive and no Hessian is written.
    """


class SumOnly(NamedTuple):
    """Type tag, instead of the dtype of the losses: losses are added up and not stored."""


class NoWeight(NamedTuple):
    """Type tag, instead of the dtype of a weight array: there is no such array."""


class ElementTypes(NamedTuple):
    """The types that a kernel for contiguous elements is compiled for."""

    params: type  # NamedTuple of the loss's parameters, which selects its rule
    compute: Any  # np.float32 or np.float64
    dtype: type  # of logits, gradients and Hessians
    targets: type  # dtype of the labels
    loss: type  # dtype of the losses, or SumOnly
    link: type  # Sigmoid, HalfSigmoid, or Identity for probabilities
    lanes: Any  # how many elements a thread takes
    labels: type  # HardLabels, HardLabelsNoHess, SoftLabels or MostlyHardLabels
    check: type  # UncheckedLabels, IntegerLabels, FloatLabels or ClassIndices
    extra: type  # Plain or Full, see logit_transform.py
    weight: type  # dtype of each weight array, or NoWeight
    pos_weight: type
    sample_weight: type
    numbers: type  # Wide, or Single for a rule that takes no vectors


# ------------------------------------------------------------------------- labels that do not count


@scalar
def keep_all(args, N, dtype, label, words, found):
    """Results by labels that are used as they are."""
    return found


@scalar
def mask_results(N, ignored, valid, found):
    """Results: 0 where a label is ignored, NaN where it is invalid."""
    bad = where(valid, N(1), N(np.nan))
    return (
        where(ignored, N(0), found[0] * bad),
        where(ignored, N(0), found[1] * bad),
        where(ignored, N(0), found[2] * bad),
    )


@scalar
def mask_integer_labels(args, N, dtype, label, words, found):
    """Results by labels that are integers, of which some may be ignored or invalid."""
    valid = equal(N, dtype, words, args.lowest) | equal(N, dtype, words, np.int64(1))
    return mask_results(N, equal(N, dtype, words, args.ignore_index), valid, found)


@scalar
def mask_float_labels(args, N, dtype, label, words, found):
    """Results by labels that are floats, of which some may be ignored or invalid."""
    ignored = label == N(float_of(lanes_as(label), args.ignore_value))
    return mask_results(N, ignored, is_valid_label(args, label), found)


@scalar
def zero_one_valid(args):
    """Whether 0 and 1 need a check: False, they are always valid and never ignored."""
    return False


@scalar
def zero_one_checked(args):
    """Whether 0 and 1 need a check: one of them is ignored, or 0 is invalid."""
    return args.lowest != 0 or args.ignore_index == 0 or args.ignore_index == 1


# ------------------------------------------------------------------------------ losses by labels


@scalar
def all_losses(tags, count, found):
    """(losses, gradients, curvatures): losses are stored."""
    return found


@scalar
def summed_losses(tags, count, found):
    """(sum of losses, gradients, curvatures): losses are not stored.

    Summed in each branch, so that a product and its addition become one instruction.
    """
    return sum_of_chunks(tags.dtype, count, found[0]), found[1], found[2]


def losses_by_labels(Labels: type, Check: type, Loss: type | None) -> Any:
    """The function of (tags, shared, count, z, label, words) for a kind of labels.

    z: logits; label, words: their labels as floats and as packed bits; count: how many chunks of
    them are present. It returns (losses, gradients, curvatures), or the sum of the losses instead
    of them if they are not stored (``Loss`` is SumOnly).
    """
    output = summed_losses if Loss is SumOnly else all_losses
    integers = Check not in (UncheckedLabels, FloatLabels)
    mask: Any = mask_integer_labels if integers else mask_float_labels
    mask = keep_all if Check is UncheckedLabels else mask
    need_check = zero_one_checked if integers else zero_one_valid
    hard = HARD_NO_HESS if Labels is MostlyHardLabels else Labels()

    @scalar
    def soft_labels(tags, shared, count, z, label, words):
        y = label_value(SOFT, shared.args, label)
        found = evaluate_elements(tags, SOFT, shared, z, y)
        return output(tags, count, mask(shared.args, type(z), tags.targets, label, words, found))

    @scalar
    def hard_labels(tags, shared, count, z, label, words):
        y = above_zero(type(z), tags.targets, words)
        found = evaluate_elements(tags, hard, shared, z, y)
        return output(tags, count, mask(shared.args, type(z), tags.targets, label, words, found))

    if Labels is not MostlyHardLabels:
        return soft_labels if Labels is SoftLabels else hard_labels
    fast_path = losses_by_labels(HardLabelsNoHess, UncheckedLabels, Loss)
    slow_path = hard_labels if integers else soft_labels

    @scalar
    def mostly_hard_labels(tags, shared, count, z, label, words):
        if zeros_or_ones(type(z), tags.targets, words) and not need_check(shared.args):
            return fast_path(tags, shared, count, z, label, words)
        loss, first, second = slow_path(tags, shared, count, z, label, words)
        # Otherwise LLVM moves the addition of losses from both branches to after them.
        return optimization_barrier(loss), first, second

    return mostly_hard_labels


# ------------------------------------------------------------------------------ chunks of a thread


class ThreadChunks(NamedTuple):
    """The chunks of a thread: every threads()-th chunk of its block."""

    first: Any
    number: Any


@scalar
def thread_chunks(total, args):
    """The chunks of this thread, of ``total`` chunks in the grid."""
    start = np.int64(block()) * args.span
    left = np.int32(min(total - start, args.span))
    count = np.int32(np.int32(np.int32(left - 1 - thread()) >> np.int32(args.group)) + 1)
    return ThreadChunks(start + thread(), count)


@scalar
def chunk_address(dtype, like, array, first):
    """(address, step) in bytes of the elements of a chunk, in an array of ``dtype``.

    ``first``: number of the chunk, in chunks of ``like``; the step leads to the next chunk of this
    thread.
    """
    size = np.int32(per_chunk(like) * itemsize(dtype))
    return array + first * np.int64(size), np.int32(size * threads())


@scalar
def store_array(dtype, like, array, chunks, x):
    """Store x in an array of ``dtype``, at the elements of this thread's chunks."""
    address, step = chunk_address(dtype, like, array, chunks.first)
    write_like(dtype, like, address, np.int64(step), chunks.number, x)


@generated
def store_losses(out, dtype, args, chunks, loss):
    """Store losses, unless they are only added up."""
    if out.instance_class is SumOnly:
        return lambda out, dtype, args, chunks, loss: None
    return lambda out, dtype, args, chunks, loss: store_array(out, dtype, args.loss, chunks, loss)


@generated
def store_hessians(extra, dtype, args, chunks, hess):
    """Store Hessians, if the kernel computes them and they are wanted."""
    if extra.instance_class is not Full:
        return lambda extra, dtype, args, chunks, hess: None

    def store_wanted(extra, dtype, args, chunks, hess):
        if args.hess != 0:
            store_array(dtype, dtype, args.hess, chunks, hess)

    return store_wanted


@scalar
def store_chunks(args, tags, out, chunks, loss, grad, hess):
    """Store what is wanted for the chunks of this thread."""
    if args.grad != 0:
        store_array(tags.dtype, tags.dtype, args.grad, chunks, grad)
    store_hessians(tags.extra, tags.dtype, args, chunks, hess)
    store_losses(out, tags.dtype, args, chunks, loss)


@scalar
def store_element(args, dtype, e, loss, grad, hess):
    """Store what is wanted for element e, which is after the last whole chunk."""
    item = np.int64(itemsize(dtype))
    if args.grad != 0:
        put_number(dtype, args.grad + e * item, grad)
    if args.hess != 0:
        put_number(dtype, args.hess + e * item, hess)
    if args.loss != 0:
        size = 8 if args.loss_dtype == FLOAT64 else 4
        any_put(args.loss_dtype, args.loss + e * size, loss)


@scalar
def tail_element(args, dtype):
    """The element of this thread after the last whole chunk; -1 if it has none.

    Block 0 takes them all.
    """
    if block() != np.int32(0):
        return np.int64(-1)
    e = args.classes - args.classes % np.int64(per_chunk(dtype)) + thread()
    return e if e < args.classes else np.int64(-1)


# ------------------------------------------------------------------------------------- the kernel


def elementwise_flat(*types: Any) -> Any:
    """The kernel for contiguous arrays of n = ``args.classes`` elements; ``types``: ElementTypes.

    logits, grad, hess: (n,) of ``dtype``; targets: (n,) of ``targets``, labels; loss: (n,) of
    ``loss``; partial: (blocks,) sums of losses, of ``compute``, 8 bytes apart.
    """
    t = ElementTypes(*types)
    Params, T, Loss, Lanes = t.params, t.compute, t.loss, t.lanes
    losses = losses_by_labels(t.labels, t.check, Loss)
    tags = tags_of(ElementTags, t)
    single, dtype, targets = tags._replace(numbers=SINGLE), tags.dtype, tags.targets

    def elementwise_flat(args):
        out, N = Loss(), vector_of(T, Lanes())
        params = params_of(args, Params, T)
        scale = scale_of(args, T)
        pos, neg = float_of(T, args.pos_factor), float_of(T, args.neg_factor)
        # 1. The chunks of this thread, and its element after the last whole chunk.
        total_chunks = args.classes // np.int64(per_chunk(dtype))
        chunks, e = thread_chunks(total_chunks, args), tail_element(args, dtype)
        # 2. If there is nothing to average, all outputs are 0.
        if scale == T(0):
            store_chunks(args, tags, out, chunks, N(0), N(0), N(0))
            if e >= 0:
                store_element(args, dtype, e, T(0), T(0), T(0))
            if args.partial != 0 and thread() == np.int32(0):
                poke(args.partial + np.int64(block()) * 8, T(0))
            return
        # 3. Load logits and labels; all loads are in flight together.
        address, step = chunk_address(dtype, dtype, args.logits, chunks.first)
        z = decode(N, dtype, read_like(N, dtype, dtype, address, np.int64(step), chunks.number))
        address, step = chunk_address(targets, dtype, args.targets, chunks.first)
        words = read_like(N, targets, dtype, address, np.int64(step), chunks.number)
        # 4. Compute losses and derivatives, and store them.
        shared = LossArgs(args, params, pos, neg, scale)
        labels = decode(N, targets, words)
        loss, grad, hess = losses(tags, shared, chunks.number, z, labels, words)
        store_chunks(args, tags, out, chunks, loss, grad, hess)
        total = sum_of_chunks(dtype, chunks.number, loss)
        # 5. The same for the element after the last whole chunk.
        if e >= 0:
            z1 = number_at(T, dtype, args.logits + e * itemsize(dtype))
            address = args.targets + e * itemsize(targets)
            label, bits = number_at(T, targets, address), bits_at(targets, address)
            loss1, grad1, hess1 = losses(single, shared, chunks.number, z1, label, bits)
            store_element(args, dtype, e, loss1, grad1, hess1)
            total += loss1
        # 6. The sum of the losses of the block.
        if args.partial != 0:
            total = block_sum(total, np.int32(0))
            if thread() == np.int32(0):
                poke(args.partial + np.int64(block()) * 8, total)

    return elementwise_flat
