"""Rows of probabilities with class indices (the negative log-likelihood of given p)."""

import numpy as np

from fusedce.kernels.cpu.blocks import (
    address_of,
    at,
    load_labels,
    loop,
    put_loss,
    put_partial,
    rows_of,
    scratch,
    scratch_size,
)
from fusedce.kernels.cpu.distribution import masses
from fusedce.kernels.cpu.machine import call7
from fusedce.kernels.cpu.plan import params_at, plan_at
from fusedce.kernels.cpu.rows import row_weight, zeros
from fusedce.kernels.link import probability_cell


@loop
def probability_row(plan, params, outer, inner, label, rows):
    """Loss of one row: the sum of mass_j f(log p_j), mass as in the other rows."""
    pad, u, g, h, y, _, _, _, _ = rows
    T = u.dtype.type
    source, step = at(plan.logits, outer, inner), plan.logits.cls
    grad = at(plan.grad, outer, inner) if plan.grad.address != 0 else 0
    hess = at(plan.hess, outer, inner) if plan.hess.address != 0 else 0
    if label == plan.ignore_index:
        zeros(plan, grad, hess, g)
        return T(0)
    sample = row_weight(plan, outer, inner, pad)
    scale = sample * T(plan.scale)
    loss = 0.0
    for start in range(0, plan.classes, plan.width):
        n = min(plan.width, plan.classes - start)
        call7(plan.load_logits, source + start * step, 0, step, 1, n, address_of(u), 0)
        masses(plan, 0, label, start, n, T(plan.label_factor), y)
        for j in range(n):
            f, g[j], h[j] = T(0), T(0), T(0)
            if y[j] != T(0):
                f, f1, f2 = probability_cell(u[j], y[j], params)
                g[j], h[j] = scale * f1, scale * f2
            loss += np.float64(f)
        if grad != 0:
            move = plan.grad.cls
            call7(plan.store_grad, grad + start * move, 0, move, 1, n, address_of(g), 0)
        if hess != 0:
            move = plan.hess.cls
            call7(plan.store_hess, hess + start * move, 0, move, 1, n, address_of(h), 0)
    return sample * T(loss)


def probability_rows(Params, T):
    """The kernel of class indices into rows of probabilities."""

    def probability_rows(address, first, last):
        plan = plan_at(address)
        params = params_at(address, Params, T)
        memory = np.empty(scratch_size(plan.width), T)
        rows = scratch(memory, plan.width)
        labels = np.empty(plan.block, np.int64)
        for b in range(first, last):
            outer, start, stop = rows_of(plan, b)
            load_labels(plan, outer, start, stop - start, labels)
            losses = 0.0
            for inner in range(start, stop):
                loss = probability_row(plan, params, outer, inner, labels[inner - start], rows)
                losses += np.float64(loss)
                put_loss(plan, outer, inner, loss, rows[0])
            put_partial(plan, b, losses)
        memory[0] = T(0)  # a last use: the views above do not keep it alive

    return probability_rows
