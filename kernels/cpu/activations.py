"""softmax, log_softmax, sigmoid and log_sigmoid as functions of their own."""

import numpy as np

from fusedce.kernels.cpu.blocks import at, line_of, roomy, rows_of
from fusedce.kernels.cpu.kernel_args import plan_at
from fusedce.kernels.cpu.load_store import masked_load, store
from fusedce.kernels.cpu.rows import fold, load_rows, recall, settle, strips_of
from fusedce.kernels.cpu.vector_loops import loop, scaled
from fusedce.kernels.intrinsics import call7
from fusedce.kernels.link import sigmoid_outcomes
from fusedce.kernels.scalar import log1p_up
from fusedce.kernels.tuning import STRIP
from fusedce.kernels.vector import itemsize, lanes, width


@loop
def put_strip(plan, address, start, n, values):
    """Store a piece of a row."""
    step = plan.grad.cls
    call7(plan.store_grad, address + start * step, 0, step, 1, n, values, 0)


@loop
def log_strip(T, u, n, m, log_total, out):
    """out <- (u - m) - log_total."""
    N = lanes(T)
    for j in range(0, n, width(N)):
        here = j * itemsize(N)
        store(out + here, (masked_load(u + here, n - j, N(0)) - m) - log_total)


@loop
def softmax_row(T, plan, outer, inner, u, w, g, tops, logarithm):
    """One row of softmax or of its logarithm, (z - max) - log1p_up(others)."""
    source, target = at(plan.logits, outer, inner), at(plan.grad, outer, inner)
    load_rows(T, plan, outer, inner, 1, u)
    m, others = fold(T, plan, source, u, w, tops)
    settle(T, plan, m, w, tops)
    for start in range(0, plan.classes, STRIP):
        n = min(STRIP, plan.classes - start)
        block, e = recall(T, plan, source, start, n, m, u, w)
        if logarithm:
            log_strip(T, block, n, m, log1p_up(others), g)
        else:
            scaled(T, e, n, T(1) / (T(1) + others), g)
        put_strip(plan, target, start, n, g)


def _rowwise(T, logarithm):
    item = np.dtype(T).itemsize

    def rowwise(address, first, last):
        plan = plan_at(address)
        row, strip = roomy(max(STRIP, plan.width)) * item, roomy(STRIP) * item
        memory = np.empty(2 * row + strip + roomy(strips_of(plan)) * item + 64, np.uint8)
        u = line_of(memory)
        g = u + 2 * row
        for b in range(first, last):
            outer, start, stop = rows_of(plan, b)
            for inner in range(start, stop):
                softmax_row(T, plan, outer, inner, u, u + row, g, g + strip, logarithm)
        memory[0] = 0  # a last use: addresses do not keep it alive

    return rowwise


def softmax(T):
    """The kernel of softmax."""
    return _rowwise(T, False)


def log_softmax(T):
    """The kernel of log_softmax."""
    return _rowwise(T, True)


@loop
def sigmoid_strip(T, u, n, logarithm):
    """u <- sigmoid(u), or its logarithm."""
    N = lanes(T)
    for j in range(0, n, width(N)):
        here = u + j * itemsize(N)
        logp, logq, p, q = sigmoid_outcomes(masked_load(here, n - j, N(0)))
        store(here, logp if logarithm else p)


def _elementwise(T, logarithm):
    item = np.dtype(T).itemsize

    def elementwise(address, first, last):
        plan = plan_at(address)
        memory = np.empty(roomy(plan.width) * item + 64, np.uint8)
        u = line_of(memory)
        for b in range(first, last):
            outer, start, stop = rows_of(plan, b)
            for inner in range(start, stop):
                source, target = at(plan.logits, outer, inner), at(plan.grad, outer, inner)
                for j in range(0, plan.classes, plan.width):
                    n = min(plan.width, plan.classes - j)
                    step = plan.logits.cls
                    call7(plan.load_logits, source + j * step, 0, step, 1, n, u, 0)
                    sigmoid_strip(T, u, n, logarithm)
                    put_strip(plan, target, j, n, u)
        memory[0] = 0  # a last use: addresses do not keep it alive

    return elementwise


def sigmoid(T):
    """The kernel of sigmoid."""
    return _elementwise(T, False)


def log_sigmoid(T):
    """The kernel of log_sigmoid."""
    return _elementwise(T, True)
