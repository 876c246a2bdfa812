"""Softmax with a distribution for a target: what row and column kernels share.

With a_j = mass_j f'(log p_j), S their sum, the gradient is a_j (1 - p_j) - p_j (S - a_j). S - a_j
is computed with the largest |a_j| kept apart from the sum of the others (``SplitSum``), so that a
one-hot or nearly one-hot target keeps the precision of its small components. Label smoothing of
class indices is a distribution too.

``args``: KernelArgs; ``tags``: DistributionTags or DistributionColumnTags; ``params``: those of the
rule; ``maximum``, ``sum_exp_minus_1``: of the row, see online_softmax.py; ``z``, ``x``, ``mass``:
stored logits, transformed logits and masses of some classes, numbers or vectors of T.
"""

from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels.cuda.load_store_scalar import float_of, number_at
from fusedce.kernels.cuda.logit_transform import Full, chain_transform
from fusedce.kernels.cuda.reduce import reduce_max, reduce_sum, reduce_sum2
from fusedce.kernels.cuda.rows import z_loss_of
from fusedce.kernels.cuda.tags import tag_class
from fusedce.kernels.cuda.unroll import unrolled
from fusedce.kernels.link import mul_or_zero, softmax_outcome
from fusedce.kernels.rule import evaluate
from fusedce.kernels.scalar import exp_down, fmax, generated, log1p_up, scalar, where
from fusedce.kernels.vector import Single, lane, lanes_as, max_of_lanes, sum_of_lanes, with_lane


class OneHot(NamedTuple):
    """Type tag: targets are class indices; the label is 1 at that class, 0 elsewhere."""


class Unweighted(NamedTuple):
    """Type tag: classes have no weights."""


class Target(NamedTuple):
    """The target of a row: mass_j = weight_j (factor label_j + label_shift)."""

    address: Any  # of the first label of a distribution
    label: Any  # class index, where targets are class indices
    factor: Any
    ignored: Any  # whether the first label is ignore_index: then all labels have to be


class SplitSum(NamedTuple):
    """A sum whose terms of the largest magnitude are kept apart from the others."""

    max_abs: float  # the largest |term|
    below: float  # sum of the terms below it; NaN terms are in it
    at_max: float  # sum of the terms at it
    n_at_max: float  # number of these


class RowSums(NamedTuple):
    """What the derivatives of a row are computed from."""

    maximum: float
    sum_exp_minus_1: float
    first: SplitSum  # of mass f'
    second: SplitSum  # of mass f''; valid with Full


class GradientFactors(NamedTuple):
    """The factors of a row's derivatives."""

    loss: Any  # of the derivatives of the rule: sample weight / denominator
    z_loss: Any  # of the squared logsumexp
    z_loss_slope: Any  # 2 z_loss logsumexp
    live: Any  # whether the row counts; else its derivatives are 0


@scalar
def first_label_ignored(args, T, target_dtype, address):
    """Whether the first label of a row, at an address, is ignore_index."""
    if args.real_targets == 0:
        return False
    return number_at(T, target_dtype, address) == float_of(T, args.ignore_value)


@scalar
def masked_mass(args, y, mass, ignored):
    """The mass of labels y: 0 in an ignored row; NaN where only some labels are ignore_index."""
    N = type(y)
    marked = y == N(float_of(lanes_as(y), args.ignore_value))
    if ignored:
        return where(marked, N(0), N(np.nan))
    return where(marked, N(np.nan), mass)


@scalar
def count_nonzero(labels):
    """The number of labels that are not zero (NaN counts)."""
    N = type(labels)
    return sum_of_lanes(where(labels != N(0), N(1), N(0)))


@generated
def evaluate_rule(evaluation, logp, logq, p, q, params):
    """(f, f', f'') of the rule, on vectors or, if it does not take them, lane by lane."""
    if evaluation.instance_class is not Single or not hasattr(p, "width"):
        return lambda evaluation, logp, logq, p, q, params: evaluate(logp, logq, p, q, params)

    @scalar
    def one(k, values, logp, logq, p, q, params):
        a, b, c = evaluate(lane(logp, k), lane(logq, k), lane(p, k), lane(q, k), params)
        f, f1, f2 = values
        return with_lane(f, k, a), with_lane(f1, k, b), with_lane(f2, k, c)

    each = unrolled(one, p.width)
    return lambda evaluation, logp, logq, p, q, params: each((p, p, p), logp, logq, p, q, params)


