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
from fusedce.kernels.cuda.lane_reduce import count_ones, max_last, sum_of_products
from fusedce.kernels.cuda.load_store import optimization_barrier
from fusedce.kernels.cuda.reduce import reduce_max, reduce_sum2
from fusedce.kernels.cuda.row_cache import SmemAsync
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


def below_of(dtype, top):
    """The exponentials below a maximum."""
    raise NotImplementedError("compiled code only")


@overload(below_of, jit_options=INLINED)
def _below_of(dtype, top):
    if dtype.instance_class is Float64:
        return lambda dtype, top: Below(top, top, top, type(top)(1))

    def half(dtype, top):
        T = np.float32
        level = where(far(dtype, top), T(0), top)
        return Below(top, level, level * T(-1.442695), T(1))

    def single(dtype, top):
        T = np.float32
        level = where(far(dtype, top), T(0), top)
        base = level * T(1.442695)
        lost = fma(level, T(1.442695), -base)
        return Below(top, level, T(LIFT) - base, T(DOWN) * fma(lost, T(-0.6931472), T(1)))

    return single if dtype.instance_class is Float32 else half


def far(dtype, top):
    """Whether a maximum is so large that logits are taken relative to it."""
    raise NotImplementedError("compiled code only")


@overload(far, jit_options=INLINED)
def _far(dtype, top):
    limit = LARGE if dtype.instance_class is Float32 else LARGE_OF_HALF
    return lambda dtype, top: abs(top) > np.float32(limit)


def relative(dtype, below, z):
    """Logits that ``powers`` takes: less the maximum if that is large."""
    raise NotImplementedError("compiled code only")


@overload(relative, jit_options=INLINED)
def _relative(dtype, below, z):
    if dtype.instance_class is Float64:
        return lambda dtype, below, z: z

    def single(dtype, below, z):
        if far(dtype, below.top):
            z = optimization_barrier(z - below.top)
        return z

    return single


def powers(dtype, below, z):
    """exp(z - level) / excess for z <= level; NaN stays NaN."""
    raise NotImplementedError("compiled code only")


@overload(powers, jit_options=INLINED)
def _powers(dtype, below, z):
    if dtype.instance_class is Float64:
        return lambda dtype, below, z: exp_down(z - below.top)

    return lambda dtype, below, z: power_of_two(fma(z, np.float32(1.442695), below.base))


SMALL = 2.0**-64  # a factor from which ``LIFT`` may not be taken: bits would be lost


def scaled(dtype, top, factor):
    """(exponentials below a maximum, what makes factor * exp(z - top) of them)."""
    raise NotImplementedError("compiled code only")


@overload(scaled, jit_options=INLINED)
def _scaled(dtype, top, factor):
    if dtype.instance_class is not Float32:

        def simply(dtype, top, factor):
            below = below_of(dtype, top)
            return below, factor * below.excess

        return simply

    def single(dtype, top, factor):
        T = np.float32
        below = below_of(dtype, top)
        small = abs(factor) < T(SMALL)
        base = where(small, below.base - T(LIFT), below.base)
        excess = where(small, below.excess * T(UP), below.excess)
        return Below(top, below.level, base, excess), factor * excess

    return single


def multiples_of(dtype, top, factor, e):
    """factor * exp(z - top) from what ``powers`` gave."""
    raise NotImplementedError("compiled code only")


@overload(multiples_of, jit_options=INLINED)
def _multiples_of(dtype, top, factor, e):
    if dtype.instance_class is not Float32:
        return lambda dtype, top, factor, e: e * (factor * below_of(dtype, top).excess)

    def single(dtype, top, factor, e):
        T = np.float32
        excess = below_of(dtype, top).excess
        if abs(factor) < T(SMALL):
            e, excess = optimization_barrier(e * excess), T(1)
        return e * (factor * excess)

    return single


# ---------------------------------------------------------------------- maximum and sum of a row


def lowered(dtype, d):
    """exp(d) for d <= 0, of what has been summed up below a maximum that has risen by -d."""
    raise NotImplementedError("compiled code only")


