"""Poly-1 loss."""

from typing import Any, NamedTuple

from fusedce import checks
from fusedce.call import run
from fusedce.kernels.rule import rule
from fusedce.losses.declaration import Loss, declare
from fusedce.options import Traits, with_options


class Poly1(NamedTuple):
    """epsilon, and 1 + epsilon as it rounds in double precision."""

    epsilon: float
    more: float


@rule(Poly1)
def _poly1(logp, logq, p, q, params):  # type: ignore[no-untyped-def]
    """f = -l + epsilon q, with 1 = p + q in f' = -1 - epsilon p = -q - (1 + epsilon) p."""
    return -logp + params.epsilon * q, -q - params.more * p, -params.epsilon * p


@with_options
def poly1(logits: Any, targets: Any, *, epsilon: float = 1.0, **options: Any) -> Any:
    """Poly-1 loss of logits, with its gradient: cross-entropy plus a linear term.

    With p_t the softmax probability of the class index t::

        loss   = -log(p_t) + epsilon * (1 - p_t)
        grad_j = (1 + epsilon * p_t) * (p_j - [j == t])

    The expansion of cross-entropy in powers of 1 - p_t has the first coefficient 1; here it is
    1 + epsilon. With sigmoid, p_t is the probability of the label of an element.

    Parameters
    ----------
    logits, targets
        As in ``cross_entropy``.
    epsilon : float >= -1, default 1
        What is added to the first coefficient.

    {options}

    References
    ----------
    Leng et al., PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions, ICLR
    2022, arXiv:2204.12511, equation 6.

    Examples
    --------
    >>> import numpy as np, fusedce
    >>> logits, targets = np.array([[2.0, 0.0]]), np.array([0])
    >>> loss, grad = fusedce.poly1(logits, targets, epsilon=2.0)
    >>> print(f"{loss:.4f}", grad.round(4))
    0.3653 [[-0.3292  0.3292]]
    """
    epsilon = checks.number("epsilon", epsilon, -1, allowed="a finite number >= -1")
    return run(Poly1(epsilon, 1.0 + epsilon), Traits("poly1"), logits, targets, **options)


def _reference(p: Any, xp: Any, epsilon: Any) -> Any:
    return -xp.log(p) + epsilon * (1 - p)


declare(
    Loss(
        poly1,
        reference=_reference,
        activations=("softmax",),
        options=({"epsilon": 1.0},),
        more_options=({"epsilon": -1.0}, {"epsilon": 4.0}),
        summary="Poly-1: cross-entropy with another first coefficient of its polynomial expansion",
        source="Leng et al., ICLR 2022, arXiv:2204.12511",
    )
)
