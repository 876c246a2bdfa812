"""Softmax with rows in the lanes: few classes, or a class axis that is not the last.

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
    load_labels,
    loop,
    put_partial,
    rest_of,
    rows_of,
    split_at,
    total,
)
from fusedce.kernels.cpu.machine import call7, peek
from fusedce.kernels.cpu.plan import params_at, plan_at
from fusedce.kernels.cpu.rows import chained, scaled
from fusedce.kernels.link import softmax_outcome, softmax_rest
from fusedce.kernels.rule import evaluate
from fusedce.kernels.scalar import choose, exp_down, log1p

GROUP = 16  # classes added up in the compute dtype before a lane's sum goes on in float64


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
def gather(tile, labels, m, ignore_index, d):
    """d <- logit of the target - maximum, for each lane."""
    n = m.size
    for r in range(n):
        label = labels[r]
        d[r] = tile[(0 if label == ignore_index else label) * n + r] - m[r]


@loop
def lane_rule(params, d, m, others, weight, sample, zeta0, scale, loss, k, at_target, square,
              product, bend):  # fmt: skip
    """The rule on each lane: loss, and what the gradient and Hessian of its classes need."""
    T = d.dtype.type
    for r in range(d.size):
        log_total = log1p(others[r])
        logp, logq, p, q = softmax_outcome(d[r], exp_down(d[r]), others[r], log_total)
        f, f1, f2 = evaluate(logp, logq, p, q, params)
        zeta = zeta0 * sample[r]
        lse = m[r] + log_total
        term = weight[r] * scale
        lse = choose(zeta != T(0), lse, T(0))
        slope = T(2) * zeta * scale * lse
        loss[r] = weight[r] * f + zeta * lse * lse
        k[r] = (slope - term * f1) / (T(1) + others[r])
        at_target[r] = term * f1 * q + slope * p
        square[r] = term * f2 + T(2) * zeta * scale
        product[r] = slope - term * f1
        bend[r] = term * (f2 * q * q - f1 * p * q) + T(2) * zeta * scale * p * p + slope * p * q


@loop
def lane_scaled(w, k):
    """w <- k w."""
    for r in range(k.size):
        w[r] = k[r] * w[r]


@loop
def lane_curved(w, others, square, product, h):
    """h <- square p**2 + product p (1 - p)."""
    T = w.dtype.type
    for r in range(others.size):
        whole = T(1) + others[r]
        p = w[r] / whole
        h[r] = square[r] * p * p + product[r] * p * (softmax_rest(w[r], others[r], whole) / whole)


@loop
def lane_sample(plan, outer, start, sample):
    """The sample weight of each lane, 1 if there are none."""
    sample[:] = 1
    if plan.sample_weight.address != 0:
        here, step = at(plan.sample_weight, outer, start), plan.sample_weight.inner
        call7(plan.load_sample_weight, here, 0, step, 1, sample.size, address_of(sample), 0)


@loop
def lane_weights(plan, outer, start, labels, sample, weight):
    """The sample weight of each lane, and that times the weight of its class."""
    lane_sample(plan, outer, start, sample)
    copied(sample, weight)
    if plan.weight != 0:
        for r in range(sample.size):
            if labels[r] != plan.ignore_index:
                weight[r] *= peek(plan.weight + labels[r] * sample.itemsize, sample.dtype)


@loop
def silence(labels, ignore_index, classes, tile):
    """Zeros in the lanes of ignored rows, whatever their logits were."""
    n = labels.size
    for r in range(n):
        if labels[r] == ignore_index:
            for j in range(classes):
                tile[j * n + r] = 0


LANE_ARRAYS = 16


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


TILES = 6


@loop
def tiles_of(memory, size, curved):
    """Six tiles in one piece of memory; the last two are empty unless a Hessian is wanted."""
    here, step, dtype = address_of(memory), size * memory.itemsize, memory.dtype
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
def index_tile(plan, params, outer, start, labels, tiles, arrays, wide):
    """The sum of the losses of a tile of rows; what is asked for of them is written."""
    u, w, slopes, _, h, _ = tiles
    (m, below, ties, others, d, k, at_target, square), rest = arrays
    product, bend, loss, sample, weight, _, _, _ = rest
    T = u.dtype.type
    n = m.size
    load_logits(plan, outer, start, n, u, slopes)
    lane_weights(plan, outer, start, labels, sample, weight)
    fold_tile(plan, u, w, m, below, ties, wide, others)
    gather(u, labels, m, plan.ignore_index, d)
    lane_rule(
        params, d, m, others, weight, sample, T(plan.z_loss), T(plan.scale), loss, k, at_target,
        square, product, bend,
    )  # fmt: skip
    silence(labels, plan.ignore_index, 1, loss)
    if plan.grad.address != 0 or h.size > 0:
        for j in range(plan.classes if h.size > 0 else 0):
            lane_curved(w[j * n : (j + 1) * n], others, square, product, h[j * n : (j + 1) * n])
        for j in range(plan.classes):
            lane_scaled(w[j * n : (j + 1) * n], k)
        put_targets(labels, plan.ignore_index, at_target, w)
        silence(labels, plan.ignore_index, plan.classes, w)
        if h.size > 0:
            put_targets(labels, plan.ignore_index, bend, h)
            silence(labels, plan.ignore_index, plan.classes, h)
        finish_tile(plan, outer, start, n, u, slopes, w, h)
    put_losses(plan, outer, start, n, loss)
    return total(loss)


@loop
def put_targets(labels, ignore_index, values, tile):
    """The target class of each lane gets a value of its own."""
    n = labels.size
    for r in range(n):
        if labels[r] != ignore_index:
            tile[labels[r] * n + r] = values[r]


@loop
def lane_masses(plan, labels, factor, y):
    """y <- weight_j (factor target_j + shift) for the classes of a tile of rows."""
    T = y.dtype.type
    n = factor.size
    shift = T(plan.label_shift)
    if plan.one_hot:
        y[:] = shift
        for r in range(n):
            if labels[r] != plan.ignore_index:
                y[labels[r] * n + r] += factor[r]
    else:
        for j in range(plan.classes):
            line = y[j * n : (j + 1) * n]
            for r in range(n):
                line[r] = factor[r] * line[r] + shift
    if plan.weight != 0:
        for j in range(plan.classes):
            weight = peek(plan.weight + j * y.itemsize, y.dtype)
            scaled(y[j * n : (j + 1) * n], weight, y[j * n : (j + 1) * n])


@loop
def lane_factors(plan, labels, y, factor):
    """What multiplies each lane's targets: with normalize 1 / M; labels <- ignored where M = 0."""
    T = y.dtype.type
    n = factor.size
    factor[:] = T(plan.label_factor)
    if plan.normalize:
        factor[:] = 0
        for j in range(plan.classes):
            line = y[j * n : (j + 1) * n]
            for r in range(n):
                factor[r] += choose(line[r] == T(0), T(0), T(1))
        for r in range(n):
            labels[r] = plan.ignore_index if factor[r] == T(0) else 0
            factor[r] = T(plan.label_factor) / factor[r] if factor[r] != T(0) else T(0)


