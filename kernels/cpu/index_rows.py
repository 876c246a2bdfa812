"""Losses of softmax rows with class indices for targets.

A block is a few rows, and the rule is evaluated for all of them in the lanes of one vector. A row
of more than STRIP classes is a block of its own.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from fusedce.kernels.cpu.blocks import (
    RowRange,
    align_line,
    load_class_indices,
    padded,
    row_address,
    rows_of_block,
    store_losses,
    store_partial_sum,
)
from fusedce.kernels.cpu.kernel_args import args_at, params_at
from fusedce.kernels.cpu.load_store import load, masked_load, store
from fusedce.kernels.cpu.rows import (
    RowOutputs,
    StripScratch,
    load_rows,
    online_softmax,
    rescale_exps,
    rescale_factor,
    store_strip,
    store_zeros,
    strip_logits,
    strip_logits_and_exps,
    strips_per_row,
    sum_minus_1,
)
from fusedce.kernels.cpu.vector_loops import (
    copy,
    exp_and_sum,
    fill,
    loop,
    multiply,
    reduce_max,
    set_at,
    softmax_hessian,
    store_scaled,
    stream_bytes,
)
from fusedce.kernels.intrinsics import call7, peek
from fusedce.kernels.link import softmax_row
from fusedce.kernels.scalar import INLINED, exp_down
from fusedce.kernels.tuning import STRIP
from fusedce.kernels.vector import BYTES, itemsize, numbers, sum_of_lanes, to_float64, width


class RowStats(NamedTuple):
    """Arrays of one number for each row of a block, (block,) T each, one behind the other.

    ``address`` is that of the first array, ``stride`` the bytes from one array to the next;
    array k is at
    ``address + k * stride``, and ``STATS`` holds the k of each.
    """

    address: int
    stride: int


class RowArrays(NamedTuple):
    """Names of the arrays of ``RowStats``, see ``link.softmax_row``."""

    max: int  # of the row's logits
    sum_exp_minus_1: int
    target: int  # logit of the target less the maximum
    weight: int  # sample weight times class weight
    sample_weight: int
    loss: int
    grad_factor: int  # gradient of another class than the target: grad_factor * exp(z - max)
    rest: int  # sum of the exponentials of all classes but the target
    target_grad: int
    square: int  # Hessian of another class: square p**2 + product p (1 - p)
    product: int
    target_hess: int


STATS = RowArrays(*range(len(RowArrays._fields)))  # the index of each array


class BlockScratch(NamedTuple):
    """Addresses of the buffers of a block; C: classes, R: rows."""

    logits: int  # (R, C) T, if they are not read in place; (STRIP,) where a row does not fit
    exps: int  # (R, C) T exp(z - max); (STRIP,) where a row does not fit
    stats: RowStats  # (R,) T each
    strip: StripScratch
    strip_maxima: int  # (strips,) T


@loop
def load_sample_weights(T, args, rows, target):
    """target[:n] <- the sample weight of each row of a block, 1 if there are none."""
    if args.sample_weight.address != 0:
        here = row_address(args.sample_weight, rows.outer, rows.start)
        step = args.sample_weight.inner
        call7(args.load_sample_weight, here, 0, step, 1, rows.n, target, 0)
    else:
        fill(T, target, rows.n, T(1))


@loop
def logit_of_class(T, args, source, label, logits):
    """The transformed logit of one class of a row."""
    return peek(strip_logits(T, args, source, label, 1, logits), T)


@loop
def reduce_rows(T, args, rows, labels, logits, exps, stats):
    """Maximum and sum of exponentials of each row of a block; exps <- exp(z - max).

    The maxima of all rows come first, so that one row's do not wait for another's exponentials.
    """
    address, stride = stats
    row = args.classes * itemsize(T)
    for r in range(rows.n):
        if labels[r] != args.ignore_index:
            source = row_address(args.logits, rows.outer, rows.start + r)
            block = strip_logits(T, args, source, 0, args.classes, logits + r * row)
            set_at(T, address + STATS.max * stride, r, reduce_max(T, block, args.classes))
    ahead = args.block * args.logits.inner if args.direct_logits else 0
    for r in range(rows.n):
        if labels[r] != args.ignore_index:
            source = row_address(args.logits, rows.outer, rows.start + r)
            block = strip_logits(T, args, source, 0, args.classes, logits + r * row)
            row_max = peek(address + STATS.max * stride + r * itemsize(T), T)
            below, count = exp_and_sum(T, block, args.classes, row_max, exps + r * row, ahead)
            set_at(T, address + STATS.sum_exp_minus_1 * stride, r, sum_minus_1(T, below, count))


@loop
def load_targets(T, args, rows, labels, logits, stats):
    """The target's logit and the weights of each row; values without effect for ignored rows."""
    address, stride = stats
    row = args.classes * itemsize(T)
    load_sample_weights(T, args, rows, address + STATS.sample_weight * stride)
    copy(T, address + STATS.sample_weight * stride, rows.n, address + STATS.weight * stride)
    for r in range(rows.n):
        label = labels[r]
        if label == args.ignore_index:
            set_at(T, address + STATS.sample_weight * stride, r, T(0))
            set_at(T, address + STATS.weight * stride, r, T(0))
            set_at(T, address + STATS.max * stride, r, T(0))
            set_at(T, address + STATS.sum_exp_minus_1 * stride, r, T(1))
            set_at(T, address + STATS.target * stride, r, T(0))
        else:
            source = row_address(args.logits, rows.outer, rows.start + r)
            z = logit_of_class(T, args, source, label, logits + r * row)
            row_max = peek(address + STATS.max * stride + r * itemsize(T), T)
            set_at(T, address + STATS.target * stride, r, z - row_max)
            if args.weight != 0:
                weight = peek(args.weight + label * itemsize(T), T)
                sample = peek(address + STATS.sample_weight * stride + r * itemsize(T), T)
                set_at(T, address + STATS.weight * stride, r, sample * weight)


