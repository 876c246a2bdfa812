"""Losses of softmax rows whose target is a distribution, or class indices with label smoothing.

The rule is evaluated for every class, times the target mass of the class. With
a_j = mass_j f'(log p_j) and S the sum of all a_j, the gradient is
grad_j = a_j (1 - p_j) - p_j (S - a_j). In S - a_j the largest |a| is kept apart from the sum of the
others, so that small components keep their precision where the target is one-hot or nearly so.
"""

from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels.cpu.blocks import (
    RowRange,
    align_line,
    block_rows,
    load_class_indices,
    load_one,
    padded,
    row_address,
    store_partial_sum,
    store_row_losses,
)
from fusedce.kernels.cpu.kernel_args import args_at, params_at
from fusedce.kernels.cpu.labels import store_counts
from fusedce.kernels.cpu.load_store import load, masked_load, prefetch, store
from fusedce.kernels.cpu.rows import (
    StripScratch,
    load_rows,
    online_softmax,
    outputs_from,
    rescale_exps,
    row_fits,
    row_outputs,
    store_strip,
    store_zeros,
    strip_logits,
    strip_logits_and_exps,
    strips_per_row,
)
from fusedce.kernels.cpu.target_mass import count_positive_labels, load_masses
from fusedce.kernels.cpu.vector_loops import FLUSH, loop, set_at
from fusedce.kernels.link import mul_or_zero, softmax_outcome, softmax_rest
from fusedce.kernels.rule import evaluate
from fusedce.kernels.scalar import fmax, log1p_up, scalar, where
from fusedce.kernels.tuning import STRIP
from fusedce.kernels.vector import (
    lane_bytes,
    lanes,
    max_of_lanes,
    numbers,
    sum_of_lanes,
    to_float64,
    width,
)


class RowInputs(NamedTuple):
    """Addresses of a row in the caller's arrays."""

    logits: int
    targets: int


class ReducedRow(NamedTuple):
    """The target of a row and its softmax."""

    label: int  # class index, where targets are class indices
    factor: Any  # of each target, type T
    max: Any  # of the logits, type T
    sum_exp_minus_1: Any


class DistributionScratch(NamedTuple):
    """Addresses of the buffers of a row: (C,) T each, or (STRIP,) where a row does not fit."""

    logits: int
    exps: int  # exp(z - max)
    mass: int  # (STRIP,) T: targets of a strip, then their masses
    first: int  # mass f'(log p)
    second: int  # mass f''(log p); 0: no Hessian
    strip: StripScratch
    strip_maxima: int  # (strips,) T


class StripInputs(NamedTuple):
    """Addresses of the logits, exponentials and masses of a strip, (n,) T each."""

    logits: int
    exps: int
    mass: int


class SplitSum(NamedTuple):
    """A sum in two parts: of the elements below the largest magnitude, and of those at it."""

    max: Any  # the largest magnitude
    below: Any
    at_max: Any


class RowFactors(NamedTuple):
    """What the derivatives of a row are multiplied by, with s = sample weight / denominator."""

    weight: Any  # s
    z_square: Any  # s * z_loss
    z_slope: Any  # 2 s z_loss log(sum of exp(z)): the gradient of the z-loss is z_slope * p


@loop
def evaluate_strip(N, T, params, n, inputs, row_max, sum_exp_minus_1, first, second):
    """(sum of mass f(log p), the largest |first|, the largest |second|) of n classes.

    first <- mass f'(log p), second <- mass f''(log p) unless it is 0: addresses of (n,) T.
    """
    logits, exps, masses = inputs
    log_total = log1p_up(sum_exp_minus_1)
    losses = to_float64(N(0))
    max_first, max_second = N(0), N(0)
    for start in range(0, n, FLUSH * width(N)):
        loss = N(0)
        for j in range(start, min(n, start + FLUSH * width(N)), width(N)):
            here, left = j * lane_bytes(N), n - j
            prefetch(masses + n * lane_bytes(N) + here)  # most likely those of the next strip
            d, e = masked_load(logits + here, left, N(row_max)) - row_max, load(N, exps + here)
            mass = masked_load(masses + here, left, N(0))
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
        losses = losses + to_float64(loss)
    return sum_of_lanes(losses), max_of_lanes(max_first), max_of_lanes(max_second)


