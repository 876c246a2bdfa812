"""softmax, log_softmax, sigmoid and log_sigmoid as functions of their own."""

import numpy as np

from fusedce.kernels.cpu.blocks import align_line, at, padded, rows_of
from fusedce.kernels.cpu.kernel_args import args_at
from fusedce.kernels.cpu.load_store import masked_load, store
from fusedce.kernels.cpu.rows import load_rows, online_softmax, reload, settle, strips_of
from fusedce.kernels.cpu.vector_loops import loop, scaled
from fusedce.kernels.intrinsics import call7
from fusedce.kernels.link import sigmoid_outcomes
from fusedce.kernels.scalar import log1p_up
from fusedce.kernels.tuning import STRIP
from fusedce.kernels.vector import itemsize, lanes, width


@loop
def put_strip(args, address, start, n, values):
    """Store a piece of a row."""
    step = args.grad.cls
    call7(args.store_grad, address + start * step, 0, step, 1, n, values, 0)


@loop
def log_strip(T, u, n, m, log_total, out):
    """out <- (u - m) - log_total."""
    N = lanes(T)
    for j in range(0, n, width(N)):
        here = j * itemsize(N)
        store(out + here, (masked_load(u + here, n - j, N(0)) - m) - log_total)


@loop
def softmax_row(T, args, outer, inner, u, w, g, tops, logarithm):
    """One row of softmax or of its logarithm, (z - max) - log1p_up(others)."""
    source, target = at(args.logits, outer, inner), at(args.grad, outer, inner)
    load_rows(T, args, outer, inner, 1, u)
    m, others = online_softmax(T, args, source, u, w, tops)
    settle(T, args, m, w, tops)
    for start in range(0, args.classes, STRIP):
        n = min(STRIP, args.classes - start)
        block, e = reload(T, args, source, start, n, m, u, w)
        if logarithm:
            log_strip(T, block, n, m, log1p_up(others), g)
        else:
            scaled(T, e, n, T(1) / (T(1) + others), g)
        put_strip(args, target, start, n, g)


def _rowwise(T, logarithm):
    item = np.dtype(T).itemsize

    def rowwise(address, first, last):
        args = args_at(address)
        row, strip = padded(max(STRIP, args.width)) * item, padded(STRIP) * item
        memory = np.empty(2 * row + strip + padded(strips_of(args)) * item + 64, np.uint8)
        u = align_line(memory)
        g = u + 2 * row
        for b in range(first, last):
            outer, start, stop = rows_of(args, b)
            for inner in range(start, stop):
                softmax_row(T, args, outer, inner, u, u + row, g, g + strip, logarithm)
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
        args = args_at(address)
        memory = np.empty(padded(args.width) * item + 64, np.uint8)
        u = align_line(memory)
        for b in range(first, last):
            outer, start, stop = rows_of(args, b)
            for inner in range(start, stop):
                source, target = at(args.logits, outer, inner), at(args.grad, outer, inner)
                for j in range(0, args.classes, args.width):
                    n = min(args.width, args.classes - j)
                    step = args.logits.cls
                    call7(args.load_logits, source + j * step, 0, step, 1, n, u, 0)
                    sigmoid_strip(T, u, n, logarithm)
                    put_strip(args, target, j, n, u)
        memory[0] = 0  # a last use: addresses do not keep it alive

    return elementwise


def sigmoid(T):
    """The kernel of sigmoid."""
    return _elementwise(T, False)


def log_sigmoid(T):
    """The kernel of log_sigmoid."""
    return _elementwise(T, True)
