"""Cross-entropy. The shortest file of a loss: copy it for a new one.

It has the parameters of the rule, the rule, the public function, and a declaration, from which
follows how the loss is tested, benchmarked and documented.
"""

from typing import Any, NamedTuple

from fusedce.call import run
from fusedce.kernels.rule import rule
from fusedce.losses.declaration import Loss, declare
from fusedce.options import Activation, Traits, with_options


class CrossEntropy(NamedTuple):
    """No parameters."""


@rule(CrossEntropy)
def _cross_entropy(logp, logq, p, q, params):  # type: ignore[no-untyped-def]
    """f = -l."""
    T = type(p)
    return -logp, T(-1), T(0)


_PARAMS = CrossEntropy()
_TRAITS, _BINARY = Traits("cross_entropy"), Traits("binary_cross_entropy")


@with_options
def cross_entropy(logits: Any, targets: Any, **options: Any) -> Any:
    """Cross-entropy of logits, with its gradient.

    softmax: loss = log(sum_j exp z_j) - z_t, gradient p - onehot(t). sigmoid: loss =
    log(1 + exp(-z)) for a label 1 and log(1 + exp(z)) for 0, gradient p - y.

    Parameters
    ----------
    logits : array (..., C, ...), float64, float32, float16 or bfloat16
        Any finite or infinite numbers; -inf masks a class. With ``activation=None``
        probabilities in [0, 1].
    targets : array of integers (...) or of the logits' shape
        Class indices in [0, C), or a distribution over classes (softmax) or a label in [0, 1] for
        each element (sigmoid, None). Heads of one unit, (N, 1), have labels of shape (N, 1).
    **options
        ``activation="softmax"`` and the options every loss shares, see ``fusedce.apply``.

    Returns
    -------
    loss, grad : the reduced loss and its derivative by each logit
        With ``return_hessian=True`` also ``hess``; with ``return_grad=False`` the loss alone.

    Raises
    ------
    TypeError, ValueError
        Before any computation, naming the argument, its value and what is allowed.
    IndexError, ValueError
        A label out of range, with its position: an integer, a float.

    Notes
    -----
    Also known as softmax loss, categorical or multinomial cross-entropy and multinomial logistic
    loss; the definition is that of ``torch.nn.CrossEntropyLoss``.

    Examples
    --------
    >>> import numpy as np, fusedce
    >>> logits = np.array([[2.0, 0.0, -1.0], [0.0, 3.0, 0.0]])
    >>> loss, grad = fusedce.cross_entropy(logits, np.array([0, 2]))
    >>> print(f"{loss:.4f}")
    1.6324
    >>> grad.round(3)
    array([[-0.078,  0.057,  0.021],
           [ 0.023,  0.455, -0.477]])
    """
    return run(_PARAMS, _TRAITS, logits, targets, **options)


@with_options
def binary_cross_entropy(
    logits: Any, targets: Any, *, activation: Activation = "sigmoid", **options: Any
) -> Any:
    """Binary (sigmoid) cross-entropy of logits, with its gradient p - y.

    The same as ``cross_entropy(logits, targets, activation="sigmoid")``, with the same arguments,
    results and errors. Also known as logistic loss; ``torch.nn.BCEWithLogitsLoss``.

    Examples
    --------
    >>> import numpy as np, fusedce
    >>> loss, grad = fusedce.binary_cross_entropy(np.array([0.0, 4.0]), np.array([1, 0]))
    >>> print(f"{loss:.4f}", grad.round(3))
    2.3556 [-0.25   0.491]
    """
    return run(_PARAMS, _BINARY, logits, targets, activation=activation, **options)


def _reference(p: Any, xp: Any) -> Any:
    """The definition, for the tests: the loss of an outcome of probability p."""
    return -xp.log(p)


declare(
    Loss(
        cross_entropy,
        reference=_reference,
        activations=("softmax", "sigmoid", None),
        summary="cross-entropy; softmax loss, multinomial logistic loss",
        source="torch.nn.CrossEntropyLoss",
    )
)
declare(
    Loss(
        binary_cross_entropy,
        alias_of="cross_entropy",
        activations=("sigmoid",),
        summary="the same with sigmoid: binary cross-entropy, logistic loss",
        source="torch.nn.BCEWithLogitsLoss",
    )
)
