"""The exponentials of a row: below a maximum, their sum, and once more for the gradient.

float32 arithmetic takes two instructions a logit: e**(z - m) = 2**(z L - R) c with L = 1 / log 2,
R = m L rounded, and a factor c near 1 for what that rounding lost, the same for the whole row. The
product z L - R is rounded once, so this is better than exp(z - m) with its two roundings. The
exponents are ``LIFT`` higher, for c to take back: what the unit would flush to 0 is then smaller
than any subnormal number. Where the maximum is so large that c would not be near 1, logits are
taken relative to it first.
"""

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from fusedce.kernels.cuda.dtypes import Float32, Float64
from fusedce.kernels.cuda.elementary import exp_coarse, exp_rough, largest_of, power_of_two
from fusedce.kernels.cuda.lane_reduce import largest_last, ones, pinned, product_total
from fusedce.kernels.cuda.reduce import both, maximum
from fusedce.kernels.cuda.row_cache import Fetched
from fusedce.kernels.scalar import INLINED, exp_down, fma, scalar, where
from fusedce.kernels.vector import lane, lanes_as, max_of_lanes, sum_of_lanes, width, with_lane

LIFT = 24.0
UP, DOWN = 2.0**LIFT, 2.0**-LIFT
LARGE = 16384.0  # a maximum from which c is not taken near enough to 1
LARGE_OF_HALF = 256.0  # one up to which it is taken as 1, to 1e-5


class Below(NamedTuple):
    """How exponentials below a maximum are made, and by what they are too large."""

    top: Any
    level: Any  # what it is among the logits of ``relative``
    base: Any  # in powers of two
    excess: Any


def below_of(form, top):
    """The exponentials below a maximum."""
    raise NotImplementedError("compiled code only")


@overload(below_of, jit_options=INLINED)
def _below_of(form, top):
    if form.instance_class is Float64:
        return lambda form, top: Below(top, top, top, type(top)(1))

    def half(form, top):
        T = np.float32
        level = where(far(form, top), T(0), top)
        return Below(top, level, level * T(-1.442695), T(1))

    def single(form, top):
        T = np.float32
        level = where(far(form, top), T(0), top)
        base = level * T(1.442695)
        lost = fma(level, T(1.442695), -base)
        return Below(top, level, T(LIFT) - base, T(DOWN) * fma(lost, T(-0.6931472), T(1)))

    return single if form.instance_class is Float32 else half


def far(form, top):
    """Whether a maximum is so large that logits are taken relative to it."""
    raise NotImplementedError("compiled code only")


@overload(far, jit_options=INLINED)
def _far(form, top):
    limit = LARGE if form.instance_class is Float32 else LARGE_OF_HALF
    return lambda form, top: abs(top) > np.float32(limit)


def relative(form, below, z):
    """Logits that ``powers`` takes: less the maximum if that is large."""
    raise NotImplementedError("compiled code only")


@overload(relative, jit_options=INLINED)
def _relative(form, below, z):
    if form.instance_class is Float64:
        return lambda form, below, z: z

    def single(form, below, z):
        if far(form, below.top):
            z = pinned(z - below.top)
        return z

    return single


def powers(form, below, z):
    """exp(z - level) / excess for z <= level; NaN stays NaN."""
    raise NotImplementedError("compiled code only")


@overload(powers, jit_options=INLINED)
def _powers(form, below, z):
    if form.instance_class is Float64:
        return lambda form, below, z: exp_down(z - below.top)

    return lambda form, below, z: power_of_two(fma(z, np.float32(1.442695), below.base))


SMALL = 2.0**-64  # a factor from which ``LIFT`` may not be taken: bits would be lost


def scaled(form, top, factor):
    """(exponentials below a maximum, what makes factor * exp(z - top) of them)."""
    raise NotImplementedError("compiled code only")


@overload(scaled, jit_options=INLINED)
def _scaled(form, top, factor):
    if form.instance_class is not Float32:

        def simply(form, top, factor):
            below = below_of(form, top)
            return below, factor * below.excess

        return simply

    def single(form, top, factor):
        T = np.float32
        below = below_of(form, top)
        small = abs(factor) < T(SMALL)
        base = where(small, below.base - T(LIFT), below.base)
        excess = where(small, below.excess * T(UP), below.excess)
        return Below(top, below.level, base, excess), factor * excess

    return single


def multiples_of(form, top, factor, e):
    """factor * exp(z - top) from what ``powers`` gave."""
    raise NotImplementedError("compiled code only")


