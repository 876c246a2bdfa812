"""The chain rule from log p to the logits, once for each activation. Numbers only.

With f, f', f'' by l = log p, a term ``mass * f(l)`` has, by a logit z, the gradient
``mass f' dl/dz`` and the second derivative ``mass (f'' (dl/dz)**2 + f' d2l/dz2)``. q = 1 - p is
never computed by subtraction, which would cancel: every function below is given q or sums it up.
"""

import math
from typing import Any, NamedTuple

from fusedce.kernels.rule import RULES, evaluate, evaluate_outcome
from fusedce.kernels.scalar import (
    exp_down,
    generated,
    inverse,
    log,
    log1p,
    log1p_unit,
    log1p_up,
    ratio,
    scalar,
    tiny,
    where,
)


class Sigmoid(NamedTuple):
    """Type tag: p = 1 / (1 + e**-z)."""


class Identity(NamedTuple):
    """Type tag: the input is p itself."""


@scalar
def sigmoid_outcomes(z):
    """(log p, log q, p, q) of p = sigmoid(z), each to full relative precision, by one exp."""
    e = exp_down(-abs(z))
    logp, logq, p, q = sigmoid_from(z, e, log1p_unit(e))
    return logp, logq, p, q


@scalar
def sigmoid_from(z, e, tail):
    """As ``sigmoid_outcomes``, from e = exp(-|z|) and tail = log(1 + e)."""
    T = type(z)
    larger = inverse(T(1) + e)
    smaller = e * larger
    is_positive = z >= T(0)
    logp = min(z, T(0)) - tail
    logq = min(-z, T(0)) - tail
    p = where(is_positive, larger, smaller)
    q = where(is_positive, smaller, larger)
    return logp, logq, p, q


# How a sigmoid is computed, by the tag of its link.
SIGMOIDS: dict[type, Any] = {Sigmoid: sigmoid_outcomes}


@generated
def logistic(link, z):
    """(log p, log q, p, q) of a sigmoid."""
    found = SIGMOIDS[link.instance_class]
    return lambda link, z: found(z)


class Slope(NamedTuple):
    """Type tag: first derivatives are wanted."""


class Curvature(NamedTuple):
    """Type tag: second derivatives too. Without it their loops are not compiled."""


@generated
def outcomes(link, z):
    """(log p, log q, p, q, dlogp/dz, d2logp/dz2, dlogq/dz, d2logq/dz2); see ``term``."""
    if link.instance_class in SIGMOIDS:

        def sigmoid(link, z):
            logp, logq, p, q = logistic(link, z)
            return logp, logq, p, q, q, -p * q, -p, -p * q

        return sigmoid

    def identity(link, z):
        T = type(z)
        q = T(1) - z
        slope_p, slope_q = reciprocal(z), reciprocal(q)
        return log(z), log1p(-z), z, q, slope_p, -slope_p * slope_p, -slope_q, -slope_q * slope_q

    return identity


@scalar
def reciprocal(p):
    """1 / p, finite at p = 0: a rule may be flat there, and 0 * inf is NaN; see ``steep``."""
    T = type(p)
    return T(1) / where(p == T(0), tiny(p), p)


@scalar
def steep(f1, slope):
    """f1 * slope, infinite at p = 0 unless the rule is flat there."""
    T = type(f1)
    edge = abs(slope) == T(1) / tiny(slope)
    return f1 * slope * where(edge & (abs(f1) > T(1e-30)), T(math.inf), T(1))


@generated
def term(link, mass, f, f1, f2, slope, bend):
    """mass * f(l(z)) and its derivatives by z: all 0 for a mass of 0, even where f is infinite."""
    if link.instance_class in SIGMOIDS:

        def sigmoid(link, mass, f, f1, f2, slope, bend):
            none = mass == type(mass)(0)
            a = mass * f1
            loss, first, second = mass * f, a * slope, mass * f2 * slope * slope + a * bend
            return where(none, mass, loss), where(none, mass, first), where(none, mass, second)

        return sigmoid

    def identity(link, mass, f, f1, f2, slope, bend):
        # d2l/dp2 = -(dl/dp)**2: one difference, so that 1 / 0 stays infinite.
        none = mass == type(mass)(0)
        loss, first = mass * f, mass * steep(f1, slope)
        second = mass * (f2 - f1) * slope * slope
        return where(none, mass, loss), where(none, mass, first), where(none, mass, second)

    return identity


@generated
def hard_cell(link, z, yes, pos_factor, neg_factor, params):
    """Loss, first and second derivative of one yes/no label: one evaluation of the rule."""
    if link.instance_class in SIGMOIDS:

        def sigmoid(link, z, yes, pos_factor, neg_factor, params):
            logp, logq, p, q = logistic(link, where(yes, z, -z))
            f, f1, f2 = evaluate_outcome(yes, logp, logq, p, q, params)
            return term(
                link, where(yes, pos_factor, neg_factor), f, f1, f2, where(yes, q, -q), -p * q
            )

        return sigmoid

    def identity(link, z, yes, pos_factor, neg_factor, params):
        logp, logq, p, q, slope_p, bend_p, slope_q, bend_q = outcomes(link, z)
        f, f1, f2 = evaluate_outcome(
            yes,
            where(yes, logp, logq),
            where(yes, logq, logp),
            where(yes, p, q),
            where(yes, q, p),
            params,
        )
        slope, bend = where(yes, slope_p, slope_q), where(yes, bend_p, bend_q)
        return term(link, where(yes, pos_factor, neg_factor), f, f1, f2, slope, bend)

    return identity


