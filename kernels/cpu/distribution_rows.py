"""Softmax rows with a distribution for a target: every class has mass, every class its rule.

With a_j = mass_j f'(l_j) and S their sum: grad_j = a_j (1 - p_j) - p_j (S - a_j). The rest S - a_j
is made with the largest a kept apart from the sum of the others, so a one-hot or nearly one-hot
target keeps its small components right. Label smoothing of class indices is a distribution too.
"""

import numpy as np

from fusedce.kernels.cpu.blocks import (
    align_line,
    at,
    load_labels,
    one_number,
    padded,
    put_losses,
    put_partial,
    rows_of,
)
from fusedce.kernels.cpu.kernel_args import args_at, params_at
from fusedce.kernels.cpu.labels import marked, put_odd
from fusedce.kernels.cpu.load_store import load, masked_load, prefetch, store
from fusedce.kernels.cpu.rows import (
    kept,
    load_rows,
    online_softmax,
    reload,
    settle,
    store_strip,
    strip_at,
    strips_of,
    zeros,
)
from fusedce.kernels.cpu.vector_loops import FLUSH, filled, fmax, loop, set_one
from fusedce.kernels.intrinsics import call7
from fusedce.kernels.link import softmax_outcome, softmax_rest
from fusedce.kernels.rule import evaluate
from fusedce.kernels.scalar import log1p_up, scalar, where
from fusedce.kernels.tuning import STRIP
from fusedce.kernels.vector import (
    count_true,
    itemsize,
    lanes,
    max_of_lanes,
    numbers,
    sum_of_lanes,
    to_float64,
    width,
)


@loop
def nonzero(T, y, n):
    """The number of nonzero labels (NaN counts)."""
    N = lanes(T)
    found = 0
    for j in range(0, n, width(N)):
        found += count_true(masked_load(y + j * itemsize(N), n - j, N(0)) != N(0))
    return found


@loop
def load_masses(args, address, start, n, y):
    """The caller's targets of classes start to start + n."""
    step = args.targets.cls
    call7(args.load_targets, address + start * step, 0, step, 1, n, y, 0)


@loop
def count_labels(T, args, address, y):
    """M, the number of nonzero labels of a row."""
    found = 0
    for start in range(0, args.classes, STRIP):
        n = min(STRIP, args.classes - start)
        load_masses(args, address, start, n, y)
        found += nonzero(T, y, n)
    return found


@loop
def weighed(T, y, n, factor, shift, weight):
    """y <- weight (factor y + shift); weight is 0 where there are none."""
    N = lanes(T)
    for j in range(0, n, width(N)):
        here, left = j * itemsize(N), n - j
        x = factor * masked_load(y + here, left, N(0)) + shift
        if weight != 0:
            x = x * masked_load(weight + here, left, N(0))
        store(y + here, x)


@loop
def masses(T, args, address, label, start, n, factor, y):
    """Where the masses weight_j (factor target_j + shift) lie, or the same of a one-hot row.

    And how many of the targets are marked as ignored.
    """
    shift = T(args.label_shift)
    weight = args.weight + start * itemsize(T) if args.weight != 0 else 0
    plain = factor == T(1) and shift == T(0) and weight == 0
    ignored = 0
    if args.sparse_targets:
        filled(T, y, n, T(0))
        if start <= label < start + n:
            set_one(T, y, label - start, T(1))
    elif plain and args.direct_targets:
        y = address + start * args.targets.cls
    else:
        load_masses(args, address, start, n, y)
    if args.real_targets:
        ignored = marked(T, y, n, T(args.ignore_value))
    if not plain:
        weighed(T, y, n, factor, shift, weight)
    return y, ignored


@scalar
def mul_or_zero(mass, x):
    """mass * x; nothing without mass, even where x is infinite."""
    T = type(mass)
    return where(mass != T(0), mass * x, T(0))


@loop
def evaluated(N, T, params, n, u, w, y, m, others, a, b):
    """Sum of mass f(l); a <- mass f'(l); b <- mass f''(l) if wanted; the largest |a| and |b|."""
    log_total = log1p_up(others)
    losses = to_float64(N(0))
    top, top2 = N(0), N(0)
    for start in range(0, n, FLUSH * width(N)):
        loss = N(0)
        for j in range(start, min(n, start + FLUSH * width(N)), width(N)):
            here, left = j * itemsize(N), n - j
            prefetch(y + n * itemsize(N) + here)  # the next strip's, most likely
            d, e = masked_load(u + here, left, N(m)) - m, load(N, w + here)
            mass = masked_load(y + here, left, N(0))
            logp, logq, p, q = softmax_outcome(d, e, others, log_total)
            f, f1, f2 = evaluate(logp, logq, p, q, params)
            loss = loss + mul_or_zero(mass, f)
            first = mul_or_zero(mass, f1)
            store(a + here, first)
            top = fmax(top, abs(first))
            if b != 0:
                second = mul_or_zero(mass, f2)
                store(b + here, second)
                top2 = fmax(top2, abs(second))
        losses = losses + to_float64(loss)
    return sum_of_lanes(losses), max_of_lanes(top), max_of_lanes(top2)


