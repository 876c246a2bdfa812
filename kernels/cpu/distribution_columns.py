"""Softmax with a distribution for a target and rows in the lanes; see distribution.py."""

import numpy as np

from fusedce.kernels.cpu.blocks import align_line, padded, put_losses, put_partial, rows_of
from fusedce.kernels.cpu.columns import (
    GROUP,
    finish_tile,
    load_line,
    load_logits,
    load_tile,
    online_softmax_lanes,
    tile_size,
)
from fusedce.kernels.cpu.distribution_rows import mul_or_zero, rest_of, split_at
from fusedce.kernels.cpu.kernel_args import args_at, params_at
from fusedce.kernels.cpu.labels import put_odd
from fusedce.kernels.cpu.load_store import load, masked_load, store
from fusedce.kernels.cpu.vector_loops import filled, fmax, loop
from fusedce.kernels.intrinsics import peek
from fusedce.kernels.link import softmax_outcome, softmax_rest
from fusedce.kernels.rule import evaluate
from fusedce.kernels.scalar import log1p_up, where
from fusedce.kernels.vector import (
    count_true,
    from_float64,
    itemsize,
    numbers,
    sum_of_lanes,
    to_float64,
    width,
)


@loop
def factor_lanes(N, T, args, label, y, step):
    """(factor of the targets, rows that count) of a vector of rows; with normalize 1 / M."""
    if args.sparse_targets:
        return N(args.label_factor), label != T(args.ignore_index)
    found = N(1)
    if args.normalize:
        found = N(0)
        for j in range(args.classes):
            found = where(load(N, y + j * step) == T(0), found, found + T(1))
    keep = found != T(0)
    return where(keep, T(args.label_factor) / found, N(0)), keep


@loop
def mass_lanes(N, T, args, label, factor, y, step, j):
    """weight_j (factor target_j + shift) of a vector of rows."""
    target = where(label == T(j), N(1), N(0)) if args.sparse_targets else load(N, y + j * step)
    mass = factor * target + T(args.label_shift)
    if args.weight != 0:
        mass = mass * peek(args.weight + j * itemsize(T), T)
    return mass


@loop
def evaluate_lanes(N, T, args, params, label, factor, u, w, y, b, step, m, others):
    """(sum of mass f(l), largest |a|, largest |b|, targets marked as ignored) of each row.

    y <- a = mass f'(l), b <- mass f''(l).
    """
    log_total = log1p_up(others)
    loss, top, top2, marks = N(0), N(0), N(0), N(0)
    mark = N(T(args.ignore_value))
    losses = to_float64(N(0))
    for j in range(args.classes):
        here = j * step
        marks = where(load(N, y + here) == mark, marks + N(1), marks)
        mass = mass_lanes(N, T, args, label, factor, y, step, j)
        d, e = load(N, u + here) - m, load(N, w + here)
        logp, logq, p, q = softmax_outcome(d, e, others, log_total)
        f, f1, f2 = evaluate(logp, logq, p, q, params)
        loss = loss + mul_or_zero(mass, f)
        first = mul_or_zero(mass, f1)
        store(y + here, first)
        top = fmax(top, abs(first))
        if b != 0:
            second = mul_or_zero(mass, f2)
            store(b + here, second)
            top2 = fmax(top2, abs(second))
        if j % GROUP == GROUP - 1:
            losses = losses + to_float64(loss)
            loss = N(0)
    if args.classes >= GROUP:
        loss = from_float64(N, losses + to_float64(loss))
    return loss, top, top2, marks


@loop
def sum_lanes(N, T, args, a, step, top):
    """Sums over the classes of each lane, below the lane's top and at it."""
    below, tied = N(0), N(0)
    sums, ties = to_float64(N(0)), to_float64(N(0))
    for j in range(args.classes):
        low, high = split_at(load(N, a + j * step), top)
        below, tied = below + low, tied + high
        if j % GROUP == GROUP - 1:
            sums, ties = sums + to_float64(below), ties + to_float64(tied)
            below, tied = N(0), N(0)
    if args.classes >= GROUP:
        below, tied = (
            from_float64(N, sums + to_float64(below)),
            from_float64(N, ties + to_float64(tied)),
        )
    return below, tied