@generated
def plain_cell(link, z, yes, pos_factor, neg_factor, params, scale):
    """(loss, gradient) of a yes/no label, for factors that are not 0 and the same everywhere."""
    if link.instance_class in SIGMOIDS:

        def sigmoid(link, z, yes, pos_factor, neg_factor, params, scale):
            logp, logq, p, q = logistic(link, where(yes, z, -z))
            f, f1, f2 = evaluate_outcome(yes, logp, logq, p, q, params)
            slope = where(yes, pos_factor * scale, -(neg_factor * scale))
            return where(yes, pos_factor, neg_factor) * f, slope * (f1 * q)

        return sigmoid

    def identity(link, z, yes, pos_factor, neg_factor, params, scale):
        loss, first, second = hard_cell(link, z, yes, pos_factor, neg_factor, params)
        return loss, first * scale

    return identity


@scalar
def probability_cell(p, mass, params):
    """Loss, first and second derivative of mass * f(log p) by the probability p itself."""
    link = Identity()
    logp, logq, p, q, slope, bend, slope_q, bend_q = outcomes(link, p)
    f, f1, f2 = evaluate_outcome(True, logp, logq, p, q, params)
    return term(link, mass, f, f1, f2, slope, bend)


@generated
def soft_cell(link, z, y, pos_factor, neg_factor, params):
    """Loss, first and second derivative of one label y in [0, 1]."""
    mixed = RULES[params.instance_class].soft
    if mixed is not None:

        def one_piece(link, z, y, pos_factor, neg_factor, params):
            T = type(z)
            logp, logq, p, q = sigmoid_outcomes(z)
            f, f1, f2 = mixed(logp, logq, p, q, y, params)
            mass = pos_factor * y + neg_factor * (T(1) - y)
            some = mass != T(0)
            loss, first, second = mass * T(f), mass * T(f1), mass * T(f2)
            return where(some, loss, T(0)), where(some, first, T(0)), where(some, second, T(0))

        return one_piece

    def mixture(link, z, y, pos_factor, neg_factor, params):
        T = type(z)
        logp, logq, p, q, slope_p, bend_p, slope_q, bend_q = outcomes(link, z)
        f, f1, f2 = evaluate_outcome(True, logp, logq, p, q, params)
        g, g1, g2 = evaluate_outcome(False, logq, logp, q, p, params)
        a, a1, a2 = term(link, pos_factor * y, f, f1, f2, slope_p, bend_p)
        b, b1, b2 = term(link, neg_factor * (T(1) - y), g, g1, g2, slope_q, bend_q)
        return a + b, a1 + b1, a2 + b2

    return mixture


@scalar
def mul_or_zero(mass, x):
    """mass * x, and 0 for a mass of 0, even where x is infinite."""
    T = type(mass)
    return where(mass != T(0), mass * x, T(0))


@scalar
def softmax_outcome(d, e, sum_exp_minus_1, log_total):
    """(log p, log q, p, q) of one class: d = z - max, e = exp(d).

    sum_exp_minus_1: the sum of exp(z - max) over the classes, less 1.

    The sum of exponentials is 1 + sum_exp_minus_1, where the 1 is the maximum's own, so that the
    maximum has q = sum_exp_minus_1 / total and log p = -log1p(sum_exp_minus_1), without
    cancellation. Any other class has p <= 1/2, and total - e loses no precision there.
    """
    T = type(d)
    total = T(1) + sum_exp_minus_1
    p = ratio(e, total)
    q = ratio(where(d >= T(0), sum_exp_minus_1, total - e), total)
    logq = where(q < T(0.5), log(q), log1p(-p))
    return d - log_total, logq, p, q


@scalar
def softmax_rest(e, sum_exp_minus_1, total):
    """total * (1 - p) of a class with the exponential e, as in ``softmax_outcome``."""
    T = type(e)
    return where(e >= T(1), sum_exp_minus_1, total - e)


@scalar
def softmax_row(params, d, e, m, sum_exp_minus_1, weight, sample, z_loss, scale):
    """A row whose target is one class: its loss, and what its derivatives need.

    d = z - max of the target, e = exp(d).

    (loss, k, rest, first, square, product, second): other classes have the gradient k exp(z - max)
    and the Hessian square p**2 + product p (1 - p); those of the target are ``first`` and
    ``second``. Without z-loss ``first`` is -k rest; rest is the sum of all other exponentials.
    """
    T = type(d)
    log_total = log1p_up(sum_exp_minus_1)
    total = T(1) + sum_exp_minus_1
    logp, logq, p, q = softmax_outcome(d, e, sum_exp_minus_1, log_total)
    f, f1, f2 = evaluate(logp, logq, p, q, params)
    zeta = sample * z_loss
    plain = zeta == T(0)
    lse = where(plain, T(0), m + log_total)  # no z-loss: also where m is infinite
    term, ridge = weight * scale, zeta * scale
    slope = T(2) * ridge * lse
    product = slope - term * f1
    k, rest = ratio(product, total), softmax_rest(e, sum_exp_minus_1, total)
    first = where(plain, -(k * rest), term * f1 * q + slope * p)
    square = term * f2 + T(2) * ridge
    second = term * (f2 * q * q - f1 * p * q) + T(2) * ridge * p * p + slope * p * q
    return weight * f + zeta * lse * lse, k, rest, first, square, product, second
