"""``apply``: any registered rule, also one that is not part of the package."""

from typing import Any

from fusedce import checks, errors
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
    {options}

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
    if RULES[type(rule)].soft is not None and options.get("activation", "") is None:
        raise errors.useless("apply of a rule registered with soft=", "activation=None")
    traits = Traits("apply", sigmoid_only=RULES[type(rule)].negative is not None)
    return run(rule, traits, logits, targets, **options)
