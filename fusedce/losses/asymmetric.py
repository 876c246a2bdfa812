"""Asymmetric loss."""

from typing import Any, NamedTuple

from fusedce import checks
from fusedce.call import run
from fusedce.kernels.rule import rule
from fusedce.kernels.scalar import log, log1p, real_power, scalar, tiny, where, whole_power
from fusedce.losses.declaration import Loss, declare
from fusedce.losses.focal import real_focal, whole_focal
from fusedce.options import Activation, Traits, with_options


class WholeAsymmetric(NamedTuple):
    """Exponents that are integers below 8, and the shift of the probability of negative labels."""

    gamma_pos: float
    gamma_neg: float
    clip: float


class RealAsymmetric(NamedTuple):
    """Any exponents, and the shift."""

    gamma_pos: float
    gamma_neg: float
    clip: float


@scalar
def _shifted(power, log_u, u, v, p, gamma, clip):  # type: ignore[no-untyped-def]
    """f, f', f'' of -v**gamma log u by l = log p, given v**gamma; u = p + clip and v = 1 - u.

    With r = log u / v: f' = v**gamma (gamma p r - p / u). In f'' = f' + p**2 d2f/du2 the terms
    -p/u + (p/u)**2 are computed as -(p/u) clip/u, without cancellation.
    """
    T = type(p)
    ratio = where(v <= tiny(v), T(-1), log_u / v)
    pr = where(p == T(0), T(0), p * ratio)
    pu = where(u == T(0), T(1), p / u)  # u = p = 0
    bend = gamma * p * ((T(1) - gamma) * pr + T(2) * pu) / where(v > tiny(v), v, tiny(v))
    bend -= pu * where(u == T(0), T(0), clip / u)
    return (
        where(power == T(0), T(0), -power * log_u),
        power * (gamma * pr - pu),
        power * (gamma * pr + bend),
    )


@scalar
def _unshifted(p, q, logp, logq, clip):  # type: ignore[no-untyped-def]
    """(u, v, log u, log v, whether v > 0) of the shifted probability; the loss is 0 elsewhere."""
    T = type(p)
    none = clip == T(0)
    left = ~(q <= clip)  # True for NaN, so that the loss is NaN
    v = where(left, q - clip, T(0.5))
    u = where(left, p + clip, T(0.5))
    log_u = where(none, logp, where(v < T(0.5), log1p(-v), log(u)))
    return u, v, log_u, where(none, logq, log(v)), left


def _whole_negative(logp, logq, p, q, params):  # type: ignore[no-untyped-def]
    """f = -v**gamma log u for the negative outcome, which has probability p."""
    T = type(p)
    u, v, log_u, _log_v, left = _unshifted(p, q, logp, logq, params.clip)
    gamma = params.gamma_neg
    f, f1, f2 = _shifted(whole_power(v, gamma), log_u, u, v, p, gamma, params.clip)
    return where(left, f, T(0)), where(left, f1, T(0)), where(left, f2, T(0))


def _real_negative(logp, logq, p, q, params):  # type: ignore[no-untyped-def]
    """f = -v**gamma log u for the negative outcome, which has probability p."""
    T = type(p)
    gamma = params.gamma_neg
    u, v, log_u, log_v, left = _unshifted(p, q, logp, logq, params.clip)
    power = where(gamma > T(0), real_power(log_v, gamma), T(1))
    f, f1, f2 = _shifted(power, log_u, u, v, p, gamma, params.clip)
    return where(left, f, T(0)), where(left, f1, T(0)), where(left, f2, T(0))


@scalar
def _positive(gamma, logp, focal):  # type: ignore[no-untyped-def]
    """The focal rule; cross-entropy for gamma 0. Selected without a branch, for vectors."""
    T = type(logp)
    none = gamma == type(gamma)(0)
    f, f1, f2 = focal
    return where(none, -logp, f), where(none, T(-1), f1), where(none, T(0), f2)


@rule(WholeAsymmetric, negative=_whole_negative)
def _whole_positive(logp, logq, p, q, params):  # type: ignore[no-untyped-def]
    """f = -(1 - p)**gamma_pos l, as focal."""
    return _positive(params.gamma_pos, logp, whole_focal(logp, p, q, params.gamma_pos))