@scalar
def split_at(x, max_abs):
    """(x, 0) for |x| < ``max_abs``, else (0, x)."""
    T = type(x)
    high = abs(x) >= max_abs
    return where(high, T(0), x), where(high, x, T(0))


@loop
def sums_below_and_at(T, a, n, max_abs):
    """Float64 sums of the elements of a, (n,) T, with |a| < ``max_abs``, and of the others."""
    N = lanes(T)
    below, at_max = to_float64(N(0)), to_float64(N(0))
    for start in range(0, n, FLUSH * width(N)):
        s, t = N(0), N(0)
        for j in range(start, min(n, start + FLUSH * width(N)), width(N)):
            low, high = split_at(masked_load(a + j * lane_bytes(N), n - j, N(0)), max_abs)
            s, t = s + low, t + high
        below, at_max = below + to_float64(s), at_max + to_float64(t)
    return sum_of_lanes(below), sum_of_lanes(at_max)


@scalar
def sum_of_others(x, max_abs, below, at_max):
    """The sum of all elements but x, from their ``SplitSum``.

    An element at the largest magnitude is subtracted from the part it belongs to, without error
    where it is the only one.
    """
    return where(abs(x) >= max_abs, below + (at_max - x), (below + at_max) - x)


@loop
def distribution_gradient(T, exps, first, n, total, sum_exp_minus_1, weight, z_slope, grad):
    """grad <- weight (a q - p (S - a)) + z_slope p, with a = ``first`` and S its sum ``total``.

    exps, first, grad: addresses of (n,) T.
    """
    N = lanes(T)
    max_abs, below, at_max = total
    whole = T(1) + sum_exp_minus_1
    inverse = T(1) / whole
    for j in range(0, n, width(N)):
        here = j * lane_bytes(N)
        e, x = load(N, exps + here), load(N, first + here)
        p, q = e * inverse, softmax_rest(e, sum_exp_minus_1, whole) * inverse
        g = weight * (x * q - p * sum_of_others(x, max_abs, below, at_max)) + z_slope * p
        store(grad + here, g)


class HessianFactors(NamedTuple):
    """``RowFactors``, and the sum of mass f'(log p) over the classes; type T each."""

    weight: Any
    sum_first: Any
    z_square: Any
    z_slope: Any


@loop
def distribution_hessian(T, exps, second, n, total, sum_exp_minus_1, factors, hess):
    """hess <- weight (b q**2 + p**2 (S2 - b) - S p q) + 2 z_square p**2 + z_slope p q.

    b is ``second``, S2 its sum ``total``, S is ``sum_first``.
    """
    N = lanes(T)
    max_abs, below, at_max = total
    weight, sum_first, z_square, z_slope = factors
    whole = T(1) + sum_exp_minus_1
    inverse = T(1) / whole
    for j in range(0, n, width(N)):
        here = j * lane_bytes(N)
        e, x = load(N, exps + here), load(N, second + here)
        p, q = e * inverse, softmax_rest(e, sum_exp_minus_1, whole) * inverse
        rule = x * q * q + p * p * sum_of_others(x, max_abs, below, at_max) - sum_first * p * q
        store(hess + here, weight * rule + T(2) * z_square * p * p + z_slope * p * q)


@loop
def add_strip(T, total, a, n, max_abs):
    """The ``SplitSum`` of a row with one more strip: n elements at a, |a| at most ``max_abs``."""
    before, below, at_max = total
    new = max(before, max_abs)
    if new > before:
        below, at_max = below + at_max, 0.0
    strip_below, strip_at_max = sums_below_and_at(T, a, n, new)
    return SplitSum(new, below + strip_below, at_max + strip_at_max)


