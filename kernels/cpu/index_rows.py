"""Softmax rows with class indices.

A block is a few rows, so that the rule is evaluated for all of them in the lanes of one vector;
rows of more than a strip come alone.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from fusedce.kernels.cpu.blocks import (
    align_line,
    at,
    load_labels,
    padded,
    put_losses,
    put_partial,
    rows_of,
)
from fusedce.kernels.cpu.kernel_args import args_at, params_at
from fusedce.kernels.cpu.load_store import load, masked_load, store
from fusedce.kernels.cpu.rows import (
    load_rows,
    online_softmax,
    others_of,
    reload,
    settle,
    shrink,
    store_strip,
    strip_at,
    strips_of,
    zeros,
)
from fusedce.kernels.cpu.vector_loops import (
    copied,
    curved,
    exponentials,
    filled,
    loop,
    put,
    put_bytes,
    reduce_max,
    scaled,
    set_one,
)
from fusedce.kernels.intrinsics import call7, peek
from fusedce.kernels.link import softmax_row
from fusedce.kernels.scalar import INLINED, exp_down
from fusedce.kernels.tuning import STRIP
from fusedce.kernels.vector import BYTES, itemsize, numbers, sum_of_lanes, to_float64, width

# The arrays over the rows of a block.
(
    MAXIMA, OTHERS, TARGETS, WEIGHTS, SAMPLES, LOSSES, FACTORS, RESTS, OWN, SQUARES, PRODUCTS,
    BENDS, ARRAYS,
) = range(13)  # fmt: skip


@loop
def samples(T, args, outer, start, n, sample):
    """The sample weight of each row of a block, 1 if there are none."""
    if args.sample_weight.address != 0:
        here, step = at(args.sample_weight, outer, start), args.sample_weight.inner
        call7(args.load_sample_weight, here, 0, step, 1, n, sample, 0)
    else:
        filled(T, sample, n, T(1))


@loop
def target_logit(T, args, source, label, u):
    """The logit of one class."""
    return peek(strip_at(T, args, source, label, 1, u), T)


@loop
def read_rows(T, args, outer, start, n, labels, u, w, rows, size):
    """Maximum and others of each row of a block; w gets the exponentials.

    All maxima first: the next row's does not wait for this row's exponentials.
    """
    row = args.classes * itemsize(T)
    for r in range(n):
        if labels[r] != args.ignore_index:
            source = at(args.logits, outer, start + r)
            block = strip_at(T, args, source, 0, args.classes, u + r * row)
            set_one(T, rows + MAXIMA * size, r, reduce_max(T, block, args.classes))
    ahead = args.block * args.logits.inner if args.direct_logits else 0
    for r in range(n):
        if labels[r] != args.ignore_index:
            source = at(args.logits, outer, start + r)
            block = strip_at(T, args, source, 0, args.classes, u + r * row)
            m = peek(rows + MAXIMA * size + r * itemsize(T), T)
            below, ties = exponentials(T, block, args.classes, m, w + r * row, ahead)
            set_one(T, rows + OTHERS * size, r, others_of(T, below, ties))


@loop
def weigh_rows(T, args, outer, start, n, labels, u, rows, size):
    """Target logit and weight of each row of a block; neutral numbers for ignored rows."""
    row = args.classes * itemsize(T)
    samples(T, args, outer, start, n, rows + SAMPLES * size)
    copied(T, rows + SAMPLES * size, n, rows + WEIGHTS * size)
    for r in range(n):
        label = labels[r]
        if label == args.ignore_index:
            set_one(T, rows + SAMPLES * size, r, T(0))
            set_one(T, rows + WEIGHTS * size, r, T(0))
            set_one(T, rows + MAXIMA * size, r, T(0))
            set_one(T, rows + OTHERS * size, r, T(1))
            set_one(T, rows + TARGETS * size, r, T(0))
        else:
            source = at(args.logits, outer, start + r)
            z = target_logit(T, args, source, label, u + r * row)
            m = peek(rows + MAXIMA * size + r * itemsize(T), T)
            set_one(T, rows + TARGETS * size, r, z - m)
            if args.weight != 0:
                weight = peek(args.weight + label * itemsize(T), T)
                sample = peek(rows + SAMPLES * size + r * itemsize(T), T)
                set_one(T, rows + WEIGHTS * size, r, sample * weight)


@loop
def evaluate_rows(N, T, args, params, n, rows, size):
    """The rule on the rows of a block, a vector of rows at a time; the sum of their losses."""
    z_loss, scale = T(args.z_loss), T(args.scale)
    losses = to_float64(N(0))
    for r in range(0, n, width(N)):
        here, left = rows + r * itemsize(T), n - r
        d = masked_load(here + TARGETS * size, left, N(0))
        loss, k, rest, first, square, product, second = softmax_row(
            params,
            d,
            exp_down(d),
            load(N, here + MAXIMA * size),
            masked_load(here + OTHERS * size, left, N(1)),
            masked_load(here + WEIGHTS * size, left, N(0)),
            masked_load(here + SAMPLES * size, left, N(0)),
            z_loss,
            scale,
        )
        losses = losses + to_float64(loss)
        store(here + LOSSES * size, loss)
        store(here + FACTORS * size, k)
        store(here + RESTS * size, rest)
        store(here + OWN * size, first)
        store(here + SQUARES * size, square)
        store(here + PRODUCTS * size, product)
        store(here + BENDS * size, second)
    return sum_of_lanes(losses)


@loop
def write_row(T, args, source, grad, hess, label, u, w, row, size, strips):
    """Gradient and Hessian of a settled row."""
    g, h, v = strips
    m, others, k = peek(row, T), peek(row + OTHERS * size, T), peek(row + FACTORS * size, T)
    first, second = peek(row + OWN * size, T), peek(row + BENDS * size, T)
    square, product = peek(row + SQUARES * size, T), peek(row + PRODUCTS * size, T)
    for start in range(0, args.classes, STRIP):
        n = min(STRIP, args.classes - start)
        block, e = reload(T, args, source, start, n, m, u, w)
        hit = start <= label < start + n
        scaled(T, e, n, k, g)
        if hit:
            set_one(T, g, label - start, first)
        if hess != 0:
            curved(T, e, n, others, square, product, h)
            if hit:
                set_one(T, h, label - start, second)
        store_strip(
            T, args, n,
            grad + start * args.grad.cls if grad != 0 else 0,
            hess + start * args.hess.cls if hess != 0 else 0,
            source + start * args.logits.cls, block, g, h, v,
        )  # fmt: skip


@loop
def write_short(T, args, outer, start, n, labels, u, w, rows, size):
    """Gradients of whole rows that lie one behind the other; in place, then in one piece.

    With -rest for the target's exponential the gradient is k times what is in scratch. Row by row
    each end would wait for a line from memory: 14 ms instead of 12 for 65536 rows of 1000 classes.
    """
    for r in range(n):
        e = w + r * args.classes * itemsize(T)
        if labels[r] == args.ignore_index:
            filled(T, e, args.classes, T(0))
        else:
            set_one(T, e, labels[r], -peek(rows + RESTS * size + r * itemsize(T), T))
            scaled(T, e, args.classes, peek(rows + FACTORS * size + r * itemsize(T), T), e)
    write_piece(T, args, n * args.classes, w, at(args.grad, outer, start), u)


@loop
def write_long(T, args, grad, label, u, w, row, size, tops):
    """The gradient of a row of many strips, each with a maximum of its own."""
    m, k = peek(row, T), peek(row + FACTORS * size, T)
    for s in range(strips_of(args)):
        start = s * STRIP
        n, e = min(STRIP, args.classes - start), w + start * itemsize(T)
        scaled(T, e, n, k * shrink(T, peek(tops + s * itemsize(T), T), m), e)
    set_one(T, w, label, peek(row + OWN * size, T))
    write_piece(T, args, args.classes, w, grad, u)


@loop
def write_piece(T, args, n, w, grad, u):
    """n gradients home; those of half precision are rounded in u, where no logits are wanted."""
    past = args.stream != 0
    if args.direct_grad:
        put(T, w, n, grad, T(1), past)
    elif past and grad % 2 == 0:
        call7(args.store_grad, u, 0, args.grad.cls, 1, n, w, 0)
        put_bytes(u, n * args.grad.cls, grad)
    else:
        call7(args.store_grad, grad, 0, args.grad.cls, 1, n, w, 0)


@loop
def write_rows(T, args, outer, start, n, labels, u, w, rows, size, strips):
    """Gradients and Hessians of a block of rows, whatever is asked for."""
    row = args.classes * itemsize(T)
    for r in range(n):
        grad = at(args.grad, outer, start + r) if args.grad.address != 0 else 0
        hess = at(args.hess, outer, start + r) if args.hess.address != 0 else 0
        if labels[r] == args.ignore_index:
            zeros(T, args, grad, hess, strips[0])
        else:
            write_row(
                T, args, at(args.logits, outer, start + r), grad, hess, labels[r],
                u + r * row, w + r * row, rows + r * itemsize(T), size, strips,
            )  # fmt: skip


class Whole(NamedTuple):
    """Type tag: gradients of whole rows one behind the other, or nothing but the loss."""


class Pieces(NamedTuple):
    """Type tag: whatever is asked for, strip by strip."""


@loop
def write_whole(T, args, outer, start, n, labels, u, w, rows, size, strips, tops):
    """The gradients of a block, if wanted."""
    grad = at(args.grad, outer, start)
    if args.grad.address != 0:
        if args.classes <= STRIP:
            write_short(T, args, outer, start, n, labels, u, w, rows, size)
        elif labels[0] == args.ignore_index:
            filled(T, w, args.classes, T(0))
            write_piece(T, args, args.classes, w, grad, u)
        else:
            write_long(T, args, grad, labels[0], u, w, rows, size, tops)


@loop
def write_pieces(T, args, outer, start, n, labels, u, w, rows, size, strips, tops):
    """Gradients and Hessians of a block, whatever is asked for."""
    if args.grad.address != 0 or args.hess.address != 0:
        if args.classes > STRIP and labels[0] != args.ignore_index:
            settle(T, args, peek(rows, T), w, tops)
        write_rows(T, args, outer, start, n, labels, u, w, rows, size, strips)


def write(way, *block):
    """One of the two; the other is not even compiled."""
    raise NotImplementedError("compiled code only")


@overload(write, jit_options=INLINED)
def _write(way, *block):
    chosen = write_whole if way.instance_class is Whole else write_pieces
    return lambda way, *block: chosen(*block)


@loop
def index_block(N, T, way, args, params, outer, start, n, labels, u, w, rows, size, strips, tops):
    """The sum of the losses of a block of rows; what is asked for of them is written."""
    load_rows(T, args, outer, start, n, u)
    if args.classes <= STRIP:
        read_rows(T, args, outer, start, n, labels, u, w, rows, size)
    elif labels[0] != args.ignore_index:
        m, others = online_softmax(T, args, at(args.logits, outer, start), u, w, tops)
        set_one(T, rows, 0, m)
        set_one(T, rows + OTHERS * size, 0, others)
    weigh_rows(T, args, outer, start, n, labels, u, rows, size)
    loss = evaluate_rows(N, T, args, params, n, rows, size)
    write(way, T, args, outer, start, n, labels, u, w, rows, size, strips, tops)
    put_losses(args, outer, start, n, rows + LOSSES * size)
    return loss


def index_rows(Params, T, Lanes, Way):
    """The kernel for class indices: the rule is evaluated once a row."""
    item = np.dtype(T).itemsize

    def index_rows(address, first, last):
        args = args_at(address)
        params = params_at(address, Params, T)
        N, way = numbers(Lanes, T), Way()
        block = padded(args.block * args.width) * item
        strip, row = padded(STRIP) * item, padded(args.block) * item
        memory = np.empty(
            2 * block + 3 * strip + ARRAYS * row + padded(strips_of(args)) * item + BYTES, np.uint8
        )
        u = align_line(memory)
        g = u + 2 * block
        rows = g + 3 * strip
        labels = np.empty(args.block, np.int64)
        for b in range(first, last):
            outer, start, stop = rows_of(args, b)
            load_labels(args, outer, start, stop - start, labels)
            losses = index_block(
                N, T, way, args, params, outer, start, stop - start, labels, u, u + block,
                rows, row, (g, g + strip, g + 2 * strip), rows + ARRAYS * row,
            )  # fmt: skip
            put_partial(args, b, losses)
        memory[0] = 0  # a last use: addresses do not keep it alive

    return index_rows