@loop
def evaluate_rows(N, T, args, params, n, stats):
    """The rule on n rows, a vector of rows at a time; returns the sum of their losses."""
    address, stride = stats
    z_loss, scale = T(args.z_loss), T(args.scale)
    losses = to_float64(N(0))
    for r in range(0, n, width(N)):
        here, left = address + r * itemsize(T), n - r
        d = masked_load(here + STATS.target * stride, left, N(0))
        loss, grad_factor, rest, target_grad, square, product, target_hess = softmax_row(
            params,
            d,
            exp_down(d),
            load(N, here + STATS.max * stride),
            masked_load(here + STATS.sum_exp_minus_1 * stride, left, N(1)),
            masked_load(here + STATS.weight * stride, left, N(0)),
            masked_load(here + STATS.sample_weight * stride, left, N(0)),
            z_loss,
            scale,
        )
        losses = losses + to_float64(loss)
        store(here + STATS.loss * stride, loss)
        store(here + STATS.grad_factor * stride, grad_factor)
        store(here + STATS.rest * stride, rest)
        store(here + STATS.target_grad * stride, target_grad)
        store(here + STATS.square * stride, square)
        store(here + STATS.product * stride, product)
        store(here + STATS.target_hess * stride, target_hess)
    return sum_of_lanes(losses)


@loop
def write_row(T, args, source, out, label, logits, exps, stats, strip):
    """Gradient and Hessian of one row, whose numbers are those of ``stats``, strip by strip."""
    address, stride = stats
    row_max, sum_exp_minus_1 = (
        peek(address + STATS.max * stride, T),
        peek(address + STATS.sum_exp_minus_1 * stride, T),
    )
    grad_factor = peek(address + STATS.grad_factor * stride, T)
    target_grad, target_hess = (
        peek(address + STATS.target_grad * stride, T),
        peek(address + STATS.target_hess * stride, T),
    )
    square, product = (
        peek(address + STATS.square * stride, T),
        peek(address + STATS.product * stride, T),
    )
    for start in range(0, args.classes, STRIP):
        n = min(STRIP, args.classes - start)
        block, e = strip_logits_and_exps(T, args, source, start, n, row_max, logits, exps)
        has_target = start <= label < start + n
        multiply(T, e, n, grad_factor, strip.grad)
        if has_target:
            set_at(T, strip.grad, label - start, target_grad)
        if out.hess != 0:
            softmax_hessian(T, e, n, sum_exp_minus_1, square, product, strip.hess)
            if has_target:
                set_at(T, strip.hess, label - start, target_hess)
        here = RowOutputs(
            out.grad + start * args.grad.cls if out.grad != 0 else 0,
            out.hess + start * args.hess.cls if out.hess != 0 else 0,
        )
        store_strip(
            T, args, n, here, source + start * args.logits.cls, block,
            strip,
        )  # fmt: skip


