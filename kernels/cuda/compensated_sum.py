"""Compensated sums (Kahan-Babuska, in Neumaier's form), for more terms than float32 adds up well.

A thread with a row of many classes to itself adds up a segment of ``SEGMENT_CLASSES`` classes as
usual, and then the sums of segments with the rounding error of each addition kept in a second
number. So the error does not grow with the number of classes, for a few instructions a segment.
Threads that share a row and load it again do the same with the terms of a distribution.
"""

from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels.cuda.distribution import SplitSum, split_sum_add, split_sum_add_hess
from fusedce.kernels.cuda.row_cache import Reload
from fusedce.kernels.cuda.tags import tag_class
from fusedce.kernels.scalar import exp_down, expm1, fma, generated, scalar, where
from fusedce.kernels.vector import sum_of_lanes

SEGMENT_CLASSES = 256  # a multiple of the classes of an iteration
SEGMENT_ITERATIONS = 32  # a power of two


class CompensatedSum(NamedTuple):
    """A sum, and the rounding errors of its additions."""

    high: Any
    low: Any


class CompensatedSoftmax(NamedTuple):
    """A ``SoftmaxState`` whose sum is compensated."""

    maximum: Any
    sum_below_max: CompensatedSum
    n_at_max: Any


class CompensatedSplitSum(NamedTuple):
    """A ``SplitSum`` whose sums are compensated."""

    max_abs: Any
    below: CompensatedSum
    at_max: CompensatedSum
    n_at_max: Any


@scalar
def zero_sum(T):
    """An empty sum."""
    return CompensatedSum(T(0), T(0))


@scalar
def neumaier_add(total, x):
    """The sum with one more term; the rounding error of the addition is computed exactly."""
    high = total.high + x
    part = high - total.high
    lost = (total.high - (high - part)) + (x - part)
    return CompensatedSum(high, total.low + lost)


@scalar
def sum_value(total):
    """The sum as one number. Where it is infinite its rounding errors are NaN and left out."""
    low = total.low
    return where(low == low, total.high + low, total.high)


@scalar
def sum_times_exp(total, d):
    """The sum times exp(d) for d <= 0.

    A row of rising logits rescales its sum after each segment, by factors near 1: expm1 has a
    smaller error there.
    """
    T = type(d)
    high, factor, near = total.high, exp_down(d), d > T(-0.25)
    product = high * factor
    rest = where(near, high * expm1(d), fma(high, factor, -product))
    return neumaier_add(CompensatedSum(where(near, high, product), total.low * factor), rest)


@scalar
def sum_where(condition, total):
    """The sum where the condition holds, else an empty one."""
    T = type(total.high)
    return CompensatedSum(where(condition, total.high, T(0)), where(condition, total.low, T(0)))


@scalar
def merge_softmax(row, segment):
    """The CompensatedSoftmax of a row, with the SoftmaxState of a segment.

    The segment's maximum is at least the row's: it started from that.
    """
    T = type(segment.maximum)
    same = segment.maximum == row.maximum
    before = where(same, T(0), row.n_at_max)  # these are below the new maximum
    below = sum_times_exp(neumaier_add(row.sum_below_max, before), row.maximum - segment.maximum)
    return CompensatedSoftmax(
        segment.maximum,
        neumaier_add(below, segment.sum_below_max),
        row.n_at_max - before + segment.n_at_max,
    )


@scalar
def merge_split_sum(row, segment):
    """The CompensatedSplitSum of a row, with the SplitSum of a segment.

    The segment's max_abs is at least the row's: it started from that.
    """
    T = type(segment.max_abs)
    same = segment.max_abs == row.max_abs
    fallen = sum_where(segment.max_abs != row.max_abs, row.at_max)
    below = neumaier_add(neumaier_add(row.below, fallen.high), fallen.low)
    return CompensatedSplitSum(
        segment.max_abs,
        neumaier_add(below, segment.below),
        neumaier_add(sum_where(same, row.at_max), segment.at_max),
        where(same, row.n_at_max, T(0)) + segment.n_at_max,
    )


@scalar
def split_sum_value(row):
    """The SplitSum, its sums as plain numbers."""
    return SplitSum(row.max_abs, sum_value(row.below), sum_value(row.at_max), row.n_at_max)


# -------------------------------------------------- the terms of a row, iteration by iteration


class SegmentedTerms(NamedTuple):
    """(loss, first, second) of the current segment, and of the segments before it."""

    loss: Any
    first: SplitSum
    second: SplitSum
    total_loss: CompensatedSum
    total_first: CompensatedSplitSum
    total_second: CompensatedSplitSum


@scalar
def to_compensated(plain):
    """The CompensatedSplitSum of a SplitSum."""
    T = type(plain.max_abs)
    return CompensatedSplitSum(
        plain.max_abs,
        CompensatedSum(plain.below, T(0)),
        CompensatedSum(plain.at_max, T(0)),
        plain.n_at_max,
    )


@scalar
def close_segment(terms):
    """Add the current segment to those before, and start an empty one with the row's max_abs."""
    T = type(terms.loss)
    first = merge_split_sum(terms.total_first, terms.first)
    second = merge_split_sum(terms.total_second, terms.second)
    return SegmentedTerms(
        T(0),
        SplitSum(first.max_abs, T(0), T(0), T(0)),
        SplitSum(second.max_abs, T(0), T(0), T(0)),
        neumaier_add(terms.total_loss, terms.loss),
        first,
        second,
    )


@generated
def init_terms(tags, found):
    """What a thread's iterations add to; ``found``: (loss, first, second) of its remainder."""
    if tag_class(tags, "residency") is not Reload:
        return lambda tags, found: found

    def segmented(tags, found):
        T = type(found[0])
        none = SplitSum(T(0), T(0), T(0), T(0))
        total = zero_sum(T), to_compensated(none), to_compensated(none)
        start = SegmentedTerms(found[0], found[1], found[2], total[0], total[1], total[2])
        return close_segment(start)

    return segmented


@generated
def add_terms(tags, terms, iteration, f, a, b):
    """The terms with those of an iteration: mass f, mass f' and mass f'' of its classes."""
    if tag_class(tags, "residency") is not Reload:
        return lambda tags, terms, iteration, f, a, b: (
            terms[0] + sum_of_lanes(f), split_sum_add(terms[1], a),
            split_sum_add_hess(tags.features, terms[2], b),
        )  # fmt: skip

    def segmented(tags, terms, iteration, f, a, b):
        if iteration & np.int32(SEGMENT_ITERATIONS - 1) == np.int32(SEGMENT_ITERATIONS - 1):
            terms = close_segment(terms)
        return SegmentedTerms(
            terms.loss + sum_of_lanes(f), split_sum_add(terms.first, a),
            split_sum_add_hess(tags.features, terms.second, b),
            terms.total_loss, terms.total_first, terms.total_second,
        )  # fmt: skip

    return segmented


@generated
def total_terms(tags, terms):
    """(loss, first, second) of a thread: the loss, SplitSums of mass f' and of mass f''."""
    if tag_class(tags, "residency") is not Reload:
        return lambda tags, terms: terms

    def segmented(tags, terms):
        last = close_segment(terms)
        return (
            sum_value(last.total_loss),
            split_sum_value(last.total_first),
            split_sum_value(last.total_second),
        )

    return segmented