@loop
def lane_evaluated(params, u, w, m, others, y, loss, top, b, top2):
    """One class of each lane: y <- mass f'(l), b <- mass f''(l), and their largest magnitudes."""
    T = u.dtype.type
    for r in range(b.size):
        log_total = log1p(others[r])
        logp, logq, p, q = softmax_outcome(u[r] - m[r], w[r], others[r], log_total)
        f, f1, f2 = evaluate(logp, logq, p, q, params)
        b[r] = choose(y[r] != T(0), y[r] * f2, T(0))
        top2[r] = choose(abs(b[r]) > top2[r], abs(b[r]), top2[r])
    for r in range(m.size):
        log_total = log1p(others[r])
        logp, logq, p, q = softmax_outcome(u[r] - m[r], w[r], others[r], log_total)
        f, f1, f2 = evaluate(logp, logq, p, q, params)
        some = y[r] != T(0)
        a = choose(some, y[r] * f1, T(0))
        loss[r] += choose(some, y[r] * f, T(0))
        y[r] = a
        top[r] = choose(abs(a) > top[r], abs(a), top[r])


@loop
def lane_split(a, top, below, tied):
    """One class of each lane, added below its lane's top or at it."""
    for r in range(a.size):
        b, t = split_at(a[r], top[r])
        below[r] += b
        tied[r] += t


@loop
def lane_spread(w, a, top, below, tied, others, term, slope):
    """One class of each lane: w <- term (a q - p (S - a)) + slope p."""
    T = w.dtype.type
    for r in range(others.size):
        whole = T(1) + others[r]
        p = w[r] / whole
        q = softmax_rest(w[r], others[r], whole) / whole
        rest = rest_of(a[r], top[r], below[r], tied[r])
        w[r] = term[r] * (a[r] * q - p * rest) + slope[r] * p


@loop
def lane_spread_curvature(w, b, top, below, tied, others, term, s1, ridge, slope, h):
    """One class of each lane: h <- term (b q**2 + p**2 (S2 - b) - S p q) + the z-loss's own."""
    T = w.dtype.type
    for r in range(h.size):
        whole = T(1) + others[r]
        p = w[r] / whole
        q = softmax_rest(w[r], others[r], whole) / whole
        rest = rest_of(b[r], top[r], below[r], tied[r])
        own = b[r] * q * q + p * p * rest - s1[r] * p * q
        h[r] = term[r] * own + T(2) * ridge[r] * p * p + slope[r] * p * q


@loop
def tile_sums(classes, a, top, below, tied, wide):
    """Sums over the classes of each lane, below the lane's top and at it."""
    n = top.size
    below[:] = 0
    tied[:] = 0
    wide[:] = 0
    for j in range(classes):
        lane_split(a[j * n : (j + 1) * n], top, below, tied)
        if j % GROUP == GROUP - 1:
            flush(below, wide)
    flush(below, wide)
    for r in range(n):
        below[r] = wide[r]


