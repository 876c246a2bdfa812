"""Losses of softmax rows with class indices, one row a lane.

For rows of few classes, and where the class axis is not the contiguous one.
"""

from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels.cpu.blocks import (
    RowRange,
    align_line,
    block_rows,
    padded,
    store_partial_sum,
    store_row_losses,
)
from fusedce.kernels.cpu.columns import (
    RowLines,
    finish_tile,
    load_line,
    load_logits,
    softmax_lanes,
    tile_size,
)
from fusedce.kernels.cpu.kernel_args import args_at, params_at
from fusedce.kernels.cpu.load_store import load, store
from fusedce.kernels.cpu.vector_loops import FLUSH, loop
from fusedce.kernels.intrinsics import peek
from fusedce.kernels.link import softmax_rest, softmax_row
from fusedce.kernels.scalar import where
from fusedce.kernels.vector import lane_bytes, numbers, sum_of_lanes, to_float64, width


class IndexTiles(NamedTuple):
    """Addresses of tiles: (classes, block) T each."""

    logits: int
    exps: int  # exp(z - max), replaced by the gradient
    slopes: int
    hess: int  # 0: none


class HessianTerms(NamedTuple):
    """The Hessian of a vector of rows, see ``link.softmax_row``: one lane a row."""

    sum_exp_minus_1: Any
    square: Any
    product: Any
    target: Any


@loop
def target_weight(N, T, args, label):
    """The class weight of the target of each of a vector of rows, 1 if there are none."""
    weight = N(1)
    if args.weight != 0:
        for j in range(args.classes):
            here = args.weight + j * lane_bytes(T)
            weight = where(label == T(j), N(peek(here, T)), weight)
    return weight


@loop
def write_gradient_lanes(N, T, args, label, keep, exps, step, grad_factor, target_grad):
    """exps <- the gradients of a vector of rows; 0 where ``keep`` is false, whatever the logits.

    exps: address of the rows' first class; step: the bytes from one class to the next.
    """
    for j in range(args.classes):
        g = where(label == T(j), target_grad, grad_factor * load(N, exps + j * step))
        store(exps + j * step, where(keep, g, N(0)))


@loop
def write_hessian_lanes(N, T, args, label, keep, exps, step, terms, hess):
    """hess <- the Hessians of a vector of rows, before gradients replace the exponentials."""
    total = T(1) + terms.sum_exp_minus_1
    for j in range(args.classes):
        e = load(N, exps + j * step)
        p, q = e / total, softmax_rest(e, terms.sum_exp_minus_1, total) / total
        x = where(label == T(j), terms.target, terms.square * p * p + terms.product * p * q)
        store(hess + j * step, where(keep, x, N(0)))


class LaneTiles(NamedTuple):
    """Addresses of the tiles that ``index_lanes`` uses, and the bytes between their classes."""

    logits: int
    exps: int
    hess: int
    step: int


@loop
def index_lanes(N, T, args, params, ignore_index, tiles, lines, offset):
    """The losses of a vector of rows; their gradients and Hessians are written to the tiles.

    tiles: ``LaneTiles``; lines: ``RowLines``; offset: the bytes from the first row to these.
    """
    step, exps, hess = tiles.step, tiles.exps, tiles.hess
    # 1. Labels and sample weights.
    label, sample = load(N, lines.labels + offset), load(N, lines.sample_weight + offset)
    keep = label != ignore_index
    # 2. Softmax: maximum, sum of exponentials, the target's logit.
    row_max, sum_exp_minus_1, d, e = softmax_lanes(
        N, T, args, label, tiles.logits + offset, exps + offset, step
    )
    # 3. The rule.
    loss, grad_factor, rest, target_grad, square, product, target_hess = softmax_row(
        params, where(keep, d, N(0)), where(keep, e, N(1)), row_max, sum_exp_minus_1,
        sample * target_weight(N, T, args, label), sample, T(args.z_loss), T(args.scale),
    )  # fmt: skip
    loss = where(keep, loss, N(0))
    store(lines.losses + offset, loss)
    # 4. Hessian and gradient.
    if hess != 0:
        terms = HessianTerms(sum_exp_minus_1, square, product, target_hess)
        write_hessian_lanes(N, T, args, label, keep, exps + offset, step, terms, hess + offset)
    if args.grad.address != 0 or hess != 0:
        write_gradient_lanes(N, T, args, label, keep, exps + offset, step, grad_factor, target_grad)
    return loss


@loop
def index_tile(N, T, args, params, rows, tiles, lines):
    """Store the losses, gradients and Hessians of n rows; returns the sum of their losses."""
    logits, exps, slopes, hess = tiles
    item = lane_bytes(T)
    ignore_index = T(args.ignore_index)
    # 1. Load logits, labels and sample weights.
    load_logits(T, args, rows, logits, slopes)
    load_line(T, args, args.targets, args.load_targets, rows, lines.labels, ignore_index)
    load_line(T, args, args.sample_weight, args.load_sample_weight, rows, lines.sample_weight, 1)
    # 2. Losses and derivatives, a vector of rows at a time.
    total = to_float64(N(0))
    for r in range(0, rows.n, FLUSH * width(N)):
        loss = N(0)
        for i in range(r, min(rows.n, r + FLUSH * width(N)), width(N)):
            loss = loss + index_lanes(
                N, T, args, params, ignore_index,
                LaneTiles(logits, exps, hess, args.block * item), lines, i * item,
            )  # fmt: skip
        total = total + to_float64(loss)
    # 3. Store derivatives and losses.
    if args.grad.address != 0 or hess != 0:
        finish_tile(T, args, rows, logits, slopes, exps, hess)
    store_row_losses(args, rows, lines.losses)
    return sum_of_lanes(total)


def index_columns(Params, T, Lanes):
    """The kernel for class indices, one row a lane.

    Reads logits (outer, classes, inner) of any float dtype, targets (outer, inner) of any integer
    dtype, and if given sample_weight (outer, inner) of any dtype and weight (classes,) of T.
    Writes ``partial`` (blocks,), the blocks' sums of losses in float64, and if wanted loss (outer,
    inner), and grad and hess (outer, classes, inner), of any float dtype. All arithmetic is of T.

    Params: the rule's NamedTuple; T: the compute dtype; Lanes: ``Wide`` or ``Single``.
    """
    item = np.dtype(T).itemsize

    def index_columns(address, first, last):
        args = args_at(address)
        params = params_at(address, Params, T)
        N = numbers(Lanes, T)
        # 1. Allocate the scratch memory, used for one block after the other.
        tile, line = tile_size(args) * item, padded(args.block) * item
        memory = np.empty(4 * tile + 3 * line + 64, np.uint8)
        u = align_line(memory)
        lines = u + 4 * tile
        hess = u + 3 * tile if args.hess.address != 0 else 0
        for b in range(first, last):
            # 2. Everything of a block but the sum of its losses.
            outer, start, stop = block_rows(args, b)
            loss = index_tile(
                N, T, args, params, RowRange(outer, start, stop - start),
                IndexTiles(u, u + tile, u + 2 * tile, hess),
                RowLines(lines, lines + line, lines + 2 * line),
            )  # fmt: skip
            # 3. The block's part of the reduced loss.
            store_partial_sum(args, b, loss)
        memory[0] = 0  # the last use of memory: addresses alone do not keep it allocated

    return index_columns