@scalar
def class_terms(evaluation, params, x, maximum, sum_exp_minus_1, mass):
    """(mass f, mass f', mass f'', p, 1 - p) of classes."""
    d = x - maximum
    logp, logq, p, q = softmax_outcome(d, exp_down(d), sum_exp_minus_1, log1p_up(sum_exp_minus_1))
    f, f1, f2 = evaluate_rule(evaluation, logp, logq, p, q, params)
    return mul_or_zero(mass, f), mul_or_zero(mass, f1), mul_or_zero(mass, f2), p, q


@scalar
def split_sum_add(total, a):
    """The SplitSum with the terms of a vector."""
    N, T = type(a), type(total.max_abs)
    max_abs = fmax(total.max_abs, max_of_lanes(abs(a)))
    same = max_abs == total.max_abs
    below = where(same, total.below, total.below + total.at_max)
    at_max, n = where(same, total.at_max, T(0)), where(same, total.n_at_max, T(0))
    high = abs(a) >= max_abs
    return SplitSum(
        max_abs,
        below + sum_of_lanes(where(high, N(0), a)),
        at_max + sum_of_lanes(where(high, a, N(0))),
        n + sum_of_lanes(where(high, N(1), N(0))),
    )


@scalar
def split_sum_reduce(group, args, slot, total):
    """The SplitSum of a row from those of the group's threads. Takes four reduction slots."""
    T = type(total.max_abs)
    max_abs = reduce_max(group, args, slot, total.max_abs, T(0))
    same = max_abs == total.max_abs
    below = where(same, total.below, total.below + total.at_max)
    below, at_max = reduce_sum2(group, args, slot + 1, below, where(same, total.at_max, T(0)))
    n = reduce_sum(group, args, slot + 3, where(same, total.n_at_max, T(0)))
    return SplitSum(max_abs, below, at_max, n)


@scalar
def sum_of_others(x, total):
    """The sum of all terms but x. If x is the only one at the largest magnitude: exactly below.

    x is computed again, and may differ from the term that was added by a rounding error.
    """
    T = type(total.max_abs)
    below, at_max = total.below, total.at_max
    high = abs(x) >= total.max_abs * (T(1) - T(8 * np.finfo(T).eps))
    others = where(total.n_at_max > T(1), at_max - x, type(x)(0))
    return where(high, below + others, (below + at_max) - x)


@scalar
def z_loss_terms(args, T, sample, maximum, sum_exp_minus_1):
    """(lse, factor, factor * lse) of the z-loss of a row, factor * lse**2; lse: its logsumexp."""
    lse, factor = maximum + log1p_up(sum_exp_minus_1), sample * z_loss_of(args, T)
    # Without z-loss the product is 0 even where the logsumexp is infinite.
    return lse, factor, where(factor == T(0), T(0), factor * lse)


@generated
def distribution_derivatives(tags, args, params, z, x, mass, sums, factors):
    """(gradients, second derivatives) of classes with respect to their stored logits."""
    if tag_class(tags, "features") is not Full:

        def plain(tags, args, params, z, x, mass, sums, factors):
            f, a, b, p, q = class_terms(
                tags.evaluation, params, x, sums.maximum, sums.sum_exp_minus_1, mass
            )
            g = factors.loss * (a * q - p * sum_of_others(a, sums.first)) + factors.z_loss_slope * p
            return g, g

        return plain

    def full(tags, args, params, z, x, mass, sums, factors):
        T = type(sums.maximum)
        f, a, b, p, q = class_terms(
            tags.evaluation, params, x, sums.maximum, sums.sum_exp_minus_1, mass
        )
        g = factors.loss * (a * q - p * sum_of_others(a, sums.first)) + factors.z_loss_slope * p
        total = sums.first.below + sums.first.at_max
        h = factors.loss * (b * q * q + p * p * sum_of_others(b, sums.second) - total * p * q)
        h += T(2) * factors.z_loss * p * p + factors.z_loss_slope * p * q
        return chain_transform(args, z, x, g, h)

    return full


@generated
def split_sum_add_hess(features, total, b):
    """``split_sum_add`` of mass f'' with Full; nothing with Plain."""
    if features.instance_class is Full:
        return lambda features, total, b: split_sum_add(total, b)
    return lambda features, total, b: total


@generated
def split_sum_reduce_hess(features, group, args, slot, total):
    """``split_sum_reduce`` with Full; nothing with Plain."""
    if features.instance_class is Full:
        return lambda features, group, args, slot, total: split_sum_reduce(group, args, slot, total)
    return lambda features, group, args, slot, total: total
