"""``apply``: any registered rule, also one that is not part of the package."""

from typing import Any

from fusedce import checks, errors
from fusedce.call import run
from fusedce.kernels.rule import RULES
from fusedce.options import Traits, with_options


@with_options
def apply(rule: Any, logits: Any, targets: Any, **options: Any) -> Any:
    """Loss and gradient of a rule, such as one registered with ``fusedce.rule``.

    A rule is a function f of log(p), the logarithm of the probability of an outcome. With softmax a
    row with class index t, or with a distribution y over the classes, has::

        loss = f(log(p_t))
        loss = sum_j y_j * f(log(p_j))

    With sigmoid an element with label y in [0, 1] has the loss below, in which a rule with another
    function for the negative outcome uses that function in the second term::

        loss = y * f(log(p)) + (1 - y) * f(log(1 - p))

    Parameters
    ----------
    rule : NamedTuple of a class registered with ``fusedce.rule``
        The parameters of the rule: finite numbers. Its class determines f.
    logits, targets
        As in ``cross_entropy``.

    Returns
    -------
    loss, grad, hess
        As in ``cross_entropy``. For arrays on a GPU all of them, also the reduced loss, are arrays
        of the same library on the same device, and the call returns before they are computed.

    Other Parameters
    ----------------
    {options}

    Raises
    ------
    TypeError, ValueError, IndexError
        As in ``cross_entropy``. A TypeError also for a class that is not registered.

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
