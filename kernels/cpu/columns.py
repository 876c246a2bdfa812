"""Tiles: the classes of ``plan.block`` neighbouring rows, class by class.

So that a vector holds one class of many rows and nothing is added up across lanes: for rows too
short for a vector, and where the class axis is not the last. A row loop over 10 classes would run
at a seventh of this speed.
"""

import numpy as np

from fusedce.kernels.cpu.blocks import at, roomy
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
def tile_size(plan):
    """Elements of a tile; its rows of scratch are ``plan.block`` long, in whole vectors."""
    return roomy(plan.classes * plan.block)


@loop
def load_tile(T, plan, view, mover, outer, start, n, tile):
    """The classes of n rows, class by class; zeros in the lanes behind them."""
    if n < plan.block:
        filled(T, tile, plan.classes * plan.block, T(0))
    call7(mover, at(view, outer, start), view.cls, view.inner, plan.classes, n, tile, plan.block)


@loop
def load_line(T, plan, view, mover, outer, start, n, line, nothing):
    """A number for each of n rows, ``nothing`` where the caller has none and behind them."""
    if view.address == 0 or n < plan.block:
        filled(T, line, plan.block, T(nothing))
    if view.address != 0:
        call7(mover, at(view, outer, start), 0, view.inner, 1, n, line, 0)


@loop
def load_logits(T, plan, outer, start, n, tile, slopes):
    """A tile of logits, capped; ``slopes`` gets theirs if there is a softcap."""
    scale, softcap, size = T(plan.logit_scale), T(plan.softcap), plan.classes * plan.block
    load_tile(T, plan, plan.logits, plan.load_logits, outer, start, n, tile)
    if softcap > T(0):
        copied(T, tile, size, slopes)
        cap_slopes(T, slopes, size, scale, softcap)
    if softcap > T(0) or scale != T(1):
        capped(T, tile, size, scale, softcap)


@loop
def fold_lanes(N, T, plan, label, u, w, step):
    """(maximum, sum of exponentials - 1, d and exp(d) of the target) of a vector of rows.

    d = z - maximum; w <- the exponentials. Without a target d = 0.
    """
    m = N(-np.finfo(T).max)
    for j in range(plan.classes):
        m = fmax(m, load(N, u + j * step))
    below, ties, target, own = N(0), N(0), N(0), N(1)
    sums = to_float64(N(0))
    for j in range(plan.classes):
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
    if plan.classes >= GROUP:
        others = from_float64(N, sums + to_float64(others))
    # No class at the maximum: the row is all -inf (or NaN).
    return m, where(ties > N(0), others, N(np.nan)), target, own


@loop
def finish_tile(T, plan, outer, start, n, capped, slopes, g, h):
    """The chain rule through scale and softcap, then the stores; ``capped`` is free after that."""
    scale, softcap, size = T(plan.logit_scale), T(plan.softcap), plan.classes * plan.block
    if softcap > T(0):
        chained(T, size, g, h, capped, slopes, scale, softcap)
    elif scale != T(1):
        scaled(T, g, size, scale, g)
        if h != 0:
            scaled(T, h, size, scale * scale, h)
    if plan.grad.address != 0:
        store_gradient(T, plan, outer, start, n, g, capped)
    if plan.hess.address != 0:
        here, view = at(plan.hess, outer, start), plan.hess
        call7(plan.store_hess, here, view.cls, view.inner, plan.classes, n, h, plan.block)


@loop
def store_gradient(T, plan, outer, start, n, g, scratch):
    """A tile of gradients home: past the caches where its rows or its classes lie close together.

    Rows one behind the other are put together in scratch first.
    """
    here, view, item = at(plan.grad, outer, start), plan.grad, itemsize(T)
    if plan.adjacent:
        row = plan.classes * item
        call7(plan.store_grad, scratch, item, row, plan.classes, n, g, plan.block)
        put(T, scratch, n * plan.classes, here, T(1), True)
    elif plan.stream and plan.direct_grad:
        for j in range(plan.classes):
            put(T, g + j * plan.block * item, n, here + j * view.cls, T(1), True)
    else:
        call7(plan.store_grad, here, view.cls, view.inner, plan.classes, n, g, plan.block)
