"""Focal loss."""

import math
from typing import Any, Literal, NamedTuple

from fusedce import checks
from fusedce.call import run
from fusedce.kernels.rule import by_logit, rule
from fusedce.kernels.scalar import log, real_power, scalar, tiny, where, whole_power
from fusedce.losses.cross_entropy import CrossEntropy
from fusedce.losses.declaration import Loss, declare
from fusedce.options import Activation, Traits, with_options


class WholeFocal(NamedTuple):
    """gamma in {1, ..., 7}: powers by multiplication."""

    gamma: float


class SquareFocal(NamedTuple):
    """gamma = 2, the usual one, which takes fewer instructions."""


class RealFocal(NamedTuple):
    """Any gamma > 0."""

    gamma: float


class MixedFocal(NamedTuple):
    """Any gamma, with torchvision's p_t for soft labels."""

    gamma: float
    sign: float  # (-1)**gamma, for 1 - p_t below 0; NaN if gamma is no whole number


class WholeMixedFocal(NamedTuple):
    """MixedFocal for gamma in {1, ..., 7}: hard labels take a third less time."""

    gamma: float
    sign: float


class SquareMixedFocal(NamedTuple):
    """MixedFocal for gamma = 2."""

    gamma: float
    sign: float


@scalar
def whole_focal(logp, p, q, gamma):  # type: ignore[no-untyped-def]
    """f, f', f'' of -q**gamma l for gamma in {1, ..., 7}, with no division and no power below 0.

    f' = q**(gamma-1) (gamma p l - q), f'' = gamma p (2 q**(gamma-1) + q**(gamma-2) (1 - gamma p) l)
    where for gamma = 1 the last power cancels against 1 - p. p l is 0 at p = 0, l = -inf.
    """
    T, G = type(p), type(gamma)
    low = whole_power(q, gamma - G(1))
    power = low * q
    pl = p * max(logp, T(-1e30))
    single = gamma == G(1)
    lower = whole_power(q, where(single, G(0), gamma - G(2)))
    factor = where(single, T(1), lower * (T(1) - gamma * p))
    f2 = gamma * (T(2) * p * low + factor * pl)
    return power * -logp, low * (gamma * pl - q), f2


@scalar
def square_focal(logp, p, q):  # type: ignore[no-untyped-def]
    """f, f', f'' for gamma = 2: f' = q (2 p l - q), f'' = 2 p (2 q + (1 - 2 p) l)."""
    T = type(p)
    twice = T(2) * p
    pl = twice * max(logp, T(-1e30))
    f2 = T(2) * twice * q + (T(1) - twice) * pl
    return q * q * -logp, q * (pl - q), f2


@scalar
def real_focal(logp, logq, p, q, gamma):  # type: ignore[no-untyped-def]
    """f, f', f'' for any gamma > 0, in terms of r = l / q, which tends to -1 as p tends to 1.

    f' = q**gamma (gamma p r - 1) and f'' = q**gamma gamma p (2 + r (1 - gamma p)) / q: no power
    below gamma is formed, so nothing overflows for gamma < 1.
    """
    T = type(p)
    power = real_power(logq, gamma)
    floor = tiny(q)
    ratio = where(q <= floor, T(-1), logp / q)
    pr = where(p == T(0), T(0), p * ratio)
    loss = where(power == T(0), T(0), -power * logp)
    f2 = power * gamma * (T(2) * p + pr * (T(1) - gamma * p)) / where(q > floor, q, floor)
    return loss, power * (gamma * pr - T(1)), f2


@rule(WholeFocal)
def _whole(logp, logq, p, q, params):  # type: ignore[no-untyped-def]
    """f = -(1 - p)**gamma l."""
    return whole_focal(logp, p, q, params.gamma)


@rule(SquareFocal)
def _square(logp, logq, p, q, params):  # type: ignore[no-untyped-def]
    """f = -(1 - p)**2 l."""
    return square_focal(logp, p, q)


@by_logit(SquareFocal)
def _square_by_logit(logp, logq, p, q, params):  # type: ignore[no-untyped-def]
    """f and q f' = q**2 (2 p l - q)."""
    T = type(p)
    square = q * q
    return square * -logp, square * (T(2) * p * max(logp, T(-1e30)) - q)


@rule(RealFocal)
def _real(logp, logq, p, q, params):  # type: ignore[no-untyped-def]
    """f = -(1 - p)**gamma l."""
    return real_focal(logp, logq, p, q, params.gamma)


def _mixed(logp, logq, p, q, y, params):  # type: ignore[no-untyped-def]
    """f = m**gamma ce by the logit, m = 1 - p_t = p (1 - y) + q y, ce = -y log p - (1-y) log q.

    m is negative for some y outside [0, 1], which adapters allow.
    """
    T = type(p)
    gamma = params.gamma
    no = T(1) - y
    ce = -(where(y != T(0), y * logp, T(0)) + where(no != T(0), no * logq, T(0)))
    m = p * no + q * y
    # log m from its larger part: exact for hard labels, where the other part is 0.
    log_m = where(no == T(0), logq, where(y == T(0), logp, log(abs(m))))
    power = where(gamma == T(0), T(1), real_power(log_m, gamma))
    power = where(m < T(0), power * params.sign, power)
    floor = tiny(p)
    d = (no - y) * p * q / where(abs(m) > floor, m, floor)  # d log m / dz
    slope = p * no - q * y  # d ce / dz
    ce_d = where(d != T(0), ce * d, T(0))
    f1 = power * (gamma * ce_d + slope)
    bend = gamma * (gamma - T(1)) * d * ce_d + gamma * ce_d * (q - p) + T(2) * gamma * d * slope
    return power * ce, f1, power * (bend + p * q)


