"""Softmax rows with class indices.

A block is a few rows, so that the rule is evaluated for all of them in the lanes of one vector;
rows of more than a strip come alone.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from fusedce.kernels.cpu.blocks import (
    at,
    line_of,
    load_labels,
    put_losses,
    put_partial,
    roomy,
    rows_of,
)
from fusedce.kernels.cpu.kernel_args import params_at, plan_at
from fusedce.kernels.cpu.load_store import load, masked_load, store
from fusedce.kernels.cpu.rows import (
    fold,
    load_rows,
    others_of,
    recall,
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
    peak,
    put,
    put_bytes,
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
def samples(T, plan, outer, start, n, sample):
    """The sample weight of each row of a block, 1 if there are none."""
    if plan.sample_weight.address != 0:
        here, step = at(plan.sample_weight, outer, start), plan.sample_weight.inner
        call7(plan.load_sample_weight, here, 0, step, 1, n, sample, 0)
    else:
        filled(T, sample, n, T(1))


@loop
def target_logit(T, plan, source, label, u):
    """The logit of one class."""
    return peek(strip_at(T, plan, source, label, 1, u), T)


@loop
def read_rows(T, plan, outer, start, n, labels, u, w, rows, size):
    """Maximum and others of each row of a block; w gets the exponentials.

    All maxima first: the next row's does not wait for this row's exponentials.
    """
    row = plan.classes * itemsize(T)
    for r in range(n):
        if labels[r] != plan.ignore_index:
            source = at(plan.logits, outer, start + r)
            block = strip_at(T, plan, source, 0, plan.classes, u + r * row)
            set_one(T, rows + MAXIMA * size, r, peak(T, block, plan.classes))
    ahead = plan.block * plan.logits.inner if plan.direct_logits else 0
    for r in range(n):
        if labels[r] != plan.ignore_index:
            source = at(plan.logits, outer, start + r)
            block = strip_at(T, plan, source, 0, plan.classes, u + r * row)
            m = peek(rows + MAXIMA * size + r * itemsize(T), T)
            below, ties = exponentials(T, block, plan.classes, m, w + r * row, ahead)
            set_one(T, rows + OTHERS * size, r, others_of(T, below, ties))


@loop
def weigh_rows(T, plan, outer, start, n, labels, u, rows, size):
    """Target logit and weight of each row of a block; neutral numbers for ignored rows."""
    row = plan.classes * itemsize(T)
    samples(T, plan, outer, start, n, rows + SAMPLES * size)
    copied(T, rows + SAMPLES * size, n, rows + WEIGHTS * size)
    for r in range(n):
        label = labels[r]
        if label == plan.ignore_index:
            set_one(T, rows + SAMPLES * size, r, T(0))
            set_one(T, rows + WEIGHTS * size, r, T(0))
            set_one(T, rows + MAXIMA * size, r, T(0))
            set_one(T, rows + OTHERS * size, r, T(1))
            set_one(T, rows + TARGETS * size, r, T(0))
        else:
            source = at(plan.logits, outer, start + r)
            z = target_logit(T, plan, source, label, u + r * row)
            m = peek(rows + MAXIMA * size + r * itemsize(T), T)
            set_one(T, rows + TARGETS * size, r, z - m)
            if plan.weight != 0:
                weight = peek(plan.weight + label * itemsize(T), T)
                sample = peek(rows + SAMPLES * size + r * itemsize(T), T)
                set_one(T, rows + WEIGHTS * size, r, sample * weight)


@loop
def evaluate_rows(N, T, plan, params, n, rows, size):
    """The rule on the rows of a block, a vector of rows at a time; the sum of their losses."""
    z_loss, scale = T(plan.z_loss), T(plan.scale)
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
def write_row(T, plan, source, grad, hess, label, u, w, row, size, strips):
    """Gradient and Hessian of a settled row."""
    g, h, v = strips
    m, others, k = peek(row, T), peek(row + OTHERS * size, T), peek(row + FACTORS * size, T)
    first, second = peek(row + OWN * size, T), peek(row + BENDS * size, T)
    square, product = peek(row + SQUARES * size, T), peek(row + PRODUCTS * size, T)
    for start in range(0, plan.classes, STRIP):
        n = min(STRIP, plan.classes - start)
        block, e = recall(T, plan, source, start, n, m, u, w)
        hit = start <= label < start + n
        scaled(T, e, n, k, g)
        if hit:
            set_one(T, g, label - start, first)
        if hess != 0:
            curved(T, e, n, others, square, product, h)
            if hit:
                set_one(T, h, label - start, second)
        store_strip(
            T, plan, n,
            grad + start * plan.grad.cls if grad != 0 else 0,
            hess + start * plan.hess.cls if hess != 0 else 0,
            source + start * plan.logits.cls, block, g, h, v,
        )  # fmt: skip


@loop
def write_short(T, plan, outer, start, n, labels, u, w, rows, size):
    """Gradients of whole rows that lie one behind the other; in place, then in one piece.

    With -rest for the target's exponential the gradient is k times what is in scratch. Row by row
    each end would wait for a line from memory: 14 ms instead of 12 for 65536 rows of 1000 classes.
    """
    for r in range(n):
        e = w + r * plan.classes * itemsize(T)
        if labels[r] == plan.ignore_index:
            filled(T, e, plan.classes, T(0))
        else:
            set_one(T, e, labels[r], -peek(rows + RESTS * size + r * itemsize(T), T))
            scaled(T, e, plan.classes, peek(rows + FACTORS * size + r * itemsize(T), T), e)
    write_piece(T, plan, n * plan.classes, w, at(plan.grad, outer, start), u)


@loop
def write_long(T, plan, grad, label, u, w, row, size, tops):
    """The gradient of a row of many strips, each with a maximum of its own."""
    m, k = peek(row, T), peek(row + FACTORS * size, T)
    for s in range(strips_of(plan)):
        start = s * STRIP
        n, e = min(STRIP, plan.classes - start), w + start * itemsize(T)
        scaled(T, e, n, k * shrink(T, peek(tops + s * itemsize(T), T), m), e)
    set_one(T, w, label, peek(row + OWN * size, T))
    write_piece(T, plan, plan.classes, w, grad, u)


@loop
def write_piece(T, plan, n, w, grad, u):
    """n gradients home; those of half precision are rounded in u, where no logits are wanted."""
    past = plan.stream != 0
    if plan.direct_grad:
        put(T, w, n, grad, T(1), past)
    elif past and grad % 2 == 0:
        call7(plan.store_grad, u, 0, plan.grad.cls, 1, n, w, 0)
        put_bytes(u, n * plan.grad.cls, grad)
    else:
        call7(plan.store_grad, grad, 0, plan.grad.cls, 1, n, w, 0)


@loop
def write_rows(T, plan, outer, start, n, labels, u, w, rows, size, strips):
    """Gradients and Hessians of a block of rows, whatever is asked for."""
    row = plan.classes * itemsize(T)
    for r in range(n):
        grad = at(plan.grad, outer, start + r) if plan.grad.address != 0 else 0
        hess = at(plan.hess, outer, start + r) if plan.hess.address != 0 else 0
        if labels[r] == plan.ignore_index:
            zeros(T, plan, grad, hess, strips[0])
        else:
            write_row(
                T, plan, at(plan.logits, outer, start + r), grad, hess, labels[r],
                u + r * row, w + r * row, rows + r * itemsize(T), size, strips,
            )  # fmt: skip


class Whole(NamedTuple):
    """Type tag: gradients of whole rows one behind the other, or nothing but the loss."""


class Pieces(NamedTuple):
    """Type tag: whatever is asked for, strip by strip."""


@loop
def write_whole(T, plan, outer, start, n, labels, u, w, rows, size, strips, tops):
    """The gradients of a block, if wanted."""
    grad = at(plan.grad, outer, start)
    if plan.grad.address != 0:
        if plan.classes <= STRIP:
            write_short(T, plan, outer, start, n, labels, u, w, rows, size)
        elif labels[0] == plan.ignore_index:
            filled(T, w, plan.classes, T(0))
            write_piece(T, plan, plan.classes, w, grad, u)
        else:
            write_long(T, plan, grad, labels[0], u, w, rows, size, tops)


@loop
def write_pieces(T, plan, outer, start, n, labels, u, w, rows, size, strips, tops):
    """Gradients and Hessians of a block, whatever is asked for."""
    if plan.grad.address != 0 or plan.hess.address != 0:
        if plan.classes > STRIP and labels[0] != plan.ignore_index:
            settle(T, plan, peek(rows, T), w, tops)
        write_rows(T, plan, outer, start, n, labels, u, w, rows, size, strips)


def write(way, *block):
    """One of the two; the other is not even compiled."""
    raise NotImplementedError("compiled code only")


@overload(write, jit_options=INLINED)
def _write(way, *block):
    chosen = write_whole if way.instance_class is Whole else write_pieces
    return lambda way, *block: chosen(*block)


@loop
def index_block(N, T, way, plan, params, outer, start, n, labels, u, w, rows, size, strips, tops):
    """The sum of the losses of a block of rows; what is asked for of them is written."""
    load_rows(T, plan, outer, start, n, u)
    if plan.classes <= STRIP:
        read_rows(T, plan, outer, start, n, labels, u, w, rows, size)
    elif labels[0] != plan.ignore_index:
        m, others = fold(T, plan, at(plan.logits, outer, start), u, w, tops)
        set_one(T, rows, 0, m)
        set_one(T, rows + OTHERS * size, 0, others)
    weigh_rows(T, plan, outer, start, n, labels, u, rows, size)
    loss = evaluate_rows(N, T, plan, params, n, rows, size)
    write(way, T, plan, outer, start, n, labels, u, w, rows, size, strips, tops)
    put_losses(plan, outer, start, n, rows + LOSSES * size)
    return loss


def index_rows(Params, T, Lanes, Way):
    """The kernel for class indices: the rule is evaluated once a row."""
    item = np.dtype(T).itemsize

    def index_rows(address, first, last):
        plan = plan_at(address)
        params = params_at(address, Params, T)
        N, way = numbers(Lanes, T), Way()
        block = roomy(plan.block * plan.width) * item
        strip, row = roomy(STRIP) * item, roomy(plan.block) * item
        memory = np.empty(
            2 * block + 3 * strip + ARRAYS * row + roomy(strips_of(plan)) * item + BYTES, np.uint8
        )
        u = line_of(memory)
        g = u + 2 * block
        rows = g + 3 * strip
        labels = np.empty(plan.block, np.int64)
        for b in range(first, last):
            outer, start, stop = rows_of(plan, b)
            load_labels(plan, outer, start, stop - start, labels)
            losses = index_block(
                N, T, way, plan, params, outer, start, stop - start, labels, u, u + block,
                rows, row, (g, g + strip, g + 2 * strip), rows + ARRAYS * row,
            )  # fmt: skip
            put_partial(plan, b, losses)
        memory[0] = 0  # a last use: addresses do not keep it alive

    return index_rows
