"""Softmax with class indices and rows in the lanes: few classes, or a class axis not the last."""

import numpy as np

from fusedce.kernels.cpu.blocks import LANES, copied, load_labels, loop, put_partial, rows_of, total
from fusedce.kernels.cpu.lanes import (
    LANE_ARRAYS,
    TILES,
    finish_tile,
    fold_tile,
    lane_sample,
    load_logits,
    put_losses,
    share,
    silence,
)
from fusedce.kernels.cpu.machine import peek
from fusedce.kernels.cpu.plan import params_at, plan_at
from fusedce.kernels.link import softmax_outcome, softmax_rest
from fusedce.kernels.rule import evaluate
from fusedce.kernels.scalar import choose, exp_down, log1p


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
def lane_weights(plan, outer, start, labels, sample, weight):
    """The sample weight of each lane, and that times the weight of its class."""
    lane_sample(plan, outer, start, sample)
    copied(sample, weight)
    if plan.weight != 0:
        for r in range(sample.size):
            if labels[r] != plan.ignore_index:
                weight[r] *= peek(plan.weight + labels[r] * sample.itemsize, sample.dtype)


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


def index_columns(Params, T):
    """The kernel for class indices with rows in the lanes."""

    def index_columns(address, first, last):
        plan = plan_at(address)
        params = params_at(address, Params, T)
        memory = np.empty((TILES * plan.classes + LANE_ARRAYS) * plan.block + LANES, T)
        numbers = np.empty(2 * plan.block, np.float64)
        for b in range(first, last):
            outer, start, stop = rows_of(plan, b)
            labels, wide, tiles, arrays = share(plan, memory, numbers, stop - start)
            load_labels(plan, outer, start, stop - start, labels)
            loss = index_tile(plan, params, outer, start, labels, tiles, arrays, wide)
            put_partial(plan, b, loss)
        memory[0], numbers[0] = T(0), 0.0  # a last use: the views above do not keep them alive

    return index_columns
