"""Elements anywhere, a number a thread, with weights of classes and of samples.

Every logit has a loss of its own (sigmoid, and binary probabilities); labels are its own, or class
indices. Arrays that lie alike from end to end are in flat_elements.py, and with weights or class
indices in row_elements.py, if rows are whole chunks.
"""

from typing import Any

import numpy as np

from fusedce.kernels.cuda.device import block, thread, threads
from fusedce.kernels.cuda.element_losses import SINGLE, evaluated, outcome
from fusedce.kernels.cuda.labels import is_label
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


@scalar
def label_of(T, args, outer, cls, inner):
    """The label of an element; of a class index, whether it is this class; and if it counts."""
    here = args.targets + outer * args.targets_outer + inner * args.targets_inner
    if args.sparse_targets != 0:
        label = any_integer(args.targets_dtype, here)
        bad = label < 0 or label > args.classes
        y = T(1) if label == cls else T(0)
        return T(np.nan) if bad else y, label != args.ignore_index
    here += cls * args.targets_cls
    if args.may_ignore != 0:
        label = any_integer(args.targets_dtype, here)
        bad = label != args.lowest and label != 1
        return T(np.nan) if bad else T(label), label != args.ignore_index
    label = any_number(T, args.targets_dtype, here)
    if args.real_targets != 0:
        fine, keep = is_label(args, label), label != float_of(T, args.ignore_value)
        return label if fine else T(np.nan), keep
    return label, True


@scalar
def factors_of(T, args, outer, cls, inner):
    """What positive and negative outcomes of an element weigh."""
    both = T(1)
    if args.weight != 0:
        both = any_number(T, args.weight_dtype, args.weight + cls * args.weight_step)
    if args.sample_weight != 0:
        here = args.sample_weight + outer * args.sample_outer + inner * args.sample_inner
        both *= any_number(T, args.sample_dtype, here + cls * args.sample_cls)
    up = both * float_of(T, args.pos_factor)
    if args.pos_weight != 0:
        here = args.pos_weight + cls * args.pos_weight_step
        up *= any_number(T, args.pos_weight_dtype, here)
    return up, both * float_of(T, args.neg_factor)


@scalar
def divided(n, divisor, magic):
    """(n // divisor, n % divisor) of n < 2**20, or of n < 2 divisor where there is no magic."""
    quotient = (n * magic) >> 40 if magic != 0 else np.int64(n >= divisor)
    return quotient, n - quotient * divisor


@scalar
def element(T, dtype, extra, labels, link, args, params, scale, outer, cls, inner):
    """The loss of an element; what is wanted of it is written."""
    z = number_at(
        T, dtype,
        args.logits + outer * args.logits_outer + cls * args.logits_cls + inner * args.logits_inner,
    )  # fmt: skip
    label, keep = label_of(T, args, outer, cls, inner)
    up, down = factors_of(T, args, outer, cls, inner)
    y = outcome(labels, args, label)
    loss, grad, hess = evaluated(SINGLE, labels, extra, link, args, params, z, y, up, down, scale)
    if label != label:
        loss, grad, hess = label, label, label
    if not keep or scale == T(0):
        loss, grad, hess = T(0), T(0), T(0)
    if args.grad != 0:
        here = args.grad + outer * args.grad_outer + cls * args.grad_cls
        put_number(dtype, here + inner * args.grad_inner, grad)
    if args.hess != 0:
        here = args.hess + outer * args.hess_outer + cls * args.hess_cls
        put_number(dtype, here + inner * args.hess_inner, hess)
    if args.loss != 0:
        here = args.loss + outer * args.loss_outer + cls * args.loss_cls
        any_put(args.loss_dtype, here + inner * args.loss_inner, loss)
    return loss


def elements(Params: type, T: Any, Dtype: type, Link: type, Labels: type, Extra: type) -> Any:
    """The kernel for elements anywhere: a block takes ``span`` neighbours in C order."""

    def elements(args):
        dtype, labels, extra, link = Dtype(), Labels(), Extra(), Link()
        params = params_of(args, Params, T)
        scale = scale_of(args, T)
        start = np.int64(block()) * args.span
        n = min(args.span, args.outer * args.classes * args.inner - start)
        row, inner = start // args.inner, start % args.inner
        outer, cls = row // args.classes, row % args.classes
        sums, i = T(0), np.int64(thread())
        while i < n:
            rows, here = divided(inner + i, args.inner, args.magic_inner)
            over, c = divided(cls + rows, args.classes, args.magic_classes)
            sums += element(
                T, dtype, extra, labels, link, args, params, scale, outer + over, c, here
            )
            i += threads()
        if args.partial != 0:
            sums = block_sum(sums, np.int32(0))
            if thread() == np.int32(0):
                poke(args.partial + np.int64(block()) * 8, sums)

    return elements