@overload(multiples_of, jit_options=INLINED)
def _multiples_of(form, top, factor, e):
    if form.instance_class is not Float32:
        return lambda form, top, factor, e: e * (factor * below_of(form, top).excess)

    def single(form, top, factor, e):
        T = np.float32
        excess = below_of(form, top).excess
        if abs(factor) < T(SMALL):
            e, excess = pinned(e * excess), T(1)
        return e * (factor * excess)

    return single


# ---------------------------------------------------------------------- maximum and sum of a row


def lowered(form, d):
    """exp(d) for d <= 0, of what has been summed up below a maximum that has risen by -d."""
    raise NotImplementedError("compiled code only")


@overload(lowered, jit_options=INLINED)
def _lowered(form, d):
    if form.instance_class is Float64:
        return lambda form, d: exp_down(d)
    if form.instance_class is Float32:
        # A row of rising logits comes here once a visit: near 0 this is as right as the unit.
        return lambda form, d: exp_rough(d)
    return lambda form, d: exp_coarse(d)


@scalar
def fresh(form, z):
    """(maximum, sum of exp(z - maximum) below it, number at it) of logits; the exponentials."""
    N, T = type(z), lanes_as(z)
    peak = largest_of(max_of_lanes(z), T(-np.finfo(T).max))
    way = below_of(form, peak)
    z = relative(form, way, z)
    e = powers(form, way, z)
    lower = where(z >= way.level, N(0), N(1))
    return peak, product_total(e, lower) * way.excess, T(width(N)) - ones(lower), e


@scalar
def absorbed(form, top, below, ties, z):
    """(maximum, sum of exp(z - maximum) below it, number at it) with some more logits; and those.

    Apart, because 1 + sum loses what a confident row is about: 1 - p of the largest class is the
    sum of the others over the total. A NaN is below. The exponentials returned are too large by
    the ``excess`` of ``below_of`` the maximum.
    """
    N, T = type(z), type(top)
    peak = largest_of(max_of_lanes(z), top)
    same = peak == top
    way = below_of(form, peak)
    z = relative(form, way, z)
    e = powers(form, way, z)
    lower = where(z >= way.level, N(0), N(1))
    below = where(same, below, (below + ties) * lowered(form, top - peak))
    ties = where(same, ties, T(0)) + (T(width(N)) - ones(lower))
    return peak, below + product_total(e, lower) * way.excess, ties, e


def absorb_visit(way, form, top, below, ties, z):
    """(maximum, sum below it, number at it, what ``absorbed`` gives or nothing) after a visit."""
    raise NotImplementedError("compiled code only")


@overload(absorb_visit, jit_options=INLINED)
def _absorb_visit(way, form, top, below, ties, z):
    if way.instance_class is Fetched and form.instance_class is not Float64:
        return lambda way, form, top, below, ties, z: outplayed(form, top, below, ties, z)
    return lambda way, form, top, below, ties, z: absorbed(form, top, below, ties, z)


@scalar
def outplayed(form, top, below, ties, z):
    """``absorbed`` in fewer instructions (sm_80), its exponentials in no order.

    The lanes play a knock-out, which leaves the largest last. One number at the maximum is left
    out of the sum; others equal to it are in there as 1.
    """
    T, last = type(top), np.int32(width(type(z)) - 1)
    z = largest_last(z)
    best = lane(z, last)
    peak = largest_of(best, top)
    way = below_of(form, peak)
    e = powers(form, way, relative(form, way, z))
    won = peak != top or ties == T(0)
    before = where(peak == top, below, (below + ties) * lowered(form, top - peak))
    left = won and best >= peak
    e = with_lane(e, last, where(left, T(0), lane(e, last)))
    return peak, before + sum_of_lanes(e) * way.excess, where(left, T(1), ties), e


@scalar
def absorb(form, top, below, ties, z):
    """The same without the exponentials."""
    top, below, ties, e = absorbed(form, top, below, ties, z)
    return top, below, ties


@scalar
def settled(team, plan, form, place, top, below, ties):
    """(maximum, sum of exponentials - 1) of a row, from what its lanes have found.

    NaN without a class at the maximum, all being -inf (or NaN), or if it is infinite. Three
    exchanges.
    """
    T = type(top)
    m = maximum(team, plan, place, top, T(-np.finfo(T).max))
    same = top == m
    below = where(same, below, (below + ties) * lowered(form, top - m))
    below, ties = both(team, plan, place + 1, below, where(same, ties, T(0)))
    fine = ties > T(0) and m < T(np.inf)
    return m, where(fine, below + (ties - T(1)), T(np.nan))
