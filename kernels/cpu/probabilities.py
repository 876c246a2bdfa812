"""Rows of probabilities with class indices (the negative log-likelihood of given p)."""

import numpy as np

from fusedce.kernels.cpu.blocks import (
    at,
    line_of,
    load_labels,
    one_number,
    put_losses,
    put_partial,
    roomy,
    rows_of,
)
from fusedce.kernels.cpu.distribution_rows import masses
from fusedce.kernels.cpu.kernel_args import params_at, plan_at
from fusedce.kernels.cpu.rows import zeros
from fusedce.kernels.cpu.vector_loops import loop, set_one
from fusedce.kernels.intrinsics import call7, peek
from fusedce.kernels.link import probability_cell
from fusedce.kernels.tuning import STRIP
from fusedce.kernels.vector import itemsize


@loop
def probability_piece(T, params, n, u, y, scale, g, h):
    """The sum of mass f(log p); g and h <- its derivatives. Most masses are 0."""
    loss = 0.0
    for j in range(n):
        f, f1, f2 = T(0), T(0), T(0)
        mass = peek(y + j * itemsize(T), T)
        if mass != T(0):
            f, f1, f2 = probability_cell(peek(u + j * itemsize(T), T), mass, params)
        set_one(T, g, j, scale * f1)
        set_one(T, h, j, scale * f2)
        loss += np.float64(f)
    return loss


@loop
def probability_row(T, plan, params, outer, inner, label, s):
    """Loss of one row: the sum of mass_j f(log p_j), mass as in the other rows."""
    u, g, h, y = s
    source, step = at(plan.logits, outer, inner), plan.logits.cls
    grad = at(plan.grad, outer, inner) if plan.grad.address != 0 else 0
    hess = at(plan.hess, outer, inner) if plan.hess.address != 0 else 0
    if label == plan.ignore_index:
        zeros(T, plan, grad, hess, g)
        return T(0)
    sample = T(1)
    if plan.sample_weight.address != 0:
        sample = one_number(T, plan.load_sample_weight, at(plan.sample_weight, outer, inner), u)
    loss = 0.0
    for start in range(0, plan.classes, STRIP):
        n = min(STRIP, plan.classes - start)
        call7(plan.load_logits, source + start * step, 0, step, 1, n, u, 0)
        masses(T, plan, 0, label, start, n, T(plan.label_factor), y)
        loss += probability_piece(T, params, n, u, y, sample * T(plan.scale), g, h)
        if grad != 0:
            along = plan.grad.cls
            call7(plan.store_grad, grad + start * along, 0, along, 1, n, g, 0)
        if hess != 0:
            along = plan.hess.cls
            call7(plan.store_hess, hess + start * along, 0, along, 1, n, h, 0)
    return sample * T(loss)


def probability_rows(Params, T):
    """The kernel of class indices into rows of probabilities."""
    item = np.dtype(T).itemsize

    def probability_rows(address, first, last):
        plan = plan_at(address)
        params = params_at(address, Params, T)
        strip = roomy(STRIP) * item
        memory = np.empty(4 * strip + roomy(plan.block) * item + 64, np.uint8)
        u = line_of(memory)
        losses = u + 4 * strip
        labels = np.empty(plan.block, np.int64)
        for b in range(first, last):
            outer, start, stop = rows_of(plan, b)
            load_labels(plan, outer, start, stop - start, labels)
            sums = 0.0
            for r in range(stop - start):
                s = u, u + strip, u + 2 * strip, u + 3 * strip
                loss = probability_row(T, plan, params, outer, start + r, labels[r], s)
                sums += np.float64(loss)
                set_one(T, losses, r, loss)
            put_losses(plan, outer, start, stop - start, losses)
            put_partial(plan, b, sums)
        memory[0] = 0  # a last use: addresses do not keep it alive

    return probability_rows
