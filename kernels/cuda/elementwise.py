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
def label_of(T, plan, outer, cls, inner):
    """The label of an element; of a class index, whether it is this class; and if it counts."""
    here = plan.targets + outer * plan.targets_outer + inner * plan.targets_inner
    if plan.sparse_targets != 0:
        label = any_integer(plan.targets_kind, here)
        bad = label < 0 or label > plan.classes
        y = T(1) if label == cls else T(0)
        return T(np.nan) if bad else y, label != plan.ignore_index
    here += cls * plan.targets_cls
    if plan.may_ignore != 0:
        label = any_integer(plan.targets_kind, here)
        bad = label != plan.lowest and label != 1
        return T(np.nan) if bad else T(label), label != plan.ignore_index
    label = any_number(T, plan.targets_kind, here)
    if plan.real_targets != 0:
        fine, keep = is_label(plan, label), label != float_of(T, plan.ignore_value)
        return label if fine else T(np.nan), keep
    return label, True


@scalar
def factors_of(T, plan, outer, cls, inner):
    """What positive and negative outcomes of an element weigh."""
    both = T(1)
    if plan.weight != 0:
        both = any_number(T, plan.weight_kind, plan.weight + cls * plan.weight_step)
    if plan.sample_weight != 0:
        here = plan.sample_weight + outer * plan.sample_outer + inner * plan.sample_inner
        both *= any_number(T, plan.sample_kind, here + cls * plan.sample_cls)
    up = both * float_of(T, plan.pos_factor)
    if plan.pos_weight != 0:
        here = plan.pos_weight + cls * plan.pos_weight_step
        up *= any_number(T, plan.pos_weight_kind, here)
    return up, both * float_of(T, plan.neg_factor)


@scalar
def divided(n, divisor, magic):
    """(n // divisor, n % divisor) of n < 2**20, or of n < 2 divisor where there is no magic."""
    quotient = (n * magic) >> 40 if magic != 0 else np.int64(n >= divisor)
    return quotient, n - quotient * divisor


@scalar
def element(T, form, extra, labels, link, plan, params, scale, outer, cls, inner):
    """The loss of an element; what is wanted of it is written."""
    z = number_at(
        T, form,
        plan.logits + outer * plan.logits_outer + cls * plan.logits_cls + inner * plan.logits_inner,
    )  # fmt: skip
    label, keep = label_of(T, plan, outer, cls, inner)
    up, down = factors_of(T, plan, outer, cls, inner)
    y = outcome(labels, plan, label)
    loss, grad, hess = evaluated(SINGLE, labels, extra, link, plan, params, z, y, up, down, scale)
    if label != label:
        loss, grad, hess = label, label, label
    if not keep or scale == T(0):
        loss, grad, hess = T(0), T(0), T(0)
    if plan.grad != 0:
        here = plan.grad + outer * plan.grad_outer + cls * plan.grad_cls
        put_number(form, here + inner * plan.grad_inner, grad)
    if plan.hess != 0:
        here = plan.hess + outer * plan.hess_outer + cls * plan.hess_cls
        put_number(form, here + inner * plan.hess_inner, hess)
    if plan.loss != 0:
        here = plan.loss + outer * plan.loss_outer + cls * plan.loss_cls
        any_put(plan.loss_kind, here + inner * plan.loss_inner, loss)
    return loss


def elements(Params: type, T: Any, Form: type, Link: type, Labels: type, Extra: type) -> Any:
    """The kernel for elements anywhere: a block takes ``span`` neighbours in C order."""

    def elements(plan):
        form, labels, extra, link = Form(), Labels(), Extra(), Link()
        params = params_of(plan, Params, T)
        scale = scale_of(plan, T)
        start = np.int64(block()) * plan.span
        n = min(plan.span, plan.outer * plan.classes * plan.inner - start)
        row, inner = start // plan.inner, start % plan.inner
        outer, cls = row // plan.classes, row % plan.classes
        sums, i = T(0), np.int64(thread())
        while i < n:
            rows, here = divided(inner + i, plan.inner, plan.magic_inner)
            over, c = divided(cls + rows, plan.classes, plan.magic_classes)
            sums += element(
                T, form, extra, labels, link, plan, params, scale, outer + over, c, here
            )
            i += threads()
        if plan.partial != 0:
            sums = block_sum(sums, np.int32(0))
            if thread() == np.int32(0):
                poke(plan.partial + np.int64(block()) * 8, sums)

    return elements
