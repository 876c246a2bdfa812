"""The chain rule from log p to the logits, once for each activation. Numbers only.

With f, f', f'' by l = log p, a term ``mass * f(l)`` has, by a logit z, the gradient
``mass f' dl/dz`` and the curvature ``mass (f'' (dl/dz)**2 + f' d2l/dz2)``. What 1 - p would lose by
cancellation is never formed: every function below gets or makes q = 1 - p as a sum of its own.
"""

from typing import NamedTuple

from numba.extending import overload

from fusedce.kernels.rule import RULES, evaluate_outcome
from fusedce.kernels.scalar import exp, log, log1p, scalar


class Sigmoid(NamedTuple):
    """Type tag: p = 1 / (1 + e**-z)."""


class Identity(NamedTuple):
    """Type tag: the input is p itself."""


@scalar
def sigmoid_outcomes(z):
    """(log p, log q, p, q) of p = sigmoid(z), each right to its own size, one exp in all."""
    T = type(z)
    e = exp(-abs(z))
    larger = T(1) / (T(1) + e)
    smaller = e * larger
    up = z >= T(0)
    tail = log1p(e)
    logp = min(z, T(0)) - tail
    logq = min(-z, T(0)) - tail
    p = larger if up else smaller
    q = smaller if up else larger
    return logp, logq, p, q


def outcomes(link, z):
    """(log p, log q, p, q, dlogp/dz, d2logp/dz2, dlogq/dz, d2logq/dz2)."""
    raise NotImplementedError("compiled code only")


@overload(outcomes)
def _outcomes(link, z):
    if link.instance_class is Sigmoid:

        def sigmoid(link, z):
            logp, logq, p, q = sigmoid_outcomes(z)
            return logp, logq, p, q, q, -p * q, -p, -p * q

        return sigmoid

    def identity(link, z):
        T = type(z)
        q = T(1) - z
        return (
            log(z), log1p(-z), z, q,
            T(1) / z, -(T(1) / z) * (T(1) / z), -(T(1) / q), -(T(1) / q) * (T(1) / q),
        )  # fmt: skip

    return identity


@scalar
def _term(mass, f, f1, f2, slope, bend):
    """mass * f(l(z)) and its derivatives; no mass, no term, even where f is infinite."""
    T = type(mass)
    some = mass != T(0)
    a = mass * f1
    return (
        mass * f if some else T(0),
        a * slope if some else T(0),
        mass * f2 * slope * slope + a * bend if some else T(0),
    )


@scalar
def hard_cell(link, z, y, up, down, params):
    """Loss, gradient, curvature of one yes/no label, y in {0, 1}: one evaluation of the rule."""
    T = type(z)
    logp, logq, p, q, slope_p, bend_p, slope_q, bend_q = outcomes(link, z)
    yes = y > T(0.5)
    f, f1, f2 = evaluate_outcome(
        yes, logp if yes else logq, logq if yes else logp, p if yes else q, q if yes else p, params
    )
    slope = slope_p if yes else slope_q
    bend = bend_p if yes else bend_q
    return _term(up if yes else down, f, f1, f2, slope, bend)


@scalar
def probability_cell(p, mass, params):
    """Loss, gradient, curvature of mass * f(log p) by the probability p itself."""
    link = Identity()
    logp, logq, p, q, slope, bend, slope_q, bend_q = outcomes(link, p)
    f, f1, f2 = evaluate_outcome(True, logp, logq, p, q, params)
    return _term(mass, f, f1, f2, slope, bend)


def soft_cell(link, z, y, up, down, params):
    """Loss, gradient, curvature of one label y in [0, 1]."""
    raise NotImplementedError("compiled code only")


@overload(soft_cell)
def _soft_cell(link, z, y, up, down, params):
    mixed = RULES[params.instance_class].soft
    if mixed is not None:

        def one_piece(link, z, y, up, down, params):
            T = type(z)
            logp, logq, p, q = sigmoid_outcomes(z)
            f, f1, f2 = mixed(logp, logq, p, q, y, params)
            mass = up * y + down * (T(1) - y)
            some = mass != T(0)
            return (
                mass * T(f) if some else T(0),
                mass * T(f1) if some else T(0),
                mass * T(f2) if some else T(0),
            )

        return one_piece

    def mixture(link, z, y, up, down, params):
        T = type(z)
        logp, logq, p, q, slope_p, bend_p, slope_q, bend_q = outcomes(link, z)
        f, f1, f2 = evaluate_outcome(True, logp, logq, p, q, params)
        g, g1, g2 = evaluate_outcome(False, logq, logp, q, p, params)
        a, a1, a2 = _term(up * y, f, f1, f2, slope_p, bend_p)
        b, b1, b2 = _term(down * (T(1) - y), g, g1, g2, slope_q, bend_q)
        return a + b, a1 + b1, a2 + b2

    return mixture


@scalar
def softmax_outcome(d, e, others, log_total):
    """(log p, log q, p, q) of one class: d = z - max, e = exp(d), others = sum of exp - 1.

    The sum of exponentials is 1 + others with the maximum's own 1 kept apart, so the maximum has
    q = others / total and log p = -log1p(others) exactly; any other class has p <= 1/2, where
    total - e loses nothing.
    """
    T = type(d)
    total = T(1) + others
    p = e / total
    q = (others if d >= T(0) else total - e) / total
    logq = log(q) if q < T(0.5) else log1p(-p)
    return d - log_total, logq, p, q


@scalar
def softmax_rest(e, others, total):
    """total * (1 - p) of a class with exponential e: as above, from e alone."""
    T = type(e)
    return others if e >= T(1) else total - e
