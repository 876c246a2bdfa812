"""``apply``: any registered rule, also one that is not part of the package."""

from typing import Any

from fusedce import checks
from fusedce.call import run
from fusedce.kernels.rule import RULES
from fusedce.options import Traits, with_options


@with_options
def apply(rule: Any, logits: Any, targets: Any, **options: Any) -> Any:
    """Loss and gradient of any rule.

    loss of a row or element = sum over outcomes of mass * f(log p), f being the rule's function.

    Parameters
    ----------
    rule : NamedTuple of a class registered with ``fusedce.rule``
        The loss with its parameters.
    logits, targets
        As in ``cross_entropy``.
    activation : {"softmax", "sigmoid", None}
        How logits become probabilities; None: they are probabilities.
    weight : array (C,), optional
        Weight of each class.
    pos_weight : float or array (C,), optional
        Weight of positive labels (sigmoid).
    sample_weight : array (N,) or of the shape of the unreduced loss, optional
        Any finite numbers; never part of the mean's denominator.
    ignore_index : int, default -100
        Rows or elements with this label have loss and gradient 0 and are not counted by the mean.
        It is a class index; a label of an element, also a float; or every number of a distribution.
        ValueError if it is given where no label can have it, or if some but not all numbers of a
        distribution are equal to it.
    label_smoothing : float in [0, 1], default 0
        softmax: (1 - eps) y + eps / C; sigmoid: (1 - eps) y + eps / 2.
    normalize_targets : bool, default False
        Divide a distribution by its number of nonzero entries (softmax).
    neg_label : {0, -1}
        The negative label, where each element has a label.
    z_loss : float, default 0
        Adds z_loss * logsumexp(z)**2 (softmax). Its mean is over the rows that are not ignored,
        without class weights, or is divided by ``denominator`` too.
    softcap : float > 0, optional
        logits <- softcap * tanh(logit_scale * z / softcap).
    logit_scale : float, default 1
        Multiplies the logits first.
    reduction : {"mean", "sum", "none"}
        "none": the unreduced loss; each gradient is the derivative of its own row or element.
    denominator : float > 0, optional
        The divisor of the mean, in place of torch's; also a GPU array of one number.
    axis : int, default -1
        The axis of the classes.
    return_grad, return_hessian : bool
        Whether to return them with the loss; the Hessian is its exact diagonal.
    loss_out, grad_out, hess_out : arrays, optional
        Arrays for the results, which are returned. ``grad_out=logits`` computes in place. Errors
        leave them unchanged; only that of a float label out of range leaves undefined numbers in
        outputs other than the logits.
    validate : bool, optional
        On the CPU labels are always checked. On a GPU they are checked only with True, for which
        the call waits for the GPU; otherwise a label out of range gives NaN for the loss and
        gradient of its row or element.

    Returns
    -------
    loss, grad[, hess]
        ``grad`` and ``hess`` have the shape and dtype of the logits. For logits on a GPU all
        results, also the reduced loss, are arrays of the same library on the same device, and the
        call returns before they are computed.

    Raises
    ------
    TypeError, ValueError
        Before any computation, naming the argument, its value and what is allowed.
    IndexError
        An integer label out of range, with its position.
    ValueError
        A float label of an element outside [0, 1] (with ``neg_label=-1``: other than -1 and 1),
        with its position.

    Examples
    --------
    >>> import numpy as np, fusedce
    >>> from fusedce.losses.cross_entropy import CrossEntropy
    >>> loss, grad = fusedce.apply(CrossEntropy(), np.zeros((1, 2)), np.array([1]))
    >>> print(f"{loss:.4f}", grad)
    0.6931 [[ 0.5 -0.5]]
    """
    if type(rule) not in RULES:
        raise TypeError(
            f"rule must be an instance of a class registered with fusedce.rule, got {rule!r}"
        )
    for name, value in zip(rule._fields, rule, strict=True):
        checks.number(f"{type(rule).__name__}.{name}", value)
    traits = Traits("apply", sigmoid_only=RULES[type(rule)].negative is not None)
    return run(rule, traits, logits, targets, **options)