@scalar
def split_at(x, top):
    """(x, 0) below a magnitude, (0, x) at it."""
    T = type(x)
    high = abs(x) >= top
    return where(high, T(0), x), where(high, x, T(0))


@loop
def split_sums(T, a, n, top):
    """Sums of the elements below a magnitude and of those at it, in float64."""
    N = lanes(T)
    below, tied = to_float64(N(0)), to_float64(N(0))
    for start in range(0, n, FLUSH * width(N)):
        s, t = N(0), N(0)
        for j in range(start, min(n, start + FLUSH * width(N)), width(N)):
            low, high = split_at(masked_load(a + j * itemsize(N), n - j, N(0)), top)
            s, t = s + low, t + high
        below, tied = below + to_float64(s), tied + to_float64(t)
    return sum_of_lanes(below), sum_of_lanes(tied)


@scalar
def rest_of(x, top, below, tied):
    """The sum of all other elements: what stands at the top leaves by itself, exactly."""
    return where(abs(x) >= top, below + (tied - x), (below + tied) - x)


@loop
def spread(T, w, a, n, sums, others, term, slope, g):
    """g <- term (a q - p (S - a)) + slope p."""
    N = lanes(T)
    top, below, tied = sums
    whole = T(1) + others
    inverse = T(1) / whole
    for j in range(0, n, width(N)):
        here = j * itemsize(N)
        e, x = load(N, w + here), load(N, a + here)
        p, q = e * inverse, softmax_rest(e, others, whole) * inverse
        store(g + here, term * (x * q - p * rest_of(x, top, below, tied)) + slope * p)


@loop
def spread_curvature(T, w, b, n, sums, others, term, s1, ridge, slope, h):
    """h <- term (b q**2 + p**2 (S2 - b) - S p q) + the z-loss's own."""
    N = lanes(T)
    top, below, tied = sums
    whole = T(1) + others
    inverse = T(1) / whole
    for j in range(0, n, width(N)):
        here = j * itemsize(N)
        e, x = load(N, w + here), load(N, b + here)
        p, q = e * inverse, softmax_rest(e, others, whole) * inverse
        own = x * q * q + p * p * rest_of(x, top, below, tied) - s1 * p * q
        store(h + here, term * own + T(2) * ridge * p * p + slope * p * q)


@loop
def joined(T, sums, a, n, top):
    """(top, below, tied) of a row so far, with one more piece of it."""
    before, below, tied = sums
    new = max(before, top)
    if new > before:
        below, tied = below + tied, 0.0
    b, t = split_sums(T, a, n, new)
    return new, below + b, tied + t


@loop
def strip_rule(N, T, args, params, source, target, label, factor, m, others, start, n, s):
    """The rule on a strip of a settled row: what ``evaluated`` gives; where e, a and b lie.

    Last how many targets are marked as ignored.
    """
    u, w, y, a, b = s[:5]
    block, e = reload(T, args, source, start, n, m, u, w)
    past = start * itemsize(T) if kept(args) else 0
    mass, ignored = masses(T, args, target, label, start, n, factor, y)
    curve = b + past if b != 0 else 0
    found = evaluated(N, T, params, n, block, e, mass, m, others, a + past, curve)
    return found, block, e, a + past, curve, ignored


@loop
def row_sums(N, T, args, params, source, target, label, factor, m, others, s):
    """(loss, (top, below, tied) of a, the same of b): all that the derivatives of a row need.

    And how many targets are marked as ignored.
    """
    loss, first, second, ignored = 0.0, (T(0), 0.0, 0.0), (T(0), 0.0, 0.0), 0
    for start in range(0, args.classes, STRIP):
        n = min(STRIP, args.classes - start)
        (f, top, top2), block, e, a, b, marks = strip_rule(
            N, T, args, params, source, target, label, factor, m, others, start, n, s
        )
        loss += f
        ignored += marks
        first = joined(T, first, a, n, top)
        if b != 0:
            second = joined(T, second, b, n, top2)
    return loss, first, second, ignored


