"""Losses of rows of probabilities with class indices: the negative log-likelihood of given p."""

from typing import NamedTuple

import numpy as np

from fusedce.kernels.cpu.blocks import (
    RowRange,
    align_line,
    block_rows,
    load_class_indices,
    load_one,
    padded,
    row_address,
    store_partial_sum,
    store_row_losses,
)
from fusedce.kernels.cpu.kernel_args import args_at, params_at
from fusedce.kernels.cpu.rows import row_outputs, store_zeros
from fusedce.kernels.cpu.target_mass import load_masses
from fusedce.kernels.cpu.vector_loops import get_at, loop, set_at
from fusedce.kernels.intrinsics import call7
from fusedce.kernels.link import probability_cell
from fusedce.kernels.tuning import STRIP


class ProbabilityScratch(NamedTuple):
    """Addresses of the buffers of a strip: (STRIP,) T each."""

    probabilities: int
    grad: int
    hess: int
    mass: int


@loop
def probability_strip(T, params, n, probabilities, masses, scale, grad, hess):
    """The sum of mass f(log p) of n classes; grad, hess <- scale times its derivatives by p.

    probabilities, masses, grad, hess: addresses of (n,) T. Most masses are 0.
    """
    loss = 0.0
    for j in range(n):
        f, f1, f2 = T(0), T(0), T(0)
        mass = get_at(T, masses, j)
        if mass != T(0):
            f, f1, f2 = probability_cell(get_at(T, probabilities, j), mass, params)
        set_at(T, grad, j, scale * f1)
        set_at(T, hess, j, scale * f2)
        loss += np.float64(f)
    return loss


@loop
def probability_row(T, args, params, outer, inner, label, scratch):
    """The loss of a row, the sum of mass_j f(log p_j); its gradient and Hessian are written."""
    probabilities, grad, hess, masses = scratch
    source, step = row_address(args.logits, outer, inner), args.logits.cls
    out = row_outputs(args, outer, inner)
    if label == args.ignore_index:
        store_zeros(T, args, out, grad)
        return T(0)
    # 1. The sample weight.
    sample = T(1)
    if args.sample_weight.address != 0:
        here = row_address(args.sample_weight, outer, inner)
        sample = load_one(T, args.load_sample_weight, here, probabilities)
    loss = 0.0
    for start in range(0, args.classes, STRIP):
        # 2. Load the probabilities and target masses of a strip.
        n = min(STRIP, args.classes - start)
        call7(args.load_logits, source + start * step, 0, step, 1, n, probabilities, 0)
        load_masses(T, args, 0, label, start, n, T(args.label_factor), masses)
        # 3. The rule on every class of it.
        scale = sample * T(args.scale)
        loss += probability_strip(T, params, n, probabilities, masses, scale, grad, hess)
        # 4. Store gradient and Hessian.
        if out.grad != 0:
            along = args.grad.cls
            call7(args.store_grad, out.grad + start * along, 0, along, 1, n, grad, 0)
        if out.hess != 0:
            along = args.hess.cls
            call7(args.store_hess, out.hess + start * along, 0, along, 1, n, hess, 0)
    return sample * T(loss)


def probability_rows(Params, T):
    """The kernel for class indices into rows of probabilities.

    Reads logits (the probabilities; outer, classes, inner) of any float dtype, targets (outer,
    inner) of any integer dtype, and if given sample_weight (outer, inner) of any dtype and weight
    (classes,) of T. Writes ``partial`` (blocks,), the blocks' sums of losses in float64, and if
    wanted loss (outer, inner), and grad and hess (outer, classes, inner), of any float dtype. All
    arithmetic is of T.

    Params: the rule's NamedTuple; T: the compute dtype.
    """
    item = np.dtype(T).itemsize

    def probability_rows(address, first, last):
        args = args_at(address)
        params = params_at(address, Params, T)
        # 1. Allocate the scratch memory, used for one row after the other.
        strip = padded(STRIP) * item
        memory = np.empty(4 * strip + padded(args.block) * item + 64, np.uint8)
        u = align_line(memory)
        losses = u + 4 * strip
        labels = np.empty(args.block, np.int64)
        for b in range(first, last):
            # 2. Load the labels of the block.
            outer, start, stop = block_rows(args, b)
            rows = RowRange(outer, start, stop - start)
            load_class_indices(args, rows, labels)
            # 3. Each row: loss, gradient and Hessian.
            total = 0.0
            for r in range(rows.n):
                scratch = ProbabilityScratch(u, u + strip, u + 2 * strip, u + 3 * strip)
                loss = probability_row(
                    T, args, params, rows.outer, rows.start + r, labels[r], scratch
                )
                total += np.float64(loss)
                set_at(T, losses, r, loss)
            # 4. Losses of the rows, and the block's part of the reduced loss.
            store_row_losses(args, rows, losses)
            store_partial_sum(args, b, total)
        memory[0] = 0  # the last use of memory: addresses alone do not keep it allocated

    return probability_rows
