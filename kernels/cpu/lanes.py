"""Tiles and lanes: what the softmax kernels with rows in the lanes share.

A tile holds the classes of ``plan.block`` neighbouring rows, class by class, so that every inner
loop runs over rows. A row loop over 10 classes would run at a seventh of this speed.
"""

import numpy as np

from fusedce.kernels.cpu.blocks import (
    address_of,
    array_at,
    at,
    cap,
    cap_slope,
    copied,
    line_of,
    loop,
)
from fusedce.kernels.cpu.machine import call7
from fusedce.kernels.cpu.rows import chained, scaled
from fusedce.kernels.scalar import choose, exp_down

GROUP = 16  # classes added up in the compute dtype before a lane's sum goes on in float64
LANE_ARRAYS = 16
TILES = 6


@loop
def lane_peak(u, m):
    """m <- max(m, u); NaN is left to the sum."""
    for r in range(m.size):
        m[r] = choose(u[r] > m[r], u[r], m[r])


@loop
def lane_exponentials(u, m, w, below, ties):
    """w <- exp(u - m), added to ``below`` under the maximum, to ``ties`` at it."""
    T = u.dtype.type
    for r in range(m.size):
        d = u[r] - m[r]
        e = exp_down(d)
        w[r] = e
        under = choose(d >= T(0), T(0), e)
        below[r] += under
        ties[r] += e - under


@loop
def flush(below, wide):
    """wide <- wide + below, below <- 0."""
    for r in range(below.size):
        wide[r] += np.float64(below[r])
        below[r] = 0


@loop
def load_tile(plan, view, mover, outer, start, n, tile):
    """The classes of n rows, class by class."""
    here = at(view, outer, start)
    call7(mover, here, view.cls, view.inner, plan.classes, n, address_of(tile), 0)


@loop
def store_tile(plan, view, mover, outer, start, n, tile):
    """A tile back into an array."""
    here = at(view, outer, start)
    call7(mover, here, view.cls, view.inner, plan.classes, n, address_of(tile), 0)


@loop
def fold_tile(plan, u, w, m, below, ties, wide, others):
    """w <- exponentials of a tile; the maximum of each lane and the sum of its others."""
    T = u.dtype.type
    n = m.size
    m[:] = T(-np.finfo(T).max)
    below[:] = 0
    ties[:] = 0
    wide[:] = 0
    for j in range(plan.classes):
        lane_peak(u[j * n : (j + 1) * n], m)
    for j in range(plan.classes):
        lane_exponentials(u[j * n : (j + 1) * n], m, w[j * n : (j + 1) * n], below, ties)
        if j % GROUP == GROUP - 1:
            flush(below, wide)
    flush(below, wide)
    for r in range(n):
        # No class at the maximum: the row is all -inf (or NaN).
        rest = T(wide[r] + (np.float64(ties[r]) - 1.0))
        others[r] = choose(ties[r] > T(0), rest, T(np.nan))


@loop
def lane_sample(plan, outer, start, sample):
    """The sample weight of each lane, 1 if there are none."""
    sample[:] = 1
    if plan.sample_weight.address != 0:
        here, step = at(plan.sample_weight, outer, start), plan.sample_weight.inner
        call7(plan.load_sample_weight, here, 0, step, 1, sample.size, address_of(sample), 0)


@loop
def silence(labels, ignore_index, classes, tile):
    """Zeros in the lanes of ignored rows, whatever their logits were."""
    n = labels.size
    for r in range(n):
        if labels[r] == ignore_index:
            for j in range(classes):
                tile[j * n + r] = 0


@loop
def lanes(memory, n):
    """Sixteen lane arrays in one piece of memory, uncounted: see ``array_at``."""
    here, step, dtype = address_of(memory), n * memory.itemsize, memory.dtype
    return (
        (
            array_at(here, n, dtype),
            array_at(here + step, n, dtype),
            array_at(here + 2 * step, n, dtype),
            array_at(here + 3 * step, n, dtype),
            array_at(here + 4 * step, n, dtype),
            array_at(here + 5 * step, n, dtype),
            array_at(here + 6 * step, n, dtype),
            array_at(here + 7 * step, n, dtype),
        ),
        (
            array_at(here + 8 * step, n, dtype),
            array_at(here + 9 * step, n, dtype),
            array_at(here + 10 * step, n, dtype),
            array_at(here + 11 * step, n, dtype),
            array_at(here + 12 * step, n, dtype),
            array_at(here + 13 * step, n, dtype),
            array_at(here + 14 * step, n, dtype),
            array_at(here + 15 * step, n, dtype),
        ),
    )


@loop
def tiles_of(memory, size, curved):
    """Six tiles in one piece of memory; the last two are empty unless a Hessian is wanted."""
    here, step, dtype = line_of(memory), size * memory.itemsize, memory.dtype
    return (
        array_at(here, size, dtype),
        array_at(here + step, size, dtype),
        array_at(here + 2 * step, size, dtype),
        array_at(here + 3 * step, size, dtype),
        array_at(here + 4 * step, size if curved else 0, dtype),
        array_at(here + 5 * step, size if curved else 0, dtype),
    )


@loop
def load_logits(plan, outer, start, n, tile, raw):
    """A tile of logits, capped; ``raw`` gets their slopes if there is a softcap."""
    T = tile.dtype.type
    scale, softcap = T(plan.logit_scale), T(plan.softcap)
    load_tile(plan, plan.logits, plan.load_logits, outer, start, n, tile)
    if softcap > T(0):
        copied(tile, raw)
        cap_slope(raw, scale, softcap)
    if softcap > T(0) or scale != T(1):
        cap(tile, scale, softcap)


@loop
def finish_tile(plan, outer, start, n, capped, slopes, g, h):
    """The chain rule through scale and softcap, then the stores."""
    T = g.dtype.type
    scale, softcap = T(plan.logit_scale), T(plan.softcap)
    if softcap > T(0):
        chained(g, h, capped, slopes, scale, softcap)
    elif scale != T(1):
        scaled(g, scale, g)
        scaled(h, scale * scale, h)
    if plan.grad.address != 0:
        store_tile(plan, plan.grad, plan.store_grad, outer, start, n, g)
    if plan.hess.address != 0:
        store_tile(plan, plan.hess, plan.store_hess, outer, start, n, h)


@loop
def put_losses(plan, outer, start, n, losses):
    """Store the losses of n rows, where the caller wants them."""
    if plan.loss.address != 0:
        here, step = at(plan.loss, outer, start), plan.loss.inner
        call7(plan.store_loss, here, 0, step, 1, n, address_of(losses), 0)


@loop
def share(plan, memory, numbers, n):
    """Scratch of a tile of n rows: labels, a float64 lane, tiles and lanes."""
    here, step = address_of(numbers), 8 * n
    tiles = tiles_of(memory, plan.classes * n, plan.hess.address != 0)
    lane_memory = array_at(
        line_of(memory) + TILES * plan.classes * n * memory.itemsize,
        LANE_ARRAYS * n,
        memory.dtype,
    )
    wide = array_at(here + step, n, np.float64)
    return array_at(here, n, np.int64), wide, tiles, lanes(lane_memory, n)
