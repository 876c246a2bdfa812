"""Online softmax: a running maximum and sum of exponentials, and exponentials for the gradient.

float32 arithmetic takes two instructions a logit: exp(z - m) = 2**(z L - R) c with L = 1 / log 2,
R = m L rounded, and a correction c near 1 for the rounding of R, the same for the whole row. The
fused multiply-add z L - R is rounded once, so the result is more accurate than exp(z - m) with its
two roundings. Exponents are raised by ``EXPONENT_LIFT``, and c divides by 2**EXPONENT_LIFT: what
the hardware flushes to 0 is then smaller than any subnormal number. Where the maximum is so large
that c would not be near 1, it is subtracted from the logits first.
"""

from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels.cuda.dtypes import Float32, Float64
from fusedce.kernels.cuda.elementary import exp_coarse, exp_rough, largest_of, power_of_two
from fusedce.kernels.cuda.lane_reduce import count_ones, max_last, sum_of_products
from fusedce.kernels.cuda.load_store import optimization_barrier
from fusedce.kernels.cuda.reduce import reduce_max, reduce_sum2
from fusedce.kernels.cuda.row_cache import SmemAsync
from fusedce.kernels.scalar import exp_down, fma, generated, scalar, where
from fusedce.kernels.vector import lane, lanes_as, max_of_lanes, sum_of_lanes, width, with_lane

EXPONENT_LIFT = 24.0
LIFT_UP, LIFT_DOWN = 2.0**EXPONENT_LIFT, 2.0**-EXPONENT_LIFT
LARGE_MAX = 16384.0  # above it, c would not be near 1 (float32 logits)
LARGE_MAX_OF_HALF = 256.0  # up to it, c is within 1e-5 of 1 and left out (16-bit logits)


class ExpScale(NamedTuple):
    """How exp(z - maximum) is computed: ``exp_scaled`` times ``correction``."""

    maximum: Any
    level: Any  # the maximum after ``shifted_logits``: 0 if it was subtracted
    base: Any  # what is added to z / log 2
    correction: Any  # c of the module's docstring


@generated
def exp_scale(dtype, maximum):
    """The ExpScale of a maximum."""
    if dtype.instance_class is Float64:
        return lambda dtype, maximum: ExpScale(maximum, maximum, maximum, type(maximum)(1))

    def half(dtype, maximum):
        T = np.float32
        level = where(is_large_max(dtype, maximum), T(0), maximum)
        return ExpScale(maximum, level, level * T(-1.442695), T(1))

    def single(dtype, maximum):
        T = np.float32
        level = where(is_large_max(dtype, maximum), T(0), maximum)
        base = level * T(1.442695)
        lost = fma(level, T(1.442695), -base)
        return ExpScale(
            maximum, level, T(EXPONENT_LIFT) - base, T(LIFT_DOWN) * fma(lost, T(-0.6931472), T(1))
        )

    return single if dtype.instance_class is Float32 else half


@generated
def is_large_max(dtype, maximum):
    """Whether a maximum is so large that it is subtracted from the logits first."""
    limit = LARGE_MAX if dtype.instance_class is Float32 else LARGE_MAX_OF_HALF
    return lambda dtype, maximum: abs(maximum) > np.float32(limit)


@generated
def shifted_logits(dtype, scaling, z):
    """What ``exp_scaled`` takes: logits, minus the maximum if that is large."""
    if dtype.instance_class is Float64:
        return lambda dtype, scaling, z: z

    def single(dtype, scaling, z):
        if is_large_max(dtype, scaling.maximum):
            z = optimization_barrier(z - scaling.maximum)
        return z

    return single


@generated
def exp_scaled(dtype, scaling, z):
    """exp(z - level) / correction for z <= level; NaN stays NaN."""
    if dtype.instance_class is Float64:
        return lambda dtype, scaling, z: exp_down(z - scaling.maximum)

    return lambda dtype, scaling, z: power_of_two(fma(z, np.float32(1.442695), scaling.base))


SMALL_FACTOR = 2.0**-64  # below it, factor * 2**-EXPONENT_LIFT could be subnormal: bits lost


@generated
def exp_scale_and_factor(dtype, maximum, factor):
    """(scaling, unit) with factor * exp(z - maximum) = unit * exp_scaled."""
    if dtype.instance_class is not Float32:

        def simply(dtype, maximum, factor):
            scaling = exp_scale(dtype, maximum)
            return scaling, factor * scaling.correction

        return simply

    def single(dtype, maximum, factor):
        T = np.float32
        scaling = exp_scale(dtype, maximum)
        small = abs(factor) < T(SMALL_FACTOR)
        base = where(small, scaling.base - T(EXPONENT_LIFT), scaling.base)
        correction = where(small, scaling.correction * T(LIFT_UP), scaling.correction)
        return ExpScale(maximum, scaling.level, base, correction), factor * correction

    return single


@generated
def times_exp_scaled(dtype, maximum, factor, e):
    """factor * exp(z - maximum) from e = exp_scaled of z."""
    if dtype.instance_class is not Float32:
        return lambda dtype, maximum, factor, e: e * (factor * exp_scale(dtype, maximum).correction)

    def single(dtype, maximum, factor, e):
        T = np.float32
        correction = exp_scale(dtype, maximum).correction
        if abs(factor) < T(SMALL_FACTOR):
            e, correction = optimization_barrier(e * correction), T(1)
        return e * (factor * correction)

    return single


