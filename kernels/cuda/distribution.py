"""Softmax with a distribution for a target: what rows and columns share.

With a_j = mass_j f'(l_j) and S their sum: grad_j = a_j (1 - p_j) - p_j (S - a_j). The rest S - a_j
is made with the largest |a| kept apart from the sum of the others, so a one-hot or nearly one-hot
target keeps its small components right. Label smoothing of class indices is a distribution too.
"""

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from fusedce.kernels.cuda.load_store_scalar import float_of, number_at
from fusedce.kernels.cuda.logit_transform import Full, chain_transform
from fusedce.kernels.cuda.reduce import fmax, reduce_max, reduce_sum, reduce_sum2
from fusedce.kernels.cuda.unroll import unrolled
from fusedce.kernels.link import softmax_outcome
from fusedce.kernels.rule import evaluate
from fusedce.kernels.scalar import INLINED, exp_down, log1p_up, scalar, where
from fusedce.kernels.vector import Single, lane, lanes_as, max_of_lanes, sum_of_lanes, with_lane


class Target(NamedTuple):
    """Where the masses of a row are: its address, its label, what multiplies a mass."""

    address: Any
    label: Any
    factor: Any
    ignored: Any  # whether the row's first target is ignore_index: then all of them have to be


@scalar
def is_ignored(args, T, target_dtype, address):
    """Whether the row with its first target at an address is one that is ignored."""
    if args.real_targets == 0:
        return False
    return number_at(T, target_dtype, address) == float_of(T, args.ignore_value)


@scalar
def whole_mass(args, y, mass, ignored):
    """The masses of targets y, none in an ignored row; NaN where a row is ignored in part."""
    N = type(y)
    marked = y == N(float_of(lanes_as(y), args.ignore_value))
    if ignored:
        return where(marked, N(0), N(np.nan))
    return where(marked, N(np.nan), mass)


class SplitSum(NamedTuple):
    """A sum with what is largest kept apart: its magnitude, the sums below it and at it.

    ``many``: how many terms are at it.
    """

    top: float
    below: float
    tied: float
    many: float


class Found(NamedTuple):
    """What is known of a row: maximum, sum of the other exponentials, the two tallies."""

    m: float
    others: float
    first: SplitSum
    second: SplitSum


@scalar
def mul_or_zero(mass, x):
    """mass * x; nothing without mass, even where x is infinite."""
    N = type(mass)
    return where(mass != N(0), mass * x, N(0))


def ruled(tag, logp, logq, p, q, params):
    """The rule, lane by lane if it takes no vectors."""
    raise NotImplementedError("compiled code only")


@overload(ruled, jit_options=INLINED)
def _ruled(tag, logp, logq, p, q, params):
    if tag.instance_class is not Single or not hasattr(p, "width"):
        return lambda tag, logp, logq, p, q, params: evaluate(logp, logq, p, q, params)

    @scalar
    def one(k, found, logp, logq, p, q, params):
        a, b, c = evaluate(lane(logp, k), lane(logq, k), lane(p, k), lane(q, k), params)
        f, f1, f2 = found
        return with_lane(f, k, a), with_lane(f1, k, b), with_lane(f2, k, c)

    each = unrolled(one, p.width)
    return lambda tag, logp, logq, p, q, params: each((p, p, p), logp, logq, p, q, params)


@scalar
def assessed(tag, params, x, m, others, mass):
    """(mass f, mass f', mass f'', p, q) of classes with logits x."""
    d = x - m
    logp, logq, p, q = softmax_outcome(d, exp_down(d), others, log1p_up(others))
    f, f1, f2 = ruled(tag, logp, logq, p, q, params)
    return mul_or_zero(mass, f), mul_or_zero(mass, f1), mul_or_zero(mass, f2), p, q


@scalar
def tallied(tally, a):
    """A tally with some more terms; a NaN is below."""
    N, T = type(a), type(tally.top)
    top = fmax(tally.top, max_of_lanes(abs(a)))
    same = top == tally.top
    below = where(same, tally.below, tally.below + tally.tied)
    tied, many = where(same, tally.tied, T(0)), where(same, tally.many, T(0))
    high = abs(a) >= top
    return SplitSum(
        top,
        below + sum_of_lanes(where(high, N(0), a)),
        tied + sum_of_lanes(where(high, a, N(0))),
        many + sum_of_lanes(where(high, N(1), N(0))),
    )


@scalar
def joined(group, args, place, tally):
    """The tally of a row from those of its lanes. Four exchanges."""
    T = type(tally.top)
    top = reduce_max(group, args, place, tally.top, T(0))
    same = top == tally.top
    below = where(same, tally.below, tally.below + tally.tied)
    below, tied = reduce_sum2(group, args, place + 1, below, where(same, tally.tied, T(0)))
    many = reduce_sum(group, args, place + 3, where(same, tally.many, T(0)))
    return SplitSum(top, below, tied, many)


@scalar
def rest_of(x, tally):
    """The sum of all other terms; what alone stands at the top leaves nothing of itself.

    x is made anew, and may differ from what was added by a rounding.
    """
    T = type(tally.top)
    below, tied = tally.below, tally.tied
    high = abs(x) >= tally.top * (T(1) - T(8 * np.finfo(T).eps))
    others = where(tally.many > T(1), tied - x, type(x)(0))
    return where(high, below + others, (below + tied) - x)


def spread(extra, tag, args, params, z, x, mass, found, term, ridge, slope):
    """(gradients, curvatures) of classes; z: stored logits, x: as seen."""
    raise NotImplementedError("compiled code only")


@overload(spread, jit_options=INLINED)
def _spread(extra, tag, args, params, z, x, mass, found, term, ridge, slope):
    if extra.instance_class is not Full:

        def plain(extra, tag, args, params, z, x, mass, found, term, ridge, slope):
            f, a, b, p, q = assessed(tag, params, x, found.m, found.others, mass)
            g = term * (a * q - p * rest_of(a, found.first)) + slope * p
            return g, g

        return plain

    def full(extra, tag, args, params, z, x, mass, found, term, ridge, slope):
        T = type(found.m)
        f, a, b, p, q = assessed(tag, params, x, found.m, found.others, mass)
        g = term * (a * q - p * rest_of(a, found.first)) + slope * p
        sums = found.first.below + found.first.tied
        h = term * (b * q * q + p * p * rest_of(b, found.second) - sums * p * q)
        h += T(2) * ridge * p * p + slope * p * q
        return chain_transform(args, z, x, g, h)

    return full


def curved(extra, tally, b):
    """The tally of second derivatives, where they are wanted."""
    raise NotImplementedError("compiled code only")


@overload(curved, jit_options=INLINED)
def _curved(extra, tally, b):
    if extra.instance_class is Full:
        return lambda extra, tally, b: tallied(tally, b)
    return lambda extra, tally, b: tally


def curved_row(extra, group, args, place, tally):
    """The same over a row."""
    raise NotImplementedError("compiled code only")


@overload(curved_row, jit_options=INLINED)
def _curved_row(extra, group, args, place, tally):
    if extra.instance_class is Full:
        return lambda extra, group, args, place, tally: joined(group, args, place, tally)
    return lambda extra, group, args, place, tally: tally