@loop
def spread_lanes(N, T, args, w, y, b, h, step, keep, others, top, top2, term, ridge, slope):
    """w <- gradients term (a q - p (S - a)) + slope p; h <- curvatures."""
    below, tied = sum_lanes(N, T, args, y, step, top)
    below2, tied2 = N(0), N(0)
    if h != 0:
        below2, tied2 = sum_lanes(N, T, args, b, step, top2)
    whole = T(1) + others
    for j in range(args.classes):
        here = j * step
        e, a = load(N, w + here), load(N, y + here)
        p, q = e / whole, softmax_rest(e, others, whole) / whole
        g = term * (a * q - p * rest_of(a, top, below, tied)) + slope * p
        store(w + here, where(keep, g, N(0)))
        if h != 0:
            x = load(N, b + here)
            own = x * q * q + p * p * rest_of(x, top2, below2, tied2) - (below + tied) * p * q
            bend = term * own + T(2) * ridge * p * p + slope * p * q
            store(h + here, where(keep, bend, N(0)))


@loop
def distribution_lanes(N, T, args, params, tiles, step, lines, here):
    """The losses of a vector of rows; their gradients and curvatures in the tiles.

    And how many of their targets are marked as ignored.
    """
    u, w, y, b, h = tiles
    labels, samples, losses = lines
    label, sample = load(N, labels + here), load(N, samples + here)
    factor, keep = factor_lanes(N, T, args, label, y, step)
    m, others, d, e = online_softmax_lanes(N, T, args, label, u, w, step)
    loss, top, top2, marks = evaluate_lanes(
        N, T, args, params, label, factor, u, w, y, b, step, m, others
    )
    keep = keep & (marks != N(args.classes))
    zeta = sample * T(args.z_loss)
    lse = where(zeta != T(0), m + log1p_up(others), N(0))
    ridge = zeta * T(args.scale)
    loss = where(keep, sample * loss + zeta * lse * lse, N(0))
    store(losses + here, loss)
    if args.grad.address != 0 or h != 0:
        spread_lanes(
            N, T, args, w, y, b, h, step, keep, others, top, top2,
            sample * T(args.scale), ridge, T(2) * ridge * lse,
        )  # fmt: skip
    return loss, marks


@loop
def distribution_tile(N, T, args, params, outer, start, n, tiles, lines):
    """As index_tile, every class with a mass of its own; the rows ignored, and those in part."""
    u, w, slopes, y, b, h = tiles
    labels, samples, losses = lines
    item = itemsize(T)
    load_logits(T, args, outer, start, n, u, slopes)
    if args.sparse_targets:
        load_line(
            T, args, args.targets, args.load_targets, outer, start, n, labels, args.ignore_index
        )
    else:
        filled(T, labels, args.block, T(0))
        load_tile(T, args, args.targets, args.load_targets, outer, start, n, y)
    load_line(T, args, args.sample_weight, args.load_sample_weight, outer, start, n, samples, 1)
    for r in range(n, args.block):
        # Behind the last row: nothing, whatever label smoothing makes of it.
        store(samples + r * item, T(0))
    sums, ignored, wrong = to_float64(N(0)), 0, 0
    for r in range(0, n, width(N)):
        here = r * item
        curves = b + here if h != 0 else 0, h + here if h != 0 else 0
        loss, marks = distribution_lanes(
            N, T, args, params, (u + here, w + here, y + here, curves[0], curves[1]),
            args.block * item, lines, here,
        )  # fmt: skip
        sums = sums + to_float64(loss)
        if args.real_targets:
            # The labels' line is free: marks are stored to leave out the lanes behind row n.
            store(labels + here, marks)
            marks = masked_load(labels + here, n - r, N(0))
            whole = marks == N(args.classes)
            ignored += count_true(whole)
            wrong += count_true((marks > N(0)) & ~whole)
    if args.grad.address != 0 or h != 0:
        finish_tile(T, args, outer, start, n, u, slopes, w, h)
    put_losses(args, outer, start, n, losses)
    return sum_of_lanes(sums), ignored, wrong


def distribution_columns(Params, T, Lanes):
    """The kernel for distributions and label smoothing with rows in the lanes."""
    item = np.dtype(T).itemsize

    def distribution_columns(address, first, last):
        args = args_at(address)
        params = params_at(address, Params, T)
        N = numbers(Lanes, T)
        tile, line = tile_size(args) * item, padded(args.block) * item
        memory = np.empty(6 * tile + 3 * line + 64, np.uint8)
        u = align_line(memory)
        lines = u + 6 * tile
        curved = args.hess.address != 0
        tiles = (
            u, u + tile, u + 2 * tile, u + 3 * tile,
            u + 4 * tile if curved else 0, u + 5 * tile if curved else 0,
        )  # fmt: skip
        for k in range(first, last):
            outer, start, stop = rows_of(args, k)
            loss, ignored, wrong = distribution_tile(
                N, T, args, params, outer, start, stop - start, tiles,
                (lines, lines + line, lines + 2 * line),
            )  # fmt: skip
            put_partial(args, k, loss)
            put_odd(args, k, ignored, wrong)
        memory[0] = 0  # a last use: addresses do not keep it alive

    return distribution_columns