@loop
def write_distribution(
    N, T, args, params, source, target, grad, hess, label, factor, m, others,
    term, ridge, slope, first, second, s,
):  # fmt: skip
    """Gradient and Hessian of a row."""
    u, w, y, a, b, (g, h, v), tops = s
    sums, sums2 = (first[0], T(first[1]), T(first[2])), (second[0], T(second[1]), T(second[2]))
    for start in range(0, args.classes, STRIP):
        n = min(STRIP, args.classes - start)
        block, e, one, two = strip_at(T, args, source, start, n, u), w, a, b
        if kept(args):
            past = start * itemsize(T)
            e, one, two = w + past, a + past, b + past
        else:
            found, block, e, one, two, marks = strip_rule(
                N, T, args, params, source, target, label, factor, m, others, start, n, s
            )
        spread(T, e, one, n, sums, others, term, slope, g)
        if hess != 0:
            total = sums[1] + sums[2]
            spread_curvature(T, e, two, n, sums2, others, term, total, ridge, slope, h)
        store_strip(
            T, args, n,
            grad + start * args.grad.cls if grad != 0 else 0,
            hess + start * args.hess.cls if hess != 0 else 0,
            source + start * args.logits.cls, block, g, h, v,
        )  # fmt: skip


@loop
def distribution_row(N, T, args, params, outer, inner, label, s):
    """(loss, targets marked as ignored) of one row; its gradient and Hessian are written."""
    u, w, y, a, b, strips, tops = s
    source, target = at(args.logits, outer, inner), at(args.targets, outer, inner)
    grad = at(args.grad, outer, inner) if args.grad.address != 0 else 0
    hess = at(args.hess, outer, inner) if args.hess.address != 0 else 0
    factor = T(args.label_factor)
    ignored = args.sparse_targets != 0 and label == args.ignore_index
    if args.normalize:
        found = count_labels(T, args, target, y)
        ignored = found == 0
        factor = T(args.label_factor / found)
    if ignored:
        zeros(T, args, grad, hess, strips[0])
        return T(0), 0
    sample = T(1)
    if args.sample_weight.address != 0:
        sample = one_number(T, args.load_sample_weight, at(args.sample_weight, outer, inner), y)
    load_rows(T, args, outer, inner, 1, u)
    m, others = online_softmax(T, args, source, u, w, tops)
    settle(T, args, m, w, tops)
    loss, first, second, marks = row_sums(
        N, T, args, params, source, target, label, factor, m, others, s
    )
    if marks == args.classes:
        zeros(T, args, grad, hess, strips[0])
        return T(0), marks
    lse = m + log1p_up(others)
    zeta = sample * T(args.z_loss)
    if grad != 0 or hess != 0:
        ridge = zeta * T(args.scale)
        write_distribution(
            N, T, args, params, source, target, grad, hess, label, factor, m, others,
            sample * T(args.scale), ridge, T(2) * ridge * lse, first, second, s,
        )  # fmt: skip
    return sample * T(loss) + zeta * lse * lse, marks


def distribution_rows(Params, T, Lanes):
    """The kernel for distributions, and for class indices with label smoothing."""
    item = np.dtype(T).itemsize

    def distribution_rows(address, first, last):
        args = args_at(address)
        params = params_at(address, Params, T)
        N = numbers(Lanes, T)
        row, strip = padded(max(STRIP, args.width)) * item, padded(STRIP) * item
        losses, tops = padded(args.block) * item, padded(strips_of(args)) * item
        memory = np.empty(5 * row + 3 * strip + losses + tops + 64, np.uint8)
        u = align_line(memory)
        g = u + 5 * row
        tops = g + 3 * strip + losses
        losses = g + 3 * strip
        bends = u + 4 * row if args.hess.address != 0 else 0
        s = u, u + row, u + 2 * row, u + 3 * row, bends, (g, g + strip, g + 2 * strip), tops
        labels = np.zeros(args.block, np.int64)
        for k in range(first, last):
            outer, start, stop = rows_of(args, k)
            if args.sparse_targets:
                load_labels(args, outer, start, stop - start, labels)
            sums, ignored, wrong = 0.0, 0, 0
            for r in range(stop - start):
                loss, marks = distribution_row(N, T, args, params, outer, start + r, labels[r], s)
                ignored += marks == args.classes
                wrong += 0 < marks < args.classes
                sums += np.float64(loss)
                set_one(T, losses, r, loss)
            put_losses(args, outer, start, stop - start, losses)
            put_partial(args, k, sums)
            put_odd(args, k, ignored, wrong)
        memory[0] = 0  # a last use: addresses do not keep it alive

    return distribution_rows
