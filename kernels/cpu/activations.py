"""softmax, log_softmax, sigmoid and log_sigmoid as functions of their own."""

import numpy as np

from fusedce.kernels.cpu.blocks import address_of, at, loop, rows_of, scratch, scratch_size
from fusedce.kernels.cpu.machine import call7
from fusedce.kernels.cpu.plan import plan_at
from fusedce.kernels.cpu.rows import fold, recall, scaled
from fusedce.kernels.link import sigmoid_outcomes
from fusedce.kernels.scalar import log1p


@loop
def put(plan, address, start, values):
    """Store a block of a row."""
    step = plan.grad.cls
    call7(plan.store_grad, address + start * step, 0, step, 1, values.size, address_of(values), 0)


@loop
def shifted(u, k, out):
    """out <- u - k."""
    for j in range(out.size):
        out[j] = u[j] - k


@loop
def softmax_row(plan, outer, inner, rows, logarithm):
    """One row of softmax or of its logarithm, (z - max) - log1p(others)."""
    pad, u, w, g, _, _, _, _, _ = rows
    T = u.dtype.type
    source, target = at(plan.logits, outer, inner), at(plan.grad, outer, inner)
    m, others = fold(plan, source, u, w, pad)
    for start in range(0, plan.classes, plan.width):
        block, e = recall(plan, source, start, m, u, w, pad)
        out = g[: block.size]
        if logarithm:
            shifted(block, m, out)
            shifted(out, log1p(others), out)
        else:
            scaled(e, T(1) / (T(1) + others), out)
        put(plan, target, start, out)


def _rowwise(T, logarithm):
    def rowwise(address, first, last):
        plan = plan_at(address)
        memory = np.empty(scratch_size(plan.width), T)
        rows = scratch(memory, plan.width)
        for b in range(first, last):
            outer, start, stop = rows_of(plan, b)
            for inner in range(start, stop):
                softmax_row(plan, outer, inner, rows, logarithm)
        memory[0] = T(0)  # a last use: the views above do not keep it alive

    return rowwise


def softmax(T):
    """The kernel of softmax."""
    return _rowwise(T, False)


def log_softmax(T):
    """The kernel of log_softmax."""
    return _rowwise(T, True)


@loop
def sigmoid_block(u, logarithm, out):
    """out <- sigmoid(u), or its logarithm."""
    if logarithm:
        for j in range(u.size):
            logp, logq, p, q = sigmoid_outcomes(u[j])
            out[j] = logp
    else:
        for j in range(u.size):
            logp, logq, p, q = sigmoid_outcomes(u[j])
            out[j] = p


def _elementwise(T, logarithm):
    def elementwise(address, first, last):
        plan = plan_at(address)
        memory = np.empty(2 * plan.width, T)
        for b in range(first, last):
            outer, start, stop = rows_of(plan, b)
            for inner in range(start, stop):
                source, target = at(plan.logits, outer, inner), at(plan.grad, outer, inner)
                for j in range(0, plan.classes, plan.width):
                    n = min(plan.width, plan.classes - j)
                    step = plan.logits.cls
                    here = source + j * step
                    call7(plan.load_logits, here, 0, step, 1, n, address_of(memory), 0)
                    out = memory[plan.width : plan.width + n]
                    sigmoid_block(memory[:n], logarithm, out)
                    put(plan, target, j, out)

    return elementwise


def sigmoid(T):
    """The kernel of sigmoid."""
    return _elementwise(T, False)


def log_sigmoid(T):
    """The kernel of log_sigmoid."""
    return _elementwise(T, True)
