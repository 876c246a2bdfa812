"""softmax, log_softmax, sigmoid and log_sigmoid of an array, without a loss."""

import numpy as np

from fusedce.kernels.cpu.blocks import align_line, block_rows, padded, row_address
from fusedce.kernels.cpu.kernel_args import args_at
from fusedce.kernels.cpu.load_store import masked_load, store
from fusedce.kernels.cpu.rows import (
    load_rows,
    online_softmax,
    rescale_exps,
    strip_logits_and_exps,
    strips_per_row,
)
from fusedce.kernels.cpu.vector_loops import loop, multiply
from fusedce.kernels.intrinsics import call7
from fusedce.kernels.link import sigmoid_outcomes
from fusedce.kernels.scalar import log1p_up
from fusedce.kernels.tuning import STRIP
from fusedce.kernels.vector import lane_bytes, lanes, width


@loop
def store_values(args, address, start, n, values):
    """Store n results of the row at ``address`` from class ``start`` on; values: (n,) T."""
    step = args.grad.cls
    call7(args.store_grad, address + start * step, 0, step, 1, n, values, 0)


@loop
def log_softmax_strip(T, logits, n, row_max, log_total, out):
    """out <- (logits - row_max) - log_total; logits, out: addresses of (n,) T."""
    N = lanes(T)
    for j in range(0, n, width(N)):
        here = j * lane_bytes(N)
        store(out + here, (masked_load(logits + here, n - j, N(0)) - row_max) - log_total)


@loop
def activate_row(T, args, outer, inner, logits, exps, out, strip_maxima, logarithm):
    """softmax of a row, or its logarithm (z - max) - log1p(sum_exp_minus_1).

    logits, exps: addresses of (classes,) T, or (STRIP,) T if the row does not fit; out: address of
    (STRIP,) T; strip_maxima: that of (strips,) T.
    """
    source, target = row_address(args.logits, outer, inner), row_address(args.grad, outer, inner)
    # 1. Maximum and sum of exponentials.
    load_rows(T, args, outer, inner, 1, logits)
    row_max, sum_exp_minus_1 = online_softmax(T, args, source, logits, exps, strip_maxima)
    rescale_exps(T, args, row_max, exps, strip_maxima)
    for start in range(0, args.classes, STRIP):
        # 2. The results of a strip.
        n = min(STRIP, args.classes - start)
        block, e = strip_logits_and_exps(T, args, source, start, n, row_max, logits, exps)
        if logarithm:
            log_softmax_strip(T, block, n, row_max, log1p_up(sum_exp_minus_1), out)
        else:
            multiply(T, e, n, T(1) / (T(1) + sum_exp_minus_1), out)
        # 3. Store them.
        store_values(args, target, start, n, out)


def _over_rows(T, logarithm):
    item = np.dtype(T).itemsize

    def over_rows(address, first, last):
        args = args_at(address)
        # 1. Allocate the scratch memory, used for one row after the other.
        row, strip = padded(max(STRIP, args.width)) * item, padded(STRIP) * item
        memory = np.empty(2 * row + strip + padded(strips_per_row(args)) * item + 64, np.uint8)
        logits = align_line(memory)
        out = logits + 2 * row
        for b in range(first, last):
            # 2. Each row of the block.
            outer, start, stop = block_rows(args, b)
            for inner in range(start, stop):
                activate_row(
                    T, args, outer, inner, logits, logits + row, out, out + strip, logarithm
                )
        memory[0] = 0  # the last use of memory: addresses alone do not keep it allocated

    return over_rows


def softmax(T):
    """The kernel of softmax in the compute dtype T.

    Reads logits and writes grad (the result), both (outer, classes, inner) of any float dtype; all
    arithmetic is of T.
    """
    return _over_rows(T, False)


def log_softmax(T):
    """The kernel of log_softmax in the compute dtype T.

    Reads logits and writes grad (the result), both (outer, classes, inner) of any float dtype; all
    arithmetic is of T.
    """
    return _over_rows(T, True)


@loop
def sigmoid_strip(T, values, n, logarithm):
    """values <- sigmoid(values), or its logarithm; values: address of (n,) T."""
    N = lanes(T)
    for j in range(0, n, width(N)):
        here = values + j * lane_bytes(N)
        logp, logq, p, q = sigmoid_outcomes(masked_load(here, n - j, N(0)))
        store(here, logp if logarithm else p)


def _over_elements(T, logarithm):
    item = np.dtype(T).itemsize

    def over_elements(address, first, last):
        args = args_at(address)
        # 1. Allocate the scratch memory.
        memory = np.empty(padded(args.width) * item + 64, np.uint8)
        values = align_line(memory)
        for b in range(first, last):
            outer, start, stop = block_rows(args, b)
            for inner in range(start, stop):
                source = row_address(args.logits, outer, inner)
                target = row_address(args.grad, outer, inner)
                for j in range(0, args.classes, args.width):
                    # 2. Load a part of the row.
                    n = min(args.width, args.classes - j)
                    step = args.logits.cls
                    call7(args.load_logits, source + j * step, 0, step, 1, n, values, 0)
                    # 3. Compute and store the results.
                    sigmoid_strip(T, values, n, logarithm)
                    store_values(args, target, j, n, values)
        memory[0] = 0  # the last use of memory: addresses alone do not keep it allocated

    return over_elements


def sigmoid(T):
    """The kernel of sigmoid in the compute dtype T.

    Reads logits and writes grad (the result), both (outer, classes, inner) of any float dtype; all
    arithmetic is of T.
    """
    return _over_elements(T, False)


def log_sigmoid(T):
    """The kernel of log_sigmoid in the compute dtype T.

    Reads logits and writes grad (the result), both (outer, classes, inner) of any float dtype; all
    arithmetic is of T.
    """
    return _over_elements(T, True)
