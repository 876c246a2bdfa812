"""Softmax with a distribution for a target and rows in the lanes; see distribution.py."""

import numpy as np

from fusedce.kernels.cpu.blocks import (
    LANES,
    load_labels,
    loop,
    put_partial,
    rest_of,
    rows_of,
    split_at,
    total,
)
from fusedce.kernels.cpu.lanes import (
    GROUP,
    LANE_ARRAYS,
    TILES,
    finish_tile,
    flush,
    fold_tile,
    lane_sample,
    load_logits,
    load_tile,
    put_losses,
    share,
    silence,
)
from fusedce.kernels.cpu.machine import peek
from fusedce.kernels.cpu.plan import params_at, plan_at
from fusedce.kernels.cpu.rows import scaled
from fusedce.kernels.link import softmax_outcome, softmax_rest
from fusedce.kernels.rule import evaluate
from fusedce.kernels.scalar import choose, log1p


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


def distribution_columns(Params, T):
    """The kernel for distributions with rows in the lanes."""

    def distribution_columns(address, first, last):
        plan = plan_at(address)
        params = params_at(address, Params, T)
        memory = np.empty((TILES * plan.classes + LANE_ARRAYS) * plan.block + LANES, T)
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
