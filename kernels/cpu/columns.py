"""Tiles: the logits of ``args.block`` neighbouring rows, class by class.

A vector holds one class of many rows, so that nothing is reduced across lanes: for rows shorter
than a vector, and where the class axis is not the contiguous one. The loop over single rows would
run at a seventh of this speed for 10 classes. A tile is (classes, block) T in scratch memory; a
line is (block,) T, one number for each row.
"""

from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels.cpu.blocks import padded, row_address
from fusedce.kernels.cpu.load_store import load, store
from fusedce.kernels.cpu.vector_loops import (
    chain_transform,
    copy,
    fill,
    loop,
    multiply,
    store_scaled,
    transform_logits,
    transform_slopes,
)
from fusedce.kernels.intrinsics import call7
from fusedce.kernels.scalar import exp_down, fmax, where
from fusedce.kernels.vector import from_float64, lane_bytes, to_float64

# Classes that are summed in the compute dtype before the sum of a lane goes on in float64.
CLASSES_PER_FLUSH = 16


class RowLines(NamedTuple):
    """Addresses of lines: (block,) T each."""

    labels: int
    sample_weight: int
    losses: int


class ColumnSoftmax(NamedTuple):
    """The softmax of a vector of rows: numbers of one lane a row."""

    max: Any
    sum_exp_minus_1: Any
    target: Any  # z - max of the target; 0 without one
    target_exp: Any  # exp of it; 1 without one


@loop
def tile_size(args):
    """The elements of a tile, to allocate; ``args.block`` is a multiple of a vector's lanes."""
    return padded(args.classes * args.block)


@loop
def load_tile(T, args, view, packer, rows, tile):
    """tile <- n rows of an array, class by class; zeros in the lanes behind the last row."""
    if rows.n < args.block:
        fill(T, tile, args.classes * args.block, T(0))
    here = row_address(view, rows.outer, rows.start)
    call7(packer, here, view.cls, view.inner, args.classes, rows.n, tile, args.block)


@loop
def load_line(T, args, view, packer, rows, line, default):
    """line <- a number for each of n rows; ``default`` where there is no array, and behind them."""
    if view.address == 0 or rows.n < args.block:
        fill(T, line, args.block, T(default))
    if view.address != 0:
        here = row_address(view, rows.outer, rows.start)
        call7(packer, here, 0, view.inner, 1, rows.n, line, 0)


@loop
def load_logits(T, args, rows, tile, slopes):
    """tile <- transformed logits of n rows; slopes <- d(transformed)/d(logit) with a softcap."""
    scale, softcap, size = T(args.logit_scale), T(args.softcap), args.classes * args.block
    load_tile(T, args, args.logits, args.load_logits, rows, tile)
    if softcap > T(0):
        copy(T, tile, size, slopes)
        transform_slopes(T, slopes, size, scale, softcap)
    if softcap > T(0) or scale != T(1):
        transform_logits(T, tile, size, scale, softcap)


@loop
def softmax_lanes(N, T, args, label, logits, exps, step):
    """The ``ColumnSoftmax`` of a vector of rows; exps <- exp(z - max).

    label: the class index of each lane as a number; logits, exps: addresses of the first class of
    the rows; step: the bytes from one class to the next.
    """
    row_max = N(-np.finfo(T).max)
    for j in range(args.classes):
        row_max = fmax(row_max, load(N, logits + j * step))
    sum_below_max, n_at_max, target, target_exp = N(0), N(0), N(0), N(1)
    total = to_float64(N(0))
    for j in range(args.classes):
        d = load(N, logits + j * step) - row_max
        e = exp_down(d)
        store(exps + j * step, e)
        at_max = d >= N(0)
        sum_below_max = where(at_max, sum_below_max, sum_below_max + e)
        n_at_max = where(at_max, n_at_max + N(1), n_at_max)
        is_target = label == T(j)
        target, target_exp = where(is_target, d, target), where(is_target, e, target_exp)
        if j % CLASSES_PER_FLUSH == CLASSES_PER_FLUSH - 1:
            total = total + to_float64(sum_below_max)
            sum_below_max = N(0)
    sum_exp_minus_1 = sum_below_max + (n_at_max - N(1))
    if args.classes >= CLASSES_PER_FLUSH:
        sum_exp_minus_1 = from_float64(N, total + to_float64(sum_exp_minus_1))
    # A row without a class at the maximum is all -inf (or NaN).
    sum_exp_minus_1 = where(n_at_max > N(0), sum_exp_minus_1, N(np.nan))
    return ColumnSoftmax(row_max, sum_exp_minus_1, target, target_exp)


@loop
def finish_tile(T, args, rows, logits, slopes, grad, hess):
    """The chain rule through scale and softcap, then store the gradients and Hessians of n rows.

    logits (transformed), slopes, grad, hess (0: none): addresses of tiles; ``logits`` is free
    after the chain rule and is overwritten.
    """
    scale, softcap, size = T(args.logit_scale), T(args.softcap), args.classes * args.block
    if softcap > T(0):
        chain_transform(T, size, grad, hess, logits, slopes, scale, softcap)
    elif scale != T(1):
        multiply(T, grad, size, scale, grad)
        if hess != 0:
            multiply(T, hess, size, scale * scale, hess)
    if args.grad.address != 0:
        store_gradient(T, args, rows, grad, logits)
    if args.hess.address != 0:
        here, view = row_address(args.hess, rows.outer, rows.start), args.hess
        call7(args.store_hess, here, view.cls, view.inner, args.classes, rows.n, hess, args.block)


@loop
def store_gradient(T, args, rows, grad, scratch):
    """Store a tile of gradients of n rows; scratch: address of a tile.

    Non-temporal stores are used where rows or classes are contiguous in the caller's array: rows
    are transposed into ``scratch`` first.
    """
    view, item = args.grad, lane_bytes(T)
    here = row_address(view, rows.outer, rows.start)
    if args.adjacent:
        row = args.classes * item
        call7(args.store_grad, scratch, item, row, args.classes, rows.n, grad, args.block)
        store_scaled(T, scratch, rows.n * args.classes, here, T(1), True)
    elif args.stream and args.direct_grad:
        for j in range(args.classes):
            source = grad + j * args.block * item
            store_scaled(T, source, rows.n, here + j * view.cls, T(1), True)
    else:
        call7(args.store_grad, here, view.cls, view.inner, args.classes, rows.n, grad, args.block)
