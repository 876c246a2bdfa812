"""Softmax rows: the class axis lies close together, one row at a time.

A row is read once, its exponentials wait in scratch (in the cache), the gradient is written once.
Rows wider than ``plan.width`` go in blocks with a running maximum and are read again to write.
"""

import numpy as np

from fusedce.kernels.cpu.blocks import (
    address_of,
    array_at,
    at,
    exponentials,
    load_labels,
    logits_block,
    loop,
    one_number,
    pad_tail,
    put_loss,
    put_partial,
    rows_of,
    scratch,
    scratch_size,
    slopes_block,
    summit,
)
from fusedce.kernels.cpu.machine import call7, peek
from fusedce.kernels.cpu.plan import params_at, plan_at
from fusedce.kernels.link import softmax_outcome, softmax_rest
from fusedce.kernels.rule import evaluate
from fusedce.kernels.scalar import exp_down, log1p


@loop
def fold(plan, address, u, w, pad):
    """(maximum, sum of exponentials - 1) of a row; w holds the exponentials of its last block."""
    T = u.dtype.type
    m = T(-np.finfo(T).max)
    below = 0.0
    ties = 0.0
    for start in range(0, plan.classes, plan.width):
        n = min(plan.width, plan.classes - start)
        block = logits_block(plan, address + start * plan.logits.cls, n, u)
        top = summit(block, pad)
        if top > m:
            below = (below + ties) * np.float64(exp_down(m - top))
            ties = 0.0
            m = top
        b, t = exponentials(block, m, w, pad)
        below += b
        ties += t
    # No class at the maximum: the row is all -inf (or NaN).
    return m, T(below + (ties - 1.0)) if ties > 0.0 else T(np.nan)


@loop
def recall(plan, address, start, m, u, w, pad):
    """The logits and exponentials of the block at ``start``, computed again if not the last one."""
    n = min(plan.width, plan.classes - start)
    block = logits_block(plan, address + start * plan.logits.cls, n, u)
    if plan.classes > plan.width:
        pad_tail(block, pad)
        exponentials(block, m, w, pad)
    return block, w[:n]


@loop
def results(direct, address, scratch, n):
    """Where n results are written: at their address, or in scratch until they are stored."""
    if direct:
        return array_at(address, n, scratch.dtype)
    return scratch[:n]


@loop
def zeros(plan, grad, hess, scratch):
    """An ignored row is written, never skipped."""
    scratch[:] = 0
    here = address_of(scratch)
    for start in range(0, plan.classes, plan.width):
        n = min(plan.width, plan.classes - start)
        if grad != 0:
            step = plan.grad.cls
            call7(plan.store_grad, grad + start * step, 0, step, 1, n, here, 0)
        if hess != 0:
            step = plan.hess.cls
            call7(plan.store_hess, hess + start * step, 0, step, 1, n, here, 0)


@loop
def scaled(w, k, g):
    """g <- k w."""
    for j in range(w.size):
        g[j] = k * w[j]


@loop
def curved(w, others, square, product, h):
    """h <- square p**2 + product p (1 - p)."""
    T = w.dtype.type
    whole = T(1) + others
    inverse = T(1) / whole
    for j in range(w.size):
        p = w[j] * inverse
        h[j] = square * p * p + product * p * (softmax_rest(w[j], others, whole) * inverse)


@loop
def chained(g, h, u, v, scale, softcap):
    """Through the softcap: g <- g v, h <- h v**2 + g dv/dz; u capped logits, v their slopes."""
    T = g.dtype.type
    for j in range(h.size):
        bend = T(-2) * (u[j] / softcap) / softcap * scale * v[j]
        h[j] = h[j] * v[j] * v[j] + g[j] * bend
    for j in range(g.size):
        g[j] = g[j] * v[j]


