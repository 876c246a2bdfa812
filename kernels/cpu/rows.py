"""Softmax rows: the class axis lies close together, one row at a time, strip by strip.

A row is read once, its exponentials wait in scratch (in the cache), the gradient is written once.
Rows wider than ``args.width`` do not wait: they are read again.
"""

import numpy as np

from fusedce.kernels.cpu.blocks import (
    at,
    logits_block,
    slopes_block,
)
from fusedce.kernels.cpu.vector_loops import (
    capped,
    chained,
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
from fusedce.kernels.scalar import exp_down
from fusedce.kernels.tuning import STRIP
from fusedce.kernels.vector import itemsize


@loop
def strips_of(args):
    """Strips of a row."""
    return (args.classes + STRIP - 1) // STRIP


@loop
def shrink(T, top, m):
    """exp(top - m), the difference without rounding; 0 for a strip of nothing but -inf."""
    return T(exp_down(np.float64(top) - np.float64(m)))


@loop
def kept(args):
    """Whether the exponentials of a whole row stay in scratch."""
    return args.classes <= args.width


@loop
def load_rows(T, args, outer, start, n, u):
    """The logits of n rows into scratch, capped, unless they are read where they lie."""
    if not args.direct_logits and kept(args):
        here = at(args.logits, outer, start)
        call7(args.load_logits, here, args.logits.inner, args.logits.cls, n, args.classes, u, 0)
        if args.softcap > 0.0 or args.logit_scale != 1.0:
            capped(T, u, n * args.classes, T(args.logit_scale), T(args.softcap))


@loop
def strip_at(T, args, source, start, n, u):
    """Where n logits of a row are; ``load_rows`` has been there."""
    if args.direct_logits:
        return source + start * itemsize(T)
    if kept(args):
        return u + start * itemsize(T)
    return logits_block(T, args, source + start * args.logits.cls, n, u)


@loop
def others_of(T, below, ties):
    """The sum of exponentials - 1; NaN without a class at the maximum: all are -inf (or NaN)."""
    return T(below + (ties - 1.0)) if ties > 0 else T(np.nan)


@loop
def online_softmax(T, args, source, u, w, tops):
    """(maximum, sum of exponentials - 1) of a row.

    w gets exp(z - top) by strips, each with its own maximum in ``tops``, if they are to be kept.
    """
    m = T(-np.finfo(T).max)
    below, ties = 0.0, 0
    for s in range(strips_of(args)):
        start = s * STRIP
        n = min(STRIP, args.classes - start)
        block = strip_at(T, args, source, start, n, u)
        top = reduce_max(T, block, n)
        e = w + start * itemsize(T) if kept(args) else w
        b, t = exponentials(T, block, n, top, e, n * itemsize(T))
        if top > m:
            below, ties = (below + ties) * np.float64(shrink(np.float64, m, top)), 0
            m = top
        if top < m:
            below += (b + t) * np.float64(shrink(np.float64, top, m))
        else:
            below += b
            ties += t
        set_one(T, tops, s, top)
    return m, others_of(T, below, ties)


@loop
def settle(T, args, m, w, tops):
    """w <- exp(z - m), where strips have other maxima."""
    for s in range(strips_of(args) if kept(args) else 0):
        top = peek(tops + s * itemsize(T), T)
        if top != m:
            e = w + s * STRIP * itemsize(T)
            scaled(T, e, min(STRIP, args.classes - s * STRIP), shrink(T, top, m), e)


@loop
def reload(T, args, source, start, n, m, u, w):
    """(logits, exponentials) of a strip of a settled row; computed again if they were not kept."""
    block = strip_at(T, args, source, start, n, u)
    if kept(args):
        return block, w + start * itemsize(T)
    exponentials(T, block, n, m, w, 0)
    return block, w


@loop
def store_strip(T, args, n, grad, hess, source, u, g, h, v):
    """The chain rule through scale and softcap, then n results home from g and h."""
    scale, softcap = T(args.logit_scale), T(args.softcap)
    if args.softcap > 0.0:
        slopes_block(T, args, source, n, v)
        chained(T, n, g, h if hess != 0 else 0, u, v, scale, softcap)
    elif args.logit_scale != 1.0:
        scaled(T, g, n, scale, g)
        if hess != 0:
            scaled(T, h, n, scale * scale, h)
    if grad != 0:
        if args.direct_grad:
            put(T, g, n, grad, T(1), args.stream != 0)
        elif args.stream and grad % 2 == 0:  # half precision: rounded in scratch first
            call7(args.store_grad, v, 0, args.grad.cls, 1, n, g, 0)
            put_bytes(v, n * args.grad.cls, grad)
        else:
            call7(args.store_grad, grad, 0, args.grad.cls, 1, n, g, 0)
    if hess != 0:
        call7(args.store_hess, hess, 0, args.hess.cls, 1, n, h, 0)


@loop
def zeros(T, args, grad, hess, g):
    """An ignored row is written, never skipped."""
    filled(T, g, min(STRIP, args.classes), T(0))
    for start in range(0, args.classes, STRIP):
        n = min(STRIP, args.classes - start)
        if grad != 0:
            step = args.grad.cls
            if args.direct_grad:
                put(T, g, n, grad + start * step, T(1), False)
            else:
                call7(args.store_grad, grad + start * step, 0, step, 1, n, g, 0)
        if hess != 0:
            step = args.hess.cls
            call7(args.store_hess, hess + start * step, 0, step, 1, n, g, 0)
