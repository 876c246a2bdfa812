"""Generalized cross-entropy."""

from typing import Any, NamedTuple

from fusedce import checks
from fusedce.call import run
from fusedce.kernels.rule import rule
from fusedce.kernels.scalar import exp, expm1
from fusedce.losses.declaration import Loss, declare
from fusedce.options import Traits, with_options


class GeneralizedCrossEntropy(NamedTuple):
    """The exponent."""

    exponent: float


@rule(GeneralizedCrossEntropy)
def _generalized(logp, logq, p, q, params):  # type: ignore[no-untyped-def]
    """f = (1 - p**k) / k by expm1, f' = -p**k, f'' = -k p**k."""
    k = params.exponent
    power = exp(k * logp)
    return -expm1(k * logp) / k, -power, -k * power


@with_options
def generalized_cross_entropy(logits: Any, targets: Any, *, q: float = 0.7, **options: Any) -> Any:
    """Generalized cross-entropy of logits, with its gradient: for labels of which some are wrong.

    With p_t the softmax probability of the class index t::

        loss   = (1 - p_t**q) / q
        grad_j = p_t**q * (p_j - [j == t])

    For q near 0 it is close to cross-entropy. For q = 1 it is 1 - p_t, which is proportional to the
    mean absolute error. With sigmoid, p_t is the probability of the label of an element.

    Parameters
    ----------
    logits, targets
        As in ``cross_entropy``.
    q : float in (0, 1], default 0.7
        The exponent.

    {options}

    References
    ----------
    Zhang and Sabuncu, Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy
    Labels, NeurIPS 2018, arXiv:1805.07836, equation 6.

    Examples
    --------
    >>> import numpy as np, fusedce
    >>> logits, targets = np.array([[2.0, 0.0]]), np.array([0])
    >>> loss, grad = fusedce.generalized_cross_entropy(logits, targets)
    >>> print(f"{loss:.4f}", grad.round(4))
    0.1215 [[-0.1091  0.1091]]
    """
    q = checks.number("q", q, 0, 1, open_low=True, allowed="in (0, 1]")
    traits = Traits("generalized_cross_entropy")
    return run(GeneralizedCrossEntropy(q), traits, logits, targets, **options)


def _reference(p: Any, xp: Any, q: Any) -> Any:
    return (1 - p**q) / q


declare(
    Loss(
        generalized_cross_entropy,
        reference=_reference,
        activations=("softmax",),
        options=({"q": 0.7},),
        more_options=({"q": 0.3}, {"q": 1.0}),
        summary="generalized cross-entropy, for labels of which some are wrong",
        source="Zhang and Sabuncu, NeurIPS 2018, arXiv:1805.07836",
    )
)