@loop
def strip_rule(N, T, args, params, inputs, row, start, n, scratch):
    """The rule on n classes of a row from class ``start`` on.

    Returns what ``evaluate_strip`` does, the addresses of the strip's logits, exponentials and
    derivatives by log p, and the number of its targets that equal ignore_index.
    """
    block, e = strip_logits_and_exps(
        T, args, inputs.logits, start, n, row.max, scratch.logits, scratch.exps
    )
    offset = start * lane_bytes(T) if row_fits(args) else 0
    mass, n_ignored = load_masses(
        T, args, inputs.targets, row.label, start, n, row.factor, scratch.mass
    )
    second = scratch.second + offset if scratch.second != 0 else 0
    found = evaluate_strip(
        N, T, params, n, StripInputs(block, e, mass), row.max, row.sum_exp_minus_1,
        scratch.first + offset, second,
    )  # fmt: skip
    return found, block, e, scratch.first + offset, second, n_ignored


@loop
def row_sums(N, T, args, params, inputs, row, scratch):
    """(loss, SplitSum of mass f'(log p), that of mass f''(log p), ignored targets) of a row."""
    loss, first, second, n_ignored = (
        0.0, SplitSum(T(0), 0.0, 0.0), SplitSum(T(0), 0.0, 0.0), 0,
    )  # fmt: skip
    for start in range(0, args.classes, STRIP):
        n = min(STRIP, args.classes - start)
        (f, max_a, max_b), block, e, a, b, count = strip_rule(
            N, T, args, params, inputs, row, start, n, scratch
        )
        loss += f
        n_ignored += count
        first = add_strip(T, first, a, n, max_a)
        if b != 0:
            second = add_strip(T, second, b, n, max_b)
    return loss, first, second, n_ignored


@loop
def write_distribution(N, T, args, params, inputs, out, row, factors, sums, scratch):
    """Gradient and Hessian of a row; sums: the ``SplitSum`` of its first and second derivatives."""
    sum_a, sum_b = sums
    weight, z_square, z_slope = factors
    first = SplitSum(sum_a.max, T(sum_a.below), T(sum_a.at_max))
    second = SplitSum(sum_b.max, T(sum_b.below), T(sum_b.at_max))
    for start in range(0, args.classes, STRIP):
        n = min(STRIP, args.classes - start)
        block = strip_logits(T, args, inputs.logits, start, n, scratch.logits)
        e, a, b = scratch.exps, scratch.first, scratch.second
        if row_fits(args):
            offset = start * lane_bytes(T)
            e, a, b = e + offset, a + offset, b + offset
        else:
            found, block, e, a, b, count = strip_rule(
                N, T, args, params, inputs, row, start, n, scratch
            )
        strip = scratch.strip
        distribution_gradient(T, e, a, n, first, row.sum_exp_minus_1, weight, z_slope, strip.grad)
        if out.hess != 0:
            both = HessianFactors(weight, first.below + first.at_max, z_square, z_slope)
            distribution_hessian(T, e, b, n, second, row.sum_exp_minus_1, both, strip.hess)
        store_strip(
            T, args, n, outputs_from(args, out, start),
            inputs.logits + start * args.logits.cls, block, strip,
        )  # fmt: skip


