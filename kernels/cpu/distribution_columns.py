"""Losses of softmax rows whose target is a distribution, one row a lane; see distribution_rows."""

from typing import NamedTuple

import numpy as np

from fusedce.kernels.cpu.blocks import (
    RowRange,
    align_line,
    block_rows,
    padded,
    store_partial_sum,
    store_row_losses,
)
from fusedce.kernels.cpu.columns import (
    CLASSES_PER_FLUSH,
    RowLines,
    finish_tile,
    load_line,
    load_logits,
    load_tile,
    softmax_lanes,
    tile_size,
)
from fusedce.kernels.cpu.distribution_rows import (
    RowFactors,
    split_at,
    sum_of_others,
)
from fusedce.kernels.cpu.kernel_args import args_at, params_at
from fusedce.kernels.cpu.labels import store_counts
from fusedce.kernels.cpu.load_store import load, masked_load, store
from fusedce.kernels.cpu.vector_loops import fill, loop
from fusedce.kernels.intrinsics import peek
from fusedce.kernels.link import mul_or_zero, softmax_outcome, softmax_rest
from fusedce.kernels.rule import evaluate
from fusedce.kernels.scalar import fmax, log1p_up, where
from fusedce.kernels.vector import (
    count_true,
    from_float64,
    lane_bytes,
    numbers,
    sum_of_lanes,
    to_float64,
    width,
)


class DistributionTiles(NamedTuple):
    """Addresses of tiles: (classes, block) T each."""

    logits: int
    exps: int  # exp(z - max), replaced by the gradient
    slopes: int
    first: int  # targets, replaced by mass f'(log p)
    second: int  # mass f''(log p); 0: no Hessian
    hess: int  # 0: none


class RuleTiles(NamedTuple):
    """Addresses of the first class of a vector of rows in the tiles that the rule reads, writes."""

    logits: int
    exps: int
    first: int
    second: int


class DerivativeTiles(NamedTuple):
    """The same for the tiles that gradient and Hessian are made of, and written to."""

    exps: int
    first: int
    second: int
    hess: int


@loop
def factor_lanes(N, T, args, label, targets, step):
    """(factor of the targets, whether the row counts) for each lane.

    With normalize_targets the factor is 1 / (number of nonzero targets).
    """
    if args.sparse_targets:
        return N(args.label_factor), label != T(args.ignore_index)
    found = N(1)
    if args.normalize:
        found = N(0)
        for j in range(args.classes):
            found = where(load(N, targets + j * step) == T(0), found, found + T(1))
    keep = found != T(0)
    return where(keep, T(args.label_factor) / found, N(0)), keep


@loop
def mass_lanes(N, T, args, label, factor, targets, step, j):
    """The mass weight_j (factor target_j + shift) of class j for each lane."""
    if args.sparse_targets:
        target = where(label == T(j), N(1), N(0))
    else:
        target = load(N, targets + j * step)
    mass = factor * target + T(args.label_shift)
    if args.weight != 0:
        mass = mass * peek(args.weight + j * lane_bytes(T), T)
    return mass


@loop
def evaluate_lanes(N, T, args, params, label, factor, tiles, step, softmax):
    """(sum of mass f(log p), largest |first|, largest |second|, ignored targets) for each lane.

    first <- mass f'(log p), second <- mass f''(log p) unless it is 0. softmax: the maximum and the
    sum of exponentials less 1.
    """
    logits, exps, first, second = tiles
    row_max, sum_exp_minus_1 = softmax
    log_total = log1p_up(sum_exp_minus_1)
    loss, max_first, max_second, n_ignored = N(0), N(0), N(0), N(0)
    ignore_value = N(T(args.ignore_value))
    total = to_float64(N(0))
    for j in range(args.classes):
        here = j * step
        is_ignored = load(N, first + here) == ignore_value
        n_ignored = where(is_ignored, n_ignored + N(1), n_ignored)
        mass = mass_lanes(N, T, args, label, factor, first, step, j)
        d, e = load(N, logits + here) - row_max, load(N, exps + here)
        logp, logq, p, q = softmax_outcome(d, e, sum_exp_minus_1, log_total)
        f, f1, f2 = evaluate(logp, logq, p, q, params)
        loss = loss + mul_or_zero(mass, f)
        a = mul_or_zero(mass, f1)
        store(first + here, a)
        max_first = fmax(max_first, abs(a))
        if second != 0:
            b = mul_or_zero(mass, f2)
            store(second + here, b)
            max_second = fmax(max_second, abs(b))
        if j % CLASSES_PER_FLUSH == CLASSES_PER_FLUSH - 1:
            total = total + to_float64(loss)
            loss = N(0)
    if args.classes >= CLASSES_PER_FLUSH:
        loss = from_float64(N, total + to_float64(loss))
    return loss, max_first, max_second, n_ignored


