"""Rows of probabilities with class indices (the negative log-likelihood of given p)."""

import numpy as np

from fusedce.kernels.cpu.blocks import (
    align_line,
    at,
    load_labels,
    one_number,
    padded,
    put_losses,
    put_partial,
    rows_of,
)
from fusedce.kernels.cpu.distribution_rows import masses
from fusedce.kernels.cpu.kernel_args import args_at, params_at
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
def probability_row(T, args, params, outer, inner, label, s):
    """Loss of one row: the sum of mass_j f(log p_j), mass as in the other rows."""
    u, g, h, y = s
    source, step = at(args.logits, outer, inner), args.logits.cls
    grad = at(args.grad, outer, inner) if args.grad.address != 0 else 0
    hess = at(args.hess, outer, inner) if args.hess.address != 0 else 0
    if label == args.ignore_index:
        zeros(T, args, grad, hess, g)
        return T(0)
    sample = T(1)
    if args.sample_weight.address != 0:
        sample = one_number(T, args.load_sample_weight, at(args.sample_weight, outer, inner), u)
    loss = 0.0
    for start in range(0, args.classes, STRIP):
        n = min(STRIP, args.classes - start)
        call7(args.load_logits, source + start * step, 0, step, 1, n, u, 0)
        masses(T, args, 0, label, start, n, T(args.label_factor), y)
        loss += probability_piece(T, params, n, u, y, sample * T(args.scale), g, h)
        if grad != 0:
            along = args.grad.cls
            call7(args.store_grad, grad + start * along, 0, along, 1, n, g, 0)
        if hess != 0:
            along = args.hess.cls
            call7(args.store_hess, hess + start * along, 0, along, 1, n, h, 0)
    return sample * T(loss)


def probability_rows(Params, T):
    """The kernel of class indices into rows of probabilities."""
    item = np.dtype(T).itemsize

    def probability_rows(address, first, last):
        args = args_at(address)
        params = params_at(address, Params, T)
        strip = padded(STRIP) * item
        memory = np.empty(4 * strip + padded(args.block) * item + 64, np.uint8)
        u = align_line(memory)
        losses = u + 4 * strip
        labels = np.empty(args.block, np.int64)
        for b in range(first, last):
            outer, start, stop = rows_of(args, b)
            load_labels(args, outer, start, stop - start, labels)
            sums = 0.0
            for r in range(stop - start):
                s = u, u + strip, u + 2 * strip, u + 3 * strip
                loss = probability_row(T, args, params, outer, start + r, labels[r], s)
                sums += np.float64(loss)
                set_one(T, losses, r, loss)
            put_losses(args, outer, start, stop - start, losses)
            put_partial(args, b, sums)
        memory[0] = 0  # a last use: addresses do not keep it alive

    return probability_rows
