"""Asymmetric loss."""

from typing import Any, NamedTuple, Unpack

from fusedce import checks
from fusedce.call import Options, Traits, run
from fusedce.kernels.rule import rule
from fusedce.kernels.scalar import exp, log, log1p


class Asymmetric(NamedTuple):
    """Focusing of positive and negative labels, and the shift of the latter."""

    gamma_pos: float
    gamma_neg: float
    clip: float


def _negative(logp, logq, p, q, params):  # type: ignore[no-untyped-def]
    """f = -v**gamma log u with u = min(p + clip, 1) and v = 1 - u, p being that of "no".

    With g = df/du: f' = p g and f'' = p g + p**2 dg/du.
    """
    T = type(p)
    gamma, clip = params.gamma_neg, params.clip
    v = q - clip
    free = v > T(0)  # else shifted out: no loss, no gradient
    v = v if free else T(1)
    u = p + clip
    log_u = logp if clip == T(0) else (log1p(-v) if v < T(0.5) else log(u))
    log_v = logq if clip == T(0) else log(v)
    power = T(1) if gamma == T(0) else exp(gamma * log_v)
    some = u > T(0)
    ratio = log_u / v if some else T(0)
    inverse = T(1) / u if some else T(0)
    pu = p * inverse if some else T(1)  # p / u, 1 as clip = 0
    pg = power * (gamma * p * ratio - pu)
    bend = gamma * (T(1) - gamma) * p * p * ratio / v + T(2) * gamma * p * pu / v + pu * pu
    zero = T(0)
    return (
        -power * log_u if free else zero,
        pg if free else zero,
        pg + power * bend if free else zero,
    )


@rule(Asymmetric, negative=_negative)
def _positive(logp, logq, p, q, params):  # type: ignore[no-untyped-def]
    """f = -(1 - p)**gamma l, as focal."""
    T = type(p)
    gamma = params.gamma_pos
    tiny = T(1e-37)
    power = T(1) if gamma == T(0) else exp(gamma * logq)
    ratio = logp / q if q > tiny else T(-1)
    pr = p * ratio if p > T(0) else T(0)
    f2 = power * gamma * (T(2) * p + pr * (T(1) - gamma * p)) / (q if q > tiny else tiny)
    return -power * logp if power > T(0) else T(0), power * (gamma * pr - T(1)), f2


def asymmetric(
    logits: Any,
    targets: Any,
    *,
    gamma_pos: float = 0.0,
    gamma_neg: float = 4.0,
    clip: float = 0.05,
    **options: Unpack[Options],
) -> Any:
    """Asymmetric loss of logits for labels with few positives, with its gradient.

    loss = -(1 - p)**gamma_pos log p for a label 1, and -s**gamma_neg log(1 - s) with the shifted
    probability s = max(p - clip, 0) for a label 0.

    Parameters
    ----------
    logits, targets
        As in ``binary_cross_entropy``; ``activation`` is "sigmoid" or None.
    gamma_pos, gamma_neg : float >= 0
        Focusing of positive and of negative labels.
    clip : float in [0, 1)
        Negative labels with a probability below it cost nothing.
    **options
        As in ``fusedce.apply``.

    Returns
    -------
    loss, grad : as in ``cross_entropy``

    Raises
    ------
    TypeError, ValueError, IndexError
        As in ``cross_entropy``.

    References
    ----------
    Ridnik et al., Asymmetric Loss For Multi-Label Classification, ICCV 2021, arXiv:2009.14119,
    equations 4 to 7.

    Examples
    --------
    >>> import numpy as np, fusedce
    >>> loss, grad = fusedce.asymmetric(np.array([1.0, 1.0, -4.0]), np.array([1, 0, 0]))
    >>> print(f"{loss:.4f}", grad.round(4))
    """
    bound = "a finite number >= 0"
    params = Asymmetric(
        checks.number("gamma_pos", gamma_pos, 0, allowed=bound),
        checks.number("gamma_neg", gamma_neg, 0, allowed=bound),
        checks.number("clip", clip, 0, 1, allowed="in [0, 1)"),
    )
    if params.clip == 1.0:
        raise ValueError(f"clip must be in [0, 1), got {clip!r}")
    options.setdefault("activation", "sigmoid")
    return run(params, Traits("asymmetric", sigmoid_only=True), logits, targets, **options)