@rule(RealAsymmetric, negative=_real_negative)
def _real_positive(logp, logq, p, q, params):  # type: ignore[no-untyped-def]
    """f = -(1 - p)**gamma_pos l, as focal."""
    return _positive(params.gamma_pos, logp, real_focal(logp, logq, p, q, params.gamma_pos))


@with_options
def asymmetric(
    logits: Any,
    targets: Any,
    *,
    gamma_pos: float = 0.0,
    gamma_neg: float = 4.0,
    clip: float = 0.05,
    activation: Activation = "sigmoid",
    **options: Any,
) -> Any:
    """Asymmetric loss of logits, with its gradient: for labels of which few are positive.

    For each element, with its probability p and the shifted probability s::

        p = 1 / (1 + exp(-z))
        s = max(p - clip, 0)
        w = s**gamma_neg
        label 1:  loss = -(1 - p)**gamma_pos * log(p)
                  grad = (1 - p)**gamma_pos * (gamma_pos * p * log(p) + p - 1)
        label 0:  loss = -w * log(1 - s)
                  grad = p * (1 - p) * w * (1 / (1 - s) - gamma_neg * log(1 - s) / s)

    Loss and gradient of a label 0 are 0 if s = 0.

    Parameters
    ----------
    logits, targets
        As in ``binary_cross_entropy``.
    gamma_pos, gamma_neg : float >= 0, default 0 and 4
        Exponents for positive and for negative labels.
    clip : float in [0, 1), default 0.05
        A negative label with p <= clip has loss 0 and gradient 0.
    activation : {"sigmoid", None}, default "sigmoid"
        None: the logits are probabilities already. Softmax raises a ValueError.

    {options}

    References
    ----------
    Ridnik et al., Asymmetric Loss For Multi-Label Classification, ICCV 2021, arXiv:2009.14119,
    equations 4 to 7.

    Examples
    --------
    >>> import numpy as np, fusedce
    >>> loss, grad = fusedce.asymmetric(np.array([1.0, 1.0, -4.0]), np.array([1, 0, 0]))
    >>> print(f"{loss:.4f}", grad.round(4))
    0.1864 [-0.0896  0.1388 -0.    ]
    """
    bound = "a finite number >= 0"
    gammas = (
        checks.number("gamma_pos", gamma_pos, 0, allowed=bound),
        checks.number("gamma_neg", gamma_neg, 0, allowed=bound),
    )
    shift = checks.number("clip", clip, 0, 1, open_high=True, allowed="in [0, 1)")
    whole = all(gamma.is_integer() and gamma < 8 for gamma in gammas)
    params = (WholeAsymmetric if whole else RealAsymmetric)(*gammas, shift)
    traits = Traits("asymmetric", sigmoid_only=True)
    return run(params, traits, logits, targets, activation=activation, **options)


def _reference(p: Any, xp: Any, gamma_pos: Any) -> Any:
    return -((1 - p) ** gamma_pos) * xp.log(p)


def _negative_reference(p: Any, xp: Any, gamma_neg: Any, clip: Any) -> Any:
    shifted = xp.maximum(1 - p - clip, 0)
    return -(shifted**gamma_neg) * xp.log(1 - shifted)


declare(
    Loss(
        asymmetric,
        reference=_reference,
        negative=_negative_reference,
        activations=("sigmoid",),
        options=(
            {"gamma_pos": 1.0, "gamma_neg": 4.0, "clip": 0.05},
            {"gamma_pos": 0.0, "gamma_neg": 2.5, "clip": 0.0},
        ),
        more_options=(
            {"gamma_pos": 1.0, "gamma_neg": 0.5, "clip": 0.2},
            {"gamma_pos": 0.5, "gamma_neg": 2.0, "clip": 0.0},
        ),
        exponents=("gamma_pos", "gamma_neg"),
        summary="asymmetric loss: focal loss of labels with few positives",
        source="Ridnik et al., ICCV 2021, arXiv:2009.14119",
    )
)
