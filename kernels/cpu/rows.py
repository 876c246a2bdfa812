"""Softmax over rows whose classes are contiguous: one row at a time, STRIP classes at a time.

The logits of a row are read once, its exponentials stay in scratch memory (in the cache) between
the reduction and the gradient, and the gradient is written once. Rows of more than ``args.width``
classes are too long for that: their logits are read again and the exponentials recomputed.
"""

from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels.cpu.blocks import load_strip, load_strip_slopes, row_address
from fusedce.kernels.cpu.vector_loops import (
    array_max,
    chain_transform,
    exp_and_sum,
    fill,
    loop,
    multiply,
    set_at,
    store_scaled,
    stream_bytes,
    transform_logits,
)
from fusedce.kernels.intrinsics import call7, peek
from fusedce.kernels.scalar import exp_down
from fusedce.kernels.tuning import STRIP
from fusedce.kernels.vector import lane_bytes


class RowSoftmax(NamedTuple):
    """The maximum of a row's logits, and the sum of exp(z - maximum) less 1, both of type T."""

    max: Any
    sum_exp_minus_1: Any


class StripScratch(NamedTuple):
    """Addresses of buffers for the results of a strip: (STRIP,) T each."""

    grad: int
    hess: int
    slopes: int  # of the softcap; gradients rounded to 16 bits use the same memory


class RowOutputs(NamedTuple):
    """Addresses of the caller's gradient and Hessian of a row; 0: not wanted."""

    grad: int
    hess: int


@loop
def strips_per_row(args):
    """The number of strips of a row."""
    return (args.classes + STRIP - 1) // STRIP


@loop
def rescale_factor(T, old_max, new_max):
    """exp(old_max - new_max), the difference not rounded; 0 for a strip that is all -inf."""
    return T(exp_down(np.float64(old_max) - np.float64(new_max)))


@loop
def row_fits(args):
    """Whether the logits and exponentials of a whole row stay in scratch memory."""
    return args.classes <= args.width


@loop
def row_outputs(args, outer, inner):
    """The addresses of the gradient and Hessian of row (outer, inner)."""
    return RowOutputs(
        row_address(args.grad, outer, inner) if args.grad.address != 0 else 0,
        row_address(args.hess, outer, inner) if args.hess.address != 0 else 0,
    )


@loop
def outputs_from(args, out, start):
    """The addresses of the gradient and Hessian of a row from class ``start`` on."""
    return RowOutputs(
        out.grad + start * args.grad.cls if out.grad != 0 else 0,
        out.hess + start * args.hess.cls if out.hess != 0 else 0,
    )


@loop
def load_rows(T, args, outer, start, n, logits):
    """logits <- the transformed logits of n rows, unless they are read in place or do not fit.

    logits: address of (n, classes) T.
    """
    if not args.direct_logits and row_fits(args):
        here = row_address(args.logits, outer, start)
        call7(
            args.load_logits, here, args.logits.inner, args.logits.cls, n, args.classes, logits, 0
        )
        if args.softcap > 0.0 or args.logit_scale != 1.0:
            transform_logits(T, logits, n * args.classes, T(args.logit_scale), T(args.softcap))


@loop
def strip_logits(T, args, source, start, n, logits):
    """The address of the n transformed logits of a row from class ``start`` on.

    source: address of the row in the caller's array; logits: that of the row in scratch memory,
    which ``load_rows`` has filled if the row fits.
    """
    if args.direct_logits:
        return source + start * lane_bytes(T)
    if row_fits(args):
        return logits + start * lane_bytes(T)
    return load_strip(T, args, source + start * args.logits.cls, n, logits)


@loop
def sum_minus_1(T, sum_below_max, n_at_max):
    """The sum of exponentials less 1; NaN for a row without a maximum: all -inf (or NaN)."""
    return T(sum_below_max + (n_at_max - 1.0)) if n_at_max > 0 else T(np.nan)


