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

    Softmax, the default: a row, which is the C logits along the class axis, has one loss. For the
    class index t::

        p      = softmax(z)
        loss   = log(sum_j exp(z_j)) - z_t = -log(p_t)
        grad_j = p_j - [j == t]

    For a distribution y over the classes, which need not sum to 1::

        loss   = -sum_j y_j * log(p_j)
        grad_j = p_j * sum_k y_k - y_j

    Sigmoid: each element has its own loss. For its label y in [0, 1]::

        p    = 1 / (1 + exp(-z))
        loss = -y * log(p) - (1 - y) * log(1 - p)
        grad = p - y

    The returned gradient is the derivative of the returned loss: if that is a mean over n losses,
    the gradients above are divided by n.

    Parameters
    ----------
    logits : array (..., C, ...) of float64, float32, float16 or bfloat16
        Finite or infinite numbers; -inf masks a class. With ``activation=None`` probabilities in
        [0, 1].
    targets : array of integers (...), or array of the shape of the logits
        Integers with one axis fewer than the logits are class indices from 0 to C - 1. With
        sigmoid they are labels too: 1 for the class of the index and 0 for all others, and index
        C, the background, is label 0 for all classes. Targets of the shape of the logits are
        distributions (softmax), or labels of the elements: floats in [0, 1], integers or bools.
        Logits (N, 1) of a single class take labels of shape (N, 1).

    Returns
    -------
    loss : number, or array with ``reduction="none"``
        float64 for float64 logits, otherwise float32. Unreduced it has the shape of the logits,
        without the class axis if each row has one loss.
    grad : array of the shape and dtype of the logits
        Not returned with ``return_grad=False``.
    hess : array of the shape and dtype of the logits
        The diagonal of the Hessian. Returned only with ``return_hessian=True``.

    {options}

    Raises
    ------
    TypeError, ValueError
        For an invalid argument, before anything is computed. The message contains the argument,
        its value and what is allowed.
    IndexError
        For an integer target out of range. The message contains its position.
    ValueError
        For a float label of an element out of range. The message contains its position.

    Notes
    -----
    Also called softmax loss, categorical or multinomial cross-entropy, and multinomial logistic
    loss. The definition is that of ``torch.nn.CrossEntropyLoss``.

    Arrays are NumPy arrays, or on a GPU CuPy arrays, torch tensors, Numba device arrays or other
    objects with ``__cuda_array_interface__``. On a GPU the results, also the reduced loss, are
    arrays of the same library on the same device (for other objects CuPy arrays), and the call
    returns before they are computed.

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
    """Binary cross-entropy of logits, with its gradient.

    Each element has its own label y in [0, 1] and its own loss::

        p    = 1 / (1 + exp(-z))
        loss = -y * log(p) - (1 - y) * log(1 - p)
        grad = p - y

    The same as ``cross_entropy`` with ``activation="sigmoid"``.

    Parameters
    ----------
    logits, targets
        As in ``cross_entropy``. Usually both have the same shape.
    activation : {"sigmoid", "softmax", None}, default "sigmoid"
        How logits become probabilities, as in ``cross_entropy``.

    {options}

    Notes
    -----
    Also called sigmoid cross-entropy and logistic loss. The definition is that of
    ``torch.nn.BCEWithLogitsLoss``.

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