@overload(lowered, jit_options=INLINED)
def _lowered(dtype, d):
    if dtype.instance_class is Float64:
        return lambda dtype, d: exp_down(d)
    if dtype.instance_class is Float32:
        # A row of rising logits comes here once a visit: near 0 this is as right as the unit.
        return lambda dtype, d: exp_rough(d)
    return lambda dtype, d: exp_coarse(d)


@scalar
def fresh(dtype, z):
    """(maximum, sum of exp(z - maximum) below it, number at it) of logits; the exponentials."""
    N, T = type(z), lanes_as(z)
    peak = largest_of(max_of_lanes(z), T(-np.finfo(T).max))
    scaling = below_of(dtype, peak)
    z = relative(dtype, scaling, z)
    e = powers(dtype, scaling, z)
    lower = where(z >= scaling.level, N(0), N(1))
    return peak, sum_of_products(e, lower) * scaling.excess, T(width(N)) - count_ones(lower), e


@scalar
def absorbed(dtype, top, below, ties, z):
    """(maximum, sum of exp(z - maximum) below it, number at it) with some more logits; and those.

    Apart, because 1 + sum loses what a confident row is about: 1 - p of the largest class is the
    sum of the others over the total. A NaN is below. The exponentials returned are too large by
    the ``excess`` of ``below_of`` the maximum.
    """
    N, T = type(z), type(top)
    peak = largest_of(max_of_lanes(z), top)
    same = peak == top
    scaling = below_of(dtype, peak)
    z = relative(dtype, scaling, z)
    e = powers(dtype, scaling, z)
    lower = where(z >= scaling.level, N(0), N(1))
    below = where(same, below, (below + ties) * lowered(dtype, top - peak))
    ties = where(same, ties, T(0)) + (T(width(N)) - count_ones(lower))
    return peak, below + sum_of_products(e, lower) * scaling.excess, ties, e


def absorb_visit(residency, dtype, top, below, ties, z):
    """(maximum, sum below it, number at it, what ``absorbed`` gives or nothing) after a visit."""
    raise NotImplementedError("compiled code only")


@overload(absorb_visit, jit_options=INLINED)
def _absorb_visit(residency, dtype, top, below, ties, z):
    if residency.instance_class is SmemAsync and dtype.instance_class is not Float64:
        return lambda residency, dtype, top, below, ties, z: outplayed(dtype, top, below, ties, z)
    return lambda residency, dtype, top, below, ties, z: absorbed(dtype, top, below, ties, z)


@scalar
def outplayed(dtype, top, below, ties, z):
    """``absorbed`` in fewer instructions (sm_80), its exponentials in no order.

    The lanes play a knock-out, which leaves the largest last. One number at the maximum is left
    out of the sum; others equal to it are in there as 1.
    """
    T, last = type(top), np.int32(width(type(z)) - 1)
    z = max_last(z)
    best = lane(z, last)
    peak = largest_of(best, top)
    scaling = below_of(dtype, peak)
    e = powers(dtype, scaling, relative(dtype, scaling, z))
    won = peak != top or ties == T(0)
    before = where(peak == top, below, (below + ties) * lowered(dtype, top - peak))
    left = won and best >= peak
    e = with_lane(e, last, where(left, T(0), lane(e, last)))
    return peak, before + sum_of_lanes(e) * scaling.excess, where(left, T(1), ties), e


@scalar
def online_softmax_update(dtype, top, below, ties, z):
    """The same without the exponentials."""
    top, below, ties, e = absorbed(dtype, top, below, ties, z)
    return top, below, ties


@scalar
def online_softmax_reduce(group, args, dtype, place, top, below, ties):
    """(maximum, sum of exponentials - 1) of a row, from what its lanes have found.

    NaN without a class at the maximum, all being -inf (or NaN), or if it is infinite. Three
    exchanges.
    """
    T = type(top)
    m = reduce_max(group, args, place, top, T(-np.finfo(T).max))
    same = top == m
    below = where(same, below, (below + ties) * lowered(dtype, top - m))
    below, ties = reduce_sum2(group, args, place + 1, below, where(same, ties, T(0)))
    fine = ties > T(0) and m < T(np.inf)
    return m, where(fine, below + (ties - T(1)), T(np.nan))