# ------------------------------------------------------------------- maximum and sum of a row


class SoftmaxState(NamedTuple):
    """The running state of an online softmax: what has been seen of a row so far.

    The sum excludes the logits at the maximum, because 1 + sum would round away what a confident
    prediction depends on: 1 - p of the largest class is the sum of the others over the total.
    """

    maximum: Any
    sum_below_max: Any  # of exp(z - maximum) over logits below the maximum; NaN logits are in it
    n_at_max: Any  # number of logits equal to the maximum


@scalar
def empty_state(T):
    """The state before the first logit."""
    return SoftmaxState(T(-np.finfo(T).max), T(0), T(0))


@generated
def exp_max_difference(dtype, d):
    """exp(d) of a difference of maxima, d <= 0: rescales a sum when the maximum rises by -d."""
    if dtype.instance_class is Float64:
        return lambda dtype, d: exp_down(d)
    if dtype.instance_class is Float32:
        # With rising logits this runs in every iteration: exp_rough is exact enough near 0.
        return lambda dtype, d: exp_rough(d)
    return lambda dtype, d: exp_coarse(d)


@scalar
def online_softmax_first(dtype, z):
    """(state, exponentials) of a vector of logits, without earlier ones.

    The exponentials here and below have to be multiplied by the ``correction`` of
    ``exp_scale(dtype, state.maximum)``.
    """
    N, T = type(z), lanes_as(z)
    maximum = largest_of(max_of_lanes(z), T(-np.finfo(T).max))
    scaling = exp_scale(dtype, maximum)
    z = shifted_logits(dtype, scaling, z)
    e = exp_scaled(dtype, scaling, z)
    lower = where(z >= scaling.level, N(0), N(1))
    return SoftmaxState(
        maximum, sum_of_products(e, lower) * scaling.correction, T(width(N)) - count_ones(lower)
    ), e


@scalar
def online_softmax_update_exps(dtype, state, z):
    """(state, exponentials) after a vector of logits more: rescale the old sum, add the new."""
    N, T = type(z), type(state.maximum)
    maximum = largest_of(max_of_lanes(z), state.maximum)
    same = maximum == state.maximum
    scaling = exp_scale(dtype, maximum)
    z = shifted_logits(dtype, scaling, z)
    e = exp_scaled(dtype, scaling, z)
    lower = where(z >= scaling.level, N(0), N(1))
    rescaled = (state.sum_below_max + state.n_at_max) * exp_max_difference(
        dtype, state.maximum - maximum
    )
    below = where(same, state.sum_below_max, rescaled)
    n = where(same, state.n_at_max, T(0)) + (T(width(N)) - count_ones(lower))
    return SoftmaxState(maximum, below + sum_of_products(e, lower) * scaling.correction, n), e


@generated
def online_softmax_iteration(residency, dtype, state, z):
    """(state, exponentials) after the logits of an iteration, by the cheaper of two ways."""
    if residency.instance_class is SmemAsync and dtype.instance_class is not Float64:
        return lambda residency, dtype, state, z: online_softmax_update_unordered(dtype, state, z)
    return lambda residency, dtype, state, z: online_softmax_update_exps(dtype, state, z)


@scalar
def online_softmax_update_unordered(dtype, state, z):
    """The same in fewer instructions (sm_80); the exponentials are in no particular order.

    ``max_last`` moves the largest logit to the last lane by pairwise exchanges. One logit at
    the maximum is left out of the sum and counted; others equal to it are in the sum, as 1.
    """
    T, last = type(state.maximum), np.int32(width(type(z)) - 1)
    z = max_last(z)
    largest = lane(z, last)
    maximum = largest_of(largest, state.maximum)
    scaling = exp_scale(dtype, maximum)
    e = exp_scaled(dtype, scaling, shifted_logits(dtype, scaling, z))
    is_new = maximum != state.maximum or state.n_at_max == T(0)
    rescaled = (state.sum_below_max + state.n_at_max) * exp_max_difference(
        dtype, state.maximum - maximum
    )
    before = where(maximum == state.maximum, state.sum_below_max, rescaled)
    left_out = is_new and largest >= maximum
    e = with_lane(e, last, where(left_out, T(0), lane(e, last)))
    return SoftmaxState(
        maximum,
        before + sum_of_lanes(e) * scaling.correction,
        where(left_out, T(1), state.n_at_max),
    ), e


@scalar
def online_softmax_update(dtype, state, z):
    """The state after some logits more."""
    state, _ = online_softmax_update_exps(dtype, state, z)
    return state


@scalar
def online_softmax_reduce(group, args, dtype, slot, state):
    """(maximum, sum of exponentials - 1) of a row, from the states of the group's threads.

    NaN if no logit is at the maximum (all are -inf or NaN) or if the maximum is infinite. Takes
    three reduction slots from ``slot`` on.
    """
    T = type(state.maximum)
    maximum = reduce_max(group, args, slot, state.maximum, T(-np.finfo(T).max))
    same = maximum == state.maximum
    rescaled = (state.sum_below_max + state.n_at_max) * exp_max_difference(
        dtype, state.maximum - maximum
    )
    below = where(same, state.sum_below_max, rescaled)
    below, n = reduce_sum2(group, args, slot + 1, below, where(same, state.n_at_max, T(0)))
    finite = n > T(0) and maximum < T(np.inf)
    return maximum, where(finite, below + (n - T(1)), T(np.nan))