@loop
def sum_lanes(N, T, args, a, step, max_abs):
    """The sums over the classes of the elements with |a| < ``max_abs``, and of the others."""
    below, at_max = N(0), N(0)
    total_below, total_at_max = to_float64(N(0)), to_float64(N(0))
    for j in range(args.classes):
        low, high = split_at(load(N, a + j * step), max_abs)
        below, at_max = below + low, at_max + high
        if j % CLASSES_PER_FLUSH == CLASSES_PER_FLUSH - 1:
            total_below = total_below + to_float64(below)
            total_at_max = total_at_max + to_float64(at_max)
            below, at_max = N(0), N(0)
    if args.classes >= CLASSES_PER_FLUSH:
        below, at_max = (
            from_float64(N, total_below + to_float64(below)),
            from_float64(N, total_at_max + to_float64(at_max)),
        )
    return below, at_max


@loop
def write_derivatives(N, T, args, tiles, step, keep, sum_exp_minus_1, largest, factors):
    """exps <- the gradients, hess <- the Hessians of a vector of rows, as in distribution_rows.

    largest: the largest |first| and |second| of each lane; factors: ``RowFactors``.
    """
    exps, first, second, hess = tiles
    max_first, max_second = largest
    weight, z_square, z_slope = factors
    below, at_max = sum_lanes(N, T, args, first, step, max_first)
    below2, at_max2 = N(0), N(0)
    if hess != 0:
        below2, at_max2 = sum_lanes(N, T, args, second, step, max_second)
    total = T(1) + sum_exp_minus_1
    for j in range(args.classes):
        here = j * step
        e, a = load(N, exps + here), load(N, first + here)
        p, q = e / total, softmax_rest(e, sum_exp_minus_1, total) / total
        g = weight * (a * q - p * sum_of_others(a, max_first, below, at_max)) + z_slope * p
        store(exps + here, where(keep, g, N(0)))
        if hess != 0:
            b = load(N, second + here)
            rule = b * q * q + p * p * sum_of_others(b, max_second, below2, at_max2)
            rule = rule - (below + at_max) * p * q
            h = weight * rule + T(2) * z_square * p * p + z_slope * p * q
            store(hess + here, where(keep, h, N(0)))


@loop
def distribution_lanes(N, T, args, params, tiles, step, lines, offset):
    """(losses, number of ignored targets) of a vector of rows; derivatives go to the tiles.

    tiles: ``DistributionTiles`` without slopes, from these rows on; step: the bytes from one class
    to the next; lines: ``RowLines``; offset: the bytes from the first row to these.
    """
    logits, exps, first, second, hess = tiles
    # 1. Labels, sample weights, and the factor of the targets.
    label, sample = load(N, lines.labels + offset), load(N, lines.sample_weight + offset)
    factor, keep = factor_lanes(N, T, args, label, first, step)
    # 2. Softmax: maximum and sum of exponentials.
    row_max, sum_exp_minus_1, d, e = softmax_lanes(N, T, args, label, logits, exps, step)
    # 3. The rule on every class.
    loss, max_first, max_second, n_ignored = evaluate_lanes(
        N, T, args, params, label, factor, RuleTiles(logits, exps, first, second), step,
        (row_max, sum_exp_minus_1),
    )  # fmt: skip
    keep = keep & (n_ignored != N(args.classes))
    # 4. The loss, with the z-loss.
    z_weight = sample * T(args.z_loss)
    log_sum_exp = where(z_weight != T(0), row_max + log1p_up(sum_exp_minus_1), N(0))
    z_square = z_weight * T(args.scale)
    loss = where(keep, sample * loss + z_weight * log_sum_exp * log_sum_exp, N(0))
    store(lines.losses + offset, loss)
    # 5. Gradient and Hessian.
    if args.grad.address != 0 or hess != 0:
        factors = RowFactors(sample * T(args.scale), z_square, T(2) * z_square * log_sum_exp)
        write_derivatives(
            N, T, args, DerivativeTiles(exps, first, second, hess), step, keep, sum_exp_minus_1,
            (max_first, max_second), factors,
        )  # fmt: skip
    return loss, n_ignored