@loop
def distribution_row(N, T, args, params, outer, inner, label, scratch):
    """(loss, number of ignored targets) of a row; its gradient and Hessian are written.

    label: its class index, where targets are class indices; scratch: ``DistributionScratch``.
    """
    source = row_address(args.logits, outer, inner)
    target = row_address(args.targets, outer, inner)
    out = row_outputs(args, outer, inner)
    # 1. The factor of the targets; with normalize_targets 1 / (number of nonzero targets).
    factor = T(args.label_factor)
    ignored = args.sparse_targets != 0 and label == args.ignore_index
    if args.normalize:
        found = count_positive_labels(T, args, target, scratch.mass)
        ignored = found == 0
        factor = T(args.label_factor / found)
    if ignored:
        store_zeros(T, args, out, scratch.strip.grad)
        return T(0), 0
    # 2. The sample weight.
    sample = T(1)
    if args.sample_weight.address != 0:
        here = row_address(args.sample_weight, outer, inner)
        sample = load_one(T, args.load_sample_weight, here, scratch.mass)
    # 3. Softmax: maximum and sum of exponentials.
    load_rows(T, args, outer, inner, 1, scratch.logits)
    row_max, sum_exp_minus_1 = online_softmax(
        T, args, source, scratch.logits, scratch.exps, scratch.strip_maxima
    )
    rescale_exps(T, args, row_max, scratch.exps, scratch.strip_maxima)
    # 4. The rule on every class: the loss, and the sums that the derivatives need.
    inputs = RowInputs(source, target)
    row = ReducedRow(label, factor, row_max, sum_exp_minus_1)
    loss, first, second, n_ignored = row_sums(N, T, args, params, inputs, row, scratch)
    if n_ignored == args.classes:
        store_zeros(T, args, out, scratch.strip.grad)
        return T(0), n_ignored
    # 5. Gradient and Hessian, with the z-loss.
    log_sum_exp = row_max + log1p_up(sum_exp_minus_1)
    z_weight = sample * T(args.z_loss)
    if out.grad != 0 or out.hess != 0:
        z_square = z_weight * T(args.scale)
        factors = RowFactors(sample * T(args.scale), z_square, T(2) * z_square * log_sum_exp)
        write_distribution(N, T, args, params, inputs, out, row, factors, (first, second), scratch)
    return sample * T(loss) + z_weight * log_sum_exp * log_sum_exp, n_ignored


def distribution_rows(Params, T, Lanes):
    """The kernel for distributions, and for class indices with label smoothing, row by row.

    Reads logits (outer, classes, inner) of any float dtype, targets (outer, classes, inner) of any
    dtype or class indices (outer, inner), and if given sample_weight (outer, inner) of any dtype
    and weight (classes,) of T. Writes (blocks,) each: ``partial``, sums of losses in float64,
    ``count``, ignored rows, and ``bad``, 0 if a row is ignored in part, else -1; and if wanted loss
    (outer, inner), and grad and hess (outer, classes, inner). All arithmetic is of T.

    Params: the rule's NamedTuple; T: the compute dtype; Lanes: ``Wide`` or ``Single``.
    """
    item = np.dtype(T).itemsize

    def distribution_rows(address, first, last):
        args = args_at(address)
        params = params_at(address, Params, T)
        N = numbers(Lanes, T)
        # 1. Allocate the scratch memory, used for one row after the other.
        row, strip = padded(max(STRIP, args.width)) * item, padded(STRIP) * item
        loss_bytes, max_bytes = padded(args.block) * item, padded(strips_per_row(args)) * item
        memory = np.empty(5 * row + 3 * strip + loss_bytes + max_bytes + 64, np.uint8)
        u = align_line(memory)
        g = u + 5 * row
        strip_maxima = g + 3 * strip + loss_bytes
        losses = g + 3 * strip
        second = u + 4 * row if args.hess.address != 0 else 0
        scratch = DistributionScratch(
            u, u + row, u + 2 * row, u + 3 * row, second,
            StripScratch(g, g + strip, g + 2 * strip), strip_maxima,
        )  # fmt: skip
        labels = np.zeros(args.block, np.int64)
        for b in range(first, last):
            # 2. Load the labels of the block, where they are class indices.
            outer, start, stop = block_rows(args, b)
            rows = RowRange(outer, start, stop - start)
            if args.sparse_targets:
                load_class_indices(args, rows, labels)
            # 3. Each row: loss, gradient and Hessian; count the ignored rows, and those in part.
            total, ignored, n_partly_ignored = 0.0, 0, 0
            for r in range(rows.n):
                loss, n_ignored = distribution_row(
                    N, T, args, params, rows.outer, rows.start + r, labels[r], scratch
                )
                ignored += n_ignored == args.classes
                n_partly_ignored += 0 < n_ignored < args.classes
                total += np.float64(loss)
                set_at(T, losses, r, loss)
            # 4. Losses of the rows, the block's part of the reduced loss, and its counts.
            store_row_losses(args, rows, losses)
            store_partial_sum(args, b, total)
            store_counts(args, b, ignored, n_partly_ignored)
        memory[0] = 0  # the last use of memory: addresses alone do not keep it allocated

    return distribution_rows
