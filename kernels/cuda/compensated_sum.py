"""Sums over more terms than float32 adds up well.

A lane that has a row of many classes to itself adds up a group of them as usual, and then the sums
of groups with what each addition rounds away kept apart (a compensated sum, by Neumaier). So the
error does not grow with the number of classes, for a few instructions a group. The lanes of a block
that reads a row again do so with the terms of a distribution.
"""

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from fusedce.kernels.cuda.distribution import SplitSum, curved, tallied
from fusedce.kernels.cuda.row_cache import Reload
from fusedce.kernels.scalar import INLINED, exp_down, expm1, fma, scalar, where
from fusedce.kernels.vector import sum_of_lanes

GROUP = 256  # classes of a group; a multiple of those of a visit
VISITS = 32  # of a group, a power of two


class Sum(NamedTuple):
    """A sum, and what its additions have rounded away."""

    high: Any
    low: Any


class Exponentials(NamedTuple):
    """Of a row so far: its maximum, the sum of exp(z - maximum) below it, the number at it."""

    top: Any
    below: Sum
    ties: Any


class Tallies(NamedTuple):
    """A ``SplitSum`` whose sums are compensated."""

    top: Any
    below: Sum
    tied: Sum
    many: Any


@scalar
def nought(T):
    """The sum of nothing."""
    return Sum(T(0), T(0))


@scalar
def added(total, x):
    """The sum with one more term; the rounding of the addition is exact."""
    high = total.high + x
    part = high - total.high
    lost = (total.high - (high - part)) + (x - part)
    return Sum(high, total.low + lost)


@scalar
def value_of(total):
    """The sum as one number; where it is infinite, what was rounded away is NaN."""
    low = total.low
    return where(low == low, total.high + low, total.high)


@scalar
def shrunk(total, d):
    """The sum times exp(d) for d <= 0.

    A row of rising classes shrinks its sum once a group, by factors near 1: there expm1 says more.
    """
    T = type(d)
    high, factor, near = total.high, exp_down(d), d > T(-0.25)
    product = high * factor
    rest = where(near, high * expm1(d), fma(high, factor, -product))
    return added(Sum(where(near, high, product), total.low * factor), rest)


@scalar
def kept_if(condition, total):
    """The sum, or nothing."""
    T = type(total.high)
    return Sum(where(condition, total.high, T(0)), where(condition, total.low, T(0)))


@scalar
def with_group(row, top, below, ties):
    """A row's exponentials with those of a group, whose maximum counts the row's so far."""
    T = type(top)
    same = top == row.top
    before = where(same, T(0), row.ties)  # now they are below the maximum
    shrinking = added(row.below, before)
    return Exponentials(
        top, added(shrunk(shrinking, row.top - top), below), row.ties - before + ties
    )


@scalar
def with_tally(row, group):
    """A row's tallies with that of a group, whose top counts the row's so far."""
    T = type(group.top)
    same = group.top == row.top
    fallen = kept_if(group.top != row.top, row.tied)
    below = added(added(row.below, fallen.high), fallen.low)
    return Tallies(
        group.top,
        added(below, group.below),
        added(kept_if(same, row.tied), group.tied),
        where(same, row.many, T(0)) + group.many,
    )


@scalar
def tally_of(row):
    """The tallies as plain numbers."""
    return SplitSum(row.top, value_of(row.below), value_of(row.tied), row.many)


# ------------------------------------------------------------- the terms of a row, visit by visit


class Terms(NamedTuple):
    """(loss, tallies) of a group, and of the groups before."""

    loss: Any
    first: SplitSum
    second: SplitSum
    losses: Sum
    firsts: Tallies
    seconds: Tallies


@scalar
def tallies_of(tally):
    """The same numbers, to go on from."""
    T = type(tally.top)
    return Tallies(tally.top, Sum(tally.below, T(0)), Sum(tally.tied, T(0)), tally.many)


@scalar
def gathered(terms):
    """The terms with an empty group, whose tops are those of the row."""
    T = type(terms.loss)
    firsts, seconds = with_tally(terms.firsts, terms.first), with_tally(terms.seconds, terms.second)
    return Terms(
        T(0),
        SplitSum(firsts.top, T(0), T(0), T(0)),
        SplitSum(seconds.top, T(0), T(0), T(0)),
        added(terms.losses, terms.loss),
        firsts,
        seconds,
    )


def first_terms(residency, found):
    """What a lane's visits go on from: (loss, tallies) of its edge."""
    raise NotImplementedError("compiled code only")


@overload(first_terms, jit_options=INLINED)
def _first_terms(residency, found):
    if residency.instance_class is not Reload:
        return lambda residency, found: found

    def by_groups(residency, found):
        T = type(found[0])
        none = SplitSum(T(0), T(0), T(0), T(0))
        start = Terms(found[0], found[1], found[2], nought(T), tallies_of(none), tallies_of(none))
        return gathered(start)

    return by_groups


def more_terms(residency, extra, terms, visit, f, a, b):
    """The terms with those of a visit."""
    raise NotImplementedError("compiled code only")


@overload(more_terms, jit_options=INLINED)
def _more_terms(residency, extra, terms, visit, f, a, b):
    if residency.instance_class is not Reload:
        return lambda residency, extra, terms, visit, f, a, b: (
            terms[0] + sum_of_lanes(f), tallied(terms[1], a), curved(extra, terms[2], b)
        )  # fmt: skip

    def by_groups(residency, extra, terms, visit, f, a, b):
        if visit & np.int32(VISITS - 1) == np.int32(VISITS - 1):
            terms = gathered(terms)
        return Terms(
            terms.loss + sum_of_lanes(f), tallied(terms.first, a), curved(extra, terms.second, b),
            terms.losses, terms.firsts, terms.seconds,
        )  # fmt: skip

    return by_groups


def all_terms(residency, terms):
    """(loss, tallies) of a lane."""
    raise NotImplementedError("compiled code only")


@overload(all_terms, jit_options=INLINED)
def _all_terms(residency, terms):
    if residency.instance_class is not Reload:
        return lambda residency, terms: terms

    def by_groups(residency, terms):
        last = gathered(terms)
        return value_of(last.losses), tally_of(last.firsts), tally_of(last.seconds)

    return by_groups