@loop
def finish(plan, start, grad, hess, block, g, h, v):
    """The chain rule through scale and softcap, then the stores that are still due."""
    T = g.dtype.type
    scale = T(plan.logit_scale)
    if plan.softcap > 0.0:
        chained(g, h, block, v[: g.size], scale, T(plan.softcap))
    elif plan.logit_scale != 1.0:
        scaled(g, scale, g)
        scaled(h, scale * scale, h)
    if grad != 0 and not plan.direct_grad:
        step = plan.grad.cls
        call7(plan.store_grad, grad + start * step, 0, step, 1, g.size, address_of(g), 0)
    if hess != 0:
        step = plan.hess.cls
        call7(plan.store_hess, hess + start * step, 0, step, 1, h.size, address_of(h), 0)


@loop
def row_weight(plan, outer, inner, scratch):
    """The sample weight of a row, 1 if there are none."""
    if plan.sample_weight.address == 0:
        return scratch.dtype.type(1)
    return one_number(plan.load_sample_weight, at(plan.sample_weight, outer, inner), scratch)


@loop
def target_logit(plan, address, label, m, u):
    """(z - max, exp of it) of one class."""
    d = logits_block(plan, address + label * plan.logits.cls, 1, u)[0] - m
    return d, exp_down(d)


@loop
def index_row(plan, params, outer, inner, label, rows):
    """Loss of one row with a class index; its gradient and Hessian are written."""
    pad, u, w, gs, hs, v, _, _, _ = rows
    T = u.dtype.type
    source = at(plan.logits, outer, inner)
    grad = at(plan.grad, outer, inner) if plan.grad.address != 0 else 0
    hess = at(plan.hess, outer, inner) if plan.hess.address != 0 else 0
    if label == plan.ignore_index:
        zeros(plan, grad, hess, gs)
        return T(0)
    sample = row_weight(plan, outer, inner, pad)
    weight = sample
    if plan.weight != 0:
        weight *= peek(plan.weight + label * u.itemsize, u.dtype)
    m, others = fold(plan, source, u, w, pad)
    log_total = log1p(others)
    if plan.classes > plan.width or plan.direct_logits:
        d, e = target_logit(plan, source, label, m, pad)
    else:
        d, e = u[label] - m, w[label]
    logp, logq, p, q = softmax_outcome(d, e, others, log_total)
    f, f1, f2 = evaluate(logp, logq, p, q, params)
    lse = m + log_total
    zeta = sample * T(plan.z_loss)
    if grad != 0 or hess != 0:
        scale = T(plan.scale)
        term, ridge = weight * scale, zeta * scale
        inverse = T(1) / (T(1) + others)
        slope = T(2) * ridge * lse
        k = (slope - term * f1) * inverse
        square, product = term * f2 + T(2) * ridge, slope - term * f1
        for start in range(0, plan.classes, plan.width):
            block, e_block = recall(plan, source, start, m, u, w, pad)
            n = block.size
            if plan.softcap > 0.0:
                slopes_block(plan, source + start * plan.logits.cls, n, v)
            g = results(plan.direct_grad and grad != 0, grad + start * plan.grad.cls, gs, n)
            h = hs[: n if hess != 0 else 0]
            scaled(e_block, k, g)
            if start <= label < start + n:
                g[label - start] = term * f1 * q + slope * p
            if hess != 0:
                curved(e_block, others, square, product, h)
                if start <= label < start + n:
                    h[label - start] = term * (f2 * q * q - f1 * p * q) + (
                        T(2) * ridge * p * p + slope * p * q
                    )
            finish(plan, start, grad, hess, block, g, h, v)
    return weight * f + zeta * lse * lse


def index_rows(Params, T):
    """The kernel for class indices: the rule is evaluated once a row."""

    def index_rows(address, first, last):
        plan = plan_at(address)
        params = params_at(address, Params, T)
        memory = np.empty(scratch_size(plan.width), T)
        rows = scratch(memory, plan.width)
        labels = np.empty(plan.block, np.int64)
        for b in range(first, last):
            outer, start, stop = rows_of(plan, b)
            load_labels(plan, outer, start, stop - start, labels)
            losses = 0.0
            for inner in range(start, stop):
                y = labels[inner - start]
                loss = index_row(plan, params, outer, inner, y, rows)
                losses += np.float64(loss)
                put_loss(plan, outer, inner, loss, rows[0])
            put_partial(plan, b, losses)
        memory[0] = T(0)  # a last use: the views above do not keep it alive

    return index_rows