@rule(MixedFocal, soft=_mixed)
def _mixed_hard(logp, logq, p, q, params):  # type: ignore[no-untyped-def]
    """For hard labels: the plain focal loss."""
    T = type(p)
    if params.gamma == type(params.gamma)(0):
        return -logp, T(-1), T(0)
    return real_focal(logp, logq, p, q, params.gamma)


@rule(WholeMixedFocal, soft=_mixed)
def _whole_mixed_hard(logp, logq, p, q, params):  # type: ignore[no-untyped-def]
    """For hard labels: the plain focal loss."""
    return whole_focal(logp, p, q, params.gamma)


@rule(SquareMixedFocal, soft=_mixed)
def _square_mixed_hard(logp, logq, p, q, params):  # type: ignore[no-untyped-def]
    """For hard labels: the plain focal loss."""
    return square_focal(logp, p, q)


def focal_rule(gamma: float, mixed: bool) -> Any:
    """The parameters of the rule that is fastest for this gamma."""
    if mixed:
        sign = (1.0, -1.0)[int(gamma) % 2] if gamma.is_integer() else math.nan
        whole = gamma.is_integer() and 0.0 < gamma < 8.0
        kind = SquareMixedFocal if gamma == 2.0 else WholeMixedFocal if whole else MixedFocal
        return kind(gamma, sign)
    if gamma == 0.0:
        return CrossEntropy()
    if gamma == 2.0:
        return SquareFocal()
    return WholeFocal(gamma) if gamma.is_integer() and gamma < 8 else RealFocal(gamma)


def focal_call(
    gamma: float, alpha: float | None, soft_labels: str, any_label: bool = False
) -> tuple[Any, Traits]:
    """(rule, traits) of a focal loss, its options checked."""
    gamma = checks.number("gamma", gamma, 0, allowed="a finite number >= 0")
    alpha = checks.balance("alpha", alpha)
    mixed = checks.choice("soft_labels", soft_labels, ("split", "torchvision")) == "torchvision"
    traits = Traits("focal", alpha, mixed=soft_labels if mixed else None, any_label=any_label)
    return focal_rule(gamma, mixed), traits


@with_options
def focal(
    logits: Any,
    targets: Any,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
    soft_labels: Literal["split", "torchvision"] = "split",
    activation: Activation = "sigmoid",
    **options: Any,
) -> Any:
    """Focal loss of logits, with its gradient: confident predictions have a small weight.

    The loss is cross-entropy times (1 - p)**gamma, where p is the probability of the true outcome.
    With sigmoid, the default, an element has::

        p = 1 / (1 + exp(-z))
        label 1:  loss = -(1 - p)**gamma * log(p)
                  grad = (1 - p)**gamma * (gamma * p * log(p) + p - 1)
        label 0:  loss = -p**gamma * log(1 - p)
                  grad = p**gamma * (p - gamma * (1 - p) * log(1 - p))

    With softmax, a row with class index t has::

        p      = softmax(z)
        loss   = -(1 - p_t)**gamma * log(p_t)
        factor = (1 - p_t)**(gamma - 1) * (1 - p_t - gamma * p_t * log(p_t))
        grad_j = factor * (p_j - [j == t])

    Parameters
    ----------
    logits, targets
        As in ``cross_entropy``.
    gamma : float >= 0, default 2
        Exponent. With 0 the result is that of cross-entropy, bit for bit.
    alpha : float in [0, 1], optional
        Weight of positive labels; that of negative labels is 1 - alpha. Only with sigmoid, or with
        labels of elements and ``activation=None``.
    soft_labels : {"split", "torchvision"}, default "split"
        The loss of a label y between 0 and 1. "split": y times the loss of label 1, plus 1 - y
        times the loss of label 0. "torchvision", only with sigmoid: (1 - p_t)**gamma times the
        binary cross-entropy, with p_t = p y + (1 - p)(1 - y), as in
        ``torchvision.ops.sigmoid_focal_loss``. For labels 0 and 1 both give the same result.
    activation : {"sigmoid", "softmax", None}, default "sigmoid"
        How logits become probabilities, as in ``cross_entropy``.

    {options}

    References
    ----------
    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv:1708.02002, equations 4
    and 5.

    Examples
    --------
    >>> import numpy as np, fusedce
    >>> logits, labels = np.array([3.0, -1.0, 0.0]), np.array([1, 0, 1])
    >>> loss, grad = fusedce.focal(logits, labels, alpha=0.25)
    >>> print(f"{loss:.5f}", grad.round(4))
    0.02011 [-0.      0.0131 -0.0249]
    """
    params, traits = focal_call(gamma, alpha, soft_labels)
    return run(params, traits, logits, targets, activation=activation, **options)


def _reference(p: Any, xp: Any, gamma: Any) -> Any:
    return -((1 - p) ** gamma) * xp.log(p)


def _soft_reference(p: Any, y: Any, xp: Any, gamma: Any) -> Any:
    """With soft_labels="torchvision": (1 - p_t)**gamma times the cross-entropy of the label y."""
    return ((1 - p) * y + p * (1 - y)) ** gamma * -(xp.log(p) * y + xp.log(1 - p) * (1 - y))


declare(
    Loss(
        focal,
        reference=_reference,
        soft=_soft_reference,
        activations=("sigmoid", "softmax"),
        options=({"gamma": 2.0}, {"gamma": 3.7}, {"gamma": 0.5}),
        more_options=({"gamma": 0.0}, {"gamma": 1.0}, {"gamma": 5.0}),
        exponents=("gamma",),
        summary="focal loss: cross-entropy in which confident predictions count less",
        source="Lin et al., ICCV 2017, arXiv:1708.02002",
    )
)
