"""The element-wise kernel for any strides: one element per thread and iteration.

Every logit has a loss of its own (sigmoid, or binary probabilities). Its label is stored at its
position, or follows from the class index of its row. ``elementwise_flat`` is the kernel for
contiguous arrays, ``elementwise_rows`` the one for contiguous rows with weights or class indices.
"""

from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels.cuda.device import block, thread, threads
from fusedce.kernels.cuda.element_losses import (
    SINGLE,
    ElementTags,
    LossArgs,
    evaluate_elements,
    label_value,
)
from fusedce.kernels.cuda.labels import is_valid_label
from fusedce.kernels.cuda.load_store_scalar import (
    any_integer,
    any_number,
    any_put,
    float_of,
    number_at,
    params_of,
    poke,
    put_number,
)
from fusedce.kernels.cuda.reduce import block_sum
from fusedce.kernels.cuda.rows import scale_of
from fusedce.kernels.scalar import scalar


class ElementIndex(NamedTuple):
    """Position of an element along the three axes of its array."""

    outer: Any
    cls: Any
    inner: Any


@scalar
def element_label(T, args, index):
    """(label, whether the element counts); NaN for an invalid label.

    For class indices the label is 1 if the index is this class, else 0.
    """
    address = args.targets + index.outer * args.targets_outer + index.inner * args.targets_inner
    if args.sparse_targets != 0:
        label = any_integer(args.targets_dtype, address)
        bad = label < 0 or label > args.classes
        y = T(1) if label == index.cls else T(0)
        return T(np.nan) if bad else y, label != args.ignore_index
    address += index.cls * args.targets_cls
    if args.may_ignore != 0:
        label = any_integer(args.targets_dtype, address)
        bad = label != args.lowest and label != 1
        return T(np.nan) if bad else T(label), label != args.ignore_index
    label = any_number(T, args.targets_dtype, address)
    if args.real_targets != 0:
        valid, keep = is_valid_label(args, label), label != float_of(T, args.ignore_value)
        return label if valid else T(np.nan), keep
    return label, True


@scalar
def element_factors(T, args, index):
    """(factor of a positive outcome, factor of a negative outcome) of an element."""
    both = T(1)
    if args.weight != 0:
        both = any_number(T, args.weight_dtype, args.weight + index.cls * args.weight_step)
    if args.sample_weight != 0:
        address = args.sample_weight
        address += index.outer * args.sample_outer + index.inner * args.sample_inner
        both *= any_number(T, args.sample_dtype, address + index.cls * args.sample_cls)
    pos = both * float_of(T, args.pos_factor)
    if args.pos_weight != 0:
        address = args.pos_weight + index.cls * args.pos_weight_step
        pos *= any_number(T, args.pos_weight_dtype, address)
    return pos, both * float_of(T, args.neg_factor)


@scalar
def divmod_by_magic(n, divisor, magic):
    """(n // divisor, n % divisor) of n < 2**20, or of n < 2 divisor where ``magic`` is 0."""
    quotient = (n * magic) >> 40 if magic != 0 else np.int64(n >= divisor)
    return quotient, n - quotient * divisor


@scalar
def element_loss(T, tags, args, params, scale, index):
    """The loss of an element. Loss, gradient and Hessian are stored where they are wanted."""
    outer, cls, inner = index
    logits = args.logits + outer * args.logits_outer
    z = number_at(T, tags.dtype, logits + cls * args.logits_cls + inner * args.logits_inner)
    label, keep = element_label(T, args, index)
    pos, neg = element_factors(T, args, index)
    y = label_value(tags.labels, args, label)
    shared = LossArgs(args, params, pos, neg, scale)
    loss, grad, hess = evaluate_elements(tags, tags.labels, shared, z, y)
    if label != label:
        loss, grad, hess = label, label, label
    if not keep or scale == T(0):
        loss, grad, hess = T(0), T(0), T(0)
    if args.grad != 0:
        address = args.grad + outer * args.grad_outer + cls * args.grad_cls
        put_number(tags.dtype, address + inner * args.grad_inner, grad)
    if args.hess != 0:
        address = args.hess + outer * args.hess_outer + cls * args.hess_cls
        put_number(tags.dtype, address + inner * args.hess_inner, hess)
    if args.loss != 0:
        address = args.loss + outer * args.loss_outer + cls * args.loss_cls
        any_put(args.loss_dtype, address + inner * args.loss_inner, loss)
    return loss


def elementwise_strided(
    Params: type, T: Any, Dtype: type, Link: type, Labels: type, Extra: type
) -> Any:
    """The kernel for any strides: a block takes ``args.span`` consecutive elements in C order.

    logits, grad, hess: (outer, C, inner) of ``Dtype``; loss: (outer, C, inner), float32 or
    float64; targets: (outer, C, inner) of any dtype, or (outer, 1, inner) class indices, integers;
    weight, pos_weight: (C,), sample_weight: broadcast to (outer, C, inner), of any dtype;
    partial: (blocks,) sums of losses, of ``T``. Strides are in bytes.
    """

    def elementwise_strided(args):
        tags = ElementTags(Dtype(), None, Link(), Labels(), Extra(), SINGLE)
        params = params_of(args, Params, T)
        scale = scale_of(args, T)
        # 1. The first element of this block, and how many elements it has.
        start = np.int64(block()) * args.span
        n = min(args.span, args.outer * args.classes * args.inner - start)
        row, inner = start // args.inner, start % args.inner
        outer, cls = row // args.classes, row % args.classes
        sums, i = T(0), np.int64(thread())
        while i < n:
            # 2. The position of this thread's element, without a division.
            rows, k = divmod_by_magic(inner + i, args.inner, args.magic_inner)
            over, c = divmod_by_magic(cls + rows, args.classes, args.magic_classes)
            # 3. Its loss and derivatives, which are stored.
            index = ElementIndex(outer + over, c, k)
            sums += element_loss(T, tags, args, params, scale, index)
            i += threads()
        # 4. The sum of the losses of the block.
        if args.partial != 0:
            sums = block_sum(sums, np.int32(0))
            if thread() == np.int32(0):
                poke(args.partial + np.int64(block()) * 8, sums)

    return elementwise_strided
