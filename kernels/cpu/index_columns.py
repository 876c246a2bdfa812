"""Softmax with class indices and rows in the lanes: few classes, or a class axis not the last."""

import numpy as np

from fusedce.kernels.cpu.blocks import align_line, padded, put_losses, put_partial, rows_of
from fusedce.kernels.cpu.columns import (
    finish_tile,
    load_line,
    load_logits,
    online_softmax_lanes,
    tile_size,
)
from fusedce.kernels.cpu.kernel_args import args_at, params_at
from fusedce.kernels.cpu.load_store import load, store
from fusedce.kernels.cpu.vector_loops import FLUSH, loop
from fusedce.kernels.intrinsics import peek
from fusedce.kernels.link import softmax_rest, softmax_row
from fusedce.kernels.scalar import where
from fusedce.kernels.vector import itemsize, numbers, sum_of_lanes, to_float64, width


@loop
def weight_lanes(N, T, args, label):
    """The weight of the target class of a vector of rows."""
    weight = N(1)
    if args.weight != 0:
        for j in range(args.classes):
            here = args.weight + j * itemsize(T)
            weight = where(label == T(j), N(peek(here, T)), weight)
    return weight


@loop
def write_lanes(N, T, args, label, keep, w, step, k, first):
    """w <- the gradients of a vector of rows; zeros in ignored ones, whatever their logits were."""
    for j in range(args.classes):
        g = where(label == T(j), first, k * load(N, w + j * step))
        store(w + j * step, where(keep, g, N(0)))


@loop
def curve_lanes(N, T, args, label, keep, w, step, others, square, product, second, h):
    """h <- the curvatures, before the gradients replace the exponentials."""
    whole = T(1) + others
    for j in range(args.classes):
        e = load(N, w + j * step)
        p, q = e / whole, softmax_rest(e, others, whole) / whole
        x = where(label == T(j), second, square * p * p + product * p * q)
        store(h + j * step, where(keep, x, N(0)))


@loop
def index_lanes(N, T, args, params, ignored, u, w, h, step, lines, here):
    """The losses of a vector of rows; their gradients and curvatures in the tiles."""
    labels, samples, losses = lines
    label, sample = load(N, labels + here), load(N, samples + here)
    keep = label != ignored
    m, others, d, e = online_softmax_lanes(N, T, args, label, u + here, w + here, step)
    loss, k, rest, first, square, product, second = softmax_row(
        params, where(keep, d, N(0)), where(keep, e, N(1)), m, others,
        sample * weight_lanes(N, T, args, label), sample, T(args.z_loss), T(args.scale),
    )  # fmt: skip
    loss = where(keep, loss, N(0))
    store(losses + here, loss)
    if h != 0:
        curve_lanes(
            N, T, args, label, keep, w + here, step, others, square, product, second, h + here
        )
    if args.grad.address != 0 or h != 0:
        write_lanes(N, T, args, label, keep, w + here, step, k, first)
    return loss


@loop
def index_tile(N, T, args, params, outer, start, n, tiles, lines):
    """The sum of the losses of a tile of rows; what is asked for of them is written."""
    u, w, slopes, h = tiles
    labels, samples, losses = lines
    item = itemsize(T)
    ignored = T(args.ignore_index)
    load_logits(T, args, outer, start, n, u, slopes)
    load_line(T, args, args.targets, args.load_targets, outer, start, n, labels, ignored)
    load_line(T, args, args.sample_weight, args.load_sample_weight, outer, start, n, samples, 1)
    sums = to_float64(N(0))
    for r in range(0, n, FLUSH * width(N)):
        loss = N(0)
        for i in range(r, min(n, r + FLUSH * width(N)), width(N)):
            loss = loss + index_lanes(
                N, T, args, params, ignored, u, w, h, args.block * item, lines, i * item
            )
        sums = sums + to_float64(loss)
    if args.grad.address != 0 or h != 0:
        finish_tile(T, args, outer, start, n, u, slopes, w, h)
    put_losses(args, outer, start, n, losses)
    return sum_of_lanes(sums)


def index_columns(Params, T, Lanes):
    """The kernel for class indices with rows in the lanes."""
    item = np.dtype(T).itemsize

    def index_columns(address, first, last):
        args = args_at(address)
        params = params_at(address, Params, T)
        N = numbers(Lanes, T)
        tile, line = tile_size(args) * item, padded(args.block) * item
        memory = np.empty(4 * tile + 3 * line + 64, np.uint8)
        u = align_line(memory)
        lines = u + 4 * tile
        h = u + 3 * tile if args.hess.address != 0 else 0
        for b in range(first, last):
            outer, start, stop = rows_of(args, b)
            loss = index_tile(
                N, T, args, params, outer, start, stop - start, (u, u + tile, u + 2 * tile, h),
                (lines, lines + line, lines + 2 * line),
            )  # fmt: skip
            put_partial(args, b, loss)
        memory[0] = 0  # a last use: addresses do not keep it alive

    return index_columns
