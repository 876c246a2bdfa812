"""Losses, gradients and Hessian diagonals to 60 digits and more, for rows of any width.

`tests.reference.exact_row` uses the definition alone: the subtraction 1 - p takes 9000 digits at
|z| = 1e4, and there are C**2 terms. Here u = 1 - p is computed as a sum of its own, so that far
fewer digits are enough (`DIGITS`). Derivatives still come from Taylor arithmetic (`Jet`); none is
written by hand. `test_accuracy.test_the_two_oracles_agree` compares the two modules.
"""

from __future__ import annotations

import mpmath

from tests.reference import definition, exact
from tests.taylor import JETS, Jet, jet_exp

DIGITS = {"float32": 100, "float64": 370}


def loss_of(rule, p, u, negative=False):
    """The loss f of an outcome of probability p; u = 1 - p is given too."""
    p.complement, u.complement = u, p
    return definition(rule, p, JETS, negative, exact)


def exact_logit(rule, x, pos, neg, dtype="float64"):
    """pos f(log p) + neg f(log(1 - p)) of p = sigmoid(x): loss, derivative, second derivative."""
    with mpmath.workdps(DIGITS[dtype]):
        up, down = jet_exp(Jet(float(x), 1)), jet_exp(Jet(-float(x), -1))
        p, q = (down + 1) ** -1, (up + 1) ** -1
        loss = Jet(0)
        if pos:
            loss += loss_of(rule, p, q) * float(pos)
        if neg:
            loss += loss_of(rule, q, p, negative=True) * float(neg)
        return loss.v, loss.d, loss.s


def exact_softmax(rule, z, mass, classes, dtype="float64"):
    """sum_k mass_k f(log softmax(z)_k): loss, derivatives and second derivatives by some logits.

    ``mass`` is {class: mass}. A derivative with respect to logit j changes e_j = exp(z_j - max) and
    the sums that contain e_j.
    """
    with mpmath.workdps(DIGITS[dtype]):
        z = [float(v) for v in z]
        top = max(z)
        e = [mpmath.exp(mpmath.mpf(v) - top) for v in z]
        total = mpmath.fsum(e)
        held = {k: float(m) for k, m in mass.items() if m}
        rest = {k: mpmath.fsum(e[:k] + e[k + 1 :]) if e[k] * 2 > total else total - e[k]
                for k in held}  # fmt: skip
        grad, hess = [], []
        for j in classes:
            loss, moving = Jet(0), Jet(e[j], e[j], e[j])
            for k, m in held.items():
                if not rest[k]:  # C = 1
                    continue
                own = moving if j == k else Jet(e[k])
                others = Jet(rest[k]) if j == k else Jet(rest[k], e[j], e[j])
                sum_of_all = Jet(total, e[j], e[j])
                loss += loss_of(rule, own / sum_of_all, others / sum_of_all) * m
            grad.append(loss.d)
            hess.append(loss.s)
        return loss.v, grad, hess