@loop
def distribution_tile(plan, params, outer, start, labels, tiles, arrays, wide):
    """As index_tile, every class with a mass of its own."""
    u, w, slopes, y, h, b = tiles
    (m, below, tied, others, factor, term, slope, ridge), rest = arrays
    loss, sample, top, top2, below2, tied2, s1, _ = rest
    T = u.dtype.type
    n, curved = m.size, h.size > 0
    load_logits(plan, outer, start, n, u, slopes)
    if not plan.one_hot:
        load_tile(plan, plan.targets, plan.load_targets, outer, start, n, y)
    lane_factors(plan, labels, y, factor)
    lane_masses(plan, labels, factor, y)
    lane_sample(plan, outer, start, sample)
    fold_tile(plan, u, w, m, below, tied, wide, others)
    loss[:] = 0
    top[:] = 0
    top2[:] = 0
    for j in range(plan.classes):
        lo, hi = j * n, (j + 1) * n
        lane_evaluated(
            params, u[lo:hi], w[lo:hi], m, others, y[lo:hi], loss, top,
            b[lo if curved else 0 : hi if curved else 0], top2,
        )  # fmt: skip
    for r in range(n):
        lse = m[r] + log1p(others[r])
        zeta = sample[r] * T(plan.z_loss)
        term[r], ridge[r] = sample[r] * T(plan.scale), zeta * T(plan.scale)
        slope[r] = T(2) * ridge[r] * lse if zeta != T(0) else T(0)
        loss[r] = sample[r] * loss[r] + (zeta * lse * lse if zeta != T(0) else T(0))
    if plan.one_hot or plan.normalize:
        silence(labels, plan.ignore_index, 1, loss)
    if plan.grad.address != 0 or curved:
        tile_sums(plan.classes, y, top, below, tied, wide)
        if curved:
            tile_sums(plan.classes, b, top2, below2, tied2, wide)
            for r in range(n):
                s1[r] = below[r] + tied[r]
        for j in range(plan.classes):
            lo, hi = j * n, (j + 1) * n
            if curved:
                lane_spread_curvature(
                    w[lo:hi],
                    b[lo:hi],
                    top2,
                    below2,
                    tied2,
                    others,
                    term,
                    s1,
                    ridge,
                    slope,
                    h[lo:hi],
                )
            lane_spread(w[lo:hi], y[lo:hi], top, below, tied, others, term, slope)
        if plan.one_hot or plan.normalize:
            silence(labels, plan.ignore_index, plan.classes, w)
            silence(labels, plan.ignore_index, plan.classes if curved else 0, h)
        finish_tile(plan, outer, start, n, u, slopes, w, h)
    put_losses(plan, outer, start, n, loss)
    return total(loss)


def index_columns(Params, T):
    """The kernel for class indices with rows in the lanes."""

    def index_columns(address, first, last):
        plan = plan_at(address)
        params = params_at(address, Params, T)
        memory = np.empty((TILES * plan.classes + LANE_ARRAYS) * plan.block, T)
        numbers = np.empty(2 * plan.block, np.float64)
        for b in range(first, last):
            outer, start, stop = rows_of(plan, b)
            labels, wide, tiles, arrays = share(plan, memory, numbers, stop - start)
            load_labels(plan, outer, start, stop - start, labels)
            loss = index_tile(plan, params, outer, start, labels, tiles, arrays, wide)
            put_partial(plan, b, loss)
        memory[0], numbers[0] = T(0), 0.0  # a last use: the views above do not keep them alive

    return index_columns


def distribution_columns(Params, T):
    """The kernel for distributions with rows in the lanes."""

    def distribution_columns(address, first, last):
        plan = plan_at(address)
        params = params_at(address, Params, T)
        memory = np.empty((TILES * plan.classes + LANE_ARRAYS) * plan.block, T)
        numbers = np.empty(2 * plan.block, np.float64)
        for b in range(first, last):
            outer, start, stop = rows_of(plan, b)
            labels, wide, tiles, arrays = share(plan, memory, numbers, stop - start)
            if plan.one_hot:
                load_labels(plan, outer, start, stop - start, labels)
            loss = distribution_tile(plan, params, outer, start, labels, tiles, arrays, wide)
            put_partial(plan, b, loss)
        memory[0], numbers[0] = T(0), 0.0  # a last use: the views above do not keep them alive

    return distribution_columns


@loop
def share(plan, memory, numbers, n):
    """Scratch of a tile of n rows: labels, a float64 lane, tiles and lanes."""
    here, step = address_of(numbers), 8 * n
    tiles = tiles_of(memory, plan.classes * n, plan.hess.address != 0)
    lane_memory = array_at(
        address_of(memory) + TILES * plan.classes * n * memory.itemsize,
        LANE_ARRAYS * n,
        memory.dtype,
    )
    wide = array_at(here + step, n, np.float64)
    return array_at(here, n, np.int64), wide, tiles, lanes(lane_memory, n)