@loop
def online_softmax(T, args, source, logits, exps, strip_maxima):
    """The maximum of a row and its sum of exponentials less 1, in one pass over the row.

    exps <- exp(z - strip_max), each strip with its own maximum, if the row fits in scratch memory.
    logits, exps: addresses of (classes,) T, or of (STRIP,) T where the row does not fit.
    strip_maxima: address of (strips,) T.
    """
    row_max = T(-np.finfo(T).max)
    sum_below_max, n_at_max = 0.0, 0
    for s in range(strips_per_row(args)):
        # 1. The maximum and the sum of exponentials of the strip.
        start = s * STRIP
        n = min(STRIP, args.classes - start)
        block = strip_logits(T, args, source, start, n, logits)
        strip_max = array_max(T, block, n)
        e = exps + start * lane_bytes(T) if row_fits(args) else exps
        strip_sum, strip_n = exp_and_sum(T, block, n, strip_max, e, n * lane_bytes(T))
        # 2. A new maximum: the sum so far is rescaled to it.
        if strip_max > row_max:
            factor = np.float64(rescale_factor(np.float64, row_max, strip_max))
            sum_below_max, n_at_max = (sum_below_max + n_at_max) * factor, 0
            row_max = strip_max
        # 3. Add the strip's sum, rescaled if its maximum is the smaller one.
        if strip_max < row_max:
            factor = np.float64(rescale_factor(np.float64, strip_max, row_max))
            sum_below_max += (strip_sum + strip_n) * factor
        else:
            sum_below_max += strip_sum
            n_at_max += strip_n
        set_at(T, strip_maxima, s, strip_max)
    return RowSoftmax(row_max, sum_minus_1(T, sum_below_max, n_at_max))


@loop
def rescale_exps(T, args, row_max, exps, strip_maxima):
    """exps <- exp(z - row_max), where strips have another maximum; for rows that fit."""
    for s in range(strips_per_row(args) if row_fits(args) else 0):
        strip_max = peek(strip_maxima + s * lane_bytes(T), T)
        if strip_max != row_max:
            e = exps + s * STRIP * lane_bytes(T)
            n = min(STRIP, args.classes - s * STRIP)
            multiply(T, e, n, rescale_factor(T, strip_max, row_max), e)


@loop
def strip_logits_and_exps(T, args, source, start, n, row_max, logits, exps):
    """The addresses of the n logits and the exponentials exp(z - row_max) from class start on.

    Both are computed again for a row that does not fit in scratch memory.
    """
    block = strip_logits(T, args, source, start, n, logits)
    if row_fits(args):
        return block, exps + start * lane_bytes(T)
    exp_and_sum(T, block, n, row_max, exps, 0)
    return block, exps


@loop
def store_strip(T, args, n, out, source, logits, strip):
    """The chain rule through scale and softcap, then store n gradients and Hessians.

    out: addresses of the n results in the caller's arrays; source: that of the n logits there;
    logits: that of the transformed logits; strip: the results by the transformed logits.
    """
    grad, hess = strip.grad, strip.hess
    scale, softcap = T(args.logit_scale), T(args.softcap)
    # 1. Derivatives by the logits as the caller has them.
    if args.softcap > 0.0:
        load_strip_slopes(T, args, source, n, strip.slopes)
        chain_transform(
            T, n, grad, hess if out.hess != 0 else 0, logits, strip.slopes, scale, softcap
        )
    elif args.logit_scale != 1.0:
        multiply(T, grad, n, scale, grad)
        if out.hess != 0:
            multiply(T, hess, n, scale * scale, hess)
    # 2. Store the gradient.
    if out.grad != 0:
        if args.direct_grad:
            store_scaled(T, grad, n, out.grad, T(1), args.stream != 0)
        elif args.stream and out.grad % 2 == 0:  # 16 bits: rounded in scratch memory first
            call7(args.store_grad, strip.slopes, 0, args.grad.cls, 1, n, grad, 0)
            stream_bytes(strip.slopes, n * args.grad.cls, out.grad)
        else:
            call7(args.store_grad, out.grad, 0, args.grad.cls, 1, n, grad, 0)
    # 3. Store the Hessian.
    if out.hess != 0:
        call7(args.store_hess, out.hess, 0, args.hess.cls, 1, n, hess, 0)


@loop
def store_zeros(T, args, out, scratch):
    """Gradient and Hessian of an ignored row <- 0; scratch: address of (STRIP,) T."""
    fill(T, scratch, min(STRIP, args.classes), T(0))
    for start in range(0, args.classes, STRIP):
        n = min(STRIP, args.classes - start)
        if out.grad != 0:
            step = args.grad.cls
            if args.direct_grad:
                store_scaled(T, scratch, n, out.grad + start * step, T(1), False)
            else:
                call7(args.store_grad, out.grad + start * step, 0, step, 1, n, scratch, 0)
        if out.hess != 0:
            step = args.hess.cls
            call7(args.store_hess, out.hess + start * step, 0, step, 1, n, scratch, 0)