@loop
def write_short_rows(T, args, rows, labels, logits, exps, stats):
    """The gradients of whole rows that are contiguous in memory, computed in place of ``exps``.

    With -rest for the exponential of the target, the gradient is grad_factor times what is in
    ``exps``. It is stored in one piece: stored row by row, both ends of a row would wait for a
    cache line from memory, 14 ms instead of 12 for 65536 rows of 1000 classes.
    """
    address, stride = stats
    for r in range(rows.n):
        e = exps + r * args.classes * itemsize(T)
        if labels[r] == args.ignore_index:
            fill(T, e, args.classes, T(0))
        else:
            set_at(T, e, labels[r], -peek(address + STATS.rest * stride + r * itemsize(T), T))
            multiply(
                T,
                e,
                args.classes,
                peek(address + STATS.grad_factor * stride + r * itemsize(T), T),
                e,
            )
    there = row_address(args.grad, rows.outer, rows.start)
    store_contiguous(T, args, rows.n * args.classes, exps, there, logits)


@loop
def write_long_row(T, args, grad, label, logits, exps, stats, strip_maxima):
    """The gradient of a row of several strips, whose exponentials are by the maxima of strips."""
    address, stride = stats
    row_max, grad_factor = (
        peek(address + STATS.max * stride, T),
        peek(address + STATS.grad_factor * stride, T),
    )
    for s in range(strips_per_row(args)):
        start = s * STRIP
        n, e = min(STRIP, args.classes - start), exps + start * itemsize(T)
        multiply(
            T,
            e,
            n,
            grad_factor * rescale_factor(T, peek(strip_maxima + s * itemsize(T), T), row_max),
            e,
        )
    set_at(T, exps, label, peek(address + STATS.target_grad * stride, T))
    store_contiguous(T, args, args.classes, exps, grad, logits)


@loop
def store_contiguous(T, args, n, source, grad, scratch):
    """Store n gradients that are contiguous; 16-bit ones are rounded in ``scratch`` first."""
    streaming = args.stream != 0
    if args.direct_grad:
        store_scaled(T, source, n, grad, T(1), streaming)
    elif streaming and grad % 2 == 0:
        call7(args.store_grad, scratch, 0, args.grad.cls, 1, n, source, 0)
        stream_bytes(scratch, n * args.grad.cls, grad)
    else:
        call7(args.store_grad, grad, 0, args.grad.cls, 1, n, source, 0)


@loop
def write_rows(T, args, rows, labels, logits, exps, stats, strip):
    """Gradients and Hessians of a block of rows, those that are wanted."""
    row = args.classes * itemsize(T)
    for r in range(rows.n):
        out = RowOutputs(
            row_address(args.grad, rows.outer, rows.start + r) if args.grad.address != 0 else 0,
            row_address(args.hess, rows.outer, rows.start + r) if args.hess.address != 0 else 0,
        )
        if labels[r] == args.ignore_index:
            store_zeros(T, args, out, strip.grad)
        else:
            write_row(
                T, args, row_address(args.logits, rows.outer, rows.start + r), out, labels[r],
                logits + r * row, exps + r * row,
                RowStats(stats.address + r * itemsize(T), stats.stride), strip,
            )  # fmt: skip


class ContiguousGrad(NamedTuple):
    """Type tag: gradients of rows that are contiguous in memory and no Hessian, or no gradient."""


class AnyOutputs(NamedTuple):
    """Type tag: gradients and Hessians of any layout, strip by strip."""


@loop
def write_contiguous(T, args, rows, labels, scratch):
    """The gradients of a block, if wanted, contiguous in memory."""
    logits, exps, stats, strip, strip_maxima = scratch
    grad = row_address(args.grad, rows.outer, rows.start)
    if args.grad.address != 0:
        if args.classes <= STRIP:
            write_short_rows(T, args, rows, labels, logits, exps, stats)
        elif labels[0] == args.ignore_index:
            fill(T, exps, args.classes, T(0))
            store_contiguous(T, args, args.classes, exps, grad, logits)
        else:
            write_long_row(T, args, grad, labels[0], logits, exps, stats, strip_maxima)


