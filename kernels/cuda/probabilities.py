"""Rows of probabilities with class indices: most classes have no mass, a warp takes a row."""

from typing import Any

import numpy as np

from fusedce.kernels.cuda.device import block, thread, threads
from fusedce.kernels.cuda.load_store_scalar import float_of, number_at, params_of, put_number
from fusedce.kernels.cuda.reduce import WARPS, warp_sum
from fusedce.kernels.cuda.rows import finish, label_of, sample_of, scale_of, weight_of
from fusedce.kernels.link import probability_cell
from fusedce.kernels.scalar import scalar

Row = WARPS[5]


@scalar
def class_of(T, form, plan, params, outer, inner, j, hit, sample, scale):
    """The loss of a class of a row; what is wanted of it is written."""
    y = T(1) if hit else T(0)
    mass = weight_of(plan, T, j) * (
        y * float_of(T, plan.label_factor) + float_of(T, plan.label_shift)
    )
    f, f1, f2 = T(0), T(0), T(0)
    if mass != T(0):
        here = plan.logits + outer * plan.logits_outer + inner * plan.logits_inner
        z = number_at(T, form, here + j * plan.logits_cls)
        f, f1, f2 = probability_cell(z, mass, params)
    if plan.grad != 0:
        here = plan.grad + outer * plan.grad_outer + inner * plan.grad_inner
        put_number(form, here + j * plan.grad_cls, f1 * (sample * scale))
    if plan.hess != 0:
        here = plan.hess + outer * plan.hess_outer + inner * plan.hess_inner
        put_number(form, here + j * plan.hess_cls, f2 * (sample * scale))
    return f


@scalar
def zero_class(T, form, plan, outer, inner, j):
    """An ignored row is written, never skipped."""
    if plan.grad != 0:
        here = plan.grad + outer * plan.grad_outer + inner * plan.grad_inner
        put_number(form, here + j * plan.grad_cls, T(0))
    if plan.hess != 0:
        here = plan.hess + outer * plan.hess_outer + inner * plan.hess_inner
        put_number(form, here + j * plan.hess_cls, T(0))


def probability_rows(Params: type, T: Any, Form: type) -> Any:
    """The kernel of class indices into rows of probabilities, wherever they lie."""

    def probability_rows(plan):
        form, team = Form(), Row()
        params = params_of(plan, Params, T)
        scale = scale_of(plan, T)
        number = np.int64(block()) * (threads() >> np.int32(5)) + (thread() >> np.int32(5))
        lane = np.int32(thread() & np.int32(31))
        inside = number < plan.outer * plan.inner
        row = number if inside else np.int64(0)
        outer, inner = row // plan.inner, row % plan.inner
        label = label_of(plan, outer, inner)
        live = inside and label != plan.ignore_index and scale != T(0)
        sample = sample_of(plan, T, outer, inner)
        if label < 0 or label >= plan.classes:
            sample, label = T(np.nan), np.int64(-1)
        loss, j = T(0), np.int64(lane)
        while inside and j < plan.classes:
            if live:
                loss += class_of(T, form, plan, params, outer, inner, j, j == label, sample, scale)
            else:
                zero_class(T, form, plan, outer, inner, j)
            j += 32
        loss = warp_sum(loss) * sample
        finish(team, plan, outer, inner, lane, inside, loss if live else T(0))

    return probability_rows
