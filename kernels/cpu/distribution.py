"""Softmax rows with a distribution for a target: every class has mass, every class its rule.

With a_j = mass_j f'(l_j) and S their sum: grad_j = a_j (1 - p_j) - p_j (S - a_j). The rest S - a_j
is made with the largest a kept apart from the sum of the others, so a one-hot or nearly one-hot
target keeps its small components right. Label smoothing of class indices is a distribution too.
"""

import numpy as np

from fusedce.kernels.cpu.blocks import (
    CHUNK,
    address_of,
    array_at,
    at,
    height,
    load_labels,
    loop,
    put_loss,
    put_partial,
    rest_of,
    rows_of,
    scratch,
    scratch_size,
    slopes_block,
    split_sums,
    summing,
)
from fusedce.kernels.cpu.machine import call7
from fusedce.kernels.cpu.plan import params_at, plan_at
from fusedce.kernels.cpu.rows import finish, fold, recall, results, row_weight, zeros
from fusedce.kernels.link import softmax_outcome, softmax_rest
from fusedce.kernels.rule import evaluate
from fusedce.kernels.scalar import choose, log1p


@summing
def nonzero(y):
    """The number of nonzero labels (NaN counts)."""
    count = y.dtype.type(0)
    for j in range(y.size):
        count += choose(y[j] == y.dtype.type(0), y.dtype.type(0), y.dtype.type(1))
    return count


@loop
def load_masses(plan, address, start, n, y):
    """The caller's targets of classes start to start + n."""
    step = plan.targets.cls
    call7(plan.load_targets, address + start * step, 0, step, 1, n, address_of(y), 0)


@loop
def count_labels(plan, address, y):
    """M, the number of nonzero labels of a row."""
    count = 0.0
    for start in range(0, plan.classes, plan.width):
        n = min(plan.width, plan.classes - start)
        load_masses(plan, address, start, n, y)
        for chunk in range(0, n, CHUNK):
            count += nonzero(y[chunk : min(n, chunk + CHUNK)])
    return count


@loop
def masses(plan, address, label, start, n, factor, y):
    """y <- weight_j (factor target_j + shift), or the same of a one-hot row."""
    T = y.dtype.type
    shift = T(plan.label_shift)
    if plan.one_hot:
        y[:n] = shift
        if start <= label < start + n:
            y[label - start] += factor
    else:
        load_masses(plan, address, start, n, y)
        if factor != T(1) or shift != T(0):
            for j in range(n):
                y[j] = factor * y[j] + shift
    if plan.weight != 0:
        weight = array_at(plan.weight + start * y.itemsize, n, y.dtype)
        for j in range(n):
            y[j] *= weight[j]


@summing
def evaluated(u, w, y, m, others, log_total, params, a):
    """Sum of mass f(l), and a <- mass f'(l), over a chunk."""
    T = u.dtype.type
    loss = T(0)
    for j in range(u.size):
        logp, logq, p, q = softmax_outcome(u[j] - m, w[j], others, log_total)
        f, f1, f2 = evaluate(logp, logq, p, q, params)
        some = y[j] != T(0)
        loss += choose(some, y[j] * f, T(0))
        a[j] = choose(some, y[j] * f1, T(0))
    return loss


@loop
def bends(u, w, y, m, others, log_total, params, b):
    """b <- mass f''(l)."""
    T = u.dtype.type
    for j in range(u.size):
        logp, logq, p, q = softmax_outcome(u[j] - m, w[j], others, log_total)
        f, f1, f2 = evaluate(logp, logq, p, q, params)
        b[j] = choose(y[j] != T(0), y[j] * f2, T(0))


@loop
def evaluate_block(params, block, w, y, m, others, a, b):
    """The rule on a block of classes: its loss; a and, if it has a size, b."""
    log_total = log1p(others)
    n, loss = block.size, 0.0
    for c in range(0, n, CHUNK):
        d = min(n, c + CHUNK)
        loss += np.float64(
            evaluated(block[c:d], w[c:d], y[c:d], m, others, log_total, params, a[c:d])
        )
    if b.size > 0:
        bends(block, w, y, m, others, log_total, params, b)
    return loss


@loop
def spread(w, a, top, below, tied, others, term, slope, g):
    """g <- term (a q - p (S - a)) + slope p."""
    T = w.dtype.type
    whole = T(1) + others
    inverse = T(1) / whole
    for j in range(g.size):
        p = w[j] * inverse
        q = softmax_rest(w[j], others, whole) * inverse
        g[j] = term * (a[j] * q - p * rest_of(a[j], top, below, tied)) + slope * p