@loop
def write_any(T, args, rows, labels, scratch):
    """Gradients and Hessians of a block, those that are wanted, of any layout."""
    logits, exps, stats, strip, strip_maxima = scratch
    if args.grad.address != 0 or args.hess.address != 0:
        if args.classes > STRIP and labels[0] != args.ignore_index:
            rescale_exps(T, args, peek(stats.address, T), exps, strip_maxima)
        write_rows(T, args, rows, labels, logits, exps, stats, strip)


def write(outputs, *block):
    """``write_contiguous`` or ``write_any``, by type tag: the other one is not compiled."""
    raise NotImplementedError("compiled code only")


@overload(write, jit_options=INLINED)
def _write(outputs, *block):
    chosen = write_contiguous if outputs.instance_class is ContiguousGrad else write_any
    return lambda outputs, *block: chosen(*block)


@loop
def index_block(N, T, outputs, args, params, rows, labels, scratch):
    """Store the losses, gradients and Hessians of a block of rows; returns the sum of its losses.

    labels: int64 array of the class indices of the rows; scratch: ``BlockScratch``.
    """
    logits, exps, stats, strip, strip_maxima = scratch
    address, stride = stats
    # 1. Pack and transform the logits, unless they are read in place.
    load_rows(T, args, rows.outer, rows.start, rows.n, logits)
    # 2. Maximum and sum of exponentials of each row.
    if args.classes <= STRIP:
        reduce_rows(T, args, rows, labels, logits, exps, stats)
    elif labels[0] != args.ignore_index:
        source = row_address(args.logits, rows.outer, rows.start)
        found = online_softmax(T, args, source, logits, exps, strip_maxima)
        set_at(T, address + STATS.max * stride, 0, found.max)
        set_at(T, address + STATS.sum_exp_minus_1 * stride, 0, found.sum_exp_minus_1)
    # 3. The target's logit and the weights of each row.
    load_targets(T, args, rows, labels, logits, stats)
    # 4. The rule: losses, and what the derivatives of each row are made of.
    loss = evaluate_rows(N, T, args, params, rows.n, stats)
    # 5. Gradients and Hessians.
    write(outputs, T, args, rows, labels, scratch)
    # 6. Losses of the rows, if they are not reduced.
    store_losses(args, rows, address + STATS.loss * stride)
    return loss


def index_rows(Params, T, Lanes, Outputs):
    """The kernel for class indices: blocks of rows, the rule evaluated once for each row.

    Params: the rule's NamedTuple; T: the compute dtype; Lanes: ``Wide`` or ``Single``; Outputs:
    ``ContiguousGrad`` or ``AnyOutputs``.
    """
    item = np.dtype(T).itemsize

    def index_rows(address, first, last):
        args = args_at(address)
        params = params_at(address, Params, T)
        N, outputs = numbers(Lanes, T), Outputs()
        # 1. Allocate the scratch memory, used for one block after the other.
        block = padded(args.block * args.width) * item
        strip, row = padded(STRIP) * item, padded(args.block) * item
        memory = np.empty(
            2 * block + 3 * strip + len(STATS) * row + padded(strips_per_row(args)) * item + BYTES,
            np.uint8,
        )
        logits = align_line(memory)
        grad = logits + 2 * block
        stats = grad + 3 * strip
        labels = np.empty(args.block, np.int64)
        for b in range(first, last):
            # 2. Load the labels of the block.
            outer, start, stop = rows_of_block(args, b)
            rows = RowRange(outer, start, stop - start)
            load_class_indices(args, rows, labels)
            # 3. Compute and store everything but the sum of losses.
            scratch = BlockScratch(
                logits, logits + block, RowStats(stats, row),
                StripScratch(grad, grad + strip, grad + 2 * strip), stats + len(STATS) * row,
            )  # fmt: skip
            losses = index_block(N, T, outputs, args, params, rows, labels, scratch)
            # 4. The block's part of the reduced loss.
            store_partial_sum(args, b, losses)
        memory[0] = 0  # the last use of memory: addresses alone do not keep it allocated

    return index_rows