@loop
def distribution_tile(N, T, args, params, rows, tiles, lines):
    """(sum of the losses, ignored rows, rows ignored in part) of n rows; results are stored."""
    logits, exps, slopes, first, second, hess = tiles
    item = lane_bytes(T)
    # 1. Load logits, targets and sample weights.
    load_logits(T, args, rows, logits, slopes)
    if args.sparse_targets:
        load_line(T, args, args.targets, args.load_targets, rows, lines.labels, args.ignore_index)
    else:
        fill(T, lines.labels, args.block, T(0))
        load_tile(T, args, args.targets, args.load_targets, rows, first)
    load_line(T, args, args.sample_weight, args.load_sample_weight, rows, lines.sample_weight, 1)
    for r in range(rows.n, args.block):
        # Lanes behind the last row have no loss, whatever label smoothing makes of their targets.
        store(lines.sample_weight + r * item, T(0))
    # 2. Losses and derivatives, a vector of rows at a time.
    total, ignored, n_partly_ignored = to_float64(N(0)), 0, 0
    for r in range(0, rows.n, width(N)):
        here = r * item
        hessian = second + here if hess != 0 else 0, hess + here if hess != 0 else 0
        loss, n_ignored = distribution_lanes(
            N, T, args, params, (logits + here, exps + here, first + here, hessian[0], hessian[1]),
            args.block * item, lines, here,
        )  # fmt: skip
        total = total + to_float64(loss)
        if args.real_targets:
            # 3. Count ignored rows. The line of labels is not used for distributions: the counts
            #    are stored there to leave out the lanes behind the last row.
            store(lines.labels + here, n_ignored)
            n_ignored = masked_load(lines.labels + here, rows.n - r, N(0))
            whole = n_ignored == N(args.classes)
            ignored += count_true(whole)
            n_partly_ignored += count_true((n_ignored > N(0)) & ~whole)
    # 4. Store derivatives and losses.
    if args.grad.address != 0 or hess != 0:
        finish_tile(T, args, rows, logits, slopes, exps, hess)
    store_row_losses(args, rows, lines.losses)
    return sum_of_lanes(total), ignored, n_partly_ignored


def distribution_columns(Params, T, Lanes):
    """The kernel for distributions and label smoothing, one row a lane.

    Reads logits (outer, classes, inner) of any float dtype, targets (outer, classes, inner) of any
    dtype or class indices (outer, inner), and if given sample_weight (outer, inner) of any dtype
    and weight (classes,) of T. Writes (blocks,) each: ``partial``, sums of losses in float64,
    ``count``, ignored rows, and ``bad``, 0 if a row is ignored in part, else -1; and if wanted loss
    (outer, inner), and grad and hess (outer, classes, inner). All arithmetic is of T.

    Params: the rule's NamedTuple; T: the compute dtype; Lanes: ``Wide`` or ``Single``.
    """
    item = np.dtype(T).itemsize

    def distribution_columns(address, first, last):
        args = args_at(address)
        params = params_at(address, Params, T)
        N = numbers(Lanes, T)
        # 1. Allocate the scratch memory, used for one block after the other.
        tile, line = tile_size(args) * item, padded(args.block) * item
        memory = np.empty(6 * tile + 3 * line + 64, np.uint8)
        u = align_line(memory)
        lines = u + 6 * tile
        has_hess = args.hess.address != 0
        tiles = DistributionTiles(
            u, u + tile, u + 2 * tile, u + 3 * tile,
            u + 4 * tile if has_hess else 0, u + 5 * tile if has_hess else 0,
        )  # fmt: skip
        for b in range(first, last):
            # 2. Everything of a block but the sum of its losses.
            outer, start, stop = block_rows(args, b)
            loss, ignored, n_partly_ignored = distribution_tile(
                N, T, args, params, RowRange(outer, start, stop - start), tiles,
                RowLines(lines, lines + line, lines + 2 * line),
            )  # fmt: skip
            # 3. The block's part of the reduced loss, and its counts.
            store_partial_sum(args, b, loss)
            store_counts(args, b, ignored, n_partly_ignored)
        memory[0] = 0  # the last use of memory: addresses alone do not keep it allocated

    return distribution_columns