@loop
def spread_curvature(w, b, top, below, tied, others, term, s1, ridge, slope, h):
    """h <- term (b q**2 + p**2 (S2 - b) - S p q) + the z-loss's own."""
    T = w.dtype.type
    whole = T(1) + others
    inverse = T(1) / whole
    for j in range(h.size):
        p = w[j] * inverse
        q = softmax_rest(w[j], others, whole) * inverse
        own = b[j] * q * q + p * p * rest_of(b[j], top, below, tied) - s1 * p * q
        h[j] = term * own + T(2) * ridge * p * p + slope * p * q


@loop
def joined(total, a):
    """(top, below, tied) of a row so far, with one more block of it."""
    top, below, tied = total
    new = max(top, height(a))
    if new > top:
        below, tied = below + tied, 0.0
    b, t = split_sums(a, new)
    return new, below + b, tied + t


@loop
def distribution_row(plan, params, outer, inner, label, rows):
    """Loss of one row with a distribution; its gradient and Hessian are written."""
    pad, u, w, gs, hs, v, y, a, b = rows
    T = u.dtype.type
    source = at(plan.logits, outer, inner)
    target = at(plan.targets, outer, inner)
    grad = at(plan.grad, outer, inner) if plan.grad.address != 0 else 0
    hess = at(plan.hess, outer, inner) if plan.hess.address != 0 else 0
    factor = T(plan.label_factor)
    ignored = plan.one_hot != 0 and label == plan.ignore_index
    if plan.normalize:
        count = count_labels(plan, target, y)
        ignored = count == 0.0
        factor = T(plan.label_factor / count)
    if ignored:
        zeros(plan, grad, hess, gs)
        return T(0)
    sample = row_weight(plan, outer, inner, pad)
    m, others = fold(plan, source, u, w, pad)
    loss, first, second = 0.0, (T(0), 0.0, 0.0), (T(0), 0.0, 0.0)
    for start in range(0, plan.classes, plan.width):
        block, e = recall(plan, source, start, m, u, w, pad)
        n = block.size
        masses(plan, target, label, start, n, factor, y)
        bend = b[: n if hess != 0 else 0]
        loss += evaluate_block(params, block, e, y[:n], m, others, a[:n], bend)
        first = joined(first, a[:n])
        second = joined(second, bend)
    lse = m + log1p(others)
    zeta = sample * T(plan.z_loss)
    if grad != 0 or hess != 0:
        term, ridge = sample * T(plan.scale), zeta * T(plan.scale)
        slope = T(2) * ridge * lse
        top, below, tied = first[0], T(first[1]), T(first[2])
        top2, below2, tied2 = second[0], T(second[1]), T(second[2])
        for start in range(0, plan.classes, plan.width):
            block, e = recall(plan, source, start, m, u, w, pad)
            n = block.size
            bend = b[: n if hess != 0 else 0]
            if plan.classes > plan.width:
                masses(plan, target, label, start, n, factor, y)
                evaluate_block(params, block, e, y[:n], m, others, a[:n], bend)
            if plan.softcap > 0.0:
                slopes_block(plan, source + start * plan.logits.cls, n, v)
            g = results(plan.direct_grad and grad != 0, grad + start * plan.grad.cls, gs, n)
            h = hs[: bend.size]
            spread(e, a, top, below, tied, others, term, slope, g)
            spread_curvature(
                e, bend, top2, below2, tied2, others, term, below + tied, ridge, slope, h
            )
            finish(plan, start, grad, hess, block, g, h, v)
    return sample * T(loss) + zeta * lse * lse


def distribution_rows(Params, T):
    """The kernel for distributions, and for class indices with label smoothing."""

    def distribution_rows(address, first, last):
        plan = plan_at(address)
        params = params_at(address, Params, T)
        memory = np.empty(scratch_size(plan.width), T)
        rows = scratch(memory, plan.width)
        labels = np.zeros(plan.block, np.int64)
        for k in range(first, last):
            outer, start, stop = rows_of(plan, k)
            if plan.one_hot:
                load_labels(plan, outer, start, stop - start, labels)
            losses = 0.0
            for inner in range(start, stop):
                loss = distribution_row(plan, params, outer, inner, labels[inner - start], rows)
                losses += np.float64(loss)
                put_loss(plan, outer, inner, loss, rows[0])
            put_partial(plan, k, losses)
        memory[0] = T(0)  # a last use: the views above do not keep it alive

    return distribution_rows
