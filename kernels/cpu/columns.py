"""Tiles: the classes of ``args.block`` neighbouring rows, class by class.

So that a vector holds one class of many rows and nothing is added up across lanes: for rows too
short for a vector, and where the class axis is not the last. A row loop over 10 classes would run
at a seventh of this speed.
"""

import numpy as np

from fusedce.kernels.cpu.blocks import at, padded
from fusedce.kernels.cpu.load_store import load, store
from fusedce.kernels.cpu.vector_loops import (
    cap_slopes,
    capped,
    chained,
    copied,
    filled,
    fmax,
    loop,
    put,
    scaled,
)
from fusedce.kernels.intrinsics import call7
from fusedce.kernels.scalar import exp_down, where
from fusedce.kernels.vector import from_float64, itemsize, to_float64

GROUP = 16  # classes added up in the compute dtype before a lane's sum goes on in float64


@loop
def tile_size(args):
    """Elements of a tile; its rows of scratch are ``args.block`` long, in whole vectors."""
    return padded(args.classes * args.block)


@loop
def load_tile(T, args, view, packer, outer, start, n, tile):
    """The classes of n rows, class by class; zeros in the lanes behind them."""
    if n < args.block:
        filled(T, tile, args.classes * args.block, T(0))
    call7(packer, at(view, outer, start), view.cls, view.inner, args.classes, n, tile, args.block)


@loop
def load_line(T, args, view, packer, outer, start, n, line, nothing):
    """A number for each of n rows, ``nothing`` where the caller has none and behind them."""
    if view.address == 0 or n < args.block:
        filled(T, line, args.block, T(nothing))
    if view.address != 0:
        call7(packer, at(view, outer, start), 0, view.inner, 1, n, line, 0)


@loop
def load_logits(T, args, outer, start, n, tile, slopes):
    """A tile of logits, capped; ``slopes`` gets theirs if there is a softcap."""
    scale, softcap, size = T(args.logit_scale), T(args.softcap), args.classes * args.block
    load_tile(T, args, args.logits, args.load_logits, outer, start, n, tile)
    if softcap > T(0):
        copied(T, tile, size, slopes)
        cap_slopes(T, slopes, size, scale, softcap)
    if softcap > T(0) or scale != T(1):
        capped(T, tile, size, scale, softcap)


@loop
def online_softmax_lanes(N, T, args, label, u, w, step):
    """(maximum, sum of exponentials - 1, d and exp(d) of the target) of a vector of rows.

    d = z - maximum; w <- the exponentials. Without a target d = 0.
    """
    m = N(-np.finfo(T).max)
    for j in range(args.classes):
        m = fmax(m, load(N, u + j * step))
    below, ties, target, own = N(0), N(0), N(0), N(1)
    sums = to_float64(N(0))
    for j in range(args.classes):
        d = load(N, u + j * step) - m
        e = exp_down(d)
        store(w + j * step, e)
        top = d >= N(0)
        below = where(top, below, below + e)
        ties = where(top, ties + N(1), ties)
        hit = label == T(j)
        target, own = where(hit, d, target), where(hit, e, own)
        if j % GROUP == GROUP - 1:
            sums = sums + to_float64(below)
            below = N(0)
    others = below + (ties - N(1))
    if args.classes >= GROUP:
        others = from_float64(N, sums + to_float64(others))
    # No class at the maximum: the row is all -inf (or NaN).
    return m, where(ties > N(0), others, N(np.nan)), target, own


@loop
def finish_tile(T, args, outer, start, n, capped, slopes, g, h):
    """The chain rule through scale and softcap, then the stores; ``capped`` is free after that."""
    scale, softcap, size = T(args.logit_scale), T(args.softcap), args.classes * args.block
    if softcap > T(0):
        chained(T, size, g, h, capped, slopes, scale, softcap)
    elif scale != T(1):
        scaled(T, g, size, scale, g)
        if h != 0:
            scaled(T, h, size, scale * scale, h)
    if args.grad.address != 0:
        store_gradient(T, args, outer, start, n, g, capped)
    if args.hess.address != 0:
        here, view = at(args.hess, outer, start), args.hess
        call7(args.store_hess, here, view.cls, view.inner, args.classes, n, h, args.block)


@loop
def store_gradient(T, args, outer, start, n, g, scratch):
    """A tile of gradients home: past the caches where its rows or its classes lie close together.

    Rows one behind the other are put together in scratch first.
    """
    here, view, item = at(args.grad, outer, start), args.grad, itemsize(T)
    if args.adjacent:
        row = args.classes * item
        call7(args.store_grad, scratch, item, row, args.classes, n, g, args.block)
        put(T, scratch, n * args.classes, here, T(1), True)
    elif args.stream and args.direct_grad:
        for j in range(args.classes):
            put(T, g + j * args.block * item, n, here + j * view.cls, T(1), True)
    else:
        call7(args.store_grad, here, view.cls, view.inner, args.classes, n, g, args.block)
